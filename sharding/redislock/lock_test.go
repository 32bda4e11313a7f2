package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redislock"
)

// What package sharding asks for.
var _ interface {
	Share(ctx context.Context, r podworks.Route) (check func(context.Context) error, release func(), err error)
} = (*redislock.Lock)(nil)

func TestWritersGoOnOnlyInAnOpenShopOfTheirEpoch(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	for _, tt := range []struct {
		row   redislock.Row
		epoch podworks.Epoch
		ok    bool
	}{
		{open, 1, true},
		{arrived, 2, true},
		{open, 2, false},
		{arrived, 1, false},
		{none, 1, false},
		{absent, 1, false},
		{tombstone(1), 1, false}, // the token is no epoch
		{incoming(1), 1, false},
		{moved, 1, false},
		{moved, 5, false},
	} {
		p.set(tt.row)
		r := from
		r.Epoch = tt.epoch
		check, release, err := p.Share(t.Context(), r)
		if !tt.ok {
			checkIs(t, tt.row.String(), err, sharding.ErrMoved)
			var e *sharding.Error
			if !errors.As(err, &e) || e.Shop != 1 || e.Pod != 1 {
				t.Errorf("%v: got %#v, want a *sharding.Error with shop and pod", tt.row, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", tt.row, err)
			continue
		}
		checkIs(t, "check", check(t.Context()), nil)
		release()
		release()
		if n := p.client.HLen(t.Context(), p.Key()).Val(); n != 5 { // the row, and when to sweep
			t.Errorf("%v: after the release the state has %d fields, want 5", tt.row, n)
		}
	}
}

func TestWhatIsInvalidIsRefusedBeforeRedisIsAsked(t *testing.T) {
	t.Parallel()
	client := newClient(t, "/nonexistent/sock")
	l, err := redislock.New(client, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"no shop":        second(l.Lease(ctx, podworks.Route{Epoch: 1})),
		"no epoch":       second(l.Lease(ctx, podworks.Route{Shop: 1})),
		"epoch too high": second(l.Lease(ctx, podworks.Route{Shop: 1, Epoch: 1 << 53})),
		"no token":       l.Incoming(ctx, 1, 0),
		"token too high": l.Entomb(ctx, 1, math.MaxUint64),
		"open at 0":      l.Open(ctx, 1, 0, 5),
		"reopen at 0":    l.Reopen(ctx, podworks.Route{Shop: 1}, 5),
		"create at 0":    l.Create(ctx, podworks.Route{Shop: 1}),
		"apply":          second(l.Apply(ctx, 1, 0)),
		"delete":         second(l.Delete(ctx, 0, 1)),
		"no destination": l.Close(ctx, from, 0, 5, time.Second, nothing),
		"no budget":      l.Close(ctx, from, 2, 5, 0, nothing),
		"no drain":       l.Close(ctx, from, 2, 5, time.Second, nil),
		"no close token": l.Close(ctx, from, 2, 0, time.Second, nothing),
	} {
		if err == nil || errors.Is(err, redislock.ErrUnavailable) {
			t.Errorf("%s: got %v, want a refusal without asking Redis", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	deaf := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	deafCluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	deafRing := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	good := newClient(t, "127.0.0.1:1")
	for _, c := range []redis.UniversalClient{deaf, deafCluster, deafRing} {
		t.Cleanup(func() { c.Close() })
	}
	for _, tt := range []struct {
		client redis.UniversalClient
		opts   *redislock.Options
		want   []string
	}{
		{nil, nil, []string{"the client is nil"}},
		{deaf, nil, []string{"ContextTimeoutEnabled"}},
		{deafCluster, nil, []string{"ContextTimeoutEnabled"}},
		{deafRing, nil, []string{"ContextTimeoutEnabled"}},
		{good, &redislock.Options{Lease: time.Millisecond, Timeout: -1}, []string{"Lease is 1ms", "Timeout is -1ns"}},
		{good, &redislock.Options{Lease: 2 * time.Hour}, []string{"Lease is 2h0m0s"}},
		{good, nil, nil},
	} {
		_, err := redislock.New(tt.client, tt.opts)
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

func TestWritersDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(open)
	// All hold at the same time: none could be had if one kept out another.
	const writers = 64
	var wg sync.WaitGroup
	held := make([]*redislock.Lease, writers)
	for i := range writers {
		wg.Go(func() {
			var err error
			if held[i], err = p.Lease(t.Context(), from); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range held {
		if s == nil {
			t.Fatal("a lease is missing")
		}
		checkIs(t, "Check", s.Check(t.Context()), nil)
		checkIs(t, "Release", s.Release(), nil)
	}
}

func TestCheckAsksRedisOnlyAfterHalfOfTheLease(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, &redislock.Options{Timeout: 100 * time.Millisecond})
	p.set(open)
	s := p.write()
	old := p.client.HGetAll(t.Context(), p.Key()).Val()
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	checkIs(t, "a young lease", s.Check(t.Context()), nil)
	s.Restart()
	checkIs(t, "an old lease, without Redis", s.Check(t.Context()), redislock.ErrUnavailable)
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	await(t, "Redis", func() bool { return s.Check(t.Context()) == nil })
	for field, was := range p.client.HGetAll(t.Context(), p.Key()).Val() {
		if strings.HasPrefix(field, "l:") && was <= old[field] {
			t.Errorf("the renewed lease lapses at %s, want later than %s", was, old[field])
		}
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	checkIs(t, "a renewed lease", s.Check(t.Context()), nil)
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	checkIs(t, "Release", s.Release(), nil)
	checkIs(t, "Check after Release", s.Check(t.Context()), redislock.ErrLapsed)
}

func TestALapsedLeaseIsNotRenewed(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), &redislock.Options{Lease: 200 * time.Millisecond})
	p.set(open)
	s := p.write()
	// The mover waits for its end, which nobody but time brings about.
	start := time.Now()
	checkIs(t, "Close", p.close5(t.Context(), patience, nothing), nil)
	t.Logf("the mover had the shop after %v", time.Since(start))
	checkIs(t, "Check", s.Check(t.Context()), redislock.ErrLapsed)
	checkIs(t, "Release", s.Release(), redislock.ErrLapsed)
	p.wantRow("afterwards", moved)
}

// Where no mover comes to look, the leases of the dead don't pile up.
func TestLeasesOfTheDeadGoWithoutAMover(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), &redislock.Options{Lease: 100 * time.Millisecond})
	p.set(open)
	for range 20 {
		p.write()
	}
	await(t, "the dead leases to go", func() bool {
		if err := p.write().Release(); err != nil {
			t.Log(err)
		}
		return p.client.HLen(t.Context(), p.Key()).Val() == 5
	})
}

func TestALostStateIsRefusedAndNeverOpen(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(open)
	s := p.write()
	if err := p.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := p.Lease(t.Context(), from)
	checkIs(t, "a new lease", err, sharding.ErrMoved)
	if !strings.Contains(fmt.Sprint(err), "absent") {
		t.Errorf("got %q, want it to say absent", err)
	}
	checkIs(t, "Close", p.close5(t.Context(), time.Second, nothing), redislock.ErrNotOpen)
	checkIs(t, "Open", p.Open(t.Context(), 1, 2, 5), redislock.ErrToken)
	checkIs(t, "Reopen", p.Reopen(t.Context(), from, 5), nil)
	s.Restart()
	checkIs(t, "Check", s.Check(t.Context()), redislock.ErrLapsed)
	checkIs(t, "Release", s.Release(), redislock.ErrLapsed)
	p.wantRow("afterwards", absent)
	if n := p.client.Exists(t.Context(), p.Key()).Val(); n != 0 {
		t.Error("something of the shop is there again, although nobody created it")
	}
}

// A shop is created again after a flush, while a writer still relies on a lease
// from before it.
func lostLease(t *testing.T, p *pod) (closed error, checked error) {
	t.Helper()
	p.set(open)
	s := p.write()
	if err := p.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := p.Create(t.Context(), from); err != nil {
		t.Fatal(err)
	}
	err := p.close5(t.Context(), 100*time.Millisecond, nothing)
	return err, s.Check(t.Context())
}

func TestAfterALossNoMoverPassesALeaseThatWasLost(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	closed, checked := lostLease(t, p)
	checkIs(t, "Close", closed, redislock.ErrBudget)
	checkIs(t, "Check", checked, nil)
	checkIs(t, "Create again", p.Create(t.Context(), from), nil)
	if err := p.write().Release(); err != nil {
		t.Errorf("a new writer: %v", err)
	}
}

// The twin: without the rest after Create, the shop is closed under a writer.
func TestWithoutTheRestALostLeaseIsPassed(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	redislock.Without(t, p.Lock, "-- If the state was lost, then so were leases that are still relied on.\n	redis.call('HSET', key, 'rest', now + length)", "")
	closed, checked := lostLease(t, p)
	if closed != nil || checked != nil {
		t.Errorf("Close: %v, Check: %v; want the shop closed under a lease that is still good", closed, checked)
	}
}

func TestFencingTokensGrow(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), &redislock.Options{Lease: 100 * time.Millisecond})
	if err := p.Create(t.Context(), from); err != nil {
		t.Fatal(err)
	}
	writer := func() uint64 {
		s := p.write()
		checkIs(t, "Release", s.Release(), nil)
		return s.Token()
	}
	mover := func() (token uint64) {
		stepBack := errors.New("step back")
		err := p.close5(t.Context(), patience, func(_ context.Context, fencing uint64) error {
			token = fencing
			return stepBack
		})
		checkIs(t, "Close", err, stepBack)
		return token
	}
	last := writer()
	if again := writer(); again != last {
		t.Errorf("two writers without a mover between them have tokens %d and %d, want the same", last, again)
	}
	for round := range 3 {
		if round == 2 { // also over a loss of everything
			if err := p.client.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := p.Create(t.Context(), from); err != nil {
				t.Fatal(err)
			}
		}
		m := mover()
		w := writer()
		if m <= last || w < m {
			t.Errorf("round %d: a writer had token %d, then a mover %d, then a writer %d; want them to grow", round, last, m, w)
		}
		last = w
	}
}

// Everything of a shop is in one key, so a cluster's scripts can be used as they are.
func TestOnACluster(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, &testcluster.RedisOptions{TCP: true, Args: []string{"--cluster-enabled", "yes", "--cluster-port", "0"}})
	if err := newClient(t, server.Addr()).ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	l, err := redislock.New(client, nil)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the cluster", func() bool { return l.Create(t.Context(), from) == nil })
	s, err := l.Lease(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	checkIs(t, "Release", s.Release(), nil)
}
