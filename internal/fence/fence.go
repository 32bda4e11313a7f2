// Package fence keeps the write fence: in each pod's MySQL, one row per shop
// that says whether the pod may take the shop's writes.
//
// A write transaction takes a shared lock on its shop's row before anything
// else and goes on only if the row is open at the epoch its route named. A
// mover takes the exclusive lock: the server itself waits for the shop's
// transactions in flight and lets new ones wait. As the lock lives in the same
// transaction as the data, a writer that was paused for a minute still cannot
// write to a pod that its shop has left: either its transaction is alive, and
// then so is its lock and no mover got past, or it is dead, and so are its writes.
package fence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/podworks/podworks"
)

// A State is what a row says.
type State string

// The states. Writers go on only in open; a mover applies rows only in
// incoming, under its own token.
const (
	Absent   State = "absent"   // not here; the token is a tombstone
	Incoming State = "incoming" // being copied here by the move with the token
	Open     State = "open"     // this pod owns the shop since the epoch
	Moved    State = "moved"    // left at the epoch, for destination, by the move with the token
)

// Schema creates the table.
const Schema = `CREATE TABLE IF NOT EXISTS podworks_fence (
	shop_id BIGINT NOT NULL PRIMARY KEY,
	epoch BIGINT UNSIGNED NOT NULL,
	state ENUM('absent', 'incoming', 'open', 'moved') NOT NULL,
	destination INT NOT NULL,
	token BIGINT UNSIGNED NOT NULL
) ENGINE=InnoDB`

// What callers branch on.
var (
	ErrNotOpen = errors.New("the shop is not open in this pod")
	ErrToken   = errors.New("another move has the shop's row in this pod")
	ErrBudget  = errors.New("the pause budget is used up")
	ErrHeld    = errors.New("write transactions in flight hold the shop's lock")
)

// A Row is a shop's row.
type Row struct {
	Shop        podworks.ShopID
	Epoch       podworks.Epoch
	State       State
	Destination podworks.PodID
	Token       uint64
}

func (r Row) String() string {
	return fmt.Sprintf("shop %d: %s, epoch %d, destination %d, token %d", r.Shop, r.State, r.Epoch, r.Destination, r.Token)
}

const columns = `epoch, state, destination, token`

// SharedLock is the statement a write transaction begins with. LOCK IN SHARE
// MODE is the form that both families understand.
func SharedLock(shop podworks.ShopID) string {
	return `SELECT ` + columns + ` FROM podworks_fence WHERE shop_id = ` + strconv.FormatInt(int64(shop), 10) + shared
}

// SharedLockAny is [SharedLock] to be prepared once, for any shop.
const SharedLockAny = `SELECT ` + columns + ` FROM podworks_fence WHERE shop_id = ?` + shared

const shared = ` LOCK IN SHARE MODE`

// A queryer is a *sql.DB, *sql.Conn or *sql.Tx.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Read reads a shop's row; one that is not there is absent. The lock clause is
// "" for a plain read, "FOR UPDATE" or "LOCK IN SHARE MODE".
func Read(ctx context.Context, q queryer, shop podworks.ShopID, lock string) (Row, error) {
	r := Row{Shop: shop, State: Absent}
	err := q.QueryRowContext(ctx, `SELECT `+columns+` FROM podworks_fence WHERE shop_id = `+strconv.FormatInt(int64(shop), 10)+` `+lock).
		Scan(&r.Epoch, &r.State, &r.Destination, &r.Token)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("read the fence row of shop %d: %w", shop, err)
	}
	return r, nil
}

// Create opens new shops at epoch 1 in their first pod. A row that is there
// stays as it is.
func Create(ctx context.Context, db *sql.DB, shops ...podworks.ShopID) error {
	if len(shops) == 0 {
		return nil
	}
	rows := make([]string, len(shops))
	for i, shop := range shops {
		rows[i] = fmt.Sprintf("(%d, 1, 'open', 0, 0)", shop)
	}
	if _, err := db.ExecContext(ctx, `INSERT IGNORE INTO podworks_fence (shop_id, epoch, state, destination, token) VALUES `+strings.Join(rows, ", ")); err != nil {
		return fmt.Errorf("open the fence of new shop %v: %w", shops[0], err)
	}
	return nil
}

// Turn opens or closes (Absent) a shop at a new epoch, in the pod where it stays.
// It waits for the write transactions in flight. A row that has this epoch or a
// later one stays as it is; one that a mover has is refused.
func Turn(ctx context.Context, db *sql.DB, shop podworks.ShopID, epoch podworks.Epoch, state State) error {
	return change(ctx, db, shop, func(r Row) (Row, error) {
		switch {
		case r.Epoch >= epoch:
			return r, nil
		case r.State != Open && r.State != Absent:
			return r, fmt.Errorf("%w: want open or absent, have %v", ErrToken, r)
		}
		return Row{Shop: shop, State: state, Epoch: epoch, Token: r.Token}, nil
	})
}
