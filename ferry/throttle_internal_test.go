package ferry

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podworks/podworks"
)

// gated returns moves that wait at one throttle, and need no server for it.
func gated(t *testing.T, n int, l Limits) (*Throttle, []*move) {
	t.Helper()
	th := new(Throttle)
	if err := th.Set(l); err != nil {
		t.Fatal(err)
	}
	moves := make([]*move, n)
	for i := range moves {
		moves[i] = &move{gate: &gate{t: th}}
	}
	return th, moves
}

// waits returns how long m waits after it read that much.
func waits(t *testing.T, m *move, rows, bytes int64) time.Duration {
	t.Helper()
	start := time.Now()
	m.gate.pay(start, rows, bytes)
	if err := m.wait(t.Context(), forLimits, m.sync); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

func TestWhatWasReadIsPaidAfterwards(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		limits      Limits
		rows, bytes int64
		want        time.Duration
	}{
		{"nothing is bounded", Limits{}, 1e9, 1e12, 0},
		{"rows", Limits{RowsPerSecond: 100}, 1000, 1e12, 10 * time.Second},
		{"bytes", Limits{BytesPerSecond: 1e6}, 1000, 16e6, 16 * time.Second},
		{"the scarcer of both", Limits{RowsPerSecond: 100, BytesPerSecond: 1e6}, 1000, 16e6, 16 * time.Second},
		{"a fraction of a row", Limits{RowsPerSecond: 0.5}, 1, 0, 2 * time.Second},
		{"nothing was read", Limits{RowsPerSecond: 100}, 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, m := gated(t, 1, test.limits)
				if got := waits(t, m[0], test.rows, test.bytes); got != test.want {
					t.Errorf("waited %v, want %v", got, test.want)
				}
				time.Sleep(time.Hour) // of the bubble's clock
				if got := waits(t, m[0], test.rows, test.bytes); got != test.want {
					t.Errorf("after an hour of rest: waited %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestMovesShareTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, moves := gated(t, 4, Limits{RowsPerSecond: 100})
		start := time.Now()
		var wg sync.WaitGroup
		for _, m := range moves {
			wg.Go(func() {
				for range 5 {
					waits(t, m, 50, 0)
				}
			})
		}
		wg.Wait()
		if got, want := time.Since(start), 10*time.Second; got != want {
			t.Errorf("4 moves of 250 rows each took %v at 100 rows a second, want %v", got, want)
		}
	})
}

func TestLimitsAreAdjustedWhileMovesWait(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		to   Limits
		want time.Duration // in all, of 10 s, the change coming after 4
	}{
		{"faster", Limits{RowsPerSecond: 600}, 5 * time.Second},
		{"slower", Limits{RowsPerSecond: 10}, 64 * time.Second},
		{"none", Limits{}, 4 * time.Second},
		{"the same", Limits{RowsPerSecond: 100}, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				th, m := gated(t, 1, Limits{RowsPerSecond: 100})
				time.AfterFunc(4*time.Second, func() {
					if err := th.Set(test.to); err != nil {
						t.Error(err)
					}
				})
				if got := waits(t, m[0], 1000, 0); got != test.want {
					t.Errorf("waited %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestWhatHoldsAMove(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for _, test := range []struct {
		name        string
		hold, let   func(*Throttle, *gate)
		why         string
		limits, all bool // held by it, when only limits count, and only pauses
		own         bool // paused itself
	}{
		{"its own pause", func(_ *Throttle, g *gate) { g.pause(true) }, func(_ *Throttle, g *gate) { g.pause(false) }, "paused", false, true, true},
		{"everyone's pause", func(th *Throttle, _ *gate) { th.Pause() }, func(th *Throttle, _ *gate) { th.Resume() }, "paused, with all moves of this process", false, true, false},
		{"the servers", func(_ *Throttle, g *gate) { g.setSpare("busy") }, func(_ *Throttle, g *gate) { g.setSpare("") }, "busy", true, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				th, m := gated(t, 1, Limits{})
				g := m[0].gate
				for what, want := range map[holding]bool{forLimits: test.limits, forPause: test.all} {
					test.hold(th, g)
					if why, paused := g.held(); why != test.why || paused != test.own {
						t.Errorf("held by %q, paused %v, want %q, %v", why, paused, test.why, test.own)
					}
					d, changed := g.wait(time.Now(), what)
					if got := d > 0; got != want {
						t.Errorf("held for %v: %v, want %v", what, got, want)
					}
					time.AfterFunc(minute, func() { test.let(th, g) })
					if want {
						start := time.Now()
						<-changed
						if got := time.Since(start); got != minute {
							t.Errorf("let go after %v, want %v", got, minute)
						}
					}
					time.Sleep(2 * minute) // of the bubble's clock
					if d, _ := g.wait(time.Now(), what); d != 0 {
						t.Errorf("still held for %v", d)
					}
				}
			})
		})
	}
}

func TestAMoveThatWaitsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th, m := gated(t, 1, Limits{RowsPerSecond: 1})
		th.rows.owed = math.MaxFloat64 // longer than a Duration holds
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(ErrCancelled) })
		if err := m[0].wait(ctx, forLimits, m[0].sync); !errors.Is(err, ErrCancelled) {
			t.Errorf("got %v, want %v", err, ErrCancelled)
		}
	})
}

func TestLimitsOutOfRangeAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	th := new(Throttle)
	good := Limits{RowsPerSecond: 5}
	if err := th.Set(good); err != nil {
		t.Fatal(err)
	}
	err := th.Set(Limits{RowsPerSecond: math.NaN(), BytesPerSecond: math.Inf(1), MaxLag: -1, MaxRunning: -1})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, field := range []string{"RowsPerSecond", "BytesPerSecond", "MaxLag", "MaxRunning"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("got %q, want one that names %s", err, field)
		}
	}
	if err := th.Set(Limits{RowsPerSecond: -1}); err == nil {
		t.Error("a negative rate was taken")
	}
	if got := th.Limits(); got != good {
		t.Errorf("the limits are %+v, want %+v as before", got, good)
	}
}

func TestARateIsThatOfTheLastSeconds(t *testing.T) {
	t.Parallel()
	start := time.Now()
	var r rate
	at, n := start, int64(0)
	r.add(at, 0)
	for range 1000 { // 1,000 a second for 10 s
		at, n = at.Add(10*time.Millisecond), n+10
		r.add(at, n)
	}
	if got := r.perSecond(at); math.Abs(got-1000) > 20 {
		t.Errorf("got %v a second, want 1000", got)
	}
	if len(r.points) > 60 {
		t.Errorf("it keeps %d points, want about 50", len(r.points))
	}
	for range 1000 { // and then 100
		at, n = at.Add(10*time.Millisecond), n+1
		r.add(at, n)
	}
	if got := r.perSecond(at); math.Abs(got-100) > 2 {
		t.Errorf("got %v a second, want 100", got)
	}
	if got := r.perSecond(at.Add(2 * rateOver)); got != 0 {
		t.Errorf("got %v a second after a rest, want 0", got)
	}
	if got := new(rate).perSecond(at); got != 0 {
		t.Errorf("got %v a second of nothing, want 0", got)
	}
	r = rate{}
	r.add(start, 0)
	r.add(start.Add(time.Millisecond), 50)
	if got := r.perSecond(start.Add(time.Millisecond)); got != 50 {
		t.Errorf("got %v a second after a millisecond, want 50: a second is the least that it is of", got)
	}
}

func TestTheRestOfAStep(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		p    Progress
		want time.Duration
	}{
		{Progress{Step: "copy", RowsCopied: 400, RowsTotal: 1000, Rate: 100}, 6 * time.Second},
		{Progress{Step: "copy", RowsCopied: 400, RowsTotal: 1000}, 0},
		{Progress{Step: "copy", RowsCopied: 400, RowsTotal: 1000, Rate: 100, Held: "paused"}, 0},
		{Progress{Step: "copy", RowsCopied: 1400, RowsTotal: 1000, Rate: 100}, 0},
		{Progress{Step: "verify", RowsCopied: 1000, RowsTotal: 1000, RowsCompared: 500, Rate: 100}, 15 * time.Second},
		{Progress{Step: "prove", RowsCopied: 1000, RowsTotal: 1000, RowsCompared: 2000, Rate: 100}, 0},
		{Progress{Step: "cutover", RowsTotal: 1000, Rate: 100}, 0},
	} {
		if got := test.p.rest(); got != test.want {
			t.Errorf("%+v: got %v, want %v", test.p, got, test.want)
		}
	}
}

func TestTheHistoryIsBounded(t *testing.T) {
	t.Parallel()
	m := &move{src: &server{pod: 1}, dst: &server{pod: 2}, plan: new(prepared), gate: &gate{t: new(Throttle)}, shop: podworks.ShopID(7)}
	at := time.Now()
	for range 20 * 60 * 4 {
		at = at.Add(loadEvery)
		m.sample(at)
	}
	if len(m.history) != historySize {
		t.Fatalf("it has %d samples, want %d", len(m.history), historySize)
	}
	if got, want := at.Sub(m.history[0].At), historySize*historyStep; got < want-2*historyStep || got > want+2*historyStep {
		t.Errorf("it goes back %v, want about %v", got, want)
	}
}
