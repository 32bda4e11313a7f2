package ferry_test

import (
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// The probes are cases in which other movers lose rows and report success, or
// fail when the shop is locked already. These are the ones that a plan answers.

// refusedUntouched fails the test unless Move refuses the world's shop for that
// reason before anything is touched.
func (w *world) refusedUntouched(says ...string) {
	w.t.Helper()
	before := w.checksums()
	tr := &trail{}
	_, err := w.ferry.Move(tr.follow(w.t.Context()), w.shop, 2)
	contains(w.t, err, ferry.ErrRefused, says...)
	if len(tr.steps) > 0 {
		w.t.Errorf("the move came to %q", tr.steps)
	}
	if after := w.checksums(); after != before {
		w.t.Errorf("something was touched: the tables had the checksums\n%s\nand have\n%s", before, after)
	}
}

// moves fails the test unless the world's shop can be moved.
func (w *world) moves() {
	w.t.Helper()
	if plan := w.plan(2); plan.Refused() {
		w.t.Errorf("want a plan, got\n%v", plan)
	}
	if _, err := w.ferry.Move(w.t.Context(), w.shop, 2); err != nil {
		w.t.Error(err)
	}
}

func TestProbeM3ARowLeftOnTheTargetUnderAFreeKeyIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.exec(w.target, `INSERT INTO products VALUES (7, 5000, 'left', 1, 1), (9, 1, 'of another shop', 1, 1)`)
		w.refusedUntouched("pod 2, table products: 1 rows of shop 7 are there already")
		w.exec(w.target, `DELETE FROM products WHERE shop_id = 7`)
		w.moves()
		w.same("products")
	})
}

func TestProbeM12AnIdTakenByAnotherShopIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE stamps (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, shop_id INT NOT NULL, code VARCHAR(9), KEY (shop_id), UNIQUE KEY (code))`, nil)
		w.fill(w.shop, 20)
		w.exec(w.source, `INSERT INTO stamps VALUES (1, 7, 'a'), (2, 7, 'b'), (3, 8, 'c')`)
		w.exec(w.target, `INSERT INTO stamps VALUES (2, 55, 'B'), (3, 55, 'x')`)
		w.refusedUntouched("pod 2, table stamps: other shops' rows there have 1 of the shop's ids (unique key PRIMARY: id), for example (2) of shop 55",
			"other shops' rows there have 1 of the shop's values (unique key code: code), for example (B) of shop 55")
		w.exec(w.target, `UPDATE stamps SET id = 4, code = 'd' WHERE id = 2`)
		w.moves()
	})
}

func TestProbeM18ASchemaChangeThatOneSideLacksIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		for _, c := range []struct{ change, says string }{
			{`ALTER TABLE orders ADD COLUMN colour INT`, "table orders: column colour is on pod 1 only; in pod 2: ALTER TABLE `orders` ADD COLUMN `colour` int"},
			{`ALTER TABLE orders MODIFY COLUMN token VARCHAR(50) NOT NULL`, "table orders: column token: the type is varchar(50) on pod 1 and varchar(40) on pod 2; in pod 2: ALTER TABLE `orders` MODIFY COLUMN `token` varchar(50)"},
			{`ALTER TABLE orders RENAME COLUMN note TO remark`, "column remark is on pod 1 only"},
			{`ALTER TABLE orders RENAME COLUMN remark TO note`, "table orders: column colour is on pod 1 only"},
		} {
			w.exec(w.source, c.change)
			w.refusedUntouched(c.says)
		}
		w.script(w.target, `ALTER TABLE orders ADD COLUMN colour INT; ALTER TABLE orders MODIFY COLUMN token VARCHAR(50) NOT NULL`)
		w.moves()
	})
}

func TestProbeM19ViewsAreNoTables(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.exec(w.source, `CREATE VIEW cheap AS SELECT * FROM products WHERE price < 10`)
		plan := w.plan(2)
		for _, table := range plan.Tables {
			if table.Name == "cheap" {
				t.Error("the view is in the plan")
			}
		}
		w.moves()
	})
}
