// Package ent puts a repository written with ent on the pod of a shop's scope.
// On and Tx are all there is to copy. They make a client for each use, which
// costs a microsecond and no I/O; ent does the same for its transactions.
//
// Some of ent's single writes are transactions of several statements
// (UpdateOne, and what has edges). On the pool they are fenced, and fail with
// ErrMoved where Tx waits.
//
// What is not promised: ent's own commit hooks (Tx.OnCommit) are not run, since
// ent doesn't commit here; podworks.TxFrom(ctx) has hooks that are. ent doesn't
// stream: page by the id. It numbers the rows of CreateBulk itself, in ones,
// which is wrong with shop.Numbers: give ids to a bulk's rows, or don't read
// them from what it returns.
package ent

import (
	"context"
	"errors"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/podworks/podworks/examples/libraries/ent/client"
	"github.com/podworks/podworks/examples/libraries/ent/client/product"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/sharding"
)

//go:generate go run entgo.io/ent/cmd/ent@v0.14.5 generate --target ./client ./schema

// On returns ent on the pod of the scope's shop. Take it where you need it: it
// is another one after a move. Don't Close it: the pool is the pod's.
func On(s *sharding.Scope) *client.Client {
	return client.NewClient(client.Driver(entsql.OpenDB(dialect.MySQL, s.DB())))
}

// Tx runs fn in a transaction of Scope.Tx.
func Tx(ctx context.Context, s *sharding.Scope, fn func(ctx context.Context, c *client.Client) error) error {
	return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		return fn(ctx, client.NewClient(client.Driver(driver{entsql.NewDriver(dialect.MySQL, entsql.Conn{ExecQuerier: tx.SQL()})})))
	})
}

// A driver is ent's on a transaction that is open: what ent would put into a
// transaction is in this one.
type driver struct{ *entsql.Driver }

// Tx returns the transaction that is open, and whose end is not ent's.
func (d driver) Tx(context.Context) (dialect.Tx, error) { return dialect.NopTx(d), nil }

// BeginTx is Tx for who wants another isolation, which an open transaction can't
// have.
func (driver) BeginTx(context.Context, *entsql.TxOptions) (dialect.Tx, error) {
	return nil, errors.New("ent: BeginTx inside of Tx, whose transaction has begun; want Tx, which is that one")
}

// Close leaves the transaction open.
func (driver) Close() error { return nil }

// A Repository is the store of the scope's shop.
type Repository struct{ Scope *sharding.Scope }

var _ shop.Repository = Repository{}

// Add inserts one row.
func (r Repository) Add(ctx context.Context, name string, stock int) (int64, error) {
	p, err := On(r.Scope).Product.Create().SetShopID(int64(r.Scope.Shop())).SetName(name).SetStock(stock).Save(ctx)
	if err != nil {
		return 0, err
	}
	return p.ID, nil
}

// Products reads the rows into a slice.
func (r Repository) Products(ctx context.Context) ([]shop.Product, error) {
	rows, err := On(r.Scope).Product.Query().Where(product.ShopID(int64(r.Scope.Shop()))).Order(product.ByID()).All(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]shop.Product, len(rows))
	for i, p := range rows {
		out[i] = shop.Product{ID: p.ID, Name: p.Name, Stock: p.Stock}
	}
	return out, nil
}

const page = 500

// Each reads a page at a time. A move may come between two: then the next is the
// new pod's, from the same id on.
func (r Repository) Each(ctx context.Context, fn func(shop.Product) error) error {
	for last := int64(0); ; {
		rows, err := On(r.Scope).Product.Query().
			Where(product.ShopID(int64(r.Scope.Shop())), product.IDGT(last)).
			Order(product.ByID()).Limit(page).All(ctx)
		if err != nil {
			return err
		}
		for _, p := range rows {
			if err := fn(shop.Product{ID: p.ID, Name: p.Name, Stock: p.Stock}); err != nil {
				return err
			}
			last = p.ID
		}
		if len(rows) < page {
			return nil
		}
	}
}

// Sell is a transaction.
func (r Repository) Sell(ctx context.Context, productID int64, quantity int) (order int64, err error) {
	id := int64(r.Scope.Shop())
	err = Tx(ctx, r.Scope, func(ctx context.Context, c *client.Client) error {
		o, err := c.Order.Create().SetShopID(id).SetProductID(productID).SetQuantity(quantity).Save(ctx)
		if err != nil {
			return err
		}
		order = o.ID
		// With the condition in the statement, and not UpdateOne, which would read
		// the row and write what it has read.
		n, err := c.Product.Update().Where(product.ShopID(id), product.ID(productID), product.StockGTE(quantity)).AddStock(-quantity).Save(ctx)
		if err != nil || n == 1 {
			return err
		}
		return shop.ErrSoldOut
	})
	return order, err
}
