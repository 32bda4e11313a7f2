package toxi

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// wire is a toxic that works on one direction by itself.
type wire interface {
	Toxic
	start(s start) stage
}

// start is what a stage begins with.
type start struct {
	now  time.Duration
	rand *rand.Rand // this connection's, direction's and fault's own
	line *line      // the fault's own, for all connections
}

func (t Latency) start(s start) stage { return &latency{t: t, rand: s.rand} }

type latency struct {
	t     Latency
	rand  *rand.Rand
	last  time.Duration // when the chunk before was due
	drawn bool          // chance is that of the first chunk
	share float64       // of the jitter, -1 to 1
}

func (s *latency) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() {
		due := s.due(in.front().at)
		if due > now {
			return due, open
		}
		in.pass(math.MaxInt, out, due)
		s.last, s.drawn = due, false
	}
	if in.empty() && in.end != open {
		due := s.due(in.endAt)
		if due > now {
			return due, open
		}
		in.passEnd(out, due)
	}
	return never, open
}

// due is when what came at at leaves: not before what came before it.
func (s *latency) due(at time.Duration) time.Duration {
	if s.t.Jitter > 0 && !s.drawn {
		s.drawn, s.share = true, 2*s.rand.Float64()-1
	}
	delay := s.t.Delay
	if s.drawn {
		delay += time.Duration(s.share * float64(s.t.Jitter))
	}
	return max(at+max(delay, 0), s.last)
}

func (s *latency) update(t Toxic) { s.t = t.(Latency) }
func (s *latency) leave() ending  { return open }
func (s *latency) room() int      { return largeRoom }

func (t PacketLoss) start(s start) stage { return &packetLoss{t: t, rand: s.rand} }

type packetLoss struct {
	t     PacketLoss
	rand  *rand.Rand
	last  time.Duration
	drawn bool
	tries int  // how often the first chunk is lost
	lost  bool // whether the draw before was a loss
}

// mostTries bounds the doubling of the time until a retransmission.
const mostTries = 6

func (s *packetLoss) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() {
		if !s.drawn {
			s.drawn, s.tries = true, 0
			for s.tries < mostTries && s.loses() {
				s.tries++
			}
		}
		retransmit := s.t.Retransmit
		if retransmit == 0 {
			retransmit = 200 * time.Millisecond
		}
		// 1 loss costs one time, 2 cost that and the double of it: 3, 3 cost 7.
		due := max(in.front().at+retransmit*time.Duration(1<<s.tries-1), s.last)
		if due > now {
			return due, open
		}
		in.pass(math.MaxInt, out, due)
		s.last, s.drawn = due, false
	}
	in.passEnd(out, max(in.endAt, s.last))
	return never, open
}

// loses draws a loss, which depends on the draw before it as much as Correlation
// says: the Gilbert–Elliott model of loss in bursts, with two states.
func (s *packetLoss) loses() bool {
	p := s.t.Rate * (1 - s.t.Correlation)
	if s.lost {
		p += s.t.Correlation
	}
	s.lost = s.rand.Float64() < p
	return s.lost
}

func (s *packetLoss) update(t Toxic) { s.t = t.(PacketLoss) }
func (s *packetLoss) leave() ending  { return open }
func (s *packetLoss) room() int      { return largeRoom }

func (t Bandwidth) start(s start) stage {
	return &bandwidth{t: t, shared: s.line}
}

type bandwidth struct {
	t       Bandwidth
	own     line
	shared  *line
	changed bool          // and nothing is booked since
	booked  int           // bytes at the front that are on the line
	done    time.Duration // when they have left it
}

const (
	// The line is booked in pieces of this time, so that bytes leave it evenly and everybody
	// who shares it has his turn. A piece is made of as many chunks as it takes: who
	// writes little at a time gets no less.
	bandwidthPiece = 5 * time.Millisecond
	// A machine that was late by no more than this catches up.
	bandwidthLate = 100 * time.Millisecond
)

func (s *bandwidth) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() {
		if s.t.Rate == 0 {
			return never, open
		}
		if s.booked == 0 {
			most := max(1, int(min(s.t.Rate/int64(time.Second/bandwidthPiece), math.MaxInt32)))
			s.booked = min(in.bytes(), most)
			from := max(in.front().at, now-bandwidthLate)
			if s.changed {
				// What the old rate held back is not what a late machine has to catch up.
				s.changed, from = false, now
			}
			s.done = s.line().book(now, from, s.booked, s.t.Rate)
		}
		if s.done > now {
			return s.done, open
		}
		n := min(s.booked, len(in.front().b))
		in.pass(n, out, s.done)
		s.booked -= n
	}
	in.passEnd(out, max(in.endAt, s.done))
	return never, open
}

func (s *bandwidth) line() *line {
	if s.t.Shared {
		return s.shared
	}
	return &s.own
}

func (s *bandwidth) update(t Toxic) {
	if t := t.(Bandwidth); t != s.t {
		// What is booked and has not left is booked again at the new rate.
		s.t, s.booked, s.changed = t, 0, true
	}
}

func (s *bandwidth) leave() ending { return open }

// room is what passes in the time by which a machine may be late: it can catch up only
// with what is here already.
func (s *bandwidth) room() int {
	return int(min(max(s.t.Rate/int64(time.Second/bandwidthLate), smallRoom), largeRoom/8))
}

// A line is what bytes leave one after the other.
type line struct {
	mu   sync.Mutex
	rate int64
	free time.Duration // when the last byte that is booked has left it
}

// book puts n bytes on the line, not before at, and returns when they have left it.
func (l *line) book(now, at time.Duration, n int, rate int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate != rate {
		// Whoever has booked at the old rate books again. At 1 B/s a hundred connections
		// have booked a hundred seconds; nobody shall wait for these.
		l.rate, l.free = rate, min(l.free, now)
	}
	l.free = max(l.free, at) + time.Duration(float64(n)/float64(rate)*float64(time.Second))
	return l.free
}

func (t SlowClose) start(start) stage { return &slowClose{t: t} }

type slowClose struct{ t SlowClose }

func (s *slowClose) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() {
		in.pass(math.MaxInt, out, in.front().at)
	}
	if !in.empty() || in.end == open {
		return never, open
	}
	if due := in.endAt + s.t.Delay; due > now {
		return due, open
	}
	in.passEnd(out, in.endAt+s.t.Delay)
	return never, open
}

func (s *slowClose) update(t Toxic) { s.t = t.(SlowClose) }
func (s *slowClose) leave() ending  { return open }
func (s *slowClose) room() int      { return smallRoom }

func (t Timeout) start(s start) stage { return &timeout{t: t, begun: s.now} }

type timeout struct {
	t     Timeout
	begun time.Duration
}

func (s *timeout) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	in.drop()
	in.passEnd(out, in.endAt)
	if s.t.After == 0 {
		return never, open
	}
	if due := s.begun + s.t.After; due > now {
		return due, open
	}
	return never, closing
}

func (s *timeout) update(t Toxic) { s.t = t.(Timeout) }

// A connection that has lost bytes can't go on.
func (s *timeout) leave() ending { return closing }
func (s *timeout) room() int     { return smallRoom }

func (t ResetPeer) start(s start) stage { return &resetPeer{t: t, begun: s.now} }

type resetPeer struct {
	t     ResetPeer
	begun time.Duration
}

func (s *resetPeer) step(now time.Duration, _, _ *queue) (time.Duration, ending) {
	if due := s.begun + s.t.After; due > now {
		return due, open
	}
	return never, reset
}

func (s *resetPeer) update(t Toxic) { s.t = t.(ResetPeer) }
func (s *resetPeer) leave() ending  { return open }
func (s *resetPeer) room() int      { return smallRoom }

func (t Slicer) start(s start) stage { return &slicer{t: t, rand: s.rand} }

type slicer struct {
	t    Slicer
	rand *rand.Rand
	next time.Duration // when the next piece may leave
}

func (s *slicer) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() {
		due := max(in.front().at, s.next)
		if due > now {
			return due, open
		}
		in.pass(s.t.Size-s.t.Variation+s.rand.IntN(2*s.t.Variation+1), out, due)
		s.next = due + s.t.Delay
	}
	if in.empty() && in.end != open {
		due := max(in.endAt, s.next)
		if due > now {
			return due, open
		}
		in.passEnd(out, due)
	}
	return never, open
}

func (s *slicer) update(t Toxic) { s.t = t.(Slicer) }
func (s *slicer) leave() ending  { return open }
func (s *slicer) room() int      { return smallRoom }

func (t LimitData) start(start) stage { return &limitData{t: t} }

type limitData struct {
	t      LimitData
	passed int64
}

func (s *limitData) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() && s.passed < s.t.Bytes {
		s.passed += passSome(in, out, s.t.Bytes-s.passed, 0)
	}
	switch {
	case s.passed < s.t.Bytes:
		in.passEnd(out, in.endAt)
	case s.t.Bytes > 0 || !in.empty():
		in.drop()
		out.finish(closing, now)
	default:
		in.passEnd(out, in.endAt)
	}
	return never, open
}

// passSome moves at most n bytes of the first chunk, and says how many. They come to out
// when they came to in, but not before since.
func passSome(in, out *queue, n int64, since time.Duration) int64 {
	n = min(n, int64(len(in.front().b)))
	in.pass(int(n), out, max(in.front().at, since))
	return n
}

func (s *limitData) update(t Toxic) { s.t = t.(LimitData) }
func (s *limitData) leave() ending  { return open }
func (s *limitData) room() int      { return smallRoom }

func (t Noop) start(start) stage { return noop{} }

type noop struct{}

func (noop) step(_ time.Duration, in, out *queue) (time.Duration, ending) {
	in.passAll(out)
	return never, open
}

func (noop) update(Toxic)  {}
func (noop) leave() ending { return open }
func (noop) room() int     { return smallRoom }

func (t Corrupt) start(s start) stage {
	c := &corrupt{t: t, rand: s.rand}
	c.draw()
	return c
}

type corrupt struct {
	t    Corrupt
	rand *rand.Rand
	skip float64 // bytes until the next that is struck
}

// draw finds the next byte: the distance between two that are struck is
// geometrically distributed.
func (s *corrupt) draw() {
	s.skip = 0
	if s.t.Rate < 1 {
		// Log1p: 1-Rate is 1 for rates under 1e-16, and its logarithm no divisor.
		s.skip = math.Floor(math.Log1p(-s.rand.Float64()) / math.Log1p(-s.t.Rate))
	}
}

func (s *corrupt) step(_ time.Duration, in, out *queue) (time.Duration, ending) {
	for !in.empty() && !out.full() {
		b := in.front().b
		for s.skip < float64(len(b)) {
			b[int(s.skip)] ^= 1 << s.rand.IntN(8)
			b = b[int(s.skip)+1:]
			s.draw()
		}
		s.skip -= float64(len(b))
		in.pass(math.MaxInt, out, in.front().at)
	}
	in.passEnd(out, in.endAt)
	return never, open
}

func (s *corrupt) update(t Toxic) {
	if t := t.(Corrupt); t != s.t {
		s.t = t
		s.draw()
	}
}

func (s *corrupt) leave() ending { return open }
func (s *corrupt) room() int     { return smallRoom }

func (t Stall) start(s start) stage { return &stall{t: t, begun: s.now} }

type stall struct {
	t      Stall
	begun  time.Duration
	passed int64
	held   bool          // it lets nothing pass
	since  time.Duration // when it last began to let something pass
}

func (s *stall) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	wake := never
	if s.t.After > 0 {
		wake = s.begun + s.t.After
	}
	if wake <= now || s.t.After == 0 && s.t.Bytes == 0 {
		s.held = true
		return never, open
	}
	for s.t.Bytes == 0 || s.passed < s.t.Bytes {
		if s.held {
			s.held, s.since = false, now // by an update
		}
		if in.empty() {
			in.passEnd(out, max(in.endAt, s.since))
			return wake, open
		}
		if out.full() {
			return wake, open
		}
		most := int64(math.MaxInt64)
		if s.t.Bytes > 0 {
			most = s.t.Bytes - s.passed
		}
		s.passed += passSome(in, out, most, s.since)
	}
	s.held = true
	return wake, open
}

func (s *stall) update(t Toxic) { s.t = t.(Stall) }
func (s *stall) leave() ending  { return open }
func (s *stall) room() int      { return smallRoom }

func (t Cut) start(s start) stage { return &cut{t: t, begun: s.now} }

type cut struct {
	t      Cut
	begun  time.Duration
	passed int64
}

func (s *cut) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	how := closing
	if s.t.Reset {
		how = reset
	}
	wake := never
	if s.t.After > 0 {
		if wake = s.begun + s.t.After; wake <= now {
			return never, how
		}
	}
	for !in.empty() && !out.full() {
		most := int64(math.MaxInt64)
		if s.t.Bytes > 0 {
			if most = s.t.Bytes - s.passed; most <= 0 {
				break
			}
		}
		s.passed += passSome(in, out, most, 0)
	}
	if s.t.Bytes > 0 && s.passed >= s.t.Bytes {
		in.drop()
		out.finish(how, now)
	}
	in.passEnd(out, in.endAt)
	return wake, open
}

func (s *cut) update(t Toxic) { s.t = t.(Cut) }
func (s *cut) leave() ending  { return open }
func (s *cut) room() int      { return smallRoom }
