package routing_test

import (
	"context"
	"sync"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
	"github.com/podworks/podworks/routing/routingtest"
)

// A memory is a source whose directory is a map.
type memory struct {
	mu      sync.Mutex
	version uint64
	hosts   map[string]change
	err     error // what Hosts fails with
}

type change struct {
	version uint64
	route   podworks.Route
}

var _ routing.Source = (*memory)(nil)

func (m *memory) set(host string, r podworks.Route) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hosts == nil {
		m.hosts = make(map[string]change)
	}
	m.version++
	m.hosts[host] = change{m.version, r}
}

func (m *memory) remove(host string) { m.set(host, podworks.Route{}) }

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) Hosts(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	for host, c := range m.hosts {
		if c.version > since && (since > 0 || c.route != podworks.Route{}) {
			each(host, c.route)
		}
	}
	return m.version, m.err // after half the answer, if it fails
}

func TestMemoryKeepsTheContractOfASource(t *testing.T) {
	t.Parallel()
	routingtest.TestSource(t, func(*testing.T) routingtest.Fixture {
		m := new(memory)
		return routingtest.Fixture{
			Source: m,
			Set:    func(host string, r podworks.Route) error { m.set(host, r); return nil },
			Remove: func(host string) error { m.remove(host); return nil },
		}
	})
}
