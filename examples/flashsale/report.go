package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A Report is what a sale came to. Times in milliseconds are as its reader wants
// them in JSON.
type Report struct {
	Family   string  `json:"family"`
	Server   string  `json:"server"`
	Shops    int     `json:"shops"`
	Seed     uint64  `json:"seed"`
	Rate     float64 `json:"buyers_per_second"`
	Duration float64 `json:"sale_seconds"`

	Buyers      int64 `json:"buyers"`
	TurnedAway  int64 `json:"buyers_turned_away"`
	PageViews   int64 `json:"page_views"`
	SoldOut     int64 `json:"sold_out_answers"`
	CartsEmpty  int64 `json:"carts_found_empty"`
	HTTPErrors  int64 `json:"http_errors"`
	WriteErrors int64 `json:"write_errors"`

	OrdersAcknowledged   int   `json:"orders_acknowledged"`
	OrdersDuringMove     int   `json:"orders_during_move"` // of the shop that moved
	OrdersFoundOnce      int   `json:"orders_found_exactly_once"`
	OrdersLost           int   `json:"orders_lost"`
	OrdersDuplicated     int   `json:"orders_duplicated"`
	OrdersStranded       int   `json:"orders_stranded"`
	OrdersUnacknowledged int   `json:"orders_unacknowledged"`
	OversoldItems        int64 `json:"oversold_items"`
	StockAdrift          int64 `json:"stock_adrift"`
	PaymentsCaptured     int   `json:"payments_captured"`
	PaymentsWrong        int   `json:"payments_wrong"`
	WritesAcknowledged   int   `json:"writes_acknowledged"`
	WritesLost           int   `json:"writes_lost"`
	HistoryRowsMissing   int64 `json:"history_rows_missing"`
	ShopsAstray          int   `json:"shops_astray"`

	Moved        bool    `json:"moved"`
	MoveSeconds  float64 `json:"move_seconds"`
	RowsCopied   int64   `json:"rows_copied"`
	RowChanges   int64   `json:"row_changes_applied"`
	RowsVerified int64   `json:"rows_verified"`
	RowsRepaired int64   `json:"rows_repaired"`
	StepsBack    int     `json:"steps_back"`
	MoverPause   float64 `json:"mover_pause_ms"`
	WritePause   float64 `json:"write_pause_ms"`
	LongestWait  float64 `json:"longest_write_wait_outside_move_ms"`

	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	P99Move     float64 `json:"p99_during_move_ms"`
	CheckoutP50 float64 `json:"checkout_p50_ms"` // outside the move
	CheckoutP99 float64 `json:"checkout_p99_ms"` // outside the move

	// Verified: the move compared all rows both ways before it switched, and the
	// count over all pods found nothing wrong.
	Verified bool     `json:"verified"`
	Problems []string `json:"problems"`

	Errors  []string `json:"errors,omitempty"`  // the first that buyers and the writer saw
	Connect []string `json:"connect,omitempty"` // to the servers that were kept

	logs []string // of the processes
}

// outcome is all that a report is made of.
type outcome struct {
	plan     *plan
	buyers   buyersNews
	writer   writerNews
	move     moveNews
	moveErr  error
	logs     []string // what processes said on stderr
	orders   []entry
	pulses   []entry
	samples  []sample
	holdings *holdings
}

// report counts.
func (o *outcome) report() *Report {
	s := o.plan.Settings
	h := o.holdings
	orders := tally(h.owners, o.orders, h.orders)
	writes := tally(h.owners, o.pulses, h.pulses)
	r := &Report{
		Family: string(s.Family), Server: o.plan.Servers.Version, Shops: s.Shops, Seed: s.Seed, Rate: s.Rate, Duration: s.Duration.Seconds(),

		Buyers: o.buyers.Came, TurnedAway: o.buyers.TurnedAway, PageViews: o.buyers.Pages, SoldOut: o.buyers.SoldOut,
		CartsEmpty: o.buyers.CartsGone, HTTPErrors: o.buyers.Errors, WriteErrors: o.writer.Failed,

		OrdersAcknowledged: orders.acknowledged, OrdersFoundOnce: orders.once, OrdersLost: orders.lost, OrdersDuplicated: orders.duplicated,
		OrdersStranded: orders.stranded, OrdersUnacknowledged: orders.unasked,
		WritesAcknowledged: writes.acknowledged, WritesLost: writes.lost + writes.duplicated + writes.stranded,
		HistoryRowsMissing: h.forgotten(s), ShopsAstray: h.astray(),

		Errors: slices.Clone(o.buyers.Failures), logs: o.logs,
	}
	if o.writer.Failure != "" {
		r.Errors = append(r.Errors, "writer: "+o.writer.Failure)
	}
	r.OversoldItems, r.StockAdrift = h.stock(s)
	r.PaymentsCaptured, r.PaymentsWrong = h.paid()

	m := o.move
	during := func(from, to int64) bool { return from <= m.Ended && to >= m.Started }
	for _, e := range o.orders {
		if e.Shop == int64(o.plan.Hot) && during(e.At, e.At) {
			r.OrdersDuringMove++
		}
	}
	for _, e := range o.pulses {
		wait := milliseconds(time.Duration(e.Wait))
		if during(e.At-e.Wait, e.At) {
			r.WritePause = max(r.WritePause, wait)
		} else {
			r.LongestWait = max(r.LongestWait, wait)
		}
	}
	inMove := func(s sample) bool { return during(s.start, s.start+int64(s.took)) }
	calmCheckout := func(s sample) bool { return s.kind == checkoutRequest && !inMove(s) }
	all := durations(o.samples, func(sample) bool { return true })
	r.P50, r.P99 = milliseconds(percentile(all, 50)), milliseconds(percentile(all, 99))
	r.P99Move = milliseconds(percentile(durations(o.samples, inMove), 99))
	calm := durations(o.samples, calmCheckout)
	r.CheckoutP50, r.CheckoutP99 = milliseconds(percentile(calm, 50)), milliseconds(percentile(calm, 99))

	r.MoveSeconds = time.Duration(m.Ended - m.Started).Seconds()
	if m.Report != nil {
		r.Moved = o.moveErr == nil && m.Report.Route.Pod == o.plan.MoveTo && h.owners[o.plan.Hot] == o.plan.MoveTo
		r.RowsCopied, r.RowChanges = m.Report.RowsCopied, m.Report.RowChanges
		r.RowsVerified, r.RowsRepaired = m.Report.RowsVerified, m.Report.RowsRepaired
		r.StepsBack, r.MoverPause = m.Report.StepsBack, milliseconds(m.Report.Pause)
	}
	r.Problems = r.problems(o.moveErr)
	r.Verified = len(r.Problems) == 0 && r.RowsVerified >= r.RowsCopied
	return r
}

// problems says what must not have happened, and did.
func (r *Report) problems(moveErr error) []string {
	out := []string{}
	found := func(n int64, what string) {
		if n != 0 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	switch {
	case moveErr != nil:
		out = append(out, "the move failed: "+moveErr.Error())
	case !r.Moved:
		out = append(out, "the shop is not where it was moved to")
	}
	if r.OrdersAcknowledged == 0 {
		out = append(out, "no order was acknowledged, so nothing was shown")
	}
	found(int64(r.OrdersLost), "acknowledged orders are missing")
	found(int64(r.OrdersDuplicated), "acknowledged orders are there more than once")
	found(int64(r.OrdersStranded), "orders are only in a pod that doesn't own their shop: two pods took writes at a time")
	// An answer that got lost leaves an order that nobody was told of, and each
	// of those is an error that a buyer saw.
	found(max(0, int64(r.OrdersUnacknowledged)-r.HTTPErrors), "orders are there that nobody placed")
	found(r.OversoldItems, "pieces were sold that there never were")
	found(r.StockAdrift, "pieces of stock are unaccounted for")
	found(int64(r.PaymentsWrong), "payments don't match the orders")
	found(int64(r.WritesLost), "acknowledged writes of the writer are missing, double or stranded")
	found(r.HistoryRowsMissing, "rows from before the sale are missing or too many")
	found(int64(r.ShopsAstray), "shops are not open in exactly the pod that the directory names")
	return out
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// durations returns, sorted, how long the samples that are wanted took.
func durations(samples []sample, want func(sample) bool) []time.Duration {
	var out []time.Duration
	for _, s := range samples {
		if want(s) {
			out = append(out, s.took)
		}
	}
	slices.Sort(out)
	return out
}

// percentile returns the duration that p of a hundred don't exceed, of sorted
// ones; 0 if there are none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}

// exitStatus returns what the report means for whoever called the program.
func (r *Report) exitStatus() int {
	if len(r.Problems) > 0 {
		return exitFailed
	}
	return exitFine
}

// print prints the report, for programs or for people.
func (r *Report) print(out io.Writer, asJSON bool) error {
	if !asJSON {
		_, err := io.WriteString(out, r.table())
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// table returns the report for people.
func (r *Report) table() string {
	var b strings.Builder
	line := func(name, value, remark string) {
		fmt.Fprintf(&b, "  %-28s %14s  %s\n", name, value, remark)
	}
	want := func(ok bool, text string) string {
		if ok {
			return "ok: " + text
		}
		return "NOT " + text
	}
	ms := func(v float64) string { return fmt.Sprintf("%.1f ms", v) }
	none := func(n int64) string { return want(n == 0, "none") }

	fmt.Fprintf(&b, "\nA sale of %.0f s in %d shops, two pods on %s\n\n", r.Duration, r.Shops, r.Server)
	line("buyers", number(r.Buyers), fmt.Sprintf("%s turned away at the door", number(r.TurnedAway)))
	line("page views", number(r.PageViews), fmt.Sprintf("p50 %s, p99 %s, during the move %s", ms(r.P50), ms(r.P99), ms(r.P99Move)))
	line("checkout p99", ms(r.CheckoutP99), want(r.CheckoutP99 < 300, "under 300 ms outside the move"))
	line("HTTP errors", number(r.HTTPErrors), none(r.HTTPErrors))
	b.WriteByte('\n')
	line("orders acknowledged", number(int64(r.OrdersAcknowledged)), fmt.Sprintf("%s of them in the shop that moved, while it moved", number(int64(r.OrdersDuringMove))))
	line("found exactly once", number(int64(r.OrdersFoundOnce)), want(r.OrdersFoundOnce == r.OrdersAcknowledged, "all of them"))
	line("lost", number(int64(r.OrdersLost)), none(int64(r.OrdersLost)))
	line("double", number(int64(r.OrdersDuplicated)), none(int64(r.OrdersDuplicated)))
	line("stranded in another pod", number(int64(r.OrdersStranded)), none(int64(r.OrdersStranded)))
	line("pieces oversold", number(r.OversoldItems), none(r.OversoldItems)+fmt.Sprintf("; %s buyers were told \"sold out\"", number(r.SoldOut)))
	line("payments captured", number(int64(r.PaymentsCaptured)), want(r.PaymentsWrong == 0, "one for each order"))
	b.WriteByte('\n')
	moved := fmt.Sprintf("%.1f s", r.MoveSeconds)
	line("the move took", moved, want(r.Moved, fmt.Sprintf("moved; stepped back %d times", r.StepsBack)))
	line("rows copied", number(r.RowsCopied), fmt.Sprintf("%s changes applied, %s rows compared both ways", number(r.RowChanges), number(r.RowsVerified)))
	line("write pause", ms(r.WritePause), want(r.WritePause <= 250, "at most 250 ms")+fmt.Sprintf("; the longest wait at other times %s", ms(r.LongestWait)))
	line("writes acknowledged", number(int64(r.WritesAcknowledged)), want(r.WritesLost == 0, "all there"))
	line("carts left behind", number(r.CartsEmpty), "found empty; carts don't move, checkouts carry their lines")
	b.WriteByte('\n')
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "  error: %s\n", e)
	}
	if len(r.Errors)+len(r.Problems) > 0 {
		for _, l := range r.logs {
			fmt.Fprintf(&b, "  log of %s\n", l)
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  PROBLEM: %s\n", p)
	}
	switch {
	case len(r.Problems) > 0:
		b.WriteString("  The sale did not go as it must.\n")
	default:
		b.WriteString("  Every acknowledged order is there, once, in the pod that owns its shop.\n")
	}
	if len(r.Connect) > 0 {
		b.WriteString("\n  The servers are still running:\n")
	}
	for _, c := range r.Connect {
		b.WriteString("    " + c + "\n")
	}
	return b.String()
}

// number shows a number with its thousands set apart.
func number(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
