package sqlc_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/sqlc"
	"github.com/podworks/podworks/examples/libraries/sqlc/store"
	"github.com/podworks/podworks/sharding"
)

// In a request the scope comes from sharding.FromContext. The generated New
// takes both: the transaction, and the pool.
func Example() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 2, func(ctx context.Context, s *sharding.Scope) error {
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := store.New(tx).AddProduct(ctx, store.AddProductParams{ShopID: int64(s.Shop()), Name: "hat", Stock: 3})
			return err
		})
		if err != nil {
			return err
		}
		rows, err := store.New(s.DB()).Products(ctx, int64(s.Shop()))
		for _, p := range rows {
			fmt.Println(p.Stock, p.Name, "in pod", s.Route().Pod)
		}
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// 3 hat in pod 2
}

// Prepared queries are one pod's. Those that a program keeps in a variable are
// refused in the others.
func Example_errors() {
	cluster, stop := librarytest.Example()
	defer stop()

	ctx := context.Background()
	prepared := new(sqlc.Prepared)
	var kept *store.Queries
	err := cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) (err error) {
		kept, err = prepared.Of(ctx, s)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	err = cluster.Do(ctx, 2, func(ctx context.Context, s *sharding.Scope) error {
		_, err := kept.Products(ctx, int64(s.Shop()))
		fmt.Println("another pod's:", errors.Is(err, sharding.ErrCrossPod))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// another pod's: true
}
