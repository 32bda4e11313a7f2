package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
)

// errDiffers ends a try at the cutover: a row is not the same on both sides.
var errDiffers = errors.New("rows differ under the lock")

const (
	killAfter   = 3   // steps back, after which blocking sessions are ended
	fewDirty    = 200 // rows that may be left to compare under the lock
	dirtyRounds = 10  // of comparing before the lock; a hot shop is never clean
	firstBack   = 100 * time.Millisecond
	lastBack    = time.Second
)

// cutover tries to switch until it fits the budget.
func (m *move) cutover(ctx context.Context, v *verifier, decided chan<- struct{}) error {
	m.step(ctx, "cutover")
	if err := m.f.dir.Note(ctx, m.token); errors.Is(err, directory.ErrNotOurs) {
		return fmt.Errorf("%w: %w", ErrReplaced, err)
	} else if err != nil {
		return err
	}
	back := firstBack
	for try := 1; ; try++ {
		for range dirtyRounds {
			left, err := v.dirty(ctx)
			if err != nil {
				return err
			}
			if left <= fewDirty {
				break
			}
		}
		// The log must be followed closely before writers are made to wait for it.
		start := time.Now()
		if err := m.sync(ctx); err != nil {
			return err
		}
		lag := time.Since(start)
		err := fmt.Errorf("%w: the log is %v behind", fence.ErrBudget, lag)
		if lag < m.f.opts.PauseBudget/2 {
			err = m.switchOver(ctx, v, try > killAfter, decided)
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, fence.ErrBudget) && !errors.Is(err, errDiffers):
			return err
		case try == m.f.opts.Attempts:
			return fmt.Errorf("%w: %d tries, the last: %w", ErrSteppedBack, try, err)
		}
		m.result.StepsBack++
		m.log.Info("stepped back from the cutover; writers go on", "try", try, "why", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(back):
		}
		back = min(2*back, lastBack)
	}
}

// switchOver makes one try. The numbers are those of the steps in DESIGN.md.
func (m *move) switchOver(ctx context.Context, v *verifier, kill bool, decided chan<- struct{}) error {
	start := time.Now()
	var compared map[int][]int64
	closing := fence.Closing{From: m.claim.From, To: m.dst.pod, Token: m.token, Budget: m.f.opts.PauseBudget, Kill: kill}
	// 4. Lock, and 5. close.
	err := fence.Close(ctx, m.src.db, closing, func(ctx context.Context, locked *sql.Conn) error {
		m.quietStep(ctx, "drain")
		if err := m.noPrepared(ctx); err != nil {
			return err
		}
		// Every write of the shop is committed now, so its events are in the log
		// before this marker.
		if !hook.Off(ctx, hook.Marker) {
			if err := m.sync(ctx); err != nil {
				return err
			}
		}
		var err error
		if compared, err = v.locked(ctx, locked); err != nil {
			return err
		}
		// The journal once more: a recoverer that took us for dead has marked it
		// before it waits for our lock.
		if err := m.f.dir.Beat(ctx, m.token, "verified"); err != nil && !hook.Off(ctx, hook.Decision) {
			return err
		}
		m.quietStep(ctx, "verified")
		return nil
	})
	if err != nil {
		for table, keys := range compared {
			m.soil(table, keys)
		}
		if errors.Is(err, directory.ErrNotOurs) {
			return fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		return err
	}
	m.quietStep(ctx, "closed")
	// From here the shop takes no writes until the decision and the opening, so
	// the caller's cancelling no longer counts.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	// 6. Decide.
	var route podworks.Route
	err = insist(ctx, func() error {
		var err error
		route, err = m.f.dir.Decide(ctx, m.token)
		return err
	})
	if err != nil {
		return err
	}
	close(decided)
	m.quietStep(ctx, "decided")
	// 7. Open.
	if err := insist(ctx, func() error { return fence.Release(ctx, m.dst.db, m.shop, route.Epoch, m.token) }); err != nil {
		return err
	}
	m.result.Pause = time.Since(start)
	m.step(ctx, "opened")
	m.result.Route = route
	// 8. Finish. The move is made; that its row is still there is for Run to mend.
	if err := m.f.finish(ctx, m.src, m.dst, m.claim); err != nil {
		m.log.Warn("the move is made, but its journal row could not be retired; Run will", "err", err)
	}
	return nil
}

// insist repeats what is safe to repeat until it has a definite answer.
func insist(ctx context.Context, fn func() error) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := fn()
		if err == nil || errors.Is(err, directory.ErrNotOurs) || errors.Is(err, fence.ErrToken) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// noPrepared fails if an XA transaction is prepared on the source: it holds no
// lock on the fence, and could commit rows after the marker.
func (m *move) noPrepared(ctx context.Context) error {
	n := 0
	if err := each(ctx, m.src.db, func(*sql.Rows) error { n++; return nil }, `XA RECOVER`); err != nil {
		return fmt.Errorf("ask for prepared XA transactions: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("%d prepared XA transactions on the source hold no fence; end them", n)
	}
	return nil
}
