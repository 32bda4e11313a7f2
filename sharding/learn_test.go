package sharding

import (
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// Answers of the master arrive in any order.
func TestASnapshotNeverGoesBack(t *testing.T) {
	t.Parallel()
	for _, forgetful := range []bool{false, true} {
		d := NewDirectory(nil, nil)
		d.snapshot.forgetful = forgetful
		for pod := range podworks.PodID(3) {
			d.snapshot.learn([]directory.Pod{{ID: pod + 1, Region: "a", Version: 1}}, nil)
		}
		route := func(pod podworks.PodID, epoch podworks.Epoch) podworks.Route {
			return podworks.Route{Shop: 1, Pod: pod, Region: "a", Epoch: epoch}
		}
		wentBack := 0
		for _, step := range []struct {
			learn, want podworks.Route
		}{
			{route(1, 1), route(1, 1)},
			{route(2, 2), route(2, 2)},
			{route(1, 1), route(2, 2)}, // too late
			{route(2, 2), route(2, 2)},
			{route(1, 4), route(1, 4)}, // one was never heard of
			{route(3, 3), route(1, 4)},
		} {
			other := podworks.Route{Shop: 2, Pod: 9, Region: "b", Epoch: 1}
			d.learn([]podworks.Route{step.learn, other})
			got, err := d.Lookup(t.Context(), 1)
			switch {
			case err != nil:
				t.Fatal(err)
			case got.Epoch < step.want.Epoch:
				wentBack++
			case got != step.want && !forgetful:
				t.Errorf("after learning %v: %v, want %v", step.learn, got, step.want)
			}
			if got, ok := d.route(2); got != other || !ok {
				t.Errorf("after learning %v: the other shop is %v, %t; want %v", step.learn, got, ok, other)
			}
		}
		// The twin: with the comparison of epochs switched off, it does go back.
		if want := map[bool]int{false: 0, true: 2}[forgetful]; wentBack != want {
			t.Errorf("without the comparison of epochs %t: it went back %d times, want %d", forgetful, wentBack, want)
		}
	}
}

// A pod's region is that of its newest row; a route, which doesn't say how new its
// region is, counts only for a pod that nobody has heard of.
func TestAPodsRegionNeverGoesBack(t *testing.T) {
	t.Parallel()
	d := NewDirectory(nil, nil)
	region := func(want podworks.Region, what string) {
		t.Helper()
		if got, ok := d.route(1); !ok || got.Region != want {
			t.Errorf("after %s: %v, %t; want region %q", what, got, ok, want)
		}
	}
	d.learn([]podworks.Route{{Shop: 1, Pod: 1, Region: "a", Epoch: 1}})
	region("a", "a route")
	d.snapshot.learn([]directory.Pod{{ID: 1, Region: "b", Version: 7}}, nil)
	region("b", "the pod's row")
	d.snapshot.learn([]directory.Pod{{ID: 1, Region: "a", Version: 3}}, nil)
	region("b", "an older row")
	d.learn([]podworks.Route{{Shop: 1, Pod: 1, Region: "a", Epoch: 2}})
	region("b", "a later move, with the region of before")
	d.snapshot.learn([]directory.Pod{{ID: 1, Region: "c", Version: 8}}, nil)
	region("c", "a failover")
}

// Closing a shop, like moving it, has an epoch: what was read before can't open
// it again.
func TestAClosedShopStaysClosed(t *testing.T) {
	t.Parallel()
	d := NewDirectory(nil, nil)
	open := podworks.Route{Shop: 1, Pod: 1, Region: "a", Epoch: 3}
	closed, reopened := open, open
	closed.Epoch, reopened.Epoch = 4, 5
	d.learn([]podworks.Route{open})
	d.learnIn(directory.Closed, closed)
	d.learn([]podworks.Route{open})
	if r, ok := d.route(1); ok {
		t.Errorf("route of a closed shop = %v, want none", r)
	}
	// The master, which is nil here, isn't asked.
	if _, err := d.Lookup(t.Context(), 1); !isClosed(err) {
		t.Errorf("Lookup of a closed shop: %v, want that it is closed", err)
	}
	d.learn([]podworks.Route{reopened})
	if r, ok := d.route(1); !ok || r != reopened {
		t.Errorf("route of a shop that was opened again = %v, %t; want %v", r, ok, reopened)
	}
}
