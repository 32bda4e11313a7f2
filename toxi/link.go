package toxi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A link is one connection through the proxy: the client's side, the server's side,
// and a pump for each direction.
type link struct {
	p    *Proxy
	info Conn

	up, down pump

	broken atomic.Bool // a write failed: that side is gone, the other gets a reset
	cutoff atomic.Bool // and it said so by a RST

	ctx    context.Context // ends with the link
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	client net.Conn
	server net.Conn // nil until dialed
	closed bool     // both of them, or about to be
	how    ending   // if closed
	over   int      // directions that deliver nothing more
	done   int      // pumps that have returned
	struck map[*origin]*strike
	pairs  map[*origin][2]stage // of faults that work on the conversation
}

// A strike is what was decided about a fault and a connection.
type strike struct {
	decided chan struct{} // closed when the next two are
	chance  float64       // it strikes if its toxicity is more than this
	chosen  bool          // by Only
	told    bool          // the hook knows; under the link's mu
}

// A pump moves one direction. Without toxics it reads and writes; with toxics it
// drives a flow. In either case its goroutine is the only one to touch it, but for pokes.
//
// Whoever has something to tell it changes what it will look at (the proxy's setup,
// the link's state, the stages' own shared state), then pokes. The pump loads pokes, looks, sets its
// deadlines, loads pokes again, and blocks only if there was none: either the poke comes before that second
// load, and the pump looks again, or its deadline in the past is set after the pump's own,
// and ends the wait.
type pump struct {
	l      *link
	stream Stream
	from   reader
	src    net.Conn
	dst    net.Conn

	bulk  *bulk // nil until there is much to move
	small bool  // it cannot be
	pokes atomic.Uint32
	bell  chan struct{}

	received, sent atomic.Uint64

	flow  flow
	seen  *setup
	wants []want
	ended bool // src has no more to say
	over  bool // and dst knows
	armed bool // deadlines may be set
	timer *time.Timer
	early time.Duration // see timersLate
	stuck time.Duration // since when a write makes no progress while the other side is gone
	lag   lag
}

// A lag is what the system has yet to deliver.
type lag struct {
	bytes int
	since time.Duration // when it began to be so many
}

// A reader reads what there is into a buffer, which the caller owns unless there is an error.
type reader interface {
	read() (*buffer, int, error)
}

// connReader reads from any net.Conn.
type connReader struct{ c net.Conn }

func (r connReader) read() (*buffer, int, error) {
	buf := newBuffer(bigBuffer)
	n, err := r.c.Read(buf.b)
	if n > 0 {
		return buf, n, nil // an error that came with bytes comes again
	}
	buf.release()
	return nil, 0, err
}

// past is a deadline that ends any wait.
var past = time.Unix(1, 0)

const (
	// linger is how long bytes for one side may wait without moving when the other side is gone.
	linger = 5 * time.Second
	// moment is what passes between two looks at something of which we don't hear.
	moment = time.Millisecond
)

func newLink(p *Proxy, client net.Conn, number uint64) *link {
	l := &link{
		p:      p,
		client: client,
		info:   Conn{Number: number, Client: client.RemoteAddr(), Opened: time.Now()},
	}
	l.ctx, l.cancel = context.WithCancelCause(p.ctx)
	return l
}

// run moves bytes until both directions have ended, in the caller's goroutine and one
// more. It returns when the first of them has.
func (l *link) run(server net.Conn) {
	l.mu.Lock()
	if l.closed {
		how := l.how
		l.mu.Unlock()
		shut(server, how)
		l.p.leave(l)
		return
	}
	l.server = server
	l.up.connect(l, Upstream, l.client, server)
	l.down.connect(l, Downstream, server, l.client)
	l.mu.Unlock()

	go l.pump(&l.down)
	l.pump(&l.up)
}

// pump runs d. The pump that ends last takes the link out.
func (l *link) pump(d *pump) {
	returned := false
	defer func() {
		if !returned {
			l.end(closing) // a function of the user's has ended the goroutine
		}
		l.mu.Lock()
		l.done++
		last := l.done == 2
		l.mu.Unlock()
		if last {
			l.p.leave(l)
		}
	}()
	d.run()
	returned = true
}

// stop counts a direction that delivers nothing more: its end is passed on, or there
// is nobody to take it. It reports whether that was the last.
func (l *link) stop() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over++
	return l.over == 2
}

// connect makes d ready to run. Its counters may be read already.
func (d *pump) connect(l *link, s Stream, src, dst net.Conn) {
	d.l, d.stream, d.src, d.dst, d.from = l, s, src, dst, newReader(src)
	d.bell = make(chan struct{}, 1)
	if _, inMemory := l.client.(*end); !inMemory {
		d.early = timersLate / 2
	}
}

// An idle process that waits for sockets wakes up to 1 ms after its timers are due,
// because epoll counts in that unit. Stages are therefore run half of it early, so
// that what they do is late by no more than the other half. A bubble of
// testing/synctest, where there are no sockets, has exact timers.
const timersLate = time.Millisecond

// end closes both sides. It may be called at any time, by anybody, more than once.
func (l *link) end(how ending) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	if how == closing && l.over == 2 {
		how = eof
	}
	l.closed, l.how = true, how
	l.cancel(nil)
	client, server := l.client, l.server
	l.mu.Unlock()
	shut(client, how)
	if server != nil {
		shut(server, how)
		// Reads and writes have ended with the sockets; a sleep ends so.
		l.up.ring()
		l.down.ring()
	}
}

// shut closes c, by a RST if it can and shall. After eof its peer knows the end already.
func shut(c net.Conn, how ending) {
	switch c := c.(type) {
	case *net.TCPConn:
		switch how {
		case reset:
			c.SetLinger(0)
		case closing:
			// A socket that is closed with unread bytes in it says so by a RST. Behind a FIN
			// that one doesn't hurt a peer who reads: it sees the end, whatever it has sent.
			c.CloseWrite()
		}
	case *end:
		if how == reset {
			c.reset()
		}
	}
	c.Close()
}

// poke makes both pumps look at what has changed.
func (l *link) poke() {
	l.mu.Lock()
	running := l.server != nil
	l.mu.Unlock()
	if running {
		l.up.poke()
		l.down.poke()
	}
}

// strikes reports whether f works on this connection.
func (l *link) strikes(f *fault) bool {
	l.mu.Lock()
	s, known := l.struck[f.origin]
	if !known {
		s = &strike{decided: make(chan struct{})}
		if l.struck == nil {
			l.struck = make(map[*origin]*strike)
		}
		l.struck[f.origin] = s
	}
	l.mu.Unlock()
	if known {
		<-s.decided // if not long ago, then by the other direction, this moment
	} else {
		l.decide(s, f)
	}
	hit := s.chosen && s.chance < f.fraction()
	l.mu.Lock()
	tell := hit && !s.told
	s.told = s.told || hit
	l.mu.Unlock()
	if tell && l.p.opts.Hooks.Struck != nil {
		l.p.opts.Hooks.Struck(l.info, f.Name)
	}
	return hit
}

// decide decides s, once. Only is the user's: it may do anything but wait.
func (l *link) decide(s *strike, f *fault) {
	defer close(s.decided)
	s.chance = l.rand(f, 2).Float64()
	s.chosen = f.Only == nil
	if f.Only != nil {
		info := l.info
		info.New = info.Number - min(f.born, info.Number)
		s.chosen = f.Only(info)
	}
}

// rand is a source of chance that depends on the proxy's seed, the connection's
// number, the fault's name and a purpose.
func (l *link) rand(f *fault, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(l.p.seed^f.hash, l.info.Number<<2|purpose))
}

// talker is a toxic that works on the conversation: what one side says and the other
// answers.
type talker interface {
	converse(hits *atomic.Int64, wake func(Stream)) (up, down stage)
}

// pair returns the two stages of a fault that works on the conversation.
func (l *link) pair(f *fault, d talker) [2]stage {
	l.mu.Lock()
	defer l.mu.Unlock()
	pair, ok := l.pairs[f.origin]
	if !ok {
		pair[0], pair[1] = d.converse(&f.hits, l.wake)
		if fresh, ok := pair[0].(interface{ fresh() }); ok && l.up.received.Load()+l.down.received.Load() == 0 {
			fresh.fresh()
		}
		if l.pairs == nil {
			l.pairs = make(map[*origin][2]stage)
		}
		l.pairs[f.origin] = pair
	}
	return pair
}

func (l *link) wake(s Stream) {
	if s.covers(Upstream) {
		l.up.poke()
	}
	if s.covers(Downstream) {
		l.down.poke()
	}
}

// forget drops what was decided of faults that are gone.
func (l *link) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// As of now: a pump that still applies an older setup must not drop what the other
	// has decided about a newer one. What is not in the newest is gone for good.
	s := l.p.setup.Load()
	for o := range l.struck {
		if !s.has(o) {
			delete(l.struck, o)
			delete(l.pairs, o)
		}
	}
}

// poke makes the pump look at what has changed. See pump.
func (d *pump) poke() {
	d.pokes.Add(1)
	d.ring()
	d.src.SetReadDeadline(past)
	d.dst.SetWriteDeadline(past)
}

// ring ends a sleep.
func (d *pump) ring() {
	select {
	case d.bell <- struct{}{}:
	default: // it has not heard the one before
	}
}

func (d *pump) run() {
	defer d.flow.drop()
	for {
		pokes := d.pokes.Load()
		d.adopt()
		if d.l.ctx.Err() != nil {
			return
		}
		if d.flow.idle() && !d.l.broken.Load() {
			if !d.relay(pokes) {
				return
			}
			continue
		}
		wake, cut := d.flow.step(d.l.p.now() + d.early)
		if wake != never {
			wake -= d.early
		}
		switch out := &d.flow.out; {
		case cut != open:
			d.l.end(cut)
			return
		case !out.empty():
			if !d.write(wake, pokes) {
				return
			}
		case d.over:
			// It stays as long as the other direction, for toxics that cut.
			d.sleep(wake)
		case out.end != open:
			if (out.end != eof || d.l.broken.Load()) && d.lags(d.dst) {
				d.sleep(min(wake, d.l.p.now()+moment))
			} else if !d.finish(out.end) {
				return
			}
		case !d.ended && !d.flow.entry().full():
			d.read(wake, pokes)
		default:
			d.sleep(wake)
		}
	}
}

// adopt gives the flow the stages of the faults that work on it, if they have changed.
// Bytes that were read are queued behind a call of it: Add may have returned before
// they were sent, and then they meet its toxic.
func (d *pump) adopt() {
	s := d.l.p.setup.Load()
	if s == d.seen {
		return
	}
	d.armed = d.seen != nil // by the poke that came, or comes, with the change
	d.seen = s
	d.wants = d.wants[:0]
	for _, f := range s.faults {
		if r := f.reach(); r != oneWay && r != bothWay || r == oneWay && !f.Stream.covers(d.stream) {
			continue
		}
		if !d.l.strikes(f) {
			continue
		}
		w := want{id: f.origin, toxic: f.Toxic}
		switch t := f.Toxic.(type) {
		case wire:
			w.start = func() stage {
				return t.start(start{now: d.l.p.now(), rand: d.l.rand(f, uint64(d.stream)), line: &f.lines[d.stream]})
			}
		case talker:
			// What one of them answers in the server's place must not meet those that are
			// between it and the server: the order of one direction is the reverse of the other's.
			w.front = d.stream == Upstream
			w.start = func() stage {
				pair := d.l.pair(f, t)
				if d.stream == Upstream {
					return pair[0]
				}
				return pair[1]
			}
		}
		d.wants = append(d.wants, w)
	}
	d.flow.now = d.l.p.now()
	if cut := d.flow.set(d.wants); cut != open {
		d.l.end(cut)
	}
	clear(d.wants)
	d.l.forget()
}

// relay moves bytes without toxics until something changes. It reports whether there is more to do.
func (d *pump) relay(pokes uint32) bool {
	if d.armed {
		d.armed = false
		d.src.SetReadDeadline(time.Time{})
		d.dst.SetWriteDeadline(time.Time{})
		if d.pokes.Load() != pokes {
			d.armed = true
			return true
		}
	}
	p := d.l.p
	for {
		buf, n, err := d.from.read()
		if err != nil {
			return d.hear(err)
		}
		d.received.Add(uint64(n))
		if p.setup.Load() != d.seen {
			d.queue(buf, n)
			return true
		}
		sent, err := d.dst.Write(buf.b[:n])
		d.sent.Add(uint64(sent))
		if err == nil {
			full := n == len(buf.b)
			buf.release()
			if full && !d.small {
				// There is more where that came from.
				if again, more := d.pour(); !again {
					return more
				}
			}
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			buf.release()
			return d.abandon(err)
		}
		d.armed = true
		rest := chunkOf(buf.b[sent:n], p.now())
		buf.release()
		d.flow.out.push(rest)
		return true
	}
}

// pour relays through a pipe of the system for as long as there is much to relay.
// It reports whether relaying goes on, and if not, whether there is more to do.
func (d *pump) pour() (again, more bool) {
	p := d.l.p
	if d.bulk == nil {
		d.bulk = newBulk(d.src, d.dst)
	}
	if d.bulk == nil {
		d.small = true
		return true, true
	}
	t, err := p.tubes.get()
	if err != nil {
		d.small = true // out of descriptors: it goes without
		return true, true
	}
	for {
		n, err := d.bulk.read(t)
		if err != nil {
			p.tubes.put(t)
			if errors.Is(err, syscall.EINVAL) {
				d.small = true // not with these sockets
				return true, true
			}
			return false, d.hear(err)
		}
		d.received.Add(uint64(n))
		little := n < bigBuffer
		for n > 0 {
			if p.setup.Load() != d.seen {
				d.salvage(t, n)
				return false, true
			}
			sent, err := d.bulk.write(t, n)
			n -= sent
			d.sent.Add(uint64(sent))
			switch {
			case err == nil:
			case errors.Is(err, os.ErrDeadlineExceeded):
				d.armed = true
				d.salvage(t, n)
				return false, true
			default:
				t.close()
				return false, d.abandon(err)
			}
		}
		if little {
			p.tubes.put(t)
			return true, true
		}
	}
}

// salvage takes n bytes out of a pipe that could not be written, for the flow.
func (d *pump) salvage(t *tube, n int) {
	for n > 0 {
		buf := newBuffer(bigBuffer)
		got, err := t.read(buf.b[:min(n, len(buf.b))])
		if err != nil || got == 0 {
			// Nobody else reads it, and the bytes are there.
			panic(fmt.Sprintf("toxi: %d bytes are missing in a pipe: %v", n, err))
		}
		d.queue(buf, got)
		n -= got
	}
	d.l.p.tubes.put(t)
}

// hear takes the error of a read. It reports whether there is more to do.
func (d *pump) hear(err error) bool {
	how := reset
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		d.armed = true
		return true
	case errors.Is(err, net.ErrClosed):
		d.l.end(closing) // by us already, or by whoever gave us the connection
		return false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe):
		how = eof
		if e, ok := d.src.(*end); ok && e.left() {
			how = closing // by Close: there is nobody to whom an answer could go
		}
		if d.l.cutoff.Load() {
			how = reset // the write that failed has eaten the error that would be here
		}
	}
	d.ended = true
	d.adopt()
	d.flow.entry().finish(how, d.l.p.now())
	return true
}

// queue puts what was read before the first stage.
func (d *pump) queue(buf *buffer, n int) {
	d.adopt()
	now := d.l.p.now()
	if n > len(buf.b)/4 {
		d.flow.entry().push(chunk{b: buf.b[:n], at: now, buf: buf})
		return
	}
	c := chunkOf(buf.b[:n], now)
	buf.release()
	d.flow.entry().push(c)
}

// read waits for bytes until wake.
func (d *pump) read(wake time.Duration, pokes uint32) {
	d.armed = true
	d.src.SetReadDeadline(d.l.p.clock(wake))
	if d.pokes.Load() != pokes {
		return
	}
	buf, n, err := d.from.read()
	if err != nil {
		d.hear(err)
		return
	}
	d.received.Add(uint64(n))
	d.queue(buf, n)
}

// write writes the first chunk that has passed all stages, until wake. It reports whether there is more to do.
func (d *pump) write(wake time.Duration, pokes uint32) bool {
	out := &d.flow.out
	broken := d.l.broken.Load()
	// A deadline that has passed would keep from writing though there is room, so a
	// stage that wants to run this moment waits for the write, but not for long.
	now := d.l.p.now()
	wake = max(wake, now+moment)
	if broken {
		wake = min(wake, now+linger)
	}
	d.armed = true
	d.dst.SetWriteDeadline(d.l.p.clock(wake))
	if d.pokes.Load() != pokes {
		return true
	}
	c := out.front()
	n, err := d.dst.Write(c.b)
	d.sent.Add(uint64(n))
	switch {
	case err == nil:
		whole := out.pop()
		whole.buf.release()
	case errors.Is(err, os.ErrDeadlineExceeded):
		if n > 0 {
			part := out.take(n)
			part.buf.release()
		}
	default:
		return d.abandon(err)
	}
	if !broken || n > 0 {
		d.stuck = 0
		return true
	}
	now = d.l.p.now()
	if d.stuck == 0 {
		d.stuck = now
	}
	if now-d.stuck >= linger {
		d.l.end(reset)
		return false
	}
	return true
}

// sleep waits until wake, or until it is poked.
func (d *pump) sleep(wake time.Duration) {
	if wake == never {
		<-d.bell
		return
	}
	if d.timer == nil {
		d.timer = time.NewTimer(wake - d.l.p.now())
	} else {
		d.timer.Reset(wake - d.l.p.now())
	}
	select {
	case <-d.bell:
	case <-d.timer.C:
	}
	d.timer.Stop()
}

// finish passes the end of the stream on. It reports whether there is more to do.
func (d *pump) finish(how ending) bool {
	if how != eof {
		d.l.end(how)
		return false
	}
	half, ok := d.dst.(interface{ CloseWrite() error })
	if !ok {
		d.l.end(closing) // there is no other way to say it
		return false
	}
	half.CloseWrite()
	d.over = true
	if !d.l.stop() {
		return true
	}
	if d.l.broken.Load() {
		d.l.end(reset)
	} else {
		d.l.end(closing)
	}
	return false
}

// lags reports whether the system still has bytes for c's peer, which a RST to it would
// destroy, and so would a close while c has unread bytes. If the peer takes nothing for a
// while, nobody waits for it.
func (d *pump) lags(c net.Conn) bool {
	n, now := unsent(c), d.l.p.now()
	if n != d.lag.bytes {
		d.lag = lag{n, now}
	}
	return n > 0 && now-d.lag.since < linger
}

// abandon is called when dst takes nothing more: it is gone, or said so by a RST. What it
// sent before may still be on its way to src by the other pump, and a RST to src now
// could destroy it. So this pump takes what src sends and drops it, as src's
// own system would until it hears of the RST, and the other pump ends the link when it
// has delivered everything, or makes no progress for a while; not this one, when src
// has said everything and waits for the rest of the answer.
func (d *pump) abandon(err error) bool {
	d.flow.drop()
	if errors.Is(err, syscall.ECONNRESET) {
		d.l.cutoff.Store(true)
	}
	d.l.broken.Store(true)
	last := d.l.stop()
	if d.stream == Upstream {
		d.l.down.poke()
	} else {
		d.l.up.poke()
	}
	for d.l.ctx.Err() == nil {
		until := never
		if last {
			if !d.lags(d.src) {
				d.l.end(reset)
				return false
			}
			until = d.l.p.now() + moment
		}
		if d.ended {
			if !last {
				return false // the other pump goes on
			}
			d.sleep(until)
			continue
		}
		d.src.SetReadDeadline(d.l.p.clock(until))
		buf, _, err := d.from.read()
		switch {
		case err == nil:
			buf.release()
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			d.ended = true
		}
	}
	return false
}
