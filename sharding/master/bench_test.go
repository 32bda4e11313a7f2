package master_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// Blocks are free here: this is the cost of an id whose block is there.
func newLocalSequence(t testing.TB, block int64) *master.Sequence {
	t.Helper()
	m := newAway(t)
	m.TakeLocally()
	return sequenceOf(t, m, block)
}

func TestNextAllocatesNothing(t *testing.T) {
	s := newLocalSequence(t, 1_000_000)
	ctx := context.Background()
	if _, err := s.Next(ctx); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = s.Next(ctx) }); n != 0 {
		t.Errorf("Next allocates %v times, want none", n)
	}
}

func BenchmarkNext(b *testing.B) {
	s := newLocalSequence(b, 1000)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Next(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNextParallel(b *testing.B) {
	s := newLocalSequence(b, 1000)
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A read by the package, with and without a write to wait for, beside the pool's.
func BenchmarkRead(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			w := newWorld(b, sharedServers(b, f), nil, nil)
			session := w.WithSession(b.Context(), "")
			w.mustPut(session, 1)
			w.awaitReplica(1)
			var one int
			b.Run("pool", func(b *testing.B) {
				for b.Loop() {
					if err := w.replica.QueryRowContext(b.Context(), `SELECT 1`).Scan(&one); err != nil {
						b.Fatal(err)
					}
				}
			})
			for name, ctx := range map[string]context.Context{"plain": b.Context(), "after a write": session} {
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
						err := w.Read(ctx, func(ctx context.Context, q master.Querier) error {
							return q.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
						})
						if err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}

// A transaction with and without a session, and on a MySQL that has executed
// transactions of many servers, with gaps.
func BenchmarkTx(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			p := pair{primary: testcluster.Start(b, &testcluster.MySQLOptions{Family: f, GTID: true, TCP: true})}
			p.replica = testcluster.Start(b, &testcluster.MySQLOptions{Family: f, GTID: true, ReadOnly: true, ReplicaOf: p.primary})
			w := newWorld(b, p, nil, nil)
			w.exec(`INSERT INTO things (id, v) VALUES (1, 0)`)
			bench := func(name string, ctx context.Context) {
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
						err := w.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
							_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1`)
							return err
						})
						if err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			bench("plain", b.Context())
			bench("session", w.WithSession(b.Context(), ""))
			if f != testcluster.MySQL {
				return
			}
			for _, size := range []int{40, 1000} {
				var set []string
				for i := range size {
					set = append(set, fmt.Sprintf("3e11fa47-71ca-11e1-9e33-%012x:1-%d", i, i+2))
				}
				w.exec(`SET GLOBAL gtid_purged = '+` + strings.Join(set, ",") + `'`)
				ctx := w.WithSession(b.Context(), "")
				bench(fmt.Sprintf("session, and %d past primaries", size), ctx)
				b.Logf("the token has %d bytes", len(w.Token(ctx)))
				if size == 40 {
					w.exec(`RESET BINARY LOGS AND GTIDS`)
				}
			}
		})
	}
}
