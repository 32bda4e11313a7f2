package ferry_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// keep keeps the way to pod 1 open until the test ends it, and waits until it stands by.
func (w *world) keep() (end context.CancelFunc, ended <-chan error) {
	w.t.Helper()
	ctx, end := context.WithCancel(w.t.Context())
	standby, out := make(chan struct{}), make(chan error, 1)
	tr := &trail{at: map[string]func(){"standby": func() { close(standby) }}}
	go func() { out <- w.ferry.Keep(tr.follow(ctx), w.shop, 1) }()
	select {
	case <-standby:
	case err := <-out:
		w.t.Fatal(err)
	}
	return end, out
}

func TestMoveTakesTheShopBackFromAKeeper(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		w.addPod(3)
		w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
		end, ended := w.keep()
		defer end()
		w.same("orders") // has come before it stands by
		w.exec(w.target, `INSERT INTO orders VALUES (7, 5, 'kept', NULL)`)
		until(t, "a write to be in pod 1", func() bool {
			return w.count(w.source, `SELECT COUNT(*) FROM orders WHERE shop_id = 7 AND id = 5`) == 1
		})
		contains(t, w.ferry.Keep(t.Context(), w.shop, 1), ferry.ErrBusy, "standby")
		_, err := w.ferry.Move(t.Context(), w.shop, 3)
		contains(t, err, ferry.ErrBusy, "standby")
		_, err = w.ferry.Rehearse(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrBusy, "standby")
		_, err = w.ferry.Clean(t.Context(), w.shop, 1)
		contains(t, err, ferry.ErrRefused, "the shop has not moved away from it")
		select {
		case err := <-ended:
			t.Fatalf("the keeper ended: %v", err)
		default:
		}

		w.exec(w.target, `INSERT INTO orders VALUES (7, 6, 'last', NULL)`)
		report, err := w.newFerry(&ferry.Options{Ignore: []string{"countries"}}).Move(t.Context(), w.shop, 1)
		if err != nil {
			t.Fatal(err)
		}
		contains(t, <-ended, ferry.ErrReplaced, "keep the way back of shop 7 to pod 1")
		if report.RowsCopied != 0 || report.RowsRepaired != 0 {
			t.Errorf("got %+v, want no row copied or repaired", *report)
		}
		w.same("products")
		w.same("orders")
		w.at(1, 3)
	})
}

// Two moves back have found a keeper before one of them takes its place.
func TestOneMoveTakesTheShopBackFromAKeeper(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Minute})
		end, ended := w.keep()
		defer end()
		first := make(chan error, 1)
		claimed, goOn := make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(goOn) })
		defer func() { release(); <-first }()
		tr := &trail{at: map[string]func(){"claim": func() {
			other := &trail{at: map[string]func(){"incoming": func() { close(claimed); <-goOn }}}
			go func() {
				_, err := w.ferry.Move(other.follow(t.Context()), w.shop, 1)
				first <- err
			}()
			select {
			case <-claimed:
			case err := <-first:
				t.Errorf("the first move ended: %v", err)
				first <- err
			}
		}}}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 1)
		contains(t, err, ferry.ErrBusy, "the shop is being moved")
		release()
		err = <-first
		first <- nil
		w.must(err)
		contains(t, <-ended, ferry.ErrReplaced)
		w.at(1, 3)
	})
}

func TestAKeeperThatEndsOrDiesLeavesTheWayBackOpen(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, &patient)
		end, ended := w.keep()
		end()
		contains(t, <-ended, context.Canceled, "keep the way back of shop 7 to pod 1")
		if moves, err := w.dir.Moves(t.Context()); err != nil || len(moves) != 0 {
			t.Errorf("the journal has %+v, %v; want nothing unfinished", moves, err)
		}
		place := func() (p string) {
			w.must(w.source.QueryRowContext(t.Context(), `SELECT position FROM podworks_ferry_tail WHERE shop_id = 7`).Scan(&p))
			return p
		}
		first := place()
		w.at(2, 2)

		p := w.process(role{Keep: 1, Stop: "standby", Lease: patient.Lease})
		p.await("before standby")
		until(t, "the second keeper to come further", func() bool { return place() != first })
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		w.exec(w.target, `INSERT INTO orders VALUES (7, 6, 'last', NULL)`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.ferry.Run(ctx)
		until(t, "Run to take the keeper for dead", func() bool {
			moves, err := w.dir.Moves(t.Context())
			return err == nil && len(moves) == 0
		})
		if row, err := fence.Read(t.Context(), w.source, w.shop, ""); err != nil || row.State != fence.Absent {
			t.Errorf("the fence of pod 1 says %v, %v; want absent", row, err)
		}
		report, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil || report.RowsCopied != 0 || report.RowsRepaired != 0 {
			t.Fatalf("got %+v, %v; want a move back without a copy", report, err)
		}
		w.same("products")
		w.same("orders")
		w.at(1, 3)
	})
}

func TestKeepRefusesWhereNothingWasLeft(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 30)
		contains(t, w.ferry.Keep(t.Context(), w.shop, 2), ferry.ErrRefused, "the shop left no rows there")
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		_, ended := w.keep()
		until(t, "the place in the log to be written down while the shop writes nothing", func() bool {
			return w.count(w.source, `SELECT COUNT(*) FROM podworks_ferry_tail AS t JOIN podworks_ferry_left AS l ON l.shop_id = t.shop_id WHERE t.position <> l.there`) == 1
		})
		_, err := w.ferry.Move(t.Context(), w.shop, 1)
		if err != nil {
			t.Fatal(err)
		}
		contains(t, <-ended, ferry.ErrReplaced)
		if err := w.ferry.Keep(t.Context(), w.shop, 1); !errors.Is(err, ferry.ErrRefused) {
			t.Errorf("got %v for the pod that the shop is in, want it refused", err)
		}
		if _, err := w.ferry.Clean(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		contains(t, w.ferry.Keep(t.Context(), w.shop, podworks.PodID(2)), ferry.ErrRefused, "the shop left no rows there")
	})
}
