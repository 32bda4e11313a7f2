package redispush_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redispush"
	"github.com/podworks/podworks/toxi/toxitest"
)

var _ sharding.Push = (*redispush.Push)(nil)

// patience is what a test gives a machine that is busy with something else.
const patience = 20 * time.Second

// newClient returns a client of "host:port" or of a unix socket.
func newClient(t testing.TB, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	return c
}

func newPush(t testing.TB, addr string, opts *redispush.Options) *redispush.Push {
	t.Helper()
	p, err := redispush.New(newClient(t, addr), opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A subscription is a Subscribe that runs.
type subscription struct {
	t     testing.TB
	heard chan uint64
	ended chan error
	end   context.CancelCauseFunc
}

// subscribe returns when p hears what probe publishes: Redis has no subscriber
// before that.
func subscribe(t testing.TB, p, probe *redispush.Push) *subscription {
	t.Helper()
	ctx, end := context.WithCancelCause(t.Context())
	s := &subscription{t: t, heard: make(chan uint64, 1<<17), ended: make(chan error, 1), end: end}
	go func() { s.ended <- p.Subscribe(ctx, func(v uint64) { s.heard <- v }) }()
	t.Cleanup(func() { end(nil) })
	const knock = 1
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	sent := 0
	for heard := false; !heard; {
		select {
		case <-s.heard:
			heard, sent = true, sent-1
		case <-tick.C:
			if err := probe.Publish(t.Context(), knock); err != nil {
				t.Fatal(err)
			}
			sent++
		case err := <-s.ended:
			t.Fatalf("Subscribe: %v", err)
		case <-late:
			t.Fatal("the subscription hears nothing")
		}
	}
	// Those knocks that were heard late are not the test's.
	if err := probe.Publish(t.Context(), math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	for s.next() != math.MaxUint64 {
	}
	return s
}

// next returns the next hint.
func (s *subscription) next() uint64 {
	s.t.Helper()
	select {
	case v := <-s.heard:
		return v
	case err := <-s.ended:
		s.t.Fatalf("the subscription has ended: %v", err)
	case <-time.After(patience):
		s.t.Fatal("still waiting for a hint")
	}
	return 0
}

// wantEnd waits for the end and returns its error.
func (s *subscription) wantEnd(what string, within time.Duration) error {
	s.t.Helper()
	start := time.Now()
	select {
	case err := <-s.ended:
		if err == nil {
			s.t.Fatalf("%s: Subscribe returned nil, want why it ended", what)
		}
		took := time.Since(start)
		s.t.Logf("%s: noticed after %v: %v", what, took.Round(time.Millisecond), err)
		if took > within {
			s.t.Errorf("%s: noticed after %v, want within %v", what, took, within)
		}
		return err
	case <-time.After(patience):
		s.t.Fatalf("%s: Subscribe has not noticed", what)
	}
	return nil
}

func TestAHintReachesEverySubscriber(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	publisher := newPush(t, server.Socket(), nil)
	subscribers := []*subscription{
		subscribe(t, newPush(t, server.Socket(), nil), publisher),
		subscribe(t, newPush(t, server.Socket(), nil), publisher),
	}
	const rounds = 200
	var took []time.Duration
	for v := uint64(2); v < 2+rounds; v++ {
		start := time.Now()
		if err := publisher.Publish(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		for i, s := range subscribers {
			got := s.next()
			// The first hears what is published until the second has joined.
			for got == 1 || got == math.MaxUint64 {
				got = s.next()
			}
			if got != v {
				t.Fatalf("subscriber %d heard %d, want %d", i, got, v)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("from Publish to the second of two subscribers: median %v, p99 %v, slowest %v", took[rounds/2], took[rounds*99/100], took[rounds-1])
	if median := took[rounds/2]; median > 100*time.Millisecond {
		t.Errorf("the median is %v, want 100ms at most", median)
	}
}

func TestChannelsAreApart(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	one, other := newPush(t, server.Socket(), &redispush.Options{Channel: "one"}), newPush(t, server.Socket(), &redispush.Options{Channel: "other"})
	s := subscribe(t, one, one)
	for _, p := range []struct {
		push    *redispush.Push
		version uint64
	}{{other, 7}, {one, 8}} {
		if err := p.push.Publish(t.Context(), p.version); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.next(); got != 8 {
		t.Errorf("heard %d, want 8", got)
	}
}

func TestGarbageIsIgnoredAndCounted(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPush(t, server.Socket(), nil)
	s := subscribe(t, p, p)
	before := p.Stats()
	stranger := newClient(t, server.Socket())
	garbage := []string{"", " ", "-1", "+1", "1.5", "1e3", "0x10", "18446744073709551616", "12 ", "twelve", "\x00\xff", strings.Repeat("9", 1<<20)}
	for _, g := range garbage {
		if err := stranger.Publish(t.Context(), "podworks:directory", g).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Publish(t.Context(), 42); err != nil {
		t.Fatal(err)
	}
	if got := s.next(); got != 42 {
		t.Errorf("after garbage: heard %d, want 42", got)
	}
	want := redispush.Stats{Hints: before.Hints + 1, Garbage: before.Garbage + uint64(len(garbage))}
	if got := p.Stats(); got != want {
		t.Errorf("Stats: got %+v, want %+v", got, want)
	}
}

func TestAFloodIsHeardWhole(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPush(t, server.Socket(), nil)
	s := subscribe(t, p, p)
	const hints = 100_000
	client := newClient(t, server.Socket())
	start := time.Now()
	for n := 0; n < hints; {
		pipe := client.Pipeline()
		for range 1000 {
			pipe.Publish(t.Context(), "podworks:directory", n)
			n++
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for want := range uint64(hints) {
		if got := s.next(); got != want {
			t.Fatalf("heard %d, want %d", got, want)
		}
	}
	t.Logf("%d hints in %v", hints, time.Since(start))
}

func TestASubscriptionEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPush(t, server.Socket(), nil)
	s := subscribe(t, p, p)
	enough := errors.New("enough")
	s.end(enough)
	if err := s.wantEnd("cancelled", 2*time.Second); !errors.Is(err, enough) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

// A connection over which nothing is published is kept: the pings are answered.
func TestAQuietSubscriptionStays(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	proxy := toxitest.New(t, server.Socket())
	p := newPush(t, proxy.Addr(), &redispush.Options{Timeout: 2400 * time.Millisecond})
	probe := newPush(t, server.Socket(), nil)
	s := subscribe(t, p, probe)
	admin := newClient(t, server.Socket())
	pings := func() int {
		info, err := admin.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, "cmdstat_ping:calls=")
		n := 0
		for _, c := range rest {
			if c < '0' || c > '9' {
				break
			}
			n = 10*n + int(c-'0')
		}
		return n
	}
	// Four pings are more than a timeout.
	before := pings()
	await(t, "four pings", func() bool {
		select {
		case err := <-s.ended:
			t.Fatalf("the subscription ended: %v", err)
		default:
		}
		return pings() >= before+4
	})
	if err := probe.Publish(t.Context(), 42); err != nil {
		t.Fatal(err)
	}
	if got := s.next(); got != 42 {
		t.Errorf("heard %d, want 42", got)
	}
}

// await returns when done says so, and fails the test when it doesn't in time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still waiting for %s", what)
		}
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	deaf := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	deafCluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	deafRing := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	good := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true})
	for _, c := range []redis.UniversalClient{deaf, deafCluster, deafRing, good} {
		t.Cleanup(func() { c.Close() })
	}
	for _, tt := range []struct {
		client redis.UniversalClient
		opts   *redispush.Options
		want   []string
	}{
		{nil, nil, []string{"the client is nil"}},
		{deaf, nil, []string{"ContextTimeoutEnabled"}},
		{deafCluster, nil, []string{"ContextTimeoutEnabled"}},
		{deafRing, nil, []string{"ContextTimeoutEnabled"}},
		{deaf, &redispush.Options{Timeout: -1}, []string{"Timeout is -1ns", "ContextTimeoutEnabled"}},
		{good, &redispush.Options{Timeout: time.Millisecond}, []string{"Timeout is 1ms"}},
		{good, nil, nil},
	} {
		_, err := redispush.New(tt.client, tt.opts)
		if (err == nil) != (tt.want == nil) {
			t.Errorf("New(%T, %+v): got error %v, want one with %q", tt.client, tt.opts, err, tt.want)
			continue
		}
		for _, text := range tt.want {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("New(%T, %+v): got error %q, want it to say %q", tt.client, tt.opts, err, text)
			}
		}
	}
}
