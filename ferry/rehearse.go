package ferry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// Rehearse makes a move of shop to pod to but for the switch, and takes it back: it
// copies and compares all rows, compares what changes meanwhile until few rows are
// left, predicts the write pause ([Report.Predicted]), and deletes the copy. The shop
// trades where it is throughout, and its writers never wait.
//
// The report has the figures of a move, the route that the shop has, and no
// evidence. A pause that is predicted above Options.PauseBudget is no error here; a
// move at such a moment would step back. Rows that differ again each time that they
// are copied are one that is ErrDiffers.
//
// It shows what a plan can't: how long the copy takes, what the target's triggers do,
// what of the source's log can't be followed. It costs both servers and their
// replicas what a move costs, the target as many deletes, and leaves AUTO_INCREMENT
// counters of the target raised. To the journal it is a move that is undone: another
// move of the shop is ErrBusy meanwhile, one that died before is gone on with and
// undone too. A way back that Keep keeps open isn't taken from it, as Move does:
// Rehearse is ErrBusy then. A rehearsal whose process died is undone by Run, or a Move
// to the same pod goes on with its copy. Each store's Undo is called in the end, though
// no Prepare was.
func (f *Ferry) Rehearse(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*Report, error) {
	start := time.Now()
	m, err := f.claim(ctx, shop, to, toRehearse)
	if err != nil {
		return nil, err
	}
	defer m.src.db.Close()
	defer m.dst.db.Close()
	running, leave := f.enter(ctx, m)
	defer leave()
	err = m.run(running, nil, m.begin, m.rehearse)
	m.result.Route, m.result.Took = m.plan.From, time.Since(start)
	undo := ctx
	if err != nil { // the caller's context, perhaps
		var cancel context.CancelFunc
		undo, cancel = context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
	}
	_, unsettled := f.settle(undo, m.src, m.dst, m.claim)
	what := fmt.Sprintf("ferry: rehearse the move of shop %d to pod %d", shop, to)
	switch {
	case err != nil && unsettled != nil:
		return nil, fmt.Errorf("%s: %w; the copy could not be deleted, which Recover or Run will do: %w", what, err, unsettled)
	case err != nil:
		return nil, fmt.Errorf("%s: undone, the shop stays in pod %d: %w", what, m.src.pod, err)
	case unsettled != nil:
		return &m.result, fmt.Errorf("%s: it was made, but the copy could not be deleted, which Recover or Run will do: %w", what, unsettled)
	}
	m.log.Info("move rehearsed", "predicted", m.result.Predicted, "took", m.result.Took)
	return &m.result, nil
}

// rehearse comes as near to the lock as a move does.
func (m *move) rehearse(ctx context.Context, v *verifier) error {
	m.step(ctx, "rehearse")
	if err := m.agree(ctx); err != nil {
		return err
	}
	err := m.approach(ctx, v, "rehearse")
	if errors.Is(err, directory.ErrNotOurs) {
		return fmt.Errorf("%w: %w", ErrReplaced, err)
	}
	return err
}
