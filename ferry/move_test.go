package ferry_test

import (
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMoveTakesTheShopAndNothingElse(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 4500)
		w.fill(w.other, 100)
		report, err := w.ferry.Move(t.Context(), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", *report)
		want := podworks.Route{Shop: w.shop, Pod: 2, Region: "here", Epoch: 2}
		if report.Route != want {
			t.Errorf("got route %+v, want %+v", report.Route, want)
		}
		if got, err := w.dir.Fresh(t.Context(), w.shop); err != nil || got != want {
			t.Errorf("the directory has %+v, %v; want %+v", got, err, want)
		}
		if report.RowsCopied != 4500 || report.RowsVerified != 4500 || report.RowsRepaired != 0 {
			t.Errorf("got %d rows copied, %d verified, %d repaired; want 4500, 4500, 0", report.RowsCopied, report.RowsVerified, report.RowsRepaired)
		}
		w.same("products")
		if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id <> ?`, int64(w.shop)); n != 0 {
			t.Errorf("%d rows of other shops came along", n)
		}
		src, _ := fence.Read(t.Context(), w.source, w.shop, "")
		dst, _ := fence.Read(t.Context(), w.target, w.shop, "")
		if src.State != fence.Moved || src.Destination != 2 || dst.State != fence.Open || dst.Epoch != 2 {
			t.Errorf("got fences %v and %v, want moved and open at epoch 2", src, dst)
		}
		if moves, err := w.dir.Moves(t.Context()); err != nil || len(moves) != 0 {
			t.Errorf("the journal has %v, %v; want nothing unfinished", moves, err)
		}
	})
}
