package toxiproxy_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/podworks/podworks/toxi/toxiproxy"
)

// newServer returns a server that is closed at the end of the test.
func newServer(t testing.TB, opts *toxiproxy.Options) *toxiproxy.Server {
	t.Helper()
	s, err := toxiproxy.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// do sends a request, without a network.
func do(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("User-Agent", "toxiproxy-cli")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// must sends a request that has to succeed, and returns the body.
func must(t testing.TB, h http.Handler, method, path, body string) string {
	t.Helper()
	w := do(h, method, path, body)
	if w.Code >= 300 {
		t.Fatalf("%s %s %s: %d %s", method, path, body, w.Code, w.Body)
	}
	return w.Body.String()
}

var listenPattern = regexp.MustCompile(`"listen":"([^"]*)"`)

// listenOf returns the address in a proxy's JSON.
func listenOf(t testing.TB, body string) string {
	t.Helper()
	m := listenPattern.FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no listen in %s", body)
	}
	return m[1]
}

// newUpstream starts a server that handles each connection by serve and closes it then.
func newUpstream(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	conns := make(chan net.Conn, 1024)
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-ended
		close(conns)
		for c := range conns {
			c.Close()
		}
	})
	return ln.Addr().String()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// hello says who it is.
func hello(name string) func(net.Conn) {
	return func(c net.Conn) { _, _ = io.WriteString(c, name) }
}

// isUp reports whether somebody listens.
func isUp(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// dial connects, for as long as the test runs.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a message over a connection to echo and waits for it to come back.
func ask(t testing.TB, c net.Conn, message string) {
	t.Helper()
	if _, err := io.WriteString(c, message); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != message {
		t.Fatalf("the echo of %q is %q, %v", message, got, err)
	}
}

// failure is the body of an error.
type failure struct {
	Error  string
	Status int
}

func failureOf(t testing.TB, w *httptest.ResponseRecorder) (f failure) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("%d with the body %q, want an error: %v", w.Code, w.Body, err)
	}
	return f
}

func escape(name string) string { return url.PathEscape(name) }
