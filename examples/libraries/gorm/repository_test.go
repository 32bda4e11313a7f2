package gorm_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"

	"gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"

	"github.com/podworks/podworks"
	adapter "github.com/podworks/podworks/examples/libraries/gorm"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

// quiet keeps gorm from printing the errors that the tests want.
func quiet(c gorm.Config) *gorm.Config {
	c.Logger = logger.Discard
	return &c
}

func on(p *adapter.Pods) func(s *sharding.Scope) shop.Repository {
	return func(s *sharding.Scope) shop.Repository { return adapter.Repository{Pods: p, Scope: s} }
}

func TestStory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		config gorm.Config
	}{
		{"Defaults", gorm.Config{}},
		{"PrepareStmt", gorm.Config{PrepareStmt: true, SkipDefaultTransaction: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pods := adapter.New(quiet(c.config))
			librarytest.Run(t, librarytest.Library{
				On: on(pods),
				Hold: func(ctx context.Context, s *sharding.Scope) (func(context.Context) error, error) {
					db, err := pods.DB(ctx, s)
					return func(ctx context.Context) error {
						var n int64
						return db.WithContext(ctx).Table("products").Count(&n).Error
					}, err
				},
				Own: func(ctx context.Context, s *sharding.Scope) error {
					db, err := pods.DB(ctx, s)
					if err != nil {
						return err
					}
					return db.Transaction(func(tx *gorm.DB) error {
						_, err := adapter.AddAll(tx, s.Shop(), "hat")
						return err
					})
				},
			})
		})
	}
}

// gorm's default transaction costs nothing: a bare write has one too, for the
// fence. But PrepareStmt prepares on the transaction what it meets in one, and
// again in the next; so it helps only without the default transaction, and only
// reads and single writes.
func TestStatements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		config          gorm.Config
		read, write, tx string
	}{
		{
			name:  "Defaults",
			read:  "prepare SELECT, execute",
			write: "START, fence, prepare INSERT, execute, COMMIT",
			tx:    "START, fence, prepare INSERT, execute, prepare UPDATE, execute, COMMIT",
		}, {
			name:   "SkipDefaultTransaction",
			config: gorm.Config{SkipDefaultTransaction: true},
			read:   "prepare SELECT, execute",
			write:  "START, fence, prepare INSERT, execute, COMMIT",
			tx:     "START, fence, prepare INSERT, execute, prepare UPDATE, execute, COMMIT",
		}, {
			name:   "PrepareStmt",
			config: gorm.Config{PrepareStmt: true, SkipDefaultTransaction: true},
			read:   "execute",
			write:  "START, fence, execute, COMMIT",
			tx:     "START, fence, prepare INSERT, execute, prepare UPDATE, execute, COMMIT",
		}, {
			name:   "PrepareStmtInDefaultTransactions",
			config: gorm.Config{PrepareStmt: true},
			read:   "execute",
			write:  "START, fence, prepare INSERT, execute, COMMIT",
			tx:     "START, fence, prepare INSERT, execute, prepare UPDATE, execute, COMMIT",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
				s, rec := librarytest.Shared(t, f).Record(t, nil)
				r := on(adapter.New(quiet(c.config)))(s)
				hat, err := r.Add(s, "hat", 10)
				if err != nil {
					t.Fatal(err)
				}
				rec.Want(t, "a read", c.read, func() error { _, err := r.Products(s); return err })
				rec.Want(t, "a single write", c.write, func() error { _, err := r.Add(s, "mug", 1); return err })
				rec.Want(t, "a transaction", c.tx, func() error { _, err := r.Sell(s, hat, 1); return err })
			})
		})
	}
}

// gorm.Open as it is in gorm's manual asks for the server's version. No shop is
// in that question, so it is refused; and gorm.Open, having failed, closes the
// pool, which is the one of all the pod's shops. The cluster opens another.
func TestOpeningByTheManualIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s, _ := librarytest.Shared(t, f).Record(t, nil) // a cluster that nobody else needs
		pool := s.DB()
		_, err := gorm.Open(mysql.New(mysql.Config{Conn: pool}), quiet(gorm.Config{}))
		if !errors.Is(err, sharding.ErrNoScope) {
			t.Errorf("got %v, want ErrNoScope", err)
		}
		if err := pool.PingContext(s); err == nil {
			t.Error("the pool still works; gorm no longer closes it, drop this warning")
		}
		if err := s.DB().PingContext(s); err != nil {
			t.Errorf("after gorm has closed the pool: %v", err)
		}

		s, _ = librarytest.Shared(t, f).Record(t, nil)
		if _, err := adapter.New(quiet(gorm.Config{})).DB(s, s); err != nil {
			t.Errorf("Pods.DB: %v", err)
		}
		if err := s.DB().PingContext(s); err != nil {
			t.Errorf("after Pods.DB: %v", err)
		}
	})
}

// gorm numbers the rows of a batch itself. Without autoIncrementIncrement it
// would count in ones, and put other rows' ids into the structs.
func TestABatchHasTheIdsThatTheServerGave(t *testing.T) {
	t.Parallel()
	type naive struct {
		ShopID int64
		ID     int64
		Name   string
		Stock  int
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		db, err := adapter.New(quiet(gorm.Config{})).DB(s, s)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := adapter.AddAll(db, s.Shop(), "a", "b", "c")
		if err != nil {
			t.Fatal(err)
		}
		var have []int64
		if err := db.Table("products").Where("shop_id = ?", s.Shop()).Order("id").Pluck("id", &have).Error; err != nil {
			t.Fatal(err)
		}
		for i := range have {
			if len(ids) != len(have) || ids[i] != have[i] {
				t.Fatalf("gorm says the ids are %v, the server has %v", ids, have)
			}
		}

		twin := []naive{{ShopID: int64(s.Shop()), Name: "d"}, {ShopID: int64(s.Shop()), Name: "e"}}
		if err := db.Table("products").Create(&twin).Error; err != nil {
			t.Fatal(err)
		}
		if got := twin[1].ID - twin[0].ID; got != 1 {
			t.Errorf("without the tag the ids are %d apart; gorm has learnt, drop the tag", got)
		}
	})
}

// Schema changes are no shop's: they would commit the transaction, and are
// refused in a scope. EachPod gives them a pool without scope and fence, on
// which gorm may open as it likes.
func TestAutoMigrateBelongsIntoEachPod(t *testing.T) {
	t.Parallel()
	type Coupon struct {
		ShopID int64 `gorm:"primaryKey;autoIncrement:false"`
		ID     int64 `gorm:"primaryKey;autoIncrement:false"`
		Code   string
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		pods := adapter.New(quiet(gorm.Config{}))
		db, err := pods.DB(s, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.AutoMigrate(&Coupon{}); !errors.Is(err, sharding.ErrRefused) {
			t.Errorf("in a scope: got %v, want ErrRefused", err)
		}
		err = w.Cluster.EachPod(t.Context(), "create coupons", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
			g, err := gorm.Open(mysql.New(mysql.Config{Conn: db}), quiet(gorm.Config{}))
			if err != nil {
				return err
			}
			return g.WithContext(ctx).AutoMigrate(&Coupon{})
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Plain(1).Exec(`DROP TABLE coupons`)
		defer w.Plain(2).Exec(`DROP TABLE coupons`)
		if err := db.Create(&Coupon{ShopID: int64(s.Shop()), ID: 1, Code: "SALE"}).Error; err != nil {
			t.Error(err)
		}
	})
}

// gorm's own nesting is a savepoint in the scope's transaction; a commit that
// isn't the scope's is refused.
func TestGormsTransactionInsideOfTheScopes(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, c := range []gorm.Config{{}, {PrepareStmt: true}} {
		testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
			w := librarytest.Shared(t, f)
			s := w.Acquire(t, w.Shop(t, 1))
			pods := adapter.New(quiet(c))
			err := pods.Tx(s, s, func(_ context.Context, tx *gorm.DB) error {
				err := tx.Transaction(func(inner *gorm.DB) error {
					if _, err := adapter.AddAll(inner, s.Shop(), "undone"); err != nil {
						return err
					}
					return boom
				})
				if !errors.Is(err, boom) {
					t.Errorf("the inner transaction: got %v, want what its function returned", err)
				}
				_, err = adapter.AddAll(tx, s.Shop(), "kept")
				return err
			})
			if err != nil {
				t.Error(err)
			}
			w.WantRows(t, 1, s.Shop(), 1, 0)

			err = pods.Tx(s, s, func(_ context.Context, tx *gorm.DB) error {
				if _, err := adapter.AddAll(tx, s.Shop(), "never"); err != nil {
					return err
				}
				return tx.Commit().Error
			})
			if !errors.Is(err, sharding.ErrRefused) {
				t.Errorf("a commit inside: got %v, want ErrRefused", err)
			}
			w.WantRows(t, 1, s.Shop(), 1, 0)
		})
	}
}

// A locking read in the words that both families know.
func TestShareLocks(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := librarytest.Shared(t, f)
		s := w.Acquire(t, w.Shop(t, 1))
		err := adapter.New(quiet(gorm.Config{})).Tx(s, s, func(_ context.Context, tx *gorm.DB) error {
			var n []int64
			return tx.Table("products").Clauses(clause.Locking{Strength: "SHARE"}).Pluck("id", &n).Error
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Writes that come as queries (MariaDB's RETURNING, which gorm uses when it
// knows the version) need a transaction.
func TestReturningNeedsATransaction(t *testing.T) {
	t.Parallel()
	w := librarytest.Shared(t, testcluster.MariaDB)
	s := w.Acquire(t, w.Shop(t, 1))
	db, err := adapter.New(quiet(gorm.Config{})).DB(s, s)
	if err != nil {
		t.Fatal(err)
	}
	insert := func(db *gorm.DB) error {
		var id int64
		return db.Raw(`INSERT INTO products (shop_id, name, stock) VALUES (?, 'hat', 1) RETURNING id`, s.Shop()).Scan(&id).Error
	}
	if err := insert(db); !errors.Is(err, sharding.ErrRefused) {
		t.Errorf("on the pool: got %v, want ErrRefused", err)
	}
	err = adapter.New(quiet(gorm.Config{})).Tx(s, s, func(_ context.Context, tx *gorm.DB) error { return insert(tx) })
	if err != nil {
		t.Errorf("in a transaction: %v", err)
	}
	w.WantRows(t, 1, s.Shop(), 1, 0)
}
