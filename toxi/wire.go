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
	b := &bandwidth{t: t, shared: s.line, line: &line{}}
	if t.Shared {
		b.line = s.line
	}
	return b
}

type bandwidth struct {
	t      Bandwidth
	shared *line
	line   *line
	booked int           // bytes of the first chunk that are on the line
	done   time.Duration // when they have left it
}

const (
	// The line is booked in pieces of this time, so that bytes leave it evenly.
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
			s.booked = min(len(in.front().b), most)
			s.done = s.line.book(max(in.front().at, now-bandwidthLate), s.booked, s.t.Rate)
		}
		if s.done > now {
			return s.done, open
		}
		in.pass(s.booked, out, s.done)
		s.booked = 0
	}
	in.passEnd(out, in.endAt)
	return never, open
}

func (s *bandwidth) update(t Toxic) {
	new := t.(Bandwidth)
	if new == s.t {
		return
	}
	s.t, s.booked = new, 0
	if new.Shared {
		s.line = s.shared
	} else {
		s.line = &line{}
	}
}

func (s *bandwidth) leave() ending { return open }
func (s *bandwidth) room() int     { return smallRoom }

// A line is what bytes leave one after the other.
type line struct {
	mu   sync.Mutex
	free time.Duration // when the last byte that is booked has left it
}

// book puts n bytes on the line, not before at, and returns when they have left it.
func (l *line) book(at time.Duration, n int, rate int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	in.passEnd(out, max(in.endAt, s.next))
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
		s.passed += passSome(in, out, s.t.Bytes-s.passed)
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

// passSome moves at most n bytes of the first chunk, and says how many.
func passSome(in, out *queue, n int64) int64 {
	n = min(n, int64(len(in.front().b)))
	in.pass(int(n), out, in.front().at)
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
		s.skip = math.Floor(math.Log(1-s.rand.Float64()) / math.Log(1-s.t.Rate))
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
}

func (s *stall) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	if s.t.After == 0 && s.t.Bytes == 0 {
		return never, open
	}
	wake := never
	if s.t.After > 0 {
		if wake = s.begun + s.t.After; wake <= now {
			return never, open
		}
	}
	for !in.empty() && !out.full() {
		most := int64(math.MaxInt64)
		if s.t.Bytes > 0 {
			if most = s.t.Bytes - s.passed; most <= 0 {
				return wake, open
			}
		}
		s.passed += passSome(in, out, most)
	}
	if s.t.Bytes == 0 || s.passed < s.t.Bytes {
		in.passEnd(out, in.endAt)
	}
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
		s.passed += passSome(in, out, most)
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
