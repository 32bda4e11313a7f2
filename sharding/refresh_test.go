package sharding

import (
	"context"
	"errors"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/testcluster"
)

// A refresh that fails half way is repeated from where it began: what it had not
// come to is read the next time. The twin says it had got to the end.
func TestARefreshThatFailsHalfWayMissesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		writer := NewDirectory(master, nil)
		shops := make([]podworks.ShopID, 3*learnAtOnce)
		for i := range shops {
			shops[i] = podworks.ShopID(100 + i)
		}
		for _, twin := range []bool{false, true} {
			d := NewDirectory(master, nil)
			if twin {
				do(t, d.Refresh(t.Context())) // the shops are there
				d = NewDirectory(master, nil)
			} else {
				do(t, d.Refresh(t.Context()))
				do(t, writer.addShops(t.Context(), 1, shops))
			}
			since := d.Stats().Version
			ctx, cancel := context.WithCancel(t.Context())
			answers := 0
			_, err := d.look(ctx, func() {
				if answers++; answers == 2 { // the version, and a batch of shops
					cancel()
					eventually(t, "the driver to hear of it", func() bool { return master.Stats().InUse == 0 })
				}
			})
			got := d.Stats()
			if err == nil || got.Version != since || got.Shops < learnAtOnce || got.Shops >= len(shops) || got.Failures != 1 {
				t.Fatalf("a refresh that was cut off: %v, and %+v; want an error, version %d still, and some of the shops", err, got, since)
			}
			if twin {
				version, err := d.store.Version(t.Context())
				do(t, err)
				d.version.Store(version)
			}
			do(t, d.Refresh(t.Context()))
			missing := 0
			for _, shop := range shops {
				if _, ok := d.route(shop); !ok {
					missing++
				}
			}
			if (missing > 0) != twin {
				t.Errorf("twin %t: %d shops are missing after the next refresh", twin, missing)
			}
		}
	})
}

// A master that was restored, or whose last changes were lost in a failover, gives
// their versions to other changes. All of it is read again.
func TestAMasterThatWentBackIsReadFromTheStart(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		d := NewDirectory(master, nil)
		do(t, d.Refresh(t.Context()))
		before := d.Stats().Version
		d.version.Store(before + 5) // it had made five changes more
		other := NewDirectory(master, nil)
		_, err := other.addShop(t.Context(), 2, 2, nil)
		do(t, err)
		do(t, d.Refresh(t.Context()))
		if r, ok := d.route(2); !ok || r.Pod != 2 {
			t.Errorf("route(2) = %v, %t; want pod 2", r, ok)
		}
		if got := d.Stats().Version; got != before+1 {
			t.Errorf("the version is %d, want the master's, %d", got, before+1)
		}
	})
}

func TestAShopsLifeInTheDirectory(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		ctx := t.Context()
		here, there := NewDirectory(master, nil), NewDirectory(master, nil)
		do(t, here.Refresh(ctx))
		for _, step := range []struct {
			name string
			do   func(context.Context, podworks.ShopID) (podworks.Route, error)
			open bool
		}{
			{"close", here.closeShop, false},
			{"reopen", here.reopenShop, true},
			{"close", here.closeShop, false},
			{"delete", here.deleteShop, false},
		} {
			for range 2 {
				r, err := step.do(ctx, 1)
				do(t, err)
				do(t, there.Refresh(ctx))
				for name, d := range map[string]*Directory{"here": here, "there": there} {
					got, ok := d.route(1)
					if ok != step.open || ok && got != r {
						t.Errorf("after %s, %s: %v, %t; want %v, %t", step.name, name, got, ok, r, step.open)
					}
					for what, lookup := range map[string]func(context.Context, podworks.ShopID) (podworks.Route, error){"Lookup": d.Lookup, "Fresh": d.Fresh} {
						got, err := lookup(ctx, 1)
						if step.open && (err != nil || got != r) || !step.open && !isClosed(err) {
							t.Errorf("after %s, %s: %s = %v, %v; want %v, or that it is closed", step.name, name, what, got, err, r)
						}
					}
				}
			}
		}
		// A process that knows nothing is told the same by the master.
		if _, err := NewDirectory(master, nil).Lookup(ctx, 1); !isClosed(err) {
			t.Errorf("Lookup in a new process: %v, want that it is closed", err)
		}
		if _, err := here.closeShop(ctx, 99); !errors.Is(err, ErrUnknownShop) {
			t.Errorf("closeShop of an unknown shop: %v, want ErrUnknownShop", err)
		}
		checkErr(t, "addShop of a deleted one", func() error { _, err := here.addShop(ctx, 1, 1, nil); return err }(), "not given again")
	})
}

// A pod that is added and filled while a refresh is under way: what the snapshot
// can't place yet is asked for, not made up.
func TestAShopOfAPodThatIsNotKnownYet(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		d := NewDirectory(master, nil)
		do(t, d.AddPod(t.Context(), 9, "there"))
		_, err := NewDirectory(master, nil).addShop(t.Context(), 5, 9, nil)
		do(t, err)
		d.snapshot.learn(nil, []directory.Shop{{ID: 5, Pod: 9, Epoch: 1}}) // its row came first
		if r, ok := d.route(5); ok {
			t.Errorf("route = %v, want none", r)
		}
		want := podworks.Route{Shop: 5, Pod: 9, Region: "there", Epoch: 1}
		if r, err := d.Lookup(t.Context(), 5); err != nil || r != want {
			t.Errorf("Lookup = %v, %v; want %v", r, err, want)
		}
	})
}

// Many processes that ask for the version four times a second are no load.
func TestPollsThatFindNothingReadOneRow(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		master.SetMaxOpenConns(1) // the status is the session's
		d := NewDirectory(master, nil)
		do(t, d.Refresh(t.Context()))
		asked := func() (n int) {
			t.Helper()
			var name string
			do(t, master.QueryRowContext(t.Context(), `SHOW SESSION STATUS LIKE 'Questions'`).Scan(&name, &n))
			return n
		}
		before := asked()
		for range 100 {
			do(t, d.Refresh(t.Context()))
		}
		if n := asked() - before - 1; n != 100 {
			t.Errorf("100 refreshes made %d statements, want one each", n)
		}
	})
}

func BenchmarkRefresh(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			d := NewDirectory(openMaster(b, testcluster.Server(b, f)), nil)
			for b.Loop() {
				do(b, d.Refresh(b.Context()))
			}
		})
	}
}
