package ferry_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// unloadable are the first words of the types whose columns keep a table from being
// loaded.
var unloadable = []string{"POINT", "GEOMETRY", "LINESTRING", "POLYGON", "MULTIPOINT", "MULTILINESTRING", "MULTIPOLYGON", "GEOMETRYCOLLECTION",
	"UUID", "INET4", "INET6", "VECTOR", "VECTOR(3)"}

// What is copied arrives by LOAD DATA as it does by INSERT. The tests of keys and of
// types have what a family's servers do without being told, and what can't be loaded.
func TestRowsArriveByLoadDataAndByInsert(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		target := testcluster.Start(t, &testcluster.MySQLOptions{Family: f}) // its own, as its statements are counted
		admin := newWorldOn(t, testcluster.Shared(t, f, "source"), target, "", nil)
		loads := func() (n int64) {
			var name string
			if err := admin.target.QueryRowContext(t.Context(), `SHOW GLOBAL STATUS LIKE 'Com_load'`).Scan(&name, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		// by runs a test in which at least so many tables are loaded, or none if it is 0.
		by := func(name string, tables int, test func(t *testing.T)) {
			t.Helper()
			admin.exec(admin.target, `SET GLOBAL local_infile = ?`, tables > 0)
			before := loads()
			t.Run(name, test)
			if n := int(loads() - before); n < tables || tables == 0 && n > 0 {
				t.Errorf("%s: the target has done LOAD DATA %d times, for %d tables", name, n, tables)
			}
		}
		loadable := func(column string) bool {
			word, _, _ := strings.Cut(column, " ")
			return !slices.Contains(unloadable, word)
		}
		kinds := slices.DeleteFunc(kindsOf(f), func(k kind) bool { return !loadable(k.column) })
		keys := slices.DeleteFunc(ferry.KeyKinds(f), func(k ferry.Keyed) bool { return !loadable(k.Columns) })
		tables := len(keys)
		if f == testcluster.MariaDB { // which allows LOAD DATA by default
			tables = 0
		}
		by("every kind of key", tables, func(t *testing.T) {
			w, report := moveKeys(t, target, nil)
			w.keysArrived(report)
		})
		by("every type", 1, func(t *testing.T) { moveValues(t, target, kinds) })
		by("more than was planned", 1, func(t *testing.T) { moveLarge(t, target) })
		t.Run("not allowed any more", func(t *testing.T) {
			before := loads()
			w := newWorldOn(t, testcluster.Shared(t, f, "source"), target, "", nil)
			w.fill(w.shop, 200)
			tr := &trail{at: map[string]func(){"copy": func() { w.exec(w.target, `SET GLOBAL local_infile = OFF`) }}}
			report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
			if err != nil {
				t.Fatal(err)
			}
			w.same("products")
			if report.RowsRepaired != 0 || loads() == before {
				t.Errorf("%d rows were repaired, want none; %d times LOAD DATA was tried", report.RowsRepaired, loads()-before)
			}
		})
	})
}

// moveLarge moves rows that are much longer than when the move was planned, so that
// less is read at once than was to be. Half of their bytes need an escape.
func moveLarge(t *testing.T, target *testcluster.MySQLServer) {
	f := target.Family()
	w := newWorldOn(t, testcluster.Shared(t, f, "source"), target, `CREATE TABLE texts (shop_id INT NOT NULL, id INT NOT NULL, t LONGTEXT, b LONGBLOB, PRIMARY KEY (shop_id, id))`, nil)
	w.exec(w.source, `INSERT INTO texts VALUES (7, 1, 'short', NULL)`)
	tr := &trail{at: map[string]func(){"incoming": func() {
		for id := 2; id <= 5; id++ {
			w.exec(w.source, `INSERT INTO texts VALUES (7, ?, REPEAT('\\n\\', 500000), REPEAT(x'005c0961', 500000))`, id)
		}
	}}}
	report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
	if err != nil {
		t.Fatal(err)
	}
	if report.RowsRepaired != 0 {
		t.Errorf("%d rows had to be repaired, want none", report.RowsRepaired)
	}
	w.alike(`texts`, `id, LENGTH(t), SHA2(t, 256), LENGTH(b), SHA2(b, 256)`, `shop_id = 7`)
}

// loadAmiss moves products into a target that allows LOAD DATA, and in which something
// is amiss from the copy on. There is no comparison, so that nothing else would notice.
func loadAmiss(t *testing.T, f testcluster.Family, amiss string, off ...hook.Protection) (w *world, err error) {
	t.Helper()
	w = newWorldOn(t, testcluster.Shared(t, f, "source"), testcluster.Shared(t, f, "loads", "--local-infile=ON"), "", nil)
	w.fill(w.shop, 50)
	set := &hook.Set{Off: map[hook.Protection]bool{hook.Compare: true}, Step: func(step string) {
		if step == "copy" {
			w.exec(w.target, amiss)
		}
	}}
	for _, p := range off {
		set.Off[p] = true
	}
	_, err = w.ferry.Move(hook.With(t.Context(), set), w.shop, 2)
	return w, err
}

const (
	takenKey  = `INSERT INTO products VALUES (7, 3, 'of another time', 0, 0)`
	tooNarrow = `ALTER TABLE products MODIFY name VARCHAR(9) NOT NULL`
)

func TestARowThatLoadDataLeavesOutIsInserted(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, err := loadAmiss(t, f, takenKey)
		if err != nil {
			t.Fatal(err)
		}
		w.same("products")
	})
}

func TestAValueThatLoadDataWouldCutEndsTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, err := loadAmiss(t, f, tooNarrow)
		contains(t, err, nil, "table products", "Data too long for column 'name'")
		w.stays()
	})
}

// The twin of both.
func TestWithoutTheCountWhatLoadDataChangesOrLeavesOutStays(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, err := loadAmiss(t, f, takenKey, hook.Loaded)
		if err != nil {
			t.Fatal(err)
		}
		if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id = 7 AND name = 'of another time'`); n != 1 {
			t.Errorf("%d rows are what was there before, want the one whose key was taken", n)
		}
		if w, err = loadAmiss(t, f, tooNarrow, hook.Loaded); err != nil {
			t.Fatal(err)
		}
		if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id = 7 AND name = 'product 1'`); n != 11 {
			t.Errorf("%d rows are cut to their first nine letters, or have no more, want product 1 and all from 10 to 19", n)
		}
	})
}
