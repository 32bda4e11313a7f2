package sharding_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// uses are all ways to use a pool. Each returns the error that its caller sees.
var uses = []struct {
	name string
	use  func(ctx context.Context, db *sql.DB) error
}{
	{"Exec", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, `INSERT INTO things VALUES (1, 1, 1)`)
		return err
	}},
	{"Exec with arguments", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, `INSERT INTO things VALUES (?, ?, 1)`, 1, 2)
		return err
	}},
	{"Query", func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT 1`)
		if err == nil {
			err = rows.Close()
		}
		return err
	}},
	{"Query with arguments", func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT ?`, 1)
		if err == nil {
			err = rows.Close()
		}
		return err
	}},
	{"QueryRow", func(ctx context.Context, db *sql.DB) error {
		var n int
		return db.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n)
	}},
	{"Prepare", func(ctx context.Context, db *sql.DB) error {
		st, err := db.PrepareContext(ctx, `SELECT 1`)
		if err == nil {
			err = st.Close()
		}
		return err
	}},
	{"BeginTx", func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err == nil {
			err = tx.Rollback()
		}
		return err
	}},
	{"read-only BeginTx", func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err == nil {
			err = tx.Rollback()
		}
		return err
	}},
	{"Conn", func(ctx context.Context, db *sql.DB) error {
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.ExecContext(ctx, `DO 0`)
		return err
	}},
}

func TestEveryUseOfAPoolChecksTheScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		one, s1 := w.acquire(1)
		two, _ := w.acquire(2)
		released, err := w.cluster.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		released.Release()
		released.Release() // twice is fine
		other := newWorld(t, f, nil, nil)
		foreign, _ := other.acquire(1)

		for _, u := range uses {
			for _, c := range []struct {
				name string
				ctx  context.Context
				want error
			}{
				{"no scope", t.Context(), sharding.ErrNoScope},
				{"released scope", released, sharding.ErrReleased},
				{"a scope of another pod", two, sharding.ErrCrossPod},
				{"a scope of another cluster", foreign, sharding.ErrCrossPod},
				{"its own scope", one, nil},
			} {
				if err := u.use(c.ctx, s1.DB()); !errors.Is(err, c.want) {
					t.Errorf("%s with %s: got %v, want %v", u.name, c.name, err, c.want)
				}
			}
		}
		w.wantCount(1, 1, 2) // by the two Execs with the right scope
		err = w.cluster.Do(foreign, 1, func(context.Context, *sharding.Scope) error {
			t.Error("a Do inside of another cluster's scope ran its function")
			return nil
		})
		checkIs(t, "Do in a scope of another cluster", err, sharding.ErrCrossPod)
	})
}

func TestUsesWithoutAContextHaveNoScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		_, s := w.acquire(1)
		db := s.DB()
		_, err := db.Exec(`INSERT INTO things VALUES (1, 1, 1)`)
		checkIs(t, "Exec", err, sharding.ErrNoScope)
		_, err = db.Query(`SELECT 1`)
		checkIs(t, "Query", err, sharding.ErrNoScope)
		_, err = db.Prepare(`SELECT 1`)
		checkIs(t, "Prepare", err, sharding.ErrNoScope)
		_, err = db.Begin()
		checkIs(t, "Begin", err, sharding.ErrNoScope)

		// Down to the driver's connection there is no way around.
		ctx, _ := w.acquire(1)
		c, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = c.Raw(func(dc any) error {
			//lint:ignore SA1019 that nobody should call it is no reason to let it through
			_, err := dc.(driver.Conn).Begin()
			checkIs(t, "the driver's Begin", err, sharding.ErrNoScope)
			_, err = dc.(driver.Conn).Prepare(`SELECT 1`)
			checkIs(t, "the driver's Prepare", err, sharding.ErrNoScope)
			_, err = dc.(driver.ExecerContext).ExecContext(context.Background(), `DO 0`, nil)
			checkIs(t, "the driver's ExecContext", err, sharding.ErrNoScope)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// checkIs fails the test if err is not want.
func checkIs(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// A statement and a transaction outlive the context they were made with.
func TestStatementsAndTransactionsCheckTheScopeAtEachUse(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		one, s := w.acquire(1)
		two, _ := w.acquire(2)
		three, _ := w.acquire(3) // another shop of the same pod
		read, err := s.DB().PrepareContext(one, `SELECT COUNT(*) FROM things`)
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		write, err := s.DB().PrepareContext(one, `INSERT INTO things VALUES (?, ?, 1)`)
		if err != nil {
			t.Fatal(err)
		}
		defer write.Close()
		tx, err := s.DB().BeginTx(one, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		inTx, err := tx.PrepareContext(one, `SELECT COUNT(*) FROM things`)
		if err != nil {
			t.Fatal(err)
		}

		var n int
		steps := []struct {
			name string
			use  func(ctx context.Context) error
			// what another shop of the same pod gets
			sameShopOnly bool
		}{
			{"a prepared read", func(ctx context.Context) error { return read.QueryRowContext(ctx).Scan(&n) }, false},
			{"a prepared write", func(ctx context.Context) error {
				shop, _ := podworks.ShopFrom(ctx)
				_, err := write.ExecContext(ctx, int64(shop), 1)
				return err
			}, false},
			{"a transaction's Exec", func(ctx context.Context) error {
				_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = 99`)
				return err
			}, true},
			{"a transaction's Query", func(ctx context.Context) error {
				return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n)
			}, true},
			{"a transaction's Prepare", func(ctx context.Context) error {
				_, err := tx.PrepareContext(ctx, `SELECT 1`)
				return err
			}, true},
			{"a transaction's prepared read", func(ctx context.Context) error { return inTx.QueryRowContext(ctx).Scan(&n) }, true},
			{"a transaction's Stmt", func(ctx context.Context) error {
				_, err := tx.StmtContext(ctx, write).ExecContext(ctx, 1, 7)
				return err
			}, true},
		}
		for _, st := range steps {
			checkIs(t, st.name+" without a scope", st.use(t.Context()), sharding.ErrNoScope)
			checkIs(t, st.name+" with another pod's scope", st.use(two), sharding.ErrCrossPod)
			var want error
			if st.sameShopOnly {
				want = sharding.ErrCrossPod // one shop's lock doesn't cover the other's rows
			}
			checkIs(t, st.name+" with another shop's scope", st.use(three), want)
			checkIs(t, st.name+" with its own scope", st.use(one), nil)
		}
	})
}

func TestANestedScopeOfTheSameShopJoins(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		var kept context.Context
		err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, outer *sharding.Scope) error {
			kept = ctx
			if got, _ := podworks.ShopFrom(ctx); got != 1 {
				t.Errorf("ShopFrom = %d, want 1", got)
			}
			if got := sharding.FromContext(ctx); got != outer {
				t.Errorf("FromContext = %p, want the scope %p", got, outer)
			}
			err := w.cluster.Do(ctx, 1, func(_ context.Context, inner *sharding.Scope) error {
				if inner.Route() != outer.Route() {
					t.Errorf("a nested Do of the same shop has route %v, want the outer one's, %v", inner.Route(), outer.Route())
				}
				return nil
			})
			checkIs(t, "nested Do of the same shop", err, nil)
			// The inner Do's end must not have released the outer scope.
			if _, err := outer.DB().ExecContext(ctx, `DO 0`); err != nil {
				t.Errorf("after a nested Do: %v", err)
			}
			for _, shop := range []podworks.ShopID{2, 3} { // 3 is in the same pod
				err := w.cluster.Do(ctx, shop, func(context.Context, *sharding.Scope) error {
					t.Errorf("a nested Do of shop %d ran its function", shop)
					return nil
				})
				checkIs(t, fmt.Sprintf("nested Do of shop %d", shop), err, sharding.ErrCrossPod)
				var e *sharding.CrossPodError
				if !errors.As(err, &e) || e.Scope.Shop != 1 || e.Use.Shop != shop || e.Use.Pod == 0 {
					t.Errorf("nested Do of shop %d: got %#v, want a CrossPodError about both shops", shop, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = w.cluster.Do(kept, 1, func(context.Context, *sharding.Scope) error { return nil })
		checkIs(t, "Do in a released scope", err, sharding.ErrReleased)
		err = w.cluster.Do(t.Context(), 99, func(context.Context, *sharding.Scope) error { return nil })
		checkIs(t, "Do of an unknown shop", err, sharding.ErrUnknownShop)
		boom := errors.New("boom")
		err = w.cluster.Do(t.Context(), 1, func(context.Context, *sharding.Scope) error { return boom })
		checkIs(t, "Do of a function that fails", err, boom)
		if got := sharding.FromContext(t.Context()); got != nil {
			t.Errorf("FromContext without a scope = %v, want nil", got)
		}
	})
}

// Some libraries close the pool they were given. The pod's shops live on, and the
// cluster's own Close is final.
func TestAPoolThatALibraryClosedIsReplaced(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		pool, err := w.cluster.DB(1)
		if err != nil || pool != s.DB() {
			t.Errorf("Cluster.DB = %p, %v; want the scope's, %p", pool, err, s.DB())
		}
		_, err = w.cluster.DB(9)
		checkIs(t, "DB of an unknown pod", err, sharding.ErrUnknownPod)
		pool.Close()
		if err := pool.PingContext(ctx); err == nil {
			t.Error("a closed pool answers")
		}
		checkIs(t, "the scope", s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error { return insert(ctx, tx, 1) }), nil)
		w.cluster.Close()
		if err := s.DB().PingContext(ctx); err == nil {
			t.Error("the pool of a closed cluster answers")
		}
	})
}

// A write that misses its transaction would stay when that is rolled back, and,
// being one more of its shop's, could wait for a place that the transaction has.
func TestAWriteOnThePoolInsideOfTxIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenTx: 1}, nil)
		before, s := w.acquire(1)
		err := s.Tx(before, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := s.DB().ExecContext(ctx, insertThing)
			checkIs(t, "a single write", err, sharding.ErrRefused)
			_, err = s.DB().BeginTx(ctx, nil)
			checkIs(t, "BeginTx", err, sharding.ErrRefused)
			var n int
			checkIs(t, "a read", s.DB().QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n), nil)
			// After the end it is nobody's business, and the place is free again.
			tx.AfterEnd(func(ctx context.Context, _ error) {
				checkIs(t, "a hook's transaction", s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error { return insert(ctx, tx, 8) }), nil)
			})
			return insert(ctx, tx, 7)
		})
		checkIs(t, "the transaction", err, nil)
		w.wantCount(1, 1, 2)
	})
}

// A transaction inside of a transaction would commit the first.
func TestASecondTransactionOnOneConnectionIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		c, err := s.DB().Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		tx, err := c.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (1, 1, 1)`); err != nil {
			t.Fatal(err)
		}
		_, err = c.BeginTx(ctx, nil)
		checkIs(t, "a second BeginTx", err, sharding.ErrRefused)
		_, err = c.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		checkIs(t, "a second, read-only BeginTx", err, sharding.ErrRefused)
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		w.wantCount(1, 1, 0)
		tx, err = c.BeginTx(ctx, nil)
		if err != nil {
			t.Fatalf("BeginTx after Rollback: %v", err)
		}
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
	})
}

func TestAConnectorThatAllowsSeveralStatementsIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, func(cfg *mysql.Config) { cfg.MultiStatements = true })
		ctx, s := w.acquire(1)
		err := s.DB().PingContext(ctx)
		if err == nil || !strings.Contains(err.Error(), "MultiStatements") {
			t.Errorf("got %v, want an error that names MultiStatements", err)
		}
	})
}

func TestASessionIsPrepared(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		var idle, readOnly int
		if err := s.DB().QueryRowContext(ctx, `SELECT @@session.wait_timeout, `+readOnlyVariable(f)).Scan(&idle, &readOnly); err != nil {
			t.Fatal(err)
		}
		if idle != 60 || readOnly != 1 {
			t.Errorf("the session has wait_timeout %d and read-only %d, want 60 and 1", idle, readOnly)
		}
	})
}

func readOnlyVariable(f testcluster.Family) string {
	if f == testcluster.MySQL {
		return `@@session.transaction_read_only`
	}
	return `@@session.tx_read_only`
}

// The pool meets connections that have died. What it does about them must not
// show, and must not write twice.
func TestAConnectionThatDiedIsReplaced(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		db := s.DB()
		die := func() {
			t.Helper()
			var id int64
			if err := db.QueryRowContext(ctx, `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
				t.Fatal(err)
			}
			w.kill(id)
		}
		die()
		if _, err := db.ExecContext(ctx, `INSERT INTO things VALUES (1, 1, 1)`); err != nil {
			t.Errorf("write after the connection died: %v", err)
		}
		die()
		if err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (1, 2, 1)`)
			return err
		}); err != nil {
			t.Errorf("transaction after the connection died: %v", err)
		}
		w.wantCount(1, 1, 2)
	})
}

// kill ends a session and returns when it has ended.
func (w *world) kill(id int64) {
	w.t.Helper()
	w.exec(1, fmt.Sprintf(`KILL %d`, id))
	await(w.t, "the end of a killed session", func() bool {
		var n int
		if err := w.plain[1].QueryRowContext(w.t.Context(), `SELECT COUNT(*) FROM information_schema.processlist WHERE id = ?`, id).Scan(&n); err != nil {
			w.t.Error(err)
		}
		return n == 0
	})
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	dir := sharding.NewDirectory(nil, nil)
	_, err := sharding.New(nil, nil, &sharding.Options{Key: []byte("short"), MaxOpenConns: -1, MoveWait: -time.Second})
	for _, want := range []string{"directory is nil", "no pods", "Key", "MaxOpenConns is -1", "MoveWait is -1s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: got %v, want an error that says %q", err, want)
		}
	}
	_, err = sharding.New(dir, map[podworks.PodID]driver.Connector{0: nil}, nil)
	if err == nil || !strings.Contains(err.Error(), "pod 0") {
		t.Errorf("New with pod 0: got %v, want an error that says so", err)
	}
}

func TestACreatedShopIsOpen(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx := t.Context()
		if err := w.cluster.Migrate(ctx); err != nil {
			t.Errorf("a second Migrate: %v", err)
		}
		want := podworks.Route{Shop: 1, Pod: 1, Region: "here", Epoch: 1}
		got, err := w.cluster.CreateShop(ctx, 1, 1, "ONE.example", "uno.example")
		if err != nil || got != want {
			t.Errorf("CreateShop again = %v, %v; want %v", got, err, want)
		}
		_, err = w.cluster.CreateShop(ctx, 1, 2)
		if err == nil {
			t.Error("CreateShop in another pod: got no error")
		}
		_, err = w.cluster.CreateShop(ctx, 9, 9)
		checkIs(t, "CreateShop in an unknown pod", err, sharding.ErrUnknownPod)
		_, err = w.cluster.CreateShop(ctx, 9, 1, "two.example")
		if err == nil || !strings.Contains(err.Error(), "two.example") {
			t.Errorf("CreateShop with another shop's host: got %v, want an error that names it", err)
		}

		// A process that died between the directory and the fence: the shop is
		// refused every write until CreateShop has run again.
		w.exec(1, `DELETE FROM podworks_fence WHERE shop_id = 1`)
		write := func() error {
			return w.cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) error {
				_, err := s.DB().ExecContext(ctx, `INSERT INTO things VALUES (1, 1, 1)`)
				return err
			})
		}
		checkIs(t, "a write to a shop that is half there", write(), sharding.ErrMoved)
		if _, err := w.cluster.CreateShop(ctx, 1, 1); err != nil {
			t.Fatal(err)
		}
		checkIs(t, "a write to a shop that is whole", write(), nil)

		// A shop that has moved stays where it is.
		w.moveTo(1, 2)
		got, err = w.cluster.CreateShop(ctx, 1, 2)
		if err != nil || got.Epoch != 2 {
			t.Errorf("CreateShop of a shop that moved = %v, %v; want epoch 2", got, err)
		}
		if _, err := w.cluster.CreateShop(ctx, 1, 1); err == nil {
			t.Error("CreateShop in the pod that the shop left: got no error")
		}
	})
}

// The privileges that the package's documentation asks for are enough.
func TestTheDocumentedPrivilegesSuffice(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		user := w.names[1] // as unique as the database
		w.exec(1, `CREATE USER `+user)
		t.Cleanup(func() { _, _ = w.plain[1].ExecContext(context.Background(), `DROP USER `+user) })
		w.exec(1, `GRANT SELECT, INSERT, UPDATE, DELETE ON things TO `+user)
		w.exec(1, `GRANT SELECT, INSERT, UPDATE ON podworks_fence TO `+user)
		pods := map[podworks.PodID]driver.Connector{1: connect(t, w.server, w.names[1], func(cfg *mysql.Config) { cfg.User = user })}
		c := w.newCluster(sharding.NewDirectory(w.master, nil), pods, nil)
		if _, err := c.CreateShop(t.Context(), 3, 1); err != nil {
			t.Errorf("CreateShop: %v", err)
		}
		for _, wr := range writers {
			w.exec(1, `DELETE FROM things`)
			err := c.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error { return wr.write(ctx, s) })
			checkIs(t, wr.name, err, nil)
		}
	})
}
