package squirrel_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	sq "github.com/Masterminds/squirrel"

	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/squirrel"
	"github.com/podworks/podworks/sharding"
)

// In a request the scope comes from sharding.FromContext.
func Example() {
	cluster, stop := librarytest.Example()
	defer stop()

	caches := new(squirrel.Caches)
	err := cluster.Do(context.Background(), 2, func(ctx context.Context, s *sharding.Scope) error {
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := sq.Insert("products").Columns("shop_id", "name", "stock").Values(s.Shop(), "hat", 3).RunWith(tx.SQL()).ExecContext(ctx)
			return err
		})
		if err != nil {
			return err
		}
		var name string
		err = sq.Select("name").From("products").Where(sq.Eq{"shop_id": s.Shop()}).RunWith(caches.Of(s)).QueryRowContext(ctx).Scan(&name)
		fmt.Println("a", name, "in pod", s.Route().Pod)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// a hat in pod 2
}

// squirrel has each method twice. The one without a context has no shop.
func Example_errors() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 1, func(_ context.Context, s *sharding.Scope) error {
		_, err := sq.Delete("products").RunWith(s.DB()).Exec()
		fmt.Println("no scope:", errors.Is(err, sharding.ErrNoScope))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// no scope: true
}
