package redislock_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redislock"
	"github.com/podworks/podworks/toxi/toxitest"
)

// slack is what a loaded machine may add to a bound.
const slack = 4 * time.Second

func TestAKilledWriterIsWaitedForUntilItsLeaseLapses(t *testing.T) {
	t.Parallel()
	const lease = 500 * time.Millisecond
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, &redislock.Options{Lease: lease})
	p.set(open)
	w := act(t, "writer", server, lease, 0)
	w.want("held")
	w.signal(syscall.SIGKILL)
	checkIs(t, "Close at once", p.close5(t.Context(), 50*time.Millisecond, nothing), redislock.ErrBudget)
	start := time.Now()
	checkIs(t, "Close", p.close5(t.Context(), patience, nothing), nil)
	if took := time.Since(start); took > lease+slack {
		t.Errorf("the dead writer kept the mover waiting for %v, want %v at most", took, lease)
	}
	p.wantRow("afterwards", moved)
}

func TestAFrozenWritersCheckFails(t *testing.T) {
	t.Parallel()
	const lease = 500 * time.Millisecond
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, &redislock.Options{Lease: lease})
	p.set(open)
	w := act(t, "writer", server, lease, 0)
	w.want("held")
	w.signal(syscall.SIGSTOP)
	checkIs(t, "Close", p.close5(t.Context(), patience, nothing), nil)
	w.signal(syscall.SIGCONT)
	w.say("check")
	w.want("check: lapsed")
	w.want("release: lapsed")
}

func TestAKilledMoverLosesTheShop(t *testing.T) {
	t.Parallel()
	const budget = 500 * time.Millisecond
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	p.set(open)
	m := act(t, "mover", server, budget, 5)
	m.want("locked")
	m.signal(syscall.SIGKILL)
	start := time.Now()
	s := p.write() // waits for it
	if took := time.Since(start); took > budget+slack {
		t.Errorf("the dead mover kept a writer waiting for %v, want %v at most", took, budget)
	}
	checkIs(t, "Release", s.Release(), nil)
	checkIs(t, "Close of a later mover", p.Close(t.Context(), from, 3, 6, patience, nothing), nil)
	p.wantRow("afterwards", redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 1, Destination: 3, Token: 6})
}

func TestAFrozenMoverChangesNothingWhenItWakes(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	p.set(open)
	m := act(t, "mover", server, 15*time.Second, 5) // within its budget
	m.want("locked")
	m.signal(syscall.SIGSTOP)
	checkIs(t, "Close of a later mover", p.Close(t.Context(), from, 3, 6, patience, nothing), nil)
	want := redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 1, Destination: 3, Token: 6}
	p.wantRow("before it wakes", want)
	m.signal(syscall.SIGCONT)
	m.say("go on")
	m.want("close: notopen")
	p.wantRow("after it woke", want)
}

// The answer to the last step of Close is lost, and looked up.
func TestCloseWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	lost := errors.New("connection lost")
	for _, tt := range []struct {
		name    string
		arrives bool // the request
		lookUp  bool // works
		want    redislock.Row
	}{
		{"before it was sent", false, true, open},
		{"before it was answered", true, true, moved},
		{"before it was sent, and Redis can't be asked", false, false, open},
		{"before it was answered, and Redis can't be asked", true, false, moved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opts := &redislock.Options{Prefix: tt.name, Timeout: 50 * time.Millisecond}
			p, other := newPod(t, server, opts), newPod(t, server, &redislock.Options{Prefix: tt.name})
			p.set(open)
			p.client.AddHook(hook{"close", func(_ []any, next func() error) error {
				if tt.arrives {
					checkIs(t, "the last step", next(), nil)
				}
				return lost
			}})
			if !tt.lookUp {
				p.client.AddHook(hook{"back", func([]any, func() error) error { return lost }})
			}
			err := p.close5(t.Context(), patience, nothing)
			other.wantRow("afterwards", tt.want)
			switch unknown := errors.Is(err, podworks.ErrOutcomeUnknown); {
			case unknown == tt.lookUp:
				t.Errorf("got %v, want ErrOutcomeUnknown only if Redis can't be asked", err)
			case tt.lookUp && (err == nil) != tt.arrives:
				t.Errorf("got %v, want an error only if nothing was closed", err)
			}
		})
	}
}

// straggle lets Close give its last step up, and then arrive: from a Redis that
// was frozen, say.
func straggle(t *testing.T, p *pod, server *testcluster.RedisServer) (closed error) {
	t.Helper()
	p.set(open)
	var step []any
	p.client.AddHook(hook{"close", func(args []any, _ func() error) error {
		step = args
		return errors.New("no answer yet")
	}})
	closed = p.close5(t.Context(), patience, nothing)
	if err := newClient(t, server.Socket()).Do(t.Context(), step...).Err(); err != nil {
		t.Fatal(err)
	}
	return closed
}

func TestALastStepThatWasLookedUpCannotArriveLater(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	if err := straggle(t, p, server); err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) {
		t.Errorf("Close: got %v, want an error that says that nothing was closed", err)
	}
	p.wantRow("afterwards", open)
}

// The twin: when looking it up doesn't also rule it out, it closes the shop
// after Close said that it had not.
func TestWithoutRulingItOutALastStepArrivesLater(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	redislock.Without(t, p.Lock, "	if mover == name then", "	if false then")
	if err := straggle(t, p, server); err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) {
		t.Errorf("Close: got %v, want an error that says that nothing was closed", err)
	}
	p.wantRow("afterwards", moved)
}

// The client sends a request again when it has lost the answer.
func TestALeaseThatIsAskedForTwiceIsOne(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p, other := newPod(t, server, nil), newPod(t, server, nil)
	p.set(open)
	closed := make(chan error, 1)
	p.client.AddHook(hook{"share", func(_ []any, next func() error) error {
		if err := next(); err != nil {
			return err // the script is not there yet
		}
		// A mover comes in between, and waits for the lease.
		go func() { closed <- other.close5(t.Context(), patience, nothing) }()
		other.moverWaits()
		return next()
	}})
	s := p.write()
	checkIs(t, "Release", s.Release(), nil)
	checkIs(t, "Close", <-closed, nil)
}

// Whatever Redis does, calls end in time and say why.
func TestCallsEndInTimeWithoutRedis(t *testing.T) {
	t.Parallel()
	const timeout = 100 * time.Millisecond
	calls := func(t *testing.T, l *redislock.Lock, held *redislock.Lease) {
		t.Helper()
		ctx := t.Context()
		held.Restart()
		for _, c := range []struct {
			name  string
			bound time.Duration
			call  func() error
		}{
			{"Lease", timeout, func() error { return second(l.Lease(ctx, from)) }},
			{"Check", timeout, func() error { return held.Check(ctx) }},
			{"Release", timeout, held.Release},
			{"Read", timeout, func() error { return second(l.Read(ctx, 1)) }},
			{"Incoming", 2 * timeout, func() error { return l.Incoming(ctx, 1, 5) }},
			{"Close", 2 * timeout, func() error { return l.Close(ctx, from, 2, 5, patience, nothing) }},
		} {
			start := time.Now()
			err := c.call()
			took := time.Since(start)
			checkIs(t, c.name, err, redislock.ErrUnavailable)
			if took > c.bound+slack {
				t.Errorf("%s took %v, want %v at most", c.name, took, c.bound)
			}
			t.Logf("%s after %v: %v", c.name, took.Round(time.Millisecond), err)
		}
	}
	opts := &redislock.Options{Timeout: timeout}
	t.Run("frozen", func(t *testing.T) {
		t.Parallel()
		server := testcluster.Redis(t, nil)
		p := newPod(t, server, &redislock.Options{Timeout: timeout, Lease: 500 * time.Millisecond})
		p.set(open)
		held := p.write()
		if err := server.Pause(); err != nil {
			t.Fatal(err)
		}
		calls(t, p.Lock, held)
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
		// What Redis was sent while it was frozen, it does now; it lapses.
		await(t, "Redis", func() bool { return p.close5(t.Context(), patience, nothing) == nil })
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		server := testcluster.Redis(t, nil)
		p := newPod(t, server, opts)
		p.set(open)
		held := p.write()
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		calls(t, p.Lock, held)
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, "Redis, which knows nothing any more", func() bool { return errors.Is(second(p.Lease(t.Context(), from)), sharding.ErrMoved) })
	})
	t.Run("gone from the network", func(t *testing.T) {
		t.Parallel()
		server := testcluster.Redis(t, nil)
		proxy := toxitest.New(t, server.Socket())
		l, err := redislock.New(newClient(t, proxy.Addr()), opts)
		if err != nil {
			t.Fatal(err)
		}
		newPod(t, server, nil).set(open)
		held, err := l.Lease(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		proxy.Blackhole(func() { calls(t, l, held) })
	})
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		server := testcluster.Redis(t, nil)
		p := newPod(t, server, opts)
		p.set(open)
		held := p.write()
		if err := p.client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
			t.Fatal(err)
		}
		checkIs(t, "Lease", second(p.Lease(t.Context(), from)), redislock.ErrUnavailable)
		checkIs(t, "Release", held.Release(), nil) // it needs no memory
	})
}

// A deadline of the caller's is told apart from Redis' silence.
func TestTheCallersDeadlineIsTheCallers(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	p.set(open)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, enough)
	defer cancel()
	_, err := p.Lease(ctx, from)
	checkIs(t, "Lease", err, enough)
	checkIs(t, "Lease", err, redislock.ErrUnavailable)
}
