package ferry_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// moving is a move that a test steers.
type moving struct {
	w    *world
	f    *ferry.Ferry
	done chan struct{}
	got  *ferry.Report
	err  error
}

// steer starts moving the world's shop.
func (w *world) steer(ctx context.Context, f *ferry.Ferry) *moving {
	w.t.Helper()
	mv := &moving{w: w, f: f, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(mv.done)
		mv.got, mv.err = f.Move(ctx, w.shop, 2)
	}()
	w.t.Cleanup(func() { cancel(); <-mv.done })
	return mv
}

// now returns the move's progress, and false if it isn't under way.
func (mv *moving) now() (ferry.Progress, bool) {
	all := mv.f.Moves()
	if len(all) != 1 {
		return ferry.Progress{}, false
	}
	return all[0], true
}

// await waits until the move's progress is as wanted, and returns it.
func (mv *moving) await(what string, ok func(ferry.Progress) bool) (p ferry.Progress) {
	mv.w.t.Helper()
	until(mv.w.t, what, func() bool {
		select {
		case <-mv.done:
			mv.w.t.Fatalf("the move ended before %s: %v", what, mv.err)
		default:
		}
		var there bool
		p, there = mv.now()
		return there && ok(p)
	})
	return p
}

// finish waits until the move is made.
func (mv *moving) finish() {
	mv.w.t.Helper()
	<-mv.done
	if mv.err != nil {
		mv.w.t.Fatal(mv.err)
	}
	mv.w.same("products")
	if all := mv.f.Moves(); len(all) != 0 {
		mv.w.t.Errorf("after the move: %d under way, want none", len(all))
	}
}

func TestAPausedMoveFollowsTheLogAndDoesNotSwitch(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 500)
		th := new(ferry.Throttle)
		fy := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, ChunkRows: 50, Throttle: th})
		at := make(chan func(), 1)
		tr := &trail{at: map[string]func(){}}
		tr.at["cutover"] = func() { (<-at)() }
		th.Pause()
		mv := w.steer(tr.follow(t.Context()), fy)

		p := mv.await("the pause", func(p ferry.Progress) bool { return p.RowsCopied == 50 && p.BytesCopied > 0 })
		if p.Paused || p.Held != "paused, with all moves of this process" || p.Step != "copy" || p.From != 1 || p.To != 2 {
			t.Errorf("got %+v, want a move that is paused in its copy", p)
		}
		// A product that was copied.
		want := w.count(w.source, `SELECT stock FROM products WHERE shop_id = 7 AND id = 1`)
		for start := time.Now(); time.Since(start) < 2*time.Second; {
			want++
			if err := sell(t.Context(), w.source, w.shop, 1, 1); err != nil {
				t.Fatal(err)
			}
			until(t, "what is written meanwhile", func() bool {
				return w.count(w.target, `SELECT stock FROM products WHERE shop_id = 7 AND id = 1`) == want
			})
		}
		// The last step is longer ago than that.
		until(t, "the mover to say that it is alive", func() bool {
			moves, err := w.dir.Moves(t.Context())
			if err != nil || len(moves) != 1 {
				t.Fatalf("the journal has %+v, %v; want one move", moves, err)
			}
			return moves[0].Idle < 1500*time.Millisecond
		})
		p, _ = mv.now()
		if p.PredictedPause <= 0 {
			t.Errorf("got %+v, want a pause predicted", p)
		}
		if p.RowsCopied != 50 || p.ETA != 0 {
			t.Errorf("got %+v, want nothing copied since", p)
		}
		if p.RowChanges == 0 || p.Lag > time.Minute {
			t.Errorf("got %+v, want changes applied, and a lag that is measured", p)
		}

		at <- func() {
			if err := fy.Pause(p.Token); err != nil {
				t.Error(err)
			}
		}
		th.Resume()
		mv.await("the pause before the cutover", func(p ferry.Progress) bool { return p.Step == "cutover" && p.Held == "paused" && p.Paused })
		for range 20 {
			if err := sell(t.Context(), w.source, w.shop, 1, 2); err != nil {
				t.Fatal(err)
			}
		}
		if tr.passed("lock") {
			t.Error("a paused move asked for the lock")
		}
		if err := fy.Resume(p.Token); err != nil {
			t.Error(err)
		}
		mv.finish()
		if err := fy.Pause(p.Token); !errors.Is(err, ferry.ErrNoMove) {
			t.Errorf("pausing a move that is over: got %v, want %v", err, ferry.ErrNoMove)
		}
	})
}

func TestAMoveIsCancelledUntilItIsDecided(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		for _, step := range []string{"copy", "verify", "cutover", "drain", "verified"} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, f, "", nil)
				w.fill(w.shop, 300)
				fy := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, ChunkRows: 50})
				tr := &trail{at: map[string]func(){}}
				tr.at[step] = func() {
					if err := fy.Cancel(fy.Moves()[0].Token); err != nil {
						t.Error(err)
					}
				}
				_, err := fy.Move(tr.follow(t.Context()), w.shop, 2)
				contains(t, err, ferry.ErrCancelled, "undone, the shop stays in pod 1")
				w.stays()
			})
		}
		for _, step := range []string{"closed", "decided", "opened", "prove"} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, f, "", nil)
				w.fill(w.shop, 300)
				fy := w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
				tr := &trail{at: map[string]func(){}}
				tr.at[step] = func() {
					if err := fy.Cancel(fy.Moves()[0].Token); !errors.Is(err, ferry.ErrNoMove) {
						t.Errorf("got %v, want %v", err, ferry.ErrNoMove)
					}
				}
				report, err := fy.Move(tr.follow(t.Context()), w.shop, 2)
				if err != nil {
					t.Fatal(err)
				}
				if report.Evidence.Incomplete != "" {
					t.Errorf("the evidence is incomplete: %s", report.Evidence.Incomplete)
				}
				w.same("products")
			})
		}
	})
}

func TestAMoveWaitsForTheServers(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 500)
		var behind atomic.Bool
		caughtUp := make(chan struct{})
		replicated := func(ctx context.Context, pod podworks.PodID) error {
			if !behind.Load() {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-caughtUp:
				return nil
			}
		}
		behind.Store(true)
		th := new(ferry.Throttle)
		set := func(l ferry.Limits) {
			t.Helper()
			if err := th.Set(l); err != nil {
				t.Fatal(err)
			}
		}
		set(ferry.Limits{MaxLag: 10 * time.Millisecond, RowsPerSecond: 100}) // so slow that the first look comes before the end
		mv := w.steer(t.Context(), w.newFerry(&ferry.Options{Ignore: []string{"countries"}, ChunkRows: 50, Throttle: th, Replicated: replicated}))

		p := mv.await("the replicas", func(p ferry.Progress) bool { return p.RowsCopied > 0 && strings.Contains(p.Held, "MaxLag is 10ms") })
		if p.Paused || p.Step != "copy" {
			t.Errorf("got %+v, want a copy that nobody paused", p)
		}
		// One statement is the mover's look itself.
		set(ferry.Limits{MaxRunning: 1, RowsPerSecond: 100})
		behind.Store(false)
		close(caughtUp)
		mv.await("fewer statements", func(p ferry.Progress) bool { return strings.Contains(p.Held, "MaxRunning is 1") })
		copied, _ := mv.now()
		set(ferry.Limits{MaxRunning: 100_000})
		mv.finish()
		if copied.RowsCopied >= 500 {
			t.Errorf("%d rows were copied while the servers were to be spared, want fewer than all", copied.RowsCopied)
		}
	})
}

// A MaxLag that nothing tells would bound nothing.
func TestAMaxLagNeedsReplicated(t *testing.T) {
	t.Parallel()
	th := new(ferry.Throttle)
	if err := th.Set(ferry.Limits{MaxLag: time.Second}); err != nil {
		t.Fatal(err)
	}
	_, err := ferry.New(shopInPodOne{}, nil, &ferry.Options{Throttle: th})
	contains(t, err, nil, "MaxLag", "Replicated")
}

func TestAThrottledMoveTakesWhatItsRowsCost(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 2000)
		th := new(ferry.Throttle)
		if err := th.Set(ferry.Limits{RowsPerSecond: 2000}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		mv := w.steer(t.Context(), w.newFerry(&ferry.Options{Ignore: []string{"countries"}, ChunkRows: 100, Throttle: th}))
		p := mv.await("the copy", func(p ferry.Progress) bool { return p.Step == "copy" && p.RowsCopied >= 800 })
		if p.Rate <= 0 || p.Rate > 2000*1.3 {
			t.Errorf("the rate is %v rows a second, want at most about the 2000 allowed", p.Rate)
		}
		mv.finish()
		// All are read once by the copy and twice by each comparison.
		if took, want := time.Since(start), 4*time.Second; took < want {
			t.Errorf("it took %v, want %v at least", took, want)
		}
	})
}

// The application's queries are counted while the move is paused and while it
// goes on, in turns: what else the machine does slows both.
func TestTheApplicationKeepsItsThroughputDuringAThrottledMove(t *testing.T) {
	t.Parallel()
	least, turns := 0.25, 9               // so that it holds on a machine that is busy with other tests
	if os.Getenv("PODWORKS_SOAK") != "" { // on a quiet machine
		least, turns = 0.9, 30
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20_000)
		th := new(ferry.Throttle)
		if err := th.Set(ferry.Limits{RowsPerSecond: 2000}); err != nil {
			t.Fatal(err)
		}
		mv := w.steer(t.Context(), w.newFerry(&ferry.Options{Ignore: []string{"countries"}, ChunkRows: 200, Throttle: th}))

		var count atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := 1; ctx.Err() == nil; i++ {
				if err := sell(ctx, w.source, w.shop, 1, i%20_000); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				var stock int64
				if err := w.source.QueryRowContext(ctx, `SELECT SUM(stock) FROM products WHERE shop_id = 7 AND id BETWEEN ? AND ?`, i%20_000, i%20_000+50).Scan(&stock); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				count.Add(1)
			}
		}()
		mv.await("the copy", func(p ferry.Progress) bool { return p.RowsCopied > 0 })
		turn := func() float64 {
			before, start := count.Load(), time.Now()
			<-time.After(300 * time.Millisecond)
			return float64(count.Load()-before) / time.Since(start).Seconds()
		}
		var ratios []float64
		idle := 0 // turns in which the move did nothing
		for range turns {
			th.Pause()
			paused := turn()
			th.Resume()
			p, _ := mv.now()
			going := turn()
			if q, _ := mv.now(); q.Step == p.Step && q.RowsCopied == p.RowsCopied && q.RowsCompared == p.RowsCompared {
				idle++
			}
			ratios = append(ratios, going/paused)
		}
		stop()
		<-ended
		if err := th.Set(ferry.Limits{}); err != nil {
			t.Fatal(err)
		}
		mv.finish()
		if idle > turns/2 {
			t.Errorf("in %d of %d turns nothing was copied or compared", idle, turns)
		}
		slices.Sort(ratios)
		got := ratios[len(ratios)/2]
		t.Logf("median of %d turns: %.2f of the throughput (from %.2f to %.2f)", turns, got, ratios[0], ratios[len(ratios)-1])
		if got < least {
			t.Errorf("the application kept %.2f of its throughput, want %.2f at least", got, least)
		}
	})
}

func TestNothingSlowsWhatWritersWaitFor(t *testing.T) {
	t.Parallel()
	standstill := ferry.Limits{RowsPerSecond: 1e-6, BytesPerSecond: 1e-6, MaxRunning: 1}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		t.Run("the cutover", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f, "", nil)
			w.fill(w.shop, 300)
			th := new(ferry.Throttle)
			tr := &trail{at: map[string]func(){
				"cutover": func() {
					if err := th.Set(standstill); err != nil {
						t.Error(err)
					}
				},
				"drain": th.Pause, // when it is too late to be heeded
			}}
			// A step back would heed the pause.
			mv := w.steer(tr.follow(t.Context()), w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Throttle: th, PauseBudget: 15 * time.Second}))
			until(t, "the switch", func() bool { return tr.passed("opened") })
			if err := th.Set(ferry.Limits{}); err != nil { // for the comparison after it
				t.Fatal(err)
			}
			mv.finish()
			if mv.got.Evidence.Incomplete != "" {
				t.Errorf("the evidence is incomplete: %s", mv.got.Evidence.Incomplete)
			}
		})
		t.Run("a copy that a failover lost", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f, "", nil)
			w.fill(w.shop, 300)
			w.leave([]string{"claim", "incoming", "copy", "note", "close", "decide", "lose the copy"})
			th := new(ferry.Throttle)
			if err := th.Set(standstill); err != nil {
				t.Fatal(err)
			}
			th.Pause()
			fy := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Microsecond, ChunkRows: 50, Throttle: th})
			if settled, err := fy.Recover(t.Context()); err != nil || len(settled) != 1 {
				t.Fatalf("got %v, %v; want the move settled", settled, err)
			}
			w.same("products")
			if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
				t.Errorf("a write in the target: %v", err)
			}
		})
	})
}
