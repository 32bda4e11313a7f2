package ferry_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// A world is a master database and two pods with one shop in the first.
type world struct {
	t         *testing.T
	family    testcluster.Family
	dir       ferry.Tables
	master    *sql.DB
	masterDSN string
	source    *sql.DB // pod 1
	target    *sql.DB // pod 2
	pods      map[podworks.PodID]*mysql.Config
	shop      podworks.ShopID
	other     podworks.ShopID // in the same pod
	ferry     *ferry.Ferry
	sourceSv  *testcluster.MySQLServer
	targetSv  *testcluster.MySQLServer
}

const shopTables = `
CREATE TABLE products (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, name VARCHAR(100) NOT NULL, price DECIMAL(10,2) NOT NULL, stock INT UNSIGNED NOT NULL, PRIMARY KEY (shop_id, id));
CREATE TABLE orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, token VARCHAR(40) NOT NULL, note TEXT, PRIMARY KEY (shop_id, id), UNIQUE KEY (shop_id, token));
CREATE TABLE countries (code CHAR(2) NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL);`

// newWorld makes databases on the package's shared servers, with shopTables and
// the tables of schema.
func newWorld(t *testing.T, f testcluster.Family, schema string, opts *ferry.Options) *world {
	t.Helper()
	return newWorldOn(t, testcluster.Shared(t, f, "source"), testcluster.Shared(t, f, "target"), schema, opts)
}

func newWorldOn(t *testing.T, source, target *testcluster.MySQLServer, schema string, opts *ferry.Options) *world {
	t.Helper()
	return newWorldUnder(t, source, source, target, schema, opts)
}

func newWorldUnder(t *testing.T, master, source, target *testcluster.MySQLServer, schema string, opts *ferry.Options) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{t: t, family: source.Family(), shop: 7, other: 8, sourceSv: source, targetSv: target, pods: map[podworks.PodID]*mysql.Config{}}
	open := func(s *testcluster.MySQLServer) (*sql.DB, *mysql.Config) {
		cfg := s.Config(testcluster.Database(t, s))
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		t.Cleanup(func() { db.Close() })
		return db, cfg
	}
	var cfg *mysql.Config
	w.master, cfg = open(master)
	w.masterDSN = cfg.FormatDSN()
	w.source, w.pods[1] = open(source)
	w.target, w.pods[2] = open(target)
	w.script(w.source, shopTables+schema)
	w.script(w.target, shopTables+schema)
	w.dir = ferry.NewTables(w.master)
	if err := w.dir.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	for pod := range w.pods {
		if err := w.dir.AddPod(ctx, pod, "here"); err != nil {
			t.Fatal(err)
		}
	}
	o := ferry.Options{Ignore: []string{"countries"}}
	if opts != nil {
		o = *opts
	}
	w.ferry = w.newFerry(&o)
	if err := w.ferry.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	for _, shop := range []podworks.ShopID{w.shop, w.other} {
		if _, err := w.dir.AddShop(ctx, shop, 1); err != nil {
			t.Fatal(err)
		}
		if err := fence.Create(ctx, w.source, shop); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// newFerry returns another ferry between the same pods.
func (w *world) newFerry(opts *ferry.Options) *ferry.Ferry {
	w.t.Helper()
	f, err := ferry.New(w.dir, w.pods, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// script runs the statements of a text.
func (w *world) script(db *sql.DB, text string) {
	w.t.Helper()
	for stmt := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(stmt) != "" {
			w.exec(db, stmt)
		}
	}
}

func (w *world) exec(db *sql.DB, query string, args ...any) {
	w.t.Helper()
	if _, err := db.ExecContext(w.t.Context(), query, args...); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
}

func (w *world) count(db *sql.DB, query string, args ...any) (n int64) {
	w.t.Helper()
	if err := db.QueryRowContext(w.t.Context(), query, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// fill adds products to a shop.
func (w *world) fill(shop podworks.ShopID, products int) {
	w.t.Helper()
	for from := 0; from < products; from += 1000 {
		var b strings.Builder
		for i := from; i < min(from+1000, products); i++ {
			if i > from {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "(%d, %d, 'product %d', %d.25, %d)", shop, i-5, i, i%100, i)
		}
		w.exec(w.source, `INSERT INTO products VALUES `+b.String())
	}
}

// rows returns a table's rows of a shop as text, for comparing two pods.
func rows(ctx context.Context, db *sql.DB, table string, shop podworks.ShopID) (map[string]string, error) {
	r, err := db.QueryContext(ctx, `SELECT * FROM `+table+` WHERE shop_id = ?`, int64(shop))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cols, _ := r.Columns()
	out := map[string]string{}
	for r.Next() {
		vals := make([]sql.NullString, len(cols))
		dest := make([]any, len(cols))
		for i := range vals {
			dest[i] = &vals[i]
		}
		if err := r.Scan(dest...); err != nil {
			return nil, err
		}
		out[vals[1].String] = fmt.Sprint(vals)
	}
	return out, r.Err()
}

// line is a row as rows returns it.
func line(values ...any) string {
	vals := make([]sql.NullString, len(values))
	for i, v := range values {
		if v != nil {
			vals[i] = sql.NullString{String: fmt.Sprint(v), Valid: true}
		}
	}
	return fmt.Sprint(vals)
}

// same fails the test unless both pods have the same rows of the shop.
func (w *world) same(table string) {
	w.t.Helper()
	a, err := rows(w.t.Context(), w.source, table, w.shop)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := rows(w.t.Context(), w.target, table, w.shop)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(a) != len(b) {
		w.t.Errorf("%s: %d rows on the source, %d on the target", table, len(a), len(b))
	}
	for key, row := range a {
		if b[key] != row {
			w.t.Errorf("%s %s: got %s on the target, want %s", table, key, b[key], row)
			return
		}
	}
}

// errMoved is what a writer gets whose shop isn't open here.
var errMoved = errors.New("the shop is not open in this pod")

// trade runs a write transaction as applications do, with the fence first.
func trade(ctx context.Context, db *sql.DB, shop podworks.ShopID, epoch podworks.Epoch, fn func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	row, err := fence.Read(ctx, tx, shop, "LOCK IN SHARE MODE")
	if err != nil {
		return err
	}
	if row.State != fence.Open || row.Epoch != epoch {
		return fmt.Errorf("%w: %v", errMoved, row)
	}
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// sell changes the stock of a product in a fenced transaction.
func sell(ctx context.Context, db *sql.DB, shop podworks.ShopID, epoch podworks.Epoch, product int) error {
	return trade(ctx, db, shop, epoch, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE products SET stock = stock + 1 WHERE shop_id = ? AND id = ?`, int64(shop), product)
		return err
	})
}

// begin opens a fenced transaction in which product is being sold, and returns
// its session.
func (w *world) begin(product int) *sql.Conn {
	w.t.Helper()
	conn, err := w.source.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		conn.Raw(func(any) error { return driver.ErrBadConn }) // ends it whatever it is in
		conn.Close()
	})
	for _, stmt := range []string{
		`BEGIN`,
		fence.SharedLock(w.shop),
		fmt.Sprintf(`UPDATE products SET stock = stock + 1 WHERE shop_id = %d AND id = %d`, w.shop, product),
	} {
		if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
			w.t.Fatal(err)
		}
	}
	return conn
}

// stays fails the test unless the shop trades in the source, and nothing of a
// move is left on the target or unfinished in the journal.
func (w *world) stays() {
	w.t.Helper()
	ctx := w.t.Context()
	if got, err := w.dir.Fresh(ctx, w.shop); err != nil || got.Pod != 1 || got.Epoch != 1 {
		w.t.Errorf("the directory has %+v, %v; want pod 1 at epoch 1", got, err)
	}
	if moves, err := w.dir.Moves(ctx); err != nil || len(moves) != 0 {
		w.t.Errorf("the journal has %+v, %v; want nothing unfinished", moves, err)
	}
	if row, err := fence.Read(ctx, w.target, w.shop, ""); err != nil || row.State != fence.Absent {
		w.t.Errorf("the target's fence says %v, %v; want absent", row, err)
	}
	if n := w.rowsOf(w.target, w.shop); n != 0 {
		w.t.Errorf("%d rows of the shop are left on the target", n)
	}
	if err := sell(ctx, w.source, w.shop, 1, 1); err != nil {
		w.t.Errorf("a write in the source: %v", err)
	}
}

// rowsOf counts the shop's rows in a database, in ferry's own tables too.
func (w *world) rowsOf(db *sql.DB, shop podworks.ShopID) (n int64) {
	w.t.Helper()
	rows, err := db.QueryContext(w.t.Context(), `SELECT table_name FROM information_schema.columns
		WHERE table_schema = DATABASE() AND column_name = 'shop_id' AND table_name <> 'podworks_fence'`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			w.t.Fatal(err)
		}
		n += w.count(db, `SELECT COUNT(*) FROM `+name+` WHERE shop_id = ?`, int64(shop))
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// stop makes the copy wait at that product, by keeping its key on the target,
// until the returned function is called.
func (w *world) stop(product int) (goOn func()) {
	w.t.Helper()
	tx, err := w.target.BeginTx(w.t.Context(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := tx.ExecContext(w.t.Context(), `INSERT INTO products VALUES (?, ?, '', 0, 0)`, int64(w.shop), product); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { tx.Rollback() })
	return func() { tx.Rollback() }
}

// awaitCopy waits until the copy of products has come to that one.
func (w *world) awaitCopy(product int) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("the copy of product %d", product), func() bool {
		return w.count(w.target, `SELECT COUNT(*) FROM podworks_ferry_copy WHERE shop_id = ? AND table_name = 'products' AND CAST(SUBSTRING(last_key, 2) AS SIGNED) >= ?`,
			int64(w.shop), product) > 0
	})
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	tooLong := time.After(time.Minute) // on a machine that is busy with other tests
	for !ok() {
		select {
		case <-tick.C:
		case <-tooLong:
			t.Fatalf("waited for %s for a minute", what)
		}
	}
}

// A trail notes the steps of the moves in its context, and does something at
// the first of each.
type trail struct {
	mu    sync.Mutex
	steps []string
	at    map[string]func()
}

func (tr *trail) follow(ctx context.Context) context.Context {
	// What happens at the verification shall happen before anything is compared.
	return hook.With(ctx, &hook.Set{Step: tr.hear, Off: map[hook.Protection]bool{hook.Overlap: tr.at["verify"] != nil}})
}

func (tr *trail) hear(step string) {
	tr.mu.Lock()
	first := !slices.Contains(tr.steps, step)
	tr.steps = append(tr.steps, step)
	do := tr.at[step]
	tr.mu.Unlock()
	if first && do != nil {
		do()
	}
}

func (tr *trail) passed(step string) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Contains(tr.steps, step)
}

// contains fails the test unless err is as wanted and says everything.
func contains(t *testing.T, err, want error, says ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want %v", want)
		return
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got error %q, want one that says %q", err, text)
		}
	}
}
