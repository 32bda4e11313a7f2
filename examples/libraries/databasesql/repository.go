// Package databasesql puts a repository written with plain database/sql on the
// pod of a shop's scope. There is nothing to adapt: Scope.DB returns a *sql.DB.
//
// A read or a single write takes the pool; the write is fenced, and fails with
// ErrMoved when the shop has moved. A transaction takes Scope.Tx, which waits
// for the end of a move and runs its function in the new pod. A context without
// a scope, or with another pod's, is refused by every call.
//
// What is not promised: reads see the old pod's rows until the process has heard
// of a move.
package databasesql

import (
	"context"

	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/sharding"
)

// A Repository is the store of the scope's shop. The pool is taken from the
// scope for each call: it is another one after a move.
type Repository struct{ Scope *sharding.Scope }

var _ shop.Repository = Repository{}

// Add inserts one row. Without a transaction it costs a START TRANSACTION, the
// fence and a COMMIT of its own.
func (r Repository) Add(ctx context.Context, name string, stock int) (int64, error) {
	res, err := r.Scope.DB().ExecContext(ctx, `INSERT INTO products (shop_id, name, stock) VALUES (?, ?, ?)`, r.Scope.Shop(), name, stock)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// Products collects the rows.
func (r Repository) Products(ctx context.Context) ([]shop.Product, error) {
	var out []shop.Product
	err := r.Each(ctx, func(p shop.Product) error {
		out = append(out, p)
		return nil
	})
	return out, err
}

const products = `SELECT id, name, stock FROM products WHERE shop_id = ? ORDER BY id`

// Each streams the rows. They hold a connection until they are closed, and end
// with the scope.
func (r Repository) Each(ctx context.Context, fn func(shop.Product) error) error {
	rows, err := r.Scope.DB().QueryContext(ctx, products, r.Scope.Shop())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var p shop.Product
		if err := rows.Scan(&p.ID, &p.Name, &p.Stock); err != nil {
			return err
		}
		if err := fn(p); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Sell is a transaction. Its statements go through tx; those of the pool would
// be in transactions of their own.
func (r Repository) Sell(ctx context.Context, product int64, quantity int) (order int64, err error) {
	err = r.Scope.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, product_id, quantity) VALUES (?, ?, ?)`, r.Scope.Shop(), product, quantity)
		if err != nil {
			return err
		}
		if order, err = res.LastInsertId(); err != nil {
			return err
		}
		res, err = tx.ExecContext(ctx, `UPDATE products SET stock = stock - ? WHERE shop_id = ? AND id = ? AND stock >= ?`, quantity, r.Scope.Shop(), product, quantity)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return shop.ErrSoldOut
	})
	return order, err
}
