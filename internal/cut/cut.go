// Package cut breaks a connection to MySQL at its COMMIT, for tests of what
// becomes of a transaction whose end is in doubt.
package cut

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"github.com/go-sql-driver/mysql"
)

// A Dialer dials connections that break at the next COMMIT after At. The zero
// value is ready to use.
type Dialer struct {
	next      atomic.Pointer[How]
	refuse    atomic.Bool
	rollbacks atomic.Int64
}

// A How is a way to break. It gets the connection and the packet with the
// COMMIT, and returns what the driver's Write gets. The connection is closed
// afterwards.
type How func(conn net.Conn, packet []byte) (int, error)

// Use makes a configuration dial through d.
func (d *Dialer) Use(cfg *mysql.Config) { cfg.DialFunc = d.dial }

// At breaks the connection with the next COMMIT, once.
func (d *Dialer) At(how How) { d.next.Store(&how) }

// Refuse makes dialling fail from now on, or no longer.
func (d *Dialer) Refuse(refuse bool) { d.refuse.Store(refuse) }

// Rollbacks returns how many ROLLBACKs were sent.
func (d *Dialer) Rollbacks() int64 { return d.rollbacks.Load() }

func (d *Dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.refuse.Load() {
		return nil, errors.New("cut: no connection, as the test wants it")
	}
	var nd net.Dialer
	c, err := nd.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &conn{c, d}, nil
}

type conn struct {
	net.Conn
	d *Dialer
}

func (c *conn) Write(b []byte) (int, error) {
	// A packet is its length, its number, the kind of command, and its text.
	switch string(b) {
	case "\x07\x00\x00\x00\x03COMMIT":
		if how := c.d.next.Swap(nil); how != nil {
			defer c.Close()
			return (*how)(c.Conn, b)
		}
	case "\x09\x00\x00\x00\x03ROLLBACK":
		c.d.rollbacks.Add(1)
	}
	return c.Conn.Write(b)
}

// BeforeSending breaks before a byte went out, and the driver knows.
func BeforeSending(net.Conn, []byte) (int, error) { return 0, io.ErrClosedPipe }

// WhileSending breaks after a part went out. The server never sees the rest,
// which the driver can't know.
func WhileSending(conn net.Conn, packet []byte) (int, error) {
	n, _ := conn.Write(packet[:6])
	return n, io.ErrClosedPipe
}

// BeforeTheAnswer breaks after the server has committed, and loses its answer.
func BeforeTheAnswer(conn net.Conn, packet []byte) (int, error) {
	n, err := conn.Write(packet)
	if err != nil {
		return n, err
	}
	_, err = conn.Read(make([]byte, 1024))
	return n, err
}
