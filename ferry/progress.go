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

// What callers branch on who steer a move from outside.
var (
	// ErrCancelled: somebody called Ferry.Cancel. The shop stays where it was.
	ErrCancelled = errors.New("ferry: the move was cancelled")

	// ErrNoMove: this process makes no such move, or it is too late: the move is
	// made, or being decided.
	ErrNoMove = errors.New("ferry: no such move is under way in this process")
)

// Progress says how far a move is.
type Progress struct {
	Shop     podworks.ShopID
	Token    uint64         // of the move
	From, To podworks.PodID // where the shop was when it began, and where it goes
	Step     string         // copy, verify, prepare if there are Stores, cutover, drain, verified, closed, decided, opened, prove; rehearse of Rehearse; standby of Keep; clean of Clean
	Table    string         // being copied or compared
	Began    time.Time

	RowsCopied   int64 // by this process
	RowsTotal    int64 // counted before the copy
	RowChanges   int64 // applied from the log
	RowsCompared int64 // in this step, on both sides together; so all are 2 × RowsTotal
	RowsDeleted  int64 // by Clean
	BytesCopied  int64 // of the copied rows' values, as sent
	BytesTotal   int64 // about; from the source's statistics

	// Rate is in rows a second, copied or compared, over the last five seconds.
	Rate float64

	// ETA is how long the rest of the step takes at that rate, 0 if that is not
	// known: nothing was done in the last seconds, say, or the move is held.
	ETA time.Duration

	// Lag is how far the target is behind the source: how long ago the last marker
	// was written into the source's log that the target has come to, when it did;
	// or for how long one is waited for already, if that is longer. A marker goes with each
	// chunk, and one a second while none is read. It includes the writing of the
	// chunk, and is 0 once the move is made.
	Lag time.Duration

	// PredictedPause is for how long the shop's writers will wait: as the plan
	// estimates it, and from the cutover on as measured before each try.
	PredictedPause time.Duration

	// Held says why nothing is copied or compared, "" if something is: the move is
	// paused, or Limits have it wait for the servers, or it is being undone.
	Held   string
	Paused bool // by Ferry.Pause

	// History has one sample a second of the last five minutes, the oldest first.
	// Only Ferry.Moves fills it.
	History []Sample
}

// A Sample says how a move went at some time. See [Progress] for the units.
type Sample struct {
	At   time.Time
	Rate float64
	Lag  time.Duration
}

// Decided reports whether the move can't be undone by Cancel any more.
func (p Progress) Decided() bool {
	return slices.Contains([]string{"closed", "decided"}, p.Step) || p.made()
}

// made reports whether the shop trades at the target.
func (p Progress) made() bool { return p.Step == "opened" || p.Step == "prove" }

// rest returns how long the rest of the step takes.
func (p Progress) rest() time.Duration {
	left := 2*p.RowsTotal - p.RowsCompared
	if p.Step == "copy" {
		left = p.RowsTotal - p.RowsCopied
	}
	if p.Rate == 0 || p.Held != "" || left <= 0 || !slices.Contains([]string{"copy", "verify", "prove"}, p.Step) {
		return 0
	}
	return time.Duration(float64(left) / p.Rate * float64(time.Second))
}

const (
	rateOver    = 5 * time.Second
	historyStep = time.Second
	historySize = 300
)

// A rate is that at which a count has grown over the last seconds.
type rate struct {
	points []point // the oldest is the only one from before rateOver ago
}

type point struct {
	at time.Time
	n  int64
}

// add notes the count.
func (r *rate) add(now time.Time, n int64) {
	r.forget(now)
	if k := len(r.points); k > 1 && now.Sub(r.points[k-2].at) < rateOver/50 {
		r.points[k-1] = point{now, n} // so that there are 50 or so
		return
	}
	r.points = append(r.points, point{now, n})
}

func (r *rate) forget(now time.Time) {
	for len(r.points) > 1 && now.Sub(r.points[1].at) >= rateOver {
		r.points = slices.Delete(r.points, 0, 1)
	}
}

// perSecond returns the rate. It falls to 0 within rateOver when nothing is added.
func (r *rate) perSecond(now time.Time) float64 {
	r.forget(now)
	if len(r.points) == 0 {
		return 0
	}
	first, last := r.points[0], r.points[len(r.points)-1]
	// Right after the beginning it is not yet known; a second is little enough to wait.
	return float64(last.n-first.n) / max(now.Sub(first.at), time.Second).Seconds()
}

// progressLocked returns the progress as of now; m.mu is held.
func (m *move) progressLocked(now time.Time) Progress {
	p := m.progress
	p.Shop, p.Token, p.From, p.To, p.Began = m.shop, m.token, m.src.pod, m.dst.pod, m.began
	p.RowsTotal, p.BytesTotal = m.plan.Rows(), m.plan.Bytes()
	p.PredictedPause = cmp.Or(p.PredictedPause, m.plan.Estimate.Pause)
	p.Rate = m.rate.perSecond(now)
	if !p.made() {
		p.Lag = m.lag
		for _, k := range m.waiting {
			if k.at.After(m.lagAt) { // else nobody waits for it any more, and it may be lost
				p.Lag = max(p.Lag, now.Sub(k.at))
			}
		}
	}
	if m.gate != nil {
		p.Held, p.Paused = m.gate.held()
	}
	if m.cancelled && !p.Decided() {
		p.Held = "cancelled; what it has copied is being deleted"
	}
	p.ETA = p.rest()
	return p
}

// sample adds to the move's history.
func (m *move) sample(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := len(m.history); k > 0 && now.Sub(m.history[k-1].At) < historyStep-loadEvery/2 {
		return
	}
	p := m.progressLocked(now)
	if len(m.history) == historySize {
		m.history = slices.Delete(m.history, 0, 1)
	}
	m.history = append(m.history, Sample{now, p.Rate, p.Lag})
}

// enter makes a move one of those under way, with what is measured meanwhile. It
// returns the context in which it runs until it is decided, and the function that
// ends this.
func (f *Ferry) enter(ctx context.Context, m *move) (running context.Context, leave func()) {
	m.gate = &gate{t: f.opts.Throttle}
	running, m.cancel = context.WithCancelCause(ctx)
	observing, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.observe(observing)
	}()
	f.mu.Lock()
	f.moving[m.token] = m
	f.mu.Unlock()
	return running, func() {
		f.mu.Lock()
		delete(f.moving, m.token)
		f.mu.Unlock()
		stop()
		<-ended
		m.cancel(nil)
	}
}

// Moves returns the progress of the moves that this Ferry makes, the oldest
// first. The journal has those of other processes.
func (f *Ferry) Moves() []Progress {
	f.mu.Lock()
	moves := make([]*move, 0, len(f.moving))
	for _, m := range f.moving {
		moves = append(moves, m)
	}
	f.mu.Unlock()
	now := time.Now()
	all := make([]Progress, len(moves))
	for i, m := range moves {
		m.mu.Lock()
		all[i] = m.progressLocked(now)
		all[i].History = slices.Clone(m.history)
		m.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Progress) int { return a.Began.Compare(b.Began) })
	return all
}

// Pause has a move wait: it copies and compares no more, and doesn't begin a try
// at the cutover, until Resume. It goes on following the log, so that it has
// little to catch up with. A pause is known to this process only: who takes a
// dead mover's work over goes on. It is ErrNoMove if there is no such move.
func (f *Ferry) Pause(token uint64) error {
	m, err := f.undecided(token)
	if err != nil {
		return err
	}
	m.gate.pause(true)
	m.log.Info("move paused")
	return nil
}

// Resume ends a Pause.
func (f *Ferry) Resume(token uint64) error {
	m, err := f.undecided(token)
	if err != nil {
		return err
	}
	m.gate.pause(false)
	m.log.Info("move resumed")
	return nil
}

// Cancel has a move undo what it did, and Move return ErrCancelled. It returns
// at once. A move that is being decided at this moment may be made all the same:
// what Move returns says which. It is ErrNoMove if there is no such move.
func (f *Ferry) Cancel(token uint64) error {
	m, err := f.undecided(token)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.cancelled = true
	m.mu.Unlock()
	m.cancel(ErrCancelled)
	m.log.Info("move cancelled")
	return nil
}

func (f *Ferry) undecided(token uint64) (*move, error) {
	f.mu.Lock()
	m := f.moving[token]
	f.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("%w: %d", ErrNoMove, token)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.progress.Decided() {
		return nil, fmt.Errorf("%w: %d is decided, and shop %d is pod %d's", ErrNoMove, token, m.shop, m.dst.pod)
	}
	return m, nil
}
