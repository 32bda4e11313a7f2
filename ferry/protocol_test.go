package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// The list of steps is what a move, its recovery and its clean-up pass, in the
// order of DESIGN.md, and nothing else.
func TestEveryStepIsPassedAndNoOther(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		nothing := func(context.Context, podworks.Move) error { return nil }
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 5 * time.Second, Stores: []ferry.Store{{Name: "jobs", Prepare: nothing}}})
		w.fill(w.shop, 20)
		tr := &trail{}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		var mover []string
		for _, step := range tr.steps {
			if slices.Contains(ferry.Steps, step) && !slices.Contains(mover, step) {
				mover = append(mover, step)
			}
		}
		if want := ferry.Steps[:slices.Index(ferry.Steps, "finish")+1]; !slices.Equal(mover, want) {
			t.Errorf("a move passed %q, want %q", mover, want)
		}
		kept, end := context.WithCancel(t.Context())
		tr.at = map[string]func(){"standby": end}
		if err := w.ferry.Keep(tr.follow(kept), w.shop, 1); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := w.ferry.Clean(tr.follow(t.Context()), w.shop, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := w.ferry.Rehearse(tr.follow(t.Context()), w.shop, 1); err != nil {
			t.Fatal(err)
		}
		now := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Microsecond})
		for i, done := range [][]string{
			{"claim", "incoming", "copy"},
			{"claim", "incoming", "copy", "note", "close"},
			{"claim", "incoming", "copy", "note", "close", "abort"},
			{"claim", "incoming", "copy", "note", "close", "decide", "lose the close", "lose the copy"},
		} {
			w.addShop(podworks.ShopID(100 + i))
			w.fill(w.shop, 20)
			w.leave(done)
			if _, err := now.Recover(tr.follow(t.Context())); err != nil {
				t.Errorf("after %q: %v", done, err)
			}
		}
		passed := map[string]bool{}
		for _, step := range tr.steps {
			passed[step] = true
		}
		if got, want := slices.Sorted(maps.Keys(passed)), slices.Sorted(slices.Values(append(slices.Clone(ferry.Steps), ferry.Phases...))); !slices.Equal(got, want) {
			t.Errorf("passed %q, want %q", got, want)
		}
	})
}

// A failover of the target loses the copy of a decided move: the shop is copied
// again, and what the recoverer that died over it left is no hindrance.
func TestADecidedMoveWhoseCopyIsLostIsCopiedAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 500)
		w.leave([]string{"claim", "incoming", "copy", "note", "close", "decide", "lose the copy"})
		now := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: time.Microsecond, ChunkRows: 50})

		// The first recoverer dies in the middle of the copy.
		ctx, die := context.WithCancel(t.Context())
		applies := 0
		_, err := now.Recover(hook.With(ctx, &hook.Set{Step: func(step string) {
			if step == "apply" {
				if applies++; applies == 4 {
					die()
				}
			}
		}}))
		if err == nil {
			t.Fatal("the recoverer that died had no error")
		}
		if err := sell(t.Context(), w.target, w.shop, 2, 10); !errors.Is(err, errMoved) {
			t.Errorf("a write to half a copy: %v, want it refused", err)
		}
		if settled, err := now.Recover(t.Context()); err != nil || len(settled) != 1 {
			t.Fatalf("got %v, %v; want the move settled", settled, err)
		}
		w.same("products")
		if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
			t.Errorf("a write in the target: %v", err)
		}
		if n := w.count(w.master, `SELECT COUNT(*) FROM podworks_moves WHERE shop_id = ? AND state = 'done' AND active IS NULL`, int64(w.shop)); n != 3 {
			t.Errorf("the journal has %d finished moves of the shop, want the first and two that copied again", n)
		}
		if _, err := now.Clean(t.Context(), w.shop, 1); err != nil {
			t.Error(err)
		}
	})
}

// The rows of the source are what a lost copy is made from again: they are not
// deleted while the move is unfinished, nor before it is decided.
func TestCleanRefusesWhileTheMoveIsUnfinished(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, done := range [][]string{{"note", "close"}, {"note", "close", "decide"}, {"note", "close", "decide", "open"}, {"note", "close", "abort"}} {
			w.addShop(podworks.ShopID(100 + i))
			w.fill(w.shop, 20)
			mv := w.leave(append([]string{"claim", "incoming", "copy"}, done...))
			n, err := w.ferry.Clean(t.Context(), w.shop, 1)
			contains(t, err, ferry.ErrRefused, fmt.Sprintf("move %d is", mv.Token), "not finished")
			if left := w.rowsOf(w.source, w.shop); n != 0 || left != 20 {
				t.Errorf("after %q: %d rows were deleted, %d are left of 20", done, n, left)
			}
		}
	})
}

// Replicated is asked under the lock and before the end: while it says no, the
// move steps back; when it says no at the end, the journal keeps the move.
func TestTheJournalKeepsAMoveUntilItIsReplicated(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		target := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, TCP: true})
		replica := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, ReplicaOf: target, ReadOnly: true})
		w := newWorldOn(t, testcluster.Shared(t, f, "source"), target, "", nil)
		w.fill(w.shop, 50)
		var asked atomic.Int64
		var cutOff atomic.Bool
		errAway := errors.New("the replica doesn't answer") // no error of a driver's
		opts := ferry.Options{Ignore: []string{"countries"}, Lease: time.Millisecond, Attempts: 3, PauseBudget: 5 * time.Second}
		opts.Replicated = func(ctx context.Context, pod podworks.PodID) error {
			asked.Add(1)
			if pod != 2 {
				t.Errorf("asked of pod %d, want 2", pod)
			}
			if cutOff.Load() {
				return errAway
			}
			return replica.CatchUp(ctx)
		}
		w.ferry = w.newFerry(&opts)
		copied := w.pods[2].Clone()
		copied.Addr = replica.Config("").Addr
		copied.Net = replica.Config("").Net
		c, err := mysql.NewConnector(copied)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		defer db.Close()

		cutOff.Store(true)
		_, err = w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrSteppedBack, "wait for the replicas of pod 2", "undone, the shop stays in pod 1")
		w.stays()

		cutOff.Store(false)
		tr := &trail{at: map[string]func(){
			"close": func() { // what is switched to is there
				if n := w.count(db, `SELECT COUNT(*) FROM products WHERE shop_id = ?`, int64(w.shop)); n != 50 {
					t.Errorf("under the lock the replica has %d rows, want 50", n)
				}
			},
			"finish": func() { cutOff.Store(true) },
		}}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		if moves, err := w.dir.Moves(t.Context()); err != nil || len(moves) != 1 || moves[0].State != podworks.MoveDecided {
			t.Errorf("the journal has %v, %v; want the decided move until its open row is replicated", moves, err)
		}
		_, err = w.ferry.Recover(t.Context())
		contains(t, err, errAway, "wait for the replicas of pod 2")
		cutOff.Store(false)
		if settled, err := w.ferry.Recover(t.Context()); err != nil || len(settled) != 1 {
			t.Errorf("got %v, %v; want the move finished", settled, err)
		}
		if row, err := fence.Read(t.Context(), db, w.shop, ""); err != nil || row.State != fence.Open {
			t.Errorf("the replica's fence says %v, %v; want open", row, err)
		}
	})
}

// What passes under the lock is no reason to undo a move: it steps back.
func TestATryThatMeetsATransientFaultIsRepeated(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, fault := range []struct {
			name  string
			step  string
			do    func()
			looks int64 // whose answers are lost
		}{
			{"the session with the lock dies", "marker", func() { w.killLockHolder() }, 0},
			{"the master doesn't answer the look", "", nil, 2},
		} {
			t.Run(fault.name, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 50)
				fy, err := ferry.New(&flakyDirectory{Tables: w.dir, looks: fault.looks}, w.pods, &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 5 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				tr := &trail{at: map[string]func(){fault.step: fault.do}}
				report, err := fy.Move(tr.follow(t.Context()), w.shop, 2)
				if err != nil {
					t.Fatal(err)
				}
				if want := max(1, int(fault.looks)); report.StepsBack < want {
					t.Errorf("got %d steps back, want %d", report.StepsBack, want)
				}
				w.same("products")
			})
		}
	})
}

// flakyDirectory loses the answers to the first looks under the lock.
type flakyDirectory struct {
	ferry.Tables
	looks int64
}

func (d *flakyDirectory) Beat(ctx context.Context, token uint64, step string) error {
	err := d.Tables.Beat(ctx, token, step)
	if step == "verified" && d.looks > 0 {
		d.looks--
		return fmt.Errorf("note step: %w", mysql.ErrInvalidConn)
	}
	return err
}

// killLockHolder ends the mover's session that has the lock on the source: it is
// idle in a transaction that has locked rows and changed none.
func (w *world) killLockHolder() {
	w.t.Helper()
	db := w.source
	// MariaDB answers from a cache that it fills again when nobody has asked for
	// a tenth of a second.
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		var ids []int64
		rows, err := db.QueryContext(w.t.Context(), `SELECT trx_mysql_thread_id FROM information_schema.innodb_trx
			WHERE trx_rows_locked > 0 AND trx_rows_modified = 0 AND trx_mysql_thread_id IN (SELECT id FROM `+sessions[w.family]+` WHERE command = 'Sleep' AND db = DATABASE())`)
		if err != nil {
			w.t.Fatal(err)
		}
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				w.t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			w.t.Fatal(err)
		}
		for _, id := range ids {
			w.exec(db, fmt.Sprintf(`KILL %d`, id))
		}
		if len(ids) > 0 {
			return
		}
		<-tick.C
	}
	w.t.Error("found no session with the lock")
}

// The master goes away with the answer to a COMMIT: the move ends with what is
// known, and recovery finds out the rest.
func TestAMoveWhoseOutcomeIsUnknownSaysSo(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for name, how := range map[string]cut.How{"committed": cut.BeforeTheAnswer, "not committed": cut.WhileSending} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, f, "", nil)
				w.fill(w.shop, 50)
				cfg, err := mysql.ParseDSN(w.masterDSN)
				if err != nil {
					t.Fatal(err)
				}
				dial := new(cut.Dialer)
				dial.Use(cfg)
				cfg.Logger = &mysql.NopLogger{}
				c, err := mysql.NewConnector(cfg)
				if err != nil {
					t.Fatal(err)
				}
				master := sql.OpenDB(c)
				defer master.Close()
				master.SetMaxIdleConns(0)
				fy, err := ferry.New(ferry.NewTables(master), w.pods, &ferry.Options{Ignore: []string{"countries"}, Lease: time.Microsecond, PauseBudget: 5 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				// Nobody waits a minute for it here: the caller's patience doesn't count
				// after the close, so the test ends the insisting.
				ctx := hook.With(t.Context(), &hook.Set{Insist: time.Second, Step: func(step string) {
					if step == "decide" {
						dial.At(func(conn net.Conn, packet []byte) (int, error) {
							dial.Refuse(true)
							return how(conn, packet)
						})
					}
				}})
				_, err = fy.Move(ctx, w.shop, 2)
				contains(t, err, podworks.ErrOutcomeUnknown, "may still be decided or undone", "Recover or Run")
				dial.Refuse(false)
				if settled, err := fy.Recover(t.Context()); err != nil || len(settled) != 1 {
					t.Fatalf("got %v, %v; want the move settled", settled, err)
				}
				// Closed by it, with the epochs as noted: either way it goes forward.
				if got, err := w.dir.Fresh(t.Context(), w.shop); err != nil || got.Pod != 2 {
					t.Errorf("the directory has %+v, %v; want pod 2", got, err)
				}
				w.same("products")
				if err := sell(t.Context(), w.target, w.shop, 2, 10); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

func TestOpenShop(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		err := w.ferry.OpenShop(t.Context(), 55)
		contains(t, err, nil, "unknown shop 55")
		if _, err := w.dir.AddShop(t.Context(), 55, 2); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := w.ferry.OpenShop(t.Context(), 55); err != nil {
				t.Fatal(err)
			}
			w.exec(w.target, `INSERT IGNORE INTO products VALUES (55, 1, 'x', 1, 1)`)
			if err := sell(t.Context(), w.target, 55, 1, 1); err != nil {
				t.Errorf("a write in the opened shop: %v", err)
			}
		}
		if _, err := w.ferry.Move(t.Context(), 55, 1); err != nil {
			t.Errorf("its first move: %v", err)
		}
		// Nor is what a move has closed and nobody has decided.
		w.addShop(56)
		w.leave([]string{"claim", "incoming", "copy", "note", "close"})
		err = w.ferry.OpenShop(t.Context(), w.shop)
		contains(t, err, ferry.ErrRefused, "its fence row is")
		w.addShop(7)
		// What a move is bringing is not opened beside it.
		w.fill(w.shop, 20)
		w.leave([]string{"claim", "incoming", "copy", "note", "close", "decide", "lose the copy"})
		err = w.ferry.OpenShop(t.Context(), w.shop)
		contains(t, err, ferry.ErrRefused, "is bringing it there")
		if err := sell(t.Context(), w.target, w.shop, 2, 1); !errors.Is(err, errMoved) {
			t.Errorf("a write to a lost copy: %v, want it refused", err)
		}
	})
}
