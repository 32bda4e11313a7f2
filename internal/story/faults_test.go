package story

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// seed returns the seed of a test's draws; PODWORKS_SEED repeats a run's.
func seed(t *testing.T) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("PODWORKS_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("PODWORKS_SEED: %v", err)
		}
	}
	t.Logf("PODWORKS_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// A histogram counts at which step movers died.
type histogram map[string]int

// killRound has a mover killed at a step, and the rest settled by others. It
// reports at which step it died.
func (w *world) killRound(step string, delay time.Duration) string {
	w.t.Helper()
	s := w.settings
	s.To, s.Die, s.Delay = other(w.where()), step, delay
	p := w.start("mover", s)
	last := p.end()
	if last == "moved" {
		last = "opened" // it was through before the signal came
	}
	w.settle()
	return last
}

// settle has the moves whose mover is gone finished or undone, and what a move
// left behind removed.
func (w *world) settle() {
	w.t.Helper()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		_, err := w.ferry.Recover(w.ctx)
		moves, err2 := w.cluster.Directory().Moves(w.ctx)
		if err == nil && err2 == nil && len(moves) == 0 {
			break
		}
		if time.Since(start) > 10*time.Second {
			if len(w.settings.Off) > 0 {
				return // a twin may be beyond repair
			}
			w.t.Fatalf("after 10 s the journal has %v: %v", moves, errors.Join(err, err2))
		}
	}
	from := other(w.where())
	row, err := fence.Read(w.ctx, w.pods[from], w.settings.Shop, "")
	if err != nil {
		w.t.Fatal(err)
	}
	if row.State == fence.Moved {
		_, err := w.ferry.Clean(w.ctx, w.settings.Shop, from)
		if err != nil && len(w.settings.Off) == 0 {
			w.t.Fatal(err)
		}
	}
}

// freeze starts a mover that stops itself at the step s.Freeze, and returns it
// once it has stopped. One that gave its move up before, as it does on a machine so
// busy that its pauses are over their budget, is followed by another.
func (w *world) freeze(s settings) *process {
	w.t.Helper()
	const most = 5
	for try := 1; ; try++ {
		p := w.start("mover", s)
		if p.stopped() {
			return p
		}
		if try == most {
			w.t.Fatalf("%d movers ended before they came to %s; the last wrote: %s", most, s.Freeze, p.stderr.String())
		}
		w.settle()
	}
}

// freezeRound has a mover freeze at a step with others recovering meanwhile,
// and wake up in the middle of that.
func (w *world) freezeRound(step string) {
	w.t.Helper()
	s := w.settings
	s.To, s.Freeze = other(w.where()), step
	s.Budget = 900 * time.Millisecond // so that it is not what makes the woken mover step back
	p := w.freeze(s)
	recovered := make(chan struct{})
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	go func() {
		defer close(recovered)
		for moves, _ := w.cluster.Directory().Moves(ctx); len(moves) > 0 && ctx.Err() == nil; moves, _ = w.cluster.Directory().Moves(ctx) {
			w.ferry.Recover(ctx)
		}
	}()
	// Woken as soon as its journal row is taken from it, while it still holds its lock.
	for ctx.Err() == nil {
		moves, err := w.cluster.Directory().Moves(ctx)
		if err == nil && (len(moves) == 0 || moves[0].State != podworks.MoveRunning) {
			break
		}
	}
	p.resume()
	<-recovered
	p.end()
	w.settle()
}

// bulkRound moves the shop while a large transaction is in flight and the log
// arrives late: it commits when the mover already waits for the lock, so the
// mover is behind when it has the lock.
func (w *world) bulkRound() {
	w.t.Helper()
	sleeper := w.start("sleeper", w.settings)
	sleeper.await("in the transaction")
	s := w.settings
	s.To, s.SlowLog, s.Budget = other(w.where()), 50*time.Millisecond, 900*time.Millisecond
	p := w.start("mover", s)
	const most = 5
	for try := 1; !w.asksForTheLock(p, other(s.To)); try++ {
		if try == most {
			w.t.Fatalf("%d movers ended before they were seen to wait for the lock; the last wrote: %s", most, p.stderr.String())
		}
		w.settle()
		p = w.start("mover", s)
	}
	sleeper.stdin.Close()
	if last := sleeper.end(); last != "acknowledged" {
		w.t.Logf("the large transaction was %s", last)
	}
	p.end()
	w.settle()
}

// asksForTheLock waits until the mover p waits for the fence's lock, and reports
// false if it gave up before that was seen.
func (w *world) asksForTheLock(p *process, source podworks.PodID) bool {
	w.t.Helper()
	for {
		var waiting int
		if err := w.pods[source].QueryRowContext(w.ctx, `SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT %podworks_fence%FOR UPDATE'`).Scan(&waiting); err != nil {
			w.t.Fatal(err)
		}
		if waiting > 0 {
			return true
		}
		select {
		case <-p.done:
			return false
		default:
		}
	}
}

// sale runs rounds under a writer's load and judges.
func (w *world) sale(rounds func()) verdict {
	w.t.Helper()
	p := w.start("writer", w.settings)
	p.await("writing")
	rounds()
	p.stdin.Close()
	p.end()
	if p.err != nil {
		w.t.Fatalf("the writer failed: %v: %s", p.err, p.stderr.String())
	}
	return w.judge()
}

// delays are how long after a step's beginning the later kills come, at most.
var delays = map[string]time.Duration{"copy": 60 * time.Millisecond}

func (w *world) killRounds(rnd *rand.Rand, times int) histogram {
	h := histogram{}
	for round := range times {
		for _, step := range steps {
			var delay time.Duration
			if round > 0 { // the first time at the step's very beginning, so that none is missed
				most := delays[step]
				if most == 0 {
					most = 4 * time.Millisecond
				}
				delay = 1 + time.Duration(rnd.Int64N(int64(most)))
			}
			h[w.killRound(step, delay)]++
		}
	}
	return h
}

func TestMoverKilledAtEveryStep(t *testing.T) {
	times := 2
	if testing.Short() {
		times = 1
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		rnd := seed(t)
		w := newWorld(t, f)
		var h histogram
		v := w.sale(func() { h = w.killRounds(rnd, times) })
		for _, step := range steps {
			t.Logf("killed at %-8s %d", step, h[step])
			if h[step] == 0 {
				t.Errorf("no mover died at step %s", step)
			}
		}
		if !v.clean() {
			t.Errorf("got %+v, want nothing lost, doubled, stray or stuck", v)
		}
		t.Logf("%+v", v)
		if v.Acknowledged < 1000 {
			t.Errorf("only %d orders were acknowledged; that proves little", v.Acknowledged)
		}
	})
}

// frozen are the steps at which a mover is stopped and its move taken from it:
// while it copies, while it holds the lock, and just before it commits.
var frozen = []string{"copy", "drain", "verified", "closed", "decided"}

func TestMoverFrozenWhileOthersRecover(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		v := w.sale(func() {
			for _, step := range frozen {
				w.freezeRound(step)
			}
			w.bulkRound()
		})
		if !v.clean() {
			t.Errorf("got %+v, want nothing lost, doubled, stray or stuck", v)
		}
	})
}

// TestLargeTransactionInFlight: rows that were committed just before the lock
// was had, and whose events arrive late, are waited for.
func TestLargeTransactionInFlight(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		w.bulkRound()
		if v := w.judge(); !v.clean() || v.Acknowledged != bulkRows || w.where() != 2 {
			t.Errorf("got %+v in pod %d, want %d rows acknowledged and found in pod 2", v, w.where(), bulkRows)
		}
	})
}

// TestTwins runs the rounds of the tests above with one protection switched
// off. Each must then find what the protection is there to prevent; else those
// tests would pass whatever happened.
//
// Without the marker the comparison under the lock still finds rows that are
// behind, but only those that it has heard of. So that twin runs without the
// writer, whose counters are touched all the time.
func TestTwins(t *testing.T) {
	for _, twin := range []struct {
		off    hook.Protection
		rounds func(*world) verdict
	}{
		{hook.Lock, func(w *world) verdict {
			return w.sale(func() { w.killRounds(seed(w.t), 1) })
		}},
		{hook.Decision, func(w *world) verdict {
			return w.sale(func() { w.freezeRound("verified") })
		}},
		{hook.Marker, func(w *world) verdict {
			w.bulkRound()
			return w.judge()
		}},
	} {
		t.Run("without "+string(twin.off), func(t *testing.T) {
			testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
				t.Parallel()
				const most = 20 // mostly one or two do
				for range most {
					v := twin.rounds(newWorld(t, f, twin.off))
					t.Logf("%+v", v)
					if v.Lost > 0 || v.Doubled > 0 || v.Stray > 0 {
						return
					}
				}
				t.Errorf("nothing was lost in %d runs without the %s; the tests that rely on it prove nothing", most, twin.off)
			})
		})
	}
}

// TestFrozenMoverHoldsNobodyUp: with the fence's lock in the hand of a mover
// that is frozen, the shop is writable again within 3 s, and the mover, woken,
// changes nothing.
func TestFrozenMoverHoldsNobodyUp(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		s := w.settings
		s.To, s.Freeze = 2, "drain"
		p := w.freeze(s)
		start := time.Now()
		if err := write(w.ctx, w.cluster, s.Shop, 1, 1); err != nil {
			t.Fatalf("a write while the mover is frozen: %v", err)
		}
		took := time.Since(start)
		t.Logf("writable after %v", took)
		if took > 3*time.Second {
			t.Errorf("the shop was writable after %v, want 3 s or less", took)
		}
		w.settle()
		before := w.snapshot()
		p.resume()
		if last := p.end(); last != "failed" {
			t.Errorf("the woken mover ended with %q, want failed", last)
		}
		if after := w.snapshot(); after != before {
			t.Errorf("the woken mover changed %s\ninto %s", before, after)
		}
	})
}

// snapshot tells everything a mover could have changed.
func (w *world) snapshot() string {
	w.t.Helper()
	r, err := w.cluster.Directory().Fresh(w.ctx, w.settings.Shop)
	if err != nil {
		w.t.Fatal(err)
	}
	out := fmt.Sprint(r)
	for _, pod := range []podworks.PodID{1, 2} {
		row, err := fence.Read(w.ctx, w.pods[pod], w.settings.Shop, "")
		if err != nil {
			w.t.Fatal(err)
		}
		orders, counts := w.rows(pod)
		out += fmt.Sprintf("; pod %d: %v, %d orders, counts %v", pod, row, len(orders), counts)
	}
	return out
}

// TestFrozenWriterIsPassed: an application that was stopped inside a write
// transaction doesn't stop a move. The mover steps back three times, then ends
// its session; its write is refused.
func TestFrozenWriterIsPassed(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		p := w.start("sleeper", w.settings)
		p.await("in the transaction")
		p.cmd.Process.Signal(syscall.SIGSTOP)
		if !p.stopped() {
			t.Fatalf("the sleeper is gone; it wrote: %s", p.stderr.String())
		}
		report, err := w.ferry.Move(w.ctx, w.settings.Shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d steps back, pause %v, %v in all", report.StepsBack, report.Pause, report.Took)
		if report.StepsBack < 3 {
			t.Errorf("the mover stepped back %d times, want 3 or more before it ends a session", report.StepsBack)
		}
		p.resume()
		p.stdin.Close()
		last := p.end()
		orders, counts := w.rows(2)
		if last != "refused" && int64(len(orders)) != bulkRows {
			t.Errorf("the woken writer was told %q, and %d of its %d rows are there", last, len(orders), bulkRows)
		}
		if last == "refused" && (len(orders) != 0 || counts[writers] != 0) {
			t.Errorf("the woken writer was refused, and %d of its rows are there", len(orders))
		}
	})
}

// TestTargetKilledInTheCopy: the move fails, the shop goes on trading where it
// is, and when the target is back the move is undone and can be made.
func TestTargetKilledInTheCopy(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		target := testcluster.Shared(t, f, "b")
		set := &hook.Set{Step: func(step string) {
			if step == "copy" {
				if err := target.Kill(); err != nil {
					t.Error(err)
				}
			}
		}}
		_, err := w.ferry.Move(hook.With(w.ctx, set), w.settings.Shop, 2)
		if err == nil {
			t.Fatal("the move went through without a target")
		}
		t.Log(err)
		if err := write(w.ctx, w.cluster, w.settings.Shop, 1, 1); err != nil {
			t.Errorf("a write after the failed move: %v", err)
		}
		if err := target.Restart(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := w.where(); got != 1 {
			t.Errorf("the shop is in pod %d, want 1", got)
		}
		if _, err := w.ferry.Move(w.ctx, w.settings.Shop, 2); err != nil {
			t.Errorf("the second move: %v", err)
		}
	})
}

// TestDefaultLeaseSettlesWithinTenSeconds: with default settings, a dead
// mover's shop is writable again 10 s after its death, whatever it had closed.
func TestDefaultLeaseSettlesWithinTenSeconds(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		w.settings.Lease = 0
		var err error
		if w.ferry, err = w.settings.ferry(); err != nil {
			t.Fatal(err)
		}
		s := w.settings
		s.To, s.Die = 2, "closed"
		w.start("mover", s).end()
		died := time.Now()
		ctx, cancel := context.WithCancel(w.ctx)
		done := make(chan error)
		go func() { done <- w.ferry.Run(ctx) }()
		wctx, cancelWrite := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancelWrite()
		err = w.cluster.Do(wctx, s.Shop, func(ctx context.Context, sc *sharding.Scope) error {
			return sc.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error { return nil })
		})
		t.Logf("writable after %v", time.Since(died))
		if err != nil {
			t.Errorf("not writable after %v: %v", time.Since(died), err)
		}
		cancel()
		<-done
		w.settle()
	})
}

// TestRefusedInsideAScope: what would lose the fence's lock never reaches the
// server, and the move that runs meanwhile is none the worse for it.
func TestRefusedInsideAScope(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f)
		for _, stmt := range []string{`XA START 'x'`, `TRUNCATE TABLE orders`, `/* nothing */ truncate orders`} {
			err := w.cluster.Do(w.ctx, w.settings.Shop, func(ctx context.Context, sc *sharding.Scope) error {
				return sc.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
					_, err := tx.ExecContext(ctx, stmt)
					return err
				})
			})
			if !errors.Is(err, sharding.ErrRefused) {
				t.Errorf("%s: got %v, want ErrRefused", stmt, err)
			}
		}
		if _, err := w.ferry.Move(w.ctx, w.settings.Shop, 2); err != nil {
			t.Error(err)
		}
	})
}
