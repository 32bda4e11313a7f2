package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// An order is one press of the button.
type order struct {
	token string
	email string
	lines []line // by product, each once
}

// orderHeader carries the number of an order that was placed.
const orderHeader = "Order-Id"

var errSoldOut = errors.New("sold out")

// checkout places an order. Sent again with the same token, it answers with the
// order that the token has.
//
//	303  placed, or had been placed before
//	400  not an order
//	409  a product is sold out; nothing was placed
//	503  nothing was placed, or it says that nobody knows; ask again with the same token
func (s *store) checkout(w http.ResponseWriter, r *http.Request) {
	o, err := parseOrder(r)
	if err != nil {
		http.Error(w, "400: "+err.Error(), http.StatusBadRequest)
		return
	}
	id, err := s.place(r.Context(), o)
	switch {
	case errors.Is(err, errSoldOut):
		http.Error(w, "409: "+err.Error(), http.StatusConflict)
	case errors.Is(err, podworks.ErrOutcomeUnknown):
		s.sorry(w, r, err, "We don't know yet whether your order was placed. Please press the button again: it won't be placed twice.")
	case err != nil:
		s.fail(w, r, err)
	default:
		w.Header().Set(orderHeader, strconv.FormatInt(id, 10))
		http.Redirect(w, r, "/orders/"+o.token, http.StatusSeeOther)
	}
}

// parseOrder reads a form with a token, an email and lines like "17:2".
func parseOrder(r *http.Request) (order, error) {
	o := order{token: r.FormValue("token"), email: r.FormValue("email")}
	if len(o.token) != 32 || strings.Trim(o.token, "0123456789abcdef") != "" {
		return o, errors.New("want a token of 32 hexadecimal digits")
	}
	if o.email == "" || len(o.email) > 100 {
		return o, errors.New("want an email of 1 to 100 bytes")
	}
	quantity := map[int64]int64{}
	for _, text := range r.Form["line"] {
		product, n, ok := strings.Cut(text, ":")
		id, errID := strconv.ParseInt(product, 10, 64)
		q, errQ := strconv.ParseInt(n, 10, 64)
		if !ok || errID != nil || errQ != nil || q < 1 || q > 100 {
			return o, fmt.Errorf("line %q: want product:quantity", text)
		}
		quantity[id] += q
	}
	if len(quantity) == 0 || len(quantity) > 50 {
		return o, errors.New("want 1 to 50 lines")
	}
	for id, q := range quantity {
		o.lines = append(o.lines, line{Product: id, Quantity: q})
	}
	// All orders take their products in one order, or two of them could wait for
	// each other.
	slices.SortFunc(o.lines, func(a, b line) int { return cmp.Compare(a.Product, b.Product) })
	return o, nil
}

// place writes an order, and returns its id once it is known to be there. It
// tries again where nothing was written, so that a buyer need not.
func (s *store) place(ctx context.Context, o order) (id int64, err error) {
	scope := sharding.FromContext(ctx)
	for range 4 {
		id = s.ids.next()
		err = scope.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error { return s.write(ctx, tx, id, o) })
		switch {
		case err == nil:
			return id, nil
		case serverSaid(err, errDuplicateKey), errors.Is(err, podworks.ErrOutcomeUnknown):
			// There is an order with this token, or there may be one. The look
			// locks: a commit that is still under way is waited for, so that what
			// is not there will not be there later.
			found, lookErr := findOrder(ctx, scope, o.token)
			if lookErr != nil {
				return 0, errors.Join(err, lookErr)
			}
			if found != 0 {
				return found, nil
			}
		case serverSaid(err, errDeadlock, errLockWait):
		default:
			return 0, err
		}
	}
	return 0, err
}

// write does all of an order in one transaction: the order, the job that will
// have it paid, and the stock. The stock comes last, because others may be
// waiting for it.
func (s *store) write(ctx context.Context, tx *sharding.Tx, id int64, o order) error {
	shop := shopOf(ctx)
	slots, err := s.look(ctx, tx, &o)
	if err != nil {
		return err
	}
	var total int64
	for _, l := range o.lines {
		total += l.Quantity * l.Cents
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, token, email, total_cents, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
		shop, id, o.token, o.email, total, time.Now().UTC()); err != nil {
		return err
	}
	var args []any
	for _, l := range o.lines {
		args = append(args, shop, s.ids.next(), id, l.Product, l.Quantity, l.Cents)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO order_lines (shop_id, id, order_id, product_id, quantity, price_cents) VALUES (?, ?, ?, ?, ?, ?)`+
		strings.Repeat(`, (?, ?, ?, ?, ?, ?)`, len(o.lines)-1), args...); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO jobs (shop_id, id, order_id, amount_cents) VALUES (?, ?, ?, ?)`, shop, s.ids.next(), id, total); err != nil {
		return err
	}
	for _, l := range o.lines {
		if err := take(ctx, tx, shop, l, slots[l.Product]); err != nil {
			return err
		}
	}
	return nil
}

// A slot is a row of a product's stock.
type slot struct {
	id   int64
	left int64
}

// look reads prices and stock without locks, fills in the prices, and returns
// the slots that have something. Most buyers of what is sold out wait for nobody.
func (s *store) look(ctx context.Context, tx *sharding.Tx, o *order) (map[int64][]slot, error) {
	at := map[int64]int{}
	args := []any{shopOf(ctx)}
	for i, l := range o.lines {
		at[l.Product] = i
		args = append(args, l.Product)
	}
	slots := map[int64][]slot{}
	left := map[int64]int64{}
	err := each(ctx, tx, func(rows *sql.Rows) error {
		var product, cents int64
		var one slot
		if err := rows.Scan(&product, &cents, &one.id, &one.left); err != nil {
			return err
		}
		o.lines[at[product]].Cents = cents
		slots[product] = append(slots[product], one)
		left[product] += one.left
		return nil
	}, `SELECT p.id, p.price_cents, s.id, s.available FROM products p JOIN stock s ON s.shop_id = p.shop_id AND s.product_id = p.id
		WHERE p.shop_id = ? AND p.id IN (?`+strings.Repeat(`, ?`, len(o.lines)-1)+`) AND s.available > 0`, args...)
	if err != nil {
		return nil, err
	}
	for _, l := range o.lines {
		if left[l.Product] < l.Quantity {
			return nil, fmt.Errorf("product %d: %w", l.Product, errSoldOut)
		}
	}
	return slots, nil
}

// take takes a line's quantity out of its slots, beginning anywhere. A slot that
// has less by now than was seen is passed over.
func take(ctx context.Context, tx *sharding.Tx, shop int64, l line, slots []slot) error {
	rand.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	want := l.Quantity
	for _, s := range slots {
		if want == 0 {
			return nil
		}
		n := min(want, s.left)
		res, err := tx.ExecContext(ctx, `UPDATE stock SET available = available - ? WHERE shop_id = ? AND id = ? AND available >= ?`, n, shop, s.id, n)
		if err != nil {
			return err
		}
		changed, err := res.RowsAffected()
		if err != nil {
			return err
		}
		want -= n * changed
	}
	if want > 0 {
		return fmt.Errorf("product %d: %w", l.Product, errSoldOut)
	}
	return nil
}

// findOrder returns the id of the order with a token, or 0. It reads in a
// transaction with the fence, so it asks the pod that has the shop, which a
// plain read can't promise right after a move. The transaction is rolled back: it has
// written nothing, and the answer to a COMMIT may be just what doesn't come.
func findOrder(ctx context.Context, scope *sharding.Scope, token string) (id int64, err error) {
	errRead := errors.New("read")
	err = scope.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT id FROM orders WHERE shop_id = ? AND token = ? LOCK IN SHARE MODE`, int64(scope.Shop()), token).Scan(&id)
		if err == nil || errors.Is(err, sql.ErrNoRows) {
			return errRead
		}
		return err
	})
	if errors.Is(err, errRead) {
		return id, nil
	}
	return 0, err
}

// order shows a placed order. This process may not have heard yet that the shop
// has moved, and then reads the pod it left. An order that is not there is
// therefore looked for once more with the fence.
func (s *store) order(w http.ResponseWriter, r *http.Request) {
	ctx, token := r.Context(), r.PathValue("token")
	p := page{Title: "Your order"}
	if err := readOrder(ctx, token, &p); err != nil {
		s.fail(w, r, err)
		return
	}
	if p.Order == 0 {
		id, err := findOrder(ctx, sharding.FromContext(ctx), token)
		if err == nil && id != 0 {
			err = readOrder(ctx, token, &p)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
	}
	if p.Order == 0 {
		http.NotFound(w, r)
		return
	}
	s.send(w, r, p)
}

// readOrder reads an order into a page, from where the scope thinks the shop is.
func readOrder(ctx context.Context, token string, p *page) error {
	return rows(ctx, func(rows *sql.Rows) error {
		var l line
		err := rows.Scan(&p.Order, &p.Total, &l.Quantity, &l.Cents, &l.Title)
		p.Lines = append(p.Lines, l)
		return err
	}, `SELECT o.id, o.total_cents, l.quantity, l.price_cents, p.title FROM orders o
		JOIN order_lines l ON l.shop_id = o.shop_id AND l.order_id = o.id
		JOIN products p ON p.shop_id = l.shop_id AND p.id = l.product_id
		WHERE o.shop_id = ? AND o.token = ? ORDER BY l.id`, shopOf(ctx), token)
}

// The server's errors after which nothing was written.
const (
	errDuplicateKey = 1062
	errLockWait     = 1205
	errDeadlock     = 1213
)

// serverSaid reports whether err is one of the server's errors.
func serverSaid(err error, numbers ...uint16) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && slices.Contains(numbers, e.Number)
}
