package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// A store is the storefront: a monolith that serves every shop. It doesn't know
// where a shop is; the request's scope does.
type store struct {
	*platform
	ids ids
}

// runStore serves the storefront until ctx ends.
func runStore(ctx context.Context, p *process) error {
	platform, err := openPlatform(&p.plan, asApp, 64)
	if err != nil {
		return err
	}
	s := &store{platform: platform, ids: ids{process: p.Process}}
	return serve(ctx, p, inTime(s.Middleware(s.routes())), platform.run)
}

func (s *store) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.home)
	mux.HandleFunc("GET /catalogue/{page}", s.catalogue)
	mux.HandleFunc("GET /products/{id}", s.product)
	mux.HandleFunc("GET /cart", s.cart)
	mux.HandleFunc("POST /cart", s.addToCart)
	mux.HandleFunc("POST /checkout", s.checkout)
	mux.HandleFunc("GET /orders/{token}", s.order)
	return mux
}

// answerWithin is how long a request may take. Who is told a second before they would have
// left that it didn't work can try again, and the request holds nothing up any
// more.
const answerWithin = patience - time.Second

var errTooSlow = fmt.Errorf("the request was not answered within %v", answerWithin)

// inTime ends the context of requests that take too long.
func inTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), answerWithin, errTooSlow)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// serve answers requests on the listener from the conductor until ctx ends, and
// then those that are under way. Background runs next to it and ends last.
func serve(ctx context.Context, p *process, h http.Handler, background func(context.Context) error) error {
	l, err := p.listener()
	if err != nil {
		return err
	}
	backgroundCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- background(backgroundCtx) }()

	// Without an idle timeout: whoever is in front of this closes first, so that
	// no request meets a connection that is just being closed.
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	down := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		down <- server.Shutdown(ctx)
	})
	p.tell(news{Ready: true})
	err = server.Serve(l)
	if !stop() {
		err = <-down
	}
	cancel()
	return errors.Join(err, <-ended)
}

// fail answers a request that failed for a reason that is not the buyer's.
func (s *store) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.sorry(w, r, err, "Something broke. Please try again in a moment.")
}

// sorry is fail with a text for the buyer.
func (s *store) sorry(w http.ResponseWriter, r *http.Request, err error, text string) {
	route, _ := podworks.RouteFrom(r.Context())
	s.log.Error("request failed", "shop", route.Shop, "method", r.Method, "path", r.URL.Path, "err", err)
	w.Header().Set("Retry-After", "1")
	http.Error(w, "503: "+text, http.StatusServiceUnavailable)
}

// rows runs a query on the pod of ctx's shop, and calls scan for each row.
func rows(ctx context.Context, scan func(*sql.Rows) error, query string, args ...any) error {
	return each(ctx, sharding.FromContext(ctx).DB(), scan, query, args...)
}

// each runs a query and calls scan for each row.
func each(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// shopOf returns the shop of a request's context.
func shopOf(ctx context.Context) int64 { return int64(sharding.FromContext(ctx).Shop()) }

// dollars shows cents.
func dollars(cents int64) string { return fmt.Sprintf("$%d.%02d", cents/100, cents%100) }
