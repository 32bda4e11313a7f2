package ferry

import (
	"context"
	"database/sql"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

const maxInsert = 1 << 19 // bytes of values in one INSERT, about

// A writer writes rows in one transaction on the target.
type writer struct {
	tx *sql.Tx
	m  *move
}

// replace deletes the rows, and inserts those that are not nil and the shop's. All
// deletes come before the inserts, children's before their parents', because
// a child is known by its parent; so parents are inserted first. Rows that stand apart
// need none of that. It returns the rows inserted into joined tables.
func (w *writer) replace(ctx context.Context, rows map[rowID][]any, images map[rowID]*image, j *judgement) (map[rowID]bool, error) {
	byTable, leaving := map[int][]string{}, map[int][]string{}
	for id := range rows {
		byTable[id.table] = append(byTable[id.table], id.key)
	}
	for id := range j.leaving {
		leaving[id.table] = append(leaving[id.table], id.key)
	}
	for i, t := range slices.Backward(w.m.tables) {
		if err := w.deleteUnder(ctx, t, leaving); err != nil {
			return nil, err
		}
		slices.Sort(byTable[i]) // in the order in which others lock them, mostly
		if t.apart(ctx) {
			if err := w.overwrite(ctx, t, byTable[i], rows); err != nil {
				return nil, err
			}
			byTable[i] = nil
		}
		if err := w.deleteKeys(ctx, t, byTable[i]); err != nil {
			return nil, err
		}
	}
	written := map[rowID]bool{}
	for i, t := range w.m.tables {
		keys := slices.DeleteFunc(byTable[i], func(key string) bool { return rows[rowID{i, key}] == nil })
		if len(keys) == 0 {
			continue
		}
		if t.joined() {
			ours, err := w.after(ctx, j, t, images, keys)
			if err != nil {
				return nil, err
			}
			keys = slices.DeleteFunc(keys, func(key string) bool { return !ours(key) })
			for _, key := range keys {
				written[rowID{i, key}] = true
			}
		}
		if err := w.insert(t).addKeys(ctx, keys, rows); err != nil {
			return nil, err
		}
	}
	return written, nil
}

// overwrite writes rows that stand apart: those that are nil are deleted.
func (w *writer) overwrite(ctx context.Context, t *table, keys []string, rows map[rowID][]any) error {
	var gone, there []string
	for _, key := range keys {
		if rows[rowID{t.place, key}] == nil {
			gone = append(gone, key)
		} else {
			there = append(there, key)
		}
	}
	if err := w.deleteKeys(ctx, t, gone); err != nil {
		return err
	}
	ins := w.insert(t)
	ins.tail = t.overwrites(ctx)
	return ins.addKeys(ctx, there, rows)
}

// deleteKeys deletes these rows of a table.
func (w *writer) deleteKeys(ctx context.Context, t *table, keys []string) error {
	for part := range slices.Chunk(keys, 500) {
		if _, err := w.tx.ExecContext(ctx, `DELETE FROM `+quote(t.name)+` WHERE `+t.rowsIn(part)); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return nil
}

// addKeys inserts these rows of the table.
func (ins *inserter) addKeys(ctx context.Context, keys []string, rows map[rowID][]any) error {
	t := ins.t
	for _, key := range keys {
		row := rows[rowID{t.place, key}]
		if err := ins.add(ctx, row); err != nil {
			return err
		}
		if !t.rewritten {
			continue
		}
		// Each by itself: what the trigger makes of two rows may be the same.
		if err := ins.flush(ctx); err != nil {
			return err
		}
		if err := ins.w.restore(ctx, t, key, row); err != nil {
			return err
		}
	}
	return ins.flush(ctx)
}

// restore gives a row its own values again, which a trigger has changed. All of
// them are named, so that no column follows an update by itself.
func (w *writer) restore(ctx context.Context, t *table, key string, row []any) error {
	var sets []string
	var args []any
	for i, c := range t.writable() {
		text, arg := argument(row[i])
		sets = append(sets, quote(t.columns[c].name)+` = `+text)
		args = append(args, arg)
	}
	if _, err := w.tx.ExecContext(ctx, `UPDATE `+quote(t.name)+` SET `+strings.Join(sets, `, `)+` WHERE `+t.rowsIn([]string{key}), args...); err != nil {
		return fmt.Errorf("table %s: %w", t.name, err)
	}
	return nil
}

// argument returns a value's place in a statement and what to put there. A long
// statement is sent as a prepared one, in which the servers take every argument for
// text of the connection and MariaDB refuses bytes that are none.
func argument(v any) (text string, arg any) {
	if e, ok := v.(encoded); ok {
		return `CONVERT(FROM_BASE64(?) USING ` + e.charset + `)`, base64.StdEncoding.EncodeToString(e.bytes)
	}
	return `?`, v
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
	tail  string
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
		text, arg := argument(v)
		switch v := arg.(type) {
		case string:
			ins.bytes += len(v)
		case []byte:
			ins.bytes += len(v)
		}
		ins.text.WriteString(text)
		ins.args = append(ins.args, arg)
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
	ins.text.WriteString(ins.tail)
	_, err := ins.w.tx.ExecContext(ctx, ins.text.String(), ins.args...)
	ins.text.Reset()
	ins.args, ins.bytes = ins.args[:0], 0
	if err != nil {
		return fmt.Errorf("table %s: %w", ins.t.name, errTaken(err))
	}
	return nil
}
