package toxiproxy

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/podworks/podworks/toxi"
)

// A proxy is a name, and what stands under it. Those who change it take turns; those
// who look at it wait for nobody.
type proxy struct {
	name string

	// turn holds an element while the proxy is being changed. It is not a mutex,
	// because it is held while a port is opened or closed, and a host name looked up.
	turn chan struct{}

	// now is nil until the proxy is made, and after it was deleted. Only those
	// whose turn it is set it.
	now  atomic.Pointer[state]
	gone bool // it is out of Server.proxies; a matter of those whose turn it is
}

// A state is what a proxy is at a time. It never changes.
type state struct {
	listen   string // resolved once it has listened
	upstream string
	toxics   []toxic     // in the order in which they were added
	live     *toxi.Proxy // nil while it is disabled
	past     toxi.Stats  // of the lives before, at this address and to this upstream
}

// wait takes the turn, unless ctx ends before.
func (p *proxy) wait(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stats are the counters of all lives.
func (st *state) stats() toxi.Stats {
	sum := st.past
	if st.live == nil {
		return sum
	}
	now := st.live.Stats()
	sum.Open = now.Open
	sum.Opened += now.Opened
	sum.DialErrors += now.DialErrors
	sum.Upstream.Received += now.Upstream.Received
	sum.Upstream.Sent += now.Upstream.Sent
	sum.Downstream.Received += now.Downstream.Received
	sum.Downstream.Sent += now.Downstream.Sent
	return sum
}

// stopped returns the counters of st after its proxy was closed.
func (st *state) stopped() toxi.Stats {
	sum := st.stats()
	sum.Open = 0
	return sum
}

// listed returns the toxics in the order of the API: those of one direction after those
// of the other, each in the order in which they work.
func (st *state) listed() []toxic {
	out := make([]toxic, 0, len(st.toxics)) // not nil, which JSON writes as null
	for _, want := range []toxi.Stream{toxi.Upstream, toxi.Downstream, toxi.Both} {
		for _, t := range st.toxics {
			if d, _ := direction(t.stream); d == want {
				out = append(out, t)
			}
		}
	}
	return out
}

// A view is a proxy as the API shows it.
type view struct {
	Name     string  `json:"name"`
	Listen   string  `json:"listen"`
	Upstream string  `json:"upstream"`
	Enabled  bool    `json:"enabled"`
	Toxics   []toxic `json:"toxics"`
}

func (p *proxy) view(st *state) view {
	return view{p.name, st.listen, st.upstream, st.live != nil, st.listed()}
}

// A proxyBody is what a client says of a proxy. What it leaves out is nil.
type proxyBody struct {
	name, listen, upstream *string
	enabled                *bool
	toxics                 []toxicBody
}

func parseProxy(data []byte) (proxyBody, error) {
	var b proxyBody
	var wrong faults
	err := object(data, func(name string, value json.RawMessage) {
		switch strings.ToLower(name) {
		case "name":
			b.name = text(name, value, &wrong)
		case "listen":
			b.listen = text(name, value, &wrong)
		case "upstream":
			b.upstream = text(name, value, &wrong)
		case "enabled":
			var enabled bool
			if json.Unmarshal(value, &enabled) != nil {
				wrong.add("enabled is %s, want true or false", excerpt(value))
			}
			b.enabled = &enabled
		case "toxics":
			var all []json.RawMessage
			if json.Unmarshal(value, &all) != nil {
				wrong.add("toxics is %s, want an array", excerpt(value))
				return
			}
			b.toxics = nil
			for i, one := range all {
				t, err := parseToxic(one)
				if err != nil {
					wrong.add("toxics[%d]: %s", i, reason(err))
				}
				b.toxics = append(b.toxics, t)
			}
		case "logger":
			// Toxiproxy writes one, so it is in what was saved from it.
		default:
			wrong.add("a proxy has no field %q, it has name, listen, upstream, enabled, toxics", clip(name))
		}
	})
	if err != nil {
		return b, badBody("%v", err)
	}
	return b, wrong.err()
}

// reason is what err adds to being a bad request body.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), badBody("").Message)
}

// A plan is a proxy to be made.
type plan struct {
	name, listen, upstream string
	enabled                bool
	toxics                 []toxic
}

// plan returns the proxy that b describes.
func (b proxyBody) plan() (plan, error) {
	pl := plan{enabled: b.enabled == nil || *b.enabled}
	if b.name == nil || *b.name == "" {
		return pl, errMissingName
	}
	if b.upstream == nil || *b.upstream == "" {
		return pl, errMissingUpstream
	}
	pl.name, pl.upstream = *b.name, *b.upstream
	if b.listen != nil {
		pl.listen = *b.listen
	}
	var wrong faults
	checkUpstream(pl.upstream, &wrong)
	for i, tb := range b.toxics {
		t, err := tb.make(pl.toxics)
		if err != nil {
			wrong.add("toxics[%d]: %s", i, reason(err))
			continue
		}
		pl.toxics = append(pl.toxics, t)
	}
	return pl, wrong.err()
}

// checkUpstream says what is wrong with an upstream. Toxiproxy finds out when somebody
// connects.
func checkUpstream(addr string, wrong *faults) {
	if isPath(addr) {
		return
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		wrong.add(`upstream is %q, want "host:port" or the path of a unix socket`, clip(addr))
	}
}

// start returns the state of pl at work, or standing by if it is disabled.
func (s *Server) start(pl plan) (*state, error) {
	st := &state{listen: pl.listen, upstream: pl.upstream, toxics: pl.toxics}
	if !pl.enabled {
		return st, nil
	}
	toxics := make([]toxi.Toxic, len(pl.toxics))
	for i, t := range pl.toxics {
		toxics[i] = t.fault()
	}
	live, err := toxi.Listen(pl.upstream, &toxi.Options{
		Toxics: toxics,
		Name:   pl.name,
		Listen: pl.listen,
		Seed:   s.seedOf(pl.name),
		Logger: s.opts.Logger,
	})
	if err != nil {
		return nil, err
	}
	st.live = live
	if !strings.HasPrefix(pl.listen, "unix:") { // what is behind it may look like something else
		st.listen = live.Addr()
	}
	return st, nil
}

// stop closes what st has open.
func (s *Server) stop(p *proxy, st *state) {
	if st == nil || st.live == nil {
		return
	}
	if err := st.live.Close(); err != nil {
		s.opts.Logger.Warn("closing a proxy failed", "proxy", p.name, "listen", st.listen, "error", err)
	}
}

// become makes p what pl says. When it can't be, p stays what it was: where that needs
// no port that the old one has, the new one is opened before the old is closed.
func (s *Server) become(p *proxy, pl plan) error {
	old := p.now.Load()
	at := samePlace(old.listen, pl.listen)
	if at {
		pl.listen = old.listen
	}
	if old.live == nil || !pl.enabled {
		st, err := s.start(pl)
		if err != nil {
			return err
		}
		s.stop(p, old)
		s.replace(p, old, st)
		return nil
	}

	if !at {
		st, err := s.start(pl)
		if err == nil {
			s.stop(p, old)
			s.replace(p, old, st)
			return nil
		}
		// From 127.0.0.1:80 to 0.0.0.0:80 we stand in our own way.
		if !errors.Is(err, syscall.EADDRINUSE) || portOf(old.listen) != portOf(pl.listen) {
			return err
		}
	}
	s.stop(p, old)
	st, err := s.start(pl)
	if err == nil {
		s.replace(p, old, st)
		return nil
	}
	back, again := s.start(plan{p.name, old.listen, old.upstream, true, old.toxics})
	if again != nil {
		// Somebody took the port in between. It is disabled now, and says so.
		back = &state{listen: old.listen, upstream: old.upstream, toxics: old.toxics}
	}
	s.replace(p, old, back)
	return errors.Join(err, again)
}

// replace makes st what p is, with the counters of old if they are of the same place.
func (s *Server) replace(p *proxy, old, st *state) {
	if old.listen == st.listen && old.upstream == st.upstream {
		st.past = old.stopped()
	}
	p.now.Store(st)
	s.opts.Logger.Info("proxy changed", "proxy", p.name, "listen", st.listen, "upstream", st.upstream, "enabled", st.live != nil)
}

// with returns a copy of st that has other toxics.
func (st *state) with(toxics []toxic) *state {
	n := *st
	n.toxics = toxics
	return &n
}

func (s *Server) addToxic(p *proxy, b toxicBody) (toxic, error) {
	st := p.now.Load()
	t, err := b.make(st.toxics)
	if err != nil {
		return t, err
	}
	if st.live != nil {
		if _, err := st.live.Add(t.fault()); err != nil {
			_ = st.live.Remove(t.name) // it may be there, and something else have failed
			return t, err
		}
	}
	p.now.Store(st.with(append(slices.Clip(st.toxics), t)))
	return t, nil
}

func (s *Server) updateToxic(p *proxy, name string, b toxicBody) (toxic, error) {
	st := p.now.Load()
	i := find(st.toxics, name)
	if i < 0 {
		return toxic{}, errToxicNotFound
	}
	t, err := b.update(st.toxics[i])
	if err != nil {
		return t, err
	}
	if st.live != nil {
		if err := st.live.Update(name, t.fault()); err != nil {
			_ = st.live.Update(name, st.toxics[i].fault())
			return t, err
		}
	}
	toxics := slices.Clone(st.toxics)
	toxics[i] = t
	p.now.Store(st.with(toxics))
	return t, nil
}

func (s *Server) removeToxic(p *proxy, name string) error {
	st := p.now.Load()
	i := find(st.toxics, name)
	if i < 0 {
		return errToxicNotFound
	}
	p.now.Store(st.with(slices.Delete(slices.Clone(st.toxics), i, i+1)))
	if st.live == nil {
		return nil
	}
	return st.live.Remove(name) // it is gone, even if the proxy can't listen again
}

// reset takes all toxics from p and enables it.
func (s *Server) reset(p *proxy) error {
	st := p.now.Load()
	if st.live == nil {
		return s.become(p, plan{p.name, st.listen, st.upstream, true, nil})
	}
	if len(st.toxics) == 0 {
		return nil
	}
	p.now.Store(st.with(nil))
	return st.live.Clear()
}

// samePlace reports whether listening at old and at now would be the same. The old one
// is resolved if it ever was listened at.
func samePlace(old, now string) bool {
	if old == now {
		return true
	}
	if isPath(old) || isPath(now) {
		return strings.TrimPrefix(old, "unix:") == strings.TrimPrefix(now, "unix:")
	}
	a, errA := net.ResolveTCPAddr("tcp", old)
	b, errB := net.ResolveTCPAddr("tcp", now)
	if errA != nil || errB != nil || a.Port != b.Port {
		return false
	}
	everywhere := func(a *net.TCPAddr) bool { return len(a.IP) == 0 || a.IP.IsUnspecified() }
	return a.IP.Equal(b.IP) && a.Zone == b.Zone || everywhere(a) && everywhere(b)
}

// isPath reports whether toxi takes addr for a unix socket.
func isPath(addr string) bool {
	return strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "@") || strings.HasPrefix(addr, "unix:")
}

// portOf returns the port of an address, "" if it has none.
func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return port
}
