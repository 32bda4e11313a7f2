package sharding_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// A request is one arrival.
type request struct {
	at    time.Duration // since the window's begin
	pod   podworks.PodID
	shop  podworks.ShopID
	row   int
	order bool // writes; one in ten
}

// requests are Poisson arrivals, spread evenly over all shops. The same seed
// gives the same ones: windows that are compared get equal work.
func requests(seed uint64, perSecond float64, window time.Duration) []request {
	random := rand.New(rand.NewPCG(seed, 0))
	var choices []request
	for _, pod := range []podworks.PodID{1, 2, 3} {
		for _, shop := range shopsOf[pod] {
			choices = append(choices, request{pod: pod, shop: shop})
		}
	}
	var out []request
	for at := 0.0; ; {
		at += random.ExpFloat64() / perSecond
		r := choices[random.IntN(len(choices))]
		r.at, r.row, r.order = time.Duration(at*float64(time.Second)), random.IntN(rowsOfAShop), random.IntN(10) == 0
		if r.at >= window {
			return out
		}
		out = append(out, r)
	}
}

// A tally is how requests ended. What comes too late has failed.
type tally struct {
	ok, busy, failed int
	took             []time.Duration // those that were ok, from the time they were due
}

func (y *tally) add(took time.Duration, err error) {
	switch {
	case err == nil && took <= requestTimeout: // the caches' clients don't look at the context
		y.ok++
		y.took = append(y.took, took)
	case errors.Is(err, sharding.ErrBusy):
		y.busy++
	default:
		y.failed++
	}
}

func (y *tally) join(z tally) {
	y.ok, y.busy, y.failed = y.ok+z.ok, y.busy+z.busy, y.failed+z.failed
}

// p99 is in milliseconds. If nothing was ok, it is the longest that can be.
func (y *tally) p99() float64 {
	if y.ok == 0 {
		return float64(requestTimeout.Milliseconds())
	}
	slices.Sort(y.took)
	return y.took[len(y.took)*99/100].Seconds() * 1000
}

func (y *tally) String() string {
	n := float64(max(1, y.ok+y.busy+y.failed)) / 100
	return fmt.Sprintf("%.0f %% ok, %.0f %% busy, %.0f %% failed", float64(y.ok)/n, float64(y.busy)/n, float64(y.failed)/n)
}

// play sends each request when it is due, however late others are: an open
// model, in which a slow answer doesn't slow down who asks. strike, if not nil,
// breaks the weak pod while requests come, and what it returns mends it. That
// happens when the requests of the other pods have ended, so that one which
// waits for the weak pod runs into its deadline and is seen.
func (a *app) play(t *testing.T, todo []request, strike func() (mend func())) (others, weak tally) {
	t.Helper()
	type result struct {
		took time.Duration
		err  error
	}
	results := make([]result, len(todo))
	var otherPods, weakOnes sync.WaitGroup
	sent := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(sent)
		timer := time.NewTimer(0)
		for i, r := range todo {
			due := start.Add(r.at)
			timer.Reset(time.Until(due))
			<-timer.C
			wg := &otherPods
			if r.pod == weakPod {
				wg = &weakOnes
			}
			wg.Go(func() {
				ctx, cancel := context.WithDeadline(t.Context(), due.Add(requestTimeout))
				defer cancel()
				err := a.serve(ctx, r)
				results[i] = result{time.Since(due), err}
			})
		}
	}()
	mend := func() {}
	if strike != nil {
		mend = strike()
	}
	<-sent
	otherPods.Wait()
	mend()
	weakOnes.Wait()
	for i, r := range todo {
		if r.pod == weakPod {
			weak.add(results[i].took, results[i].err)
		} else {
			others.add(results[i].took, results[i].err)
		}
	}
	return others, weak
}

// drive has workers send requests one after the other for so long, and returns
// how many a second they did: a closed model, which finds the capacity. It also
// opens the connections.
func (a *app) drive(t *testing.T, workers int, long time.Duration) (perSecond float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long+10*time.Second)
	defer cancel()
	todo := requests(1, 1000, time.Second) // over and over
	var next, done atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for time.Since(start) < long {
				if err := a.serve(ctx, todo[next.Add(1)%int64(len(todo))]); err != nil {
					t.Errorf("a request while all is well: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}

// recovers waits until all shops of the weak pod are served at the same time,
// and returns how long that took.
func (a *app) recovers(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
		var err error
		for few := range slices.Chunk(shopsOf[weakPod], warmers) { // no more than the pod's share
			errs := make([]error, len(few))
			var wg sync.WaitGroup
			for i, shop := range few {
				wg.Go(func() { errs[i] = a.serve(ctx, request{shop: shop, order: true}) })
			}
			wg.Wait()
			err = errors.Join(err, errors.Join(errs...))
		}
		cancel()
		took := time.Since(start)
		switch {
		case err == nil:
			return took
		case took > within:
			t.Fatalf("the pod is not back %v after the end of its fault: %v", took.Round(time.Millisecond), err)
		}
	}
}
