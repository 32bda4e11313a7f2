package toxi

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A bulk moves bytes between two sockets through a pipe, by splice(2), as io.Copy
// does: the bytes never come into the process. Other than io.Copy it can be interrupted: what
// is in the pipe then is read out of it.
type bulk struct {
	src, dst    syscall.RawConn
	fill, drain func(fd uintptr) bool // bound once
	pipe        *tube
	want, n     int
	err         error
}

// newBulk returns nil if src or dst is no socket.
func newBulk(src, dst net.Conn) *bulk {
	raw := func(c net.Conn) syscall.RawConn {
		switch c := c.(type) {
		case *net.TCPConn:
			r, _ := c.SyscallConn()
			return r
		case *net.UnixConn:
			r, _ := c.SyscallConn()
			return r
		}
		return nil
	}
	b := &bulk{src: raw(src), dst: raw(dst)}
	if b.src == nil || b.dst == nil {
		return nil
	}
	b.fill = func(fd uintptr) bool { return b.splice(int(fd), b.pipe.w) }
	b.drain = func(fd uintptr) bool { return b.splice(b.pipe.r, int(fd)) }
	return b
}

const (
	spliceMove     = 1 // SPLICE_F_MOVE
	spliceNonblock = 2 // SPLICE_F_NONBLOCK

	// tubeSize is what a pipe holds, if the system lets it; it is also what Go's
	// own splicing asks for.
	tubeSize = 1 << 20
)

// splice reports whether it is done: false means that the socket is not ready.
func (b *bulk) splice(from, to int) bool {
	for {
		n, err := syscall.Splice(from, nil, to, nil, b.want, spliceMove|spliceNonblock)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case nil:
			b.n = int(n)
		default:
			b.err = os.NewSyscallError("splice", err)
		}
		return true
	}
}

// read moves what there is from src into the empty pipe.
func (b *bulk) read(t *tube) (int, error) {
	b.pipe, b.want, b.n, b.err = t, tubeSize, 0, nil
	if err := b.src.Read(b.fill); err != nil {
		return 0, err
	}
	if b.n == 0 && b.err == nil {
		b.err = io.EOF
	}
	return b.n, b.err
}

// write moves at most n bytes from the pipe to dst.
func (b *bulk) write(t *tube, n int) (int, error) {
	b.pipe, b.want, b.n, b.err = t, n, 0, nil
	if err := b.dst.Write(b.drain); err != nil {
		return 0, err
	}
	return b.n, b.err
}

// A tube is a pipe of the system.
type tube struct{ r, w int }

func newTube() (*tube, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// Refused to users who have many big pipes already; it works with what there is.
	syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), syscall.F_SETPIPE_SZ, tubeSize)
	return &tube{fds[0], fds[1]}, nil
}

// read takes bytes out of the tube.
func (t *tube) read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(t.r, b)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

func (t *tube) close() {
	syscall.Close(t.r)
	syscall.Close(t.w)
}
