// Package shop is a small platform of online shops: products, carts, orders, a
// nightly job and a report over all shops.
//
// Step 2: every row says whose it is. Each table of the shops has a column
// shop_id with an index and a key of one number, and every query names the shop.
// It is still one database, and nothing else has changed.
package shop

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-sql-driver/mysql"
)

// An App is one process of the application. Its methods may be called
// concurrently.
type App struct {
	db *sql.DB
}

// New returns the application on its database. It does no I/O; see Install.
func New(database *mysql.Config) (*App, error) {
	db, err := open(database)
	if err != nil {
		return nil, err
	}
	return &App{db: db}, nil
}

// open returns a pool. What the application can't do without is set here.
func open(cfg *mysql.Config) (*sql.DB, error) {
	cfg = cfg.Clone()
	cfg.ParseTime = true
	cfg.Loc = time.UTC
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("shop: %w", err)
	}
	return sql.OpenDB(c), nil
}

// Close closes the application's connections.
func (a *App) Close() error { return a.db.Close() }

// Handler serves the shops, each under its host, and the platform's own pages
// under /admin/.
func (a *App) Handler() http.Handler {
	store := http.NewServeMux()
	store.Handle("GET /products", answer(a.products))
	store.Handle("POST /products", answer(a.addProduct))
	store.Handle("POST /carts", answer(a.createCart))
	store.Handle("POST /carts/{token}/items", answer(a.addToCart))
	store.Handle("POST /carts/{token}/checkout", answer(a.checkout))
	store.Handle("GET /orders/{id}", answer(a.order))
	store.Handle("GET /days", answer(a.days))

	mux := http.NewServeMux()
	mux.Handle("/", a.storefront(store))
	mux.Handle("POST /admin/shops", answer(a.createShop))
	mux.Handle("GET /admin/report", answer(a.report))
	return mux
}

// What a request can do wrong.
var (
	errBadRequest = errors.New("that is not a request of this shop")
	errSoldOut    = errors.New("sold out")
)

// answer makes a handler of a function that returns what to send as JSON.
func answer(fn func(ctx context.Context, r *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r.Context(), r)
		if err != nil {
			fail(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // it fails only with the connection
	})
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, sql.ErrNoRows):
		code = http.StatusNotFound
	case errors.Is(err, errBadRequest):
		code = http.StatusBadRequest
	case errors.Is(err, errSoldOut):
		code = http.StatusConflict
	default:
		slog.Error("request failed", "host", r.Host, "method", r.Method, "path", r.URL.Path, "err", err)
	}
	http.Error(w, http.StatusText(code), code)
}

// read reads a request's JSON.
func read(r *http.Request, v any) error {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return nil
}

// now returns the time as the database keeps it.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
