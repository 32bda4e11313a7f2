package shop

import (
	"context"
	"database/sql"
	"errors"

	"github.com/go-sql-driver/mysql"
)

var triggers = []string{
	`CREATE TRIGGER cart_items_shop BEFORE INSERT ON cart_items FOR EACH ROW
		SET NEW.shop_id = COALESCE(NEW.shop_id, (SELECT shop_id FROM carts WHERE id = NEW.cart_id))`,
	`CREATE TRIGGER order_items_shop BEFORE INSERT ON order_items FOR EACH ROW
		SET NEW.shop_id = COALESCE(NEW.shop_id, (SELECT shop_id FROM orders WHERE id = NEW.order_id))`,
}

// Expand makes the database ready for this step, while only processes of step 1
// run. When it has returned, processes of both steps may run.
//
// A process of step 1 goes on inserting items without a shop. The triggers fill
// it in: without them the rows that are written between the back-fill and the
// last process's end would be found by nobody.
func (a *App) Expand(ctx context.Context) error {
	err := change(ctx, a.db,
		`ALTER TABLE cart_items ADD COLUMN shop_id BIGINT NULL AFTER id, ADD KEY shop_id (shop_id, cart_id)`,
		`ALTER TABLE order_items ADD COLUMN shop_id BIGINT NULL AFTER id, ADD KEY shop_id (shop_id, order_id)`,
		`ALTER TABLE carts ADD KEY shop_id (shop_id, created_at)`,
		`ALTER TABLE daily_sales DROP PRIMARY KEY, ADD COLUMN id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY FIRST, ADD UNIQUE KEY shop_id (shop_id, day)`)
	if err != nil {
		return err
	}
	// CREATE TRIGGER waits for the transactions that have the table in use. What
	// they insert is there when the back-fill begins; what comes later is filled.
	if err := change(ctx, a.db, triggers...); err != nil {
		return err
	}
	if err := a.backfill(ctx, "cart_items", "carts", "cart_id"); err != nil {
		return err
	}
	return a.backfill(ctx, "order_items", "orders", "order_id")
}

// Batch is how many rows the back-fill locks at a time: few enough that a
// checkout that meets them doesn't notice.
const batch = 500

// backfill takes the shop of old items from what they belong to, along the
// primary key. It goes on where it broke off, since it looks for NULLs.
func (a *App) backfill(ctx context.Context, items, owners, column string) error {
	for from := int64(0); ; {
		var to int64 // 0 at the table's end
		err := a.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM (SELECT id FROM `+items+` WHERE id > ? ORDER BY id LIMIT ?) AS next`, from, batch).Scan(&to)
		if err != nil || to == 0 {
			return err
		}
		// READ COMMITTED reads the owners without a lock. A checkout locks the cart and
		// then its items; who locked an item and then its cart would meet it in a deadlock.
		tx, err := a.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE `+items+` SET shop_id = (SELECT shop_id FROM `+owners+` WHERE id = `+column+`)
			WHERE id > ? AND id <= ? AND shop_id IS NULL`, from, to)
		if err != nil {
			tx.Rollback()
			// A checkout inserts items behind the trigger, which reads their order under a
			// lock. If both are in each other's way all the same, this can begin again.
			if e := (*mysql.MySQLError)(nil); errors.As(err, &e) && e.Number == 1213 {
				continue
			}
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		from = to
	}
}

// Contract ends the change, when the last process of step 1 has ended. It fails
// if a row is left that is nobody's: look at it, and delete it.
func (a *App) Contract(ctx context.Context) error {
	return change(ctx, a.db,
		`DROP TRIGGER IF EXISTS cart_items_shop`,
		`DROP TRIGGER IF EXISTS order_items_shop`,
		`ALTER TABLE cart_items MODIFY shop_id BIGINT NOT NULL, DROP KEY cart_id`,
		`ALTER TABLE order_items MODIFY shop_id BIGINT NOT NULL, DROP KEY order_id`)
}

// Revert makes the database ready for processes of step 1 again, beside those of
// this one.
func (a *App) Revert(ctx context.Context) error {
	err := change(ctx, a.db,
		// NULL, since MariaDB may refuse a row without it before the trigger runs.
		`ALTER TABLE cart_items MODIFY shop_id BIGINT NULL, ADD KEY cart_id (cart_id)`,
		`ALTER TABLE order_items MODIFY shop_id BIGINT NULL, ADD KEY order_id (order_id)`)
	if err != nil {
		return err
	}
	return change(ctx, a.db, triggers...)
}

// Forget ends the way back, when the last process of this step has ended.
func (a *App) Forget(ctx context.Context) error {
	return change(ctx, a.db,
		`DROP TRIGGER IF EXISTS cart_items_shop`,
		`DROP TRIGGER IF EXISTS order_items_shop`,
		`ALTER TABLE cart_items DROP KEY shop_id, DROP COLUMN shop_id`,
		`ALTER TABLE order_items DROP KEY shop_id, DROP COLUMN shop_id`,
		`ALTER TABLE carts DROP KEY shop_id`,
		`ALTER TABLE daily_sales DROP PRIMARY KEY, DROP COLUMN id, DROP KEY shop_id, ADD PRIMARY KEY (shop_id, day)`)
}
