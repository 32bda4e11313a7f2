package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// A Directory knows which pod serves which shop. It answers from a snapshot
// that Run keeps fresh, and from the master database when the snapshot doesn't
// know the shop. It is also the routing table's source (Hosts) and the journal
// of moves that package ferry asks for.
//
// All methods may be called concurrently.
type Directory struct {
	store   *directory.Store
	poll    time.Duration
	log     *slog.Logger
	routes  atomic.Pointer[map[podworks.ShopID]podworks.Route]
	version atomic.Uint64

	mu sync.Mutex // orders those who replace routes
}

// DirectoryOptions configure a Directory. The zero value is ready to use.
type DirectoryOptions struct {
	// Poll is how often Run looks for changes: the time a process may go on
	// reading the old pod of a shop that moved. Default 250 ms.
	Poll time.Duration

	// Logger gets a line when the master database goes away and when it is back.
	// Nil discards.
	Logger *slog.Logger
}

// NewDirectory returns the directory in the master database. It does no I/O.
func NewDirectory(master *sql.DB, opts *DirectoryOptions) *Directory {
	var o DirectoryOptions
	if opts != nil {
		o = *opts
	}
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Directory{store: directory.New(master), poll: o.Poll, log: o.Logger}
	d.routes.Store(&map[podworks.ShopID]podworks.Route{})
	return d
}

// Schema returns the statements that create the directory's tables, for teams
// with a migration tool of their own.
func (d *Directory) Schema() []string { return directory.Schema() }

// Migrate creates the directory's tables that are missing.
func (d *Directory) Migrate(ctx context.Context) error { return d.store.Migrate(ctx) }

// AddPod adds a pod that is active in region. Adding it again is no error.
func (d *Directory) AddPod(ctx context.Context, pod podworks.PodID, region podworks.Region) error {
	return d.store.AddPod(ctx, pod, region)
}

// Lookup returns the route of a shop from the snapshot, or from the master
// database if the snapshot doesn't have the shop (yet). An unknown shop is
// ErrUnknownShop.
func (d *Directory) Lookup(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	if r, ok := (*d.routes.Load())[shop]; ok {
		return r, nil
	}
	return d.Fresh(ctx, shop)
}

// Fresh returns the route of a shop from the master database, and remembers it.
func (d *Directory) Fresh(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	r, err := d.store.Lookup(ctx, shop)
	if err != nil {
		return r, err
	}
	d.learn([]podworks.Route{r})
	return r, nil
}

// learn replaces the snapshot by one with newer routes. A route never goes back
// to an older epoch of its shop: a slow answer must not undo a newer one.
func (d *Directory) learn(newer []podworks.Route) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := *d.routes.Load()
	var next map[podworks.ShopID]podworks.Route
	for _, r := range newer {
		if have, ok := old[r.Shop]; ok && (have.Epoch > r.Epoch || have == r) {
			continue
		}
		if next == nil {
			next = maps.Clone(old)
		}
		next[r.Shop] = r
	}
	if next != nil {
		d.routes.Store(&next)
	}
}

// Refresh reads what changed since the last refresh.
func (d *Directory) Refresh(ctx context.Context) error {
	var newer []podworks.Route
	version, err := d.store.Routes(ctx, d.version.Load(), func(r podworks.Route) { newer = append(newer, r) })
	if err != nil {
		return err
	}
	d.learn(newer)
	d.version.Store(version)
	return nil
}

// Run refreshes the snapshot until ctx ends, and then returns its cause. While
// the master database doesn't answer, the last snapshot stays in force.
func (d *Directory) Run(ctx context.Context) error {
	patience := max(120*d.poll, time.Second) // by default 30 s: the first look reads all shops
	tick := time.NewTicker(d.poll)
	defer tick.Stop()
	healthy := true
	for {
		// A master that hangs is one that doesn't answer.
		refreshCtx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v", patience))
		err := d.Refresh(refreshCtx)
		if err != nil && refreshCtx.Err() != nil {
			err = errors.Join(err, context.Cause(refreshCtx))
		}
		cancel()
		if ctx.Err() == nil && (err == nil) != healthy {
			if healthy = err == nil; healthy {
				d.log.Info("the directory is fresh again")
			} else {
				d.log.Warn("the directory can't be refreshed; the last snapshot stays in force", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Hosts calls each for every host whose route changed after version since (0:
// for all), and returns the version to pass next time. It makes a Directory the
// source of package routing's table.
func (d *Directory) Hosts(ctx context.Context, since uint64, each func(host string, r podworks.Route)) (version uint64, err error) {
	return d.store.Hosts(ctx, since, each)
}

// addShop adds a shop to the directory alone; Cluster.CreateShop does the whole.
func (d *Directory) addShop(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, hosts []string) (podworks.Route, error) {
	lower := make([]string, len(hosts))
	for i, h := range hosts {
		lower[i] = strings.ToLower(h)
	}
	r, err := d.store.AddShop(ctx, shop, pod, lower...)
	if err == nil {
		d.learn([]podworks.Route{r})
	}
	return r, err
}
