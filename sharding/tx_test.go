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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

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

// A server that freezes at the end of a transaction doesn't hold the request for
// as long as it is frozen.
func TestTheEndOfATransactionIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f})
		w := worldOn(t, server, nil, nil)
		w.cluster.SetPatience(100 * time.Millisecond)
		ctx, s := w.acquire(1)
		boom := errors.New("boom")
		for i, c := range []struct {
			name       string
			returned   error
			want, not  error
			mayBeThere bool
		}{
			{"COMMIT", nil, podworks.ErrOutcomeUnknown, boom, true},
			{"ROLLBACK", boom, boom, podworks.ErrOutcomeUnknown, false},
		} {
			err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				if err := insert(ctx, tx, i); err != nil {
					return err
				}
				if err := server.Pause(); err != nil {
					t.Fatal(err)
				}
				return c.returned
			})
			if err := server.Resume(); err != nil {
				t.Fatal(err)
			}
			checkOutcome(t, c.name, err, c.want, c.not)
			await(t, "the fence's lock to be free", func() bool { return w.tryLock(1, 1) == "free" })
			if n := w.count(1, 1); n > 0 && !c.mayBeThere {
				t.Errorf("%s: %d things are there, want none", c.name, n)
			}
			w.exec(1, `DELETE FROM things`)
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

// A transaction inside of one is a savepoint. What it wrote is there or undone
// as its function says, and its hooks are told so.
func TestATransactionInsideOfATransactionIsASavepoint(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		var told []string
		hooks := func(tx *sharding.Tx, name string) {
			tx.BeforeCommit(func(context.Context) error { told = append(told, name+" before"); return nil })
			tx.AfterEnd(func(_ context.Context, err error) { told = append(told, fmt.Sprintf("%s after: %v", name, err)) })
		}
		var ended *sharding.Tx
		err := s.Tx(ctx, func(ctx context.Context, outer *sharding.Tx) error {
			ended = outer
			hooks(outer, "outer")
			if err := insert(ctx, outer, 1); err != nil {
				return err
			}
			err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				hooks(tx, "undone")
				if err := insert(ctx, tx, 2); err != nil {
					return err
				}
				return boom
			})
			checkIs(t, "an inner transaction that fails", err, boom)
			// A scope inside of the scope takes part too, and so does a third level.
			return w.cluster.Do(ctx, 1, func(ctx context.Context, s *sharding.Scope) error {
				return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
					hooks(tx, "kept")
					if err := insert(ctx, tx, 3); err != nil {
						return err
					}
					err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) (err error) {
						hooks(tx, "panicked")
						if err := insert(ctx, tx, 4); err != nil {
							return err
						}
						defer func() { err = fmt.Errorf("recovered from %v", recover()) }()
						return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
							if err := insert(ctx, tx, 5); err != nil {
								return err
							}
							panic(boom)
						})
					})
					if err == nil || !strings.Contains(err.Error(), "recovered from boom") {
						t.Errorf("an inner transaction that panics: got %v", err)
					}
					w.wantCount(1, 1, 0) // nobody else sees any of it yet
					return nil
				})
			})
		})
		checkIs(t, "the outer transaction", err, nil)
		want := []string{
			"undone after: boom", "panicked after: recovered from boom",
			"outer before", "kept before", "outer after: <nil>", "kept after: <nil>",
		}
		if !slices.Equal(told, want) {
			t.Errorf("the hooks were told %q, want %q", told, want)
		}
		var ids string
		if err := w.plain[1].QueryRowContext(ctx, `SELECT GROUP_CONCAT(id ORDER BY id) FROM things`).Scan(&ids); err != nil || ids != "1,3" {
			t.Errorf("things %s were written (%v), want 1,3", ids, err)
		}
		_, err = ended.ExecContext(ctx, insertThing)
		checkIs(t, "a transaction that has ended", err, sql.ErrTxDone)
	})
}

// When the server has rolled the whole transaction back, there is no savepoint
// to go back to, and the outer function can't go on as if there were.
func TestASavepointIsLostWithItsTransaction(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		w.exec(1, `INSERT INTO things VALUES (1, 1, 0), (1, 2, 0)`)
		ctx, s := w.acquire(1)
		update := func(ctx context.Context, tx *sharding.Tx, id int) error {
			_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = 1 AND id = ?`, id)
			return err
		}
		other, err := w.plain[1].BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Rollback()
		// The heavier transaction wins a deadlock.
		for id := 10; id < 20; id++ {
			if _, err := other.ExecContext(ctx, `INSERT INTO things VALUES (1, ?, 0)`, id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := other.ExecContext(ctx, `UPDATE things SET v = 9 WHERE shop_id = 1 AND id = 2`); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			if err := update(ctx, tx, 1); err != nil {
				return err
			}
			wg.Go(func() {
				if _, err := other.ExecContext(ctx, `UPDATE things SET v = 9 WHERE shop_id = 1 AND id = 1`); err != nil {
					t.Errorf("the other transaction: %v", err)
				}
			})
			err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error { return update(ctx, tx, 2) })
			var e *mysql.MySQLError
			if !errors.As(err, &e) || e.Number != 1213 {
				t.Errorf("the inner transaction: got %v, want a deadlock", err)
			}
			wg.Wait()
			err = update(ctx, tx, 1)
			checkIs(t, "the outer transaction after the deadlock", err, sharding.ErrRefused)
			return nil // overlooked
		})
		if err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) {
			t.Errorf("the outer transaction: got %v, want that it was rolled back", err)
		}
		if err := other.Commit(); err != nil {
			t.Fatal(err)
		}
		var sum int
		if err := w.plain[1].QueryRowContext(ctx, `SELECT SUM(v) FROM things`).Scan(&sum); err != nil || sum != 18 {
			t.Errorf("the sum is %d (%v), want 18: the other transaction's, and nothing of ours", sum, err)
		}
	})
}

// What Scope.Tx began, Scope.Tx ends.
func TestALibraryCantCommitScopeTxsTransaction(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			if err := insert(ctx, tx, 1); err != nil {
				return err
			}
			checkIs(t, "Commit of the *sql.Tx", tx.SQL().Commit(), sharding.ErrRefused)
			return nil // overlooked
		})
		checkIs(t, "Tx", err, sql.ErrTxDone)
		w.wantCount(1, 1, 0)
		checkIs(t, "the next", s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error { return insert(ctx, tx, 1) }), nil)
	})
}

// Another package's transaction in the context is not ours to write into, and
// another scope's neither.
func TestATransactionInsideOfAForeignOneIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		type foreign struct{ podworks.Tx }
		never := func(context.Context, *sharding.Tx) error {
			t.Error("the closure ran")
			return nil
		}
		checkIs(t, "inside of another package's", s.Tx(podworks.WithTx(ctx, foreign{}), never), sharding.ErrRefused)
		_, three := w.acquire(3)
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			checkIs(t, "inside of another shop's", three.Tx(podworks.WithTx(three, tx), never), sharding.ErrRefused)
			return nil
		})
		checkIs(t, "the outer", err, nil)
		checkIs(t, "without any scope", sharding.FromContext(t.Context()).Tx(t.Context(), never), sharding.ErrNoScope)
	})
}

func TestATransactionOfAReleasedScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		s, err := w.cluster.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Tx(s, func(ctx context.Context, tx *sharding.Tx) error {
			s.Release() // a request that ended before its goroutine
			return insert(ctx, tx, 1)
		})
		checkIs(t, "a statement after the release", err, sharding.ErrReleased)
		err = s.Tx(s, func(context.Context, *sharding.Tx) error { return nil })
		checkIs(t, "a transaction after the release", err, sharding.ErrReleased)
		err = s.Tx(t.Context(), func(context.Context, *sharding.Tx) error { return nil })
		checkIs(t, "a transaction without the scope's context", err, sharding.ErrNoScope)
		w.wantCount(1, 1, 0)
	})
}
