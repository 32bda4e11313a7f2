package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/bradfitz/gomemcache/memcache"
)

// cachedFor is how long a rendered page stays in the pod's memcached. In a sale
// a second is thousands of views.
const cachedFor = 2 // seconds, as memcached counts

func (s *store) home(w http.ResponseWriter, r *http.Request) {
	s.cached(w, r, "home", func(ctx context.Context) (page, error) {
		p := page{Title: fmt.Sprintf("Welcome to shop %d", shopOf(ctx)), Next: 1}
		var err error
		p.Products, err = list(ctx, 0, 4)
		return p, err
	})
}

const perPage = 24

func (s *store) catalogue(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("page"))
	if err != nil || n < 1 || n > 1000 {
		http.NotFound(w, r)
		return
	}
	s.cached(w, r, "catalogue"+strconv.Itoa(n), func(ctx context.Context) (page, error) {
		p := page{Title: "Catalogue, page " + strconv.Itoa(n)}
		var err error
		p.Products, err = list(ctx, (n-1)*perPage, perPage+1)
		if len(p.Products) > perPage {
			p.Products, p.Next = p.Products[:perPage], n+1
		}
		return p, err
	})
}

// cached answers with the page under key in the pod's memcached, and makes it
// when it is not there. Without memcached pages are made each time.
func (s *store) cached(w http.ResponseWriter, r *http.Request, key string, build func(context.Context) (page, error)) {
	ctx := r.Context()
	key = fmt.Sprintf("shop/%d/%s", shopOf(ctx), key)
	pages, err := s.pages.Get(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	item, err := pages.Get(key)
	if err == nil {
		sendHTML(w, item.Value)
		return
	}
	if !errors.Is(err, memcache.ErrCacheMiss) {
		s.log.Warn("read a cached page", "err", err)
	}
	p, err := build(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	html, err := p.render()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if err := pages.Set(&memcache.Item{Key: key, Value: html, Expiration: cachedFor}); err != nil {
		s.log.Warn("cache a page", "err", err)
	}
	sendHTML(w, html)
}

// list returns products in their order.
func list(ctx context.Context, skip, limit int) ([]listed, error) {
	var out []listed
	err := rows(ctx, func(rows *sql.Rows) error {
		var p listed
		err := rows.Scan(&p.ID, &p.Title, &p.Cents)
		out = append(out, p)
		return err
	}, `SELECT id, title, price_cents FROM products WHERE shop_id = ? ORDER BY id LIMIT ? OFFSET ?`, shopOf(ctx), limit, skip)
	return out, err
}

// product shows one product and how much is left of it, which is not cached.
func (s *store) product(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	var found []listed
	err = rows(r.Context(), func(rows *sql.Rows) error {
		var p listed
		err := rows.Scan(&p.ID, &p.Title, &p.Cents, &p.Left)
		found = append(found, p)
		return err
	}, `SELECT p.id, p.title, p.price_cents, SUM(s.available) FROM products p JOIN stock s ON s.shop_id = p.shop_id AND s.product_id = p.id
		WHERE p.shop_id = ? AND p.id = ? GROUP BY p.id, p.title, p.price_cents`, shopOf(r.Context()), id)
	switch {
	case err != nil:
		s.fail(w, r, err)
	case len(found) == 0:
		http.NotFound(w, r)
	default:
		s.send(w, r, page{Title: found[0].Title, Products: found})
	}
}
