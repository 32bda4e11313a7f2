package master

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks/internal/flavor"
)

// A Querier runs queries: a *sql.Conn, *sql.Tx or *Tx. Generated code (sqlc)
// and query builders ask for the same four methods.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	_ Querier = (*sql.Conn)(nil)
	_ Querier = (*sql.Tx)(nil)
)

// errBehind is why a read goes to the primary.
var errBehind = errors.New("the replica has not reached what this session wrote")

// Read runs fn, which only reads, on the replica. If the session of ctx wrote
// something, the replica is waited for until it has that, and without a session
// no statement is added. The server refuses fn's writes.
//
//	the replica lacks the write after Options.Wait   fn runs on the primary
//	it gives no connection in Options.Wait           fn runs on the primary
//	there is none, or the write can't be named       fn runs on the primary
//	the primary is away too                          ErrPrimary, and ErrBehind
//	                                                 if the replica is only behind
//
// What failed is remembered for a second, in which reads don't wait for it
// again. fn runs at most once, and q is valid until it returns. On the primary
// it is in a read-only transaction, so it sees one snapshot; on the replica each
// statement sees the newest state.
func (m *Master) Read(ctx context.Context, fn func(ctx context.Context, q Querier) error) error {
	written, primary := m.session(ctx).position()
	var why error
	switch {
	case m.replica == nil:
	case primary:
		why = errBehind
	default:
		conn, err := m.current(ctx, written)
		if err == nil {
			defer conn.Close()
			m.stats.replica.Add(1)
			return explain(fn(ctx, conn))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("master: read from the replica: %w", err)
		}
		why = err
	}

	tx, err := m.primary.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		err = unreachable(ctx, "read", err)
		switch {
		case why == errBehind && errors.Is(err, ErrPrimary):
			return fmt.Errorf("%w: %w", ErrBehind, err)
		case why != nil:
			return fmt.Errorf("%w (and the replica: %w)", err, why)
		}
		return err
	}
	// Nothing was written; and if the connection is gone, fn has said so.
	defer func() { _ = tx.Rollback() }()
	m.stats.primary.Add(1)
	return explain(fn(ctx, tx))
}

// explain adds to a refused write what the server's number doesn't say.
func explain(err error) error {
	switch answered(err) {
	case readOnlyTransaction, optionPrevents, readOnlyMode:
		return fmt.Errorf("master: a write in Read, which only reads; use Tx: %w", err)
	}
	return err
}

// current returns a connection to the replica, which has reached what was
// written.
func (m *Master) current(ctx context.Context, written flavor.GTIDs) (*sql.Conn, error) {
	conn, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	if written.String() == "" {
		return conn, nil
	}
	ok, err := m.await(ctx, conn, written)
	if ok {
		return conn, nil
	}
	conn.Close()
	switch {
	case err == nil:
		m.stats.late.Add(1)
		err = errBehind
	case ctx.Err() == nil && answered(err) == 0:
		m.lose()
	}
	return nil, err
}

var errAway = errors.New("the replica gave no connection a moment ago")

// connect takes a connection from the replica's pool.
func (m *Master) connect(ctx context.Context) (*sql.Conn, error) {
	if m.away.active() && !m.away.trial(time.Now()) {
		m.stats.away.Add(1)
		return nil, errAway
	}
	wait, cancel := context.WithTimeout(ctx, m.opts.Wait)
	defer cancel()
	conn, err := m.replica.Conn(wait)
	switch {
	case err == nil:
		m.away.end()
	case ctx.Err() == nil:
		m.lose()
	}
	return conn, err
}

// lose remembers that the replica is away.
func (m *Master) lose() {
	m.away.begin(time.Now())
	m.stats.away.Add(1)
}

// await waits until the replica has reached what was written. While it is known
// to be behind it is only asked, which it answers at once, but for one read in a
// second that waits to see whether it moves.
//
// That a position which was reached long ago is reached says nothing, so only
// such a wait ends the fault.
func (m *Master) await(ctx context.Context, conn *sql.Conn, written flavor.GTIDs) (bool, error) {
	// The server ends the wait itself. This is for one that hangs.
	ctx, cancel := context.WithTimeout(ctx, 2*m.opts.Wait)
	defer cancel()
	late := m.late.active()
	if late {
		ok, err := m.reached(written, ctx, conn, 0)
		if ok || err != nil || !m.late.trial(time.Now()) {
			return ok, err
		}
	}
	ok, err := m.reached(written, ctx, conn, m.opts.Wait)
	switch {
	case ok && late:
		m.late.end()
	case ok:
	case err == nil:
		m.late.begin(time.Now())
	}
	return ok, err
}
