package sharding

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/podworks/podworks"
)

// admit lets a unit of work begin in the pod, or refuses it: by Options.Admit
// if there is one, else by the pod's share of the process.
func (p *pod) admit(ctx context.Context, shop podworks.ShopID) (func(error), error) {
	c := p.cluster
	if c.opts.Admit != nil {
		release, err := c.opts.Admit(ctx, p.id)
		if err != nil {
			return nil, fmt.Errorf("sharding: shop %d is not admitted to pod %d: %w", shop, p.id, err)
		}
		p.scopes.Add(1)
		c.scopes.Add(1)
		return release, nil
	}
	// Counted first and taken back if it was too much: two that come at once may
	// both be refused for the last place, but never both get it.
	if n := p.scopes.Add(1); n > c.podScopes {
		p.scopes.Add(-1)
		p.refused.Add(1)
		return nil, &Error{Shop: shop, Pod: p.id, Err: ErrBusy, Note: fmt.Sprintf("the pod has %d, its share of the process", c.podScopes)}
	}
	if n := c.scopes.Add(1); n > int64(c.opts.MaxScopes) {
		p.leave()
		p.refused.Add(1)
		return nil, &Error{Shop: shop, Pod: p.id, Err: ErrBusy, Note: fmt.Sprintf("the process has %d, its MaxScopes", c.opts.MaxScopes)}
	}
	return nil, nil
}

func (p *pod) leave() {
	p.cluster.scopes.Add(-1)
	p.scopes.Add(-1)
}

// gates bound the open write transactions of each shop, and let those who wait
// pass in the order they came. In shards, so that shops don't wait for each
// other's bookkeeping.
type gates struct {
	limit   int
	waiting atomic.Int64
	shards  [64]gateShard
}

type gateShard struct {
	mu    sync.Mutex // guards gates
	gates map[podworks.ShopID]*gate
}

// A gate is there while transactions of its shop are open.
type gate struct {
	open    int
	waiters []chan struct{} // a closed one has been given its place
}

func (g *gates) shard(shop podworks.ShopID) *gateShard {
	return &g.shards[uint64(shop)*0x9E3779B97F4A7C15>>58]
}

// enter returns when the shop has a place for one more transaction.
func (g *gates) enter(ctx context.Context, shop podworks.ShopID) error {
	s := g.shard(shop)
	s.mu.Lock()
	at := s.gates[shop]
	if at == nil {
		if s.gates == nil {
			s.gates = map[podworks.ShopID]*gate{}
		}
		at = &gate{}
		s.gates[shop] = at
	}
	if at.open < g.limit {
		at.open++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	at.waiters = append(at.waiters, turn)
	s.mu.Unlock()

	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range at.waiters {
		if w == turn {
			at.waiters = append(at.waiters[:i], at.waiters[i+1:]...)
			return fmt.Errorf("sharding: shop %d has %d write transactions open, its MaxOpenTx: %w", shop, g.limit, context.Cause(ctx))
		}
	}
	// The place was handed over in the meantime.
	s.leaveLocked(shop)
	return context.Cause(ctx)
}

// leave gives the place to who has waited longest, if anybody has.
func (g *gates) leave(shop podworks.ShopID) {
	s := g.shard(shop)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(shop)
}

func (s *gateShard) leaveLocked(shop podworks.ShopID) {
	at := s.gates[shop]
	if len(at.waiters) > 0 {
		close(at.waiters[0])
		at.waiters = at.waiters[1:]
		return
	}
	if at.open--; at.open == 0 {
		delete(s.gates, shop)
	}
}
