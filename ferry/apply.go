package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/fence"
)

// A rowID names a row of the shop.
type rowID struct {
	table int
	key   int64
}

// A chunk is a range of a table's rows, read from the source without locks
// between two markers of the log.
type chunk struct {
	table  int
	after  cursor // the rows' keys are above it,
	upTo   int64  // and up to this
	last   bool   // of the table
	keys   []int64
	rows   [][]any  // one value a writable column
	repair bool     // of single rows that were found different
	limits []cursor // instead of rows: how far each table is to be copied
}

// holds reports whether a key is in the chunk's range.
func (c *chunk) holds(key int64) bool {
	return (!c.after.started || key > c.after.upTo) && key <= c.upTo
}

// An applier is the one goroutine that writes rows to the target. It takes the
// log's groups in order, and at a marker the chunk that was read before it.
//
// Why a chunk and the log together give the source's rows: the chunk was read
// after the marker before it was committed and before its own marker was
// written. So it has everything up to the first marker, perhaps some of what
// came between the two, and nothing later. A row that no event between the two
// markers names is, in the chunk, as it was at the second one; a row that one
// does name is taken from the last such event. Both are therefore as of the
// second marker, which is where the applier is in the log when it writes them.
//
// Rows of keys that no chunk has brought yet are left to the copy; the events
// since the last marker are kept in case the next chunk brings their keys. Keys
// above the highest that a table had at the beginning are never copied: all
// their rows' events are in the log. So a shop that writes faster than it is
// read is still copied in the time its old rows take.
type applier struct {
	m       *move
	cursors []cursor        // by table
	batch   map[rowID][]any // rows to write, nil ones to delete
	pending map[rowID][]any // since the last chunk's marker, of keys not yet copied
	at      position        // of the last group taken
}

// A cursor says how far a table is copied.
type cursor struct {
	started bool  // if not, nothing is
	upTo    int64 // the highest key copied
	limited bool  // if not, limit isn't known yet
	limit   int64 // the highest key to copy
	done    bool
}

// covers reports whether the row of a key is on the target as of the last
// group, so that the log's next event can be applied to it.
func (c cursor) covers(key int64) bool {
	return c.done || c.started && key <= c.upTo || c.limited && key > c.limit
}

const (
	maxBatch  = 1000    // rows, after which a transaction is applied even if more are waiting
	maxInsert = 1 << 19 // bytes of values in one INSERT, about
)

func (a *applier) run(ctx context.Context, in <-chan group) error {
	for {
		var g group
		select {
		case g = <-in:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		a.take(g)
		switch {
		case g.marker != 0:
			c := a.m.chunkAt(g.marker)
			if err := a.flush(ctx, c); err != nil {
				return err
			}
			a.m.reached(g.marker)
		case len(in) == 0 || len(a.batch) >= maxBatch:
			if err := a.flush(ctx, nil); err != nil {
				return err
			}
		}
	}
}

// take sorts a group's changes into those to apply and those for the copy.
// Later images of a row replace earlier ones: only whole groups are written, so
// the target goes from one state of the source to another, and a unique value
// that two rows exchanged meanwhile is no conflict.
func (a *applier) take(g group) {
	a.at = g.end
	for _, c := range g.changes {
		id := rowID{c.table, c.key}
		if a.cursors[c.table].covers(c.key) {
			a.batch[id] = c.row
		} else {
			a.pending[id] = c.row
		}
	}
	a.m.touched(g.changes)
}

// flush writes the batch, and the chunk if there is one, in one transaction
// with the position they bring the target to.
func (a *applier) flush(ctx context.Context, c *chunk) error {
	if len(a.batch) == 0 && c == nil {
		return nil
	}
	fresh := a.due(c)
	// Other shops' writers work in the same indexes, so the server may roll this
	// transaction back to let one of them go on. Nothing of it has happened then.
	const tries = 10
	for try := 1; ; try++ {
		err := a.write(ctx, c, fresh)
		if err == nil {
			break
		}
		if !rolledBack(err) || try == tries {
			return err
		}
		a.m.log.Debug("the target rolled a transaction back; writing it again", "err", err)
	}
	a.m.applied(len(a.batch), c)
	a.settled(c)
	return nil
}

// rolledBack reports whether the server ended a transaction in favour of
// another: by deadlock, or by a lock that it could not get in time.
func rolledBack(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == 1213 || e.Number == 1205)
}

// write is flush's transaction.
func (a *applier) write(ctx context.Context, c *chunk, fresh [][]any) error {
	m := a.m
	tx, err := m.dst.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fence.Applying(ctx, tx, m.shop, m.token); err != nil {
		return err
	}
	w := &writer{tx: tx, m: m}
	// What changed before what is new: a row of the chunk may have a unique value
	// that a row on the target had.
	if err := w.replace(ctx, a.batch); err != nil {
		return err
	}
	if fresh != nil {
		if err := w.insertAll(ctx, c.table, fresh); err != nil {
			return err
		}
	}
	if c != nil && !c.repair {
		for i := range a.cursors {
			if c.limits == nil && i != c.table {
				continue
			}
			if err := a.save(ctx, tx, i); err != nil {
				return err
			}
		}
	}
	if _, err := tx.ExecContext(ctx, `REPLACE INTO podworks_ferry_tail (shop_id, file, pos) VALUES (?, ?, ?)`, int64(m.shop), a.at.file, a.at.pos); err != nil {
		return err
	}
	return tx.Commit()
}

// due prepares what to write at this place of the log: the batch to replace,
// and the rows of a chunk of the copy to insert after it.
func (a *applier) due(c *chunk) (fresh [][]any) {
	switch {
	case c == nil:
	case c.repair:
		a.mend(c)
	case c.limits != nil:
		a.limit(c.limits)
	default:
		return a.merge(c)
	}
	return nil
}

// settled forgets what has been written.
func (a *applier) settled(c *chunk) {
	clear(a.batch)
	if c != nil && !c.repair {
		clear(a.pending)
	}
}

// limit takes the tables' highest keys. Events of higher ones that came before
// this marker were kept; they are to be applied.
func (a *applier) limit(cursors []cursor) {
	copy(a.cursors, cursors)
	for id, row := range a.pending {
		if a.cursors[id.table].covers(id.key) {
			a.batch[id] = row
		}
	}
}

// mend puts a repair's rows into the batch, but for those that the log has
// touched since they were found different.
func (a *applier) mend(c *chunk) {
	rows := map[int64][]any{}
	for i, key := range c.keys {
		rows[key] = c.rows[i]
	}
	for key, row := range rows {
		if id := (rowID{c.table, key}); !a.m.isDirty(id) {
			a.batch[id] = row
		}
	}
}

// save writes down how far a table is copied.
func (a *applier) save(ctx context.Context, tx *sql.Tx, table int) error {
	c := a.cursors[table]
	_, err := tx.ExecContext(ctx, `REPLACE INTO podworks_ferry_copy (shop_id, table_name, started, last_key, last_limit, done) VALUES (?, ?, ?, ?, ?, ?)`,
		int64(a.m.shop), a.m.tables[table].name, c.started, c.upTo, c.limit, c.done)
	return err
}

// merge returns the rows of a chunk, with what the log says of its keys, and
// advances the table's cursor.
func (a *applier) merge(c *chunk) [][]any {
	var rows [][]any
	for i, key := range c.keys {
		if _, later := a.pending[rowID{c.table, key}]; !later {
			rows = append(rows, c.rows[i])
		}
	}
	for id, row := range a.pending {
		if id.table == c.table && c.holds(id.key) && row != nil {
			rows = append(rows, row)
		}
	}
	cur := &a.cursors[c.table]
	cur.started, cur.upTo, cur.done = true, c.upTo, c.last
	return rows
}

// A writer writes rows in one transaction on the target.
type writer struct {
	tx *sql.Tx
	m  *move
}

// replace deletes the rows and inserts those that are not nil. All deletes of
// a table come before its inserts.
func (w *writer) replace(ctx context.Context, rows map[rowID][]any) error {
	byTable := map[int][]int64{}
	for id := range rows {
		byTable[id.table] = append(byTable[id.table], id.key)
	}
	for i, keys := range byTable {
		t := w.m.tables[i]
		slices.Sort(keys) // in the order in which others lock them, mostly
		for part := range slices.Chunk(keys, 500) {
			if _, err := w.tx.ExecContext(ctx, `DELETE FROM `+quote(t.name)+` WHERE `+w.m.rowsIn(t, part)); err != nil {
				return fmt.Errorf("table %s: %w", t.name, err)
			}
		}
		ins := w.insert(t)
		for _, key := range keys {
			row := rows[rowID{i, key}]
			if row == nil {
				continue
			}
			if err := ins.add(ctx, row); err != nil {
				return err
			}
		}
		if err := ins.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// insertAll inserts rows.
func (w *writer) insertAll(ctx context.Context, table int, rows [][]any) error {
	ins := w.insert(w.m.tables[table])
	for _, row := range rows {
		if err := ins.add(ctx, row); err != nil {
			return err
		}
	}
	return ins.flush(ctx)
}

// An inserter collects rows into INSERT statements of some size. A key that is
// taken is an error: it would be another shop's row, or one that nobody here
// wrote.
type inserter struct {
	w     *writer
	t     *table
	head  string
	text  strings.Builder
	args  []any
	bytes int
}

func (w *writer) insert(t *table) *inserter {
	var names []string
	for _, i := range t.writable() {
		names = append(names, quote(t.columns[i].name))
	}
	return &inserter{w: w, t: t, head: `INSERT INTO ` + quote(t.name) + ` (` + strings.Join(names, ", ") + `) VALUES `}
}

func (ins *inserter) add(ctx context.Context, row []any) error {
	if ins.text.Len() == 0 {
		ins.text.WriteString(ins.head)
	} else {
		ins.text.WriteByte(',')
	}
	ins.text.WriteByte('(')
	for i, v := range row {
		if i > 0 {
			ins.text.WriteByte(',')
		}
		switch v := v.(type) {
		case encoded:
			ins.text.WriteString(`CONVERT(? USING ` + v.charset + `)`)
			ins.args = append(ins.args, v.bytes)
			ins.bytes += len(v.bytes)
			continue
		case string:
			ins.bytes += len(v)
		case []byte:
			ins.bytes += len(v)
		}
		ins.text.WriteByte('?')
		ins.args = append(ins.args, v)
		ins.bytes += 8
	}
	ins.text.WriteByte(')')
	if ins.bytes >= maxInsert {
		return ins.flush(ctx)
	}
	return nil
}

func (ins *inserter) flush(ctx context.Context) error {
	if ins.text.Len() == 0 {
		return nil
	}
	_, err := ins.w.tx.ExecContext(ctx, ins.text.String(), ins.args...)
	ins.text.Reset()
	ins.args, ins.bytes = ins.args[:0], 0
	if err != nil {
		return fmt.Errorf("table %s: %w", ins.t.name, err)
	}
	return nil
}
