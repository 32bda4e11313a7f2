package toxiproxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// bodyLimit is the most that a request may say: some ten thousand proxies.
const bodyLimit = 4 << 20

// A call is a request that has found its handler.
type call struct {
	ctx   context.Context
	proxy string
	toxic string
	body  []byte
}

// A reply is what is answered.
type reply struct {
	status int
	body   any    // written as JSON, unless it is a []byte or nil
	kind   string // the Content-Type, JSON's if empty
}

// A resource is a path of the API: what may be done with it.
type resource map[string]func(*Server, *call) (reply, error)

// anyMethod is the method of a resource that doesn't mind.
const anyMethod = "*"

var (
	versionPath = resource{"GET": (*Server).getVersion}
	proxiesPath = resource{"GET": (*Server).listProxies, "POST": (*Server).createProxy}
	proxyPath   = resource{"GET": (*Server).getProxy, "POST": (*Server).updateProxy, "PATCH": (*Server).updateProxy, "DELETE": (*Server).deleteProxy}
	toxicsPath  = resource{"GET": (*Server).listToxics, "POST": (*Server).createToxic}
	toxicPath   = resource{"GET": (*Server).getToxic, "POST": (*Server).changeToxic, "PATCH": (*Server).changeToxic, "DELETE": (*Server).deleteToxic}

	// singles are the paths without names in them.
	singles = map[string]resource{
		"/version":  versionPath,
		"/proxies":  proxiesPath,
		"/populate": {"POST": (*Server).populateProxies},
		"/reset":    {"POST": (*Server).resetAll},
		"/metrics":  {anyMethod: (*Server).metrics},
	}
)

// ServeHTTP answers one request of the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Toxiproxy-Request-Id", rand.Text())
	if strings.HasPrefix(r.UserAgent(), "Mozilla/") {
		http.Error(w, "User agent not allowed", http.StatusForbidden)
		return
	}
	if fromPage(r) {
		http.Error(w, "Pages are not allowed", http.StatusForbidden)
		return
	}
	res, c := s.route(r)
	if res == nil {
		http.NotFound(w, r)
		return
	}
	handle := res[r.Method]
	if handle == nil {
		handle = res[anyMethod]
	}
	if handle == nil {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(res)), ", "))
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	rep, err := s.answer(handle, w, r, c)
	if err != nil {
		f := asFailure(err)
		if rep.body == nil {
			rep.body = f
		}
		rep.status = f.Status
	}
	rep.write(w)
}

// fromPage reports whether a browser sends r on behalf of a page, which may have
// come from anywhere: by another name of this address (DNS rebinding), or with a
// User-Agent of its own choice. Only browsers send these headers, and pages can't
// keep them from it. Sec-Fetch-Mode is none of them: Node.js sends it.
func fromPage(r *http.Request) bool {
	return r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
}

// answer reads the body and calls handle.
func (s *Server) answer(handle func(*Server, *call) (reply, error), w http.ResponseWriter, r *http.Request, c *call) (reply, error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return reply{}, errClosed
	}
	// Whole, before anything waits for its turn: a client that sends slowly is slow alone.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			f := badBody("it is larger than %d bytes", large.Limit)
			f.Status = http.StatusRequestEntityTooLarge
			return reply{}, f
		}
		return reply{}, badBody("%v", err)
	}
	c.ctx, c.body = r.Context(), body
	return handle(s, c)
}

func (r reply) write(w http.ResponseWriter) {
	if r.body == nil {
		w.WriteHeader(r.status)
		return
	}
	body, ok := r.body.([]byte)
	if !ok {
		body = encode(r.body)
	}
	if r.kind == "" {
		r.kind = "application/json"
	}
	w.Header().Set("Content-Type", r.kind)
	w.WriteHeader(r.status)
	_, _ = w.Write(body) // the client has gone, and nobody is left to tell
}

// encode writes values of this package as JSON. They all can be.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("toxiproxy: " + err.Error())
	}
	return data
}

// route finds the resource that r is about. It is nil if there is none.
func (s *Server) route(r *http.Request) (resource, *call) {
	path := r.URL.EscapedPath()
	if res := singles[path]; res != nil {
		return res, new(call)
	}
	rest, ok := strings.CutPrefix(path, "/proxies/")
	if !ok {
		return nil, nil
	}
	parts := strings.Split(rest, "/")
	ways := readings(parts)
	for _, way := range ways {
		if _, ok := s.lookup(way.proxy); ok {
			return way.resource, &call{proxy: way.proxy, toxic: s.toxicName(way)}
		}
	}
	// There is no such proxy. What is asked of it can be told as long as names have no
	// slashes of their own.
	if plain := len(parts) <= 3 && !slices.Contains(parts, "") && (len(parts) == 1 || parts[1] == "toxics"); plain {
		return ways[0].resource, &call{proxy: ways[0].proxy, toxic: ways[0].toxic}
	}
	return nil, nil
}

// A reading is one way to understand a path below /proxies/.
type reading struct {
	resource
	proxy, toxic string
	rawToxic     string // as it came
}

// readings returns the ways to understand a path, the likeliest first. There are
// several because clients put names into paths as they are: a name may have slashes in
// it, one of them before "toxics", and what looks like an escape may be its text.
func readings(parts []string) []reading {
	var plain, raw []reading
	add := func(res resource, proxy, toxic []string) {
		p, t := strings.Join(proxy, "/"), strings.Join(toxic, "/")
		up, errP := url.PathUnescape(p)
		ut, errT := url.PathUnescape(t)
		if errP != nil || errT != nil {
			up, ut = p, t
		}
		plain = append(plain, reading{res, up, ut, t})
		if up != p {
			raw = append(raw, reading{res, p, ut, t})
		}
	}
	if len(parts) == 1 {
		add(proxyPath, parts, nil)
	}
	for i := 1; i < len(parts); i++ {
		switch {
		case parts[i] != "toxics":
		case i == len(parts)-1:
			add(toxicsPath, parts[:i], nil)
		case i < len(parts)-2 || parts[i+1] != "":
			add(toxicPath, parts[:i], parts[i+1:])
		}
	}
	if len(parts) > 1 {
		add(proxyPath, parts, nil)
	}
	return append(plain, raw...)
}

// toxicName returns the name of a toxic in a path: as it came, if there is one of that
// name and none of what it is without escapes.
func (s *Server) toxicName(way reading) string {
	if p, ok := s.lookup(way.proxy); ok && way.toxic != way.rawToxic {
		if st := p.now.Load(); st != nil && find(st.toxics, way.toxic) < 0 && find(st.toxics, way.rawToxic) >= 0 {
			return way.rawToxic
		}
	}
	return way.toxic
}

func (s *Server) getVersion(*call) (reply, error) {
	// With the space: somebody compares it with Toxiproxy's.
	var b bytes.Buffer
	b.WriteString(`{"version": `)
	b.Write(encode(s.opts.Version))
	b.WriteString("}\n")
	return reply{http.StatusOK, b.Bytes(), "application/json;charset=utf-8"}, nil
}

func (s *Server) listProxies(*call) (reply, error) {
	views := make(map[string]view)
	for _, p := range s.all() {
		if st := p.now.Load(); st != nil {
			views[p.name] = p.view(st)
		}
	}
	return reply{status: http.StatusOK, body: views}, nil
}

func (s *Server) createProxy(c *call) (reply, error) {
	b, err := parseProxy(c.body)
	if err != nil {
		return reply{}, err
	}
	pl, err := b.plan()
	if err != nil {
		return reply{}, err
	}
	v, err := s.create(c.ctx, pl)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusCreated, body: v}, nil
}

// look returns what a proxy is now.
func (s *Server) look(c *call) (*proxy, *state, error) {
	if p, ok := s.lookup(c.proxy); ok {
		if st := p.now.Load(); st != nil {
			return p, st, nil
		}
	}
	return nil, nil, errProxyNotFound
}

// change calls do with a proxy whose turn it is.
func (s *Server) change(c *call, do func(p *proxy) error) (*proxy, error) {
	p, ok := s.lookup(c.proxy)
	if !ok {
		return nil, errProxyNotFound
	}
	release, err := s.take(c.ctx, p)
	if err != nil {
		return nil, err
	}
	defer release()
	return p, do(p)
}

func (s *Server) getProxy(c *call) (reply, error) {
	p, st, err := s.look(c)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: p.view(st)}, nil
}

func (s *Server) updateProxy(c *call) (reply, error) {
	var v view
	_, err := s.change(c, func(p *proxy) error {
		b, err := parseProxy(c.body)
		if err != nil {
			return err
		}
		if err := s.update(p, b); err != nil {
			return err
		}
		v = p.view(p.now.Load())
		return nil
	})
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: v}, nil
}

func (s *Server) deleteProxy(c *call) (reply, error) {
	_, err := s.change(c, func(p *proxy) error {
		s.remove(p)
		return nil
	})
	return reply{status: http.StatusNoContent}, err
}

func (s *Server) listToxics(c *call) (reply, error) {
	_, st, err := s.look(c)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: st.listed()}, nil
}

func (s *Server) createToxic(c *call) (reply, error) {
	var t toxic
	_, err := s.change(c, func(p *proxy) error {
		b, err := parseToxic(c.body)
		if err != nil {
			return err
		}
		t, err = s.addToxic(p, b)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: t}, nil
}

func (s *Server) getToxic(c *call) (reply, error) {
	_, st, err := s.look(c)
	if err != nil {
		return reply{}, err
	}
	i := find(st.toxics, c.toxic)
	if i < 0 {
		return reply{}, errToxicNotFound
	}
	return reply{status: http.StatusOK, body: st.toxics[i]}, nil
}

func (s *Server) changeToxic(c *call) (reply, error) {
	var t toxic
	_, err := s.change(c, func(p *proxy) error {
		if find(p.now.Load().toxics, c.toxic) < 0 {
			return errToxicNotFound // before what is wrong with the body
		}
		b, err := parseToxic(c.body)
		if err != nil {
			return err
		}
		t, err = s.updateToxic(p, c.toxic, b)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: t}, nil
}

func (s *Server) deleteToxic(c *call) (reply, error) {
	_, err := s.change(c, func(p *proxy) error { return s.removeToxic(p, c.toxic) })
	return reply{status: http.StatusNoContent}, err
}

func (s *Server) populateProxies(c *call) (reply, error) {
	made, err := s.populate(c.ctx, c.body)
	if made == nil {
		made = []view{}
	}
	if err != nil {
		return reply{body: struct {
			*failure
			Proxies []view `json:"proxies"`
		}{asFailure(err), made}}, err
	}
	return reply{status: http.StatusCreated, body: map[string][]view{"proxies": made}}, nil
}

// resetAll goes on when one proxy can't be enabled: the others are as good as new.
func (s *Server) resetAll(c *call) (reply, error) {
	var errs []error
	for _, p := range s.all() {
		release, err := s.take(c.ctx, p)
		if errors.Is(err, errProxyNotFound) {
			continue
		}
		if err != nil {
			return reply{}, err
		}
		if err := s.reset(p); err != nil {
			errs = append(errs, err)
		}
		release()
	}
	if len(errs) > 0 {
		f := *asFailure(errs[0])
		for _, err := range errs[1:] {
			f.Message += "; " + asFailure(err).Message
		}
		return reply{}, &f
	}
	return reply{status: http.StatusNoContent}, nil
}
