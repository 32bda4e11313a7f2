package sharding_test

import (
	"context"
	"database/sql"
	"testing"

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

// BenchmarkTx runs transactions of two statements from one goroutine, on a plain
// pool, on the pod's, and with Scope.Tx; and single reads.
func BenchmarkTx(b *testing.B) {
	for _, f := range testcluster.Families() {
		w := newWorld(b, f, nil, nil)
		ctx, s := w.acquire(1)
		for id := range 2 {
			w.exec(1, `INSERT INTO things VALUES (1, ?, 0)`, id)
		}
		const first, second = `UPDATE things SET v = v + 1 WHERE shop_id = 1 AND id = 0`, `UPDATE things SET v = v + 1 WHERE shop_id = 1 AND id = 1`
		pools := map[string]*sql.DB{"plain": w.plain[1], "fenced": s.DB()}
		for _, name := range []string{"plain", "fenced"} {
			b.Run(string(f)+"/"+name, func(b *testing.B) {
				for b.Loop() {
					tx, err := pools[name].BeginTx(ctx, nil)
					if err != nil {
						b.Fatal(err)
					}
					for _, q := range []string{first, second} {
						if _, err := tx.ExecContext(ctx, q); err != nil {
							b.Fatal(err)
						}
					}
					if err := tx.Commit(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(string(f)+"/Scope.Tx", func(b *testing.B) {
			for b.Loop() {
				err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
					for _, q := range []string{first, second} {
						if _, err := tx.ExecContext(ctx, q); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, name := range []string{"plain", "fenced"} {
			b.Run(string(f)+"/read/"+name, func(b *testing.B) {
				var n int
				for b.Loop() {
					if err := pools[name].QueryRowContext(ctx, `SELECT v FROM things WHERE shop_id = 1 AND id = 0`).Scan(&n); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
