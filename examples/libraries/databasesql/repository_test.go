package databasesql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/databasesql"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func on(s *sharding.Scope) shop.Repository { return databasesql.Repository{Scope: s} }

func TestStory(t *testing.T) {
	t.Parallel()
	librarytest.Run(t, librarytest.Library{
		On: on,
		Hold: func(_ context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			pool := s.DB()
			return func(ctx context.Context) error {
				var n int
				return pool.QueryRowContext(ctx, `SELECT COUNT(*) FROM products`).Scan(&n)
			}, nil
		},
		Own: func(ctx context.Context, s *sharding.Scope) error {
			tx, err := s.DB().BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, `INSERT INTO products (shop_id, name, stock) VALUES (?, 'hat', 1)`, s.Shop()); err != nil {
				return err
			}
			return tx.Commit()
		},
	})
}

// A prepared statement has nothing of a shop, only of its pod: one serves all
// the pod's shops, and another pod's are refused.
func TestAPreparedStatementServesTheShopsOfItsPod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		one, other, elsewhere := w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 2))
		insert, err := one.DB().PrepareContext(one, `INSERT INTO products (shop_id, name, stock) VALUES (?, 'hat', 1)`)
		if err != nil {
			t.Fatal(err)
		}
		defer insert.Close()
		for _, s := range []*sharding.Scope{one, other} {
			if _, err := insert.ExecContext(s, s.Shop()); err != nil {
				t.Errorf("shop %d: %v", s.Shop(), err)
			}
			w.WantRows(t, 1, s.Shop(), 1, 0)
		}
		if _, err := insert.ExecContext(elsewhere, elsewhere.Shop()); !errors.Is(err, sharding.ErrCrossPod) {
			t.Errorf("a shop of the other pod: got %v, want ErrCrossPod", err)
		}
		if _, err := insert.ExecContext(t.Context(), one.Shop()); !errors.Is(err, sharding.ErrNoScope) {
			t.Errorf("no scope: got %v, want ErrNoScope", err)
		}
		// In a transaction it is the transaction's.
		err = one.Tx(one, func(ctx context.Context, tx *sharding.Tx) error {
			if _, err := tx.SQL().StmtContext(ctx, insert).ExecContext(ctx, one.Shop()); err != nil {
				return err
			}
			return shop.ErrSoldOut
		})
		if !errors.Is(err, shop.ErrSoldOut) {
			t.Errorf("in a transaction: got %v, want ErrSoldOut", err)
		}
		w.WantRows(t, 1, one.Shop(), 1, 0)
	})
}

func TestStatements(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s, rec := librarytest.Shared(t, f).Record(t, nil)
		r := on(s)
		hat, err := r.Add(s, "hat", 10)
		if err != nil {
			t.Fatal(err)
		}
		rec.Want(t, "a read", "prepare SELECT, execute", func() error { _, err := r.Products(s); return err })
		rec.Want(t, "a single write", "START, fence, prepare INSERT, execute, COMMIT", func() error { _, err := r.Add(s, "mug", 1); return err })
		rec.Want(t, "a transaction", "START, fence, prepare INSERT, execute, prepare UPDATE, execute, COMMIT", func() error { _, err := r.Sell(s, hat, 1); return err })
		rec.Want(t, "a savepoint", "START, fence, SAVEPOINT, prepare INSERT, execute, prepare UPDATE, execute, RELEASE, COMMIT", func() error {
			return s.Tx(s, func(ctx context.Context, _ *sharding.Tx) error { _, err := r.Sell(ctx, hat, 1); return err })
		})
	})
}

// The driver prepares what has arguments. With InterpolateParams it writes them
// into the text instead, which saves a round trip for each statement, whatever
// the library.
func TestInterpolateParamsSavesTheRoundTripOfPreparing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s, rec := librarytest.Shared(t, f).Record(t, func(cfg *mysql.Config) { cfg.InterpolateParams = true })
		r := on(s)
		hat, err := r.Add(s, "hat", 10)
		if err != nil {
			t.Fatal(err)
		}
		rec.Want(t, "a read", "SELECT", func() error { _, err := r.Products(s); return err })
		rec.Want(t, "a single write", "START, fence, INSERT, COMMIT", func() error { _, err := r.Add(s, "mug", 1); return err })
		rec.Want(t, "a transaction", "START, fence, INSERT, UPDATE, COMMIT", func() error { _, err := r.Sell(s, hat, 1); return err })
	})
}

// The twin of GoesOnAfterAMove: the same sale on a pool without the fence, by a
// process that has not heard of the move.
func TestWithoutTheFenceASaleGoesToThePodTheShopHasLeft(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		if _, err := on(s).Add(s, "hat", 3); err != nil {
			t.Fatal(err)
		}
		w.Move(t, s.Shop(), 2, nil)
		if _, err := w.Plain(s.Route().Pod).ExecContext(t.Context(), `INSERT INTO orders (shop_id, product_id, quantity) VALUES (?, 1, 1)`, s.Shop()); err != nil {
			t.Fatal(err)
		}
		w.WantRows(t, 1, s.Shop(), 1, 1) // acknowledged, and lost with the old pod's rows
		w.WantRows(t, 2, s.Shop(), 1, 0)
	})
}

// The twin of KeepsManyShopsApart, and the reason why each pod has a pool: one
// pool over a connector that picks the pod by the context. The pool hands out
// whatever connection is free.
func TestOnePoolForAllPodsSendsRowsToTheWrongOne(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		one, two := w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 2))
		db := sql.OpenDB(byContext{w.Connectors(t, nil)})
		defer db.Close()
		for _, s := range []*sharding.Scope{one, two} {
			if _, err := db.ExecContext(s, `INSERT INTO products (shop_id, name, stock) VALUES (?, 'hat', 1)`, s.Shop()); err != nil {
				t.Fatal(err)
			}
		}
		w.WantRows(t, 1, two.Shop(), 1, 0)
		w.WantRows(t, 2, two.Shop(), 0, 0)
	})
}

// byContext is what not to write.
type byContext struct {
	pods map[podworks.PodID]driver.Connector
}

func (c byContext) Driver() driver.Driver { return c.pods[1].Driver() }

func (c byContext) Connect(ctx context.Context) (driver.Conn, error) {
	r, ok := podworks.RouteFrom(ctx)
	if !ok {
		return nil, sharding.ErrNoScope
	}
	return c.pods[r.Pod].Connect(ctx)
}
