package ent_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/ent"
	"github.com/podworks/podworks/examples/libraries/ent/client"
	"github.com/podworks/podworks/examples/libraries/ent/client/product"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/sharding"
)

// In a request the scope comes from sharding.FromContext. What ent's OnCommit
// did, the hooks of the scope's transaction do.
func Example() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 2, func(ctx context.Context, s *sharding.Scope) error {
		err := ent.Tx(ctx, s, func(ctx context.Context, c *client.Client) error {
			if tx, ok := podworks.TxFrom(ctx); ok {
				tx.AfterEnd(func(_ context.Context, err error) { fmt.Println("committed:", err == nil) })
			}
			return c.Product.Create().SetShopID(int64(s.Shop())).SetName("hat").SetStock(3).Exec(ctx)
		})
		if err != nil {
			return err
		}
		p, err := ent.On(s).Product.Query().Where(product.ShopID(int64(s.Shop()))).Only(ctx)
		if err != nil {
			return err
		}
		fmt.Println(p.Stock, p.Name, "in pod", s.Route().Pod)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// committed: true
	// 3 hat in pod 2
}

// ent returns the scope's errors wrapped, for errors.Is.
func Example_errors() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 1, func(_ context.Context, s *sharding.Scope) error {
		_, err := ent.On(s).Product.Query().Count(context.Background())
		fmt.Println("no scope:", errors.Is(err, sharding.ErrNoScope))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// no scope: true
}
