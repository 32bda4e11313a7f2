package shop

import "context"

// Expand makes the databases ready for this step, while only processes of step 2
// run. When it has returned, processes of both steps may run: a write that takes
// no fence does no harm as long as no shop is moved.
//
// Shops that processes of step 2 create from then on are not found by those of
// this one until Backfill has run again: run it every few seconds meanwhile.
func (a *App) Expand(ctx context.Context) error {
	if err := a.cluster.Migrate(ctx); err != nil {
		return err
	}
	if err := a.check(ctx); err != nil {
		return err
	}
	if err := a.cluster.Directory().AddPod(ctx, firstPod, "here"); err != nil {
		return err
	}
	return a.Backfill(ctx)
}

// Backfill enters all shops into the directory.
func (a *App) Backfill(ctx context.Context) error {
	shops, err := a.shops(ctx)
	if err != nil {
		return err
	}
	for _, s := range shops {
		if err := a.enter(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// Contract ends the change, when the last process of step 2 has ended.
func (a *App) Contract(ctx context.Context) error { return a.Backfill(ctx) }

// Revert makes the databases ready for processes of step 2 again, beside those of
// this one. They are: step 2 doesn't see what this one added.
func (a *App) Revert(context.Context) error { return nil }

// Forget ends the way back, when the last process of this step has ended. The
// master database can be dropped then.
func (a *App) Forget(ctx context.Context) error {
	return change(ctx, a.db, `DROP TABLE IF EXISTS podworks_fence`)
}
