package toxi_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

// A stream is random bytes of which each place is known: whoever reads it finds the
// first byte that is lost, doubled or out of order.
type stream struct{ seed uint64 }

func (s stream) word(i uint64) uint64 {
	z := s.seed + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fill fills b with the bytes from place at on.
func (s stream) fill(b []byte, at int64) {
	var w [8]byte
	for len(b) > 0 {
		if at%8 == 0 && len(b) >= 8 {
			binary.LittleEndian.PutUint64(b, s.word(uint64(at/8)))
			b, at = b[8:], at+8
			continue
		}
		binary.LittleEndian.PutUint64(w[:], s.word(uint64(at/8)))
		n := copy(b, w[at%8:])
		b, at = b[n:], at+int64(n)
	}
}

// check reports the first place at which b is not the bytes from place at on.
func (s stream) check(b []byte, at int64) error {
	want := make([]byte, len(b))
	s.fill(want, at)
	if bytes.Equal(b, want) {
		return nil
	}
	for i := range b {
		if b[i] != want[i] {
			return fmt.Errorf("byte %d is %#x, want %#x", at+int64(i), b[i], want[i])
		}
	}
	return nil
}

// write writes the stream to c, in pieces as size says, until stop is set, and ends it.
// It returns how much that was.
func (s stream) write(c net.Conn, size func() int, stop *atomic.Bool) (n int64, err error) {
	b := make([]byte, 4<<20)
	for !stop.Load() {
		b := b[:size()]
		s.fill(b, n)
		w, err := c.Write(b)
		n += int64(w)
		if err != nil {
			return n, err
		}
	}
	return n, half(c)
}

// read reads the stream from c until its end, and returns how much that was.
func (s stream) read(c net.Conn, size int, pause func()) (n int64, err error) {
	b := make([]byte, size)
	for {
		r, err := c.Read(b)
		if bad := s.check(b[:r], n); bad != nil {
			return n, bad
		}
		n += int64(r)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		pause()
	}
}

// lossless returns a random toxic that loses nothing, and is fast enough to keep much
// moving.
func lossless(r *rand.Rand) toxi.Toxic {
	var toxic toxi.Toxic
	switch r.IntN(10) {
	case 0:
		toxic = toxi.Latency{Delay: time.Duration(r.IntN(3)) * time.Millisecond}
	case 1:
		toxic = toxi.Latency{Delay: time.Hour, Jitter: time.Hour}
	case 2:
		toxic = toxi.Bandwidth{Rate: 50e6 + r.Int64N(1e9), Shared: r.IntN(2) == 0}
	case 3:
		toxic = toxi.Bandwidth{}
	case 4:
		toxic = toxi.Slicer{Size: 1000 + r.IntN(10_000), Variation: r.IntN(1000), Delay: time.Duration(r.IntN(20)) * time.Microsecond}
	case 5:
		toxic = toxi.SlowClose{Delay: time.Duration(r.IntN(3)) * time.Millisecond}
	case 6:
		toxic = toxi.PacketLoss{Rate: 0.2, Correlation: 0.2, Retransmit: time.Millisecond}
	case 7:
		toxic = toxi.Stall{Bytes: r.Int64N(1 << 20), After: time.Duration(r.IntN(2)) * time.Millisecond}
	case 8:
		toxic = toxi.LimitData{Bytes: 1 << 50}
	default:
		toxic = toxi.Noop{}
	}
	return toxi.Fault{
		Toxic:    toxic,
		Stream:   toxi.Stream(r.IntN(3)),
		Toxicity: [...]float64{0, 0.5, 1, toxi.Never}[r.IntN(4)],
	}
}

// churn adds, updates and removes toxics that lose nothing until stop is set, and then
// removes all of them. It returns how many changes that was.
func churn(p *toxi.Proxy, r *rand.Rand, stop *atomic.Bool) (n int, err error) {
	for ; !stop.Load(); n++ {
		faults := p.Faults()
		switch have := len(faults); {
		case have > 4 || have > 0 && r.IntN(3) == 0:
			err = p.Remove(faults[r.IntN(have)].Name)
		case have > 0 && r.IntN(2) == 0:
			f := lossless(r).(toxi.Fault)
			if was := faults[r.IntN(have)]; fmt.Sprintf("%T", was.Toxic) == fmt.Sprintf("%T", f.Toxic) {
				err = p.Update(was.Name, f)
			}
		default:
			_, err = p.Add(lossless(r))
		}
		if err != nil {
			return n, err
		}
	}
	return n, p.Clear()
}

// Toxiproxy loses 65,536 bytes in the middle of a stream when a toxic is removed
// while the reader is slow.
//
// This test is not parallel to others: it takes all that the machine has, and others measure
// time.
func TestNoByteIsLostDoubledOrReorderedWhateverComesAndGoes(t *testing.T) {
	length := 3 * time.Second
	if testing.Short() {
		length = 700 * time.Millisecond
	}
	kinds := []struct {
		name  string
		write func(*rand.Rand) func() int
		read  int
		slow  bool
	}{
		{"much at once", func(r *rand.Rand) func() int { return func() int { return 1<<20 + r.IntN(3<<20) } }, 256 << 10, false},
		{"some at a time", func(r *rand.Rand) func() int { return func() int { return 1 + r.IntN(1<<r.IntN(18)) } }, 10_000, false},
		{"byte by byte", func(*rand.Rand) func() int { return func() int { return 1 } }, 100, false},
		{"a slow reader", func(*rand.Rand) func() int { return func() int { return 256 << 10 } }, 64 << 10, true},
	}
	networks(t, func(t *testing.T, network string) {
		_, seed := chance(t)
		addr, accepted := hand(t, network)
		p := proxy(t, addr, &toxi.Options{Seed: seed})
		var stopWriting, stopChurning atomic.Bool
		var writers, others sync.WaitGroup
		for i, kind := range kinds {
			client := dial(t, p.Addr())
			server := accept(t, accepted)
			for j, ends := range [][2]net.Conn{{client, server}, {server, client}} {
				from, to := ends[0], ends[1]
				from.SetDeadline(time.Now().Add(length + patience))
				what := fmt.Sprintf("%s, %s", kind.name, [...]string{"upstream", "downstream"}[j])
				s := stream{seed: seed + uint64(2*i+j)}
				size := kind.write(rand.New(rand.NewPCG(seed, uint64(2*i+j))))
				pause := func() {}
				if kind.slow {
					tick := time.NewTicker(time.Millisecond)
					defer tick.Stop()
					pause = func() {
						if !stopWriting.Load() {
							<-tick.C
						}
					}
				}
				var sent atomic.Int64
				done := make(chan struct{})
				writers.Go(func() {
					defer close(done)
					n, err := s.write(from, size, &stopWriting)
					if err != nil {
						t.Errorf("%s: writing after %d bytes: %v", what, n, err)
					}
					sent.Store(n)
				})
				others.Go(func() {
					n, err := s.read(to, kind.read, pause)
					if err != nil {
						t.Errorf("%s: reading after %d bytes: %v", what, n, err)
						stopWriting.Store(true)
						from.Close()
						return
					}
					<-done
					if want := sent.Load(); n != want {
						t.Errorf("%s: %d bytes came, want %d", what, n, want)
					}
					t.Logf("%s: %.1f MB", what, float64(n)/1e6)
				})
			}
		}
		churned := make(chan error, 1)
		go func() {
			n, err := churn(p, rand.New(rand.NewPCG(seed, 100)), &stopChurning)
			t.Logf("%d changes", n)
			churned <- err
		}()
		timer := time.NewTimer(length)
		defer timer.Stop()
		<-timer.C
		// The streams end while toxics still come and go.
		stopWriting.Store(true)
		timer.Reset(length / 10)
		<-timer.C
		stopChurning.Store(true)
		if err := <-churned; err != nil {
			t.Error(err)
		}
		writers.Wait()
		others.Wait()
		eventually(t, "all connections are over", func() bool { return p.Stats().Open == 0 })
		if got := p.Stats(); got.Upstream.Received != got.Upstream.Sent || got.Downstream.Received != got.Downstream.Sent {
			t.Errorf("the stats are %+v, want as much sent as received", got)
		}
	})
}

func TestNothingIsLostWhenALatencyGoesWhileTheReaderIsStuck(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		_, seed := chance(t)
		for _, toxic := range []toxi.Toxic{toxi.Latency{Delay: time.Hour}, toxi.Stall{}, toxi.Bandwidth{}, toxi.Slicer{Size: 100, Delay: time.Hour}} {
			t.Run(fmt.Sprintf("%T", toxic), func(t *testing.T) {
				t.Parallel()
				const size = 20 << 20 // more than what systems hold
				p, client, server := through(t, network, nil)
				s := stream{seed}
				remove := add(t, p, toxic)
				wrote := make(chan error, 1)
				go func() {
					b := make([]byte, size)
					s.fill(b, 0)
					_, err := server.Write(b)
					wrote <- errors.Join(err, half(server))
				}()
				stuck := func() bool {
					before := p.Stats().Downstream
					tick := time.NewTimer(30 * time.Millisecond)
					<-tick.C
					return before.Received > 0 && p.Stats().Downstream == before
				}
				eventually(t, "nothing moves any more", stuck)
				remove() // and nobody reads
				eventually(t, "nothing moves any more", stuck)
				add(t, p, toxi.Latency{Delay: 1}) // what is half written meets others
				eventually(t, "nothing moves any more", stuck)
				n, err := s.read(client, 64<<10, func() {})
				if err != nil || n != size {
					t.Errorf("%d bytes came, %v; want %d", n, err, size)
				}
				if err := <-wrote; err != nil {
					t.Error(err)
				}
			})
		}
	})
}
