package sharding_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A pod that keeps all its scopes leaves room for the others.
func TestAPodTakesNoMoreThanItsShareOfTheProcess(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxScopes: 10}, nil) // 7 for a pod
		var open []*sharding.Scope
		take := func(shop podworks.ShopID) error {
			s, err := w.cluster.Acquire(t.Context(), shop)
			if err == nil {
				open = append(open, s)
			}
			return err
		}
		for i := range 7 {
			if err := take([]podworks.ShopID{1, 3}[i%2]); err != nil {
				t.Fatalf("scope %d of pod 1: %v", i+1, err)
			}
		}
		for _, shop := range []podworks.ShopID{1, 3} {
			err := take(shop)
			checkIs(t, fmt.Sprintf("an eighth scope, of shop %d", shop), err, sharding.ErrBusy)
			if err == nil || !strings.Contains(err.Error(), "pod 1") {
				t.Errorf("got %v, want the pod named", err)
			}
		}
		// Joining is free.
		checkIs(t, "a scope in a scope", w.cluster.Do(open[0], 1, func(context.Context, *sharding.Scope) error { return nil }), nil)
		for i := range 3 {
			if err := take(2); err != nil {
				t.Fatalf("scope %d of pod 2: %v", i+1, err)
			}
		}
		err := take(2)
		checkIs(t, "an eleventh scope", err, sharding.ErrBusy)

		recorder := httptest.NewRecorder()
		w.cluster.Middleware(http.NotFoundHandler()).ServeHTTP(recorder, httptest.NewRequest("GET", "http://two.example/", nil))
		if recorder.Code != http.StatusServiceUnavailable || recorder.Header().Get("Retry-After") == "" {
			t.Errorf("Middleware answered %d, Retry-After %q, want 503 and when to come back", recorder.Code, recorder.Header().Get("Retry-After"))
		}

		stats := w.cluster.Stats()
		if stats.Scopes != 10 || stats.Pods[1].Scopes != 7 || stats.Pods[1].Refused != 2 || stats.Pods[2].Scopes != 3 || stats.Pods[2].Refused != 2 {
			t.Errorf("Stats = %+v, want 10 scopes, 7 and 3 in the pods, and 2 refused in each", stats)
		}
		for _, s := range open {
			s.Release()
			s.Release()
		}
		if stats := w.cluster.Stats(); stats.Scopes != 0 || stats.Pods[1].Scopes != 0 || stats.Pods[2].Scopes != 0 {
			t.Errorf("after all releases Stats = %+v, want no scopes", stats)
		}
		checkIs(t, "afterwards", take(1), nil)
	})
}

// An application's own limiter decides in our place, and hears how it went.
func TestAdmitDecides(t *testing.T) {
	t.Parallel()
	closed := errors.New("the breaker is open")
	boom := errors.New("boom")
	var mu sync.Mutex
	var log []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, args...))
	}
	w := newWorld(t, testcluster.Families()[0], &sharding.Options{
		MaxScopes: 1,
		Admit: func(_ context.Context, pod podworks.PodID) (func(error), error) {
			note("admit %d", pod)
			if pod == 2 {
				return nil, closed
			}
			return func(err error) { note("release %v", err) }, nil
		},
	}, nil)
	fails := func(err error) func(context.Context, *sharding.Scope) error {
		return func(context.Context, *sharding.Scope) error { return err }
	}
	outer, s := w.acquire(1)
	checkIs(t, "a second scope beyond MaxScopes", w.cluster.Do(t.Context(), 1, fails(nil)), nil)
	checkIs(t, "a scope in a scope", w.cluster.Do(outer, 1, fails(boom)), boom)
	checkIs(t, "a failing function", w.cluster.Do(t.Context(), 3, fails(boom)), boom)
	checkIs(t, "a refused pod", w.cluster.Do(t.Context(), 2, fails(nil)), closed)
	func() {
		defer func() { _ = recover() }()
		_ = w.cluster.Do(t.Context(), 1, func(context.Context, *sharding.Scope) error { panic(boom) })
	}()
	s.Release()
	want := []string{
		"admit 1",
		"admit 1", "release <nil>",
		"admit 1", "release boom",
		"admit 2",
		"admit 1", "release sharding: the function panicked",
		"release <nil>",
	}
	if !slices.Equal(log, want) {
		t.Errorf("Admit saw\n%q, want\n%q", log, want)
	}
	if stats := w.cluster.Stats(); stats.Scopes != 0 {
		t.Errorf("%d scopes are left, want none", stats.Scopes)
	}
}

// What Wrap puts around a driver sees each pod's connections, and no more of the
// driver's abilities than database/sql asks for is needed of it.
func TestWrapSeesEveryConnection(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var mu sync.Mutex
		dials := map[podworks.PodID]int{}
		w := newWorld(t, f, &sharding.Options{Wrap: func(pod podworks.PodID, inner driver.Connector) driver.Connector {
			return connectorFunc{inner, func(ctx context.Context) (driver.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dials[pod]++
				return inner.Connect(ctx)
			}}
		}}, nil)
		for _, shop := range []podworks.ShopID{1, 2} {
			ctx, s := w.acquire(shop)
			if _, err := s.DB().ExecContext(ctx, `INSERT INTO things VALUES (?, 1, 1)`, shop); err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if dials[1] == 0 || dials[2] == 0 {
			t.Errorf("Wrap's connectors were used %v times, want each", dials)
		}
	})
}

type connectorFunc struct {
	driver.Connector
	connect func(context.Context) (driver.Conn, error)
}

func (c connectorFunc) Connect(ctx context.Context) (driver.Conn, error) { return c.connect(ctx) }

// One shop's transactions wait for each other before they take a connection, so
// that the pod's other shops get theirs.
func TestAShopsOpenTransactionsAreBounded(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 3, MaxOpenTx: 2}, nil)
		ctx, s := w.acquire(1)
		release := make(chan struct{})
		opened := make(chan int)
		var wg sync.WaitGroup
		waiting := func(n int64) {
			t.Helper()
			await(t, fmt.Sprintf("%d waiting transactions", n), func() bool { return w.cluster.Stats().WaitingTx == n })
		}
		for i := range 6 {
			wg.Go(func() {
				err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
					opened <- i
					<-release
					return insert(ctx, tx, i)
				})
				checkIs(t, fmt.Sprintf("transaction %d", i), err, nil)
			})
			if i < 2 {
				<-opened
			} else {
				waiting(int64(i - 1))
			}
		}
		// A waiter that gives up leaves the line, and says why it waited.
		impatient, end := context.WithCancelCause(ctx)
		why := errors.New("the client has gone")
		gone := make(chan error)
		go func() {
			gone <- s.Tx(impatient, func(context.Context, *sharding.Tx) error { return errors.New("the closure ran") })
		}()
		waiting(5)
		end(why)
		err := <-gone
		checkIs(t, "the one that gave up", err, why)
		if err == nil || !strings.Contains(err.Error(), "MaxOpenTx") {
			t.Errorf("got %v, want MaxOpenTx named", err)
		}
		waiting(4)

		// The third connection is free for another shop, and for reads.
		other, s3 := w.acquire(3)
		err = s3.Tx(other, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (3, 1, 1)`)
			return err
		})
		checkIs(t, "another shop's transaction", err, nil)
		var n int
		checkIs(t, "a read", s.DB().QueryRowContext(ctx, `SELECT 1`).Scan(&n), nil)

		for want := 2; want < 6; want++ {
			release <- struct{}{}
			if got := <-opened; got != want {
				t.Errorf("transaction %d had its turn, want %d: the order is that of their coming", got, want)
			}
		}
		close(release)
		wg.Wait()
		w.wantCount(1, 1, 6)
		if got := w.cluster.Stats().WaitingTx; got != 0 {
			t.Errorf("%d transactions wait, want none", got)
		}

		// What doesn't come through Scope.Tx counts as well, however it ends.
		for range 3 {
			tx, err := s.DB().BeginTx(ctx, nil)
			checkIs(t, "BeginTx", err, nil)
			checkIs(t, "Rollback", tx.Rollback(), nil)
			_, err = s.DB().ExecContext(ctx, `INSERT INTO things VALUES (1, 1, 1)`)
			if err == nil {
				t.Error("a double key was written")
			}
			ending, end := context.WithCancel(ctx)
			_, err = s.DB().BeginTx(ending, nil)
			checkIs(t, "BeginTx", err, nil)
			end() // database/sql rolls back
			await(t, "the rollback", func() bool { return w.cluster.Stats().Pods[1].DB.InUse == 0 })
		}
		w.setFence(1, fence.Row{Shop: 1, Epoch: 1, State: fence.Moved, Destination: 2, Token: 1})
		tx, err := s.DB().BeginTx(ctx, nil)
		checkIs(t, "BeginTx of a shop that moved", err, sharding.ErrMoved)
		if tx != nil {
			t.Error("got a transaction and an error")
		}
		w.setFence(1, fence.Row{Shop: 1, Epoch: 1, State: fence.Open})
		met := make(chan struct{})
		for _, meet := range []func(){func() { met <- struct{}{} }, func() { <-met }} {
			wg.Go(func() {
				checkIs(t, "after all that", s.Tx(ctx, func(context.Context, *sharding.Tx) error {
					meet()
					return nil
				}), nil)
			})
		}
		wg.Wait()
	})
}

func TestTakeLoadCountsWhatShopsAsk(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		do := func(shop podworks.ShopID, fn func(ctx context.Context, s *sharding.Scope) error) {
			t.Helper()
			checkIs(t, fmt.Sprintf("shop %d", shop), w.cluster.Do(t.Context(), shop, fn), nil)
		}
		long := strings.Repeat("x", 1000)
		for range 2 {
			do(1, func(ctx context.Context, s *sharding.Scope) error {
				rows, err := s.DB().QueryContext(ctx, `SELECT ? UNION ALL SELECT ?`, long, long)
				if err != nil {
					return err
				}
				defer rows.Close()
				for rows.Next() {
				}
				return rows.Err()
			})
		}
		do(1, func(ctx context.Context, s *sharding.Scope) error {
			return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				return errors.Join(insert(ctx, tx, 1), insert(ctx, tx, 2))
			})
		})
		do(2, func(ctx context.Context, s *sharding.Scope) error {
			_, err := s.DB().ExecContext(ctx, `INSERT INTO things VALUES (2, 1, 1)`)
			return err
		})
		do(3, func(context.Context, *sharding.Scope) error { return nil }) // asks nothing
		load := w.cluster.TakeLoad()
		slices.SortFunc(load, func(a, b sharding.ShopLoad) int { return int(a.Shop - b.Shop) })
		if len(load) != 2 {
			t.Fatalf("TakeLoad = %+v, want shops 1 and 2", load)
		}
		one, two := load[0], load[1]
		if one.Shop != 1 || one.Pod != 1 || one.Scopes != 3 || one.Queries != 4 || one.Writes != 1 || one.Bytes < 8000 || one.Bytes > 9000 || one.Busy <= 0 {
			t.Errorf("shop 1: %+v, want pod 1, 3 scopes, 4 queries, 1 write and about 8000 bytes", one)
		}
		if two.Shop != 2 || two.Pod != 2 || two.Scopes != 1 || two.Queries != 1 || two.Writes != 1 || two.Busy <= 0 {
			t.Errorf("shop 2: %+v, want pod 2, 1 scope, 1 query, 1 write", two)
		}
		if again := w.cluster.TakeLoad(); len(again) != 0 {
			t.Errorf("TakeLoad again = %+v, want nothing", again)
		}
	})
}
