package matrix_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// A shop is an application in memory: what its sections answer depends on the
// fault that is there.
type shop struct {
	mu      sync.Mutex
	fault   string
	injects int
	heals   int
}

func (s *shop) set(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
	if fault == "" {
		s.heals++
	} else {
		s.injects++
	}
}

func (s *shop) has() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// inject returns a fault's Inject.
func (s *shop) inject(fault string) func(context.Context) (func(context.Context) error, error) {
	return func(context.Context) (func(context.Context) error, error) {
		s.set(fault)
		return func(context.Context) error { s.set(""); return nil }, nil
	}
}

// probe returns a section's Probe, which is up unless under says otherwise of the
// fault.
func (s *shop) probe(under map[string]func(context.Context) matrix.Seen) func(context.Context) matrix.Seen {
	return func(ctx context.Context) matrix.Seen {
		if f := under[s.has()]; f != nil {
			return f(ctx)
		}
		return matrix.Up("200 OK")
	}
}

// says returns an answer that takes some time.
func says(seen matrix.Seen, after time.Duration) func(context.Context) matrix.Seen {
	return func(ctx context.Context) matrix.Seen {
		wait(ctx, after)
		return seen
	}
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// small is a matrix of one cell: checkout, declared degraded while redis is down.
func (s *shop) small(under func(context.Context) matrix.Seen) matrix.Matrix {
	return matrix.Matrix{
		Name: "shop",
		Sections: []matrix.Section{{
			Name: "checkout", Owner: "payments", Runbook: "https://example.com/checkout",
			Probe: s.probe(map[string]func(context.Context) matrix.Seen{"redis/down": under}),
		}},
		Dependencies: []matrix.Dependency{{Name: "redis", Faults: []matrix.Fault{{Name: "down", Inject: s.inject("redis/down")}}}},
		Expect: `
			          redis/down
			checkout  degraded
		`,
	}
}

// check runs a matrix that is declared well.
func check(t *testing.T, m matrix.Matrix) *matrix.Report {
	t.Helper()
	r, err := matrix.Check(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantRed fails the test unless the cell has the state, and its problems are those.
func wantRed(t *testing.T, c *matrix.Cell, state matrix.State, problems ...string) {
	t.Helper()
	if got, want := strings.Join(c.Problems, "\n"), strings.Join(problems, "\n"); c.State != state || got != want {
		t.Errorf("%s/%s/%s is %v:\n%s\nwant %v:\n%s", c.Dependency, c.Fault, c.Section, c.State, got, state, want)
	}
	if !state.Red() {
		t.Errorf("%v is not red", state)
	}
}

func TestACellAsDeclaredPassesAndIsMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		m := s.small(says(matrix.Degraded("200,\n without\tthe cart"), 20*time.Millisecond))
		inject := m.Dependencies[0].Faults[0].Inject
		m.Dependencies[0].Faults[0].Inject = func(ctx context.Context) (func(context.Context) error, error) {
			_, _ = inject(ctx)
			return func(context.Context) error {
				time.AfterFunc(730*time.Millisecond, func() { s.set("") }) // it takes a while to come back
				return nil
			}, nil
		}
		r := check(t, m)
		c := r.Cell("checkout", "redis", "down")
		if err := r.Err(); err != nil || c.State != matrix.StatePassed {
			t.Fatalf("%v, %v; want it passed", c.State, err)
		}
		if c.Got != matrix.OutcomeDegraded || c.Saw != "200, without the cart" || c.Took != 20*time.Millisecond {
			t.Errorf("got %v, %q after %v; want degraded, one line after 20ms", c.Got, c.Saw, c.Took)
		}
		if c.UpAgain < 730*time.Millisecond || c.UpAgain > 850*time.Millisecond {
			t.Errorf("up again after %v, want to see soon that it was after 730ms", c.UpAgain)
		}
	})
}

func TestOtherwiseThanDeclaredIsRed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		under func(context.Context) matrix.Seen
		want  string
	}{
		{
			"worse", says(matrix.Down("503 Service Unavailable"), 2100*time.Millisecond),
			`checkout with redis down: declared degraded, got down ("503 Service Unavailable" after 2.1s): worse than declared. Fix checkout, or declare what is true.`,
		},
		{
			"better", says(matrix.Up("200 OK"), 3*time.Millisecond),
			`checkout with redis down: declared degraded, got up ("200 OK" after 3ms): better than declared. Tighten the table, so that it stays that good.`,
		},
		{
			"no answer", func(ctx context.Context) matrix.Seen { <-ctx.Done(); return matrix.Seen{Outcome: matrix.OutcomeUp} },
			`checkout with redis down: declared degraded, got hung (no answer in 10s): worse than declared. Fix checkout, or declare what is true.`,
		},
		{
			"an error of its context", func(ctx context.Context) matrix.Seen { <-ctx.Done(); return matrix.Down("GET /: " + ctx.Err().Error()) },
			`checkout with redis down: declared degraded, got hung ("GET /: context deadline exceeded" after 10s): worse than declared. Fix checkout, or declare what is true.`,
		},
		{
			"a user of less patience", says(matrix.Hung("went to another shop"), 3*time.Second),
			`checkout with redis down: declared degraded, got hung ("went to another shop" after 3s): worse than declared. Fix checkout, or declare what is true.`,
		},
		{
			"no outcome", says(matrix.Seen{}, 0),
			`checkout with redis down: got nothing: the probe returned no outcome; let it return matrix.Up, Degraded, Down or Hung.`,
		},
		{
			"a panic", func(context.Context) matrix.Seen { panic("nil cart") },
			`checkout with redis down: got nothing: the probe panicked: nil cart.`,
		},
		{
			"the end of its goroutine", func(context.Context) matrix.Seen { runtime.Goexit(); return matrix.Seen{} },
			`checkout with redis down: got nothing: the probe ended its goroutine, as t.FailNow and t.Fatal do, and has to return.`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &shop{}
				c := check(t, s.small(tt.under)).Cell("checkout", "redis", "down")
				wantRed(t, c, matrix.StateFailed, tt.want)
				if s.has() != "" || s.heals != 1 {
					t.Errorf("healed %d times, want once, whatever the probe does", s.heals)
				}
				if c.UpAgain == 0 {
					t.Error("not waited until it was up again")
				}
			})
		})
	}
}

// Each of these deletes something, and the promise stays in the table.
func TestAnUntestedCellIsNeverGreen(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		delete func(*matrix.Matrix)
		want   string
	}{
		{
			"the probe", func(m *matrix.Matrix) { m.Sections[0].Probe = nil },
			"checkout with redis down: declared degraded, and untested: section checkout has no Probe. Write it, or take it out of the table.",
		},
		{
			"the section", func(m *matrix.Matrix) { m.Sections = nil },
			"checkout with redis down: declared degraded, and untested: Matrix.Sections has no section checkout. Add it with its probe, or take it out of the table.",
		},
		{
			"the fault", func(m *matrix.Matrix) { m.Dependencies[0].Faults = nil },
			"checkout with redis down: declared degraded, and untested: dependency redis has no fault down. Add it, or take it out of the table.",
		},
		{
			"what the fault does", func(m *matrix.Matrix) { m.Dependencies[0].Faults[0].Inject = nil },
			"checkout with redis down: declared degraded, and untested: fault redis/down has no Inject. Write it, or take it out of the table.",
		},
		{
			"the dependency", func(m *matrix.Matrix) { m.Dependencies = nil },
			"checkout with redis down: declared degraded, and untested: Matrix.Dependencies has no dependency redis. Add it with its fault down, or take it out of the table.",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &shop{}
			m := s.small(says(matrix.Degraded("no cart"), 0))
			if err := check(t, m).Err(); err != nil {
				t.Fatalf("before anything is deleted: %v", err)
			}
			tt.delete(&m)
			r := check(t, m)
			wantRed(t, r.Cell("checkout", "redis", "down"), matrix.StateUntested, tt.want)
			if r.Err() == nil {
				t.Error("the report is green")
			}
		})
	}
}

func TestWhatIsNotDeclaredIsRunAndRed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		m := s.small(says(matrix.Degraded("no cart"), time.Millisecond))
		m.Dependencies[0].Faults = append(m.Dependencies[0].Faults, matrix.Fault{Name: "slow", Inject: s.inject("redis/slow")})
		m.Sections = append(m.Sections, matrix.Section{Name: "jobs", Owner: "platform", Runbook: "jobs.md"})
		r := check(t, m)
		wantRed(t, r.Cell("checkout", "redis", "slow"), matrix.StateUntested,
			`checkout with redis slow: not declared, got up ("200 OK" after 0s). Write into the table what is true.`)
		if got := r.Cell("checkout", "redis", "slow").Got; got != matrix.OutcomeUp {
			t.Errorf("got %v, want to be told what could be declared", got)
		}
		wantRed(t, r.Cell("jobs", "redis", "down"), matrix.StateUntested,
			"jobs with redis down: neither declared nor tested: section jobs has no Probe. Write it, and a word into the table.")
		if got := r.Cell("checkout", "redis", "down").State; got != matrix.StatePassed {
			t.Errorf("the declared cell is %v, want it passed all the same", got)
		}
	})
}

func TestASectionThatDoesNotComeBackIsRed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		m := s.small(says(matrix.Degraded("no cart"), 0))
		m.Dependencies[0].Faults[0].Inject = func(context.Context) (func(context.Context) error, error) {
			s.set("redis/down")
			return func(context.Context) error { return nil }, nil // it heals nothing
		}
		m.Dependencies[0].Faults[0].Recover = 3 * time.Second
		m.Dependencies[0].Faults = append(m.Dependencies[0].Faults, matrix.Fault{Name: "slow", Inject: s.inject("redis/slow")})
		m.Expect = "redis/down redis/slow \n checkout degraded up"
		begin := time.Now()
		r := check(t, m)
		wantRed(t, r.Cell("checkout", "redis", "down"), matrix.StateFailed,
			`checkout with redis down: not up again within 3s of the heal, got degraded ("no cart" after 0s). Find out what keeps checkout from coming back, or state the time that it needs.`)
		wantRed(t, r.Cell("checkout", "redis", "slow"), matrix.StateFailed,
			`checkout with redis slow: not tested: checkout was not up before the fault, got degraded ("no cart" after 0s). Look at what it needs to be up, and at the fault before this one.`)
		if s.injects != 1 {
			t.Errorf("injected %d faults, want 1: nothing is up that the second could be tested with", s.injects)
		}
		if took := time.Since(begin); took > 9*time.Second {
			t.Errorf("took %v, want little more than 3s and 5s", took)
		}
	})
}

func TestAFaultThatCanNotBeInjectedOrHealedIsRed(t *testing.T) {
	t.Parallel()
	failed := errors.New("no such container")
	const (
		notInjected = "checkout with redis down: not tested: redis/down could not be injected: "
		notHealed   = "checkout with redis down: the heal of redis/down "
		after       = " What comes after it may be tested with the fault still there."
	)
	type heal = func(context.Context) error
	tests := []struct {
		name   string
		inject func(*shop) (heal, error)
		heals  int
		want   string
	}{
		{"an error", func(*shop) (heal, error) { return nil, failed }, 0, notInjected + "no such container."},
		{"an error and a heal", func(s *shop) (heal, error) {
			return func(context.Context) error { s.set(""); return nil }, failed
		}, 1, notInjected + "no such container."},
		{"no heal", func(*shop) (heal, error) { return nil, nil }, 0, notInjected + "Inject returned no heal."},
		{"a panic", func(*shop) (heal, error) { panic("nil client") }, 0, notInjected + "Inject panicked: nil client, before it returned its heal, so that what it did is still there."},
		{"t.FailNow", func(*shop) (heal, error) { runtime.Goexit(); return nil, nil }, 0, notInjected + "Inject ended its goroutine, as t.FailNow and t.Fatal do, and has to return, before it returned its heal, so that what it did is still there."},
		{"a heal's error", func(s *shop) (heal, error) {
			s.set("redis/down")
			return func(context.Context) error { s.set(""); return failed }, nil
		}, 1, notHealed + "failed: no such container." + after},
		{"a heal's panic", func(s *shop) (heal, error) {
			s.set("redis/down")
			return func(context.Context) error { s.set(""); panic("nil client") }, nil
		}, 1, notHealed + "panicked: nil client." + after},
		{"a heal's t.FailNow", func(s *shop) (heal, error) {
			s.set("redis/down")
			return func(context.Context) error { s.set(""); runtime.Goexit(); return nil }, nil
		}, 1, notHealed + "ended its goroutine, as t.FailNow and t.Fatal do, and has to return." + after},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &shop{}
				m := s.small(says(matrix.Degraded("no cart"), 0))
				m.Dependencies[0].Faults[0].Inject = func(context.Context) (heal, error) { return tt.inject(s) }
				wantRed(t, check(t, m).Cell("checkout", "redis", "down"), matrix.StateFailed, tt.want)
				if s.heals != tt.heals {
					t.Errorf("healed %d times, want %d", s.heals, tt.heals)
				}
			})
		})
	}
}

// A probe that doesn't obey its context is not waited for, and not called again
// before it has returned.
func TestAProbeThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		var running, most atomic.Int32
		released := make(chan struct{})
		m := s.small(nil)
		m.Sections[0].Probe = func(context.Context) matrix.Seen {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer running.Add(-1)
			if s.has() == "redis/down" {
				<-released
				return matrix.Down("at last")
			}
			return matrix.Up("200 OK")
		}
		inject := m.Dependencies[0].Faults[0].Inject
		m.Dependencies[0].Faults[0].Inject = func(ctx context.Context) (func(context.Context) error, error) {
			heal, err := inject(ctx)
			return func(ctx context.Context) error {
				time.AfterFunc(2*time.Second, func() { close(released) })
				return heal(ctx)
			}, err
		}
		m.Expect = "redis/down \n checkout hung"
		r := check(t, m)
		c := r.Cell("checkout", "redis", "down")
		if err := r.Err(); err != nil {
			t.Errorf("it came back after the heal and is red: %v", err)
		}
		if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "doesn't obey its context") {
			t.Errorf("noted %q, want to be told of the probe", c.Notes)
		}
		if c.UpAgain < 2*time.Second {
			t.Errorf("up again after %v, though its probe was still running until 2s", c.UpAgain)
		}
		if most.Load() != 1 {
			t.Errorf("%d probes of a section at once, want 1", most.Load())
		}
	})
}

func TestAProbeThatNeverReturnsIsNotCalledAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		released := make(chan struct{})
		defer close(released)
		m := s.small(func(context.Context) matrix.Seen { <-released; return matrix.Seen{} })
		m.Sections = append(m.Sections, matrix.Section{Name: "cart", Owner: "web", Runbook: "cart.md", Probe: s.probe(nil)})
		m.Dependencies[0].Faults = append(m.Dependencies[0].Faults, matrix.Fault{Name: "slow", Inject: s.inject("redis/slow")})
		m.Expect = `
			redis/down redis/slow
			checkout hung up
			cart up up
		`
		r := check(t, m)
		const asked = "got nothing: it was not asked, because its probe is still running since an earlier fault and doesn't obey its context."
		wantRed(t, r.Cell("checkout", "redis", "down"), matrix.StateFailed,
			"checkout with redis down: not up again within 5s of the heal, "+asked+" Find out what keeps checkout from coming back, or state the time that it needs.")
		wantRed(t, r.Cell("checkout", "redis", "slow"), matrix.StateFailed,
			"checkout with redis slow: not tested: checkout was not up before the fault, "+asked+" Look at what it needs to be up, and at the fault before this one.")
		for _, fault := range []string{"down", "slow"} {
			if c := r.Cell("cart", "redis", fault); c.State != matrix.StatePassed {
				t.Errorf("the other section is %v with %s: %q; want it passed", c.State, fault, c.Problems)
			}
		}
	})
}

func TestAFaultIsInjectedOnceAndItsSectionsAreProbedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		m := s.small(nil)
		m.Sections = nil
		hung := func(ctx context.Context) matrix.Seen { <-ctx.Done(); return matrix.Hung("") }
		for i := range 5 {
			m.Sections = append(m.Sections, matrix.Section{
				Name: fmt.Sprintf("section%d", i), Owner: "web", Runbook: "x.md",
				Probe: s.probe(map[string]func(context.Context) matrix.Seen{"redis/down": hung}),
			})
		}
		m.Expect = "redis/down \n section0 hung \n section1 hung \n section2 hung \n section3 hung \n section4 hung"
		r := check(t, m)
		if err := r.Err(); err != nil {
			t.Error(err)
		}
		if r.Took != 10*time.Second {
			t.Errorf("took %v, want one deadline", r.Took)
		}
		if s.injects != 1 || s.heals != 1 {
			t.Errorf("%d injects and %d heals, want one of each", s.injects, s.heals)
		}
	})
}

func TestARunThatIsEndedHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shop{}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the game is over")
		m := s.small(func(ctx context.Context) matrix.Seen {
			cancel(why)
			<-ctx.Done()
			return matrix.Down(ctx.Err().Error())
		})
		r, err := matrix.Check(ctx, m)
		if !errors.Is(err, why) {
			t.Errorf("got %v, want the cause of the end", err)
		}
		if s.heals != 1 {
			t.Errorf("healed %d times, want once", s.heals)
		}
		if c := r.Cell("checkout", "redis", "down"); c.State != matrix.StateNotRun || len(c.Problems) > 0 {
			t.Errorf("the cell is %v: %q; want it not run", c.State, c.Problems)
		}
		if r.Err() == nil {
			t.Error("the report is green")
		}
	})
}
