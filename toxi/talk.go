package toxi

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// mostOwed is how many runs of unlike answers a connection may be waiting for.
	mostOwed = 64 << 10
	// mostNotes bounds what is to be remembered of requests until their answer comes.
	mostNotes = 1 << 20
	// askingRoom is what may wait before a request is decided on: its beginning in any
	// framing, with mostText in it. Redis may wrap each byte of text into six of framing.
	askingRoom = 512 << 10
	// mostPieces may wait of a request that isn't known yet before they are put together.
	mostPieces = 64

	// A connection that was open when the fault came may have requests
	// under way that nobody has seen. Before the first blow that depends on which answer is
	// whose, the request is held until all that is known of is answered and the server
	// has been silent for settled. If that doesn't come in patience, and slowness for a server
	// that answers in order, neither this nor any later request of the connection is struck.
	settled  = 10 * time.Millisecond
	patience = time.Second
	slowness = 9 * time.Second
)

// owed is what the client has yet to get, in its order.
type owed struct {
	due    due
	n      int // so many answers of this kind
	kind   uint8
	note   string
	struck bool          // DelayReply strikes the answer
	cut    bool          // and so does CutAfter
	own    []byte        // the answer the fault gives, when ready
	ready  bool          // the whole request is here
	at     time.Duration // not before
}

// due is what comes next.
type due uint8

const (
	theirs  due = iota // an answer from the server
	ours               // an answer from the fault
	theEnd             // the connection's end
	chaos              // answers nobody follows, until the conversation is settled again
	nothing            // what isn't understood, until the end
)

// A talk is what the two stages of a connection share.
type talk struct {
	wake func(Stream)
	hits *atomic.Int64

	mu   sync.Mutex
	conv conversation
	blow blow

	owed  []owed
	first int // index of what comes next
	debts int // of ours and theEnd in owed

	counts   bool // what is asked now is owed
	follows  bool // what is answered now is what is owed first, as far as anybody knows
	sure     bool // and nothing was under way that nobody saw
	middle   bool // something that is answered has begun and not ended
	mute     bool // what is asked isn't understood
	deaf     bool // what is answered isn't
	swallows bool // a request that fails is being read
	over     [2]bool
	ended    bool // cut
	closed   bool // the server says nothing more

	settling bool
	since    time.Duration
	life     int // counts how often it began again
	version  int // counts how often blow has changed
	notes    int // bytes in owed
}

// converse makes the stages of a connection. They are sure of what is under way if the
// protocol tells a connection's beginning from its middle.
func converse(c conversation, sure bool, b blow, hits *atomic.Int64, wake func(Stream)) (up, down stage) {
	t := &talk{wake: wake, hits: hits, conv: c, blow: b, counts: true, follows: true, sure: sure}
	return &asking{talk: t}, &answering{talk: t}
}

// fresh says that neither side has said anything yet. It is called before they do.
func (t *talk) fresh() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sure = true
	t.conv.settle()
}

// striker is a toxic whose stages are these.
type striker interface{ blow() blow }

func (t *talk) update(tx Toxic) {
	if f, ok := tx.(Fault); ok {
		tx = f.Toxic
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blow = tx.(striker).blow()
	t.version++
}

// between says that the next that the server says begins an answer.
func (t *talk) between() {
	t.conv.settle()
	t.middle = false
}

// loses stops to follow what is answered.
func (t *talk) loses() {
	t.counts, t.follows, t.sure = false, false, false
	t.between()
	clear(t.owed)
	t.owed, t.first, t.debts, t.notes = t.owed[:0], 0, 0, 0
}

// next is what the client gets next, or nil.
func (t *talk) next() *owed {
	if t.first == len(t.owed) {
		return nil
	}
	return &t.owed[t.first]
}

// owe puts o behind what the client has yet to get.
func (t *talk) owe(o owed) {
	switch o.due {
	case theirs:
		if !t.counts {
			return
		}
		if t.first == len(t.owed) && !t.sure {
			// Nobody knows of anything under way: what came so far was older.
			t.between()
		}
		if t.first < len(t.owed) {
			last := &t.owed[len(t.owed)-1]
			if last.due == theirs && last.kind == o.kind && !last.struck && !o.struck && last.note == "" && o.note == "" {
				last.n++
				return
			}
		}
		if len(t.owed)-t.first >= mostOwed {
			t.mute, o = true, owed{due: nothing}
		}
		if t.notes+len(o.note) > mostNotes {
			o.note = ""
		}
		t.notes += len(o.note)
	case ours, theEnd:
		t.debts++
	}
	if t.first > 0 && len(t.owed) == cap(t.owed) {
		n := copy(t.owed, t.owed[t.first:])
		clear(t.owed[n:])
		t.owed, t.first = t.owed[:n], 0
	}
	o.n = 1
	t.owed = append(t.owed, o)
}

// paid takes out what came.
func (t *talk) paid() {
	o := &t.owed[t.first]
	if o.due == ours || o.due == theEnd {
		t.debts--
	}
	if o.n--; o.n > 0 {
		return
	}
	t.notes -= len(o.note)
	*o = owed{}
	if t.first++; t.first == len(t.owed) {
		t.owed, t.first = t.owed[:0], 0
	}
}

// rejoin takes a direction back in that has left: its fault strikes this connection
// again. What was said meanwhile is not known.
func (t *talk) rejoin(s Stream) {
	t.over[s] = false
	t.life++
	t.loses()
	t.settling, t.swallows = false, false
	t.conv.restart()
}

// strikes decides on r. It counts what it strikes.
func (t *talk) strikes(r *request) bool {
	if t.over[Upstream] || t.over[Downstream] || len(t.owed)-t.first >= mostOwed || !t.blow.hits(r) {
		return false
	}
	for {
		n := t.hits.Load()
		if t.blow.times > 0 && n >= int64(t.blow.times) {
			return false
		}
		if t.hits.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// A lane is what the stages of both directions do with bytes.
type lane struct {
	seen  int           // bytes at the front that the conversation has read
	free  int           // of these, bytes that may go
	floor time.Duration // nothing leaves before
	at    time.Duration // when the last byte that was read had come
}

// move lets go what may go. It reports whether that was all.
func (l *lane) move(in, out *queue) bool {
	for l.free > 0 || !in.empty() && len(in.front().b) == 0 {
		if out.full() {
			return false
		}
		f := in.front()
		n := min(l.free, len(f.b))
		in.pass(n, out, max(f.at, l.floor))
		l.free -= n
		l.seen -= n
	}
	return true
}

// skip forgets what was read.
func (l *lane) skip(in *queue) {
	for l.seen > 0 {
		c := in.take(l.seen)
		l.seen -= len(c.b)
		c.buf.release()
	}
	l.free = 0
}

// all lets everything go, read or not.
func (l *lane) all(in, out *queue) {
	l.seen, l.free = 0, 0
	for !in.empty() && !out.full() {
		in.pass(len(in.front().b), out, max(in.front().at, l.floor))
	}
	in.passEnd(out, max(in.endAt, l.floor))
}

// An asking is the stage of the direction to the server.
type asking struct {
	*talk
	lane
	state   state
	req     request
	struck  bool
	fail    func(conversation) []byte
	from    time.Duration // when the request was here
	until   time.Duration // it waits no longer for its beginning, or for silence
	version int           // of the blow that struck
	news    bool          // the other direction has something to do
	life    int
}

// state is what becomes of the request that has begun.
type state uint8

const (
	idle       state = iota // none has
	waiting                 // it is held
	passing                 // it goes
	swallowing              // it doesn't
	stuck                   // it won't, nor will anything behind it
)

func (s *asking) room() int { return askingRoom }

func (s *asking) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	s.mu.Lock()
	s.news = false
	wake, cut := s.run(now, in, out)
	news := s.news
	s.mu.Unlock()
	if news {
		s.wake(Downstream)
	}
	return wake, cut
}

func (s *asking) run(now time.Duration, in, out *queue) (time.Duration, ending) {
	if s.over[Upstream] {
		s.rejoin(Upstream)
	}
	if s.life != s.talk.life {
		s.life, s.lane, s.state = s.talk.life, lane{floor: s.floor}, idle
	}
	for flush := false; ; {
		// What may go waits as long as there is more to read, so as to go in one piece.
		if (flush || s.state != idle && s.state != passing) && !s.move(in, out) {
			return never, open
		}
		switch {
		case s.state == stuck && s.closed && !s.ended:
			return never, s.blow.how()
		case s.state == stuck || s.ended:
			// The connection ends, and until then the server hears no more than that the
			// client is gone.
			in.drop()
			s.seen, s.free = 0, 0
			in.passEnd(out, max(in.endAt, s.floor))
			return never, open
		case s.state == swallowing:
		case s.mute || s.deaf || s.over[Downstream]:
			s.all(in, out)
			return never, open
		case s.state == waiting:
			if at := s.wait(now, out); at > now {
				return at, open
			}
			continue
		}
		b, at := in.from(s.seen)
		flush = len(b) == 0
		n, m := s.conv.ask(b)
		s.seen += n
		if n > 0 {
			s.at = at
		}
		switch m {
		case going, holding:
			if s.state == swallowing {
				s.skip(in)
			} else if m == going || len(b) == 0 && in.end != open {
				s.free = s.seen
			}
			if len(b) > 0 || s.free > 0 {
				continue
			}
			if m == holding && s.state == idle {
				if len(in.chunks)-in.head > mostPieces {
					in.pack() // so that little doesn't fill the room, and is walked over each time
				}
				if in.full() {
					s.silence()
					continue
				}
				if !s.sure {
					// It may be the middle of something that looks like a beginning, and then what it
					// waits for doesn't come.
					if s.until == 0 {
						s.until = now + patience
					}
					if now < s.until {
						return s.until, open
					}
					s.silence()
					continue
				}
			}
			in.passEnd(out, max(in.endAt, s.floor))
			return never, open
		case begun:
			s.begin()
		case done:
			s.finish(in)
		case aside:
			s.free, s.until = s.seen, 0
		case lost:
			s.sure = false
		case strange:
			if s.state == swallowing {
				s.finish(in)
			}
			s.silence()
		}
	}
}

// silence gives up on what the connection says from here on.
func (s *asking) silence() {
	s.mute, s.news = true, true
	s.owe(owed{due: nothing})
}

// begin decides on the request that has begun.
func (s *asking) begin() {
	s.req = s.conv.asked()
	s.from = max(s.at, s.floor)
	s.until, s.version = 0, s.talk.version
	s.struck = s.strikes(&s.req)
	if s.state = waiting; !s.struck {
		s.release()
	}
}

// wait returns until when the request waits, which is over if that is not after now.
func (s *asking) wait(now time.Duration, out *queue) time.Duration {
	if s.version != s.talk.version {
		s.version, s.until, s.settling = s.talk.version, 0, false
		if !s.blow.hits(&s.req) {
			s.spare(now)
			return now
		}
	}
	at := s.from + s.blow.delay
	answers := s.blow.fail != nil && !s.req.silent || s.blow.listens(&s.req)
	if answers && !s.sure && !s.closed {
		if !s.settling && out.empty() {
			s.settling, s.since, s.news = true, now, true
		}
		if s.until == 0 {
			s.until = max(at, now) + patience
			if s.follows {
				s.until += slowness
			}
		}
		if now < s.until {
			return s.until
		}
		s.spare(now)
		s.silence()
		return now
	}
	if now < at {
		return at
	}
	s.floor = max(s.floor, at)
	if s.until > 0 {
		s.floor = max(s.floor, now)
	}
	switch {
	case s.blow.fail != nil:
		s.state, s.fail, s.swallows = swallowing, s.blow.fail, true
		if !s.req.silent {
			s.owe(owed{due: ours})
		}
	case s.blow.cut == CutBefore:
		s.state, s.news = stuck, true
		s.owe(owed{due: theEnd, at: s.floor})
	default:
		s.release()
	}
	return now
}

// spare lets a request go that was to be struck.
func (s *asking) spare(now time.Duration) {
	s.settling, s.struck = false, false
	s.hits.Add(-1)
	s.floor = max(s.floor, now)
	s.release()
}

// release lets the request go.
func (s *asking) release() {
	s.state, s.free = passing, s.seen
	if !s.req.silent {
		struck := s.struck && s.blow.listens(&s.req)
		s.owe(owed{due: theirs, kind: s.req.kind, note: s.req.note, struck: struck, cut: struck && s.blow.cut == CutAfter})
	}
	switch s.req.then {
	case lost:
		if s.counts {
			s.counts, s.sure = false, false
			s.owe(owed{due: chaos})
		}
	case strange:
		s.silence()
	}
}

// finish ends the request.
func (s *asking) finish(in *queue) {
	s.until = 0
	if s.state != swallowing {
		s.state, s.free = idle, s.seen
		return
	}
	s.skip(in)
	s.state, s.swallows = idle, false
	if s.req.silent {
		return
	}
	s.news = true
	o := &s.owed[len(s.owed)-1]
	o.own, o.ready, o.at = s.fail(s.conv), true, max(s.at, s.floor)
	if len(s.owed)-s.first < 2 {
		return
	}
	if b := &s.owed[len(s.owed)-2]; b.due == ours && bytes.Equal(b.own, o.own) {
		b.n++
		b.at = o.at
		s.owed = s.owed[:len(s.owed)-1]
	}
}

// leave ends the connection if the rest of a request that fails is still to come: the
// server must not take it for a request.
func (s *asking) leave() ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over[Upstream] = true
	if s.ended || s.state == stuck || s.state == swallowing {
		return s.blow.how()
	}
	return open
}

// An answering is the stage of the direction to the client.
type answering struct {
	*talk
	lane
	state state // idle, or waiting
	cuts  bool  // what it waits for is the end
	from  time.Duration
	moved time.Duration // when something did
	life  int
}

func (s *answering) room() int { return smallRoom }

func (s *answering) step(now time.Duration, in, out *queue) (time.Duration, ending) {
	s.mu.Lock()
	deaf, ended, closed, sure := s.deaf, s.ended, s.closed, s.sure
	wake := s.run(now, in, out)
	s.closed = s.closed || out.end != open
	if s.settling && !s.deaf {
		if !in.empty() || !out.empty() || s.next() != nil {
			s.moved = now
		}
		if at := max(s.moved, s.since) + settled; at <= now {
			s.settling, s.counts, s.follows, s.sure = false, true, true, true
			s.between()
		} else {
			wake = min(wake, at)
		}
	}
	news := s.deaf != deaf || s.ended != ended || s.closed != closed || s.sure != sure
	s.mu.Unlock()
	if news {
		s.wake(Upstream)
	}
	return wake, open
}

func (s *answering) run(now time.Duration, in, out *queue) time.Duration {
	if s.over[Downstream] {
		s.rejoin(Downstream)
	}
	if s.life != s.talk.life {
		s.life, s.lane, s.state = s.talk.life, lane{floor: s.floor}, idle
	}
	for flush := false; ; {
		if s.ended {
			return never
		}
		o := s.next()
		if (flush || s.state == waiting || o != nil && o.due != theirs && !s.middle) && !s.move(in, out) {
			return never
		}
		if o != nil && !s.middle {
			switch {
			case o.due == theEnd:
				s.end(out, o.at)
				return never
			case o.due == ours && o.ready:
				if out.full() {
					return never
				}
				if out.end == open {
					out.push(chunkOf(o.own, max(o.at, s.at, s.floor)))
				}
				s.paid()
				continue
			case o.due == chaos:
				s.follows = false
				s.paid()
				continue
			case o.due == nothing:
				s.deaf = true
				s.paid()
				continue
			}
		}
		over := s.over[Upstream]
		if s.deaf || !s.follows || over && s.debts == 0 {
			s.state, s.middle = idle, false
			s.all(in, out)
			return never
		}
		if s.state == waiting {
			at := s.from
			if !over {
				at += s.blow.late
			}
			if now < at {
				return at
			}
			if !over && s.cuts && s.blow.cut == CutAfter {
				s.end(out, at)
				return never
			}
			s.floor = max(s.floor, at)
			s.state, s.free = idle, s.seen
			continue
		}
		if o != nil && o.due != theirs {
			o = nil
		}
		b, at := in.from(s.seen)
		flush = len(b) == 0
		n, m := s.conv.answer(b, o)
		s.seen += n
		if n > 0 {
			s.at, s.middle = at, true
		}
		switch m {
		case going, holding:
			// Only the beginning of an answer that is struck must stay.
			if m == going || o == nil || !o.struck || len(b) == 0 && in.end != open {
				s.free = s.seen
			}
			if len(b) > 0 || s.free > 0 {
				continue
			}
			in.passEnd(out, max(in.endAt, s.floor))
			return never
		case begun:
			if o.struck {
				s.state, s.from, s.cuts = waiting, max(s.at, s.floor), o.cut
			} else {
				s.free = s.seen
			}
		case aside:
			s.free, s.middle = s.seen, false
		case done:
			s.free, s.middle = s.seen, false
			s.paid()
		case lost:
			s.sure = false
		case strange:
			switch {
			case s.debts > 0:
				// There is an answer to give, and nobody knows any more where.
				s.end(out, max(s.at, s.floor))
				return never
			case s.sure || s.mute:
				s.deaf = true
			case s.next() == nil:
				// The rest of something older.
				s.seen += len(b) - n
				s.free = s.seen
				s.between()
			default:
				s.loses()
			}
		}
	}
}

// end ends the connection behind what has passed.
func (s *answering) end(out *queue, at time.Duration) {
	out.finish(s.blow.how(), max(at, s.floor))
	s.ended = true
}

// leave ends the connection if the client waits for an answer that only the
// fault can give.
func (s *answering) leave() ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over[Downstream] = true
	if s.ended || s.debts > 0 || s.swallows {
		return s.blow.how()
	}
	return open
}

// from returns the bytes of a chunk that begin n bytes behind the front, and when they
// came.
func (q *queue) from(n int) ([]byte, time.Duration) {
	for _, c := range q.chunks[q.head:] {
		if n < len(c.b) {
			return c.b[n:], c.at
		}
		n -= len(c.b)
	}
	return nil, 0
}

// pack copies chunks together: what waits stays the same, and takes less room.
func (q *queue) pack() {
	old := q.chunks[q.head:]
	q.chunks, q.head, q.size = nil, 0, 0
	for len(old) > 0 {
		n, size := 1, len(old[0].b)
		for n < len(old) && size+len(old[n].b) <= bigBuffer {
			size += len(old[n].b)
			n++
		}
		if n == 1 {
			q.push(old[0])
		} else {
			c := chunk{buf: newBuffer(size), at: old[n-1].at}
			c.b = c.buf.b[:0]
			for _, o := range old[:n] {
				c.b = append(c.b, o.b...)
				o.buf.release()
			}
			q.push(c)
		}
		old = old[n:]
	}
}
