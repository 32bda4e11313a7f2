package binlog_test

import (
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/testcluster"
)

// A sort of values is compared with what the server says in one way: as is what
// the server is asked for, and text what is made of the stream's value.
type sort struct {
	as   string
	text func(v any) (string, bool)
}

var (
	signed   = sort{`CONCAT(%s)`, func(v any) (string, bool) { n, ok := v.(int64); return fmt.Sprint(n), ok }}
	unsigned = sort{`CONCAT(%s)`, func(v any) (string, bool) { n, ok := v.(uint64); return fmt.Sprint(n), ok }}
	ordinal  = sort{`CONCAT(CAST(%s AS UNSIGNED))`, unsigned.text}
	plain    = sort{`CONCAT(%s)`, func(v any) (string, bool) { s, ok := v.(string); return s, ok }}
	text     = sort{`HEX(%s)`, func(v any) (string, bool) { s, ok := v.(string); return fmt.Sprintf("%X", s), ok }}
	binary   = sort{`HEX(%s)`, func(v any) (string, bool) { b, ok := v.([]byte); return fmt.Sprintf("%X", b), ok }}
	single   = sort{`CONCAT(%s * 1e0)`, func(v any) (string, bool) { n, ok := v.(float32); return fmt.Sprint(float64(n)), ok }}
	double   = sort{`CONCAT(%s)`, func(v any) (string, bool) { n, ok := v.(float64); return fmt.Sprint(n), ok }}
)

const sixtyFour = `'m0','m1','m2','m3','m4','m5','m6','m7','m8','m9','m10','m11','m12','m13','m14','m15','m16','m17','m18','m19','m20','m21',
	'm22','m23','m24','m25','m26','m27','m28','m29','m30','m31','m32','m33','m34','m35','m36','m37','m38','m39','m40','m41','m42','m43',
	'm44','m45','m46','m47','m48','m49','m50','m51','m52','m53','m54','m55','m56','m57','m58','m59','m60','m61','m62','m63'`

// A sample is a column with values that are easily damaged on the way.
type sample struct {
	definition string
	sort       sort
	values     []string
	family     testcluster.Family // "" is both
}

var samples = []sample{
	{"TINYINT", signed, []string{`-128`, `127`, `0`}, ""},
	{"TINYINT UNSIGNED", unsigned, []string{`0`, `200`, `255`}, ""},
	{"SMALLINT", signed, []string{`-32768`, `32767`}, ""},
	{"SMALLINT UNSIGNED", unsigned, []string{`65535`}, ""},
	{"MEDIUMINT", signed, []string{`-8388608`, `8388607`, `-1`}, ""},
	{"MEDIUMINT UNSIGNED", unsigned, []string{`16777215`, `8388608`}, ""},
	{"INT", signed, []string{`-2147483648`, `2147483647`}, ""},
	{"INT UNSIGNED", unsigned, []string{`4294967295`, `2147483648`}, ""},
	{"INT ZEROFILL", sort{`CONCAT(%s + 0)`, unsigned.text}, []string{`42`}, ""},
	{"BIGINT", signed, []string{`-9223372036854775808`, `9223372036854775807`}, ""},
	{"BIGINT UNSIGNED", unsigned, []string{`18446744073709551615`, `9223372036854775808`}, ""},
	{"BOOLEAN", signed, []string{`TRUE`, `FALSE`}, ""},
	{"DECIMAL(30,10)", plain, []string{`0`, `-0.0000000001`, `99999999999999999999.9999999999`, `12345678901234567890.5`}, ""},
	{"DECIMAL(5,0) UNSIGNED", plain, []string{`99999`}, ""},
	{"FLOAT", single, []string{`0`, `-0e0`, `3.402823e38`, `1.17549435e-38`, `0.1`, `16777217`}, ""},
	{"DOUBLE", double, []string{`-0e0`, `1.7976931348623157e308`, `2.2250738585072014e-308`, `0.1`, `123456789.123456789`}, ""},
	{"BIT(1)", ordinal, []string{`b'0'`, `b'1'`}, ""},
	{"BIT(12)", ordinal, []string{`b'101010101011'`}, ""},
	{"BIT(64)", ordinal, []string{`0`, `b'1000000000000000000000000000000000000000000000000000000000000001'`}, ""},
	{"ENUM('small', 'größer', 'a,b', 'it''s')", ordinal, []string{`'small'`, `'größer'`, `'a,b'`, `'it''s'`}, ""},
	{"ENUM('weiß', 'grün') CHARACTER SET latin1", ordinal, []string{`'grün'`}, ""},
	{"SET('a', 'b', 'ö')", ordinal, []string{`''`, `'a,ö'`, `'b'`}, ""},
	{"SET(" + sixtyFour + ")", ordinal, []string{`'m0'`, `'m63'`, `'m0,m31,m32,m63'`}, ""},
	{"DATE", plain, []string{`'0000-00-00'`, `'1000-01-01'`, `'9999-12-31'`, `'2024-02-29'`, `'2024-00-00'`}, ""},
	{"TIME", plain, []string{`'00:00:00'`, `'-838:59:59'`, `'838:59:59'`, `'-00:00:01'`}, ""},
	{"TIME(6)", plain, []string{`'00:00:00'`, `'-00:00:00.000001'`, `'23:59:59.999999'`, `'-837:59:59.500000'`, `'838:59:59'`}, ""},
	{"TIME(2)", plain, []string{`'-00:00:01.50'`, `'-01:00:00.99'`, `'-01:00:00'`}, ""},
	{"DATETIME", plain, []string{`'0000-00-00 00:00:00'`, `'9999-12-31 23:59:59'`, `'2024-03-31 02:30:00'`, `'2024-00-00 00:00:00'`}, ""},
	{"DATETIME(6)", plain, []string{`'2024-10-27 02:30:00.123456'`, `'2024-01-01 00:00:00.000001'`, `'2024-01-01 00:00:00'`, `'0000-00-00 00:00:00'`}, ""},
	{"DATETIME(1)", plain, []string{`'2024-10-27 02:30:00.9'`}, ""},
	{"TIMESTAMP NULL", plain, []string{`'0000-00-00 00:00:00'`, `'1970-01-01 00:00:01'`, `'2038-01-19 03:14:07'`, `'2024-10-27 02:30:00'`}, ""},
	{"TIMESTAMP(6) NULL", plain, []string{`'2024-10-27 02:30:00.123456'`, `'0000-00-00 00:00:00'`, `'2024-10-27 02:30:00'`}, ""},
	{"YEAR", sort{`CONCAT(%s + 0)`, signed.text}, []string{`0`, `1901`, `2155`, `2024`}, ""},
	{"CHAR(10)", text, []string{`''`, `'a'`, `'tail  '`, `'日本🎉'`}, ""},
	{"CHAR(100)", text, []string{`REPEAT('🎉', 100)`, `'a'`}, ""},
	{"VARCHAR(100)", text, []string{`''`, `'tail  '`, `'it''s "q" \\ %%_ \0 \n \Z ?'`, `'日本🎉'`, `'NULL'`}, ""},
	{"VARCHAR(1000)", text, []string{`'a'`, `REPEAT('é', 1000)`}, ""},
	{"VARCHAR(100) CHARACTER SET latin1", text, []string{`'Öl für 5 €'`, `''`}, ""},
	{"VARCHAR(100) CHARACTER SET utf8mb3", text, []string{`'日本'`}, ""},
	{"VARCHAR(100) CHARACTER SET ascii", text, []string{`'plain'`}, ""},
	{"VARCHAR(100) CHARACTER SET utf16", text, []string{`'日本🎉'`, `'ab'`}, ""},
	{"CHAR(20) CHARACTER SET gbk", text, []string{`'中文'`}, ""},
	{"VARCHAR(100) COLLATE utf8mb4_bin", text, []string{`'Case'`}, ""},
	{"TINYTEXT", text, []string{`''`, `'é'`}, ""},
	{"TEXT", text, []string{`REPEAT('lang é ', 5000)`}, ""},
	{"TEXT CHARACTER SET latin1", text, []string{`'naïve'`, `REPEAT('ÿ', 300)`}, ""},
	{"MEDIUMTEXT", text, []string{`REPEAT('x', 70000)`}, ""},
	{"LONGTEXT", text, []string{`'l'`}, ""},
	{"BINARY(8)", binary, []string{`x'00'`, `x'ff00ff0000'`, `x'0000000000000000'`, `'ab  '`}, ""},
	{"BINARY(16)", binary, []string{`x'00112233445566778899aabbccddee00'`}, ""},
	{"VARBINARY(300)", binary, []string{`''`, `x'00'`, `x'616200'`, `REPEAT(x'ff', 300)`}, ""},
	{"TINYBLOB", binary, []string{`x'00ff5c27'`}, ""},
	{"BLOB", binary, []string{`''`, `x'00ff5c2722'`, `REPEAT(x'e4', 60000)`}, ""},
	{"MEDIUMBLOB", binary, []string{`REPEAT(x'0102', 50000)`}, ""},
	{"LONGBLOB", binary, []string{`x'1a'`}, ""},
	{"JSON", text, []string{`'{"b": 1, "a": [1, 2.50]}'`, `'"it''s é 🎉"'`}, testcluster.MariaDB},
	{"POINT", binary, []string{`ST_GeomFromText('POINT(1.5 -2.25)')`, `ST_GeomFromText('POINT(0 0)', 0)`}, ""},
	{"GEOMETRY", binary, []string{`ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))')`}, ""},
	{"VECTOR(3)", binary, []string{`TO_VECTOR('[1,-0.1,3e38]')`, `TO_VECTOR('[0]')`}, testcluster.MySQL},
	{"UUID", plain, []string{`'6ccd780c-baba-1026-9564-5b8c656024db'`, `'018f2c3d-0102-7304-8506-0708090a0b0c'`, `'00112233-4455-6677-8899-aabbccddee00'`, `'00000000-0000-0000-0000-000000000000'`,
		`'6ccd7800-baba-1026-9564-5b8c656024db'`, `'ff000000-0000-4000-8000-000000000000'`, `'ffffffff-ffff-ffff-ffff-ffffffffffff'`}, testcluster.MariaDB},
	{"INET6", plain, []string{`'::1'`, `'fe80::'`, `'2001:db8::ff00:42:8329'`, `'::ffff:1.2.3.4'`, `'::'`, `'::1.2.3.4'`, `'::1:0'`, `'1:0:2:3:4:5:6:7'`,
		`'1:0:0:2:0:0:3:4'`, `'0:2:3:4:5:6:7:8'`, `'1:2:3:4:5:6:7:0'`, `'::ffff:1:2:3'`, `'1:2:3:4:5:6:7:8'`}, testcluster.MariaDB},
	{"TEXT UNIQUE", text, []string{`UUID()`}, testcluster.MariaDB}, // with a hidden column
	{"INET4", plain, []string{`'1.2.3.4'`, `'0.0.0.0'`, `'10.0.0.0'`}, testcluster.MariaDB},
}

func TestEveryTypeArrivesAsItIs(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		metadatas := []string{"default", "FULL"}
		if f == testcluster.MariaDB { // whose default is NO_LOG
			metadatas = append(metadatas, "MINIMAL")
		}
		for _, metadata := range metadatas {
			t.Run(metadata, func(t *testing.T) {
				t.Parallel()
				s := testcluster.Server(t, f)
				if metadata != "default" {
					s = testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: []string{"--binlog-row-metadata=" + metadata}})
				}
				w := newWorld(t, s)
				mine := slices.DeleteFunc(slices.Clone(samples), func(c sample) bool { return c.family != "" && c.family != f })
				definitions, asked, most := []string{}, []string{"id"}, 0
				for i, c := range mine {
					definitions = append(definitions, fmt.Sprintf("c%d %s", i, c.definition))
					asked = append(asked, fmt.Sprintf(c.sort.as, fmt.Sprintf("c%d", i)))
					most = max(most, len(c.values))
				}
				from := w.now()
				w.exec(`CREATE TABLE everything (id INT PRIMARY KEY, ` + strings.Join(definitions, ", ") + `)`)
				conn, err := w.db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				for _, set := range []string{`SET sql_mode = 'STRICT_ALL_TABLES'`, `SET time_zone = '+00:00'`} { // zero dates are allowed
					if _, err := conn.ExecContext(t.Context(), set); err != nil {
						t.Fatal(err)
					}
				}
				for n := range most + 1 {
					list := []string{fmt.Sprint(n)}
					for _, c := range mine {
						v := "NULL"
						if n > 0 {
							v = strings.ReplaceAll(c.values[(n-1)%len(c.values)], "%%", "%")
						}
						list = append(list, v)
					}
					if _, err := conn.ExecContext(t.Context(), `INSERT INTO everything VALUES (`+strings.Join(list, ", ")+`)`); err != nil {
						t.Fatal(err)
					}
				}
				// The same bytes as they are in the server, which converts none of them.
				want := map[int64][]sql.NullString{}
				r, err := conn.QueryContext(t.Context(), `SELECT `+strings.Join(asked, ", ")+` FROM everything`)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				for r.Next() {
					row, dest := make([]sql.NullString, len(asked)), make([]any, len(asked))
					for i := range row {
						dest[i] = &row[i]
					}
					if err := r.Scan(dest...); err != nil {
						t.Fatal(err)
					}
					id, _ := strconv.ParseInt(row[0].String, 10, 64)
					want[id] = row[1:]
				}
				if err := r.Err(); err != nil {
					t.Fatal(err)
				}

				tl := follow(t, w.stream(nil), from)
				tl.end(w)
				seen := 0
				for _, ev := range tl.soFar() {
					rows, ok := ev.(*binlog.Rows)
					if !ok || rows.Table.Name != "everything" {
						continue
					}
					for _, change := range rows.Changes {
						seen++
						id := change.After[0].(int64)
						for i, c := range mine {
							v, want := change.After[i+1], want[id][i]
							if !want.Valid {
								if v != nil {
									t.Errorf("%s: got %v, want NULL", c.definition, v)
								}
								continue
							}
							got, ok := c.sort.text(v)
							if ok && (c.sort.as == single.as || c.sort.as == double.as && strings.HasPrefix(c.definition, "DOUBLE")) {
								n, err := strconv.ParseFloat(want.String, 64)
								if err != nil {
									t.Fatal(err)
								}
								want.String = fmt.Sprint(n)
							}
							if !ok || got != want.String {
								t.Errorf("%s, row %d: got %T %.80v, in the server %.80s", c.definition, id, v, got, want.String)
							}
						}
						if columns := rows.Table.Columns; seen == 1 {
							checkColumns(t, w, columns)
							if !slices.Equal(rows.Table.Key, []int{0}) {
								t.Errorf("got key %v, want the first column", rows.Table.Key)
							}
						}
					}
				}
				if seen != most+1 {
					t.Errorf("got %d rows, want %d", seen, most+1)
				}
			})
		}
	})
}

// checkColumns compares columns with what the server says of them.
func checkColumns(t *testing.T, w *world, got []binlog.Column) {
	t.Helper()
	r, err := w.db.QueryContext(t.Context(), `SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, COALESCE(CHARACTER_SET_NAME, '')
		FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = 'everything' ORDER BY ORDINAL_POSITION`, w.name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := 0; r.Next(); i++ {
		var name, kind, full, charset string
		if err := r.Scan(&name, &kind, &full, &charset); err != nil {
			t.Fatal(err)
		}
		c := got[i]
		if c.Type == "geometry" { // the log doesn't tell points from others
			kind = c.Type
		}
		isUnsigned := strings.Contains(full, "unsigned")
		if c.Name != name || c.Type != kind || c.Unsigned != isUnsigned || c.Charset != charset {
			t.Errorf("got column %s, %s, unsigned %t, %q; want %s, %s, %t, %q", c.Name, c.Type, c.Unsigned, c.Charset, name, kind, isUnsigned, charset)
		}
		if strings.HasPrefix(full, "enum('small'") && !slices.Equal(c.Labels, []string{"small", "größer", "a,b", "it's"}) {
			t.Errorf("got labels %q", c.Labels)
		}
		if strings.HasPrefix(full, "set('m0'") && len(c.Labels) != 64 {
			t.Errorf("got %d labels, want 64", len(c.Labels))
		}
	}
}

// In MySQL's JSON a document is a tree and not a text. What the stream says
// must be the same document.
func TestJSONIsTheSameDocument(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE j (id INT PRIMARY KEY, j JSON)`)
		from := w.now()
		for i, doc := range []string{
			`{}`, `[]`, `null`, `true`, `"it's é 🎉 \\"q\\" \\n"`, `{"b": 1, "a": [1, 2.50, -0.1, 1e100, 18446744073709551615, null, {"x": {}}]}`,
			`42`, `52.0`, `52.13`, `""`, `-9223372036854775808`,
		} {
			if _, err := w.db.ExecContext(t.Context(), `INSERT INTO j VALUES (?, ?)`, i, doc); err != nil && !strings.Contains(doc, `\\`) {
				t.Fatal(err)
			}
		}
		tl := follow(t, w.stream(nil), from)
		tl.end(w)
		n := 0
		for _, ev := range tl.soFar() {
			rows, ok := ev.(*binlog.Rows)
			if !ok || rows.Table.Name != "j" {
				continue
			}
			for _, c := range rows.Changes {
				n++
				same := `SELECT j = ? FROM j WHERE id = ?`
				if f == testcluster.MySQL {
					same = `SELECT j = CAST(? AS JSON) FROM j WHERE id = ?`
				}
				var ok bool
				if err := w.db.QueryRowContext(t.Context(), same, c.After[1], c.After[0]).Scan(&ok); err != nil || !ok {
					t.Errorf("row %v: %s is not the document (%v)", c.After[0], c.After[1], err)
				}
			}
		}
		if n < 10 {
			t.Errorf("got %d documents", n)
		}
	})
}
