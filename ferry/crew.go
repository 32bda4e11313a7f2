package ferry

import (
	"context"
	"sync"
)

// A crew runs functions, some at once, and ends with the first error.
type crew struct {
	ctx  context.Context
	fail context.CancelCauseFunc
	wg   sync.WaitGroup
	room chan struct{}
}

func newCrew(ctx context.Context, atOnce int) *crew {
	g := &crew{room: make(chan struct{}, atOnce)}
	g.ctx, g.fail = context.WithCancelCause(ctx)
	return g
}

func (g *crew) run(fn func(context.Context) error) {
	g.room <- struct{}{}
	g.wg.Go(func() {
		defer func() { <-g.room }()
		if g.ctx.Err() != nil {
			return
		}
		if err := fn(g.ctx); err != nil {
			g.fail(err)
		}
	})
}

// wait returns the first error, when all have ended.
func (g *crew) wait() error {
	g.wg.Wait()
	err := context.Cause(g.ctx)
	g.fail(context.Canceled)
	return err
}
