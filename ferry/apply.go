package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
)

// A chunk is a range of a table's rows, read from the source without locks
// between two markers of the log.
type chunk struct {
	table  int
	upTo   string // the highest key of the range
	last   bool   // of the table
	keys   []string
	rows   [][]any  // one value a writable column
	bytes  int      // of the values, as read
	refs   []string // of a joined table's rows: by what they are the shop's, in SQL
	repair bool     // of single rows that were found different
	limits []cursor // instead of rows: how far this table, and those after it, are to be copied
	parts  []*part  // instead of rows: a wave
	stale  bool     // it was not written, as rows may have changed without the log; to be read again
}

// An applier decides alone what rows are written to the target, and waits for the
// goroutines that it has write some of them. It takes the
// log's groups in order, and at a marker the chunk that was read before it. It
// applies every change of the shop's rows, whether the copy has come to them or
// not.
//
// Why a chunk and the log together give the source's rows: the chunk was read
// after the marker before it was committed and before its own marker was
// written. So it has everything up to the first marker, perhaps some of what
// came between the two, and nothing later. A row that no event between the two
// markers names is, in the chunk, as it was at the second one, and is written
// as such; a row that one does name is left out: what the event made of it is
// on the target, or in the same batch. Both are therefore as of the second
// marker, which is where the applier is in the log when it writes them.
//
// So the target never has anything but rows that the source had at one place of
// the log, though not all of them until the copy is through (and but for what stands
// apart, which is of one place at each marker only; see apart.go). No two such rows
// have the same unique value, in whatever order the copy comes to them, provided
// that a transaction deletes all that it replaces before it inserts. A key that
// changes from before the copy to behind it, or the other way, is no special case.
//
// Rows above the highest key that a table had at the beginning are not copied:
// all their events are in the log. So a shop that adds rows faster than they are
// read is still copied in the time its old rows take.
//
// A table in which nothing tells rows apart is one chunk. It is written as a
// whole in the place of what is there, if no event named the table meanwhile;
// else that is left to the verification, which finds it different and has it
// copied again.
type applier struct {
	m       *move
	cursors []cursor           // by table
	batch   map[rowID][]any    // rows to write, nil ones to delete
	images  map[rowID]*image   // of the batch's rows of joined tables
	coming  map[rowID]struct{} // the batch's rows of direct parents that the log first named as new
	weight  int                // of what was taken into the batch, in bytes
	at      binlog.Position    // after the last whole group taken
	from    binlog.Position    // after the last group that is on the target
	placed  bool               // the target has such a place, for whoever comes next

	// parts is the transaction on the target into which the parts of a large one of
	// the source are written, or nil. It is one, as the source's is: the target has
	// nothing that the source had not. Its parts need no order of their own: the rows
	// at the end of each are rows that the source had together, in the middle of its
	// transaction, when it found no two with the same unique value.
	parts *sql.Tx

	// named are the rows that the log named since the last chunk's marker, in
	// tables that are still copied: a chunk read meanwhile doesn't know better.
	named map[rowID]struct{}
	// fromParts are those of them that only the parts so far of a large transaction named,
	// which may be rolled back.
	fromParts []rowID
	// brought says of each table that the log may have brought rows that a chunk
	// brings again. Until then a chunk is inserted without deleting its keys first.
	brought []bool
	unknown []bool // of these, which rows these are
	// unsure are the tables whose rows may have changed without the log since the last
	// chunk's marker.
	unsure []bool
	// gone is what nothing may refer to: since the last batch, and of a copy under way
	// since the last chunk's marker before that.
	gone, goneBefore map[goneRef]struct{}
}

// A cursor says how far a table is copied.
type cursor struct {
	started bool   // if not, nothing is
	upTo    string // the highest key copied
	begun   bool   // the log's events of the table count
	limited bool   // if not, limit isn't known yet
	limit   string // the highest key to copy
	done    bool
}

func newApplier(m *move, cursors []cursor, at binlog.Position) *applier {
	return &applier{m: m, cursors: slices.Clone(cursors), at: at, from: at, batch: map[rowID][]any{}, images: map[rowID]*image{},
		coming: map[rowID]struct{}{}, named: map[rowID]struct{}{}, brought: make([]bool, len(cursors)), unknown: make([]bool, len(cursors)), unsure: make([]bool, len(cursors)),
		gone: map[goneRef]struct{}{}, goneBefore: map[goneRef]struct{}{}}
}

const (
	maxBatch  = 20_000  // rows, after which they are applied even if more are waiting
	batchSize = 8 << 20 // bytes, likewise
)

// errAgain: the log must be followed again from where the target is. A large
// transaction has lost its own on the target, and its parts are gone.
var errAgain = errors.New("the target has lost a transaction in parts")

// follow follows the source's log from a.from on, and applies it.
func (m *move) follow(ctx context.Context, a *applier) error {
	from := a.from
	for try := 1; ; try++ {
		err := m.followOnce(ctx, a)
		if a.from != from {
			from, try = a.from, 1
		}
		if !errors.Is(err, errAgain) || try == maxTries {
			return err
		}
		m.log.Debug("applying a large transaction again", "err", err)
		if err := a.goBack(ctx); err != nil {
			return fmt.Errorf("apply to the target: %w", err)
		}
	}
}

// goBack has the applier be where the target is. Only a large transaction can be
// behind a.from, and its COMMIT may be what had no answer. Then it is there:
// applied again, its first part would give a row a unique value that another has in
// the end. If it isn't, a.at must go back too, or what comes next would take it for
// applied. The read waits for the lost session's end.
func (a *applier) goBack(ctx context.Context) error {
	var text string
	var err error
	for try := 1; ; try++ {
		err = a.m.dst.db.QueryRowContext(ctx, `SELECT position FROM podworks_ferry_tail WHERE shop_id = ? FOR UPDATE`, int64(a.m.shop)).Scan(&text)
		if err == nil || !passing(err) || try == maxTries {
			break
		}
		select { // the server may be starting again
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(try) * 100 * time.Millisecond):
		}
	}
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("find out what became of a large transaction: %w", err)
	case text == a.at.String():
		a.from, a.fromParts = a.at, nil
	default:
		a.at = a.from
	}
	return nil
}

func (m *move) followOnce(ctx context.Context, a *applier) error {
	ctx, cancel := context.WithCancelCause(ctx)
	q := newQueue()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(m.tail(ctx, a.from, q.push))
	}()
	err := a.run(ctx, q)
	if ctx.Err() == nil {
		err = fmt.Errorf("apply to the target: %w", err)
	} else { // a query of the applier's may have failed of it
		err = context.Cause(ctx)
	}
	cancel(err)
	<-ended
	return err
}

func (a *applier) run(ctx context.Context, in *queue) error {
	defer a.drop()
	for {
		g, err := in.pop(ctx)
		if err != nil {
			return err
		}
		if g.undone {
			a.drop()
			a.unname()
			continue
		}
		roots := g.roots()
		if (g.part || len(roots) > 0) && a.parts == nil {
			if err := a.flush(ctx, nil); err != nil { // which is not to be undone with the parts
				return err
			}
			if a.parts, err = a.begin(ctx); err != nil {
				return a.lost(err)
			}
		}
		if len(roots) > 0 {
			if err := a.cascade(ctx, roots); err != nil {
				return a.lost(err)
			}
		}
		a.take(g)
		switch {
		case g.part:
			if err := a.writePart(ctx); err != nil {
				return err
			}
		case g.marker != 0:
			c := a.m.chunkAt(g.marker)
			if c != nil && c.parts != nil {
				if err := a.flush(ctx, nil); err != nil {
					return err
				}
				if err := a.writeWave(ctx, c); err != nil {
					return err
				}
			} else if err := a.flush(ctx, c); err != nil {
				return err
			}
			a.m.reached(g.marker)
		case a.parts != nil, in.empty(), len(a.batch) >= maxBatch, a.weight >= batchSize:
			if err := a.flush(ctx, nil); err != nil {
				return err
			}
		}
	}
}

// drop takes the parts of a large transaction back.
func (a *applier) drop() {
	if a.parts == nil {
		return
	}
	a.parts.Rollback()
	a.parts = nil
	a.settled(nil)
}

// writePart writes the batch as a part of a large transaction.
func (a *applier) writePart(ctx context.Context) error {
	j, err := a.judge(ctx)
	if err == nil {
		err = a.writeBatch(ctx, a.parts, j)
	}
	if err != nil {
		return a.lost(err)
	}
	a.m.applied(len(a.batch), nil)
	a.settled(nil)
	return nil
}

// lost makes what has ended a large transaction on the target errAgain, if it may
// succeed the next time.
func (a *applier) lost(err error) error {
	if passing(err) {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return err
}

// take puts a group's changes into the batch. Later images of a row replace
// earlier ones: only whole groups are written, so the target goes from one state
// of the source to another, and a unique value that two rows exchanged meanwhile
// is no conflict.
func (a *applier) take(g group) {
	if !g.part {
		a.at = g.end
	}
	a.weight += g.weight
	a.noteGone(g.gone)
	direct := make([]change, 0, len(g.changes))
	for _, c := range g.changes {
		id := rowID{c.table, c.key}
		t := a.m.tables[c.table]
		if t.joined() {
			if a.cursors[c.table].begun { // else its parents may not be there to judge it by
				a.seen(id, c.row, c.ref, c.xa)
			}
			continue
		}
		direct = append(direct, c)
		a.note(id)
		if !t.keyless {
			a.put(id, c.row)
		}
	}
	a.m.touched(direct)
}

// note notes that the log named a row of the shop.
func (a *applier) note(id rowID) {
	if !a.cursors[id.table].done {
		if _, ok := a.named[id]; !ok && a.parts != nil {
			a.fromParts = append(a.fromParts, id)
		}
		a.named[id] = struct{}{}
	}
	a.brought[id.table] = true
}

// unname takes back what parts named that the source rolled back: a chunk's rows are
// the source's again.
func (a *applier) unname() {
	for _, id := range a.fromParts {
		delete(a.named, id)
	}
	a.fromParts = nil
}

// seen puts a row of a joined table into the batch, whosever it is.
func (a *applier) seen(id rowID, row []any, ref string, xa bool) {
	i := a.images[id]
	if i == nil {
		i = &image{}
		a.images[id] = i
	}
	i.refs, i.xa = append(i.refs, ref), i.xa || xa
	a.put(id, row)
}

// put puts a row into the batch.
func (a *applier) put(id rowID, row []any) {
	t := a.m.tables[id.table]
	if _, ok := a.batch[id]; !ok && row != nil && len(t.children) > 0 && !t.joined() {
		a.coming[id] = struct{}{}
	}
	a.batch[id] = row
}

// maxTries bounds how often what the target's server rolled back is written again.
const maxTries = 10

// flush writes the batch, and the chunk if there is one, in one transaction
// with the position they bring the target to.
func (a *applier) flush(ctx context.Context, c *chunk) error {
	if len(a.batch) == 0 && c == nil && a.parts == nil {
		if err := a.dangling(ctx, a.m.dst.db, nil); err != nil {
			return err
		}
		a.from = a.at
		a.settled(nil)
		return nil
	}
	changes := len(a.batch)
	fresh := a.due(c)
	all := len(a.batch)
	j, err := a.judge(ctx)
	switch {
	case err != nil && a.parts != nil:
		return a.lost(err)
	case err != nil:
		return err
	}
	changes = max(0, changes-(all-len(a.batch)))
	if len(a.batch) == 0 && c == nil && a.parts == nil { // all were other shops'
		if err := a.dangling(ctx, a.m.dst.db, nil); err != nil {
			return err
		}
		a.from = a.at
		a.settled(nil)
		return nil
	}
	if err := a.writeApart(ctx); err != nil {
		return err
	}
	if a.parts != nil {
		if err := a.write(ctx, c, fresh, j); err != nil {
			return a.lost(err)
		}
	} else if err := a.again(ctx, func() error { return a.write(ctx, c, fresh, j) }); err != nil {
		return err
	}
	a.parts, a.fromParts, a.from, a.placed = nil, nil, a.at, true
	a.m.applied(changes, c)
	a.settled(c)
	return nil
}

// again makes a transaction on the target, once more if it has to. Other shops'
// writers work in the same indexes, so the server may roll it back to let one of them
// go on. Nothing of it has happened then.
func (a *applier) again(ctx context.Context, write func() error) error {
	for try := 1; ; try++ {
		err := write()
		if err == nil {
			return nil
		}
		met := a.metTrigger(err)
		if !rolledBack(err) && !met || try == maxTries {
			return err
		}
		if met {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second):
			}
		}
		a.m.log.Debug("the target rolled a transaction back; writing it again", "err", err)
	}
}

// rolledBack reports whether the server ended a transaction in favour of
// another: by deadlock, or by a lock that it could not get in time.
func rolledBack(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == 1213 || e.Number == 1205)
}

// metTrigger reports whether a unique value was taken that a trigger may have made
// up: the second a row is inserted in, say, which is that of another row too. The
// next is another one.
func (a *applier) metTrigger(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number == 1062 && slices.ContainsFunc(a.m.tables, func(t *table) bool { return t.rewritten })
}

// begin begins a transaction on the target, under the fence, that a reader of the
// target's log knows for the mover's.
func (a *applier) begin(ctx context.Context) (*sql.Tx, error) {
	hook.Step(ctx, "apply")
	tx, err := a.m.dst.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, err
	}
	err = fence.Applying(ctx, tx, a.m.shop, a.m.token)
	if err == nil {
		err = binlog.Mark(ctx, tx, a.m.shop, a.m.token)
	}
	if err != nil {
		tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// writeBatch writes the batch in a transaction on the target.
func (a *applier) writeBatch(ctx context.Context, tx *sql.Tx, j *judgement) error {
	w := &writer{tx: tx, m: a.m}
	written, err := w.replace(ctx, a.batch, a.images, j)
	if err == nil {
		// Before the commit, as in take: a comparison must not find a row otherwise
		// on the target that nobody has named.
		a.settle(ctx, j, written)
	}
	return err
}

// write is flush's transaction.
func (a *applier) write(ctx context.Context, c *chunk, fresh [][]any, j *judgement) (err error) {
	m, tx := a.m, a.parts
	if tx == nil {
		if tx, err = a.begin(ctx); err != nil {
			return err
		}
		defer tx.Rollback()
	}
	// What changed before what is new: a row of the chunk may have a unique value
	// that a row on the target had.
	if err := a.writeBatch(ctx, tx, j); err != nil {
		return err
	}
	if fresh != nil {
		t := m.tables[c.table]
		if t.keyless {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+quote(t.name)+` WHERE `+t.ofShop()); err != nil {
				return fmt.Errorf("table %s: %w", t.name, err)
			}
		}
		if err := (&writer{tx: tx, m: m}).insertAll(ctx, c.table, fresh); err != nil {
			return err
		}
	}
	if err := a.dangling(ctx, tx, c); err != nil {
		return err
	}
	if c != nil && !c.repair {
		for i := range a.cursors {
			if i < c.table || i >= c.table+max(1, len(c.limits)) {
				continue
			}
			if err := a.save(ctx, tx, i); err != nil {
				return err
			}
		}
	}
	if _, err := tx.ExecContext(ctx, `REPLACE INTO podworks_ferry_tail (shop_id, position) VALUES (?, ?)`, int64(m.shop), a.at.String()); err != nil {
		return err
	}
	return tx.Commit()
}

// due prepares what to write at this place of the log: the batch to replace, and
// the rows of a chunk that are inserted after it, nil if there is no such thing.
func (a *applier) due(c *chunk) (fresh [][]any) {
	switch {
	case c == nil:
		return nil
	case c.limits != nil:
		copy(a.cursors[c.table:], c.limits)
		return nil
	case !c.repair && a.unsure[c.table], c.repair && a.m.doubts(c.table):
		c.stale = true
		return nil
	case !c.repair:
		cur := &a.cursors[c.table]
		cur.started, cur.upTo, cur.done = true, c.upTo, c.last
	}
	if a.m.tables[c.table].keyless {
		if id := (rowID{table: c.table}); !a.later(c, id) {
			return append([][]any{}, c.rows...)
		}
		return nil
	}
	for i, key := range c.keys {
		switch id := (rowID{c.table, key}); {
		case a.later(c, id):
		case a.m.tables[c.table].joined(): // its parent may have left meanwhile
			seen := &image{repair: c.repair}
			if c.rows[i] != nil {
				seen.refs = []string{c.refs[i]}
			}
			a.images[id] = seen
			a.put(id, c.rows[i])
		case c.repair || a.brought[c.table]:
			a.put(id, c.rows[i])
		default:
			fresh = append(fresh, c.rows[i])
		}
	}
	return fresh
}

// later reports whether the log has named a row since the chunk was begun to be
// read; for a repair, since the row was found different.
func (a *applier) later(c *chunk, id rowID) bool {
	if _, ok := a.images[id]; ok { // whether it is the shop's is not known yet
		return true
	}
	if c.repair {
		return a.m.isDirty(id)
	}
	_, ok := a.named[id]
	return ok
}

// settled forgets what has been written.
func (a *applier) settled(c *chunk) {
	clear(a.batch)
	clear(a.images)
	clear(a.coming)
	a.weight = 0
	if slices.ContainsFunc(a.cursors, func(c cursor) bool { return !c.done }) {
		maps.Copy(a.goneBefore, a.gone)
	}
	clear(a.gone)
	if c != nil && !c.repair {
		clear(a.named)
		clear(a.unsure)
		clear(a.goneBefore)
	}
}

// save writes down how far a table is copied.
func (a *applier) save(ctx context.Context, tx *sql.Tx, table int) error {
	c := a.cursors[table]
	_, err := tx.ExecContext(ctx, `REPLACE INTO podworks_ferry_copy (shop_id, table_name, started, last_key, last_limit, done) VALUES (?, ?, ?, ?, ?, ?)`,
		int64(a.m.shop), a.m.tables[table].name, c.started, c.upTo, c.limit, c.done)
	return err
}
