package routing_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/signature"
	"github.com/podworks/podworks/routing"
)

// A bundle is an edge in front of an application, both real servers, with
// a.example leading to routeA.
type bundle struct {
	source *memory
	router *routing.Router
	edge   *httptest.Server
	client *http.Client
}

func setup(t testing.TB, app http.HandlerFunc, change func(*routing.Options)) *bundle {
	t.Helper()
	application := httptest.NewServer(app)
	t.Cleanup(application.Close)
	opts := options(application.URL)
	if change != nil {
		change(opts)
	}
	b := &bundle{source: new(memory)}
	b.source.set("a.example", routeA)
	b.router = newRouter(t, b.source, opts)
	refresh(t, b.router)
	b.edge = httptest.NewServer(b.router)
	t.Cleanup(func() {
		b.edge.Close()
		// Run closes the router's idle connections when it returns.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = b.router.Run(ctx)
	})
	b.client = b.edge.Client()
	return b
}

// get sends a request for a.example, with header lines as "Name: value".
func (b *bundle) get(t testing.TB, path string, lines ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", b.edge.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "a.example"
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header[name] = append(req.Header[name], value)
	}
	return b.do(t, req)
}

func (b *bundle) do(t testing.TB, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", req.URL, err)
	}
	return res, string(body)
}

func expect(t testing.TB, res *http.Response, body string, status int, text string) {
	t.Helper()
	if res.StatusCode != status || !strings.Contains(body, text) {
		t.Errorf("got %d with %q, want %d with %q in it", res.StatusCode, body, status, text)
	}
}

func TestSpoofedHeadersNeverReachTheApplication(t *testing.T) {
	t.Parallel()
	seen := make(chan http.Header, 1)
	b := setup(t, func(w http.ResponseWriter, req *http.Request) { seen <- req.Header }, nil)

	// Genuine in form, of a shop the client may not have.
	stolen := make(http.Header)
	signature.Sign(stolen, key, podworks.Route{Shop: 666, Pod: 6, Epoch: 6}, time.Now())

	tests := map[string][]string{
		"none":          nil,
		"a shop":        {"X-Podworks-Shop: 666"},
		"two shops":     {"X-Podworks-Shop: 1", "X-Podworks-Shop: 666"},
		"small letters": {"x-podworks-shop: 666", "x-podworks-epoch: 666"},
		"underscores":   {"X_Podworks_Shop: 666", "x-podworks_pod: 666"},
		"a signature": {
			"X-Podworks-Shop: 666", "X-Podworks-Pod: 6", "X-Podworks-Epoch: 6",
			"X-Podworks-Signature: " + stolen.Get(podworks.HeaderSignature)},
		"a name of tomorrow":              {"X-Podworks-Tomorrow: 666"},
		"ours as hop-by-hop headers":      {"Connection: X-Podworks-Shop, X-Podworks-Signature, close"},
		"spoofed and as hop-by-hop":       {"Connection: X-Podworks-Pod", "X-Podworks-Pod: 666"},
		"one of ours declared as trailer": {"Trailer: X-Podworks-Shop"},
	}
	for name, lines := range tests {
		t.Run(name, func(t *testing.T) { // one after the other: they share seen
			b.get(t, "/", lines...)
			h := <-seen
			got, err := signature.Verify(h, key, time.Now())
			want := routeA
			want.Region = ""
			if err != nil || got != want {
				t.Errorf("the application verified %+v, %v; want %+v", got, err, want)
			}
			ours := 0
			for name, values := range h {
				if strings.HasPrefix(strings.ReplaceAll(strings.ToLower(name), "_", "-"), "x-podworks-") {
					ours++
				}
				if strings.Contains(strings.Join(values, " "), "666") {
					t.Errorf("the application got %s: %q", name, values)
				}
			}
			if ours != 4 {
				t.Errorf("the application got %d headers of ours, want 4: %v", ours, h)
			}
		})
	}
}

func TestTheApplicationSeesTheShopsHostAndWhoAsks(t *testing.T) {
	t.Parallel()
	seen := make(chan *http.Request, 1)
	b := setup(t, func(w http.ResponseWriter, req *http.Request) { seen <- req }, nil)

	req, err := http.NewRequestWithContext(t.Context(), "GET", b.edge.URL+"/a%2Fb/../c?x=1;y=%zz&&z", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "" // leave the path as it is
	req.Host = "A.Example:8080"
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X_forwarded_ssl", "Forwarded"} {
		req.Header[name] = []string{"spoofed"}
	}
	b.do(t, req)
	got := <-seen
	if got.Host != "A.Example:8080" {
		t.Errorf("Host is %q, want it as the client sent it", got.Host)
	}
	if want := "/a%2Fb/../c?x=1;y=%zz&&z"; got.RequestURI != want {
		t.Errorf("the target is %q, want %q as it came", got.RequestURI, want)
	}
	for name, want := range map[string]string{
		"X-Forwarded-For":   "127.0.0.1",
		"X-Forwarded-Host":  "A.Example:8080",
		"X-Forwarded-Proto": "http",
		"X-Forwarded-Port":  "",
		"X_forwarded_ssl":   "",
		"Forwarded":         "",
	} {
		if have := strings.Join(got.Header[name], ", "); have != want {
			t.Errorf("%s is %q, want %q", name, have, want)
		}
	}
}

func TestAResponseCarriesNoHeadersOfOurs(t *testing.T) {
	t.Parallel()
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		maps.Copy(w.Header(), req.Header) // an application that echoes
		w.Header().Set("X-Other", "1")
	}, nil)
	res, _ := b.get(t, "/")
	for name := range res.Header {
		if strings.HasPrefix(name, "X-Podworks-") {
			t.Errorf("the client got %s", name)
		}
	}
	if res.Header.Get("X-Other") == "" {
		t.Errorf("the client got %v, want X-Other too", res.Header)
	}
}

func TestAnUnknownHostIsNamedSafely(t *testing.T) {
	t.Parallel()
	r := newRouter(t, new(memory), options("http://127.0.0.1:1"))
	refresh(t, r)
	for host, want := range map[string]string{
		"nobody.example:8080":         `No shop has the host "nobody.example:8080". Check the spelling`,
		"<script>alert('x')</script>": `"&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"`,
		"a\r\nSet-Cookie: b\x1b[2J\"": `"a\r\nSet-Cookie: b\x1b[2J\&#34;"`,
		"münchen.example":             `"m\u00fcnchen.example"`,
		"":                            `No shop has the host "".`,
		strings.Repeat("a", 300):      `"` + strings.Repeat("a", 255) + `…"`,
	} {
		w := serve(r, host)
		if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), want) || !strings.Contains(w.Body.String(), "served here within 250ms") {
			t.Errorf("host %q: %d with %q, want 404 with %q, and what to do", host, w.Code, w.Body, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("host %q: %s is %q, want %q", host, name, got, want)
			}
		}
	}
	if got := r.Stats().UnknownHosts; got != 6 {
		t.Errorf("Stats().UnknownHosts = %d, want 6", got)
	}
}

func TestARequestGoesToTheRegionOfItsShop(t *testing.T) {
	t.Parallel()
	west := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, "west") }))
	t.Cleanup(west.Close)
	b := setup(t, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, "east") }, func(o *routing.Options) {
		u, err := url.Parse(west.URL)
		if err != nil {
			t.Fatal(err)
		}
		o.Upstreams["west"] = u
	})
	res, body := b.get(t, "/")
	expect(t, res, body, 200, "east")

	failedOver := routeA
	failedOver.Region = "west"
	b.source.set("a.example", failedOver)
	refresh(t, b.router)
	res, body = b.get(t, "/")
	expect(t, res, body, 200, "west")
}

func TestFailuresSayWhatKindTheyAreAndNoMore(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()

	tests := map[string]struct {
		app    http.HandlerFunc
		change func(*routing.Options)
		region podworks.Region
		status int
		text   string
	}{
		"no upstream for the region": {
			region: "<mars>",
			status: 502, text: `The shop is served from region "&lt;mars&gt;", and this edge has no upstream for that region.`},
		"nobody listens": {
			change: func(o *routing.Options) { o.Upstreams["east"] = &url.URL{Scheme: "http", Host: closed.Addr().String()} },
			status: 502, text: "The application could not be reached, or broke off."},
		"the connection breaks before the answer": {
			app:    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			status: 502, text: "The application could not be reached, or broke off."},
		"no answer in time": {
			app:    func(w http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
			change: func(o *routing.Options) { o.Transport = &http.Transport{ResponseHeaderTimeout: time.Millisecond} },
			status: 504, text: "The application did not answer in time."},
		"a handler around the proxy sets a deadline": {
			app: func(w http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
			change: func(o *routing.Options) {
				o.Wrap = func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
						ctx, cancel := context.WithTimeout(req.Context(), time.Millisecond)
						defer cancel()
						next.ServeHTTP(w, req.WithContext(ctx))
					})
				}
			},
			status: 504, text: "The application did not answer in time."},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			type failure struct {
				route  podworks.Route
				status int
				err    error
			}
			failures := make(chan failure, 1)
			b := setup(t, tt.app, func(o *routing.Options) {
				o.Hooks.ProxyFailed = func(req *http.Request, status int, err error) {
					route, _ := podworks.RouteFrom(req.Context())
					failures <- failure{route, status, err}
				}
				if tt.change != nil {
					tt.change(o)
				}
			})
			want := routeA
			if tt.region != "" {
				want.Region = tt.region
				b.source.set("a.example", want)
				refresh(t, b.router)
			}
			res, body := b.get(t, "/")
			expect(t, res, body, tt.status, tt.text)
			if strings.Contains(body, "127.0.0.1") || strings.Contains(body, "dial") {
				t.Errorf("the answer %q tells how this network is made", body)
			}
			if f := <-failures; f.status != tt.status || f.route != want || f.err == nil {
				t.Errorf("the hook was told %+v, want status %d, %+v and the error", f, tt.status, want)
			}
			if s := b.router.Stats(); s.ProxyErrors != 1 || s.Aborted != 0 {
				t.Errorf("Stats() = %d ProxyErrors, %d Aborted; want 1, 0", s.ProxyErrors, s.Aborted)
			}
		})
	}
}

// A pauser holds the request; meanwhile the shop moves.
func TestAHeldRequestGoesWhereItsShopIsWhenItIsLetGo(t *testing.T) {
	t.Parallel()
	held, resume := make(chan podworks.Route), make(chan struct{})
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		r, err := signature.Verify(req.Header, key, time.Now())
		fmt.Fprint(w, r.Pod, " ", r.Epoch, " ", err)
	}, func(o *routing.Options) {
		o.Wrap = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				r, _ := podworks.RouteFrom(req.Context())
				held <- r
				<-resume
				req.Header.Set(podworks.HeaderShop, "666") // whatever a handler does, it can't sign
				next.ServeHTTP(w, req)
			})
		}
	})
	type answer struct {
		res  *http.Response
		body string
	}
	answers := make(chan answer)
	go func() {
		res, body := b.get(t, "/")
		answers <- answer{res, body}
	}()
	if r := <-held; r != routeA {
		t.Errorf("the handler around the proxy found %+v, want %+v", r, routeA)
	}
	b.source.set("a.example", podworks.Route{Shop: 1, Pod: 2, Region: "east", Epoch: 4})
	refresh(t, b.router)
	close(resume)
	a := <-answers
	expect(t, a.res, a.body, 200, "2 4 <nil>")
}

func TestEventsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next // until the client has it
		}
	}, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", b.edge.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "a.example"
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events := bufio.NewReader(res.Body)
	for i := range 3 {
		line, err := events.ReadString('\n')
		if want := fmt.Sprintf("data: %d\n", i); line != want || err != nil {
			t.Fatalf("got %q, %v; want %q", line, err, want)
		}
		_, _ = events.ReadString('\n')
		next <- struct{}{}
	}
}

// dial opens a connection to the edge and writes a request as text.
func (b *bundle) dial(t *testing.T, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", b.edge.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func TestAConnectionCanBeUpgraded(t *testing.T) {
	t.Parallel()
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		r, err := signature.Verify(req.Header, key, time.Now())
		if err != nil || r.Shop != routeA.Shop {
			t.Errorf("the application verified %+v, %v", r, err)
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Podworks-Shop: 1\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}, nil)
	conn, r := b.dial(t, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Podworks-Shop: 666\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "echo" || res.Header.Get(podworks.HeaderShop) != "" {
		t.Fatalf("got %d with %v, want 101, Upgrade: echo, no header of ours", res.StatusCode, res.Header)
	}
	for _, want := range []string{"hello\n", "again\n"} {
		_, _ = io.WriteString(conn, want)
		if got, err := r.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
}

func TestLargeBodiesPassWholeInBothDirections(t *testing.T) {
	t.Parallel()
	data := make([]byte, 8<<20+7)
	rand.NewChaCha8([32]byte{}).Read(data)
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, req.Body)
	}, nil)
	for name, body := range map[string]io.Reader{
		"with a length": strings.NewReader(string(data)),
		"in chunks":     struct{ io.Reader }{strings.NewReader(string(data))},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", b.edge.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "a.example"
		res, got := b.do(t, req)
		if res.StatusCode != 200 || sha256.Sum256([]byte(got)) != sha256.Sum256(data) {
			t.Errorf("%s: got %d and %d bytes, want 200 and the %d bytes sent", name, res.StatusCode, len(got), len(data))
		}
	}
}

// The application answers before it has the body, as when it refuses an upload.
// A client that waits for that gets the answer at once, and can use its
// connection again unless there is more to come than is worth reading.
func TestAnAnswerBeforeTheEndOfTheRequest(t *testing.T) {
	t.Parallel()
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := app.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
					_, _ = io.Copy(io.Discard, req.Body)
				}
			})
		}
	})
	t.Cleanup(func() { app.Close(); conns.Wait() })

	for _, form := range []string{"Content-Length: %d\r\n\r\n%s", "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"} {
		for _, size := range []int{10, 100_000, 4 << 20} {
			t.Run(fmt.Sprintf("%d bytes, %.14s", size, form), func(t *testing.T) {
				t.Parallel()
				var log syncBuffer
				b := setup(t, nil, func(o *routing.Options) { o.Upstreams["east"] = &url.URL{Scheme: "http", Host: app.Addr().String()} })
				b.edge.Config.ErrorLog = stdlog.New(&log, "", 0)
				request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.example\r\n"+form, size, strings.Repeat("a", size))
				half := len(request) - 8 // all but the end of the body
				conn, r := b.dial(t, "")
				for range 3 {
					go io.WriteString(conn, request[:half])
					res, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(res.Body)
					if err != nil {
						t.Fatal(err)
					}
					expect(t, res, string(body), 401, "no")
					if size > 256<<10 {
						break
					}
					if res.Close {
						t.Fatal("the connection is to be closed, want it kept")
					}
					if _, err := io.WriteString(conn, request[half:]); err != nil {
						t.Fatal(err)
					}
				}
				conn.Close()
				b.edge.Close()
				if got := log.String(); got != "" {
					t.Errorf("the server's log has %q, want nothing", got)
				}
			})
		}
	}
}

// A syncBuffer is a log that is read while it may be written.
type syncBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestAClientThatLeavesIsNoFailureOfTheApplication(t *testing.T) {
	t.Parallel()
	arrived, left := make(chan struct{}), make(chan struct{})
	status := make(chan int, 1)
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		close(arrived)
		<-req.Context().Done() // the application learns of it
		close(left)
	}, func(o *routing.Options) {
		o.Hooks.ProxyFailed = func(_ *http.Request, s int, _ error) { status <- s }
	})
	conn, _ := b.dial(t, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	<-arrived
	conn.Close()
	<-left
	if got := <-status; got != 499 {
		t.Errorf("status %d for the log, want 499", got)
	}
	if s := b.router.Stats(); s.Aborted != 1 || s.ProxyErrors != 0 {
		t.Errorf("Stats() = %d Aborted, %d ProxyErrors; want 1, 0", s.Aborted, s.ProxyErrors)
	}
}

func TestAnUploadThatBreaksOffIsNoFailureOfTheApplication(t *testing.T) {
	t.Parallel()
	status := make(chan int, 1)
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		if _, err := io.Copy(io.Discard, req.Body); err == nil {
			t.Error("the application took half an upload for a whole one")
		}
	}, func(o *routing.Options) {
		o.Hooks.ProxyFailed = func(_ *http.Request, s int, _ error) { status <- s }
	})
	conn, r := b.dial(t, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\nshort")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	expect(t, res, string(body), 400, "The request's body broke off.")
	if got := <-status; got != 400 {
		t.Errorf("the hook was told %d, want 400", got)
	}
	if s := b.router.Stats(); s.Aborted != 1 || s.ProxyErrors != 0 {
		t.Errorf("Stats() = %d Aborted, %d ProxyErrors; want 1, 0", s.Aborted, s.ProxyErrors)
	}
}

func TestABodyLargerThanAHandlerAllowsIs413(t *testing.T) {
	t.Parallel()
	b := setup(t, func(w http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) }, func(o *routing.Options) {
		o.Wrap = func(next http.Handler) http.Handler { return http.MaxBytesHandler(next, 1000) }
	})
	req, err := http.NewRequestWithContext(t.Context(), "POST", b.edge.URL, struct{ io.Reader }{strings.NewReader(strings.Repeat("a", 2000))})
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "a.example"
	res, body := b.do(t, req)
	expect(t, res, body, 413, "larger than 1000 bytes")
}

// The length was not announced, so that only the way the connection ends tells
// the client that something is missing.
func TestAResponseThatBreaksOffDoesNotLookWhole(t *testing.T) {
	t.Parallel()
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "the first half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", b.edge.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "a.example"
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v; want an unexpected end", body, err)
	}
	b.edge.Close() // waits for the handler
	if s := b.router.Stats(); s.Aborted != 1 {
		t.Errorf("Stats().Aborted = %d, want 1", s.Aborted)
	}
}

// The shop moves again and again while buyers ask for pages over both of its
// hosts: every request arrives signed, with pod and epoch that belong together,
// and one client's requests never go back in time.
func TestRequestsAreServedWhileTheTableIsSwapped(t *testing.T) {
	t.Parallel()
	const clients, moves = 4, 50
	at := func(epoch podworks.Epoch) podworks.Route {
		return podworks.Route{Shop: 1, Pod: podworks.PodID(epoch%7 + 1), Epoch: epoch}
	}
	b := setup(t, func(w http.ResponseWriter, req *http.Request) {
		r, err := signature.Verify(req.Header, key, time.Now())
		if err != nil || r != at(r.Epoch) {
			t.Errorf("the application verified %+v, %v", r, err)
		}
		fmt.Fprint(w, r.Epoch)
	}, nil)
	move := func(epoch podworks.Epoch) {
		r := at(epoch)
		r.Region = "east"
		b.source.set("a.example", r)
		refresh(t, b.router)
	}
	move(10)

	var served atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			var last podworks.Epoch
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, body := b.get(t, "/")
				var epoch podworks.Epoch
				if _, err := fmt.Sscan(body, &epoch); err != nil || epoch < last {
					t.Errorf("got epoch %q after %d", body, last)
					return
				}
				last = epoch
				served.Add(1)
			}
		})
	}
	for epoch := podworks.Epoch(11); epoch < 10+moves; epoch++ {
		move(epoch)
		for before := served.Load(); served.Load() < before+2 && !t.Failed(); { // requests between any two moves
			b.get(t, "/")
		}
	}
	close(stop)
	wg.Wait()
	if s := b.router.Stats(); s.ProxyErrors != 0 || s.Aborted != 0 {
		t.Errorf("Stats() = %d ProxyErrors, %d Aborted; want none", s.ProxyErrors, s.Aborted)
	}
}
