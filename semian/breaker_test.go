package semian

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestItOpensAtTheErrorRateAndNotBefore(t *testing.T) {
	for _, tt := range []struct {
		name       string
		opts       Options
		ok, failed int
		spread     time.Duration // over how long
		want       State
	}{
		{name: "half of the calls", ok: 10, failed: 10, want: Open},
		{name: "less than half", ok: 12, failed: 10, want: Closed},
		{name: "too few to say", failed: 9, want: Closed},
		{name: "just enough", failed: 10, want: Open},
		{name: "another volume", opts: Options{MinCalls: 3}, failed: 3, want: Open},
		{name: "another rate", opts: Options{ErrorRate: 0.1}, ok: 18, failed: 2, want: Open},
		{name: "only a total outage", opts: Options{ErrorRate: 1}, ok: 1, failed: 100, want: Closed},
		{name: "older than the window", ok: 0, failed: 12, spread: 20 * time.Second, want: Closed},
		{name: "a row", opts: Options{Consecutive: 3, MinCalls: 1000}, ok: 100, failed: 3, want: Open},
		{name: "not quite a row", opts: Options{Consecutive: 4, MinCalls: 1000}, ok: 100, failed: 3, want: Closed},
		{name: "a number", opts: Options{Failures: 3, MinCalls: 1000}, ok: 100, failed: 3, want: Open},
		{name: "a number, too slowly", opts: Options{Failures: 3, MinCalls: 1000}, failed: 4, spread: 40 * time.Second, want: Closed},
		{name: "a burst counts once", opts: Options{Failures: 3, Lump: time.Second, MinCalls: 1000}, failed: 50, want: Closed},
		{name: "three bursts", opts: Options{Failures: 3, Lump: time.Second, MinCalls: 1000}, failed: 5, spread: 5 * time.Second, want: Open},
		{name: "without a breaker", opts: Options{NoBreaker: true, Tickets: 1}, failed: 100, want: Closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.opts.OpenFor = time.Hour
				r := open(t, &tt.opts)
				call(r, tt.ok, nil)
				for range tt.failed {
					call(r, 1, errDown)
					sleep(tt.spread / time.Duration(max(tt.failed, 1)))
				}
				wantState(t, r, tt.want)
			})
		})
	}
}

// With ten seconds of successes behind it, half of the window would take five more to fill.
func TestATotalOutageIsNoticedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{OpenFor: time.Hour})
		for range 2000 {
			call(r, 1, nil)
			sleep(10 * time.Millisecond)
		}
		began := time.Now()
		for r.Stats().State == Closed {
			call(r, 1, errDown)
			sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("it opened after %v, want 2.5 s or less", took)
		}
	})
}

func TestItOpensWhenCallsAreSlow(t *testing.T) {
	for _, tt := range []struct {
		name string
		slow int // of 20
		err  error
		want State
	}{
		{"half", 10, nil, Open},
		{"less", 9, nil, Closed},
		{"slow answers that the caller doesn't like", 10, Answered(errDown), Open},
		{"calls that the caller gave up", 10, Ignored(errDown), Closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := open(t, &Options{SlowCall: 100 * time.Millisecond, OpenFor: time.Hour})
				call(r, 20-tt.slow, nil)
				for range tt.slow {
					p := take(t, r)
					sleep(100 * time.Millisecond)
					p.End(tt.err)
				}
				wantState(t, r, tt.want)
			})
		})
	}
}

func TestALifeOfACircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		r := open(t, &Options{
			OpenFor: time.Second, MaxOpenFor: 3 * time.Second, CloseAfter: 2, Ramp: time.Second,
			Hooks: Hooks{Changed: func(c Change) {
				changes = append(changes, strings.TrimSpace(fmt.Sprintf("%v→%v %v", c.From, c.To, c.OpenFor)))
			}},
		})
		call(r, 10, errDown)
		e := wantRefused(t, r, ErrOpen)
		if e.RetryAfter() != time.Second || e.Cause != errDown || errors.Is(e, errDown) {
			t.Errorf("retry after %v, because of %v (Is: %t), want 1s, because of %v, not unwrapped", e.RetryAfter(), e.Cause, errors.Is(e, errDown), errDown)
		}
		t.Log(e)
		for _, openFor := range []time.Duration{1, 2, 3, 3} {
			sleep(openFor*time.Second - 1)
			wantState(t, r, Open)
			sleep(1)
			synctest.Wait()
			wantState(t, r, HalfOpen)
			if openFor < 3 || r.Stats().Opened < 4 {
				call(r, 1, errDown)
			}
		}
		// One probe at a time, and two in all.
		p := take(t, r)
		wantRefused(t, r, ErrOpen)
		p.End(nil)
		wantState(t, r, HalfOpen)
		take(t, r).End(nil)
		wantState(t, r, Ramping)
		// A tenth at first, and all after a second; chance is 0.5 here.
		wantRefused(t, r, ErrOpen)
		sleep(500 * time.Millisecond)
		take(t, r).End(nil)
		sleep(500 * time.Millisecond)
		synctest.Wait()
		wantState(t, r, Closed)
		// Closed for good, so the next opening is a short one.
		call(r, 10, errDown)
		want := "closed→open 1s, open→half-open 0s, half-open→open 2s, open→half-open 0s, half-open→open 3s, open→half-open 0s, " +
			"half-open→open 3s, open→half-open 0s, half-open→ramping 0s, ramping→closed 0s, closed→open 1s"
		if got := strings.Join(changes, ", "); got != want {
			t.Errorf("changes:\n%s\nwant\n%s", got, want)
		}
	})
}

func TestAnOutageJustAfterClosingOpensItForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{OpenFor: time.Second, CloseAfter: 1, Ramp: 10 * time.Second})
		call(r, 10, errDown)
		sleep(time.Second)
		synctest.Wait()
		call(r, 1, nil)
		wantState(t, r, Ramping)
		sleep(6 * time.Second)
		call(r, 10, errDown)
		wantState(t, r, Open)
		if d := r.Stats().RetryAfter; d != 2*time.Second {
			t.Errorf("it is open for %v, want 2s", d)
		}
	})
}

func TestOpenTimesDifferByATenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			chance float64
			want   time.Duration
		}{{0, 900 * time.Millisecond}, {0.5, time.Second}, {1, 1100 * time.Millisecond}} {
			r := open(t, nil)
			r.breaker.random = func() float64 { return tt.chance }
			call(r, 10, errDown)
			if got := r.Stats().RetryAfter; got != tt.want {
				t.Errorf("with chance %v it is open for %v, want %v", tt.chance, got, tt.want)
			}
		}
	})
}

func halfOpen(t *testing.T, opts *Options) *Resource {
	t.Helper()
	r := open(t, opts)
	call(r, 10, errDown)
	sleep(r.Stats().RetryAfter)
	synctest.Wait()
	wantState(t, r, HalfOpen)
	return r
}

func TestProbes(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts Options
		end  func(t *testing.T, r *Resource)
		want State
	}{
		{"a failure opens", Options{}, func(t *testing.T, r *Resource) { call(r, 1, errDown) }, Open},
		{"one success is not enough", Options{}, func(t *testing.T, r *Resource) { call(r, 1, nil) }, HalfOpen},
		{"an answer is a success", Options{CloseAfter: 1}, func(t *testing.T, r *Resource) { call(r, 1, Answered(errDown)) }, Ramping},
		{"a caller that gives up says nothing", Options{}, func(t *testing.T, r *Resource) { call(r, 50, context.Canceled) }, HalfOpen},
		{"a panic says nothing", Options{}, func(t *testing.T, r *Resource) {
			func() {
				defer func() { _ = recover() }()
				_ = r.Do(t.Context(), func(context.Context) error { panic("oh") })
			}()
			call(r, 1, nil)
		}, HalfOpen},
		{"a slow one opens", Options{SlowCall: time.Millisecond}, func(t *testing.T, r *Resource) {
			p := take(t, r)
			sleep(time.Millisecond)
			p.End(nil)
		}, Open},
		{"its deadline ends it", Options{ProbeTimeout: 20 * time.Millisecond}, func(t *testing.T, r *Resource) {
			began := time.Now()
			err := r.Do(t.Context(), func(ctx context.Context) error {
				<-ctx.Done()
				return context.Cause(ctx)
			})
			if d := time.Since(began); d != 20*time.Millisecond || !errors.Is(err, errProbeTimeout) {
				t.Errorf("it ended after %v with %v", d, err)
			}
		}, Open},
		{"one that never comes back", Options{ProbeLease: 2 * time.Second}, func(t *testing.T, r *Resource) {
			take(t, r)
			sleep(2 * time.Second)
			synctest.Wait()
		}, Open},
		{"its deadline is told", Options{ProbeTimeout: time.Minute}, func(t *testing.T, r *Resource) {
			p := take(t, r)
			if d, ok := p.Deadline(); !ok || time.Until(d) != time.Minute {
				t.Errorf("the deadline is in %v (%t), want a minute", time.Until(d), ok)
			}
			p.End(errDown)
		}, Open},
		{"one that finds no ticket says nothing", Options{Tickets: 1}, func(t *testing.T, r *Resource) {
			if !r.steal(0) {
				t.Fatal("no ticket")
			}
			wantRefused(t, r, ErrBusy)
			r.give(0)
			call(r, 2, nil)
		}, Ramping},
		{"three at once, as many as are needed", Options{Probes: 5, CloseAfter: 3}, func(t *testing.T, r *Resource) {
			a, b, c := take(t, r), take(t, r), take(t, r)
			wantRefused(t, r, ErrOpen)
			a.End(nil)
			b.End(nil)
			wantRefused(t, r, ErrOpen)
			c.End(nil)
		}, Ramping},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := halfOpen(t, &tt.opts)
				tt.end(t, r)
				wantState(t, r, tt.want)
			})
		})
	}
}

// Calls carry the epoch they were admitted in.
func TestStaleResultsCountForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{CloseAfter: 2})
		var old []*Permit
		for range 20 {
			old = append(old, take(t, r))
		}
		call(r, 10, errDown)
		sleep(900 * time.Millisecond)
		old[0].End(errDown) // doesn't prolong
		if d := r.Stats().RetryAfter; d != 100*time.Millisecond {
			t.Errorf("it is open for %v more, want 100ms", d)
		}
		sleep(100 * time.Millisecond)
		synctest.Wait()
		old[1].End(nil)
		old[2].End(nil)
		wantState(t, r, HalfOpen) // they don't close it
		old[3].End(errDown)
		wantState(t, r, HalfOpen) // nor open it
		call(r, 2, nil)
		sleep(time.Second)
		synctest.Wait()
		for _, p := range old[4:] {
			p.End(errDown)
		}
		wantState(t, r, Closed)
		if s := r.Stats(); s.Stale != 20 || s.Failures != 0 {
			t.Errorf("%d stale, %d failures, want 20 and 0", s.Stale, s.Failures)
		}
	})
}

// A call that hangs for longer than the window counts when it ends.
func TestCallsSlowerThanTheWindowCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{Window: 50 * time.Millisecond})
		var hung []*Permit
		for range 20 {
			hung = append(hung, take(t, r))
		}
		sleep(time.Minute)
		for _, p := range hung {
			p.End(context.DeadlineExceeded)
		}
		wantState(t, r, Open)
	})
}

func TestOutcomes(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		want Stats
	}{
		{"nil", nil, nil, Stats{Calls: 1, Succeeded: 1}},
		{"an error", nil, errDown, Stats{Calls: 1, Failures: 1, Failed: 1}},
		{"an answer", nil, fmt.Errorf("wrapped: %w", Answered(errDown)), Stats{Calls: 1, Succeeded: 1}},
		{"ignored", nil, Ignored(errDown), Stats{Ignored: 1}},
		{"misrouted", nil, Misrouted(errDown), Stats{Calls: 1, Succeeded: 1, Misrouted: 1}},
		{"what Classify ignores", nil, errors.ErrUnsupported, Stats{Ignored: 1}},
		{"failed, whatever Classify says", nil, Failed(errors.ErrUnsupported), Stats{Calls: 1, Failures: 1, Failed: 1}},
		{"cancelled by somebody", nil, context.Canceled, Stats{Ignored: 1}},
		{"cancelled by the caller, whatever the driver says", cancelled, errDown, Stats{Ignored: 1}},
		{"the caller's deadline", late, errDown, Stats{Calls: 1, Failures: 1, Failed: 1}},
		{"another's rejection", nil, &Error{kind: ErrOpen}, Stats{Ignored: 1}},
		{"a Classify that panics", nil, errors.New("panic"), Stats{Calls: 1, Failures: 1, Failed: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var misrouted error
			r := open(t, &Options{
				Classify: func(err error) Outcome {
					if err.Error() == "panic" {
						panic(err)
					}
					if errors.Is(err, errors.ErrUnsupported) {
						return Ignore
					}
					return Classify(err)
				},
				Hooks: Hooks{Misrouted: func(_ context.Context, _ string, err error) { misrouted = err }},
			})
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			got := r.Do(ctx, func(context.Context) error { return tt.err })
			if got != tt.err {
				t.Errorf("Do returned %v, want %v", got, tt.err)
			}
			s := r.Stats()
			s.Since = time.Time{}
			if s != tt.want {
				t.Errorf("got %+v\nwant %+v", s, tt.want)
			}
			if (misrouted != nil) != (tt.want.Misrouted > 0) {
				t.Errorf("Hooks.Misrouted was told %v", misrouted)
			}
		})
	}
}

func TestAnsweredKeepsTheTicket(t *testing.T) {
	r := open(t, &Options{Tickets: 1})
	p := take(t, r)
	p.Answered(nil)
	if s := r.Stats(); s.InUse != 1 || s.Calls != 1 {
		t.Errorf("%d in use, %d calls, want 1 and 1", s.InUse, s.Calls)
	}
	p.End(nil)
	p.End(errDown) // does nothing
	if s := r.Stats(); s.InUse != 0 || s.Calls != 1 {
		t.Errorf("after the end %d in use, %d calls, want 0 and 1", s.InUse, s.Calls)
	}
	p = take(t, r)
	p.Answered(nil)
	p.End(errDown) // while rows were read
	if s := r.Stats(); s.Failures != 1 {
		t.Errorf("%d failures, want 1", s.Failures)
	}
}

func TestUntimedIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{SlowCall: time.Second})
		p := take(t, r)
		p.Untimed()
		sleep(time.Minute)
		p.End(nil)
		if s := r.Stats(); s.Slow != 0 || s.Calls != 1 {
			t.Errorf("%d of %d calls slow, want 0 of 1", s.Slow, s.Calls)
		}
	})
}

func TestTheTicketComesBackWhateverHappens(t *testing.T) {
	r := open(t, &Options{Tickets: 1, ShopShare: 1})
	for name, end := range map[string]func(){
		"a return": func() {},
		"a panic":  func() { panic("oh") },
		"Goexit":   runtime.Goexit,
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			_ = r.Do(t.Context(), func(context.Context) error {
				end()
				return nil
			})
		}()
		<-done
		if s := r.Stats(); s.InUse != 0 {
			t.Errorf("after %s %d tickets are out", name, s.InUse)
		}
	}
	release, err := r.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release(nil)
	release(nil)
	if s := r.Stats(); s.InUse != 0 || s.Calls != 2 {
		t.Errorf("a release twice: %d tickets out, %d calls, want 0 and 2", s.InUse, s.Calls)
	}
}

func TestForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, nil)
		if err := r.Force(ForceOpen, "the vendor is migrating", time.Minute); err != nil {
			t.Fatal(err)
		}
		if e := wantRefused(t, r, ErrOpen); !strings.Contains(e.Error(), "the vendor is migrating") {
			t.Errorf("%v doesn't say why", e)
		}
		sleep(time.Minute)
		synctest.Wait()
		if made := call(r, 5, nil); made != 5 {
			t.Errorf("after it ended %d of 5 calls were made", made)
		}
		if err := r.Force(ForceClosed, "it is only the health check", 0); err != nil {
			t.Fatal(err)
		}
		if made := call(r, 100, errDown); made != 100 {
			t.Errorf("forced closed, %d of 100 calls were made", made)
		}
		sleep(time.Hour)
		wantState(t, r, Closed)
		if s := r.Stats(); s.Mode != ForceClosed || s.Reason != "it is only the health check" {
			t.Errorf("%v because of %q", s.Mode, s.Reason)
		}
		// One that is replaced doesn't end the next.
		if err := errors.Join(r.Force(ForceOpen, "a", time.Second), r.Force(ForceClosed, "b", 0)); err != nil {
			t.Fatal(err)
		}
		sleep(time.Minute)
		synctest.Wait()
		if s := r.Stats(); s.Mode != ForceClosed {
			t.Errorf("%v, want forced closed", s.Mode)
		}
		if err := r.Force(Normal, "", 0); err != nil {
			t.Fatal(err)
		}
		call(r, 10, errDown)
		wantState(t, r, Open)
		for _, bad := range []error{r.Force(ForceOpen, "", 0), r.Force(9, "x", 0), r.Force(DryRun, "x", -1)} {
			if bad == nil {
				t.Error("a mode without a reason, an unknown one or a negative time was taken")
			}
		}
	})
}

func TestADryRunMakesEveryCallAndSaysWhatItWouldHaveRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		r := open(t, &Options{Tickets: 1, Hooks: Hooks{Changed: func(c Change) {
			if c.To == Open {
				opened++
			}
		}}})
		if err := r.Force(DryRun, "new settings", 0); err != nil {
			t.Fatal(err)
		}
		if made := call(r, 15, errDown); made != 15 {
			t.Errorf("%d of 15 calls were made", made)
		}
		wantState(t, r, Open)
		if s := r.Stats(); s.WouldHave != 5 || opened != 1 {
			t.Errorf("%d would have been refused, it opened %d times, want 5 and once", s.WouldHave, opened)
		}
		sleep(time.Second)
		synctest.Wait()
		call(r, 2, nil)
		wantState(t, r, Ramping)
		a, b := take(t, r), take(t, r) // one more than there are tickets
		a.End(nil)
		b.End(nil)
		if s := r.Stats(); s.InUse != 0 || s.Tickets != 1 {
			t.Errorf("%d of %d tickets out, want none of 1", s.InUse, s.Tickets)
		}
	})
}

func TestResetForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{OpenFor: time.Hour})
		call(r, 10, errDown)
		old := r.Stats().Opened
		r.Reset("pod 7 is active elsewhere")
		if made := call(r, 9, errDown); made != 9 || old != 1 {
			t.Errorf("%d of 9 calls were made", made)
		}
		r.Reset("again")
		call(r, 9, errDown)
		wantState(t, r, Closed)
	})
}

func TestConfigureKeepsWhatWasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, nil)
		call(r, 6, nil)
		call(r, 5, errDown)
		if err := r.Configure(&Options{Window: time.Minute, ErrorRate: 0.4, OpenFor: time.Hour}); err != nil {
			t.Fatal(err)
		}
		sleep(50 * time.Second)
		wantState(t, r, Closed)
		call(r, 1, errDown)
		wantState(t, r, Open)
		if err := r.Configure(&Options{Window: -1, Tickets: -2}); err == nil || !strings.Contains(err.Error(), "Window") || !strings.Contains(err.Error(), "Tickets") {
			t.Errorf("got %v, want both faults named", err)
		}
		wantState(t, r, Open)
	})
}

// A state that the new options don't know would never be left.
func TestConfigureLeavesAStateThatTheNewOptionsDontKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{Adaptive: true})
		call(r, 50, errDown)
		wantState(t, r, Throttling)
		if err := r.Configure(nil); err != nil {
			t.Fatal(err)
		}
		if made := call(r, 5, nil); made != 5 {
			t.Errorf("%d of 5 calls were made", made)
		}
		call(r, 50, errDown)
		wantState(t, r, Open)
		if err := r.Configure(&Options{NoBreaker: true}); err != nil {
			t.Fatal(err)
		}
		wantState(t, r, Closed)
	})
}

// The hook reads, forces and panics; calls go on.
func TestHooksMayDoAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *Resource
		var got []string
		r = open(t, &Options{Hooks: Hooks{Changed: func(c Change) {
			got = append(got, c.To.String()+"/"+c.Mode.String())
			_ = r.Stats()
			if c.To == Open {
				if err := r.Force(ForceOpen, "by a hook", 0); err != nil {
					t.Error(err)
				}
			}
			panic("oh")
		}}})
		if made := call(r, 10, errDown); made != 10 {
			t.Errorf("%d of 10 calls were made", made)
		}
		if want := "open/normal closed/forced open"; strings.Join(got, " ") != want {
			t.Errorf("got %v, want %s", got, want)
		}
		if made := call(r, 1, nil); made != 0 {
			t.Error("the hook's force did nothing")
		}
	})
}

// A hook that hangs holds up whoever called it; nobody else, and no call is lost in order.
func TestAHookThatHangsHoldsUpOneCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		n := 0
		r := open(t, &Options{Hooks: Hooks{Changed: func(Change) {
			if n++; n == 1 {
				<-hang
			}
		}}})
		go call(r, 10, errDown)
		synctest.Wait()
		wantState(t, r, Open)
		for range 300 {
			r.Reset("x")
			call(r, 10, errDown)
		}
		if s := r.Stats(); s.Lost == 0 {
			t.Error("600 changes fit into a queue of 256")
		}
		close(hang)
		synctest.Wait()
		if n < 256 {
			t.Errorf("%d changes were told, want 256 or more", n)
		}
	})
}
