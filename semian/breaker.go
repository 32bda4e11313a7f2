package semian

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// The breaker is lazy where that costs a call nothing: calls that succeed are counted
// in their stripe and put into the window a few at a time; failures, which are rare, or
// matter, are put there at once, under the lock, after all stripes' successes, and only a
// failure can open the circuit. Timers do the rest, so a call that is
// refused reads no clock.
//
// Each time the circuit opens, half-opens or closes, the epoch grows. A call carries the
// epoch it was admitted in, and what comes of it counts in that epoch or not at all: a
// call from before the opening neither prolongs it nor closes the circuit.

// A breaker is the state that a resource's lock guards.
type breaker struct {
	mu      sync.Mutex // guards what follows, and stripe.since; hooks are called without it
	state   State
	mode    Mode
	epoch   uint64
	since   time.Time // of the state
	reason  string    // for the state
	cause   error
	forced  string // reason for the mode
	retired bool   // another resource has the key, or will have
	expires *time.Timer

	window window
	total  counts    // since New
	other  [2]uint64 // Ignore, Misroute
	opened uint64

	failures []int64 // for Options.Failures: when the last so many were, in order
	openings int     // since it was last closed for good
	timer    *time.Timer
	until    time.Time // when Open ends
	rampFrom int64
	probes   map[uint64]*time.Timer // that are under way: their leases
	probe    uint64                 // the last one's number
	proved   int                    // probes that succeeded
	adaptive adaptive
	random   func() float64
}

const (
	stateBits  = 0x0f
	modeShift  = 4
	modeBits   = 0x07
	retiredBit = 0x80
	epochShift = 8
)

// plain reports whether calls are simply made: closed, nothing forced, and not retired.
func plain(word uint64) bool     { return word&0xff == 0 }
func stateOf(word uint64) State  { return State(word & stateBits) }
func modeOf(word uint64) Mode    { return Mode(word >> modeShift & modeBits) }
func retiredIn(word uint64) bool { return word&retiredBit != 0 }
func epochOf(word uint64) uint64 { return word >> epochShift }

var errProbeTimeout = errors.New("semian: the probe's time is up (Options.ProbeTimeout)")

func (r *Resource) publishLocked() {
	b := &r.breaker
	word := uint64(b.state) | uint64(b.mode)<<modeShift | b.epoch<<epochShift
	if b.retired {
		word |= retiredBit
	}
	r.word.Store(word)
}

// setLocked changes the state. refusal is what calls are refused with in it, or nil if none is.
func (r *Resource) setLocked(to State, reason string, cause error, refusal *Error) {
	b := &r.breaker
	from := b.state
	b.state, b.reason, b.cause, b.since = to, reason, cause, time.Now()
	if refusal != nil {
		r.refusal.Store(refusal)
	}
	r.publishLocked()
	change := Change{Resource: r.name, From: from, To: to, Mode: b.mode, At: b.since, Reason: reason, Cause: cause}
	if to == Open {
		change.OpenFor = b.until.Sub(b.since)
	}
	r.reportLocked(change)
}

// reportLocked has hooks and the log told of a change, in order.
func (r *Resource) reportLocked(change Change) {
	r.events.push(func(h *Hooks) {
		if h.Changed != nil {
			h.Changed(change)
		}
	})
	c := r.config.Load()
	if !c.Logger.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	r.events.push(func(*Hooks) {
		c.Logger.Info("resource changed", "resource", change.Resource, "from", change.From.String(), "to", change.To.String(),
			"mode", change.Mode.String(), "reason", change.Reason, "cause", change.Cause, "for", change.OpenFor)
	})
}

// tell hands on what was reported. It is called without the lock.
func (r *Resource) tell() {
	c := r.config.Load()
	r.events.drain(&c.Hooks, c.Logger)
}

// admit decides about a call that isn't simply made.
func (r *Resource) admit(p *Permit, word uint64, c *config) error {
	mode, state := modeOf(word), stateOf(word)
	switch {
	case mode == ForceOpen:
		return r.refuse()
	case mode == ForceClosed, c.NoBreaker:
		p.has |= shadow
		return nil
	case state == Closed: // in a dry run
		return nil
	case state == Ramping && r.ramped(c):
		return nil
	case state == Throttling && r.throttled():
		p.has |= throttle
		return nil
	case state == HalfOpen && r.takeProbe(p, c):
		return nil
	case mode == DryRun:
		r.shadowed.Add(1)
		p.has |= shadow
		return nil
	}
	return r.refuse()
}

func (r *Resource) refuse() error {
	r.stripes[r.stripe()].refused.Add(1)
	return r.refusal.Load()
}

// ramped reports whether a call is among those that are made so soon after the circuit closed.
func (r *Resource) ramped(c *config) bool {
	const first = 0.1
	b := &r.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != Ramping {
		return b.state == Closed
	}
	share := first + (1-first)*float64(r.now()-b.rampFrom)/float64(c.Ramp)
	return b.random() < share
}

// takeProbe makes a call a probe, if there is room for one.
func (r *Resource) takeProbe(p *Permit, c *config) bool {
	b := &r.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	// No more than could be needed: those under way may close the circuit.
	if b.state != HalfOpen || len(b.probes) >= min(c.Probes, c.CloseAfter-b.proved) {
		return false
	}
	b.probe++
	number, epoch := b.probe, b.epoch
	b.probes[number] = time.AfterFunc(c.ProbeLease, func() { r.loseProbe(number, epoch) })
	p.probe, p.epoch, p.began = number, epoch, r.now()
	return true
}

// loseProbe counts a probe that has been away for too long as failed.
func (r *Resource) loseProbe(number, epoch uint64) {
	b := &r.breaker
	b.mu.Lock()
	if _, ok := b.probes[number]; ok && b.epoch == epoch && b.state == HalfOpen {
		r.openLocked(r.now(), fmt.Sprintf("a probe has been away for %v", r.config.Load().ProbeLease), nil)
	}
	b.mu.Unlock()
	r.tell()
}

// record takes what came of a call.
func (p *Permit) record(r *Resource, o Outcome, err error) {
	if p.has&shadow != 0 {
		return
	}
	slow := false
	if p.has&clock != 0 && o != Ignore {
		slow = time.Duration(r.now()-p.began) >= r.config.Load().SlowCall
	}
	switch {
	case p.probe != 0:
		r.probeEnded(p, o, slow, err)
	case o == Success && !slow && p.has&throttle == 0:
		if epochOf(r.word.Load()) != p.epoch {
			r.stale.Add(1)
			return
		}
		s := &r.stripes[p.stripe]
		if n := s.calls.Add(1); n >= s.most.Load() {
			r.flush(s)
		}
		if r.row.Load() != 0 {
			r.row.Store(0)
		}
	default:
		r.ended(p, o, slow, err)
	}
}

// flush puts a stripe's successes into the window.
func (r *Resource) flush(s *stripe) {
	b := &r.breaker
	b.mu.Lock()
	defer r.tell()
	defer b.mu.Unlock()
	const most = 64
	now := r.now()
	took := now - s.since
	if s.calls.Load() > 0 { // nobody else has just done it
		s.calls.Add(^uint32(0))
		r.flushLocked(s, now)
		b.window.add(now, counts{calls: 1}) // the caller's own
		b.total.calls++
		r.adaptLocked(now, 1, 0)
	}
	// As many as come in a small part of a bucket, so that it doesn't matter when they did.
	switch n := s.most.Load(); {
	case took < b.window.width/8:
		s.most.Store(min(2*n, most))
	case took > b.window.width/2:
		s.most.Store(max(n/2, 1))
	}
}

func (r *Resource) flushLocked(s *stripe, now int64) {
	if s.calls.Load() != 0 {
		n := uint64(s.calls.Swap(0))
		r.breaker.window.spread(s.since, now, n)
		r.breaker.total.calls += n
		r.adaptLocked(now, float64(n), 0)
	}
	s.since = now
}

func (r *Resource) flushAllLocked(now int64) {
	for i := range r.stripes {
		r.flushLocked(&r.stripes[i], now)
	}
}

// ended counts a call that didn't simply succeed, and is no probe.
func (r *Resource) ended(p *Permit, o Outcome, slow bool, err error) {
	b := &r.breaker
	b.mu.Lock()
	if b.epoch != p.epoch {
		r.stale.Add(1)
		b.mu.Unlock()
		return
	}
	now := r.now()
	r.flushAllLocked(now)
	r.countLocked(p, o, slow, now, err)
	if o == Failure {
		r.row.Add(1)
	} else if o == Success {
		r.row.Store(0)
	}
	c := r.config.Load()
	switch {
	case c.NoBreaker || o == Ignore:
	case c.Adaptive:
		failed := 0.0
		if o == Failure || slow {
			failed = 1
		}
		r.adaptLocked(now, 1, failed)
	case b.state == Closed || b.state == Ramping:
		if o == Failure && c.Failures > 0 {
			b.noteFailure(now, c)
		}
		if reason := r.verdictLocked(now, c); reason != "" {
			r.openLocked(now, reason, failureOf(o, err))
		}
	}
	b.mu.Unlock()
	r.tell()
}

func failureOf(o Outcome, err error) error {
	if o == Failure {
		return err
	}
	return nil
}

func (r *Resource) countLocked(p *Permit, o Outcome, slow bool, now int64, err error) {
	b := &r.breaker
	c := counts{calls: 1}
	switch o {
	case Ignore:
		b.other[0]++
		return
	case Misroute:
		b.other[1]++
		ctx, name := p.ctx, r.name
		r.events.push(func(h *Hooks) {
			if h.Misrouted != nil {
				h.Misrouted(ctx, name, err)
			}
		})
	case Failure:
		c.failures = 1
	}
	if slow {
		c.slow = 1
	}
	b.window.add(now, c)
	b.total.add(c)
}

// noteFailure keeps when the last failures were, for Options.Failures.
func (b *breaker) noteFailure(now int64, c *config) {
	if n := len(b.failures); n > 0 && now-b.failures[n-1] < int64(c.Lump) {
		return
	}
	b.failures = append(b.failures, now)
	if extra := len(b.failures) - c.Failures; extra > 0 {
		b.failures = append(b.failures[:0], b.failures[extra:]...)
	}
}

// verdictLocked returns why the circuit must open, or nothing.
func (r *Resource) verdictLocked(now int64, c *config) string {
	b := &r.breaker
	if row := r.row.Load(); c.Consecutive > 0 && row >= int64(c.Consecutive) {
		return fmt.Sprintf("%d calls in a row failed", row)
	}
	if n := len(b.failures); c.Failures > 0 && n >= c.Failures && now-b.failures[0] <= int64(c.Window) {
		return fmt.Sprintf("%d calls failed within %v", n, c.Window)
	}
	all, recent := b.window.sum(now), b.window.recent(now)
	for _, rate := range []struct {
		what        string
		all, recent uint64
		most        float64
	}{
		{"failed", all.failures, recent.failures, c.ErrorRate},
		{"were slow", all.slow, recent.slow, c.SlowRate},
	} {
		if all.calls >= uint64(c.MinCalls) && float64(rate.all) >= rate.most*float64(all.calls) && rate.all > 0 {
			return fmt.Sprintf("%d of %d calls within %v %s", rate.all, all.calls, c.Window, rate.what)
		}
		if recent.calls >= uint64(c.MinCalls) && float64(rate.recent) >= (1+rate.most)/2*float64(recent.calls) && rate.recent > 0 {
			return fmt.Sprintf("%d of the last %d calls %s", rate.recent, recent.calls, rate.what)
		}
	}
	return ""
}

// probeEnded takes what came of a probe.
func (r *Resource) probeEnded(p *Permit, o Outcome, slow bool, err error) {
	b := &r.breaker
	b.mu.Lock()
	lease, ok := b.probes[p.probe]
	if !ok || b.epoch != p.epoch {
		r.stale.Add(1)
		b.mu.Unlock()
		return
	}
	lease.Stop()
	delete(b.probes, p.probe)
	now := r.now()
	r.countLocked(p, o, slow, now, err)
	switch {
	case o == Ignore: // it says nothing; the next one may
	case o == Failure:
		r.openLocked(now, "a probe failed", err)
	case slow:
		r.openLocked(now, "a probe was slow", nil)
	default:
		if b.proved++; b.proved >= r.config.Load().CloseAfter {
			r.closeLocked(now, fmt.Sprintf("%d probes succeeded", b.proved))
		}
	}
	b.mu.Unlock()
	r.tell()
}

// openLocked opens the circuit, for longer each time until it has been closed for good.
func (r *Resource) openLocked(now int64, reason string, cause error) {
	b := &r.breaker
	c := r.config.Load()
	d := c.OpenFor
	for range b.openings {
		if d = min(2*d, c.MaxOpenFor); d == c.MaxOpenFor {
			break
		}
	}
	d += time.Duration((b.random()*2 - 1) / 10 * float64(d))
	b.openings++
	b.opened++
	b.until = time.Now().Add(d)
	r.restartLocked(now)
	r.setLocked(Open, reason, cause, &Error{Resource: r.name, Reason: reason, Cause: cause, kind: ErrOpen, until: b.until})
	epoch := b.epoch
	b.timer = time.AfterFunc(d, func() { r.halfOpen(epoch) })
}

// restartLocked begins an epoch with nothing in the window, and no timer of the last one.
func (r *Resource) restartLocked(now int64) {
	b := &r.breaker
	b.epoch++
	if b.timer != nil {
		b.timer.Stop()
	}
	for _, lease := range b.probes {
		lease.Stop()
	}
	clear(b.probes)
	b.proved = 0
	r.flushAllLocked(now) // for the total
	b.window.reset(now)
	b.adaptive = adaptive{share: 1}
	b.failures = b.failures[:0]
	r.row.Store(0)
}

func (r *Resource) halfOpen(epoch uint64) {
	b := &r.breaker
	b.mu.Lock()
	if b.epoch == epoch && b.state == Open {
		r.halfOpenLocked("it has been open for long enough")
	}
	b.mu.Unlock()
	r.tell()
}

// halfOpenNow doesn't wait for the end of the time that it is open.
func (r *Resource) halfOpenNow(reason string) {
	b := &r.breaker
	b.mu.Lock()
	if b.state == Open {
		b.openings = 0
		r.halfOpenLocked(reason)
	}
	b.mu.Unlock()
	r.tell()
}

func (r *Resource) halfOpenLocked(reason string) {
	b := &r.breaker
	r.restartLocked(r.now())
	if b.probes == nil {
		b.probes = map[uint64]*time.Timer{}
	}
	r.setLocked(HalfOpen, reason, b.cause, &Error{Resource: r.name, Reason: "it is half-open, and its probes are under way", Cause: b.cause, kind: ErrOpen})
}

// closeLocked closes the circuit, by and by.
func (r *Resource) closeLocked(now int64, reason string) {
	b := &r.breaker
	c := r.config.Load()
	r.restartLocked(now)
	if c.Ramp <= 0 {
		b.openings = 0
		r.setLocked(Closed, reason, nil, nil)
		return
	}
	b.rampFrom = now
	r.setLocked(Ramping, reason, nil, &Error{Resource: r.name, Reason: "it has just closed, and lets a growing share of calls through", kind: ErrOpen})
	epoch := b.epoch
	b.timer = time.AfterFunc(c.Ramp, func() {
		b.mu.Lock()
		if b.epoch == epoch && b.state == Ramping {
			b.openings = 0
			// The same epoch: what the ramp's calls come to counts on.
			r.setLocked(Closed, "it has stayed closed", nil, nil)
		}
		b.mu.Unlock()
		r.tell()
	})
}

// Reset closes the circuit at once and forgets what it has seen: the dependency is another
// one by now, as after a failover.
func (r *Resource) Reset(reason string) {
	r = r.live()
	b := &r.breaker
	b.mu.Lock()
	r.resetLocked(reason)
	b.mu.Unlock()
	r.tell()
}

func (r *Resource) resetLocked(reason string) {
	b := &r.breaker
	r.restartLocked(r.now())
	b.openings = 0
	if b.state == Closed {
		r.publishLocked()
		return
	}
	r.setLocked(Closed, reason, nil, nil)
}

// classify says what an error means. A Classify of the application's that panics
// changes nothing for the call.
func (r *Resource) classify(ctx context.Context, err error) (o Outcome) {
	var m *marked
	if errors.As(err, &m) {
		return m.outcome
	}
	if ctx.Err() == context.Canceled {
		return Ignore
	}
	c := r.config.Load()
	defer func() {
		if p := recover(); p != nil {
			c.Logger.Error("Classify panicked", "resource", r.name, "panic", p)
			o = Classify(err)
		}
	}()
	return c.Classify(err)
}
