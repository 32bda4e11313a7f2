package flavor

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
)

// CommitRefused reports whether err, of a COMMIT, is the server's answer and
// means that the transaction is rolled back. The exceptions are answers that a
// session also gets when it is ended in the middle of committing.
func CommitRefused(err error) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Number {
	case 1053, // server shutdown in progress
		1180, // error during COMMIT
		1317, // query execution was interrupted
		1927, // connection was killed
		3168, // server isn't available
		4031: // the client was disconnected because of inactivity
		return false
	}
	return true
}

// Commit ends tx. An error that is podworks.ErrOutcomeUnknown means that COMMIT
// was sent and its answer lost; any other that tx is rolled back.
//
// It keeps to ctx, which tx.Commit doesn't: a server that is frozen would keep
// its caller for as long.
func Commit(ctx context.Context, tx *sql.Tx) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_, err := tx.ExecContext(ctx, `COMMIT`)
	switch {
	case err == nil:
		_ = tx.Rollback() // of nothing: it gives the session back to the pool
		return nil
	case CommitRefused(err), errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrTxDone): // the last two: nothing was sent
		return err
	}
	return fmt.Errorf("%w: %w", podworks.ErrOutcomeUnknown, err)
}

// lookUpTime is for how long LookUp looks for an outcome.
const lookUpTime = 3 * time.Second

// Settle runs change, a transaction that ends with [Commit], until its outcome
// is known. To be run again, change must begin with a locking read of what it
// writes, which waits for the session of the lost COMMIT to end, and must do
// nothing if that was written already. So it looks first, and writes only what
// it knows is not there. The answers are as for LookUp.
func Settle(ctx context.Context, change func(context.Context) error, answers ...error) error {
	err := change(ctx)
	if errors.Is(err, podworks.ErrOutcomeUnknown) {
		return LookUp(ctx, err, change, answers...)
	}
	return err
}

// LookUp calls look until it tells what became of a COMMIT whose answer was lost:
// with nil or an error that is one of answers. Every other error, that of a
// server that can't be reached above all, leaves the doubt. If that lasts for three
// seconds, whatever becomes of ctx meanwhile, LookUp returns lost, which is a
// podworks.ErrOutcomeUnknown.
func LookUp(ctx context.Context, lost error, look func(context.Context) error, answers ...error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := look(ctx)
		if err == nil || slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; looked up for %v: %w", lost, lookUpTime, err)
		case <-time.After(pause):
		}
	}
}
