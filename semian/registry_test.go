package semian

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podworks/podworks"
)

func registry(t testing.TB, opts *RegistryOptions) *Registry {
	t.Helper()
	g, err := NewRegistry(opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAResourceIsMadeOnceAndFoundAgain(t *testing.T) {
	var made atomic.Int32
	g := registry(t, &RegistryOptions{Options: func(Key) *Options { made.Add(1); return nil }})
	if _, ok := g.Lookup(Key{Kind: "redis", Pod: 3}); ok {
		t.Error("a resource is there before anybody asked for it")
	}
	var keys []Key
	for pod := range podworks.PodID(50) {
		for _, role := range []string{"", "primary", "replica"} {
			keys = append(keys, Key{"mysql", pod, role})
		}
	}
	for i := range 100 { // more than a few of one pod
		keys = append(keys, Key{"http", 0, fmt.Sprintf("host-%d", i)})
	}
	got := make([]map[Key]*Resource, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			got[i] = map[Key]*Resource{}
			for _, key := range keys {
				got[i][key] = g.Get(key)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		want, ok := g.Lookup(key)
		if !ok || want.key != key || want.Name() != key.String() {
			t.Fatalf("%v: found %v", key, want)
		}
		for _, m := range got {
			if m[key] != want {
				t.Fatalf("%v is there twice", key)
			}
		}
	}
	if n := len(g.Stats()); n != len(keys) {
		t.Errorf("%d resources, want %d", n, len(keys))
	}
}

func TestOptionsThatAreRefusedFailNoCall(t *testing.T) {
	var log strings.Builder
	bad := true
	g := registry(t, &RegistryOptions{Options: func(Key) *Options {
		if bad {
			return &Options{Window: -1}
		}
		return &Options{MinCalls: 2, OpenFor: time.Hour}
	}, Logger: textLogger(&log)})
	r := g.Get(Key{Kind: "redis", Pod: 3})
	if call(r, 3, nil) != 3 || !strings.Contains(log.String(), "Window is -1ns") {
		t.Errorf("the log says %q", log.String())
	}
	if err := g.Configure(); err == nil || !strings.Contains(err.Error(), "redis of pod 3") {
		t.Errorf("got %v, want the resource named", err)
	}
	bad = false
	if err := g.Configure(); err != nil {
		t.Fatal(err)
	}
	call(r, 9, errDown)
	wantState(t, r, Open)
}

func TestWhatIsIdleIsDroppedUnlessItIsNotClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := registry(t, &RegistryOptions{Idle: time.Minute, Options: func(k Key) *Options {
			return &Options{Tickets: 2, OpenFor: 10 * time.Hour}
		}})
		key := func(kind string) Key { return Key{Kind: kind, Pod: 1} }
		idle, used, opened, forced, held := g.Get(key("idle")), g.Get(key("used")), g.Get(key("open")), g.Get(key("forced")), g.Get(key("held"))
		call(opened, 10, errDown)
		if err := forced.Force(ForceClosed, "x", 0); err != nil {
			t.Fatal(err)
		}
		p := take(t, held)
		for i := range 8 {
			sleep(30 * time.Second)
			call(used, 1, nil)
			g.Get(Key{Kind: "other", Pod: podworks.PodID(i)}) // others are made
		}
		for kind, want := range map[string]bool{"idle": false, "used": true, "open": true, "forced": true, "held": true} {
			if _, ok := g.Lookup(key(kind)); ok != want {
				t.Errorf("%s is there: %t, want %t", kind, ok, want)
			}
		}
		p.End(nil)
		// A handle that somebody kept is the one that has the key.
		call(idle, 10, errDown)
		again, ok := g.Lookup(key("idle"))
		if !ok || again == idle {
			t.Fatal("the key has no new resource")
		}
		wantState(t, again, Open)
		wantState(t, idle, Open)
		wantRefused(t, idle, ErrOpen)
		if err := idle.Force(ForceClosed, "x", 0); err != nil {
			t.Fatal(err)
		}
		if call(again, 1, nil) != 1 {
			t.Error("forcing the old handle did nothing")
		}
	})
}

// Handles are used while resources come and go: none is forked, no ticket is lost.
func TestHandlesStayValidWhileResourcesAreDropped(t *testing.T) {
	g := registry(t, &RegistryOptions{Idle: time.Nanosecond, Options: func(Key) *Options { return &Options{Tickets: 3, Queue: 100} }})
	var wg sync.WaitGroup
	var made atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			mine := g.Get(Key{Kind: "redis", Pod: 1})
			for n := range 2000 {
				made.Add(int64(call(mine, 1, nil)))
				g.Get(Key{Kind: "other", Pod: podworks.PodID(2 + i*10 + n%10)})
			}
		})
	}
	wg.Wait()
	if made.Load() != 8*2000 {
		t.Errorf("%d calls were made, want %d", made.Load(), 8*2000)
	}
	if s := g.Get(Key{Kind: "redis", Pod: 1}).Stats(); s.InUse != 0 {
		t.Errorf("%d tickets are out", s.InUse)
	}
}

func TestARaisedEpochResetsThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := registry(t, &RegistryOptions{Options: func(Key) *Options { return &Options{OpenFor: time.Hour} }})
		seven, eight := g.Get(Key{Kind: "mysql", Pod: 7}), g.Get(Key{Kind: "mysql", Pod: 8})
		redis := g.Get(Key{Kind: "redis", Pod: 7})
		down := func() {
			for _, r := range []*Resource{seven, eight, redis} {
				call(r, 10, errDown)
			}
		}
		down()
		if got := g.Pod(7).String(); got != "pod 7: 2 of 2 stores open" {
			t.Errorf("got %q", got)
		}
		g.PodRaised(7, 2)
		wantState(t, seven, Closed)
		wantState(t, redis, Closed)
		wantState(t, eight, Open)
		down()
		g.PodRaised(7, 2) // known
		wantState(t, seven, Open)
		if err := redis.Force(ForceClosed, "x", 0); err != nil {
			t.Fatal(err)
		}
		if got := g.Pod(7).String(); got != "pod 7: 1 of 2 stores open" {
			t.Errorf("got %q", got)
		}
		g.ShopRaised(podworks.Route{Shop: 5, Pod: 7, Epoch: 9})
		wantState(t, seven, HalfOpen)
		wantState(t, eight, Open)
		if got := g.Pod(7); got.Open != 0 || got.HalfOpen != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestARegistryRefusesANegativeTime(t *testing.T) {
	if _, err := NewRegistry(&RegistryOptions{Idle: -1}); err == nil || errors.Is(err, ErrOpen) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkRegistryGet(b *testing.B) {
	g := registry(b, nil)
	keys := make([]Key, 10_000)
	for i := range keys {
		keys[i] = Key{Kind: []string{"mysql", "redis", "memcached", "http"}[i%4], Pod: podworks.PodID(i / 4), Role: "primary"}
		g.Get(keys[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		i := 0
		for pb.Next() {
			if i++; i == 1000 { // those in use
				i = 0
			}
			if g.Get(keys[i]) == nil {
				b.Error("nil")
			}
		}
	})
}
