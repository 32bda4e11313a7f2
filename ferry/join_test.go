package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// Carts are a shop's, items are their cart's, and labels their item's. No foreign key
// says so.
const cartTables = `
CREATE TABLE carts (id INT NOT NULL PRIMARY KEY, shop_id INT NULL, v INT NOT NULL, KEY (shop_id));
CREATE TABLE items (v INT NOT NULL, id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, cart_id INT NULL, KEY (cart_id));
CREATE TABLE labels (id INT NOT NULL, item_id BIGINT NULL, v INT NOT NULL, UNIQUE KEY (id), KEY (item_id));`

var cartRules = map[string]ferry.Rule{
	"items":  {Through: []ferry.Ref{{Column: "cart_id", Table: "carts"}}},
	"labels": {Through: []ferry.Ref{{Column: "item_id", Table: "items"}}},
}

const (
	inCart = `cart_id IN (SELECT id FROM carts WHERE shop_id = 7)`
	inItem = `item_id IN (SELECT id FROM items WHERE ` + inCart + `)`
)

func cartWorld(t *testing.T, f testcluster.Family, schema string) *world {
	return newWorld(t, f, schema, &ferry.Options{Ignore: ignored, Tables: cartRules, ChunkRows: 3, PauseBudget: 5 * time.Second})
}

// cartsAlike fails the test unless both pods have the same carts, items and labels
// of the shop, and the target has no item or label whose parent is missing.
func (w *world) cartsAlike() {
	w.t.Helper()
	w.alike("carts", "*", "shop_id = 7")
	w.alike("items", "*", inCart)
	w.alike("labels", "*", inItem)
	if n := w.count(w.target, `SELECT COUNT(*) FROM items WHERE cart_id IS NULL OR cart_id NOT IN (SELECT id FROM carts)`); n > 0 {
		w.t.Errorf("%d items without a cart are on the target", n)
	}
	if n := w.count(w.target, `SELECT COUNT(*) FROM labels WHERE item_id IS NULL OR item_id NOT IN (SELECT id FROM items)`); n > 0 {
		w.t.Errorf("%d labels without an item are on the target", n)
	}
}

// Each is what happens to a cart of the shop, {a}, one of another shop, {b}, and an
// id that is free, {c}. Carts {a} and {b} have items of their own number and the next,
// and these have labels of the same numbers.
var cartStories = []string{
	// Rows come, change and go.
	`INSERT INTO items VALUES (1, {c}, {a}); INSERT INTO labels VALUES ({c}, {c}, 1)`,
	`UPDATE items SET v = 9 WHERE id IN ({a}, {b}); UPDATE labels SET v = 9 WHERE id IN ({a}, {b})`,
	`DELETE FROM labels WHERE id IN ({a}, {b}); DELETE FROM items WHERE id IN ({a}, {b})`,
	`BEGIN; DELETE FROM labels WHERE item_id IN ({a}, {a} + 1); DELETE FROM items WHERE cart_id = {a}; DELETE FROM carts WHERE id = {a}; COMMIT`,
	// A cart comes to the shop or leaves it, with what is in it; or both.
	`UPDATE carts SET shop_id = 7 WHERE id = {b}`,
	`UPDATE carts SET shop_id = 8 WHERE id = {a}`,
	`UPDATE carts SET shop_id = NULL WHERE id = {a}; UPDATE carts SET shop_id = 7 WHERE id = {a}`,
	`UPDATE carts SET shop_id = 7 WHERE id = {b}; UPDATE carts SET shop_id = 8 WHERE id = {b}`,
	`BEGIN; UPDATE carts SET shop_id = 15 - shop_id WHERE id IN ({a}, {b}); UPDATE items SET v = 9 WHERE id IN ({a}, {b}); COMMIT`,
	// An item goes to another cart, with its labels; a label to another item.
	`UPDATE items SET cart_id = {b} WHERE id = {a}`,
	`UPDATE items SET cart_id = {a} WHERE id = {b}`,
	`UPDATE items SET cart_id = NULL WHERE id = {a}; UPDATE labels SET item_id = NULL WHERE id = {a} + 1`,
	`UPDATE labels SET item_id = {b} WHERE id = {a}; UPDATE labels SET item_id = {a} WHERE id = {b}`,
	`BEGIN; INSERT INTO carts VALUES ({c}, 7, 1); UPDATE items SET cart_id = {c} WHERE cart_id IN ({a}, {b}); COMMIT`,
	`BEGIN; UPDATE carts SET shop_id = 8 WHERE id = {a}; UPDATE items SET cart_id = {a} WHERE id = {b}; UPDATE carts SET shop_id = 7 WHERE id = {b}; COMMIT`,
	// Keys change, of what refers and of what is referred to.
	`UPDATE items SET id = {c} WHERE id = {a}; UPDATE items SET id = {a} WHERE id = {b}; UPDATE items SET id = {b} WHERE id = {c}`,
	`UPDATE carts SET id = {c} WHERE id = {a}; UPDATE carts SET id = {a} WHERE id = {b}; UPDATE carts SET id = {b} WHERE id = {c}`,
	// Children before their parents.
	`INSERT INTO labels VALUES ({c}, {c}, 1); INSERT INTO items VALUES (1, {c}, {c}); INSERT INTO carts VALUES ({c}, 7, 1)`,
	`BEGIN; INSERT INTO labels VALUES ({c}, {c}, 1); INSERT INTO items VALUES (1, {c}, {c}); INSERT INTO carts VALUES ({c}, 7, 1); COMMIT`,
	`DELETE FROM carts WHERE id = {a}`,
	`DELETE FROM carts WHERE id = {a}; INSERT INTO carts VALUES ({a}, 7, 2)`,
	`DELETE FROM items WHERE id = {a}; DELETE FROM carts WHERE id = {a}; INSERT INTO items VALUES (5, {a}, {a})`,
}

// tellCarts has a story happen, in a session of its own, as the log groups it.
func (w *world) tellCarts(story string, a, b, c int) {
	w.t.Helper()
	conn, err := w.source.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	text := strings.NewReplacer("{a}", fmt.Sprint(a), "{b}", fmt.Sprint(b), "{c}", fmt.Sprint(c)).Replace(story)
	for stmt := range strings.SplitSeq(text, ";") {
		if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
			w.t.Fatalf("%s: %v", stmt, err)
		}
	}
}

func TestRowsBelongToTheShopThroughOthers(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		steps := []string{"copy", "apply", "verify", "cutover", "lock"}
		w := cartWorld(t, f, cartTables)
		for i := range len(steps) * len(cartStories) {
			a, b := 10*i+10, 10*i+15
			w.exec(w.source, `INSERT INTO carts VALUES (?, 7, 1), (?, 8, 1)`, a, b)
			w.exec(w.source, `INSERT INTO items VALUES (1, ?, ?), (1, ?, ?), (1, ?, ?), (1, ?, ?)`, a, a, a+1, a, b, b, b+1, b)
			w.exec(w.source, `INSERT INTO labels VALUES (?, ?, 1), (?, ?, 1), (?, ?, 1), (?, ?, 1)`, a, a, a+1, a+1, b, b, b+1, b+1)
		}
		// Other shops' rows on the target, with the ids of other shops' rows on the source.
		w.exec(w.source, `INSERT INTO carts VALUES (9000, 8, 1)`)
		w.exec(w.source, `INSERT INTO items VALUES (1, 9000, 9000)`)
		w.exec(w.source, `INSERT INTO labels VALUES (9000, 9000, 1)`)
		w.exec(w.target, `INSERT INTO carts VALUES (9000, 9, 1)`)
		w.exec(w.target, `INSERT INTO items VALUES (77, 9000, 9000)`)
		w.exec(w.target, `INSERT INTO labels VALUES (9000, 9000, 77)`)
		act := map[string]func(){}
		for i, step := range steps {
			act[step] = func() {
				for j, story := range cartStories {
					n := 10 * (1 + i*len(cartStories) + j)
					w.tellCarts(story, n, n+5, n+8)
				}
				w.exec(w.source, `UPDATE items SET v = v + 1 WHERE id = 9000`)
				w.exec(w.source, `UPDATE labels SET v = v + 1 WHERE id = 9000`)
				if step == "lock" {
					w.script(w.source, `DELETE FROM labels WHERE id = 9000; DELETE FROM items WHERE id = 9000`)
				}
			}
		}
		tr := &trail{at: act}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		w.cartsAlike()
		if n := w.count(w.target, `SELECT COUNT(*) FROM items JOIN labels ON labels.item_id = items.id WHERE items.v = 77 AND labels.v = 77`); n != 1 {
			t.Errorf("the other shop's item and label are on the target %d times, want once", n)
		}
		if report.StepsBack == 0 {
			t.Error("a cart came to the shop just before the lock, and nothing stepped back")
		}
		t.Logf("%d rows repaired, %d steps back", report.RowsRepaired, report.StepsBack)
	})
}

// A random transaction whenever rows are written to the target.
func TestRandomChangesOfJoinedTables(t *testing.T) {
	t.Parallel()
	// The first lost a label of an item that an event brought before it was asked for.
	for _, seed := range []uint64{1795346355694462389, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			testcluster.Each(t, func(t *testing.T, f testcluster.Family) { changeJoined(t, f, seed) })
		})
	}
}

func changeJoined(t *testing.T, f testcluster.Family, seed uint64) {
	w := cartWorld(t, f, cartTables)
	rng := rand.New(rand.NewPCG(seed, 1))
	id := func(n int) int { return 1 + rng.IntN(n) }
	shop := func() string { return []string{"7", "7", "8", "NULL"}[rng.IntN(4)] }
	change := func() string {
		switch rng.IntN(15) {
		case 0, 9:
			return fmt.Sprintf(`REPLACE INTO carts VALUES (%d, %s, %d)`, id(20), shop(), id(100))
		case 1:
			return fmt.Sprintf(`UPDATE carts SET shop_id = %s WHERE id = %d`, shop(), id(20))
		case 2:
			return fmt.Sprintf(`DELETE FROM carts WHERE id = %d`, id(20))
		case 3, 10, 11:
			return fmt.Sprintf(`REPLACE INTO items VALUES (%d, %d, %d)`, id(100), id(40), id(20))
		case 4:
			return fmt.Sprintf(`UPDATE items SET cart_id = %d WHERE id = %d`, id(20), id(40))
		case 5:
			return fmt.Sprintf(`DELETE FROM items WHERE id = %d`, id(40))
		case 6, 12, 13, 14:
			return fmt.Sprintf(`REPLACE INTO labels VALUES (%d, %d, %d)`, id(80), id(40), id(100))
		case 7:
			return fmt.Sprintf(`UPDATE IGNORE items SET id = %d WHERE id = %d`, id(40), id(40))
		}
		return fmt.Sprintf(`UPDATE IGNORE carts SET id = %d WHERE id = %d`, id(20), id(20))
	}
	transact := func() {
		text := change()
		for range rng.IntN(4) {
			text += ";" + change()
		}
		w.tellCarts(`BEGIN;`+text+`;COMMIT`, 0, 0, 0)
	}
	for range 100 {
		transact()
	}
	report, err := w.ferry.Move(amid(t.Context(), rng, 200, transact), w.shop, 2)
	if err != nil {
		t.Fatal(err)
	}
	w.cartsAlike()
	t.Logf("%+v", report)
}

// amid has transactions come before rows are written to the target, that many times,
// and one just before the lock.
func amid(ctx context.Context, rng *rand.Rand, left int, transact func()) context.Context {
	var mu sync.Mutex
	locked := false
	return hook.With(ctx, &hook.Set{Step: func(step string) {
		mu.Lock()
		defer mu.Unlock()
		// Under the lock nobody of the shop writes, and what is done here is not fenced.
		if step == "lock" && !locked {
			transact()
			locked = true
		}
		if step == "apply" && !locked && left > 0 {
			left--
			for range 1 + rng.IntN(3) {
				transact()
			}
		}
	}})
}

// A parent comes to the shop just before the lock, with children that have no events.
func TestWithoutAskingForChildrenAParentComesAlone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, without := range []bool{false, true} {
			w := cartWorld(t, f, cartTables)
			w.script(w.source, `INSERT INTO carts VALUES (1, 7, 1), (2, 8, 1); INSERT INTO items VALUES (1, 1, 1), (1, 2, 2); INSERT INTO labels VALUES (1, 1, 1), (2, 2, 1)`)
			var once sync.Once
			ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Children: without}, Step: func(step string) {
				if step == "lock" {
					once.Do(func() { w.exec(w.source, `UPDATE carts SET shop_id = 7 WHERE id = 2`) })
				}
			}})
			if _, err := w.ferry.Move(ctx, w.shop, 2); err != nil && !without {
				t.Fatal(err)
			}
			lost := w.count(w.target, `SELECT COUNT(*) FROM carts WHERE id = 2`) == 1 && w.count(w.target, `SELECT COUNT(*) FROM items WHERE cart_id = 2`) == 0
			if lost != without {
				t.Errorf("without it %v: its items are lost %v", without, lost)
			}
		}
	})
}

// What is deleted after the parents could not be found any more.
func TestCleanDeletesChildrenFirst(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := cartWorld(t, f, cartTables)
		w.script(w.source, `INSERT INTO carts VALUES (1, 7, 1), (2, 8, 1), (3, 7, 1); INSERT INTO items VALUES (1, 1, 1), (1, 2, 2), (1, 3, 3); INSERT INTO labels VALUES (1, 1, 1), (2, 2, 1), (3, 3, 1)`)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.cartsAlike()
		w.exec(w.source, `CREATE TRIGGER stop BEFORE DELETE ON carts FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not now'`)
		n, err := w.ferry.Clean(t.Context(), w.shop, 1)
		contains(t, err, nil, "not now")
		if got := w.count(w.source, `SELECT COUNT(*) FROM items`); n != 4 || got != 1 {
			t.Errorf("deleted %d rows and left %d items, want the 4 children gone", n, got)
		}
		w.exec(w.source, `DROP TRIGGER stop`)
		if n, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil || n != 2 {
			t.Errorf("got %d rows, %v; want the 2 carts", n, err)
		}
		for _, table := range []string{"carts", "items", "labels"} {
			if n := w.count(w.source, `SELECT COUNT(*) FROM `+table+` WHERE id = 2`); n != 1 || w.count(w.source, `SELECT COUNT(*) FROM `+table) != 1 {
				t.Errorf("%s: the other shop's row is there %d times, want that one alone", table, n)
			}
		}
	})
}

func TestUndoingDeletesJoinedRows(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := cartWorld(t, f, cartTables)
		w.script(w.source, `INSERT INTO carts VALUES (1, 7, 1), (2, 8, 1); INSERT INTO items VALUES (1, 1, 1), (1, 2, 2); INSERT INTO labels VALUES (1, 1, 1), (2, 2, 1)`)
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		tr := &trail{at: map[string]func(){"cutover": func() { cancel(enough) }}}
		_, err := w.ferry.Move(tr.follow(ctx), w.shop, 2)
		contains(t, err, enough, "undone")
		for _, table := range []string{"carts", "items", "labels"} {
			if n := w.count(w.target, `SELECT COUNT(*) FROM `+table); n != 0 {
				t.Errorf("%s: %d rows are left on the target", table, n)
			}
		}
	})
}

func TestKeysOfParentsAreTextOrBytesToo(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, kind := range []string{`VARCHAR(20)`, `CHAR(20) CHARACTER SET latin1`, `BINARY(6)`, `VARBINARY(20)`} {
			w := cartWorld(t, f, strings.NewReplacer(`id INT NOT NULL PRIMARY KEY`, `id `+kind+` NOT NULL PRIMARY KEY`, `cart_id INT`, `cart_id `+kind).Replace(cartTables))
			text := strings.Contains(kind, "CHAR")
			ref := func(s string) string { // as the collation allows
				if text {
					return strings.ToUpper(s)
				}
				return s
			}
			w.exec(w.source, `INSERT INTO carts VALUES ('é a', 7, 1), ('b', 8, 1), ('c', 8, 1), ('', 7, 1)`)
			w.exec(w.source, `INSERT INTO items VALUES (1, 1, ?), (1, 2, ?), (1, 3, ?), (1, 4, '')`, ref("é a"), ref("b"), ref("c"))
			tr := &trail{at: map[string]func(){
				"copy": func() { w.exec(w.source, `UPDATE items SET v = 2 WHERE id IN (1, 2)`) },
				"verify": func() {
					w.exec(w.source, `UPDATE carts SET shop_id = 15 - shop_id WHERE id LIKE 'é%' OR id LIKE 'b%'`)
				},
				"cutover": func() { w.exec(w.source, `UPDATE items SET cart_id = ? WHERE id IN (1, 3)`, ref("b")) },
				"lock":    func() { w.exec(w.source, `UPDATE carts SET shop_id = 7 WHERE id LIKE 'c%'`) },
			}}
			if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			w.cartsAlike()
			if n := w.count(w.target, `SELECT COUNT(*) FROM items`); n != 4 {
				t.Errorf("%s: got %d items on the target, want 4", kind, n)
			}
		}
	})
}

func TestJoinsThatSayNothingAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, cartTables+`
			CREATE TABLE a (id INT NOT NULL PRIMARY KEY, b INT, KEY (b)); CREATE TABLE b (id INT NOT NULL PRIMARY KEY, a INT, KEY (a));
			CREATE TABLE heap (v INT, cart INT, KEY (cart)); CREATE TABLE odd (id INT PRIMARY KEY, product BIGINT, cart VARCHAR(10), country CHAR(2));`, nil)
		refused := func(tables map[string]ferry.Rule, says ...string) {
			t.Helper()
			_, err := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Tables: tables}).Plan(t.Context(), w.shop, 2)
			contains(t, err, ferry.ErrRefused, says...)
		}
		through := func(column, table string) ferry.Rule {
			return ferry.Rule{Through: []ferry.Ref{{Column: column, Table: table}}}
		}
		refused(map[string]ferry.Rule{"a": through("b", "b"), "b": through("a", "a")}, "table a: following the first Ref of each table comes back to where it was")
		refused(map[string]ferry.Rule{"a": through("b", "a")}, "a table can't be reached through itself")
		refused(map[string]ferry.Rule{"items": through("cart", "carts")}, "table items through (cart, carts): there is no such column")
		refused(map[string]ferry.Rule{"items": through("cart_id", "cart")}, "there is no such table with rows of shops")
		refused(map[string]ferry.Rule{"odd": through("country", "countries")}, "there is no such table with rows of shops")
		refused(map[string]ferry.Rule{"odd": through("product", "products")}, "no single column identifies the rows of products over all shops")
		refused(map[string]ferry.Rule{"odd": through("cart", "carts")}, "the column is varchar(10)", "carts.id is int")
		refused(map[string]ferry.Rule{"heap": through("cart", "carts")}, "table heap is reached through others, and nothing tells its rows apart")
		_, err := ferry.New(w.dir, w.pods, &ferry.Options{Tables: map[string]ferry.Rule{"a": {Column: "x", Through: []ferry.Ref{{}}}, "b": {Through: []ferry.Ref{{Table: "a"}}}}})
		contains(t, err, nil, "table a has Column and Through", "table b: a Ref in Through wants a Column and a Table")
	})
}

func TestRowsThatAreHalfTheShopsAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, cartTables+`CREATE TABLE gifts (id INT NOT NULL PRIMARY KEY, cart_id INT, item_id BIGINT, KEY (cart_id), KEY (item_id))`, nil)
		w.script(w.source, `INSERT INTO carts VALUES (1, 7, 1), (2, 8, 1); INSERT INTO items VALUES (1, 1, 1), (1, 2, 2);
			INSERT INTO gifts VALUES (1, 1, 1), (2, 2, 2), (3, 1, 2), (4, 2, 1), (5, NULL, 1), (6, 1, NULL), (7, NULL, NULL), (8, 99, 2)`)
		rules := map[string]ferry.Rule{"items": cartRules["items"], "labels": cartRules["labels"],
			"gifts": {Through: []ferry.Ref{{Column: "cart_id", Table: "carts"}, {Column: "item_id", Table: "items"}}}}
		w.ferry = w.newFerry(&ferry.Options{Ignore: ignored, Tables: rules})
		plan, err := w.ferry.Plan(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "pod 1, table gifts: 3 of 8 rows are the shop's by one and not by another of cart_id, item_id; a move would separate them")
		w.found(plan, ferry.Warn, "gifts", "1 of 8 rows have a cart_id that no row of carts has, so they are nobody's and stay")
		w.exec(w.source, `DELETE FROM gifts WHERE id IN (3, 4, 5)`)
		w.exec(w.target, `INSERT INTO items VALUES (1, 70, 70)`)
		_, err = w.ferry.Plan(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "pod 2, table items: 1 of 1 rows have a cart_id that no row of carts has; they would become the shop's if that row came with it; delete them")
		w.exec(w.target, `DELETE FROM items`)

		// One that comes in the middle ends the move before the lock.
		tr := &trail{at: map[string]func(){"verify": func() { w.exec(w.source, `INSERT INTO gifts VALUES (9, 1, 2)`) }}}
		_, err = w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, nil, "undone", "table gifts: 1 rows came to be the shop's by one and not by another of cart_id, item_id")
		if tr.passed("lock") {
			t.Error("the move came to the lock")
		}
		w.exec(w.source, `DELETE FROM gifts WHERE id = 9`)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		if n := w.count(w.target, `SELECT COUNT(*) FROM gifts`); n != 2 {
			t.Errorf("got %d gifts on the target, want 2", n)
		}
	})
}
