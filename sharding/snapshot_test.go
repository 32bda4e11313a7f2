package sharding

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

func isClosed(err error) bool { return errors.Is(err, directory.ErrClosed) }

// millionShops returns a directory that knows a million shops in 100 pods, and
// their numbers in an order that memory can't foresee.
func millionShops(tb testing.TB, number func(i int) podworks.ShopID) (*Directory, []podworks.ShopID) {
	tb.Helper()
	const shops = 1_000_000
	d := NewDirectory(nil, nil)
	ids := make([]podworks.ShopID, shops)
	var routes []podworks.Route
	for i := range ids {
		ids[i] = number(i)
		routes = append(routes, podworks.Route{Shop: ids[i], Pod: podworks.PodID(i%100 + 1), Region: "here", Epoch: 1})
		if len(routes) == learnAtOnce || i == shops-1 {
			d.learn(routes)
			routes = routes[:0]
		}
	}
	rand.Shuffle(shops, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return d, ids
}

// The ways in which platforms number shops.
var numberings = map[string]func(i int) podworks.ShopID{
	"in sequence": func(i int) podworks.ShopID { return podworks.ShopID(i + 1) },
	"by the thousand": func(i int) podworks.ShopID {
		return podworks.ShopID(i+1) << 10 // the low bits name a data centre
	},
	"from four blocks": func(i int) podworks.ShopID {
		return podworks.ShopID(i%4)<<40 + podworks.ShopID(i/4+1) // which all begin at the same slot
	},
	"at random": func(i int) podworks.ShopID {
		return podworks.ShopID(uint64(i+1)*0xd6e8feb86659fd93>>1 | 1)
	},
}

func TestASnapshotFindsEveryShopHoweverTheyAreNumbered(t *testing.T) {
	t.Parallel()
	for name, number := range numberings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const shops = 20_000
			d := NewDirectory(nil, nil)
			for i := range shops {
				d.learn([]podworks.Route{{Shop: number(i), Pod: podworks.PodID(i%7 + 1), Region: "here", Epoch: podworks.Epoch(i + 1)}})
			}
			for i := range shops {
				want := podworks.Route{Shop: number(i), Pod: podworks.PodID(i%7 + 1), Region: "here", Epoch: podworks.Epoch(i + 1)}
				if got, ok := d.route(want.Shop); !ok || got != want {
					t.Fatalf("route(%d) = %v, %t; want %v", want.Shop, got, ok, want)
				}
			}
			for _, shop := range []podworks.ShopID{0, -1, number(shops), number(shops + 1)} {
				if got, ok := d.route(shop); ok {
					t.Errorf("route(%d) = %v, want none", shop, got)
				}
			}
			if got := d.Stats().Shops; got != shops {
				t.Errorf("the snapshot has %d shops, want %d", got, shops)
			}
		})
	}
}

// What no word can hold is left to the master.
func TestASnapshotLeavesOutWhatItCantHold(t *testing.T) {
	t.Parallel()
	s := newSnapshot()
	s.learn([]directory.Pod{{ID: 1}}, []directory.Shop{
		{ID: 1, Pod: 1, Epoch: maxEpoch},
		{ID: 2, Pod: 1, Epoch: maxEpoch + 1},
		{ID: 3, Pod: 1, Epoch: 0},
		{ID: 4, Pod: 2, Epoch: 1}, // a pod that isn't known yet
		{ID: 0, Pod: 1, Epoch: 1},
		{ID: -5, Pod: 1, Epoch: 1},
	})
	if got, ok := s.route(1); !ok || got.Epoch != maxEpoch {
		t.Errorf("route(1) = %v, %t; want epoch %d", got, ok, podworks.Epoch(maxEpoch))
	}
	if got := s.size(); got != 1 {
		t.Errorf("the snapshot has %d shops, want 1", got)
	}
}

// Readers of a snapshot that changes and grows under them see every shop that was
// there, a pod and an epoch that belong together, and no epoch before one they saw.
func TestReadersOfAGrowingSnapshot(t *testing.T) {
	t.Parallel()
	const shops, epochs, readers = 3000, 20, 4
	d := NewDirectory(nil, nil)
	at := func(shop podworks.ShopID, epoch podworks.Epoch) podworks.Route {
		return podworks.Route{Shop: shop, Pod: podworks.PodID((uint64(shop)+uint64(epoch))%50 + 1), Region: "here", Epoch: epoch}
	}
	for shop := range podworks.ShopID(10) {
		d.learn([]podworks.Route{at(shop+1, 1)})
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range readers {
		wg.Go(func() {
			seen := map[podworks.ShopID]podworks.Epoch{}
			for {
				select {
				case <-stop:
					return
				default:
				}
				shop := podworks.ShopID(rand.IntN(shops) + 1)
				r, ok := d.route(shop)
				if !ok && (shop <= 10 || seen[shop] > 0) {
					t.Errorf("shop %d was there and is gone", shop)
				}
				if ok && (r != at(shop, r.Epoch) || r.Epoch < seen[shop]) {
					t.Errorf("route(%d) = %v after epoch %d, want %v", shop, r, seen[shop], at(shop, r.Epoch))
				}
				seen[shop] = r.Epoch
			}
		})
	}
	for epoch := range podworks.Epoch(epochs) {
		for shop := range podworks.ShopID(shops) {
			d.learn([]podworks.Route{at(shop+1, epoch+1)})
		}
	}
	close(stop)
	wg.Wait()
}

func TestALookupAllocatesNothing(t *testing.T) {
	d := NewDirectory(nil, nil)
	d.learn([]podworks.Route{{Shop: 1, Pod: 1, Region: "here", Epoch: 1}})
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if _, ok := d.route(1); !ok {
			t.Error("no route")
		}
		if _, err := d.Lookup(ctx, 1); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a lookup allocates %v times, want none", n)
	}
}

// inUse returns the bytes of the heap that are reachable.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAMillionShopsTake200MBAtMost(t *testing.T) {
	before := inUse()
	d, _ := millionShops(t, numberings["at random"])
	got := inUse() - before
	if got > 200e6 {
		t.Errorf("a million shops take %d bytes, want 200 MB at most", got)
	}
	t.Logf("a million shops take %.1f MB", float64(got)/1e6)
	runtime.KeepAlive(d)
}

// BenchmarkLookup1M looks up shops at random among a million; with "hot", among a
// thousand of them.
func BenchmarkLookup1M(b *testing.B) {
	for name, number := range numberings {
		b.Run(name, func(b *testing.B) {
			before := inUse()
			d, ids := millionShops(b, number)
			mb := float64(inUse()-before)/1e6 - 8
			for which, mask := range map[string]int{"all": 1<<19 - 1, "hot": 1<<10 - 1} {
				b.Run(which, func(b *testing.B) {
					b.ReportAllocs()
					i := 0
					for b.Loop() {
						i++
						if _, ok := d.route(ids[i&mask]); !ok {
							b.Fatal("no route")
						}
					}
					b.ReportMetric(mb, "MB")
				})
			}
		})
	}
}

// BenchmarkLearnOne1M moves one shop in a million.
func BenchmarkLearnOne1M(b *testing.B) {
	d, ids := millionShops(b, numberings["in sequence"])
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		d.learn([]podworks.Route{{Shop: ids[i&(1<<19-1)], Pod: podworks.PodID(i%100 + 1), Region: "here", Epoch: podworks.Epoch(i + 1)}})
	}
}

func BenchmarkLearn1M(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		millionShops(b, numberings["in sequence"])
	}
}
