package toxi_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

func TestDownClosesAndRefusesAndComesBackOnTheSameAddress(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		p := proxy(t, serve(t, network, echo), nil)
		for range 3 {
			c := dial(t, p.Addr())
			ping(t, c)
			addr := p.Addr()
			err := p.Down(func() {
				hearEnd(t, c)
				for range 3 {
					if c, err := try(p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("connecting: %v, %v; want ECONNREFUSED", c, err)
					}
				}
				if p.Addr() != addr {
					t.Errorf("its address is %s, was %s", p.Addr(), addr)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			ping(t, dial(t, addr))
		}
	})
}

func TestAClientThatHasSentSomethingHearsTheEndWhenTheServerIsDown(t *testing.T) {
	t.Parallel()
	// A socket that is closed with unread bytes sends a RST, which this client would
	// see in some runs and in others not.
	p, client, _ := through(t, "tcp", nil)
	add(t, p, toxi.Fault{Toxic: toxi.Stall{}, Stream: toxi.Upstream})
	go client.Write(make([]byte, 10<<20)) // more than the proxy takes
	eventually(t, "the proxy has taken something", func() bool { return p.Stats().Upstream.Received > 0 })
	p.Down(func() { hearEnd(t, client) })
}

func TestWhileDownNobodyGetsThePort(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux keeps the port of a socket that doesn't listen")
	}
	p := proxy(t, serve(t, "tcp", echo), nil)
	_, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	err = p.Down(func() {
		for _, addr := range []string{p.Addr(), ":" + port, "0.0.0.0:" + port} {
			ln, err := net.Listen("tcp", addr)
			if err == nil {
				ln.Close()
				t.Errorf("somebody else listens on %s", addr)
			}
		}
		if other, err := toxi.Listen("127.0.0.1:1", &toxi.Options{Listen: p.Addr()}); err == nil {
			other.Close()
			t.Errorf("another proxy listens on %s", p.Addr())
		}
		// The system doesn't hand it out either. All of these stay open, so that none is
		// handed out twice.
		server := serve(t, "tcp", echo)
		for range 400 {
			ln := listen(t, "tcp")
			c := dial(t, server)
			for _, addr := range []net.Addr{ln.Addr(), c.LocalAddr()} {
				if addr.String() == p.Addr() {
					t.Errorf("the system gave %v to somebody else", addr)
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ping(t, dial(t, p.Addr()))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", p.Addr())
	if err != nil {
		t.Fatalf("after Close the port is not free: %v", err)
	}
	ln.Close()
}

func TestBlackholeSwallowsEverythingAndHeals(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		p, client, server := through(t, network, nil)
		say(t, client, "before")
		hear(t, server, "before")
		connected := make(chan error, 1)
		var late net.Conn
		prompt(t, "Blackhole", func() {
			err := p.Blackhole(func() {
				say(t, client, "up")
				say(t, server, "down")
				go func() {
					var err error
					late, err = try(p.Addr())
					connected <- err
				}()
				for _, c := range []net.Conn{client, server} {
					c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
					if n, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%d bytes and %v came through", n, err)
					}
					c.SetReadDeadline(time.Now().Add(patience))
				}
				select {
				case err := <-connected:
					// Elsewhere a connect succeeds, and nothing follows.
					if connected <- err; runtime.GOOS == "linux" && network == "tcp" {
						t.Errorf("a connect ends with %v, want it to wait", err)
					}
				default:
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
		hear(t, server, "up")
		hear(t, client, "down")
		if err := <-connected; err != nil {
			t.Fatalf("the connect that waited ends with %v", err)
		}
		defer late.Close()
		say(t, late, "late") // and something answers it: that of hand's server
		eventually(t, "it is passed on", func() bool { return p.Stats().Opened == 2 })
	})
}

func TestABlackholeIsClosedToThoseWhoGaveUp(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"127.0.0.1:0", "127.0.0.2:0", "[::1]:0", ":0", "0.0.0.0:0", "localhost:0"} {
		t.Run(listen, func(t *testing.T) {
			t.Parallel()
			p, err := toxi.Listen(serve(t, "tcp", echo), &toxi.Options{Listen: listen})
			if err != nil {
				t.Skip(err) // there is no IPv6, or one loopback address only
			}
			defer p.Close()
			addr := p.Addr()
			if host, port, _ := net.SplitHostPort(addr); host == "::" || host == "0.0.0.0" {
				addr = net.JoinHostPort("127.0.0.1", port)
			}
			p.Blackhole(func() {
				for range 3 {
					if c, err := net.DialTimeout("tcp", addr, 20*time.Millisecond); err == nil {
						c.Close()
						if runtime.GOOS == "linux" {
							t.Error("a connect succeeded")
						}
					}
				}
			})
			ping(t, dial(t, addr))
			if runtime.GOOS == "linux" {
				// Neither they nor what the proxy filled its queue with count.
				if got := p.Stats().Opened; got != 1 {
					t.Errorf("%d connections were opened, want 1", got)
				}
			}
		})
	}
}

func TestTheListenerTakesEveryChangeOfMind(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		r, _ := chance(t)
		p := proxy(t, serve(t, network, echo), nil)
		var removes []func()
		for range 100 {
			if n := len(removes); n > 0 && r.IntN(2) == 0 {
				i := r.IntN(n)
				removes[i]()
				removes = slices.Delete(removes, i, i+1)
				continue
			}
			if r.IntN(2) == 0 {
				removes = append(removes, add(t, p, toxi.Refuse{}))
			} else {
				removes = append(removes, add(t, p, toxi.ConnectBlackhole{}))
			}
		}
		if err := p.Clear(); err != nil {
			t.Fatal(err)
		}
		ping(t, dial(t, p.Addr()))
	})
}

func TestAPortInUseIsAnError(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		ln := listen(t, network)
		go func() { // or else a unix socket is not known to be in use
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		addr := ln.Addr().String()
		p, err := toxi.Listen("127.0.0.1:1", &toxi.Options{Listen: addr})
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen on %s: %v, want EADDRINUSE", addr, err)
		}
		if err == nil {
			p.Close()
		}
		if want := "listen " + network + " " + addr + ": bind: address already in use"; err != nil && err.Error() != want {
			t.Errorf("the error is %q, want %q", err, want)
		}
		p = proxy(t, "127.0.0.1:1", nil)
		if p, err := toxi.Listen("127.0.0.1:1", &toxi.Options{Listen: p.Addr()}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen on another proxy's address: %v, want EADDRINUSE", err)
			if err == nil {
				p.Close()
			}
		}
	})
}

func TestAPortIsFreeAfterClose(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		upstream := serve(t, network, echo)
		p := proxy(t, upstream, nil)
		for range 5 {
			ping(t, dial(t, p.Addr()))
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if network == "unix" {
				if _, err := os.Stat(filepath.Dir(p.Addr())); p.Addr() != "" && !os.IsNotExist(err) {
					t.Fatalf("the socket's folder is still there (%v)", err)
				}
				p = proxy(t, upstream, &toxi.Options{Listen: filepath.Join(folder(t), "s")})
			} else {
				p = proxy(t, upstream, &toxi.Options{Listen: p.Addr()})
			}
			if network == "unix" {
				break
			}
		}
		ping(t, dial(t, p.Addr()))
	})
}

func TestAUnixSocketThatIsLeftOverIsReplacedAndNothingElseIs(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	upstream := serve(t, "unix", echo)

	left := filepath.Join(dir, "left")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	p := proxy(t, upstream, &toxi.Options{Listen: left})
	ping(t, dial(t, p.Addr()))
	p.Close()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the proxy left its socket (%v)", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := toxi.Listen(upstream, &toxi.Options{Listen: file}); err == nil {
		p.Close()
		t.Error("it listens on a file")
	}
	if got, err := os.ReadFile(file); string(got) != "precious" {
		t.Errorf("the file has %q, %v", got, err)
	}
}

func TestAProxyThatCannotListenAgainSaysSoAndTriesAgain(t *testing.T) {
	t.Parallel()
	// Somebody takes the place of a socket while it is down.
	p := proxy(t, serve(t, "unix", echo), nil)
	steal := func() net.Listener {
		t.Helper()
		if err := os.Remove(p.Addr()); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("unix", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	var thief net.Listener
	err := p.Down(func() { thief = steal() })
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), p.Addr()) {
		t.Errorf("Down ends with %v, want EADDRINUSE and the address", err)
	}
	if remove, err := p.Add(toxi.Noop{}); err == nil || remove != nil {
		t.Errorf("Add ends with %v while the proxy does not listen", err)
	}
	if got := names(p); got != "[]" {
		t.Errorf("faults are %s after an Add that failed, want none", got)
	}
	thief.Close()
	add(t, p, toxi.Noop{})
	ping(t, dial(t, p.Addr()))

	// The same on the way into and out of a black hole.
	up := add(t, p, toxi.Refuse{})
	heal := add(t, p, toxi.ConnectBlackhole{})
	thief = steal()
	if err := p.Remove("refuse"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Remove ends with %v, want EADDRINUSE", err)
	}
	up()
	if err := p.Remove("connect_blackhole"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Remove ends with %v, want EADDRINUSE", err)
	}
	thief.Close()
	heal()
	add(t, p, toxi.Latency{})
	ping(t, dial(t, p.Addr()))
}
