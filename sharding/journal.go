package sharding

import (
	"context"
	"time"

	"github.com/podworks/podworks"
)

// The journal of moves, as package ferry asks for it. An application doesn't
// call these: it gives the Directory to ferry.New.

// Claim writes the journal row of a new move, or takes over one of the same
// shop and destination that was silent for lease.
func (d *Directory) Claim(ctx context.Context, shop podworks.ShopID, to podworks.PodID, lease time.Duration) (podworks.Move, error) {
	return d.store.Claim(ctx, shop, to, lease)
}

// Beat notes the mover's step and that it is alive.
func (d *Directory) Beat(ctx context.Context, token uint64, step string) error {
	return d.store.Beat(ctx, token, step)
}

// Note records both pods' epochs, while both serve.
func (d *Directory) Note(ctx context.Context, token uint64) error { return d.store.Note(ctx, token) }

// Decide moves the shop in the directory, if the move is still running and
// nothing it rests on has changed.
func (d *Directory) Decide(ctx context.Context, token uint64) (podworks.Route, error) {
	r, err := d.store.Decide(ctx, token)
	if err == nil {
		d.learn([]podworks.Route{r})
	}
	return r, err
}

// Abort makes a later Decide impossible, or fails because it came first.
func (d *Directory) Abort(ctx context.Context, token uint64) error { return d.store.Abort(ctx, token) }

// Reclaim gives a decided move whose copy was lost a new token, to be copied again.
func (d *Directory) Reclaim(ctx context.Context, token uint64) (podworks.Move, error) {
	return d.store.Reclaim(ctx, token)
}

// Verified notes that the copy made under a decided move's token may be opened.
func (d *Directory) Verified(ctx context.Context, token uint64) error {
	return d.store.Verified(ctx, token)
}

// Finish retires the journal row.
func (d *Directory) Finish(ctx context.Context, token uint64) error {
	return d.store.Finish(ctx, token)
}

// Moves returns the unfinished moves.
func (d *Directory) Moves(ctx context.Context) ([]podworks.Move, error) { return d.store.Moves(ctx) }
