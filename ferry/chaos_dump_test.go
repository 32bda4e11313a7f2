package ferry_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks/internal/testcluster"
)

// What follows looks at two databases with no code of ferry's: it asks each
// server for its own columns, lets it print every value, and compares text.

// A querying is a *sql.DB, *sql.Conn or *sql.Tx.
type querying interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// ask returns the rows of a query, NULLs as "NULL".
func ask(ctx context.Context, q querying, query string, args ...any) (out [][]string, err error) {
	r, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	defer r.Close()
	names, err := r.Columns()
	if err != nil {
		return nil, err
	}
	for r.Next() {
		values := make([]sql.NullString, len(names))
		dest := make([]any, len(names))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := r.Scan(dest...); err != nil {
			return nil, err
		}
		row := make([]string, len(names))
		for i, v := range values {
			row[i] = v.String
			if !v.Valid {
				row[i] = "NULL"
			}
		}
		out = append(out, row)
	}
	return out, errors.Join(r.Err(), r.Close())
}

// printed is the expression by which a server prints a column's value without
// losing any of it: bytes of text as they are stored, numbers as numbers.
func printed(name, kind string) string {
	name = "`" + strings.ReplaceAll(name, "`", "``") + "`"
	switch kind {
	case "char", "varchar", "tinytext", "text", "mediumtext", "longtext", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return `HEX(` + name + `)`
	case "float":
		return name + ` * 1e0` // as text a float is shorter than it is
	case "bit", "enum", "set":
		return name + ` + 0`
	case "json":
		return `HEX(CAST(` + name + ` AS CHAR))`
	case "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection":
		return `CONCAT(ST_SRID(` + name + `), ' ', HEX(ST_AsBinary(` + name + `)))`
	}
	return `CAST(` + name + ` AS CHAR)`
}

// A layout is a table as its server describes it.
type layout struct {
	name    string
	columns []string
	list    string // for SELECT: every column, invisible and generated ones too, printed
}

// layouts returns the tables of a database that are not the suite's own.
func layouts(ctx context.Context, q querying) ([]layout, error) {
	answer, err := ask(ctx, q, `SELECT c.table_name, c.column_name, LOWER(c.data_type) FROM information_schema.columns c
		JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name AND t.table_type = 'BASE TABLE'
		WHERE c.table_schema = DATABASE() AND c.table_name NOT LIKE 'podworks\_%' ORDER BY c.table_name, c.column_name`)
	if err != nil {
		return nil, err
	}
	var out []layout
	for _, a := range answer {
		if len(out) == 0 || out[len(out)-1].name != a[0] {
			out = append(out, layout{name: a[0]})
		}
		l := &out[len(out)-1]
		l.columns = append(l.columns, a[1])
		if l.list != "" {
			l.list += ", "
		}
		l.list += printed(a[1], a[2])
	}
	return out, nil
}

// print makes a row of ask one line. A long value is known by its hash, so that
// a whole database fits in memory.
func (l *layout) print(values []string) string {
	var b strings.Builder
	for i, v := range values {
		if len(v) > 100 {
			v = fmt.Sprintf("(%d bytes, %x)", len(v), sha256.Sum256([]byte(v)))
		}
		fmt.Fprintf(&b, "%s=%s ", l.columns[i], v)
	}
	return b.String()
}

// A dump is a database's rows as lines, sorted, by table.
type dump map[string][]string

// dumpOf prints the rows of every table for which where gives a condition.
func dumpOf(ctx context.Context, q querying, where func(layout) string) (dump, error) {
	tables, err := layouts(ctx, q)
	if err != nil {
		return nil, err
	}
	out := dump{}
	for _, l := range tables {
		condition := where(l)
		if condition == "" {
			continue
		}
		out[l.name] = []string{}
		answer, err := ask(ctx, q, "SELECT "+l.list+" FROM `"+l.name+"` WHERE "+condition)
		if err != nil {
			return nil, err
		}
		for _, values := range answer {
			out[l.name] = append(out[l.name], l.print(values))
		}
		slices.Sort(out[l.name])
	}
	return out, nil
}

// ofShop is the condition for the rows of a shop, in tables that have some.
func ofShop(column string, shop any) func(layout) string {
	return func(l layout) string {
		if !slices.Contains(l.columns, column) {
			return ""
		}
		return fmt.Sprintf("%s = %v", column, shop)
	}
}

// exceptShop is the condition for every other row of a database.
func exceptShop(column string, shop any) func(layout) string {
	return func(l layout) string {
		if !slices.Contains(l.columns, column) {
			return "1 = 1"
		}
		return fmt.Sprintf("NOT %s <=> %v", column, shop)
	}
}

// differences says where two dumps differ, at most a few lines of it.
func differences(got, want dump) (out []string) {
	for _, table := range slices.Sorted(maps.Keys(union(got, want))) {
		g, w := tally(got[table]), tally(want[table])
		for _, line := range slices.Sorted(maps.Keys(union(g, w))) {
			if g[line] != w[line] {
				out = append(out, fmt.Sprintf("%s: got %d, want %d of %s", table, g[line], w[line], line))
			}
		}
	}
	const most = 6
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return out
}

func union[K cmp.Ordered, V any](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	if out == nil {
		out = map[K]V{}
	}
	maps.Copy(out, b)
	return out
}

func tally(lines []string) map[string]int {
	out := map[string]int{}
	for _, l := range lines {
		out[l]++
	}
	return out
}

// shopDump prints the rows of the world's shop.
func (w *world) shopDump(db *sql.DB) dump {
	w.t.Helper()
	d, err := dumpOf(w.t.Context(), db, ofShop("shop_id", int64(w.shop)))
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// restDump prints everything else.
func (w *world) restDump(db *sql.DB) dump {
	w.t.Helper()
	d, err := dumpOf(w.t.Context(), db, exceptShop("shop_id", int64(w.shop)))
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// equal fails the test unless the dumps are the same.
func equal(t *testing.T, what string, got, want dump) {
	t.Helper()
	for _, d := range differences(got, want) {
		t.Errorf("%s: %s", what, d)
	}
}

// The checker is only as good as what it notices.
func TestTheDumpSeesEveryDifference(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		schema := `CREATE TABLE wide (shop_id INT NOT NULL, id INT NOT NULL, f FLOAT, d DOUBLE, n DECIMAL(30,10), c CHAR(5) CHARACTER SET latin1, v VARCHAR(9),
			b BINARY(4), l LONGBLOB, t TIMESTAMP(6) NULL, y YEAR, e ENUM('', 'b'), s SET('x', 'y'), bits BIT(9), j JSON, p POINT, hidden INT INVISIBLE,
			g INT AS (id + 1) STORED, PRIMARY KEY (shop_id, id));
			INSERT INTO wide (shop_id, id, f, d, n, c, v, b, l, t, y, e, s, bits, j, p, hidden) VALUES
			(7, 1, 1.1, 1.1, 1.1, 'é', '', x'00', REPEAT('x', 300), '2026-01-01 00:00:00.000001', 2026, '', '', b'1', '{}', ST_GeomFromText('POINT(1 1)'), 0),
			(8, 1, 1.1, 1.1, 1.1, 'é', '', x'00', REPEAT('x', 300), '2026-01-01 00:00:00.000001', 2026, '', '', b'1', '{}', ST_GeomFromText('POINT(1 1)'), 0)`
		w := newWorld(t, f, schema, nil)
		equal(t, "nothing was changed", w.shopDump(w.target), w.shopDump(w.source))
		before, rest := w.shopDump(w.source), w.restDump(w.source)
		for _, set := range []string{
			"f = 1.1000001", "d = 1.1000000000000003", "n = 1.1000000001", "c = 'e'", "c = NULL", "v = ' '", "v = NULL", "b = x'00000001'", "b = NULL",
			"l = CONCAT(REPEAT('x', 299), 'y')", "t = '2026-01-01 00:00:00.000002'", "y = 0", "e = 2", "e = NULL", "s = 1", "bits = 257", "j = '[]'",
			"p = ST_GeomFromText('POINT(1 2)')", "hidden = 1", "id = 2", "shop_id = 9",
		} {
			tx, err := w.source.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.ExecContext(t.Context(), `UPDATE wide SET `+set+` WHERE shop_id = 7`); err != nil {
				t.Fatalf("%s: %v", set, err)
			}
			after, err := dumpOf(t.Context(), tx, ofShop("shop_id", 7))
			if err != nil {
				t.Fatal(err)
			}
			if len(differences(after, before)) == 0 {
				t.Errorf("the dump doesn't show that %s", set)
			}
			others, err := dumpOf(t.Context(), tx, exceptShop("shop_id", 7))
			if err != nil {
				t.Fatal(err)
			}
			if d := differences(others, rest); set != "shop_id = 9" && len(d) > 0 {
				t.Errorf("%s: the other shops' dump changed: %v", set, d)
			}
			tx.Rollback()
		}
	})
}
