package master

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks/internal/flavor"
)

// SkipWait makes reads believe that the replica has everything.
func (m *Master) SkipWait() {
	m.reached = func(flavor.GTIDs, context.Context, flavor.Queryer, time.Duration) (bool, error) { return true, nil }
}

// OnWait calls fn before the replica is asked, with how long it may take. The
// time that fn takes is not counted.
func (m *Master) OnWait(fn func(wait time.Duration)) {
	m.reached = func(g flavor.GTIDs, ctx context.Context, q flavor.Queryer, wait time.Duration) (bool, error) {
		fn(wait)
		return g.Reached(context.WithoutCancel(ctx), q, wait)
	}
}

// SkipToken makes Confirm and Release look at the name alone.
func (m *Master) SkipToken() { m.same = func(Claim) string { return "" } }

// SplitTake makes Sequence read the row and write it in two statements.
func (m *Master) SplitTake() {
	m.take = func(ctx context.Context, db *sql.DB, name string, size int64) (int64, error) {
		var next int64
		if err := db.QueryRowContext(ctx, `SELECT next FROM podworks_sequences WHERE name = ?`, name).Scan(&next); err != nil {
			return 0, err
		}
		_, err := db.ExecContext(ctx, `UPDATE podworks_sequences SET next = ? WHERE name = ?`, next+size, name)
		return next + size, err
	}
}

// KeepFaults makes faults last until TryAgain.
func (m *Master) KeepFaults() { m.away.pause, m.late.pause = time.Hour, time.Hour }

// TryAgain ends the pause of the faults that are remembered.
func (m *Master) TryAgain() {
	for _, f := range []*fault{&m.away, &m.late} {
		if f.active() {
			f.until.Store(1)
		}
	}
}

// Seal and Open are what Middleware does to a cookie.
func Seal(key []byte, token string, now time.Time) (string, error) {
	b, err := newBox(key)
	if err != nil {
		return "", err
	}
	return b.seal(token, now), nil
}

func Open(key []byte, value string, now time.Time) (string, bool) {
	b, err := newBox(key)
	if err != nil {
		return "", false
	}
	return b.open(value, now)
}

const (
	CookieName = cookieName
	CookieAge  = cookieAge
	MaxToken   = maxToken
)

// Retry makes the sequence fetch ahead again at once.
func (s *Sequence) Retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = time.Time{}
}

// TakeLocally makes sequences take blocks from this process.
func (m *Master) TakeLocally() {
	var next atomic.Int64
	m.take = func(_ context.Context, _ *sql.DB, _ string, size int64) (int64, error) {
		return 1 + next.Add(size), nil
	}
}
