package toxi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrExists means that a proxy has a fault of this name already: give the new one
	// another, or none, or update the one that is there.
	ErrExists = errors.New("toxi: a fault of this name exists")
	// ErrNoFault means that a proxy has no fault of this name (any more).
	ErrNoFault = errors.New("toxi: no fault of this name")
	// ErrClosed means that the proxy is closed for good.
	ErrClosed = errors.New("toxi: the proxy is closed")
)

// Options of a proxy. The zero value, and nil, are the defaults.
type Options struct {
	// Name stands in logs and errors. The default is the upstream's address.
	Name string
	// Listen is where the proxy listens: "host:port", or a path for a unix socket. The
	// default is a free port of 127.0.0.1, or a socket in a new folder if
	// the upstream is a unix socket.
	Listen string
	// Toxics are there from the first connection on, as if they had been added before.
	Toxics []Toxic
	// Seed decides everything that is left to chance. The default is random;
	// [Proxy.Seed] tells it. The same seed strikes the same connections, counted in the
	// order in which they were accepted.
	Seed uint64
	// DialTimeout bounds a connect to the upstream. The default is 10 s.
	DialTimeout time.Duration
	// Logger hears of toxics that come and go, and of what goes wrong. The default is
	// silence.
	Logger *slog.Logger
	Hooks  Hooks
}

// Hooks are told what happens, if they are not nil. They are called without locks
// held, by many goroutines at once, and must be quick.
type Hooks struct {
	Opened  func(Conn)                     // accepted
	Failed  func(Conn, error)              // the upstream could not be dialed
	Struck  func(c Conn, fault string)     // a fault begins to work on a connection
	Closed  func(Conn)                     // both sides are closed
	Changed func(fault string, added bool) // a fault was added or updated, or else removed
}

// Stats are what a proxy has counted. Open is as of now; all else since the
// beginning.
type Stats struct {
	Open       int
	Opened     uint64
	DialErrors uint64 // connections whose upstream could not be dialed
	Upstream   Bytes  // from clients to the server
	Downstream Bytes  // from the server to clients
}

// Bytes counts what a direction has read and written. It moves while connections
// live.
type Bytes struct{ Received, Sent uint64 }

// A Proxy passes connections on to an upstream, and what is added to it strikes
// them. All methods may be called at any time by any goroutine, and none of them waits
// for data, for a slow peer or for the upstream, except Dial.
type Proxy struct {
	name  string
	opts  Options
	seed  uint64
	dial  func(context.Context) (net.Conn, error)
	epoch time.Time

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	setup  atomic.Pointer[setup]

	control sync.Mutex // one change at a time; held while the listener is opened or closed
	gate    *gate      // nil if the proxy does not listen

	mu         sync.Mutex // never held together with a link's
	closed     bool
	links      map[*link]struct{}
	number     uint64 // of the last connection
	dialErrors uint64
	gone       [2]Bytes // of connections that are closed, by direction

	tubes   tubes
	running sync.WaitGroup // a count for each link
}

// setup is all that strikes, as it was set at once.
type setup struct {
	faults  []*fault
	changed chan struct{} // closed when another setup holds
}

// fault is a Fault and where it came from.
type fault struct {
	Fault
	*origin
}

// origin is what stays of a fault when it is updated.
type origin struct {
	hash  uint64       // of the name
	born  uint64       // number of the last connection before it
	lines [2]line      // of a shared bandwidth, by direction
	hits  atomic.Int64 // matches of a fault that counts
}

func (s *setup) has(o *origin) bool {
	return slices.ContainsFunc(s.faults, func(f *fault) bool { return f.origin == o })
}

// stance is what the listener does.
func (s *setup) stance() stance {
	is := accepting
	for _, f := range s.faults {
		switch f.Toxic.(type) {
		case Refuse:
			return refusing
		case ConnectBlackhole:
			is = ignoring
		}
	}
	return is
}

// Listen starts a proxy that passes connections on to upstream, "host:port" or
// the path of a unix socket. It listens when Listen returns; the upstream need not be
// there. Close it.
func Listen(upstream string, opts *Options) (*Proxy, error) {
	network, addr := split(upstream)
	if addr == "" {
		return nil, errors.New(`toxi: the upstream is empty, want "host:port" or the path of a unix socket`)
	}
	if network == "tcp" {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf(`toxi: the upstream is %q, want "host:port" or the path of a unix socket: %w`, upstream, err)
		}
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Name = cmp.Or(o.Name, upstream)
	dialer := net.Dialer{KeepAlive: -1}
	p, err := New(func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, network, addr) }, &o)
	if err != nil {
		return nil, err
	}
	if p.gate, err = listen(p, o.Listen, network); err != nil {
		p.cancel()
		return nil, err
	}
	if err := p.gate.set(p.setup.Load().stance()); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// New returns a proxy that does not listen: its connections come from Dial and Wrap,
// without sockets, and so also inside a testing/synctest bubble. It starts no
// goroutine before that. A nil dial is for proxies that only wrap.
func New(dial func(context.Context) (net.Conn, error), opts *Options) (*Proxy, error) {
	p := &Proxy{dial: dial, epoch: time.Now(), links: make(map[*link]struct{})}
	if opts != nil {
		p.opts = *opts
	}
	if p.opts.DialTimeout < 0 {
		return nil, fmt.Errorf("toxi: DialTimeout is %v, want 0 for the default of 10s, or more", p.opts.DialTimeout)
	}
	p.opts.DialTimeout = cmp.Or(p.opts.DialTimeout, 10*time.Second)
	p.opts.Logger = cmp.Or(p.opts.Logger, slog.New(slog.DiscardHandler))
	p.name = cmp.Or(p.opts.Name, "(no name)")
	for p.seed = p.opts.Seed; p.seed == 0; {
		p.seed = rand.Uint64()
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.setup.Store(&setup{changed: make(chan struct{})})
	var errs []error
	for _, t := range p.opts.Toxics {
		_, err := p.Add(t)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		p.cancel()
		return nil, err
	}
	return p, nil
}

// split tells the network of an address.
func split(addr string) (network, address string) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return "unix", path
	}
	if strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "@") {
		return "unix", addr
	}
	return "tcp", addr
}

// Addr is where clients connect to: "127.0.0.1:41234", or the path of a unix socket.
// It stays while the proxy is open, also while it is down. It is empty for a
// proxy that does not listen.
func (p *Proxy) Addr() string {
	if p.gate == nil {
		return ""
	}
	return p.gate.addr
}

// Name is the proxy's name.
func (p *Proxy) Name() string { return p.name }

// Seed is what decides everything that is left to chance: give it to [Options] to
// strike the same connections again.
func (p *Proxy) Seed() uint64 { return p.seed }

// now counts the time since the proxy was made.
func (p *Proxy) now() time.Duration { return time.Since(p.epoch) }

// clock is the time of an instant, as a deadline.
func (p *Proxy) clock(at time.Duration) time.Time {
	if at == never {
		return time.Time{}
	}
	return p.epoch.Add(at)
}

// Add adds a toxic behind those that are there. It works on connections that are open
// too, and on every byte that reaches the proxy after Add has returned. The error is
// [ErrExists], or says what is wrong with the toxic. Remove takes the toxic away
// again: what it held back goes on its way. Remove may be called twice; its error is that the proxy could not
// listen again.
func (p *Proxy) Add(t Toxic) (remove func() error, err error) {
	f, err := place(t)
	if err != nil {
		return nil, err
	}
	o := &origin{}
	err = p.change(func(faults []*fault) ([]*fault, string, error) {
		if f.Name == "" {
			f.Name = freeName(faults, f)
		} else if index(faults, f.Name) >= 0 {
			return nil, "", fmt.Errorf("%w: %q on %s", ErrExists, f.Name, p.name)
		}
		hash := fnv.New64a()
		hash.Write([]byte(f.Name))
		o.hash = hash.Sum64()
		p.mu.Lock()
		o.born = p.number
		p.mu.Unlock()
		return append(faults, &fault{f, o}), f.Name, nil
	}, true)
	remove = func() error {
		err := p.change(func(faults []*fault) ([]*fault, string, error) {
			i := slices.IndexFunc(faults, func(f *fault) bool { return f.origin == o })
			if i < 0 {
				return nil, "", ErrNoFault
			}
			return slices.Delete(faults, i, i+1), f.Name, nil
		}, false)
		if errors.Is(err, ErrNoFault) || errors.Is(err, ErrClosed) {
			return nil
		}
		return err
	}
	if err != nil {
		remove() // it is there if only the listener made trouble
		return nil, err
	}
	return remove, nil
}

// freeName makes a name of f's type and stream.
func freeName(faults []*fault, f Fault) string {
	base := f.kind()
	if f.reach() == oneWay {
		base += "_" + f.Stream.String()
	}
	name := base
	for i := 2; index(faults, name) >= 0; i++ {
		name = fmt.Sprintf("%s_%d", base, i)
	}
	return name
}

// index finds a fault by its name.
func index(faults []*fault, name string) int {
	return slices.IndexFunc(faults, func(f *fault) bool { return f.Name == name })
}

// Update gives the fault of this name other attributes: t is of the same type. Its
// toxicity becomes that of t; its name, its stream and whom it was meant for (Only) stay.
// Connections keep what they have done with it so far. The error is [ErrNoFault], or says
// what is wrong with t.
func (p *Proxy) Update(name string, t Toxic) error {
	f, err := place(t)
	if err != nil {
		return err
	}
	return p.change(func(faults []*fault) ([]*fault, string, error) {
		i, err := p.find(faults, name)
		if err != nil {
			return nil, "", err
		}
		now, origin := faults[i].Fault, faults[i].origin
		if now.kind() != f.kind() {
			return nil, "", fmt.Errorf("toxi: fault %q is a %s, and a %s is no update of it: remove it and add another", name, now.kind(), f.kind())
		}
		now.Toxic, now.Toxicity = f.Toxic, f.Toxicity
		faults[i] = &fault{now, origin}
		return faults, name, nil
	}, true)
}

// Remove removes the fault of this name, as what Add returns does. The error is
// [ErrNoFault], or that the proxy could not listen again.
func (p *Proxy) Remove(name string) error {
	return p.change(func(faults []*fault) ([]*fault, string, error) {
		i, err := p.find(faults, name)
		if err != nil {
			return nil, "", err
		}
		return slices.Delete(faults, i, i+1), name, nil
	}, false)
}

func (p *Proxy) find(faults []*fault, name string) (int, error) {
	i := index(faults, name)
	if i < 0 {
		return 0, fmt.Errorf("%w: %q on %s", ErrNoFault, name, p.name)
	}
	return i, nil
}

// Clear removes all faults.
func (p *Proxy) Clear() error {
	var errs []error
	for _, f := range p.Faults() {
		if err := p.Remove(f.Name); err != nil && !errors.Is(err, ErrNoFault) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Faults are what the proxy has, in the order in which bytes meet them.
func (p *Proxy) Faults() []Fault {
	var out []Fault
	for _, f := range p.setup.Load().faults {
		out = append(out, f.Fault)
	}
	return out
}

// change edits a copy of the faults, and makes it hold: for whoever connects, for the
// listener, for connections that are there, in this order, so that nobody slips between.
func (p *Proxy) change(edit func([]*fault) (faults []*fault, name string, err error), added bool) error {
	p.control.Lock()
	now, name, links, err := p.changeLocked(edit)
	p.control.Unlock()
	if name == "" {
		return err
	}
	if i := index(now, name); added && i >= 0 {
		// What resets at once does so before it can be removed again, and also those who
		// wait for the upstream. Any other toxic may come and go unseen by a
		// connection on which nothing happens meanwhile.
		if t, ok := now[i].Toxic.(ResetPeer); ok && t.After == 0 {
			for _, l := range links {
				if l.strikes(now[i]) {
					l.end(reset)
				}
			}
		}
	}
	p.opts.Logger.Debug("toxi: changed", "proxy", p.name, "fault", name, "added", added)
	if p.opts.Hooks.Changed != nil {
		p.opts.Hooks.Changed(name, added)
	}
	return err
}

// changeLocked returns the faults that hold now, and the connections that were there.
func (p *Proxy) changeLocked(edit func([]*fault) ([]*fault, string, error)) (faults []*fault, name string, links []*link, err error) {
	if p.ctx.Err() != nil {
		return nil, "", nil, fmt.Errorf("%w: %s", ErrClosed, p.name)
	}
	old := p.setup.Load()
	faults, name, err = edit(slices.Clone(old.faults))
	if err != nil {
		return nil, "", nil, err
	}
	new := &setup{faults: faults, changed: make(chan struct{})}
	p.setup.Store(new)
	close(old.changed)
	if p.gate != nil {
		err = p.gate.set(new.stance())
	}
	down := new.stance() == refusing
	links = p.all()
	for _, l := range links {
		if down {
			l.end(closing)
		} else {
			l.poke()
		}
	}
	return faults, name, links, err
}

// all returns the links that are open.
func (p *Proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

// errRefused says that the proxy plays a server that is down.
var errRefused = errors.New("refused")

// admit makes a link of a client's connection. The caller runs it, by serve or carry.
func (p *Proxy) admit(client net.Conn) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, ErrClosed
	case p.setup.Load().stance() == refusing:
		// Loaded under mu: a change to refusing ends all links after it has stored its
		// setup, so it either finds this link or is seen here.
		return nil, errRefused
	}
	p.number++
	l := newLink(p, client, p.number)
	p.links[l] = struct{}{}
	p.running.Add(1)
	return l, nil
}

// serve carries a link to the upstream.
func (p *Proxy) serve(l *link) {
	held := true
	defer func() {
		if held { // also if a function of the user's has ended the goroutine
			p.leave(l)
		}
	}()
	if !p.hold(l) {
		return
	}
	timer := time.AfterFunc(p.opts.DialTimeout, func() { l.cancel(errDialTimeout) })
	server, err := p.dial(l.ctx)
	if !timer.Stop() && err == nil {
		// It came with the timer, which may have ended what is made of the context.
		server.Close()
		err = errDialTimeout
	}
	if err != nil {
		p.failed(l, err)
		return
	}
	held = false
	l.run(server)
}

var errDialTimeout = errors.New("no connection within the DialTimeout")

// failed tells of an upstream that could not be dialed.
func (p *Proxy) failed(l *link, err error) {
	switch cause := context.Cause(l.ctx); cause {
	case nil:
	case errDialTimeout:
		err = fmt.Errorf("%w of %v", errDialTimeout, p.opts.DialTimeout)
	default:
		return // somebody ended the link
	}
	p.mu.Lock()
	p.dialErrors++
	p.mu.Unlock()
	p.opts.Logger.Warn("toxi: the upstream could not be dialed, the client is cut off", "proxy", p.name, "error", err)
	if p.opts.Hooks.Failed != nil {
		p.opts.Hooks.Failed(l.info, err)
	}
}

// hold keeps a connection as long as the faults that work before its first byte say.
// It reports whether there still is one.
func (p *Proxy) hold(l *link) bool {
	if p.opts.Hooks.Opened != nil {
		p.opts.Hooks.Opened(l.info)
	}
	for {
		s := p.setup.Load()
		var hang bool
		var delay time.Duration
		for _, f := range s.faults {
			if f.reach() != connect || !l.strikes(f) {
				continue
			}
			switch t := f.Toxic.(type) {
			case Reject:
				how := closing
				if t.Reset {
					how = reset
				}
				l.end(how)
				return false
			case Hang:
				hang = true
			case SlowConnect:
				delay += t.Delay
			}
		}
		left := delay - time.Since(l.info.Opened)
		switch {
		case hang:
			left = longest
		case left <= 0:
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-s.changed:
		case <-l.ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// leave takes a link out.
func (p *Proxy) leave(l *link) {
	l.end(closing)
	p.mu.Lock()
	delete(p.links, l)
	for i, d := range []*pump{&l.down, &l.up} {
		p.gone[i].Received += d.received.Load()
		p.gone[i].Sent += d.sent.Load()
	}
	p.mu.Unlock()
	if p.opts.Hooks.Closed != nil {
		p.opts.Hooks.Closed(l.info)
	}
	p.running.Done()
}

// Dial connects to the upstream through the proxy and what strikes it, without a
// listener: it fits wherever a dial function is asked for. Under [Proxy.Down] the error
// is a refused connection, as from a socket; under [Proxy.Blackhole] Dial waits until it is over or ctx
// ends. Otherwise errors are those of the upstream's dial.
func (p *Proxy) Dial(ctx context.Context) (net.Conn, error) {
	if p.dial == nil {
		return nil, errors.New("toxi: the proxy was made without a dial function: use Wrap")
	}
	for {
		s := p.setup.Load()
		is := s.stance()
		if is == accepting {
			break
		}
		if is == refusing {
			return nil, refusal()
		}
		select {
		case <-s.changed:
		case <-p.ctx.Done():
			return nil, fmt.Errorf("%w: %s", ErrClosed, p.name)
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "toxi", Err: context.Cause(ctx)}
		}
	}
	server, err := p.reach(ctx)
	if err != nil {
		return nil, err
	}
	near, far := pipe()
	l, err := p.admit(far)
	if err != nil {
		server.Close()
		if err == errRefused {
			err = refusal()
		}
		return nil, err
	}
	go p.carry(l, server)
	return near, nil
}

// reach dials the upstream for Dial: until ctx ends, the DialTimeout, or the proxy is
// closed.
func (p *Proxy) reach(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.opts.DialTimeout, errDialTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	server, err := p.dial(ctx)
	switch {
	case err == nil:
	case p.ctx.Err() != nil:
		err = fmt.Errorf("%w: %s", ErrClosed, p.name)
	case context.Cause(ctx) == errDialTimeout:
		err = &net.OpError{Op: "dial", Net: "toxi", Err: os.ErrDeadlineExceeded}
	}
	return server, err
}

// Wrap puts the proxy, and what strikes it, between the caller and a connection that
// is there. Closing what it returns closes the connection.
func (p *Proxy) Wrap(server net.Conn) net.Conn {
	near, far := pipe()
	l, err := p.admit(far)
	if err != nil {
		server.Close()
		far.reset()
		return near
	}
	go p.carry(l, server)
	return near
}

// carry is serve for a link whose upstream is there.
func (p *Proxy) carry(l *link, server net.Conn) {
	held := true
	defer func() {
		if held {
			shut(server, closing)
			p.leave(l)
		}
	}()
	if p.hold(l) {
		held = false
		l.run(server)
	}
}

// Conns are the connections that are open, the oldest first.
func (p *Proxy) Conns() []Conn {
	var out []Conn
	for _, l := range p.all() {
		out = append(out, l.info)
	}
	slices.SortFunc(out, func(a, b Conn) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// Stats returns what the proxy has counted.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	bytes := p.gone
	for l := range p.links {
		for i, d := range []*pump{&l.down, &l.up} {
			bytes[i].Received += d.received.Load()
			bytes[i].Sent += d.sent.Load()
		}
	}
	return Stats{
		Open:       len(p.links),
		Opened:     p.number,
		DialErrors: p.dialErrors,
		Downstream: bytes[0],
		Upstream:   bytes[1],
	}
}

// Close stops listening, closes all connections and returns when the last goroutine
// of the proxy has ended. What toxics held back is lost.
func (p *Proxy) Close() error {
	p.control.Lock()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	var err error
	if p.gate != nil {
		err = p.gate.close()
	}
	p.control.Unlock()
	for _, l := range p.all() {
		l.end(closing)
	}
	p.running.Wait() // hooks that run meanwhile may call the proxy
	p.tubes.close()
	return err
}
