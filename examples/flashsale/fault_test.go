package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/matrix"
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

// frozen are servers that stand still, with all their connections.
func frozen(all ...*testcluster.Process) fault {
	return func(context.Context) (func(context.Context) error, error) {
		var errs []error
		for _, p := range all {
			errs = append(errs, p.Pause())
		}
		return func(context.Context) error {
			var errs []error
			for _, p := range all {
				errs = append(errs, p.Resume())
			}
			return errors.Join(errs...)
		}, errors.Join(errs...)
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

// in makes it a fault of a pod, or of the master database if pod is masterStruck:
// the crowd comes to the shops that it strikes.
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

// renamed is a product that nobody looks at but those who want to know which pod a
// page came from.
const (
	renamed = 5
	newName = "The one that only the new pod has"
)

// moves has the first pod's shops moved to the second while the fault f keeps every
// process from hearing. Its end waits until they have heard, and brings the shops
// back.
func (m *mall) moves(f fault) fault {
	return func(ctx context.Context) (func(context.Context) error, error) {
		mover, err := m.openMover()
		if err != nil {
			return nil, err
		}
		end, err := f(ctx)
		if err == nil {
			err = mover.move(ctx, firstPod, secondPod)
		}
		if err != nil {
			return func(ctx context.Context) error { return errors.Join(end(ctx), mover.close()) }, err
		}
		m.moved.Store(true)
		return func(ctx context.Context) error {
			defer m.moved.Store(false)
			// Nobody has ordered in the first shop, so nothing has told the storefront.
			late := m.page(ctx, m.shops[0], fmt.Sprintf("/products/%d", renamed), newName).Outcome != matrix.OutcomeUp
			err := end(ctx)
			if !late {
				err = errors.Join(err, errors.New("the storefront had heard of the move; the fault was none"))
			}
			return errors.Join(err, m.heard(ctx), mover.move(ctx, secondPod, firstPod), mover.close())
		}, nil
	}
}

// heard waits until the storefront reads the first shop where it is.
func (m *mall) heard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		if m.page(ctx, m.shops[0], fmt.Sprintf("/products/%d", renamed), newName).Outcome == matrix.OutcomeUp {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the storefront has not heard of the move %v after it could have", recoverWithin)
		}
	}
}

// A testMover moves the first pod's shops, past the faults.
type testMover struct {
	mall     *mall
	platform *platform
	ferry    *ferry.Ferry
}

func (m *mall) openMover() (*testMover, error) {
	pl := m.plan
	pl.Servers = m.servers
	p, err := openPlatform(&pl, asAdmin, 4)
	if err != nil {
		return nil, err
	}
	f, err := openFerry(&pl, p, nil)
	return &testMover{m, p, f}, err
}

func (mv *testMover) close() error {
	return errors.Join(mv.platform.Close(), mv.platform.master.Close())
}

// move moves the shops. In the second pod they have a product under another name.
func (mv *testMover) move(ctx context.Context, from, to podworks.PodID) error {
	shops := []shop{mv.mall.shops[0], mv.mall.shops[2]}
	errs := make([]error, len(shops))
	var wg sync.WaitGroup
	for i, sh := range shops {
		wg.Go(func() { errs[i] = mv.moveShop(ctx, sh, from, to) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (mv *testMover) moveShop(ctx context.Context, sh shop, from, to podworks.PodID) error {
	// A worker that finds a job in the old pod would hear of the move by that.
	if err := mv.mall.pods[from].idle(ctx, sh); err != nil {
		return err
	}
	home, title := to == sh.pod, newName
	if home { // where the way there has left its rows
		title = mv.mall.plan.Settings.product(sh.id, renamed).title
		if _, err := mv.ferry.Clean(ctx, sh.id, to); err != nil {
			return err
		}
	}
	_, err := mv.ferry.Move(ctx, sh.id, to)
	if err == nil && home {
		_, err = mv.ferry.Clean(ctx, sh.id, from)
	}
	if err == nil {
		_, err = mv.mall.pods[to].db.ExecContext(ctx, `UPDATE products SET title = ? WHERE shop_id = ? AND id = ?`, title, int64(sh.id), renamed)
	}
	return err
}
