package toxiproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"unicode"
)

// DefaultVersion is the version that clients are told unless [Options.Version] says
// otherwise: that of the API, and whose it is.
const DefaultVersion = "2.12.0+podworks"

// Options configure a Server. The zero value, and nil, are the defaults.
type Options struct {
	// Version is what GET /version answers. The default is [DefaultVersion].
	Version string

	// Seed decides all that toxics leave to chance; each proxy's own is made of it
	// and the proxy's name. The default is random; [Server.Seed] tells it.
	Seed uint64

	// RuntimeMetrics adds go_info and go_goroutines to the counters at /metrics.
	RuntimeMetrics bool

	// Logger hears of proxies that come, change and go, and is handed on to them. The
	// default discards.
	Logger *slog.Logger
}

// withDefaults returns a copy of o, which may be nil, with its zero fields set.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.Version = cmp.Or(d.Version, DefaultVersion)
	for d.Seed == 0 {
		d.Seed = rand.Uint64()
	}
	d.Logger = cmp.Or(d.Logger, slog.New(slog.DiscardHandler))
	return d
}

// validate reports every field that is out of range, not only the first.
func (o *Options) validate() error {
	if strings.ContainsFunc(o.Version, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("Version is %q, want text that can be printed", o.Version)
	}
	return nil
}

// A Server owns proxies and is the http.Handler that commands them. It may be used by
// many goroutines at once. Close it, or what it opened stays open.
type Server struct {
	opts Options

	mu      sync.Mutex
	proxies map[string]*proxy // with those that are being made
	closed  bool
}

// New returns a Server without proxies. It listens nowhere: give it to an
// http.Server, on a loopback address or behind the application's own authentication.
func New(opts *Options) (*Server, error) {
	o := opts.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("toxiproxy: %w", err)
	}
	return &Server{opts: o, proxies: make(map[string]*proxy)}, nil
}

// Seed returns the seed in use. With it and the same requests, toxics strike the same
// connections again.
func (s *Server) Seed() uint64 { return s.opts.Seed }

// seedOf returns the seed of a proxy.
func (s *Server) seedOf(name string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, name)
	return cmp.Or(s.opts.Seed^h.Sum64(), 1) // 0 would be random
}

// Close closes all proxies and their connections. After that every request is answered
// with 503. It returns after the last goroutine of the last proxy.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, p := range s.all() {
		if release, err := s.take(context.Background(), p); err == nil {
			s.remove(p)
			release()
		}
	}
	return nil
}

// lookup returns the proxy of that name, if there is one.
func (s *Server) lookup(name string) (*proxy, bool) {
	s.mu.Lock()
	p := s.proxies[name]
	s.mu.Unlock()
	return p, p != nil && p.now.Load() != nil
}

// all returns the proxies, and those that are being made, in no order.
func (s *Server) all() []*proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*proxy, 0, len(s.proxies))
	for _, p := range s.proxies {
		all = append(all, p)
	}
	return all
}

// take waits for p's turn. The caller may then change p until it calls release.
func (s *Server) take(ctx context.Context, p *proxy) (release func(), err error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	if p.now.Load() == nil { // deleted while we waited
		<-p.turn
		return nil, errProxyNotFound
	}
	return func() { s.release(p) }, nil
}

// claim waits for the turn of the proxy of that name, which it makes if there is none:
// then p.now is nil, and if it still is when release is called, there never was one.
// Nobody else can make one of that name in between.
func (s *Server) claim(ctx context.Context, name string) (p *proxy, release func(), err error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, nil, errClosed
		}
		p := s.proxies[name]
		if p == nil {
			p = &proxy{name: name, turn: make(chan struct{}, 1)}
			p.turn <- struct{}{}
			s.proxies[name] = p
			s.mu.Unlock()
			return p, func() { s.release(p) }, nil
		}
		s.mu.Unlock()
		if err := p.wait(ctx); err != nil {
			return nil, nil, err
		}
		if !p.gone {
			return p, func() { s.release(p) }, nil
		}
		<-p.turn
	}
}

// release ends a turn, and forgets a proxy that is none.
func (s *Server) release(p *proxy) {
	if p.now.Load() == nil {
		p.gone = true
		s.mu.Lock()
		delete(s.proxies, p.name)
		s.mu.Unlock()
	}
	<-p.turn
}

// create makes a proxy that isn't there.
func (s *Server) create(ctx context.Context, pl plan) (view, error) {
	p, release, err := s.claim(ctx, pl.name)
	if err != nil {
		return view{}, err
	}
	defer release()
	if p.now.Load() != nil {
		return view{}, errProxyExists
	}
	st, err := s.start(pl)
	if err != nil {
		return view{}, err
	}
	s.opened(p, st)
	return p.view(st), nil
}

func (s *Server) opened(p *proxy, st *state) {
	p.now.Store(st)
	s.opts.Logger.Info("proxy created", "proxy", p.name, "listen", st.listen, "upstream", st.upstream, "enabled", st.live != nil)
}

// put makes a proxy, or makes the one that is there what pl says.
//
// One that already is at that address and to that upstream is left as it is, enabled or
// not. So does Toxiproxy, and clients populate at the beginning of every test run,
// not to lose what is there. Only toxics that are named replace what it has.
func (s *Server) put(ctx context.Context, pl plan) (view, error) {
	p, release, err := s.claim(ctx, pl.name)
	if err != nil {
		return view{}, err
	}
	defer release()
	old := p.now.Load()
	switch {
	case old == nil:
		st, err := s.start(pl)
		if err != nil {
			return view{}, err
		}
		s.opened(p, st)
	case old.upstream != pl.upstream || !samePlace(old.listen, pl.listen):
		if err := s.become(p, pl); err != nil {
			return view{}, err
		}
	case len(pl.toxics) > 0:
		if err := s.exchange(p, pl.toxics); err != nil {
			return view{}, err
		}
	}
	return p.view(p.now.Load()), nil
}

// exchange gives p other toxics and leaves its connections alone.
func (s *Server) exchange(p *proxy, toxics []toxic) error {
	st := p.now.Load()
	if st.live == nil {
		p.now.Store(st.with(toxics))
		return nil
	}
	p.now.Store(st.with(nil))
	if err := st.live.Clear(); err != nil {
		return err
	}
	for i, t := range toxics {
		if _, err := st.live.Add(t.fault()); err != nil {
			p.now.Store(st.with(toxics[:i]))
			return err
		}
	}
	p.now.Store(st.with(toxics))
	return nil
}

// update changes what b says of p. The name and the toxics of b say nothing: clients send
// back all they know of a proxy to change one thing of it.
func (s *Server) update(p *proxy, b proxyBody) error {
	old := p.now.Load()
	pl := plan{p.name, old.listen, old.upstream, old.live != nil, old.toxics}
	if b.listen != nil && *b.listen != "" {
		pl.listen = *b.listen
	}
	if b.upstream != nil {
		if pl.upstream = *b.upstream; pl.upstream == "" {
			return errMissingUpstream
		}
	}
	var wrong faults
	checkUpstream(pl.upstream, &wrong)
	if err := wrong.err(); err != nil {
		return err
	}
	if b.enabled != nil {
		pl.enabled = *b.enabled
	}
	if pl.upstream == old.upstream && pl.enabled == (old.live != nil) && samePlace(old.listen, pl.listen) {
		return nil
	}
	return s.become(p, pl)
}

// remove closes p for good.
func (s *Server) remove(p *proxy) {
	st := p.now.Load()
	s.stop(p, st)
	p.now.Store(nil)
	s.opts.Logger.Info("proxy deleted", "proxy", p.name, "listen", st.listen, "upstream", st.upstream)
}

// Populate makes proxies of a JSON array of them, the body of POST /populate and the
// format of Toxiproxy's configuration files:
//
//	[{"name": "redis", "listen": "127.0.0.1:26379", "upstream": "127.0.0.1:6379",
//	  "toxics": [{"type": "latency", "attributes": {"latency": 50}}]}]
//
// Listen may be left out, for a free port of the loopback interface; enabled is true
// and toxics are none unless they are given. If anything is wrong with the text, nothing is made. If
// one can't listen, those before it are there and those behind it are not.
func (s *Server) Populate(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("toxiproxy: read the proxies: %w", err)
	}
	if _, err := s.populate(context.Background(), data); err != nil {
		return fmt.Errorf("toxiproxy: %w", err)
	}
	return nil
}

func (s *Server) populate(ctx context.Context, data []byte) (made []view, err error) {
	plans, err := parsePlans(data)
	if err != nil {
		return nil, err
	}
	for i, pl := range plans {
		v, err := s.put(ctx, pl)
		if err != nil {
			return made, fmt.Errorf("proxy %d, %q: %w", i+1, pl.name, err)
		}
		made = append(made, v)
	}
	return made, nil
}

func parsePlans(data []byte) ([]plan, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, badBody("%s, want an array of proxies", excerpt(data))
		}
		return nil, badBody("%v", err)
	}
	var plans []plan
	var wrong faults
	seen := make(map[string]int)
	for i, one := range all {
		b, err := parseProxy(one)
		if err != nil {
			wrong.add("proxy %d: %s", i+1, reason(err))
			continue
		}
		pl, err := b.plan()
		switch {
		case errors.Is(err, errMissingName), errors.Is(err, errMissingUpstream):
			return nil, &failure{fmt.Sprintf("%v at proxy %d", err, i+1), asFailure(err).Status}
		case err != nil:
			wrong.add("proxy %d: %s", i+1, reason(err))
		case seen[pl.name] > 0:
			wrong.add("proxy %d has the name of proxy %d, %q", i+1, seen[pl.name], clip(pl.name))
		}
		seen[pl.name] = i + 1
		plans = append(plans, pl)
	}
	return plans, wrong.err()
}
