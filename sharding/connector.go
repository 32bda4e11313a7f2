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
)

// A connector opens a pod's connections. Each refuses a context without a live
// scope of this pod, and fences what writes.
//
// It never chooses the pod: the pool hands a connection to whoever comes next,
// so a connector that chose by context would give half the queries to the
// wrong pod. It only refuses.
type connector struct{ pod *pod }

// A server ends a session that was idle for this long: a frozen process must
// not hold a shop's shared lock for ever.
const idleSession = time.Minute

func (p *pod) idle() time.Duration {
	if p.locker != nil {
		return p.cluster.opts.LockerIdle
	}
	return idleSession
}

// Close is called when the pool has been closed. Some libraries do that to a pool
// they were given, when they find that they can't use it (gorm.Open), or in a Close
// of their own. The pod's shops must not go down with it.
func (c *connector) Close() error {
	if !c.pod.cluster.closed.Load() {
		c.pod.open()
	}
	return nil
}

func (c *connector) Driver() driver.Driver { return c.pod.raw.Driver() }

// Connect opens a connection whose session is read-only outside of fenced
// transactions. The pool may call it with a context of its own, so there is no
// scope to check yet; every use of the connection checks it.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	id := c.pod.id
	dc, err := c.pod.raw.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("sharding: connect to pod %d: %w", id, err)
	}
	full, ok := dc.(innerConn)
	if !ok {
		dc.Close()
		return nil, fmt.Errorf("sharding: pod %d: the driver's connection (%T) lacks the context methods; use go-sql-driver/mysql", id, dc)
	}
	cn := &conn{pod: c.pod, innerConn: full}
	if err := cn.prepare(ctx); err != nil {
		dc.Close()
		return nil, fmt.Errorf("sharding: prepare a session of pod %d: %w", id, err)
	}
	return cn, nil
}

// prepare makes the session fit for the fence, or says why it isn't.
func (c *conn) prepare(ctx context.Context) error {
	if err := c.inspect(ctx); err != nil {
		return err
	}
	mode := `READ ONLY`
	if c.pod.cluster.off.readOnly {
		mode = `READ WRITE`
	}
	for _, stmt := range []string{
		`SET SESSION TRANSACTION ` + mode,
		fmt.Sprintf(`SET SESSION wait_timeout = %d`, int(c.pod.idle()/time.Second)),
	} {
		if _, err := c.innerConn.ExecContext(ctx, stmt, nil); err != nil {
			return err
		}
	}
	// One text with two statements could carry a COMMIT past the check of its
	// first word. The server must find it a syntax error.
	_, err := c.innerConn.ExecContext(ctx, `DO 0; DO 0`, nil)
	if err == nil {
		return errors.New("the connection allows several statements in one text; set MultiStatements to false in the driver's configuration")
	}
	if !serverSaid(err) {
		return err
	}
	return nil
}

// inspect asks the server for what decides whether the fence holds there. Where
// several servers take writes, a row lock on one keeps nobody from writing to
// another. It is asked of each connection, for a name may lead to another
// server tomorrow.
func (c *conn) inspect(ctx context.Context) error {
	rows, err := c.innerConn.QueryContext(ctx, `SHOW GLOBAL VARIABLES WHERE Variable_name IN
		('innodb_rollback_on_timeout', 'wsrep_on', 'group_replication_group_name', 'group_replication_single_primary_mode')`, nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	is := map[string]string{}
	dest := make([]driver.Value, 2)
	for {
		switch err := rows.Next(dest); {
		case err == nil:
			is[toString(dest[0])] = strings.ToUpper(toString(dest[1]))
			continue
		case !errors.Is(err, io.EOF):
			return err
		}
		break
	}
	const onePrimary = "; the write fence needs a server with one writable primary"
	switch {
	case is["wsrep_on"] == "ON":
		return &Error{Pod: c.pod.id, Err: ErrRefused, Note: "the server is of a Galera cluster (wsrep_on is ON)" + onePrimary}
	case is["group_replication_group_name"] != "" && is["group_replication_single_primary_mode"] == "OFF":
		return &Error{Pod: c.pod.id, Err: ErrRefused, Note: "the server is of a multi-primary group (group_replication_single_primary_mode is OFF)" + onePrimary}
	}
	c.timeoutEnds = is["innodb_rollback_on_timeout"] == "ON"
	return nil
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
