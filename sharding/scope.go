package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/key"
	"github.com/podworks/podworks/internal/site"
)

// A Scope is one unit of work on one shop: a request, a job. It is the context
// of that work: what is derived from it carries it, and every query of the unit
// takes such a context. It knows the shop's pod and epoch, and rebinds as a
// whole to another pod when the shop moves while the scope lives.
//
// A scope may be used by several goroutines, which must end before its Release.
type Scope struct {
	// A field because the scope is the context: one allocation for both, and no
	// question which of the two to pass on.
	parent context.Context

	root     *Scope // the scope that this one joined, or itself
	site     site.Site
	label    string // instead of a site, where the caller is a library
	released atomic.Bool

	// What follows is the root's.
	cluster *Cluster
	shop    podworks.ShopID
	first   binding                 // its pod counts the scope
	later   atomic.Pointer[binding] // nil before the first rebinding
	admit   func(error)             // what Options.Admit returned
	load    load
}

// A binding is where a scope's shop is, and where it was before.
type binding struct {
	route podworks.Route
	pod   *pod
	left  *binding
}

// bound returns the root's binding.
func (s *Scope) bound() *binding {
	if b := s.root.later.Load(); b != nil {
		return b
	}
	return &s.root.first
}

type scopeKey struct{}

// FromContext returns the scope that Middleware, Do or Acquire put into ctx, or
// nil.
func FromContext(ctx context.Context) *Scope {
	s, _ := ctx.Value(scopeKey{}).(*Scope)
	return s
}

// Do runs fn in a scope of shop, which is also fn's context. Inside a scope of
// the same shop it joins that one; inside another shop's it fails with a
// *CrossPodError. What fn starts must end before fn returns: the scope is
// released then, and what was opened in it, rows or a transaction, is of no more
// use.
//
// Options.Admit is told fn's error.
//
//go:noinline
func (c *Cluster) Do(ctx context.Context, shop podworks.ShopID, fn func(ctx context.Context, s *Scope) error) error {
	s, err := c.acquire(ctx, shop, site.Caller(), "")
	if err != nil {
		return err
	}
	err = errPanicked
	defer func() { s.release(err) }()
	err = fn(s, s)
	return err
}

var errPanicked = errors.New("sharding: the function panicked")

// Acquire is Do for frameworks that can't use a closure. The scope is the
// context to work with, and the caller must Release it.
//
//go:noinline
func (c *Cluster) Acquire(ctx context.Context, shop podworks.ShopID) (*Scope, error) {
	return c.acquire(ctx, shop, site.Caller(), "")
}

// Release ends the scope. Every later use of it, and of what was opened in it,
// fails with ErrReleased. Releasing twice is no error.
func (s *Scope) Release() { s.release(nil) }

func (c *Cluster) acquire(ctx context.Context, shop podworks.ShopID, at site.Site, label string) (*Scope, error) {
	if outer := FromContext(ctx); outer != nil {
		return outer.join(ctx, c, shop, at, label)
	}
	route, ok := c.dir.route(shop)
	if !ok {
		var err error
		if route, err = c.dir.Lookup(ctx, shop); err != nil {
			return nil, fmt.Errorf("sharding: %w", err)
		}
	}
	p, ok := c.pods[route.Pod]
	if !ok {
		return nil, &Error{Shop: shop, Pod: route.Pod, Err: ErrUnknownPod, Note: "the directory names it, and this process has no connector for it"}
	}
	admit, err := p.admit(ctx, shop)
	if err != nil {
		return nil, err
	}
	s := &Scope{parent: ctx, site: at, label: label, cluster: c, shop: shop, first: binding{route: route, pod: p}, admit: admit}
	s.root = s
	return s, nil
}

// join returns a scope of its own life inside of s.
func (s *Scope) join(ctx context.Context, c *Cluster, shop podworks.ShopID, at site.Site, label string) (*Scope, error) {
	b, err := s.check()
	if err != nil {
		return nil, err
	}
	root := s.root
	if root.cluster != c || root.shop != shop {
		e := &CrossPodError{Scope: root.unit(b), Use: Unit{Shop: shop, Site: label}}
		if label == "" {
			e.Use.Site = at.String()
		}
		if r, ok := c.dir.route(shop); ok {
			e.Use.Pod = r.Pod
		}
		if root.cluster != c {
			e.Note = "they are of two Clusters"
		}
		return nil, e
	}
	return &Scope{parent: ctx, root: root, site: at, label: label}, nil
}

func (s *Scope) release(err error) {
	if s.released.Swap(true) || s.root != s {
		return
	}
	s.first.pod.leave()
	if s.admit != nil {
		s.admit(err)
	}
	s.cluster.loads.add(s.shop, s.bound().route.Pod, &s.load)
}

// Deadline is that of the context the scope was acquired with.
func (s *Scope) Deadline() (time.Time, bool) { return s.parent.Deadline() }

// Done is that of the context the scope was acquired with. It does not tell of
// the scope's release: a use after that shall fail with an error that says so.
func (s *Scope) Done() <-chan struct{} { return s.parent.Done() }

// Err is that of the context the scope was acquired with.
func (s *Scope) Err() error { return s.parent.Err() }

// Value answers for the scope and the route it is bound to, so that
// podworks.RouteFrom knows of a move in the middle of the unit.
func (s *Scope) Value(k any) any {
	switch k.(type) {
	case scopeKey:
		return s
	case key.Route:
		return &s.bound().route
	}
	return s.parent.Value(k)
}

func (s *Scope) String() string {
	r := s.Route()
	return fmt.Sprintf("scope of shop %d in pod %d, %s", r.Shop, r.Pod, s.where())
}

// where says which line acquired the scope.
func (s *Scope) where() string {
	if s.label != "" {
		return s.label
	}
	return s.site.String()
}

// unit describes the scope for an error.
func (s *Scope) unit(b *binding) Unit {
	return Unit{Shop: s.root.shop, Pod: b.route.Pod, Site: s.where()}
}

// Shop returns the scope's shop.
func (s *Scope) Shop() podworks.ShopID { return s.root.shop }

// Route returns where the shop is, as far as the scope knows.
func (s *Scope) Route() podworks.Route { return s.bound().route }

// DB returns the pool of the shop's pod. It refuses every context but those of
// the pod's scopes. When the directory has heard that the shop has moved, DB
// rebinds the scope as a whole: the pool of the new pod is returned, and handles
// from before are ErrStale. So take it where you need it, and don't keep it. Use
// it with contexts of this scope and no other: a single write goes under the fence
// of its context's shop, whatever rows it names.
func (s *Scope) DB() *sql.DB { return s.follow().pod.db() }

// follow rebinds the scope if the directory knows a newer route.
func (s *Scope) follow() *binding {
	root := s.root
	if r, ok := root.cluster.dir.route(root.shop); ok && r.Epoch > root.bound().route.Epoch {
		// Where this process can't go, the old pod's rows are the best it has; a
		// write finds out, and says so.
		_ = root.rebind(r)
	}
	return root.bound()
}

// check returns where the scope is bound, if it lives.
func (s *Scope) check() (*binding, error) {
	b := s.bound()
	if s.released.Load() || s.root.released.Load() {
		return b, &Error{Shop: s.root.shop, Pod: b.route.Pod, Err: ErrReleased, Acquired: s.where(), Used: usedAt()}
	}
	return b, nil
}

// allow returns the binding if the scope may use p now.
func (s *Scope) allow(p *pod) (*binding, error) {
	b, err := s.check()
	if err != nil || b.pod == p {
		return b, err
	}
	for left := b.left; left != nil; left = left.left {
		if left.pod == p {
			return b, &Error{Shop: s.root.shop, Pod: p.id, Err: ErrStale, Acquired: s.where(), Used: usedAt(),
				Note: fmt.Sprintf("it is in pod %d since epoch %d", b.route.Pod, b.route.Epoch)}
		}
	}
	return b, &CrossPodError{Scope: s.unit(b), Use: Unit{Pod: p.id, Site: usedAt()}}
}

// usedAt returns the line that is to blame.
func usedAt() string {
	return site.Use("github.com/podworks/podworks/sharding.", "github.com/podworks/podworks/sharding/", "github.com/podworks/podworks/internal/site.")
}

// rebind takes a newer route of the shop.
func (s *Scope) rebind(r podworks.Route) error {
	root := s.root
	p, ok := root.cluster.pods[r.Pod]
	if !ok {
		return &Error{Shop: r.Shop, Pod: r.Pod, Err: ErrUnknownPod, Note: "the shop moved there, and this process has no connector for it"}
	}
	for {
		later := root.later.Load()
		old := later
		if old == nil {
			old = &root.first
		}
		if r.Epoch <= old.route.Epoch || root.later.CompareAndSwap(later, &binding{route: r, pod: p, left: old}) {
			return nil
		}
	}
}

// refused is what a scope does about a refused write: it asks the directory
// where the shop is now, and rebinds.
func (s *Scope) refused(ctx context.Context) error {
	c := s.root.cluster
	r, err := c.asks.fresh(ctx, c.dir, s.root.shop)
	if err != nil {
		return err
	}
	return s.rebind(r)
}

// Between a move's closing of the source and its opening of the target lie two
// commits. Writers that wait for it ask again after these pauses.
const (
	firstPause = time.Millisecond
	lastPause  = 20 * time.Millisecond
)

// begin starts a fenced transaction in the pod that has the shop, waiting out a
// move.
//
// The fence of a pod that the shop has left says where it went. That it was
// decided it doesn't say: the mover closes the source before it decides. So the
// scope is rebound only when the fence over there lets a write in, which it does
// after the decision; until then the unit goes on reading here. And when nobody
// lets it in for a while, the master is asked: a failover may have changed what
// fences said.
func (s *Scope) begin(ctx context.Context, o *owned) (*sql.Tx, error) {
	c := s.root.cluster
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		b := s.bound()
		tx, err := s.beginIn(ctx, b, o)
		var moved *Error
		if errors.As(err, &moved) && moved.next.Pod != 0 {
			if p, ok := c.pods[moved.next.Pod]; ok {
				there := &binding{route: moved.next, pod: p}
				var elsewhere error
				o.trial = there
				tx, elsewhere = s.beginIn(ctx, there, o)
				o.trial = nil
				switch {
				case elsewhere == nil:
					there.route = c.dir.heard(there.route) // has the region
					b = there
					if err = s.rebind(there.route); err != nil {
						_ = tx.Rollback() // nothing is in it
					}
				case !errors.Is(elsewhere, ErrMoved):
					err = elsewhere
				}
			}
		}
		if err == nil {
			if f := c.opts.Hooks.Fenced; f != nil {
				f(b.route, time.Since(start))
			}
			return tx, nil
		}
		// A stale handle is ours here: another goroutine of the scope rebound it.
		left := c.opts.MoveWait - time.Since(start)
		if !errors.Is(err, ErrMoved) && !errors.Is(err, ErrStale) || left <= 0 {
			return nil, err
		}
		known := moved != nil && moved.next.Pod != 0
		if !known || pause == lastPause {
			// The master may hang; that is no reason to wait for longer.
			lookCtx, cancel := context.WithTimeout(ctx, left)
			lookErr := s.refused(lookCtx)
			cancel()
			if lookErr != nil && !(known && away(lookErr)) {
				return nil, fmt.Errorf("%w; looking for it: %w", err, lookErr)
			}
			if s.Route() != b.route {
				continue // it has moved: no need to wait
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(context.Cause(ctx), err)
		case <-timer.C:
		}
	}
}

// away reports whether err is the lack of an answer about a shop, rather than
// one.
func away(err error) bool {
	return !errors.Is(err, ErrClosed) && !errors.Is(err, ErrUnknownShop) && !errors.Is(err, ErrUnknownPod)
}

func (s *Scope) beginIn(ctx context.Context, b *binding, o *owned) (*sql.Tx, error) {
	return b.pod.db().BeginTx(context.WithValue(ctx, ownedKey{}, o), nil)
}
