package sharding

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

// countLookups makes a cache count what it asks the master.
func countLookups(c *hostCache) *atomic.Int64 {
	var n atomic.Int64
	lookup := c.lookup
	c.lookup = func(ctx context.Context, host string) (podworks.Route, error) {
		n.Add(1)
		return lookup(ctx, host)
	}
	return &n
}

// Hosts are asked for once, unknown ones once a second; whatever changes is heard
// of; and what is known is served while the master is away.
func TestHostsAreServedFromMemory(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		master := openMaster(t, server)
		d := NewDirectory(master, &DirectoryOptions{Poll: 10 * time.Millisecond})
		asked := countLookups(d.hosts)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = d.Run(ctx) }()
		defer func() { stop(); <-ended }()
		eventually(t, "the first look", func() bool { return d.Stats().Version > 0 })

		other := NewDirectory(master, nil)
		_, err := other.addShop(ctx, 2, 2, []string{"Two.Example."})
		do(t, err)
		is := func(host string, want podworks.ShopID) func() bool {
			return func() bool {
				got, err := d.lookupHost(ctx, host)
				return got == want && (want != 0 && err == nil || want == 0 && errors.Is(err, ErrUnknownShop))
			}
		}
		eventually(t, "a host", is("two.example", 2))
		asked.Store(0)
		for range 100 {
			for _, host := range []string{"two.example", "TWO.example:8080", "two.example."} {
				if !is(host, 2)() {
					t.Errorf("%s: not shop 2's", host)
				}
			}
		}
		if n := asked.Load(); n != 0 {
			t.Errorf("a known host was asked for %d times, want not at all", n)
		}
		for range 100 {
			for _, host := range []string{"no.example", "", "münchen.example", "\u212A.example", strings.Repeat("x", 300)} {
				if !is(host, 0)() {
					t.Errorf("%q: somebody's, want nobody's", host)
				}
			}
		}
		if n := asked.Load(); n > 3 { // one a second
			t.Errorf("unknown hosts were asked for %d times, want no.example once", n)
		}

		do(t, other.AddHost(ctx, 1, "NO.example"))
		eventually(t, "a host that was unknown", is("no.example", 1))
		do(t, other.RemoveHost(ctx, 2, "two.example"))
		eventually(t, "a host that was removed", is("two.example", 0))
		do(t, other.AddHost(ctx, 1, "two.example"))
		eventually(t, "a host that changed hands", is("two.example", 1))
		checkErr(t, "AddHost of another's", other.AddHost(ctx, 2, "two.example"), "belongs to shop 1")
		checkErr(t, "AddHost with a port", other.AddHost(ctx, 2, "two.example:80"), "no port")
		checkErr(t, "RemoveHost of another's", other.RemoveHost(ctx, 2, "two.example"), "belongs to shop 1")

		do(t, server.Pause())
		for _, host := range []string{"one.example", "two.example"} {
			if host == "one.example" { // was never asked for
				ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				if _, err := d.lookupHost(ctx, host); err == nil || errors.Is(err, ErrUnknownShop) {
					t.Errorf("%s, while the master is away: %v, want an error that doesn't say it is unknown", host, err)
				}
				cancel()
			} else if !is(host, 1)() {
				t.Errorf("%s is not served while the master is away", host)
			}
		}
		do(t, server.Resume())
		eventually(t, "a host after the master was away", is("one.example", 1))
	})
}

func checkErr(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v, want an error about %q", what, err, text)
	}
}

// An answer that was under way while its host changed hands is given, and not
// kept. The twin keeps it, and serves it for ever.
func TestAnAnswerFromBeforeAChangeIsNotKept(t *testing.T) {
	t.Parallel()
	for _, careless := range []bool{false, true} {
		var owner atomic.Int64
		owner.Store(1)
		reached, release := make(chan struct{}, 10), make(chan struct{})
		c := newHostCache(func(context.Context, string) (podworks.Route, error) {
			r := podworks.Route{Shop: podworks.ShopID(owner.Load())}
			reached <- struct{}{}
			<-release
			return r, nil
		})
		c.careless = careless
		first := make(chan struct{})
		go func() { defer close(first); _, _ = c.get(t.Context(), "a.example") }()
		<-reached
		owner.Store(2)
		c.drop([]string{"a.example"})
		close(release)
		<-first
		got, err := c.get(t.Context(), "a.example")
		do(t, err)
		if want := map[bool]podworks.ShopID{false: 2, true: 1}[careless]; got != want {
			t.Errorf("careless %t: the host is shop %d's, want %d", careless, got, want)
		}
	}
}

// Those who want the same host share one look-up. When the one who asks gives up,
// another asks; a panic leaves nobody waiting.
func TestMissesOfOneHostShareALookup(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	reached, release := make(chan struct{}, 100), make(chan struct{})
	c := newHostCache(func(ctx context.Context, host string) (podworks.Route, error) {
		n := calls.Add(1)
		reached <- struct{}{}
		select {
		case <-ctx.Done():
			return podworks.Route{}, ctx.Err()
		case <-release:
		}
		if host == "panic.example" && n == 1 {
			panic("the driver's")
		}
		return podworks.Route{Shop: 7}, nil
	})
	var wg sync.WaitGroup
	hasty, giveUp := context.WithCancel(t.Context())
	wg.Go(func() {
		if _, err := c.get(hasty, "a.example"); !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up: got %v, want context.Canceled", err)
		}
	})
	<-reached
	for range 50 {
		wg.Go(func() {
			if shop, err := c.get(t.Context(), "a.example"); shop != 7 || err != nil {
				t.Errorf("get = %d, %v; want 7", shop, err)
			}
		})
	}
	giveUp()
	<-reached // another one asks
	close(release)
	wg.Wait()
	if n := calls.Load(); n != 2 {
		t.Errorf("51 requests made %d look-ups, want the one that was given up and one more", n)
	}

	calls.Store(0)
	func() {
		defer func() { _ = recover() }()
		_, _ = c.get(t.Context(), "panic.example")
	}()
	if shop, err := c.get(t.Context(), "panic.example"); shop != 7 || err != nil {
		t.Errorf("get after a panic = %d, %v; want 7", shop, err)
	}
}

// Whatever hosts requests come with, the cache stays as small as it is, a flood of
// unknown ones takes no room from the others, and the master sees a few at a time.
func TestTheHostCacheIsBounded(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int64
	c := newHostCache(func(_ context.Context, host string) (podworks.Route, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for have := most.Load(); n > have && !most.CompareAndSwap(have, n); have = most.Load() {
		}
		if strings.HasPrefix(host, "no") {
			return podworks.Route{}, ErrUnknownShop
		}
		return podworks.Route{Shop: 7}, nil
	})
	if _, err := c.get(t.Context(), "first.example"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			for i := range 2 * maxUnknownHosts / 40 {
				_, _ = c.get(t.Context(), fmt.Sprintf("no%d-%d.example", g, i))
			}
		})
	}
	wg.Wait()
	if len(c.unknown) != maxUnknownHosts || len(c.shops) != 1 {
		t.Errorf("after a flood the cache has %d unknown hosts and %d others, want %d and 1", len(c.unknown), len(c.shops), maxUnknownHosts)
	}
	if n := most.Load(); n > maxHostLookups {
		t.Errorf("the master saw %d look-ups at a time, want %d at most", n, maxHostLookups)
	}
	for i := range maxHosts + 10 {
		if _, err := c.get(t.Context(), fmt.Sprintf("yes%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.shops) != maxHosts || len(c.calls) != 0 {
		t.Errorf("the cache has %d hosts and %d calls under way, want %d and none", len(c.shops), len(c.calls), maxHosts)
	}
}

func TestAHostIsAskedForInItsNormalForm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"shop.example":      "shop.example",
		"Shop.Example:8080": "shop.example",
		"shop.example.:80":  "shop.example",
		"shop.example.":     "shop.example",
		"[::1]:80":          "::1",
		"[::1]":             "::1",
		"::1":               "::1",
		"\u212Aiosk.shop":   "\u212Aiosk.shop", // the Kelvin sign is no k
		"":                  "",
	} {
		if got := withoutPort(in); got != want {
			t.Errorf("withoutPort(%q) = %q, want %q", in, got, want)
		}
	}
}

func BenchmarkLookupHost(b *testing.B) {
	d := NewDirectory(nil, nil)
	d.hosts.shops["shop.example"] = 7
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.lookupHost(ctx, "shop.example"); err != nil {
			b.Fatal(err)
		}
	}
}
