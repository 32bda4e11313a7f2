package ferry

import (
	"context"
	"database/sql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
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
