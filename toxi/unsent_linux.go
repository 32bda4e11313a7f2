package toxi

import (
	"net"
	"syscall"
	"unsafe"
)

// unsent is how many bytes were written to c that its peer has not acknowledged. A RST
// does not wait for them, though it is sent behind them: they wait for the peer's
// window, or for the congestion window, which many small writes fill and which opens with
// acknowledgements that may take 40 ms.
func unsent(c net.Conn) (n int) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0 // what is written to a unix socket is at its peer
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		// The first byte of a tcp_info is the state.
		state, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil || state&0xff == stateClosed {
			return // the peer has sent a RST itself
		}
		var waits int32
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&waits))); errno == 0 {
			n = int(waits)
		}
	})
	return n
}

// stateClosed is TCP_CLOSE.
const stateClosed = 7
