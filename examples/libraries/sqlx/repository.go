// Package sqlx puts a repository written with jmoiron/sqlx on the pod of a
// shop's scope. DB and Tx are all there is to copy; what they return are sqlx's
// own types.
//
// The methods that matter are those with Context in their names: Get, Select and
// NamedExec carry no shop, and are refused with ErrNoScope.
//
// What is not promised: BeginTxx on the pool is fenced too, but fails with
// ErrMoved where Tx waits, and runs no commit hooks.
package sqlx

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/sharding"
)

// DB returns sqlx on the pod of the scope's shop. It costs an allocation; take
// it where you need it, for it is another one after a move.
func DB(s *sharding.Scope) *sqlx.DB { return sqlx.NewDb(s.DB(), "mysql") }

// Tx runs fn in a transaction of Scope.Tx. fn must not commit it.
//
// The literal leaves out the driver's name, which sqlx doesn't let us set. It
// asks it for the kind of placeholder, and falls back to MySQL's question mark.
func Tx(ctx context.Context, s *sharding.Scope, fn func(ctx context.Context, tx *sqlx.Tx) error) error {
	return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		return fn(ctx, &sqlx.Tx{Tx: tx.SQL(), Mapper: DB(s).Mapper})
	})
}

// A Repository is the store of the scope's shop.
type Repository struct{ Scope *sharding.Scope }

var _ shop.Repository = Repository{}

// A product is a row as sqlx maps it.
type product struct {
	ShopID int64 `db:"shop_id"`
	ID     int64
	Name   string
	Stock  int
}

func (p product) shop() shop.Product { return shop.Product{ID: p.ID, Name: p.Name, Stock: p.Stock} }

// Add inserts one row from a struct.
func (r Repository) Add(ctx context.Context, name string, stock int) (int64, error) {
	res, err := DB(r.Scope).NamedExecContext(ctx, `INSERT INTO products (shop_id, name, stock) VALUES (:shop_id, :name, :stock)`,
		product{ShopID: int64(r.Scope.Shop()), Name: name, Stock: stock})
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

const products = `SELECT shop_id, id, name, stock FROM products WHERE shop_id = ? ORDER BY id`

// Products reads the rows into a slice.
func (r Repository) Products(ctx context.Context) ([]shop.Product, error) {
	var rows []product
	if err := DB(r.Scope).SelectContext(ctx, &rows, products, r.Scope.Shop()); err != nil {
		return nil, err
	}
	out := make([]shop.Product, len(rows))
	for i, p := range rows {
		out[i] = p.shop()
	}
	return out, nil
}

// Each streams the rows.
func (r Repository) Each(ctx context.Context, fn func(shop.Product) error) error {
	rows, err := DB(r.Scope).QueryxContext(ctx, products, r.Scope.Shop())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var p product
		if err := rows.StructScan(&p); err != nil {
			return err
		}
		if err := fn(p.shop()); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Sell is a transaction.
func (r Repository) Sell(ctx context.Context, product int64, quantity int) (order int64, err error) {
	err = Tx(ctx, r.Scope, func(ctx context.Context, tx *sqlx.Tx) error {
		args := map[string]any{"shop": r.Scope.Shop(), "product": product, "quantity": quantity}
		res, err := tx.NamedExecContext(ctx, `INSERT INTO orders (shop_id, product_id, quantity) VALUES (:shop, :product, :quantity)`, args)
		if err != nil {
			return err
		}
		if order, err = res.LastInsertId(); err != nil {
			return err
		}
		res, err = tx.NamedExecContext(ctx, `UPDATE products SET stock = stock - :quantity WHERE shop_id = :shop AND id = :product AND stock >= :quantity`, args)
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
