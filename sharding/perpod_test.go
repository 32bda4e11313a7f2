package sharding_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestPerPodBuildsOneClientForEachPod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		one, _ := w.acquire(1)
		two, _ := w.acquire(2)
		three, _ := w.acquire(3) // in pod 1 too
		var builds atomic.Int64
		clients := sharding.NewPerPod(func(pod podworks.PodID) (*podworks.PodID, error) {
			builds.Add(1)
			return &pod, nil
		})
		var wg sync.WaitGroup
		for range 8 {
			for _, c := range []struct {
				ctx  context.Context
				want podworks.PodID
			}{{one, 1}, {two, 2}, {three, 1}} {
				wg.Go(func() {
					got, err := clients.Get(c.ctx)
					if err != nil || *got != c.want {
						t.Errorf("Get = %v, %v; want the client of pod %d", got, err, c.want)
					}
				})
			}
		}
		wg.Wait()
		if n := builds.Load(); n != 2 {
			t.Errorf("%d clients were built, want 2", n)
		}
		_, err := clients.Get(t.Context())
		checkIs(t, "Get without a scope", err, sharding.ErrNoScope)
		released, err := w.cluster.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		released.Release()
		_, err = clients.Get(released)
		checkIs(t, "Get with a released scope", err, sharding.ErrReleased)

		// A scope that rebinds gets the new pod's client.
		w.moveTo(1, 2)
		err = sharding.FromContext(one).Tx(one, func(ctx context.Context, _ *sharding.Tx) error {
			got, err := clients.Get(ctx)
			if err == nil && *got != 2 {
				t.Errorf("after the move, Get = the client of pod %d, want that of pod 2", *got)
			}
			return err
		})
		checkIs(t, "Get after a move", err, nil)
	})
}

func TestPerPodTriesAgainWhatFailed(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, _ := w.acquire(1)
		boom := errors.New("boom")
		builds := 0
		clients := sharding.NewPerPod(func(podworks.PodID) (int, error) {
			builds++
			switch builds {
			case 1:
				return 0, boom
			case 2:
				panic(boom)
			}
			return builds, nil
		})
		_, err := clients.Get(ctx)
		checkIs(t, "Get of a build that fails", err, boom)
		func() {
			defer func() {
				if p := recover(); p != boom {
					t.Errorf("Get of a build that panics: recovered %v, want %v", p, boom)
				}
			}()
			_, _ = clients.Get(ctx)
		}()
		for range 2 {
			if got, err := clients.Get(ctx); err != nil || got != 3 {
				t.Errorf("Get = %d, %v; want the third build", got, err)
			}
		}
	})
}

// Who waits for a build that panics must neither hang nor get nothing for
// something.
func TestPerPodPanicWhileOthersWait(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, _ := w.acquire(1)
		var builds atomic.Int64
		building, proceed := make(chan struct{}), make(chan struct{})
		clients := sharding.NewPerPod(func(podworks.PodID) (string, error) {
			if builds.Add(1) == 1 {
				close(building)
				<-proceed
				panic("boom")
			}
			return "client", nil
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			defer func() { _ = recover() }()
			_, _ = clients.Get(ctx)
		})
		<-building
		for range 4 {
			wg.Go(func() {
				if got, err := clients.Get(ctx); err == nil && got != "client" {
					t.Errorf("Get = %q without an error", got)
				}
			})
		}
		close(proceed)
		wg.Wait()
		if got, err := clients.Get(ctx); err != nil || got != "client" {
			t.Errorf("afterwards Get = %q, %v; want the client", got, err)
		}
	})
}
