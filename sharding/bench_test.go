package sharding_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func BenchmarkAcquire(b *testing.B) {
	w := newWorld(b, testcluster.MariaDB, nil, nil)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		s, err := w.cluster.Acquire(ctx, 1)
		if err != nil {
			b.Fatal(err)
		}
		s.Release()
	}
}

func BenchmarkDo(b *testing.B) {
	w := newWorld(b, testcluster.MariaDB, nil, nil)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := w.cluster.Do(ctx, 1, func(context.Context, *sharding.Scope) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBesidePlain runs the same work on a plain pool and through a scope for
// each unit of it, in turns, on one server. It reports the medians of both, and
// that of the ratio of each pair of turns. The servers sync each commit to the
// disk, as a shop's do.
func BenchmarkBesidePlain(b *testing.B) {
	const (
		read     = `SELECT v FROM things WHERE shop_id = 1 AND id = ?`
		update   = `UPDATE things SET v = v + 1 WHERE shop_id = 1 AND id = ?`
		manyOpen = 512
	)
	type work struct {
		name  string
		plain func(ctx context.Context, db *sql.DB, id int) error
		ours  func(ctx context.Context, s *sharding.Scope, id int) error
	}
	query := func(ctx context.Context, db *sql.DB, id int) error {
		var v int
		return db.QueryRowContext(ctx, read, id).Scan(&v)
	}
	single := func(ctx context.Context, db *sql.DB, id int) error {
		_, err := db.ExecContext(ctx, update, id)
		return err
	}
	works := []work{
		{"read", query, func(ctx context.Context, s *sharding.Scope, id int) error { return query(ctx, s.DB(), id) }},
		{"tx", func(ctx context.Context, db *sql.DB, id int) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			for i := range 2 {
				if _, err := tx.ExecContext(ctx, update, 2*id+i); err != nil {
					return err
				}
			}
			return tx.Commit()
		}, func(ctx context.Context, s *sharding.Scope, id int) error {
			return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				for i := range 2 {
					if _, err := tx.ExecContext(ctx, update, 2*id+i); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{"autocommit", single, func(ctx context.Context, s *sharding.Scope, id int) error { return single(ctx, s.DB(), id) }},
	}
	for _, f := range testcluster.Families() {
		server := testcluster.Start(b, &testcluster.MySQLOptions{Family: f, Durable: true, Args: []string{"--max-connections=1200", "--back-log=1200"}})
		w := worldOn(b, server, &sharding.Options{MaxOpenConns: manyOpen, MaxOpenTx: manyOpen}, nil)
		w.plain[1].SetMaxOpenConns(manyOpen)
		w.plain[1].SetMaxIdleConns(manyOpen)
		for id := range 2 * manyOpen {
			w.exec(1, `INSERT INTO things VALUES (1, ?, 0)`, id)
		}
		for _, c := range []struct {
			work    int
			workers int
		}{{0, 1}, {0, 16}, {1, 1}, {1, 16}, {1, manyOpen}, {2, 1}, {2, 16}} {
			work := works[c.work]
			b.Run(fmt.Sprintf("%s/%s/workers=%d", f, work.name, c.workers), func(b *testing.B) {
				ctx := b.Context()
				var plain, ours, ratio []float64
				var p, o float64
				turns := []func(){
					func() { p = rate(b, c.workers, func(id int) error { return work.plain(ctx, w.plain[1], id) }) },
					func() {
						o = rate(b, c.workers, func(id int) error {
							return w.cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) error { return work.ours(ctx, s, id) })
						})
					},
				}
				for range 10 {
					for _, turn := range turns {
						turn()
					}
					slices.Reverse(turns) // who comes first finds another machine than who comes second
					plain, ours, ratio = append(plain, p), append(ours, o), append(ratio, o/p)
				}
				b.ReportMetric(0, "ns/op") // of no meaning: leaves it out
				b.ReportMetric(median(plain), "plain/s")
				b.ReportMetric(median(ours), "ours/s")
				b.ReportMetric(median(ratio), "of-plain")
			})
		}
	}
}

// rate returns how often a second work is done by workers, each with an id of its
// own.
func rate(b *testing.B, workers int, work func(id int) error) float64 {
	b.Helper()
	const turn = 700 * time.Millisecond
	var done atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for id := range workers {
		wg.Go(func() {
			for time.Since(start) < turn {
				if err := work(id); err != nil {
					b.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
