package semian

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What was measured to go wrong in Semian 0.28 (S), gobreaker 2.4 (G) and failsafe-go 0.9.8 (F),
// a test each.

// A threshold that is right for a worker opens a process's circuit on noise.
func TestS1TheThresholdIsAShareOfTheCalls(t *testing.T) {
	for perSecond, failing := range map[float64]float64{10: 0.01, 50: 0.01, 500: 0.01, 2000: 0.0002} {
		s := scenario{"", []phase{{lasts: 60 * time.Second, errors: failing, latency: quick, healthy: true}}}
		synctest.Test(t, func(t *testing.T) {
			if o := simulate(s, perSecond, 1, open(t, nil), nil); o.refused > 0 {
				t.Errorf("%v a second, of which %v %% fail: %d of %d refused", perSecond, 100*failing, o.refused, o.healthy)
			}
		})
	}
}

func TestS2ProbesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := halfOpen(t, &Options{Probes: 2})
		var mu sync.Mutex
		made := 0
		for range 20 {
			go func() {
				_ = r.Do(context.Background(), func(context.Context) error {
					mu.Lock()
					made++
					mu.Unlock()
					sleep(100 * time.Millisecond)
					return nil
				})
			}()
		}
		synctest.Wait()
		if made != 2 {
			t.Errorf("%d probes, want 2", made)
		}
		sleep(time.Second)
	})
}

func TestS3ResultsFromBeforeDontCount(t *testing.T) { TestStaleResultsCountForNothing(t) }

func TestS4NothingOfOursFailsACall(t *testing.T) {
	r := open(t, &Options{
		Tickets: 1, Consecutive: 3, OpenFor: time.Hour,
		Classify: func(error) Outcome { panic("classify") },
		Hooks:    Hooks{Changed: func(Change) { panic("hook") }, Misrouted: func(context.Context, string, error) { runtime.Goexit() }},
	})
	made := 0
	for _, end := range []error{nil, Misrouted(errDown), nil} {
		done := make(chan struct{})
		go func() { // Goexit ends it, after the call
			defer close(done)
			made += call(r, 1, end)
		}()
		<-done
	}
	if made != 2 || r.Stats().Succeeded != 3 { // the second's goroutine ended before it could count
		t.Errorf("%d counted, %d succeeded, want 2 and 3", made, r.Stats().Succeeded)
	}
	call(r, 3, errDown)
	wantState(t, r, Open)
}

func TestS5FailuresGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{Failures: 3})
		call(r, 2, errDown)
		call(r, 10_000, nil)
		sleep(11 * 24 * time.Hour)
		call(r, 1, errDown)
		wantState(t, r, Closed)
	})
}

func TestS6AnswersCloseAHalfOpenCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := halfOpen(t, nil)
		call(r, 2, Answered(errors.New("duplicate key")))
		wantState(t, r, Ramping)
	})
}

func TestS7AKeyHasOneState(t *testing.T) { TestWhatIsIdleIsDroppedUnlessItIsNotClosed(t) }

func TestS8WhatIsIdleGoesAndWhatIsInUseStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := registry(t, &RegistryOptions{Idle: time.Minute, Options: func(k Key) *Options {
			return &Options{Tickets: 1, Adaptive: k.Kind == "adaptive"}
		}})
		for _, kind := range []string{"adaptive", "bulkhead", "held"} {
			call(g.Get(Key{Kind: kind}), 1, nil)
		}
		p := take(t, g.Get(Key{Kind: "held"}))
		for i := range 5 {
			sleep(time.Minute)
			g.Get(Key{Kind: "other", Pod: 1, Role: strings.Repeat("x", i)})
		}
		for kind, want := range map[string]bool{"adaptive": false, "bulkhead": false, "held": true} {
			if _, ok := g.Lookup(Key{Kind: kind}); ok != want {
				t.Errorf("%s is there: %t, want %t", kind, ok, want)
			}
		}
		p.End(nil)
	})
}

func TestS9TheErrorRateIsRightAtAnyVolume(t *testing.T) {
	s := scenario{"", []phase{{lasts: 15 * time.Second, errors: 0.01, latency: quick, healthy: true}}}
	for _, perSecond := range []float64{500, 5000} {
		synctest.Test(t, func(t *testing.T) {
			r := open(t, &Options{Adaptive: true})
			r.breaker.random = rand.New(rand.NewPCG(1, 1)).Float64
			o := simulate(s, perSecond, 1, r, nil)
			st := r.Stats()
			if got := share(int(st.Failed), int(st.Failed+st.Succeeded)); got < 0.007 || got > 0.013 || share(o.refused, o.healthy) > 0.001 {
				t.Errorf("at %v a second 1 %% reads %.2f %%, and %.2f %% were refused", perSecond, 100*got, 100*share(o.refused, o.healthy))
			}
		})
	}
}

func TestS10OneFailureAtBootRefusesNothing(t *testing.T) {
	for _, adaptive := range []bool{false, true} {
		r := open(t, &Options{Adaptive: adaptive})
		if made := call(r, 1, errDown) + call(r, 50, nil); made != 51 {
			t.Errorf("adaptive %t: %d of 51 calls were made", adaptive, made)
		}
	}
}

func TestS11AnyWindowWillDo(t *testing.T) {
	for _, window := range []time.Duration{1, 7, 1500 * time.Millisecond, 1 << 62} {
		for _, adaptive := range []bool{false, true} {
			r := open(t, &Options{Window: window, Adaptive: adaptive})
			call(r, 100, nil)
			call(r, 100, errDown)
		}
	}
}

func TestS12ASuccessCountsWhenItIsOne(t *testing.T) {
	r := open(t, &Options{Tickets: 1})
	_ = r.Do(t.Context(), func(context.Context) error {
		if s := r.Stats(); s.Succeeded != 0 || s.InUse != 1 {
			t.Errorf("while it is under way: %d succeeded, %d in use, want 0 and 1", s.Succeeded, s.InUse)
		}
		return errDown
	})
	if s := r.Stats(); s.Succeeded != 0 || s.Failed != 1 {
		t.Errorf("after it failed: %d succeeded, %d failed", s.Succeeded, s.Failed)
	}
}

func TestS13AdaptiveNoticesAndRecoversSoon(t *testing.T) {
	s := scenario{"", []phase{healthyFor(30 * time.Second), failingFor(120*time.Second, 1), healthyFor(30 * time.Second)}}
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{Adaptive: true})
		r.breaker.random = rand.New(rand.NewPCG(1, 1)).Float64
		o := simulate(s, 50, 1, r, nil)
		if o.noticed > time.Second || share(o.passed, o.sick) > 0.02 || o.recovery > 5*time.Second || o.recovery < 0 {
			t.Errorf("noticed after %v, %.2f %% let through, recovered after %v", o.noticed, 100*share(o.passed, o.sick), o.recovery)
		}
	})
}

func TestG1CallsSlowerThanTheWindowCount(t *testing.T) { TestCallsSlowerThanTheWindowCount(t) }

func TestG2AProbeThatIsLostSticksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := halfOpen(t, nil)
		go func() { _ = r.Do(context.Background(), func(context.Context) error { runtime.Goexit(); return nil }) }()
		synctest.Wait()
		call(r, 2, nil)
		wantState(t, r, Ramping)

		r = halfOpen(t, nil)
		if _, err := r.Acquire(t.Context()); err != nil { // and forgotten
			t.Fatal(err)
		}
		sleep(10 * time.Second)
		synctest.Wait()
		wantState(t, r, Open)
	})
}

func TestG3AHookMayAsk(t *testing.T) { TestHooksMayDoAnything(t) }

func TestG4TwoSuccessesOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := halfOpen(t, &Options{Probes: 1, CloseAfter: 2})
		p := take(t, r)
		wantRefused(t, r, ErrOpen)
		p.End(nil)
		wantState(t, r, HalfOpen)
		call(r, 1, nil)
		wantState(t, r, Ramping)
	})
}

func TestG5OpenTimesGrowDifferAndAreTold(t *testing.T) {
	TestOpenTimesDifferByATenth(t)
	TestALifeOfACircuit(t)
}

func TestG6ItIsForcedConfiguredAndWatched(t *testing.T) {
	TestForced(t)
	TestConfigureKeepsWhatWasSeen(t)
	TestItOpensWhenCallsAreSlow(t)
}

func TestG7NothingIsLockedWhileACallRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{Tickets: 8})
		began := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_ = r.Do(context.Background(), func(context.Context) error { sleep(100 * time.Millisecond); return nil })
			})
		}
		wg.Wait()
		if d := time.Since(began); d != 100*time.Millisecond {
			t.Errorf("eight calls of 100 ms took %v", d)
		}
	})
}

func TestG8ACallerThatGivesUpIsNoFailure(t *testing.T) {
	r := open(t, &Options{MinCalls: 1, Consecutive: 1})
	call(r, 100, context.Canceled)
	wantState(t, r, Closed)
}

func TestF1APanicGivesTheTicketBack(t *testing.T) { TestTheTicketComesBackWhateverHappens(t) }

func TestF2AProbeThatPanicsSticksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := halfOpen(t, nil)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic didn't go on")
				}
			}()
			_ = r.Do(t.Context(), func(context.Context) error { panic("oh") })
		}()
		call(r, 2, nil)
		wantState(t, r, Ramping)
	})
}

func TestF3StaleSuccessesDontClose(t *testing.T) { TestStaleResultsCountForNothing(t) }

func TestF4TheTicketLivesAsLongAsWhatWasOpened(t *testing.T) { TestAnsweredKeepsTheTicket(t) }

func TestF5AServersErrorIsAFailureAndACancellationIsNot(t *testing.T) {
	r := open(t, &Options{Classify: func(err error) Outcome {
		if strings.HasPrefix(err.Error(), "4") {
			return Success
		}
		return Classify(err)
	}})
	call(r, 3, errors.New("503"))
	call(r, 4, errors.New("404"))
	call(r, 5, context.Canceled)
	if s := r.Stats(); s.Failed != 3 || s.Succeeded != 4 || s.Ignored != 5 {
		t.Errorf("%d failed, %d succeeded, %d ignored, want 3, 4, 5", s.Failed, s.Succeeded, s.Ignored)
	}
}
