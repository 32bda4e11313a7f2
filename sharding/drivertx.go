package sharding

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/flavor"
)

// An owned transaction is one of Scope.Tx, which has waited for the shop's turn
// itself, before it took a connection from the others, and alone may commit.
type owned struct {
	ending bool
	trial  *binding // where it is begun, if the scope is not bound there yet
}

type ownedKey struct{}

// BeginTx starts a transaction; unless it is read-only, it has the fence's
// shared lock when BeginTx returns.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	s, b, err := c.check(ctx)
	if err != nil {
		return nil, err
	}
	t, err := c.begin(ctx, s, b, opts)
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
func (c *conn) begin(ctx context.Context, s *Scope, b *binding, opts driver.TxOptions) (*tx, error) {
	if opts.ReadOnly {
		return c.start(ctx, s, opts)
	}
	owner, _ := ctx.Value(ownedKey{}).(*owned)
	if c.tx != nil {
		owner = &owned{} // start refuses it
	}
	if outer, ok := podworks.TxFrom(ctx); ok && owner == nil {
		if t, ok := outer.(*Tx); ok && t.scope == s.root {
			return nil, &Error{Shop: s.root.shop, Pod: c.pod.id, Err: ErrRefused, Used: usedAt(), Note: "a write on the pool inside of Scope.Tx: it would stay when that is rolled back, and wait for a place that that may hold; write through its tx"}
		}
	}
	gates, route := &c.pod.cluster.gates, b.route
	if owner == nil {
		if err := gates.enter(ctx, route.Shop); err != nil {
			return nil, err
		}
	}
	t, err := c.enter(ctx, s, route, opts)
	if err != nil {
		if owner == nil {
			gates.leave(route.Shop)
		}
		return nil, err
	}
	t.owner, t.gated = owner, owner == nil
	s.root.load.writes.Add(1)
	return t, nil
}

// enter starts a transaction and takes the fence.
func (c *conn) enter(ctx context.Context, s *Scope, route podworks.Route, opts driver.TxOptions) (*tx, error) {
	if locker := c.pod.locker; locker != nil {
		check, release, err := locker.Share(ctx, route)
		if err != nil {
			return nil, fmt.Errorf("sharding: pod %d: %w", c.pod.id, err)
		}
		t, err := c.start(ctx, s, opts)
		if err != nil {
			release()
			return nil, err
		}
		t.check, t.release = check, release
		return t, nil
	}
	t, err := c.start(ctx, s, opts)
	if err != nil {
		return nil, err
	}
	row, err := c.lock(ctx, route.Shop)
	if err == nil && (row.State != fence.Open || row.Epoch != route.Epoch && !c.pod.cluster.off.epoch) {
		moved := &Error{Shop: route.Shop, Pod: c.pod.id, Err: ErrMoved, Note: fmt.Sprintf("the write came with epoch %d; the pod's fence says %v", route.Epoch, row)}
		if row.State == fence.Moved {
			moved.next = podworks.Route{Shop: route.Shop, Pod: row.Destination, Epoch: row.Epoch + 1}
		}
		err = moved
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
func (c *conn) start(ctx context.Context, s *Scope, opts driver.TxOptions) (*tx, error) {
	if c.tx != nil {
		return nil, &Error{Shop: s.root.shop, Pod: c.pod.id, Err: ErrRefused, Used: usedAt(), Note: "a transaction is open on this connection, and another START TRANSACTION would commit it"}
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
	c.tx = &tx{conn: c, shop: s.root.shop, readOnly: opts.ReadOnly}
	return c.tx, nil
}

// lock takes the shared lock on the shop's row. This select is a locking one,
// so it sees the newest row and leaves the transaction's snapshot to be taken
// by the first read of the application, after the lock.
func (c *conn) lock(ctx context.Context, shop podworks.ShopID) (fence.Row, error) {
	row := fence.Row{Shop: shop, State: fence.Absent}
	rows, err := c.askLock(ctx, shop)
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

// askLock sends the select. It is prepared at the connection's first write,
// which makes each fence a sixth cheaper, and goes as text where the server
// prepares no more statements (max_prepared_stmt_count).
func (c *conn) askLock(ctx context.Context, shop podworks.ShopID) (driver.Rows, error) {
	any, text := fence.SharedLockAny, fence.SharedLock(shop)
	if c.pod.cluster.off.lock {
		any, text = strings.TrimSuffix(any, " LOCK IN SHARE MODE"), strings.TrimSuffix(text, " LOCK IN SHARE MODE")
	}
	if c.fence == nil {
		st, err := c.innerConn.PrepareContext(ctx, any)
		if serverSaid(err) {
			return c.innerConn.QueryContext(ctx, text, nil)
		}
		if err != nil {
			return nil, err
		}
		asks, ok := st.(driver.StmtQueryContext)
		if !ok { // a wrapper's
			st.Close()
			return c.innerConn.QueryContext(ctx, text, nil)
		}
		c.fence = asks
	}
	return c.fence.QueryContext(ctx, []driver.NamedValue{{Ordinal: 1, Value: int64(shop)}})
}

func toUint(v driver.Value) (uint64, error) {
	switch v := v.(type) {
	case int64:
		return uint64(v), nil
	case uint64:
		return v, nil
	}
	n, err := strconv.ParseUint(toString(v), 10, 64)
	if err != nil {
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
	gated    bool   // has a place that it must give back
	owner    *owned // if it is Scope.Tx's
	lost     error  // why the server ended the transaction before its owner did

	check   func(context.Context) error // the Locker's
	release func()
}

// end notes that the transaction is over, one way or the other.
func (t *tx) end() {
	t.conn.tx = nil
	if t.gated {
		t.gated = false
		t.conn.pod.cluster.gates.leave(t.shop)
	}
	if t.release != nil {
		t.release()
	}
}

// Commit sends COMMIT, whatever became of the caller's context: an interrupted
// COMMIT would only leave us not knowing. It never returns driver.ErrBadConn, for which database/sql would do the work again.
func (t *tx) Commit() error {
	if t.owner != nil && !t.owner.ending {
		_ = t.Rollback()
		return &Error{Shop: t.shop, Pod: t.conn.pod.id, Err: ErrRefused, Used: usedAt(), Note: "the transaction is Scope.Tx's, which commits it when its function has returned; it was rolled back"}
	}
	ctx, cancel := t.conn.pod.cluster.patient()
	defer cancel()
	return t.commit(ctx)
}

// patient returns the context for the end of a transaction. The caller's may have
// ended, and would only leave us not knowing; but a server that is frozen must not
// hold the request for as long as it is.
func (c *Cluster) patient() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), c.patience, fmt.Errorf("no answer within %v", c.patience))
}

func (t *tx) commit(ctx context.Context) error {
	c := t.conn
	lost := t.lost
	if lost == nil {
		lost = ctx.Err() // nothing is sent any more
	}
	if lost == nil && t.check != nil {
		lost = t.check(ctx)
	}
	if lost != nil {
		_ = t.Rollback() // it fails only with the connection
		return fmt.Errorf("sharding: pod %d: rolled back: %w", c.pod.id, lost)
	}
	defer t.end()
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
		return fmt.Errorf("sharding: pod %d: rolled back: the connection was lost before COMMIT was sent", c.pod.id)
	case flavor.CommitRefused(err):
		return fmt.Errorf("sharding: pod %d: rolled back: %w", c.pod.id, err)
	}
	t.release = nil // the COMMIT may still be on its way
	return fmt.Errorf("sharding: pod %d: %w: %w", c.pod.id, podworks.ErrOutcomeUnknown, err)
}

// Rollback ends the transaction, or the session with it.
func (t *tx) Rollback() error {
	c := t.conn
	defer t.end()
	ctx, cancel := c.pod.cluster.patient()
	defer cancel()
	_, err := c.innerConn.ExecContext(ctx, `ROLLBACK`, nil)
	if err != nil {
		// In the pool, the next START TRANSACTION would commit what is left.
		c.broken = true
	}
	return err
}
