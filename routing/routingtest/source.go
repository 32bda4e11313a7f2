// Package routingtest checks that a routing.Source keeps its contract.
package routingtest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
)

// A Fixture is a source and the two ways in which a test changes what it reads.
// Both return when the change is committed and the source can see it, and may be
// called by several goroutines at once.
//
// The tests use shops 1 to 8, pod 1 in region "east" and pod 2 in region "west".
type Fixture struct {
	Source routing.Source

	// Set makes host lead to route, whatever it led to before.
	Set func(host string, route podworks.Route) error

	// Remove makes host lead nowhere.
	Remove func(host string) error
}

var (
	east = podworks.Route{Shop: 1, Pod: 1, Region: "east", Epoch: 1}
	west = podworks.Route{Shop: 2, Pod: 2, Region: "west", Epoch: 1}
)

// TestSource runs the contract of routing.Source. It calls open for each case,
// which returns a source that knows no host yet.
func TestSource(t *testing.T, open func(t *testing.T) Fixture) {
	for _, c := range []struct {
		rule string
		test func(*testing.T, *poller)
	}{
		{"an empty source names no host", func(t *testing.T, p *poller) {
			p.expect(nil)
		}},
		{"since 0 asks for all hosts", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.set("p.example", west)
			p.expect(routes{"a.example": east, "p.example": west})
			p.version = 0
			p.expect(routes{"a.example": east, "p.example": west})
		}},
		{"only what changed after since is named", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.poll()
			p.set("p.example", west)
			p.expect(routes{"p.example": west})
		}},
		{"when nothing changed the version is since", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.poll()
			before := p.version
			p.expect(nil)
			if p.version != before {
				t.Errorf("version = %d, want %d as before", p.version, before)
			}
		}},
		{"a version grows with every change", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.poll()
			for epoch := podworks.Epoch(2); epoch <= 4; epoch++ {
				before := p.version
				moved := podworks.Route{Shop: 1, Pod: 2, Region: "west", Epoch: epoch}
				p.set("a.example", moved)
				p.expect(routes{"a.example": moved})
				if p.version <= before {
					t.Errorf("version = %d after a change, want more than %d", p.version, before)
				}
			}
		}},
		{"a host that was removed is named with a zero route", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.set("p.example", west)
			p.poll()
			p.remove("a.example")
			p.expect(routes{"a.example": {}})
		}},
		{"a host that was removed and given again is named with its route", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.poll()
			p.remove("a.example")
			p.set("a.example", west)
			p.expect(routes{"a.example": west})
		}},
		{"a host that is given to another shop is named with that", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			p.poll()
			p.set("a.example", west)
			p.expect(routes{"a.example": west})
		}},
		{"an ended context is an error", func(t *testing.T, p *poller) {
			p.set("a.example", east)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := p.Source.Hosts(ctx, 0, func(string, podworks.Route) {}); err == nil {
				t.Error("Hosts with an ended context returned nil, want an error")
			}
		}},
		{"versions become visible in their order", func(t *testing.T, p *poller) {
			const writers, changes = 8, 25
			want := make(routes)
			var wg sync.WaitGroup
			defer wg.Wait()
			for w := range writers {
				host := fmt.Sprintf("shop-%d.example", w+1)
				route := podworks.Route{Shop: podworks.ShopID(w + 1), Pod: 1, Region: "east", Epoch: changes}
				want[host] = route
				wg.Go(func() {
					for epoch := range podworks.Epoch(changes) {
						route := route
						route.Epoch = epoch + 1
						if err := p.Set(host, route); err != nil {
							t.Errorf("Set(%q): %v", host, err)
							return
						}
					}
				})
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			for writing := true; writing; {
				select {
				case <-done:
					writing = false
				default:
				}
				p.poll() // once more after the last change
			}
			if !maps.Equal(p.seen, want) {
				t.Errorf("after %d concurrent changes the polls added up to %+v, want %+v: a change that committed late was never told", writers*changes, p.seen, want)
			}
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			c.test(t, &poller{Fixture: open(t), t: t, seen: make(routes)})
		})
	}
}

type routes map[string]podworks.Route

// A poller polls a source as a router does.
type poller struct {
	Fixture
	t       *testing.T
	version uint64
	seen    routes // what all answers add up to
}

func (p *poller) set(host string, r podworks.Route) {
	p.t.Helper()
	if err := p.Set(host, r); err != nil {
		p.t.Fatalf("Set(%q, %+v): %v", host, r, err)
	}
}

func (p *poller) remove(host string) {
	p.t.Helper()
	if err := p.Remove(host); err != nil {
		p.t.Fatalf("Remove(%q): %v", host, err)
	}
}

func (p *poller) poll() routes {
	p.t.Helper()
	got := make(routes)
	version, err := p.Source.Hosts(p.t.Context(), p.version, func(host string, r podworks.Route) {
		got[host] = r
	})
	if err != nil {
		p.t.Fatalf("Hosts(since %d): %v", p.version, err)
	}
	p.version = version
	for host, r := range got {
		if p.seen[host] = r; r == (podworks.Route{}) {
			delete(p.seen, host)
		}
	}
	return got
}

func (p *poller) expect(want routes) {
	p.t.Helper()
	since := p.version
	if got := p.poll(); !maps.Equal(got, want) {
		p.t.Errorf("Hosts(since %d) named %+v, want %+v", since, got, want)
	}
}
