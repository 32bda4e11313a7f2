package goose_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/databasesql"
	"github.com/podworks/podworks/examples/libraries/goose"
	"github.com/podworks/podworks/examples/libraries/internal/librarytest"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func TestUpMigratesEveryPod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c, _ := librarytest.Bare(t, f, nil)
		wantStatus(t, c, map[podworks.PodID]goose.Status{1: {0, 2}, 2: {0, 2}})
		for range 2 { // the second time there is nothing to do
			if err := goose.Up(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			wantStatus(t, c, map[podworks.PodID]goose.Status{1: {2, 2}, 2: {2, 2}})
		}
		err := c.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
			_, err := databasesql.Repository{Scope: s}.Add(ctx, "hat", 1)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Pod 2 has been changed by hand, so that the second migration fails there.
func TestAMigrationThatFailsStopsAtThePod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c, _ := librarytest.Bare(t, f, map[podworks.PodID]*testcluster.MySQLServer{3: testcluster.Server(t, f)})
		in2 := func(query string) {
			t.Helper()
			err := c.EachPod(t.Context(), "tampering", nil, func(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
				if pod != 2 {
					return nil
				}
				_, err := db.ExecContext(ctx, query)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		in2(`CREATE TABLE products (vendor INT)`)
		wantPod(t, goose.Up(t.Context(), c), 2)
		wantStatus(t, c, map[podworks.PodID]goose.Status{1: {2, 2}, 2: {0, 2}, 3: {0, 2}})

		in2(`DROP TABLE products`)
		if err := goose.Up(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, map[podworks.PodID]goose.Status{1: {2, 2}, 2: {2, 2}, 3: {2, 2}})
	})
}

func TestAPodThatIsDownStopsTheRest(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		second := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		c, _ := librarytest.Bare(t, f, map[podworks.PodID]*testcluster.MySQLServer{2: second, 3: testcluster.Server(t, f)})
		if err := second.Kill(); err != nil {
			t.Fatal(err)
		}
		wantPod(t, goose.Up(t.Context(), c), 2)
		// The status goes on with the others.
		status, err := goose.StatusOf(t.Context(), c)
		wantPod(t, err, 2)
		if want := (map[podworks.PodID]goose.Status{1: {2, 2}, 3: {0, 2}}); !maps.Equal(status, want) {
			t.Errorf("the status is %v, want %v", status, want)
		}

		if err := second.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := goose.Up(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, map[podworks.PodID]goose.Status{1: {2, 2}, 2: {2, 2}, 3: {2, 2}})
	})
}

func TestASecondDeploymentWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c, _ := librarytest.Bare(t, f, nil)
		up := make(chan error, 1)
		// The first is in pod 1 and has its lock.
		err := c.EachPod(t.Context(), "being slow", nil, func(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
			if pod != 1 {
				return nil
			}
			conn, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := goose.Lock(ctx, conn); err != nil {
				return err
			}
			go func() { up <- goose.Up(ctx, c) }()
			if err := awaitLock(ctx, db); err != nil {
				return err
			}
			has, err := hasProducts(ctx, db)
			if has {
				t.Error("the second deployment did not wait")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if err := <-up; err != nil {
			t.Error(err)
		}
		wantStatus(t, c, map[podworks.PodID]goose.Status{1: {2, 2}, 2: {2, 2}})
	})
}

// The twin of the above: what goose does by itself.
func TestWithoutTheLockASecondDeploymentDoesNotWait(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c, _ := librarytest.Bare(t, f, nil)
		err := c.EachPod(t.Context(), "being slow", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
			conn, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := goose.Lock(ctx, conn); err != nil {
				return err
			}
			if err := goose.UpWithoutLock(ctx, db); err != nil {
				return err
			}
			has, err := hasProducts(ctx, db)
			if !has {
				t.Error("the second deployment waited")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// hasProducts reports whether the first migration was applied.
func hasProducts(ctx context.Context, db *sql.DB) (bool, error) {
	var n int
	err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'products'`).Scan(&n)
	return n > 0, err
}

// awaitLock returns when somebody waits for the database's lock.
func awaitLock(ctx context.Context, db *sql.DB) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(15 * time.Second)
	for {
		var n int
		err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '%GET_LOCK%'`).Scan(&n)
		if err != nil || n > 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return errors.New("nobody waits for the lock")
		}
	}
}

// goose's table has no shop, so ferry wants to be told that it is no oversight.
func TestAShopMovesBetweenMigratedPods(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c, pods := librarytest.Bare(t, f, nil)
		if err := goose.Up(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		var hat int64
		err := c.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) (err error) {
			hat, err = databasesql.Repository{Scope: s}.Add(ctx, "hat", 3)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []struct {
			ignore []string
			fault  string
		}{{nil, "goose_db_version"}, {[]string{"goose_db_version"}, ""}} {
			mover, err := ferry.New(c.Directory(), pods, &ferry.Options{Ignore: m.ignore, PauseBudget: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := mover.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = mover.Move(t.Context(), 1, 2)
			if m.fault == "" && err != nil || m.fault != "" && (err == nil || !strings.Contains(err.Error(), m.fault)) {
				t.Fatalf("a move that ignores %q: got %v, want an error about %q", m.ignore, err, m.fault)
			}
		}
		// It has kept its id, and pod 2 goes on with its own numbers.
		err = c.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
			r := databasesql.Repository{Scope: s}
			if _, err := r.Sell(ctx, hat, 1); err != nil {
				return err
			}
			mug, err := r.Add(ctx, "mug", 1)
			if mug%1024 != 2 {
				t.Errorf("pod 2 gave out the id %d, want one of its own", mug)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A migration is no shop's work.
func TestUpIsRefusedInAScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c, _ := librarytest.Bare(t, f, nil)
		err := c.Do(t.Context(), 1, func(ctx context.Context, _ *sharding.Scope) error { return goose.Up(ctx, c) })
		if !errors.Is(err, sharding.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
		wantStatus(t, c, map[podworks.PodID]goose.Status{1: {0, 2}, 2: {0, 2}})
	})
}

func wantStatus(t *testing.T, c *sharding.Cluster, want map[podworks.PodID]goose.Status) {
	t.Helper()
	if got, err := goose.StatusOf(t.Context(), c); err != nil || !maps.Equal(got, want) {
		t.Errorf("the status is %v (%v), want %v", got, err, want)
	}
}

// wantPod fails the test if err doesn't name the pod.
func wantPod(t *testing.T, err error, pod podworks.PodID) {
	t.Helper()
	var e *sharding.Error
	if !errors.As(err, &e) || e.Pod != pod || !strings.Contains(err.Error(), "schema") {
		t.Errorf("got %v, want an Error of pod %d that says what for", err, pod)
	}
}
