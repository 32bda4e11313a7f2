package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// Limits bound what moves take of the servers. A zero field bounds nothing.
type Limits struct {
	// RowsPerSecond bounds the rows that are read: by the copy, and by the
	// comparisons of all rows on each side.
	RowsPerSecond float64

	// BytesPerSecond bounds the values that the copy reads. Comparisons are computed
	// by the servers, and send none.
	BytesPerSecond float64

	// MaxLag is how far the target's replicas may be behind, taken for the time that
	// Options.Replicated takes. It needs that option.
	MaxLag time.Duration

	// MaxRunning is how many statements the source or the target may run at once
	// (Threads_running). The mover's own count: two or three while it waits, with
	// its connection to the log.
	MaxRunning int
}

func (l Limits) validate() error {
	var errs []error
	bad := func(name string, value any) {
		errs = append(errs, fmt.Errorf("%s is %v, want a positive value, or 0 for no bound", name, value))
	}
	if l.RowsPerSecond < 0 || l.RowsPerSecond > math.MaxFloat64 || math.IsNaN(l.RowsPerSecond) {
		bad("RowsPerSecond", l.RowsPerSecond)
	}
	if l.BytesPerSecond < 0 || l.BytesPerSecond > math.MaxFloat64 || math.IsNaN(l.BytesPerSecond) {
		bad("BytesPerSecond", l.BytesPerSecond)
	}
	if l.MaxLag < 0 {
		bad("MaxLag", l.MaxLag)
	}
	if l.MaxRunning < 0 {
		bad("MaxRunning", l.MaxRunning)
	}
	return errors.Join(errs...)
}

// A Throttle slows the moves of a Ferry, which share its budget. The zero value
// slows nothing. Its methods may be called at any time, and take effect at once
// on the moves that wait.
//
// What waits is the next chunk of the copy and the next range of a comparison.
// What was begun is finished, and paid for afterwards. The log is followed all
// the same, and nothing waits while a shop's writers do: not the cutover, and not
// a copy that a failover lost and that is made again. The comparison after the
// switch is no longer paused; it waits for the limits as long as it may take at
// most, and what is then missing is said in Evidence.Incomplete.
type Throttle struct {
	mu          sync.Mutex
	limits      Limits
	paused      bool
	rows, bytes debt
	changed     chan struct{} // closed when any of it, or a gate, changes; nil if nobody waits
}

// Set replaces the limits.
func (t *Throttle) Set(l Limits) error {
	if err := l.validate(); err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.rows.settle(now, t.limits.RowsPerSecond)
	t.bytes.settle(now, t.limits.BytesPerSecond)
	t.limits = l
	t.wakeLocked()
	return nil
}

// Limits returns what was Set.
func (t *Throttle) Limits() Limits {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limits
}

// Pause has all moves wait until Resume. None begins its cutover meanwhile.
func (t *Throttle) Pause() { t.setPaused(true) }

// Resume ends a Pause. Moves that were paused by [Ferry.Pause] stay so.
func (t *Throttle) Resume() { t.setPaused(false) }

func (t *Throttle) setPaused(paused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = paused
	t.wakeLocked()
}

func (t *Throttle) wakeLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// A debt is what was taken of a budget and isn't paid yet. It is paid with time,
// and never goes below zero: who took nothing for an hour has saved nothing.
type debt struct {
	owed float64
	at   time.Time // when that was so
}

// settle takes off what was paid until now.
func (d *debt) settle(now time.Time, rate float64) {
	if rate == 0 {
		d.owed = 0
	} else {
		d.owed = max(0, d.owed-rate*now.Sub(d.at).Seconds())
	}
	d.at = now
}

// due returns how long it takes to pay all.
func (d *debt) due(now time.Time, rate float64) time.Duration {
	d.settle(now, rate)
	if d.owed == 0 {
		return 0
	}
	// Rounded up, so that nothing is left then; and within what a Duration holds.
	return time.Duration(min(math.Ceil(d.owed/rate*1e9), math.MaxInt64/2))
}

// A gate is where one move waits. Its throttle's mu guards it, which may be taken
// under the move's mu, and not the other way round.
type gate struct {
	t      *Throttle
	paused bool
	spare  string // what the servers say that speaks against going on, or ""
}

func (g *gate) pause(paused bool) {
	g.t.mu.Lock()
	defer g.t.mu.Unlock()
	g.paused = paused
	g.t.wakeLocked()
}

func (g *gate) setSpare(why string) {
	g.t.mu.Lock()
	defer g.t.mu.Unlock()
	if g.spare != why {
		g.spare = why
		g.t.wakeLocked()
	}
}

func (g *gate) pay(now time.Time, rows, bytes int64) {
	g.t.mu.Lock()
	defer g.t.mu.Unlock()
	g.t.rows.settle(now, g.t.limits.RowsPerSecond)
	g.t.bytes.settle(now, g.t.limits.BytesPerSecond)
	g.t.rows.owed += float64(rows)
	g.t.bytes.owed += float64(bytes)
}

// atOnce returns how much is read at once: that, or what is allowed in a second if that
// is less. A nil gate allows all.
func (g *gate) atOnce(rows, bytes int) (int, int) {
	if g == nil {
		return rows, bytes
	}
	g.t.mu.Lock()
	defer g.t.mu.Unlock()
	some := func(n int, limit float64) int {
		if limit == 0 || limit >= float64(n) {
			return n
		}
		return max(1, int(limit))
	}
	return some(rows, g.t.limits.RowsPerSecond), some(bytes, g.t.limits.BytesPerSecond)
}

// held says why the move waits, whatever is paid, and whether it was paused itself.
func (g *gate) held() (why string, paused bool) {
	g.t.mu.Lock()
	defer g.t.mu.Unlock()
	switch {
	case g.paused:
		return "paused", true
	case g.t.paused:
		return "paused, with all moves of this process", false
	}
	return g.spare, false
}

// What keeps a move waiting.
type holding uint8

const (
	forPause  holding = 1 << iota // that it is paused
	forLimits                     // the limits
)

// wait returns for how long to wait now, and what is closed when that changes.
func (g *gate) wait(now time.Time, what holding) (time.Duration, <-chan struct{}) {
	g.t.mu.Lock()
	defer g.t.mu.Unlock()
	var d time.Duration
	switch {
	case what&forPause != 0 && (g.paused || g.t.paused), what&forLimits != 0 && g.spare != "":
		d = math.MaxInt64
	case what&forLimits != 0:
		d = max(g.t.rows.due(now, g.t.limits.RowsPerSecond), g.t.bytes.due(now, g.t.limits.BytesPerSecond))
	}
	if d > 0 && g.t.changed == nil {
		g.t.changed = make(chan struct{})
	}
	return d, g.t.changed
}

// throttled is called when a chunk was handed over, from any goroutine, with its
// size. It returns when another may be read. Between the reading of a chunk and its
// marker there is no waiting: the more the log names meanwhile, the less of the
// chunk is of use.
//
// While it waits it calls awake now and then, which at least measures how far the
// target is behind.
func (m *move) throttled(ctx context.Context, rows, bytes int, awake func(context.Context) error) error {
	m.mu.Lock()
	m.progress.BytesCopied += int64(bytes)
	m.mu.Unlock()
	if m.gate == nil {
		return nil
	}
	m.gate.pay(time.Now(), int64(rows), int64(bytes))
	return m.wait(ctx, forPause|forLimits, awake)
}

// compared is called when a server has compared rows, from any goroutine. It
// returns when more may be.
func (m *move) compared(ctx context.Context, rows int64) error {
	m.mu.Lock()
	m.progress.RowsCompared += rows
	if m.progress.Step != "copy" {
		m.rate.add(time.Now(), m.progress.RowsCompared)
	}
	m.mu.Unlock()
	return m.looked(ctx, rows)
}

// looked is called when servers have looked at rows that are no progress: for the
// second time, to find out which of them differ.
func (m *move) looked(ctx context.Context, rows int64) error {
	if m.gate == nil {
		return nil
	}
	m.mu.Lock()
	made := m.progress.made()
	m.mu.Unlock()
	m.gate.pay(time.Now(), rows, 0)
	if made {
		// The servers keep old versions of rows meanwhile, and nobody waits for the
		// end of a move that is made; so it is not paused.
		return m.wait(ctx, forLimits, m.sync)
	}
	return m.wait(ctx, forPause|forLimits, m.sync)
}

// whilePaused waits while the move is paused.
func (m *move) whilePaused(ctx context.Context) error {
	if m.gate == nil {
		return nil
	}
	return m.wait(ctx, forPause, m.sync)
}

// measureEvery is how often a move that waits for long is awake, and measures how far
// the target is behind; one that goes on does so with each chunk.
const measureEvery = time.Second

func (m *move) wait(ctx context.Context, what holding, awake func(context.Context) error) error {
	last := time.Now()
	for {
		d, changed := m.gate.wait(time.Now(), what)
		if d == 0 {
			return nil
		}
		timer := time.NewTimer(min(d, measureEvery))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		if what&forPause != 0 && time.Since(last) >= measureEvery {
			if err := awake(ctx); err != nil {
				return err
			}
			last = time.Now()
		}
	}
}

// loadEvery is how often the servers are asked for their load.
const loadEvery = 250 * time.Millisecond

// observe asks the servers for what the limits bound, and keeps the move's
// history, until ctx ends.
func (m *move) observe(ctx context.Context) {
	type answer struct {
		lag time.Duration
		err error
	}
	var last answer
	var asked time.Time // zero if the replicas are not being asked
	answers := make(chan answer, 1)
	defer func() {
		if !asked.IsZero() {
			<-answers
		}
	}()
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for {
		m.sample(time.Now())
		limits := m.gate.t.Limits()
		why := ""
		if limits.MaxRunning > 0 {
			why = m.busy(ctx, limits.MaxRunning)
		}
		select {
		case last = <-answers:
			asked = time.Time{}
		default:
		}
		lag := last.lag
		switch {
		case limits.MaxLag == 0 || m.f.opts.Replicated == nil:
			lag, last = 0, answer{}
		case asked.IsZero():
			asked = time.Now()
			go func(asked time.Time) {
				err := m.f.replicated(ctx, m.dst)
				answers <- answer{time.Since(asked), err}
			}(asked)
		default:
			lag = max(lag, time.Since(asked))
		}
		switch {
		case last.err != nil:
			why = fmt.Sprintf("how far the target's replicas are behind is not known: %v", last.err)
		case lag > limits.MaxLag:
			why = fmt.Sprintf("the target's replicas are %v behind, MaxLag is %v", lag.Round(time.Millisecond), limits.MaxLag)
		}
		m.gate.setSpare(why)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// busy says which server runs too much, or "".
func (m *move) busy(ctx context.Context, most int) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, s := range []*server{m.src, m.dst} {
		var name string
		var n int
		err := s.db.QueryRowContext(ctx, `SHOW GLOBAL STATUS LIKE 'Threads_running'`).Scan(&name, &n)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			err = errors.New("it doesn't say Threads_running")
			fallthrough
		case err != nil:
			return fmt.Sprintf("pod %d's load is not known: %v", s.pod, err)
		case n > most:
			return fmt.Sprintf("pod %d runs %d statements, MaxRunning is %d", s.pod, n, most)
		}
	}
	return ""
}
