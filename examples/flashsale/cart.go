package main

import (
	"database/sql"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Carts live in the Redis of the shop's pod, and no other pod's. So they don't
// go with a shop that moves: its buyers find their carts empty afterwards, once.
// That is why a checkout carries its lines. (A store that would keep carts over
// a move puts them into a table of the shop's, or copies them with the move.)

const (
	cartCookie = "cart"
	cartLives  = time.Hour
)

// cartKey returns where a buyer's cart is, or "" for a buyer without one.
func cartKey(r *http.Request) string {
	c, err := r.Cookie(cartCookie)
	if err != nil || len(c.Value) == 0 || len(c.Value) > 64 {
		return ""
	}
	return fmt.Sprintf("shop:%d:cart:%s", shopOf(r.Context()), c.Value)
}

// addToCart puts one more of a product into the cart.
func (s *store) addToCart(w http.ResponseWriter, r *http.Request) {
	product, err := strconv.ParseInt(r.FormValue("product"), 10, 64)
	key := cartKey(r)
	if err != nil || key == "" {
		http.Error(w, "400: Want a product and a cart.", http.StatusBadRequest)
		return
	}
	carts, err := s.carts.Get(r.Context())
	if err == nil {
		pipe := carts.TxPipeline()
		pipe.HIncrBy(r.Context(), key, strconv.FormatInt(product, 10), 1)
		pipe.Expire(r.Context(), key, cartLives)
		_, err = pipe.Exec(r.Context())
	}
	if err != nil {
		s.cartAway(w, r, err, map[string]string{strconv.FormatInt(product, 10): "1"})
		return
	}
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
}

// cartAway answers instead of the cart when Redis doesn't. What the buyer wanted to
// add can be bought from this page: a checkout asks no cart.
func (s *store) cartAway(w http.ResponseWriter, r *http.Request, err error, wanted map[string]string) {
	s.log.Warn("the cart is away", "shop", shopOf(r.Context()), "err", err)
	p := page{Title: "Your cart is away for a moment", Notice: "Please look again in a minute. You can order without it."}
	if p.Lines, err = s.priced(r, wanted); err != nil {
		s.fail(w, r, err)
		return
	}
	p.offer()
	s.send(w, r, p)
}

// cart shows what is in the cart.
func (s *store) cart(w http.ResponseWriter, r *http.Request) {
	p := page{Title: "Your cart"}
	if key := cartKey(r); key != "" {
		carts, err := s.carts.Get(r.Context())
		if err != nil {
			s.fail(w, r, err)
			return
		}
		in, err := carts.HGetAll(r.Context(), key).Result()
		if err != nil {
			s.cartAway(w, r, err, nil)
			return
		}
		if p.Lines, err = s.priced(r, in); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	p.offer()
	w.Header().Set("Cart-Lines", strconv.Itoa(len(p.Lines)))
	s.send(w, r, p)
}

// offer adds what the lines cost, and a button that buys them.
func (p *page) offer() {
	if len(p.Lines) == 0 {
		return
	}
	for _, l := range p.Lines {
		p.Total += l.Quantity * l.Cents
	}
	p.Token = newToken()
}

// priced adds titles and prices to what is in a cart.
func (s *store) priced(r *http.Request, in map[string]string) ([]line, error) {
	if len(in) == 0 {
		return nil, nil
	}
	args := []any{shopOf(r.Context())}
	for id := range in {
		args = append(args, id)
	}
	var out []line
	err := rows(r.Context(), func(rows *sql.Rows) error {
		var l line
		if err := rows.Scan(&l.Product, &l.Title, &l.Cents); err != nil {
			return err
		}
		l.Quantity, _ = strconv.ParseInt(in[strconv.FormatInt(l.Product, 10)], 10, 64)
		out = append(out, l)
		return nil
	}, `SELECT id, title, price_cents FROM products WHERE shop_id = ? AND id IN (?`+strings.Repeat(",?", len(in)-1)+`) ORDER BY id`, args...)
	return out, err
}
