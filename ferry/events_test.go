package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// Statements that change what the move is made of. Each ends it: before the
// lock, or by giving the lock back. The shop stays where it was and can be
// written to.
var harmful = []struct{ text, says string }{
	{`ALTER TABLE orders ADD COLUMN colour INT`, ""},
	{`ALTER TABLE orders DROP COLUMN note`, ""},
	{`ALTER TABLE orders CHANGE COLUMN note remark TEXT`, ""},
	{`/* release 12 */ alter table orders modify token varchar(50) not null`, ""},
	{`ALTER TABLE orders ADD INDEX (token)`, ""},
	{`CREATE INDEX by_token ON orders (token)`, ""},
	{`TRUNCATE TABLE orders`, ""},
	{`RENAME TABLE orders TO orders_old`, ""},
	{`DROP TABLE orders`, "DROP TABLE"}, // as the server writes it
	{`CREATE TRIGGER on_order BEFORE INSERT ON orders FOR EACH ROW SET NEW.note = 'new'`, "on_order"},
	{`ALTER DATABASE CHARACTER SET latin1`, "CHARACTER SET latin1"},
	{`CREATE TABLE refunds (shop_id BIGINT NOT NULL, id INT PRIMARY KEY)`, ""},
	{`ALTER TABLE countries ADD COLUMN shop_id BIGINT`, ""},
}

// harmless statements are about something else.
const harmless = `
	CREATE TABLE unrelated (id INT PRIMARY KEY); INSERT INTO unrelated VALUES (1); ALTER TABLE unrelated ADD COLUMN orders_left INT; TRUNCATE unrelated;
	RENAME TABLE unrelated TO other_orders; DROP TABLE other_orders;
	ALTER TABLE countries ADD COLUMN language INT; UPDATE countries SET language = 1; ALTER TABLE countries DROP COLUMN language;
	CREATE PROCEDURE nothing() SELECT 1; DROP PROCEDURE nothing;
	ANALYZE TABLE orders; OPTIMIZE TABLE products; FLUSH TABLES; FLUSH LOGS;
	CREATE TEMPORARY TABLE scratch (id INT); INSERT INTO scratch VALUES (1); DROP TEMPORARY TABLE scratch`

func TestStatementsDuringAMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &patientOptions)
		session := w.open(1, "", "") // temporary tables are a session's
		session.SetMaxOpenConns(1)
		next := podworks.ShopID(100)
		begin := func(t *testing.T) *world {
			w := w.in(t)
			w.script(w.source, `DROP TABLE IF EXISTS orders, orders_old, refunds, countries; CREATE TABLE countries (code CHAR(2) NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL); ALTER DATABASE CHARACTER SET utf8mb4;
				CREATE TABLE orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, token VARCHAR(40) NOT NULL, note TEXT, PRIMARY KEY (shop_id, id), UNIQUE KEY (shop_id, token))`)
			w.addShop(next)
			next++
			w.fill(w.shop, 30)
			w.exec(w.source, `INSERT INTO orders VALUES (?, 1, 'a', NULL)`, int64(w.shop))
			return w
		}
		// After the plan and before the place in the log from which it is followed; in
		// the copy; after the comparison; between the lock and the marker.
		for i, step := range []string{"claim", "copy", "cutover", "drain"} {
			for j, st := range harmful {
				if step != "copy" && (i+j)%3 != 0 && os.Getenv("PODWORKS_SOAK") == "" {
					continue // each at one of these steps; at every step in a soak
				}
				t.Run(step+" "+st.text, func(t *testing.T) {
					w := begin(t)
					tr := &trail{at: map[string]func(){step: func() { w.script(session, st.text) }}}
					report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
					if step == "claim" && err == nil && (strings.Contains(st.text, "INDEX") || strings.Contains(st.text, "TRIGGER") || strings.Contains(st.text, "TRUNCATE") || strings.Contains(st.text, "DATABASE") || strings.Contains(st.text, "countries")) {
						// It is no column, and what the table has is copied as it is.
						w.alike(`orders`, `id, token, note`, `shop_id = `+fmt.Sprint(w.shop))
						return
					}
					if err == nil {
						t.Fatalf("got %+v, want the move ended", *report)
					}
					says := st.says
					if says == "" {
						says = st.text
					}
					if step == "claim" {
						says = "table"
					}
					contains(t, err, nil, "in the middle of the move", says, "undone, the shop stays in pod 1")
					if step != "drain" && tr.passed("drain") {
						t.Error("the lock was asked for")
					}
					if tr.passed("closed") {
						t.Error("the source was closed")
					}
					w.stays()
				})
			}
			t.Run(step+" and others", func(t *testing.T) {
				w := begin(t)
				tr := &trail{at: map[string]func(){step: func() { w.script(session, harmless) }}}
				if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
					t.Fatal(err)
				}
				w.alike(`orders`, `id, token, note`, `shop_id = `+fmt.Sprint(w.shop))
				w.alike(`products`, `id, stock`, `shop_id = `+fmt.Sprint(w.shop))
			})
		}
	})
}

// What a prepared XA transaction has written is in the log before the move
// begins to follow it, and among the rows when it commits.
func TestAnXATransactionFromBeforeTheMove(t *testing.T) {
	// Every move from the server sees it, so the test runs beside no other.
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		for _, test := range []struct {
			name string
			off  bool
		}{{"is waited for", false}, {"and without that is lost", true}} {
			t.Run(test.name, func(t *testing.T) {
				w := newWorld(t, f, "", nil)
				w.fill(w.shop, 50)
				session := w.open(1, "", "")
				session.SetMaxOpenConns(1)
				tr := &trail{at: map[string]func(){
					"claim": func() {
						w.script(session, `XA START 'early'; INSERT INTO products VALUES (7, 1000, 'x', 1, 1); XA END 'early'; XA PREPARE 'early'`)
					},
					"cutover": func() { w.exec(w.source, `XA COMMIT 'early'`) },
				}}
				if f == testcluster.MariaDB { // where only the session itself can end it while it is connected
					tr.at["cutover"] = func() { w.exec(session, `XA COMMIT 'early'`) }
				}
				ctx := hook.With(t.Context(), &hook.Set{Step: tr.hear, Insist: 1e9, Off: map[hook.Protection]bool{hook.Prepared: test.off}})
				_, err := w.ferry.Move(ctx, w.shop, 2)
				if test.off {
					contains(t, err, ferry.ErrDiffers, "table products: missing (1)") // found after the fact
					if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE id = 1000`); n != 0 {
						t.Error("the row arrived all the same: the test shows nothing")
					}
					return
				}
				contains(t, err, nil, "1 prepared XA transactions on the source", "undone, the shop stays in pod 1")
				w.exec(session, `XA ROLLBACK 'early'`)
				w.stays()
				if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
					t.Error(err)
				}
				w.same("products")
			})
		}
	})
}

// A log in files of 4 KB, with compressed transactions and a row larger than what
// the protocol puts into a packet.
func TestAMoveFollowsALogOfManySmallFiles(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		args := []string{"--max-binlog-size=4096", "--max-allowed-packet=64M", "--binlog-transaction-compression=ON"}
		if f == testcluster.MariaDB {
			args = []string{"--max-binlog-size=4096", "--max-allowed-packet=64M", "--log-bin-compress=1", "--log-bin-compress-min-len=10"}
		}
		source := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: args})
		target := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: args[:2]})
		w := newWorldOn(t, source, target, `CREATE TABLE files (shop_id BIGINT NOT NULL, id INT NOT NULL, b LONGBLOB, PRIMARY KEY (shop_id, id))`, &patientOptions)
		w.fill(w.shop, 300)
		before := w.logs()
		sold, stop := w.sales(10)
		goOn := func() {
			w.exec(w.source, `FLUSH LOGS`)
			from := sold()
			until(t, "sales", func() bool { return sold() > from+20 })
		}
		tr := &trail{at: map[string]func(){
			"copy": goOn,
			"verify": func() {
				goOn()
				w.exec(w.source, `INSERT INTO files VALUES (7, 1, REPEAT(x'00ff275c', 17 << 18))`)
				w.exec(w.source, `UPDATE files SET b = CONCAT(b, 'end')`)
			},
			"cutover": goOn,
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		total := stop()
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		if n := w.logs() - before; n < 10 {
			t.Errorf("the move went through %d files of the log, want more: the test shows nothing", n)
		}
		w.same("products")
		w.alike(`files`, `id, LENGTH(b), SHA2(b, 256)`, `shop_id = 7`)
		if n := w.count(w.target, `SELECT stock FROM products WHERE shop_id = 7 AND id = 10`); n != 15+total {
			t.Errorf("got a stock of %d, want 15 and the %d that were sold", n, total)
		}
	})
}

// logs counts the files of the source's log.
func (w *world) logs() (n int) {
	w.t.Helper()
	rows, err := w.source.QueryContext(w.t.Context(), `SHOW BINARY LOGS`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		n++
	}
	return n
}

// sales sells a product until stop is called, or the shop has moved.
func (w *world) sales(product int) (sold func() int64, stop func() int64) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var n atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := sell(ctx, w.source, w.shop, 1, product); err == nil {
				n.Add(1)
			} else if ctx.Err() == nil {
				w.t.Log("the sales ended: ", err)
				return
			}
		}
	}()
	return n.Load, func() int64 {
		cancel()
		<-done
		return n.Load()
	}
}

// The log that a dead mover left off in is gone when the next one comes.
func TestALogThatIsGoneIsAReasonToBeginAnew(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorldOn(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f}), testcluster.Shared(t, f, "target"), "", &patient)
		w.fill(w.shop, 400)
		goOn := w.stop(300)
		kill := w.mover(2)
		w.awaitCopy(290)
		kill()
		goOn()
		if err := sell(t.Context(), w.source, w.shop, 1, 10); err != nil { // which only the log that goes has
			t.Fatal(err)
		}
		w.exec(w.source, `FLUSH LOGS`)
		until(t, "the log to be gone", func() bool { // which the server keeps while a session reads it
			file := ""
			rows, err := w.source.QueryContext(t.Context(), `SHOW BINARY LOGS`)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			n := 0
			for rows.Next() {
				dest := []any{&file, new(any), new(any)}
				if columns, _ := rows.Columns(); len(columns) == 2 {
					dest = dest[:2]
				}
				if err := rows.Scan(dest...); err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n > 1 {
				w.exec(w.source, `PURGE BINARY LOGS TO '`+file+`'`)
			}
			return n == 1
		})
		var err error
		until(t, "the lease to end", func() bool {
			_, err = w.ferry.Move(t.Context(), w.shop, 2)
			return err == nil || !strings.Contains(err.Error(), "heard of")
		})
		contains(t, err, binlog.ErrPurged, "undone, the shop stays in pod 1")
		w.stays()
		if report := w.move(2); report.RowsCopied != 400 {
			t.Errorf("got %d rows copied, want all 400", report.RowsCopied)
		}
		w.same("products")
	})
}

// Who reads the target's log knows the mover's writes from the application's.
func TestTheTargetsLogTellsTheMoversWrites(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, end := range []string{"moves", "is undone"} {
			t.Run(end, func(t *testing.T) {
				w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7})
				w.fill(w.shop, 50)
				w.exec(w.target, `INSERT INTO products VALUES (8, 1, 'ours', 1, 1)`)
				database := w.pods[2].DBName
				stream, err := binlog.New(w.pods[2], &binlog.Options{Tables: func(d, table string) bool { return d == database && table == "products" }})
				if err != nil {
					t.Fatal(err)
				}
				from, err := stream.Now(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				tr := &trail{at: map[string]func(){
					"copy":   func() { w.exec(w.target, `UPDATE products SET stock = stock + 1 WHERE shop_id = 8`) },
					"verify": func() { w.exec(w.source, `UPDATE products SET stock = stock + 1 WHERE shop_id = 7`) },
					"cutover": func() {
						w.exec(w.target, `UPDATE products SET stock = stock + 1 WHERE shop_id = 8`)
						if end == "is undone" {
							cancel()
						}
					},
				}}
				_, err = w.ferry.Move(tr.follow(ctx), w.shop, 2)
				if (err == nil) != (end == "moves") {
					t.Fatal(err)
				}
				w.exec(w.target, `UPDATE products SET stock = 99 WHERE shop_id = 8`)
				movers, ours := 0, 0
				stop := fmt.Errorf("enough")
				err = stream.Run(t.Context(), from, func(ev binlog.Event) error {
					rows, ok := ev.(*binlog.Rows)
					if !ok {
						return nil
					}
					for _, c := range rows.Changes {
						row := c.After
						if row == nil {
							row = c.Before
						}
						if row[0].(int64) == 8 {
							ours++
							if rows.Origin != (binlog.Origin{}) {
								t.Errorf("the application's row is of %+v", rows.Origin)
							}
							if row[4].(uint64) == 99 {
								return stop
							}
							continue
						}
						movers++
						if rows.Origin.Shop != 7 || rows.Origin.Token == 0 {
							t.Errorf("a %v of the mover's is of %+v", rows.Kind, rows.Origin)
						}
					}
					return nil
				})
				if err != stop {
					t.Fatal(err)
				}
				want := 50 + 50 // copied; written over
				if end == "is undone" {
					want += 50
				}
				if movers != want || ours != 3 {
					t.Errorf("got %d changes of the mover's and %d others, want %d and 3", movers, ours, want)
				}
				if n := w.count(w.target, `SELECT COUNT(*) FROM podworks_origin`); n != 0 {
					t.Errorf("%d marks are left", n)
				}
			})
		}
	})
}

// A pod is a name that leads to its primary, and later to the replica that has
// taken over.
type pod struct {
	name             string // of the database
	primary, replica *testcluster.MySQLServer
	use              atomic.Pointer[testcluster.MySQLServer]
}

func (p *pod) config() *mysql.Config {
	cfg := p.primary.Config(p.name)
	cfg.Net, cfg.Addr = "tcp", "shop.internal:3306"
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.use.Load().Socket())
	}
	return cfg
}

// replicated returns a world whose source has a replica.
func replicated(t *testing.T, f testcluster.Family, gtid bool) (*world, *pod) {
	t.Helper()
	p := &pod{}
	var args []string
	if !gtid {
		args = []string{"--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"} // 9.7 has them ON by default
	}
	p.primary = testcluster.Start(t, &testcluster.MySQLOptions{Family: f, TCP: true, GTID: gtid, Args: args})
	p.replica = testcluster.Start(t, &testcluster.MySQLOptions{Family: f, GTID: gtid, ReplicaOf: p.primary, Args: args})
	p.use.Store(p.primary)
	target := testcluster.Shared(t, f, "target")
	w := newWorldUnder(t, target, p.primary, target, "", &patientOptions)
	p.name = w.pods[1].DBName
	w.pods[1] = p.config()
	c, err := mysql.NewConnector(w.pods[1])
	if err != nil {
		t.Fatal(err)
	}
	w.source = sql.OpenDB(c) // goes where the name leads
	t.Cleanup(func() { w.source.Close() })
	w.ferry = w.newFerry(&patientOptions)
	w.fill(w.shop, 400)
	return w, p
}

// stopReplica says how to.
var stopReplica = map[testcluster.Family]string{testcluster.MariaDB: `STOP SLAVE`, testcluster.MySQL: `STOP REPLICA`}

// failOver makes the replica the pod's primary, as whoever fails a pod over does.
func (w *world) failOver(p *pod) {
	w.t.Helper()
	w.exec(w.master, `UPDATE podworks_pods SET serving = 0 WHERE pod_id = 1`)
	if err := p.primary.Kill(); err != nil {
		w.t.Fatal(err)
	}
	db := p.open(w.t)
	w.exec(db, stopReplica[w.family])
	w.exec(w.master, `UPDATE podworks_pods SET epoch = epoch + 1 WHERE pod_id = 1`)
	p.use.Store(p.replica)
	w.exec(w.master, `UPDATE podworks_pods SET serving = 1 WHERE pod_id = 1`)
}

// open connects to the replica itself.
func (p *pod) open(t *testing.T) *sql.DB {
	t.Helper()
	c, err := mysql.NewConnector(p.replica.Config(p.name))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db
}

var patientOptions = ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7, PauseBudget: 5e9}

// A source with GTIDs fails over to its replica: the move goes on there. Where the
// epochs were noted before, the decision refuses, and the move is undone.
func TestAMoveOutlivesAFailoverOfItsSource(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, step := range []string{"copy", "verify", "cutover", "lock"} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				w, p := replicated(t, f, true)
				tr := &trail{at: map[string]func(){step: func() {
					for i := range 5 {
						if err := sell(t.Context(), w.source, w.shop, 1, 10+i); err != nil {
							t.Error(err)
						}
					}
					if err := p.replica.CatchUp(t.Context()); err != nil {
						t.Error(err)
					}
					w.failOver(p)
					for i := range 5 {
						if err := sell(t.Context(), w.source, w.shop, 1, 100+i); err != nil {
							t.Error(err)
						}
					}
				}}}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				if step == "lock" {
					contains(t, err, nil, "undone, the shop stays in pod 1")
					w.stays()
					if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
						t.Fatal(err)
					}
				} else if err != nil {
					t.Fatal(err)
				}
				w.same("products")
			})
		}
	})
}

// Without GTIDs nobody can tell the place in the new primary's log, and after a
// lossy failover there is none.
func TestAFailoverThatCantBeFollowedUndoesTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, lossy := range []bool{false, true} {
			if f == testcluster.MariaDB && !lossy {
				continue // it has GTIDs always
			}
			t.Run(fmt.Sprintf("lossy %t", lossy), func(t *testing.T) {
				t.Parallel()
				w, p := replicated(t, f, lossy)
				tr := &trail{}
				tr.at = map[string]func(){"verify": func() {
					if err := p.replica.CatchUp(t.Context()); err != nil {
						t.Error(err)
					}
					if lossy {
						w.exec(p.open(t), stopReplica[f])
					}
					if err := sell(t.Context(), w.source, w.shop, 1, 10); err != nil {
						t.Error(err)
					}
					w.awaitSale(10)
					w.failOver(p)
				}}
				// A replica may only be late, so it is waited for.
				ctx := hook.With(t.Context(), &hook.Set{Step: tr.hear, Insist: 4e9})
				_, err := w.ferry.Move(ctx, w.shop, 2)
				want := binlog.ErrOtherServer
				if lossy {
					want = binlog.ErrDiverged
				}
				contains(t, err, want, "undone, the shop stays in pod 1")
				w.stays()
				if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
					t.Fatal(err)
				}
				w.same("products")
			})
		}
	})
}
