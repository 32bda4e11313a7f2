// Package toxitest gives a test a fault-injecting proxy in one line, and takes it down
// when the test ends:
//
//	redis := toxitest.New(t, "127.0.0.1:6379")
//	store := NewStore(redis.Addr())
//	redis.Down(func() {
//		if got := status(store, "/checkout"); got != 200 {
//			t.Errorf("checkout without Redis answers %d, want 200", got)
//		}
//	})
//
// A proxy belongs to its test: it has a port of its own, which nobody else is given
// while it is down, so parallel tests don't disturb each other. When the test has failed, its log
// has what happened on the wire and the seed of everything that was left to
// chance; the environment variable TOXI_SEED repeats it.
//
// New and Listen fail the test rather than return an error, and so do With, Down, Slow, Blackhole and Reset. They may be called
// from the test's goroutine only, as [testing.T.FailNow] may.
package toxitest

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

// A Proxy is a [toxi.Proxy] whose methods fail the test instead of returning
// errors.
type Proxy struct {
	*toxi.Proxy
	t testing.TB

	mu     sync.Mutex
	lines  []string // of what happened, the last ones
	missed int      // lines before those
}

// SeedVariable is the environment variable that repeats what chance decided in a
// run that failed.
const SeedVariable = "TOXI_SEED"

// New returns a proxy that passes connections on to upstream, "host:port" or the path
// of a unix socket, and closes it when the test ends.
func New(t testing.TB, upstream string) *Proxy {
	t.Helper()
	return Listen(t, upstream, nil)
}

// Listen is New with options. Hooks of the options are called too.
func Listen(t testing.TB, upstream string, opts *toxi.Options) *Proxy {
	t.Helper()
	return open(t, opts, func(o *toxi.Options) (*toxi.Proxy, error) { return toxi.Listen(upstream, o) })
}

// Dialer returns a proxy without a listener, whose Dial connects by dial: for clients
// that take a dial function, and for tests inside a testing/synctest bubble.
func Dialer(t testing.TB, dial func(context.Context) (net.Conn, error)) *Proxy {
	t.Helper()
	return open(t, nil, func(o *toxi.Options) (*toxi.Proxy, error) { return toxi.New(dial, o) })
}

func open(t testing.TB, opts *toxi.Options, listen func(*toxi.Options) (*toxi.Proxy, error)) *Proxy {
	t.Helper()
	var o toxi.Options
	if opts != nil {
		o = *opts
	}
	if text := os.Getenv(SeedVariable); text != "" && o.Seed == 0 {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("toxitest: %s is %q, want the number that a failed test has logged", SeedVariable, text)
		}
		o.Seed = seed
	}
	p := &Proxy{t: t}
	p.record(&o.Hooks, time.Now())
	proxy, err := listen(&o)
	if err != nil {
		t.Fatalf("toxitest: %v", err)
	}
	p.Proxy = proxy
	t.Cleanup(p.end)
	return p
}

// end closes the proxy and, if the test has failed, tells what happened.
func (p *Proxy) end() {
	if err := p.Close(); err != nil {
		p.t.Errorf("toxitest: closing the proxy: %v", err)
	}
	if !p.t.Failed() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t.Logf("toxi: proxy %s to %s, repeat with %s=%d", p.Addr(), p.Name(), SeedVariable, p.Seed())
	if p.missed > 0 {
		p.t.Logf("toxi: … %d events before these", p.missed)
	}
	for _, line := range p.lines {
		p.t.Log("toxi: " + line)
	}
}

// mostLines bounds what a proxy remembers for the log of a test that fails.
const mostLines = 100

// record writes down what h is told, before h is told.
func (p *Proxy) record(h *toxi.Hooks, began time.Time) {
	note := func(format string, args ...any) {
		line := fmt.Sprintf("%9.3fs ", time.Since(began).Seconds()) + fmt.Sprintf(format, args...)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.lines) == mostLines {
			p.lines = append(p.lines[:0], p.lines[1:]...)
			p.missed++
		}
		p.lines = append(p.lines, line)
	}
	user := *h
	h.Opened = func(c toxi.Conn) {
		note("connection %d from %v", c.Number, c.Client)
		if user.Opened != nil {
			user.Opened(c)
		}
	}
	h.Closed = func(c toxi.Conn) {
		note("connection %d closed after %v", c.Number, time.Since(c.Opened).Round(time.Millisecond))
		if user.Closed != nil {
			user.Closed(c)
		}
	}
	h.Failed = func(c toxi.Conn, err error) {
		note("connection %d: the upstream could not be dialed: %v", c.Number, err)
		if user.Failed != nil {
			user.Failed(c, err)
		}
	}
	h.Struck = func(c toxi.Conn, fault string) {
		note("connection %d is struck by %s", c.Number, fault)
		if user.Struck != nil {
			user.Struck(c, fault)
		}
	}
	h.Changed = func(fault string, added bool) {
		if added {
			note("%s added", fault)
		} else {
			note("%s removed", fault)
		}
		if user.Changed != nil {
			user.Changed(fault, added)
		}
	}
}

// Add is [toxi.Proxy.Add]. The toxic is removed when the test ends, if not before.
func (p *Proxy) Add(toxic toxi.Toxic) (remove func()) {
	p.t.Helper()
	undo, err := p.Proxy.Add(toxic)
	p.check(err)
	return func() {
		p.t.Helper()
		p.check(undo())
	}
}

// With is [toxi.Proxy.With].
func (p *Proxy) With(toxic toxi.Toxic, during func()) {
	p.t.Helper()
	p.check(p.Proxy.With(toxic, during))
}

// Down is [toxi.Proxy.Down].
func (p *Proxy) Down(during func()) {
	p.t.Helper()
	p.check(p.Proxy.Down(during))
}

// Slow is [toxi.Proxy.Slow].
func (p *Proxy) Slow(d time.Duration, during func()) {
	p.t.Helper()
	p.check(p.Proxy.Slow(d, during))
}

// Blackhole is [toxi.Proxy.Blackhole].
func (p *Proxy) Blackhole(during func()) {
	p.t.Helper()
	p.check(p.Proxy.Blackhole(during))
}

// Reset is [toxi.Proxy.Reset].
func (p *Proxy) Reset(during func()) {
	p.t.Helper()
	p.check(p.Proxy.Reset(during))
}

func (p *Proxy) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("toxitest: %v", err)
	}
}
