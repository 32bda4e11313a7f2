package peer_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	client "github.com/Shopify/toxiproxy/v2/client"
)

// A session is a test against one server, which it has for itself, by Toxiproxy's own
// client.
type session struct {
	*testing.T
	*client.Client
	url string
}

// newSession starts a server of kind k.
func newSession(t *testing.T, k kind) *session {
	t.Helper()
	h, done, err := apis[k]()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		done()
	})
	return &session{T: t, Client: client.NewClient(s.URL), url: s.URL}
}

var ports atomic.Int64

// port returns a port of 127.0.0.1 that is free, and will be until somebody else asks
// for this very one: it is below those that systems give out by themselves.
func port(t *testing.T) int {
	t.Helper()
	for range 10_000 {
		p := int(20_000 + ports.Add(1)%10_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		l.Close()
		return p
	}
	t.Fatal("there is no free port")
	return 0
}

// nobody is an upstream at which nobody listens.
const nobody = "localhost:1"

// wantUp dials addr, which must succeed or fail.
func (s *session) wantUp(addr string, want bool) {
	s.Helper()
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		conn.Close()
	}
	if up := err == nil; up != want {
		s.Errorf("%s is up: %t (%v), want %t", addr, up, err, want)
	}
}

// ok ends the test at an error.
func (s *session) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// wantError compares the text of an error.
func (s *session) wantError(err error, want string) {
	s.Helper()
	if err == nil || err.Error() != want {
		s.Errorf("error %v, want %s", err, want)
	}
}

// create makes a proxy, at a port of its own, and returns the port too.
func (s *session) create(name string) (*client.Proxy, int) {
	s.Helper()
	at := port(s.T)
	p, err := s.CreateProxy(name, fmt.Sprintf("localhost:%d", at), nobody)
	s.ok(err)
	return p, at
}

// proxies lists the proxies, of which there must be n.
func (s *session) proxies(n int) map[string]*client.Proxy {
	s.Helper()
	all, err := s.Proxies()
	s.ok(err)
	if len(all) != n {
		s.Errorf("there are %d proxies, want %d", len(all), n)
	}
	return all
}

// wantProxy compares what a client sees of a proxy.
func (s *session) wantProxy(p *client.Proxy, name, listen, upstream string, enabled bool) {
	s.Helper()
	if p == nil {
		s.Fatalf("there is no proxy %q", name)
	}
	got := fmt.Sprintf("%s %s %s %t", p.Name, p.Listen, p.Upstream, p.Enabled)
	if want := fmt.Sprintf("%s %s %s %t", name, listen, upstream, enabled); got != want {
		s.Errorf("the proxy is %s, want %s", got, want)
	}
}

// add adds a toxic.
func (s *session) add(p *client.Proxy, name, kind, stream string, toxicity float32, attrs client.Attributes) *client.Toxic {
	s.Helper()
	t, err := p.AddToxic(name, kind, stream, toxicity, attrs)
	s.ok(err)
	return t
}

// describe is a toxic as the tests compare it. Attributes are in order of their names.
func describe(t client.Toxic) string {
	attrs, _ := json.Marshal(t.Attributes)
	return fmt.Sprintf("%s %s %s %v %s", t.Name, t.Type, t.Stream, t.Toxicity, attrs)
}

// wantToxics compares all toxics of a proxy, as a list and as its own.
func (s *session) wantToxics(p *client.Proxy, want ...string) {
	s.Helper()
	listed, err := p.Toxics()
	s.ok(err)
	again, err := s.Proxy(p.Name)
	s.ok(err)
	for _, toxics := range []client.Toxics{listed, again.ActiveToxics} {
		got := make([]string, 0)
		for _, t := range toxics {
			got = append(got, describe(t))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			s.Errorf("the toxics are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
}

// wantToxic compares one that a call returned.
func (s *session) wantToxic(t *client.Toxic, want string) {
	s.Helper()
	if got := describe(*t); got != want {
		s.Errorf("the toxic is %s, want %s", got, want)
	}
}

// A request is one by hand.
type handmade struct {
	method, path, body string
	agent              string // User-Agent, if it matters
}

// do sends it.
func (s *session) do(r handmade) (res *http.Response, body string) {
	s.Helper()
	req, err := http.NewRequest(r.method, s.url+r.path, strings.NewReader(r.body))
	s.ok(err)
	if r.agent != "" {
		req.Header.Set("User-Agent", r.agent)
	}
	res, err = http.DefaultClient.Do(req)
	s.ok(err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	s.ok(err)
	return res, string(data)
}
