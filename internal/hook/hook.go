// Package hook lets the module's own tests stop a move at a named step, and
// switch one protection off to prove that the tests would notice. Nothing
// outside the module can set a hook, and without one every call is a look-up
// in a context.
package hook

import (
	"context"
	"time"
)

// A Protection can be switched off by a test.
type Protection string

// The protections that keep a move safe.
const (
	Lock     Protection = "lock"     // the mover's exclusive lock on the fence row
	Decision Protection = "decision" // the compare-and-set on the journal row
	Marker   Protection = "marker"   // waiting for the tail to reach the marker under the lock
	Compare  Protection = "compare"  // the comparison of both sides
	Overlap  Protection = "overlap"  // none: comparing behind the copy rather than after it
	Loaded   Protection = "loaded"   // the count of what LOAD DATA wrote, and of its warnings
	Soil     Protection = "soil"     // what a failed comparison took is compared again
	Children Protection = "children" // asking for the children of parents that came to the shop
	Cascade  Protection = "cascade"  // having the target's foreign keys do what the source's did without the log
	Counter  Protection = "counter"  // handing over the AUTO_INCREMENT counters
	Given    Protection = "given"    // counting the rows by which a counter is raised

	Apply     Protection = "apply"     // the token that every apply transaction requires of the target's fence
	PodEpoch  Protection = "pod epoch" // the decision's look at the pods' epochs
	Look      Protection = "look"      // the look at the journal under the lock
	Prepared  Protection = "prepared"  // the look for prepared XA transactions under the lock
	Tombstone Protection = "tombstone" // the token that undoing leaves in the target's fence
	Clean     Protection = "clean"     // what every transaction that deletes a shop's rows requires of the fence
	Elsewhere Protection = "elsewhere" // clean-up's look at which pod has the shop
	Origin    Protection = "origin"    // the tripwire's telling a mover's and a clean-up's writes from others
	Verified  Protection = "verified"  // a decided move opens only the copy that was verified
)

// A Set is what a test installs.
type Set struct {
	// Step, if set, is called when a move enters a step, and before each
	// transition of a move, a recovery or a clean-up. It may block, and is called
	// from more than one goroutine.
	Step func(step string)
	// Insist, if set, is for how long a mover waits for servers and sessions that it
	// is patient with, instead of seconds or a minute.
	Insist time.Duration
	// Off names protections that are switched off.
	Off map[Protection]bool
}

type key struct{}

// With returns a context that carries s.
func With(ctx context.Context, s *Set) context.Context {
	return context.WithValue(ctx, key{}, s)
}

// Step tells the test, if there is one, that a step begins.
func Step(ctx context.Context, step string) {
	if s, ok := ctx.Value(key{}).(*Set); ok && s.Step != nil {
		s.Step(step)
	}
}

// Off reports whether a test switched p off.
func Off(ctx context.Context, p Protection) bool {
	s, ok := ctx.Value(key{}).(*Set)
	return ok && s.Off[p]
}

// Insist returns d, or what a test wants instead.
func Insist(ctx context.Context, d time.Duration) time.Duration {
	if s, ok := ctx.Value(key{}).(*Set); ok && s.Insist > 0 {
		return s.Insist
	}
	return d
}
