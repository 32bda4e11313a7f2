package ferry_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// Lines are a sale's, extras a line's, notes may be about a sale, and a branch hangs
// on another. By name children come before their parents.
const saleTables = `
CREATE TABLE sales (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, v INT NOT NULL, KEY (shop_id));
CREATE TABLE line_items (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, sale INT NULL, sku VARCHAR(20) NOT NULL, KEY (shop_id), UNIQUE KEY (shop_id, sku),
	FOREIGN KEY (sale) REFERENCES sales (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE extras (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, line INT NOT NULL, v INT NOT NULL, KEY (shop_id), UNIQUE KEY (line, v),
	FOREIGN KEY (line) REFERENCES line_items (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE notes (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, sale INT NULL, line INT NULL, KEY (shop_id),
	FOREIGN KEY (sale) REFERENCES sales (id) ON DELETE SET NULL ON UPDATE SET NULL,
	FOREIGN KEY (line) REFERENCES line_items (id) ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE branches (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, parent INT NULL, KEY (shop_id),
	FOREIGN KEY (parent) REFERENCES branches (id) ON DELETE CASCADE);`

var saleNames = []string{"sales", "line_items", "extras", "notes", "branches"}

// Each is what happens to a sale of the shop, {a}, one of another shop, {b}, and an id
// that is free, {c}. What belongs to a sale has its number or the next.
var saleStories = []string{
	`DELETE FROM sales WHERE id IN ({a}, {b})`,
	`UPDATE sales SET id = {c} WHERE id = {a}`,
	`UPDATE line_items SET id = {c} WHERE id = {a}`,
	`DELETE FROM line_items WHERE id = {a}`,
	`UPDATE sales SET id = {c}, v = 9 WHERE id = {a}; DELETE FROM sales WHERE id = {c}`,
	`UPDATE sales SET v = v + 1 WHERE id IN ({a}, {b})`,
	`BEGIN; UPDATE line_items SET sku = 'x{a}' WHERE id = {a}; DELETE FROM sales WHERE id = {a}; COMMIT`,
	// The same rows come again, with the same unique values.
	`BEGIN; DELETE FROM sales WHERE id = {a}; INSERT INTO sales VALUES ({a}, 7, 2); INSERT INTO line_items VALUES ({a}, 7, {a}, 'again{a}'); INSERT INTO extras VALUES ({a}, 7, {a}, 5); COMMIT`,
	`DELETE FROM sales WHERE id = {a}; INSERT INTO sales VALUES ({a}, 7, 2); INSERT INTO line_items VALUES ({c}, 7, {a}, '{a}'); INSERT INTO extras VALUES ({c}, 7, {c}, 5)`,
	`REPLACE INTO sales VALUES ({a}, 7, 3)`,
	`REPLACE INTO line_items VALUES ({a}, 7, {a}, 'replaced{a}')`,
	// What refers changes before what it refers to goes.
	`BEGIN; UPDATE line_items SET sale = {c} - 2 WHERE id = {a}; DELETE FROM sales WHERE id = {c} - 2; INSERT INTO line_items VALUES ({a}, 7, NULL, 'free{a}'); COMMIT`,
	`BEGIN; INSERT INTO sales VALUES ({c}, 7, 1); INSERT INTO line_items VALUES ({c}, 7, {c}, 'new{a}'); INSERT INTO extras VALUES ({c}, 7, {c}, 1); DELETE FROM sales WHERE id = {c}; COMMIT`,
	// Nothing happens behind these.
	`SET foreign_key_checks = 0; DELETE FROM sales WHERE id = {a}; SET foreign_key_checks = 1`,
	`SET foreign_key_checks = 0; UPDATE line_items SET id = {c} WHERE id = {a}; SET foreign_key_checks = 1`,
	`BEGIN; SAVEPOINT s; DELETE FROM sales WHERE id = {a}; ROLLBACK TO s; UPDATE sales SET v = 8 WHERE id = {a}; COMMIT`,
	`DELETE FROM branches WHERE id = {a}`,
	`DELETE FROM branches WHERE id = {a} + 2`,
	`UPDATE branches SET parent = {a} + 2 WHERE id = {a} + 1; DELETE FROM branches WHERE id = {a} + 2`,
}

// eachForeignKeys runs test where the log has nothing of what foreign keys do, and
// where it has.
func eachForeignKeys(t *testing.T, test func(t *testing.T, world func(schema string, opts *ferry.Options) *world, logged bool)) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		test(t, func(schema string, opts *ferry.Options) *world { return newWorld(t, f, schema, opts) }, f == testcluster.MySQL)
	})
	t.Run("mysql native", func(t *testing.T) {
		shared := func(name string) *testcluster.MySQLServer {
			return testcluster.Shared(t, testcluster.MySQL, name, "--innodb-native-foreign-keys=ON")
		}
		test(t, func(schema string, opts *ferry.Options) *world {
			return newWorldOn(t, shared("native source"), shared("native target"), schema, opts)
		}, false)
	})
}

// sell adds the sales a and b, of the shop and of another, with what hangs on them.
func (w *world) addSales(a, b int) {
	w.t.Helper()
	for shop, n := range map[int]int{7: a, 8: b} {
		w.exec(w.source, `INSERT INTO sales VALUES (?, ?, 1), (?, ?, 1)`, n, shop, n+1, shop)
		w.exec(w.source, `INSERT INTO line_items VALUES (?, ?, ?, ?), (?, ?, ?, ?)`, n, shop, n, n, n+1, shop, n, n+1)
		w.exec(w.source, `INSERT INTO extras VALUES (?, ?, ?, 1), (?, ?, ?, 1)`, n, shop, n, n+1, shop, n+1)
		w.exec(w.source, `INSERT INTO notes VALUES (?, ?, ?, ?), (?, ?, ?, ?)`, n, shop, n, nil, n+1, shop, n+1, n)
		// The second hangs on the third.
		w.exec(w.source, `INSERT INTO branches VALUES (?, ?, NULL), (?, ?, NULL)`, n, shop, n+2, shop)
		w.exec(w.source, `INSERT INTO branches VALUES (?, ?, ?), (?, ?, ?)`, n+1, shop, n+2, n+3, shop, n+1)
	}
}

func TestWhatForeignKeysDoWithoutTheLogIsDoneAgain(t *testing.T) {
	t.Parallel()
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		steps := []string{"incoming", "apply", "verify", "cutover", "lock"}
		w := world(saleTables, &ferry.Options{Ignore: ignored, ChunkRows: 20, PauseBudget: 5 * time.Second})
		for i := range len(steps) * len(saleStories) {
			w.addSales(20*i+20, 20*i+30)
			w.exec(w.source, `INSERT INTO sales VALUES (?, 7, 1)`, 20*i+36)
		}
		act := map[string]func(){}
		for i, step := range steps {
			act[step] = func() {
				for j, story := range saleStories {
					n := 20 * (1 + i*len(saleStories) + j)
					w.tellCarts(story, n, n+10, n+18)
				}
			}
		}
		tr := &trail{at: act}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range saleNames {
			w.alike(table, "*", "shop_id = 7")
		}
		t.Logf("%d rows repaired, %d steps back", report.RowsRepaired, report.StepsBack)
	})
}

// foreignCarts are joined tables with foreign keys that change what says whose a
// row is.
var foreignCarts = strings.NewReplacer(
	`KEY (cart_id)`, `KEY (cart_id), FOREIGN KEY (cart_id) REFERENCES carts (id) ON DELETE CASCADE ON UPDATE CASCADE`,
	`KEY (item_id)`, `KEY (item_id), FOREIGN KEY (item_id) REFERENCES items (id) ON DELETE SET NULL ON UPDATE CASCADE`).Replace(cartTables)

var foreignRules = &ferry.Options{Ignore: ignored, Tables: cartRules, ChunkRows: 3, PauseBudget: 5 * time.Second}

func TestForeignKeysOfJoinedTablesAreFollowed(t *testing.T) {
	t.Parallel()
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		steps := []string{"apply", "verify", "cutover", "lock"}
		stories := []string{
			`DELETE FROM carts WHERE id IN ({a}, {b})`,
			`DELETE FROM items WHERE id IN ({a}, {b})`,
			`UPDATE carts SET id = {c} WHERE id = {a}`,
			`UPDATE items SET id = {c} WHERE id = {a}; UPDATE labels SET v = 5 WHERE id = {a}`,
			`BEGIN; UPDATE items SET cart_id = {b} WHERE id = {a}; DELETE FROM carts WHERE id = {b}; COMMIT`,
			`BEGIN; UPDATE items SET cart_id = {a} WHERE id = {b}; DELETE FROM carts WHERE id = {a}; COMMIT`,
			`BEGIN; DELETE FROM carts WHERE id = {a}; INSERT INTO carts VALUES ({a}, 7, 2); INSERT INTO items VALUES (5, {a}, {a}); UPDATE labels SET item_id = {a} WHERE id = {a} + 1; COMMIT`,
			`UPDATE carts SET shop_id = 15 - shop_id WHERE id IN ({a}, {b}); DELETE FROM carts WHERE id IN ({a}, {b})`,
			`BEGIN; UPDATE carts SET shop_id = 15 - shop_id WHERE id IN ({a}, {b}); DELETE FROM items WHERE id IN ({a}, {b}); COMMIT`,
			`REPLACE INTO carts VALUES ({a}, 7, 3)`,
		}
		w := world(foreignCarts, foreignRules)
		for i := range len(steps) * len(stories) {
			a, b := 10*i+10, 10*i+15
			w.exec(w.source, `INSERT INTO carts VALUES (?, 7, 1), (?, 8, 1)`, a, b)
			w.exec(w.source, `INSERT INTO items VALUES (1, ?, ?), (1, ?, ?), (1, ?, ?), (1, ?, ?)`, a, a, a+1, a, b, b, b+1, b)
			w.exec(w.source, `INSERT INTO labels VALUES (?, ?, 1), (?, ?, 1), (?, ?, 1), (?, ?, 1)`, a, a, a+1, a+1, b, b, b+1, b+1)
		}
		act := map[string]func(){}
		for i, step := range steps {
			act[step] = func() {
				for j, story := range stories {
					n := 10 * (1 + i*len(stories) + j)
					w.tellCarts(story, n, n+5, n+8)
				}
			}
		}
		tr := &trail{at: act}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		w.cartsAlike()
		t.Logf("%d rows repaired, %d steps back", report.RowsRepaired, report.StepsBack)
	})
}

// A random transaction whenever rows are written to the target.
func TestRandomChangesBehindForeignKeys(t *testing.T) {
	t.Parallel()
	seed := uint64(1) // new ones are for soaks
	if soakFor(t) > 0 {
		seed = uint64(time.Now().UnixNano())
	}
	if text := os.Getenv("PODWORKS_SEED"); text != "" {
		fmt.Sscan(text, &seed)
	}
	t.Logf("seed %d", seed)
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		w := world(saleTables, &ferry.Options{Ignore: ignored, ChunkRows: 3, PauseBudget: 5 * time.Second})
		rng := rand.New(rand.NewPCG(seed, 1))
		id := func(n int) int { return 1 + rng.IntN(n) }
		// Ids of the shop are even, so that shops don't refer to each other's rows.
		own := func(n, shop int) int { return 2*id(n) + shop%2 }
		change := func() string {
			shop := []int{7, 7, 7, 8}[rng.IntN(4)]
			sale, line := own(15, shop), own(30, shop)
			switch rng.IntN(14) {
			case 0, 1, 2:
				return fmt.Sprintf(`INSERT IGNORE INTO sales VALUES (%d, %d, %d)`, sale, shop, id(100))
			case 3:
				return fmt.Sprintf(`REPLACE INTO sales VALUES (%d, %d, %d)`, sale, shop, id(100))
			case 4:
				return fmt.Sprintf(`DELETE FROM sales WHERE id BETWEEN %d AND %d`, sale, sale+rng.IntN(4))
			case 5:
				return fmt.Sprintf(`UPDATE IGNORE sales SET id = %d WHERE id = %d`, own(15, shop), sale)
			case 6, 7:
				return fmt.Sprintf(`INSERT IGNORE INTO line_items VALUES (%d, %d, %d, %d)`, line, shop, sale, id(40))
			case 8:
				return fmt.Sprintf(`DELETE FROM line_items WHERE id = %d`, line)
			case 9:
				return fmt.Sprintf(`UPDATE IGNORE line_items SET id = %d, sku = %d WHERE id = %d`, own(30, shop), id(40), line)
			case 10:
				return fmt.Sprintf(`INSERT IGNORE INTO extras VALUES (%d, %d, %d, %d)`, own(40, shop), shop, line, id(3))
			case 11:
				return fmt.Sprintf(`REPLACE INTO notes VALUES (%d, %d, NULL, NULL)`, own(40, shop), shop)
			case 12:
				return fmt.Sprintf(`UPDATE IGNORE notes SET sale = %d, line = %d WHERE id = %d`, sale, line, own(40, shop))
			}
			branch := own(20, shop)
			return []string{
				fmt.Sprintf(`INSERT IGNORE INTO branches VALUES (%d, %d, NULL)`, branch, shop),
				fmt.Sprintf(`INSERT IGNORE INTO branches VALUES (%d, %d, %d)`, own(20, shop), shop, branch),
				fmt.Sprintf(`UPDATE IGNORE branches SET parent = %d WHERE id = %d`, own(20, shop), branch),
				fmt.Sprintf(`DELETE FROM branches WHERE id = %d`, branch),
			}[rng.IntN(4)]
		}
		transact := func() {
			text := change()
			for range rng.IntN(5) {
				text += ";" + change()
			}
			w.tellCarts(`BEGIN;`+text+`;COMMIT`, 0, 0, 0)
		}
		for range 150 {
			transact()
		}
		report, err := w.ferry.Move(amid(t.Context(), rng, 100, transact), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range saleNames {
			w.alike(table, "*", "shop_id = 7")
		}
		t.Logf("%+v", report)
	})
}

// A parent goes just before the lock, and its children go and change with it.
func TestWithoutTheTargetsForeignKeysRowsAreWrong(t *testing.T) {
	t.Parallel()
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		for _, without := range []bool{false, true} {
			w := world(saleTables, &ferry.Options{Ignore: ignored, PauseBudget: 5 * time.Second})
			w.addSales(10, 20)
			var once sync.Once
			ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Cascade: without}, Step: func(step string) {
				if step == "lock" {
					once.Do(func() { w.exec(w.source, `DELETE FROM sales WHERE id = 10`) })
				}
			}})
			_, err := w.ferry.Move(ctx, w.shop, 2)
			wrong := w.count(w.target, `SELECT COUNT(*) FROM line_items WHERE sale = 10`) > 0 && w.count(w.target, `SELECT COUNT(*) FROM notes WHERE sale = 10`) > 0
			if want := without && !logged; wrong != want || errors.Is(err, ferry.ErrDiffers) != want {
				t.Errorf("without it %v: rows are wrong %v, and the proof says %v; want %v", without, wrong, err, want)
			}
		}
	})
}

// Parents go one by one while their children are copied.
func TestRowsThatGoWhileTheyAreReadDoNotComeBack(t *testing.T) {
	t.Parallel()
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		w := world(saleTables, &ferry.Options{Ignore: ignored, ChunkRows: 40, PauseBudget: 5 * time.Second})
		const sales = 400
		for n := range sales {
			w.exec(w.source, `INSERT INTO sales VALUES (?, 7, 1)`, n)
			w.exec(w.source, `INSERT INTO line_items VALUES (?, 7, ?, ?), (?, 7, ?, ?)`, n, n, n, n+1000, n, n+1000)
			w.exec(w.source, `INSERT INTO extras VALUES (?, 7, ?, 1), (?, 7, ?, 1)`, n, n, n+1000, n+1000)
			w.exec(w.source, `INSERT INTO notes VALUES (?, 7, ?, ?)`, n, n, n+1000)
		}
		left := make(chan int, 1)
		tr := &trail{at: map[string]func(){"copy": func() {
			go func() {
				tick := time.NewTicker(3 * time.Millisecond)
				defer tick.Stop()
				n := 0
				defer func() { left <- n }()
				for ; n < sales-50; n++ {
					<-tick.C
					if _, err := w.source.Exec(`DELETE FROM sales WHERE id = ?`, n*7%sales); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}, "cutover": func() { <-left }}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range saleNames {
			w.alike(table, "*", "shop_id = 7")
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows came back and had to be deleted again", report.RowsRepaired)
		}
	})
}

// A row that refers to another shop's, or to one that isn't moved, changes with it.
func TestRowsThatChangeWithOthersRowsEndTheMove(t *testing.T) {
	t.Parallel()
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		const schema = saleTables + `
CREATE TABLE living (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, code CHAR(2) NULL, KEY (shop_id), FOREIGN KEY (code) REFERENCES countries (code) ON DELETE SET NULL ON UPDATE CASCADE);`
		for _, c := range []struct {
			do   string
			ends bool
		}{
			{`DELETE FROM sales WHERE id = 21; DELETE FROM countries WHERE code = 'FR'; UPDATE countries SET name = 'x' WHERE code = 'DE'`, false},
			{`DELETE FROM sales WHERE id = 20`, true},
			{`DELETE FROM countries WHERE code = 'DE'`, true},
			{`UPDATE countries SET code = 'DK' WHERE code = 'DE'`, true},
		} {
			for _, step := range []string{"verify", "lock"} {
				w := world(schema, &ferry.Options{Ignore: ignored, ChunkRows: 3, PauseBudget: 5 * time.Second})
				w.fill(w.shop, 1)
				w.addSales(10, 20)
				w.script(w.source, `INSERT INTO countries VALUES ('DE', ''), ('FR', ''); INSERT INTO living VALUES (1, 7, 'DE'), (2, 8, 'FR'); UPDATE line_items SET sale = 20 WHERE id = 10`)
				tr := &trail{at: map[string]func(){step: func() { w.script(w.source, c.do) }}}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				switch {
				case logged || !c.ends:
					if err != nil {
						t.Errorf("%s at step %s: %v", c.do, step, err)
					}
				default:
					contains(t, err, nil, "undone, the shop stays", "a foreign key changed rows of the source without the log", "that is not the shop's went or changed its key; move again")
				}
			}
		}
	})
}

// A key that a foreign key changes may pass the copy on its way.
func TestKeysThatAForeignKeyChangesEndTheMoveUntilTheyAreCopied(t *testing.T) {
	t.Parallel()
	eachForeignKeys(t, func(t *testing.T, world func(string, *ferry.Options) *world, logged bool) {
		const schema = saleTables + `
CREATE TABLE tags (shop_id INT NOT NULL, sale INT NOT NULL, tag INT NOT NULL, PRIMARY KEY (shop_id, sale, tag), FOREIGN KEY (sale) REFERENCES sales (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE tag_notes (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, sale INT NULL, tag INT NULL, KEY (shop_id),
	FOREIGN KEY (shop_id, sale, tag) REFERENCES tags (shop_id, sale, tag) ON DELETE CASCADE ON UPDATE CASCADE);`
		for _, step := range []string{"apply", "verify", "lock"} {
			w := world(schema, &ferry.Options{Ignore: ignored, ChunkRows: 3, PauseBudget: 5 * time.Second})
			w.addSales(10, 20)
			w.script(w.source, `INSERT INTO tags VALUES (7, 10, 1), (7, 10, 2), (7, 11, 3); INSERT INTO tag_notes VALUES (1, 7, 10, 1), (2, 7, 11, 3), (3, 7, NULL, 5)`)
			tr := &trail{at: map[string]func(){step: func() { w.script(w.source, `UPDATE sales SET id = 5 WHERE id = 11; DELETE FROM sales WHERE id = 10`) }}}
			_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
			if !logged && step == "apply" {
				contains(t, err, nil, "undone, the shop stays", "a key of table sales changed, and by foreign key", "which isn't copied yet; move again")
				continue
			}
			if err != nil {
				t.Fatalf("at step %s: %v", step, err)
			}
			for _, table := range append([]string{"tags", "tag_notes"}, saleNames...) {
				w.alike(table, "*", "shop_id = 7")
			}
		}
	})
}
