package ferry

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/podworks/podworks"
)

// A Store is something that a shop has beside its pod's MySQL, and what is to be
// done about it when the shop moves: jobs in the pod's Redis, a cache, a search
// index, blobs. Its functions may all be nil but one.
//
//	Prepare   in order, after the comparison of all rows and before writers wait
//	Finish    in order, when the target is open
//	Undo      in reverse order, when the move has been aborted
//
// None is called while the shop's writers wait. Every move that is claimed ends
// with Finish or with Undo; the journal keeps it until they have returned nil, and
// the shop can't move again before. One that fails or panics keeps those behind it
// waiting. A failing Prepare undoes the move; a Finish or an Undo that failed is
// called again, by Run about once a second, while the shop trades.
//
// So each must bear what comes of movers that die, freeze and wake:
//
//   - Finish and Undo are called any number of times, by any process, also while an
//     earlier call still runs.
//   - Undo is called for a store whose Prepare never was, or failed in the middle.
//   - Prepare is called once under a token. A Move that goes on with a dead mover's
//     work prepares under a new one, with no Undo for the old one. A Finish has a
//     higher token than its Prepare when a failover of the target lost the copy.
//   - A mover that was frozen calls late, when others have undone the move, or the shop
//     has moved on. Tokens only grow: keep the last one with what is changed; then a
//     Prepare whose token isn't higher does nothing, nor does another whose is lower.
//
// All processes with a Move, a Run or a Recover must have the same stores: one that
// doesn't know a store finishes and undoes without it.
type Store struct {
	// Name is what errors and the log call the store. It is its own.
	Name string

	// The functions. The move says which shop goes from where to where under which
	// token; its routes may lack the region.
	Prepare, Finish, Undo func(ctx context.Context, mv podworks.Move) error

	// Timeout bounds each call, by its context. Default 30 s. A Move that is undone
	// leaves what takes longer than 30 s in all to Run.
	Timeout time.Duration
}

// checkStores returns what is wrong with the stores, and sets defaults.
func checkStores(stores []Store) (errs []error) {
	for i, s := range stores {
		if s.Name == "" || slices.ContainsFunc(stores[:i], func(o Store) bool { return o.Name == s.Name }) {
			errs = append(errs, fmt.Errorf("store %d is called %q, want a name of its own", i+1, s.Name))
		}
		if s.Prepare == nil && s.Finish == nil && s.Undo == nil {
			errs = append(errs, fmt.Errorf("store %q has no function; leave it out", s.Name))
		}
		if s.Timeout < 0 {
			errs = append(errs, fmt.Errorf("store %q: Timeout is %v, want a positive duration", s.Name, s.Timeout))
		}
		if s.Timeout == 0 {
			stores[i].Timeout = 30 * time.Second
		}
	}
	return errs
}

func (f *Ferry) prepareStores(ctx context.Context, mv podworks.Move) error {
	for _, s := range f.opts.Stores {
		if err := s.call(ctx, "prepare", s.Prepare, mv); err != nil {
			return err
		}
	}
	return nil
}

func (f *Ferry) finishStores(ctx context.Context, mv podworks.Move) error {
	for _, s := range f.opts.Stores {
		if err := s.call(ctx, "finish", s.Finish, mv); err != nil {
			return err
		}
	}
	return nil
}

func (f *Ferry) undoStores(ctx context.Context, mv podworks.Move) error {
	for _, s := range slices.Backward(f.opts.Stores) {
		if err := s.call(ctx, "undo", s.Undo, mv); err != nil {
			return err
		}
	}
	return nil
}

// call calls one function. A panic is an error: in Run it would end every process
// that comes to the move, one after the other.
func (s *Store) call(ctx context.Context, what string, fn func(context.Context, podworks.Move) error, mv podworks.Move) (err error) {
	if fn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, fmt.Errorf("not done within %v", s.Timeout))
	defer cancel()
	returned := false
	defer func() {
		if !returned {
			err = fmt.Errorf("%s store %q: panicked: %v\n%s", what, s.Name, recover(), debug.Stack())
		}
	}()
	err = fn(ctx, mv)
	returned = true
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s store %q: %w: %w", what, s.Name, context.Cause(ctx), err)
	}
	return fmt.Errorf("%s store %q: %w", what, s.Name, err)
}
