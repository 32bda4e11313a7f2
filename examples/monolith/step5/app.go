// Package shop is a small platform of online shops: products, carts, orders, a
// nightly job and a report over all shops.
//
// Step 5: several pods. New shops open in the pod that is named for them, and any
// shop can be moved to another pod while it sells.
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
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/master"
)

// An App is one process of the application. Its methods may be called
// concurrently.
type App struct {
	master  *sql.DB // the directory, and the global tables
	global  *master.Master
	ids     *master.Sequence // of all tables of the shops
	cluster *sharding.Cluster
	ferry   *ferry.Ferry
	opening podworks.PodID // where new shops open
}

const sequence = "ids"

// firstPod is the pod whose database was the monolith's.
const firstPod podworks.PodID = 1

// New returns the application on its pods and the master database. New shops open
// in that pod. It does no I/O; see Install.
func New(pods map[podworks.PodID]*mysql.Config, masterDB *mysql.Config, opening podworks.PodID) (*App, error) {
	connectors := map[podworks.PodID]driver.Connector{}
	for id, cfg := range pods {
		c, err := connect(cfg)
		if err != nil {
			return nil, err
		}
		connectors[id] = c
	}
	m, err := connect(masterDB)
	if err != nil {
		return nil, err
	}
	a := &App{master: sql.OpenDB(m), opening: opening}
	if a.global, err = master.New(a.master, nil, nil); err != nil {
		return nil, err
	}
	if a.ids, err = a.global.Sequence(sequence, nil); err != nil {
		return nil, err
	}
	dir := sharding.NewDirectory(a.master, nil)
	if a.cluster, err = sharding.New(dir, connectors, nil); err != nil {
		return nil, err
	}
	a.ferry, err = ferry.New(dir, pods, nil)
	return a, err
}

// Run keeps the directory fresh, and finishes or undoes the moves whose movers
// died, until ctx ends. It returns why it ended.
func (a *App) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = a.ferry.Run(ctx) }) // it ends with ctx, for the same reason
	return a.cluster.Directory().Run(ctx)
}

// pod returns the database of the shop that ctx's work is for, to read from.
func pod(ctx context.Context) *sql.DB { return sharding.FromContext(ctx).DB() }

// write writes for the shop that ctx's work is for. While the shop is moved it
// waits, and fn runs where the shop is then. What fn writes by, it has to read
// itself: the pool may be that of the pod which the shop has left.
func write(ctx context.Context, fn func(ctx context.Context, tx *sharding.Tx) error) error {
	return sharding.FromContext(ctx).Tx(ctx, fn)
}

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
func (a *App) Close() error { return errors.Join(a.cluster.Close(), a.master.Close()) }

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
