package semian

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"
)

// Options of a [Resource]. The zero value of a field is its default; a nil
// *Options is all defaults: a breaker on the error rate, and no bulkhead.
type Options struct {
	// NoBreaker leaves only the bulkhead.
	NoBreaker bool

	// Window is how far back calls count, 10 s. It moves in eighths.
	Window time.Duration
	// MinCalls is how many calls there must have been for a rate to say something, 10.
	MinCalls int
	// ErrorRate is the share of calls that fail at which the circuit opens, 0.5.
	// It is looked at over the window; and over its newest eighth or two, where a
	// share half-way between ErrorRate and 1 is enough, so that a total outage
	// is noticed long before it fills half of the window. 1 is for total outages only.
	ErrorRate float64
	// Consecutive is how many failures in a row open the circuit. 0: they are not looked at.
	Consecutive int
	// Failures is how many failures within Window open the circuit, whatever
	// succeeds between them: Semian's error_threshold. 0: they are not looked at.
	//
	// It is for settings that were tuned elsewhere. A number that is right for a
	// worker with ten calls a second trips on healthy noise in a process with a
	// thousand; [Workload] says where.
	Failures int
	// Lump has failures that come within this time of one that was counted not
	// count for Failures: a burst is one. 0: each counts.
	Lump time.Duration
	// SlowCall is how long a call takes that counts as slow when it ends. 0: calls
	// are not timed, which saves two readings of the clock.
	SlowCall time.Duration
	// SlowRate is the share of calls that are slow at which the circuit opens, 0.5.
	SlowRate float64

	// Adaptive has the resource refuse a share of the calls that grows with the share that fails,
	// instead of opening and closing: none as long as no more fail than Tolerate, 0.05,
	// and all but a call every two seconds when half of those above it do. A slow call counts as
	// one that fails. ErrorRate, Failures, Consecutive and what is said of probes mean nothing then.
	Adaptive bool
	Tolerate float64

	// OpenFor is how long the circuit stays open at first, 1 s. It doubles with
	// each probe that fails, up to MaxOpenFor, 3 s or OpenFor if that is more, and
	// each time is made up to a tenth shorter or longer by chance, so that processes don't
	// probe together.
	OpenFor, MaxOpenFor time.Duration
	// Probes is how many calls may be under way at once when the circuit is
	// half-open, 1.
	Probes int
	// CloseAfter is how many probes must succeed, none failing, for it to close, 2.
	CloseAfter int
	// ProbeTimeout is the deadline of a probe, 1 s: best a little more than the 99th
	// percentile of a healthy call.
	ProbeTimeout time.Duration
	// ProbeLease is how long a probe may be away before it counts as failed,
	// whether its caller hangs or forgot it: 10 s, or twice ProbeTimeout if that is more.
	ProbeLease time.Duration
	// Ramp is how long it takes from closing until every call is let through again,
	// 1 s; at first a tenth is. Negative: all at once.
	Ramp time.Duration

	// Tickets is how many calls may be under way at once. 0: Quota of Concurrency
	// if that is given, else there is no bulkhead.
	Tickets int
	// Concurrency is how many calls the process makes at once at most: the size of
	// its worker pool, or of what bounds its requests.
	Concurrency int
	// Quota is the share of Concurrency that this resource may take, 0.7.
	Quota float64
	// Queue is how many callers may wait for a ticket. 0: a caller that finds none is
	// refused at once.
	Queue int
	// QueueTimeout is how long they wait, 100 ms.
	QueueTimeout time.Duration
	// ShopShare is the share of the tickets, rounded up, that calls for one shop may
	// hold, by the shop in their contexts ([podworks.ShopFrom]). 0: all of them.
	ShopShare float64

	// Classify says what an error of a call means. nil: [Classify]. It isn't called
	// with a nil error, with one that [Answered] or [Ignored] wraps, or once the
	// caller has cancelled its context.
	Classify func(error) Outcome

	// Hooks are told of changes.
	Hooks Hooks
	// Logger is told of changes of state. nil: nobody is.
	Logger *slog.Logger
}

// Hooks are called without locks held, one at a time for a resource and in the order of
// what they report, by a goroutine whose call, or timer, caused one of the reports. They should be
// quick. One that panics is logged, and changes nothing for the call.
type Hooks struct {
	// Changed is called when a resource has changed its state.
	Changed func(Change)
	// Misrouted is called when a call ended with [Misrouted]: the server is there,
	// but no longer the one that takes writes. The route should be refreshed.
	Misrouted func(ctx context.Context, resource string, err error)
}

// withDefaults returns a copy of o, which may be nil, with its zero fields set.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.Window = cmp.Or(d.Window, 10*time.Second)
	d.MinCalls = cmp.Or(d.MinCalls, 10)
	d.ErrorRate = cmp.Or(d.ErrorRate, 0.5)
	d.SlowRate = cmp.Or(d.SlowRate, 0.5)
	d.Tolerate = cmp.Or(d.Tolerate, 0.05)
	d.OpenFor = cmp.Or(d.OpenFor, time.Second)
	d.MaxOpenFor = cmp.Or(d.MaxOpenFor, max(3*time.Second, d.OpenFor))
	d.Probes = cmp.Or(d.Probes, 1)
	d.CloseAfter = cmp.Or(d.CloseAfter, 2)
	d.ProbeTimeout = cmp.Or(d.ProbeTimeout, time.Second)
	d.ProbeLease = cmp.Or(d.ProbeLease, max(10*time.Second, 2*d.ProbeTimeout))
	d.Ramp = cmp.Or(d.Ramp, time.Second)
	d.Quota = cmp.Or(d.Quota, 0.7)
	d.QueueTimeout = cmp.Or(d.QueueTimeout, 100*time.Millisecond)
	if d.Tickets == 0 && d.Concurrency > 0 {
		d.Tickets = int(math.Ceil(d.Quota*float64(d.Concurrency) - 1e-9)) // 0.7 of 10 is 7, not 8
	}
	if d.Classify == nil {
		d.Classify = Classify
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

// validate reports every field that is out of range, not only the first. It is
// given defaults.
func (o *Options) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	duration := func(name string, d time.Duration) {
		if d <= 0 {
			fail("%s is %v, want a positive duration", name, d)
		}
	}
	least := func(name string, n, least int) {
		if n < least {
			fail("%s is %d, want %d or more", name, n, least)
		}
	}
	share := func(name string, x float64) {
		if !(x > 0 && x <= 1) {
			fail("%s is %v, want a share above 0 and at most 1", name, x)
		}
	}
	duration("Window", o.Window)
	least("MinCalls", o.MinCalls, 1)
	share("ErrorRate", o.ErrorRate)
	least("Consecutive", o.Consecutive, 0)
	least("Failures", o.Failures, 0)
	if o.Lump < 0 {
		fail("Lump is %v, want 0 or more", o.Lump)
	}
	if o.Failures > 1 && o.Lump*time.Duration(o.Failures-1) >= o.Window {
		fail("Failures %d that are Lump %v apart take %v, and Window is %v: the circuit would never open by them; shorten Lump or lengthen Window",
			o.Failures, o.Lump, o.Lump*time.Duration(o.Failures-1), o.Window)
	}
	if o.SlowCall < 0 {
		fail("SlowCall is %v, want 0 or more", o.SlowCall)
	}
	share("SlowRate", o.SlowRate)
	share("Tolerate", o.Tolerate)
	duration("OpenFor", o.OpenFor)
	if o.MaxOpenFor < o.OpenFor {
		fail("MaxOpenFor is %v, want OpenFor (%v) or more", o.MaxOpenFor, o.OpenFor)
	}
	least("Probes", o.Probes, 1)
	least("CloseAfter", o.CloseAfter, 1)
	duration("ProbeTimeout", o.ProbeTimeout)
	if o.ProbeLease < o.ProbeTimeout {
		fail("ProbeLease is %v, want ProbeTimeout (%v) or more", o.ProbeLease, o.ProbeTimeout)
	}
	least("Tickets", o.Tickets, 0)
	least("Concurrency", o.Concurrency, 0)
	share("Quota", o.Quota)
	if o.Concurrency > 0 && o.Tickets > o.Concurrency {
		fail("Tickets is %d, want no more than Concurrency (%d)", o.Tickets, o.Concurrency)
	}
	least("Queue", o.Queue, 0)
	if o.Queue > 0 && o.Tickets == 0 {
		fail("Queue is %d, and there are no Tickets to wait for", o.Queue)
	}
	duration("QueueTimeout", o.QueueTimeout)
	if !(o.ShopShare >= 0 && o.ShopShare <= 1) {
		fail("ShopShare is %v, want 0 to 1", o.ShopShare)
	}
	if o.ShopShare > 0 && o.Tickets == 0 {
		fail("ShopShare is %v, and there are no Tickets to share", o.ShopShare)
	}
	return errors.Join(errs...)
}
