package sharding_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/signature"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

var key = []byte("a key that only the edge and this application hold")

// serve runs one request through the middleware and returns the answer and the
// route of the scope that the handler got.
func serve(t *testing.T, c *sharding.Cluster, r *http.Request) (*httptest.ResponseRecorder, *podworks.Route) {
	var got *podworks.Route
	var kept context.Context
	h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept = r.Context()
		s := sharding.FromContext(kept)
		route := s.Route()
		got = &route
		if inContext, _ := podworks.RouteFrom(kept); inContext != route {
			http.Error(w, "the context's route differs from the scope's", http.StatusInternalServerError)
			return
		}
		var n int
		if err := s.DB().QueryRowContext(kept, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if kept != nil {
		_, err := sharding.FromContext(kept).DB().ExecContext(kept, `DO 0`)
		checkIs(t, "a use after the request", err, sharding.ErrReleased)
	}
	return w, got
}

func TestMiddlewareBelievesOnlyTheEdge(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{Key: key}, nil)
		now := time.Now()
		sign := func(h http.Header, shop podworks.ShopID) {
			signature.Sign(h, key, podworks.Route{Shop: shop, Pod: 1, Epoch: 1}, now)
		}
		for _, c := range []struct {
			name    string
			headers func(h http.Header)
			code    int
			says    string
		}{
			{"signed", func(h http.Header) { sign(h, 1) }, 200, ""},
			{"none", func(http.Header) {}, 403, "edge"},
			{"unsigned", func(h http.Header) {
				h.Set(podworks.HeaderShop, "1")
				h.Set(podworks.HeaderPod, "1")
				h.Set(podworks.HeaderEpoch, "1")
			}, 403, "edge"},
			{"another shop than was signed", func(h http.Header) {
				sign(h, 1)
				h.Set(podworks.HeaderShop, "2")
			}, 403, "signed"},
			{"a second shop beside", func(h http.Header) {
				sign(h, 1)
				h.Add(podworks.HeaderShop, "2")
			}, 403, "signed"},
			{"another key", func(h http.Header) {
				signature.Sign(h, []byte(strings.Repeat("x", 32)), podworks.Route{Shop: 1, Pod: 1, Epoch: 1}, now)
			}, 403, "signed"},
			{"too old", func(h http.Header) {
				signature.Sign(h, key, podworks.Route{Shop: 1, Pod: 1, Epoch: 1}, now.Add(-time.Hour))
			}, 403, "signed"},
			{"unknown shop", func(h http.Header) { sign(h, 99) }, 404, "no shop"},
		} {
			r := httptest.NewRequest("GET", "http://two.example/", nil) // the host is not asked
			c.headers(r.Header)
			answer, route := serve(t, w.cluster, r)
			if answer.Code != c.code || !strings.Contains(answer.Body.String(), c.says) {
				t.Errorf("%s: got %d %q, want %d and a text with %q", c.name, answer.Code, answer.Body, c.code, c.says)
			}
			if c.code == 200 && (route == nil || route.Shop != 1) {
				t.Errorf("%s: the handler got the route %v, want shop 1's", c.name, route)
			}
			if c.code != 200 && route != nil {
				t.Errorf("%s: the handler ran, for %v", c.name, route)
			}
		}
	})
}

func TestMiddlewareFindsTheShopByHost(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		for host, shop := range map[string]podworks.ShopID{
			"one.example": 1, "two.example": 2, "ONE.Example:8080": 1, "one.example.": 1, "one.example.:80": 1,
			"other.example": 0, "": 0, "[::1]:80": 0, "one.example.evil.example": 0,
		} {
			r := httptest.NewRequest("GET", "/", nil)
			r.Host = host
			// Without a key nobody's headers count.
			signature.Sign(r.Header, key, podworks.Route{Shop: 3, Pod: 1, Epoch: 1}, time.Now())
			answer, route := serve(t, w.cluster, r)
			switch {
			case shop == 0 && (answer.Code != 404 || route != nil):
				t.Errorf("host %q: got %d and %v, want 404", host, answer.Code, route)
			case shop != 0 && (answer.Code != 200 || route == nil || route.Shop != shop):
				t.Errorf("host %q: got %d %q and %v, want shop %d", host, answer.Code, answer.Body, route, shop)
			}
		}
	})
}

// The edge has heard of a move, and this process has not.
func TestMiddlewareTakesANewerRoute(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{Key: key}, nil)
		w.moveTo(1, 2)
		if r, err := w.dir.Lookup(t.Context(), 1); err != nil || r.Epoch != 1 {
			t.Fatalf("the snapshot has %v, %v; want it not to have heard", r, err)
		}
		w.master.Close() // it needs no master for that
		want := podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}
		// The older one, from an edge that has not heard, changes nothing.
		for _, named := range []podworks.Route{{Shop: 1, Pod: 2, Epoch: 2}, {Shop: 1, Pod: 1, Epoch: 1}} {
			r := httptest.NewRequest("GET", "http://one.example/", nil)
			signature.Sign(r.Header, key, named, time.Now())
			if answer, route := serve(t, w.cluster, r); answer.Code != 200 || route == nil || *route != want {
				t.Errorf("with route %v: got %d %q and %v, want %v", named, answer.Code, answer.Body, route, want)
			}
		}
	})
}

func TestMiddlewareWithoutADirectory(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{Key: key}, nil)
		w.master.Close()
		request := func(shop podworks.ShopID) *http.Request {
			r := httptest.NewRequest("GET", "/", nil)
			signature.Sign(r.Header, key, podworks.Route{Shop: shop, Pod: 1, Epoch: 1}, time.Now())
			return r
		}
		if answer, _ := serve(t, w.cluster, request(1)); answer.Code != 200 {
			t.Errorf("a shop that the snapshot has: got %d %q, want 200", answer.Code, answer.Body)
		}
		answer, _ := serve(t, w.cluster, request(99))
		if answer.Code != 503 || answer.Header().Get("Retry-After") == "" {
			t.Errorf("a shop that the snapshot lacks: got %d with Retry-After %q, want 503 with one", answer.Code, answer.Header().Get("Retry-After"))
		}
		if strings.Contains(answer.Body.String(), "sql") {
			t.Errorf("the answer tells the outside about the inside: %q", answer.Body)
		}
	})
}

func TestMiddlewareReleasesAfterAPanic(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		var kept context.Context
		h := w.cluster.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			kept = r.Context()
			panic(http.ErrAbortHandler)
		}))
		func() {
			defer func() {
				if p := recover(); !errors.Is(p.(error), http.ErrAbortHandler) {
					t.Errorf("recovered %v, want the handler's panic", p)
				}
			}()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://one.example/", nil))
		}()
		_, err := sharding.FromContext(kept).DB().ExecContext(kept, `DO 0`)
		checkIs(t, "a use after the handler panicked", err, sharding.ErrReleased)
	})
}
