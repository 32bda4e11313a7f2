package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// there has the shop moved to pod 2, and trade there.
func there(t *testing.T, f testcluster.Family, opts *ferry.Options) *world {
	t.Helper()
	w := newWorld(t, f, "", opts)
	w.fill(w.shop, 300)
	w.fill(w.other, 20)
	w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', 'first'), (7, 2, 'b', NULL), (7, 3, 'c', NULL), (8, 1, 'a', NULL)`)
	if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
		t.Fatal(err)
	}
	w.exec(w.target, `UPDATE orders SET token = CASE id WHEN 1 THEN 'x' WHEN 2 THEN 'a' ELSE token END WHERE shop_id = 7 AND id < 3 ORDER BY id`) // a value changes hands
	w.exec(w.target, `DELETE FROM orders WHERE shop_id = 7 AND id = 3`)
	w.exec(w.target, `INSERT INTO orders VALUES (7, 4, 'c', 'at pod 2')`)
	w.exec(w.target, `UPDATE products SET id = 5000 WHERE shop_id = 7 AND id = 20`)
	if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
		t.Fatal(err)
	}
	return w
}

// at fails the test unless the shop trades in that pod alone, at that epoch.
func (w *world) at(pod podworks.PodID, epoch podworks.Epoch) {
	w.t.Helper()
	route, err := w.dir.Fresh(w.t.Context(), w.shop)
	if err != nil || route.Pod != pod || route.Epoch != epoch {
		w.t.Errorf("the directory has %+v (%v), want pod %d at epoch %d", route, err, pod, epoch)
	}
	one, two := sell(w.t.Context(), w.source, w.shop, epoch, 1), sell(w.t.Context(), w.target, w.shop, epoch, 1)
	if (one == nil) != (pod == 1) || (two == nil) != (pod == 2) {
		w.t.Errorf("a write in pod 1: %v; in pod 2: %v; want it in pod %d alone", one, two, pod)
	}
}

func TestTheWayBackTakesTheRowsThatTheShopLeft(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		for range 2 { // and there again, the same way
			report, err := w.ferry.Move(t.Context(), w.shop, 1)
			if err != nil {
				t.Fatal(err)
			}
			if report.RowsCopied != 0 || report.RowsRepaired != 0 || report.RowChanges == 0 || !report.Evidence.Switch.Equal() {
				t.Errorf("got %+v, want no row copied or repaired, and the changes since from the log", *report)
			}
			w.same("products")
			w.same("orders")
			w.at(1, report.Route.Epoch)
			if report, err = w.ferry.Move(t.Context(), w.shop, 2); err != nil {
				t.Fatal(err)
			}
			if report.RowsCopied != 0 {
				t.Errorf("%d rows were copied on the way there again, want none", report.RowsCopied)
			}
			w.same("products")
			w.at(2, report.Route.Epoch)
		}
		if n := w.rowsOf(w.source, w.other); n != 21 {
			t.Errorf("the other shop has %d rows, want its 21", n)
		}
	})
}

// A way back that fails leaves everything as good as it was, so that it can be tried
// again; also when its mover died.
func TestAWayBackThatFailsStaysOpen(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		for _, step := range []string{"incoming", "apply", "copy", "verify", "look"} {
			ctx, cancel := context.WithCancel(t.Context())
			tr := &trail{at: map[string]func(){step: cancel}}
			_, err := w.ferry.Move(tr.follow(ctx), w.shop, 1)
			contains(t, err, context.Canceled, "undone, the shop stays in pod 2")
			if n := w.count(w.source, `SELECT COUNT(*) FROM products WHERE shop_id = 7`); n != 300 {
				t.Errorf("%d products are left in pod 1 of 300", n)
			}
			w.at(2, 2)
		}
		mv, err := w.dir.Claim(t.Context(), w.shop, 1, 0) // and dies
		if err != nil {
			t.Fatal(err)
		}
		if err := fence.Claim(t.Context(), w.source, w.shop, mv.Token); err != nil {
			t.Fatal(err)
		}
		if _, err := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Nanosecond}).Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.at(2, 2)
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil || report.RowsCopied != 0 || report.RowsRepaired != 0 {
			t.Errorf("got %+v, %v; want a move back without a copy", report, err)
		}
		w.same("products")
		w.same("orders")
		w.at(1, 3)
	})
}

// With a place in the log that was asked for after the opening, what was written
// before that is lost. The comparison, which would find it, is off.
func TestThePlaceOfTheWayBackIsFromBeforeTheOpening(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, late := range []bool{false, true} {
			w := newWorld(t, f, "", nil)
			w.fill(w.shop, 50)
			unseen := &hook.Set{Off: map[hook.Protection]bool{hook.Compare: true}}
			ctx := hook.With(t.Context(), &hook.Set{Off: unseen.Off, Step: func(step string) {
				if step != "opened" {
					return
				}
				if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
					t.Error(err)
				}
				if late {
					stream, err := binlog.New(w.pods[2], nil)
					w.must(err)
					now, err := stream.Now(t.Context())
					w.must(err)
					w.exec(w.source, `UPDATE podworks_ferry_left SET there = ?`, now.String())
				}
			}})
			if _, err := w.ferry.Move(ctx, w.shop, 2); err != nil {
				t.Fatal(err)
			}
			if _, err := w.ferry.Move(hook.With(t.Context(), unseen), w.shop, 1); err != nil {
				t.Fatal(err)
			}
			got, want := w.count(w.source, `SELECT stock FROM products WHERE shop_id = 7 AND id = 10`), int64(16)
			if lost := got != want; lost != late {
				t.Errorf("asked for after the opening: %v; got a stock of %d, of %d", late, got, want)
			}
		}
	})
}

// The rows were as they are left before the schema changed, and the log has both kinds
// of rows.
func TestASchemaChangeEndsTheWayBack(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		for _, db := range []*sql.DB{w.source, w.target} {
			w.exec(db, `ALTER TABLE orders ADD COLUMN paid TINYINT NOT NULL DEFAULT 0`)
		}
		for range 2 {
			_, err := w.ferry.Move(t.Context(), w.shop, 1)
			contains(t, err, nil, "undone, the shop stays in pod 2", "Clean them, and a move makes a new copy")
			contains(t, w.ferry.Keep(t.Context(), w.shop, 1), nil, "keep the way back", "Clean them, and a move makes a new copy")
		}
		if _, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil {
			t.Fatal(err)
		}
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil || report.RowsCopied != 303 {
			t.Errorf("got %+v, %v; want a new copy of 303 rows", report, err)
		}
		w.same("orders")
		w.at(1, 3)
	})
}

// What was left is good for the way back only, and only while it is whole.
func TestWhatTheShopLeftIsNotGoneOnWithFromElsewhere(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &patient)
		w.fill(w.shop, 30)
		w.addPod(3)
		for _, to := range []podworks.PodID{2, 3} {
			if _, err := w.ferry.Move(t.Context(), w.shop, to); err != nil {
				t.Fatal(err)
			}
		}
		_, err := w.ferry.Move(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrRefused, "pod 1, table products: 30 rows of shop 7 are there already", "Clean removes them")
		// Without rows there is nothing to refuse; the line of the way to pod 2 is stale.
		w.exec(w.source, `DELETE FROM products WHERE shop_id = 7`)
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil || report.RowsCopied != 30 {
			t.Errorf("got %+v, %v; want all 30 rows copied", report, err)
		}

		w = there(t, f, nil)
		ctx, cancel := context.WithCancel(t.Context())
		tr := &trail{at: map[string]func(){"clean.delete": cancel}}
		_, err = w.ferry.Clean(tr.follow(ctx), w.shop, 1)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("the clean-up that was ended returned %v", err)
		}
		w.exec(w.source, `DELETE FROM podworks_ferry_left`) // its first transaction
		w.exec(w.source, `DELETE FROM products WHERE shop_id = 7 AND id < 100`)
		_, err = w.ferry.Move(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrRefused, "rows of shop 7 are there already", "Clean removes them")
	})
}

// Clean comes between the plan, which found the rows that the shop left, and the claim.
func TestAWayBackWhoseRowsAreCleanedMeanwhileIsUndone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		tr := &trail{at: map[string]func(){"claim": func() {
			if _, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil {
				t.Error(err)
			}
		}}}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 1)
		contains(t, err, nil, "cleaned meanwhile", "undone, the shop stays in pod 2")
		w.at(2, 2)
		if n := w.rowsOf(w.source, w.shop); n != 0 {
			t.Errorf("%d rows of the shop are left in pod 1", n)
		}
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil || report.RowsCopied != 303 {
			t.Errorf("got %+v, %v; want a new copy of 303 rows", report, err)
		}
		w.same("products")
		w.same("orders")
		w.at(1, 3)
	})
}
