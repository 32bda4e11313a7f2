package shop

import (
	"context"
	"database/sql"
	"net/http"
	"time"

	"github.com/podworks/podworks/sharding"
)

type order struct {
	ID      int64
	Email   string
	Cents   int64
	Created time.Time
	Items   []item
}

// checkout makes an order of a cart.
func (a *App) checkout(ctx context.Context, r *http.Request) (any, error) {
	var o order
	if err := read(r, &o); err != nil {
		return nil, err
	}
	user, err := a.userID(ctx, o.Email)
	if err != nil {
		return nil, err
	}
	// The buyer is in another database, so there is no transaction of both: the
	// buyer comes first. One without an order does no harm.
	err = write(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		return a.place(ctx, tx, r.PathValue("token"), user, &o)
	})
	return o, err
}

// place turns the cart with that token into the order. What it is going to write
// it reads FOR UPDATE: a transaction that has read a table and then writes to it
// is in a deadlock with an ALTER TABLE that came in between.
func (a *App) place(ctx context.Context, tx *sharding.Tx, token string, user int64, o *order) error {
	shop := shopOf(ctx)
	// The second press of a button waits here, and finds no cart.
	var cart int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM carts WHERE shop_id = ? AND token = ? FOR UPDATE`, shop, token).Scan(&cart)
	if err != nil {
		return err
	}
	// In the order of the products, so that two orders never wait for each other.
	o.Items, err = items(ctx, tx, `SELECT product_id, quantity, 0 FROM cart_items WHERE shop_id = ? AND cart_id = ? ORDER BY product_id FOR UPDATE`, shop, cart)
	if err != nil {
		return err
	}
	if len(o.Items) == 0 {
		return errBadRequest
	}
	o.Cents = 0
	for n := range o.Items {
		i := &o.Items[n]
		var stock int
		err := tx.QueryRowContext(ctx, `SELECT cents, stock FROM products WHERE shop_id = ? AND id = ? FOR UPDATE`, shop, i.Product).Scan(&i.Cents, &stock)
		if err != nil {
			return err
		}
		if stock < i.Quantity {
			return errSoldOut
		}
		if _, err := tx.ExecContext(ctx, `UPDATE products SET stock = stock - ? WHERE shop_id = ? AND id = ?`, i.Quantity, shop, i.Product); err != nil {
			return err
		}
		o.Cents += i.Cents * int64(i.Quantity)
	}
	o.Created = now()
	if o.ID, err = a.ids.Next(ctx); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO orders (id, shop_id, user_id, cents, created_at) VALUES (?, ?, ?, ?, ?)`,
		o.ID, shop, user, o.Cents, o.Created)
	if err != nil {
		return err
	}
	for _, i := range o.Items {
		id, err := a.ids.Next(ctx)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO order_items (id, shop_id, order_id, product_id, quantity, cents) VALUES (?, ?, ?, ?, ?, ?)`,
			id, shop, o.ID, i.Product, i.Quantity, i.Cents)
		if err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM cart_items WHERE shop_id = ? AND cart_id = ?`, shop, cart); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM carts WHERE shop_id = ? AND id = ?`, shop, cart)
	return err
}

func (a *App) order(ctx context.Context, r *http.Request) (any, error) {
	var o order
	var user int64
	err := pod(ctx).QueryRowContext(ctx, `SELECT id, user_id, cents, created_at FROM orders WHERE shop_id = ? AND id = ?`,
		shopOf(ctx), r.PathValue("id")).Scan(&o.ID, &user, &o.Cents, &o.Created)
	if err != nil {
		return nil, err
	}
	if o.Email, err = a.email(ctx, user); err != nil {
		return nil, err
	}
	o.Items, err = items(ctx, pod(ctx), `SELECT product_id, quantity, cents FROM order_items WHERE shop_id = ? AND order_id = ? ORDER BY product_id`, shopOf(ctx), o.ID)
	return o, err
}

// items reads a query's items from a pool or in a transaction.
func items(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, query string, args ...any) ([]item, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []item
	for rows.Next() {
		var i item
		if err := rows.Scan(&i.Product, &i.Quantity, &i.Cents); err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, rows.Err()
}
