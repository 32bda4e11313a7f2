package shop

import (
	"context"
	"database/sql"

	"github.com/podworks/podworks"
)

// Expand makes the databases ready for this step, while only processes of step 4
// run. When it has returned, processes of both steps may run, as long as new
// shops open in the first pod: those of step 4 reach no other.
func (a *App) Expand(ctx context.Context) error {
	if err := a.Install(ctx); err != nil {
		return err
	}
	return a.check(ctx) // the pods have the same tables
}

// Contract ends the change, when the last process of step 4 has ended. There is
// nothing to end: name another pod for new shops, and move those that are there.
func (a *App) Contract(context.Context) error { return nil }

// Revert makes the databases ready for processes of step 4 again, beside those of
// this one: all shops come back to the first pod, while they sell. New shops must
// open there by now.
func (a *App) Revert(ctx context.Context) error { return a.Gather(ctx, firstPod) }

// Forget ends the way back, when the last process of this step has ended. The
// databases of the other pods can be dropped then.
func (a *App) Forget(ctx context.Context) error {
	return a.cluster.EachPod(ctx, "forget step 5", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
		return change(ctx, db, `DROP TABLE IF EXISTS podworks_marker, podworks_ferry_tail, podworks_ferry_copy, podworks_ferry_left, podworks_origin`)
	})
}
