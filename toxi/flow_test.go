package toxi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestWhatLimitDataHasCutOffStaysCutOffWhenItGoes(t *testing.T) {
	t.Parallel()
	// The end it made waits in the latency behind it. What comes meanwhile, and what
	// waits before it when it goes, has a hole before it.
	r := newRig(t, LimitData{Bytes: 3}, Latency{Delay: time.Second})
	r.text(0, "abcde")
	r.run(ms(1))
	r.f.entry().push(r.chunk([]byte("fgh")))
	r.remove(0)
	r.text(ms(2), "ijk")
	r.run(time.Hour)
	r.wantText("abc")
	r.wantEnd(closing, time.Second)
}

// lossless are toxics that lose nothing.
var lossless = []Toxic{
	Noop{},
	Latency{Delay: ms(100), Jitter: ms(50)},
	Bandwidth{Rate: 100_000},
	SlowClose{Delay: ms(100)},
	Slicer{Size: 100, Variation: 99, Delay: time.Microsecond},
	PacketLoss{Rate: 0.3, Retransmit: ms(10)},
	LimitData{Bytes: 1 << 40},
	Stall{Bytes: 1 << 40},
	Stall{After: longest},
	Cut{Bytes: 1 << 40},
	Cut{After: longest},
}

func TestTheEndComesBehindTheData(t *testing.T) {
	t.Parallel()
	for _, toxic := range lossless {
		for _, end := range []ending{eof, closing, reset} {
			t.Run(fmt.Sprintf("%T %v", toxic, end), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, toxic, toxic)
				all := r.bytes(3000)
				r.send(0, all[:1000])
				r.send(0, all[1000:])
				r.finish(0, end)
				r.run(time.Hour)
				r.want(all)
				r.wantEnd(end, r.endAt)
				if last := r.left[len(r.left)-1].at; r.endAt < last {
					t.Errorf("the end is at %v, the last byte at %v", r.endAt, last)
				}
			})
		}
	}
}

func TestWhatWaitsIsBounded(t *testing.T) {
	t.Parallel()
	const size = 10_000
	toxics := append([]Toxic{Stall{}, Bandwidth{}, ResetPeer{After: time.Hour}}, lossless...)
	for _, toxic := range toxics {
		t.Run(fmt.Sprintf("%+v", toxic), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, toxic)
			r.blocked = true
			b := make([]byte, size)
			for range 5000 {
				r.send(0, b)
			}
			r.run(time.Minute)
			a := r.f.stages[0]
			// A chunk more than there is room for, and what a chunk counts besides.
			if most := a.stage.room() + size + perChunk; a.in.size > most {
				t.Errorf("%d bytes wait before it, want at most %d", a.in.size, most)
			}
			if most := smallRoom + size + perChunk; r.f.out.size > most {
				t.Errorf("%d bytes wait to be written, want at most %d", r.f.out.size, most)
			}
			if len(r.input) == 0 {
				t.Error("the sender has not been stopped")
			}
			if r.wake != never && r.wake <= r.now {
				t.Errorf("it asks to be called at %v at %v", r.wake, r.now)
			}
		})
	}
}

func TestManySmallWritesAreBoundedToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, Latency{Delay: longest})
	r.steady(0, 300_000, 1, 0)
	r.run(time.Second)
	if got, most := len(r.f.stages[0].in.chunks), largeRoom/perChunk+1; got > most {
		t.Errorf("%d chunks wait, want at most %d", got, most)
	}
	if len(r.input) == 0 {
		t.Error("the sender has not been stopped")
	}
}

func TestWhatAToxicHeldGoesAtOnceWhenItGoes(t *testing.T) {
	t.Parallel()
	for _, toxic := range []Toxic{Latency{Delay: longest}, Stall{}, Bandwidth{}, Bandwidth{Rate: 1}, SlowClose{Delay: longest}, Slicer{Size: 1, Delay: time.Hour}, PacketLoss{Rate: 1, Retransmit: time.Hour}} {
		t.Run(fmt.Sprintf("%+v", toxic), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Noop{}, toxic, Noop{})
			all := r.bytes(20_000)
			r.send(0, all[:7])
			r.send(0, all[7:])
			r.finish(0, eof)
			r.run(ms(10))
			r.wantEnd(open, 0)
			r.remove(1)
			r.run(ms(11))
			r.want(all)
			r.wantEnd(eof, ms(10))
		})
	}
}

func TestWhatAToxicHeldMeetsTheNextAsIfItHadComeWhenItWent(t *testing.T) {
	t.Parallel()
	for _, first := range []Toxic{Stall{}, Latency{Delay: longest}, Bandwidth{}} {
		t.Run(fmt.Sprintf("%+v", first), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, first, Latency{Delay: ms(100)})
			r.text(0, "a")
			r.finish(0, eof)
			r.run(time.Minute)
			r.remove(0)
			r.run(time.Hour)
			r.wantText("a")
			if got, want := r.left[0].at, time.Minute+ms(100); got != want {
				t.Errorf("it leaves at %v, want %v", got, want)
			}
			r.wantEnd(eof, time.Minute+ms(100))
		})
	}
	t.Run("a stall that goes on", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, Stall{Bytes: 1}, Latency{Delay: ms(100)})
		r.text(0, "ab")
		r.run(time.Minute)
		r.wantText("a")
		r.update(0, Stall{Bytes: 3})
		r.text(time.Minute+ms(50), "c")
		r.run(time.Hour)
		r.wantText("abc")
		for i, want := range []time.Duration{ms(100), time.Minute + ms(100), time.Minute + ms(150)} {
			if got := r.left[i].at; got != want {
				t.Errorf("byte %d leaves at %v, want %v", i, got, want)
			}
		}
	})
}

func TestANewToxicDoesNotStrikeWhatHasPassed(t *testing.T) {
	t.Parallel()
	r := newRig(t, Noop{})
	r.blocked = true
	r.text(0, "abc")
	r.run(ms(1))
	r.put(Latency{Delay: time.Hour})
	r.text(ms(2), "def")
	r.run(ms(3))
	r.blocked = false
	r.run(ms(4))
	r.wantText("abc")
	r.run(2 * time.Hour)
	r.wantText("abcdef")
}

// Whatever toxics that lose nothing come, change and go, what comes out is what went in.
func TestLosslessToxicsLoseNothingWhateverComesAndGoes(t *testing.T) {
	t.Parallel()
	n := 400
	if testing.Short() {
		n = 50
	}
	for _, seed := range seeds(t, n) {
		if !t.Run(fmt.Sprintf("TOXI_SEED=%d", seed), func(t *testing.T) { metamorphic(t, seed) }) {
			return
		}
	}
}

func metamorphic(t *testing.T, seed uint64) {
	r := newRig(t)
	r.rand = rand.New(rand.NewPCG(seed, 0))
	rnd := rand.New(rand.NewPCG(seed, 1))
	var shared line
	duration := func(most time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(most))) }
	toxic := func() Toxic {
		switch rnd.IntN(10) {
		case 0:
			return Latency{Delay: duration(time.Second), Jitter: duration(time.Second)}
		case 1:
			return Latency{Delay: duration(longest)}
		case 2:
			return Bandwidth{Rate: 50_000 + rnd.Int64N(1e7)}
		case 3:
			return Bandwidth{Rate: 50_000 + rnd.Int64N(1e7), Shared: true}
		case 4:
			return Bandwidth{}
		case 5:
			size := 20 + rnd.IntN(5000)
			return Slicer{Size: size, Variation: rnd.IntN(size), Delay: duration(ms(2))}
		case 6:
			return SlowClose{Delay: duration(time.Minute)}
		case 7:
			return PacketLoss{Rate: rnd.Float64(), Correlation: rnd.Float64(), Retransmit: duration(time.Second)}
		case 8:
			return Stall{After: duration(time.Second), Bytes: rnd.Int64N(50_000)}
		}
		return Noop{}
	}
	var all []byte
	at := time.Duration(0)
	for range rnd.IntN(60) {
		b := r.bytes(1 + rnd.IntN(1<<rnd.IntN(15)))
		all = append(all, b...)
		r.send(at, b)
		if rnd.IntN(2) == 0 {
			at += duration(ms(100))
		}
	}
	end := [...]ending{eof, closing, reset}[rnd.IntN(3)]
	r.finish(at, end)

	for range rnd.IntN(60) {
		r.run(r.now + duration(ms(100)))
		if r.end != open {
			break
		}
		switch n := len(r.wants); {
		case rnd.IntN(6) == 0:
			r.blocked = !r.blocked
		case n < 5 && rnd.IntN(2) == 0:
			r.add(toxic(), &shared)
			r.apply()
		case n > 0 && rnd.IntN(2) == 0:
			i := rnd.IntN(n)
			for {
				if other := toxic(); other.kind() == r.wants[i].toxic.kind() {
					r.update(i, other)
					break
				}
			}
		case n > 0:
			r.remove(rnd.IntN(n))
		}
		if got := len(r.out); got > len(all) || !bytes.Equal(r.out, all[:got]) {
			t.Fatalf("at %v with %v: %d bytes have passed, and they are not the first of those that were sent", r.now, r.wants, got)
		}
	}
	r.blocked = false
	if rnd.IntN(2) == 0 {
		// Some last toxics that let everything pass in the end.
		for i := range r.wants {
			switch r.wants[i].toxic.(type) {
			case Stall:
				r.update(i, Stall{Bytes: 1 << 40})
			case Bandwidth:
				r.update(i, Bandwidth{Rate: 1e6})
			}
		}
	} else {
		r.wants = nil
		r.apply()
	}
	before := r.now
	r.run(before + 6*longest)
	r.want(all)
	if r.end != end {
		t.Fatalf("the end is %v, want %v", r.end, end)
	}
}
