package sharding

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

const (
	maxHosts        = 64 << 10
	maxUnknownHosts = 4 << 10
	unknownFor      = time.Second // after which an unknown host is asked for again
	maxHostLookups  = 16          // at the master at a time
)

// A hostCache remembers which shop a host belongs to, for applications that no
// edge stands in front of. It holds an entry until Run hears that the host
// has changed hands, or until there is no room for it; so a master that is away
// costs nobody a host that was asked for before. Hosts that nobody has are
// remembered for a second, apart from the others: a flood of them takes no room
// from those.
type hostCache struct {
	lookup func(ctx context.Context, host string) (podworks.Route, error)
	asking chan struct{} // has room for the look-ups under way
	used   atomic.Bool

	mu         sync.RWMutex
	shops      map[string]podworks.ShopID
	unknown    map[string]unknownHost
	calls      map[string]*hostCall
	generation uint64 // grows when entries are dropped

	careless bool // for tests: an answer counts, whatever was dropped while it was under way
}

type unknownHost struct {
	until time.Time
	err   error
}

// A hostCall is a look-up that is under way, for all who want the same.
type hostCall struct {
	done  chan struct{}
	shop  podworks.ShopID
	err   error
	ended bool // the context of the one who asks had ended: no answer for the others
}

func newHostCache(lookup func(context.Context, string) (podworks.Route, error)) *hostCache {
	c := &hostCache{lookup: lookup, asking: make(chan struct{}, maxHostLookups), calls: map[string]*hostCall{}}
	c.forget()
	return c
}

// lookupHost returns the shop that a request's host belongs to. A host that is
// nobody's is ErrUnknownShop.
func (d *Directory) lookupHost(ctx context.Context, host string) (podworks.ShopID, error) {
	host = withoutPort(host)
	if directory.CheckHost(host) != nil {
		return 0, fmt.Errorf("%w: there is no host %.40q", ErrUnknownShop, host)
	}
	return d.hosts.get(ctx, host)
}

func (c *hostCache) get(ctx context.Context, host string) (podworks.ShopID, error) {
	for {
		c.mu.RLock()
		shop, ok := c.shops[host]
		c.mu.RUnlock()
		if ok {
			return shop, nil
		}
		call, ask, err := c.join(host)
		switch {
		case err != nil:
			return 0, err
		case ask != nil:
			ask(ctx)
			return call.shop, call.err
		}
		select {
		case <-call.done:
		case <-ctx.Done():
			return 0, fmt.Errorf("look up host %q: %w", host, context.Cause(ctx))
		}
		if !call.ended {
			return call.shop, call.err
		}
	}
}

// join returns the call that is under way for host, or a new one with the
// function that makes it, or the error of an unknown host.
func (c *hostCache) join(host string) (call *hostCall, ask func(context.Context), err error) {
	c.used.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, ok := c.unknown[host]; ok {
		if time.Now().Before(u.until) {
			return nil, nil, u.err
		}
		delete(c.unknown, host)
	}
	if shop, ok := c.shops[host]; ok { // answered since get looked
		call := &hostCall{done: make(chan struct{}), shop: shop}
		close(call.done)
		return call, nil, nil
	}
	if call := c.calls[host]; call != nil {
		return call, nil, nil
	}
	host = strings.Clone(host) // not the request's memory
	call = &hostCall{done: make(chan struct{}), ended: true}
	c.calls[host] = call
	generation := c.generation
	return call, func(ctx context.Context) { c.ask(ctx, host, call, generation) }, nil
}

// ask makes a call and remembers the answer, unless entries were dropped since
// generation: this one may be about such a host, and be from before.
func (c *hostCache) ask(ctx context.Context, host string, call *hostCall, generation uint64) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, host)
		close(call.done)
		if generation != c.generation && !c.careless {
			return
		}
		switch {
		case call.err == nil && !call.ended:
			room(c.shops, maxHosts)
			c.shops[host] = call.shop
		case errors.Is(call.err, ErrUnknownShop):
			room(c.unknown, maxUnknownHosts)
			c.unknown[host] = unknownHost{time.Now().Add(unknownFor), call.err}
		}
	}()
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		call.err = fmt.Errorf("look up host %q: %w", host, context.Cause(ctx))
		return
	}
	r, err := c.lookup(ctx, host)
	call.shop, call.err = r.Shop, err
	call.ended = err != nil && ctx.Err() != nil
}

// room makes room for one more in m.
func room[V any](m map[string]V, most int) {
	for key := range m {
		if len(m) < most {
			return
		}
		delete(m, key)
	}
}

// drop forgets hosts that have changed hands.
func (c *hostCache) drop(hosts []string) {
	if len(hosts) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for _, host := range hosts {
		delete(c.shops, host)
		delete(c.unknown, host)
	}
}

// forget forgets all hosts.
func (c *hostCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.shops, c.unknown = map[string]podworks.ShopID{}, map[string]unknownHost{}
}

// withoutPort returns a request's host as the directory has it.
func withoutPort(host string) string {
	if strings.HasPrefix(host, "[") || strings.Count(host, ":") == 1 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		} else {
			host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		}
	}
	return canonical(host)
}

// canonical returns a host in lower case and without the dot at its end. It leaves
// alone what is not ASCII: some of that becomes ASCII in lower case, and another
// name must not turn into a shop's.
func canonical(host string) string {
	for i := range len(host) {
		if host[i] >= utf8.RuneSelf {
			return host
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// raise stores version where a lower one is.
func raise(at *atomic.Uint64, version uint64) {
	for have := at.Load(); have < version; have = at.Load() {
		if at.CompareAndSwap(have, version) {
			return
		}
	}
}

// poke sends without waiting: a signal that is there already is enough.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
