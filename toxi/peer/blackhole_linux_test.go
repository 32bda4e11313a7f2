package peer_test

import (
	"io"
	"net"
	"syscall"
	"time"
)

// blackhole returns the address of a listener that answers no attempt to connect, since
// its queue, of one, is full, and what must be kept open for that.
func blackhole() (addr string, keep []io.Closer, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return "", nil, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = syscall.Listen(int(fd), 0) }); err != nil {
		return "", nil, err
	}
	if failed != nil {
		return "", nil, failed
	}
	addr, keep = l.Addr().String(), []io.Closer{l}
	for {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr, keep, nil
		}
		keep = append(keep, conn)
	}
}
