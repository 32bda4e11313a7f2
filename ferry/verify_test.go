package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// What is done to the target behind the mover's back, and how many
// rows that concerns.
var damages = []struct {
	name   string
	sql    string
	rows   int64
	filled int // products
}{
	{"a value is another", `UPDATE products SET name = 'damaged' WHERE shop_id = {shop} AND id = 100`, 1, 150},
	{"a value is another by a blank", `UPDATE products SET name = CONCAT(name, ' ') WHERE shop_id = {shop} AND id = 100`, 1, 150},
	{"a value is another by its case", `UPDATE products SET name = UPPER(name) WHERE shop_id = {shop} AND id = 100`, 1, 150},
	{"NULL is empty", `UPDATE orders SET note = '' WHERE shop_id = {shop} AND id = 1`, 1, 10},
	{"two columns have each other's value", `UPDATE orders SET token = 'c', note = 'b' WHERE shop_id = {shop} AND id = 2`, 1, 10},
	{"what ends one column begins the next", `UPDATE orders SET token = 'long', note = 'er' WHERE shop_id = {shop} AND id = 3`, 1, 10},
	{"two rows have each other's values", `UPDATE products SET id = 100000 WHERE shop_id = {shop} AND id = 10;
		UPDATE products SET id = 10 WHERE shop_id = {shop} AND id = 11; UPDATE products SET id = 11 WHERE shop_id = {shop} AND id = 100000`, 2, 150},
	{"rows are missing", `DELETE FROM products WHERE shop_id = {shop} AND id IN (-5, 0, 144)`, 3, 150},
	{"there is one too many, below", `INSERT INTO products VALUES ({shop}, -1000, 'extra', 1, 1)`, 1, 150},
	{"there is one too many, above", `INSERT INTO products VALUES ({shop}, 100000, 'extra', 1, 1)`, 1, 150},
	{"there is one in a table without rows", `INSERT INTO stamps VALUES (1, {shop})`, 1, 10},
	{"a table's last rows are missing", `DELETE FROM orders WHERE shop_id = {shop}`, 3, 10},
	{"in more rows than are compared at once", `UPDATE products SET stock = stock + 1 WHERE shop_id = {shop} AND id IN (3, 5500);
		DELETE FROM products WHERE shop_id = {shop} AND id = 4994; INSERT INTO products VALUES ({shop}, 6000, 'extra', 1, 1)`, 4, 6000},
}

func TestVerificationFindsAndMendsEveryKindOfDifference(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE stamps (id INT PRIMARY KEY, shop_id INT NOT NULL, KEY (shop_id))`, nil)
		for i, damage := range damages {
			t.Run(damage.name, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, damage.filled)
				w.exec(w.source, `INSERT INTO orders VALUES (?, 1, 'a', NULL), (?, 2, 'b', 'c'), (?, 3, 'longe', 'r')`, int64(w.shop), int64(w.shop), int64(w.shop))
				tr := &trail{at: map[string]func(){"compare": func() {
					w.script(w.target, strings.ReplaceAll(damage.sql, "{shop}", fmt.Sprint(w.shop)))
				}}}
				report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				if err != nil {
					t.Fatal(err)
				}
				if report.RowsRepaired != damage.rows {
					t.Errorf("got %d rows repaired, want %d", report.RowsRepaired, damage.rows)
				}
				w.same("products")
				w.same("orders")
				if n := w.count(w.target, `SELECT COUNT(*) FROM stamps WHERE shop_id = ?`, int64(w.shop)); n != 0 {
					t.Errorf("%d rows are left that the source doesn't have", n)
				}
			})
		}
	})
}

// addShop adds a shop in pod 1, and makes it the one that the world is about.
func (w *world) addShop(shop podworks.ShopID) {
	w.t.Helper()
	if _, err := w.dir.AddShop(w.t.Context(), shop, 1); err != nil {
		w.t.Fatal(err)
	}
	if err := fence.Create(w.t.Context(), w.source, shop); err != nil {
		w.t.Fatal(err)
	}
	w.shop = shop
}

// What has been compared and is then touched by the log is compared again.
func TestATouchedRowIsComparedAgainBeforeTheLock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 50)
		tr := &trail{at: map[string]func(){"cutover": func() {
			if err := sell(t.Context(), w.source, w.shop, 1, 10); err != nil {
				t.Fatal(err)
			}
			w.awaitSale(10)
			w.exec(w.target, `UPDATE products SET name = 'damaged' WHERE shop_id = 7 AND id = 10`)
		}}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 1 {
			t.Errorf("got %d rows repaired, want 1", report.RowsRepaired)
		}
		w.same("products")
	})
}

// A row that is touched in the last moment is compared under the lock. When it
// differs, the writers go on and it is mended first.
func TestARowThatDiffersUnderTheLockMakesTheMoveStepBack(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 30 * time.Second}) // the first try waits for a sixteenth of it
		w.fill(w.shop, 50)
		conn := w.begin(10)
		committed := make(chan error, 1)
		go func() {
			err := awaitWaiter(t.Context(), w.source, f)
			_, errCommit := conn.ExecContext(t.Context(), `COMMIT`)
			if err == nil {
				err = errCommit
			}
			committed <- err
		}()
		tr := &trail{at: map[string]func(){"drain": func() {
			w.awaitSale(10)
			w.exec(w.target, `UPDATE products SET name = 'damaged' WHERE shop_id = 7 AND id = 10`)
		}}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err := <-committed; err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if report.StepsBack == 0 || report.RowsRepaired != 1 {
			t.Errorf("got %d steps back and %d rows repaired, want 1, or more on a busy machine, and 1", report.StepsBack, report.RowsRepaired)
		}
		w.same("products")
	})
}

// awaitSale waits until the log has brought the first sale of a product to the
// target.
func (w *world) awaitSale(product int) {
	w.t.Helper()
	until(w.t, "the sale to arrive", func() bool {
		return w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id = ? AND id = ? AND stock = ?`, int64(w.shop), product, product+6) == 1
	})
}

// awaitWaiter waits until a mover asks for the exclusive lock, which it doesn't
// get while a writer has its own.
func awaitWaiter(ctx context.Context, db *sql.DB, f testcluster.Family) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+sessions[f]+`
			WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '%podworks_fence%FOR UPDATE%'`).Scan(&n)
		if err != nil || n > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// sessions are the tables of sessions. MySQL's information_schema has one too,
// which can't be read while any statement has a character of four bytes.
var sessions = map[testcluster.Family]string{
	testcluster.MariaDB: `information_schema.processlist`,
	testcluster.MySQL:   `performance_schema.processlist`,
}

// More rows are touched during the copy than are remembered: nothing that was compared
// behind it counts, and everything is compared after it.
func TestAShopThatChangesFasterThanItIsCopiedIsComparedAfterTheCopy(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 200})
		w.fill(w.shop, 3000)
		w.exec(w.source, `INSERT INTO orders VALUES (?, 3, 'x', NULL), (?, 4, 'y', 'c')`, int64(w.shop), int64(w.shop))
		tr := &trail{at: map[string]func(){
			"compare": func() { // of the first wave, which has all orders
				w.exec(w.source, `UPDATE products SET stock = stock + 1 WHERE shop_id = ? AND id % 50 = 0`, int64(w.shop))
				w.exec(w.source, `DELETE FROM products WHERE shop_id = ? AND id % 100 = 7`, int64(w.shop))
				w.exec(w.source, `INSERT INTO orders VALUES (?, 1, 'a', NULL), (?, 2, 'b', 'c')`, int64(w.shop), int64(w.shop))
			},
			"verify": func() {
				w.exec(w.target, `DELETE FROM orders WHERE shop_id = ? AND id = 3`, int64(w.shop))
			},
		}}
		ctx := hook.With(t.Context(), &hook.Set{Step: tr.hear, Off: map[hook.Protection]bool{ferry.OffMany: true}})
		report, err := w.ferry.Move(ctx, w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		rows := w.count(w.source, `SELECT (SELECT COUNT(*) FROM products WHERE shop_id = ?) + (SELECT COUNT(*) FROM orders WHERE shop_id = ?)`, int64(w.shop), int64(w.shop))
		if report.RowsRepaired != 1 || report.RowsVerified != rows {
			t.Errorf("got %d rows repaired and %d verified, want 1 and %d", report.RowsRepaired, report.RowsVerified, rows)
		}
		w.same("products")
		w.same("orders")
	})
}
