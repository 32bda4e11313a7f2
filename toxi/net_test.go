package toxi_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// networks runs test for each kind of socket that a proxy can stand between.
func networks(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			test(t, network)
		})
	}
}

// listen opens a listener on a free address.
func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(folder(t), "s")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// folder is one in which paths of sockets are short enough, other than in t.TempDir.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "toxi-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve starts a server that handles each connection by handle and then closes it.
// At the end of the test all of them are closed, and it waits for them.
func serve(t testing.TB, network string, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln := listen(t, network)
	var (
		mu    sync.Mutex
		over  bool
		conns = map[net.Conn]bool{}
		wg    sync.WaitGroup
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if over {
				c.Close()
			}
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		over = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// echo handles a connection by saying back what it hears. It hides that c is a socket:
// io.Copy would splice through pipes, which the net package keeps until the next garbage
// collection, and which would count as leaks.
func echo(c net.Conn) {
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	half(c)
	io.Copy(io.Discard, c)
}

// hand starts a server that hands its connections to the test.
func hand(t testing.TB, network string) (addr string, accepted <-chan net.Conn) {
	conns := make(chan net.Conn)
	over := make(chan struct{})
	addr = serve(t, network, func(c net.Conn) {
		select {
		case conns <- c:
		case <-over:
		}
		<-over
	})
	t.Cleanup(func() { close(over) }) // before serve's own: the last is called first
	return addr, conns
}

// half ends the writing side of c.
func half(c net.Conn) error { return c.(interface{ CloseWrite() error }).CloseWrite() }

// proxy starts a proxy that is closed at the end of the test.
func proxy(t testing.TB, upstream string, opts *toxi.Options) *toxi.Proxy {
	t.Helper()
	p, err := toxi.Listen(upstream, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// add adds a toxic.
func add(t testing.TB, p *toxi.Proxy, toxic toxi.Toxic) (remove func()) {
	t.Helper()
	undo, err := p.Add(toxic)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := undo(); err != nil {
			t.Error(err)
		}
	}
}

// try connects to addr.
func try(addr string) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	d := net.Dialer{Timeout: patience}
	c, err := d.Dial(network, addr)
	if err == nil {
		c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// dial connects to addr until the end of the test. Reads and writes fail when patience
// is over.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := try(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// accept returns what a server has accepted.
func accept(t testing.TB, from <-chan net.Conn) net.Conn {
	t.Helper()
	select {
	case c := <-from:
		c.SetDeadline(time.Now().Add(patience))
		return c
	case <-time.After(patience):
		t.Fatal("the server has not been connected to")
		return nil
	}
}

// through returns the two ends of a connection through a proxy.
func through(t testing.TB, network string, opts *toxi.Options) (p *toxi.Proxy, client, server net.Conn) {
	t.Helper()
	addr, accepted := hand(t, network)
	p = proxy(t, addr, opts)
	client = dial(t, p.Addr())
	return p, client, accept(t, accepted)
}

// say writes s.
func say(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("writing %q: %v", s, err)
	}
}

// hear reads s.
func hear(t testing.TB, c net.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("heard %d bytes, %.40q, %v; want %d, %.40q", n, b[:n], err, len(s), s)
	}
}

// hearEnd fails unless nothing more comes but the end.
func hearEnd(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("heard %d bytes, %v; want the end of the stream", n, err)
	}
}

// hearReset fails unless what comes next, or behind what there still is, is a
// RST. A unix socket knows none and ends.
func hearReset(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if c.LocalAddr().Network() == "unix" && err == nil {
		return
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ends with %v, want ECONNRESET", err)
	}
}

// dialReset connects to addr and fails unless that ends in a RST, perhaps before connect
// has returned.
func dialReset(t testing.TB, addr string) {
	t.Helper()
	c, err := try(addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hearReset(t, c)
}

// ping sends something to an echo server and waits for it.
func ping(t testing.TB, c net.Conn) {
	t.Helper()
	say(t, c, "ping")
	hear(t, c, "ping")
}

// prompt fails if f takes three seconds, far more than the 10 ms that it may on a
// machine with nothing else to do.
func prompt(t testing.TB, what string, f func()) {
	t.Helper()
	began := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
	}
	took := time.Since(began)
	t.Logf("%s took %v", what, took.Round(time.Microsecond))
	if took > 3*time.Second {
		t.Errorf("%s took %v, want 10ms, or 3s on a machine with other things to do", what, took)
	}
}

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	if !soon(f) {
		t.Fatalf("%v later it is still not so that %s", patience, what)
	}
}

// soon reports whether f holds before patience is over.
func soon(f func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patience)
	for !f() {
		if time.Now().After(end) {
			return false
		}
		<-tick.C
	}
	return true
}

// resources counts goroutines and, on Linux, open files.
func resources(t testing.TB) (goroutines, files int) {
	t.Helper()
	goroutines = runtime.NumGoroutine()
	if runtime.GOOS == "linux" {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		files = len(list)
	}
	return goroutines, files
}

// leakless calls f and fails if goroutines or open files are left of it. Nothing else
// may run meanwhile: its test isn't parallel.
func leakless(t testing.TB, f func()) {
	t.Helper()
	var goroutines, files, nowGoroutines, nowFiles int
	// What has been told to end, before, may still be at it.
	for prev := -1; prev != goroutines; {
		prev = goroutines
		runtime.Gosched()
		goroutines, files = resources(t)
	}
	f()
	if soon(func() bool {
		nowGoroutines, nowFiles = resources(t)
		return nowGoroutines <= goroutines && nowFiles <= files
	}) {
		return
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines and %d files, before it were %d and %d\n%s", nowGoroutines, nowFiles, goroutines, files, buf[:runtime.Stack(buf, true)])
}

// chance returns a source of chance that is repeated by TOXI_SEED, and logs the seed if
// the test fails.
func chance(t *testing.T) (*rand.Rand, uint64) {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("TOXI_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("TOXI_SEED is %q, want a number", text)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with TOXI_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0)), seed
}

// names are the names of a proxy's faults.
func names(p *toxi.Proxy) string {
	var out []string
	for _, f := range p.Faults() {
		out = append(out, f.Name)
	}
	return fmt.Sprint(out)
}

// neverEnding is a reader of zeros.
type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }
