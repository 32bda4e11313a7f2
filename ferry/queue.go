package ferry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/hook"
)

// What callers of a Queue branch on.
var (
	// ErrQueued: the shop has an unfinished job to another pod. Cancel that first.
	ErrQueued = errors.New("ferry: the shop has a job to another pod")

	// ErrNoJob: the queue has no job of that number that could still be cancelled.
	ErrNoJob = errors.New("ferry: no such job")
)

// A test has claims made without looking again under the lock.
const offClaim hook.Protection = "queue: one claim at a time, under a lock"

// QueueOptions configure a Queue. The zero value is ready to use.
type QueueOptions struct {
	// Moves bounds the moves that one Run makes at once. Default 4.
	Moves int

	// PerPod bounds the moves that all processes together make at once from or to a
	// pod. Give all of them the same. Default 2.
	PerPod int

	// Tries bounds how often a job is begun, before it is failed. Default 5.
	Tries int

	// BackOff is the time from the first try's end to the second; it doubles with
	// each, up to 5 minutes. Default 5 s.
	BackOff time.Duration

	// Lease is how long a job's process may be silent before another one begins the
	// job anew. Default 10 s. Like the Ferry's, which it should be longer than, it is
	// a matter of patience only.
	Lease time.Duration

	// Moved, if set, is called with what Move returned for a job when the move is made:
	// a Report, whose Evidence is to be kept, and perhaps an error that is ErrDiffers. It
	// is called by the process that made the move, before the job is done, once for a
	// job and at once for several. It should be quick, as the job keeps its place
	// meanwhile. It isn't called for a move that others finished because its process died.
	Moved func(Job, *Report, error)
}

// A Queue makes the moves that were asked for, some at a time. It is a table in
// the master's database: any process adds jobs, any number of them Run, and what
// one leaves when it dies another goes on with. Its methods may be called
// concurrently.
//
// Guaranteed: every job ends once, as done, failed or cancelled, and what its row
// says is what became of the shop. At most PerPod rows are running, with a process
// that was heard of within the lease, from or to a pod. Not guaranteed: that no
// more moves are at work than rows say so, for the moment in which a process
// that was silent for too long finds out that its job is another's; and that a
// job's turn comes while others, one after the other, keep its two pods from having
// room at the same time.
//
// Run does what [Ferry.Run] does, too, and better: where that undoes what a dead
// process had copied, the job goes on with it. So run the queue in its place.
type Queue struct {
	f    *Ferry
	rows jobRows
	opts QueueOptions
	who  string
	wake chan struct{} // holds one signal: a job was added
}

// NewQueue returns the queue in the master database, whose moves f makes. It does
// no I/O; [Queue.Migrate] creates the tables.
func NewQueue(f *Ferry, master *sql.DB, opts *QueueOptions) (*Queue, error) {
	var o QueueOptions
	if opts != nil {
		o = *opts
	}
	o.Moves = cmp.Or(o.Moves, 4)
	o.PerPod = cmp.Or(o.PerPod, 2)
	o.Tries = cmp.Or(o.Tries, 5)
	o.BackOff = cmp.Or(o.BackOff, 5*time.Second)
	o.Lease = cmp.Or(o.Lease, 10*time.Second)
	var errs []error
	if f == nil {
		errs = append(errs, errors.New("the ferry is nil"))
	}
	if master == nil {
		errs = append(errs, errors.New("the master database is nil"))
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"Moves", o.Moves}, {"PerPod", o.PerPod}, {"Tries", o.Tries}} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %d, want 1 or more", n.name, n.value))
		}
	}
	if o.BackOff < 0 {
		errs = append(errs, fmt.Errorf("BackOff is %v, want a positive duration", o.BackOff))
	}
	if o.Lease < 0 {
		errs = append(errs, fmt.Errorf("Lease is %v, want a positive duration", o.Lease))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("ferry: queue: %w", err)
	}
	host, _ := os.Hostname() // for people; "" is as good as any
	return &Queue{f: f, rows: jobRows{master}, opts: o, who: fmt.Sprintf("%.200s/%d", host, os.Getpid()), wake: make(chan struct{}, 1)}, nil
}

// Migrate creates the queue's tables in the master database where they are missing.
func (q *Queue) Migrate(ctx context.Context) error {
	for _, stmt := range QueueSchema() {
		if _, err := q.rows.db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("ferry: create the queue's tables: %w", err)
		}
	}
	return nil
}

// Add asks for a move, and returns its job. Asking again while that is unfinished
// returns it again, so that an answer that was lost is no harm; asking for another
// pod meanwhile is ErrQueued. What can be told to be impossible at once is
// ErrRefused; the rest shows when the job's turn comes.
func (q *Queue) Add(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (Job, error) {
	if _, ok := q.f.pods[to]; !ok {
		return Job{}, refusal(shop, to, []error{fmt.Errorf("pod %d is unknown to this ferry; give New its configuration", to)})
	}
	for {
		j, ok, err := q.rows.unfinished(ctx, shop)
		switch {
		case err != nil:
			return Job{}, fmt.Errorf("ferry: add a job for shop %d: %w", shop, err)
		case ok && j.To != to:
			return Job{}, fmt.Errorf("%w: job %d, %s, takes shop %d to pod %d; wait for it, or cancel it first", ErrQueued, j.ID, j.State, shop, j.To)
		case ok:
			signal(q.wake)
			return j, nil
		}
		route, err := q.f.dir.Fresh(ctx, shop)
		if err == nil && route.Pod == to {
			err = directory.ErrSamePod
		}
		if errors.Is(err, directory.ErrUnknownShop) || errors.Is(err, directory.ErrSamePod) {
			return Job{}, refusal(shop, to, []error{err})
		}
		var id int64
		if err == nil {
			id, err = q.rows.insert(ctx, shop, route.Pod, to)
		}
		if err == nil { // by its number: another process may have brought it to its end
			signal(q.wake)
			hook.Step(ctx, "job.added")
			return q.Job(ctx, uint64(id))
		}
		var answer *mysql.MySQLError
		if !errors.As(err, &answer) || answer.Number != 1062 { // another process adds it at the same time
			return Job{}, fmt.Errorf("ferry: add a job for shop %d: %w", shop, err)
		}
	}
}

// Jobs returns the unfinished jobs, the oldest first, and then the hundred that
// ended last, the latest first. Rows of ended jobs are kept until the application
// deletes them.
func (q *Queue) Jobs(ctx context.Context) ([]Job, error) {
	jobs, err := q.rows.read(ctx, `WHERE j.active IS NOT NULL ORDER BY j.id`)
	if err != nil {
		return nil, fmt.Errorf("ferry: read the queue: %w", err)
	}
	ended, err := q.rows.read(ctx, `WHERE j.finished_at IS NOT NULL ORDER BY j.finished_at DESC LIMIT 100`)
	if err != nil {
		return nil, fmt.Errorf("ferry: read the queue: %w", err)
	}
	// One that ended between the two is in both.
	return slices.Concat(slices.DeleteFunc(jobs, func(j Job) bool {
		return slices.ContainsFunc(ended, func(e Job) bool { return e.ID == j.ID })
	}), ended), nil
}

// Job returns one job, or an error that is ErrNoJob.
func (q *Queue) Job(ctx context.Context, id uint64) (Job, error) {
	jobs, err := q.rows.read(ctx, `WHERE j.id = ?`, id)
	if err == nil && len(jobs) == 0 {
		return Job{}, fmt.Errorf("%w: %d", ErrNoJob, id)
	}
	if err != nil {
		return Job{}, fmt.Errorf("ferry: read job %d: %w", id, err)
	}
	return jobs[0], nil
}

// Cancel ends a job that waits, and has the move of one that runs undone, which
// its process does within a second or so; one that is decided by then is done.
// Cancelling twice is no error. A job that is done or failed is ErrNoJob.
func (q *Queue) Cancel(ctx context.Context, id uint64) error {
	j, err := q.Job(ctx, id)
	if err != nil {
		return err
	}
	// One that waits to be tried again may have left a move in the journal. Whoever
	// begins it next brings that to its end, which may be that it is done.
	_, unfinished, err := q.standing(ctx, j)
	if err == nil {
		err = q.rows.cancel(ctx, id, !unfinished)
	}
	if err != nil {
		return fmt.Errorf("ferry: cancel job %d: %w", id, err)
	}
	j, err = q.Job(ctx, id)
	if err == nil && (j.State == JobDone || j.State == JobFailed) {
		err = fmt.Errorf("%w: job %d is %s", ErrNoJob, id, j.State)
	}
	return err
}

// Run makes the moves whose turn it is until ctx ends. It looks for them once a
// second, and at once when a job was added to this Queue or a move of its own has
// ended. It also finishes or undoes the moves whose movers died, but for those of
// jobs, which go on with them. When ctx ends, the moves in hand stop where they are,
// or, if their shops' writers wait, come to their end; their jobs wait for another
// process, and Run returns with ctx's cause.
func (q *Queue) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = q.f.runExcept(ctx, q.queued) }) // which ends with ctx
	ended := make(chan struct{}, q.opts.Moves)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for busy := 0; ; {
		for busy < q.opts.Moves && ctx.Err() == nil {
			j, ok, err := q.claim(ctx)
			if err != nil && ctx.Err() == nil {
				q.f.opts.Logger.Warn("looking for a job to begin", "err", err)
			}
			if err != nil || !ok {
				break
			}
			busy++
			wg.Go(func() {
				q.work(ctx, j)
				ended <- struct{}{}
			})
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ended:
			busy--
		case <-q.wake:
		case <-tick.C:
		}
	}
}

// claim returns a job to begin, which is then this process's.
func (q *Queue) claim(ctx context.Context) (Job, bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("the queue didn't answer within %v", lookTime))
	defer cancel()
	for {
		// Without the lock, which idle processes would otherwise take from each other.
		j, ok, err := q.next(ctx, q.rows.db)
		if err != nil || !ok {
			return j, false, err
		}
		// Another move may have taken the shop elsewhere since the job was added, so
		// that it is other pods' room that it needs. A route that can't be had is for
		// the move to complain of.
		route, err := q.f.dir.Fresh(ctx, j.Shop)
		if err == nil && route.Pod != j.From && route.Pod != j.To {
			if err := q.rows.comesFrom(ctx, j, route.Pod); err != nil {
				return j, false, err
			}
			continue
		}
		hook.Step(ctx, "job.claim")
		j, ok, err = q.rows.claim(ctx, j, q.who, q.next)
		if err != nil || ok {
			return j, ok, err
		} // else another process was first, and there may be more
	}
}

// next returns the job that is to be begun next.
func (q *Queue) next(ctx context.Context, db querier) (Job, bool, error) {
	running, waiting, err := jobsDue(ctx, db)
	if err != nil {
		return Job{}, false, err
	}
	j, ok := choose(running, waiting, q.opts.Lease, q.opts.PerPod)
	return j, ok, nil
}

// work makes one try at a job and notes what came of it.
func (q *Queue) work(ctx context.Context, j Job) {
	log := q.f.opts.Logger.With("job", j.ID, "shop", j.Shop, "from", j.From, "to", j.To)
	log.Info("job begun", "try", j.Tries)
	moving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { stop(errLeft) })()
	var beating sync.WaitGroup
	beating.Go(func() { q.beat(moving, j, stop) })
	report, err := q.move(moving, j)
	if report != nil && q.opts.Moved != nil {
		q.opts.Moved(j, report, err)
	}
	cause := context.Cause(moving)
	stop(nil)
	beating.Wait()
	if errors.Is(cause, errNotOurs) {
		log.Warn("the job is another process's by now", "err", err)
		return
	}
	j.stop = j.stop || errors.Is(cause, errCancelled)
	// A process that is told to end still says what became of its job. If it can't,
	// the lease ends, and who begins the job then finds out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.opts.Lease)
	defer cancel()
	for {
		next, unsaid := q.settle(ctx, j, try{err: err, moved: report != nil, leaving: errors.Is(cause, errLeft)})
		switch {
		case unsaid == nil:
			log.Info("job tried", "state", next.State, "err", next.Error)
			return
		case errors.Is(unsaid, errNotOurs): // or it is said, and the answer was lost
			return
		}
		log.Warn("noting what became of a job", "err", unsaid)
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(time.Second, q.opts.Lease/4)):
		}
	}
}

// settle writes what came of a try at a job.
func (q *Queue) settle(ctx context.Context, j Job, t try) (Job, error) {
	arrived, unfinished, err := q.standing(ctx, j)
	if err != nil {
		return j, err
	}
	t.arrived, t.unfinished = arrived, unfinished
	next, wait := j.after(t, q.opts.Tries, q.opts.BackOff, q.f.opts.Lease)
	hook.Step(ctx, "job.end")
	return next, q.rows.end(ctx, next, wait)
}

// standing reports whether a job's shop is in its pod, and whether the journal has
// an unfinished move of it.
func (q *Queue) standing(ctx context.Context, j Job) (arrived, unfinished bool, err error) {
	moves, err := q.f.dir.Moves(ctx)
	if err != nil {
		return false, false, err
	}
	route, err := q.f.dir.Fresh(ctx, j.Shop)
	if err != nil && !errors.Is(err, directory.ErrUnknownShop) {
		return false, false, err
	}
	return route.Pod == j.To, slices.ContainsFunc(moves, func(mv podworks.Move) bool { return mv.From.Shop == j.Shop }), nil
}

// beat says, for as long as a job's move is made, that its process is alive, and
// stops the move if the job is cancelled or is no longer this process's. That the
// master doesn't answer is no reason to: whoever takes the job over finds the move
// in the journal.
func (q *Queue) beat(ctx context.Context, j Job, stop context.CancelCauseFunc) {
	tick := time.NewTicker(min(time.Second, q.opts.Lease/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cancelled, err := q.rows.beat(ctx, j)
		switch {
		case errors.Is(err, errNotOurs):
			stop(err)
			hook.Step(ctx, "job.stopped")
		case err == nil && cancelled && !j.stop:
			stop(errCancelled)
			hook.Step(ctx, "job.stopped")
		}
	}
}
