package toxi_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

func TestUpstreamsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for _, upstream := range []string{"", "localhost", "unix:", "a:b:c"} {
		if p, err := toxi.Listen(upstream, nil); err == nil {
			p.Close()
			t.Errorf("Listen(%q) gives no error", upstream)
		}
	}
	if p, err := toxi.Listen("127.0.0.1:1", &toxi.Options{DialTimeout: -1}); err == nil || !strings.Contains(err.Error(), "DialTimeout is -1ns") {
		t.Errorf("a negative DialTimeout gives %v", err)
		if err == nil {
			p.Close()
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	p := proxy(t, "127.0.0.1:1", nil)
	for _, toxic := range []toxi.Toxic{
		toxi.Latency{}, toxi.Latency{}, toxi.Latency{},
		toxi.Fault{Toxic: toxi.Latency{}, Stream: toxi.Upstream},
		toxi.Fault{Toxic: toxi.Latency{}, Stream: toxi.Both},
		toxi.Hang{}, toxi.Hang{}, toxi.ConnectBlackhole{},
		toxi.Fault{Name: "mine", Toxic: toxi.Noop{}},
	} {
		add(t, p, toxic)
	}
	want := "[latency_downstream latency_downstream_2 latency_downstream_3 latency_upstream latency_both hang hang_2 connect_blackhole mine]"
	if got := names(p); got != want {
		t.Errorf("the faults are %s, want %s", got, want)
	}
	for _, name := range []string{"mine", "latency_both"} {
		if _, err := p.Add(toxi.Fault{Name: name, Toxic: toxi.Noop{}}); !errors.Is(err, toxi.ErrExists) {
			t.Errorf("Add of another %q: %v, want ErrExists", name, err)
		}
	}
	if err := p.Remove("latency_downstream_2"); err != nil {
		t.Fatal(err)
	}
	add(t, p, toxi.Latency{})
	want = "[latency_downstream latency_downstream_3 latency_upstream latency_both hang hang_2 connect_blackhole mine latency_downstream_2]"
	if got := names(p); got != want {
		t.Errorf("the faults are %s, want %s", got, want)
	}
	if err := p.Remove("none"); !errors.Is(err, toxi.ErrNoFault) {
		t.Errorf("Remove of none: %v, want ErrNoFault", err)
	}
	if err := p.Clear(); err != nil || names(p) != "[]" {
		t.Errorf("Clear leaves %s, %v", names(p), err)
	}
}

func TestRemoveMayBeCalledTwiceAndTakesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	p := proxy(t, "127.0.0.1:1", nil)
	remove := add(t, p, toxi.Fault{Name: "a", Toxic: toxi.Noop{}})
	remove()
	add(t, p, toxi.Fault{Name: "a", Toxic: toxi.Noop{}})
	remove()
	if got := names(p); got != "[a]" {
		t.Errorf("faults are %s, want the second of the name", got)
	}
}

func TestUpdateKeepsWhatAConnectionHasDone(t *testing.T) {
	t.Parallel()
	p, client, server := through(t, "tcp", nil)
	add(t, p, toxi.Fault{Name: "limit", Toxic: toxi.LimitData{Bytes: 100}, Stream: toxi.Upstream})
	say(t, client, "abc")
	hear(t, server, "abc")
	if err := p.Update("limit", toxi.LimitData{Bytes: 5}); err != nil {
		t.Fatal(err)
	}
	say(t, client, "defg")
	hear(t, server, "de")
	hearEnd(t, server)
	hearEnd(t, client)
	if got := p.Faults()[0]; got.Stream != toxi.Upstream || got.Toxic != (toxi.LimitData{Bytes: 5}) {
		t.Errorf("the fault is %+v", got)
	}
	if err := p.Update("limit", toxi.Noop{}); err == nil || !strings.Contains(err.Error(), "limit_data") {
		t.Errorf("Update by another type: %v", err)
	}
	if err := p.Update("none", toxi.Noop{}); !errors.Is(err, toxi.ErrNoFault) {
		t.Errorf("Update of none: %v, want ErrNoFault", err)
	}
}

func TestConnsAndStatsMoveWhileConnectionsLive(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		p, client, server := through(t, network, nil)
		eventually(t, "one is open", func() bool { return p.Stats().Open == 1 })
		for i := range uint64(3) {
			say(t, client, "12345")
			hear(t, server, "12345")
			say(t, server, "1234567")
			hear(t, client, "1234567")
			want := toxi.Stats{Open: 1, Opened: 1,
				Upstream:   toxi.Bytes{Received: 5 * (i + 1), Sent: 5 * (i + 1)},
				Downstream: toxi.Bytes{Received: 7 * (i + 1), Sent: 7 * (i + 1)}}
			eventually(t, fmt.Sprintf("the stats are %+v", want), func() bool { return p.Stats() == want })
		}
		conns := p.Conns()
		if len(conns) != 1 || conns[0].Number != 1 || conns[0].New != 0 || time.Since(conns[0].Opened) > patience ||
			network == "tcp" && conns[0].Client.String() != client.LocalAddr().String() {
			t.Errorf("connections are %+v", conns)
		}
		client.Close()
		server.Close()
		want := toxi.Stats{Opened: 1,
			Upstream:   toxi.Bytes{Received: 15, Sent: 15},
			Downstream: toxi.Bytes{Received: 21, Sent: 21}}
		eventually(t, fmt.Sprintf("the stats are %+v", want), func() bool { return p.Stats() == want })
		if len(p.Conns()) != 0 {
			t.Errorf("connections are %+v", p.Conns())
		}
	})
}

func TestStatsTellWhatAToxicHolds(t *testing.T) {
	t.Parallel()
	p, client, _ := through(t, "tcp", nil)
	add(t, p, toxi.Fault{Toxic: toxi.Stall{}, Stream: toxi.Upstream})
	say(t, client, "12345")
	eventually(t, "5 bytes are held", func() bool { return p.Stats().Upstream == toxi.Bytes{Received: 5} })
}

func TestCloseTwiceClosesNothingElse(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		// A descriptor that is closed twice is somebody else's the second time.
		p := proxy(t, serve(t, network, echo), nil)
		ping(t, dial(t, p.Addr()))
		p.Close()
		var others []net.Listener
		for range 50 {
			others = append(others, listen(t, "tcp"))
		}
		p.Close()
		for _, ln := range others {
			c, err := try(ln.Addr().String())
			if err != nil {
				t.Fatalf("after the second Close a listener of somebody else: %v", err)
			}
			c.Close()
		}
	})
}

func TestAClosedProxyIsClosed(t *testing.T) {
	t.Parallel()
	p, client, server := through(t, "tcp", nil)
	remove, err := p.Add(toxi.Noop{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	hearEnd(t, client)
	hearEnd(t, server)
	if _, err := try(p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connecting: %v, want ECONNREFUSED", err)
	}
	if err := remove(); err != nil {
		t.Errorf("what Add returned says %v, want nothing: the toxic is gone", err)
	}
	for what, do := range map[string]func() error{
		"Add":    func() error { _, err := p.Add(toxi.Noop{}); return err },
		"Update": func() error { return p.Update("noop_downstream", toxi.Noop{}) },
		"Remove": func() error { return p.Remove("noop_downstream") },
		"Clear":  p.Clear,
		"Down":   func() error { return p.Down(func() { t.Error("the block was run") }) },
		"Dial":   func() error { _, err := p.Dial(t.Context()); return err },
	} {
		if err := do(); !errors.Is(err, toxi.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	if got := p.Stats(); got.Open != 0 || got.Opened != 1 {
		t.Errorf("the stats are %+v", got)
	}
}

func TestHooksHearOfEverythingAndMayCallTheProxy(t *testing.T) {
	t.Parallel()
	var (
		mu     sync.Mutex
		log    []string
		others atomic.Int64
		p      *toxi.Proxy
	)
	note := func(format string, args ...any) {
		p.Faults()
		p.Stats()
		p.Conns()
		// A change from within a hook must not wait for what called the hook.
		name := fmt.Sprint("hook ", others.Add(1))
		if strings.HasPrefix(format, "conn") {
			if _, err := p.Add(toxi.Fault{Name: name, Toxic: toxi.Noop{}, Only: toxi.First(0)}); err == nil {
				p.Remove(name)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if line := fmt.Sprintf(format, args...); !strings.HasPrefix(line, "hook") {
			log = append(log, line)
		}
	}
	ready := make(chan struct{})
	p = proxy(t, serve(t, "tcp", echo), &toxi.Options{Hooks: toxi.Hooks{
		Opened:  func(c toxi.Conn) { <-ready; note("conn %d opened", c.Number) },
		Closed:  func(c toxi.Conn) { note("conn %d closed", c.Number) },
		Struck:  func(c toxi.Conn, fault string) { note("conn %d struck by %s", c.Number, fault) },
		Changed: func(fault string, added bool) { note("%s %t", fault, added) },
	}})
	close(ready)
	c := dial(t, p.Addr())
	ping(t, c)
	remove := add(t, p, toxi.Fault{Name: "x", Toxic: toxi.Latency{}, Stream: toxi.Both})
	ping(t, c)
	p.Update("x", toxi.Latency{Delay: 1})
	remove()
	remove()
	c.Close()
	eventually(t, "the connection is closed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(log, "conn 1 closed")
	})
	mu.Lock()
	defer mu.Unlock()
	// Struck is told by the connection's goroutine, so its place among the others is
	// not fixed.
	got := slices.DeleteFunc(slices.Clone(log), func(s string) bool { return strings.Contains(s, "struck") })
	want := []string{"conn 1 opened", "x true", "x true", "x false", "conn 1 closed"}
	if !slices.Equal(got, want) || len(log) != len(want)+1 || !slices.Contains(log, "conn 1 struck by x") {
		t.Errorf("the hooks heard\n%s\nwant\n%s\nand once that x struck", strings.Join(log, "\n"), strings.Join(want, "\n"))
	}
}

func TestAllMethodsMayBeCalledAtAnyTime(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		r, _ := chance(t)
		p, err := toxi.Listen(serve(t, network, echo), nil)
		if err != nil {
			t.Fatal(err)
		}
		toxics := []toxi.Toxic{
			toxi.Refuse{}, toxi.ConnectBlackhole{}, toxi.Hang{}, toxi.Reject{}, toxi.Reject{Reset: true},
			toxi.SlowConnect{Delay: time.Millisecond}, toxi.ResetPeer{}, toxi.Timeout{}, toxi.LimitData{Bytes: 10},
			toxi.Fault{Name: "same", Toxic: toxi.Corrupt{Rate: 0.5}, Stream: toxi.Both, Toxicity: 0.5},
			toxi.Fault{Toxic: toxi.Latency{Delay: time.Millisecond}, Stream: toxi.Both, Only: toxi.Every(2)},
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range 6 {
			r := rand.New(rand.NewPCG(r.Uint64(), 0))
			wg.Go(func() {
				for !stop.Load() {
					toxic := toxics[r.IntN(len(toxics))]
					switch r.IntN(9) {
					case 0:
						p.With(toxic, func() {})
					case 1:
						if remove, err := p.Add(toxic); err == nil {
							p.Stats()
							remove()
						}
					case 2:
						p.Update("same", toxics[len(toxics)-2])
					case 3:
						p.Clear()
					case 4:
						p.Down(func() {})
					case 5:
						p.Blackhole(func() {})
					case 6:
						p.Reset(func() { p.Conns() })
					case 7:
						if c, err := p.Dial(t.Context()); err == nil {
							c.SetDeadline(time.Now().Add(time.Millisecond))
							c.Write([]byte("hello"))
							c.Read(make([]byte, 10))
							c.Close()
						}
					case 8:
						for _, f := range p.Faults() {
							p.Remove(f.Name)
						}
					}
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				for !stop.Load() {
					d := net.Dialer{Timeout: 10 * time.Millisecond}
					c, err := d.Dial(network, p.Addr())
					if err != nil {
						continue
					}
					c.SetDeadline(time.Now().Add(time.Millisecond))
					c.Write([]byte("hello"))
					c.Read(make([]byte, 10))
					c.Close()
				}
			})
		}
		timer := time.NewTimer(300 * time.Millisecond)
		<-timer.C
		for range 3 {
			wg.Go(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		timer.Reset(20 * time.Millisecond)
		<-timer.C
		stop.Store(true)
		wg.Wait()
		if got := p.Stats().Open; got != 0 {
			t.Errorf("%d connections are open", got)
		}
	})
}

func TestAProxyIsCalledAfterItsUpstreamUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "redis"} {
		p := proxy(t, "127.0.0.1:1", &toxi.Options{Name: name})
		if want := cmp.Or(name, "127.0.0.1:1"); p.Name() != want {
			t.Errorf("the name is %q, want %q", p.Name(), want)
		}
	}
}

// The following tests are not parallel: they count what there is in the process.

func TestThousandsOfProxiesLeaveNothing(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 200
	}
	upstream := serve(t, "tcp", echo)
	leakless(t, func() {
		for i := range n {
			p, err := toxi.Listen(upstream, nil)
			if err != nil {
				t.Fatal(err)
			}
			switch i % 4 {
			case 1:
				p.Down(func() {})
			case 2:
				add(t, p, toxi.ConnectBlackhole{})
			case 3:
				c, err := try(p.Addr())
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestThousandsOfAbortedConnectionsLeaveNothing(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 400
	}
	toxics := []toxi.Toxic{
		nil, nil, nil, nil,
		toxi.Fault{Toxic: toxi.Latency{Delay: 5 * time.Millisecond}, Stream: toxi.Both},
		toxi.LimitData{Bytes: 10_000},
		toxi.ResetPeer{After: time.Millisecond},
		toxi.Fault{Toxic: toxi.Bandwidth{Rate: 1e7}, Stream: toxi.Both},
	}
	// The server says what it can, whatever it hears.
	upstream := serve(t, "tcp", func(c net.Conn) {
		go io.Copy(io.Discard, c)
		b := make([]byte, 50_000)
		for range 20 {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	leakless(t, func() {
		var proxies []*toxi.Proxy
		for _, toxic := range toxics {
			p, err := toxi.Listen(upstream, nil)
			if err != nil {
				t.Fatal(err)
			}
			if toxic != nil {
				add(t, p, toxic)
			}
			proxies = append(proxies, p)
		}
		var wg sync.WaitGroup
		work := make(chan int)
		for range 50 {
			wg.Go(func() {
				for i := range work {
					c, err := try(proxies[i%len(proxies)].Addr())
					if errors.Is(err, syscall.ECONNRESET) {
						continue // by the ResetPeer, before connect returned
					}
					if err != nil {
						t.Error(err)
						continue
					}
					tcp := c.(*net.TCPConn)
					switch i / len(proxies) % 5 {
					case 0: // RST at once
						tcp.SetLinger(0)
					case 1: // RST in mid-stream
						c.Write(make([]byte, 1000))
						c.Read(make([]byte, 1000))
						tcp.SetLinger(0)
					case 2: // FIN in mid-stream
						c.Read(make([]byte, 1000))
					case 3: // never read
						c.Write(make([]byte, 100))
					case 4: // its side ended, then gone
						tcp.CloseWrite()
						c.Read(make([]byte, 1))
					}
					c.Close()
				}
			})
		}
		for i := range n {
			work <- i
		}
		close(work)
		wg.Wait()
		// Without Close: a proxy that lives keeps nothing of connections that don't.
		for i, p := range proxies {
			if !soon(func() bool { return p.Stats().Open == 0 }) {
				t.Errorf("proxy %d with %T has %d open connections", i, toxics[i], p.Stats().Open)
			}
			if got, want := p.Stats().Opened, uint64(n/len(proxies)); got != want {
				t.Errorf("proxy %d has had %d connections, want %d", i, got, want)
			}
		}
		for _, p := range proxies {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
