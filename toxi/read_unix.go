//go:build unix

package toxi

import (
	"io"
	"net"
	"os"
	"syscall"
)

// newReader returns what reads from c: if it is a socket, without holding a buffer
// while there is nothing to read, so that idle connections cost next to nothing.
func newReader(c net.Conn) reader {
	// By type: what embeds a socket is a syscall.Conn too, but may have a Read of its own.
	var sc syscall.Conn
	switch c := c.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return connReader{c}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return connReader{c}
	}
	r := &socketReader{raw: raw}
	r.try = r.attempt
	return r
}

type socketReader struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // attempt, bound once

	buf *buffer // of the last attempt
	n   int
	err error
}

func (r *socketReader) read() (*buffer, int, error) {
	r.buf, r.n, r.err = nil, 0, nil
	if err := r.raw.Read(r.try); err != nil {
		return nil, 0, err // the deadline has passed, or the connection is closed
	}
	buf := r.buf
	r.buf = nil
	return buf, r.n, r.err
}

// attempt reads if there is something to read, and else asks to be called again
// when there is.
func (r *socketReader) attempt(fd uintptr) bool {
	buf := newBuffer(bigBuffer)
	for {
		n, err := syscall.Read(int(fd), buf.b)
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil && n > 0:
			r.buf, r.n = buf, n
			return true
		}
		buf.release()
		switch err {
		case syscall.EAGAIN:
			return false
		case nil:
			r.err = io.EOF
		default:
			r.err = os.NewSyscallError("read", err)
		}
		return true
	}
}
