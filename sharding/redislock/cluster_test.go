package redislock_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redislock"
)

var _ sharding.Locker = (*redislock.Lock)(nil)

// A cluster without a fence table: its writers take leases in Redis.
func TestAClusterOnALock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		ctx := t.Context()
		client := redis.NewClient(&redis.Options{Addr: testcluster.Redis(t, nil).Socket(), ContextTimeoutEnabled: true})
		t.Cleanup(func() { client.Close() })
		lock, err := redislock.New(client, &redislock.Options{Lease: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		server := testcluster.Server(t, f)
		open := func(adjust func(*mysql.Config)) (driver.Connector, *sql.DB) {
			cfg := server.Config(testcluster.Database(t, server))
			cfg.Logger = &mysql.NopLogger{}
			plain, err := mysql.NewConnector(cfg)
			if err != nil {
				t.Fatal(err)
			}
			adjusted := cfg.Clone()
			adjust(adjusted)
			c, err := mysql.NewConnector(adjusted)
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(plain)
			t.Cleanup(func() { db.Close() })
			return c, db
		}
		dialer := new(cut.Dialer)
		_, master := open(func(*mysql.Config) {})
		pod, plain := open(dialer.Use)
		if _, err := plain.ExecContext(ctx, `CREATE TABLE things (id INT NOT NULL PRIMARY KEY)`); err != nil {
			t.Fatal(err)
		}
		cluster, err := sharding.New(sharding.NewDirectory(master, nil), map[podworks.PodID]driver.Connector{1: pod}, &sharding.Options{
			Locker:     func(podworks.PodID) sharding.Locker { return lock },
			LockerIdle: time.Second,
			MoveWait:   time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer cluster.Close()
		checkIs(t, "Migrate", cluster.Migrate(ctx), nil)
		checkIs(t, "AddPod", cluster.Directory().AddPod(ctx, 1, "here"), nil)
		_, err = cluster.CreateShop(ctx, 7, 1)
		checkIs(t, "CreateShop", err, nil)
		var tables int
		if err := plain.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()`).Scan(&tables); err != nil || tables != 1 {
			t.Errorf("the pod has %d tables (%v), want the application's one", tables, err)
		}

		tx := func(id int, then func(ctx context.Context, tx *sharding.Tx) error) error {
			return cluster.Do(ctx, 7, func(ctx context.Context, s *sharding.Scope) error {
				return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
					if _, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (?)`, id); err != nil {
						return err
					}
					return then(ctx, tx)
				})
			})
		}
		nothing := func(context.Context, *sharding.Tx) error { return nil }
		rows := func(what string, want int) {
			t.Helper()
			var n int
			if err := plain.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil || n != want {
				t.Errorf("%s: there are %d things (%v), want %d", what, n, err, want)
			}
		}
		// close is a mover's, with a budget that a writer's lease outlives.
		from := podworks.Route{Shop: 7, Pod: 1, Epoch: 1}
		closing := func(token uint64, budget time.Duration) error {
			return lock.Close(ctx, from, 2, token, budget, func(context.Context, uint64) error { return nil })
		}
		// The bar that Create puts up, for leases that a loss made invisible.
		opened := make(chan error, 1)

		checkIs(t, "a transaction", tx(1, nothing), nil)
		err = cluster.Do(ctx, 7, func(ctx context.Context, s *sharding.Scope) error {
			_, err := s.DB().ExecContext(ctx, `INSERT INTO things VALUES (2)`)
			return err
		})
		checkIs(t, "a single write", err, nil)
		rows("two writes", 2)

		// Under a transaction the shop can't be closed; after it, at once. Where the
		// answer to COMMIT was lost, not before the lease has lapsed.
		go func() { opened <- closing(1, 20*time.Second) }()
		checkIs(t, "Close, when the bar has gone", <-opened, nil)
		checkIs(t, "a write of a shop that has left", tx(3, nothing), sharding.ErrMoved)
		checkIs(t, "Reopen", lock.Reopen(ctx, from, 1), nil)
		err = tx(3, func(ctx context.Context, _ *sharding.Tx) error {
			checkIs(t, "Close under a transaction", closing(2, 50*time.Millisecond), redislock.ErrBudget)
			return nil
		})
		checkIs(t, "the transaction", err, nil)
		checkIs(t, "Close after it", closing(3, 1500*time.Millisecond), nil) // a lease lasts twice as long
		checkIs(t, "Reopen", lock.Reopen(ctx, from, 3), nil)
		rows("three writes", 3)

		err = tx(4, func(context.Context, *sharding.Tx) error {
			dialer.At(func(conn net.Conn, packet []byte) (int, error) { return cut.BeforeTheAnswer(conn, packet) })
			return nil
		})
		checkIs(t, "a COMMIT whose answer was lost", err, podworks.ErrOutcomeUnknown)
		checkIs(t, "Close, while that lease lasts", closing(4, 50*time.Millisecond), redislock.ErrBudget)
		checkIs(t, "Close, waiting for it to lapse", closing(5, 20*time.Second), nil)
		checkIs(t, "Reopen", lock.Reopen(ctx, from, 5), nil)

		// A writer whose lease was lost in the meantime is told before COMMIT.
		err = tx(5, func(ctx context.Context, _ *sharding.Tx) error {
			lapse := time.NewTimer(1700 * time.Millisecond) // half of the lease, and the session lives on by asking
			defer lapse.Stop()
			for asking := true; asking; {
				select {
				case <-lapse.C:
					asking = false
				default:
					sh, _ := podworks.TxFrom(ctx)
					if _, err := sh.(*sharding.Tx).ExecContext(ctx, `DO SLEEP(0.05)`); err != nil {
						return err
					}
				}
			}
			return client.FlushAll(ctx).Err()
		})
		if err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) || errors.Is(err, sharding.ErrMoved) {
			t.Errorf("a transaction whose lease is gone: got %v, want that it was rolled back", err)
		}
		checkIs(t, "a write of a shop that Redis has forgotten", tx(5, nothing), sharding.ErrMoved)
		rows("afterwards", 4)
	})
}
