package testcluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
)

const (
	killSignal   = syscall.SIGKILL
	portAttempts = 5
	// The system hands out ports from 32768 on for outgoing connections. Below
	// that, only those who ask for a port by number have one, so a server's
	// port is still free when it comes back from a restart.
	lowestPort, highestPort = 20000, 32000
)

// ports remembers what was handed out: a server that is down for a moment does
// not lose its port to the next.
var ports struct {
	mu   sync.Mutex
	used map[int]struct{}
}

// freePort returns a port on which nothing listens on 127.0.0.1.
func freePort() (int, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	var last error
	for range 1000 {
		// By chance, because other processes look for one as well.
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if _, used := ports.used[port]; used {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		l.Close()
		if ports.used == nil {
			ports.used = make(map[int]struct{})
		}
		ports.used[port] = struct{}{}
		return port, nil
	}
	return 0, fmt.Errorf("testcluster: no free port from %d to %d: %w", lowestPort, highestPort, last)
}

// isPortTaken reports whether a start failed because another process took the
// port first. Only the server's log can tell.
func isPortTaken(err error) bool {
	return strings.Contains(strings.ToLower(err.Error()), "already in use")
}
