package main

import (
	"context"
	"errors"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/toxitest"
)

// A fault makes something fail, and returns what ends that. Both have to be called
// if it comes with an error.
type fault func(ctx context.Context) (end func(context.Context) error, err error)

// toxics is a fault of the network.
func toxics(p *toxitest.Proxy, all ...toxi.Toxic) fault {
	return func(context.Context) (func(context.Context) error, error) {
		var removes []func() error
		end := func(context.Context) error {
			var errs []error
			for _, remove := range removes {
				errs = append(errs, remove())
			}
			return errors.Join(errs...)
		}
		for _, t := range all {
			remove, err := p.Proxy.Add(t)
			if err != nil {
				return end, err
			}
			removes = append(removes, remove)
		}
		return end, nil
	}
}

// hung is a network that swallows everything.
func hung(p *toxitest.Proxy) fault {
	return toxics(p, toxi.ConnectBlackhole{}, toxi.Fault{Toxic: toxi.Stall{}, Stream: toxi.Both})
}

// The rhythm of a server that comes and goes. Who is told no at the beginning, and
// tries again a second later, meets it up.
const (
	flapDown = 700 * time.Millisecond
	flapUp   = 1300 * time.Millisecond
)

// flapping is a server that comes and goes, and is gone at first.
func flapping(p *toxitest.Proxy) fault {
	return func(ctx context.Context) (func(context.Context) error, error) {
		remove, err := p.Proxy.Add(toxi.Refuse{})
		if err != nil {
			return nil, err
		}
		back := time.AfterFunc(flapDown, func() { _ = remove() }) // if it can't, the end can't either
		script := toxi.Flap(toxi.Refuse{}, flapDown, flapUp, 100)
		for i := range script {
			script[i].At += flapDown + flapUp
		}
		playing, stop := context.WithCancel(context.WithoutCancel(ctx))
		played := make(chan error, 1)
		go func() { played <- p.Play(playing, script...) }()
		return func(context.Context) error {
			stop()
			back.Stop()
			err := <-played
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			return errors.Join(err, remove())
		}, nil
	}
}

// killed is the death of a server.
func killed(p *testcluster.Process) fault {
	return func(context.Context) (func(context.Context) error, error) { return p.Restart, p.Kill() }
}

// frozen is a server that stands still, with all its connections.
func frozen(p *testcluster.Process) fault {
	return func(context.Context) (func(context.Context) error, error) {
		return func(context.Context) error { return p.Resume() }, p.Pause()
	}
}

// then does something more when the fault has happened.
func (f fault) then(do func() error) fault {
	return func(ctx context.Context) (func(context.Context) error, error) {
		end, err := f(ctx)
		if err == nil {
			err = do()
		}
		return end, err
	}
}

// in makes it a fault of a pod, or of the master database if pod is 0: the crowd
// comes to the shops that it strikes.
func (f fault) in(m *mall, pod podworks.PodID) fault {
	return func(ctx context.Context) (func(context.Context) error, error) {
		end, err := f(ctx)
		if err != nil {
			return end, err
		}
		m.struck.Store(int64(pod))
		leave := m.crowd()
		return func(ctx context.Context) error {
			leave()
			defer m.struck.Store(0)
			return end(ctx)
		}, nil
	}
}
