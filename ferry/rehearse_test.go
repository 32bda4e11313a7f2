package ferry_test

import (
	"context"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestARehearsalLeavesNothingAndMakesNobodyWait(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		c := &calls{}
		opts := withStores(c.stores("a"))
		opts.PauseBudget = time.Nanosecond // which a rehearsal only measures
		w := newWorld(t, f, "", opts)
		w.fill(w.shop, 3000)
		w.fill(w.other, 20)
		sold, stop := w.sales(20)
		tr := &trail{at: map[string]func(){}}
		for _, step := range []string{"verify", "rehearse", "recover.delete"} {
			tr.at[step] = func() {
				was := sold()
				until(t, "sales during "+step, func() bool { return sold() > was+2 })
			}
		}
		report, err := w.ferry.Rehearse(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", *report)
		stop()
		for _, step := range []string{"note", "lock", "marker", "close", "decide", "open", "finish"} {
			if tr.passed(step) {
				t.Errorf("the rehearsal passed %q", step)
			}
		}
		if report.RowsCopied != 3000 || report.RowsVerified != 3000 || report.RowsRepaired != 0 || report.RowChanges == 0 {
			t.Errorf("got %d rows copied, %d verified, %d repaired, %d changes; want 3000, 3000, 0 and some", report.RowsCopied, report.RowsVerified, report.RowsRepaired, report.RowChanges)
		}
		if report.Predicted <= 0 || report.Pause != 0 || report.Route.Pod != 1 || report.Route.Epoch != 1 {
			t.Errorf("got a pause of %v, predicted %v, and the route %+v; want none, some, and pod 1 at epoch 1", report.Pause, report.Predicted, report.Route)
		}
		c.want(t, "undo a")
		if state := w.state(report.Token); state != string(podworks.MoveUndone) {
			t.Errorf("the journal says %s, want undone", state)
		}
		w.stays()
		opts.PauseBudget, opts.Stores = 0, nil
		if _, err := w.newFerry(opts).Move(t.Context(), w.shop, 2); err != nil {
			t.Errorf("the move: %v", err)
		}
		w.same("products")
	})
}

func TestARehearsalThatWasKilledIsUndoneOrGoneOnWith(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, tt := range []struct {
			killed string
			move   bool
		}{{"verify", false}, {"rehearse", false}, {"recover.delete", false}, {"rehearse", true}} {
			t.Run("before "+tt.killed, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 60)
				p := w.process(role{Rehearse: true, To: 2, ChunkRows: 7, Stop: tt.killed, Lease: soonDead})
				p.await("before " + tt.killed)
				w.must(p.cmd.Process.Kill())
				_ = p.cmd.Wait()
				w.ferry = w.newFerry(&patient)
				if tt.move {
					if report := w.move(2); report.Route.Pod != 2 || report.RowsCopied != 0 {
						t.Errorf("the move copied %d rows to pod %d, want the rehearsal's gone on with", report.RowsCopied, report.Route.Pod)
					}
					return
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- w.ferry.Run(ctx) }()
				until(t, "the rehearsal to be undone", func() bool {
					moves, err := w.dir.Moves(t.Context())
					return err == nil && len(moves) == 0
				})
				cancel()
				<-ended
				w.stays()
			})
		}
	})
}

// What a plan can't know shows in a rehearsal. The twin compares nothing, and says
// nothing.
func TestARehearsalFindsRowsThatDiffer(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, without := range []bool{false, true} {
			w := newWorld(t, f, "", nil)
			w.fill(w.shop, 50)
			ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Compare: without}, Step: func(step string) {
				if step == "copy" {
					w.addOddTrigger()
				}
			}})
			_, err := w.ferry.Rehearse(ctx, w.shop, 2)
			if without {
				if err != nil {
					t.Errorf("without the comparison: %v", err)
				}
			} else {
				contains(t, err, ferry.ErrDiffers, "rehearse the move of shop 7 to pod 2", "undone, the shop stays in pod 1", "table products: differs in name")
			}
			w.stays()
		}
	})
}

func TestARehearsalIsRefusedAsItsMoveIs(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.exec(w.target, `INSERT INTO products VALUES (7, 1, 'left', 1, 1)`)
		_, err := w.ferry.Rehearse(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "1 rows of shop 7 are there already")
		_, err = w.ferry.Rehearse(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrRefused, "the shop is in pod 1 already")
	})
}
