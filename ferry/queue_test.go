package ferry_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// queueVariable describes a process of this binary that runs a queue until it is
// killed, or told to end.
const queueVariable = "PODWORKS_FERRY_QUEUE"

type queueRole struct {
	Master string
	Pods   map[podworks.PodID]string
	Stop   string // the step before which it says so, and waits
}

// jobLimits are those of every queue of these tests. The lease is short, so that
// processes are taken for dead that are not.
var jobLimits = ferry.QueueOptions{Moves: 2, PerPod: 3, Tries: 50, BackOff: 50 * time.Millisecond, Lease: 1500 * time.Millisecond}

var jobMoves = ferry.Options{Ignore: []string{"countries"}, ChunkRows: 7, Lease: 500 * time.Millisecond, PauseBudget: 5 * time.Second}

func queueAs(text string) error {
	var r queueRole
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	_ = mysql.SetLogger(&mysql.NopLogger{})
	master, pods, err := openAll(r.Master, r.Pods)
	if err != nil {
		return err
	}
	f, err := ferry.New(ferry.NewTables(master), pods, &jobMoves)
	if err != nil {
		return err
	}
	q, err := ferry.NewQueue(f, master, &jobLimits)
	if err != nil {
		return err
	}
	// Who started this process may die of a failed test.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if r.Stop != "" {
		ctx = stopAt(ctx, r.Stop)
	}
	if err := q.Run(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// A queueWorld is a world with a queue and a third pod.
type queueWorld struct {
	*world
	q   *ferry.Queue
	dbs map[podworks.PodID]*sql.DB
}

// newQueueWorld notes in the database, by a trigger, each time that a job is
// begun, with how many run then from or to each of its pods, and each time that
// one ends, or is written to after that.
func newQueueWorld(t *testing.T, f testcluster.Family, opts *ferry.QueueOptions) *queueWorld {
	t.Helper()
	return newQueueWorldOn(t, testcluster.Shared(t, f, "source"), testcluster.Shared(t, f, "target"), opts)
}

func newQueueWorldOn(t *testing.T, source, target *testcluster.MySQLServer, opts *ferry.QueueOptions) *queueWorld {
	t.Helper()
	w := &queueWorld{world: newWorldOn(t, source, target, "", &jobMoves)}
	w.dbs = map[podworks.PodID]*sql.DB{1: w.source, 2: w.target, 3: w.addPod(3)}
	w.ferry = w.newFerry(&jobMoves)
	w.q = w.newQueue(opts)
	if err := w.q.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec(w.master, `CREATE TABLE noted (n INT NOT NULL AUTO_INCREMENT PRIMARY KEY, what VARCHAR(9) NOT NULL, job BIGINT NOT NULL, source INT NOT NULL, target INT NOT NULL)`)
	load := func(pod string) string {
		return fmt.Sprintf(`(SELECT COUNT(*) FROM podworks_move_jobs r WHERE r.state = 'running' AND %s IN (r.from_pod, r.to_pod)
			AND r.noted_at > UTC_TIMESTAMP(6) - INTERVAL %d MICROSECOND)`, pod, jobLimits.Lease.Microseconds())
	}
	w.exec(w.master, `CREATE TRIGGER note AFTER UPDATE ON podworks_move_jobs FOR EACH ROW
		INSERT INTO noted (what, job, source, target) SELECT IF(OLD.finished_at IS NOT NULL, 'again', IF(NEW.finished_at IS NOT NULL, 'ended', 'begun')), NEW.id, `+load("NEW.from_pod")+`, `+load("NEW.to_pod")+`
		FROM DUAL WHERE NEW.claim <> OLD.claim OR NEW.finished_at IS NOT NULL`)
	return w
}

func (w *queueWorld) newQueue(opts *ferry.QueueOptions) *ferry.Queue {
	w.t.Helper()
	if opts == nil {
		opts = &jobLimits
	}
	q, err := ferry.NewQueue(w.ferry, w.master, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return q
}

// run runs a queue until the test ends.
func (w *queueWorld) run(ctx context.Context, q *ferry.Queue) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.t.Errorf("Run ended with %v, want its context's cause", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// add adds a shop with some products in a pod, and a job that moves it.
func (w *queueWorld) add(shop podworks.ShopID, from, to podworks.PodID) ferry.Job {
	w.t.Helper()
	db := w.dbs[from]
	if _, err := w.dir.AddShop(w.t.Context(), shop, from); err != nil {
		w.t.Fatal(err)
	}
	if err := fence.Create(w.t.Context(), db, shop); err != nil {
		w.t.Fatal(err)
	}
	for id := range 20 {
		w.exec(db, `INSERT INTO products VALUES (?, ?, 'a product', 1, 1)`, int64(shop), id)
	}
	j, err := w.q.Add(w.t.Context(), shop, to)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// ended waits for a job's end, and returns it.
func (w *queueWorld) ended(id uint64) (j ferry.Job) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("job %d to end", id), func() bool {
		var err error
		if j, err = w.q.Job(w.t.Context(), id); err != nil {
			w.t.Fatal(err)
		}
		return j.Ended()
	})
	return j
}

// there fails the test unless the job is done, and the shop trades in its pod.
func (w *queueWorld) there(j ferry.Job) {
	w.t.Helper()
	if j.State != ferry.JobDone || j.Error != "" || j.Finished.IsZero() {
		w.t.Errorf("job %d is %s (%s), want done", j.ID, j.State, j.Error)
	}
	db := w.dbs[j.To]
	if err := sell(w.t.Context(), db, j.Shop, 2, 1); err != nil {
		w.t.Errorf("a write of shop %d in pod %d: %v", j.Shop, j.To, err)
	}
	if n := w.count(db, `SELECT COUNT(*) FROM products WHERE shop_id = ?`, int64(j.Shop)); n != 20 {
		w.t.Errorf("pod %d has %d products of shop %d, want 20", j.To, n, j.Shop)
	}
}

func TestJobsAreMovesThatEndOnce(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		ctx := t.Context()
		w := newQueueWorld(t, f, nil)
		a, b := w.add(101, 1, 2), w.add(102, 1, 3)
		refused := w.add(103, 1, 2)
		w.exec(w.target, `INSERT INTO products VALUES (103, 1, 'left by somebody', 1, 1)`)

		again, err := w.q.Add(ctx, 101, 2)
		if err != nil || again.ID != a.ID {
			t.Errorf("added again: got %+v, %v; want job %d", again, err, a.ID)
		}
		_, err = w.q.Add(ctx, 101, 3)
		contains(t, err, ferry.ErrQueued, fmt.Sprintf("job %d, waiting, takes shop 101 to pod 2", a.ID))
		_, err = w.q.Add(ctx, w.shop, 1)
		contains(t, err, ferry.ErrRefused, "in that pod already")
		_, err = w.q.Add(ctx, w.shop, 9)
		contains(t, err, ferry.ErrRefused, "pod 9 is unknown to this ferry")
		_, err = w.q.Add(ctx, 999, 2)
		contains(t, err, ferry.ErrRefused, "unknown shop")

		w.run(ctx, w.q)
		w.there(w.ended(a.ID))
		w.there(w.ended(b.ID))
		if j := w.ended(refused.ID); j.State != ferry.JobFailed || j.Tries != 1 {
			t.Errorf("got job %+v, want it failed at once", j)
		} else {
			contains(t, errors.New(j.Error), nil, "refused", "products", "103")
		}
		// The next is begun by the event, not by the second's tick.
		w.there(w.ended(w.add(104, 1, 2).ID))
		jobs, err := w.q.Jobs(ctx)
		if err != nil || len(jobs) != 4 || jobs[0].Shop != 104 {
			t.Errorf("got the jobs %+v, %v; want the four that ended, the latest first", jobs, err)
		}
		_, err = w.q.Job(ctx, 999)
		contains(t, err, ferry.ErrNoJob)
	})
}

func TestJobsAreCancelled(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		ctx := t.Context()
		w := newQueueWorld(t, f, nil)
		waits := w.add(101, 1, 2)
		for range 2 {
			if err := w.q.Cancel(ctx, waits.ID); err != nil {
				t.Fatal(err)
			}
		}
		if j := w.ended(waits.ID); j.State != ferry.JobCancelled || j.Tries != 0 {
			t.Errorf("got job %+v, want it cancelled and never begun", j)
		}

		runs := w.add(102, 1, 2)
		stopped := make(chan struct{})
		stop := w.run((&trail{at: map[string]func(){
			"verify": func() {
				if err := w.q.Cancel(ctx, runs.ID); err != nil {
					t.Error(err)
				}
				<-stopped
			},
			"job.stopped": func() { close(stopped) },
		}}).follow(ctx), w.q)
		if j := w.ended(runs.ID); j.State != ferry.JobCancelled || j.Tries != 1 {
			t.Errorf("got job %+v, want it cancelled", j)
		} else {
			contains(t, errors.New(j.Error), nil, "undone, the shop stays in pod 1", "the job was cancelled")
		}
		if n := w.rowsOf(w.target, 102); n != 0 {
			t.Errorf("%d rows of its shop are left in the target", n)
		}
		stop()

		decided := w.add(103, 1, 2)
		w.run((&trail{at: map[string]func(){"opened": func() {
			if err := w.q.Cancel(ctx, decided.ID); err != nil {
				t.Error(err)
			}
		}}}).follow(ctx), w.q)
		w.there(w.ended(decided.ID))
		contains(t, w.q.Cancel(ctx, decided.ID), ferry.ErrNoJob, "is done")
		contains(t, w.q.Cancel(ctx, 999), ferry.ErrNoJob)
	})
}

// A job is cancelled when its try has failed, and before its row says so. The back-off
// isn't waited for.
func TestAJobThatIsCancelledAtTheEndOfATryEndsSoon(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newQueueWorld(t, f, nil)
		w.fill(w.shop, 50)
		opts := jobMoves
		opts.Stores = []ferry.Store{{Name: "a", Prepare: func(context.Context, podworks.Move) error { return errors.New("it is full") }}}
		w.ferry = w.newFerry(&opts)
		limits := jobLimits
		limits.BackOff = time.Hour
		w.q = w.newQueue(&limits)
		j, err := w.q.Add(t.Context(), w.shop, 2)
		w.must(err)
		w.run((&trail{at: map[string]func(){"job.end": func() {
			if err := w.q.Cancel(t.Context(), j.ID); err != nil {
				t.Error(err)
			}
		}}}).follow(t.Context()), w.q)
		if j = w.ended(j.ID); j.State != ferry.JobCancelled {
			t.Errorf("got job %+v, want it cancelled", j)
		}
		contains(t, errors.New(j.Error), nil, "it is full")
	})
}

// A job that another process brings to its end before Add has read it is the one that
// was asked for.
func TestAddReturnsTheJobThatItAdded(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newQueueWorld(t, f, nil)
		w.fill(w.shop, 50)
		w.run(t.Context(), w.newQueue(nil))
		ctx := (&trail{at: map[string]func(){"job.added": func() {
			until(t, "the job to end", func() bool {
				return w.count(w.master, `SELECT COUNT(*) FROM podworks_move_jobs WHERE finished_at IS NOT NULL`) == 1
			})
		}}}).follow(t.Context())
		j, err := w.q.Add(ctx, w.shop, 2)
		if err != nil || j.State != ferry.JobDone || j.Shop != w.shop {
			t.Errorf("got job %+v, %v; want it done", j, err)
		}
		if n := w.count(w.master, `SELECT COUNT(*) FROM podworks_move_jobs`); n != 1 {
			t.Errorf("there are %d jobs, want 1", n)
		}
	})
}

// Rows differ at the switch, which a job's move leaves evidence of like any other, and a
// store can't be finished at once, so that the job's later tries find the move made.
func TestAJobsMoveLeavesItsEvidence(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newQueueWorld(t, f, nil)
		w.fill(w.shop, 50)
		var finishes atomic.Int64
		opts := jobMoves
		opts.Stores = []ferry.Store{{Name: "a", Finish: func(context.Context, podworks.Move) error {
			if finishes.Add(1) == 1 {
				return errors.New("not yet")
			}
			return nil
		}}}
		w.ferry = w.newFerry(&opts)
		type made struct {
			j      ferry.Job
			report *ferry.Report
			err    error
		}
		moved := make(chan made, 10)
		limits := jobLimits
		limits.Moved = func(j ferry.Job, r *ferry.Report, err error) { moved <- made{j, r, err} }
		w.q = w.newQueue(&limits)
		j, err := w.q.Add(t.Context(), w.shop, 2)
		w.must(err)
		w.run((&trail{at: map[string]func(){"cutover": func() {
			w.exec(w.target, `UPDATE products SET price = 0 WHERE shop_id = 7 AND id = 10`)
		}}}).follow(t.Context()), w.q)
		j = w.ended(j.ID)
		if j.State != ferry.JobDone {
			t.Errorf("got job %+v, want it done", j)
		}
		contains(t, errors.New(j.Error), nil, "rows differ", "as of the switch; the move is made")
		if len(moved) != 1 {
			t.Fatalf("Moved was called %d times, want once", len(moved))
		}
		m := <-moved
		contains(t, m.err, ferry.ErrDiffers)
		if m.j.ID != j.ID || m.report.Route.Pod != 2 || m.report.Unfinished == "" || m.report.Evidence.Switch.Differing != 1 {
			t.Errorf("Moved was called with %+v, %+v; want job %d, one row that differs, and the journal to have the move", m.j, m.report, j.ID)
		}
	})
}

// newCopyJob has a job of 500 rows, and counts those that the latest mover has copied.
func newCopyJob(t *testing.T, f testcluster.Family) (w *queueWorld, j ferry.Job, copied *atomic.Int64) {
	w, copied = newQueueWorld(t, f, nil), new(atomic.Int64)
	w.fill(w.shop, 500)
	opts := jobMoves
	opts.Progress = func(p ferry.Progress) { copied.Store(p.RowsCopied) }
	w.ferry = w.newFerry(&opts)
	w.q = w.newQueue(nil)
	j, err := w.q.Add(t.Context(), w.shop, 2)
	if err != nil {
		t.Fatal(err)
	}
	return w, j, copied
}

// A process that is told to end, in the middle of a copy, leaves that to the next.
// Nobody undoes it in between, though recoverers have long taken its mover for dead.
func TestAnotherProcessGoesOnWithAJobsCopy(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, j, copied := newCopyJob(t, f)
		told, tell := context.WithCancel(t.Context())
		defer tell()
		n := 0
		stop := w.run(hook.With(told, &hook.Set{Off: map[hook.Protection]bool{ferry.OffGroups: true}, Step: func(step string) {
			if step == "apply" {
				if n++; n == 30 {
					tell()
				}
			}
		}}), w.q)
		<-told.Done()
		stop()
		if j, err := w.q.Job(t.Context(), j.ID); err != nil || j.State != ferry.JobWaiting || j.Tries != 0 {
			t.Fatalf("got job %+v, %v; want it to wait, and no try counted", j, err)
		}
		first := w.count(w.target, `SELECT COUNT(*) FROM products`)
		if first < 100 || first == 500 {
			t.Fatalf("the first process copied %d rows, want some of 500", first)
		}

		tr := &trail{}
		w.run(tr.follow(t.Context()), w.q)
		if j = w.ended(j.ID); j.State != ferry.JobDone {
			t.Errorf("got job %+v, want it done", j)
		}
		w.same("products")
		if tr.passed("recover.abort") || copied.Load() > 500-first+1 {
			t.Errorf("the second process copied %d rows, want the %d that were left; it undid the copy: %t", copied.Load(), 500-first, tr.passed("recover.abort"))
		}
	})
}

// A mover dies when it has closed the source, and its job's turn is long to come.
func TestAShopThatIsClosedDoesNotWaitForItsJob(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newQueueWorld(t, f, nil)
		w.fill(w.shop, 20)
		j, err := w.q.Add(t.Context(), w.shop, 2)
		w.must(err)
		w.exec(w.master, `UPDATE podworks_move_jobs SET due_at = due_at + INTERVAL 1 HOUR`)
		w.leave([]string{"claim", "incoming", "copy", "note", "close"})
		w.run(t.Context(), w.q)
		until(t, "the shop to be opened", func() bool { return sell(t.Context(), w.target, w.shop, 2, 1) == nil })
		if j, err = w.q.Job(t.Context(), j.ID); err != nil || j.State != ferry.JobWaiting || j.Tries != 0 {
			t.Errorf("got job %+v, %v; want it to wait still", j, err)
		}
	})
}

// A process that was silent for longer than the lease finds that its job is another's,
// which hasn't come to claim the move yet. It leaves the copy to that one.
func TestAProcessThatHasLostItsJobLeavesTheCopy(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, j, copied := newCopyJob(t, f)
		stopped := make(chan struct{})
		tr := &trail{at: map[string]func(){
			"verify": func() { // another one begins it, and dies
				w.exec(w.master, `UPDATE podworks_move_claims SET claim = claim + 1`)
				w.exec(w.master, `UPDATE podworks_move_jobs SET claim = (SELECT claim FROM podworks_move_claims) WHERE id = ?`, j.ID)
				<-stopped
				if n := copied.Load(); n != 500 {
					t.Errorf("the first process had copied %d rows, want 500", n)
				}
			},
			"job.stopped": func() { close(stopped) },
		}}
		w.run(tr.follow(t.Context()), w.q)
		if j = w.ended(j.ID); j.State != ferry.JobDone || j.Tries != 2 {
			t.Errorf("got job %+v, want it done at the second try", j)
		}
		w.same("products")
		if n := copied.Load(); n != 0 || tr.passed("recover.abort") {
			t.Errorf("the copy was undone: %t; the second process copied %d rows, want none", tr.passed("recover.abort"), n)
		}
	})
}

// Four moves from a pod at once, and one reader of its log.
func TestMovesAtOnceReadTheLogOnce(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		const moves = 4
		w := newQueueWorldOn(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f}), testcluster.Shared(t, f, "target"), nil)
		readers := func() int64 {
			return w.count(w.source, `SELECT COUNT(*) FROM `+sessions[f]+` WHERE command LIKE 'Binlog Dump%'`)
		}
		var mu sync.Mutex
		come, all := 0, make(chan struct{})
		opts := jobLimits
		opts.Moves, opts.PerPod, opts.Lease = moves, moves, time.Minute
		w.q = w.newQueue(&opts)
		var jobs []ferry.Job
		for i := range moves {
			jobs = append(jobs, w.add(podworks.ShopID(100+i), 1, podworks.PodID(2+i%2)))
		}
		w.run(hook.With(t.Context(), &hook.Set{Step: func(step string) {
			if step != "verify" {
				return
			}
			mu.Lock()
			if come++; come == moves {
				if n := readers(); n != 1 {
					t.Errorf("%d moves have %d readers of the log, want 1", moves, n)
				}
				close(all)
			}
			mu.Unlock()
			<-all
		}}), w.q)
		for _, j := range jobs {
			w.there(w.ended(j.ID))
		}
		until(t, "nobody to read the log", func() bool { return readers() == 0 })
	})
}

// A fleet is rebalanced: two hundred small shops that trade, eight at a time.
func TestTwoHundredShopsMoveEightAtATime(t *testing.T) {
	t.Parallel()
	shops := 200
	if os.Getenv("PODWORKS_SOAK") == "" {
		shops = 12
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		opts := jobLimits
		opts.Moves, opts.PerPod, opts.Tries, opts.Lease = 8, 8, 1, time.Minute
		w := newQueueWorld(t, f, &opts)
		w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}, PauseBudget: 5 * time.Second})
		w.q = w.newQueue(&opts)
		var jobs []ferry.Job
		for i := range shops {
			jobs = append(jobs, w.add(podworks.ShopID(1000+i), 1, podworks.PodID(2+i%2)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		defer writers.Wait()
		defer cancel()
		writers.Go(func() { // each shop in its turn, for as long as it is in pod 1
			for i := 0; ctx.Err() == nil; i = (i + 1) % shops {
				_ = sell(ctx, w.source, podworks.ShopID(1000+i), 1, 2)
			}
		})
		start := time.Now()
		w.run(t.Context(), w.q)
		for _, j := range jobs {
			w.there(w.ended(j.ID))
		}
		t.Logf("%d moves took %v", shops, time.Since(start))
	})
}

// Two processes have looked, and found the same job to be the next and room for it,
// before either begins one.
func TestOneProcessBeginsAJob(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, off := range []bool{false, true} {
			t.Run(map[bool]string{false: "protected", true: "unprotected"}[off], func(t *testing.T) {
				t.Parallel()
				w := newQueueWorld(t, f, nil)
				jobs := []ferry.Job{w.add(101, 1, 2), w.add(102, 1, 2)}
				opts := jobLimits
				opts.PerPod, opts.Moves, opts.Lease = 1, 1, time.Minute
				var both sync.WaitGroup
				both.Add(2)
				for range 2 {
					var first sync.Once
					w.run(hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{ferry.OffClaim: off}, Step: func(step string) {
						if step == "job.claim" {
							first.Do(func() { both.Done(); both.Wait() })
						}
					}}), w.newQueue(&opts))
				}
				for _, j := range jobs {
					w.there(w.ended(j.ID))
				}
				begun := w.count(w.master, `SELECT COUNT(*) FROM noted WHERE what = 'begun'`)
				if !off && begun != 2 {
					t.Errorf("2 jobs were begun %d times", begun)
				}
				if off && begun == 2 {
					t.Error("without the lock each job was begun once all the same: this test shows nothing")
				}
			})
		}
	})
}

// queueProcess runs a queue in a process of its own, which says when it comes to stop.
func (w *queueWorld) queueProcess(stop string) (cmd *exec.Cmd, says *bufio.Scanner) {
	w.t.Helper()
	role := queueRole{Master: w.masterDSN, Pods: map[podworks.PodID]string{}, Stop: stop}
	for pod, cfg := range w.pods {
		role.Pods[pod] = cfg.FormatDSN()
	}
	text, err := json.Marshal(role)
	w.must(err)
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), queueVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	w.must(err)
	stdout, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewScanner(stdout)
}

// A process is frozen in the middle of beginning a job. Others begin it without waiting
// until the server gives up a session that is idle.
func TestAProcessThatIsFrozenWhileItBeginsAJobHoldsUpNobody(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newQueueWorld(t, f, nil)
		j := w.add(101, 1, 2)
		cmd, says := w.queueProcess("job.locked")
		if !says.Scan() || says.Text() != "before job.locked" {
			t.Fatalf("the process said %q", says.Text())
		}
		w.must(cmd.Process.Signal(syscall.SIGSTOP))
		w.run(t.Context(), w.q)
		w.there(w.ended(j.ID))
	})
}

// Processes are killed, and frozen until others have taken over what they had.
// Every job ends once, its shop is where it says, and at no time did more run from
// or to a pod than may.
func TestJobsOutliveTheirProcesses(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		seed := uint64(time.Now().UnixNano())
		if text := os.Getenv("PODWORKS_SEED"); text != "" {
			if _, err := fmt.Sscan(text, &seed); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("PODWORKS_SEED=%d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		w := newQueueWorld(t, f, nil)
		pairs := [][2]podworks.PodID{{1, 2}, {1, 3}, {3, 2}}
		var jobs []ferry.Job
		for i := range 12 {
			pair := pairs[rnd.IntN(len(pairs))]
			jobs = append(jobs, w.add(podworks.ShopID(100+i), pair[0], pair[1]))
		}
		start := func() *exec.Cmd {
			cmd, _ := w.queueProcess("")
			return cmd
		}
		noted := func(what string) int {
			return int(w.count(w.master, `SELECT COUNT(*) FROM noted WHERE what = ?`, what))
		}
		processes := []*exec.Cmd{start(), start(), start()}
		for range 6 {
			var job, claim int64
			var who string
			until(t, "a job to run", func() bool {
				err := w.master.QueryRowContext(t.Context(), `SELECT id, claim, who FROM podworks_move_jobs WHERE state = 'running' ORDER BY (id * ?) % 17 LIMIT 1`, 1+rnd.IntN(16)).Scan(&job, &claim, &who)
				if err != nil && !errors.Is(err, sql.ErrNoRows) {
					t.Fatal(err)
				}
				return err == nil || noted("ended") == len(jobs)
			})
			i := slices.IndexFunc(processes, func(p *exec.Cmd) bool { return strings.HasSuffix(who, fmt.Sprintf("/%d", p.Process.Pid)) })
			if i < 0 {
				continue // of one that was killed, or all have ended
			}
			if p := processes[i].Process; rnd.IntN(3) > 0 {
				_ = p.Kill()
				_ = processes[i].Wait()
				processes[i] = start()
			} else {
				_ = p.Signal(syscall.SIGSTOP)
				until(t, "another process to take over", func() bool {
					return w.count(w.master, `SELECT COUNT(*) FROM podworks_move_jobs WHERE id = ? AND claim = ? AND state = 'running'`, job, claim) == 0
				})
				_ = p.Signal(syscall.SIGCONT)
			}
		}
		for _, j := range jobs {
			w.there(w.ended(j.ID))
		}
		if n := noted("ended"); n != len(jobs) {
			t.Errorf("%d jobs ended %d times", len(jobs), n)
		}
		if n := noted("again"); n != 0 {
			t.Errorf("jobs that had ended were written to %d times", n)
		}
		most := w.count(w.master, `SELECT MAX(GREATEST(source, target)) FROM noted WHERE what = 'begun'`)
		t.Logf("begun %d times; at most %d at once in a pod", noted("begun"), most)
		if noted("begun") == len(jobs) {
			t.Error("no process died in the middle of a job: this test shows nothing")
		}
		if most > int64(jobLimits.PerPod) || most < 2 {
			t.Errorf("up to %d moves ran at once from or to a pod, want 2 to %d", most, jobLimits.PerPod)
		}
	})
}
