package routing

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/signature"
)

// statusClientLeft is what nginx logs when nobody waits for the answer.
const statusClientLeft = 499

// drainLimit is what net/http reads of a body that nobody wants, before it
// closes the connection instead.
const drainLimit = 256 << 10

// newTransport returns the default transport. An edge has few upstreams and
// many requests, the opposite of what http.DefaultTransport is made for.
func newTransport() *http.Transport {
	return &http.Transport{
		// No Proxy: HTTP_PROXY is about the outside world.
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns:        4096,
		MaxIdleConnsPerHost: 1024,
		// Below the 20 s after which Puma closes a connection: a POST that meets
		// the closing is not repeated, and the client gets a 502.
		IdleConnTimeout:       15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Encodings are between the client and the application.
		DisableCompression: true,
	}
}

// A hop is one request on its way.
type hop struct {
	router   *Router
	route    podworks.Route
	upstream *url.URL
	response *http.ResponseController
	body     *body // nil if the request has none
	duplex   bool  // the response has begun before the request ended
}

// proxy forwards a request whose context carries a route.
func (r *Router) proxy(w http.ResponseWriter, req *http.Request) {
	route, ok := podworks.RouteFrom(req.Context())
	if !ok {
		panic("routing: Options.Wrap passed a request on without the route in its context")
	}
	// It may have been held for a while. Send it where its shop is now.
	if now, ok := r.table.Load().shops[route.Shop]; ok && now != route && now.Epoch >= route.Epoch {
		route = now
		req = req.WithContext(podworks.WithRoute(req.Context(), route))
	}

	h := &hop{router: r, route: route, upstream: r.opts.Upstreams[route.Region], response: http.NewResponseController(w)}
	if h.upstream == nil {
		h.fail(w, req, errNoUpstream)
		return
	}

	// ReverseProxy panics when either side breaks off in the middle of a
	// response: the server has to close the connection.
	ended := false
	defer func() {
		if !ended {
			r.aborted.Add(1)
		}
	}()
	p := httputil.ReverseProxy{
		Rewrite:        h.rewrite,
		ModifyResponse: h.modifyResponse,
		ErrorHandler:   h.fail,
		Transport:      r.transport,
		BufferPool:     &r.buffers,
		ErrorLog:       r.errorLog,
	}
	p.ServeHTTP(w, req)
	ended = true
	if h.duplex && !h.body.ended.Load() {
		// Left to itself the server would read the rest after the handler, find
		// its end, and trip over its own feet: golang/go#68560.
		_ = h.response.Flush()
		_, _ = io.CopyN(io.Discard, req.Body, drainLimit)
	}
}

// rewrite makes the request for the application. It runs after ReverseProxy has
// removed the hop-by-hop headers: a client that names our headers in its
// Connection header doesn't remove what is written here.
func (h *hop) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL.Scheme = h.upstream.Scheme
	out.URL.Host = h.upstream.Host
	out.URL.RawQuery = pr.In.URL.RawQuery // as it came: we don't read it, so we can't read it differently
	out.Host = pr.In.Host                 // the application sees the shop's host

	signature.StripPrefix(out.Header, "X-Forwarded-")
	pr.SetXForwarded()

	signature.Strip(out.Header) // again: handlers in between may have added some
	signature.Strip(out.Trailer)
	signature.Sign(out.Header, h.router.opts.Key, h.route, time.Now())

	if out.Body != nil {
		h.body = &body{ReadCloser: out.Body}
		out.Body = h.body
	}
}

// modifyResponse keeps signatures inside: an application that echoes its
// request's headers doesn't give them away.
func (h *hop) modifyResponse(res *http.Response) error {
	signature.Strip(res.Header)
	signature.Strip(res.Trailer)

	// An HTTP/1 server that begins a response before the request has ended reads
	// the rest of the body to throw it away. The application, which may still be
	// reading, would find a hole of 256 KiB in what it gets. (It is left to that
	// when the client waits for 100 Continue and has been told no: there is
	// nothing to read. HTTP/2 has no such habit, and doesn't know the method.)
	if b := h.body; b != nil && !b.ended.Load() && (b.begun.Load() || res.Request.Header.Get("Expect") == "") {
		h.duplex = h.response.EnableFullDuplex() == nil
	}
	return nil
}

// fail answers a request that could not be forwarded. It tells the client what
// kind of failure it was and the hook the rest.
func (h *hop) fail(w http.ResponseWriter, req *http.Request, err error) {
	r := h.router
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	var status int
	var text string
	switch bodyErr := h.body.failed(); {
	case errors.As(bodyErr, &tooLarge):
		status, text = http.StatusRequestEntityTooLarge, fmt.Sprintf("The request's body is larger than %d bytes.", tooLarge.Limit)
		r.aborted.Add(1)
	case bodyErr != nil:
		status, text = http.StatusBadRequest, "The request's body broke off."
		r.aborted.Add(1)
	case errors.Is(req.Context().Err(), context.Canceled):
		status = statusClientLeft
		r.aborted.Add(1)
	case errors.Is(err, errNoUpstream):
		status, text = http.StatusBadGateway, fmt.Sprintf("The shop is served from region %s, and this edge has no upstream for that region. "+
			"Add it to the edge's upstreams.", quote(string(h.route.Region)))
		r.proxyErrors.Add(1)
	case errors.As(err, &timeout) && timeout.Timeout():
		status, text = http.StatusGatewayTimeout, "The application did not answer in time."
		r.proxyErrors.Add(1)
	default:
		status, text = http.StatusBadGateway, "The application could not be reached, or broke off. Try again in a moment."
		r.proxyErrors.Add(1)
	}
	r.opts.Hooks.ProxyFailed(req, status, err)
	answer(w, status, text)
}

// answer sends a line of our own.
func answer(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if text != "" {
		_, _ = io.WriteString(w, text+"\n") // the client may have gone
	}
}

// quote makes s, which a client may have chosen, fit to be shown: short,
// printable ASCII, and nothing that a browser would take for markup.
func quote(s string) string {
	const most = 255 // bytes; of a host name
	cut := ""
	if len(s) > most {
		s, cut = s[:most], "…"
	}
	s = strconv.QuoteToASCII(s)
	return `"` + html.EscapeString(s[1:len(s)-1]) + cut + `"`
}

// A body remembers how far reading it has come, and that it failed: a client that
// broke off its upload and an application that failed look alike to the transport.
type body struct {
	io.ReadCloser
	begun, ended, closed atomic.Bool
	err                  atomic.Pointer[error] // set by the transport's goroutine
}

func (b *body) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case err == io.EOF:
		b.ended.Store(true)
	case !b.closed.Load():
		// Otherwise the transport closed the body of a request that had failed, in
		// the middle of a Read. That is not the client's doing.
		b.err.Store(&err)
	}
	return n, err
}

func (b *body) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

// failed returns what reading ended with, if that was not its end.
func (b *body) failed() error {
	if b == nil {
		return nil
	}
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

// buffers are those that bodies are copied through.
type buffers struct{ pool sync.Pool }

type buffer [32 << 10]byte

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*buffer); ok {
		return p[:]
	}
	return new(buffer)[:]
}

func (b *buffers) Put(p []byte) { b.pool.Put((*buffer)(p)) }
