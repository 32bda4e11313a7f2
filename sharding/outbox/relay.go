package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/podworks/podworks"
)

const (
	// patience bounds one statement of a relay. They touch a few rows each: what
	// takes longer is a server that hangs, or a network that lost its packets.
	patience = 10 * time.Second

	// A look takes the lines of at most this many shops, and the next look goes on
	// behind them: some milliseconds of the server's time for each process.
	lookShops = 1000

	// The gauges are read with every so many looks, and count no further than
	// maxGauge.
	gaugeEvery = 10
	maxGauge   = 10_000
)

// errSlowPod is the cause when patience ends.
var errSlowPod = fmt.Errorf("the pod did not answer within %v", patience)

// A relay serves one pod.
type relay struct {
	box   *Outbox
	pod   podworks.PodID
	db    *sql.DB
	queue *queue

	mu     sync.Mutex // guards what follows
	fault  error      // of a worker since the last look
	gauges PodStats
}

// relay is the part of Run for one pod. It returns when ctx ends.
func (o *Outbox) relay(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
	workers := o.opts.Concurrency
	db.SetMaxOpenConns(workers + 2) // for the looks, and for a note whose worker's session was lost
	db.SetMaxIdleConns(workers + 2)
	db.SetConnMaxIdleTime(o.opts.Timeout / 2) // the server ends them later, see idleSession
	r := &relay{box: o, pod: pod, db: db, queue: newQueue(maxQueued)}
	o.mu.Lock()
	o.relays[pod] = r
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		delete(o.relays, pod)
		o.mu.Unlock()
	}()

	var wg sync.WaitGroup
	defer wg.Wait()
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	r.watch(ctx)
	return nil
}

// work serves shops as they come.
func (r *relay) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case shop := <-r.queue.ready:
			r.queue.begin(shop)
			more, err := r.serve(ctx, shop)
			r.report(ctx, err)
			r.queue.end(shop, more)
		}
	}
}

// report keeps a worker's error for the next look.
func (r *relay) report(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = err
}

// watch looks at the pod every Poll.
func (r *relay) watch(ctx context.Context) {
	after := int64(math.MinInt64)
	failing := false
	for n := 0; ctx.Err() == nil; n++ {
		var err error
		if after, err = r.look(ctx, after); err == nil && n%gaugeEvery == 0 {
			err = r.gauge(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		if err == nil {
			err = r.fault
		}
		r.fault, r.gauges.Err = nil, err
		r.mu.Unlock()
		switch {
		case err != nil && !failing:
			r.box.opts.Logger.Warn("the outbox of a pod can't be served", "pod", r.pod, "err", err)
		case err == nil && failing:
			r.box.opts.Logger.Info("the outbox of a pod is served again", "pod", r.pod)
		}
		failing = err != nil
		// Processes that were started together look at different times.
		wait(ctx, jitter(r.box.opts.Poll, rand.Float64()))
	}
}

// look queues the shops whose first message is due, from the one behind after,
// and returns where the next look begins.
//
// It reads without locks, so a row that is not committed is not there, and one
// that is deleted and not yet committed is: who takes the shop's lock looks again.
func (r *relay) look(ctx context.Context, after int64) (next int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlowPod)
	defer cancel()
	// The inner query jumps from shop to shop in the index, however long the lines.
	rows, err := r.db.QueryContext(ctx, fmt.Sprintf(`SELECT h.pending, o.due <= UTC_TIMESTAMP(6)
		FROM (SELECT pending, MIN(seq) AS seq FROM podworks_outbox FORCE INDEX (pending) WHERE pending > %d GROUP BY pending ORDER BY pending LIMIT %d) h
		STRAIGHT_JOIN podworks_outbox o ON o.seq = h.seq ORDER BY h.pending`, after, lookShops))
	if err != nil {
		return after, fmt.Errorf("outbox: look at pod %d: %w", r.pod, explain(because(ctx, err)))
	}
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var shop int64
		var due bool
		if err := rows.Scan(&shop, &due); err != nil {
			return after, err
		}
		if due && !r.queue.add(podworks.ShopID(shop)) {
			r.box.counts.dropped.Add(1)
			return after, nil // the workers have enough to do; from here the next time
		}
		after = shop
		seen++
	}
	if err := rows.Err(); err != nil {
		return after, fmt.Errorf("outbox: look at pod %d: %w", r.pod, because(ctx, err))
	}
	if seen < lookShops {
		after = math.MinInt64
	}
	return after, nil
}

// gauge reads what Stats tells of the pod.
func (r *relay) gauge(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlowPod)
	defer cancel()
	var pending, parked int
	var oldest sql.NullInt64
	// Rows come in about the order of their numbers: the lowest is the oldest. All
	// but the age comes from the index alone.
	err := r.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT w.n, p.n, TIMESTAMPDIFF(MICROSECOND, o.created, UTC_TIMESTAMP(6))
		FROM (SELECT COUNT(*) AS n, MIN(seq) AS seq FROM (SELECT seq FROM podworks_outbox FORCE INDEX (pending) WHERE pending IS NOT NULL LIMIT %[1]d) a) w
		JOIN (SELECT COUNT(*) AS n FROM (SELECT seq FROM podworks_outbox FORCE INDEX (pending) WHERE pending IS NULL LIMIT %[1]d) b) p
		LEFT JOIN podworks_outbox o ON o.seq = w.seq`, maxGauge)).Scan(&pending, &parked, &oldest)
	if err != nil {
		return fmt.Errorf("outbox: count the messages in pod %d: %w", r.pod, because(ctx, err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gauges.Pending, r.gauges.Parked = pending, parked
	r.gauges.Oldest = max(0, time.Duration(oldest.Int64)*time.Microsecond)
	return nil
}

// because returns err with the cause of ctx's end, if it has ended.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// backoff returns the pause after a number of failed attempts, from first, twice
// as long each time, up to limit.
func backoff(failed int, first, limit time.Duration) time.Duration {
	pause := first
	for ; failed > 1 && pause < limit; failed-- {
		if pause > limit/2 { // twice that could be more than a Duration holds
			return limit
		}
		pause *= 2
	}
	return min(pause, limit)
}

// jitter takes up to half off d; by is from [0, 1).
func jitter(d time.Duration, by float64) time.Duration {
	return d - time.Duration(by*float64(d)/2)
}
