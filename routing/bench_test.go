package routing_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
)

// platform is a directory of n shops with a host each.
func platform(n int) *memory {
	m := new(memory)
	for i := range n {
		m.set(fmt.Sprintf("shop-%d.example", i), podworks.Route{Shop: podworks.ShopID(i + 1), Pod: podworks.PodID(i%100 + 1), Region: "east", Epoch: 1})
	}
	return m
}

func BenchmarkLookup(b *testing.B) {
	r := newRouter(b, platform(100_000), options("http://127.0.0.1:1"))
	refresh(b, r)
	for name, host := range map[string]string{
		"normal": "shop-77777.example", "port": "shop-77777.example:8080", "capitals": "Shop-77777.example", "unknown": "nobody.example",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Lookup(host)
			}
		})
	}
}

// One shop of 100,000 moves: what a poll costs on the day of a move.
func BenchmarkRefreshAfterAMove(b *testing.B) {
	all := platform(100_000)
	epoch := podworks.Epoch(1)
	r := newRouter(b, routing.SourceFunc(func(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
		if since == 0 {
			return all.Hosts(ctx, since, each)
		}
		epoch++
		each("shop-77777.example", podworks.Route{Shop: 77_778, Pod: 1, Region: "east", Epoch: epoch})
		return since + 1, nil
	}), options("http://127.0.0.1:1"))
	refresh(b, r)
	b.ReportAllocs()
	for b.Loop() {
		refresh(b, r)
	}
}

// A GET through the router, and through httputil alone with the same transport
// settings: the difference is what a routed and signed request costs.
func BenchmarkRequest(b *testing.B) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "a page")
	}))
	defer app.Close()
	address, err := url.Parse(app.URL)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	defer transport.CloseIdleConnections()

	opts := options(app.URL)
	opts.Transport = transport
	r := newRouter(b, platform(100_000), opts)
	refresh(b, r)

	bare := &httputil.ReverseProxy{Transport: transport, Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(address)
		pr.Out.Host = pr.In.Host
		pr.SetXForwarded()
	}}
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{{"httputil", bare}, {"router", r}} {
		b.Run(c.name, func(b *testing.B) {
			edge := httptest.NewServer(c.handler)
			defer edge.Close()
			req, err := http.NewRequest("GET", edge.URL, nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Host = "shop-77777.example"
			b.ReportAllocs()
			for b.Loop() {
				res, err := edge.Client().Do(req)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
					b.Fatal(res.StatusCode, err)
				}
				res.Body.Close()
			}
		})
	}
}
