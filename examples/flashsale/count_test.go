package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

// aSale returns the outcome of a sale in which nothing went wrong: shop 1 has
// moved from pod 1 to pod 2 and left its rows behind, shop 2 stayed in pod 2.
func aSale() *outcome {
	s := settings{Family: "mariadb", Shops: 2, Seed: 1, Rate: 1, Duration: time.Minute, History: 5}
	o := &outcome{
		plan: &plan{Settings: s, Hot: 1, MoveTo: secondPod},
		move: moveNews{Started: 100, Ended: 200, Report: &ferry.Report{Route: podworks.Route{Shop: 1, Pod: secondPod, Epoch: 2}, RowsCopied: 10, RowsVerified: 10}},
		orders: []entry{
			{Shop: 1, ID: 11, Token: "a", At: 50},
			{Shop: 1, ID: 12, Token: "b", At: 150},
			{Shop: 2, ID: 13, Token: "c", At: 150},
		},
		pulses:  []entry{{Shop: 1, ID: 21, At: 150, Wait: 7e6}, {Shop: 1, ID: 0, At: 160, Wait: 9e6}},
		samples: []sample{{kind: checkoutRequest, start: 10, took: 20}, {kind: pageRequest, start: 90, took: 20}},
		holdings: &holdings{
			owners: map[podworks.ShopID]podworks.PodID{1: 2, 2: 2},
			open:   map[podworks.ShopID][]podworks.PodID{1: {2}, 2: {2}},
			orders: []held{
				{pod: 1, shop: 1, id: 11, token: "a", amount: 5}, // left behind
				{pod: 2, shop: 1, id: 11, token: "a", amount: 5},
				{pod: 2, shop: 1, id: 12, token: "b", amount: 6},
				{pod: 2, shop: 2, id: 13, token: "c", amount: 7},
			},
			pulses: []held{{pod: 2, shop: 1, id: 21}},
			payments: []held{
				{pod: 2, shop: 1, id: 11, amount: 5},
				{pod: 2, shop: 1, id: 12, amount: 6},
				{pod: 2, shop: 2, id: 13, amount: 7},
			},
			jobs: []held{{pod: 1, shop: 1, id: 11, amount: 5}}, // left behind
			sold: []stocked{{pod: 1, shop: 1, product: 1, pieces: 1}, {pod: 2, shop: 1, product: 1, pieces: 2}, {pod: 2, shop: 2, product: 3, pieces: 1}},
		},
	}
	sold := map[[2]int64]int64{{1, 1}: 2, {2, 3}: 1}
	for _, sh := range s.shops() {
		o.holdings.history = append(o.holdings.history, stocked{pod: 2, shop: sh.id, pieces: 4 * sh.history})
		for n := int64(1); n <= sh.products; n++ {
			o.holdings.left = append(o.holdings.left, stocked{pod: 2, shop: sh.id, product: n, pieces: s.product(sh.id, n).stock - sold[[2]int64{int64(sh.id), n}]})
		}
	}
	return o
}

func TestAFineSaleHasNoProblem(t *testing.T) {
	t.Parallel()
	r := aSale().report()
	if len(r.Problems) > 0 || r.exitStatus() != exitFine || !r.Verified {
		t.Errorf("problems %q, exit status %d, verified %v; want none, 0, true", r.Problems, r.exitStatus(), r.Verified)
	}
	if r.OrdersAcknowledged != 3 || r.OrdersFoundOnce != 3 || r.OrdersDuringMove != 1 || r.PaymentsCaptured != 3 {
		t.Errorf("acknowledged %d, found once %d, during the move %d, payments %d; want 3, 3, 1 (only the moved shop's), 3",
			r.OrdersAcknowledged, r.OrdersFoundOnce, r.OrdersDuringMove, r.PaymentsCaptured)
	}
	if r.WritesAcknowledged != 1 || r.WritePause != 9 {
		t.Errorf("writes acknowledged %d, write pause %v ms; want 1 and 9: a write that failed has waited too", r.WritesAcknowledged, r.WritePause)
	}
	if r.CheckoutP99 != milliseconds(20) {
		t.Errorf("checkout p99 is %v ms, want that of the one outside of the move", r.CheckoutP99)
	}
}

// Each of these is what the program exists to notice.
func TestEveryKindOfDamageIsNoticed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		damage string
		do     func(*outcome)
		want   string // in the problems
		number func(*Report) int64
	}{
		{"an acknowledged order is gone", func(o *outcome) { o.holdings.orders = slices.Delete(o.holdings.orders, 2, 3) },
			"1 acknowledged orders are missing", func(r *Report) int64 { return int64(r.OrdersLost) }},
		{"it is only where the shop was", func(o *outcome) { o.holdings.orders[2].pod = firstPod },
			"1 acknowledged orders are missing", func(r *Report) int64 { return int64(r.OrdersStranded) }},
		{"its number belongs to another token's order", func(o *outcome) { o.holdings.orders[2].id = 99 },
			"1 acknowledged orders are missing", func(r *Report) int64 { return int64(r.OrdersLost) }},
		{"one press of the button made two orders", func(o *outcome) {
			o.holdings.orders = append(o.holdings.orders, held{pod: 2, shop: 1, id: 14, token: "a"})
		}, "1 acknowledged orders are there more than once", func(r *Report) int64 { return int64(r.OrdersDuplicated) }},
		{"one order is there twice", func(o *outcome) {
			o.holdings.orders = append(o.holdings.orders, o.holdings.orders[3])
		}, "1 acknowledged orders are there more than once", func(r *Report) int64 { return int64(r.OrdersDuplicated) }},
		{"the pod that was left took an order nobody was told of", func(o *outcome) {
			o.holdings.orders = append(o.holdings.orders, held{pod: 1, shop: 1, id: 15, token: "d"})
		}, "1 orders are only in a pod that doesn't own their shop", func(r *Report) int64 { return int64(r.OrdersStranded) }},
		{"an order came from nowhere", func(o *outcome) {
			o.holdings.orders = append(o.holdings.orders, held{pod: 2, shop: 2, id: 16, token: "e", amount: 1})
			o.holdings.payments = append(o.holdings.payments, held{pod: 2, shop: 2, id: 16, amount: 1})
		}, "1 orders are there that nobody placed", func(r *Report) int64 { return int64(r.OrdersUnacknowledged) }},
		{"more was sold than there was", func(o *outcome) {
			o.holdings.sold[1].pieces = dropStock + 3
			o.holdings.left[0].pieces = -3
		}, "3 pieces were sold that there never were", func(r *Report) int64 { return r.OversoldItems / 3 }},
		{"two took the same piece", func(o *outcome) { o.holdings.left[0].pieces++ },
			"1 pieces of stock are unaccounted for", func(r *Report) int64 { return r.StockAdrift }},
		{"an order was never paid", func(o *outcome) { o.holdings.payments = o.holdings.payments[:2] },
			"1 payments don't match", func(r *Report) int64 { return int64(r.PaymentsWrong) }},
		{"a payment has no order", func(o *outcome) {
			o.holdings.payments = append(o.holdings.payments, held{pod: 2, shop: 2, id: 17})
		}, "1 payments don't match", func(r *Report) int64 { return int64(r.PaymentsWrong) }},
		{"a payment has another amount", func(o *outcome) { o.holdings.payments[0].amount++ },
			"1 payments don't match", func(r *Report) int64 { return int64(r.PaymentsWrong) }},
		{"a job was left", func(o *outcome) { o.holdings.jobs[0].pod = secondPod },
			"1 payments don't match", func(r *Report) int64 { return int64(r.PaymentsWrong) }},
		{"a write of the writer is gone", func(o *outcome) { o.holdings.pulses = nil },
			"1 acknowledged writes of the writer", func(r *Report) int64 { return int64(r.WritesLost) }},
		{"the move forgot a row of the past", func(o *outcome) { o.holdings.history[0].pieces-- },
			"1 rows from before the sale", func(r *Report) int64 { return r.HistoryRowsMissing }},
		{"two pods own the shop", func(o *outcome) { o.holdings.open[1] = []podworks.PodID{1, 2} },
			"1 shops are not open in exactly the pod", func(r *Report) int64 { return int64(r.ShopsAstray) }},
		{"the shop is nowhere open", func(o *outcome) { delete(o.holdings.open, 1) },
			"1 shops are not open in exactly the pod", func(r *Report) int64 { return int64(r.ShopsAstray) }},
		{"the move failed", func(o *outcome) { o.moveErr, o.move.Report = errSoldOut, nil },
			"the move failed: sold out", func(*Report) int64 { return 1 }},
		{"nobody bought anything", func(o *outcome) { o.orders, o.holdings.orders, o.holdings.payments = nil, nil, nil },
			"no order was acknowledged", func(*Report) int64 { return 1 }},
	} {
		t.Run(c.damage, func(t *testing.T) {
			t.Parallel()
			o := aSale()
			c.do(o)
			r := o.report()
			if all := strings.Join(r.Problems, "\n"); !strings.Contains(all, c.want) {
				t.Errorf("problems are %q, want %q in them", r.Problems, c.want)
			}
			if n := c.number(r); n != 1 {
				t.Errorf("the report counts %d, want 1", n)
			}
			if r.exitStatus() != exitFailed || r.Verified {
				t.Errorf("exit status %d, verified %v; want %d, false", r.exitStatus(), r.Verified, exitFailed)
			}
			if table := r.table(); !strings.Contains(table, "PROBLEM") {
				t.Errorf("the table doesn't say so:\n%s", table)
			}
		})
	}
}

// A buyer who got no answer has placed an order or not. Either is right.
func TestAnOrderWhoseAnswerWasLostIsNoProblem(t *testing.T) {
	t.Parallel()
	o := aSale()
	o.buyers.Errors = 1
	o.orders = o.orders[1:]
	r := o.report()
	if len(r.Problems) > 0 || r.OrdersUnacknowledged != 1 {
		t.Errorf("problems %q and %d unacknowledged orders, want none and 1", r.Problems, r.OrdersUnacknowledged)
	}
}

func TestTheReportIsOneDocumentWithTheFieldsThatOthersRead(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := aSale().report().print(&out, true); err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(out.String()), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"orders_acknowledged", "orders_during_move", "orders_found_exactly_once", "orders_lost", "orders_duplicated", "oversold_items",
		"http_errors", "write_pause_ms", "rows_copied", "move_seconds", "p50_ms", "p99_ms", "checkout_p99_ms", "p99_during_move_ms", "verified",
		"page_views", "payments_captured", "payments_wrong", "seed", "family", "steps_back",
	} {
		if _, ok := fields[name]; !ok {
			t.Errorf("the document lacks %s", name)
		}
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		of   []time.Duration
		p    int
		want time.Duration
	}{
		{nil, 99, 0}, {hundred[:1], 50, 1}, {hundred[:2], 50, 1}, {hundred[:3], 50, 2}, {hundred, 99, 99}, {hundred, 50, 50}, {hundred[:10], 99, 10},
	} {
		if got := percentile(c.of, c.p); got != c.want {
			t.Errorf("percentile %d of %d durations is %d, want %d", c.p, len(c.of), got, c.want)
		}
	}
}

func TestNumbersHaveTheirThousandsSetApart(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -100: "-100", 1234567: "1,234,567"} {
		if got := number(n); got != want {
			t.Errorf("number(%d) is %q, want %q", n, got, want)
		}
	}
}
