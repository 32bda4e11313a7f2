package peer_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What 500 connections cost that have carried 64 KiB each way and are idle now: in the
// proxy's process, after its garbage is collected.
func BenchmarkIdleConnections(b *testing.B) {
	c := &contest{B: b, kinds: present(ioCopy, ours, theirs), rounds: 3, fresh: true}
	n := scale(500, 100)
	c.run(func(k kind) sample {
		before := c.stats(k, true)
		for range n {
			conn := c.dial(k)
			defer conn.Close()
			if err := echo(conn, bytesPerCall); err != nil {
				b.Fatalf("%s: %v", k, err)
			}
		}
		after := c.stats(k, true)
		each := func(before, after int64) float64 { return float64(after-before) / float64(n) }
		s := sample{
			"goroutines/conn": each(int64(before.Goroutines), int64(after.Goroutines)),
			"B/conn":          each(before.InUse, after.InUse),
			"heap-B/conn":     each(before.HeapAlloc, after.HeapAlloc),
		}
		if before.Files >= 0 {
			s["files/conn"] = each(int64(before.Files), int64(after.Files))
		}
		return s
	})
}

// What a gigabyte on one connection leaves for the garbage collector.
func BenchmarkGarbage(b *testing.B) {
	c := &contest{B: b, kinds: present(ioCopy, ours, theirs), rounds: 3}
	size := scale[int64](1e9, 1e8)
	c.run(func(k kind) sample {
		conn := c.dial(k)
		defer conn.Close()
		c.sink(k, conn, 16<<20)
		// What taking stock allocates itself is taken off.
		first := c.stats(k, false).TotalAlloc
		before := c.stats(k, false).TotalAlloc
		c.sink(k, conn, size)
		after := c.stats(k, false).TotalAlloc
		return sample{"B/GB": max(0, float64((after-before)-(before-first))*1e9/float64(size))}
	})
}

// Control calls while 100 connections are idle.
func BenchmarkControlIdle(b *testing.B) {
	c := &contest{B: b, kinds: present(ours, theirs, oursByHTTP, theirsByHTTP), rounds: 5}
	conns := make(map[kind][]net.Conn)
	c.run(func(k kind) sample {
		for len(conns[k]) < 100 {
			conn := c.dial(k)
			b.Cleanup(func() { conn.Close() })
			if err := echo(conn, 1); err != nil {
				b.Fatalf("%s: %v", k, err)
			}
			conns[k] = append(conns[k], conn)
		}
		return c.controlled(k, scale(100, 20))
	})
}

// hung is when a control call counts as one that doesn't return. Those of Toxiproxy's
// that do so here end at its own limit, 25 s, if at all.
const hung = time.Second

// Control calls, and a new connection, while 20 clients don't read what the server
// sends them for ever. A call that has not returned after a second is given up, and no
// other follows.
func BenchmarkControlStalled(b *testing.B) {
	c := &contest{B: b, kinds: present(ours, theirs, oursByHTTP, theirsByHTTP), rounds: 3, fresh: true}
	c.run(func(k kind) sample {
		for range 20 {
			conn := c.dial(k)
			defer conn.Close()
			if _, err := conn.Write(request(opSend, endless)); err != nil {
				b.Fatalf("%s: %v", k, err)
			}
		}
		c.settle(func() int64 {
			var sent int64
			c.server.ask(b, "Sent", None{}, &sent)
			return sent
		})
		s := c.controlled(k, scale(20, 5))
		took, _ := within(hung, func() error { return c.once(k) })
		s["connect-ms"] = milliseconds(took)
		return s
	})
}

// Control calls, and taking the proxy down and up, while 20 clients wait for an upstream
// that answers no attempt to connect.
func BenchmarkControlBlackholed(b *testing.B) {
	c := &contest{B: b, kinds: present(ours, theirs, oursByHTTP, theirsByHTTP), rounds: 5, fresh: true, upstream: "Blackhole"}
	if _, keep, err := blackhole(); err != nil {
		b.Skip(err)
	} else {
		for _, k := range keep {
			k.Close()
		}
	}
	c.run(func(k kind) sample {
		for range 20 {
			defer c.dial(k).Close()
		}
		return c.controlled(k, 1) // after which they are gone
	})
}

// controlled makes n rounds of control calls.
func (c *contest) controlled(k kind, n int) sample {
	c.Helper()
	calls := Calls{
		Addr:   c.addrs[k],
		N:      n,
		Limit:  hung,
		Toggle: c.upstream == "Blackhole",
		Fault:  fault{Name: "slow", Type: "latency", Stream: "downstream", Toxicity: 1, Attributes: map[string]int64{"latency": 1}},
	}
	var t Times
	if p := c.apis[k]; p != nil {
		if err := control(p, calls, &t); err != nil {
			c.Fatalf("%s: %v", k, err)
		}
	} else {
		c.agents[k].ask(c, "Control", calls, &t)
	}
	s := sample{"hung-calls": 0}
	if t.Hung != "" {
		s["hung-calls"] = 1
	}
	for name, times := range map[string][]time.Duration{"add": t.Add, "list": t.List, "remove": t.Remove, "toggle": t.Toggle} {
		if len(times) > 0 {
			slices.Sort(times)
			s[name+"-µs"] = microseconds(percentile(times, 50))
		}
	}
	all := t.all()
	s["worst-ms"] = milliseconds(all[len(all)-1])
	return s
}

// settle waits until what value tells hasn't changed for half a second.
func (c *contest) settle(value func() int64) int64 {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := value(), 0
	for range 150 {
		<-tick.C
		if v := value(); v != last {
			last, since = v, 0
		} else if since++; since == 5 {
			break
		}
	}
	return last
}

// What 10,000 connections leave behind that their clients abort, in four ways. The
// count is taken when it does not change any more.
func BenchmarkAborted(b *testing.B) {
	c := &contest{B: b, kinds: present(ioCopy, ours, theirs), rounds: 1, fresh: true}
	n := int64(scale(10_000, 1_000))
	c.run(func(k kind) sample {
		// What the first connections make for all that follow is not left behind.
		for range 10 {
			if err := c.once(k); err != nil {
				b.Fatalf("%s: %v", k, err)
			}
		}
		goroutines := func() int64 { return int64(c.stats(k, false).Goroutines) }
		c.settle(goroutines)
		before := c.stats(k, true)
		var next atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		for range 16 {
			wg.Go(func() {
				for i := next.Add(1); i <= n; i = next.Add(1) {
					if err := c.abort(k, i); err != nil {
						b.Errorf("%s: %v", k, err)
						return
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(began)
		c.settle(goroutines)
		after := c.stats(k, true)
		s := sample{
			"conn/s":          float64(n) / took.Seconds(),
			"goroutines-left": float64(after.Goroutines - before.Goroutines),
			"B-left":          float64(after.InUse - before.InUse),
		}
		if before.Files >= 0 {
			s["files-left"] = float64(after.Files - before.Files)
		}
		if k == ours && (after.Goroutines > before.Goroutines || after.Files > before.Files) {
			b.Errorf("%s: %d goroutines and %d files before, %d and %d after\n%s", k,
				before.Goroutines, before.Files, after.Goroutines, after.Files, c.stacks(k))
		}
		return s
	})
}

// abort makes the i-th connection and aborts it with a RST.
func (c *contest) abort(k kind, i int64) error {
	conn, err := net.DialTimeout("tcp", c.addrs[k], patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	conn.(*net.TCPConn).SetLinger(0)
	switch {
	case i%10 == 0: // while the server sends
		if _, err = conn.Write(request(opSend, endless)); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 4<<10))
		}
	case i%3 == 0: // at once
	case i%3 == 1: // while it sends itself
		_, err = conn.Write(append(request(opSum, endless), noise[:32<<10]...))
	default: // after a conversation
		err = echo(conn, 1)
	}
	return err
}

// stacks tells what the goroutines of k's process are in, most first.
func (c *contest) stacks(k kind) string {
	var tops map[string]int
	c.agents[k].ask(c, "Stacks", None{}, &tops)
	var out []string
	for top, n := range tops {
		out = append(out, fmt.Sprintf("%6d %s", n, top))
	}
	slices.Sort(out)
	slices.Reverse(out)
	return strings.Join(out, "\n")
}
