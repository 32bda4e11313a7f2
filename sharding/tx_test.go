package sharding_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// insert writes a thing of shop 1.
func insert(ctx context.Context, tx *sharding.Tx, id int) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (1, ?, 1)`, id)
	return err
}

// Every way a transaction can end: what its caller gets, what its AfterEnd
// hooks are told, and what is in the table.
func TestHowATransactionEnds(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	type run struct {
		ctx    context.Context
		tx     *sharding.Tx
		dialer *cut.Dialer
		end    context.CancelCauseFunc
	}
	for _, c := range []struct {
		name string
		fn   func(r run) error

		want    error // nil: committed
		notWant error
		panics  any
		rows    int
	}{
		{name: "commit", fn: func(run) error { return nil }, rows: 1},
		{name: "error", fn: func(run) error { return boom }, want: boom},
		{name: "panic", fn: func(run) error { panic(boom) }, panics: boom},
		{name: "failed statement that is returned", fn: func(r run) error {
			_, err := r.tx.ExecContext(r.ctx, `INSERT INTO nothing VALUES (1)`)
			if err == nil {
				return errors.New("it did not fail")
			}
			return fmt.Errorf("%w: %w", boom, err)
		}, want: boom},
		{name: "BeforeCommit", fn: func(r run) error {
			r.tx.BeforeCommit(func(ctx context.Context) error { return insert(ctx, r.tx, 2) })
			return nil
		}, rows: 2},
		{name: "BeforeCommit that fails", fn: func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error { return boom })
			r.tx.BeforeCommit(func(context.Context) error { panic("the second must not run") })
			return nil
		}, want: boom},
		{name: "BeforeCommit that panics", fn: func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error { panic(boom) })
			return nil
		}, panics: boom},
		{name: "BeforeCommit that adds another", fn: func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error {
				r.tx.BeforeCommit(func(context.Context) error { return boom })
				return nil
			})
			return nil
		}, want: boom},
		{name: "context cancelled and overlooked", fn: func(r run) error {
			r.end(nil)
			return nil
		}, want: context.Canceled, notWant: podworks.ErrOutcomeUnknown},
		{name: "context cancelled in a statement", fn: func(r run) error {
			statement, end := context.WithCancel(r.ctx)
			end()
			_, err := r.tx.ExecContext(statement, `DO SLEEP(10)`)
			return err
		}, want: context.Canceled, notWant: podworks.ErrOutcomeUnknown},
		{name: "connection lost before COMMIT was sent", fn: func(r run) error {
			r.dialer.At(cut.BeforeSending)
			return nil
		}, want: errRolledBack, notWant: podworks.ErrOutcomeUnknown},
		{name: "connection lost while COMMIT was sent", fn: func(r run) error {
			r.dialer.At(cut.WhileSending)
			return nil
		}, want: podworks.ErrOutcomeUnknown},
		{name: "connection lost before COMMIT was answered", fn: func(r run) error {
			r.dialer.At(cut.BeforeTheAnswer)
			return nil
		}, want: podworks.ErrOutcomeUnknown, rows: 1},
		{name: "session killed", fn: func(r run) error {
			var id int64
			if err := r.tx.QueryRowContext(r.ctx, `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
				return err
			}
			_, err := r.tx.ExecContext(r.ctx, fmt.Sprintf(`KILL %d`, id))
			if err == nil {
				err = errors.New("it did not fail")
			}
			return fmt.Errorf("%w: %w", boom, err)
		}, want: boom, notWant: podworks.ErrOutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
				dialer := new(cut.Dialer)
				// With one connection, a transaction that kept it would block all that follows.
				w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, dialer.Use)
				outer, s := w.acquire(1)
				ctx, end := context.WithCancelCause(outer)
				defer end(nil)

				var told []error
				runs := 0
				transact := func() (panicked any, err error) {
					defer func() { panicked = recover() }()
					err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
						runs++
						if got, ok := podworks.TxFrom(ctx); !ok || got != podworks.Tx(tx) {
							t.Errorf("TxFrom = %v, %v; want the transaction", got, ok)
						}
						for range 2 {
							tx.AfterEnd(func(ctx context.Context, err error) {
								if ctx.Err() != nil {
									t.Errorf("AfterEnd got a context that has ended: %v", ctx.Err())
								}
								told = append(told, err)
							})
						}
						if err := insert(ctx, tx, 1); err != nil {
							return err
						}
						return c.fn(run{ctx, tx, dialer, end})
					})
					return nil, err
				}
				panicked, err := transact()

				if panicked != c.panics {
					t.Fatalf("Tx panicked with %v, want %v (it returned %v)", panicked, c.panics, err)
				}
				checkOutcome(t, "Tx", err, c.want, c.notWant)
				if runs != 1 {
					t.Errorf("the function ran %d times, want once", runs)
				}
				if len(told) != 2 || told[0] != told[1] {
					t.Fatalf("the AfterEnd hooks were told %v, want both the same", told)
				}
				if c.panics == nil && told[0] != err {
					t.Errorf("the AfterEnd hooks were told %v, want what Tx returned: %v", told[0], err)
				}
				if c.panics != nil && (told[0] == nil || errors.Is(told[0], podworks.ErrOutcomeUnknown)) {
					t.Errorf("the AfterEnd hooks were told %v after a panic, want that it was rolled back", told[0])
				}

				var n int
				if err := s.DB().QueryRowContext(outer, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil || n != c.rows {
					t.Errorf("afterwards there are %d things (%v), want %d", n, err, c.rows)
				}
				if err := s.Tx(outer, func(ctx context.Context, tx *sharding.Tx) error { return insert(ctx, tx, 100) }); err != nil {
					t.Errorf("the next transaction: %v", err)
				}
				// The server may hear late that a session's connection is lost.
				await(t, "the fence's lock to be free", func() bool { return w.tryLock(1, 1) == "free" })
			})
		})
	}
}

// errRolledBack stands for any error that says neither committed nor unknown.
var errRolledBack = errors.New("rolled back")

func checkOutcome(t *testing.T, what string, err, want, notWant error) {
	t.Helper()
	switch {
	case want == errRolledBack && err != nil:
	case !errors.Is(err, want):
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if notWant != nil && errors.Is(err, notWant) {
		t.Errorf("%s: got %v, which is %v", what, err, notWant)
	}
	if errors.Is(err, driver.ErrBadConn) && want == errRolledBack {
		t.Errorf("%s: got %v, for which database/sql would do it again", what, err)
	}
}

// A single write has a COMMIT of its own, that is lost like any other.
func TestASingleWriteWhoseCommitIsLost(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		dialer := new(cut.Dialer)
		w := newWorld(t, f, nil, dialer.Use)
		ctx, s := w.acquire(1)
		for i, c := range []struct {
			name          string
			how           cut.How
			want, notWant error
			written       int
		}{
			{"before sending", cut.BeforeSending, errRolledBack, podworks.ErrOutcomeUnknown, 0},
			{"while sending", cut.WhileSending, podworks.ErrOutcomeUnknown, nil, 0},
			{"before the answer", cut.BeforeTheAnswer, podworks.ErrOutcomeUnknown, nil, 1},
		} {
			before := w.count(1, 1)
			dialer.At(c.how)
			_, err := s.DB().ExecContext(ctx, `INSERT INTO things VALUES (1, ?, 1)`, i)
			checkOutcome(t, c.name, err, c.want, c.notWant)
			if got := w.count(1, 1) - before; got != c.written {
				t.Errorf("%s: %d things were written, want %d", c.name, got, c.written)
			}
		}

		// Its context counts up to the COMMIT, as in a plain pool.
		ending, end := context.WithCancel(ctx)
		dialer.At(func(conn net.Conn, packet []byte) (int, error) {
			n, err := conn.Write(packet)
			end()
			_, _ = io.Copy(io.Discard, conn) // until the driver hangs up
			return n, err
		})
		_, err := s.DB().ExecContext(ending, `INSERT INTO things VALUES (1, 9, 1)`)
		checkIs(t, "a write whose context ends in its COMMIT", err, podworks.ErrOutcomeUnknown)
		_, err = s.DB().ExecContext(ending, `INSERT INTO things VALUES (1, 10, 1)`)
		checkIs(t, "a write whose context has ended", err, context.Canceled)
		if errors.Is(err, podworks.ErrOutcomeUnknown) {
			t.Errorf("a write whose context has ended: got %v, want it known that nothing was written", err)
		}
	})
}

// t.FailNow in a closure ends the goroutine without a panic.
func TestGoexitRollsBack(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		var told error
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				tx.AfterEnd(func(_ context.Context, err error) { told = err })
				if err := insert(ctx, tx, 1); err != nil {
					return err
				}
				runtime.Goexit()
				return nil
			})
		}()
		<-done
		if told == nil {
			t.Error("the AfterEnd hook was told nil, want that it was rolled back")
		}
		var n int
		if err := s.DB().QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil || n != 0 {
			t.Errorf("afterwards there are %d things (%v), want none", n, err)
		}
	})
}

func TestHooksRunInOrder(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		var got []string
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			before := func(name string) {
				tx.BeforeCommit(func(ctx context.Context) error {
					got = append(got, name)
					w.wantCount(1, 1, 0) // nobody else sees it yet
					_, ok := podworks.TxFrom(ctx)
					if !ok {
						t.Error("BeforeCommit's context carries no transaction")
					}
					return nil
				})
			}
			after := func(name string) {
				tx.AfterEnd(func(ctx context.Context, err error) {
					got = append(got, name)
					w.wantCount(1, 1, 1)
					if _, ok := podworks.TxFrom(ctx); ok {
						t.Error("AfterEnd's context carries a transaction that is over")
					}
				})
			}
			after("after 1")
			before("before 1")
			before("before 2")
			after("after 2")
			got = append(got, "fn")
			return insert(ctx, tx, 1)
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"fn", "before 1", "before 2", "after 1", "after 2"}; !slices.Equal(got, want) {
			t.Errorf("ran %q, want %q", got, want)
		}
	})
}

func TestATransactionInsideOfATransactionIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		var ended *sharding.Tx
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			ended = tx
			err := s.Tx(ctx, func(context.Context, *sharding.Tx) error {
				t.Error("a transaction ran inside of a transaction")
				return nil
			})
			if err == nil {
				t.Error("a transaction inside of a transaction: got no error")
			}
			return insert(ctx, tx, 1)
		})
		checkIs(t, "the outer transaction", err, nil)
		_, err = ended.ExecContext(ctx, insertThing)
		checkIs(t, "a transaction that has ended", err, sql.ErrTxDone)
		w.wantCount(1, 1, 1)
	})
}

func TestATransactionOfAReleasedScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s, release, err := w.cluster.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			release() // a request that ended before its goroutine
			return insert(ctx, tx, 1)
		})
		checkIs(t, "a statement after the release", err, sharding.ErrReleased)
		err = s.Tx(ctx, func(context.Context, *sharding.Tx) error { return nil })
		checkIs(t, "a transaction after the release", err, sharding.ErrReleased)
		err = s.Tx(t.Context(), func(context.Context, *sharding.Tx) error { return nil })
		checkIs(t, "a transaction without the scope's context", err, sharding.ErrNoScope)
		w.wantCount(1, 1, 0)
	})
}
