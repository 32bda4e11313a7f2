package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
)

const (
	oneByOneRows = 2000     // of a chunk that is no wave
	chunkBytes   = 16 << 20 // of values, after which a chunk that is no wave ends

	// A table in which nothing tells rows apart is one chunk, which is held in memory.
	maxKeyless      = 10_000     // rows of the shop
	maxKeylessBytes = 32_000_000 // of values
)

// copyTables copies what it can in waves (see wave.go). Of the other tables it reads
// the shop's rows chunk by chunk and hands each chunk over with a marker. The next
// chunk is read while the applier writes the last.
func (m *move) copyTables(ctx context.Context, cursors []cursor, v *verifier) error {
	direct := slices.IndexFunc(m.tables, (*table).joined)
	if direct < 0 {
		direct = len(m.tables)
	}
	// A mover that ends between the beginning and the limits leaves neither, but for
	// tables that need no limit: these say nothing of the others.
	if slices.ContainsFunc(cursors[:direct], func(c cursor) bool { return !c.limited }) {
		if err := m.setLimits(ctx, cursors, 0, direct); err != nil {
			return err
		}
	} else if err := m.sync(ctx); err != nil { // the first chunk's low marker; the later ones' is that of the chunk before
		return err
	}
	var first *chunk // of a table, on its way to the target
	through := func() error { return nil }
	wait := func() error {
		err := through()
		through = func() error { return nil }
		if err == nil && first != nil {
			err, first = v.early(ctx, first), nil
		}
		return err
	}
	if err := m.copyWaves(ctx, cursors, v); err != nil {
		return err
	}
	for i, t := range m.tables {
		if t.joined() && !cursors[i].limited {
			// Its parents are whole when their last chunk is written.
			if err := wait(); err != nil {
				return err
			}
			if err := m.setLimits(ctx, cursors, i, i+1); err != nil {
				return err
			}
		}
		most := min(m.f.opts.ChunkRows, oneByOneRows)
		limit := most
		for n, c := 0, cursors[i]; !c.done; n++ {
			m.report("copy", t.name)
			var next *chunk
			for next == nil || next.stale {
				err := m.ask(ctx, func() (err error) {
					next, err = m.readChunk(ctx, i, c, limit)
					return err
				})
				if err != nil {
					return fmt.Errorf("copy table %s: %w", t.name, err)
				}
				if err := wait(); err != nil {
					return err
				}
				if through, err = m.mark(ctx, next); err != nil {
					return err
				}
				if err := m.throttled(ctx, len(next.keys), next.bytes, m.sync); err != nil {
					return err
				}
				if !t.follows {
					break
				}
				// What is read meanwhile would be of no use if this must be read again. A
				// smaller chunk has fewer changes between its markers: one row takes some
				// milliseconds.
				if err := wait(); err != nil {
					return err
				}
				if limit = min(2*limit, most); next.stale {
					limit = max(1, limit/4)
				}
			}
			if n == 0 {
				first = next
			}
			c.started, c.upTo, c.done = true, next.upTo, next.last
		}
	}
	return wait()
}

// setLimits begins the copy of some tables and finds the highest key of each, as
// the server orders them. Rows above it come into being later than the first
// marker, so that the log has them from their beginning; a joined table's events
// count from there.
func (m *move) setLimits(ctx context.Context, cursors []cursor, from, to int) error {
	say := func() error {
		wait, err := m.mark(ctx, &chunk{table: from, limits: slices.Clone(cursors[from:to])})
		if err != nil {
			return err
		}
		return wait()
	}
	for i := from; i < to; i++ {
		cursors[i] = cursor{begun: true}
	}
	if err := say(); err != nil {
		return err
	}
	find := newCrew(ctx, atOnce)
	for i := from; i < to; i++ {
		t := m.tables[i]
		cursors[i].limited = true
		if len(t.key) == 0 {
			continue
		}
		find.run(func(ctx context.Context) error {
			var highest string
			err := m.ask(ctx, func() (err error) {
				highest, err = m.lastKey(ctx, t)
				return err
			})
			if err != nil {
				return fmt.Errorf("find the end of table %s: %w", t.name, err)
			}
			cursors[i].limit, cursors[i].done = highest, highest == ""
			return nil
		})
	}
	if err := find.wait(); err != nil {
		return err
	}
	return say()
}

// lastKey returns the highest key, or "" if there is none.
func (m *move) lastKey(ctx context.Context, t *table) (highest string, err error) {
	err = eachKey(ctx, m.src.db, t, func(key string, _ []sql.RawBytes) error {
		highest = key
		return nil
	}, 0, `SELECT `+strings.TrimSuffix(t.keyList(), `, `)+` FROM `+quote(t.name)+t.hint+` WHERE `+t.ofShopByKey()+t.order(` DESC`)+` LIMIT 1`)
	return highest, err
}

// errEnough ends a reading before the last row.
var errEnough = errors.New("enough")

// eachKey runs a query whose first columns are a key and which has n others, and
// calls scan for each row. The values are valid during the call. The rows after
// the one for which scan returns errEnough are not sent.
func eachKey(ctx context.Context, q querier, t *table, scan func(key string, values []sql.RawBytes) error, n int, query string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	defer cancel() // before Close, which would read on to the end
	raw := make([]sql.RawBytes, len(t.key)+n)
	dest := make([]any, len(raw))
	forms := make([][]byte, len(t.key))
	for i := range raw {
		dest[i] = &raw[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		for i := range forms {
			forms[i] = raw[i]
		}
		if err := scan(joinKey(forms), raw[len(forms):]); err != nil {
			if err == errEnough {
				return nil
			}
			return err
		}
	}
	return rows.Err()
}

// readChunk reads at most limit rows after the cursor.
func (m *move) readChunk(ctx context.Context, i int, after cursor, limit int) (*chunk, error) {
	t := m.tables[i]
	c := &chunk{table: i, upTo: after.limit, last: true}
	if len(t.key) == 0 {
		_, err := m.readRows(ctx, c, t.ofShop(), chunkBytes)
		return c, err
	}
	where := t.ofShopByKey() + t.upTo(after.limit)
	if after.started {
		where += t.above(after.upTo)
	}
	more, err := m.readRows(ctx, c, where+t.order(``)+` LIMIT `+strconv.Itoa(limit), chunkBytes)
	if err != nil {
		return nil, err
	}
	if n := len(c.keys); (more || n == limit) && c.keys[n-1] != after.limit {
		c.upTo, c.last = c.keys[n-1], false
	}
	return c, nil
}

// readRows reads rows into a chunk, as they are written again: numbers and times as
// text, text of character sets that Unicode doesn't give back byte for byte as
// bytes. But a FLOAT is read as the double it is, because as text it loses
// digits; and the YEAR 0000 is written as a number, because the driver makes it
// '0', which as text is the year 2000. It reports whether it left rows out
// because the chunk is large already.
func (m *move) readRows(ctx context.Context, c *chunk, where string, most int) (more bool, err error) {
	t := m.tables[c.table]
	var list []string
	var columns []column
	for _, i := range t.writable() {
		col := t.columns[i]
		columns = append(columns, col)
		name := quote(col.name)
		switch {
		case col.dataType == "float":
			name += ` * 1e0` // and keeps the sign of -0
		case col.isText() && !col.unicode():
			name = `CAST(` + name + ` AS BINARY)`
		}
		list = append(list, name)
	}
	if t.joined() {
		list = append(list, t.owner().keyForm())
	}
	err = eachKey(ctx, m.src.db, t, func(key string, raw []sql.RawBytes) error {
		if t.joined() {
			c.refs = append(c.refs, t.owner().literal(raw[len(columns)]))
		}
		row := make([]any, len(columns))
		for i, b := range raw[:len(columns)] {
			c.bytes += len(b)
			switch {
			case b == nil:
			case columns[i].isText() && !columns[i].unicode():
				row[i] = encoded{columns[i].charset, slices.Clone([]byte(b))}
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
		switch {
		case t.keyless && c.bytes > 2*maxKeylessBytes: // since the plan, which allows half as much
			return fmt.Errorf("nothing tells its rows apart, and those of the shop have grown to more than %s since the plan, which allows %s; give it a key",
				bytesText(2*maxKeylessBytes), bytesText(maxKeylessBytes))
		case !t.keyless && c.bytes >= most:
			more = true
			return errEnough
		}
		return nil
	}, len(list), `SELECT `+t.keyList()+strings.Join(list, ", ")+` FROM `+quote(t.name)+t.hint+` WHERE `+where)
	return more, err
}

// bytes reports whether the column holds bytes rather than text. Sent as text,
// they would be taken for some character set.
func (c column) bytes() bool {
	switch c.dataType {
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bit", "vector",
		"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection":
		return true
	}
	return false
}

// repair copies single rows again, or a keyless table.
func (m *move) repair(ctx context.Context, table int, keys []string) error {
	for part := range slices.Chunk(keys, 500) {
		if err := m.repairSome(ctx, table, part); err != nil {
			return err
		}
	}
	return nil
}

func (m *move) repairSome(ctx context.Context, table int, keys []string) error {
	t := m.tables[table]
	var c *chunk
	var more bool
	err := m.ask(ctx, func() (err error) {
		c = &chunk{table: table, repair: true}
		more, err = m.readRows(ctx, c, t.rowsIn(keys), chunkBytes)
		return err
	})
	if err != nil {
		return fmt.Errorf("repair table %s: %w", t.name, err)
	}
	if more && len(keys) > 1 {
		half := len(keys) / 2
		if err := m.repairSome(ctx, table, keys[:half]); err != nil {
			return err
		}
		return m.repairSome(ctx, table, keys[half:])
	}
	if !t.keyless {
		there := map[string]bool{}
		for _, key := range c.keys {
			there[key] = true
		}
		for _, key := range keys { // a nil row is deleted
			if !there[key] {
				c.keys, c.rows = append(c.keys, key), append(c.rows, nil)
			}
		}
	}
	wait, err := m.mark(ctx, c)
	if err != nil {
		return err
	}
	return wait()
}

// resumePoint reads where an earlier mover of the same move left the copy, or
// returns the log's end if there is nothing to go on from.
func (m *move) resumePoint(ctx context.Context) (from binlog.Position, cursors []cursor, resumed bool, err error) {
	cursors = make([]cursor, len(m.tables))
	var text string
	err = m.dst.db.QueryRowContext(ctx, `SELECT position FROM podworks_ferry_tail WHERE shop_id = ?`, int64(m.shop)).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		from, err = m.logEnd(ctx)
		return from, cursors, false, err
	}
	if err != nil {
		return from, nil, false, err
	}
	if from, err = binlog.ParsePosition(text); err != nil {
		return from, nil, false, err
	}
	byName := map[string]int{}
	for i, t := range m.tables {
		byName[t.name] = i
	}
	err = each(ctx, m.dst.db, func(rows *sql.Rows) error {
		var name string
		c := cursor{begun: true}
		if err := rows.Scan(&name, &c.started, &c.upTo, &c.limit, &c.done); err != nil {
			return err
		}
		i, ok := byName[name]
		if !ok {
			return nil
		}
		for _, key := range []string{c.upTo, c.limit} {
			if err := m.tables[i].checkKey(key); key != "" && err != nil {
				return fmt.Errorf("table %s: %w", name, err)
			}
		}
		c.limited = c.limit != "" || c.done || len(m.tables[i].key) == 0
		cursors[i] = c
		return nil
	}, `SELECT table_name, started, last_key, last_limit, done FROM podworks_ferry_copy WHERE shop_id = ?`, int64(m.shop))
	return from, cursors, true, err
}

// logEnd returns where the source's log ends, at a moment after which no XA
// transaction is prepared that was so before: its rows would be before that place,
// and come into being after it, unseen.
func (m *move) logEnd(ctx context.Context) (binlog.Position, error) {
	stream, err := binlog.New(m.src.cfg, nil)
	if err != nil {
		return binlog.Position{}, err
	}
	give := time.Now().Add(hook.Insist(ctx, preparedTime))
	for {
		from, err := stream.Now(ctx)
		if err != nil {
			return from, err
		}
		if err = m.noPrepared(ctx); !errors.Is(err, errPrepared) || time.Now().After(give) {
			return from, err
		}
		select {
		case <-ctx.Done():
			return from, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// preparedTime is for how long a move waits for prepared XA transactions to end
// before it begins.
const preparedTime = 5 * time.Second
