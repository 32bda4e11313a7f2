package ferry_test

import (
	"database/sql"
	"errors"
	"maps"
	"os"
	"strings"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
)

// An orphan is a move whose mover was killed before a step, and whatever act did
// to it then. It brings a recoverer to a step of its own, and the shop to a pod.
type orphan struct {
	step   string
	killed string
	then   string
	pod    podworks.PodID
}

func (o orphan) String() string {
	if o.then != "" {
		return o.killed + ", " + o.then
	}
	return o.killed
}

var orphans = []orphan{
	{step: "incoming", killed: "open", then: "lose the copy", pod: 2}, // of the copy that a recoverer makes
	{step: "apply", killed: "open", then: "lose the copy", pod: 2},
	{step: "recover.read", killed: "decide", pod: 2},
	{step: "recover.decide", killed: "decide", pod: 2},
	{step: "recover.decide", killed: "finish", then: "lose the decision", pod: 2},
	{step: "recover.abort", killed: "lock", pod: 1},
	{step: "recover.abort", killed: "decide", then: "failover", pod: 1},
	{step: "recover.reopen", killed: "decide", then: "failover", pod: 1},
	{step: "recover.tombstone", killed: "lock", pod: 1},
	{step: "recover.delete", killed: "lock", pod: 1},
	{step: "recover.close", killed: "open", then: "lose the close", pod: 2},
	{step: "recover.claim", killed: "open", then: "lose the copy", pod: 2},
	{step: "recover.verified", killed: "open", then: "lose the copy", pod: 2},
	{step: "recover.open", killed: "open", pod: 2},
	{step: "recover.finish", killed: "lock", pod: 1},
	{step: "recover.finish", killed: "finish", pod: 2},
}

// makeOrphan has a mover killed, when the writer has ended: who fails a pod over
// lets nobody write there who came with an earlier route.
func (w *world) makeOrphan(o *orphan, writer *process) {
	w.t.Helper()
	mover := w.process(role{To: 2, ChunkRows: 7, Stop: o.killed, Lease: soonDead})
	mover.await("before " + o.killed)
	w.must(writer.end())
	w.must(mover.cmd.Process.Kill())
	_ = mover.cmd.Wait()
	if o.then != "" {
		w.must(w.act(nil, o.then))
	}
}

// leftovers are what was there when the shop had moved away from the source, and
// its rows were still to be deleted.
type leftovers struct {
	products map[string]string            // the shop's
	others   map[string]map[string]string // another shop's, by table
}

// leftBehind moves the shop.
func (w *world) leftBehind() *leftovers {
	w.t.Helper()
	_, err := w.ferry.Move(w.t.Context(), w.shop, 2)
	w.must(err)
	left := &leftovers{others: map[string]map[string]string{}}
	left.products = w.rowsIn(w.source, "products", w.shop)
	for _, table := range []string{"products", "orders"} {
		left.others[table] = w.rowsIn(w.source, table, w.other)
	}
	return left
}

func (w *world) rowsIn(db *sql.DB, table string, shop podworks.ShopID) map[string]string {
	w.t.Helper()
	found, err := rows(w.t.Context(), db, table, shop)
	w.must(err)
	return found
}

// judge compares the ledger with the owner's rows, and both pods' with each other,
// or with what was left before a clean-up.
func (w *world) judge(ledger string, left *leftovers) podworks.PodID {
	t, ctx := w.t, w.t.Context()
	route, err := w.dir.Fresh(ctx, w.shop)
	if err != nil {
		t.Fatal(err)
	}
	dbs := []*sql.DB{w.source, w.target}
	for i, db := range dbs {
		row, err := fence.Read(ctx, db, w.shop, "")
		if open := row.State == fence.Open; err != nil || open != (podworks.PodID(i+1) == route.Pod) || open && row.Epoch != route.Epoch {
			t.Errorf("pod %d: %v (%v); the directory says %+v", i+1, row, err, route)
		}
	}
	orders, err := rows(ctx, dbs[route.Pod-1], "orders", w.shop)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	tried, acked, lost := map[string]bool{}, 0, 0
	for line := range strings.Lines(string(text)) {
		what, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "try":
			tried[id] = true
		case "ack":
			acked++
			if _, ok := orders[id]; !ok {
				lost++
			}
		}
	}
	for id := range orders {
		if !tried[id] {
			t.Errorf("order %s is there, and nobody wrote it", id)
		}
	}
	if lost > 0 || acked == 0 {
		t.Errorf("%d of %d acknowledged orders are lost", lost, acked)
	}
	if route.Pod == 1 {
		if n := w.rowsOf(w.target, w.shop); n != 0 {
			t.Errorf("%d rows are left on the target", n)
		}
		return route.Pod
	}
	if left != nil {
		if n := w.rowsOf(w.source, w.shop); n != 0 {
			t.Errorf("the clean-up left %d rows", n)
		}
		for table, want := range left.others {
			if got := w.rowsIn(w.source, table, w.other); len(want) == 0 || !maps.Equal(got, want) {
				t.Errorf("after the clean-up another shop has the %s %v, want %v", table, got, want)
			}
		}
		got := w.rowsIn(w.target, "products", w.shop)
		delete(got, "1") // what writable sold
		delete(left.products, "1")
		if len(got) != 59 || !maps.Equal(got, left.products) {
			t.Errorf("after the clean-up the target has the products %v, want %v", got, left.products)
		}
		return route.Pod
	}
	// An order's note is the epoch that it was written at.
	before := `SELECT COALESCE(GROUP_CONCAT(id ORDER BY id), '') FROM orders WHERE shop_id = ? AND note = '1'`
	var a, b string
	if err := errors.Join(w.source.QueryRowContext(ctx, before, int64(w.shop)).Scan(&a), w.target.QueryRowContext(ctx, before, int64(w.shop)).Scan(&b)); err != nil || a != b {
		t.Errorf("of before the switch the source has orders %s, the target %s (%v)", a, b, err)
	}
	if n := w.count(w.source, `SELECT COUNT(*) FROM orders WHERE shop_id = ? AND note <> '1'`, int64(w.shop)); n != 0 {
		t.Errorf("%d orders were written to the source after the switch", n)
	}
	w.exec(w.target, `UPDATE products SET stock = (SELECT 6) WHERE shop_id = ? AND id = 1`, int64(w.shop)) // what writable sold
	w.exec(w.source, `UPDATE products SET stock = (SELECT 6) WHERE shop_id = ? AND id = 1`, int64(w.shop))
	w.same("products")
	return route.Pod
}

// bringBack brings the shop back if the fault has kept it from it, and judges. It
// returns where the fault had left the shop.
func (w *world) bringBack(ledger string) podworks.PodID {
	ctx := w.t.Context()
	route, err := w.dir.Fresh(ctx, w.shop)
	w.must(err)
	if route.Pod == 2 {
		report, err := w.ferry.Move(ctx, w.shop, 1)
		if err != nil || report.RowsCopied != 0 || report.RowsRepaired != 0 {
			w.t.Errorf("the next way back: got %+v, %v; want no row copied or repaired", report, err)
		}
		w.same("products") // writable has sold nothing since
	}
	_, err = w.ferry.Clean(ctx, w.shop, 2)
	w.must(err)
	w.judge(ledger, nil)
	return route.Pod
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
