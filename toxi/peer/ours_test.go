package peer_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/toxiproxy"
)

// newOurs is our API, which says that it is what Toxiproxy's tests want it to be.
func newOurs() (h http.Handler, done func(), err error) {
	s, err := toxiproxy.New(&toxiproxy.Options{Version: "git"})
	if err != nil {
		return nil, nil, err
	}
	return s, func() { s.Close() }, nil
}

type ourProxy struct{ *toxi.Proxy }

func openOurs(upstream string) (proxy, error) {
	p, err := toxi.Listen(upstream, nil)
	if err != nil {
		return nil, err
	}
	return ourProxy{p}, nil
}

func (p ourProxy) Add(f fault) (func() error, error) {
	attr := func(name string) time.Duration { return time.Duration(f.Attributes[name]) }
	t := toxi.Fault{Name: f.Name, Toxicity: f.Toxicity}
	if f.Stream == "upstream" {
		t.Stream = toxi.Upstream
	}
	switch f.Type {
	case "latency":
		t.Toxic = toxi.Latency{Delay: attr("latency") * time.Millisecond, Jitter: attr("jitter") * time.Millisecond}
	case "bandwidth":
		t.Toxic = toxi.Bandwidth{Rate: 1000 * f.Attributes["rate"]}
	case "slicer":
		t.Toxic = toxi.Slicer{Size: int(f.Attributes["average_size"]), Variation: int(f.Attributes["size_variation"]), Delay: attr("delay") * time.Microsecond}
	default:
		return nil, fmt.Errorf("the benchmarks don't use %q", f.Type)
	}
	return p.Proxy.Add(t)
}

func (p ourProxy) List() int     { return len(p.Faults()) }
func (p ourProxy) Toggle() error { return p.Down(func() {}) }
func (p ourProxy) Close()        { p.Proxy.Close() }
