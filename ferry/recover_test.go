package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// Each way in which a mover can leave a shop: what it did, in order, and where
// recovery must take the shop.
var remains = []struct {
	name  string
	done  []string
	moved bool
}{
	{"running, source open, target absent", []string{"claim"}, false},
	{"running, source open, target incoming", []string{"claim", "incoming", "copy"}, false},
	{"running and noted, source open, target incoming", []string{"claim", "incoming", "copy", "note"}, false},
	{"running, source closed, target incoming, epochs as noted", []string{"claim", "incoming", "copy", "note", "close"}, true},
	{"running, source closed, epochs not noted", []string{"claim", "incoming", "copy", "close"}, false},
	{"running, source closed, a pod failed over since", []string{"claim", "incoming", "copy", "note", "close", "failover"}, false},
	{"running, source closed by the mover before", []string{"claim", "incoming", "copy", "note", "close", "claim", "incoming"}, false},
	{"decided, source closed, target incoming", []string{"claim", "incoming", "copy", "note", "close", "decide"}, true},
	{"decided, source closed, target open", []string{"claim", "incoming", "copy", "note", "close", "decide", "open"}, true},
	{"aborting, source open, target absent", []string{"claim", "abort"}, false},
	{"aborting, source open, target incoming", []string{"claim", "incoming", "copy", "abort"}, false},
	{"aborting, source closed, target incoming", []string{"claim", "incoming", "copy", "note", "close", "abort"}, false},
	{"aborting, source closed, target absent", []string{"claim", "incoming", "copy", "note", "close", "abort", "tombstone"}, false},
	{"aborting, source reopened, target incoming", []string{"claim", "incoming", "copy", "note", "close", "abort", "reopen"}, false},
	{"aborting, source reopened, target absent", []string{"claim", "incoming", "copy", "note", "close", "abort", "reopen", "tombstone"}, false},
}

func TestRecoverBringsEveryStateToAnEnd(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		now := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Microsecond})
		for i, r := range remains {
			t.Run(r.name, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 20)
				move := w.leave(r.done)

				// While the mover may live, nothing is done.
				if settled, err := w.ferry.Recover(t.Context()); err != nil || len(settled) != 0 {
					t.Fatalf("before the lease ended: got %v, %v; want nothing settled", settled, err)
				}
				// Two at once, and once more.
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						if _, err := now.Recover(t.Context()); err != nil {
							t.Errorf("recover: %v", err)
						}
					})
				}
				wg.Wait()
				if settled, err := now.Recover(t.Context()); err != nil || len(settled) != 0 {
					t.Errorf("recover again: got %v, %v; want nothing left", settled, err)
				}

				state := w.state(move.Token)
				here, there := sell(t.Context(), w.source, w.shop, 1, 1), sell(t.Context(), w.target, w.shop, 2, 1)
				if !r.moved {
					if state != "undone" {
						t.Errorf("the journal says %s, want undone", state)
					}
					if !errors.Is(there, errMoved) {
						t.Errorf("a write in the target: %v, want it refused", there)
					}
					w.stays()
				} else {
					if state != "done" {
						t.Errorf("the journal says %s, want done", state)
					}
					if !errors.Is(here, errMoved) || there != nil {
						t.Errorf("a write in the source: %v; in the target: %v; want the first refused", here, there)
					}
					if got, err := w.dir.Fresh(t.Context(), w.shop); err != nil || got.Pod != 2 || got.Epoch != 2 {
						t.Errorf("the directory has %+v, %v; want pod 2 at epoch 2", got, err)
					}
					if n := w.rowsOf(w.target, w.shop); n != 20 {
						t.Errorf("got %d rows on the target, want 20", n)
					}
					return
				}
				// A mover that wakes up now changes nothing.
				for _, late := range []string{"incoming", "open"} {
					if err := w.act(&move, late); err == nil {
						t.Errorf("a late mover's %s succeeded", late)
					}
				}
				w.stays()
				if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
					t.Errorf("the next move: %v", err)
				}
				w.same("products")
			})
		}
	})
}

// leave does what a mover does, up to its death.
func (w *world) leave(done []string) podworks.Move {
	w.t.Helper()
	var move podworks.Move
	for _, what := range done {
		if err := w.act(&move, what); err != nil {
			w.t.Fatalf("%s: %v", what, err)
		}
	}
	return move
}

// act does one of the things that a mover does.
func (w *world) act(m *podworks.Move, what string) (err error) {
	w.t.Helper()
	ctx := w.t.Context()
	switch what {
	case "claim":
		*m, err = w.dir.Claim(ctx, w.shop, 2, 0)
		return err
	case "incoming":
		return fence.Claim(ctx, w.target, w.shop, m.Token)
	case "copy": // ferry's own would need a mover
		products, err := rows(ctx, w.source, "products", w.shop)
		if err != nil {
			return err
		}
		for id := range products {
			w.exec(w.target, `INSERT INTO products VALUES (?, ?, 'copied', 1, 1)`, int64(w.shop), id)
		}
		w.exec(w.target, `INSERT INTO podworks_ferry_tail VALUES (?, 'binlog.000001:4')`, int64(w.shop))
		return nil
	case "note":
		return w.dir.Note(ctx, m.Token)
	case "close":
		return fence.Close(ctx, w.source, fence.Closing{From: m.From, To: 2, Token: m.Token, Budget: 5 * time.Second},
			func(context.Context, *sql.Conn) error { return nil })
	case "decide":
		_, err := w.dir.Decide(ctx, m.Token)
		return err
	case "open":
		return fence.Release(ctx, w.target, w.shop, 2, m.Token)
	case "failover":
		w.exec(w.master, `UPDATE podworks_pods SET epoch = epoch + 1 WHERE pod_id = 2`)
		return nil
	case "lose the copy": // in a failover of the target
		w.exec(w.target, `DELETE FROM podworks_fence WHERE shop_id = ?`, int64(w.shop))
		w.exec(w.target, `DELETE FROM products WHERE shop_id = ? AND id > 5`, int64(w.shop))
		return nil
	case "lose the close": // in a failover of the source
		w.exec(w.source, `UPDATE podworks_fence SET state = 'open', destination = 0, token = 0 WHERE shop_id = ?`, int64(w.shop))
		return nil
	case "lose the decision": // in a failover of the master
		w.exec(w.master, `UPDATE podworks_moves SET state = 'running', verified_token = 0 WHERE active = ?`, int64(w.shop))
		w.exec(w.master, `UPDATE podworks_shops SET pod_id = 1, epoch = 1 WHERE shop_id = ?`, int64(w.shop))
		return nil
	case "abort":
		return w.dir.Abort(ctx, m.Token)
	case "reopen":
		return fence.Reopen(ctx, w.source, m.From, m.Token)
	case "tombstone":
		return fence.Tombstone(ctx, w.target, w.shop, m.Token)
	}
	panic(what)
}

func TestCleanDeletesTheShopsRowsAndNoOthers(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 2500) // more than go at once
		w.fill(w.other, 30)
		w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL), (8, 1, 'a', NULL)`)
		w.exec(w.source, `INSERT INTO countries VALUES ('DE', 'Deutschland')`)

		_, err := w.ferry.Clean(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrRefused, "clean shop 7 from pod 1", "the shop has not moved away from it")
		_, err = w.ferry.Clean(t.Context(), 999, 1)
		contains(t, err, ferry.ErrRefused, "has not moved away")
		_, err = w.ferry.Clean(t.Context(), w.shop, 9)
		contains(t, err, nil, "pod 9 is unknown to this ferry")
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		_, err = w.ferry.Clean(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "clean shop 7 from pod 2", "the shop has not moved away from it")

		if n, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil || n != 2501 {
			t.Fatalf("got %d rows cleaned, %v; want 2501", n, err)
		}
		if n := w.rowsOf(w.source, w.shop); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if n := w.rowsOf(w.source, w.other); n != 31 {
			t.Errorf("the other shop has %d rows, want its 31", n)
		}
		if n := w.count(w.source, `SELECT COUNT(*) FROM countries`); n != 1 {
			t.Errorf("an ignored table has %d rows, want its one", n)
		}
		if n, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil || n != 0 {
			t.Errorf("cleaned again: got %d rows, %v; want none", n, err)
		}

		if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
			t.Fatal(err)
		}
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil {
			t.Fatal(err)
		}
		if want := (podworks.Route{Shop: w.shop, Pod: 1, Region: "here", Epoch: 3}); report.Route != want {
			t.Errorf("got route %+v back, want %+v", report.Route, want)
		}
		if err := sell(t.Context(), w.source, w.shop, 3, 10); err != nil {
			t.Errorf("a write after the way back: %v", err)
		}
		if n := w.count(w.source, `SELECT stock FROM products WHERE shop_id = 7 AND id = 10`); n != 17 {
			t.Errorf("got a stock of %d, want 15 and the two that were sold", n)
		}
		if _, err := w.ferry.Clean(t.Context(), w.shop, 2); err != nil {
			t.Errorf("clean the other side: %v", err)
		}
	})
}

// TestAFrozenPodHoldsUpNoOthersRecovery: while one pod hangs, Run settles the
// moves between others, and so does a queue's, which asks the source of a job's move
// whether it was closed.
func TestAFrozenPodHoldsUpNoOthersRecovery(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, queued := range []bool{false, true} {
			t.Run(fmt.Sprintf("queued %t", queued), func(t *testing.T) {
				t.Parallel()
				frozenPod(t, f, queued)
			})
		}
	})
}

func frozenPod(t *testing.T, f testcluster.Family, queued bool) {
	sound := testcluster.Shared(t, f, "source")
	frozen := testcluster.Start(t, &testcluster.MySQLOptions{Family: f})
	w := newWorldOn(t, sound, frozen, "", nil)
	w.pods[3] = sound.Config(testcluster.Database(t, sound))
	if err := w.dir.AddPod(t.Context(), 3, "here"); err != nil {
		t.Fatal(err)
	}
	fy, err := ferry.New(w.dir, w.pods, &ferry.Options{Lease: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := fy.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	run := fy.Run
	shop, to := w.shop, podworks.PodID(2)
	if queued {
		shop, to = 300, 1
		if _, err := w.dir.AddShop(t.Context(), shop, 2); err != nil {
			t.Fatal(err)
		}
		q, err := ferry.NewQueue(fy, w.master, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Add(t.Context(), shop, to); err != nil {
			t.Fatal(err)
		}
		run = q.Run
	}
	stuck, err := w.dir.Claim(t.Context(), shop, to, 0) // the first that Run finds
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.dir.Claim(t.Context(), w.other, 3, 0); err != nil {
		t.Fatal(err)
	}
	if err := frozen.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { frozen.Resume() })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for {
		moves, err := w.dir.Moves(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(moves) == 1 && moves[0].Token == stuck.Token {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("after 10 s the journal has %+v, want only move %d", moves, stuck.Token)
		}
		<-tick.C
	}
	t.Logf("settled after %v", time.Since(start))
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want the context's cause", err)
	}
}
