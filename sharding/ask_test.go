package sharding

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

// While a hot shop moves, all its writers want to know where it is. The master
// gets one question, and when who asked it gives up, another asks.
func TestThoseWhoAskAtTheSameTimeShareTheAnswer(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		ctx, server := t.Context(), testcluster.Server(t, f)
		name := testcluster.Database(t, server)
		open := func() *sql.DB {
			cfg := server.Config(name)
			cfg.Logger = &mysql.NopLogger{}
			c, err := mysql.NewConnector(cfg)
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(c)
			t.Cleanup(func() { db.Close() })
			return db
		}
		d, other := NewDirectory(open(), nil), open()
		if err := errors.Join(d.Migrate(ctx), d.AddPod(ctx, 1, "here")); err != nil {
			t.Fatal(err)
		}
		if _, err := d.addShop(ctx, 1, 1, nil); err != nil {
			t.Fatal(err)
		}
		asking := func() (n int) {
			t.Helper()
			if err := other.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.processlist WHERE db = ? AND info LIKE '%FROM podworks_shops%' AND id <> CONNECTION_ID()`, name).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		until := func(n int) (most int) {
			t.Helper()
			late := time.After(15 * time.Second)
			for tick := time.NewTicker(2 * time.Millisecond); ; {
				got := asking()
				if most = max(most, got); got == n {
					return most
				}
				select {
				case <-tick.C:
				case <-late:
					t.Fatalf("%d look-ups are under way, want %d", got, n)
				}
			}
		}

		const writers = 20
		var a asks
		for _, c := range []struct {
			name string
			ask  func(context.Context) (podworks.Route, error)
			want int
		}{
			{"shared", func(ctx context.Context) (podworks.Route, error) { return a.fresh(ctx, d, 1) }, 1},
			{"each for itself", func(ctx context.Context) (podworks.Route, error) { return d.Fresh(ctx, 1) }, writers + 1},
		} {
			locked, err := other.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := locked.ExecContext(ctx, `LOCK TABLES podworks_shops WRITE`); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			hasty, giveUp := context.WithCancel(ctx)
			wg.Go(func() {
				if _, err := c.ask(hasty); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: who gave up got %v, want context.Canceled", c.name, err)
				}
			})
			until(1)
			for range writers {
				wg.Go(func() {
					if r, err := c.ask(ctx); err != nil || r.Pod != 1 {
						t.Errorf("%s: got %v, %v; want pod 1", c.name, r, err)
					}
				})
			}
			if most := until(c.want); most != c.want {
				t.Errorf("%s: %d look-ups at a time, want %d", c.name, most, c.want)
			}
			giveUp() // another asks, or all would wait for the answer that nobody reads
			if _, err := locked.ExecContext(ctx, `UNLOCK TABLES`); err != nil {
				t.Fatal(err)
			}
			locked.Close()
			wg.Wait()
		}
	})
}
