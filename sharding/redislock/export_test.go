package redislock

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Without switches a protection off, to show that the tests would notice: in the
// scripts of l, old, which must be there exactly once, becomes new.
func Without(t testing.TB, l *Lock, old, new string) {
	t.Helper()
	if n := strings.Count(shareScript+changeScript, old); n != 1 {
		t.Fatalf("the scripts have %q %d times, want it once", old, n)
	}
	l.share = redis.NewScript(rowScript + strings.Replace(shareScript, old, new, 1))
	l.change = redis.NewScript(rowScript + strings.Replace(changeScript, old, new, 1))
}

// Key returns the key of shop 1.
func (l *Lock) Key() string { return l.key(1) }

// Restart forgets what a lease's holder knows of its age, as if half of
// Options.Lease were over.
func (s *Lease) Restart() { s.until = s.until.Add(-s.lock.lease) }
