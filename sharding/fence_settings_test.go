package sharding_test

import (
	"context"
	"errors"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A server whose max_prepared_stmt_count is used up takes the fence as text.
func TestTheFenceOnAServerThatPreparesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		w := worldOn(t, server, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		w.exec(1, `SET GLOBAL max_prepared_stmt_count = 0`)
		add := func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, insertThing)
			return err
		}
		checkIs(t, "the transaction", s.Tx(ctx, add), nil)
		w.exec(1, `UPDATE podworks_fence SET epoch = 9 WHERE shop_id = 1`)
		_, err := s.DB().ExecContext(ctx, insertThing)
		checkIs(t, "a write with another epoch", err, sharding.ErrMoved)
		w.exec(1, `SET GLOBAL max_prepared_stmt_count = 100`)
		w.wantCount(1, 1, 1)
	})
}

// With innodb_rollback_on_timeout a lock that can't be had in time is as bad.
func TestALockTimeoutThatEndsTheTransaction(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, ends := range []bool{false, true} {
			server := testcluster.Server(t, f)
			if ends {
				server = testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true, Args: []string{"--innodb-rollback-on-timeout=ON"}})
			}
			w := worldOn(t, server, nil, nil)
			ctx, s := w.acquire(1)
			w.exec(1, `INSERT INTO things VALUES (9, 1, 0)`)
			other, err := w.plain[1].BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Rollback()
			if _, err := other.ExecContext(t.Context(), `UPDATE things SET v = 1 WHERE shop_id = 9 AND id = 1`); err != nil {
				t.Fatal(err)
			}
			var next error
			err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				for _, q := range []string{`SET SESSION innodb_lock_wait_timeout = 1`, insertThing} {
					if _, err := tx.ExecContext(ctx, q); err != nil {
						return err
					}
				}
				_, err := tx.ExecContext(ctx, `UPDATE things SET v = 2 WHERE shop_id = 9 AND id = 1`)
				var e *mysql.MySQLError
				if !errors.As(err, &e) || e.Number != 1205 {
					t.Errorf("got %v, want error 1205", err)
				}
				_, next = tx.ExecContext(ctx, `INSERT INTO things VALUES (1, 77, 1)`)
				return nil
			})
			if ends {
				var e *mysql.MySQLError
				if !errors.As(err, &e) || e.Number != 1205 {
					t.Errorf("the transaction ended with %v, want error 1205", err)
				}
				checkIs(t, "the next write", next, sharding.ErrRefused)
				w.wantCount(1, 1, 0)
			} else {
				checkIs(t, "the transaction", err, nil)
				checkIs(t, "the next write", next, nil)
				w.wantCount(1, 1, 2)
			}
		}
	})
}
