package ferry_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// Clean waits for replicas after each transaction, tells how far it is, and goes on
// when it is called again.
func TestCleanRestsAndGoesOnLater(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var last ferry.Progress
		var asked []podworks.PodID
		late := errors.New("the replica is late")
		opts := &ferry.Options{Ignore: []string{"countries"}, Progress: func(p ferry.Progress) { last = p }}
		w := newWorld(t, f, "", opts)
		w.fill(w.shop, 4500)
		w.fill(w.other, 20)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		opts.Replicated = func(_ context.Context, pod podworks.PodID) error {
			if asked = append(asked, pod); len(asked) == 1 {
				return late
			}
			return nil
		}
		w.ferry = w.newFerry(opts)
		n, err := w.ferry.Clean(t.Context(), w.shop, 1)
		contains(t, err, late, "clean shop 7 from pod 1", "wait for the replicas of pod 1")
		left := w.count(w.source, `SELECT COUNT(*) FROM products WHERE shop_id = 7`)
		if n == 0 || left == 0 || n+left != 4500 {
			t.Errorf("%d rows deleted and %d left, want some of 4500", n, left)
		}
		if last.Step != "clean" || last.Table != "products" || last.RowsDeleted != n || last.Shop != w.shop {
			t.Errorf("told %+v, want the %d products deleted", last, n)
		}
		if n, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil || n != left {
			t.Errorf("got %d, %v; want the other %d", n, err, left)
		}
		if len(asked) < 3 || slices.ContainsFunc(asked, func(p podworks.PodID) bool { return p != 1 }) {
			t.Errorf("asked for the replicas of %v, want pod 1 after each transaction", asked)
		}
		if n := w.rowsOf(w.source, w.other); n != 20 {
			t.Errorf("the other shop has %d rows, want its 20", n)
		}
		w.at(2, 2)
	})
}

// The rows of an undone way back are clean-up's as well.
func TestCleanAfterAWayBackThatWasKept(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		end, ended := w.keep()
		end()
		<-ended
		n, err := w.ferry.Clean(t.Context(), w.shop, 1)
		if err != nil || n != 303 {
			t.Errorf("got %d rows deleted, %v; want 303", n, err)
		}
		if n := w.rowsOf(w.source, w.shop); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil || report.RowsCopied != 303 {
			t.Errorf("got %+v, %v; want a new copy", report, err)
		}
		w.at(1, 3)
	})
}

// A directory that has the shop in the pod to be cleaned, or in one that doesn't have
// it, was restored from a backup: these rows may be the only ones.
func TestCleanRefusesUnlessAnotherPodHasTheShop(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, without := range []bool{false, true} {
			w := there(t, f, nil)
			ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Elsewhere: without}})
			if !without {
				w.exec(w.target, `UPDATE podworks_fence SET epoch = 9 WHERE shop_id = 7`)
				_, err := w.ferry.Clean(ctx, w.shop, 1)
				contains(t, err, ferry.ErrRefused, "the directory has it in pod 2 at epoch 2, and the fence there says shop 7: open, epoch 9")
			}
			w.exec(w.master, `UPDATE podworks_shops SET pod_id = 1, epoch = 1 WHERE shop_id = 7`)
			_, err := w.ferry.Clean(ctx, w.shop, 1)
			if !without {
				contains(t, err, ferry.ErrRefused, "the directory has the shop there")
			}
			if gone := w.count(w.source, `SELECT COUNT(*) FROM products WHERE shop_id = 7`) == 0; gone != without {
				t.Errorf("without the look: %v; the rows are gone: %v", without, gone)
			}
		}
	})
}

// Who reads the log tells a clean-up from deletes of the application's.
func TestACleanUpIsMarkedInTheLog(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		token := uint64(w.count(w.source, `SELECT token FROM podworks_fence WHERE shop_id = 7`))
		stream, err := binlog.New(w.pods[1], &binlog.Options{Tables: func(db, table string) bool {
			return db == w.pods[1].DBName && (table == "products" || table == "orders")
		}})
		w.must(err)
		from, err := stream.Now(t.Context())
		w.must(err)
		n, err := w.ferry.Clean(t.Context(), w.shop, 1)
		w.must(err)
		w.exec(w.source, `DELETE FROM products WHERE shop_id = 8 AND id = 1`) // the application's
		done := errors.New("done")
		var marked int64
		err = stream.Run(t.Context(), from, func(ev binlog.Event) error {
			e, ok := ev.(*binlog.Rows)
			switch {
			case !ok:
			case e.Origin == (binlog.Origin{}):
				return done
			case e.Origin != binlog.Origin{Shop: w.shop, Token: token} || e.Kind != binlog.Delete:
				t.Errorf("a %v of table %s has origin %+v, want deletes of shop 7 and token %d", e.Kind, e.Table.Name, e.Origin, token)
			default:
				marked += int64(len(e.Changes))
			}
			return nil
		})
		if !errors.Is(err, done) || marked != n || n != 303 {
			t.Errorf("%d rows were deleted, %d of them marked in the log (%v); want 303 and the application's after them", n, marked, err)
		}
	})
}
