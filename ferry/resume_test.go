package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// patient are options with which a mover is taken for dead soon.
var patient = ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7, Lease: 300 * time.Millisecond}

// killed returns a world in which a mover was killed in the middle of the copy,
// and how many products it had copied.
func killed(t *testing.T, f testcluster.Family) (w *world, copied int64) {
	t.Helper()
	w = newWorld(t, f, "", &patient)
	w.fill(w.shop, 400)
	w.fill(w.other, 10)
	w.addPod(3)
	goOn := w.stop(300)
	kill := w.mover(2)
	w.awaitCopy(290)
	kill()
	goOn()
	// Its last chunk waited; the server rolls it back when it sees the client gone.
	return w, w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id = ?`, int64(w.shop))
}

// addPod adds a pod on the target's server.
func (w *world) addPod(pod podworks.PodID) *sql.DB {
	w.t.Helper()
	cfg := w.targetSv.Config(testcluster.Database(w.t, w.targetSv))
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	db := sql.OpenDB(c)
	w.t.Cleanup(func() { db.Close() })
	w.script(db, shopTables)
	w.pods[pod] = cfg
	if err := w.dir.AddPod(w.t.Context(), pod, "here"); err != nil {
		w.t.Fatal(err)
	}
	w.ferry = w.newFerry(&patient)
	if err := w.ferry.Migrate(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return db
}

// move moves the shop once its last mover is taken for dead.
func (w *world) move(to podworks.PodID) *ferry.Report {
	w.t.Helper()
	var report *ferry.Report
	until(w.t, "the lease to end", func() bool {
		var err error
		report, err = w.ferry.Move(w.t.Context(), w.shop, to)
		if err != nil && !errors.Is(err, ferry.ErrBusy) {
			w.t.Fatal(err)
		}
		return err == nil
	})
	return report
}

func TestAKilledMoversWorkIsGoneOnWith(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, copied := killed(t, f)
		if copied < 290 || copied >= 310 {
			t.Errorf("the mover was killed after %d rows, want about 300", copied)
		}
		// While no mover lives, the shop trades.
		for _, product := range []int{1, 200, 390} {
			if err := sell(t.Context(), w.source, w.shop, 1, product); err != nil {
				t.Fatal(err)
			}
		}
		w.exec(w.source, `DELETE FROM products WHERE shop_id = 7 AND id IN (2, 201)`)
		w.exec(w.source, `UPDATE products SET id = -100 WHERE shop_id = 7 AND id = 391`)
		w.exec(w.source, `UPDATE products SET id = 1000 WHERE shop_id = 7 AND id = 3`)
		report := w.move(2)
		t.Logf("%+v", *report)
		if want := 400 - copied - 1; report.RowsCopied != want { // one left the range
			t.Errorf("the second mover copied %d rows, want the %d that were left", report.RowsCopied, want)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		w.same("products")
		if n := w.count(w.target, `SELECT COUNT(*) FROM products`); n != 398 {
			t.Errorf("got %d products on the target, want 398", n)
		}
		if err := sell(t.Context(), w.target, w.shop, 2, 1); err != nil {
			t.Errorf("a write in the target: %v", err)
		}
	})
}

func TestAKilledMoversWorkIsUndoneForAnotherDestination(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, _ := killed(t, f)
		report := w.move(3)
		if report.Route.Pod != 3 || report.RowsCopied != 400 {
			t.Errorf("got %+v, want all 400 rows copied to pod 3", *report)
		}
		if n := w.rowsOf(w.target, w.shop); n != 0 {
			t.Errorf("%d rows are left on the first destination", n)
		}
		if row, err := fence.Read(t.Context(), w.target, w.shop, ""); err != nil || row.State != fence.Absent {
			t.Errorf("the first destination's fence says %v, %v; want absent", row, err)
		}
	})
}

func TestAKilledMoversWorkIsUndoneByRun(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, _ := killed(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.ferry.Run(ctx) }()
		until(t, "the move to be undone", func() bool {
			moves, err := w.dir.Moves(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return len(moves) == 0
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v, want its context's cause", err)
		}
		if state := w.state(1); state != string(podworks.MoveUndone) {
			t.Errorf("the journal says %s, want undone", state)
		}
		w.stays()
	})
}

// state returns what the journal says of a move.
func (w *world) state(token uint64) (state string) {
	w.t.Helper()
	if err := w.master.QueryRowContext(w.t.Context(), `SELECT state FROM podworks_moves WHERE token = ?`, token).Scan(&state); err != nil {
		w.t.Fatal(err)
	}
	return state
}

func TestASecondMoverIsTurnedAway(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 50)
		tr := &trail{at: map[string]func(){"copy": func() {
			_, err := w.ferry.Move(t.Context(), w.shop, 2)
			contains(t, err, ferry.ErrBusy, "move 1 to pod 2")
			if settled, err := w.ferry.Recover(t.Context()); err != nil || len(settled) != 0 {
				t.Errorf("Recover settled %v, %v; want nothing: the mover lives", settled, err)
			}
		}}}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.same("products")
	})
}

func TestAMoverThatWasReplacedStops(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, step := range []string{"copy", "cutover", "drain", "closed"} {
			t.Run(step, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 50)
				tr := &trail{at: map[string]func(){step: func() { // as a recoverer does that takes the mover for dead
					moves, err := w.dir.Moves(t.Context())
					if err != nil || len(moves) != 1 {
						t.Fatalf("got moves %v, %v", moves, err)
					}
					if err := w.dir.Abort(t.Context(), moves[0].Token); err != nil {
						t.Fatal(err)
					}
				}}}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				want := ferry.ErrReplaced
				if step == "closed" {
					want = nil // the decision says so
				}
				contains(t, err, want, "undone, the shop stays in pod 1")
				if tr.passed("decided") {
					t.Error("it was decided")
				}
				w.stays()
			})
		}
	})
}

// Who undid the move has fenced the target first: nothing that its mover still
// has in hand arrives there.
func TestAMoverWhoseTargetWasFencedAppliesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 50)
		tr := &trail{at: map[string]func(){"verify": func() {
			if err := fence.Tombstone(t.Context(), w.target, w.shop, 1); err != nil {
				t.Fatal(err)
			}
			w.exec(w.target, `DELETE FROM products`)
			w.exec(w.target, `DELETE FROM podworks_ferry_tail`)
			w.exec(w.target, `DELETE FROM podworks_ferry_copy`)
			if err := sell(t.Context(), w.source, w.shop, 1, 10); err != nil {
				t.Fatal(err)
			}
		}}}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, fence.ErrToken, "undone, the shop stays in pod 1")
		w.stays()
	})
}

func TestACancelledMoveIsUndone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, step := range []string{"copy", "verify", "cutover", "drain"} {
			t.Run(step, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 50)
				ctx, cancel := context.WithCancelCause(t.Context())
				enough := errors.New("enough")
				tr := &trail{at: map[string]func(){step: func() { cancel(enough) }}}
				_, err := w.ferry.Move(tr.follow(ctx), w.shop, 2)
				contains(t, err, nil, "undone, the shop stays in pod 1")
				if !errors.Is(err, enough) && !errors.Is(err, context.Canceled) {
					t.Errorf("got error %v, want the cause of the context", err)
				}
				w.stays()
			})
		}
		t.Run("closed", func(t *testing.T) { // too late: writers wait, and the way forward is the shorter one
			w := w.in(t)
			w.fill(w.shop, 50)
			ctx, cancel := context.WithCancel(t.Context())
			tr := &trail{at: map[string]func(){"closed": cancel}}
			report, err := w.ferry.Move(tr.follow(ctx), w.shop, 2)
			if err != nil {
				t.Fatal(err)
			}
			if report.Route.Pod != 2 {
				t.Errorf("got %+v, want pod 2", report.Route)
			}
		})
	})
}
