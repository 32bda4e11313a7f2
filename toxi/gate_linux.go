package toxi

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
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
	family, sa := sockaddr(a)
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
	if a, err = local(fd); err != nil {
		syscall.Close(fd)
		return "", nil, err
	}
	return a.String(), &reservation{fd}, nil
}

// sockaddr is a for the system.
func sockaddr(a *net.TCPAddr) (family int, sa syscall.Sockaddr) {
	if ip := a.IP.To4(); ip != nil {
		return syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
	}
	return syscall.AF_INET6, &syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}
}

// local is the address to which a socket is bound.
func local(fd int) (*net.TCPAddr, error) {
	sa, err := syscall.Getsockname(fd)
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}, nil
	case *syscall.SockaddrInet6:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}, nil
	}
	return nil, os.NewSyscallError("getsockname", err)
}

// A filler is a connection that nobody shall accept.
type filler struct {
	fd   int
	from string // its address
}

func (f *filler) close() { syscall.Close(f.fd) }

// fill connects to ln. It returns nil if that is not answered at once, because somebody
// waits in the queue already. Package net would not do: on a machine that is busy
// its deadline may pass while the connection is made, and then nobody knows its address.
func fill(ln net.Listener) *filler {
	to, ok := ln.Addr().(*net.TCPAddr)
	if !ok || to.Zone != "" {
		return nil
	}
	here := to.IP
	if here.IsUnspecified() && here.To4() != nil {
		here = net.IPv4(127, 0, 0, 1)
	} else if here.IsUnspecified() {
		here = net.IPv6loopback
	}
	family, sa := sockaddr(&net.TCPAddr{IP: here, Port: to.Port})
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	// A host's connect to itself is answered before connect(2) returns, if it is answered.
	patience := syscall.NsecToTimeval(int64(20 * time.Millisecond))
	if err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &patience); err == nil {
		err = syscall.Connect(fd, sa)
	}
	var from *net.TCPAddr
	if err == nil {
		from, err = local(fd)
	}
	if err != nil {
		syscall.Close(fd)
		return nil
	}
	return &filler{fd, from.String()}
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
