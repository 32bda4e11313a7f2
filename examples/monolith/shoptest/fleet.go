package shoptest

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// An App is a process of the application, of any step.
type App interface {
	Handler() http.Handler
	Nightly(ctx context.Context, now time.Time) error
}

// A Fleet is the processes that are deployed. They take turns at requests, as
// behind a load balancer.
type Fleet struct {
	mu   sync.Mutex // guards what follows
	gen  *generation
	turn int
}

// A generation is the processes between two deployments.
type generation struct {
	apps     []App
	handlers []http.Handler
	working  sync.WaitGroup
}

// Deploy puts these processes in the place of those before, and returns when
// the last request that those had taken is answered.
func (f *Fleet) Deploy(apps ...App) {
	g := &generation{apps: apps}
	for _, a := range apps {
		g.handlers = append(g.handlers, a.Handler())
	}
	f.mu.Lock()
	old := f.gen
	f.gen = g
	f.mu.Unlock()
	if old != nil {
		old.working.Wait()
	}
}

// take returns the generation and whose turn it is in it.
func (f *Fleet) take() (*generation, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn++
	f.gen.working.Add(1)
	return f.gen, f.turn % len(f.gen.apps)
}

// ServeHTTP gives the request to the next process.
func (f *Fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g, n := f.take()
	defer g.working.Done()
	g.handlers[n].ServeHTTP(w, r)
}

// Nightly runs the job in one of the processes.
func (f *Fleet) Nightly(ctx context.Context, now time.Time) error {
	g, n := f.take()
	defer g.working.Done()
	return g.apps[n].Nightly(ctx, now)
}
