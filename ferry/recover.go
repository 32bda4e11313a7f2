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
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// A step of recovery is given up after some time, and begun again with the next
// look: each can be repeated.
const (
	lookTime    = 5 * time.Second
	recoverTime = 30 * time.Second
)

// Run finishes or undoes the moves whose movers died, looking once a second,
// until ctx ends. Any number of processes may run it. A pod that hangs keeps
// nobody but its own shops waiting: each move is recovered by a goroutine of its
// own, and there is one unfinished move per shop at most.
func (f *Ferry) Run(ctx context.Context) error {
	return f.runExcept(ctx, func(context.Context, podworks.Move) (bool, error) { return false, nil })
}

// runExcept is Run, but for the moves that skip says true of. Each move's goroutine asks
// it, so that a pod that hangs keeps only its own moves waiting.
func (f *Ferry) runExcept(ctx context.Context, skip func(context.Context, podworks.Move) (bool, error)) error {
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
				not, err := skip(ctx, mv)
				if err == nil && !not {
					err = f.recover(ctx, mv)
				}
				if err != nil && !errors.Is(err, errOthers) && ctx.Err() == nil {
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
// Options.Lease, and returns those it settled. It looks at four rows, does what
// they call for, and looks again, until the move is finished:
//
//	journal    source's fence   target's fence    then
//	running    closed by it     its copy          decide; abort if a pod failed over since its epoch was noted
//	running    closed by it     open              decide: the master lost the decision in a failover
//	running    anything else    not open          abort
//	aborting   closed           not open          reopen the source
//	aborting   open             its copy          make the target's fence absent, with the token as tombstone
//	aborting   open             absent            undo the stores; delete the copy, unless the shop left it there itself; retire the row
//	decided    open             any               close the source: it lost the close in a failover
//	decided    closed           its copy          open the target
//	decided    closed           neither           copy again under a new token, verify: the target lost the copy in a failover
//	decided    any              open              finish the stores, retire the row
//
// A decided move is at the target in the directory, every other at the source.
// What no mover leaves behind is ErrContradiction, and nothing is touched.
//
// Recover may be called by any number of processes. It takes as long as copying
// again takes, if that is called for; else each step is given up after 30 s.
func (f *Ferry) Recover(ctx context.Context) ([]podworks.Move, error) {
	moves, err := f.silent(ctx)
	if err != nil {
		return nil, err
	}
	var settled []podworks.Move
	var errs []error
	for _, mv := range moves {
		err := f.recover(ctx, mv)
		if errors.Is(err, errOthers) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ferry: recover move %d of shop %d: %w", mv.Token, mv.From.Shop, err))
			continue
		}
		settled = append(settled, mv)
	}
	return settled, errors.Join(errs...)
}

func (f *Ferry) recover(ctx context.Context, mv podworks.Move) error {
	src, dst, err := f.pair(mv.From.Pod, mv.To.Pod)
	if err != nil {
		return err
	}
	defer src.db.Close()
	defer dst.db.Close()
	end, err := f.settle(ctx, src, dst, mv)
	if err == nil {
		f.opts.Logger.Info("move recovered", "shop", mv.From.Shop, "token", mv.Token, "moved", end == moved)
	}
	return err
}

// An end is where a move leaves the shop.
type end uint8

const (
	inDoubt end = iota
	stayed      // in the source: no decision can happen any more
	moved       // to the target: that is decided
)

// errOthers: there is nothing to do here any more.
var errOthers = errors.New("another process recovers the move")

// settle brings a move to its end, as the table of recovery has it. With an error
// the end is what was seen of it so far.
func (f *Ferry) settle(ctx context.Context, src, dst *server, mv podworks.Move) (to end, err error) {
	// The longest way is ten steps: running, aborting and its three, or decided,
	// closed, copied, opened, finished, with a look that others made stale now and then.
	for range 30 {
		hook.Step(ctx, "recover.read")
		s, finished, err := f.look(ctx, src, dst, mv)
		switch {
		case err != nil:
			return to, err
		case finished:
			return f.outcome(ctx, mv)
		case s.move.State == podworks.MoveAborting:
			to = stayed
		case s.move.State == podworks.MoveDecided:
			to = moved
		}
		do, err := s.verdict(ctx)
		if err != nil {
			return to, err
		}
		mv, err = f.act(ctx, src, dst, s, do)
		if err != nil {
			return to, err
		}
	}
	return to, errors.New("the move doesn't come to an end; other processes change its rows all the time")
}

// look reads the rows of an unfinished move, all of one moment: the journal's
// state only goes forward, so what was read between two looks that found the
// same was so at the second.
func (f *Ferry) look(ctx context.Context, src, dst *server, mv podworks.Move) (s situation, finished bool, err error) {
	ctx, cancel := stepTime(ctx)
	defer cancel()
	for {
		before, ok, err := f.unfinished(ctx, mv)
		if err != nil || !ok {
			return s, !ok, err
		}
		// A mover that has the source's lock may have looked at the journal before
		// the abort, and is about to close: it is waited for. One that comes to the
		// lock later looks at the journal under it, and steps back.
		read := func(ctx context.Context) (fence.Row, error) { return fence.Read(ctx, src.db, mv.From.Shop, "") }
		if before.State == podworks.MoveAborting {
			read = func(ctx context.Context) (fence.Row, error) { return fence.ReadSettled(ctx, src.db, mv.From.Shop) }
		}
		if s.source, err = read(ctx); err != nil {
			return s, false, fmt.Errorf("pod %d: %w", src.pod, err)
		}
		if s.target, err = fence.Read(ctx, dst.db, mv.From.Shop, ""); err != nil {
			return s, false, fmt.Errorf("pod %d: %w", dst.pod, err)
		}
		if s.route, err = f.dir.Fresh(ctx, mv.From.Shop); err != nil {
			return s, false, err
		}
		s.move, ok, err = f.unfinished(ctx, mv)
		if err != nil || !ok {
			return s, !ok, err
		}
		if s.move.State == before.State && s.move.Verified == before.Verified {
			return s, false, nil
		}
	}
}

// unfinished returns the journal row of mv, if it isn't retired.
func (f *Ferry) unfinished(ctx context.Context, mv podworks.Move) (podworks.Move, bool, error) {
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return mv, true, err
	}
	for _, m := range moves {
		if m.Token == mv.Token {
			return m, true, nil
		}
		if m.From == mv.From && m.State == podworks.MoveDecided { // and copied again by whoever reclaimed it
			return mv, true, fmt.Errorf("%w: as move %d", errOthers, m.Token)
		}
	}
	return mv, false, nil
}

// outcome asks what became of a finished move. Decide changes nothing in one.
func (f *Ferry) outcome(ctx context.Context, mv podworks.Move) (end, error) {
	_, err := f.dir.Decide(ctx, mv.Token)
	switch {
	case err == nil:
		return moved, nil
	case errors.Is(err, directory.ErrNotOurs):
		return stayed, nil
	}
	return inDoubt, err
}

// stepTime bounds a step of recovery. What is given up is begun again with the
// next look.
func stepTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, recoverTime, fmt.Errorf("not done within %v", recoverTime))
}

// act does one step. It returns the move, which has a new token if it was copied again.
func (f *Ferry) act(ctx context.Context, src, dst *server, s situation, do action) (podworks.Move, error) {
	mv := s.move
	switch do { // what keeps time itself
	case doCopy:
		return f.copyAgain(ctx, src, dst, mv)
	case doFinish:
		hook.Step(ctx, "recover.finish")
		return mv, f.finish(ctx, src, dst, mv)
	case doUndone:
		return mv, f.undone(ctx, src, dst, mv)
	}
	ctx, cancel := stepTime(ctx)
	defer cancel()
	shop, token := mv.From.Shop, mv.Token
	abort := func() error {
		hook.Step(ctx, "recover.abort")
		if err := f.dir.Abort(ctx, token); !errors.Is(err, directory.ErrDecided) {
			return err
		}
		return nil // the decision was first
	}
	switch do {
	case doDecide, doForward:
		hook.Step(ctx, "recover.decide")
		_, err := f.dir.Decide(ctx, token)
		if errors.Is(err, directory.ErrNotOurs) && do == doDecide {
			err = abort()
		} else if errors.Is(err, directory.ErrNotOurs) {
			err = s.contradiction(fmt.Sprintf("the target is open, and can't be decided on: %v", err))
		}
		return mv, err
	case doAbort:
		return mv, abort()
	case doReopen:
		hook.Step(ctx, "recover.reopen")
		return mv, within(src, fence.Reopen(ctx, src.db, mv.From, token))
	case doTombstone:
		hook.Step(ctx, "recover.tombstone")
		return mv, within(dst, fence.Tombstone(ctx, dst.db, shop, token))
	case doClose:
		hook.Step(ctx, "recover.close")
		f.opts.Logger.Warn("the source of a decided move is open: a failover lost its close", "shop", shop, "pod", src.pod, "token", token)
		return mv, within(src, fence.Shut(ctx, src.db, mv.From, mv.To.Pod, token))
	case doOpen:
		hook.Step(ctx, "recover.open")
		return mv, within(dst, fence.Release(ctx, dst.db, shop, mv.To.Epoch, token))
	}
	panic(fmt.Sprintf("ferry: no such action: %d", do))
}

// within says in which pod it was.
func within(s *server, err error) error {
	if err != nil {
		return fmt.Errorf("pod %d: %w", s.pod, err)
	}
	return nil
}

// copyAgain copies a decided move's shop under a new token. The source is closed
// and complete, so the shop's writers wait for as long as it takes.
func (f *Ferry) copyAgain(ctx context.Context, src, dst *server, mv podworks.Move) (podworks.Move, error) {
	f.opts.Logger.Warn("the target of a decided move has lost its copy: the shop is copied again", "shop", mv.From.Shop, "pod", dst.pod, "token", mv.Token)
	p := &prepared{Plan: Plan{From: mv.From, To: mv.To.Pod}}
	var err error
	if p.flavor, err = flavor.Detect(ctx, src.db); err != nil {
		return mv, within(src, err)
	}
	faults, err := f.inspectTables(ctx, src, dst, p)
	if err := errors.Join(append(faults, err)...); err != nil {
		return mv, fmt.Errorf("copy again: %w", err)
	}
	hook.Step(ctx, "recover.claim")
	mv, err = f.dir.Reclaim(ctx, mv.Token)
	if errors.Is(err, directory.ErrNotOurs) {
		return mv, fmt.Errorf("%w: %w", errOthers, err)
	} else if err != nil {
		return mv, err
	}
	m := f.newMove(src, dst, p, mv)
	finished := make(chan struct{})
	begin := func(ctx context.Context) error {
		hook.Step(ctx, "incoming")
		if err := fence.Claim(ctx, dst.db, mv.From.Shop, mv.Token); err != nil {
			return err
		}
		// Whatever a failover left of the copy. It has no place in the log that
		// could be trusted.
		_, err := f.deleteRows(ctx, dst, mv.From.Shop, fence.Incoming, mv.Token, nil)
		return err
	}
	err = m.run(ctx, finished, begin, func(ctx context.Context, v *verifier) error {
		left := 1
		for try := 0; try < dirtyRounds && left > 0; try++ {
			if left, err = v.dirty(ctx); err != nil {
				return err
			}
		}
		if left > 0 {
			return fmt.Errorf("%w: %d rows after %d comparisons, while the source is closed; whoever writes there passes by the fence", ErrDiffers, left, dirtyRounds)
		}
		if err := m.raiseCounters(ctx); err != nil {
			return err
		}
		close(finished) // a beat is refused once it is verified
		hook.Step(ctx, "recover.verified")
		// Writers wait, and without this commit all is to be copied once more.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hook.Insist(ctx, time.Minute))
		defer cancel()
		return insist(ctx, func() error { return f.dir.Verified(ctx, mv.Token) })
	})
	if err != nil {
		return mv, fmt.Errorf("copy again: %w", err)
	}
	mv.Verified = mv.Token
	return mv, nil
}

// undone undoes the stores, deletes the copy and retires the journal row. The stores
// come first, as the shop trades and may miss them.
func (f *Ferry) undone(ctx context.Context, src, dst *server, mv podworks.Move) error {
	if err := f.undoStores(ctx, mv); err != nil {
		return err
	}
	hook.Step(ctx, "recover.delete")
	step, cancel := stepTime(ctx)
	l, err := readLeft(step, dst.db, mv.From.Shop)
	cancel()
	if err != nil {
		return within(dst, err)
	}
	for more := !l.of(mv.From); more; { // as long as it gets on; the next move back goes on with what the shop left
		step, cancel := stepTime(ctx)
		n, err := f.deleteRows(step, dst, mv.From.Shop, fence.Absent, mv.Token, nil)
		more = n > 0 && step.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && !more && !errors.Is(err, fence.ErrToken) { // ErrToken: the rows are another move's by now
			return within(dst, fmt.Errorf("delete the copy: %w", err))
		}
	}
	hook.Step(ctx, "recover.finish")
	ctx, cancel = stepTime(ctx)
	defer cancel()
	return f.retire(ctx, src, mv)
}

// finish finishes the stores, forgets how far the copy was, and retires the
// journal row, once the target's replicas have the open row: a failover that loses
// it leaves a shop that no fence lets anybody write, and the journal row is what it
// is mended by. A mover that was frozen here finds, if the shop has left again
// since, another token in the target's fence; what is written down there is then
// another move's.
func (f *Ferry) finish(ctx context.Context, src, dst *server, mv podworks.Move) error {
	if err := f.finishStores(ctx, mv); err != nil {
		return err
	}
	ctx, cancel := stepTime(ctx)
	defer cancel()
	if err := f.replicated(ctx, dst); err != nil {
		return err
	}
	if err := f.forget(ctx, dst, mv.From.Shop, fence.Open, mv.Token); err != nil && !errors.Is(err, fence.ErrToken) {
		return err
	}
	return f.retire(ctx, src, mv)
}

// errReplicas is what Options.Replicated said.
var errReplicas = errors.New("wait for the replicas")

// replicated waits until a pod's replicas have what it has.
func (f *Ferry) replicated(ctx context.Context, s *server) error {
	if f.opts.Replicated == nil {
		return nil
	}
	if err := f.opts.Replicated(ctx, s.pod); err != nil {
		return fmt.Errorf("%w of pod %d: %w", errReplicas, s.pod, err)
	}
	return nil
}

// retire deletes the move's marker and retires its journal row. A marker that
// stays, because the source is down, say, is a few bytes that nobody reads.
func (f *Ferry) retire(ctx context.Context, src *server, mv podworks.Move) error {
	short, cancel := context.WithTimeout(ctx, 2*time.Second) // a source that is frozen must not use up the journal's time
	defer cancel()
	if _, err := src.db.ExecContext(short, `DELETE FROM podworks_marker WHERE token = ?`, mv.Token); err != nil {
		f.opts.Logger.Debug("a marker stays behind", "token", mv.Token, "err", err)
	}
	return f.dir.Finish(ctx, mv.Token)
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
