package gorm_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"gorm.io/gorm"

	adapter "github.com/podworks/podworks/examples/libraries/gorm"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/sharding"
)

type product struct {
	ShopID int64
	ID     int64
	Name   string
	Stock  int
}

// In a request the scope comes from sharding.FromContext.
func Example() {
	cluster, stop := librarytest.Example()
	defer stop()

	pods := adapter.New(&gorm.Config{PrepareStmt: true, SkipDefaultTransaction: true})
	err := cluster.Do(context.Background(), 2, func(ctx context.Context, s *sharding.Scope) error {
		err := pods.Tx(ctx, s, func(_ context.Context, tx *gorm.DB) error {
			return tx.Create(&product{ShopID: int64(s.Shop()), Name: "hat", Stock: 3}).Error
		})
		if err != nil {
			return err
		}
		db, err := pods.DB(ctx, s)
		if err != nil {
			return err
		}
		var p product
		err = db.Where("shop_id = ?", s.Shop()).Take(&p).Error
		fmt.Println(p.Stock, p.Name, "in pod", s.Route().Pod)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// 3 hat in pod 2
}

// gorm returns the scope's errors as they are, under db.Error.
func Example_errors() {
	cluster, stop := librarytest.Example()
	defer stop()

	pods := adapter.New(quiet(gorm.Config{}))
	err := cluster.Do(context.Background(), 1, func(ctx context.Context, s *sharding.Scope) error {
		db, err := pods.DB(ctx, s)
		if err != nil {
			return err
		}
		err = db.WithContext(context.Background()).Create(&product{ShopID: 1, Name: "hat"}).Error
		fmt.Println("no scope:", errors.Is(err, sharding.ErrNoScope))

		err = db.Migrator().DropTable("products")
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
