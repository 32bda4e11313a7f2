package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/flavor"
)

// What a shop left in a pod: its rows, and a line that says what they are. It is
// written in the transaction that closes the pod for the shop, when both sides are
// equal and nobody may write to either. So these rows are a verified copy of those
// in the pod that the shop went to, as of the place in that pod's log at which
// it had not been opened. From there on that log has every write of the shop's, and
// whoever follows it has a copy to go back to, without having to make one.
//
// A place that was asked for later, when the shop is open there, would leave out
// the writes in between.
//
// The line is good for as long as the shop is where it went to, under the epoch that
// it had there first: until it moves again. While a move back follows the log,
// podworks_ferry_tail has how far the rows are, and the line stays. When that move is
// undone the rows stay, too, with both, for the next one to go on with; they are
// nobody's but Clean's or a move's to touch. Clean deletes the line first: what is
// half deleted is no copy.
type left struct {
	pod   podworks.PodID // to which the shop went
	epoch podworks.Epoch // which it has there
	here  string         // the place in this pod's log after which nobody may change the shop's rows; from before its opening, if it wrote nothing here
	there string         // the place in that pod's log, "" if it wouldn't tell
}

// of reports whether the rows are a copy of those that a shop has at this route.
func (l left) of(route podworks.Route) bool {
	return l.there != "" && l.pod == route.Pod && l.epoch == route.Epoch
}

// readLeft reads what a shop left in a pod; nothing is the zero value.
func readLeft(ctx context.Context, db *sql.DB, shop podworks.ShopID) (l left, err error) {
	err = db.QueryRowContext(ctx, `SELECT pod, epoch, here, there FROM podworks_ferry_left WHERE shop_id = ?`, int64(shop)).
		Scan(&l.pod, &l.epoch, &l.here, &l.there)
	if errors.Is(err, sql.ErrNoRows) {
		return left{}, nil
	}
	return l, err
}

// leave writes the line, in the transaction of the session that holds the lock.
func (m *move) leave(ctx context.Context, locked *sql.Conn) error {
	there, here, err := m.places(ctx)
	switch {
	case err != nil && (passing(err) || ctx.Err() != nil):
		return fmt.Errorf("ask for the place in the target's log: %w", err)
	case err != nil: // a privilege that is good to have, and not needed
		m.log.Warn("there will be no way back without a new copy: the target doesn't tell where its log is", "err", err)
	}
	_, err = locked.ExecContext(ctx, `REPLACE INTO podworks_ferry_left (shop_id, pod, epoch, here, there) VALUES (?, ?, ?, ?, ?)`,
		int64(m.shop), int64(m.dst.pod), uint64(m.claim.To.Epoch), here, there)
	if err != nil {
		return fmt.Errorf("note what the shop leaves: %w", err)
	}
	return nil
}

// places returns where the target's log ends, "" if it has none, and where the target
// is in the source's. The latter may be somewhat earlier than the lock, but the
// shop's rows have not changed in between. Writers wait: with GTIDs it is one quick
// statement; which place in a file they are, MariaDB would only know from reading that
// file. And GTIDs survive a failover.
func (m *move) places(ctx context.Context) (there, here string, err error) {
	var p binlog.Position
	var mode string
	variables := `'ON', @@global.gtid_binlog_pos, ''`
	if m.flavor == flavor.MySQL {
		variables = `@@global.gtid_mode, REPLACE(@@global.gtid_executed, '\n', ''), @@global.server_uuid`
	}
	err = m.dst.db.QueryRowContext(ctx, `SELECT `+variables+`, COALESCE((SELECT position FROM podworks_ferry_tail WHERE shop_id = ?), '')`, int64(m.shop)).
		Scan(&mode, &p.GTIDs, &p.Server, &here)
	if err == nil && mode != "ON" {
		var offset uint32
		p.GTIDs = ""
		p.File, offset, err = flavor.BinlogPosition(ctx, m.dst.db, m.flavor)
		p.Offset = uint64(offset)
	}
	if err != nil || p.GTIDs == "" && p.File == "" {
		return "", here, err
	}
	return p.String(), here, nil
}

// takeLeft makes what the shop left on the target the beginning of the copy, if it
// went from there to where it is, or forgets it. The target is this move's already.
func (m *move) takeLeft(ctx context.Context) error {
	l, err := readLeft(ctx, m.dst.db, m.shop)
	switch {
	case err != nil:
		return fmt.Errorf("read what the shop left on the target: %w", err)
	case m.plan.left && !l.of(m.claim.From):
		return errors.New("the rows that the shop left on the target have been cleaned meanwhile; let Clean finish, and move again")
	case l == left{}:
		return nil
	case !l.of(m.claim.From):
		return m.f.forget(ctx, m.dst, m.shop, fence.Incoming, m.token)
	}
	tx, err := (&applier{m: m}).begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// IGNORE: an earlier move back may have come further.
	if _, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_ferry_tail (shop_id, position) VALUES (?, ?)`, int64(m.shop), l.there); err != nil {
		return err
	}
	for _, t := range m.tables {
		_, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_ferry_copy (shop_id, table_name, started, last_key, last_limit, done) VALUES (?, ?, 1, '', '', 1)`, int64(m.shop), t.name)
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}

// endOfTheWay says so if what ended the move will end each that begins with what the
// shop left.
func (m *move) endOfTheWay(err error) error {
	for _, e := range []error{errSchemaChanged, binlog.ErrPurged, binlog.ErrDiverged, binlog.ErrOtherServer, binlog.ErrSchema, binlog.ErrIncident} {
		if m.plan.left && errors.Is(err, e) {
			return fmt.Errorf("%w; the log can't be followed from where the rows are that the shop left in pod %d: Clean them, and a move makes a new copy", err, m.dst.pod)
		}
	}
	return err
}
