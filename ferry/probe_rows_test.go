package ferry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// rowProbes are the cases in which movers of this kind were measured to lose rows,
// to leave wrong ones or to end with the shop locked. Each has a table or more and
// what happens to them: before the move, while rows are copied, on the target before
// the comparison, and after it. All are made in one move that must succeed.
var rowProbes = []struct {
	name                                  string
	schema                                string
	before, copying, damage, late, verify string
	tables                                []string // with their rows of the shop, which must be alike
	repaired                              int64
}{
	{
		name:   "M1 ids of zero and below",
		schema: `CREATE TABLE m1 (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, v INT, KEY (shop_id))`,
		before: `INSERT INTO m1 VALUES (0, 7, 1), (-5, 7, 1), (5, 7, 1), (-2147483648, 7, 1)`,
		late:   `UPDATE m1 SET v = 2 WHERE id = 0; UPDATE m1 SET id = -6 WHERE id = -5`, tables: []string{"m1"},
	},
	{
		name: "M2 another value in a row with a key of bytes",
		schema: `CREATE TABLE m2a (id BINARY(16) NOT NULL PRIMARY KEY, shop_id INT NOT NULL, v INT, KEY (shop_id));
			CREATE TABLE m2b (shop_id INT NOT NULL, id VARCHAR(36) COLLATE utf8mb4_bin NOT NULL, v INT, PRIMARY KEY (shop_id, id))`,
		before:   `INSERT INTO m2a VALUES (x'ff00', 7, 1), (x'02', 8, 1), (x'01', 7, 1); INSERT INTO m2b VALUES (7, 'x', 1), (7, 'X', 1)`,
		damage:   `UPDATE m2a SET v = 2 WHERE id = x'01000000000000000000000000000000'; UPDATE m2b SET v = 2 WHERE id = 'X'`,
		repaired: 2, tables: []string{"m2a", "m2b"},
	},
	{
		name:    "M11 rows that enter and leave the shop",
		schema:  `CREATE TABLE m11 (id INT NOT NULL PRIMARY KEY, shop_id INT NULL, v INT, KEY (shop_id))`,
		before:  `INSERT INTO m11 VALUES (1, 7, 1), (2, 8, 1), (3, NULL, 1), (4, 7, 1), (5, 7, 1), (6, 8, 1)`,
		copying: `UPDATE m11 SET shop_id = 8 WHERE id = 1; UPDATE m11 SET shop_id = 7 WHERE id IN (2, 3); UPDATE m11 SET shop_id = NULL WHERE id = 4`,
		late:    `UPDATE m11 SET shop_id = 8 WHERE id = 5; UPDATE m11 SET shop_id = 7, id = 60 WHERE id = 6`, tables: []string{"m11"},
	},
	{
		name:    "M13 text that isn't UTF-8",
		schema:  `CREATE TABLE m13 (shop_id INT NOT NULL, id INT NOT NULL, a VARCHAR(20) CHARACTER SET latin1, b TEXT CHARACTER SET gbk, c CHAR(9) CHARACTER SET ucs2, d VARCHAR(9) CHARACTER SET utf8mb3, PRIMARY KEY (shop_id, id))`,
		before:  `INSERT INTO m13 VALUES (7, 1, 'é €', '中文', 'Ā', '日本'), (7, 2, CONVERT(x'8190' USING latin1), '', '', '')`,
		copying: `INSERT INTO m13 VALUES (7, 3, 'é', '中文', 'Ā', 'é')`,
		late:    `UPDATE m13 SET a = 'Öl', b = '中' WHERE shop_id = 7`, tables: []string{"m13"},
	},
	{
		name:   "M14 a column that SELECT * doesn't show",
		schema: `CREATE TABLE m14 (shop_id INT NOT NULL, id INT NOT NULL, hidden INT NOT NULL DEFAULT 0 INVISIBLE, v INT, PRIMARY KEY (shop_id, id))`,
		before: `INSERT INTO m14 (shop_id, id, hidden, v) VALUES (7, 1, 10, 1), (7, 2, 20, 1)`,
		damage: `UPDATE m14 SET hidden = 11 WHERE id = 1`, repaired: 1,
		late: `UPDATE m14 SET hidden = 21 WHERE id = 2`, tables: []string{"m14"}, verify: `shop_id, id, hidden, v`,
	},
	{
		name:   "M15 keys whose order is not that of their bytes",
		schema: `CREATE TABLE m15 (shop_id INT NOT NULL, id VARCHAR(20) COLLATE utf8mb4_bin NOT NULL, PRIMARY KEY (shop_id, id)); CREATE TABLE m15b (shop_id INT NOT NULL, id VARCHAR(20) COLLATE utf8mb4_unicode_ci NOT NULL, PRIMARY KEY (shop_id, id))`,
		before: `INSERT INTO m15 VALUES (7, CONCAT('a', CHAR(1))), (7, 'a'), (7, 'a!'), (7, 'B'), (7, '🎉'); INSERT INTO m15b VALUES (7, 'z'), (7, 'Ä'), (7, 'b'), (7, 'C'), (7, 'ß'), (7, 'st')`,
		late:   `DELETE FROM m15b WHERE id = 'B'; UPDATE m15b SET id = 'SS' WHERE id = 'ß'`, tables: []string{"m15", "m15b"},
	},
	{
		name:   "M16 an empty key",
		schema: `CREATE TABLE m16 (shop_id INT NOT NULL, id VARCHAR(20) NOT NULL, v INT, PRIMARY KEY (shop_id, id)); CREATE TABLE m16b (id VARBINARY(20) NOT NULL PRIMARY KEY, shop_id INT NOT NULL, v INT, KEY (shop_id))`,
		before: `INSERT INTO m16 VALUES (7, '', 1), (7, 'a', 1), (8, '', 1); INSERT INTO m16b VALUES ('', 7, 1), ('a', 7, 1)`,
		late:   `UPDATE m16 SET v = 2 WHERE id = ''; UPDATE m16b SET v = 2 WHERE id = ''`, tables: []string{"m16", "m16b"},
	},
	{
		name: "M19 a view, a table without a key, a key of several columns",
		schema: `CREATE TABLE m19 (a VARCHAR(10) NOT NULL, shop_id INT NOT NULL, b DECIMAL(5,2) NOT NULL, c DATE NOT NULL, v INT, PRIMARY KEY (a, b, c), KEY (shop_id));
			CREATE TABLE m19b (shop_id INT NOT NULL, line VARCHAR(20), KEY (shop_id)); CREATE VIEW m19c AS SELECT * FROM m19`,
		before:  `INSERT INTO m19 VALUES ('a', 7, 1.5, '2024-01-01', 1), ('a', 7, 1.5, '2024-01-02', 1), ('A!', 7, 1.5, '2024-01-02', 1), ('a', 7, -1, '2024-01-02', 1), ('b', 8, 0, '2024-01-02', 1); INSERT INTO m19b VALUES (7, 'x'), (7, 'x'), (7, NULL)`,
		copying: `UPDATE m19 SET a = 'zz', b = 9 WHERE c = '2024-01-01'; INSERT INTO m19b VALUES (7, 'y')`,
		damage:  `UPDATE m19 SET v = 5 WHERE b = -1`, repaired: 1,
		late: `DELETE FROM m19 WHERE a = 'A!'; DELETE FROM m19b WHERE line = 'x' LIMIT 1`, tables: []string{"m19", "m19b", "m19c"},
	},
	{
		name:   "M21 generated columns",
		schema: `CREATE TABLE m21 (shop_id INT NOT NULL, id INT NOT NULL, s INT AS (id * 2) STORED, v INT AS (id * 3) VIRTUAL, PRIMARY KEY (shop_id, id), UNIQUE KEY (shop_id, s))`,
		before: `INSERT INTO m21 (shop_id, id) VALUES (7, 1), (7, 2)`,
		late:   `UPDATE m21 SET id = 3 WHERE id = 2`, tables: []string{"m21"},
	},
}

func TestProbesAboutRowsInOneMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var schema strings.Builder
		var repaired int64
		for _, p := range rowProbes {
			schema.WriteString(p.schema + `;`)
			repaired += p.repaired
		}
		w := newWorld(t, f, schema.String(), &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 1})
		for _, p := range rowProbes {
			w.script(w.source, p.before)
		}
		tr := &trail{at: map[string]func(){
			"copy": func() {
				for _, p := range rowProbes {
					w.script(w.source, p.copying)
				}
			},
			"verify": func() {
				for _, p := range rowProbes {
					w.script(w.target, p.damage)
				}
			},
			"cutover": func() {
				for _, p := range rowProbes {
					w.script(w.source, p.late)
				}
			},
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != repaired {
			t.Errorf("got %d rows repaired, want %d", report.RowsRepaired, repaired)
		}
		for _, p := range rowProbes {
			t.Run(p.name, func(t *testing.T) {
				w := w.in(t)
				columns := p.verify
				if columns == "" {
					columns = "*"
				}
				for _, table := range p.tables {
					w.alike(table, columns, `shop_id = 7`)
					if n := w.count(w.target, `SELECT COUNT(*) FROM `+table+` WHERE shop_id <> 7 OR shop_id IS NULL`); n != 0 {
						t.Errorf("table %s: %d rows of others came along", table, n)
					}
				}
			})
		}
	})
}

// M4: while the copy is between them, a row's key goes from before it to behind
// it, and another's the other way.
func TestProbeM4KeysThatPassTheCopyOnItsWay(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7})
		w.fill(w.shop, 400)
		goOn := w.stop(200)
		tr := &trail{at: map[string]func(){"copy": func() {
			go func() {
				defer goOn()
				w.awaitCopy(190)
				w.exec(w.source, `UPDATE products SET id = -100 WHERE shop_id = 7 AND id = 390`)
				w.exec(w.source, `UPDATE products SET id = 1000 WHERE shop_id = 7 AND id = 10`)
				w.exec(w.source, `UPDATE products SET id = id + 2000 WHERE shop_id = 7 AND id IN (5, 300)`)
				w.exec(w.source, `UPDATE products SET id = 305 - (id - 2000) WHERE shop_id = 7 AND id IN (2005, 2300)`)
			}()
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

// M5: two rows, one copied and one not, exchange what is unique.
func TestProbeM5RowsExchangeAUniqueValueAroundTheCopy(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7})
		for id := range 50 {
			w.exec(w.source, `INSERT INTO orders VALUES (7, ?, ?, NULL)`, id, fmt.Sprintf("token %d", id))
		}
		block, err := w.target.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer block.Rollback()
		if _, err := block.ExecContext(t.Context(), `INSERT INTO orders VALUES (7, 30, 'in the way', NULL)`); err != nil {
			t.Fatal(err)
		}
		tr := &trail{at: map[string]func(){"copy": func() {
			go func() {
				defer block.Rollback()
				until(t, "the first orders to be copied", func() bool { return w.count(w.target, `SELECT COUNT(*) FROM orders`) >= 21 })
				for _, pair := range [][2]int{{5, 40}, {20, 22}, {1, 2}, {41, 42}} {
					w.script(w.source, strings.NewReplacer("{a}", fmt.Sprint(pair[0]), "{b}", fmt.Sprint(pair[1])).Replace(
						`UPDATE orders SET token = 'none' WHERE shop_id = 7 AND id = {a}; UPDATE orders SET token = 'token {a}' WHERE shop_id = 7 AND id = {b};
						UPDATE orders SET token = 'token {b}' WHERE shop_id = 7 AND id = {a}`))
				}
			}()
		}}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		w.same("orders")
	})
}

// M10: the shops' names in the column are text, and rows change while they are
// copied. TestAShopIsKnownByANumberATextOrBytes has the other types.
func TestProbeM10TheShopsColumnIsText(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE m10 (shop VARCHAR(20) NOT NULL, id INT NOT NULL, v INT NOT NULL, PRIMARY KEY (shop, id))`,
			&ferry.Options{Ignore: ignored, Column: "shop", Tenant: func(context.Context, podworks.ShopID) (any, error) { return "acme", nil }})
		w.exec(w.source, `INSERT INTO m10 VALUES ('acme', 1, 1), ('ACME', 2, 1), ('bolt', 1, 1)`)
		tr := &trail{at: map[string]func(){"verify": func() { w.exec(w.source, `UPDATE m10 SET v = v + 1`) }}}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.alike(`m10`, `*`, `shop = 'acme'`)
		if n := w.count(w.target, `SELECT COUNT(*) FROM m10 WHERE v = 2`); n != 2 {
			t.Errorf("got %d rows as they were changed, want 2", n)
		}
	})
}
