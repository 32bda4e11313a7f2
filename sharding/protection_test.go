package sharding_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// What keeps a write out of a pod that its shop has left. Each interleaving runs
// as it is, when no write may be found there afterwards, and once more without
// the protection that is meant against it, when one must be: else it would be
// no proof of anything.
func TestNoWriteGetsIntoAPodThatItsShopHasLeft(t *testing.T) {
	t.Parallel()
	for i, c := range []struct {
		protection string
		late       func(t *testing.T, w *world) (acknowledged bool)
	}{
		// A writer looks at the fence, and is paused; the shop moves; the writer
		// goes on.
		{"lock", func(t *testing.T, w *world) bool {
			ctx, s := w.acquire(1)
			moved := false
			err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				err := w.tryMove(1, 2)
				moved = err == nil
				if err != nil && !errors.Is(err, fence.ErrBudget) {
					return err
				}
				return insert(ctx, tx, 1)
			})
			checkIs(t, "the paused writer", err, nil)
			if !moved {
				checkIs(t, "the second try to move", w.tryMove(1, 2), nil)
				// It was copied before the fence closed, or would have been: the move
				// came after the write.
				w.exec(1, `DELETE FROM things`)
			}
			return moved
		}},
		// A writer that is late by two moves finds the shop where it left it, with
		// another's epoch.
		{"epoch", func(t *testing.T, w *world) bool {
			ctx, s := w.acquire(1)
			checkIs(t, "the move away", w.tryMove(1, 2), nil)
			checkIs(t, "the move back", w.tryMove(1, 1), nil)
			_, err := s.DB().ExecContext(ctx, insertThing)
			return wasWritten(t, err, sharding.ErrMoved)
		}},
		// A transaction of one shop is used for another's, which has left.
		{"owner", func(t *testing.T, w *world) bool {
			one, s1 := w.acquire(1)
			three, _ := w.acquire(3)
			checkIs(t, "the move", w.tryMove(3, 2), nil)
			tx, err := s1.DB().BeginTx(one, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			_, err = tx.ExecContext(three, `INSERT INTO things VALUES (3, 1, 1)`)
			if err == nil {
				err = tx.Commit()
			}
			return wasWritten(t, err, sharding.ErrCrossPod)
		}},
		// The same through Scope.Tx, and the shop leaves under the transaction.
		{"owner", func(t *testing.T, w *world) bool {
			_, s1 := w.acquire(1)
			three, _ := w.acquire(3)
			err := s1.Tx(three, func(ctx context.Context, tx *sharding.Tx) error {
				checkIs(t, "the move", w.tryMove(1, 2), nil) // would wait, if it were the fence's shop
				return insert(ctx, tx, 1)
			})
			return wasWritten(t, err, sharding.ErrCrossPod)
		}},
		// A write that looks like a read.
		{"readOnly", func(t *testing.T, w *world) bool {
			w.exec(1, `CREATE FUNCTION sell() RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN INSERT INTO things VALUES (1, 1, 1); RETURN 1; END`)
			ctx, s := w.acquire(1)
			checkIs(t, "the move", w.tryMove(1, 2), nil)
			var n int
			err := s.DB().QueryRowContext(ctx, `SELECT sell()`).Scan(&n)
			return wasWritten(t, err, sharding.ErrRefused)
		}},
	} {
		for _, off := range []bool{false, true} {
			name := fmt.Sprint(i, " ", c.protection)
			if off {
				name += " off"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
					w := newWorld(t, f, nil, nil)
					if off {
						w.cluster.SwitchOff(c.protection)
					}
					acknowledged := c.late(t, w)
					n := w.count(1, 1) + w.count(1, 3)
					if got := acknowledged && n == 1; got != off || acknowledged != (n > 0) {
						t.Errorf("acknowledged: %v, and there are %d rows in the old pod; want a lost write: %v", acknowledged, n, off)
					}
				})
			})
		}
	}
}

// wasWritten tells whether a write was acknowledged, and fails the test if it
// failed for another reason than want.
func wasWritten(t *testing.T, err, want error) bool {
	t.Helper()
	if err != nil {
		checkIs(t, "the late write", err, want)
	}
	return err == nil
}

// tryMove moves a shop without rows, unless its source can't be closed at once.
func (w *world) tryMove(shop podworks.ShopID, to podworks.PodID) error {
	w.t.Helper()
	m := w.claim(shop, to)
	if err := m.close(50*time.Millisecond, func(context.Context, *sql.Conn) error { return nil }); err != nil {
		ctx := w.t.Context()
		return errors.Join(err, w.store.Abort(ctx, m.move.Token), fence.Tombstone(ctx, w.plain[to], shop, m.move.Token), w.store.Finish(ctx, m.move.Token))
	}
	m.finish()
	return nil
}
