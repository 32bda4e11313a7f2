package ferry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
)

// A recovery is given up after some time, and begun again with the next look:
// every step of it can be repeated.
const (
	lookTime    = 5 * time.Second
	recoverTime = 30 * time.Second
)

// Run finishes or undoes the moves whose movers died, looking once a second,
// until ctx ends. Any number of processes may run it. A pod that hangs keeps
// nobody but its own shops waiting: each move is recovered by a goroutine of its
// own, and there is one unfinished move per shop at most.
func (f *Ferry) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex // guards busy
	busy := map[uint64]bool{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		moves, err := f.silent(ctx)
		if err != nil && ctx.Err() == nil {
			f.opts.Logger.Warn("looking for moves to recover", "err", err)
		}
		for _, mv := range moves {
			mu.Lock()
			begun := busy[mv.Token]
			busy[mv.Token] = true
			mu.Unlock()
			if begun {
				continue
			}
			wg.Go(func() {
				if err := f.recover(ctx, mv); err != nil && ctx.Err() == nil {
					f.opts.Logger.Warn("recovering a move", "shop", mv.From.Shop, "token", mv.Token, "err", err)
				}
				mu.Lock()
				delete(busy, mv.Token)
				mu.Unlock()
			})
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// silent returns the unfinished moves whose movers were silent for the lease.
func (f *Ferry) silent(ctx context.Context) ([]podworks.Move, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("the journal didn't answer within %v", lookTime))
	defer cancel()
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return nil, fmt.Errorf("ferry: %w", errors.Join(err, context.Cause(ctx)))
	}
	return slices.DeleteFunc(moves, func(mv podworks.Move) bool { return mv.Idle < f.opts.Lease }), nil
}

// Recover finishes or undoes, once, the moves whose movers were silent for
// Options.Lease, and returns those it settled.
//
//	journal    source's fence            then
//	running    moved by its token        decide, and as decided; as aborting if a pod failed over
//	running    anything else             abort, and as aborting, or as decided if that came first
//	decided                              open the target, retire the row
//	aborting                             reopen the source if this move closed it, make the target's
//	                                     fence absent, delete the copy, retire the row
func (f *Ferry) Recover(ctx context.Context) ([]podworks.Move, error) {
	moves, err := f.silent(ctx)
	if err != nil {
		return nil, err
	}
	var settled []podworks.Move
	var errs []error
	for _, mv := range moves {
		if err := f.recover(ctx, mv); err != nil {
			errs = append(errs, fmt.Errorf("ferry: recover move %d of shop %d: %w", mv.Token, mv.From.Shop, err))
			continue
		}
		settled = append(settled, mv)
	}
	return settled, errors.Join(errs...)
}

func (f *Ferry) recover(ctx context.Context, mv podworks.Move) error {
	ctx, cancel := context.WithTimeoutCause(ctx, recoverTime, fmt.Errorf("not done within %v", recoverTime))
	defer cancel()
	src, dst, err := f.pair(mv.From.Pod, mv.To.Pod)
	if err != nil {
		return err
	}
	defer src.db.Close()
	defer dst.db.Close()
	decided, err := f.settle(ctx, src, dst, mv)
	if err == nil {
		f.opts.Logger.Info("move recovered", "shop", mv.From.Shop, "token", mv.Token, "moved", decided)
	}
	return err
}

// settle brings a move to an end, whatever state it is in. Each step can be
// repeated, by anyone and at the same time; the journal row's one transaction
// says which way it goes.
func (f *Ferry) settle(ctx context.Context, src, dst *server, mv podworks.Move) (decided bool, err error) {
	state := mv.State
	if state == podworks.MoveRunning {
		// This look is only a hint at which way is shorter. Either way is safe.
		row, err := fence.Read(ctx, src.db, mv.From.Shop, "")
		if err != nil {
			return false, err
		}
		if row.State == fence.Moved && row.Token == mv.Token && row.Epoch == mv.From.Epoch {
			_, err := f.dir.Decide(ctx, mv.Token)
			switch {
			case err == nil:
				state = podworks.MoveDecided
			case !errors.Is(err, directory.ErrNotOurs):
				return false, err
			}
		}
	}
	if state == podworks.MoveRunning {
		err := f.dir.Abort(ctx, mv.Token)
		switch {
		case errors.Is(err, directory.ErrDecided):
			state = podworks.MoveDecided
		case err != nil:
			return false, err
		}
	}
	if state == podworks.MoveDecided || state == podworks.MoveDone {
		if err := fence.Release(ctx, dst.db, mv.From.Shop, mv.To.Epoch, mv.Token); err != nil {
			return true, fmt.Errorf("open the target: %w", err)
		}
		return true, f.finish(ctx, src, dst, mv)
	}
	return false, f.undo(ctx, src, dst, mv)
}

// undo takes back an aborted move. The source comes first: its writers may be
// waiting. A mover that is alive and holds the source's lock is waited for.
func (f *Ferry) undo(ctx context.Context, src, dst *server, mv podworks.Move) error {
	if err := fence.Reopen(ctx, src.db, mv.From, mv.Token); err != nil {
		return fmt.Errorf("reopen the source: %w", err)
	}
	if err := fence.Tombstone(ctx, dst.db, mv.From.Shop, mv.Token); err != nil {
		return fmt.Errorf("fence the target: %w", err)
	}
	if _, err := f.deleteRows(ctx, dst, mv.From.Shop, fence.Absent, mv.Token); err != nil && !errors.Is(err, fence.ErrToken) {
		return fmt.Errorf("delete the copy: %w", err) // ErrToken: the rows are another move's by now
	}
	return f.retire(ctx, src, mv)
}

// finish forgets how far the copy was, and retires the journal row. A mover
// that was frozen here finds, if the shop has left again since, another token
// in the target's fence; what is written down there is then another move's.
func (f *Ferry) finish(ctx context.Context, src, dst *server, mv podworks.Move) error {
	if err := f.forget(ctx, dst, mv.From.Shop, fence.Open, mv.Token); err != nil && !errors.Is(err, fence.ErrToken) {
		return err
	}
	return f.retire(ctx, src, mv)
}

// retire deletes the move's marker and retires its journal row. A marker that
// stays, because the source is down, say, is a few bytes that nobody reads.
func (f *Ferry) retire(ctx context.Context, src *server, mv podworks.Move) error {
	if _, err := src.db.ExecContext(ctx, `DELETE FROM podworks_marker WHERE token = ?`, mv.Token); err != nil {
		f.opts.Logger.Debug("a marker stays behind", "token", mv.Token, "err", err)
	}
	return f.dir.Finish(ctx, mv.Token)
}

// forget deletes how far the copy of a shop is.
func (f *Ferry) forget(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64) error {
	for _, table := range []string{"podworks_ferry_tail", "podworks_ferry_copy"} {
		if _, err := f.deleteSome(ctx, s, shop, state, token, fmt.Sprintf(`DELETE FROM %s WHERE shop_id = %d`, table, shop)); err != nil {
			return err
		}
	}
	return nil
}

// closedBy reports whether a running move has closed its source.
func (f *Ferry) closedBy(ctx context.Context, mv podworks.Move) (bool, error) {
	src, err := f.open(mv.From.Pod)
	if err != nil {
		return false, err
	}
	defer src.db.Close()
	row, err := fence.Read(ctx, src.db, mv.From.Shop, "")
	return row.State == fence.Moved && row.Token == mv.Token, err
}

// Clean deletes a shop's rows from a pod that it has left, and returns how many.
// It refuses unless the pod's fence says that the shop has moved away. Rows go
// in small transactions, each of which looks at the fence under a lock, so that
// a shop that comes back in between loses nothing.
//
// Leave the rows for at least a day: a process that has not heard of the move
// still reads them, and so does who needs to look something up.
func (f *Ferry) Clean(ctx context.Context, shop podworks.ShopID, pod podworks.PodID) (int64, error) {
	s, err := f.open(pod)
	if err != nil {
		return 0, fmt.Errorf("ferry: %w", err)
	}
	defer s.db.Close()
	row, err := fence.Read(ctx, s.db, shop, "")
	if err != nil {
		return 0, fmt.Errorf("ferry: %w", err)
	}
	if row.State != fence.Moved {
		return 0, fmt.Errorf("%w: clean shop %d from pod %d: the shop has not moved away from it (%v)", ErrRefused, shop, pod, row)
	}
	n, err := f.deleteRows(ctx, s, shop, fence.Moved, row.Token)
	if err != nil {
		return n, fmt.Errorf("ferry: clean shop %d from pod %d: %w", shop, pod, err)
	}
	return n, nil
}

// deleteRows deletes a shop's rows from a pod whose fence says state with token.
func (f *Ferry) deleteRows(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64) (total int64, err error) {
	const step = 2000
	tables, err := describe(ctx, s.db)
	if err != nil {
		return 0, err
	}
	for _, name := range f.opts.Ignore {
		delete(tables, name)
	}
	for _, t := range tables {
		i := t.column(f.opts.Column)
		if i < 0 {
			continue
		}
		for n := int64(step); n == step; total += n {
			if n, err = f.deleteSome(ctx, s, shop, state, token, fmt.Sprintf(`DELETE FROM %s WHERE %s = %d LIMIT %d`, quote(t.name), quote(t.columns[i].name), shop, step)); err != nil {
				return total, fmt.Errorf("table %s: %w", t.name, err)
			}
		}
	}
	return total, f.forget(ctx, s, shop, state, token)
}

// deleteSome runs a DELETE if the pod's fence says state with token.
func (f *Ferry) deleteSome(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64, query string) (int64, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if err := fence.Deleting(ctx, tx, shop, state, token); err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, query)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, err
	}
	return n, tx.Commit()
}
