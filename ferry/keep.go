package ferry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
)

// standby is the journal's step of a move that keeps the way back open.
const standby = "standby"

// keepRound is how often what has been written is compared: often enough that a
// cutover would find little left to compare.
const keepRound = 5 * time.Second

// Keep keeps the way open by which shop went from pod back to where it is: it
// follows the log of the pod where the shop trades, has the rows that were left in
// pod back follow, and compares what has changed every few seconds, until ctx ends.
// Whatever goes wrong where the shop went, Move takes it back from then on with a
// comparison of its rows and a write pause, and nothing is lost that was written
// meanwhile. Move may be called in any process, while Keep runs or after it: Keep
// then ends with ErrReplaced.
//
// Keep holds the place in the journal that a move has, so other moves of the shop are
// ErrBusy, and so is a rehearsal of the way back. It never returns nil. When it ends,
// however that is, the rows stay as they are with their place in the log, and Keep, by
// whichever process, goes on from there; so it can be called in a loop. If its process
// dies, another's Run sees to that after Options.Lease. Each store's Undo is called
// in the end, though nothing was prepared.
//
// For how long a way back is wanted is the caller's to choose, with ctx; then Clean
// deletes the rows. Without Keep they are as good for as long as the log is
// there, and a move back reads all of it first. There is nothing to keep, and Keep
// refuses, once the shop has moved on or its rows were cleaned. A change of the
// schema where the shop trades ends the way back: Keep and Move fail then each time,
// and Clean must make room for a new copy.
func (f *Ferry) Keep(ctx context.Context, shop podworks.ShopID, back podworks.PodID) error {
	m, err := f.claim(ctx, shop, back, toKeep)
	if err != nil {
		return err
	}
	defer m.src.db.Close()
	defer m.dst.db.Close()
	m.log.Info("the way back is kept open")
	running, leave := f.enter(ctx, m)
	defer leave()
	if err = f.dir.Beat(ctx, m.token, standby); err == nil {
		err = m.run(running, nil, m.begin, m.standBy)
	}
	if !errors.Is(err, ErrReplaced) && (errors.Is(err, directory.ErrNotOurs) || errors.Is(err, fence.ErrToken)) {
		err = fmt.Errorf("%w: %w", ErrReplaced, err)
	}
	err = fmt.Errorf("ferry: keep the way back of shop %d to pod %d: %w", shop, back, m.endOfTheWay(err))
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoverTime)
	defer cancel()
	if _, unsettled := f.settle(undo, m.src, m.dst, m.claim); unsettled != nil && !errors.Is(unsettled, errOthers) {
		err = fmt.Errorf("%w; its place in the journal could not be given back, which Recover or Run will do: %w", err, unsettled)
	}
	m.log.Info("the way back is no longer kept open", "why", err)
	return err
}

// standBy compares what was written, for as long as ctx lasts. A server that is away
// for a moment is asked again the next time; the log's follower knows when to give up.
func (m *move) standBy(ctx context.Context, v *verifier) error {
	m.step(ctx, standby)
	tick := time.NewTicker(keepRound)
	defer tick.Stop()
	for {
		if err := m.savePlace(ctx); err != nil && !passing(err) {
			return err
		}
		if _, err := v.dirty(ctx); err != nil && !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// savePlace has the applier write down how far it is. By itself it does that with rows
// only: while the shop writes nothing, the log of the place would be deleted one day.
func (m *move) savePlace(ctx context.Context) error {
	wait, err := m.mark(ctx, &chunk{limits: []cursor{}}) // which sets none
	if err != nil {
		return err
	}
	return wait()
}
