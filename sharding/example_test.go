package sharding_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// Two pods, one shop in each. Work on a shop is done in its scope, and goes to
// its pod.
func Example() {
	ctx := context.Background()
	// In an application: one mysql.NewConnector per pod, and the master database.
	master, pods, stop := exampleServers()
	defer stop()

	cluster, err := sharding.New(sharding.NewDirectory(master, nil), pods, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()

	// Once: the tables of the suite, the pods, the shops.
	must(cluster.Migrate(ctx))
	for pod := range pods {
		must(cluster.Directory().AddPod(ctx, pod, "us-east1"))
	}
	_, err = cluster.CreateShop(ctx, 1, 1, "hats.example") // shop 1 in pod 1
	must(err)
	_, err = cluster.CreateShop(ctx, 2, 2, "mugs.example")
	must(err)

	// In a request, Middleware has made the scope; elsewhere, Do makes it.
	for _, shop := range []podworks.ShopID{1, 2} {
		must(cluster.Do(ctx, shop, func(ctx context.Context, s *sharding.Scope) error {
			// Writes take a transaction. It waits out a move of its shop.
			err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, total) VALUES (?, 1, 4200)`, shop)
				return err
			})
			if err != nil {
				return err
			}
			// Reads take the pod's pool, which is a plain *sql.DB to every library.
			var total int
			err = s.DB().QueryRowContext(ctx, `SELECT SUM(total) FROM orders WHERE shop_id = ?`, shop).Scan(&total)
			fmt.Println("shop", shop, "in pod", s.Route().Pod, "has sold for", total)
			return err
		}))
	}

	// Output:
	// shop 1 in pod 1 has sold for 4200
	// shop 2 in pod 2 has sold for 4200
}

// What has no shop, or the wrong one, gets an error instead of another shop's
// rows. The error names the lines of the program that are at odds.
func Example_errors() {
	ctx := context.Background()
	cluster, stop := exampleCluster()
	defer stop()

	must(cluster.Do(ctx, 1, func(scoped context.Context, s *sharding.Scope) error {
		_, err := s.DB().ExecContext(ctx, `DELETE FROM orders WHERE id = 1`) // not the closure's context
		fmt.Println("no scope:", errors.Is(err, sharding.ErrNoScope))

		_, err = s.DB().ExecContext(scoped, `TRUNCATE orders`)
		fmt.Println("refused:", errors.Is(err, sharding.ErrRefused))

		err = cluster.Do(scoped, 2, func(context.Context, *sharding.Scope) error { return nil })
		var cross *sharding.CrossPodError
		if errors.As(err, &cross) {
			fmt.Println("shop", cross.Use.Shop, "was asked for in the scope of shop", cross.Scope.Shop)
		}
		return nil
	}))

	// Output:
	// no scope: true
	// refused: true
	// shop 2 was asked for in the scope of shop 1
}

// A framework that can't wrap its work in a closure acquires the scope and
// releases it. The scope is the context.
func ExampleCluster_Acquire() {
	cluster, stop := exampleCluster()
	defer stop()

	scope, err := cluster.Acquire(context.Background(), 1)
	if err != nil {
		log.Fatal(err)
	}
	defer scope.Release()

	var orders int
	must(scope.DB().QueryRowContext(scope, `SELECT COUNT(*) FROM orders WHERE shop_id = ?`, scope.Shop()).Scan(&orders))
	fmt.Println(orders, "orders")

	// Output:
	// 0 orders
}

// What must happen if and only if the transaction committed hangs on its hooks,
// wherever in the program it is decided.
func ExampleScope_Tx() {
	ctx := context.Background()
	cluster, stop := exampleCluster()
	defer stop()

	order := func(ctx context.Context, s *sharding.Scope, total int) error {
		return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			tx.AfterEnd(func(_ context.Context, err error) {
				if err == nil {
					fmt.Println("send the receipt for", total)
				}
			})
			if _, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, total) VALUES (?, 1, ?)`, s.Shop(), total); err != nil {
				return err
			}
			if total == 0 {
				return errors.New("the cart is empty")
			}
			return nil
		})
	}
	must(cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) error {
		fmt.Println(order(ctx, s, 0))
		return order(ctx, s, 4200)
	}))

	// Output:
	// the cart is empty
	// send the receipt for 4200
}
