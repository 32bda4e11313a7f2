package semian

import "time"

// Stats are a resource at one moment.
type Stats struct {
	State  State
	Mode   Mode
	Since  time.Time // of the state
	Reason string    // of the state, and of the mode if it isn't Normal
	Cause  error     // the failure that opened it

	RetryAfter time.Duration // until it lets a probe through, if it is open

	// Within Options.Window: calls that ended, and how.
	Calls, Failures, Slow uint64

	// The bulkhead: how many tickets there are and how many are out, and callers that wait.
	Tickets, InUse, Waiting int

	// Since New.
	Succeeded, Failed, WereSlow, Ignored, Misrouted uint64
	Refused                                         uint64 // by the breaker
	Busy                                            uint64 // for want of a ticket
	WouldHave                                       uint64 // refused, in a dry run, which made them
	Stale                                           uint64 // ended after the state they were made in, and weren't counted
	Opened                                          uint64 // how often it opened
	Lost                                            uint64 // changes that hooks weren't told, because they were slow
}

// Stats returns the resource's state and figures.
func (r *Resource) Stats() Stats {
	r = r.live()
	var s Stats
	s.Tickets, s.InUse, s.Waiting = r.bulkhead.state()
	b := &r.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	now := r.now()
	r.flushAllLocked(now)
	in := b.window.sum(now)
	s.State, s.Mode, s.Since, s.Reason, s.Cause = b.state, b.mode, b.since, b.reason, b.cause
	if b.mode != Normal {
		s.Reason = b.forced
	}
	if b.state == Open {
		s.RetryAfter = max(0, time.Until(b.until))
	}
	s.Calls, s.Failures, s.Slow = in.calls, in.failures, in.slow
	s.Succeeded, s.Failed, s.WereSlow = b.total.calls-b.total.failures, b.total.failures, b.total.slow
	s.Ignored, s.Misrouted, s.Opened = b.other[0], b.other[1], b.opened
	for i := range r.stripes {
		s.Refused += r.stripes[i].refused.Load()
	}
	s.Busy, s.WouldHave, s.Stale = r.busy.Load(), r.shadowed.Load(), r.stale.Load()
	r.events.mu.Lock()
	s.Lost = r.events.lost
	r.events.mu.Unlock()
	return s
}
