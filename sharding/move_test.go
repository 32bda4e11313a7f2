package sharding_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A shop moves while a transaction waits for its fence. The closure runs once,
// in the new pod, and everything the scope gave out before is dead.
func TestATransactionWaitsOutAMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var fenced atomic.Pointer[podworks.Route]
		dialer := new(cut.Dialer)
		w := newWorld(t, f, &sharding.Options{Hooks: sharding.Hooks{
			Fenced: func(r podworks.Route, took time.Duration) {
				if took <= 0 {
					t.Errorf("Hooks.Fenced was told %v, want the time it took", took)
				}
				fenced.Store(&r)
			},
		}}, dialer.Use)
		ctx, s := w.acquire(1)
		old := s.DB()
		prepared, err := old.PrepareContext(ctx, `SELECT COUNT(*) FROM things`)
		if err != nil {
			t.Fatal(err)
		}
		defer prepared.Close()

		// The mover has the lock, and the writer waits for it.
		m := w.claim(1, 2)
		locked, drained, closed := make(chan struct{}), make(chan struct{}), make(chan error)
		go func() {
			closed <- m.close(10*time.Second, func(context.Context, *sql.Conn) error {
				close(locked)
				<-drained
				return nil
			})
		}()
		<-locked
		runs := 0
		var route podworks.Route
		wrote := make(chan error)
		go func() {
			wrote <- s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				runs++
				route, _ = podworks.RouteFrom(ctx)
				return insert(ctx, tx, 1)
			})
		}()
		w.awaitWaiter(1)

		// The source is closed, the target not yet open: it waits on.
		close(drained)
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		awaitRefusals(t, dialer)
		m.finish()
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}

		want := podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}
		if runs != 1 || route != want {
			t.Errorf("the closure ran %d times, with the route %v; want once with %v", runs, route, want)
		}
		if got := fenced.Load(); got == nil || *got != want {
			t.Errorf("Hooks.Fenced was told %v, want %v", got, want)
		}
		if got := s.Route(); got != want {
			t.Errorf("the scope's route is %v, want %v", got, want)
		}
		w.wantCount(1, 1, 0)
		w.wantCount(2, 1, 1)

		// The scope's old handles are dead, its new ones live.
		for _, u := range uses {
			checkIs(t, u.name+" of the old pool", u.use(ctx, old), sharding.ErrStale)
		}
		var n int
		checkIs(t, "an old statement", prepared.QueryRowContext(ctx).Scan(&n), sharding.ErrStale)
		if err := s.DB().QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil || n != 1 {
			t.Errorf("the new pool counts %d things (%v), want 1", n, err)
		}
		// So is a nested scope's, and a new one's.
		err = w.cluster.Do(ctx, 1, func(_ context.Context, inner *sharding.Scope) error {
			if inner.Route() != want {
				t.Errorf("a nested scope's route is %v, want %v", inner.Route(), want)
			}
			return nil
		})
		checkIs(t, "a nested Do", err, nil)
		if _, s := w.acquire(1); s.Route() != want {
			t.Errorf("a new scope's route is %v, want %v", s.Route(), want)
		}
	})
}

// awaitRefusals returns when two more writers have been refused and rolled back.
func awaitRefusals(t *testing.T, d *cut.Dialer) {
	t.Helper()
	before := d.Rollbacks()
	await(t, "writers that come again", func() bool { return d.Rollbacks() >= before+2 })
}

// A scope that hasn't heard of a move finds out at its first write, whatever
// that is.
func TestAStaleScopeIsRefusedOrGoesOnInTheNewPod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		for _, wr := range writers {
			w.exec(1, `DELETE FROM things`)
			w.exec(2, `DELETE FROM things`)
			ctx, s := w.acquire(1)
			from := s.Route().Pod
			to := 3 - from
			w.moveTo(1, to)
			err := wr.write(ctx, s)
			if wr.name == "Scope.Tx" {
				checkIs(t, wr.name, err, nil)
				w.wantCount(to, 1, 1)
				w.wantCount(from, 1, 0)
				continue
			}
			checkIs(t, wr.name, err, sharding.ErrMoved)
			w.wantCount(to, 1, 0)
			w.wantCount(from, 1, 0)
			// The way out that needs no closure: ask where it is, and do it again in a
			// new scope.
			if _, err := w.dir.Fresh(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			ctx, s = w.acquire(1)
			checkIs(t, wr.name+" in a new scope", wr.write(ctx, s), nil)
			w.wantCount(to, 1, 1)
		}
	})
}

// The shop's fence is closed and nothing more happens.
func TestHowLongATransactionWaits(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MoveWait: 50 * time.Millisecond}, nil)
		w.setFence(1, fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 2, Token: 1})
		ctx, s := w.acquire(1)
		never := func(context.Context, *sharding.Tx) error {
			t.Error("the closure ran")
			return nil
		}
		start := time.Now()
		err := s.Tx(ctx, never)
		checkIs(t, "Tx for longer than MoveWait", err, sharding.ErrMoved)
		if took := time.Since(start); took < 50*time.Millisecond {
			t.Errorf("Tx gave up after %v, want MoveWait or more", took)
		}

		dialer := new(cut.Dialer)
		patient := newWorld(t, f, nil, dialer.Use)
		patient.setFence(1, fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 2, Token: 1})
		ctx, s = patient.acquire(1)
		deadline, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		checkIs(t, "Tx until the deadline", s.Tx(deadline, never), context.DeadlineExceeded)

		reason := errors.New("the client has gone")
		ending, end := context.WithCancelCause(ctx)
		done := make(chan error)
		go func() { done <- s.Tx(ending, never) }()
		awaitRefusals(t, dialer)
		end(reason)
		err = <-done
		if !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
			t.Errorf("Tx whose context ends: got %v, want the cause or Canceled", err)
		}
		if n := s.DB().Stats().InUse; n != 0 {
			await(t, "the connections to come back", func() bool { return s.DB().Stats().InUse == 0 })
		}
	})
}

// A master that hangs must not hold writers for longer than MoveWait.
func TestATransactionWaitsNoLongerForAMasterThatHangs(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		w := newWorld(t, f, nil, nil)
		dir := sharding.NewDirectory(openPlain(t, master, testcluster.Database(t, master)), nil)
		cluster := w.newCluster(dir, w.connectors(), &sharding.Options{MoveWait: 100 * time.Millisecond})
		if err := cluster.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := dir.AddPod(t.Context(), 1, "here"); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.CreateShop(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		s, err := cluster.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		if err := master.Pause(); err != nil {
			t.Fatal(err)
		}
		defer master.Resume()

		// What needs no master goes on.
		err = s.Tx(s, func(ctx context.Context, tx *sharding.Tx) error { return insert(ctx, tx, 1) })
		checkIs(t, "Tx of a shop that stays, without a master", err, nil)

		w.setFence(1, fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 2, Token: 1})
		err = s.Tx(s, func(context.Context, *sharding.Tx) error {
			t.Error("the closure ran")
			return nil
		})
		checkIs(t, "Tx of a shop that moves, without a master", err, sharding.ErrMoved)
	})
}

// Nor does a transaction need the master to follow a shop: the fence that refused
// it says where the shop went, and the fence over there when it has arrived. Until
// then the unit goes on reading where it was.
func TestATransactionFollowsItsShopWithoutAMaster(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		var name string
		if err := w.master.QueryRowContext(t.Context(), `SELECT DATABASE()`).Scan(&name); err != nil {
			t.Fatal(err)
		}
		own := w.open(name)
		dir := sharding.NewDirectory(own, nil)
		if err := dir.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		cluster := w.newCluster(dir, w.connectors(), nil)
		s, err := cluster.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		own.Close()

		m := w.claim(1, 2)
		if err := m.close(10*time.Second, func(context.Context, *sql.Conn) error { return nil }); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			done <- s.Tx(s, func(ctx context.Context, tx *sharding.Tx) error {
				if r, _ := podworks.RouteFrom(ctx); r != (podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}) {
					t.Errorf("the transaction runs with %v, want pod 2 at epoch 2", r)
				}
				return insert(ctx, tx, 1)
			})
		}()
		// It has asked over there, several times, and was not let in.
		await(t, "attempts in the new pod", func() bool { return cluster.Stats().Pods[2].DB.OpenConnections > 0 && len(done) == 0 })
		var n int
		if err := s.DB().QueryRowContext(s, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil || s.Route().Pod != 1 {
			t.Errorf("before the decision: a read in pod %d, %v; want the old pod", s.Route().Pod, err)
		}
		m.finish()
		checkIs(t, "the transaction", <-done, nil)
		w.wantCount(2, 1, 1)
		if r, err := dir.Lookup(t.Context(), 1); err != nil || r.Pod != 2 {
			t.Errorf("the directory has %v, %v; want what the unit found out", r, err)
		}
	})
}

// A shop that moves to a pod this process doesn't know is lost to it.
func TestAMoveToAPodWithoutAConnector(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		connectors := w.connectors()
		delete(connectors, 2)
		small := w.newCluster(sharding.NewDirectory(w.master, nil), connectors, nil)
		s, err := small.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		w.moveTo(1, 2)
		err = s.Tx(s, func(context.Context, *sharding.Tx) error {
			t.Error("the closure ran")
			return nil
		})
		checkIs(t, "Tx", err, sharding.ErrUnknownPod)
		_, err = small.Acquire(t.Context(), 1)
		checkIs(t, "Acquire", err, sharding.ErrUnknownPod)
	})
}

// Many writers through several moves: each write is in exactly one pod, and
// none is lost.
func TestWritersThroughMoves(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		const workers, moves = 6, 4
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var wg sync.WaitGroup
		var next, acknowledged atomic.Int64
		for range workers {
			wg.Go(func() {
				for ctx.Err() == nil {
					err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) error {
						return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
							return insert(ctx, tx, int(next.Add(1)))
						})
					})
					if err != nil {
						t.Errorf("a writer: %v", err)
						return
					}
					acknowledged.Add(1)
				}
			})
		}
		for i := range moves {
			atLeast := acknowledged.Load() + workers
			await(t, "writes", func() bool { return acknowledged.Load() >= atLeast || t.Failed() })
			w.moveTo(1, podworks.PodID(2-i%2))
		}
		stop()
		wg.Wait()
		one, two := w.count(1, 1), w.count(2, 1)
		if int64(one+two) != acknowledged.Load() || one == 0 || two == 0 {
			t.Errorf("%d writes were acknowledged; pod 1 has %d and pod 2 has %d, want as many, in both", acknowledged.Load(), one, two)
		}
	})
}
