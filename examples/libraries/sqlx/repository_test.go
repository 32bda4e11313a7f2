package sqlx_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	adapter "github.com/podworks/podworks/examples/libraries/sqlx"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func on(s *sharding.Scope) shop.Repository { return adapter.Repository{Scope: s} }

func TestStory(t *testing.T) {
	t.Parallel()
	librarytest.Run(t, librarytest.Library{
		On: on,
		Hold: func(ctx context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			stmt, err := adapter.DB(s).PreparexContext(ctx, `SELECT COUNT(*) FROM products`)
			return func(ctx context.Context) error {
				var n int
				return stmt.GetContext(ctx, &n)
			}, err
		},
		Own: func(ctx context.Context, s *sharding.Scope) error {
			tx, err := adapter.DB(s).BeginTxx(ctx, nil)
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

// sqlx has two of each method. The one without a context has no shop, in a
// transaction too.
func TestMethodsWithoutAContextAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		var n int
		if err := adapter.DB(s).Get(&n, `SELECT 1`); !errors.Is(err, sharding.ErrNoScope) {
			t.Errorf("DB.Get: got %v, want ErrNoScope", err)
		}
		err := adapter.Tx(s, s, func(_ context.Context, tx *sqlx.Tx) error {
			_, err := tx.Exec(`INSERT INTO products (shop_id, name, stock) VALUES (?, 'hat', 1)`, s.Shop())
			return err
		})
		if !errors.Is(err, sharding.ErrNoScope) {
			t.Errorf("Tx.Exec: got %v, want ErrNoScope", err)
		}
		w.WantRows(t, 1, s.Shop(), 0, 0)
	})
}

// What sqlx works out from the driver's name works without one.
func TestPlaceholdersInATransaction(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		err := adapter.Tx(s, s, func(ctx context.Context, tx *sqlx.Tx) error {
			query, args, err := sqlx.In(`SELECT COUNT(*) FROM products WHERE id IN (?)`, []int{1, 2, 3})
			if err != nil {
				return err
			}
			var n int
			if err := tx.GetContext(ctx, &n, tx.Rebind(query), args...); err != nil {
				return err
			}
			stmt, err := tx.PrepareNamedContext(ctx, `SELECT COUNT(*) FROM products WHERE shop_id = :shop`)
			if err != nil {
				return err
			}
			defer stmt.Close()
			return stmt.GetContext(ctx, &n, map[string]any{"shop": s.Shop()})
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Who commits by habit is told, and nothing is written.
func TestCommittingTheScopesTransactionIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		err := adapter.Tx(s, s, func(ctx context.Context, tx *sqlx.Tx) error {
			if _, err := tx.ExecContext(ctx, `INSERT INTO products (shop_id, name, stock) VALUES (?, 'hat', 1)`, s.Shop()); err != nil {
				return err
			}
			return tx.Commit()
		})
		if !errors.Is(err, sharding.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
		w.WantRows(t, 1, s.Shop(), 0, 0)
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
	})
}
