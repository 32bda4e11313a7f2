package ferry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/podworks/podworks"
)

// A JobState is where a job of a [Queue] is.
type JobState string

// The states of a job. Waiting and running lead to each other and to the rest,
// which lead nowhere.
const (
	JobWaiting   JobState = "waiting"
	JobRunning   JobState = "running"
	JobDone      JobState = "done"      // the shop is in pod To
	JobFailed    JobState = "failed"    // the shop isn't, and Error says why
	JobCancelled JobState = "cancelled" // before the move was decided
)

// A Job is a move that was asked for, as its row has it.
type Job struct {
	ID       uint64
	Shop     podworks.ShopID
	From     podworks.PodID // where the shop was when this was looked up last
	To       podworks.PodID
	State    JobState
	Tries    int    // begun so far, but for those that found another mover at work or whose process was told to end
	Who      string // has it, or had it last: host and process
	Error    string // of the last try; of a job that is done, what its comparison after the switch found
	Created  time.Time
	Due      time.Time     // not begun before
	Finished time.Time     // zero if it isn't
	Idle     time.Duration // since its process was heard of, of a running one

	claim uint64 // the number under which it was begun; they only grow
	stop  bool   // it was cancelled
	last  uint64 // the highest claim of a job between the same pods
	found string // what the comparison after the switch found, in the try that made the move
}

// Ended reports whether the job has come to its end.
func (j Job) Ended() bool { return j.State != JobWaiting && j.State != JobRunning }

// choose returns the job that is to be begun next, if one may be. waiting are the
// oldest job that is due of each pair of pods.
//
// First come jobs whose process has died, as a shop's writers may wait for one.
// Then comes the pair of pods that was served longest ago: so pairs take turns, and
// one with a thousand jobs gets no more of them than one with two. A job that has
// no room in its pods is passed over by those that have: it holds up nobody, and
// gets the next room there is in both at once.
func choose(running, waiting []Job, lease time.Duration, perPod int) (Job, bool) {
	load := map[podworks.PodID]int{}
	var next []Job
	for _, j := range running {
		if j.Idle >= lease {
			next = append(next, j)
			continue
		}
		load[j.From]++
		load[j.To]++
	}
	byAge := func(a, b Job) int { return cmp.Compare(a.ID, b.ID) }
	byTurn := func(a, b Job) int { return cmp.Or(cmp.Compare(a.last, b.last), byAge(a, b)) }
	next = slices.Concat(slices.SortedFunc(slices.Values(next), byAge), slices.SortedFunc(slices.Values(waiting), byTurn))
	for _, j := range next {
		if load[j.From] < perPod && load[j.To] < perPod {
			return j, true
		}
	}
	return Job{}, false
}

// A try is what has come of a job this time.
type try struct {
	err        error // of the move
	moved      bool  // by this try, whatever err says of the comparison after it
	arrived    bool  // the shop is in pod To
	unfinished bool  // the journal has a move of the shop
	leaving    bool  // this process was told to end
}

// maxBackOff bounds the time between two tries.
const maxBackOff = 5 * time.Minute

// after returns the job as it is after a try, which is the last of tries at most.
//
// While the journal has the move, nobody can say whether the shop stays, so no job
// ends: it is begun again to settle that, if need be beyond its tries. The
// exception is what only a human mends.
func (j Job) after(t try, tries int, backOff, busy time.Duration) (_ Job, wait time.Duration) {
	if t.err != nil {
		j.Error = t.err.Error()
	}
	if t.moved && t.err != nil {
		j.found = j.Error
	}
	j.State = JobWaiting
	final := errors.Is(t.err, ErrRefused) || j.Tries >= tries
	wait = min(backOff<<min(max(j.Tries, 1)-1, 20), maxBackOff)
	switch {
	case t.arrived && !t.unfinished:
		// Other errors of this try or an earlier one are made good. That rows differed is
		// not, also if the move was made by a try after which the journal still had it.
		j.State, j.Error = JobDone, j.found
	case errors.Is(t.err, ErrContradiction):
		j.State = JobFailed
	case t.leaving && !t.unfinished:
		j.Tries, wait = j.Tries-1, 0
	case t.leaving: // and the move is busy until its mover is taken for dead
		j.Tries, wait = j.Tries-1, busy
	case errors.Is(t.err, ErrBusy):
		j.Tries, wait = j.Tries-1, busy
	case t.unfinished && final:
		j.Tries = max(j.Tries, tries) // so that the next only settles it
	case t.unfinished:
	case j.stop:
		j.State = JobCancelled
	case final:
		j.State = JobFailed
	}
	return j, wait
}

// errCancelled is the cause with which a cancelled job's move ends.
var errCancelled = errors.New("the job was cancelled")

// move makes the job's move, or goes on with what an earlier process left of it.
// One that was cancelled meanwhile, or has had its tries, is only brought to its end.
func (q *Queue) move(ctx context.Context, j Job) (*Report, error) {
	if !j.stop && j.Tries <= q.opts.Tries {
		return q.f.Move(ctx, j.Shop, j.To)
	}
	_, err := q.f.earlier(ctx, j.Shop, 0, false) // goes on with no move, as none is to pod 0
	if err == nil && j.Error == "" {
		err = errDied
		if j.stop {
			err = errCancelled
		}
	}
	return nil, err
}

// errLeft ends a move whose process is told to end: what is copied stays, and
// another process goes on with it.
var errLeft = errors.New("this process ends, and another one goes on with the move")

// queued reports whether a silent move is a job's that goes on with the copy, or undoes
// it, when its turn comes. A shop that was closed, or whose pod doesn't say, can't wait for that.
func (q *Queue) queued(ctx context.Context, mv podworks.Move) (bool, error) {
	if mv.State != podworks.MoveRunning {
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("queue and pod %d didn't answer within %v", mv.From.Pod, lookTime))
	defer cancel()
	jobs, err := q.rows.read(ctx, `WHERE j.active IS NOT NULL`)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(jobs, func(j Job) bool { return j.Shop == mv.From.Shop && j.To == mv.To.Pod }) {
		return false, nil
	}
	closed, err := q.f.closedBy(ctx, mv)
	return err == nil && !closed, nil
}

// errDied is what is known of a job whose processes left no word.
var errDied = errors.New("ferry: every process that began this move ended in the middle of it, or took longer than the queue's lease to say a word; look for what kills them")
