package ferry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
)

// errPrepared ends a try at the cutover: rows may yet be committed behind the marker.
var errPrepared = errors.New("prepared XA transactions on the source hold no fence; end them")

const (
	fewDirty    = 200 // rows that may be left to compare under the lock
	dirtyRounds = 10  // of comparing before the lock; a hot shop is never clean
	firstBack   = 100 * time.Millisecond
	lastBack    = time.Second
)

// cutover tries to switch until it fits the budget.
func (m *move) cutover(ctx context.Context, v *verifier, decided chan<- struct{}) error {
	if len(m.f.opts.Stores) > 0 {
		m.step(ctx, "prepare")
		if err := m.f.prepareStores(ctx, m.claim); err != nil {
			return err
		}
	}
	m.step(ctx, "cutover")
	// What can't be switched or raised shows before writers wait.
	if err := m.agree(ctx); err != nil {
		return err
	}
	noted := false
	held := 0 // tries, one after the other, that did not get the lock
	back := firstBack
	for try := 1; ; try++ {
		if err := m.whilePaused(ctx); err != nil {
			return err
		}
		err := m.try(ctx, v, &noted, held, decided)
		if errors.Is(err, fence.ErrHeld) {
			held++
		} else if !errors.Is(err, errNotYet) {
			held = 0
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, directory.ErrNotOurs) && !errors.Is(err, directory.ErrFailedOver): // which nobody took over
			return fmt.Errorf("%w: %w", ErrReplaced, err)
		case m.closed || ctx.Err() != nil || !passing(err):
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

// lockWait returns for how long a try waits for the lock, when the tries before it
// did not get it, and whether it ends the sessions that hold it then. New writers
// queue behind a request that waits, for nothing while a long transaction holds the
// lock: so at first it waits for what short ones take. (NOWAIT all but never gets the lock
// of a shop whose writers overlap: beside eight of them 18 times of 19,203 on MySQL
// 9.7, and 5 of 4,571 on MariaDB 10.11.) Only a session that outlasted the whole
// budget is taken for frozen. Rolling back may take longer than the rest of the
// budget, so it begins anew. With the default budget writers wait 9, 37, 150 and 75 ms.
func lockWait(budget time.Duration, held int) (wait time.Duration, kill bool) {
	switch held % 4 {
	case 0:
		return budget / 16, false
	case 1:
		return budget / 4, false
	}
	return budget, held%4 == 3
}

// approach does what can be done before writers wait: rows are compared until few
// are left, the target comes up with the source, and what waits for the lock is done
// once without it. From how long that takes it predicts the pause. The journal gets
// the step.
func (m *move) approach(ctx context.Context, v *verifier, step string) error {
	var round time.Duration // the last one's
	var rows, left int      // compared in it, and to compare after it
	for n := 1; ; n++ {
		start, repaired := time.Now(), v.repaired.rows
		rows = m.dirtyRows()
		var err error
		if left, err = v.dirty(ctx); err != nil {
			return err
		}
		round = time.Since(start)
		again := v.repaired.rows > repaired
		if again && n == dirtyRounds {
			return v.repaired.err(m.shop, " again and again, each time that they were copied; find out what changes them on the target")
		}
		if !again && left <= fewDirty || n == dirtyRounds {
			break
		}
	}
	// The log, the target, its replicas and the directory must be near before writers
	// are made to wait for them.
	start := time.Now()
	if err := m.sync(ctx); err != nil {
		return err
	}
	synced := time.Since(start)
	if err := m.raiseCounters(ctx); err != nil {
		return err
	}
	if err := m.f.dir.Beat(ctx, m.token, step); err != nil {
		return err
	}
	drill := time.Since(start)
	if err := m.f.replicated(ctx, m.dst); err != nil {
		return err
	}
	replica := time.Since(start) - drill
	// Twice the drill: closing, deciding and opening are one more commit on each of
	// the same servers. A round is two syncs besides what it compares.
	m.result.Predicted = 2*drill + replica
	if left > 0 {
		m.result.Predicted += max(0, round-2*synced) * time.Duration(max(rows, left)) / time.Duration(max(rows, 1))
	}
	m.mu.Lock()
	m.progress.PredictedPause = m.result.Predicted
	m.mu.Unlock()
	return nil
}

// errNotYet ends a try before the lock is asked for.
var errNotYet = errors.New("writers would wait for too long")

// try makes one try at the cutover: what can be done before writers wait, and
// then the switch.
func (m *move) try(ctx context.Context, v *verifier, noted *bool, held int, decided chan<- struct{}) error {
	// 3. Note, once: epochs noted later could hide a failover that the copy didn't outlive.
	if !*noted {
		hook.Step(ctx, "note")
		if err := m.f.dir.Note(ctx, m.token); err != nil {
			return err
		}
		*noted = true
	}
	if err := m.view(ctx, v); err != nil {
		return err
	}
	if err := m.approach(ctx, v, "cutover"); err != nil {
		return err
	}
	if p := m.result.Predicted; p >= m.f.opts.PauseBudget {
		return fmt.Errorf("%w: %v is predicted, for the log, the rows left to compare, round trips and the target's replicas; the budget is %v",
			errNotYet, p.Round(time.Millisecond), m.f.opts.PauseBudget)
	}
	return m.switchOver(ctx, v, held, decided)
}

// passing reports whether a try at the cutover failed for a reason that may be
// gone at the next: nothing has changed, and writers go on meanwhile. A fault
// that stays uses up the attempts.
func passing(err error) bool {
	if errors.Is(err, errNotYet) || errors.Is(err, fence.ErrHeld) || errors.Is(err, fence.ErrBudget) || errors.Is(err, ErrDiffers) || errors.Is(err, errPrepared) || errors.Is(err, errReplicas) || cutOff(err) {
		return true
	}
	var answer *mysql.MySQLError
	return errors.As(err, &answer) && (answer.Number == 1205 || answer.Number == 1213) // lock wait timeout, deadlock
}

// cutOff reports whether the server was not reached, ended the session, or is
// becoming another one's replica or a primary.
func cutOff(err error) bool {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.EOF) {
		return true
	}
	var network net.Error
	if errors.As(err, &network) {
		return true
	}
	var answer *mysql.MySQLError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Number {
	case 1040, 1053, 1077, 1079, 1158, 1159, 1160, 1161, // too many connections, shutdown, network
		1290, 1836, // read-only
		1317, 1927, 3168, 4031: // the statement was interrupted, the session ended
		return true
	}
	return false
}

// switchOver makes one try. The numbers are those of the steps in DESIGN.md.
func (m *move) switchOver(ctx context.Context, v *verifier, held int, decided chan<- struct{}) error {
	var compared map[int][]string
	closing := fence.Closing{From: m.claim.From, To: m.dst.pod, Token: m.token, Budget: m.f.opts.PauseBudget}
	closing.Wait, closing.Kill = lockWait(closing.Budget, held)
	// Nobody shall wait for connections: the session with the lock is used up by it.
	for _, s := range []*server{m.src, m.dst} {
		if err := s.warm(ctx); err != nil {
			return err
		}
	}
	// 4. Lock, and 5. close.
	hook.Step(ctx, "lock")
	start := time.Now()
	err := fence.Close(ctx, m.src.db, closing, func(ctx context.Context, locked *sql.Conn) error {
		m.quietStep(ctx, "drain")
		if err := m.noPrepared(ctx); err != nil {
			return err
		}
		// Every write of the shop is committed now, so its events are in the log
		// before this marker.
		hook.Step(ctx, "marker")
		if !hook.Off(ctx, hook.Marker) {
			if err := m.sync(ctx); err != nil {
				return err
			}
		}
		var err error
		if compared, err = v.locked(ctx, locked); err != nil {
			return err
		}
		// None of these needs another's answer, and writers wait for all.
		rest := newCrew(ctx, 3)
		rest.run(m.takeViews)
		rest.run(func(ctx context.Context) error {
			if err := m.raiseCounters(ctx); err != nil {
				return err
			}
			return m.leave(ctx, locked)
		})
		// The journal once more: a recoverer that took us for dead has marked it
		// before it waits for our lock.
		rest.run(func(ctx context.Context) error {
			hook.Step(ctx, "look")
			if err := m.f.dir.Beat(ctx, m.token, "verified"); err != nil && !hook.Off(ctx, hook.Look) && !hook.Off(ctx, hook.Decision) {
				return err
			}
			return nil
		})
		if err := rest.wait(); err != nil {
			return err
		}
		// What is switched to must outlive a failover of the target, as what is
		// switched from would have outlived one of the source.
		if err := m.f.replicated(ctx, m.dst); err != nil {
			return err
		}
		m.quietStep(ctx, "verified")
		hook.Step(ctx, "close")
		return nil
	})
	m.closed = err == nil || errors.Is(err, podworks.ErrOutcomeUnknown)
	if err != nil {
		m.soilAll(compared)
		if !m.closed {
			m.dropViews() // the next try may be long in coming, and servers keep what they see
		}
		return err
	}
	m.quietStep(ctx, "closed")
	// From here the shop takes no writes until the decision and the opening, so
	// the caller's cancelling no longer counts.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hook.Insist(ctx, time.Minute))
	defer cancel()
	// 6. Decide.
	hook.Step(ctx, "decide")
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
	hook.Step(ctx, "open")
	if err := insist(ctx, func() error { return fence.Release(ctx, m.dst.db, m.shop, route.Epoch, m.token) }); err != nil {
		return err
	}
	m.result.Pause = time.Since(start)
	m.step(ctx, "opened")
	m.result.Route = route
	// 8. Finish. The move is made; that its row is still there is for Run to mend.
	hook.Step(ctx, "finish")
	mv := m.claim
	mv.State, mv.Verified = podworks.MoveDecided, m.token
	if err := m.f.finish(context.WithoutCancel(ctx), m.src, m.dst, mv); err != nil {
		m.result.Unfinished = err.Error()
		m.log.Warn("the move is made, but its journal row could not be retired; Run will", "err", err)
	}
	return nil
}

// warm has the pool hold some connections.
func (s *server) warm(ctx context.Context) error {
	for range 3 {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("pod %d: %w", s.pod, err)
		}
		defer conn.Close()
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
	if hook.Off(ctx, hook.Prepared) {
		return nil
	}
	n := 0
	if err := each(ctx, m.src.db, func(*sql.Rows) error { n++; return nil }, `XA RECOVER`); err != nil {
		return fmt.Errorf("ask for prepared XA transactions: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("%d %w", n, errPrepared)
	}
	return nil
}
