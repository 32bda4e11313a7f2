package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// What a session does to the shop's tables while they are copied, and what the
// move says. The move ends before it asks for the lock.
var endings = []struct {
	name   string
	set    string // variable=value of the session
	source string
	says   []string
}{
	{
		name: "statements are logged", set: "binlog_format='STATEMENT'", source: `UPDATE products SET stock = 0 WHERE shop_id = 7`,
		says: []string{"wrote without row events", "UPDATE products SET stock = 0 WHERE shop_id = 7"},
	},
	{
		name: "statements are logged and name a view", set: "binlog_format='STATEMENT'", source: `UPDATE cheap SET stock = 0`,
		says: []string{"UPDATE cheap SET stock = 0"},
	},
	{
		name: "rows are logged in part", set: "binlog_row_image='MINIMAL'", source: `UPDATE products SET stock = 0 WHERE shop_id = 7 AND id = 1`,
		says: []string{"table products: a session writes with a binlog_row_image other than FULL"},
	},
	{
		name: "an XA transaction writes", source: `XA START 'x'; UPDATE products SET stock = 0 WHERE shop_id = 7 AND id = 1; XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'`,
		says: []string{"an XA transaction wrote rows of the shop", "products"},
	},
}

func TestWhatTheLogCantCarryEndsTheMoveBeforeTheLock(t *testing.T) {
	// A prepared XA transaction is seen by every move from the server, so the
	// test runs beside no other.
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, `CREATE VIEW cheap AS SELECT * FROM products WHERE price < 10`, &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7})
		w.fill(w.shop, 50)
		w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL)`)
		for _, e := range endings {
			t.Run(e.name, func(t *testing.T) {
				w := w.in(t)
				variable, value, _ := strings.Cut(e.set, "=")
				db := w.open(1, variable, value)
				db.SetMaxOpenConns(1) // XA is a session's
				tr := &trail{at: map[string]func(){"copy": func() { w.script(db, e.source) }}}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				contains(t, err, nil, append(e.says, "undone, the shop stays in pod 1")...)
				if tr.passed("drain") {
					t.Error("the lock was asked for")
				}
				w.stays()
			})
		}
	})
}

// What is none of the shop's business goes on beside the move.
func TestWhatIsNotTheShopsDoesNotEndTheMove(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7})
		w.fill(w.shop, 50)
		w.fill(w.other, 50)
		elsewhere := testcluster.Database(t, w.sourceSv)
		w.pods[9] = w.sourceSv.Config(elsewhere)
		statement := w.open(9, "binlog_format", "'STATEMENT'")
		session := w.open(1, "", "")
		session.SetMaxOpenConns(1)
		tr := &trail{at: map[string]func(){"copy": func() {
			w.script(session, `
				XA START 'other'; UPDATE products SET stock = 0 WHERE shop_id = 8 AND id = 1; XA END 'other'; XA PREPARE 'other'; XA COMMIT 'other';
				XA START 'undone'; UPDATE products SET stock = 0 WHERE shop_id = 8 AND id = 1; XA END 'undone'; XA PREPARE 'undone'; XA ROLLBACK 'undone';
				XA START 'once'; UPDATE products SET stock = 1 WHERE shop_id = 8 AND id = 1; XA END 'once'; XA COMMIT 'once' ONE PHASE;
				UPDATE products SET stock = 1000 WHERE shop_id = 7 AND id = 2;
				ALTER TABLE countries ADD COLUMN language INT;
				CREATE TABLE unrelated (id INT PRIMARY KEY); DROP TABLE unrelated;
				ANALYZE TABLE products; OPTIMIZE TABLE orders;
				CREATE TEMPORARY TABLE scratch (id INT); INSERT INTO scratch VALUES (1); DROP TEMPORARY TABLE scratch;
				BEGIN; UPDATE products SET stock = 1 WHERE shop_id = 7 AND id = 3; SAVEPOINT one; UPDATE products SET stock = 2 WHERE shop_id = 7 AND id = 4;
				ROLLBACK TO one; UPDATE products SET stock = 3 WHERE shop_id = 7 AND id = 5; COMMIT;
				BEGIN; UPDATE products SET stock = 4 WHERE shop_id = 7 AND id = 6; ROLLBACK`)
			w.script(statement, `
				CREATE TABLE products (id INT PRIMARY KEY) ENGINE=MyISAM; ALTER TABLE products ADD COLUMN c INT; INSERT INTO products VALUES (1, 1);
				CREATE USER u_`+elsewhere+`@localhost; GRANT SELECT ON products TO u_`+elsewhere+`@localhost; DROP USER u_`+elsewhere+`@localhost`)
			if f == testcluster.MySQL {
				return // refuses both kinds of table in one transaction
			}
			w.script(session, `
				BEGIN; UPDATE products SET stock = 1 WHERE shop_id = 7 AND id = 7; SAVEPOINT one; UPDATE products SET stock = 2 WHERE shop_id = 7 AND id = 8;
				INSERT INTO `+elsewhere+`.products VALUES (2, 1); ROLLBACK TO one; UPDATE products SET stock = 3 WHERE shop_id = 7 AND id = 9; COMMIT;
				BEGIN; UPDATE products SET stock = 4 WHERE shop_id = 7 AND id = 10; INSERT INTO `+elsewhere+`.products VALUES (3, 1); ROLLBACK`)
		}}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		w.same("products")
	})
}

// The connection to the source's log is cut in every step; the move goes on.
func TestTheMoveOutlivesACutConnectionToTheLog(t *testing.T) {
	// It cuts those of all movers, so the test runs beside no other.
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7, PauseBudget: 2 * time.Second})
		w.fill(w.shop, 200)
		stop := make(chan struct{})
		var sales sync.WaitGroup
		sold := 0
		sales.Go(func() {
			for {
				err := sell(t.Context(), w.source, w.shop, 1, 10)
				switch {
				case errors.Is(err, errMoved):
					return
				case err != nil:
					t.Error(err)
					return
				}
				sold++
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		cuts := 0
		cut := func() { cuts += w.cutLog() }
		tr := &trail{at: map[string]func(){"copy": cut, "verify": cut, "cutover": cut}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		close(stop)
		sales.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if cuts < 3 {
			t.Errorf("got %d cuts, want 3", cuts)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		w.same("products")
		if n := w.count(w.target, `SELECT stock FROM products WHERE shop_id = 7 AND id = 10`); n != int64(15+sold) {
			t.Errorf("got a stock of %d, want 15 and the %d that were sold", n, sold)
		}
	})
}

// cutLog ends the connections that read the source's log, and returns how many.
func (w *world) cutLog() (n int) {
	w.t.Helper()
	until(w.t, "a reader of the log", func() bool {
		rows, err := w.source.QueryContext(w.t.Context(), `SELECT id FROM `+sessions[w.family]+` WHERE command LIKE 'Binlog Dump%'`)
		if err != nil {
			w.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				w.t.Fatal(err)
			}
			if _, err := w.source.ExecContext(w.t.Context(), fmt.Sprintf(`KILL %d`, id)); err == nil {
				n++
			}
		}
		return n > 0
	})
	return n
}

func TestATargetThatDiesInTheCopyLeavesTheShopTrading(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		target := testcluster.Start(t, &testcluster.MySQLOptions{Family: f})
		w := newWorldOn(t, testcluster.Shared(t, f, "source"), target, "", &patient)
		w.fill(w.shop, 400)
		w.dies(target)
		if err := sell(t.Context(), w.source, w.shop, 1, 1); err != nil {
			t.Errorf("a write in the source while the target is down: %v", err)
		}
		until(t, "the lease to end", func() bool { // and Recover says what is in its way
			_, err := w.ferry.Recover(t.Context())
			return err != nil
		})
		w.revives(target)
	})
}

func TestASourceThatDiesInTheCopyTradesWhenItIsBack(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		source := testcluster.Start(t, &testcluster.MySQLOptions{Family: f}) // and the master
		w := newWorldOn(t, source, testcluster.Shared(t, f, "target"), "", &patient)
		w.fill(w.shop, 400)
		w.dies(source)
		w.revives(source)
	})
}

// dies kills a server in the middle of the copy, and waits for the move to end.
func (w *world) dies(server *testcluster.MySQLServer) {
	w.t.Helper()
	goOn := w.stop(300)
	moved := make(chan error, 1)
	go func() {
		_, err := w.ferry.Move(hook.With(w.t.Context(), &hook.Set{Insist: 2 * time.Second}), w.shop, 2)
		moved <- err
	}()
	w.awaitCopy(290)
	if err := server.Kill(); err != nil {
		w.t.Fatal(err)
	}
	goOn()
	contains(w.t, <-moved, nil, "move shop 7 to pod 2", "could not be settled", "Recover or Run")
}

// revives starts the server again; what is left is undone, and the next move
// succeeds.
func (w *world) revives(server *testcluster.MySQLServer) {
	w.t.Helper()
	if err := server.Restart(context.WithoutCancel(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
	until(w.t, "the move to be undone", func() bool {
		if _, err := w.ferry.Recover(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		return w.state(1) == "undone"
	})
	w.stays()
	if report := w.move(2); report.RowsCopied != 400 {
		w.t.Errorf("got %d rows copied by the second move, want all 400", report.RowsCopied)
	}
	w.same("products")
}
