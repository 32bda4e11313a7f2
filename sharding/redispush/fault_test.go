package redispush_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/redispush"
	"github.com/podworks/podworks/toxi/toxitest"
)

// The bound of the tests, and what a loaded machine may add to it.
const (
	timeout = time.Second
	slack   = 4 * time.Second
)

var quick = &redispush.Options{Timeout: timeout}

// afterwards checks that p hears again.
func afterwards(t *testing.T, p, probe *redispush.Push) {
	t.Helper()
	s := subscribe(t, p, probe)
	if err := probe.Publish(t.Context(), 42); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if got := s.next(); got != 42 {
		t.Errorf("afterwards: heard %d, want 42", got)
	}
}

// wantUnpublished checks that Publish fails, and in time.
func wantUnpublished(t *testing.T, what string, p *redispush.Push) {
	t.Helper()
	start := time.Now()
	err := p.Publish(t.Context(), 7)
	took := time.Since(start)
	t.Logf("%s: Publish failed after %v: %v", what, took.Round(time.Millisecond), err)
	if err == nil || took > timeout+slack {
		t.Errorf("%s: Publish returned %v after %v, want an error within %v", what, err, took, timeout)
	}
}

func TestAKilledRedisEndsTheSubscription(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPush(t, server.Socket(), quick)
	s := subscribe(t, p, p)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.wantEnd("killed", slack)
	wantUnpublished(t, "killed", p)
	if err := p.Subscribe(t.Context(), func(uint64) {}); err == nil {
		t.Error("Subscribe without a Redis: got nil, want an error")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	afterwards(t, p, p)
}

// The server's kernel keeps the connection of a frozen Redis open and takes
// what is sent to it.
func TestAFrozenRedisEndsTheSubscription(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPush(t, server.Socket(), quick)
	s := subscribe(t, p, p)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.wantEnd("frozen", timeout+slack); !strings.Contains(err.Error(), "said nothing for 1s") {
		t.Errorf("frozen: got %q, want it to say how long Redis was silent", err)
	}
	wantUnpublished(t, "frozen", p)
	start := time.Now()
	if err := p.Subscribe(t.Context(), func(uint64) {}); err == nil || time.Since(start) > 2*timeout+slack {
		t.Errorf("Subscribe to a frozen Redis returned %v after %v, want an error within %v", err, time.Since(start), 2*timeout)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.Publish(ctx, 7); err == nil || strings.Contains(err.Error(), timeout.String()) {
		t.Errorf("Publish with a deadline of the caller's: got %v, want an error that doesn't blame our timeout", err)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	afterwards(t, p, p)
}

// The twin: with a timeout that protects from nothing, the silence goes on.
func TestWithoutTheTimeoutAFrozenRedisGoesUnnoticed(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	s := subscribe(t, newPush(t, server.Socket(), &redispush.Options{Timeout: time.Hour}), newPush(t, server.Socket(), nil))
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		t.Errorf("the subscription ended with %v although nothing looks after it", err)
	case <-time.After(2 * timeout):
	}
	s.end(nil)
	_ = s.wantEnd("cancelled", slack)
}

// A half-open connection: what is sent vanishes, and nothing comes.
func TestABlackHoleEndsTheSubscription(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	proxy := toxitest.New(t, server.Socket())
	p, probe := newPush(t, proxy.Addr(), quick), newPush(t, server.Socket(), nil)
	s := subscribe(t, p, probe)
	proxy.Blackhole(func() {
		_ = s.wantEnd("black hole", timeout+slack)
		wantUnpublished(t, "black hole", p)
	})
	proxy.Reset(func() { wantUnpublished(t, "reset", p) })
	proxy.Down(func() { wantUnpublished(t, "down", p) })
	afterwards(t, p, probe)
}

// Redis drops a subscriber that does not read.
func TestASubscriberThatIsTooSlowIsCutOff(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, &testcluster.RedisOptions{Args: []string{"--client-output-buffer-limit", "pubsub 64kb 64kb 1"}})
	p := newPush(t, server.Socket(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stuck, wake, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		ended <- p.Subscribe(ctx, func(uint64) {
			if first {
				first = false
				close(stuck)
				<-wake
			}
		})
	}()
	await(t, "the subscriber to be stuck", func() bool {
		if err := p.Publish(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		select {
		case <-stuck:
			return true
		default:
			return false
		}
	})
	client := newClient(t, server.Socket())
	await(t, "Redis to cut it off", func() bool {
		pipe := client.Pipeline()
		for range 1000 {
			pipe.Publish(t.Context(), "podworks:directory", strings.Repeat("9", 1000))
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		n, err := client.PubSubNumSub(t.Context(), "podworks:directory").Result()
		if err != nil {
			t.Fatal(err)
		}
		return n["podworks:directory"] == 0
	})
	close(wake)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("got nil, want why the subscription ended")
		}
	case <-time.After(patience):
		t.Fatal("Subscribe has not noticed that it was cut off")
	}
}
