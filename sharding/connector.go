package sharding

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
)

// A connector opens a pod's connections. Each refuses a context without a live
// scope of this pod, and fences what writes.
//
// It never chooses the pod: the pool hands a connection to whoever comes next,
// so a connector that chose by context would give half the queries to the
// wrong pod. It only refuses.
type connector struct {
	cluster *Cluster
	pod     podworks.PodID
	inner   driver.Connector
}

// A server ends a session that was idle for this long: a frozen process must
// not hold a shop's shared lock for ever.
const idleSession = time.Minute

func (c *connector) Driver() driver.Driver { return c.inner.Driver() }

// Connect opens a connection whose session is read-only outside of fenced
// transactions. The pool may call it with a context of its own, so there is no
// scope to check yet; every use of the connection checks it.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	dc, err := c.inner.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("sharding: connect to pod %d: %w", c.pod, err)
	}
	full, ok := dc.(innerConn)
	if !ok {
		dc.Close()
		return nil, fmt.Errorf("sharding: pod %d: the driver's connection (%T) lacks the context methods; use go-sql-driver/mysql", c.pod, dc)
	}
	for _, stmt := range []string{
		`SET SESSION TRANSACTION READ ONLY`,
		fmt.Sprintf(`SET SESSION wait_timeout = %d`, int(idleSession/time.Second)),
	} {
		if _, err := full.ExecContext(ctx, stmt, nil); err != nil {
			dc.Close()
			return nil, fmt.Errorf("sharding: prepare a session of pod %d: %w", c.pod, err)
		}
	}
	// One text with two statements could carry a COMMIT past the check of its
	// first word. The server must find it a syntax error.
	if _, err := full.ExecContext(ctx, `DO 0; DO 0`, nil); err == nil {
		dc.Close()
		return nil, fmt.Errorf("sharding: pod %d: the connection allows several statements in one text; set MultiStatements to false in the driver's configuration", c.pod)
	} else if !serverSaid(err) {
		dc.Close()
		return nil, fmt.Errorf("sharding: prepare a session of pod %d: %w", c.pod, err)
	}
	cn := &conn{cluster: c.cluster, pod: c.pod, innerConn: full}
	if err := cn.askTimeouts(ctx); err != nil {
		dc.Close()
		return nil, fmt.Errorf("sharding: prepare a session of pod %d: %w", c.pod, err)
	}
	return cn, nil
}

// serverSaid reports whether err is the server's answer rather than the lack of
// one.
func serverSaid(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e)
}

// innerConn is what we need from the driver's connections.
type innerConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
}

// A conn is one connection of a pod. database/sql uses it from one goroutine at
// a time.
type conn struct {
	cluster *Cluster
	pod     podworks.PodID
	innerConn
	tx     *tx  // the open transaction, or nil
	broken bool // must not go back into the pool

	// Whether a lock that can't be had in time ends the whole transaction
	// (innodb_rollback_on_timeout) rather than the statement.
	timeoutEnds bool
}

var _ innerConn = (*conn)(nil)

// IsValid reports whether the pool may keep the connection.
func (c *conn) IsValid() bool { return !c.broken && c.innerConn.IsValid() }

// check returns the route of the live scope of ctx for this pod. In a
// transaction the scope must be of the same shop: another one's writes would go
// under the wrong shop's lock. And a transaction that the server has ended must
// not go on: what it does from there would be committed one by one, without the
// lock, for the session is not read-only again before COMMIT or ROLLBACK.
func (c *conn) check(ctx context.Context) (podworks.Route, error) {
	s, ok := scopeFrom(ctx)
	if !ok {
		return podworks.Route{}, &Error{Pod: c.pod, Err: ErrNoScope}
	}
	if s.cluster != c.cluster {
		return podworks.Route{}, &Error{Shop: s.shop, Pod: c.pod, Err: ErrCrossPod, Note: "the context is of another Cluster"}
	}
	route, err := s.allow(c.pod)
	switch {
	case err != nil || c.tx == nil:
	case c.tx.shop != s.shop:
		err = &Error{Shop: s.shop, Pod: c.pod, Err: ErrCrossPod, Note: fmt.Sprintf("the transaction is of shop %d", c.tx.shop)}
	case c.tx.lost != nil:
		err = &Error{Shop: s.shop, Pod: c.pod, Err: ErrRefused, Note: fmt.Sprintf("the server has rolled this transaction back: %v", c.tx.lost)}
	}
	return route, err
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	route, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.permit(route.Shop, query); err != nil {
		return nil, err
	}
	rows, err := c.innerConn.QueryContext(ctx, query, args)
	if err != nil {
		return nil, c.explain(route.Shop, err)
	}
	return c.watch(rows)
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	route, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	k, err := c.permit(route.Shop, query)
	if err != nil {
		return nil, err
	}
	exec := func() (driver.Result, error) { return c.exec(ctx, query, args) }
	if c.tx != nil || k != writes {
		res, err := exec()
		return res, c.explain(route.Shop, err)
	}
	return c.fenced(ctx, route, exec)
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

// fenced runs one write statement in a transaction of its own.
func (c *conn) fenced(ctx context.Context, route podworks.Route, exec func() (driver.Result, error)) (driver.Result, error) {
	t, err := c.begin(ctx, route, driver.TxOptions{})
	if err != nil {
		return nil, err
	}
	res, err := exec()
	if err != nil {
		err = c.explain(route.Shop, err)
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

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	route, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	k, err := c.permit(route.Shop, query)
	if err != nil {
		return nil, err
	}
	// In a read-only session a server doesn't even prepare a write.
	if k == writes && c.tx == nil {
		t, err := c.start(ctx, route.Shop, driver.TxOptions{})
		if err != nil {
			return nil, err
		}
		defer t.Rollback() // nothing is in it
	}
	st, err := c.innerConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.explain(route.Shop, err)
	}
	full, ok := st.(innerStmt)
	if !ok {
		st.Close()
		return nil, fmt.Errorf("sharding: pod %d: the driver's statement (%T) lacks the context methods; use go-sql-driver/mysql", c.pod, st)
	}
	return &stmt{innerStmt: full, conn: c, kind: k}, nil
}

// Prepare, Begin and their like without a context can carry no scope.
func (c *conn) Prepare(string) (driver.Stmt, error) { return nil, &Error{Pod: c.pod, Err: ErrNoScope} }

// Begin is refused like Prepare.
func (c *conn) Begin() (driver.Tx, error) { return nil, &Error{Pod: c.pod, Err: ErrNoScope} }

// permit returns a statement's kind and refuses what would lose the fence's
// lock. The error shows how the statement begins, but none of its values: one
// may be a password.
func (c *conn) permit(shop podworks.ShopID, query string) (kind, error) {
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
	return k, &Error{Shop: shop, Pod: c.pod, Err: ErrRefused, Note: fmt.Sprintf("%q could end the transaction, and with it the lock that keeps the shop's writes in one pod; run schema changes outside of a scope, use Scope.Tx for transactions, and write out what a procedure does", begin)}
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
func (c *conn) explain(shop podworks.ShopID, err error) error {
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
		err = &Error{Shop: shop, Pod: c.pod, Err: ErrRefused, Note: note + e.Message}
		ended = true
	}
	if ended && fenced && c.tx.lost == nil {
		c.tx.lost = err
	}
	return err
}

// askTimeouts finds out what a timed out lock ends.
func (c *conn) askTimeouts(ctx context.Context) error {
	rows, err := c.innerConn.QueryContext(ctx, `SELECT @@innodb_rollback_on_timeout`, nil)
	if err != nil {
		return err
	}
	dest := make([]driver.Value, 1)
	if err := rows.Next(dest); err != nil {
		rows.Close()
		return err
	}
	on, err := toUint(dest[0])
	c.timeoutEnds = on != 0
	return errors.Join(err, rows.Close())
}

// innerRows is what the driver's rows can do.
type innerRows interface {
	driver.RowsNextResultSet
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// rows are those of a query in a fenced transaction. The server may end it at
// any of them.
type rows struct {
	innerRows
	tx *tx
}

// watch returns rows that notice when the server ends the transaction.
func (c *conn) watch(r driver.Rows) (driver.Rows, error) {
	if c.tx == nil || c.tx.readOnly {
		return r, nil
	}
	full, ok := r.(innerRows)
	if !ok {
		r.Close()
		return nil, fmt.Errorf("sharding: pod %d: the driver's rows (%T) lack methods; use go-sql-driver/mysql", c.pod, r)
	}
	return &rows{full, c.tx}, nil
}

func (r *rows) Next(dest []driver.Value) error { return r.tx.saw(r.innerRows.Next(dest)) }
func (r *rows) NextResultSet() error           { return r.tx.saw(r.innerRows.NextResultSet()) }
func (r *rows) Close() error                   { return r.tx.saw(r.innerRows.Close()) }

// saw explains an error of a row.
func (t *tx) saw(err error) error {
	if err == nil || err == io.EOF || t.conn.tx != t {
		return err
	}
	return t.conn.explain(t.shop, err)
}

// BeginTx starts a transaction; unless it is read-only, it has the fence's
// shared lock when BeginTx returns.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	route, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	t, err := c.begin(ctx, route, opts)
	if err != nil {
		return nil, err // and no *tx in a driver.Tx
	}
	return t, nil
}

var isolations = map[driver.IsolationLevel]string{
	0: "", // the server's default
	1: "READ UNCOMMITTED",
	2: "READ COMMITTED",
	4: "REPEATABLE READ",
	6: "SERIALIZABLE",
}

// begin starts a transaction and takes the fence, unless it is read-only.
func (c *conn) begin(ctx context.Context, route podworks.Route, opts driver.TxOptions) (*tx, error) {
	t, err := c.start(ctx, route.Shop, opts)
	if err != nil || opts.ReadOnly {
		return t, err
	}
	row, err := c.lock(ctx, route.Shop)
	if err == nil && (row.State != fence.Open || row.Epoch != route.Epoch) {
		err = &Error{Shop: route.Shop, Pod: c.pod, Err: ErrMoved, Note: fmt.Sprintf("the write came with epoch %d; the pod's fence says %v", route.Epoch, row)}
	}
	if err != nil {
		// Rolled back at once, so that the gap lock on a missing row, which would
		// keep a mover or a new shop from making it, does not stay.
		if rollback := t.Rollback(); rollback != nil {
			err = errors.Join(err, rollback)
		}
		return nil, err
	}
	return t, nil
}

// start starts a transaction without the fence.
func (c *conn) start(ctx context.Context, shop podworks.ShopID, opts driver.TxOptions) (*tx, error) {
	if c.tx != nil {
		return nil, &Error{Shop: shop, Pod: c.pod, Err: ErrRefused, Note: "a transaction is open on this connection, and another START TRANSACTION would commit it"}
	}
	level, ok := isolations[opts.Isolation]
	if !ok {
		return nil, fmt.Errorf("sharding: MySQL has no isolation level %d", opts.Isolation)
	}
	if level != "" {
		if _, err := c.innerConn.ExecContext(ctx, `SET TRANSACTION ISOLATION LEVEL `+level, nil); err != nil {
			return nil, err
		}
	}
	mode := `START TRANSACTION READ WRITE`
	if opts.ReadOnly {
		mode = `START TRANSACTION READ ONLY`
	}
	if _, err := c.innerConn.ExecContext(ctx, mode, nil); err != nil {
		return nil, err
	}
	c.tx = &tx{conn: c, shop: shop, readOnly: opts.ReadOnly}
	return c.tx, nil
}

// lock takes the shared lock on the shop's row. This select is a locking one,
// so it sees the newest row and leaves the transaction's snapshot to be taken
// by the first read of the application, after the lock.
func (c *conn) lock(ctx context.Context, shop podworks.ShopID) (fence.Row, error) {
	row := fence.Row{Shop: shop, State: fence.Absent}
	rows, err := c.innerConn.QueryContext(ctx, fence.SharedLock(shop), nil)
	if err != nil {
		return row, err
	}
	dest := make([]driver.Value, 4)
	switch err := rows.Next(dest); {
	case errors.Is(err, io.EOF):
		return row, rows.Close()
	case err != nil:
		rows.Close()
		return row, err
	}
	epoch, errEpoch := toUint(dest[0])
	destination, errDestination := toUint(dest[2])
	token, errToken := toUint(dest[3])
	row.Epoch, row.State, row.Destination, row.Token = podworks.Epoch(epoch), fence.State(toString(dest[1])), podworks.PodID(destination), token
	return row, errors.Join(errEpoch, errDestination, errToken, rows.Close())
}

func toUint(v driver.Value) (uint64, error) {
	switch v := v.(type) {
	case int64:
		return uint64(v), nil
	case uint64:
		return v, nil
	}
	var n uint64
	if _, err := fmt.Sscanf(toString(v), "%d", &n); err != nil {
		return 0, fmt.Errorf("sharding: the fence row holds %q, want a number", toString(v))
	}
	return n, nil
}

func toString(v driver.Value) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	s, _ := v.(string)
	return s
}

// A tx ends what begin began.
type tx struct {
	conn     *conn
	shop     podworks.ShopID
	readOnly bool
	lost     error // why the server ended the transaction before its owner did
}

// Commit sends COMMIT, whatever became of the caller's context: the driver has
// none here, and an interrupted COMMIT would only leave us not knowing. It never
// returns driver.ErrBadConn, for which database/sql would do the work again.
func (t *tx) Commit() error { return t.commit(context.Background()) }

func (t *tx) commit(ctx context.Context) error {
	c := t.conn
	lost := t.lost
	if lost == nil {
		lost = ctx.Err() // nothing is sent any more
	}
	if lost != nil {
		_ = t.Rollback() // it fails only with the connection
		return fmt.Errorf("sharding: pod %d: rolled back: %w", c.pod, lost)
	}
	c.tx = nil
	_, err := c.innerConn.ExecContext(ctx, `COMMIT`, nil)
	if err != nil {
		c.broken = true
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, driver.ErrBadConn):
		// The driver's promise: nothing was sent. With the connection the
		// transaction is gone too.
		return fmt.Errorf("sharding: pod %d: rolled back: the connection was lost before COMMIT was sent", c.pod)
	case refusedCommit(err):
		return fmt.Errorf("sharding: pod %d: rolled back: %w", c.pod, err)
	}
	return fmt.Errorf("sharding: pod %d: %w: %w", c.pod, podworks.ErrOutcomeUnknown, err)
}

// refusedCommit reports whether the server answered, and its answer means that
// the transaction is rolled back. The exceptions are answers that a session
// also gets when it is ended in the middle of committing.
func refusedCommit(err error) bool {
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

// Rollback ends the transaction, or the session with it.
func (t *tx) Rollback() error {
	c := t.conn
	c.tx = nil
	_, err := c.innerConn.ExecContext(context.Background(), `ROLLBACK`, nil)
	if err != nil {
		// In the pool, the next START TRANSACTION would commit what is left.
		c.broken = true
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

// A stmt checks the scope at every use: prepared under one shop, it must not
// run under another's.
type stmt struct {
	innerStmt
	conn *conn
	kind kind
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	route, err := s.conn.check(ctx)
	if err != nil {
		return nil, err
	}
	exec := func() (driver.Result, error) { return s.innerStmt.ExecContext(ctx, args) }
	if s.conn.tx != nil || s.kind != writes {
		res, err := exec()
		return res, s.conn.explain(route.Shop, err)
	}
	return s.conn.fenced(ctx, route, exec)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	route, err := s.conn.check(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.innerStmt.QueryContext(ctx, args)
	if err != nil {
		return nil, s.conn.explain(route.Shop, err)
	}
	return s.conn.watch(rows)
}
