package sharding

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
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

	closed    atomic.Bool
	scopes    atomic.Int64 // that live
	fanOuts   atomic.Uint64
	podScopes int64 // that may live in one pod
	gates     gates
	loads     loads
	asks      asks
	off       protections
	patience  time.Duration // with a server that has a transaction to end
}

// protections that a test has switched off, to see that it would notice.
type protections struct {
	lock     bool // the fence row is read without a lock
	epoch    bool // the fence's epoch is not compared
	owner    bool // a transaction is anybody's of the pod
	readOnly bool // sessions are writable
}

// Options configure a Cluster. The zero value is ready to use.
type Options struct {
	// Key verifies the headers that the edge signed; the edge has the same. At
	// least 32 bytes. Without a key Middleware finds the shop by the request's
	// host, for an application that no edge stands in front of.
	Key []byte

	// MaxOpenConns bounds the connections to each pod. Default 64.
	MaxOpenConns int

	// MaxOpenTx bounds the write transactions that one shop can have open through
	// this process; others wait for their turn, in order. Each holds a shared lock
	// on the same row, which costs the servers more than its share when there are
	// many, and a connection that the pod's other shops can't have. Default half
	// of MaxOpenConns.
	MaxOpenTx int

	// MaxScopes bounds the scopes that live in this process at a time; more are
	// refused with ErrBusy. Default 1024.
	MaxScopes int

	// PodShare is the share of MaxScopes that the scopes of one pod can take: a
	// pod that hangs must leave room for the others. Default 0.7.
	PodShare float64

	// Admit decides, in place of MaxScopes and PodShare, whether a unit of work may
	// begin in a pod: a bulkhead, a breaker. It is called once for each scope, not
	// for those that join one. An error refuses it. Release is called at the
	// scope's end with the error of Do's function, or nil after Acquire and
	// Middleware.
	Admit func(ctx context.Context, pod podworks.PodID) (release func(error), err error)

	// Wrap puts something around the driver of a pod: a breaker, tracing. It sees
	// every statement, those of the fence too, and no scope is checked before it.
	Wrap func(pod podworks.PodID, inner driver.Connector) driver.Connector

	// Locker, if set, takes the place of the table podworks_fence in each pod, for
	// databases to which no table can be added. It promises less: see package
	// redislock.
	Locker func(pod podworks.PodID) Locker

	// LockerIdle is how long a session may be idle with a Locker, in whole seconds:
	// less than half of a lease of its lock, so that a writer that was paused finds
	// its session gone before its lease is. Default 4 s, for redislock's default
	// lease.
	LockerIdle time.Duration

	// MoveWait bounds how long Scope.Tx waits for a shop that is between two pods
	// before it gives up with ErrMoved. Default 10 s. The context bounds it too.
	MoveWait time.Duration

	// Hooks are called on events.
	Hooks Hooks
}

// A Locker lets write transactions begin in a pod. Share is called before START
// TRANSACTION, concurrently; check directly before COMMIT, where its error rolls
// back; release when the server has answered the end. Where the answer to COMMIT
// was lost, release is not called, and the lease must lapse by itself. ErrMoved
// (by Is) means that the pod does not own the shop at the route's epoch.
//
// If it has a method Create(context.Context, podworks.Route) error, CreateShop
// and AddShops call it for each new shop. CloseShop and its like change the
// directory alone: a process that has not heard can go on writing until it has.
type Locker interface {
	Share(ctx context.Context, r podworks.Route) (check func(context.Context) error, release func(), err error)
}

// Hooks are functions to call on events; nil ones are skipped. They are called
// concurrently and must be quick.
type Hooks struct {
	// Fenced is called when a transaction of Scope.Tx has the fence, with the time
	// since it was asked for. A move of its shop in between is part of it.
	Fenced func(podworks.Route, time.Duration)

	// EachPod is called when EachPod's function has ended for a pod.
	EachPod func(reason string, pod podworks.PodID, took time.Duration, err error)
}

// A pod is one pod's pool.
type pod struct {
	id      podworks.PodID
	cluster *Cluster
	pool    atomic.Pointer[sql.DB]
	raw     driver.Connector
	locker  Locker // or nil: the fence is the table's

	scopes  atomic.Int64  // that live and began here
	refused atomic.Uint64 // with ErrBusy
}

// endPatience is how long a COMMIT or ROLLBACK may take. The fence's lock and the
// outcome of the write hang on it, so it is much longer than a statement's.
const endPatience = 10 * time.Second

// New returns a cluster of pods with a connector each, from
// mysql.NewConnector. It does no I/O; dir's Run must be running for moves to be
// heard of in time.
func New(dir *Directory, pods map[podworks.PodID]driver.Connector, opts *Options) (*Cluster, error) {
	o := opts.withDefaults()
	errs := o.validate()
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
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("sharding: %w", err)
	}
	c := &Cluster{dir: dir, pods: map[podworks.PodID]*pod{}, opts: o, podScopes: max(1, int64(o.PodShare*float64(o.MaxScopes))), patience: endPatience}
	c.gates.limit = o.MaxOpenTx
	c.loads.shops = map[loadKey]*ShopLoad{}
	for id, inner := range pods {
		if o.Wrap != nil {
			inner = o.Wrap(id, inner)
		}
		p := &pod{id: id, cluster: c, raw: inner}
		if o.Locker != nil {
			p.locker = o.Locker(id)
		}
		p.open()
		c.pods[id] = p
	}
	return c, nil
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.MaxOpenConns = cmp.Or(d.MaxOpenConns, 64)
	d.MaxOpenTx = cmp.Or(d.MaxOpenTx, max(1, d.MaxOpenConns/2))
	d.MaxScopes = cmp.Or(d.MaxScopes, 1024)
	d.PodShare = cmp.Or(d.PodShare, 0.7)
	d.LockerIdle = cmp.Or(d.LockerIdle, 4*time.Second)
	d.MoveWait = cmp.Or(d.MoveWait, 10*time.Second)
	return d
}

func (o *Options) validate() []error {
	var errs []error
	if o.Key != nil {
		if err := signature.CheckKey(o.Key); err != nil {
			errs = append(errs, fmt.Errorf("Key: %w", err))
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"MaxOpenConns", o.MaxOpenConns}, {"MaxOpenTx", o.MaxOpenTx}, {"MaxScopes", o.MaxScopes}} {
		if f.value < 1 {
			errs = append(errs, fmt.Errorf("%s is %d, want 1 or more", f.name, f.value))
		}
	}
	if !(o.PodShare > 0 && o.PodShare <= 1) {
		errs = append(errs, fmt.Errorf("PodShare is %v, want more than 0 and at most 1", o.PodShare))
	}
	if o.LockerIdle < time.Second || o.LockerIdle%time.Second != 0 {
		errs = append(errs, fmt.Errorf("LockerIdle is %v, want whole seconds, 1 or more", o.LockerIdle))
	}
	if o.MoveWait < 0 {
		errs = append(errs, fmt.Errorf("MoveWait is %v, want a positive duration", o.MoveWait))
	}
	return errs
}

// open gives the pod a pool.
func (p *pod) open() {
	db := sql.OpenDB(&connector{p})
	db.SetMaxOpenConns(p.cluster.opts.MaxOpenConns)
	db.SetMaxIdleConns(p.cluster.opts.MaxOpenConns)
	db.SetConnMaxIdleTime(p.idle() / 2) // before the server does
	p.pool.Store(db)
}

func (p *pod) db() *sql.DB { return p.pool.Load() }

// Close closes the pods' connections.
func (c *Cluster) Close() error {
	c.closed.Store(true)
	var errs []error
	for _, p := range c.pods {
		errs = append(errs, p.db().Close())
	}
	return errors.Join(errs...)
}

// DB returns the pool of a pod, for libraries that are built around one: a
// *gorm.DB of a PerPod, say. It refuses every context but those of the pod's
// scopes, as Scope.DB's does, so what is built with it is used with a scope's.
func (c *Cluster) DB(pod podworks.PodID) (*sql.DB, error) {
	p, err := c.known(pod)
	if err != nil {
		return nil, fmt.Errorf("sharding: %w", err)
	}
	return p.db(), nil
}

// Stats are a cluster's figures. Those of PodStats.DB are database/sql's.
type Stats struct {
	Scopes    int64  // that live now
	WaitingTx int64  // write transactions that wait now for their shop's others to end
	FanOuts   uint64 // calls of EachPod
	Pods      map[podworks.PodID]PodStats
	Directory DirectoryStats
}

// PodStats are one pod's.
type PodStats struct {
	Scopes  int64  // that live now and began in this pod
	Refused uint64 // scopes, with ErrBusy
	DB      sql.DBStats
}

// Stats returns the cluster's figures.
func (c *Cluster) Stats() Stats {
	s := Stats{Scopes: c.scopes.Load(), WaitingTx: c.gates.waiting.Load(), FanOuts: c.fanOuts.Load(), Pods: map[podworks.PodID]PodStats{}, Directory: c.dir.Stats()}
	for id, p := range c.pods {
		s.Pods[id] = PodStats{Scopes: p.scopes.Load(), Refused: p.refused.Load(), DB: p.db().Stats()}
	}
	return s
}

// Pods returns the numbers of the cluster's pods, in order.
func (c *Cluster) Pods() []podworks.PodID { return slices.Sorted(maps.Keys(c.pods)) }

// Directory returns the cluster's directory.
func (c *Cluster) Directory() *Directory { return c.dir }

// FenceSchema returns the statement that creates the fence table, which every
// pod's database has, for teams with a migration tool of their own.
func FenceSchema() string { return fence.Schema }

// Migrate creates the directory's tables in the master database and the fence
// table in every pod (unless there is a Locker), where they are missing. Its user
// needs CREATE.
func (c *Cluster) Migrate(ctx context.Context) error {
	if err := c.dir.Migrate(ctx); err != nil {
		return fmt.Errorf("sharding: master database: %w", err)
	}
	for _, p := range c.pods {
		if p.locker != nil {
			continue
		}
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
