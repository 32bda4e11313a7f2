package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/podworks/podworks"
)

// A Tx is a fenced write transaction of one shop. Its four query methods are
// those of *sql.Tx, and what generated code (sqlc) and query builders ask for.
// It is not for concurrent use.
type Tx struct {
	tx     *sql.Tx
	before []func(context.Context) error
	after  []func(context.Context, error)
}

var _ podworks.Tx = (*Tx)(nil)

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

// Tx runs fn in a write transaction of the shop and commits it, or rolls it
// back when fn or a BeforeCommit hook fails or panics. fn's context carries the
// transaction (podworks.TxFrom).
//
// A shop that is moving is waited for, up to Options.MoveWait, and fn runs in
// the pod it moved to, with the new route in its context. fn runs at most once:
// the fence comes before it, and under the fence the shop can't move.
//
// An error that is podworks.ErrOutcomeUnknown means that COMMIT was sent and
// the answer was lost. Any other error means that nothing was written.
func (s *Scope) Tx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (err error) {
	if outer, ok := podworks.TxFrom(ctx); ok {
		return fmt.Errorf("sharding: Tx of shop %d inside of a transaction (%T): write through the outer one", s.shop, outer)
	}
	sqlTx, route, err := s.begin(ctx)
	if err != nil {
		return err
	}
	ctx = podworks.WithRoute(ctx, route) // the shop may have moved since the scope began
	t := &Tx{tx: sqlTx}
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit, is under way
			err = errors.New("sharding: rolled back: the transaction's function panicked")
			sqlTx.Rollback()
		}
		// The hooks' context outlives a cancelled request: what they have to do
		// (drop a cached page, say) is due all the same.
		end := context.WithoutCancel(ctx)
		for _, hook := range t.after {
			hook(end, err)
		}
	}()
	err = t.run(podworks.WithTx(ctx, t), fn)
	returned = true
	return err
}

// run runs fn and the hooks that come before the commit, and ends the
// transaction.
func (t *Tx) run(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	err := fn(ctx, t)
	for i := 0; err == nil && i < len(t.before); i++ { // a hook may add another
		err = t.before[i](ctx)
	}
	if err != nil {
		// database/sql has rolled back already if the context ended.
		if rollback := t.tx.Rollback(); rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
			// The session is gone, and its transaction with it.
			err = fmt.Errorf("%w (and rolling back: %w)", err, rollback)
		}
		return err
	}
	return t.tx.Commit()
}
