package squirrel_test

import (
	"context"
	"errors"
	"os"
	"testing"

	sq "github.com/Masterminds/squirrel"

	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/examples/libraries/squirrel"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func on(s *sharding.Scope) shop.Repository { return squirrel.Repository{Scope: s} }

func TestStory(t *testing.T) {
	t.Parallel()
	librarytest.Run(t, librarytest.Library{
		On: on,
		Hold: func(_ context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			query := sq.Select("COUNT(*)").From("products").RunWith(s.DB())
			return func(ctx context.Context) error {
				var n int
				return query.QueryRowContext(ctx).Scan(&n)
			}, nil
		},
	})
}

func TestStoryWithPreparedStatements(t *testing.T) {
	t.Parallel()
	caches := new(squirrel.Caches)
	librarytest.Run(t, librarytest.Library{
		On: func(s *sharding.Scope) shop.Repository { return squirrel.Repository{Scope: s, Caches: caches} },
		Hold: func(_ context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			query := sq.Select("COUNT(*)").From("products").RunWith(caches.Of(s))
			return func(ctx context.Context) error {
				var n int
				return query.QueryRowContext(ctx).Scan(&n)
			}, nil
		},
	})
}

func TestMethodsWithoutAContextAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		_, err := sq.Insert("products").Columns("shop_id", "name", "stock").Values(s.Shop(), "hat", 1).RunWith(s.DB()).Exec()
		if !errors.Is(err, sharding.ErrNoScope) {
			t.Errorf("Exec: got %v, want ErrNoScope", err)
		}
		w.WantRows(t, 1, s.Shop(), 0, 0)
	})
}

// The twin of Caches: one cache for the whole process. It prepares in the pod
// that asks first, and keeps the statement by its text alone.
func TestOneCacheForAllPodsIsRefusedInTheOthers(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		one, two := w.Acquire(t, w.Shop(t, 1)), w.Acquire(t, w.Shop(t, 2))
		cache := sq.NewStmtCache(one.DB())
		query := sq.Select("COUNT(*)").From("products").RunWith(cache)
		var n int
		if err := query.QueryRowContext(one).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if err := query.QueryRowContext(two).Scan(&n); !errors.Is(err, sharding.ErrCrossPod) {
			t.Errorf("in the other pod: got %v, want ErrCrossPod", err)
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

		r = squirrel.Repository{Scope: s, Caches: new(squirrel.Caches)}
		rec.Want(t, "a prepared read", "execute", func() error { _, err := r.Products(s); return err })
		rec.Want(t, "a prepared single write", "START, fence, execute, COMMIT", func() error { _, err := r.Add(s, "mug", 1); return err })
	})
}
