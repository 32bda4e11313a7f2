package master_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// A run is a transaction under way.
type run struct {
	ctx    context.Context
	tx     *master.Tx
	dialer *cut.Dialer
	end    func()
}

var (
	errBoom       = errors.New("boom")
	errRolledBack = errors.New("rolled back") // stands for any error but ErrOutcomeUnknown
)

func TestOutcomes(t *testing.T) {
	t.Parallel()
	insert := func(r run, id int) error {
		_, err := r.tx.ExecContext(r.ctx, fmt.Sprintf(`INSERT INTO things (id, v) VALUES (%d, 1)`, id))
		return err
	}
	cases := []struct {
		name   string
		fn     func(run) error
		want   error // nil: committed
		panics any
		rows   int
	}{
		{name: "committed", fn: func(run) error { return nil }, rows: 1},
		{name: "failed", fn: func(run) error { return errBoom }, want: errBoom},
		{name: "panicked", fn: func(run) error { panic(errBoom) }, panics: errBoom},
		{name: "failed statement", fn: func(r run) error { return insert(r, 1) }, want: errRolledBack},
		{name: "BeforeCommit", fn: func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error {
				r.tx.BeforeCommit(func(context.Context) error { return insert(r, 3) })
				return insert(r, 2)
			})
			return nil
		}, rows: 3},
		{name: "BeforeCommit that fails", fn: func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error { return errBoom })
			r.tx.BeforeCommit(func(context.Context) error { panic("the second must not run") })
			return nil
		}, want: errBoom},
		{name: "BeforeCommit that panics", fn: func(r run) error {
			r.tx.BeforeCommit(func(context.Context) error { panic(errBoom) })
			return nil
		}, panics: errBoom},
		{name: "context cancelled and overlooked", fn: func(r run) error { r.end(); return nil }, want: context.Canceled},
		{name: "context cancelled in a statement", fn: func(r run) error {
			statement, end := context.WithCancel(r.ctx)
			end()
			_, err := r.tx.ExecContext(statement, `DO SLEEP(10)`)
			return err
		}, want: context.Canceled},
		{name: "connection lost before COMMIT was sent", fn: func(r run) error {
			r.dialer.At(cut.BeforeSending)
			return nil
		}, want: master.ErrPrimary},
		{name: "connection lost while COMMIT was sent", fn: func(r run) error {
			r.dialer.At(cut.WhileSending)
			return nil
		}, want: podworks.ErrOutcomeUnknown},
		{name: "connection lost before COMMIT was answered", fn: func(r run) error {
			r.dialer.At(cut.BeforeTheAnswer)
			return nil
		}, want: podworks.ErrOutcomeUnknown, rows: 1},
		{name: "session killed, and its error hidden", fn: func(r run) error {
			var id int64
			if err := r.tx.QueryRowContext(r.ctx, `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
				return err
			}
			_, _ = r.tx.ExecContext(r.ctx, fmt.Sprintf(`KILL %d`, id))
			if err := insert(r, 2); err == nil {
				return errors.New("the killed session wrote")
			}
			return errBoom
		}, want: master.ErrPrimary},
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		p := sharedServers(t, f)
		dialer := new(cut.Dialer)
		w := newWorld(t, p, nil, dialer.Use)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				w.exec(`DELETE FROM things`)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var told []error
				runs := 0
				transact := func() (panicked any, err error) {
					defer func() { panicked = recover() }()
					err = w.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
						runs++
						if got, ok := podworks.TxFrom(ctx); !ok || got != podworks.Tx(tx) {
							t.Errorf("the context carries %v, want the transaction", got)
						}
						tx.AfterEnd(func(ctx context.Context, err error) {
							if ctx.Err() != nil {
								t.Errorf("AfterEnd got a context that has ended: %v", ctx.Err())
							}
							told = append(told, err)
						})
						r := run{ctx, tx, dialer, cancel}
						if err := insert(r, 1); err != nil {
							return err
						}
						return c.fn(r)
					})
					return nil, err
				}
				panicked, err := transact()
				switch {
				case panicked != c.panics:
					t.Fatalf("Tx panicked with %v, want %v (it returned %v)", panicked, c.panics, err)
				case c.want == errRolledBack && (err == nil || errors.Is(err, podworks.ErrOutcomeUnknown)):
					t.Errorf("Tx = %v, want an error that it was rolled back with", err)
				case c.want != errRolledBack && !errors.Is(err, c.want):
					t.Errorf("Tx = %v, want %v", err, c.want)
				case c.want != podworks.ErrOutcomeUnknown && errors.Is(err, podworks.ErrOutcomeUnknown):
					t.Errorf("Tx = %v, of which the outcome is known", err)
				case errors.Is(err, driver.ErrBadConn):
					t.Errorf("Tx = %v, for which database/sql would do it again", err)
				}
				if runs != 1 || len(told) != 1 {
					t.Fatalf("the function ran %d times and the hook %d, want once each", runs, len(told))
				}
				if c.panics == nil && told[0] != err || c.panics != nil && told[0] == nil {
					t.Errorf("AfterEnd was told %v, want what Tx returned: %v", told[0], err)
				}
				var rows int
				if err := w.primary.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM things`).Scan(&rows); err != nil || rows != c.rows {
					t.Errorf("there are %d rows (%v), want %d", rows, err, c.rows)
				}
				if n := w.primary.Stats().InUse; n != 0 {
					t.Errorf("%d connections are still in use", n)
				}
			})
		}
	})
}

func TestTxInsideOfATransactionIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		err := w.Tx(t.Context(), func(ctx context.Context, _ *master.Tx) error { return put(ctx, w.Master, 1) })
		if err == nil {
			t.Error("a Tx in a Tx succeeded")
		}
		w.wantSight(t.Context(), 0, w.pair.replica)
	})
}

func TestTxWithAContextThatHasEndedDoesNotBlameThePrimary(t *testing.T) {
	t.Parallel()
	ended, end := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer end()
	err := put(ended, newAway(t), 1)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, master.ErrPrimary) {
		t.Errorf("got %v, want that the context has ended and no more", err)
	}
}

// A primary that was demoted is as good as away.
func TestAPrimaryThatHasBecomeReadOnly(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		p := sharedServers(t, f)
		w := newWorld(t, p, nil, nil)
		// The replica is read-only as a server; MariaDB's lets root write.
		demoted := connect(t, p.replica, w.name, asAppUser)
		m, err := master.New(openPool(t, demoted), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantErr(t, "Tx", put(t.Context(), m, 1), master.ErrPrimary, "read-only")
		seq, err := m.Sequence("orders", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = seq.Next(t.Context())
		wantErr(t, "Next", err, master.ErrPrimary, "read-only")
		_, err = m.Claim(t.Context(), "domain", "a.example", 1, 1e9)
		wantErr(t, "Claim", err, master.ErrPrimary, "read-only")
		wantErr(t, "Check", m.Check(t.Context()), master.ErrRefused, "it is read-only (read_only is ON); name the primary")
	})
}
