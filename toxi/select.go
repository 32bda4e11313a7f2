package toxi

import (
	"net"
	"net/netip"
	"time"
)

// Conn is what is known of a connection through the proxy.
type Conn struct {
	// Number counts the proxy's connections, from 1.
	Number uint64
	// New counts the connections since the fault was added, from 1. It is 0 for those
	// that were open then, and wherever no fault is asking.
	New uint64
	// Client is the client's address.
	Client net.Addr
	// Opened is when the connection was accepted.
	Opened time.Time
}

// First selects the first n connections after the fault was added: what a client
// that tries again gets past.
func First(n uint64) func(Conn) bool {
	return func(c Conn) bool { return c.New >= 1 && c.New <= n }
}

// Every selects every n-th connection after the fault was added: the n-th, the
// 2n-th, and so on. None if n is 0.
func Every(n uint64) func(Conn) bool {
	return func(c Conn) bool { return n > 0 && c.New >= 1 && c.New%n == 0 }
}

// From selects the connections of clients within the given networks. Clients on unix
// sockets have no address and are never selected.
func From(networks ...netip.Prefix) func(Conn) bool {
	return func(c Conn) bool {
		tcp, ok := c.Client.(*net.TCPAddr)
		if !ok {
			return false
		}
		addr := tcp.AddrPort().Addr().Unmap()
		for _, network := range networks {
			if network.Contains(addr) {
				return true
			}
		}
		return false
	}
}
