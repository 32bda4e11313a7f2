// Package hook lets the module's own tests stop a move at a named step, and
// switch one protection off to prove that the tests would notice. Nothing
// outside the module can set a hook, and without one every call is a look-up
// in a context.
package hook

import "context"

// A Protection can be switched off by a test.
type Protection string

// The protections that keep a move safe.
const (
	Lock     Protection = "lock"     // the mover's exclusive lock on the fence row
	Decision Protection = "decision" // the compare-and-set on the journal row
	Marker   Protection = "marker"   // waiting for the tail to reach the marker under the lock
)

// A Set is what a test installs.
type Set struct {
	// Step, if set, is called when a move enters a step. It may block.
	Step func(step string)
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
