package peer_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// One stream from client to server, 256 MiB of it measured: half of them before, half of
// them after 32 MiB each way, on the same connection, in the middle of which toxics
// come and go, and whose sums are compared. That part is not in the figure, since not
// all contestants do the same in it; the second half is, so a proxy is only as fast as
// it is once it has had toxics.
func BenchmarkThroughput(b *testing.B)         { throughput(b, false) }
func BenchmarkThroughputEmbedded(b *testing.B) { throughput(b, true) }

func throughput(b *testing.B, embedded bool) {
	c := &contest{B: b, kinds: all(), rounds: 15, embedded: embedded, ratios: []string{"MB/s"}}
	size := scale[int64](256<<20, 64<<20)
	c.run(func(k kind) sample {
		conn := c.dial(k)
		defer conn.Close()
		took := c.sink(k, conn, size/2)
		s := make(sample)
		if err := c.churn(k, conn, scale[int64](32<<20, 16<<20)); err != nil {
			// Ours may not lose a byte, and those that copy cannot.
			if k != theirs {
				b.Fatalf("%s, with toxics added and removed in mid-stream: %v", k, err)
			}
			b.Logf("%s, with toxics added and removed in mid-stream: %v", k, err)
			s["broken-streams"]++
			conn = c.dial(k)
			defer conn.Close()
		}
		took += c.sink(k, conn, size/2)
		s["MB/s"] = float64(size) / 1e6 / took.Seconds()
		return s
	})
}

// sink sends n bytes and returns how long it took until the server had them all.
func (c *contest) sink(k kind, conn net.Conn, n int64) time.Duration {
	c.Helper()
	began := time.Now()
	_, err := conn.Write(request(opSink, n))
	if err == nil {
		_, err = send(conn, n, false, nil)
	}
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		c.Fatalf("%s: %v", k, err)
	}
	return time.Since(began)
}

// churned are the toxics that come and go while a stream is checked.
var churned = []fault{
	{Type: "latency", Toxicity: 1, Attributes: map[string]int64{"latency": 2}},
	{Type: "slicer", Toxicity: 1, Attributes: map[string]int64{"average_size": 16000, "size_variation": 1000}},
	{Type: "bandwidth", Toxicity: 1, Attributes: map[string]int64{"rate": 500_000}},
}

// churn sends and receives n bytes, adding and removing toxics all the while, and
// compares their sums.
func (c *contest) churn(k kind, conn net.Conn, n int64) error {
	up := func(progress func(int64)) error {
		if _, err := conn.Write(request(opSum, n)); err != nil {
			return err
		}
		want, err := send(conn, n, true, progress)
		if err != nil {
			return err
		}
		var got [4]byte
		if _, err := io.ReadFull(conn, got[:]); err != nil {
			return fmt.Errorf("the server has not got all: %w", err)
		}
		return same(want, got)
	}
	down := func(progress func(int64)) error {
		if _, err := conn.Write(request(opSend, n)); err != nil {
			return err
		}
		var sum uint32
		r := &counted{Reader: conn, progress: progress}
		sum, err := receive(r, make([]byte, bytesPerCall), n, true)
		if err != nil {
			return fmt.Errorf("the client has not got all, but %d of %d bytes: %w", r.n, n, err)
		}
		var want [4]byte
		if _, err := io.ReadFull(conn, want[:]); err != nil {
			return err
		}
		return same(sum, want)
	}
	for stream, transfer := range map[string]func(func(int64)) error{"upstream": up, "downstream": down} {
		if err := c.meanwhile(k, stream, n, transfer); err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
	}
	return nil
}

func same(sum uint32, received [4]byte) error {
	if got := binary.BigEndian.Uint32(received[:]); got != sum {
		return fmt.Errorf("the sums differ: %08x and %08x", sum, got)
	}
	return nil
}

type counted struct {
	io.Reader
	n        int64
	progress func(int64)
}

func (r *counted) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n += int64(n)
	r.progress(r.n)
	return n, err
}

// meanwhile runs a transfer, and at every eighth of its bytes has a toxic added or
// removed, without waiting for that.
func (c *contest) meanwhile(k kind, stream string, n int64, transfer func(progress func(int64)) error) error {
	if k == noProxy || k == ioCopy {
		return transfer(func(int64) {})
	}
	const parts = 8
	turns := make(chan struct{}, parts)
	var changer sync.WaitGroup
	var failed error
	changer.Go(func() {
		i, added := 0, false
		for range turns {
			f := churned[i%len(churned)]
			f.Name, f.Stream = fmt.Sprintf("churn%d", i), stream
			what := "Add"
			if added {
				what = "Remove"
				i++
			}
			added = !added
			if err := c.agents[k].Call("Role."+what, Faults{c.addrs[k], []fault{f}}, new(None)); err != nil && failed == nil {
				failed = err
			}
		}
	})
	next := n / parts / 2
	err := transfer(func(done int64) {
		if done >= next && next < n {
			next += n / parts
			turns <- struct{}{}
		}
	})
	close(turns)
	changer.Wait()
	if err == nil {
		err = failed
	}
	return err
}

// A byte goes to the server and back, again and again, on one connection.
func BenchmarkRoundTrip(b *testing.B)         { roundTrip(b, false) }
func BenchmarkRoundTripEmbedded(b *testing.B) { roundTrip(b, true) }

func roundTrip(b *testing.B, embedded bool) {
	c := &contest{B: b, kinds: all(), rounds: 21, embedded: embedded, ratios: []string{"p50-µs", "p99-µs"}}
	times := make([]time.Duration, scale(3000, 1000))
	c.run(func(k kind) sample {
		conn := c.dial(k)
		defer conn.Close()
		if err := echo(conn, 1); err != nil {
			b.Fatalf("%s: %v", k, err)
		}
		var one [1]byte
		for i := -len(times) / 10; i < len(times); i++ {
			began := time.Now()
			_, err := conn.Write(one[:])
			if err == nil {
				_, err = io.ReadFull(conn, one[:])
			}
			if err != nil {
				b.Fatalf("%s: %v", k, err)
			}
			if i >= 0 { // before that it warms up
				times[i] = time.Since(began)
			}
		}
		slices.Sort(times)
		return sample{"p50-µs": microseconds(percentile(times, 50)), "p99-µs": microseconds(percentile(times, 99))}
	})
}

// Clients connect, send a byte, get it back and close.
func BenchmarkConnections(b *testing.B)         { connections(b, false) }
func BenchmarkConnectionsEmbedded(b *testing.B) { connections(b, true) }

func connections(b *testing.B, embedded bool) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			c := &contest{B: b, kinds: all(), rounds: 41, embedded: embedded, ratios: []string{"conn/s"}}
			total := scale(320, 160)
			c.run(func(k kind) sample {
				began := time.Now()
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						for range total / clients {
							if err := c.once(k); err != nil {
								b.Errorf("%s: %v", k, err)
								return
							}
						}
					})
				}
				wg.Wait()
				return sample{"conn/s": float64(total/clients*clients) / time.Since(began).Seconds()}
			})
		})
	}
}

// once makes one connection and uses it for one byte.
func (c *contest) once(k kind) error {
	conn, err := net.DialTimeout("tcp", c.addrs[k], patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	return echo(conn, 1)
}
