package sqlc_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/examples/libraries/sqlc"
	"github.com/podworks/podworks/examples/libraries/sqlc/store"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func on(s *sharding.Scope) shop.Repository { return sqlc.Repository{Scope: s} }

func TestStory(t *testing.T) {
	t.Parallel()
	librarytest.Run(t, librarytest.Library{
		On: on,
		Hold: func(_ context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			q := store.New(s.DB())
			return func(ctx context.Context) error { _, err := q.Products(ctx, 1); return err }, nil
		},
	})
}

func TestStoryWithPreparedQueries(t *testing.T) {
	t.Parallel()
	prepared := new(sqlc.Prepared)
	librarytest.Run(t, librarytest.Library{
		On: func(s *sharding.Scope) shop.Repository { return sqlc.Repository{Scope: s, Prepared: prepared} },
		Hold: func(ctx context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			q, err := prepared.Of(ctx, s)
			return func(ctx context.Context) error { _, err := q.Products(ctx, 1); return err }, err
		},
	})
}

// The twin of Prepared: one set of prepared queries for the whole process.
func TestOneSetOfPreparedQueriesIsRefusedInTheOtherPods(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		one, two := w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 2))
		q, err := store.Prepare(one, one.DB())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if _, err := q.Products(two, int64(two.Shop())); !errors.Is(err, sharding.ErrCrossPod) {
			t.Errorf("in the other pod: got %v, want ErrCrossPod", err)
		}
		// In the other pod's transaction too: the text would be prepared again
		// there, but by the pool of the first.
		err = two.Tx(two, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := q.WithTx(tx.SQL()).Products(ctx, int64(two.Shop()))
			return err
		})
		if err == nil {
			t.Error("in the other pod's transaction: got no error")
		}
	})
}

func TestPreparingNeedsAScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		prepared := new(sqlc.Prepared)
		if _, err := prepared.Of(t.Context(), s); !errors.Is(err, sharding.ErrNoScope) {
			t.Errorf("with a context that has no scope: got %v, want ErrNoScope", err)
		}
		if _, err := prepared.Of(s, s); err != nil {
			t.Errorf("the next one, with the scope: %v", err)
		}
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

		r = sqlc.Repository{Scope: s, Prepared: new(sqlc.Prepared)}
		rec.Want(t, "a prepared read", "execute", func() error { _, err := r.Products(s); return err })
		rec.Want(t, "a prepared single write", "START, fence, execute, COMMIT", func() error { _, err := r.Add(s, "mug", 1); return err })
		rec.Want(t, "a prepared transaction", "START, fence, execute, execute, COMMIT", func() error { _, err := r.Sell(s, hat, 1); return err })
	})
}
