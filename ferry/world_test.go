package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// A world is a master database and two pods with one shop in the first.
type world struct {
	t        *testing.T
	family   testcluster.Family
	dir      ferry.Tables
	master   *sql.DB
	source   *sql.DB // pod 1
	target   *sql.DB // pod 2
	pods     map[podworks.PodID]*mysql.Config
	shop     podworks.ShopID
	other    podworks.ShopID // in the same pod
	ferry    *ferry.Ferry
	sourceSv *testcluster.MySQLServer
	targetSv *testcluster.MySQLServer
}

const shopTables = `
CREATE TABLE products (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, name VARCHAR(100) NOT NULL, price DECIMAL(10,2) NOT NULL, stock INT UNSIGNED NOT NULL, PRIMARY KEY (shop_id, id));
CREATE TABLE orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, token VARCHAR(40) NOT NULL, note TEXT, PRIMARY KEY (shop_id, id), UNIQUE KEY (shop_id, token));
CREATE TABLE countries (code CHAR(2) NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL);`

// newWorld makes databases on the package's shared servers; the schema, if not
// empty, replaces shopTables.
func newWorld(t *testing.T, f testcluster.Family, schema string, opts *ferry.Options) *world {
	t.Helper()
	return newWorldOn(t, testcluster.Shared(t, f, "source"), testcluster.Shared(t, f, "target"), schema, opts)
}

func newWorldOn(t *testing.T, source, target *testcluster.MySQLServer, schema string, opts *ferry.Options) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{t: t, family: source.Family(), shop: 7, other: 8, sourceSv: source, targetSv: target, pods: map[podworks.PodID]*mysql.Config{}}
	if schema == "" {
		schema = shopTables
	}
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
	w.master, _ = open(source)
	w.source, w.pods[1] = open(source)
	w.target, w.pods[2] = open(target)
	for _, db := range []*sql.DB{w.source, w.target} {
		for stmt := range strings.SplitSeq(schema, ";") {
			if strings.TrimSpace(stmt) != "" {
				w.exec(db, stmt)
			}
		}
	}
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
	var err error
	if w.ferry, err = ferry.New(w.dir, w.pods, &o); err != nil {
		t.Fatal(err)
	}
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
