package toxi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

func TestAProxyPassesBytesBothWays(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		r, _ := chance(t)
		p := proxy(t, serve(t, network, echo), nil)
		c := dial(t, p.Addr())
		for _, n := range []int{1, 3, 4096, 64 << 10, 3_000_001} {
			sent := make([]byte, n)
			for i := range sent {
				sent[i] = byte(r.Uint32())
			}
			go c.Write(sent)
			got := make([]byte, n)
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, sent) {
				t.Fatalf("%d bytes came back, and they are others", n)
			}
		}
	})
}

func TestTheEndOfOneDirectionIsPassedOnAndTheOtherGoesOn(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		_, client, server := through(t, network, nil)
		say(t, client, "question")
		half(client)
		hear(t, server, "question")
		hearEnd(t, server)
		say(t, server, "answer")
		hear(t, client, "answer")
		half(server)
		hearEnd(t, client)
	})
	networks(t, func(t *testing.T, network string) {
		_, client, server := through(t, network, nil)
		half(server)
		hearEnd(t, client)
		say(t, client, "more")
		hear(t, server, "more")
		client.Close()
		hearEnd(t, server)
	})
}

func TestAConnectionIsOverWhenBothDirectionsHaveEnded(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		p, client, server := through(t, network, nil)
		half(client)
		half(server)
		eventually(t, "no connection is open", func() bool { return p.Stats().Open == 0 })
	})
}

func TestHangDoesNothingUntilItGoes(t *testing.T) {
	t.Parallel()
	addr, accepted := hand(t, "tcp")
	p := proxy(t, addr, nil)
	remove := add(t, p, toxi.Hang{})
	c := dial(t, p.Addr())
	say(t, c, "hello")
	eventually(t, "the connection is there", func() bool { return p.Stats().Open == 1 })
	add(t, p, toxi.Noop{}) // no reason to go on
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it reads %v", err)
	}
	select {
	case <-accepted:
		t.Error("the server has been dialed")
	default:
	}
	if got := p.Stats().Upstream.Received; got != 0 {
		t.Errorf("%d bytes have been read", got)
	}
	remove()
	hear(t, accept(t, accepted), "hello")
}

func TestSlowConnectWaitsBeforeItDials(t *testing.T) {
	t.Parallel()
	addr, accepted := hand(t, "tcp")
	p := proxy(t, addr, nil)
	add(t, p, toxi.SlowConnect{Delay: 30 * time.Millisecond})
	add(t, p, toxi.SlowConnect{Delay: 30 * time.Millisecond})
	began := time.Now()
	dial(t, p.Addr())
	accept(t, accepted)
	if got := time.Since(began); got < 60*time.Millisecond || got > time.Second {
		t.Errorf("the server is dialed after %v, want 60ms", got)
	}
	// One that waits doesn't any more when the toxic goes.
	remove := add(t, p, toxi.SlowConnect{Delay: time.Hour})
	dial(t, p.Addr())
	eventually(t, "the connection is there", func() bool { return p.Stats().Open == 2 })
	remove()
	accept(t, accepted)
}

func TestRejectAcceptsAndEnds(t *testing.T) {
	t.Parallel()
	addr, accepted := hand(t, "tcp")
	p := proxy(t, addr, nil)
	for range 10 {
		p.With(toxi.Reject{}, func() {
			c := dial(t, p.Addr())
			c.Write([]byte("hello")) // makes no difference
			hearEnd(t, c)
		})
		p.With(toxi.Reject{Reset: true}, func() { dialReset(t, p.Addr()) })
	}
	select {
	case <-accepted:
		t.Error("the server has been dialed")
	default:
	}
}

func TestAServerThatRefusesLooksAcceptedAndThenOver(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		ln := listen(t, network)
		ln.Close()
		failed := make(chan error, 10)
		p := proxy(t, ln.Addr().String(), &toxi.Options{Hooks: toxi.Hooks{
			Failed: func(_ toxi.Conn, err error) { failed <- err },
		}})
		for range 5 {
			c := dial(t, p.Addr())
			if network == "tcp" {
				c.Write([]byte("hello")) // a unix socket says ECONNRESET then
			}
			hearEnd(t, c)
		}
		eventually(t, "five are counted", func() bool { return p.Stats().DialErrors == 5 && p.Stats().Open == 0 })
		if err := <-failed; network == "tcp" && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the hook was told %v, want ECONNREFUSED", err)
		}
	})
}

func TestAServerInABlackHoleHoldsUpNothing(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux lets a connect wait")
	}
	hole := proxy(t, "127.0.0.1:1", nil)
	add(t, hole, toxi.ConnectBlackhole{})
	open := func(t *testing.T, opts *toxi.Options) (*toxi.Proxy, net.Conn) {
		p := proxy(t, hole.Addr(), opts)
		c := dial(t, p.Addr())
		eventually(t, "the connection is there", func() bool { return p.Stats().Open == 1 })
		return p, c
	}
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		p, c := open(t, nil)
		var remove func()
		prompt(t, "Add", func() { remove = add(t, p, toxi.Fault{Toxic: toxi.Latency{Delay: 1}, Stream: toxi.Both}) })
		prompt(t, "Stats, Conns and Faults", func() { p.Stats(); p.Conns(); p.Faults() })
		prompt(t, "remove", remove)
		prompt(t, "Slow", func() { p.Slow(time.Hour, func() {}) })
		prompt(t, "Blackhole", func() { p.Blackhole(func() {}) })
		prompt(t, "Down", func() { p.Down(func() { hearEnd(t, c) }) })
		prompt(t, "another connection", func() { dial(t, p.Addr()) })
		prompt(t, "Close", func() { p.Close() })
		if got := p.Stats(); got.DialErrors != 0 || got.Open != 0 {
			t.Errorf("stats are %+v, want nothing open and no DialErrors: we have ended these connections", got)
		}
	})
	t.Run("DialTimeout", func(t *testing.T) {
		t.Parallel()
		failed := make(chan error, 1)
		p, c := open(t, &toxi.Options{
			DialTimeout: 50 * time.Millisecond,
			Hooks:       toxi.Hooks{Failed: func(_ toxi.Conn, err error) { failed <- err }},
		})
		hearEnd(t, c)
		if err := <-failed; !strings.Contains(err.Error(), "50ms") {
			t.Errorf("the hook was told %q, want it to name the time", err)
		}
		if got := p.Stats().DialErrors; got != 1 {
			t.Errorf("DialErrors is %d, want 1", got)
		}
	})
}

func TestAClientThatNeverReadsHoldsUpNothing(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		for _, toxic := range []toxi.Toxic{nil, toxi.Latency{Delay: time.Millisecond}, toxi.Slicer{Size: 10000}, toxi.Bandwidth{Rate: 1e9}} {
			t.Run(fmt.Sprintf("%T", toxic), func(t *testing.T) {
				t.Parallel()
				p, client, server := through(t, network, nil)
				if toxic != nil {
					add(t, p, toxic)
				}
				done := make(chan error, 1)
				go func() { _, err := io.Copy(server, neverEnding{}); done <- err }()
				stuck := func() bool {
					before := p.Stats().Downstream
					tick := time.NewTimer(30 * time.Millisecond)
					<-tick.C
					return before.Received > 0 && p.Stats().Downstream == before
				}
				eventually(t, "nothing moves any more", stuck)

				var remove func()
				prompt(t, "Add", func() { remove = add(t, p, toxi.Fault{Toxic: toxi.Latency{Delay: 1}, Stream: toxi.Both}) })
				prompt(t, "Update", func() { p.Update("latency_both", toxi.Latency{Delay: 2}) })
				prompt(t, "Stats, Conns and Faults", func() { p.Stats(); p.Conns(); p.Faults() })
				prompt(t, "remove", remove)
				prompt(t, "another connection", func() { ping0(t, p) })
				prompt(t, "Reset", func() { p.Reset(func() {}) })
				prompt(t, "what it does to the server", func() { <-done })
				hearReset(t, client)
				prompt(t, "Close", func() { p.Close() })
			})
		}
	})
}

// ping0 connects and ends the connection.
func ping0(t testing.TB, p *toxi.Proxy) {
	c, err := try(p.Addr())
	if err != nil {
		t.Error(err)
		return
	}
	c.Close()
}

func TestCloseEndsAConnectionWhoseClientNeverReads(t *testing.T) {
	t.Parallel()
	p, _, server := through(t, "tcp", nil)
	add(t, p, toxi.Latency{Delay: time.Millisecond})
	done := make(chan error, 1)
	go func() { _, err := io.Copy(server, neverEnding{}); done <- err }()
	eventually(t, "something moves", func() bool { return p.Stats().Downstream.Sent > 0 })
	prompt(t, "Close", func() { p.Close() })
	if err := <-done; err == nil {
		t.Error("the server can write for ever")
	}
}

func TestBytesSentAfterAddHasReturnedMeetTheToxic(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		p, client, server := through(t, network, nil)
		var stalled atomic.Bool
		heard := make(chan byte, 10)
		go func() {
			b := make([]byte, 1)
			for {
				if _, err := io.ReadFull(server, b); err != nil {
					close(heard)
					return
				}
				if b[0] == 'b' && stalled.Load() {
					t.Error("a byte that was sent after Add had returned has passed a Stall")
				}
				heard <- b[0]
			}
		}()
		n := 2000
		if testing.Short() {
			n = 300
		}
		for i := range n {
			say(t, client, "a") // the pump is busy with this when the toxic comes
			remove := add(t, p, toxi.Fault{Toxic: toxi.Stall{}, Stream: toxi.Upstream})
			stalled.Store(true)
			say(t, client, "b")
			if i%4 == 0 {
				runtime.Gosched()
			}
			stalled.Store(false)
			remove()
			if a, b := <-heard, <-heard; a != 'a' || b != 'b' {
				t.Fatalf("heard %c%c, want ab", a, b)
			}
		}
	})
}

// A shouter is a connection with a Read and a Write of its own around a socket's.
type shouter struct{ *net.TCPConn }

func (s shouter) Read(b []byte) (int, error) {
	n, err := s.TCPConn.Read(b)
	copy(b, bytes.ToUpper(b[:n]))
	return n, err
}

func TestAConnectionWithAReadOfItsOwnIsReadByIt(t *testing.T) {
	t.Parallel()
	p, err := toxi.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := p.Wrap(shouter{dial(t, serve(t, "tcp", echo)).(*net.TCPConn)})
	defer c.Close()
	say(t, c, "hello")
	hear(t, c, "HELLO")
	if _, err := p.Dial(context.Background()); err == nil {
		t.Error("Dial of a proxy that only wraps gives no error")
	}
}

func TestBandwidthIsKeptOnRealSockets(t *testing.T) {
	t.Parallel()
	const rate, size = 10e6, 2_000_000
	p, client, server := through(t, "tcp", nil)
	add(t, p, toxi.Bandwidth{Rate: rate})
	go server.Write(make([]byte, size))
	began := time.Now()
	if _, err := io.ReadFull(client, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	want := time.Duration(size / rate * 1e9)
	// Other tests run beside this one; the benchmark has the narrow bounds.
	if got := time.Since(began); got < want*95/100 || got > want+time.Second {
		t.Errorf("%d bytes took %v, want %v", int(size), got, want)
	}
}
