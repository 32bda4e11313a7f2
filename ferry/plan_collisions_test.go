package ferry_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// Keys that a row of shop 7 has on the source and one of shop 9 on the target.
var collisions = []struct {
	name, columns  string // of table odd, with the key; without it, UNIQUE KEY once (v)
	source, target string // values
	says           string // "" if they don't collide
	mariadb        bool   // MySQL has no such type
}{
	{name: "the same integer", columns: `v INT`, source: `-3`, target: `-3`, says: "(-3) of shop 9"},
	{name: "another integer in between", columns: `v INT`, source: `1`, target: `2`},
	{name: "the largest integer", columns: `v BIGINT UNSIGNED`, source: `18446744073709551615`, target: `18446744073709551615`, says: "(18446744073709551615) of shop 9"},
	{name: "nobody's row", columns: `v INT`, source: `4`, target: `4); UPDATE odd SET shop_id = NULL WHERE v IN (4`, says: "(4) of shop nobody"},
	{name: "NULL", columns: `v INT`, source: `NULL`, target: `NULL`},
	{name: "letters of another case", columns: `v VARCHAR(20) COLLATE utf8mb4_unicode_ci`, source: `'Émile'`, target: `'EMILE'`, says: "(EMILE) of shop 9"},
	{name: "letters of another case that differ", columns: `v VARCHAR(20) COLLATE utf8mb4_bin`, source: `'Émile'`, target: `'EMILE'`},
	{name: "trailing spaces that are nothing", columns: `v VARCHAR(20) COLLATE utf8mb4_unicode_ci`, source: `'a '`, target: `'a'`, says: "(a) of shop 9"},
	{name: "an empty text", columns: `v VARCHAR(20)`, source: `''`, target: `''`, says: "() of shop 9"},
	{name: "a quote and a backslash", columns: `v VARCHAR(20)`, source: `'it''s \\ so'`, target: `'it''s \\ so'`, says: `(it's \ so) of shop 9`},
	{name: "latin1", columns: `v VARCHAR(20) CHARACTER SET latin1`, source: `'é€'`, target: `'é€'`, says: "(é€) of shop 9"},
	{name: "two bytes each", columns: `v VARCHAR(20) CHARACTER SET ucs2`, source: `'né'`, target: `'né'`, says: "(né) of shop 9"},
	{name: "bytes", columns: `v VARBINARY(20)`, source: `x'00ff27'`, target: `x'00ff27'`, says: "(0x00FF27) of shop 9"},
	{name: "bytes, padded", columns: `v BINARY(4)`, source: `'a'`, target: `'a'`, says: "(0x61000000) of shop 9"},
	{name: "bits", columns: `v BIT(40)`, source: `b'1011'`, target: `b'1011'`, says: "(11) of shop 9"},
	{name: "a decimal", columns: `v DECIMAL(30,10)`, source: `-12345678901234567890.0123456789`, target: `-12345678901234567890.0123456789`, says: "(-12345678901234567890.0123456789) of shop 9"},
	{name: "a double", columns: `v DOUBLE`, source: `0.1 + 0.2`, target: `0.1 + 0.2`, says: "of shop 9"},
	{name: "a float", columns: `v FLOAT`, source: `16777.215`, target: `16777.215`, says: "of shop 9"},
	{name: "a date", columns: `v DATE`, source: `'2024-02-29'`, target: `'2024-02-29'`, says: "(2024-02-29) of shop 9"},
	{name: "a time to the microsecond", columns: `v DATETIME(6)`, source: `'2024-02-29 12:00:00.000001'`, target: `'2024-02-29 12:00:00.000001'`, says: "of shop 9"},
	{name: "a time of the clock", columns: `v TIMESTAMP(3) NULL`, source: `'2024-02-29 12:00:00.123'`, target: `'2024-02-29 12:00:00.123'`, says: "of shop 9"},
	{name: "a year", columns: `v YEAR`, source: `2024`, target: `2024`, says: "(2024) of shop 9"},
	{name: "an enum", columns: `v ENUM('z', 'a')`, source: `'z'), (7, 'a'`, target: `'a'`, says: "(a) of shop 9"},
	{name: "a set", columns: `v SET('z', 'a')`, source: `'z,a'`, target: `'a,z'`, says: "(z,a) of shop 9"},
	{name: "a UUID between others", columns: `v UUID`, mariadb: true, source: `'018f2c3d-0102-7304-8506-0708090a0b0c'), (7, '6ccd7800-baba-1026-9564-5b8c656024db'), (7, 'ffffffff-ffff-ffff-ffff-ffffffffffff'`,
		target: `'018F2C3D0102730485060708090A0B0C'`, says: "(018f2c3d-0102-7304-8506-0708090a0b0c) of shop 9"},
	{name: "an address", columns: `v INET6`, mariadb: true, source: `'::1.2.3.4'`, target: `'::102:304'`, says: "(::1.2.3.4) of shop 9"},
	{name: "two columns", columns: `v INT, w VARCHAR(9) COLLATE utf8mb4_unicode_ci, UNIQUE KEY once (v, w)`, source: `1, 'a'`, target: `1, 'A'`, says: "(unique key once: v, w), for example (1, A) of shop 9"},
	{name: "two columns, one the same", columns: `v INT, w INT, UNIQUE KEY once (v, w)`, source: `1, 2`, target: `1, 3), (9, 2, 2`},
	{name: "two columns, one NULL", columns: `v INT, w INT, UNIQUE KEY once (v, w)`, source: `1, NULL`, target: `1, NULL`},
	{name: "a generated column", columns: `v INT, g INT AS (v DIV 10) STORED, UNIQUE KEY once (g)`, source: `31, DEFAULT`, target: `39, DEFAULT`, says: "(unique key once: g), for example (3) of shop 9"},
	{name: "a key with the shop", columns: `v INT, UNIQUE KEY once (v, shop_id)`, source: `1`, target: `1`},
}

func TestKeysThatAnotherShopHasOnTheTargetAreFoundBeforeTheCopy(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		for _, c := range collisions {
			if c.mariadb && f != testcluster.MariaDB {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				w := w.in(t)
				columns := c.columns
				if !strings.Contains(columns, "KEY") {
					columns += `, UNIQUE KEY once (v)`
				}
				// Ids of the two shops lie apart.
				create := `DROP TABLE IF EXISTS odd; CREATE TABLE odd (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, shop_id INT, ` + columns + `, KEY (shop_id)) AUTO_INCREMENT=`
				w.script(w.source, create+`1; INSERT INTO odd VALUES `+row(7, c.source))
				w.script(w.target, create+`100; INSERT INTO odd VALUES `+row(9, c.target))
				plan := w.plan(2)
				if c.says != "" {
					w.found(plan, ferry.Refuse, "odd", "other shops' rows there have 1 of the shop's values (unique key once: ")
					w.found(plan, ferry.Refuse, "odd", c.says)
				} else if plan.Refused() {
					t.Errorf("want no collision, got the plan\n%v", plan)
				}
			})
		}
	})
}

// row writes rows of a shop, whose ids come of themselves.
func row(shop int, values string) string {
	values = strings.ReplaceAll(values, fmt.Sprintf("(%d, ", shop), fmt.Sprintf("(NULL, %d, ", shop))
	return fmt.Sprintf("(NULL, %d, %s)", shop, values)
}

func TestAllCollisionsAreCountedAndThreeShown(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE odd (id INT NOT NULL PRIMARY KEY, shop_id INT, v VARCHAR(20), KEY (shop_id), UNIQUE KEY part (v(4)))`, nil)
		w.fill(w.shop, 20)
		var a, b []string
		for i := range 1700 { // more than three lists
			a = append(a, fmt.Sprintf("(%d, 7, NULL)", 3*i))
			b = append(b, fmt.Sprintf("(%d, 9, NULL)", 2*i))
		}
		w.exec(w.source, `INSERT INTO odd VALUES `+strings.Join(a, ","))
		w.exec(w.target, `INSERT INTO odd VALUES `+strings.Join(b, ","))
		plan := w.plan(2)
		// Multiples of 6 below 3,400.
		found := w.found(plan, ferry.Refuse, "odd", "other shops' rows there have 567 of the shop's ids (unique key PRIMARY: id), for example (")
		if n := strings.Count(found.What, " of shop 9"); n != 3 || found.Pod != 2 {
			t.Errorf("got %d examples in pod %d, want 3 in pod 2: %s", n, found.Pod, found.What)
		}
		if !strings.Contains(found.Do, "give these rows other ids") {
			t.Errorf("got the advice %q", found.Do)
		}
		w.found(plan, ferry.Warn, "odd", "unique key part is on an expression or on parts of values")
	})
}
