package binlog_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/testcluster"
)

// BenchmarkStream reads a log of 50,000 rows of seven columns, in transactions
// of 100 rows: all of it, and as one that wants another table.
func BenchmarkStream(b *testing.B) {
	for _, f := range testcluster.Families() {
		for _, wanted := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/wanted=%t", f, wanted), func(b *testing.B) {
				const rows, per = 50_000, 100
				s := testcluster.Shared(b, f, "bench")
				name := testcluster.Database(b, s)
				db := open(b, s, name)
				if _, err := db.Exec(`CREATE TABLE t (shop_id BIGINT, id BIGINT, name VARCHAR(100), price DECIMAL(10,2), stock INT UNSIGNED, updated DATETIME(6), note TEXT, PRIMARY KEY (shop_id, id))`); err != nil {
					b.Fatal(err)
				}
				stream, err := binlog.New(s.Config(""), &binlog.Options{Tables: func(database, table string) bool { return database == name && (table == "last" || wanted) }})
				if err != nil {
					b.Fatal(err)
				}
				at, err := stream.Now(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				for first := 0; first < rows; first += per {
					var q strings.Builder
					for i := range per {
						fmt.Fprintf(&q, ",(%d, %d, 'product number %d', %d.25, %d, '2024-10-27 02:30:00.123456', 'a note of some length, as shops write them')", i%7, first+i, i, i, i)
					}
					if _, err := db.Exec(`INSERT INTO t VALUES ` + q.String()[1:]); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := db.Exec(`CREATE TABLE last AS SELECT 1 AS n`); err != nil {
					b.Fatal(err)
				}
				done := errors.New("done")
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				n := 0
				for b.Loop() {
					n++
					if err := stream.Run(b.Context(), at, func(ev binlog.Event) error {
						if r, ok := ev.(*binlog.Rows); ok && r.Table.Name == "last" {
							return done
						}
						return nil
					}); err != done {
						b.Fatal(err)
					}
				}
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(n*rows)/b.Elapsed().Seconds(), "rows/s")
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(n*rows), "allocs/row")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
