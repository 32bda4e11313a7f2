package ferry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
)

// A hub reads the log of one pod, once for all moves from there. It begins with the
// first of them and ends with the last.
//
// Why a move gets from it what a stream of its own would give, from a place on:
//
//   - It joins before it takes the place, which is where the log ends then, and gets
//     every event that the hub is given after that. What the hub was given before was
//     in the log when the move joined, so it is before the place; and so is the rest of
//     a transaction that the hub was in the middle of, as the log gets transactions
//     whole. A move that goes on with a dead one's copy has an older place: it compares
//     that with where the hub was when it joined, and if the hub had passed it reads
//     the log by itself.
//   - What begins before the place is dropped, and nothing else: a transaction says
//     where it begins, and the place is between two of them.
//   - Places compare in one server's files only. If a failover comes before the first
//     transaction behind the place, the move reads the log by itself from there.
//     Later it goes through failovers with the hub, as with a stream of its own, and
//     what ends that for good ends the move.
//
// A move that takes what it is given more slowly than the log comes is let go when
// its queue is full, and holds up nobody: it takes what it has, and reads on by
// itself from the end of the last whole transaction. If it is the only one, the hub
// waits for it instead.
//
// Who reads by itself does so for good. That costs a connection, and there is no way
// back that could go wrong.
type hub struct {
	tables map[string]bool // whose rows are decoded
	room   chan struct{}   // holds one signal: who waits for a move should look again
	ready  chan struct{}   // closed when it is known where the hub begins, or that it doesn't
	ended  chan struct{}   // closed at its end
	stop   context.CancelFunc

	mu     sync.Mutex // guards what follows, and the listeners
	moves  []*listener
	at     binlog.Position // where the transaction begins that it is in, or the last one ended
	within bool            // a transaction
	failed error           // why it has ended
}

// A listener is a move's part in a hub.
type listener struct {
	h      *hub
	leave  func()          // may be called again
	joined binlog.Position // it is given all that begins there or later,
	within bool            // or only what begins later
	events []binlog.Event
	bytes  int           // of events, about
	more   chan struct{} // holds one signal: there are events, or the end
	gone   bool          // it was let go, or has left
}

// maxHeard bounds the bytes that wait for a move, and those that it has in hand
// beside them, but for one event.
const maxHeard = 8 << 20

// A test has what begins before a move's place not dropped.
const offDrop hook.Protection = "hub: a move begins at its place"

// errAlone: the log is to be read by a stream of the move's own.
var errAlone = errors.New("the log is read alone")

// hubs are a ferry's, by pod. Lock order: hubs, hub.
type hubs struct {
	mu   sync.Mutex
	pods map[podworks.PodID]*hub
}

// listen has the move join its source's hub, to be called before it is known from
// where it follows the log, and returns the function that leaves it.
func (m *move) listen(ctx context.Context) (leave func()) {
	tables := map[string]bool{markerTable: true}
	for _, t := range slices.Concat(m.tables, m.others) {
		tables[t.name] = true
	}
	all := &m.f.hubs
	all.mu.Lock()
	h := all.pods[m.src.pod]
	if h == nil {
		h = &hub{tables: tables, room: make(chan struct{}, 1), ready: make(chan struct{}), ended: make(chan struct{})}
		if all.pods == nil {
			all.pods = map[podworks.PodID]*hub{}
		}
		all.pods[m.src.pod] = h
		var run context.Context
		run, h.stop = context.WithCancel(context.WithoutCancel(ctx)) // it may outlive this move
		go func() {
			defer close(h.ended)
			err := h.run(run, m.src, m.f.opts.Logger.With("pod", m.src.pod))
			all.forget(m.src.pod, h) // before the end is seen: who comes now begins anew
			h.fail(err)
		}()
	}
	for name := range tables {
		if !h.tables[name] { // which has come since the hub began
			all.mu.Unlock()
			return func() {}
		}
	}
	l := h.join()
	all.mu.Unlock()
	l.leave = func() {
		all.mu.Lock()
		last := h.remove(l)
		if last && all.pods[m.src.pod] == h {
			delete(all.pods, m.src.pod)
		}
		all.mu.Unlock()
		if last {
			h.stop()
			<-h.ended
		}
	}
	m.heard = l
	select {
	case <-h.ready:
	case <-ctx.Done():
	}
	return l.leave
}

func (all *hubs) forget(pod podworks.PodID, h *hub) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.pods[pod] == h {
		delete(all.pods, pod)
	}
}

func (h *hub) join() *listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &listener{h: h, joined: h.at, within: h.within, more: make(chan struct{}, 1)}
	h.moves = append(h.moves, l)
	signal(h.room)
	return l
}

// remove reports whether no other is left.
func (h *hub) remove(l *listener) (last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.gone, l.events = true, nil
	h.moves = slices.DeleteFunc(h.moves, func(x *listener) bool { return x == l })
	signal(h.room)
	return len(h.moves) == 0
}

// signal puts a signal into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (h *hub) run(ctx context.Context, src *server, log *slog.Logger) error {
	stream, err := binlog.New(src.cfg, &binlog.Options{
		Tables:   func(database, name string) bool { return database == src.cfg.DBName && h.tables[name] },
		RetryFor: hook.Insist(ctx, patience),
		Logger:   log,
	})
	if err != nil {
		return err
	}
	hook.Step(ctx, "hub")
	at, err := stream.Now(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.at = at
	for _, l := range h.moves {
		l.joined = at
	}
	close(h.ready)
	h.mu.Unlock()
	return stream.Run(ctx, at, func(ev binlog.Event) error { return h.give(ctx, ev) })
}

func (h *hub) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = err
	select {
	case <-h.ready:
	default:
		close(h.ready)
	}
	for _, l := range h.moves {
		signal(l.more)
	}
}

// give gives an event to every move that has joined.
func (h *hub) give(ctx context.Context, ev binlog.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.moves) == 1 && h.moves[0].bytes > maxHeard {
		h.mu.Unlock()
		select {
		case <-h.room:
		case <-ctx.Done():
		}
		h.mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	switch ev := ev.(type) {
	case *binlog.Begin:
		h.at, h.within = ev.Position, true
	case *binlog.Commit:
		h.at, h.within = ev.Position, false
	case *binlog.Prepare:
		h.at, h.within = ev.Position, false
	case *binlog.Rollback:
		h.at, h.within = ev.Position, false
	case *binlog.Restart: // it comes again, from where it began
		h.within = false
	case *binlog.Heartbeat:
		h.at = ev.Position
		return nil
	}
	n := eventBytes(ev)
	h.moves = slices.DeleteFunc(h.moves, func(l *listener) bool {
		if l.gone = l.bytes > maxHeard; !l.gone {
			l.events = append(l.events, ev)
			l.bytes += n
		}
		signal(l.more)
		return l.gone
	})
	return nil
}

// eventBytes is about the bytes of memory that an event takes.
func eventBytes(ev binlog.Event) int {
	n := 200
	switch ev := ev.(type) {
	case *binlog.Statement:
		n += len(ev.Text)
	case *binlog.Rows:
		for _, c := range ev.Changes {
			for _, image := range [][]any{c.Before, c.After} {
				n += 24 * len(image)
				for _, v := range image {
					switch v := v.(type) {
					case string:
						n += len(v)
					case []byte:
						n += len(v)
					}
				}
			}
		}
	}
	return n
}

// next returns the events that the move was given since, of which there is one at
// least.
func (l *listener) next(ctx context.Context) (events []binlog.Event, err error) {
	for {
		l.h.mu.Lock()
		events, l.events, l.bytes = l.events, nil, 0
		switch {
		case len(events) > 0:
		case l.gone:
			err = errAlone
		case l.h.failed != nil:
			err = l.h.failed
		}
		l.h.mu.Unlock()
		signal(l.h.room)
		if len(events) > 0 || err != nil {
			return events, err
		}
		select {
		case <-l.more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// follow gives handle the log's events from a place on. After errAlone a stream of the
// move's own has to go on from the place that is returned.
func (l *listener) follow(ctx context.Context, from binlog.Position, handle func(binlog.Event) error) (at binlog.Position, err error) {
	l.h.mu.Lock()
	order, ok := from.Compare(l.joined)
	ok = ok && (order > 0 || order == 0 && !l.within)
	l.h.mu.Unlock()
	if !ok {
		return from, errAlone
	}
	at = from
	reached, begun := hook.Off(ctx, offDrop), false
	for {
		events, err := l.next(ctx)
		if err != nil && !reached && ctx.Err() == nil {
			return at, errAlone // what has ended the hub may be no reason for a stream from here
		}
		if errors.Is(err, errAlone) && begun {
			if err := handle(&binlog.Restart{}); err != nil {
				return at, err
			}
		}
		if err != nil {
			return at, err
		}
		for _, ev := range events {
			if b, ok := ev.(*binlog.Begin); ok && !reached {
				order, ok := b.Position.Compare(from)
				if !ok {
					return at, errAlone
				}
				reached = order >= 0
			}
			if !reached {
				continue
			}
			if err := handle(ev); err != nil {
				return at, err
			}
			switch ev := ev.(type) {
			case *binlog.Begin:
				begun = true
			case *binlog.Commit:
				at, begun = ev.Position, false
			case *binlog.Prepare:
				at, begun = ev.Position, false
			case *binlog.Rollback:
				at, begun = ev.Position, false
			case *binlog.Restart:
				begun = false
			}
		}
	}
}
