package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podworks/podworks"
)

// A Scope is one unit of work on one shop: a request, a job. It knows the
// shop's pod and epoch, and rebinds to another pod when the shop moves while the
// scope lives. A scope may be used by several goroutines.
type Scope struct {
	cluster *Cluster
	shop    podworks.ShopID

	mu       sync.Mutex // guards what follows
	route    podworks.Route
	left     []podworks.PodID // pods the shop left during this scope
	released bool
}

type scopeKey struct{}

// FromContext returns the scope that Middleware, Do or Acquire put into ctx, or
// nil.
func FromContext(ctx context.Context) *Scope {
	s, _ := scopeFrom(ctx)
	return s
}

func scopeFrom(ctx context.Context) (*Scope, bool) {
	s, ok := ctx.Value(scopeKey{}).(*Scope)
	return s, ok
}

// Do runs fn in a scope of shop. Inside a scope of the same shop it joins that
// one; inside another shop's it fails with ErrCrossPod. What fn starts must end
// before fn returns: the scope is released then.
func (c *Cluster) Do(ctx context.Context, shop podworks.ShopID, fn func(ctx context.Context, s *Scope) error) error {
	ctx, s, release, err := c.Acquire(ctx, shop)
	if err != nil {
		return err
	}
	defer release()
	return fn(ctx, s)
}

// Acquire is Do for frameworks that can't use a closure. The caller must call
// release, which may be called twice.
func (c *Cluster) Acquire(ctx context.Context, shop podworks.ShopID) (_ context.Context, s *Scope, release func(), err error) {
	if outer, ok := scopeFrom(ctx); ok {
		if outer.cluster != c {
			return nil, nil, nil, &Error{Shop: shop, Err: ErrCrossPod, Note: fmt.Sprintf("it was asked for inside a scope of shop %d of another Cluster", outer.shop)}
		}
		if outer.shop != shop {
			return nil, nil, nil, &Error{Shop: shop, Err: ErrCrossPod, Note: fmt.Sprintf("it was asked for inside a scope of shop %d", outer.shop)}
		}
		if _, err := outer.allow(outer.Route().Pod); err != nil {
			return nil, nil, nil, err
		}
		return ctx, outer, func() {}, nil
	}
	route, err := c.dir.Lookup(ctx, shop)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("sharding: %w", err)
	}
	if _, ok := c.pods[route.Pod]; !ok {
		return nil, nil, nil, &Error{Shop: shop, Pod: route.Pod, Err: ErrUnknownPod, Note: "the directory names it, and this process has no connector for it"}
	}
	s = &Scope{cluster: c, shop: shop, route: route}
	ctx = podworks.WithRoute(context.WithValue(ctx, scopeKey{}, s), route)
	return ctx, s, s.release, nil
}

func (s *Scope) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
}

// Shop returns the scope's shop.
func (s *Scope) Shop() podworks.ShopID { return s.shop }

// Route returns where the shop is, as far as the scope knows.
func (s *Scope) Route() podworks.Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.route
}

// DB returns the pool of the shop's pod. It refuses every context but those of
// the pod's scopes. Ask again after a write was refused with ErrMoved: the shop
// may be in another pod then, and this handle is ErrStale.
func (s *Scope) DB() *sql.DB { return s.cluster.pods[s.Route().Pod].db }

// allow returns the route if the scope may use pod now.
func (s *Scope) allow(pod podworks.PodID) (podworks.Route, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return s.route, &Error{Shop: s.shop, Pod: pod, Err: ErrReleased}
	}
	if s.route.Pod == pod {
		return s.route, nil
	}
	for _, left := range s.left {
		if left == pod {
			return s.route, &Error{Shop: s.shop, Pod: pod, Err: ErrStale, Note: fmt.Sprintf("it is in pod %d since epoch %d", s.route.Pod, s.route.Epoch)}
		}
	}
	return s.route, &Error{Shop: s.shop, Pod: pod, Err: ErrCrossPod, Note: fmt.Sprintf("the context is of shop %d in pod %d", s.shop, s.route.Pod)}
}

// rebind takes a newer route of the shop.
func (s *Scope) rebind(r podworks.Route) error {
	if _, ok := s.cluster.pods[r.Pod]; !ok {
		return &Error{Shop: s.shop, Pod: r.Pod, Err: ErrUnknownPod, Note: "the shop moved there, and this process has no connector for it"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Epoch <= s.route.Epoch {
		return nil
	}
	s.left = append(s.left, s.route.Pod)
	s.route = r
	return nil
}

// refused is what a scope does about a refused write: it asks the directory
// where the shop is now, and rebinds.
func (s *Scope) refused(ctx context.Context) error {
	r, err := s.cluster.dir.Fresh(ctx, s.shop)
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

// begin starts a fenced transaction on the route it returns, waiting out a
// move.
func (s *Scope) begin(ctx context.Context) (*sql.Tx, podworks.Route, error) {
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		route := s.Route()
		tx, err := s.cluster.pods[route.Pod].db.BeginTx(ctx, nil)
		if err == nil {
			if f := s.cluster.opts.Hooks.Fenced; f != nil {
				f(route, time.Since(start))
			}
			return tx, route, nil
		}
		// A stale handle is ours here: another goroutine of the scope rebound it.
		left := s.cluster.opts.MoveWait - time.Since(start)
		if !errors.Is(err, ErrMoved) && !errors.Is(err, ErrStale) || left <= 0 {
			return nil, route, err
		}
		// The master may hang; that is no reason to wait for longer.
		lookCtx, cancel := context.WithTimeout(ctx, left)
		lookErr := s.refused(lookCtx)
		cancel()
		if lookErr != nil {
			return nil, route, fmt.Errorf("%w; looking for it: %w", err, lookErr)
		}
		if s.Route() != route {
			continue // it has moved: no need to wait
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, route, errors.Join(context.Cause(ctx), err)
		case <-timer.C:
		}
	}
}
