package toxi

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipe returns the two ends of a connection in memory. Unlike net.Pipe's it has
// buffers, as a socket has, can be closed in one direction, and can be reset.
func pipe() (near, far *end) {
	a, b := newHalf(), newHalf()
	return &end{in: a, out: b}, &end{in: b, out: a}
}

// pipeBuffer is what one direction holds.
const pipeBuffer = 64 << 10

// half is one direction.
type half struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	ended   bool // the writer has no more to say
	deaf    bool // the reader is gone
	reset   bool

	reading, writing deadline
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// setLocked sets the deadline; h wakes whoever waits when it passes.
func (h *half) setLocked(d *deadline, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if left := time.Until(at); !at.IsZero() && left > 0 {
		d.timer = time.AfterFunc(left, func() {
			h.mu.Lock()
			h.changed.Broadcast()
			h.mu.Unlock()
		})
	}
	h.changed.Broadcast()
}

// do changes h and tells those who wait.
func (h *half) do(change func()) {
	h.mu.Lock()
	change()
	h.changed.Broadcast()
	h.mu.Unlock()
}

// end is one end of a pipe.
type end struct{ in, out *half }

var _ net.Conn = (*end)(nil)

func (e *end) Read(b []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.deaf:
			return 0, opError("read", net.ErrClosed)
		case h.reading.passed():
			return 0, opError("read", os.ErrDeadlineExceeded)
		case h.reset && len(h.buf) == 0:
			return 0, opError("read", syscall.ECONNRESET)
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[:copy(h.buf, h.buf[n:])]
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		h.changed.Wait()
	}
}

func (e *end) Write(b []byte) (n int, err error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.ended:
			return n, opError("write", net.ErrClosed)
		case h.reset:
			return n, opError("write", syscall.ECONNRESET)
		case h.deaf:
			return n, opError("write", syscall.EPIPE)
		case h.writing.passed():
			return n, opError("write", os.ErrDeadlineExceeded)
		case n == len(b):
			return n, nil
		case len(h.buf) < pipeBuffer:
			some := b[n:min(len(b), n+pipeBuffer-len(h.buf))]
			h.buf = append(h.buf, some...)
			n += len(some)
			h.changed.Broadcast()
			continue
		}
		h.changed.Wait()
	}
}

// opError is an error as a socket reports it.
func opError(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "toxi", Err: err}
}

// refusal is the error of a dial to a server that is down.
func refusal() error {
	return &net.OpError{Op: "dial", Net: "toxi", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// Close closes both directions. The other end reads what is left, and then the end.
func (e *end) Close() error {
	e.in.do(func() {
		e.in.deaf = true
		e.in.setLocked(&e.in.reading, time.Time{})
	})
	e.out.do(func() {
		e.out.ended = true
		e.out.setLocked(&e.out.writing, time.Time{})
	})
	return nil
}

// left reports whether the other end is closed, and not only done with writing.
func (e *end) left() bool {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	return e.out.deaf
}

// CloseWrite says that there is no more to come; reading goes on.
func (e *end) CloseWrite() error {
	e.out.do(func() { e.out.ended = true })
	return nil
}

// reset makes both ends fail as after a RST. What is there already can be read, as it can on
// Linux: it would be chance otherwise whether the reader was quicker.
func (e *end) reset() {
	for _, h := range []*half{e.in, e.out} {
		h.do(func() { h.reset = true })
	}
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.do(func() { e.in.setLocked(&e.in.reading, t) })
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.out.do(func() { e.out.setLocked(&e.out.writing, t) })
	return nil
}

func (e *end) SetDeadline(t time.Time) error {
	e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e *end) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *end) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "toxi" }
func (pipeAddr) String() string  { return "toxi" }
