package toxi

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// A reservation is a socket that is bound and doesn't listen. The system hands its port out to nobody. All its
// methods do nothing on nil.
type reservation struct{ fd int }

// share says whether who asks for the port by its number can listen on it. Two sockets
// have an address in common only if both have SO_REUSEADDR, which Go sets on all its
// listeners, and so does everybody's.
func (r *reservation) share(on bool) {
	if r == nil {
		return
	}
	v := 0
	if on {
		v = 1
	}
	syscall.SetsockoptInt(r.fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, v)
}

func (r *reservation) free() {
	if r != nil {
		syscall.Close(r.fd)
	}
}

// reserve binds a socket to addr and does not listen on it. It returns the address with
// its port.
func reserve(addr string) (bound string, r *reservation, err error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return "", nil, err
	}
	if a.IP == nil || a.IP.IsUnspecified() || a.Zone != "" {
		return "", nil, errors.New("toxi: no address to bind to")
	}
	family := syscall.AF_INET6
	var sa syscall.Sockaddr
	if ip4 := a.IP.To4(); ip4 != nil {
		family, sa = syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip4)}
	} else {
		sa = &syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, os.NewSyscallError("socket", err)
	}
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err == nil {
		err = syscall.Bind(fd, sa)
	}
	if err != nil {
		syscall.Close(fd)
		return "", nil, os.NewSyscallError("bind", err)
	}
	got, err := syscall.Getsockname(fd)
	if err != nil {
		syscall.Close(fd)
		return "", nil, os.NewSyscallError("getsockname", err)
	}
	switch got := got.(type) {
	case *syscall.SockaddrInet4:
		a.Port = got.Port
	case *syscall.SockaddrInet6:
		a.Port = got.Port
	}
	return a.String(), &reservation{fd}, nil
}

// backlog sets how many connections the system keeps for a listener that it
// listens on already.
func backlog(ln net.Listener, n int) error {
	c, ok := ln.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = syscall.Listen(int(fd), n) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", failed)
}
