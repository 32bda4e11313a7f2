package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// workerNews says what the worker has done.
type workerNews struct {
	Captured int64
	Drained  bool // it was asked to end, and there is nothing left to do
}

// A worker does the shops' jobs: it captures the payment of each order.
type worker struct {
	*platform
	captured atomic.Int64
}

const (
	jobsAtATime = 50
	jobsEvery   = 200 * time.Millisecond
	drainLimit  = 30 * time.Second
)

// runWorker does jobs until ctx ends, and then those that are left. Next to that
// it finishes or undoes moves whose movers died.
func runWorker(ctx context.Context, p *process) error {
	platform, err := openPlatform(&p.plan, asApp, 8)
	if err != nil {
		return err
	}
	f, err := openFerry(&p.plan, platform, nil)
	if err != nil {
		return err
	}
	w := &worker{platform: platform}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = platform.run(background) }) // nothing is left in the pools
	wg.Go(func() { _ = f.Run(background) })        // returns why it ended

	p.tell(news{Ready: true})
	shops := p.Settings.shops()
	var pods sync.WaitGroup
	for pod := range p.Servers.Pods {
		pods.Go(func() { w.work(ctx, background, p, pod, shops) })
	}
	pods.Wait()
	drain, stop := context.WithTimeoutCause(background, drainLimit, errors.New("took too long"))
	defer stop()
	for {
		n, err := w.round(drain, shops)
		switch {
		case err != nil:
			return fmt.Errorf("do the jobs that were left: %w", err)
		case n == 0:
			p.tell(news{Worker: &workerNews{Captured: w.captured.Load(), Drained: true}})
			return nil
		}
	}
}

// work does the jobs of the shops in a pod until ctx ends, in rounds on background.
// Each pod has a loop of its own: when one doesn't answer, only its own shops wait.
func (w *worker) work(ctx, background context.Context, p *process, pod podworks.PodID, shops []shop) {
	tick := time.NewTicker(jobsEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if _, err := w.round(background, w.in(background, pod, shops)); err != nil {
			// The jobs are still there: the next round is the retry.
			w.log.Warn("jobs failed", "pod", pod, "err", err)
		}
		p.tell(news{Worker: &workerNews{Captured: w.captured.Load()}})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// in returns the shops that are in a pod now. One that has moved while its jobs are
// done is done where it is.
func (w *worker) in(ctx context.Context, pod podworks.PodID, shops []shop) []shop {
	var here []shop
	for _, sh := range shops {
		route, err := w.Directory().Lookup(ctx, sh.id)
		if err != nil {
			w.log.Warn("a shop's jobs wait", "shop", sh.id, "err", err)
			continue
		}
		if route.Pod == pod {
			here = append(here, sh)
		}
	}
	return here
}

// round does some jobs of each shop, and returns how many there were.
func (w *worker) round(ctx context.Context, shops []shop) (int, error) {
	var n int
	var errs []error
	for _, sh := range shops {
		err := w.Do(ctx, sh.id, func(ctx context.Context, s *sharding.Scope) error {
			done, err := w.capture(ctx, s)
			n += done
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("shop %d: %w", sh.id, err))
		}
	}
	return n, errors.Join(errs...)
}

// capture does some of a shop's jobs. A payment and the end of its job are one
// transaction, so whatever happens there is the one or the other.
func (w *worker) capture(ctx context.Context, s *sharding.Scope) (int, error) {
	var ids []any
	err := rows(ctx, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM jobs WHERE shop_id = ? ORDER BY id LIMIT ?`, int64(s.Shop()), jobsAtATime)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	done := 0
	err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		// That look was at a pod that the shop may have left. What counts is what
		// is there now, under the fence.
		these := `shop_id = ? AND id IN (?` + strings.Repeat(`, ?`, len(ids)-1) + `)`
		args := append([]any{int64(s.Shop())}, ids...)
		var payments []any
		if err := each(ctx, tx, func(rows *sql.Rows) error {
			var order, amount int64
			err := rows.Scan(&order, &amount)
			payments = append(payments, int64(s.Shop()), order, amount, time.Now().UTC())
			done++
			return err
		}, `SELECT order_id, amount_cents FROM jobs WHERE `+these+` FOR UPDATE`, args...); err != nil || done == 0 {
			return err
		}
		// A real gateway is asked before this, with the order's id as the key
		// under which it knows a repeated request.
		if _, err := tx.ExecContext(ctx, `INSERT INTO payments (shop_id, id, amount_cents, captured_at) VALUES (?, ?, ?, ?)`+
			strings.Repeat(`, (?, ?, ?, ?)`, done-1), payments...); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM jobs WHERE `+these, args...)
		return err
	})
	if err != nil {
		return 0, err
	}
	w.captured.Add(int64(done))
	return len(ids), nil
}
