package semian

import (
	"fmt"
	"time"
)

// Force has the resource do as somebody says, until it is told Normal or, if d isn't 0, for
// that long. Calls under way are not touched. What the breaker had seen is forgotten.
// reason is for those who wonder why: hooks, logs, Stats and the refusals themselves.
func (r *Resource) Force(mode Mode, reason string, d time.Duration) error {
	r = r.live()
	if int(mode) >= len(modeNames) || d < 0 || reason == "" && mode != Normal {
		return fmt.Errorf("semian: resource %q: force %v for %v because of %q: want a mode, 0 or a positive duration, and a reason", r.name, mode, d, reason)
	}
	b := &r.breaker
	b.mu.Lock()
	r.forceLocked(mode, reason)
	if d > 0 && mode != Normal {
		var expires *time.Timer
		expires = time.AfterFunc(d, func() {
			b.mu.Lock()
			if b.expires == expires {
				r.forceLocked(Normal, fmt.Sprintf("%v ended after %v", mode, d))
			}
			b.mu.Unlock()
			r.tell()
		})
		b.expires = expires
	}
	b.mu.Unlock()
	r.tell()
	return nil
}

func (r *Resource) forceLocked(mode Mode, reason string) {
	b := &r.breaker
	if b.expires != nil {
		b.expires.Stop()
		b.expires = nil
	}
	from := b.state
	r.restartLocked(r.now())
	b.state, b.openings, b.since, b.reason, b.cause = Closed, 0, time.Now(), reason, nil
	b.mode, b.forced = mode, reason
	if mode == ForceOpen {
		r.refusal.Store(&Error{Resource: r.name, Reason: "somebody has forced it open: " + reason, kind: ErrOpen})
	}
	r.publishLocked()
	r.reportLocked(Change{Resource: r.name, From: from, To: Closed, Mode: mode, At: b.since, Reason: reason})
}
