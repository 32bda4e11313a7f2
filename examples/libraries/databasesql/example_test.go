package databasesql_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/podworks/podworks/examples/libraries/databasesql"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/sharding"
)

// In a request the scope comes from sharding.FromContext.
func Example() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 2, func(ctx context.Context, s *sharding.Scope) error {
		r := databasesql.Repository{Scope: s}
		hat, err := r.Add(ctx, "hat", 3)
		if err != nil {
			return err
		}
		if _, err := r.Sell(ctx, hat, 2); err != nil {
			return err
		}
		return r.Each(ctx, func(p shop.Product) error {
			fmt.Println(p.Stock, p.Name, "left in pod", s.Route().Pod)
			return nil
		})
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// 1 hat left in pod 2
}

// A context that lost its shop on the way is refused, and so is a handle that
// outlives its unit of work.
func Example_errors() {
	cluster, stop := librarytest.Example()
	defer stop()

	var kept databasesql.Repository
	err := cluster.Do(context.Background(), 1, func(ctx context.Context, s *sharding.Scope) error {
		kept = databasesql.Repository{Scope: s}
		_, err := kept.Products(context.Background())
		fmt.Println("no scope:", errors.Is(err, sharding.ErrNoScope))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = kept.Products(kept.Scope)
	fmt.Println("released:", errors.Is(err, sharding.ErrReleased))

	// Output:
	// no scope: true
	// released: true
}
