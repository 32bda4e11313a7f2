package outbox

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/hook"
)

const (
	// A worker reads so many messages of a shop at a time, and then lets other shops
	// have their turn. With MaxPayload it is also what bounds its memory.
	batchRows = 32

	// Messages that were delivered are deleted together, but none later than this
	// after its delivery and the one under way: what a killed process delivers twice.
	noteEvery = 100 * time.Millisecond
)

// idleSession is how long the server keeps a session, and its lock on a shop,
// that says nothing. A worker's says something after each delivery that took
// longer than noteEvery.
func idleSession(timeout time.Duration) int {
	return int((timeout + noteEvery + 3*time.Second) / time.Second)
}

// serve delivers what is due of a shop, batch by batch until another shop waits
// for a worker. It reports whether there is more to do.
func (r *relay) serve(ctx context.Context, shop podworks.ShopID) (more bool, err error) {
	conn, err := r.hold(ctx, shop)
	if conn == nil {
		return false, err
	}
	released := false
	defer func() {
		if !released {
			discard(conn)
		}
		conn.Close()
	}()
	for {
		full, err := r.batch(ctx, conn, shop)
		if err != nil {
			return false, err
		}
		more = full || r.queue.news(shop)
		if !more || len(r.queue.ready) > 0 || ctx.Err() != nil {
			break
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlowPod)
	defer cancel()
	if _, err := conn.ExecContext(ctx, `DO RELEASE_LOCK(`+lockName(shop)+`)`); err != nil {
		return false, fmt.Errorf("outbox: let go of shop %d in pod %d: %w", shop, r.pod, because(ctx, err))
	}
	released = true
	if more {
		return true, nil
	}
	// Another process that was woken while we had the lock has left its message to
	// us: it committed before it asked for the lock, and it asked before we let go.
	// So the message is seen now, if it wasn't before.
	err = conn.QueryRowContext(ctx, fmt.Sprintf(`SELECT due <= UTC_TIMESTAMP(6) FROM podworks_outbox FORCE INDEX (pending) WHERE pending = %d ORDER BY seq LIMIT 1`, shop)).Scan(&more)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("outbox: look for more of shop %d in pod %d: %w", shop, r.pod, because(ctx, err))
	}
	return more, nil
}

// lockName is the SQL for the name of a shop's lock. Such names are the whole
// server's, which may have several pods in its databases. Two of which the sums are
// equal would take turns at a shop, which is no harm.
func lockName(shop podworks.ShopID) string {
	return fmt.Sprintf(`CONCAT('podworks_outbox.', CRC32(DATABASE()), '.%d')`, shop)
}

// hold takes the lock of a shop, in a session of its own. The connection is nil
// if another relay has it, or after an error.
func (r *relay) hold(ctx context.Context, shop podworks.ShopID) (_ *sql.Conn, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlowPod)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("outbox: take shop %d in pod %d: %w", shop, r.pod, because(ctx, err))
		}
	}()
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var got sql.NullInt64
	var readOnly string
	var idle int
	err = conn.QueryRowContext(ctx, `SELECT GET_LOCK(`+lockName(shop)+`, 0), @@GLOBAL.read_only, @@SESSION.wait_timeout`).Scan(&got, &readOnly, &idle)
	if want := idleSession(r.box.opts.Timeout); err == nil && idle != want { // a new session
		_, err = conn.ExecContext(ctx, fmt.Sprintf(`SET SESSION wait_timeout = %d`, want))
	}
	if err == nil && readOnly != "0" && readOnly != "OFF" {
		err = errors.New("its server is read_only, so that what was delivered could not be deleted")
	}
	switch {
	case err != nil:
		discard(conn)
		return nil, err
	case got.Int64 != 1 && !hook.Off(ctx, offLock):
		conn.Close()
		return nil, nil
	}
	return conn, nil
}

// discard ends a session that may have the lock of a shop, and so must not go
// back into the pool.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// batch delivers a shop's first messages. It reports whether it delivered as
// many as it may.
func (r *relay) batch(ctx context.Context, conn *sql.Conn, shop podworks.ShopID) (full bool, err error) {
	waiting, err := r.read(ctx, conn, shop)
	if err != nil {
		return false, fmt.Errorf("outbox: read the messages of shop %d in pod %d: %w", shop, r.pod, err)
	}
	var delivered []uint64
	var first time.Time // when the first of them was
	n := 0
	for _, m := range waiting {
		inOrder := !hook.Off(ctx, offHold)
		if ctx.Err() != nil || !m.due && inOrder {
			break
		}
		if hook.Off(ctx, offNote) {
			if err := r.note(ctx, conn, []uint64{m.Seq}); err != nil {
				return false, err
			}
		}
		err := r.attempt(ctx, m.Message)
		switch {
		case err == nil:
			r.box.counts.delivered.Add(1)
			if delivered = append(delivered, m.Seq); len(delivered) == 1 {
				first = time.Now()
			}
		case ctx.Err() != nil: // it is Run that ended; the receiver is not to blame
			return false, r.note(ctx, conn, delivered)
		default:
			parked, failed := r.failed(ctx, conn, m.Message, err)
			if failed != nil {
				return false, errors.Join(failed, r.note(ctx, conn, delivered))
			}
			if !parked && inOrder {
				return false, r.note(ctx, conn, delivered)
			}
		}
		n++
		if len(delivered) > 0 && time.Since(first) >= noteEvery {
			if err := r.note(ctx, conn, delivered); err != nil {
				return false, err
			}
			delivered = delivered[:0]
		}
	}
	return n == batchRows, r.note(ctx, conn, delivered)
}

// A waiting message is to be delivered, once it is due.
type waiting struct {
	Message
	due bool
}

// read returns a shop's first messages. It is one snapshot: of two rows of which
// one was committed before the other was inserted it has both, or the first.
// (Locking reads look at each row at another time, and could see the second only.)
// It reads no payload as long as the first message holds the others back.
func (r *relay) read(ctx context.Context, conn *sql.Conn, shop podworks.ShopID) ([]waiting, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlowPod)
	defer cancel()
	rows, err := conn.QueryContext(ctx, fmt.Sprintf(`SELECT o.seq, o.epoch, o.id, o.topic, o.payload, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', o.created), o.attempts, o.due <= UTC_TIMESTAMP(6)
		FROM podworks_outbox o FORCE INDEX (pending)
		WHERE o.pending = %[1]d AND (SELECT h.due FROM podworks_outbox h FORCE INDEX (pending) WHERE h.pending = %[1]d ORDER BY h.seq LIMIT 1) <= UTC_TIMESTAMP(6)
		ORDER BY o.seq LIMIT %[2]d`, shop, batchRows))
	if err != nil {
		return nil, because(ctx, err)
	}
	defer rows.Close()
	var all []waiting
	for rows.Next() {
		m := waiting{Message: Message{Shop: shop, Pod: r.pod}}
		var created int64 // not a time: what the driver makes of those depends on its configuration
		var failed int
		if err := rows.Scan(&m.Seq, &m.Epoch, &m.ID, &m.Topic, &m.Payload, &created, &failed, &m.due); err != nil {
			return nil, err
		}
		m.Created, m.Attempt = time.UnixMicro(created).UTC(), failed+1
		all = append(all, m)
	}
	if err := rows.Err(); err != nil {
		return nil, because(ctx, err)
	}
	return all, nil
}

// attempt delivers one message. A panic is an error: a message that provokes one
// must not end process after process.
func (r *relay) attempt(ctx context.Context, m Message) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.box.opts.Timeout, fmt.Errorf("outbox: the delivery took longer than Timeout, %v", r.box.opts.Timeout))
	defer cancel()
	returned := false
	defer func() {
		if !returned {
			err = fmt.Errorf("outbox: deliver panicked: %v\n%s", recover(), debug.Stack())
		}
	}()
	err = r.box.deliver(ctx, m)
	returned = true
	return err
}

// failed notes an attempt that failed: the message is tried again later, or
// parked.
func (r *relay) failed(ctx context.Context, conn *sql.Conn, m Message, why error) (parked bool, err error) {
	parked = m.Attempt >= r.box.opts.MaxAttempts || errors.Is(why, ErrPark)
	pause := jitter(backoff(m.Attempt, r.box.opts.Backoff, r.box.opts.MaxBackoff), rand.Float64())
	text := why.Error()
	if len(text) > 1000 {
		text = text[:1000]
	}
	bounded, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), patience, errSlowPod)
	defer cancel()
	_, err = conn.ExecContext(bounded, `UPDATE podworks_outbox SET attempts = ?, error = ?, due = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, pending = IF(?, NULL, pending) WHERE seq = ?`,
		m.Attempt, []byte(text), pause.Microseconds(), parked, m.Seq)
	if err != nil {
		// It will be tried again too soon, and the attempt is not counted.
		return false, fmt.Errorf("outbox: note that message %s of shop %d in pod %d failed (%s): %w", m.ID, m.Shop, m.Pod, text, because(bounded, err))
	}
	tell := r.box.opts.Hooks.Failed
	if parked {
		r.box.counts.parked.Add(1)
		tell = r.box.opts.Hooks.Parked
	} else {
		r.box.counts.failed.Add(1)
	}
	if tell != nil {
		tell(m, why)
	}
	return parked, nil
}

// note deletes what was delivered. As long as the rows are there they can be
// delivered again, so it tries until it has done it or Run ends; meanwhile the shop
// is not served by this process. After an error the session is not to be trusted.
func (r *relay) note(ctx context.Context, conn *sql.Conn, seqs []uint64) error {
	if len(seqs) == 0 {
		return nil
	}
	failed := r.remove(ctx, conn, seqs)
	if failed == nil {
		return nil
	}
	failed = fmt.Errorf("outbox: delete %d delivered messages in pod %d: %w", len(seqs), r.pod, failed)
	for {
		if r.remove(ctx, r.db, seqs) == nil || ctx.Err() != nil {
			return failed
		}
		r.report(ctx, failed)
		wait(ctx, r.box.opts.Poll)
	}
}

// remove deletes rows by their numbers, past the end of ctx.
//
// They are joined, because that makes the servers find each by its primary key.
// With seq IN (…) both of them scan a small table instead, and wait for every
// writer that has inserted a row into it.
func (r *relay) remove(ctx context.Context, on interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, seqs []uint64) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), patience, errSlowPod)
	defer cancel()
	var b strings.Builder
	for i, seq := range seqs {
		if i > 0 {
			b.WriteString(` UNION ALL `)
		}
		fmt.Fprintf(&b, `SELECT %d AS seq`, seq)
	}
	_, err := on.ExecContext(ctx, `DELETE o FROM (`+b.String()+`) d STRAIGHT_JOIN podworks_outbox o ON o.seq = d.seq`)
	if err != nil {
		return because(ctx, err)
	}
	return nil
}
