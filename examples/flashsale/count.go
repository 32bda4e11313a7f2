package main

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/podworks/podworks"
)

// What is counted, and where.
//
// A shop's orders are counted in the pod that the directory names, and in no
// other: that is where the shop goes on. The pod it left keeps its rows for a
// while, by design, so the same order being there as well is no double. But a
// row in any other pod that the owner doesn't have was written by someone who
// did not know of the move: such a row is stranded, and it is what two owners at
// a time would leave.
//
// All of this is read by plain SQL, past everything that is being tested.

// holdings are what the pods hold when all processes have ended.
type holdings struct {
	owners   map[podworks.ShopID]podworks.PodID // as the directory says
	open     map[podworks.ShopID][]podworks.PodID
	orders   []held // of the sale
	pulses   []held
	payments []held
	jobs     []held
	sold     []stocked // pieces, in the lines of the sale's orders
	left     []stocked // pieces, in the slots
	history  []stocked // rows from before the sale, of any table
}

// held is a row in a pod.
type held struct {
	pod    podworks.PodID
	shop   podworks.ShopID
	id     int64
	token  string // of an order
	amount int64  // of an order, a payment or a job
}

// stocked is a number of pieces of a product, or of rows, in a pod.
type stocked struct {
	pod     podworks.PodID
	shop    podworks.ShopID
	product int64
	pieces  int64
}

// look reads what the pods hold.
func look(ctx context.Context, at servers) (*holdings, error) {
	h := &holdings{owners: map[podworks.ShopID]podworks.PodID{}, open: map[podworks.ShopID][]podworks.PodID{}}
	master, err := asAdmin.open(at.Master)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	err = each(ctx, master, func(rows *sql.Rows) error {
		var shop podworks.ShopID
		var pod podworks.PodID
		err := rows.Scan(&shop, &pod)
		h.owners[shop] = pod
		return err
	}, `SELECT shop_id, pod_id FROM podworks_shops`)
	if err != nil {
		return nil, fmt.Errorf("read the directory: %w", err)
	}
	for pod, at := range at.Pods {
		if err := h.look(ctx, pod, at); err != nil {
			return nil, fmt.Errorf("read pod %d: %w", pod, err)
		}
	}
	return h, nil
}

// look reads what one pod holds.
func (h *holdings) look(ctx context.Context, pod podworks.PodID, at podServers) error {
	db, err := asAdmin.open(at.MySQL)
	if err != nil {
		return err
	}
	defer db.Close()
	list := func(out *[]held, query string, args ...any) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			r := held{pod: pod}
			err := rows.Scan(&r.shop, &r.id, &r.token, &r.amount)
			*out = append(*out, r)
			return err
		}, query, args...)
	}
	pieces := func(out *[]stocked, query string, args ...any) error {
		return each(ctx, db, func(rows *sql.Rows) error {
			r := stocked{pod: pod}
			err := rows.Scan(&r.shop, &r.product, &r.pieces)
			*out = append(*out, r)
			return err
		}, query, args...)
	}
	for _, read := range []func() error{
		func() error {
			return each(ctx, db, func(rows *sql.Rows) error {
				var shop podworks.ShopID
				err := rows.Scan(&shop)
				h.open[shop] = append(h.open[shop], pod)
				return err
			}, `SELECT shop_id FROM podworks_fence WHERE state = 'open'`)
		},
		func() error {
			return list(&h.orders, `SELECT shop_id, id, token, total_cents FROM orders WHERE id >= ?`, firstSaleID)
		},
		func() error { return list(&h.pulses, `SELECT shop_id, id, '', 0 FROM pulses`) },
		func() error {
			return list(&h.payments, `SELECT shop_id, id, '', amount_cents FROM payments WHERE id >= ?`, firstSaleID)
		},
		func() error { return list(&h.jobs, `SELECT shop_id, order_id, '', amount_cents FROM jobs`) },
		func() error {
			return pieces(&h.sold, `SELECT shop_id, product_id, SUM(quantity) FROM order_lines WHERE order_id >= ? GROUP BY shop_id, product_id`, firstSaleID)
		},
		func() error {
			return pieces(&h.left, `SELECT shop_id, product_id, SUM(available) FROM stock GROUP BY shop_id, product_id`)
		},
		func() error {
			return pieces(&h.history, `SELECT shop_id, 0, SUM(n) FROM (
				SELECT shop_id, COUNT(*) n FROM orders WHERE id < ? GROUP BY shop_id UNION ALL
				SELECT shop_id, COUNT(*) FROM order_lines WHERE order_id < ? GROUP BY shop_id UNION ALL
				SELECT shop_id, COUNT(*) FROM payments WHERE id < ? GROUP BY shop_id) past GROUP BY shop_id`, firstSaleID, firstSaleID, firstSaleID)
		},
	} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// A count says what became of a ledger's entries.
type count struct {
	acknowledged int
	once         int // found exactly once at the owner
	lost         int // not found there
	duplicated   int // found more than once, by id or by token
	unasked      int // at the owner, and in no ledger: committed, and the answer was lost
	stranded     int // in another pod, and not at the owner
}

// tally compares a ledger with the rows of all pods.
func tally(owners map[podworks.ShopID]podworks.PodID, ledger []entry, all []held) count {
	type key struct {
		shop podworks.ShopID
		id   int64
	}
	type button struct {
		shop  podworks.ShopID
		token string
	}
	byID, byToken := map[key]int{}, map[button]int{}
	for _, r := range all {
		if owners[r.shop] != r.pod {
			continue
		}
		byID[key{r.shop, r.id}]++
		if r.token != "" {
			byToken[button{r.shop, r.token}]++
		}
	}
	var c count
	asked := map[key]bool{}
	for _, e := range ledger {
		if e.ID == 0 {
			continue
		}
		c.acknowledged++
		k := key{podworks.ShopID(e.Shop), e.ID}
		asked[k] = true
		switch n := max(byID[k], byToken[button{k.shop, e.Token}]); {
		case byID[k] == 0:
			c.lost++
		case n > 1:
			c.duplicated++
		default:
			c.once++
		}
	}
	strangers := map[key]bool{}
	for _, r := range all {
		k := key{r.shop, r.id}
		switch {
		case owners[r.shop] == r.pod && !asked[k]:
			c.unasked++
		case owners[r.shop] != r.pod && byID[k] == 0:
			strangers[k] = true
		}
	}
	c.stranded = len(strangers)
	return c
}

// paid compares orders with payments, at the owners. Wrong are orders without a
// payment or with another amount, payments without an order, and jobs left.
func (h *holdings) paid() (captured, wrong int) {
	type key struct {
		shop podworks.ShopID
		id   int64
	}
	due := map[key]int64{}
	for _, o := range h.orders {
		if h.owners[o.shop] == o.pod {
			due[key{o.shop, o.id}] = o.amount
		}
	}
	for _, p := range h.payments {
		if h.owners[p.shop] != p.pod {
			continue
		}
		captured++
		k := key{p.shop, p.id}
		if amount, ok := due[k]; !ok || amount != p.amount {
			wrong++
		}
		delete(due, k)
	}
	for _, j := range h.jobs {
		if h.owners[j.shop] == j.pod {
			wrong++
		}
	}
	return captured, wrong + len(due)
}

// stock compares what was sold with what there was, at the owners. Oversold are
// the pieces sold beyond the stock; adrift are those by which stock, sales and
// what is left don't add up.
func (h *holdings) stock(s settings) (oversold, adrift int64) {
	type key struct {
		shop    podworks.ShopID
		product int64
	}
	sold, left := map[key]int64{}, map[key]int64{}
	for _, r := range h.sold {
		if h.owners[r.shop] == r.pod {
			sold[key{r.shop, r.product}] += r.pieces
		}
	}
	for _, r := range h.left {
		if h.owners[r.shop] == r.pod {
			left[key{r.shop, r.product}] += r.pieces
		}
	}
	for _, sh := range s.shops() {
		for n := int64(1); n <= sh.products; n++ {
			k := key{sh.id, n}
			p := s.product(sh.id, n)
			oversold += max(0, sold[k]-p.stock)
			adrift += abs(p.stock - sold[k] - left[k])
		}
	}
	return oversold, adrift
}

// forgotten returns how many rows from before the sale are missing at the owners.
func (h *holdings) forgotten(s settings) (rows int64) {
	const perOrder = 4 // the order, two lines, a payment
	there := map[podworks.ShopID]int64{}
	for _, r := range h.history {
		if h.owners[r.shop] == r.pod {
			there[r.shop] += r.pieces
		}
	}
	for _, sh := range s.shops() {
		rows += abs(sh.history*perOrder - there[sh.id])
	}
	return rows
}

// astray returns how many shops are not open in exactly the pod that the
// directory names.
func (h *holdings) astray() int {
	n := 0
	for shop, owner := range h.owners {
		if open := h.open[shop]; len(open) != 1 || open[0] != owner {
			n++
		}
	}
	return n
}

func abs(n int64) int64 { return max(n, -n) }
