package routing_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
)

var (
	key = []byte("0123456789abcdef0123456789abcdef")

	routeA = podworks.Route{Shop: 1, Pod: 1, Region: "east", Epoch: 3}
	routeB = podworks.Route{Shop: 2, Pod: 2, Region: "east", Epoch: 1}
)

// options are those of a router that proxies to app.
func options(app string) *routing.Options {
	u, err := url.Parse(app)
	if err != nil {
		panic(err)
	}
	return &routing.Options{Key: key, Upstreams: map[podworks.Region]*url.URL{"east": u}}
}

func newRouter(t testing.TB, source routing.Source, opts *routing.Options) *routing.Router {
	t.Helper()
	r, err := routing.New(source, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func refresh(t testing.TB, r *routing.Router) {
	t.Helper()
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// serve answers one request without a network.
func serve(h http.Handler, host string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("GET", "/", nil)
	req.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func TestNewReportsEveryFault(t *testing.T) {
	t.Parallel()
	address := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	good := func() *routing.Options { return options("http://127.0.0.1:8080") }
	tests := map[string]struct {
		source routing.Source
		opts   *routing.Options
		want   string // empty: no error
	}{
		"good":       {new(memory), good(), ""},
		"no source":  {nil, good(), "routing: source is nil"},
		"no options": {new(memory), nil, "routing: Key has 0 bytes, want 32 or more\nUpstreams is empty, want an address for each region"},
		"everything": {new(memory), &routing.Options{
			Key: key[:5],
			Upstreams: map[podworks.Region]*url.URL{
				"a": nil,
				"b": address("ftp://host"),
				"c": address("http://host/path"),
				"d": address("http://host?q"),
				"e": address("http://user:secret@host"),
				"f": address("host:80"),
				"g": address("https://host:8443/"),
			},
			Poll: -1,
		}, `routing: Key has 5 bytes, want 32 or more
Upstreams["a"] is "", want http://host or https://host with an optional port and nothing else
Upstreams["b"] is "ftp://host", want http://host or https://host with an optional port and nothing else
Upstreams["c"] is "http://host/path", want http://host or https://host with an optional port and nothing else
Upstreams["d"] is "http://host?q", want http://host or https://host with an optional port and nothing else
Upstreams["e"] is "http://user:xxxxx@host", want http://host or https://host with an optional port and nothing else
Upstreams["f"] is "host:80", want http://host or https://host with an optional port and nothing else
Poll is -1ns, want a positive duration`},
		"a Wrap that returns nothing": {new(memory), &routing.Options{
			Key: key, Upstreams: good().Upstreams,
			Wrap: func(http.Handler) http.Handler { return nil },
		}, "routing: Wrap returned nil, want a handler"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := routing.New(tt.source, tt.opts)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("New's error is\n%s\nwant\n%s", got, tt.want)
			}
			if (r == nil) != (err != nil) {
				t.Errorf("New = %v with error %v", r, err)
			}
		})
	}
}

func TestUntilTheTableIsLoadedTheAnswerIs503(t *testing.T) {
	t.Parallel()
	m := new(memory)
	r := newRouter(t, m, options("http://127.0.0.1:1"))
	if s := r.Stats(); s.Loaded {
		t.Errorf("Stats().Loaded = true before a refresh")
	}
	if _, ok := r.Lookup("a.example"); ok {
		t.Error("Lookup finds a host before a refresh")
	}
	w := serve(r, "a.example")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "not loaded yet") {
		t.Errorf("got %d, Retry-After %q, %q; want 503, 1, a text that says the table isn't loaded", w.Code, w.Header().Get("Retry-After"), w.Body)
	}

	// An empty table is a table.
	refresh(t, r)
	if w := serve(r, "a.example"); w.Code != http.StatusNotFound {
		t.Errorf("with an empty table: got %d, want 404", w.Code)
	}
	if s := r.Stats(); !s.Loaded || s.Unloaded != 1 || s.UnknownHosts != 1 || s.Requests != 2 {
		t.Errorf("Stats() = %+v, want Loaded, 1 Unloaded, 1 UnknownHosts, 2 Requests", s)
	}
}

func TestLookupFindsAHostInEveryForm(t *testing.T) {
	t.Parallel()
	m := new(memory)
	m.set("Shop.Example.", routeA) // the source's form doesn't matter either
	m.set("[2001:db8::1]", routeB)
	r := newRouter(t, m, options("http://127.0.0.1:1"))
	refresh(t, r)
	for host, want := range map[string]podworks.Route{
		"shop.example": routeA, "SHOP.EXAMPLE:8080": routeA, "shop.example.": routeA,
		"2001:db8::1": routeB, "[2001:DB8::1]:443": routeB,
		"": {}, "example": {}, "a.shop.example": {}, "shop.example:http": {},
	} {
		if got, ok := r.Lookup(host); got != want || ok != (want != podworks.Route{}) {
			t.Errorf("Lookup(%q) = %+v, %t; want %+v", host, got, ok, want)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	m := new(memory)
	m.set("shop.example", routeA)
	r := newRouter(t, m, options("http://127.0.0.1:1"))
	refresh(t, r)
	for _, host := range []string{"shop.example", "shop.example:8080", "shop.example.", "unknown.example", "[::1]:80"} {
		if n := testing.AllocsPerRun(1000, func() { r.Lookup(host) }); n != 0 {
			t.Errorf("Lookup(%q) allocates %v times, want 0", host, n)
		}
	}
}

func TestNothingOfAFailedAnswerIsApplied(t *testing.T) {
	t.Parallel()
	m := new(memory)
	m.set("a.example", routeA)
	r := newRouter(t, m, options("http://127.0.0.1:1"))
	refresh(t, r)

	m.set("a.example", podworks.Route{Shop: 1, Pod: 2, Region: "east", Epoch: 4})
	m.set("b.example", routeB)
	broken := errors.New("connection lost")
	m.fail(broken) // after it named both
	if err := r.Refresh(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Refresh = %v, want the source's error", err)
	}
	if got, _ := r.Lookup("a.example"); got != routeA {
		t.Errorf("a.example leads to %+v, want %+v still", got, routeA)
	}
	if got, ok := r.Lookup("b.example"); ok {
		t.Errorf("b.example leads to %+v, want nowhere yet", got)
	}

	m.fail(nil)
	refresh(t, r)
	if got, _ := r.Lookup("a.example"); got.Epoch != 4 {
		t.Errorf("afterwards a.example leads to %+v, want epoch 4", got)
	}
	if s := r.Stats(); s.Refreshes != 2 || s.RefreshFailures != 1 || s.Hosts != 2 || s.Version != 3 {
		t.Errorf("Stats() = %+v, want 2 Refreshes, 1 RefreshFailures, 2 Hosts, Version 3", s)
	}
}

func TestAFailingSourceKeepsTheLastTableInForceAndIsLoggedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := new(memory)
		m.set("a.example", routeA)
		opts := options("http://127.0.0.1:1")
		opts.Logger = slog.New(slog.NewTextHandler(&out, nil))
		r := newRouter(t, m, opts)

		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()

		m.fail(errors.New("connection lost"))
		<-time.After(10 * time.Second) // 40 polls
		if got, _ := r.Lookup("a.example"); got != routeA {
			t.Errorf("Lookup = %+v while the source fails, want %+v", got, routeA)
		}
		synctest.Wait()
		if s := r.Stats(); s.RefreshFailures != 40 || s.Age != 10*time.Second {
			t.Errorf("Stats() = %d RefreshFailures, Age %v; want 40, 10s", s.RefreshFailures, s.Age)
		}

		m.fail(nil)
		<-time.After(time.Second)
		synctest.Wait()
		if s := r.Stats(); s.RefreshFailures != 40 || s.Age > 250*time.Millisecond {
			t.Errorf("Stats() = %d RefreshFailures, Age %v; want 40 still, at most 250ms", s.RefreshFailures, s.Age)
		}

		over := errors.New("the end")
		cancel(over)
		if err := <-ended; err != over {
			t.Errorf("Run = %v, want the cause of its context's end", err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "connection lost") ||
			!strings.Contains(lines[1], "level=INFO") || !strings.Contains(lines[1], "failed=40 after=10s") {
			t.Errorf("the log is\n%s\nwant a warning with the cause, and one line when it was over", out.String())
		}
	})
}

func TestANewRouteIsInForceAfterOnePoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := new(memory)
		m.set("a.example", routeA)
		opts := options("http://127.0.0.1:1")
		opts.Poll = 100 * time.Millisecond
		r := newRouter(t, m, opts)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		synctest.Wait()

		moved := routeA
		moved.Pod, moved.Epoch = 2, routeA.Epoch+1
		m.set("a.example", moved)
		<-time.After(99 * time.Millisecond)
		if got, _ := r.Lookup("a.example"); got != routeA {
			t.Errorf("after 99ms: %+v, want %+v", got, routeA)
		}
		<-time.After(2 * time.Millisecond)
		synctest.Wait()
		if got, _ := r.Lookup("a.example"); got != moved {
			t.Errorf("after 101ms: %+v, want %+v", got, moved)
		}
	})
}

func TestASourceThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := true
		r := newRouter(t, routing.SourceFunc(func(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
			if hang {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return since + 1, nil
		}), options("http://127.0.0.1:1"))

		check := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			err := r.Refresh(t.Context())
			if err == nil || !strings.Contains(err.Error(), "the source took too long") || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Refresh = %v, want that the source took too long", err)
			}
			if got := time.Since(began); got != want {
				t.Errorf("given up after %v, want %v", got, want)
			}
		}
		check(time.Minute)
		hang = false
		refresh(t, r)
		hang = true
		check(5 * time.Second)

		// The caller's own end is another matter, and no failure of the source.
		failures := r.Stats().RefreshFailures
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Refresh(ctx); err == nil || strings.Contains(err.Error(), "too long") {
			t.Errorf("Refresh = %v, want the caller's deadline", err)
		}
		if got := r.Stats().RefreshFailures; got != failures {
			t.Errorf("RefreshFailures = %d after the caller gave up, want %d as before", got, failures)
		}
	})
}

func TestRefreshesWaitForOneAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		calls := 0 // unsynchronised: calls don't overlap
		r := newRouter(t, routing.SourceFunc(func(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
			calls++
			<-proceed
			return since + 1, nil
		}), options("http://127.0.0.1:1"))

		ended := make(chan error)
		go func() { ended <- r.Refresh(t.Context()) }()
		synctest.Wait()

		// One that waits gives up when its caller does.
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { ended <- r.Refresh(ctx) }()
		synctest.Wait()
		cancel(gone)
		if err := <-ended; !errors.Is(err, gone) {
			t.Errorf("the waiting Refresh = %v, want %v", err, gone)
		}

		go func() { ended <- r.Refresh(t.Context()) }()
		synctest.Wait()
		if calls != 1 {
			t.Errorf("%d calls of the source while the first runs, want 1", calls)
		}
		close(proceed)
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("Refresh = %v", err)
			}
		}
		if calls != 2 {
			t.Errorf("%d calls of the source, want 2", calls)
		}
	})
}

func TestASourceThatPanicsDoesNotBlockTheNextRefresh(t *testing.T) {
	t.Parallel()
	panics := true
	r := newRouter(t, routing.SourceFunc(func(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
		each("a.example", routeA)
		if panics {
			panic("source")
		}
		return 1, nil
	}), options("http://127.0.0.1:1"))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		r.Refresh(t.Context())
	}()
	panics = false
	refresh(t, r)
	if got, _ := r.Lookup("a.example"); got != routeA {
		t.Errorf("Lookup = %+v, want %+v", got, routeA)
	}
}

// The source is read from replicas, one of them behind. What it says must not
// bring back an old route, and nothing that happened meanwhile may be missed.
func TestASourceThatGoesBackLosesNothing(t *testing.T) {
	t.Parallel()
	moved := routeA
	moved.Pod, moved.Epoch = 2, routeA.Epoch+1
	ahead, behind := new(memory), new(memory)
	for _, m := range []*memory{ahead, behind} {
		m.set("a.example", routeA) // version 1
	}
	ahead.set("a.example", moved)  // 2
	ahead.set("b.example", routeB) // 3

	var since []uint64
	replica := ahead
	r := newRouter(t, routing.SourceFunc(func(ctx context.Context, s uint64, each func(string, podworks.Route)) (uint64, error) {
		since = append(since, s)
		return replica.Hosts(ctx, s, each)
	}), options("http://127.0.0.1:1"))
	check := func(when string) {
		t.Helper()
		if got, _ := r.Lookup("a.example"); got != moved {
			t.Errorf("%s a.example leads to %+v, want %+v", when, got, moved)
		}
		if got, _ := r.Lookup("b.example"); got != routeB {
			t.Errorf("%s b.example leads to %+v, want %+v", when, got, routeB)
		}
	}

	refresh(t, r)
	check("at first")
	replica = behind
	behind.set("a.example", routeA) // 2: something else about it
	refresh(t, r)
	check("after an answer from behind")
	behind.hosts["a.example"] = change{3, routeA} // a row that is newer than the version it comes with
	refresh(t, r)
	check("after a stale row")
	replica = ahead
	refresh(t, r)
	check("in the end")

	if want := []uint64{0, 3, 2, 2}; !slices.Equal(since, want) {
		t.Errorf("the source was asked for changes since %v, want %v", since, want)
	}
	if s := r.Stats(); s.Regressions != 1 || s.Stale != 1 || s.Version != 3 {
		t.Errorf("Stats() = %+v, want 1 Regressions, 1 Stale, Version 3", s)
	}
}

func TestARouteThatCannotBeUsedIsLoggedAndTheOthersApply(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	m := new(memory)
	m.set("a.example", routeA)
	m.set("b.example", podworks.Route{Shop: 2, Region: "east", Epoch: 1})
	opts := options("http://127.0.0.1:1")
	opts.Logger = slog.New(slog.NewTextHandler(&out, nil))
	r := newRouter(t, m, opts)
	refresh(t, r)
	refresh(t, r)
	if got, _ := r.Lookup("a.example"); got != routeA {
		t.Errorf("a.example leads to %+v, want %+v", got, routeA)
	}
	if got, ok := r.Lookup("b.example"); ok {
		t.Errorf("b.example leads to %+v, want nowhere", got)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "b.example") {
		t.Errorf("the log is\n%s\nwant one line that names the host", out.String())
	}
	if s := r.Stats(); s.Malformed != 1 {
		t.Errorf("Stats().Malformed = %d, want 1", s.Malformed)
	}
}

// Readers of one shop's two hosts, while the shop moves: the epoch never goes
// back, and pod and epoch always belong together.
func TestReadersSeeWholeRoutesWhileTheTableIsSwapped(t *testing.T) {
	t.Parallel()
	const moves = 500
	at := func(epoch podworks.Epoch) podworks.Route {
		return podworks.Route{Shop: 1, Pod: podworks.PodID(epoch%7 + 1), Region: "east", Epoch: epoch}
	}
	m := new(memory)
	m.set("a.example", at(1))
	m.set("b.example", at(1))
	r := newRouter(t, m, options("http://127.0.0.1:1"))
	refresh(t, r)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last podworks.Epoch
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				got, ok := r.Lookup([]string{"a.example", "B.example:80"}[i%2])
				if !ok || got != at(got.Epoch) || got.Epoch < last {
					t.Errorf("Lookup = %+v, %t after epoch %d", got, ok, last)
					return
				}
				last = got.Epoch
			}
		})
	}
	for epoch := podworks.Epoch(2); epoch < moves; epoch++ {
		m.set([]string{"a.example", "b.example"}[epoch%2], at(epoch)) // the other host follows by itself
		refresh(t, r)
	}
	close(stop)
	wg.Wait()
}

func TestTheRequestIsNotChangedForWhoeverHandedItOver(t *testing.T) {
	t.Parallel()
	m := new(memory)
	m.set("a.example", routeA)
	opts := options("http://127.0.0.1:1")
	opts.Wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, req.Header.Get(podworks.HeaderShop)+req.Header.Get("Cookie"))
		})
	}
	r := newRouter(t, m, opts)
	refresh(t, r)

	req := httptest.NewRequest("GET", "/", nil)
	req.Host = "a.example"
	req.Header.Set(podworks.HeaderShop, "666")
	req.Header.Set("Cookie", "c=1")
	before := req.Header.Clone()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	if got := w.Body.String(); got != "c=1" {
		t.Errorf("the handler inside saw %q, want the cookie and no shop", got)
	}
	if len(req.Header) != len(before) || req.Header.Get(podworks.HeaderShop) != "666" {
		t.Errorf("the caller's headers are now %v, want %v", req.Header, before)
	}
	if _, ok := podworks.RouteFrom(req.Context()); ok {
		t.Error("the caller's request carries a route now")
	}
}
