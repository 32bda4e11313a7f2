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

	ctx    context.Context // ends with the link
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	client net.Conn
	server net.Conn // nil until dialed
	closed bool     // both of them, or about to be
	done   int      // pumps that have returned
	struck map[*origin]strike
	pairs  map[*origin][2]stage // of faults that work on the conversation
}

// A strike is what was decided about a fault and a connection.
type strike struct {
	chance float64 // it strikes if its toxicity is more than this
	chosen bool    // by Only
	told   bool    // the hook knows
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
	armed bool // deadlines may be set
	timer *time.Timer
	stuck time.Duration // since when a write makes no progress to a side that is broken
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

// linger is how long bytes for one side may wait without moving when the other side is gone.
const linger = 5 * time.Second

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
		l.mu.Unlock()
		server.Close()
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
	d.run()
	l.mu.Lock()
	l.done++
	last := l.done == 2
	l.mu.Unlock()
	if last {
		l.p.leave(l)
	} else if l.broken.Load() {
		// The other pump discards what a side sends that nobody takes any more.
		l.end(reset)
	}
}

// connect makes d ready to run. Its counters may be read already.
func (d *pump) connect(l *link, s Stream, src, dst net.Conn) {
	d.l, d.stream, d.src, d.dst, d.from = l, s, src, dst, newReader(src)
	d.bell = make(chan struct{}, 1)
}

// end closes both sides. It may be called at any time, by anybody, more than once.
func (l *link) end(how ending) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
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

// shut closes c, by a RST if it can and shall.
func shut(c net.Conn, how ending) {
	if how == reset {
		switch c := c.(type) {
		case *net.TCPConn:
			c.SetLinger(0)
		case *end:
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
	l.mu.Unlock()
	if !known {
		s.chance = l.rand(f, 2).Float64()
		s.chosen = true
		if f.Only != nil {
			info := l.info
			info.New = info.Number - min(f.born, info.Number)
			s.chosen = f.Only(info)
		}
	}
	hit := s.chosen && s.chance < f.fraction()
	l.mu.Lock()
	if first, known := l.struck[f.origin]; known {
		s = first // the other direction was quicker, or it is no news
		hit = s.chosen && s.chance < f.fraction()
	}
	tell := hit && !s.told
	s.told = s.told || hit
	if l.struck == nil {
		l.struck = make(map[*origin]strike)
	}
	l.struck[f.origin] = s
	l.mu.Unlock()
	if tell && l.p.opts.Hooks.Struck != nil {
		l.p.opts.Hooks.Struck(l.info, f.Name)
	}
	return hit
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
func (l *link) forget(s *setup) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
		if d.flow.idle() {
			if !d.relay(pokes) {
				return
			}
			continue
		}
		wake, cut := d.flow.step(d.l.p.now())
		switch out := &d.flow.out; {
		case cut != open:
			d.l.end(cut)
			return
		case !out.empty():
			if !d.write(wake, pokes) {
				return
			}
		case out.end != open:
			d.finish(out.end)
			return
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
				return t.start(start{now: d.l.p.now(), rand: d.l.rand(f, uint64(d.stream)), line: &f.line})
			}
		case talker:
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
	if cut := d.flow.set(d.wants); cut != open {
		d.l.end(cut)
	}
	clear(d.wants)
	d.l.forget(s)
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
			return d.abandon()
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
				return false, d.abandon()
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
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		d.armed = true
	case errors.Is(err, net.ErrClosed):
		d.l.end(closing) // by us already, or by whoever gave us the connection
		return false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe):
		d.ended = true
		d.flow.entry().finish(eof, d.l.p.now())
	default:
		d.ended = true
		d.flow.entry().finish(reset, d.l.p.now())
	}
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
	if broken {
		wake = min(wake, d.l.p.now()+linger)
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
		return d.abandon()
	}
	if !broken || n > 0 {
		d.stuck = 0
		return true
	}
	now := d.l.p.now()
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

// finish passes the end of the stream on.
func (d *pump) finish(how ending) {
	if how != eof {
		d.l.end(how)
		return
	}
	if half, ok := d.dst.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	d.l.end(closing) // there is no other way to say it
}

// abandon is called when dst takes nothing more: it is gone, or said so by a RST. What it
// sent before may still be on its way to src by the other pump, and a RST to src now
// could destroy it. So this pump takes what src sends and drops it, as src's
// own system would until it hears of the RST, and the other pump ends the link when it
// has delivered everything, or makes no progress for a while.
func (d *pump) abandon() bool {
	d.flow.drop()
	d.l.broken.Store(true)
	d.l.mu.Lock()
	alone := d.l.done > 0
	d.l.mu.Unlock()
	if alone {
		d.l.end(reset)
		return false
	}
	if d.stream == Upstream {
		d.l.down.poke()
	} else {
		d.l.up.poke()
	}
	for !d.ended && d.l.ctx.Err() == nil {
		d.src.SetReadDeadline(time.Time{})
		buf, _, err := d.from.read()
		switch {
		case err == nil:
			buf.release()
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			return false
		}
	}
	return false
}
