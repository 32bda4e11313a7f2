// Package squirrel puts a repository written with Masterminds/squirrel on the
// pod of a shop's scope. The builders only make text: RunWith takes the scope's
// pool, or tx.SQL() in a transaction.
//
// The methods that matter are those with Context in their names: Exec, Query and
// QueryRow carry no shop, and are refused with ErrNoScope.
//
// What is not promised: a StmtCache belongs to one pod. Cached returns that of
// the scope's pod; a cache for all of them would be refused in every pod but the
// one that filled it.
package squirrel

import (
	"context"
	"sync"

	sq "github.com/Masterminds/squirrel"

	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/sharding"
)

// Caches are squirrel's caches of prepared statements, one for each pod. The
// zero value is ready to use. It may be used concurrently.
type Caches struct {
	pools sync.Map // *sql.DB to *sq.StmtCache
}

// Of returns the cache of the scope's pod.
func (c *Caches) Of(s *sharding.Scope) *sq.StmtCache {
	pool := s.DB()
	if cache, ok := c.pools.Load(pool); ok {
		return cache.(*sq.StmtCache)
	}
	cache, _ := c.pools.LoadOrStore(pool, sq.NewStmtCache(pool))
	return cache.(*sq.StmtCache)
}

// A Repository is the store of the scope's shop.
type Repository struct {
	Scope *sharding.Scope

	// Caches, if not nil, make what runs outside of transactions use prepared
	// statements.
	Caches *Caches
}

var _ shop.Repository = Repository{}

// run returns builders that run in the scope's pod.
func (r Repository) run() sq.StatementBuilderType {
	if r.Caches != nil {
		return sq.StatementBuilder.RunWith(r.Caches.Of(r.Scope))
	}
	return sq.StatementBuilder.RunWith(r.Scope.DB())
}

// Add inserts one row.
func (r Repository) Add(ctx context.Context, name string, stock int) (int64, error) {
	res, err := r.run().Insert("products").Columns("shop_id", "name", "stock").Values(r.Scope.Shop(), name, stock).ExecContext(ctx)
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

// Each streams the rows.
func (r Repository) Each(ctx context.Context, fn func(shop.Product) error) error {
	rows, err := r.run().Select("id", "name", "stock").From("products").Where(sq.Eq{"shop_id": r.Scope.Shop()}).OrderBy("id").QueryContext(ctx)
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

// Sell is a transaction.
func (r Repository) Sell(ctx context.Context, product int64, quantity int) (order int64, err error) {
	err = r.Scope.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		run := sq.StatementBuilder.RunWith(tx.SQL())
		res, err := run.Insert("orders").Columns("shop_id", "product_id", "quantity").Values(r.Scope.Shop(), product, quantity).ExecContext(ctx)
		if err != nil {
			return err
		}
		if order, err = res.LastInsertId(); err != nil {
			return err
		}
		res, err = run.Update("products").Set("stock", sq.Expr("stock - ?", quantity)).
			Where(sq.Eq{"shop_id": r.Scope.Shop(), "id": product}).Where(sq.GtOrEq{"stock": quantity}).ExecContext(ctx)
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
