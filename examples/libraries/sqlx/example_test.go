package sqlx_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/jmoiron/sqlx"

	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	adapter "github.com/podworks/podworks/examples/libraries/sqlx"
	"github.com/podworks/podworks/sharding"
)

// In a request the scope comes from sharding.FromContext.
func Example() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 2, func(ctx context.Context, s *sharding.Scope) error {
		err := adapter.Tx(ctx, s, func(ctx context.Context, tx *sqlx.Tx) error {
			_, err := tx.NamedExecContext(ctx, `INSERT INTO products (shop_id, name, stock) VALUES (:shop, :name, 3)`,
				map[string]any{"shop": s.Shop(), "name": "hat"})
			return err
		})
		if err != nil {
			return err
		}
		var p struct {
			Name  string
			Stock int
		}
		err = adapter.DB(s).GetContext(ctx, &p, `SELECT name, stock FROM products WHERE shop_id = ?`, s.Shop())
		fmt.Println(p.Stock, p.Name, "in pod", s.Route().Pod)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// 3 hat in pod 2
}

// sqlx has each method twice. The one without a context has no shop.
func Example_errors() {
	cluster, stop := librarytest.Example()
	defer stop()

	err := cluster.Do(context.Background(), 1, func(ctx context.Context, s *sharding.Scope) error {
		var n int
		err := adapter.DB(s).Get(&n, `SELECT COUNT(*) FROM products`)
		fmt.Println("no scope:", errors.Is(err, sharding.ErrNoScope))

		err = adapter.Tx(ctx, s, func(_ context.Context, tx *sqlx.Tx) error { return tx.Commit() })
		fmt.Println("refused:", errors.Is(err, sharding.ErrRefused))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// no scope: true
	// refused: true
}
