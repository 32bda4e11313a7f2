package toxi

import (
	"bytes"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"
	"time"
)

func TestDelaysOfSeveralLatenciesAddUpOnASteadyStream(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		toxics []Toxic
		want   time.Duration
	}{
		{"one", []Toxic{Latency{Delay: ms(300)}}, ms(300)},
		{"two", []Toxic{Latency{Delay: ms(300)}, Latency{Delay: ms(300)}}, ms(600)},
		{"five", []Toxic{Latency{Delay: 1}, Latency{Delay: 2}, Latency{Delay: 3}, Latency{Delay: 4}, Latency{Delay: 5}}, 15},
		{"others between", []Toxic{Latency{Delay: ms(300)}, Noop{}, Slicer{Size: 64}, Bandwidth{Rate: 64e6}, Latency{Delay: ms(200)}}, ms(500) + time.Microsecond},
		{"of nothing", []Toxic{Latency{}, Latency{}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.toxics...)
			const every = 10 * time.Millisecond
			r.steady(0, 300, 64, every)
			r.run(time.Hour)
			if got := len(r.left); got != 300 {
				t.Fatalf("%d chunks left, want 300", got)
			}
			for i, d := range r.left {
				if got := d.at - time.Duration(i)*every; got != tt.want {
					t.Fatalf("chunk %d left %v after it came, want %v", i, got, tt.want)
				}
			}
		})
	}
}

func TestAChunkIsLateByItsDelayThoughTheMachineIsLate(t *testing.T) {
	t.Parallel()
	// Steps come at times of their own: what counts is when a chunk was due, not when
	// the stage was run.
	r := newRig(t, Latency{Delay: ms(100)}, Latency{Delay: ms(100)})
	r.f.entry().push(r.chunk([]byte("a")))
	for _, at := range []time.Duration{ms(0), ms(150), ms(199)} {
		if wake, _ := r.f.step(at); !r.f.out.empty() || wake <= at {
			t.Fatalf("at %v the chunk has left (%t), and the next call is at %v", at, !r.f.out.empty(), wake)
		}
	}
	if r.f.step(ms(200)); r.f.out.empty() {
		t.Fatal("after 200ms the chunk has not left")
	}
}

func TestJitterStaysInItsBoundsAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	tests := []struct {
		toxic    Latency
		every    time.Duration
		min, max time.Duration
	}{
		{Latency{Delay: ms(100), Jitter: ms(50)}, time.Second, ms(50), ms(150)},
		{Latency{Delay: ms(10), Jitter: ms(50)}, time.Second, 0, ms(60)},
		{Latency{Jitter: longest}, 3 * longest, 0, longest},
		{Latency{Delay: ms(100), Jitter: ms(50)}, ms(1), ms(50), ms(150)},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v±%v every %v", tt.toxic.Delay, tt.toxic.Jitter, tt.every), func(t *testing.T) {
			t.Parallel()
			const n = 40
			r := newRig(t, tt.toxic)
			r.rand = seeded(t)
			r.steady(0, n, 1, tt.every)
			r.run(n*tt.every + 2*longest)
			if len(r.left) != n {
				t.Fatalf("%d chunks left, want %d", len(r.left), n)
			}
			least, most := never, time.Duration(0)
			for i, d := range r.left {
				if int(r.out[i]) != i {
					t.Fatalf("chunk %d left as number %d", r.out[i], i)
				}
				delay := d.at - time.Duration(i)*tt.every
				least, most = min(least, delay), max(most, delay)
			}
			if least < tt.min || most > tt.max {
				t.Errorf("delays are %v to %v, want no more than %v to %v", least, most, tt.min, tt.max)
			}
			// 40 draws fill three quarters of the range but once in ten thousand runs.
			if most-least < (tt.max-tt.min)/4*3 && tt.every > tt.toxic.Delay+tt.toxic.Jitter {
				t.Errorf("delays are %v to %v, want them spread over %v to %v", least, most, tt.min, tt.max)
			}
		})
	}
}

func TestBandwidthLetsItsRatePass(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rate  int64
		chunk int
		over  time.Duration
	}{
		{1, 10, 10 * time.Second},
		{7, 3, 10 * time.Second},
		{1000, 64 << 10, 10 * time.Second},
		{1e6, 64 << 10, 10 * time.Second},
		{1e6, 1, 100 * time.Millisecond},
		{1e6, 1460, 10 * time.Second},
		{333_333, 1000, 10 * time.Second},
		{1e9, 64 << 10, 20 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d B/s in chunks of %d", tt.rate, tt.chunk), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Bandwidth{Rate: tt.rate})
			total := int(float64(tt.rate)*tt.over.Seconds()) + tt.chunk
			r.steady(0, total/tt.chunk+1, tt.chunk, 0)
			for i := time.Duration(1); i <= 10; i++ {
				at := tt.over / 10 * i
				r.run(at)
				got, want := float64(len(r.out)), float64(tt.rate)*at.Seconds()
				// A piece of 5 ms is on the line.
				piece := max(1, float64(tt.rate)*0.005)
				if got > want*1.001+1 || got < want*0.999-piece {
					t.Errorf("after %v %v bytes have passed, want %v", at, got, want)
				}
			}
		})
	}
}

func TestBandwidthSpreadsBytesEvenly(t *testing.T) {
	t.Parallel()
	r := newRig(t, Bandwidth{Rate: 1e6})
	r.send(0, make([]byte, 60_000))
	r.run(time.Second)
	for i, d := range r.left {
		if d.n != 5000 || d.at != ms(5*(i+1)) {
			t.Fatalf("piece %d has %d bytes and leaves at %v, want 5000 at %v", i, d.n, d.at, ms(5*(i+1)))
		}
	}
	if len(r.left) != 12 {
		t.Errorf("%d pieces have left, want 12", len(r.left))
	}
}

func TestBandwidthDelaysNothingOnALineThatIsIdle(t *testing.T) {
	t.Parallel()
	r := newRig(t, Bandwidth{Rate: 1e6})
	r.steady(0, 100, 1000, ms(10)) // a tenth of the rate
	r.run(time.Hour)
	for i, d := range r.left {
		if want := ms(10*i + 1); d.at != want {
			t.Fatalf("chunk %d leaves at %v, want %v", i, d.at, want)
		}
	}
}

func TestALateMachineCatchesUpByNoMoreThanAMoment(t *testing.T) {
	t.Parallel()
	tests := []struct {
		late time.Duration
		want int // bytes by second 2, of a million a second
	}{
		{0, 2_000_000},
		{ms(20), 2_000_000},
		{ms(90), 2_000_000},
		{ms(500), 2_000_000 - 400_000},
	}
	for _, tt := range tests {
		t.Run(tt.late.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Bandwidth{Rate: 1e6})
			r.steady(0, 50, 60_000, 0)
			r.run(time.Second)
			r.now += tt.late // and nobody has called it meanwhile
			r.run(2 * time.Second)
			if got := len(r.out); math.Abs(float64(got-tt.want)) > 5000 {
				t.Errorf("after 2s %d bytes have passed, want %d", got, tt.want)
			}
		})
	}
}

func TestASharedBandwidthIsSharedFairly(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			var shared line
			var rigs []*rig
			for i := range n {
				r := newRig(t)
				r.add(Bandwidth{Rate: 1e6, Shared: true}, &shared)
				r.apply()
				// Some send much at once and some little.
				r.steady(0, 3_000_000/(100*(i*i+1)), 100*(i*i+1), 0)
				rigs = append(rigs, r)
			}
			together(2*time.Second, rigs...)
			sum := 0
			for i, r := range rigs {
				sum += len(r.out)
				// A turn is a piece of 5 ms.
				if math.Abs(float64(len(r.out)-len(rigs[n-1].out))) > 5000 {
					t.Errorf("connection %d got %d bytes, the last %d, want the same", i, len(r.out), len(rigs[n-1].out))
				}
			}
			if math.Abs(float64(sum)-2e6) > 10_000 {
				t.Errorf("in 2s %d bytes have passed on %d connections, want 2000000", sum, n)
			}
		})
	}
}

func TestABandwidthThatIsNotSharedIsEachConnectionsOwn(t *testing.T) {
	t.Parallel()
	var shared line
	var rigs []*rig
	for range 3 {
		r := newRig(t)
		r.add(Bandwidth{Rate: 1e6}, &shared)
		r.apply()
		r.steady(0, 40, 60_000, 0)
		rigs = append(rigs, r)
	}
	together(time.Second, rigs...)
	for i, r := range rigs {
		if got := len(r.out); got != 1_000_000 {
			t.Errorf("connection %d got %d bytes in 1s, want 1000000", i, got)
		}
	}
}

func TestBandwidthZeroHoldsUntilTheRateChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, Bandwidth{})
	r.send(0, make([]byte, 10_000))
	r.finish(0, eof)
	r.run(time.Hour)
	r.want(nil)
	r.wantEnd(open, 0)
	if r.wake != never {
		t.Errorf("it asks to be called at %v, want never", r.wake)
	}
	r.update(0, Bandwidth{Rate: 1000})
	r.run(time.Hour + 5*time.Second)
	r.want(make([]byte, 5000)) // and no burst for the hour
	r.run(2 * time.Hour)
	r.want(make([]byte, 10_000))
	r.wantEnd(eof, time.Hour+10*time.Second)
}

func TestBandwidthTakesANewRateAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, Bandwidth{Rate: 1})
	r.send(0, make([]byte, 60_000))
	r.run(1500 * time.Millisecond) // in the middle of the second byte
	r.want(make([]byte, 1))
	r.update(0, Bandwidth{Rate: 1e6})
	r.run(1510 * time.Millisecond)
	r.want(make([]byte, 10_001))
	r.update(0, Bandwidth{Rate: 1e6}) // is no change
	r.run(1520 * time.Millisecond)
	r.want(make([]byte, 20_001))
	r.update(0, Bandwidth{Rate: 100})
	r.run(2520 * time.Millisecond)
	r.want(make([]byte, 20_101))
}

func TestASharedBandwidthTakesANewRateAtOnce(t *testing.T) {
	t.Parallel()
	// At 1 B/s each of these has booked a second.
	var shared line
	var rigs []*rig
	for range 100 {
		r := newRig(t)
		r.add(Bandwidth{Rate: 1, Shared: true}, &shared)
		r.apply()
		r.send(0, make([]byte, 1000))
		rigs = append(rigs, r)
	}
	together(ms(500), rigs...)
	for _, r := range rigs {
		r.update(0, Bandwidth{Rate: 1e6, Shared: true})
	}
	together(ms(600), rigs...)
	sum := 0
	for _, r := range rigs {
		sum += len(r.out)
	}
	if sum != 100_000 {
		t.Errorf("100ms after the rate is 1 MB/s %d bytes have passed, want 100000", sum)
	}
}

func TestSlicerCutsInPiecesAndWaitsAfterEach(t *testing.T) {
	t.Parallel()
	tests := []struct {
		toxic Slicer
		send  []int
		want  []int // sizes of pieces, if they don't vary
	}{
		{Slicer{Size: 1}, []int{3}, []int{1, 1, 1}},
		{Slicer{Size: 4}, []int{10}, []int{4, 4, 2}},
		{Slicer{Size: 4}, []int{2, 6}, []int{2, 4, 2}}, // it joins nothing
		{Slicer{Size: 100, Delay: ms(7)}, []int{250}, []int{100, 100, 50}},
		{Slicer{Size: 100, Delay: time.Microsecond}, []int{5000}, slices.Repeat([]int{100}, 50)},
		{Slicer{Size: 100, Variation: 99, Delay: ms(1)}, []int{20_000}, nil},
		{Slicer{Size: math.MaxInt / 4, Variation: math.MaxInt/4 - 1}, []int{5000}, []int{5000}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.toxic), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.toxic)
			r.rand = seeded(t)
			var all []byte
			for _, n := range tt.send {
				b := r.bytes(n)
				all = append(all, b...)
				r.send(0, b)
			}
			r.finish(0, eof)
			r.run(time.Hour)
			r.want(all)
			var sizes []int
			for i, d := range r.left {
				sizes = append(sizes, d.n)
				if want := time.Duration(i) * tt.toxic.Delay; d.at != want {
					t.Fatalf("piece %d leaves at %v, want %v", i, d.at, want)
				}
				last := i == len(r.left)-1
				if d.n > tt.toxic.Size+tt.toxic.Variation || d.n < tt.toxic.Size-tt.toxic.Variation && !last && tt.want == nil {
					t.Fatalf("piece %d has %d bytes, want %d±%d", i, d.n, tt.toxic.Size, tt.toxic.Variation)
				}
			}
			if tt.want != nil && !slices.Equal(sizes, tt.want) {
				t.Errorf("pieces have %v bytes, want %v", sizes, tt.want)
			}
			r.wantEnd(eof, time.Duration(len(r.left))*tt.toxic.Delay)
		})
	}
}

func TestLimitDataIsExactAndCloses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		limit int64
		send  []string
		want  string
		end   ending
	}{
		{0, nil, "", eof},
		{0, []string{"a"}, "", closing},
		{1, []string{"abc"}, "a", closing},
		{3, []string{"abc"}, "abc", closing},
		{3, []string{"a", "b", "c", "d"}, "abc", closing},
		{4, []string{"abc"}, "abc", eof},
		{4, []string{"ab", "cdef", "g"}, "abcd", closing},
		{math.MaxInt64, []string{"ab", "cdef", "g"}, "abcdefg", eof},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d of %q", tt.limit, tt.send), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, LimitData{Bytes: tt.limit})
			for _, s := range tt.send {
				r.text(0, s)
			}
			r.finish(ms(1), eof)
			r.run(time.Second)
			r.wantText(tt.want)
			if r.end != tt.end {
				t.Errorf("the end is %v, want %v", r.end, tt.end)
			}
		})
	}
}

func TestLimitDataRemembersWhatHasPassed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		limit int64
		want  string
		end   ending
	}{
		{10, "abcdefghij", closing},
		{6, "abcdef", closing},
		{5, "abcde", closing},
		{4, "abcde", closing},
		{0, "abcde", closing},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.limit), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, LimitData{Bytes: 7})
			r.text(0, "abcde")
			r.run(ms(1))
			r.update(0, LimitData{Bytes: tt.limit})
			r.text(ms(2), "fghijklm")
			r.run(ms(3))
			r.wantText(tt.want)
			r.wantEnd(tt.end, r.endAt)
		})
	}
}

func TestTimeoutClosesAfterItsTimeThoughDataFlows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.steady(0, 100, 1, ms(50))
	r.run(ms(1010))
	r.put(Timeout{After: ms(200)})
	r.run(time.Minute)
	if got := len(r.out); got != 21 {
		t.Errorf("%d bytes have passed, want the 21 from before it began", got)
	}
	r.wantEnd(closing, ms(1210))
}

func TestATimeoutWithoutTimeClosesWhenItGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, Timeout{})
	r.steady(0, 100, 1, ms(50))
	r.run(time.Minute)
	r.want(nil)
	r.wantEnd(open, 0)
	r.remove(0)
	r.wantEnd(closing, time.Minute)
}

func TestATimeoutIsMeasuredFromItsBeginningWhenItIsChanged(t *testing.T) {
	t.Parallel()
	r := newRig(t, Timeout{After: time.Hour})
	r.run(time.Second)
	r.update(0, Timeout{After: 3 * time.Second})
	r.run(time.Minute)
	r.wantEnd(closing, 3*time.Second)
}

func TestSlowCloseDelaysTheEndAndNothingElse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		toxics []Toxic
		data   time.Duration
		end    time.Duration
	}{
		{"alone", []Toxic{SlowClose{time.Second}}, 0, 1010 * time.Millisecond},
		{"twice", []Toxic{SlowClose{time.Second}, SlowClose{time.Second}}, 0, 2010 * time.Millisecond},
		{"without delay", []Toxic{SlowClose{}}, 0, ms(10)},
		{"before a latency", []Toxic{SlowClose{time.Second}, Latency{Delay: ms(100)}}, ms(100), 1110 * time.Millisecond},
		{"behind a latency", []Toxic{Latency{Delay: ms(100)}, SlowClose{time.Second}}, ms(100), 1110 * time.Millisecond},
		// The end comes to it when the last byte has left the line.
		{"behind a bandwidth", []Toxic{Bandwidth{Rate: 1}, SlowClose{time.Second}}, 3 * time.Second, 4 * time.Second},
		{"behind a slicer", []Toxic{Slicer{Size: 1, Delay: time.Second}, SlowClose{time.Second}}, 2 * time.Second, 4 * time.Second},
		{"behind a loss", []Toxic{PacketLoss{Rate: 1, Retransmit: ms(100)}, SlowClose{time.Second}}, 6300 * time.Millisecond, 7300 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.toxics...)
			r.text(0, "abc")
			r.finish(ms(10), eof)
			r.run(time.Minute)
			r.wantText("abc")
			if got := r.left[len(r.left)-1].at; got != tt.data {
				t.Errorf("the last byte leaves at %v, want %v", got, tt.data)
			}
			r.wantEnd(eof, tt.end)
		})
	}
}

func TestResetPeerResetsAnIdleConnection(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 1, ms(100), time.Hour} {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.run(time.Second)
			r.put(ResetPeer{After: after})
			r.run(2 * time.Hour)
			r.wantEnd(reset, time.Second+after)
		})
	}
}

func TestResetPeerLetsNothingPassMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, ResetPeer{After: time.Second})
	r.steady(0, 100, 1, ms(50))
	r.run(time.Minute)
	r.want(nil)
	r.wantEnd(reset, time.Second)
}

func TestStallHoldsFromATimeOrAPlaceOn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		toxic Stall
		want  string // of one byte each second, from 1 s on
	}{
		{Stall{}, ""},
		{Stall{After: 3500 * time.Millisecond}, "012"},
		{Stall{Bytes: 2}, "01"},
		{Stall{After: 3500 * time.Millisecond, Bytes: 5}, "012"},
		{Stall{After: time.Hour, Bytes: 5}, "01234"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.toxic), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.toxic)
			for i := range 10 {
				r.text(time.Duration(i+1)*time.Second, fmt.Sprint(i))
			}
			r.finish(11*time.Second, eof)
			r.run(time.Minute)
			r.wantText(tt.want)
			r.wantEnd(open, 0)
			r.remove(0)
			r.run(2 * time.Minute)
			r.wantText("0123456789")
			r.wantEnd(eof, time.Minute)
		})
	}
}

func TestAStallStopsInTheMiddleOfAChunk(t *testing.T) {
	t.Parallel()
	r := newRig(t, Stall{Bytes: 3})
	r.text(0, "abcdef")
	r.run(time.Second)
	r.wantText("abc")
	r.update(0, Stall{Bytes: 5})
	r.run(2 * time.Second)
	r.wantText("abcde")
	r.update(0, Stall{After: time.Hour})
	r.run(3 * time.Second)
	r.wantText("abcdef")
}

func TestCutEndsAtATimeOrAPlace(t *testing.T) {
	t.Parallel()
	tests := []struct {
		toxic Cut
		want  string // of two bytes each second, from 1 s on
		end   ending
		at    time.Duration
	}{
		{Cut{After: 3500 * time.Millisecond}, "aabbcc", closing, 3500 * time.Millisecond},
		{Cut{After: 3500 * time.Millisecond, Reset: true}, "aabbcc", reset, 3500 * time.Millisecond},
		{Cut{Bytes: 3}, "aab", closing, 2 * time.Second},
		{Cut{Bytes: 4, Reset: true}, "aabb", reset, 2 * time.Second},
		{Cut{After: time.Hour, Bytes: 4}, "aabb", closing, 2 * time.Second},
		{Cut{After: ms(1500), Bytes: 4}, "aa", closing, ms(1500)},
		{Cut{After: time.Hour}, "aabbccddee", eof, 6 * time.Second},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.toxic), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.toxic)
			for i := range 5 {
				r.text(time.Duration(i+1)*time.Second, string(bytes.Repeat([]byte{byte('a' + i)}, 2)))
			}
			r.finish(6*time.Second, eof)
			r.run(2 * time.Hour)
			r.wantText(tt.want)
			r.wantEnd(tt.end, tt.at)
		})
	}
}

func TestACutByTimeCutsOffWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, Latency{Delay: time.Second}, Cut{After: ms(500)})
	r.text(0, "abc")
	r.run(time.Minute)
	r.wantText("")
	r.wantEnd(closing, ms(500))
}

func TestPacketLossDelaysAndLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 4000
	tests := []struct {
		toxic    PacketLoss
		min, max float64 // share of chunks that are late
	}{
		{PacketLoss{}, 0, 0},
		{PacketLoss{Rate: 1}, 1, 1},
		{PacketLoss{Rate: 0.1}, 0.07, 0.13},
		{PacketLoss{Rate: 0.5, Retransmit: ms(10)}, 0.45, 0.55},
		// Bursts: the share stays as it is, a chunk that is lost is lost again.
		{PacketLoss{Rate: 0.1, Correlation: 0.5, Retransmit: ms(10)}, 0.02, 0.13},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.toxic), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.toxic)
			r.rand = seeded(t)
			const every = time.Minute // so that no loss delays another chunk
			r.steady(0, n, 2, every)
			r.finish(n*every, eof)
			r.run(math.MaxInt64 / 2)
			retransmit := max(tt.toxic.Retransmit, ms(200))
			if tt.toxic.Retransmit > 0 {
				retransmit = tt.toxic.Retransmit
			}
			late := 0
			for i, d := range r.left {
				if r.out[2*i] != byte(i) || d.n != 2 {
					t.Fatalf("chunk %d is another", i)
				}
				delay := d.at - time.Duration(i)*every
				if delay > 0 {
					late++
				}
				if times := delay/retransmit + 1; delay%retransmit != 0 || times&(times-1) != 0 || times > 1<<mostTries {
					t.Fatalf("chunk %d is %v late, want %v times 2^n-1, n up to %d", i, delay, retransmit, mostTries)
				}
			}
			if len(r.left) != n {
				t.Fatalf("%d chunks left, want %d", len(r.left), n)
			}
			if share := float64(late) / n; share < tt.min || share > tt.max {
				t.Errorf("%v of the chunks are late, want %v to %v", share, tt.min, tt.max)
			}
			if r.end != eof {
				t.Errorf("the end is %v, want eof", r.end)
			}
		})
	}
}

func TestWhatFollowsALossWaitsBehindIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, PacketLoss{Rate: 0.2, Retransmit: ms(100)})
	r.rand = seeded(t)
	r.steady(0, 200, 1, ms(1))
	r.run(time.Hour)
	var want []byte
	for i := range 200 {
		want = append(want, byte(i))
	}
	r.want(want)
}

func TestCorruptFlipsOneBitInItsShareOfTheBytes(t *testing.T) {
	t.Parallel()
	const n = 400_000
	for _, rate := range []float64{5e-324, 1e-300, 1e-17, 0.001, 0.01, 0.5, 0.999, 1} {
		for _, size := range []int{1000, 64 << 10} {
			t.Run(fmt.Sprintf("%v in chunks of %d", rate, size), func(t *testing.T) {
				t.Parallel()
				rnd := seeded(t)
				r := newRig(t)
				r.rand = rnd
				r.put(Corrupt{Rate: rate})
				all := r.bytes(n)
				for b := range slices.Chunk(all, size) {
					r.send(0, b)
				}
				r.run(time.Second)
				if len(r.out) != n {
					t.Fatalf("%d bytes have passed, want %d", len(r.out), n)
				}
				struck := 0
				for i := range all {
					switch bits.OnesCount8(all[i] ^ r.out[i]) {
					case 0:
					case 1:
						struck++
					default:
						t.Fatalf("byte %d is %08b, was %08b: want one bit of difference", i, r.out[i], all[i])
					}
				}
				// Six standard deviations: one run in a billion.
				want, off := n*rate, 6*math.Sqrt(n*rate*(1-rate))
				if math.Abs(float64(struck)-want) > off+0.5 {
					t.Errorf("%d bytes are struck, want %.0f±%.0f", struck, want, off)
				}
			})
		}
	}
}
