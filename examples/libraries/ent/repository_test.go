package ent_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/ent"
	"github.com/podworks/podworks/examples/libraries/ent/client"
	"github.com/podworks/podworks/examples/libraries/ent/client/product"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func on(s *sharding.Scope) shop.Repository { return ent.Repository{Scope: s} }

func TestStory(t *testing.T) {
	t.Parallel()
	librarytest.Run(t, librarytest.Library{
		On: on,
		Hold: func(_ context.Context, s *sharding.Scope) (func(context.Context) error, error) {
			c := ent.On(s)
			return func(ctx context.Context) error { _, err := c.Product.Query().Count(ctx); return err }, nil
		},
		Own: func(ctx context.Context, s *sharding.Scope) error {
			tx, err := ent.On(s).Tx(ctx)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if err := tx.Product.Create().SetShopID(int64(s.Shop())).SetName("hat").SetStock(1).Exec(ctx); err != nil {
				return err
			}
			return tx.Commit()
		},
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
		stock := 100
		rec.Want(t, "UpdateOne on the pool", "START, fence, prepare UPDATE, execute, prepare SELECT, execute, COMMIT", func() error {
			stock++
			return ent.On(s).Product.UpdateOneID(hat).Where(product.ShopID(int64(s.Shop()))).SetStock(stock).Exec(s)
		})
		rec.Want(t, "UpdateOne in Tx", "START, fence, prepare UPDATE, execute, prepare SELECT, execute, COMMIT", func() error {
			stock++
			return ent.Tx(s, s, func(ctx context.Context, c *client.Client) error {
				return c.Product.UpdateOneID(hat).Where(product.ShopID(int64(s.Shop()))).SetStock(stock).Exec(ctx)
			})
		})
	})
}

// A client's transaction inside of Tx is not a second one.
func TestATransactionInsideOfTxIsThatOne(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		boom := errors.New("boom")
		err := ent.Tx(s, s, func(ctx context.Context, c *client.Client) error {
			if _, err := c.BeginTx(ctx, nil); err == nil {
				t.Error("BeginTx inside of Tx: got no error")
			}
			tx, err := c.Tx(ctx)
			if err != nil {
				return err
			}
			if err := tx.Product.Create().SetShopID(int64(s.Shop())).SetName("hat").SetStock(1).Exec(ctx); err != nil {
				return err
			}
			if err := tx.Commit(); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Errorf("got %v, want what the function returned", err)
		}
		w.WantRows(t, 1, s.Shop(), 0, 0)
	})
}

// CreateBulk counts the ids in ones, and puts other rows' into what it returns.
// Ids that the program has given are right.
func TestCreateBulkKnowsOnlyTheIdsItIsGiven(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		c := ent.On(s)
		create := func(name string) *client.ProductCreate {
			return c.Product.Create().SetShopID(int64(s.Shop())).SetName(name).SetStock(1)
		}
		rows, err := c.Product.CreateBulk(create("a"), create("b")).Save(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := rows[1].ID - rows[0].ID; got != 1 {
			t.Errorf("the ids it returns are %d apart; ent has learnt, drop the warning", got)
		}
		if n, err := c.Product.Query().Where(product.ShopID(int64(s.Shop())), product.ID(rows[1].ID)).Count(s); err != nil || n != 0 {
			t.Errorf("%d rows have the second id (%v), want 0", n, err)
		}

		given := []int64{int64(s.Shop())*1024 + 3, int64(s.Shop())*1024 + 4} // which no pod here hands out
		if _, err = c.Product.CreateBulk(create("c").SetID(given[0]), create("d").SetID(given[1])).Save(s); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Product.Query().Where(product.ShopID(int64(s.Shop())), product.IDIn(given...)).Count(s); err != nil || n != 2 {
			t.Errorf("%d rows have the given ids (%v), want 2", n, err)
		}
	})
}

// ent's Schema.Create is refused in a scope, since a schema is no shop's, and
// runs on the pools of EachPod.
func TestSchemaCreateBelongsIntoEachPod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		// The pods of this test have no tables: ent would change ours to its liking.
		c, _ := librarytest.Bare(t, f, nil)
		err := c.EachPod(t.Context(), "ent's schema", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
			return client.NewClient(client.Driver(entsql.OpenDB(dialect.MySQL, db))).Schema.Create(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		hat, err := on(s).Add(s, "hat", 3)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := on(s).Sell(s, hat, 1); err != nil {
			t.Error(err)
		}
		if err := ent.On(s).Schema.Create(s); err == nil {
			t.Error("Schema.Create in a scope: got no error")
		} else {
			t.Log(err)
		}
	})
}
