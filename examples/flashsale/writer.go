package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// writerNews says how writing goes.
type writerNews struct {
	Written int64
	Failed  int64
	Failure string        // the first
	Longest time.Duration // from asking for a transaction to having the fence
}

// writerLedger is the file that the writer leaves.
const writerLedger = "pulses"

// writeEvery is the time between two writes, and so how much of a pause the
// writer can miss.
const writeEvery = 4 * time.Millisecond

// runWriter makes one small write after the other in the hot shop until ctx
// ends. What it measures is the move's write pause as an application feels it:
// the time from asking for a transaction to having the fence, with everything
// that happens in between, be it a lock held by the mover, several steps back or
// the way to the other pod.
func runWriter(ctx context.Context, p *process) error {
	platform, err := openPlatform(&p.plan, asApp, 4)
	if err != nil {
		return err
	}
	ledger, err := os.OpenFile(p.ledger(writerLedger), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer ledger.Close()
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = platform.run(background) }) // nothing is left in the pools

	numbers := ids{process: p.Process}
	p.tell(news{Ready: true})
	var n writerNews
	told := time.Now()
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.tell(news{Writer: &n})
			return nil
		case <-tick.C:
		}
		e := entry{Shop: int64(p.Hot), ID: numbers.next()}
		// The write under way when the end comes is finished.
		err := platform.Do(background, p.Hot, func(ctx context.Context, s *sharding.Scope) error {
			return pulse(ctx, s, &e)
		})
		e.At = time.Now().UnixNano()
		if err == nil {
			n.Written++
		} else {
			e.ID = 0 // it waited, and was not acknowledged
			if n.Failed++; n.Failed == 1 {
				n.Failure = err.Error()
			}
		}
		if _, err := ledger.WriteString(e.String()); err != nil {
			return fmt.Errorf("write the ledger: %w", err)
		}
		n.Longest = max(n.Longest, time.Duration(e.Wait))
		if time.Since(told) > 250*time.Millisecond {
			p.tell(news{Writer: &n})
			told = time.Now()
		}
	}
}

// pulse writes one row and notes how long the fence was waited for. A write
// whose outcome is unknown is looked up, with a lock, before it is called done.
func pulse(ctx context.Context, s *sharding.Scope, e *entry) error {
	asked := time.Now()
	err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		e.Wait = int64(time.Since(asked))
		_, err := tx.ExecContext(ctx, `INSERT INTO pulses (shop_id, id) VALUES (?, ?)`, e.Shop, e.ID)
		return err
	})
	if err != nil && e.Wait == 0 {
		e.Wait = int64(time.Since(asked)) // for nothing
	}
	if !errors.Is(err, podworks.ErrOutcomeUnknown) {
		return err
	}
	return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		var id int64
		lookErr := tx.QueryRowContext(ctx, `SELECT id FROM pulses WHERE shop_id = ? AND id = ? LOCK IN SHARE MODE`, e.Shop, e.ID).Scan(&id)
		if errors.Is(lookErr, sql.ErrNoRows) {
			return err
		}
		return lookErr
	})
}
