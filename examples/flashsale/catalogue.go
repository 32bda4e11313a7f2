package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

const (
	// freshFor is how long a rendered page is as good as a new one. In a sale a second is
	// thousands of views.
	freshFor = 2 * time.Second

	// keptFor is how long it stays in the pod's memcached: an old page is better than
	// none, while the database makes no new ones.
	keptFor = 600 // seconds, as memcached counts

	// renewedWithin is how long the database has for a new page if there is an old one.
	renewedWithin = time.Second
)

// staleNotice is what an old page says more.
const staleNotice = "<p>This page is from a while ago. Prices are checked when you order.</p>\n"

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
// when it is not there or not fresh. Without memcached pages are made each time;
// without the database, an old one is better than none.
func (s *store) cached(w http.ResponseWriter, r *http.Request, key string, build func(context.Context) (page, error)) {
	ctx := r.Context()
	key = fmt.Sprintf("shop/%d/%s", shopOf(ctx), key)
	pages, err := s.pages.Get(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	old, err := pages.Get(key)
	away := err != nil && !errors.Is(err, memcache.ErrCacheMiss)
	switch {
	case err == nil && time.Since(renderedAt(old)) < freshFor:
		sendHTML(w, old.Value)
		return
	case away:
		s.log.Warn("read a cached page", "err", err)
	}
	html, err := renew(ctx, old, build)
	switch {
	case err != nil && old != nil:
		s.log.Error("an old page has to do", "shop", shopOf(ctx), "path", r.URL.Path, "err", err)
		sendHTML(w, append(old.Value, staleNotice...))
		return
	case err != nil:
		s.fail(w, r, err)
		return
	}
	// A cache that has just not answered is not asked again.
	if !away {
		item := &memcache.Item{Key: key, Value: html, Flags: uint32(time.Now().Unix()), Expiration: keptFor}
		if err := pages.Set(item); err != nil {
			s.log.Warn("cache a page", "err", err)
		}
	}
	sendHTML(w, html)
}

// renderedAt returns when a cached page was made, which is what its flags say.
func renderedAt(page *memcache.Item) time.Time { return time.Unix(int64(page.Flags), 0) }

// renew makes a page. If there is an old one, that doesn't take long.
func renew(ctx context.Context, old *memcache.Item, build func(context.Context) (page, error)) ([]byte, error) {
	if old != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, renewedWithin)
		defer cancel()
	}
	p, err := build(ctx)
	if err != nil {
		return nil, err
	}
	return p.render()
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
