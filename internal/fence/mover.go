package fence

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// Claim makes the target's row incoming under token, which must be higher than
// any the row has seen. An open row is refused: the pod owns the shop.
func Claim(ctx context.Context, db *sql.DB, shop podworks.ShopID, token uint64) error {
	return change(ctx, db, shop, func(r Row) (Row, error) {
		switch {
		case r.State == Incoming && r.Token == token:
			return r, nil
		case r.State == Open:
			return r, fmt.Errorf("%w: it owns the shop at epoch %d", ErrToken, r.Epoch)
		case r.Token >= token:
			return r, fmt.Errorf("%w: it has seen token %d, ours is %d", ErrToken, r.Token, token)
		}
		return Row{Shop: shop, State: Incoming, Token: token}, nil
	})
}

// Applying takes, in an apply transaction on the target, a shared lock on the
// row, and fails unless it is incoming under token: a mover that was paused and
// replaced applies nothing any more.
func Applying(ctx context.Context, tx *sql.Tx, shop podworks.ShopID, token uint64) error {
	return require(ctx, tx, shop, Incoming, token, hook.Apply)
}

// Deleting does the same for a transaction that deletes rows of a shop which
// is not here: state is moved (clean-up after a move), absent (undo) or incoming
// (before it is copied again).
func Deleting(ctx context.Context, tx *sql.Tx, shop podworks.ShopID, state State, token uint64) error {
	return require(ctx, tx, shop, state, token, hook.Clean)
}

func require(ctx context.Context, tx *sql.Tx, shop podworks.ShopID, state State, token uint64, p hook.Protection) error {
	if hook.Off(ctx, p) {
		return nil
	}
	r, err := Read(ctx, tx, shop, "LOCK IN SHARE MODE")
	if err != nil {
		return err
	}
	if r.State != state || r.Token != token {
		return fmt.Errorf("%w: want %s with token %d, have %v", ErrToken, state, token, r)
	}
	return nil
}

// Release opens the target's row at epoch. Releasing again is no error.
func Release(ctx context.Context, db *sql.DB, shop podworks.ShopID, epoch podworks.Epoch, token uint64) error {
	return change(ctx, db, shop, func(r Row) (Row, error) {
		if r.State == Open && r.Epoch == epoch {
			return r, nil
		}
		if r.State != Incoming || r.Token != token {
			return r, fmt.Errorf("%w: want incoming with token %d, have %v", ErrToken, token, r)
		}
		return Row{Shop: shop, State: Open, Epoch: epoch, Token: token}, nil
	})
}

// Tombstone makes the target's row absent under token, so that neither the
// move with it nor an earlier one applies or opens anything later. A row that
// has seen a higher token, or is open, stays as it is. One that says moved is
// the trace of an earlier move away from here, which is over.
func Tombstone(ctx context.Context, db *sql.DB, shop podworks.ShopID, token uint64) error {
	return change(ctx, db, shop, func(r Row) (Row, error) {
		if r.Token > token || r.State == Open || r.State == Moved && r.Token == token {
			return r, nil
		}
		return Row{Shop: shop, State: Absent, Token: token}, nil
	})
}

// Shut closes the source's row for a move with token that is decided: a failover
// has lost its close. A row that isn't open at from's epoch stays as it is.
func Shut(ctx context.Context, db *sql.DB, from podworks.Route, to podworks.PodID, token uint64) error {
	return change(ctx, db, from.Shop, func(r Row) (Row, error) {
		if r.State != Open || r.Epoch != from.Epoch {
			return r, nil
		}
		return Row{Shop: r.Shop, State: Moved, Epoch: from.Epoch, Destination: to, Token: token}, nil
	})
}

// ReadSettled reads the row with a shared lock: it waits for a mover that has
// the exclusive lock and may be about to close. It neither waits for the shop's
// writers nor makes them wait.
func ReadSettled(ctx context.Context, db *sql.DB, shop podworks.ShopID) (Row, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return Row{}, err
	}
	defer tx.Rollback()
	return Read(ctx, tx, shop, shared)
}

// Reopen opens the source's row again if the move with token, or an earlier
// one, closed it at from's epoch. The caller has seen to it that neither move
// can be decided.
//
// The first read takes a shared lock. It waits for a mover that holds the
// exclusive lock and is about to close; one that comes later finds that the
// journal is no longer its own. And it neither waits for the shop's writers nor
// makes them wait, as asking for the exclusive lock would.
func Reopen(ctx context.Context, db *sql.DB, from podworks.Route, token uint64) error {
	closed := func(r Row) bool { return r.State == Moved && r.Epoch == from.Epoch && r.Token <= token }
	row, err := ReadSettled(ctx, db, from.Shop)
	if err != nil || !closed(row) {
		return err
	}
	return change(ctx, db, from.Shop, func(r Row) (Row, error) {
		if closed(r) {
			return Row{Shop: r.Shop, State: Open, Epoch: from.Epoch, Token: r.Token}, nil
		}
		return r, nil
	})
}

// change runs one read-decide-write on a row under its exclusive lock, and looks
// up what became of it if the answer to its COMMIT is lost. So next must take
// the row that it returned as it is.
func change(ctx context.Context, db *sql.DB, shop podworks.ShopID, next func(Row) (Row, error)) error {
	return flavor.Settle(ctx, func(ctx context.Context) error { return changeOnce(ctx, db, shop, next) }, ErrToken)
}

// changeOnce makes the row first, so that there is one to lock and no gap.
func changeOnce(ctx context.Context, db *sql.DB, shop podworks.ShopID, next func(Row) (Row, error)) error {
	if _, err := db.ExecContext(ctx, `INSERT IGNORE INTO podworks_fence (shop_id, epoch, state, destination, token) VALUES (?, 0, 'absent', 0, 0)`, int64(shop)); err != nil {
		return fmt.Errorf("make the fence row of shop %d: %w", shop, err)
	}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	have, err := Read(ctx, tx, shop, "FOR UPDATE")
	if err != nil {
		return err
	}
	want, err := next(have)
	if err != nil || want == have {
		return err
	}
	if err := write(ctx, tx, want); err != nil {
		return err
	}
	if err := flavor.Commit(ctx, tx); err != nil {
		return fmt.Errorf("commit %v: %w", want, err)
	}
	return nil
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func write(ctx context.Context, e execer, r Row) error {
	_, err := e.ExecContext(ctx, `UPDATE podworks_fence SET epoch = ?, state = ?, destination = ?, token = ? WHERE shop_id = ?`,
		uint64(r.Epoch), string(r.State), int64(r.Destination), r.Token, int64(r.Shop))
	if err != nil {
		return fmt.Errorf("write the fence row of %v: %w", r, err)
	}
	return nil
}

// A Closing says which source to close, for whom, and within what time.
type Closing struct {
	From   podworks.Route
	To     podworks.PodID
	Token  uint64
	Budget time.Duration // from asking for the lock to committing
	Wait   time.Duration // of it, for the lock; 0 is all
	Kill   bool          // at half of the budget, kill the sessions that keep us from the lock
}

// Close takes the exclusive lock on the source's row, runs drain with the
// session that holds it, and commits the row as moved. The shop's writers wait
// from the request for the lock until Close returns. When the lock wasn't had in
// time (ErrHeld), the budget is used up before the commit, or drain fails, nothing
// has changed and the writers go on.
//
// A lost answer to the commit is looked up with a locking read: nil means
// moved, an error means not moved or, when the look-up fails too, unknown
// (errors.Is podworks.ErrOutcomeUnknown).
func Close(ctx context.Context, db *sql.DB, c Closing, drain func(ctx context.Context, locked *sql.Conn) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	// This session is not like others; it must not go back into the pool.
	defer conn.Close()
	defer conn.Raw(func(any) error { return driver.ErrBadConn })
	committed := false
	var id int64 // of the session
	defer func() {
		if committed {
			return
		}
		// Let the writers go. A server goes on with a statement whose client hung
		// up, and keeps the lock for as long: then only KILL ends the session.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if _, err := conn.ExecContext(ctx, `ROLLBACK`); err != nil && id != 0 {
			db.ExecContext(ctx, fmt.Sprintf(`KILL %d`, id))
		}
	}()

	// A mover that is frozen with the lock in its hand would block the shop for
	// as long as the server keeps its idle session: 8 hours by default. So the
	// server ends it after the budget, rounded up to its unit.
	seconds := int64((c.Budget + time.Second - 1) / time.Second)
	if err := conn.QueryRowContext(ctx, `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
		return err
	}
	// The statement's own time-outs count whole seconds too; the budget itself
	// is kept with a timer and KILL QUERY below. READ COMMITTED, so that what
	// drain reads is as of its statement, not as of an earlier one.
	for _, stmt := range []string{
		fmt.Sprintf(`SET SESSION wait_timeout = %d, innodb_lock_wait_timeout = %d`, seconds, seconds+1),
		`SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED`,
		`START TRANSACTION`,
	} {
		if _, err := conn.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("prepare the session that closes shop %d: %w", c.From.Shop, err)
		}
	}

	ctx, cancel := context.WithTimeoutCause(ctx, c.Budget, ErrBudget)
	defer cancel()
	row, err := lock(ctx, db, conn, id, c)
	if err != nil {
		return err
	}
	if row.State != Open || row.Epoch != c.From.Epoch {
		return fmt.Errorf("%w at epoch %d: %v", ErrNotOpen, c.From.Epoch, row)
	}
	if err := drain(ctx, conn); err != nil {
		return errors.Join(err, budgetSpent(ctx))
	}
	row = Row{Shop: c.From.Shop, State: Moved, Epoch: c.From.Epoch, Destination: c.To, Token: c.Token}
	if err := write(ctx, conn, row); err != nil {
		return errors.Join(err, budgetSpent(ctx))
	}
	if err := budgetSpent(ctx); err != nil {
		return err
	}
	// From here the budget no longer counts: an interrupted COMMIT would only
	// leave us not knowing.
	committed = true
	commitCtx, cancelCommit := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancelCommit()
	if _, err := conn.ExecContext(commitCtx, `COMMIT`); err != nil {
		return lookUpClose(context.WithoutCancel(ctx), db, row, err)
	}
	return nil
}

// lock asks for the exclusive lock and gives up when ctx ends. A client that
// hangs up does not end its statement's wait for a lock, so the server is told.
func lock(ctx context.Context, db *sql.DB, conn *sql.Conn, id int64, c Closing) (Row, error) {
	if c.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Wait, fmt.Errorf("for %v", c.Wait))
		defer cancel()
	}
	var clause = "FOR UPDATE"
	if hook.Off(ctx, hook.Lock) {
		clause = ""
	}
	had := make(chan struct{})
	done := make(chan error, 1)
	readCtx, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	go func() {
		half := time.NewTimer(c.Budget / 2)
		defer half.Stop()
		var blockers error
		for {
			select {
			case <-had:
				done <- nil
				return
			case <-half.C:
				if c.Kill {
					blockers = killBlockers(ctx, db, id)
				}
			case <-ctx.Done():
				// A server that doesn't answer this doesn't answer the read either.
				kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				_, err := db.ExecContext(kctx, fmt.Sprintf(`KILL QUERY %d`, id))
				cancel()
				if err != nil {
					hangUp()
				}
				done <- errors.Join(blockers, err)
				return
			}
		}
	}()
	row, err := Read(readCtx, conn, c.From.Shop, clause)
	close(had)
	killErr := <-done
	if spent := budgetSpent(ctx); spent != nil {
		return row, fmt.Errorf("lock the fence row of shop %d: %w: %w", c.From.Shop, ErrHeld, errors.Join(spent, killErr))
	}
	if err != nil {
		return row, fmt.Errorf("lock the fence row of shop %d: %w", c.From.Shop, err)
	}
	return row, nil
}

// budgetSpent returns why ctx ended, if it did.
func budgetSpent(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// killBlockers ends the sessions that hold the lock which session id waits for:
// after several steps back, a writer that still holds it is taken for frozen.
// Its transaction rolls back, so it is told of the failure or never asks.
func killBlockers(ctx context.Context, db *sql.DB, id int64) error {
	f, err := flavor.Detect(ctx, db)
	if err != nil {
		return err
	}
	query := `SELECT DISTINCT b.trx_mysql_thread_id FROM information_schema.innodb_lock_waits w
		JOIN information_schema.innodb_trx r ON r.trx_id = w.requesting_trx_id
		JOIN information_schema.innodb_trx b ON b.trx_id = w.blocking_trx_id
		WHERE r.trx_mysql_thread_id = ?`
	if f == flavor.MySQL {
		query = `SELECT DISTINCT b.PROCESSLIST_ID FROM performance_schema.data_lock_waits w
			JOIN performance_schema.threads r ON r.THREAD_ID = w.REQUESTING_THREAD_ID
			JOIN performance_schema.threads b ON b.THREAD_ID = w.BLOCKING_THREAD_ID
			WHERE r.PROCESSLIST_ID = ?`
	}
	rows, err := db.QueryContext(ctx, query, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var blocker int64
		if err := rows.Scan(&blocker); err != nil {
			return err
		}
		ids = append(ids, blocker)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	var errs []error
	for _, blocker := range ids {
		_, err := db.ExecContext(ctx, fmt.Sprintf(`KILL %d`, blocker))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lookUpClose finds out what became of a COMMIT whose answer was lost. The
// locking read waits until the server has ended the session either way.
func lookUpClose(ctx context.Context, db *sql.DB, want Row, cause error) error {
	if flavor.CommitRefused(cause) {
		return fmt.Errorf("close shop %d: rolled back: %w", want.Shop, cause)
	}
	lost := fmt.Errorf("close shop %d: %w: %w", want.Shop, podworks.ErrOutcomeUnknown, cause)
	var have Row
	err := flavor.LookUp(ctx, lost, func(ctx context.Context) (err error) {
		have, err = ReadSettled(ctx, db, want.Shop)
		return err
	})
	if err != nil || have == want {
		return err
	}
	return fmt.Errorf("close shop %d: rolled back: %w", want.Shop, cause)
}
