package fence_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// nothing is a drain that has nothing to wait for.
func nothing(context.Context, *sql.Conn) error { return nil }

func TestCloseWaitsForWritersAndMakesNewOnesWait(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.set(open)
		early := p.write(1)
		drained := false
		closed := make(chan error)
		go func() {
			closed <- fence.Close(t.Context(), p.db, closing, func(ctx context.Context, locked *sql.Conn) error {
				drained = true
				// It reads as of now, with what the writers before it wrote.
				var n int
				if err := locked.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n); err != nil || n != 1 {
					t.Errorf("the drain sees %d things (%v), want 1", n, err)
				}
				return nil
			})
		}()
		await(t, "Close to ask for the lock", func() bool { return p.statements(wantsExclusive) > 0 })

		late := make(chan fence.Row)
		go func() {
			tx, err := p.db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Error(err)
			}
			defer tx.Rollback()
			row, err := fence.Read(t.Context(), tx, 1, "LOCK IN SHARE MODE")
			if err != nil {
				t.Error(err)
			}
			late <- row
		}()
		await(t, "a later writer to ask for the lock", func() bool { return p.statements(`%podworks_fence%LOCK IN SHARE MODE`) > 0 })
		select {
		case err := <-closed:
			t.Fatalf("Close returned %v while a writer had the lock", err)
		case row := <-late:
			t.Fatalf("a writer got past a waiting Close and saw %v", row)
		default:
		}
		if err := early.Commit(); err != nil {
			t.Error(err)
		}
		checkIs(t, "Close", <-closed, nil)
		if row := <-late; row != moved {
			t.Errorf("the later writer saw %v, want %v", row, moved)
		}
		if !drained {
			t.Error("the drain didn't run")
		}
		p.wantRow("after Close", moved)
	})
}

func TestCloseWantsAnOpenRowOfTheRightEpoch(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		for _, r := range []fence.Row{none, absent, incoming(5), moved, {Shop: 1, State: fence.Open, Epoch: 2}, {Shop: 1, State: fence.Open, Epoch: 0}} {
			p.set(r)
			err := fence.Close(t.Context(), p.db, closing, func(context.Context, *sql.Conn) error {
				t.Errorf("%v: the drain ran", r)
				return nil
			})
			checkIs(t, r.String(), err, fence.ErrNotOpen)
			want := r
			if r == none {
				want = absent
			}
			p.wantRow("afterwards", want)
			if !p.lockable() {
				t.Errorf("%v: the lock is still held after Close returned", r)
			}
		}
	})
}

// Whatever keeps Close from committing, the row stays open, the lock is free,
// and the writers go on.
func TestCloseThatStepsBackLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	each(t, func(t *testing.T, p *pod) {
		for _, c := range []struct {
			name   string
			budget time.Duration
			writer bool // one has the lock
			drain  func(ctx context.Context, end func(), locked *sql.Conn) error
			want   error
		}{
			{"drain fails", 10 * time.Second, false, func(context.Context, func(), *sql.Conn) error { return boom }, boom},
			{"drain outlasts the budget", 100 * time.Millisecond, false, func(ctx context.Context, _ func(), _ *sql.Conn) error {
				<-ctx.Done()
				return ctx.Err()
			}, fence.ErrBudget},
			{"drain overlooks that the budget is spent", 100 * time.Millisecond, false, func(ctx context.Context, _ func(), _ *sql.Conn) error {
				<-ctx.Done()
				return nil
			}, fence.ErrBudget},
			// The server goes on with a statement whose client has gone.
			{"drain's statement outlasts the budget", 100 * time.Millisecond, false, func(ctx context.Context, _ func(), locked *sql.Conn) error {
				_, err := locked.ExecContext(ctx, `SELECT SLEEP(20)`)
				return err
			}, fence.ErrBudget},
			{"drain's session dies", 10 * time.Second, false, func(ctx context.Context, _ func(), locked *sql.Conn) error {
				_, err := locked.ExecContext(ctx, `KILL CONNECTION_ID()`)
				if err == nil {
					return errors.New("it did not die")
				}
				return boom
			}, boom},
			{"a writer outlasts the budget", 100 * time.Millisecond, true, nil, fence.ErrBudget},
			{"the caller's context ends", 10 * time.Second, false, func(ctx context.Context, end func(), _ *sql.Conn) error {
				end()
				<-ctx.Done()
				return ctx.Err()
			}, context.Canceled},
		} {
			p.set(open)
			p.exec(`DELETE FROM things`)
			var w *writer
			if c.writer {
				w = p.write(1)
			}
			ctx, end := context.WithCancel(t.Context())
			cl := closing
			cl.Budget = c.budget
			start := time.Now()
			err := fence.Close(ctx, p.db, cl, func(ctx context.Context, locked *sql.Conn) error {
				if c.drain == nil {
					t.Errorf("%s: the drain ran", c.name)
					return nil
				}
				return c.drain(ctx, end, locked)
			})
			end()
			checkIs(t, c.name, err, c.want)
			if took := time.Since(start); took > c.budget+2*time.Second {
				t.Errorf("%s: Close took %v with a budget of %v", c.name, took, c.budget)
			}
			p.wantRow(c.name, open)
			if w != nil {
				if err := w.Commit(); err != nil || p.things() != 1 {
					t.Errorf("%s: the writer's commit: %v, and there are %d things, want 1", c.name, err, p.things())
				}
			}
			freed := time.Now()
			await(t, "the lock after: "+c.name, p.lockable)
			if took := time.Since(freed); took > 2*time.Second {
				t.Errorf("%s: the lock was held for %v after Close returned", c.name, took)
			}
			await(t, "the end of its statements after: "+c.name, func() bool { return p.statements(wantsExclusive)+p.statements(`%SLEEP%`) == 0 })
			checkIs(t, c.name+": a second try", fence.Close(t.Context(), p.db, closing, nothing), nil)
			p.wantRow("after the second try", moved)
		}
	})
}

// A budget below a second is kept, although the servers count in seconds.
func TestCloseKeepsASmallBudget(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.set(open)
		w := p.write(1)
		cl := closing
		cl.Budget = 50 * time.Millisecond
		start := time.Now()
		checkIs(t, "Close", fence.Close(t.Context(), p.db, cl, nothing), fence.ErrBudget)
		if took := time.Since(start); took > 900*time.Millisecond {
			t.Errorf("Close took %v, want about its budget of %v", took, cl.Budget)
		}
		if err := w.Commit(); err != nil {
			t.Error(err)
		}
	})
}

// A lock that isn't had in the time for that is given up long before the budget is
// spent, and those who queued behind it go on.
func TestCloseWaitsForTheLockNoLongerThanIsSaid(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.set(open)
		w := p.write(1)
		cl := closing
		cl.Budget, cl.Wait = time.Hour, 50*time.Millisecond
		err := fence.Close(t.Context(), p.db, cl, nothing)
		checkIs(t, "Close", err, fence.ErrHeld)
		if errors.Is(err, fence.ErrBudget) {
			t.Errorf("got %v, want nothing of the budget", err)
		}
		p.wantRow("afterwards", open)
		if err := errors.Join(p.write(2).Commit(), w.Commit()); err != nil {
			t.Error(err)
		}
		cl.Budget, cl.Wait = 10*time.Second, 500*time.Millisecond // for a busy machine
		drained := false
		checkIs(t, "Close with the lock free", fence.Close(t.Context(), p.db, cl, func(context.Context, *sql.Conn) error {
			<-time.After(2 * cl.Wait) // it bounds the wait for the lock alone
			drained = true
			return nil
		}), nil)
		if !drained {
			t.Error("the drain didn't run")
		}
		p.wantRow("after Close", moved)
	})
}

// A writer that is frozen loses its session, and its transaction with it.
func TestCloseKillsWhoeverKeepsTheLock(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.set(open)
		frozen := []*writer{p.write(1), p.write(2)}
		bystander, err := p.db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer bystander.Rollback()
		if _, err := bystander.ExecContext(t.Context(), `INSERT INTO things VALUES (3)`); err != nil {
			t.Fatal(err)
		}
		cl := closing
		cl.Budget, cl.Kill = 4*time.Second, true
		start := time.Now()
		checkIs(t, "Close", fence.Close(t.Context(), p.db, cl, nothing), nil)
		if took := time.Since(start); took < cl.Budget/2 {
			t.Errorf("Close killed after %v, want it to leave the writers half of its budget", took)
		}
		p.wantRow("after Close", moved)
		for i, w := range frozen {
			if err := w.Commit(); err == nil {
				t.Errorf("frozen writer %d committed after Close", i)
			}
		}
		if err := bystander.Commit(); err != nil {
			t.Errorf("a transaction that had no lock on the row: %v", err)
		}
		if n := p.things(); n != 1 {
			t.Errorf("there are %d things, want the bystander's alone", n)
		}
	})
}

// A mover is frozen with the lock in its hand: the server ends its session, and
// the shop is writable again. The woken mover changes nothing.
func TestAFrozenMoverLosesTheLock(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.set(open)
		cl := closing
		cl.Budget = time.Second
		locked, wake := make(chan struct{}), make(chan struct{})
		closed := make(chan error)
		go func() {
			closed <- fence.Close(t.Context(), p.db, cl, func(context.Context, *sql.Conn) error {
				close(locked)
				<-wake // deaf to its context, as a stopped process is
				return nil
			})
		}()
		<-locked
		start := time.Now()
		w := p.write(1) // waits for the lock
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("a writer got the lock after %v, want 3 s at most", took)
		}
		if err := w.Commit(); err != nil {
			t.Error(err)
		}
		close(wake)
		if err := <-closed; err == nil {
			t.Error("Close of a woken mover: got no error")
		}
		p.wantRow("after the mover woke", open)
	})
}

// A server that hangs while Close waits must not make Close hang.
func TestCloseOnAServerThatHangs(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		p := newPod(t, server)
		p.set(open)
		w := p.write(1)
		cl := closing
		cl.Budget = 2 * time.Second
		closed := make(chan error)
		go func() { closed <- fence.Close(t.Context(), p.db, cl, nothing) }()
		await(t, "Close to ask for the lock", func() bool { return p.statements(wantsExclusive) > 0 })
		if err := server.Pause(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-closed:
			checkIs(t, "Close", err, fence.ErrBudget)
		case <-time.After(15 * time.Second):
			t.Error("Close hangs with the server")
		}
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(); err != nil {
			t.Error(err)
		}
		p.wantRow("afterwards", open)
		await(t, "the lock", p.lockable)
	})
}

// The answer to Close's COMMIT is lost, and looked up.
func TestCloseWhoseCommitIsLost(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.db.SetMaxIdleConns(0) // so that looking it up dials
		for _, c := range []struct {
			name      string
			how       cut.How
			lookUp    bool
			committed bool
			unknown   bool
		}{
			{"before it was sent", cut.BeforeSending, true, false, false},
			{"while it was sent", cut.WhileSending, true, false, false},
			{"before it was answered", cut.BeforeTheAnswer, true, true, false},
			{"while it was sent, and the server can't be asked", cut.WhileSending, false, false, true},
			{"before it was answered, and the server can't be asked", cut.BeforeTheAnswer, false, true, true},
		} {
			p.set(open)
			err := fence.Close(t.Context(), p.db, closing, func(context.Context, *sql.Conn) error {
				p.dial.At(c.how)
				p.dial.Refuse(!c.lookUp)
				return nil
			})
			p.dial.Refuse(false)
			switch unknown := errors.Is(err, podworks.ErrOutcomeUnknown); {
			case c.unknown && !unknown:
				t.Errorf("%s: got %v, want ErrOutcomeUnknown", c.name, err)
			case !c.unknown && unknown:
				t.Errorf("%s: got %v, want it looked up", c.name, err)
			case !c.unknown && (err == nil) != c.committed:
				t.Errorf("%s: got %v, want an error only if it was not committed", c.name, err)
			}
			await(t, "the lock", p.lockable)
			want := open
			if c.committed {
				want = moved
			}
			p.wantRow(c.name, want)
		}
	})
}

// The answers to the other changes' COMMITs are lost, and looked up.
func TestAChangeWhoseCommitIsLost(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.db.SetMaxIdleConns(0) // so that looking it up dials
		from := podworks.Route{Shop: 1, Pod: 1, Epoch: 1}
		for _, c := range []struct {
			name       string
			have, want fence.Row
			change     func(context.Context) error
		}{
			{"claim", absent, incoming(5), func(ctx context.Context) error { return fence.Claim(ctx, p.db, 1, 5) }},
			{"release", incoming(5), fence.Row{Shop: 1, State: fence.Open, Epoch: 2, Token: 5}, func(ctx context.Context) error { return fence.Release(ctx, p.db, 1, 2, 5) }},
			{"tombstone", incoming(5), tombstone(5), func(ctx context.Context) error { return fence.Tombstone(ctx, p.db, 1, 5) }},
			{"reopen", moved, fence.Row{Shop: 1, State: fence.Open, Epoch: 1, Token: moved.Token}, func(ctx context.Context) error { return fence.Reopen(ctx, p.db, from, moved.Token) }},
			{"shut", open, moved, func(ctx context.Context) error { return fence.Shut(ctx, p.db, from, moved.Destination, moved.Token) }},
		} {
			for _, how := range []struct {
				name      string
				how       cut.How
				committed bool
			}{
				{"before it was sent", cut.BeforeSending, false},
				{"while it was sent", cut.WhileSending, false},
				{"before it was answered", cut.BeforeTheAnswer, true},
			} {
				name := c.name + ", " + how.name
				p.set(c.have)
				p.dial.At(how.how)
				err := c.change(t.Context())
				switch {
				case errors.Is(err, podworks.ErrOutcomeUnknown):
					t.Errorf("%s: got %v, want it looked up", name, err)
				case how.committed && err != nil:
					t.Errorf("%s: got %v, want the commit that happened found", name, err)
				case err != nil:
					p.wantRow(name, c.have)
					continue
				}
				p.wantRow(name, c.want)
			}
		}
	})
}

// A target that refuses the commit is no unknown outcome.
func TestCloseOnAServerThatBecameReadOnly(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		if f == testcluster.MariaDB {
			t.Skip("MariaDB's read_only doesn't hold for the tests' user")
		}
		p := newPod(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f}))
		p.set(open)
		err := fence.Close(t.Context(), p.db, closing, func(context.Context, *sql.Conn) error {
			go func() {
				_, err := p.db.ExecContext(t.Context(), `SET GLOBAL super_read_only = ON`)
				checkIs(t, "super_read_only", err, nil)
			}()
			await(t, "a read-only server", func() bool {
				var on bool
				if err := p.db.QueryRowContext(t.Context(), `SELECT @@super_read_only`).Scan(&on); err != nil {
					t.Error(err)
				}
				return on
			})
			return nil
		})
		if err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("Close: got %v, want an error that says read-only", err)
		}
		p.wantRow("afterwards", open)
	})
}

// The twin: with the lock switched off the drain runs beside a writer, which the
// tests of a move then find out.
func TestWithoutTheLockTheDrainDoesNotWait(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		p.set(open)
		w := p.write(1)
		ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Lock: true}})
		err := fence.Close(ctx, p.db, closing, func(context.Context, *sql.Conn) error {
			return w.Commit() // it has not been waited for
		})
		checkIs(t, "Close without the lock", err, nil)
		p.wantRow("afterwards", moved)
	})
}
