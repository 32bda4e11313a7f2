package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

const (
	manyShops  = 200
	manyRows   = 1000 // of each, in two tables
	manyAtOnce = 8
)

// BenchmarkQueue has a queue move many small shops, some at a time.
func BenchmarkQueue(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			a := newArena(b, f)
			a.reset(b, ownTables...)
			a.many(b)
		})
	}
}

func (a *arena) many(b *testing.B) {
	ctx, stop := context.WithTimeout(b.Context(), 10*time.Minute)
	defer stop()
	source, target := a.open(b, sourcePod), a.open(b, targetPod)
	a.master.SetMaxIdleConns(2 * manyAtOnce)
	defer a.master.SetMaxIdleConns(2)
	j := a.job
	j.shop = 1
	f, err := j.prepare(ctx, a.master)
	if err != nil {
		b.Fatal(err)
	}
	for shop := 1; shop <= manyShops; shop++ {
		err := fillShop(ctx, source, shop, after(shop), manyRows/2, manyRows/2)
		if err == nil {
			_, err = ferry.NewTables(a.master).AddShop(ctx, podworks.ShopID(shop), sourcePod)
		}
		if err == nil {
			err = f.OpenShop(ctx, podworks.ShopID(shop))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := analyze(ctx, source, "products", "orders"); err != nil {
		b.Fatal(err)
	}
	q, err := ferry.NewQueue(f, a.master, &ferry.QueueOptions{Moves: manyAtOnce, PerPod: manyAtOnce})
	if err == nil {
		err = q.Migrate(ctx)
	}
	if err != nil {
		b.Fatal(err)
	}
	var jobs []ferry.Job
	for shop := 1; shop <= manyShops; shop++ {
		j, err := q.Add(ctx, podworks.ShopID(shop), targetPod)
		if err != nil {
			b.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	running, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- q.Run(running) }()
	for left := 1; left > 0; {
		time.Sleep(20 * time.Millisecond) // a look at the table from outside, as a queue has no hook for its last job
		if err := a.master.QueryRowContext(ctx, `SELECT COUNT(*) FROM podworks_move_jobs WHERE active IS NOT NULL`).Scan(&left); err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(began).Seconds()
	end()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		b.Fatal(err)
	}
	failures, again := 0, 0
	for _, j := range jobs {
		if j, err = q.Job(ctx, j.ID); err != nil {
			b.Fatal(err)
		}
		if j.State != ferry.JobDone || j.Error != "" {
			failures++
			fmt.Printf("# shop %d: %s: %s\n", j.Shop, j.State, j.Error)
		}
		again += j.Tries - 1
	}
	var rows int
	if err := target.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM products) + (SELECT COUNT(*) FROM orders)`).Scan(&rows); err != nil {
		b.Fatal(err)
	}
	if rows != manyShops*manyRows {
		b.Fatalf("the target has %d rows, want %d", rows, manyShops*manyRows)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took, "s")
	b.ReportMetric(manyShops, "moves")
	b.ReportMetric(manyShops/took, "moves/s")
	b.ReportMetric(float64(failures), "failures")
	b.ReportMetric(float64(again), "tried-again")
}
