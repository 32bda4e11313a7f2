package sharding

import (
	"context"
	"sync"

	"github.com/podworks/podworks"
)

// asks lets those who ask the master about the same shop at the same time share
// an answer: when a hot shop moves, all its writers want to know where it is.
type asks struct {
	mu    sync.Mutex // guards calls
	calls map[podworks.ShopID]*asked
}

type asked struct {
	done  chan struct{}
	route podworks.Route
	err   error
	ended bool // the context of the one who asked: no answer for the others
}

// fresh returns the route of a shop as the master has it, or had it when somebody
// else asked a moment ago. Who needs to know it as of now asks again.
func (a *asks) fresh(ctx context.Context, d *Directory, shop podworks.ShopID) (podworks.Route, error) {
	for {
		a.mu.Lock()
		call, ok := a.calls[shop]
		if !ok {
			call = &asked{done: make(chan struct{}), ended: true}
			if a.calls == nil {
				a.calls = map[podworks.ShopID]*asked{}
			}
			a.calls[shop] = call
		}
		a.mu.Unlock()
		if !ok {
			a.ask(ctx, d, shop, call)
			return call.route, call.err
		}
		select {
		case <-call.done:
		case <-ctx.Done():
			return podworks.Route{}, context.Cause(ctx)
		}
		if !call.ended {
			return call.route, call.err
		}
	}
}

func (a *asks) ask(ctx context.Context, d *Directory, shop podworks.ShopID, call *asked) {
	defer func() { // also when a driver panics
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.calls, shop)
		close(call.done)
	}()
	call.route, call.err = d.Fresh(ctx, shop)
	call.ended = call.err != nil && ctx.Err() != nil
}
