package sharding_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestEachPodIsForMaintenance(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var mu sync.Mutex
		var told []string
		w := newWorld(t, f, &sharding.Options{Hooks: sharding.Hooks{EachPod: func(reason string, pod podworks.PodID, _ time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, reason)
		}}}, nil)
		var order []podworks.PodID
		err := w.cluster.EachPod(t.Context(), "add a column", nil, func(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
			order = append(order, pod) // one after the other: no lock
			_, err := db.ExecContext(ctx, `ALTER TABLE things ADD COLUMN w INT`)
			return err
		})
		checkIs(t, "a migration", err, nil)
		if !slices.Equal(order, []podworks.PodID{1, 2}) {
			t.Errorf("went through pods %v, want 1 and 2", order)
		}

		boom := errors.New("boom")
		for _, c := range []struct {
			name string
			opts *sharding.EachPodOptions
			runs int
		}{
			{"in turn", nil, 1},
			{"in turn, going on", &sharding.EachPodOptions{KeepGoing: true}, 2},
			{"side by side", &sharding.EachPodOptions{Parallel: 2}, 2},
		} {
			var runs atomic.Int64
			met := make(chan struct{})
			err := w.cluster.EachPod(t.Context(), "nothing much", c.opts, func(_ context.Context, pod podworks.PodID, _ *sql.DB) error {
				runs.Add(1)
				if c.opts != nil && c.opts.Parallel == 2 { // each is there while the other is
					if pod == 1 {
						met <- struct{}{}
					} else {
						<-met
					}
				}
				return boom
			})
			checkIs(t, c.name, err, boom)
			if runs.Load() != int64(c.runs) {
				t.Errorf("%s: ran for %d pods, want %d", c.name, runs.Load(), c.runs)
			}
			var e *sharding.Error
			if !errors.As(err, &e) || e.Pod == 0 || !strings.Contains(err.Error(), "nothing much") {
				t.Errorf("%s: got %v, want an Error that names the pod and the reason", c.name, err)
			}
		}
		if got := w.cluster.Stats().FanOuts; got != 4 {
			t.Errorf("%d fan-outs were counted, want 4", got)
		}
		if len(told) != 7 {
			t.Errorf("the hook was called for %q, want 7 calls", told)
		}

		never := func(context.Context, podworks.PodID, *sql.DB) error {
			t.Error("the function ran")
			return nil
		}
		scoped, _ := w.acquire(1)
		checkIs(t, "EachPod in a scope", w.cluster.EachPod(scoped, "a report", nil, never), sharding.ErrRefused)
		if err := w.cluster.EachPod(t.Context(), "", nil, never); err == nil {
			t.Error("EachPod without a reason: got no error")
		}
		ended, end := context.WithCancel(t.Context())
		end()
		checkIs(t, "EachPod with a context that has ended", w.cluster.EachPod(ended, "late", nil, never), context.Canceled)
	})
}
