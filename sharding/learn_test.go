package sharding

import (
	"testing"

	"github.com/podworks/podworks"
)

// Answers of the master arrive in any order.
func TestASnapshotNeverGoesBack(t *testing.T) {
	t.Parallel()
	d := NewDirectory(nil, nil)
	route := func(pod podworks.PodID, region podworks.Region, epoch podworks.Epoch) podworks.Route {
		return podworks.Route{Shop: 1, Pod: pod, Region: region, Epoch: epoch}
	}
	for _, step := range []struct {
		learn, want podworks.Route
	}{
		{route(1, "a", 1), route(1, "a", 1)},
		{route(2, "a", 2), route(2, "a", 2)},
		{route(1, "a", 1), route(2, "a", 2)}, // too late
		{route(2, "a", 2), route(2, "a", 2)},
		{route(2, "b", 2), route(2, "b", 2)}, // the pod failed over
		{route(1, "a", 4), route(1, "a", 4)}, // one was never heard of
		{route(3, "a", 3), route(1, "a", 4)},
	} {
		before := d.routes.Load()
		old := (*before)[1]
		other := podworks.Route{Shop: 2, Pod: 9, Epoch: 1}
		d.learn([]podworks.Route{step.learn, other})
		if got, err := d.Lookup(t.Context(), 1); got != step.want || err != nil {
			t.Errorf("after learning %v: %v, %v; want %v", step.learn, got, err, step.want)
		}
		if got, err := d.Lookup(t.Context(), 2); got != other || err != nil {
			t.Errorf("after learning %v: the other shop is %v, %v; want %v", step.learn, got, err, other)
		}
		if (*before)[1] != old {
			t.Errorf("learning %v changed a snapshot that readers have", step.learn)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	d := NewDirectory(nil, nil)
	routes := make([]podworks.Route, 1_000_000)
	for i := range routes {
		routes[i] = podworks.Route{Shop: podworks.ShopID(i + 1), Pod: 1, Region: "here", Epoch: 1}
	}
	d.learn(routes)
	b.ReportAllocs()
	shop := podworks.ShopID(1)
	for b.Loop() {
		shop = shop*48271%999_983 + 1
		if _, err := d.Lookup(b.Context(), shop); err != nil {
			b.Fatal(err)
		}
	}
}
