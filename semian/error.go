package semian

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrOpen is what a call is refused with when the circuit is open, or
	// half-open with its probes under way, or when it is among those that a
	// circuit still keeps back just after it closed. The dependency was not
	// asked. Show what can be shown without it; see [Error.RetryAfter].
	ErrOpen = errors.New("semian: circuit open")

	// ErrBusy is what a call is refused with when no ticket was free, in time if callers
	// wait: as many calls are under way as may be. The dependency was not asked.
	ErrBusy = errors.New("semian: no ticket free")
)

// An Error is a rejection. It unwraps to ErrOpen or ErrBusy, and to nothing else: what the
// dependency said last is in Cause, so that nobody takes it for the answer to
// this call (database/sql tries again what is driver.ErrBadConn).
type Error struct {
	Resource string
	Reason   string // why, in words
	Cause    error  // the failure that opened the circuit, or nil

	kind  error
	until time.Time
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%v: %s: %s", e.kind, e.Resource, e.Reason)
	if e.Cause != nil {
		s += fmt.Sprintf("; it ended with: %v", e.Cause)
	}
	return s
}

func (e *Error) Unwrap() error { return e.kind }

// RetryAfter returns how long it takes until the circuit lets a probe through. It is 0
// when that is so already, or can't be known.
func (e *Error) RetryAfter() time.Duration {
	if e.until.IsZero() {
		return 0
	}
	return max(0, time.Until(e.until))
}
