package sharding

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/signature"
)

// A Cluster is an application's pods, seen from one process. Its methods may be
// called concurrently.
type Cluster struct {
	dir  *Directory
	pods map[podworks.PodID]*pod
	opts Options
}

// Options configure a Cluster. The zero value is ready to use.
type Options struct {
	// Key verifies the headers that the edge signed; the edge has the same. At
	// least 32 bytes. Without a key Middleware finds the shop by the request's
	// host, for an application that no edge stands in front of.
	Key []byte

	// MaxOpenConns bounds the connections to each pod, and with them the
	// transactions that can be open in one. Default 64.
	MaxOpenConns int

	// MoveWait bounds how long Scope.Tx waits for a shop that is between two pods
	// before it gives up with ErrMoved. Default 10 s. The context bounds it too.
	MoveWait time.Duration

	// Hooks are called on events.
	Hooks Hooks
}

// Hooks are functions to call on events; nil ones are skipped. They are called
// concurrently and must be quick.
type Hooks struct {
	// Fenced is called when a transaction of Scope.Tx has the fence, with the time
	// since it was asked for. A move of its shop in between is part of it.
	Fenced func(podworks.Route, time.Duration)
}

// A pod is one pod's pool.
type pod struct {
	id  podworks.PodID
	db  *sql.DB
	raw driver.Connector
}

// idleConn is less than the servers' idleSession, so that the pool closes idle
// connections before the server does.
const idleConn = idleSession / 2

// New returns a cluster of pods with a connector each, from
// mysql.NewConnector. It does no I/O; dir's Run must be running for moves to be
// heard of in time.
func New(dir *Directory, pods map[podworks.PodID]driver.Connector, opts *Options) (*Cluster, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.MaxOpenConns == 0 {
		o.MaxOpenConns = 64
	}
	if o.MoveWait == 0 {
		o.MoveWait = 10 * time.Second
	}
	var errs []error
	if dir == nil {
		errs = append(errs, errors.New("the directory is nil"))
	}
	if len(pods) == 0 {
		errs = append(errs, errors.New("there are no pods"))
	}
	for id, c := range pods {
		if id <= 0 || c == nil {
			errs = append(errs, fmt.Errorf("pod %d has connector %v, want a number of 1 or more and a connector", id, c))
		}
	}
	if o.Key != nil {
		if err := signature.CheckKey(o.Key); err != nil {
			errs = append(errs, fmt.Errorf("Key: %w", err))
		}
	}
	if o.MaxOpenConns < 1 {
		errs = append(errs, fmt.Errorf("MaxOpenConns is %d, want 1 or more", o.MaxOpenConns))
	}
	if o.MoveWait < 0 {
		errs = append(errs, fmt.Errorf("MoveWait is %v, want a positive duration", o.MoveWait))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("sharding: %w", err)
	}
	c := &Cluster{dir: dir, pods: map[podworks.PodID]*pod{}, opts: o}
	for id, inner := range pods {
		db := sql.OpenDB(&connector{cluster: c, pod: id, inner: inner})
		db.SetMaxOpenConns(o.MaxOpenConns)
		db.SetMaxIdleConns(o.MaxOpenConns)
		db.SetConnMaxIdleTime(idleConn)
		c.pods[id] = &pod{id: id, db: db, raw: inner}
	}
	return c, nil
}

// Close closes the pods' connections.
func (c *Cluster) Close() error {
	var errs []error
	for _, p := range c.pods {
		errs = append(errs, p.db.Close())
	}
	return errors.Join(errs...)
}

// Directory returns the cluster's directory.
func (c *Cluster) Directory() *Directory { return c.dir }

// FenceSchema returns the statement that creates the fence table, which every
// pod's database has, for teams with a migration tool of their own.
func FenceSchema() string { return fence.Schema }

// Migrate creates the directory's tables in the master database and the fence
// table in every pod, where they are missing. Its user needs CREATE.
func (c *Cluster) Migrate(ctx context.Context) error {
	if err := c.dir.Migrate(ctx); err != nil {
		return fmt.Errorf("sharding: master database: %w", err)
	}
	for _, p := range c.pods {
		err := p.unscoped(ctx, func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, fence.Schema)
			return err
		})
		if err != nil {
			return fmt.Errorf("sharding: create podworks_fence in pod %d: %w", p.id, err)
		}
	}
	return nil
}

// CreateShop adds a shop to the directory and opens it in its pod. Hosts are
// the names under which the edge finds it. A shop that is only half there (the
// process died in between) is refused every write until CreateShop has run
// again, which is no error.
func (c *Cluster) CreateShop(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, hosts ...string) (podworks.Route, error) {
	p, ok := c.pods[pod]
	if !ok {
		return podworks.Route{}, fmt.Errorf("sharding: create shop %d: %w %d: this process has no connector for it", shop, ErrUnknownPod, pod)
	}
	r, err := c.dir.addShop(ctx, shop, pod, hosts)
	if err != nil {
		return r, fmt.Errorf("sharding: %w", err)
	}
	if r.Epoch > 1 {
		return r, nil // it has lived and moved since
	}
	if err := p.unscoped(ctx, func(db *sql.DB) error { return fence.Create(ctx, db, shop) }); err != nil {
		return r, fmt.Errorf("sharding: create shop %d: %w", shop, err)
	}
	return r, nil
}

// unscoped runs fn with a pool without scope check or fence, for the suite's
// own tables.
func (p *pod) unscoped(ctx context.Context, fn func(*sql.DB) error) error {
	db := sql.OpenDB(p.raw)
	defer db.Close()
	return fn(db)
}
