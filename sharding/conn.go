package sharding

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// A conn is one connection of a pod. database/sql uses it from one goroutine at
// a time.
type conn struct {
	pod *pod
	innerConn
	owner  *Scope                  // the root scope that has used it since the pool gave it out
	tx     *tx                     // the open transaction, or nil
	fence  driver.StmtQueryContext // the fence's select, prepared at the first write
	broken bool                    // must not go back into the pool

	// Whether a lock that can't be had in time ends the whole transaction
	// (innodb_rollback_on_timeout) rather than the statement.
	timeoutEnds bool
}

var _ innerConn = (*conn)(nil)

// IsValid reports whether the pool may keep the connection.
func (c *conn) IsValid() bool { return !c.broken && c.innerConn.IsValid() }

// ResetSession is called when the pool gives the connection out again.
func (c *conn) ResetSession(ctx context.Context) error {
	c.owner = nil
	return c.innerConn.ResetSession(ctx)
}

// Close ends the connection, and what is open on it.
func (c *conn) Close() error {
	if c.tx != nil {
		c.tx.release = nil // the server may not have heard yet
		c.tx.end()
	}
	return c.innerConn.Close()
}

// check returns the live scope of ctx for this pod, and its binding.
//
// What has a state on the server, a transaction or a *sql.Conn, is of the scope
// that used it first: another shop's writes would go under the wrong shop's
// lock, and find its session's variables and temporary tables. And a transaction
// that the server has ended must not go on: what it does from there would be
// committed one by one, without the lock, for the session is not read-only again
// before COMMIT or ROLLBACK.
func (c *conn) check(ctx context.Context) (*Scope, *binding, error) {
	s := FromContext(ctx)
	if s == nil {
		return nil, nil, &Error{Pod: c.pod.id, Err: ErrNoScope, Used: usedAt()}
	}
	root := s.root
	if root.cluster != c.pod.cluster {
		return nil, nil, &CrossPodError{Scope: root.unit(root.bound()), Use: Unit{Pod: c.pod.id, Site: usedAt()}, Note: "they are of two Clusters"}
	}
	b, err := s.allow(c.pod)
	if o, ok := ctx.Value(ownedKey{}).(*owned); ok && o.trial != nil && !errors.Is(err, ErrReleased) {
		b, err = o.trial, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if c.owner == nil {
		c.owner = root
	}
	if owner := c.owner; owner != root && !c.pod.cluster.off.owner {
		what := "connection"
		if c.tx != nil {
			what = "transaction"
		}
		if _, err := owner.check(); err != nil {
			return nil, nil, err
		}
		return nil, nil, &CrossPodError{Scope: owner.unit(owner.bound()), Use: Unit{Shop: root.shop, Pod: b.route.Pod, Site: usedAt()},
			Note: "the " + what + " is the first one's, the context is the second one's, acquired at " + s.where()}
	}
	if c.tx != nil && c.tx.lost != nil {
		return nil, nil, &Error{Shop: root.shop, Pod: c.pod.id, Err: ErrRefused, Note: fmt.Sprintf("the server has rolled this transaction back: %v", c.tx.lost)}
	}
	return s, b, nil
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, _, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.permit(s, query); err != nil {
		return nil, err
	}
	return c.query(s, args, func() (driver.Rows, error) { return c.innerConn.QueryContext(ctx, query, args) })
}

// query runs a query and watches its rows.
func (c *conn) query(s *Scope, args []driver.NamedValue, run func() (driver.Rows, error)) (driver.Rows, error) {
	start := time.Now()
	r, err := run()
	if errors.Is(err, driver.ErrSkip) {
		return nil, err // database/sql prepares it, which comes back here
	}
	l := &s.root.load
	l.since(start)
	l.sent(args)
	if err != nil {
		return nil, c.explain(s, err)
	}
	return &rows{Rows: r, scope: s, conn: c, tx: c.tx}, nil
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, b, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	k, err := c.permit(s, query)
	if err != nil {
		return nil, err
	}
	return c.run(ctx, s, b, k, args, func() (driver.Result, error) { return c.exec(ctx, query, args) })
}

// run runs a statement, fenced if it has to be.
func (c *conn) run(ctx context.Context, s *Scope, b *binding, k kind, args []driver.NamedValue, exec func() (driver.Result, error)) (driver.Result, error) {
	l := &s.root.load
	if c.tx == nil && k == writes {
		t, err := c.begin(ctx, s, b, driver.TxOptions{})
		if err != nil {
			return nil, err
		}
		l.sent(args)
		defer l.since(time.Now())
		return c.single(ctx, s, t, exec)
	}
	l.sent(args)
	defer l.since(time.Now())
	res, err := exec()
	return res, c.explain(s, err)
}

// single runs one write statement in a transaction of its own.
func (c *conn) single(ctx context.Context, s *Scope, t *tx, exec func() (driver.Result, error)) (driver.Result, error) {
	res, err := exec()
	if err != nil {
		err = c.explain(s, err)
		// It fails only with the connection, and the transaction with it. The
		// server's error goes out as it came in: some libraries look at its type.
		_ = t.Rollback()
		return nil, err
	}
	// Unlike in Commit, the caller's context counts: a plain single write would
	// also return when it ends.
	if err := t.commit(ctx); err != nil {
		return nil, err
	}
	return res, nil
}

// exec runs a statement with arguments even where the driver would rather have
// it prepared: database/sql's own way of doing that starts with a statement of
// its own, and would fence twice.
func (c *conn) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.innerConn.ExecContext(ctx, query, args)
	if !errors.Is(err, driver.ErrSkip) {
		return res, err
	}
	st, err := c.innerConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	return st.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, _, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	k, err := c.permit(s, query)
	if err != nil {
		return nil, err
	}
	// In a read-only session a server doesn't even prepare a write.
	if k == writes && c.tx == nil {
		t, err := c.start(ctx, s, driver.TxOptions{})
		if err != nil {
			return nil, err
		}
		defer t.Rollback() // nothing is in it
	}
	st, err := c.innerConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.explain(s, err)
	}
	full, ok := st.(innerStmt)
	if !ok {
		st.Close()
		return nil, fmt.Errorf("sharding: pod %d: the driver's statement (%T) lacks the context methods; use go-sql-driver/mysql", c.pod.id, st)
	}
	return &stmt{innerStmt: full, conn: c, kind: k}, nil
}

// Prepare, Begin and their like without a context can carry no scope.
func (c *conn) Prepare(string) (driver.Stmt, error) { return nil, c.noScope() }

// Begin is refused like Prepare.
func (c *conn) Begin() (driver.Tx, error) { return nil, c.noScope() }

func (c *conn) noScope() error { return &Error{Pod: c.pod.id, Err: ErrNoScope, Used: usedAt()} }

// permit returns a statement's kind and refuses what would lose the fence's
// lock. The error shows how the statement begins, but none of its values: one
// may be a password.
func (c *conn) permit(s *Scope, query string) (kind, error) {
	k := classify(query)
	if k != refused {
		return k, nil
	}
	begin := query
	if i := strings.IndexAny(begin, "'\""); i >= 0 {
		begin = begin[:i] + "…"
	}
	if len(begin) > 60 {
		begin = begin[:60] + "…"
	}
	return k, &Error{Shop: s.root.shop, Pod: c.pod.id, Err: ErrRefused, Used: usedAt(), Note: fmt.Sprintf("%q could end the transaction, and with it the lock that keeps the shop's writes in one pod; run schema changes outside of a scope, use Scope.Tx for transactions, and write out what a procedure does", begin)}
}

// What the servers answer to a write in a read-only transaction, and what after
// they rolled back a transaction as a whole.
const (
	readOnlyTransaction = 1792
	lockWaitTimeout     = 1205 // as a whole if innodb_rollback_on_timeout is set
	lockTableFull       = 1206
	deadlock            = 1213
	recordChanged       = 1020 // MariaDB with innodb_snapshot_isolation
)

// explain adds what a server's bare number doesn't say, and notes that the
// server has ended the transaction.
func (c *conn) explain(s *Scope, err error) error {
	if err == nil {
		return nil
	}
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return err
	}
	fenced := c.tx != nil && !c.tx.readOnly
	ended := false
	switch e.Number {
	case lockTableFull, deadlock, recordChanged:
		ended = true
	case lockWaitTimeout:
		ended = c.timeoutEnds
	case readOnlyTransaction:
		note := "this statement writes outside of a fenced transaction; run it in Scope.Tx: "
		if fenced {
			note = "the server ended this transaction before: "
		}
		err = &Error{Shop: s.root.shop, Pod: c.pod.id, Err: ErrRefused, Note: note + e.Message}
		ended = true
	}
	if ended && fenced && c.tx.lost == nil {
		c.tx.lost = err
	}
	return err
}

// innerStmt is what we need from the driver's prepared statements.
type innerStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
}

// A stmt checks the scope at every use, as its text would be. It has no state of
// a shop: libraries keep one for a pod and use it for all the pod's shops.
type stmt struct {
	innerStmt
	conn *conn
	kind kind
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	sc, b, err := s.conn.check(ctx)
	if err != nil {
		return nil, err
	}
	return s.conn.run(ctx, sc, b, s.kind, args, func() (driver.Result, error) { return s.innerStmt.ExecContext(ctx, args) })
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	sc, _, err := s.conn.check(ctx)
	if err != nil {
		return nil, err
	}
	return s.conn.query(sc, args, func() (driver.Rows, error) { return s.innerStmt.QueryContext(ctx, args) })
}
