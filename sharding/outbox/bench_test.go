package outbox_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/outbox"
)

// What a message costs its transaction, which writes one row besides, with
// several writers in one pod; and what the relay that deletes what they write
// costs them.
func BenchmarkTx(b *testing.B) {
	for _, f := range testcluster.Families() {
		for _, c := range []struct {
			name           string
			message, relay bool
		}{
			{"without", false, false},
			{"message", true, false},
			{"message,relay", true, true},
		} {
			b.Run(string(f)+"/"+c.name, func(b *testing.B) {
				w := newWorld(b, f, nil)
				box := w.newBox(w.cluster, func(context.Context, outbox.Message) error { return nil }, &outbox.Options{})
				if c.relay {
					w.relay(b.Context(), box)
				}
				payload := make([]byte, 300)
				var ids atomic.Int64
				b.SetParallelism(4)
				waits := w.rowLockWaits()
				start := time.Now()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						id := ids.Add(1)
						err := w.cluster.Do(b.Context(), podworks.ShopID(id%2*2+1), func(ctx context.Context, s *sharding.Scope) error {
							return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
								if _, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (?, ?)`, int64(s.Shop()), id); err != nil || !c.message {
									return err
								}
								return box.Add(ctx, "thing.created", payload)
							})
						})
						if err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "tx/s")
				b.ReportMetric(float64(w.rowLockWaits()-waits), "lock-waits")
				if c.relay {
					w.awaitEmpty(1)
					b.ReportMetric(float64(box.Stats().Delivered)/time.Since(start).Seconds(), "delivered/s")
				}
			})
		}
	}
}

// A delivery that takes no time, of shops with long lines.
func BenchmarkDeliver(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			w := newWorld(b, f, nil)
			w.exec(1, `INSERT INTO podworks_outbox (shop_id, pending, epoch, id, topic, payload, created, due)
				WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
				SELECT i % 10 + 1, i % 10 + 1, 1, i, 'thing.created', REPEAT('x', 300), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM n`)
			for n := 1000; n < b.N; n *= 2 {
				w.exec(1, `INSERT INTO podworks_outbox (shop_id, pending, epoch, id, topic, payload, created, due)
					SELECT shop_id, pending, epoch, id, topic, payload, created, due FROM podworks_outbox`)
			}
			rows := w.count(1, `SELECT COUNT(*) FROM podworks_outbox`)
			box := w.newBox(w.cluster, func(context.Context, outbox.Message) error { return nil }, &outbox.Options{})
			b.ResetTimer()
			start := time.Now()
			w.relay(b.Context(), box)
			await(b, "the deliveries", func() bool { return box.Stats().Delivered >= uint64(rows) })
			b.ReportMetric(float64(rows)/time.Since(start).Seconds(), "messages/s")
		})
	}
}

// rowLockWaits returns how often anybody has waited for a row's lock.
func (w *world) rowLockWaits() int {
	w.t.Helper()
	var name string
	var n int
	if err := w.plain[1].QueryRowContext(w.t.Context(), `SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'`).Scan(&name, &n); err != nil {
		w.t.Fatal(err)
	}
	return n
}
