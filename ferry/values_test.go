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

// A kind is a column with values that are easily damaged on the way. The values
// are SQL. NULL comes by itself.
type kind struct {
	column string
	values []string
}

const sixtyFour = `'m0','m1','m2','m3','m4','m5','m6','m7','m8','m9','m10','m11','m12','m13','m14','m15','m16','m17','m18','m19','m20','m21',
	'm22','m23','m24','m25','m26','m27','m28','m29','m30','m31','m32','m33','m34','m35','m36','m37','m38','m39','m40','m41','m42','m43',
	'm44','m45','m46','m47','m48','m49','m50','m51','m52','m53','m54','m55','m56','m57','m58','m59','m60','m61','m62','m63'`

var kinds = []kind{
	{`TINYINT`, []string{`-128`, `127`}},
	{`TINYINT UNSIGNED`, []string{`0`, `200`, `255`}},
	{`SMALLINT`, []string{`-32768`, `32767`}},
	{`SMALLINT UNSIGNED`, []string{`65535`}},
	{`MEDIUMINT`, []string{`-8388608`, `8388607`, `-1`}},
	{`MEDIUMINT UNSIGNED`, []string{`16777215`, `8388608`}},
	{`INT`, []string{`-2147483648`, `2147483647`}},
	{`INT UNSIGNED`, []string{`4294967295`, `2147483648`}},
	{`INT(8) ZEROFILL`, []string{`42`}},
	{`BIGINT`, []string{`-9223372036854775808`, `9223372036854775807`}},
	{`BIGINT UNSIGNED`, []string{`18446744073709551615`, `9223372036854775808`}},
	{`BOOLEAN`, []string{`TRUE`, `FALSE`}},
	{`DECIMAL(30,10)`, []string{`0`, `-0.0000000001`, `99999999999999999999.9999999999`, `12345678901234567890.5`}},
	{`DECIMAL(5,0) UNSIGNED`, []string{`99999`}},
	{`FLOAT`, []string{`0`, `-0e0`, `3.402823e38`, `1.17549435e-38`, `0.1`, `16777217`, `1/3`}},
	{`FLOAT(10,3)`, []string{`1234567.891`}},
	{`DOUBLE`, []string{`-0e0`, `1.7976931348623157e308`, `2.2250738585072014e-308`, `0.1`, `1/3e0`, `123456789.123456789`}},
	{`BIT(1)`, []string{`b'0'`, `b'1'`}},
	{`BIT(12)`, []string{`b'101010101011'`}},
	{`BIT(64)`, []string{`0`, `~0`, `b'1000000000000000000000000000000000000000000000000000000000000001'`}},
	{`ENUM('small', 'large', 'größer', 'a,b', 'it''s')`, []string{`'small'`, `'größer'`, `'a,b'`, `'it''s'`}},
	{`ENUM('weiß', 'grün') CHARACTER SET latin1`, []string{`'grün'`}},
	{`ENUM('', '0', '1', ' x', 'NULL', '\\N', 'a\\', 'b\tc', 'd\ne', '日本🎉')`, []string{`''`, `'0'`, `'1'`, `' x'`, `'NULL'`, `'\\N'`, `'a\\'`, `'b\tc'`, `'d\ne'`, `'日本🎉'`}},
	{`SET('\\N', 'a\tb', '\\')`, []string{`'\\N'`, `'a\tb,\\'`, `''`}},
	{`SET('a', 'b', 'ö')`, []string{`''`, `'a,ö'`, `'b'`}},
	{`SET(` + sixtyFour + `)`, []string{`'m0'`, `'m63'`, `'m0,m31,m32,m63'`}},
	{`DATE`, []string{`'0000-00-00'`, `'1000-01-01'`, `'9999-12-31'`, `'2024-02-29'`, `'2024-00-00'`}},
	{`TIME`, []string{`'00:00:00'`, `'-838:59:59'`, `'838:59:59'`, `'-00:00:01'`}},
	{`TIME(6)`, []string{`'-00:00:00.000001'`, `'23:59:59.999999'`, `'-837:59:59.500000'`}},
	{`TIME(2)`, []string{`'-00:00:01.50'`, `'-01:00:00.99'`}},
	{`DATETIME`, []string{`'0000-00-00 00:00:00'`, `'9999-12-31 23:59:59'`, `'2024-03-31 02:30:00'`}},
	{`DATETIME(6)`, []string{`'2024-10-27 02:30:00.123456'`, `'2024-01-01 00:00:00.000001'`}},
	{`DATETIME(1)`, []string{`'2024-10-27 02:30:00.9'`}},
	{`TIMESTAMP NULL`, []string{`'0000-00-00 00:00:00'`, `'1970-01-01 00:00:01'`, `'2038-01-19 03:14:07'`}},
	{`TIMESTAMP(6) NULL`, []string{`'2024-10-27 02:30:00.123456'`, `'0000-00-00 00:00:00'`}},
	{`YEAR`, []string{`0`, `1901`, `2155`, `2024`}},
	{`CHAR(10)`, []string{`''`, `'a'`, `'tail  '`, `'日本🎉'`, `'\\'`, `'\t'`}},
	{`VARCHAR(100)`, []string{`''`, `'tail  '`, `'it''s "q" \\ %_ \0 \n \Z ?'`, `'日本🎉'`, `'NULL'`, `'\\N'`, `'\\'`, `'\t\n\r\n\0\b\Z'`, `'\\t\\0'`, `REPEAT('🎉', 100)`}},
	{`VARCHAR(100) CHARACTER SET latin1`, []string{`'Öl für 5 €'`, `''`}},
	{`VARCHAR(100) CHARACTER SET utf8mb3`, []string{`'日本'`}},
	{`VARCHAR(100) CHARACTER SET ascii`, []string{`'plain'`}},
	{`VARCHAR(100) CHARACTER SET utf16`, []string{`'日本🎉'`, `'ab'`, `x'5c4e'`, `x'5c0a5c00095c000a005c'`}}, // the first of these is \N
	{`VARCHAR(100) CHARACTER SET utf32`, []string{`'日本🎉'`, `x'00005c4e0000090a'`}},
	{`VARCHAR(100) CHARACTER SET ucs2`, []string{`'日本'`, `x'5c4e'`, `x'4e5c'`}},
	{`CHAR(20) CHARACTER SET gbk`, []string{`'中文'`, `x'd55c'`, `x'd55c4e'`}}, // a letter's second byte is a backslash
	{`VARCHAR(20) CHARACTER SET big5`, []string{`x'a55c'`, `x'a55c6e'`}},
	{`VARCHAR(20) CHARACTER SET sjis`, []string{`x'835c'`, `x'b1'`, `x'5c'`}},
	{`VARCHAR(100) COLLATE utf8mb4_bin`, []string{`'Case'`}},
	{`TINYTEXT`, []string{`''`, `'é'`, `REPEAT('\\', 255)`}},
	{`TEXT`, []string{`REPEAT('lang é ', 5000)`, `REPEAT('x', 65535)`, `'\n'`}},
	{`TEXT CHARACTER SET latin1`, []string{`'naïve'`, `REPEAT('ÿ', 300)`}},
	{`MEDIUMTEXT`, []string{`REPEAT('x', 70000)`}},
	{`LONGTEXT`, []string{`'l'`}},
	{`BINARY(8)`, []string{`x'00'`, `x'ff00ff0000'`, `x'0000000000000000'`, `'ab  '`}},
	{`VARBINARY(300)`, []string{`''`, `x'00'`, `x'5c'`, `x'5c4e'`, `x'090a0d1a5c6e'`, `x'616200'`, `REPEAT(x'ff', 300)`}},
	{`TINYBLOB`, []string{`x'00ff5c27'`}},
	{`BLOB`, []string{`''`, `x'00ff5c2722'`, `REPEAT(x'e4', 60000)`}},
	{`MEDIUMBLOB`, []string{`REPEAT(x'0102', 50000)`}},
	{`LONGBLOB`, []string{`x'1a'`}},
	{`JSON`, []string{
		`'{}'`, `'[]'`, `'null'`, `'true'`, `'"it''s é 🎉 \\"q\\" \\n"'`, `'{"b": 1, "a": [1, 2.50, -0.1, 1e100, 18446744073709551615, null, {"x": {}}]}'`,
		`'42'`, `'52.0'`, `'52.13'`, `'""'`, `'"\\\\N \\t \\u0000"'`,
	}},
	{`POINT`, []string{`ST_GeomFromText('POINT(1.5 -2.25)')`, `ST_GeomFromText('POINT(0 0)', 0)`}},
	{`GEOMETRY`, []string{`ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))')`, `ST_GeomFromText('POINT(10 20)', 4326)`}},
	{`LINESTRING`, []string{`ST_GeomFromText('LINESTRING(0 0,1 1)')`}},
	{`POLYGON`, []string{`ST_GeomFromText('POLYGON((0 0,9 0,9 9,0 0),(2 1,3 1,3 2,2 1))')`}},
	{`MULTIPOINT`, []string{`ST_GeomFromText('MULTIPOINT(0 0,1 1)')`}},
	{`MULTILINESTRING`, []string{`ST_GeomFromText('MULTILINESTRING((0 0,1 1),(2 2,3 3))')`}},
	{`MULTIPOLYGON`, []string{`ST_GeomFromText('MULTIPOLYGON(((0 0,1 0,1 1,0 0)))')`}},
	{`GEOMETRYCOLLECTION`, []string{`ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))')`, `ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')`}},
	{`DOUBLE UNSIGNED`, []string{`0.1`}},
	{`FLOAT(7,4)`, []string{`999.9999`, `-0.0001`}},
	{`NATIONAL CHAR(10)`, []string{`'日本'`}},
}

// ofFamily are the kinds that one family has.
var ofFamily = map[testcluster.Family][]kind{
	testcluster.MariaDB: {
		{`UUID`, []string{`'6ccd7800-baba-1026-9564-5b8c656024db'`, `'018F2C3D0102730485060708090A0B00'`, `'00000000-0000-0000-0000-000000000000'`}},
		{`INET4`, []string{`'0.0.0.0'`, `'255.255.255.255'`, `'10.2.0.0'`}},
		{`INET6`, []string{`'::'`, `'::1.2.3.4'`, `'::ffff:1.2.3.4'`, `'1:0:2:3:4:5:6:7'`, `'fe80::'`}},
	},
	testcluster.MySQL: {
		{`VECTOR(3)`, []string{`TO_VECTOR('[1,-0.1,3e38]')`, `TO_VECTOR('[0]')`}},
		{`VECTOR`, []string{`TO_VECTOR(CONCAT('[', REPEAT('0.25,', 2047), '1]'))`, `x'27225c00'`}},
		{`POINT SRID 4326`, []string{`ST_GeomFromText('POINT(10 20)', 4326)`}},
	},
}

// kindsOf are a family's kinds.
func kindsOf(f testcluster.Family) []kind { return slices.Concat(kinds, ofFamily[f]) }

// everything returns the statements that create a table with those kinds, and
// those that fill in rows with ids from first up. Between them, the rows have
// each value at least once, and each column is NULL in the first of them.
func everything(f testcluster.Family, kinds []kind) (create string, insert func(shop, first int) []string) {
	var b strings.Builder
	b.WriteString(`CREATE TABLE everything (shop_id INT UNSIGNED NOT NULL, id MEDIUMINT NOT NULL`)
	most := 0
	for i, k := range kinds {
		fmt.Fprintf(&b, ", c%d %s", i, k.column)
		most = max(most, len(k.values))
	}
	b.WriteString(`, hidden INT INVISIBLE, plus1 INT AS (id + 1) STORED, plus2 INT AS (id + 2) VIRTUAL, last INT NOT NULL, PRIMARY KEY (shop_id, id)`)
	if f == testcluster.MySQL {
		text := slices.IndexFunc(kinds, func(k kind) bool { return k.column == `CHAR(10)` })
		fmt.Fprintf(&b, `, KEY ((UPPER(c%d)))`, text) // which is a column that can't be seen
	}
	b.WriteString(`)`)
	return b.String(), func(shop, first int) (stmts []string) {
		for n := range most + 1 {
			var s strings.Builder
			fmt.Fprintf(&s, "INSERT INTO everything (shop_id, id, hidden, last")
			for i := range kinds {
				fmt.Fprintf(&s, ", c%d", i)
			}
			fmt.Fprintf(&s, ") VALUES (%d, %d, %d, %d", shop, first+n, n, n)
			for _, k := range kinds {
				if n == 0 {
					s.WriteString(", NULL")
					continue
				}
				s.WriteString(", " + k.values[(n-1)%len(k.values)])
			}
			s.WriteString(")")
			stmts = append(stmts, s.String())
		}
		return stmts
	}
}

// stored returns each row's values as the server keeps them, in a connection
// that converts no text.
func stored(ctx context.Context, db *sql.DB, kinds []kind, shop int) (ledger, error) {
	list := []string{"id", "hidden", "plus1", "plus2", "last"}
	for i, k := range kinds {
		name := fmt.Sprintf("c%d", i)
		switch word, _, _ := strings.Cut(k.column, " "); {
		case strings.HasPrefix(word, "FLOAT"), word == "DOUBLE":
			name = `CONCAT(` + name + ` * 1e0)` // as text a float is shorter than it is
		case strings.HasPrefix(word, "BIT"):
			name = `BIN(` + name + `)`
		case strings.HasPrefix(word, "VECTOR"): // which can't be an argument of CONCAT
			name = `HEX(` + name + `)`
		default:
			name = `HEX(CONCAT(` + name + `))`
		}
		list = append(list, name)
	}
	r, err := db.QueryContext(ctx, `SELECT `+strings.Join(list, ", ")+` FROM everything WHERE shop_id = ?`, shop)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := ledger{}
	for r.Next() {
		vals := make([]sql.NullString, len(list))
		dest := make([]any, len(list))
		for i := range vals {
			dest[i] = &vals[i]
		}
		if err := r.Scan(dest...); err != nil {
			return nil, err
		}
		for i, v := range vals {
			column := list[i]
			if i >= 5 {
				column = kinds[i-5].column
			}
			out[fmt.Sprintf("row %s, %s", vals[0].String, column)] = fmt.Sprint(v)
		}
	}
	return out, r.Err()
}

func TestEveryCommonTypeArrivesAsItWas(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		moveValues(t, testcluster.Shared(t, f, "target"), kindsOf(f))
	})
}

// moveValues moves a shop with rows of those kinds, of which some are copied, some
// come from the log, and some from both.
func moveValues(t *testing.T, target *testcluster.MySQLServer, kinds []kind) {
	f := target.Family()
	create, inserts := everything(f, kinds)
	w := newWorldOn(t, testcluster.Shared(t, f, "source"), target, create, nil)
	db := w.open(1, "sql_mode", "'STRICT_ALL_TABLES'") // zero dates are allowed
	insert := func(first int) {
		for _, stmt := range inserts(7, first) {
			w.exec(db, stmt)
		}
	}
	change := func(first int) {
		w.exec(db, `UPDATE everything SET last = last + 100 WHERE shop_id = 7 AND id >= ?`, first)
	}
	const chunk, kept, applied, late = 1, 101, 201, 301
	insert(chunk)
	var sourceRows ledger
	tr := &trail{at: map[string]func(){
		"copy": func() { // the log has these rows, and the copy finds them
			insert(kept)
			change(kept)
		},
		"verify": func() { // these only the log has
			insert(applied)
			change(applied)
		},
		"cutover": func() {
			insert(late)
			w.exec(db, `DELETE FROM everything WHERE shop_id = 7 AND id = ?`, applied)
			var err error
			if sourceRows, err = stored(t.Context(), w.source, kinds, 7); err != nil {
				t.Fatal(err)
			}
		},
	}}
	report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *report)
	got, err := stored(t.Context(), w.target, kinds, 7)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, sourceRows)
	if report.RowsRepaired != 0 {
		t.Errorf("%d rows had to be repaired; the copy and the log should leave none", report.RowsRepaired)
	}
	// Each value is what was put in, and not something that both sides damaged.
	if got, want := got["row 2, BIGINT UNSIGNED"], fmt.Sprint(sql.NullString{String: fmt.Sprintf("%X", "18446744073709551615"), Valid: true}); got != want {
		t.Errorf("got %s in BIGINT UNSIGNED, want %s", got, want)
	}
}

// Each row differs in one column, by NULL or by another value; one more is gone
// from the target, and one there that the source doesn't have.
func damageEveryColumn(t *testing.T, f testcluster.Family, off map[hook.Protection]bool) (w *world, report *ferry.Report, damaged int64) {
	kinds := kindsOf(f)
	create, inserts := everything(f, kinds)
	w = newWorld(t, f, create, nil)
	db, target := w.open(1, "sql_mode", "'STRICT_ALL_TABLES'"), w.open(2, "sql_mode", "'STRICT_ALL_TABLES'") // zero dates are allowed
	stmt := inserts(7, 0)[1]                                                                                 // without a NULL
	head, values, _ := strings.Cut(stmt, "VALUES (7, 1, ")
	var damages []string
	for i, k := range kinds {
		w.exec(db, fmt.Sprintf(`%sVALUES (7, %d, %s`, head, i, values))
		other := `NULL`
		if n := len(k.values); n > 1 {
			other = k.values[n-1]
		}
		damages = append(damages, fmt.Sprintf(`UPDATE everything SET c%d = %s WHERE id = %d`, i, other, i))
	}
	w.exec(db, fmt.Sprintf(`%sVALUES (7, 1000, %s`, head, values))
	w.exec(db, fmt.Sprintf(`%sVALUES (7, 1001, %s`, head, values))
	damages = append(damages, `UPDATE everything SET hidden = hidden + 1 WHERE id = 1000`, `DELETE FROM everything WHERE id = 1001`,
		fmt.Sprintf(`%sVALUES (7, 1002, %s`, head, values))
	off = maps.Clone(off)
	if off == nil {
		off = map[hook.Protection]bool{}
	}
	off[hook.Overlap] = true // nothing is compared before the damage is done
	ctx := hook.With(t.Context(), &hook.Set{Off: off, Step: func(step string) {
		if step != "verify" {
			return
		}
		for _, stmt := range damages {
			res, err := target.ExecContext(t.Context(), stmt)
			if err != nil {
				t.Fatalf("%s: %v", stmt, err)
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 {
				t.Fatalf("%s: %d rows, %v", stmt, n, err)
			}
		}
	}})
	report, err := w.ferry.Move(ctx, w.shop, 2)
	if err != nil {
		t.Fatal(err)
	}
	return w, report, int64(len(damages))
}

func TestTheComparisonSeesEveryColumn(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, report, damaged := damageEveryColumn(t, f, nil)
		if report.RowsRepaired != damaged {
			t.Errorf("got %d rows repaired, want all %d that were damaged", report.RowsRepaired, damaged)
		}
		differences := []string{
			"table everything where `id` = 1000: differs in hidden",
			"table everything where `id` = 1001: missing",
			"table everything where `id` = 1002: extra",
		}
		for i := range kindsOf(f) {
			differences = append(differences, fmt.Sprintf("table everything where `id` = %d: differs in c%d", i, i))
		}
		checkDifferences(t, report.Evidence.Repaired, differences)
		got, err := stored(t.Context(), w.target, kindsOf(f), 7)
		if err != nil {
			t.Fatal(err)
		}
		want, err := stored(t.Context(), w.source, kindsOf(f), 7)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, got, want)
	})
}

// The twin of the test above.
func TestWithoutTheComparisonEveryDamagedColumnStays(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, report, damaged := damageEveryColumn(t, f, map[hook.Protection]bool{hook.Compare: true})
		got, err := stored(t.Context(), w.target, kindsOf(f), 7)
		if err != nil {
			t.Fatal(err)
		}
		want, err := stored(t.Context(), w.source, kindsOf(f), 7)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]bool{}
		for _, side := range []ledger{got, want} {
			for at := range side {
				if got[at] != want[at] {
					row, _, _ := strings.Cut(at, ",")
					rows[row] = true
				}
			}
		}
		if differ := int64(len(rows)); differ != damaged || report.RowsRepaired != 0 {
			t.Errorf("%d rows differ and %d rows were repaired, want %d and 0", differ, report.RowsRepaired, damaged)
		}
	})
}
