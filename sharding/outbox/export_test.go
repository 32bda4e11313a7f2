package outbox

import (
	"context"
	"database/sql"

	"github.com/podworks/podworks/sharding"
)

// The protections of a relay, for the tests that switch one off.
const (
	OffLock = offLock
	OffHold = offHold
	OffNote = offNote
)

// WriteOutside makes Add write past the transaction, to a pod's plain pool.
func (o *Outbox) WriteOutside(pod *sql.DB) {
	o.insert = func(_ *sharding.Tx, ctx context.Context, query string, args ...any) (sql.Result, error) {
		return pod.ExecContext(ctx, query, args...)
	}
}
