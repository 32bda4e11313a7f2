package testcluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
)

// The system hands out ports from 32768 on for outgoing connections. Those
// below are taken by who asks for them by number, so a server's port is still
// free when it comes back after a restart.
const lowestPort, highestPort = 20000, 32000

// ports remembers what was handed out: a server that is down for a moment does
// not lose its port to the next.
var ports struct {
	mu   sync.Mutex
	used map[int]struct{}
}

// onPort calls start with a port if tcp is set, and with 0 if not.
func onPort[T any](tcp bool, start func(port int) (T, error)) (T, error) {
	if !tcp {
		return start(0)
	}
	// Nothing keeps other processes from taking the port between the choice
	// and the server's start. That is rare enough to just choose again.
	const attempts = 5
	for attempt := 1; ; attempt++ {
		port, err := freePort()
		if err != nil {
			var none T
			return none, err
		}
		server, err := start(port)
		// Only the server's log says so.
		taken := err != nil && strings.Contains(strings.ToLower(err.Error()), "address already in use")
		if !taken || attempt == attempts {
			return server, err
		}
	}
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
		l, err := net.Listen("tcp", loopback(port))
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
	return 0, fmt.Errorf("testcluster: no free port from %d to %d on 127.0.0.1: %w", lowestPort, highestPort, last)
}

// loopback returns the address of a port, or "" for none.
func loopback(port int) string {
	if port == 0 {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
