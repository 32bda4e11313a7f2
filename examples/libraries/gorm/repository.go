// Package gorm puts a repository written with gorm on the pod of a shop's scope:
// one *gorm.DB for each pod, and Scope.Tx in the place of gorm's transactions.
//
// DB.Transaction on what DB returns is fenced too, but fails with ErrMoved where
// Tx waits, and runs no commit hooks. Inside of Tx it is a savepoint, and knows
// nothing of hooks either: nest Tx.
//
// What is not promised: with PrepareStmt, units of work that prepare the same
// statement at the same time share the outcome. One whose context has ended
// makes the others fail; doing it again helps.
package gorm

import (
	"context"
	"database/sql"
	"maps"
	"sync"

	"gorm.io/driver/mysql"
	"gorm.io/gorm"

	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/sharding"
)

// Pods are gorm on each pod. They may be used concurrently.
type Pods struct {
	config gorm.Config
	pools  sync.Map // *sql.DB to func() (*gorm.DB, error)
}

// New returns gorm with a configuration for every pod, which must be one that
// gorm.Open hasn't had. A nil one is gorm's default.
func New(config *gorm.Config) *Pods {
	p := new(Pods)
	if config != nil {
		p.config = *config
	}
	return p
}

// DB returns gorm on the pod of the scope's shop. ctx is what its statements
// use; WithContext replaces it. Take it where you need it: it is another one
// after a move.
func (p *Pods) DB(ctx context.Context, s *sharding.Scope) (*gorm.DB, error) {
	pool := s.DB()
	open, ok := p.pools.Load(pool)
	if !ok {
		open, _ = p.pools.LoadOrStore(pool, sync.OnceValues(func() (*gorm.DB, error) { return p.open(pool) }))
	}
	db, err := open.(func() (*gorm.DB, error))()
	if err != nil {
		return nil, err
	}
	return db.WithContext(ctx), nil
}

// open makes gorm on a pool without asking the server. The pool refuses what
// gorm.Open asks, for it has no shop, and gorm.Open closes a pool that refuses:
// that of all the pod's shops. So gorm doesn't learn which server it is, and is
// told what it needs to know.
func (p *Pods) open(pool *sql.DB) (*gorm.DB, error) {
	config := p.config
	// gorm.Open writes into these, and two pods may be opened at once.
	config.ClauseBuilders, config.Plugins = maps.Clone(config.ClauseBuilders), maps.Clone(config.Plugins)
	config.DisableAutomaticPing = true
	return gorm.Open(mysql.New(mysql.Config{
		Conn:                      pool,
		SkipInitializeWithVersion: true,
		DontSupportForShareClause: true, // LOCK IN SHARE MODE is understood by both families
	}), &config)
}

// Tx runs fn in a transaction of Scope.Tx. fn must not commit it.
func (p *Pods) Tx(ctx context.Context, s *sharding.Scope, fn func(ctx context.Context, tx *gorm.DB) error) error {
	return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		db, err := p.DB(ctx, s)
		if err != nil {
			return err
		}
		// As gorm's Begin does it. WithContext has made the statement ours.
		db.Statement.ConnPool = tx.SQL()
		if prepared, ok := db.ConnPool.(*gorm.PreparedStmtDB); ok {
			db.Statement.ConnPool = &gorm.PreparedStmtTX{Tx: tx.SQL(), PreparedStmtDB: prepared}
		}
		return fn(ctx, db)
	})
}

// A product is a row of products. The ids of a batch's rows are apart by what
// shop.Numbers says, which gorm has to know.
type product struct {
	ShopID int64
	ID     int64 `gorm:"primaryKey;autoIncrementIncrement:1024"`
	Name   string
	Stock  int
}

func (p product) shop() shop.Product { return shop.Product{ID: p.ID, Name: p.Name, Stock: p.Stock} }

// An order is a row of orders.
type order struct {
	ShopID    int64
	ID        int64 `gorm:"primaryKey;autoIncrementIncrement:1024"`
	ProductID int64
	Quantity  int
}

// A Repository is the store of the scope's shop.
type Repository struct {
	Pods  *Pods
	Scope *sharding.Scope
}

var _ shop.Repository = Repository{}

// Add inserts one row.
func (r Repository) Add(ctx context.Context, name string, stock int) (int64, error) {
	db, err := r.Pods.DB(ctx, r.Scope)
	if err != nil {
		return 0, err
	}
	p := product{ShopID: int64(r.Scope.Shop()), Name: name, Stock: stock}
	err = db.Create(&p).Error
	return p.ID, err
}

// Products reads the rows into a slice.
func (r Repository) Products(ctx context.Context) ([]shop.Product, error) {
	db, err := r.Pods.DB(ctx, r.Scope)
	if err != nil {
		return nil, err
	}
	var rows []product
	if err := db.Where("shop_id = ?", r.Scope.Shop()).Order("id").Find(&rows).Error; err != nil {
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
	db, err := r.Pods.DB(ctx, r.Scope)
	if err != nil {
		return err
	}
	rows, err := db.Model(&product{}).Where("shop_id = ?", r.Scope.Shop()).Order("id").Rows()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var p product
		if err := db.ScanRows(rows, &p); err != nil {
			return err
		}
		if err := fn(p.shop()); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Sell is a transaction.
func (r Repository) Sell(ctx context.Context, productID int64, quantity int) (int64, error) {
	o := order{ShopID: int64(r.Scope.Shop()), ProductID: productID, Quantity: quantity}
	err := r.Pods.Tx(ctx, r.Scope, func(_ context.Context, tx *gorm.DB) error {
		if err := tx.Create(&o).Error; err != nil {
			return err
		}
		took := tx.Model(&product{}).Where("shop_id = ? AND id = ? AND stock >= ?", o.ShopID, productID, quantity).
			Update("stock", gorm.Expr("stock - ?", quantity))
		if took.Error != nil || took.RowsAffected == 1 {
			return took.Error
		}
		return shop.ErrSoldOut
	})
	return o.ID, err
}
