package toxi_test

import (
	"errors"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

func TestGuardsRestoreWhateverTheBlockDoes(t *testing.T) {
	t.Parallel()
	guards := []struct {
		name string
		run  func(*toxi.Proxy, func()) error
		want string
	}{
		{"With", func(p *toxi.Proxy, f func()) error { return p.With(toxi.Noop{}, f) }, "[noop_downstream]"},
		{"Down", (*toxi.Proxy).Down, "[refuse]"},
		{"Slow", func(p *toxi.Proxy, f func()) error { return p.Slow(1, f) }, "[latency_downstream]"},
		{"Blackhole", (*toxi.Proxy).Blackhole, "[connect_blackhole stall_both]"},
		{"Reset", (*toxi.Proxy).Reset, "[reset_peer_downstream]"},
	}
	ends := []struct {
		name string
		end  func()
	}{
		{"returns", func() {}},
		{"panics", func() { panic("the test fails") }},
		{"ends its goroutine", runtime.Goexit},
	}
	for _, guard := range guards {
		for _, end := range ends {
			t.Run(guard.name+" "+end.name, func(t *testing.T) {
				t.Parallel()
				p := proxy(t, serve(t, "tcp", echo), nil)
				var wg sync.WaitGroup
				wg.Add(1)
				go func() {
					defer wg.Done()
					defer func() { recover() }()
					err := guard.run(p, func() {
						if got := names(p); got != guard.want {
							t.Errorf("faults are %s, want %s", got, guard.want)
						}
						end.end()
					})
					if err != nil {
						t.Error(err)
					}
				}()
				wg.Wait()
				if got := names(p); got != "[]" {
					t.Errorf("faults are %s afterwards", got)
				}
				ping(t, dial(t, p.Addr()))
			})
		}
	}
}

func TestGuardsNest(t *testing.T) {
	t.Parallel()
	p := proxy(t, serve(t, "tcp", echo), nil)
	refused := func() bool { _, err := try(p.Addr()); return errors.Is(err, syscall.ECONNREFUSED) }
	p.Slow(time.Millisecond, func() {
		ping(t, dial(t, p.Addr()))
		p.Down(func() {
			p.Down(func() {
				p.Blackhole(func() {
					if !refused() {
						t.Error("a black hole inside Down does not refuse")
					}
				})
			})
			if !refused() {
				t.Error("after the inner Down it does not refuse")
			}
		})
		ping(t, dial(t, p.Addr()))
		p.Down(func() { p.Clear() })
		ping(t, dial(t, p.Addr()))
	})
	if got := names(p); got != "[]" {
		t.Errorf("faults are %s afterwards", got)
	}
}
