package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// copyTables reads the shop's rows chunk by chunk and hands each chunk over
// with a marker. The next chunk is read while the applier writes the last.
func (m *move) copyTables(ctx context.Context, cursors []cursor) error {
	if !cursors[0].limited {
		if err := m.setLimits(ctx, cursors); err != nil {
			return err
		}
	} else if err := m.sync(ctx); err != nil { // the first chunk's low marker; the later ones' is that of the chunk before
		return err
	}
	wait := func() error { return nil }
	for i, t := range m.tables {
		for c := cursors[i]; !c.done; {
			m.report("copy", t.name)
			next, err := m.readChunk(ctx, i, c)
			if err != nil {
				return fmt.Errorf("copy table %s: %w", t.name, err)
			}
			if err := wait(); err != nil {
				return err
			}
			if wait, err = m.mark(ctx, next); err != nil {
				return err
			}
			c.started, c.upTo, c.done = true, next.upTo, next.last
		}
	}
	return wait()
}

// setLimits finds each table's highest key. Rows above it come into being later
// than the first marker, so that the log has them from their beginning.
func (m *move) setLimits(ctx context.Context, cursors []cursor) error {
	if err := m.sync(ctx); err != nil {
		return err
	}
	for i, t := range m.tables {
		var highest sql.NullInt64
		if err := m.src.db.QueryRowContext(ctx, `SELECT MAX(`+quote(t.columns[t.key].name)+`) FROM `+quote(t.name)+` WHERE `+m.ofShop(t)).Scan(&highest); err != nil {
			return fmt.Errorf("find the end of table %s: %w", t.name, err)
		}
		cursors[i] = cursor{limited: true, limit: highest.Int64, done: !highest.Valid}
	}
	wait, err := m.mark(ctx, &chunk{limits: slices.Clone(cursors)})
	if err != nil {
		return err
	}
	return wait()
}

// readChunk reads the rows after the cursor.
func (m *move) readChunk(ctx context.Context, i int, after cursor) (*chunk, error) {
	t := m.tables[i]
	c := &chunk{table: i, after: after, upTo: after.limit, last: true}
	key := quote(t.columns[t.key].name)
	where := m.ofShop(t) + ` AND ` + key + ` <= ` + strconv.FormatInt(after.limit, 10)
	if after.started {
		where += ` AND ` + key + ` > ` + strconv.FormatInt(after.upTo, 10)
	}
	limit := m.f.opts.ChunkRows
	if err := m.readRows(ctx, c, where+` ORDER BY `+key+` LIMIT `+strconv.Itoa(limit)); err != nil {
		return nil, err
	}
	if len(c.keys) == limit && c.keys[limit-1] < after.limit {
		c.upTo, c.last = c.keys[limit-1], false
	}
	return c, nil
}

// readRows reads the rows of a chunk as text, which is how they are written
// again. But a FLOAT is read as the double it is, because as text it loses
// digits; and the YEAR 0000 is written as a number, because the driver makes it
// '0', which as text is the year 2000.
func (m *move) readRows(ctx context.Context, c *chunk, where string) error {
	t := m.tables[c.table]
	list := []string{quote(t.columns[t.key].name)}
	var columns []column
	for _, i := range t.writable() {
		col := t.columns[i]
		columns = append(columns, col)
		if col.dataType == "float" {
			list = append(list, quote(col.name)+` * 1e0`) // and keeps the sign of -0
			continue
		}
		list = append(list, quote(col.name))
	}
	rows, err := m.src.db.QueryContext(ctx, `SELECT `+strings.Join(list, ", ")+` FROM `+quote(t.name)+t.hint+` WHERE `+where)
	if err != nil {
		return err
	}
	defer rows.Close()
	raw := make([]sql.RawBytes, len(columns))
	var key int64
	dest := []any{&key}
	for i := range raw {
		dest = append(dest, &raw[i])
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		row := make([]any, len(columns))
		for i, b := range raw {
			switch {
			case b == nil:
			case columns[i].bytes():
				row[i] = slices.Clone([]byte(b))
			case columns[i].dataType == "year":
				n, err := strconv.ParseInt(string(b), 10, 64)
				if err != nil {
					return fmt.Errorf("column %s: %w", columns[i].name, err)
				}
				row[i] = n
			default:
				row[i] = string(b)
			}
		}
		c.keys = append(c.keys, key)
		c.rows = append(c.rows, row)
	}
	return rows.Err()
}

// bytes reports whether the column holds bytes rather than text. Sent as text,
// they would be taken for some character set.
func (c column) bytes() bool {
	switch c.dataType {
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bit",
		"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection":
		return true
	}
	return false
}

// repair copies single rows again.
func (m *move) repair(ctx context.Context, table int, keys []int64) error {
	for part := range slices.Chunk(keys, 500) {
		c := &chunk{table: table, repair: true}
		if err := m.readRows(ctx, c, m.rowsIn(m.tables[table], part)); err != nil {
			return fmt.Errorf("repair table %s: %w", m.tables[table].name, err)
		}
		there := map[int64]bool{}
		for _, key := range c.keys {
			there[key] = true
		}
		for _, key := range part { // a nil row is deleted
			if !there[key] {
				c.keys, c.rows = append(c.keys, key), append(c.rows, nil)
			}
		}
		wait, err := m.mark(ctx, c)
		if err != nil {
			return err
		}
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

// ofShop is the condition for the shop's rows of a table.
func (m *move) ofShop(t *table) string {
	return quote(t.columns[t.shop].name) + ` = ` + strconv.FormatInt(int64(m.shop), 10)
}

// rowsIn is the condition for some of the shop's rows.
func (m *move) rowsIn(t *table, keys []int64) string {
	var b strings.Builder
	b.WriteString(m.ofShop(t) + ` AND ` + quote(t.columns[t.key].name) + ` IN (`)
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(key, 10))
	}
	b.WriteByte(')')
	return b.String()
}

// resumePoint reads where an earlier mover of the same move left the copy, or
// returns the log's end if there is nothing to go on from.
func (m *move) resumePoint(ctx context.Context) (position, []cursor, error) {
	cursors := make([]cursor, len(m.tables))
	var from position
	err := m.dst.db.QueryRowContext(ctx, `SELECT file, pos FROM podworks_ferry_tail WHERE shop_id = ?`, int64(m.shop)).Scan(&from.file, &from.pos)
	if errors.Is(err, sql.ErrNoRows) {
		from.file, from.pos, err = m.binlogEnd(ctx)
		return from, cursors, err
	}
	if err != nil {
		return from, nil, err
	}
	byName := map[string]int{}
	for i, t := range m.tables {
		byName[t.name] = i
	}
	err = each(ctx, m.dst.db, func(rows *sql.Rows) error {
		var name string
		c := cursor{limited: true}
		if err := rows.Scan(&name, &c.started, &c.upTo, &c.limit, &c.done); err != nil {
			return err
		}
		if i, ok := byName[name]; ok {
			cursors[i] = c
		}
		return nil
	}, `SELECT table_name, started, last_key, last_limit, done FROM podworks_ferry_copy WHERE shop_id = ?`, int64(m.shop))
	return from, cursors, err
}
