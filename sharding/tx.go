package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/podworks/podworks"
)

// A Tx is a fenced write transaction of one shop, or a savepoint in one. Its
// four query methods are those of *sql.Tx, and what generated code (sqlc), query
// builders and most ORMs ask for. It is not for concurrent use.
type Tx struct {
	tx     *sql.Tx
	scope  *Scope // the root
	before []func(context.Context) error
	after  []func(context.Context, error)
	depth  int // of savepoints
}

var _ podworks.Tx = (*Tx)(nil)

// SQL returns the transaction for libraries that insist on a *sql.Tx. It ends
// when the function of Scope.Tx returns: its Commit is refused, and rolls back.
func (t *Tx) SQL() *sql.Tx { return t.tx }

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
// Inside of a transaction of the same scope, Tx is a savepoint: when fn fails,
// what it wrote is undone and the outer transaction can go on. Hooks that fn
// added run at the end of the outermost transaction, or are told at once that
// they were rolled back.
//
// An error that is podworks.ErrOutcomeUnknown means that COMMIT was sent and
// the answer was lost. Any other error means that nothing was written.
func (s *Scope) Tx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if s == nil {
		return &Error{Err: ErrNoScope, Used: usedAt()}
	}
	// The fence is taken for ctx's shop. With another's of the same pod, this
	// shop's rows would be written while it is moved.
	if in := FromContext(ctx); in != nil && in.root != s.root && !s.root.cluster.off.owner {
		return &CrossPodError{Scope: in.unit(in.bound()), Use: Unit{Shop: s.root.shop, Pod: s.Route().Pod, Site: usedAt()},
			Note: "the context is the first one's, Tx the second one's, acquired at " + s.where()}
	}
	if outer, ok := podworks.TxFrom(ctx); ok {
		t, ok := outer.(*Tx)
		if !ok || t.scope != s.root {
			return &Error{Shop: s.root.shop, Err: ErrRefused, Used: usedAt(), Note: fmt.Sprintf("Tx inside of a transaction (%T) that is not this scope's: write through the outer one", outer)}
		}
		return t.savepoint(ctx, fn)
	}
	return s.transact(ctx, fn)
}

func (s *Scope) transact(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (err error) {
	gates := &s.root.cluster.gates
	if err := gates.enter(ctx, s.root.shop); err != nil {
		return err
	}
	owner := new(owned)
	sqlTx, err := s.begin(ctx, owner)
	if err != nil {
		gates.leave(s.root.shop)
		return err
	}
	t := &Tx{tx: sqlTx, scope: s.root}
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit, is under way
			err = errors.New("sharding: rolled back: the transaction's function panicked")
			sqlTx.Rollback()
		}
		gates.leave(s.root.shop) // before the hooks, which may begin one of their own
		t.tell(ctx, err)
	}()
	err = t.run(podworks.WithTx(ctx, t), fn)
	if err == nil {
		owner.ending = true
		err = sqlTx.Commit()
		if err == sql.ErrTxDone && ctx.Err() != nil {
			// database/sql was quicker: it has rolled back because the context ended.
			err = fmt.Errorf("sharding: rolled back: %w", ctx.Err())
		}
	} else if rollback := sqlTx.Rollback(); rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
		// database/sql has rolled back already if the context ended. Else the
		// session is gone, and its transaction with it.
		err = fmt.Errorf("%w (and rolling back: %w)", err, rollback)
	}
	returned = true
	return err
}

// run runs fn and the hooks that come before the commit.
func (t *Tx) run(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	err := fn(ctx, t)
	for i := 0; err == nil && i < len(t.before); i++ { // a hook may add another
		err = t.before[i](ctx)
	}
	return err
}

// tell runs the hooks that come after the end. Their context outlives a
// cancelled request: what they have to do (drop a cached page, say) is due all
// the same.
func (t *Tx) tell(ctx context.Context, err error) {
	end := context.WithoutCancel(ctx)
	for _, hook := range t.after {
		hook(end, err)
	}
}

// savepoint runs fn in a savepoint of t.
func (t *Tx) savepoint(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (err error) {
	inner := &Tx{tx: t.tx, scope: t.scope, depth: t.depth + 1}
	name := fmt.Sprintf("podworks_%d", inner.depth)
	if _, err := t.tx.ExecContext(ctx, `SAVEPOINT `+name); err != nil {
		return err
	}
	returned := false
	defer func() {
		if returned && err == nil {
			t.before = append(t.before, inner.before...)
			t.after = append(t.after, inner.after...)
			return
		}
		if !returned {
			err = errors.New("sharding: rolled back: the transaction's function panicked")
		}
		// Past a cancelled context: the outer function may go on with another.
		if _, back := t.tx.ExecContext(context.WithoutCancel(ctx), `ROLLBACK TO SAVEPOINT `+name); back != nil {
			// The outer transaction is lost with it, and says so at its next statement.
			err = fmt.Errorf("%w (and rolling back to the savepoint: %w)", err, back)
		}
		inner.tell(ctx, err)
	}()
	err = fn(podworks.WithTx(ctx, inner), inner)
	if err == nil {
		_, err = t.tx.ExecContext(ctx, `RELEASE SAVEPOINT `+name)
	}
	returned = true
	return err
}
