package ferry

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
)

// Tables is a Directory in a master database's own tables, for applications
// that use ferry without sharding. They are the same tables.
type Tables struct {
	*directory.Store
}

var _ Directory = Tables{}

// NewTables returns the directory in the master database. It does no I/O; its
// Migrate creates the tables, AddPod and AddShop fill them.
func NewTables(master *sql.DB) Tables { return Tables{directory.New(master)} }

// Fresh returns the shop's route.
func (t Tables) Fresh(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	return t.Lookup(ctx, shop)
}

// OpenShop lets the writers of a shop into the pod where the directory has it.
// Tables.AddShop names a new shop's pod; this gives it the row in that pod's fence
// without which it is written by nobody and can't be moved. (sharding's
// CreateShop does both.) Opening an open shop again is no error. A pod in which a
// move left the shop's row is refused: Recover or Run mends that.
func (f *Ferry) OpenShop(ctx context.Context, shop podworks.ShopID) error {
	route, err := f.dir.Fresh(ctx, shop)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	// After the route: a move to this pod is in the journal from before the route
	// until its copy is open, and a row that is missing is then its loss, not ours
	// to make.
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	for _, mv := range moves {
		if mv.To == (podworks.Route{Shop: shop, Pod: route.Pod, Epoch: route.Epoch}) {
			return fmt.Errorf("%w: open shop %d in pod %d: move %d is bringing it there; Recover or Run opens it", ErrRefused, shop, route.Pod, mv.Token)
		}
	}
	s, err := f.open(route.Pod)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	defer s.db.Close()
	if err := fence.Turn(ctx, s.db, shop, route.Epoch, fence.Open); err != nil {
		return fmt.Errorf("ferry: open shop %d in pod %d: %w", shop, route.Pod, err)
	}
	// A row of this epoch stayed as it was: a move may have closed it.
	row, err := fence.Read(ctx, s.db, shop, "")
	if err != nil {
		return fmt.Errorf("ferry: open shop %d in pod %d: %w", shop, route.Pod, err)
	}
	if row.State != fence.Open {
		return fmt.Errorf("%w: open shop %d in pod %d: its fence row is %v; Recover or Run mends what a move left", ErrRefused, shop, route.Pod, row)
	}
	return nil
}
