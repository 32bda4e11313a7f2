// Package routing brings a request to the region where its shop lives.
//
// A platform of many shops has one door and many pods. Somebody has to know, for
// every request, which shop its host names, which pod serves that shop and in
// which region the pod is active, and the application has to be able to believe
// what it is told. A [Router] is that door: it keeps a table of all hosts in
// memory, refreshes it from a [Source] a few times a second, and forwards each
// request with signed headers that say shop, pod and epoch.
//
//	router, err := routing.New(directory, &routing.Options{
//		Key:       key,
//		Upstreams: map[podworks.Region]*url.URL{"us-east1": application},
//	})
//	// …
//	go router.Run(ctx)
//	http.ListenAndServe(":80", router)
//
// It guarantees that no X-Podworks-* header of a client reaches the application
// or the handlers inside the router; that a shop's route never goes back to an
// older epoch and is the same for all its hosts; and that a source that fails
// costs nothing but news: the last good table stays in force.
//
// It does not guarantee that the table is the newest: for as long as a poll takes
// to come round, a request can be sent with the route from before a move. What
// must not happen then is prevented by the write fence in the database, not here.
// It does not retry requests, and takes X-Forwarded-For and -Proto from the
// connection, so it has to be the outermost proxy.
package routing

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/signature"
)

// How long one refresh may take. A poll that hangs would otherwise be the last.
// The first one reads all hosts.
const (
	loadLimit = time.Minute
	pollLimit = 5 * time.Second
)

var (
	errTooLong    = errors.New("the source took too long")
	errNoUpstream = errors.New("routing: no upstream for the region of the route")
)

// Options configure a Router. Key and Upstreams are required.
type Options struct {
	// Key signs the headers: 32 random bytes or more, the same at every edge and
	// in every process of the application.
	Key []byte

	// Upstreams says where the application of each region answers, as
	// http://host or https://host with an optional port. Whatever spreads
	// requests over a region's processes stands behind that address.
	Upstreams map[podworks.Region]*url.URL

	// Poll is the time from one refresh to the next. The default is 250 ms.
	Poll time.Duration

	// Wrap, if set, is put around the proxy: handlers that want to know the shop
	// and may hold or answer a request, such as a waiting line, a pauser or a
	// page cache. They find the route by podworks.RouteFrom, and no header that
	// claims another. A request that was held goes where its shop is when it
	// is passed on, not where it was when it came.
	Wrap func(http.Handler) http.Handler

	// Transport carries the requests. The default keeps up to 1,024 idle
	// connections per region, uses no HTTP proxy, changes no encoding, and gives
	// up on a connection after 2 s and on an answer's head after 60 s.
	Transport http.RoundTripper

	// Logger is told when refreshing begins to fail and when it works again.
	// The default discards.
	Logger *slog.Logger

	Hooks Hooks
}

// Hooks are called while requests are served, by many goroutines at once. They
// must be quick. Any of them may be nil.
type Hooks struct {
	// ProxyFailed is called when a request could not be forwarded and was
	// answered with status instead. The request's context carries its route.
	ProxyFailed func(req *http.Request, status int, err error)
}

// withDefaults returns a copy of o, which may be nil, with its zero fields set.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.Key = bytes.Clone(d.Key)
	d.Upstreams = maps.Clone(d.Upstreams)
	for region, u := range d.Upstreams {
		if u != nil {
			c := *u
			d.Upstreams[region] = &c
		}
	}
	d.Poll = cmp.Or(d.Poll, 250*time.Millisecond)
	d.Logger = cmp.Or(d.Logger, slog.New(slog.DiscardHandler))
	if d.Hooks.ProxyFailed == nil {
		d.Hooks.ProxyFailed = func(*http.Request, int, error) {}
	}
	return d
}

// validate reports every field that is out of range, not only the first.
func (o *Options) validate() error {
	var errs []error
	if len(o.Key) < signature.MinKey {
		errs = append(errs, fmt.Errorf("Key has %d bytes, want %d or more", len(o.Key), signature.MinKey))
	}
	if len(o.Upstreams) == 0 {
		errs = append(errs, errors.New("Upstreams is empty, want an address for each region"))
	}
	for _, region := range slices.Sorted(maps.Keys(o.Upstreams)) {
		u := o.Upstreams[region]
		if u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}) || u.Path != "" && u.Path != "/" {
			errs = append(errs, fmt.Errorf("Upstreams[%q] is %q, want http://host or https://host with an optional port and nothing else", region, text(u)))
		}
	}
	if o.Poll < 0 {
		errs = append(errs, fmt.Errorf("Poll is %v, want a positive duration", o.Poll))
	}
	return errors.Join(errs...)
}

func text(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}

// A Router forwards requests to the region of their shop. It is an http.Handler.
// Call Run next to it, or Refresh whenever there is news.
type Router struct {
	source Source
	opts   Options

	handler   http.Handler // Options.Wrap around proxy
	transport http.RoundTripper
	idle      func() // closes the idle connections of our own transport
	errorLog  *log.Logger
	buffers   buffers

	table      atomic.Pointer[table] // nil before the first refresh
	refreshing chan struct{}         // holds one element while a refresh runs; not a mutex, it is held across I/O

	refreshes, refreshFailures, regressions, stale, malformed atomic.Uint64
	requests, unknownHosts, unloaded, proxyErrors, aborted    atomic.Uint64
}

// New returns a Router whose table comes from source. It starts nothing and
// touches no network: until the first refresh, every request is answered with
// 503 Service Unavailable.
func New(source Source, opts *Options) (*Router, error) {
	o := opts.withDefaults()
	err := o.validate()
	if source == nil {
		err = errors.Join(errors.New("source is nil"), err)
	}
	if err != nil {
		return nil, fmt.Errorf("routing: %w", err)
	}
	r := &Router{
		source:     source,
		opts:       o,
		transport:  o.Transport,
		idle:       func() {},
		errorLog:   slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		refreshing: make(chan struct{}, 1),
	}
	if r.transport == nil {
		t := newTransport()
		r.transport, r.idle = t, t.CloseIdleConnections
	}
	r.handler = http.HandlerFunc(r.proxy)
	if o.Wrap != nil {
		if r.handler = o.Wrap(r.handler); r.handler == nil {
			return nil, errors.New("routing: Wrap returned nil, want a handler")
		}
	}
	return r, nil
}

// Run refreshes the table until ctx ends, and returns the cause of that. A
// refresh that fails leaves the last good table in force; the logger is told
// when that begins and when it ends. One that hangs is given up after 5 s, the
// first after a minute.
//
// Requests are served, from the table as it is, for as long as there are any:
// cancel ctx when the server has been shut down, or before; nothing is dropped.
func (r *Router) Run(ctx context.Context) error {
	defer r.idle()
	tick := time.NewTicker(r.opts.Poll)
	defer tick.Stop()

	failed, began := 0, time.Time{}
	for ctx.Err() == nil {
		err := r.Refresh(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if failed++; failed == 1 {
				began = time.Now()
				s := r.Stats()
				r.opts.Logger.WarnContext(ctx, "the routing table can't be refreshed; the last one stays in force",
					"err", err, "loaded", s.Loaded, "version", s.Version, "hosts", s.Hosts)
			}
		case failed > 0:
			r.opts.Logger.InfoContext(ctx, "the routing table is refreshed again",
				"failed", failed, "after", time.Since(began), "version", r.Stats().Version)
			failed = 0
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return context.Cause(ctx)
}

// Refresh loads what changed since the last refresh. When it returns nil, every
// change that the source knew before the call is in force. It is safe to call at
// any time, next to Run as well: calls wait for one another.
//
// Use Run to keep a table fresh. Refresh is for what can't wait for the next
// poll: the start of a process, news of a move, tests.
func (r *Router) Refresh(ctx context.Context) error {
	select {
	case r.refreshing <- struct{}{}:
		defer func() { <-r.refreshing }()
	case <-ctx.Done():
		return fmt.Errorf("routing: waiting for another refresh: %w", context.Cause(ctx))
	}

	t := r.table.Load()
	since, limit := uint64(0), loadLimit
	if t != nil {
		since, limit = t.version, pollLimit
	}
	hostsCtx, cancel := context.WithTimeoutCause(ctx, limit, errTooLong)
	defer cancel()

	// Nothing is applied before the whole answer is there: half of one could be
	// a host without its shop's route.
	var rows []row
	version, err := r.source.Hosts(hostsCtx, since, func(host string, route podworks.Route) {
		rows = append(rows, row{host, route})
	})
	if err != nil {
		if ctx.Err() == nil {
			r.refreshFailures.Add(1)
			if hostsCtx.Err() != nil {
				err = fmt.Errorf("%w (%v): %w", errTooLong, limit, err)
			}
		}
		return fmt.Errorf("routing: refresh from version %d: %w", since, err)
	}

	next, sum := t.next(version, time.Now(), rows)
	r.table.Store(next)

	r.refreshes.Add(1)
	r.stale.Add(uint64(sum.stale))
	r.malformed.Add(uint64(sum.malformed))
	if version < since {
		r.regressions.Add(1)
	}
	if sum.malformed > 0 {
		// Not an error: refusing the answer for one bad row would keep all other
		// shops from moving.
		r.opts.Logger.WarnContext(ctx, "the source named routes that can't be used; they are ignored",
			"version", version, "count", sum.malformed, "first", sum.err)
	}
	return nil
}

// Lookup returns the route of a host, which may have a port, a trailing dot,
// capital letters, or be an IPv6 address in brackets. It does not allocate
// unless there are capital letters.
func (r *Router) Lookup(host string) (podworks.Route, bool) {
	t := r.table.Load()
	if t == nil {
		return podworks.Route{}, false
	}
	return t.lookup(normalize(host))
}

// ServeHTTP forwards req to the application in the region of its shop. It
// answers itself when it can't:
//
//	404  no shop has this host
//	413  the request's body is larger than a handler around the router allows
//	400  the request's body broke off
//	499  the client went away; nobody reads this, but a log may record it
//	502  the region has no upstream, or its upstream failed
//	503  the table was not loaded yet
//	504  the upstream did not answer in time
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.requests.Add(1)
	t := r.table.Load()
	if t == nil {
		r.unloaded.Add(1)
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusServiceUnavailable, "The routing table is not loaded yet. Try again in a second.")
		return
	}
	route, ok := t.lookup(normalize(req.Host))
	if !ok {
		r.unknownHosts.Add(1)
		answer(w, http.StatusNotFound, fmt.Sprintf("No shop has the host %s. Check the spelling; "+
			"if it is right, give the host to its shop in the directory, and it is served here within %v.", quote(req.Host), r.opts.Poll))
		return
	}
	req = req.WithContext(podworks.WithRoute(req.Context(), route))
	if signature.Present(req.Header) {
		req.Header = req.Header.Clone() // a handler must not change what it was given
		signature.Strip(req.Header)
	}
	r.handler.ServeHTTP(w, req)
}

// Stats are numbers about a Router at one moment.
type Stats struct {
	// The table.
	Loaded  bool          // a refresh has succeeded
	Hosts   int           // hosts that lead to a shop
	Version uint64        // of the source
	Age     time.Duration // since the last refresh that succeeded

	// Refreshes since New.
	Refreshes       uint64 // that succeeded
	RefreshFailures uint64 // that failed
	Regressions     uint64 // in which the source's version went back
	Stale           uint64 // routes refused because a newer epoch was known
	Malformed       uint64 // routes refused because something was missing

	// Requests since New.
	Requests     uint64 // all
	Unloaded     uint64 // that came before the table: 503
	UnknownHosts uint64 // 404
	ProxyErrors  uint64 // that the upstream failed: 502, 504
	Aborted      uint64 // that ended early: the client left, or either side broke off a body
}

// Stats returns the numbers of now.
func (r *Router) Stats() Stats {
	s := Stats{
		Refreshes:       r.refreshes.Load(),
		RefreshFailures: r.refreshFailures.Load(),
		Regressions:     r.regressions.Load(),
		Stale:           r.stale.Load(),
		Malformed:       r.malformed.Load(),
		Requests:        r.requests.Load(),
		Unloaded:        r.unloaded.Load(),
		UnknownHosts:    r.unknownHosts.Load(),
		ProxyErrors:     r.proxyErrors.Load(),
		Aborted:         r.aborted.Load(),
	}
	if t := r.table.Load(); t != nil {
		s.Loaded = true
		s.Hosts = len(t.hosts)
		s.Version = t.version
		s.Age = time.Since(t.at)
	}
	return s
}
