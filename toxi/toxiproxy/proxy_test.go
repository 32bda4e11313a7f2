package toxiproxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSamePlace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		old, now string
		want     bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "localhost:80", true},
		{"127.0.0.1:80", "127.0.0.1:http", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"127.0.0.1:80", "127.0.0.1:0", false},
		{"127.0.0.1:80", ":80", false},
		{"[::]:80", ":80", true},
		{"[::]:80", "0.0.0.0:80", true},
		{"[::]:80", ":0", false},
		{"local373", "local373", true},
		{"127.0.0.1:80", "local373", false},
		{"127.0.0.1:80", "", false},
		{"", "", true},
		{"/tmp/s", "/tmp/s", true},
		{"/tmp/s", "unix:/tmp/s", true},
		{"/tmp/s", "/tmp/t", false},
		{"/tmp/s", "127.0.0.1:80", false},
		{"@s", "unix:@s", true},
	} {
		if got := samePlace(tt.old, tt.now); got != tt.want {
			t.Errorf("samePlace(%q, %q) = %t, want %t", tt.old, tt.now, got, tt.want)
		}
	}
}

// newTwo returns a server with the proxies a and b.
func newTwo(t *testing.T) *Server {
	t.Helper()
	s, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Populate(strings.NewReader(`[{"name":"a","upstream":"localhost:9"},{"name":"b","upstream":"localhost:9"}]`)); err != nil {
		t.Fatal(err)
	}
	return s
}

// While one proxy is being changed, which may take as long as looking up a host
// name, everything is answered but other changes of it.
func TestAChangeHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	s := newTwo(t)
	p, _ := s.lookup("a")
	p.turn <- struct{}{}
	// One that is being made does not exist yet.
	made, release, err := s.claim(t.Context(), "c")
	if err != nil || made.now.Load() != nil {
		t.Fatalf("claim of a new name: %v, %v", made, err)
	}
	for _, request := range [][3]string{
		{"GET", "/proxies", ""},
		{"GET", "/metrics", ""},
		{"GET", "/proxies/a", ""},
		{"GET", "/proxies/a/toxics", ""},
		{"PATCH", "/proxies/b", `{"enabled":false}`},
		{"POST", "/proxies", `{"name":"d","upstream":"localhost:9"}`},
		{"DELETE", "/proxies/b", ""},
	} {
		code, body := s.roundTrip(request[0], request[1], request[2])
		if code >= 300 || strings.Contains(body, `"c"`) {
			t.Errorf("%v: %d %s", request, code, body)
		}
	}
	if code, body := s.roundTrip("GET", "/proxies/c", ""); code != 404 {
		t.Errorf("GET of a proxy that is being made: %d %s, want 404", code, body)
	}

	// Who waits may give up.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for path, body := range map[string]string{
		"/proxies":          `{"name":"c","upstream":"localhost:9"}`,
		"/proxies/a":        `{"enabled":false}`,
		"/proxies/a/toxics": `{"type":"noop"}`,
		"/reset":            ``,
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader(body)))
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "another request is at work on the proxy") {
			t.Errorf("POST %s, given up: %d %s, want 503", path, w.Code, w.Body)
		}
	}

	// Who doesn't, gets what is there when its turn has come.
	answer := make(chan int)
	go func() {
		code, _ := s.roundTrip("POST", "/proxies", `{"name":"c","upstream":"localhost:9"}`)
		answer <- code
	}()
	release() // it was none in the end
	if code := <-answer; code != http.StatusCreated {
		t.Errorf("POST of a name that somebody else failed to make: %d, want 201", code)
	}
	<-p.turn
}

func TestASlowRequestHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := newTwo(t)
	r, w := io.Pipe()
	answer := make(chan int)
	go func() {
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequest("POST", "/proxies/a/toxics", r))
		answer <- rec.Code
	}()
	if _, err := io.WriteString(w, `{"type":"latency",`); err != nil { // returns when it was read
		t.Fatal(err)
	}
	if code, body := s.roundTrip("PATCH", "/proxies/a", `{"enabled":false}`); code != 200 {
		t.Errorf("PATCH: %d %s", code, body)
	}
	if _, err := io.WriteString(w, `"toxicity":0.5}`); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if code := <-answer; code != 200 {
		t.Errorf("the slow request: %d, want 200", code)
	}
}
