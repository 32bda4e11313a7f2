package toxi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A stance is what a gate does with those who connect.
type stance int

const (
	accepting stance = iota
	refusing         // a server that is down
	ignoring         // a network that swallows
)

// A gate is the listening side of a proxy. All its methods are called under the
// proxy's control lock.
type gate struct {
	p       *Proxy
	network string
	addr    string
	folder  string // of our own, for the socket

	// While nobody listens the port must not become somebody else's, a parallel
	// test's proxy for one: a client would be connected to it instead of being refused.
	// A socket that is bound and doesn't listen keeps it and refuses, on Linux.
	hold *reservation

	is     stance
	ln     net.Listener // nil while refusing
	loop   *loop        // nil if nobody accepts
	filler *filler      // what fills the queue of connections while ignoring
	failed error        // of the last attempt to listen again
}

// A loop is a goroutine that accepts connections.
type loop struct {
	stop  chan struct{} // closed when it shall end
	ended chan struct{} // closed when it has
}

// listen opens the gate of p. The network is the upstream's.
func listen(p *Proxy, addr, network string) (*gate, error) {
	g := &gate{p: p, network: network, addr: addr}
	if addr != "" {
		g.network, g.addr = split(addr)
	} else if network == "unix" {
		folder, err := os.MkdirTemp("", "toxi")
		if err != nil {
			return nil, err
		}
		g.folder, g.addr = folder, filepath.Join(folder, "s.sock")
	} else {
		g.addr = "127.0.0.1:0"
	}
	if g.network == "tcp" {
		// Without a reservation, which not every address and system has, all is as
		// before but for the port's safety while refusing.
		if bound, hold, err := reserve(g.addr); err == nil {
			g.addr, g.hold = bound, hold
		}
	}
	if err := g.open(); err != nil {
		g.hold.free()
		g.tidy()
		return nil, err
	}
	g.addr = g.ln.Addr().String()
	g.start(g.ln, "")
	return g, nil
}

// open listens.
func (g *gate) open() (err error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	if g.network == "unix" {
		// A socket that nobody listens on refuses and stays where it is; the new one
		// takes its place at once. What is there and is no refusing socket is left alone.
		if stale(g.addr) {
			os.Remove(g.addr)
		}
	}
	g.hold.share(true)
	ln, err := lc.Listen(context.Background(), g.network, g.addr)
	g.hold.share(false)
	if err != nil {
		return err
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	g.ln = ln
	return nil
}

// stale reports whether path is a socket that nobody listens on.
func stale(path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return false
	}
	return isRefused(err)
}

// set changes the stance.
func (g *gate) set(to stance) error {
	if g.is == to && g.failed == nil {
		return nil
	}
	if g.is == ignoring && to != ignoring && g.ln != nil {
		g.heed(to == accepting)
	}
	g.is, g.failed = to, nil
	switch {
	case to == refusing:
		if g.ln != nil {
			g.ln.Close()
			g.ln = nil
		}
		g.wait()
		return nil
	case g.ln == nil:
		if err := g.open(); err != nil {
			g.failed = fmt.Errorf("toxi: proxy %s cannot listen again on %s; it tries again at the next change: %w", g.p.name, g.addr, err)
			return g.failed
		}
	}
	if to == ignoring {
		g.ignore()
	} else if g.loop == nil {
		g.start(g.ln, "")
	}
	return nil
}

// ignore makes whoever connects wait. The goroutine that accepts is stopped, the queue
// of connections that the system keeps for us is shortened to one, and a
// connection of our own fills it. From then on Linux drops a client's SYN, which the client sends
// again and again, 1 s, 3 s, 7 s … after the first: when the queue is long again, the next gets through.
func (g *gate) ignore() {
	pause(g.ln)
	g.wait()
	if g.network != "tcp" || backlog(g.ln, 0) != nil {
		return // clients connect, and nothing follows
	}
	g.filler = fill(g.ln)
}

// heed ends ignore.
func (g *gate) heed(accept bool) {
	skip := ""
	if g.filler != nil {
		skip = g.filler.from
		g.filler.close()
		g.filler = nil
	}
	if !accept {
		return
	}
	if g.network == "tcp" {
		backlog(g.ln, longQueue)
	}
	if d, ok := g.ln.(interface{ SetDeadline(time.Time) error }); ok {
		d.SetDeadline(time.Time{})
	}
	g.start(g.ln, skip)
}

// longQueue is cut by the system to what it allows.
const longQueue = 4096

// pause ends the wait of the goroutine that accepts.
func pause(ln net.Listener) {
	if d, ok := ln.(interface{ SetDeadline(time.Time) error }); ok {
		d.SetDeadline(past)
	}
}

// wait returns when the goroutine that accepts has ended.
func (g *gate) wait() {
	if g.loop != nil {
		close(g.loop.stop)
		<-g.loop.ended
		g.loop = nil
	}
}

// start accepts connections from ln until it is closed or paused, but for the one
// from the address skip.
func (g *gate) start(ln net.Listener, skip string) {
	l := &loop{make(chan struct{}), make(chan struct{})}
	g.loop = l
	go func() {
		defer close(l.ended)
		g.p.accept(ln, skip, l.stop)
	}()
}

func (p *Proxy) accept(ln net.Listener, skip string, stop chan struct{}) {
	var wait time.Duration
	for {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			// Out of descriptors, mostly: give others time to close some.
			wait = min(cmp.Or(2*wait, 5*time.Millisecond), 100*time.Millisecond)
			p.opts.Logger.Error("toxi: accepting failed", "proxy", p.name, "error", err, "again in", wait)
			select {
			case <-time.After(wait):
			case <-stop: // who stops it waits for it
				return
			}
			continue
		case skip != "" && c.RemoteAddr().String() == skip:
			c.Close()
			skip = ""
			continue
		}
		wait = 0
		l, err := p.admit(c)
		if err != nil {
			c.Close()
			continue
		}
		go p.serve(l)
	}
}

// close stops listening for good.
func (g *gate) close() error {
	err := g.set(refusing)
	g.hold.free()
	g.hold = nil
	g.tidy()
	return err
}

// tidy removes what is ours in the file system.
func (g *gate) tidy() {
	if g.network == "unix" && g.ln == nil && stale(g.addr) {
		os.Remove(g.addr)
	}
	if g.folder != "" {
		os.RemoveAll(g.folder)
	}
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
