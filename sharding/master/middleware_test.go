package master_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

var key = bytes.Repeat([]byte("k"), 32)

// A client keeps cookies like a browser.
type client struct {
	t       *testing.T
	handler http.Handler
	cookie  *http.Cookie
}

func (c *client) get(path string) *http.Response {
	c.t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	if c.cookie != nil {
		r.AddCookie(c.cookie)
	}
	rec := httptest.NewRecorder()
	c.handler.ServeHTTP(rec, r)
	res := rec.Result()
	for _, cookie := range res.Cookies() {
		c.cookie = cookie
	}
	return res
}

func wrap(t testing.TB, m *master.Master, key []byte, h http.HandlerFunc) http.Handler {
	t.Helper()
	mw, err := m.Middleware(key)
	if err != nil {
		t.Fatal(err)
	}
	return mw(h)
}

// A user's next request, to another process, reads what the first one wrote.
func TestMiddlewareCarriesTheSessionToTheNextRequest(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, fragileServers(t, f), &master.Options{Wait: time.Minute}, nil)
		w.stopReplica()
		other := w.newMaster(&master.Options{Wait: time.Minute})
		app := func(m *master.Master) http.Handler {
			return wrap(t, m, key, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/write" {
					if err := put(r.Context(), m, 1); err != nil {
						t.Error(err)
					}
					return
				}
				s, err := see(r.Context(), m)
				fmt.Fprintln(rw, s.things, s.server == w.pair.replica.ServerID(), err)
			})
		}
		c := &client{t: t, handler: app(w.Master)}
		if c.get("/"); c.cookie != nil {
			t.Errorf("a request that wrote nothing set the cookie %v", c.cookie)
		}
		c.get("/write")
		if c.cookie == nil {
			t.Fatal("a request that wrote set no cookie")
		}
		if c := c.cookie; c.Name != master.CookieName || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge != int(master.CookieAge/time.Second) {
			t.Errorf("the cookie is %v", c)
		}
		c.handler = app(other)
		body := make(chan string, 1)
		go func() {
			b, _ := io.ReadAll(c.get("/").Body)
			body <- string(b)
		}()
		w.awaitWaiter()
		w.startReplica()
		if got := <-body; got != "1 true <nil>\n" {
			t.Errorf("the next request saw %q, want its one thing, on the replica", got)
		}
	})
}

func TestCookiesThatAreNotOursAreIgnored(t *testing.T) {
	t.Parallel()
	now := time.Now()
	seal := func(key []byte, token string, now time.Time) string {
		value, err := master.Seal(key, token, now)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	good := seal(key, "0-1-5", now)
	m := newAway(t)
	for _, tt := range []struct{ name, value, want string }{
		{"ours", good, "0-1-5"},
		{"ours, of a write that can't be named", seal(key, "primary", now), "primary"},
		{"ours, of a clock that is ahead", seal(key, "0-1-5", now.Add(time.Minute)), "0-1-5"},
		{"ours, too old", seal(key, "0-1-5", now.Add(-master.CookieAge-2*time.Second)), ""},
		{"of the far future", seal(key, "0-1-5", now.Add(time.Hour)), ""},
		{"of another key", seal(bytes.Repeat([]byte("x"), 32), "0-1-5", now), ""},
		{"the token itself", "0-1-5", ""},
		{"that of a write that can't be named", "primary", ""},
		{"cut", good[:len(good)-2], ""},
		{"changed", "A" + good[1:], ""},
		{"empty", "", ""},
		{"huge", strings.Repeat("A", 1<<16), ""},
	} {
		got := "no session"
		h := wrap(t, m, key, func(_ http.ResponseWriter, r *http.Request) { got = m.Token(r.Context()) })
		c := &client{t: t, handler: h, cookie: &http.Cookie{Name: master.CookieName, Value: tt.value}}
		if res := c.get("/"); got != tt.want || len(res.Cookies()) != 0 {
			t.Errorf("%s: the session's token is %q and the response's cookies %v, want %q and none", tt.name, got, res.Cookies(), tt.want)
		}
	}
	if value := seal(key, strings.Repeat("0", master.MaxToken), now); len(value) > 4000 {
		t.Errorf("a cookie can have %d bytes, more than browsers keep", len(value))
	}
	if _, err := m.Middleware(key[1:]); err == nil || !strings.Contains(err.Error(), "master: key has 31 bytes, want 32 or more") {
		t.Errorf("a short key: got %v", err)
	}
}

func FuzzOpenCookie(f *testing.F) {
	good, err := master.Seal(key, "0-1-5", time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if token, ok := master.Open(key, value, time.Unix(1e9, 0)); ok && token != "0-1-5" {
			t.Errorf("%q was opened as %q, which nobody has sealed", value, token)
		}
	})
}

// The cookie goes out with the header, however the handler sends that.
func TestTheCookieGoesOutWithTheHeader(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		id := 0
		write := func(ctx context.Context) {
			id++
			if err := put(ctx, w.Master, id); err != nil {
				t.Error(err)
			}
		}
		for name, tt := range map[string]struct {
			handler http.HandlerFunc
			cookie  bool
			status  int
		}{
			"nothing sent": {func(rw http.ResponseWriter, r *http.Request) { write(r.Context()) }, true, 200},
			"body":         {func(rw http.ResponseWriter, r *http.Request) { write(r.Context()); io.WriteString(rw, "x") }, true, 200},
			"redirect": {func(rw http.ResponseWriter, r *http.Request) {
				write(r.Context())
				http.Redirect(rw, r, "/", http.StatusSeeOther)
			}, true, http.StatusSeeOther},
			"early hints": {func(rw http.ResponseWriter, r *http.Request) {
				rw.WriteHeader(http.StatusEarlyHints)
				write(r.Context())
				rw.WriteHeader(201)
			}, true, 201},
			"flushed": {func(rw http.ResponseWriter, r *http.Request) {
				write(r.Context())
				rw.(http.Flusher).Flush()
			}, true, 200},
			"flushed by controller": {func(rw http.ResponseWriter, r *http.Request) {
				write(r.Context())
				if err := http.NewResponseController(rw).Flush(); err != nil {
					t.Error(err)
				}
			}, true, 200},
			"too late": {func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(200); write(r.Context()) }, false, 200},
			"hijacked": {func(rw http.ResponseWriter, r *http.Request) {
				var c net.Conn
				c, _, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				b := bufio.NewWriter(c)
				fmt.Fprint(b, "HTTP/1.1 204 No Content\r\n\r\n")
				b.Flush()
				c.Close()
			}, false, 204},
		} {
			server := httptest.NewServer(wrap(t, w.Master, key, tt.handler))
			res, err := http.DefaultTransport.RoundTrip(httptest.NewRequest("GET", server.URL, nil))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				res.Body.Close()
				if got := len(res.Cookies()) == 1; got != tt.cookie || res.StatusCode != tt.status {
					t.Errorf("%s: status %d, cookie %t; want %d, %t", name, res.StatusCode, got, tt.status, tt.cookie)
				}
			}
			server.Close()
		}
	})
}
