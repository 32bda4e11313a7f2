package redispush_test

import (
	"context"
	"database/sql"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// From Publish to heard, over a unix socket.
func BenchmarkPublishHeard(b *testing.B) {
	server := testcluster.Redis(b, nil)
	p := newPush(b, server.Socket(), nil)
	s := subscribe(b, p, p)
	b.ReportAllocs()
	for v := uint64(2); b.Loop(); v++ {
		if err := p.Publish(b.Context(), v); err != nil {
			b.Fatal(err)
		}
		if got := s.next(); got != v {
			b.Fatalf("heard %d, want %d", got, v)
		}
	}
}

// BenchmarkChangeHeard is the time from the decision of a move in one process's
// directory to the look-up in another's that knows of it: with the push, and by
// the poll alone.
func BenchmarkChangeHeard(b *testing.B) {
	for _, with := range []string{"push", "poll"} {
		b.Run(with, func(b *testing.B) {
			ctx, server := b.Context(), testcluster.Server(b, testcluster.MariaDB)
			c, err := mysql.NewConnector(server.Config(testcluster.Database(b, server)))
			if err != nil {
				b.Fatal(err)
			}
			master := sql.OpenDB(c)
			b.Cleanup(func() { master.Close() })
			redisServer := testcluster.Redis(b, nil)
			directory := func() *sharding.Directory {
				opts := &sharding.DirectoryOptions{}
				if with == "push" {
					opts.Push = newPush(b, redisServer.Socket(), nil)
				}
				return sharding.NewDirectory(master, opts)
			}
			writer, reader := directory(), directory()
			if err := writer.Migrate(ctx); err != nil {
				b.Fatal(err)
			}
			for pod := podworks.PodID(1); pod <= 2; pod++ {
				if err := writer.AddPod(ctx, pod, "here"); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := master.ExecContext(ctx, `INSERT INTO podworks_shops (shop_id, pod_id, epoch, version) VALUES (1, 1, 1, 1)`); err != nil {
				b.Fatal(err)
			}
			if _, err := reader.Fresh(ctx, 1); err != nil {
				b.Fatal(err)
			}
			runs, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop()
			for _, d := range []*sharding.Directory{writer, reader} {
				wg.Go(func() { _ = d.Run(runs) })
			}
			var took []time.Duration
			to := podworks.PodID(2)
			for b.Loop() {
				m, err := writer.Claim(ctx, 1, to, time.Minute)
				if err == nil {
					err = writer.Note(ctx, m.Token)
				}
				if err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if _, err := writer.Decide(ctx, m.Token); err != nil {
					b.Fatal(err)
				}
				for {
					r, err := reader.Lookup(ctx, 1)
					if err != nil {
						b.Fatal(err)
					}
					if r.Pod == to {
						break
					}
					runtime.Gosched()
				}
				took = append(took, time.Since(start))
				if err := writer.Finish(ctx, m.Token); err != nil {
					b.Fatal(err)
				}
				to = 3 - to
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op") // of no meaning: leaves it out
			b.ReportMetric(float64(took[len(took)/2])/1e6, "median-ms")
			b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
			b.ReportMetric(float64(took[len(took)-1])/1e6, "max-ms")
		})
	}
}
