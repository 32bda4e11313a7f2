package master

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
)

// A Tx is a transaction on the primary. Its four query methods are those of
// *sql.Tx, and what generated code (sqlc) and query builders ask for. It is not
// for concurrent use.
type Tx struct {
	tx     *sql.Tx
	master *Master
	before []func(context.Context) error
	after  []func(context.Context, error)
}

var (
	_ podworks.Tx = (*Tx)(nil)
	_ Querier     = (*Tx)(nil)
)

// ExecContext runs a statement.
func (t *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(ctx, query, args...)
}

// QueryContext runs a query.
func (t *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a query for one row.
func (t *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(ctx, query, args...)
}

// PrepareContext prepares a statement that lives as long as the transaction.
func (t *Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	return t.tx.PrepareContext(ctx, query)
}

// BeforeCommit adds a hook; see podworks.Tx.
func (t *Tx) BeforeCommit(fn func(context.Context) error) { t.before = append(t.before, fn) }

// AfterEnd adds a hook; see podworks.Tx.
func (t *Tx) AfterEnd(fn func(context.Context, error)) { t.after = append(t.after, fn) }

// Tx runs fn in a transaction on the primary and commits it, or rolls it back
// when fn or a BeforeCommit hook fails or panics. fn runs at most once, and its
// context carries the transaction (podworks.TxFrom). A context that carries one
// already is refused: a global write inside of a shop's transaction would hold
// the shop's lock for as long as another region takes, and stay when that rolls
// back.
//
// An error of a statement belongs into fn's: after some, such as a deadlock, the
// server has rolled back, and what fn does from there is not in the transaction.
//
// If ctx has a session, one more statement after the commit asks for its GTID,
// which the session's reads wait for from then on.
//
//	nil                        committed
//	ErrOutcomeUnknown (by Is)  COMMIT was sent, the answer was lost;
//	                           the session reads from the primary from then on
//	ErrPrimary                 nothing was written: the primary is away
//	any other                  nothing was written, for this reason
func (m *Master) Tx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if outer, ok := podworks.TxFrom(ctx); ok {
		return fmt.Errorf("master: Tx inside of a transaction (%T): write through the outer one if it is of this database, else before it or after it", outer)
	}
	if err := ctx.Err(); err != nil { // which is not the primary's fault
		return fmt.Errorf("master: begin: %w", err)
	}
	// One connection, for the session that committed is asked for the GTID.
	conn, err := m.primary.Conn(ctx)
	if err != nil {
		return unreachable(ctx, "begin", err)
	}
	defer conn.Close()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return unreachable(ctx, "begin", err)
	}
	t := &Tx{tx: tx, master: m}
	return t.run(ctx, conn, fn)
}

func (t *Tx) run(ctx context.Context, conn *sql.Conn, fn func(ctx context.Context, tx *Tx) error) (err error) {
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit, is under way
			err = errors.New("master: rolled back: the transaction's function panicked")
			_ = t.tx.Rollback() // it fails only with the connection
		}
		// The hooks' context outlives a cancelled request: what they have to do
		// (drop a cached page, say) is due all the same.
		end := context.WithoutCancel(ctx)
		for _, hook := range t.after {
			hook(end, err)
		}
	}()
	err = t.work(podworks.WithTx(ctx, t), fn)
	if err == nil {
		if err = t.commit(ctx); err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) {
			t.note(ctx, conn, err)
		}
	}
	returned = true
	return err
}

// work runs fn and the hooks that come before the commit, and rolls back if one
// fails.
func (t *Tx) work(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	err := fn(ctx, t)
	for i := 0; err == nil && i < len(t.before); i++ { // a hook may add another
		err = t.before[i](ctx)
	}
	if err == nil {
		return nil
	}
	rollback := t.tx.Rollback()
	// A server that has become read-only, or a session that is gone and its
	// transaction with it: the primary is away, whatever fn makes of that. If the
	// context ended, database/sql has rolled back already, and the driver has
	// closed the connection in the middle of a statement.
	if takesNoWrites(err) || lost(rollback) {
		return fmt.Errorf("%w: %w", ErrPrimary, err)
	}
	return err
}

func (t *Tx) commit(ctx context.Context) error {
	err := t.tx.Commit()
	if err == sql.ErrTxDone && ctx.Err() != nil {
		err = ctx.Err() // database/sql was quicker: it has rolled back because of that
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, driver.ErrBadConn):
		// The driver's promise: nothing was sent. With the connection the
		// transaction is gone too.
		return fmt.Errorf("%w: rolled back: the connection was lost before COMMIT was sent", ErrPrimary)
	case err == context.Canceled, err == context.DeadlineExceeded, err == sql.ErrTxDone:
		// database/sql has looked at the context before COMMIT, or the driver at a
		// connection that the end of the context had closed before. Only these
		// very values: a network's timeout, which may come while COMMIT is sent,
		// says that it is DeadlineExceeded too.
		return fmt.Errorf("master: rolled back: %w", err)
	case flavor.CommitRefused(err):
		if takesNoWrites(err) {
			return fmt.Errorf("%w: rolled back: %w", ErrPrimary, err)
		}
		return fmt.Errorf("master: rolled back: %w", err)
	}
	return fmt.Errorf("master: %w: %w", podworks.ErrOutcomeUnknown, err)
}

// note tells the session of ctx what was committed, or may have been.
func (t *Tx) note(ctx context.Context, conn *sql.Conn, unknown error) {
	s := t.master.session(ctx)
	if s == nil {
		return
	}
	if unknown != nil {
		s.note(s.turn(), flavor.GTIDs{}, unknown)
		return
	}
	// The write has happened, so it is named even if the request has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.master.opts.Wait)
	defer cancel()
	turn := s.turn()
	f, err := t.master.flavor(ctx, conn)
	var written flavor.GTIDs
	if err == nil {
		written, err = flavor.Written(ctx, conn, f)
	}
	s.note(turn, written, err)
}

// within runs fn in the transaction that ctx carries if it is one of m, else in
// one of its own, again after a deadlock, which leaves nothing behind.
func (m *Master) within(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if outer, ok := podworks.TxFrom(ctx); ok {
		if t, ok := outer.(*Tx); ok && t.master == m {
			return fn(ctx, t)
		}
	}
	for again := 3; ; again-- {
		err := m.Tx(ctx, fn)
		if n := answered(err); again == 0 || n != deadlock && n != recordChanged || errors.Is(err, podworks.ErrOutcomeUnknown) {
			return err
		}
	}
}
