// Package shop is a small platform of online shops: products, carts, orders, a
// nightly job and a report over all shops.
//
// Step 3: sharding with one pod, which is the database there was. A shop's work
// is done in its scope, and what has none is refused. The directory has a
// database of its own on the same server; the global tables and the report are
// where they were.
package shop

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// An App is one process of the application. Its methods may be called
// concurrently.
type App struct {
	db      *sql.DB // the global tables, and the report
	master  *sql.DB // the directory
	cluster *sharding.Cluster
}

// firstPod is the pod whose database is the monolith's.
const firstPod podworks.PodID = 1

// New returns the application on its database, and on the master database, where
// the directory of shops is. It does no I/O; see Install.
func New(database, master *mysql.Config) (*App, error) {
	c, err := connect(database)
	if err != nil {
		return nil, err
	}
	m, err := connect(master)
	if err != nil {
		return nil, err
	}
	a := &App{db: sql.OpenDB(c), master: sql.OpenDB(m)}
	a.cluster, err = sharding.New(sharding.NewDirectory(a.master, nil), map[podworks.PodID]driver.Connector{firstPod: c}, nil)
	return a, err
}

// Run keeps the directory fresh until ctx ends, and returns why it ended.
func (a *App) Run(ctx context.Context) error { return a.cluster.Directory().Run(ctx) }

// pod returns the database of the shop that ctx's work is for.
func pod(ctx context.Context) *sql.DB { return sharding.FromContext(ctx).DB() }

// connect returns a connector. What the application can't do without is set here.
func connect(cfg *mysql.Config) (driver.Connector, error) {
	cfg = cfg.Clone()
	cfg.ParseTime = true
	cfg.Loc = time.UTC
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("shop: %w", err)
	}
	return c, nil
}

// Close closes the application's connections.
func (a *App) Close() error { return errors.Join(a.cluster.Close(), a.db.Close(), a.master.Close()) }

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
	mux.Handle("/", a.cluster.Middleware(store))
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
