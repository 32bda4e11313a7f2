package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// shopRows returns the rows of a shop in a table as the server keeps them.
func shopRows(ctx context.Context, db *sql.DB, table, columns, where string) (ledger, error) {
	r, err := db.QueryContext(ctx, `SELECT `+columns+` FROM `+table+` WHERE `+where)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cols, err := r.Columns()
	if err != nil {
		return nil, err
	}
	out := ledger{}
	for r.Next() {
		vals := make([]sql.NullString, len(cols))
		dest := make([]any, len(cols))
		for i := range vals {
			dest[i] = &vals[i]
		}
		if err := r.Scan(dest...); err != nil {
			return nil, err
		}
		text := table
		for _, v := range vals {
			text += fmt.Sprintf(" %v", v)
		}
		out[text] += "1" // as often as it is there
	}
	return out, r.Err()
}

// alike fails the test unless a table has the same rows on both sides.
func (w *world) alike(table, columns, where string) {
	w.t.Helper()
	want, err := shopRows(w.t.Context(), w.source, table, columns, where)
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := shopRows(w.t.Context(), w.target, table, columns, where)
	if err != nil {
		w.t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		w.t.Errorf("table %s: the target has\n%s\nwant\n%s", table, strings.Join(slices.Sorted(maps.Keys(got)), "\n"), strings.Join(slices.Sorted(maps.Keys(want)), "\n"))
	}
}

// moveKeys moves a shop with a row of each kind of key, while rows come, go and
// change keys; at the verification, one row of each table is changed, one dropped
// and one added on the target.
func moveKeys(t *testing.T, on *testcluster.MySQLServer, off map[hook.Protection]bool) (*world, *ferry.Report) {
	f := on.Family()
	w := newWorldOn(t, testcluster.Shared(t, f, "source"), on, ferry.KeyTables(ferry.KeyKinds(f)), &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 2})
	source, target := w.open(1, "sql_mode", "'STRICT_ALL_TABLES'"), w.open(2, "sql_mode", "'STRICT_ALL_TABLES'") // zero dates are allowed
	all := func(db *sql.DB, statements ...string) {
		for i, k := range ferry.KeyKinds(f) {
			args := []string{"{t}", fmt.Sprintf("k%d", i)}
			for n, value := range k.Values {
				args = append(args, fmt.Sprintf("{%d}", n), value)
			}
			for _, stmt := range statements {
				w.exec(db, strings.NewReplacer(args...).Replace(stmt))
			}
		}
	}
	all(source, `INSERT INTO {t} (shop_id, v, k) VALUES (7, 'zero', {0}), (7, 'one', {1}), (7, 'two', {2}), (7, 'three', {3}), (7, 'four', {4})`)
	tr := &trail{at: map[string]func(){
		"copy": func() { // a row changes, one goes, one gets another key
			all(source, `UPDATE {t} SET v = 'changed' WHERE shop_id = 7 AND k = {1}`, `DELETE FROM {t} WHERE shop_id = 7 AND k = {2}`,
				`UPDATE {t} SET k = {5} WHERE shop_id = 7 AND k = {3}`)
		},
		"verify": func() {
			all(target, `UPDATE {t} SET v = 'damaged' WHERE shop_id = 7 AND k = {1}`, `DELETE FROM {t} WHERE shop_id = 7 AND k = {4}`,
				`INSERT INTO {t} (shop_id, v, k) VALUES (7, 'extra', {2})`)
		},
		"cutover": func() { // which the log alone brings
			all(source, `UPDATE {t} SET v = 'late' WHERE shop_id = 7 AND k = {0}`, `INSERT INTO {t} (shop_id, v, k) VALUES (7, 'three', {3})`,
				`DELETE FROM {t} WHERE shop_id = 7 AND k = {5}`)
		},
	}}
	ctx := tr.follow(t.Context())
	if off != nil {
		ctx = hook.With(t.Context(), &hook.Set{Off: off, Step: func(step string) {
			if do := tr.at[step]; do != nil {
				do()
			}
		}})
	}
	report, err := w.ferry.Move(ctx, w.shop, 2)
	if err != nil {
		t.Fatal(err)
	}
	return w, report
}

func TestEveryKindOfKeyIsCopiedFollowedAndCompared(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, report := moveKeys(t, testcluster.Shared(t, f, "target"), nil)
		w.keysArrived(report)
	})
}

// keysArrived fails the test unless all is as moveKeys should leave it.
func (w *world) keysArrived(report *ferry.Report) {
	w.t.Helper()
	kinds := ferry.KeyKinds(w.family)
	if want := int64(3 * len(kinds)); report.RowsRepaired != want {
		w.t.Errorf("got %d rows repaired, want %d: what was changed, dropped and added in each table", report.RowsRepaired, want)
	}
	source := w.open(1, "sql_mode", "'STRICT_ALL_TABLES'")
	repaired := map[string][]ferry.Difference{}
	for _, d := range report.Evidence.Repaired {
		repaired[d.Table] = append(repaired[d.Table], d)
	}
	for i, k := range kinds {
		table := fmt.Sprintf("k%d", i)
		w.alike(table, `HEX(CONCAT(k)), v`, `shop_id = 7`)
		if n := w.count(w.target, `SELECT COUNT(*) FROM `+table); n != 4 {
			w.t.Errorf("%s: got %d rows, want 4", k.Columns, n)
		}
		w.findsRows(source, table, k, repaired[table])
	}
}

// findsRows fails the test unless the differences are those that moveKeys made
// in a table, and their keys are conditions that find just those rows.
func (w *world) findsRows(db *sql.DB, table string, k ferry.Keyed, list []ferry.Difference) {
	w.t.Helper()
	w.exec(db, `INSERT INTO `+table+` (shop_id, v, k) VALUES (7, 'two', `+k.Values[2]+`)`) // which the source lacked
	got := map[string]string{}
	for _, d := range list {
		rows, err := shopRows(w.t.Context(), db, table, `v`, `shop_id = 7 AND `+d.Key)
		if err != nil {
			w.t.Errorf("%s: the key %s: %v", k.Columns, d.Key, err)
		}
		got[fmt.Sprint(d.Kind, d.Columns)] += fmt.Sprint(slices.Collect(maps.Keys(rows)))
	}
	want := map[string]string{"differs[v]": "[" + table + " {changed true}]", "missing[]": "[" + table + " {four true}]", "extra[]": "[" + table + " {two true}]"}
	if !maps.Equal(got, want) {
		w.t.Errorf("%s: got the differences %v, which find %v, want %v", k.Columns, list, got, want)
	}
}

// The twin of the test above: without the comparison the damage stays.
func TestWithoutTheComparisonTheDamageStays(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, report := moveKeys(t, testcluster.Shared(t, f, "target"), map[hook.Protection]bool{hook.Compare: true})
		if report.RowsRepaired != 0 {
			t.Errorf("got %d rows repaired, want none", report.RowsRepaired)
		}
		for i, k := range ferry.KeyKinds(f) {
			for _, damage := range []string{`v = 'damaged'`, `v = 'extra'`} {
				if n := w.count(w.target, fmt.Sprintf(`SELECT COUNT(*) FROM k%d WHERE %s`, i, damage)); n != 1 {
					t.Errorf("%s: got %d rows with %s, want the one that was put there", k.Columns, n, damage)
				}
			}
		}
	})
}
