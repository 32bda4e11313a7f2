package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/podworks/podworks/internal/hook"
)

// Most tables are copied in waves: some ranges of keys, of one table or of
// several, that are read between two markers, as a chunk is, and written at the
// second one in transactions of their own, at once.
//
// Why these need no order: all of a wave is as of its marker, which is where the
// applier is, and the log waits until all of it is there. So at any moment the target
// has nothing but rows that the source had at that place, and no two such rows have
// the same unique value. A mover that dies in the middle leaves some of the ranges;
// where the copy is to be gone on from is written behind them, so they come again.
// They are as of the place in the log that the target has, or have not changed since:
// what is to be applied from there on finds them as the source had them.
//
// Not in waves are: rows that reach the shop through others, which are judged one by
// one; those that foreign keys change without the log, of which a wave would come
// again too often; those that a trigger changes; tables in which nothing tells
// rows apart.
const (
	waveParts  = 4       // ranges of a wave that is all of one table
	fewRows    = 1000    // are not worth being several ranges
	waveBytes  = 8 << 20 // of values, but for the last part
	atOnce     = 2       // parts that are written or compared at a time
	groupBytes = 1 << 20 // of small ranges are written in one transaction
)

// offGroups has a test write each part in a transaction of its own.
const offGroups hook.Protection = "waves: none, small parts are written apart"

// A part is a range of a table's keys, and the shop's rows in it.
type part struct {
	table int
	span
	last bool // of the table
	keys []string
	size int // in bytes

	// Either rows for INSERT, or the text of a file for LOAD DATA and where its lines end.
	rows [][]any
	text []byte
	ends []int
}

// inWaves reports whether a table is copied in waves.
func (t *table) inWaves() bool {
	return !t.joined() && !t.follows && !t.rewritten && len(t.key) > 0
}

// alone reports whether a table's values may be so long that several of them at
// once would be too much.
func (t *table) alone() bool {
	return slices.ContainsFunc(t.columns, func(c column) bool {
		switch c.dataType {
		case "mediumtext", "longtext", "mediumblob", "longblob", "json",
			"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection":
			return !c.generated
		}
		return false
	})
}

// copyWaves copies the tables that can be. A wave is read while the applier writes
// the one before, and the one before that is compared.
func (m *move) copyWaves(ctx context.Context, cursors []cursor, v *verifier) error {
	var todo []int
	for i, t := range m.tables {
		if t.inWaves() && !cursors[i].done {
			todo = append(todo, i)
		}
	}
	compare, stop := v.overlap(ctx, cursors)
	defer stop(false)
	var under *chunk // on its way to the target
	through := func() error { return nil }
	at := slices.Clone(cursors) // how far is planned
	landed := func() (parts []*part, err error) {
		if err := through(); err != nil || under == nil || under.stale {
			return nil, err
		}
		parts, under = under.parts, nil
		for _, p := range parts {
			cursors[p.table].started, cursors[p.table].upTo, cursors[p.table].done = true, p.high, p.last
		}
		return parts, nil
	}
	for {
		var next *chunk
		err := m.ask(ctx, func() (err error) {
			planned := slices.Clone(at)
			next, err = m.readWave(ctx, todo, planned)
			if err == nil {
				at = planned
			}
			return err
		})
		if err != nil {
			return err
		}
		parts, err := landed()
		if err != nil {
			return err
		}
		if under != nil { // it isn't there, and what was read meanwhile is of no use without it
			under, through, at = nil, func() error { return nil }, slices.Clone(cursors)
			continue
		}
		if next != nil {
			if through, err = m.mark(ctx, next); err != nil {
				return err
			}
		}
		// Behind the marker: comparing may have to wait, and what was read becomes useless
		// while it does.
		if err := compare(parts); err != nil {
			return err
		}
		if next == nil {
			return stop(true)
		}
		under = next
		rows, bytes := 0, 0
		for _, p := range next.parts {
			rows, bytes = rows+len(p.keys), bytes+p.bytes()
		}
		// While it waits, nothing is being read. So the rows that the log names meanwhile
		// needn't be remembered, and a place that is written down lets go of them.
		if err := m.throttled(ctx, rows, bytes, m.savePlace); err != nil {
			return err
		}
	}
}

// readWave reads the next wave, or returns nil if there is none. It moves the cursors
// behind it. While one is read, others are written and compared: reading takes a tenth
// of the work.
func (m *move) readWave(ctx context.Context, todo []int, at []cursor) (*chunk, error) {
	var parts []*part
	rows, size := m.gate.atOnce(m.f.opts.ChunkRows, waveBytes)
	for _, i := range todo {
		t := m.tables[i]
		if t.alone() && len(parts) > 0 { // a wave of its own
			break
		}
		for !at[i].done && rows > 0 && size > 0 {
			p, err := m.readPart(ctx, i, at[i], rows, size)
			if err != nil {
				return nil, fmt.Errorf("copy table %s: %w", t.name, err)
			}
			m.report("copy", t.name)
			parts = append(parts, p)
			at[i].started, at[i].upTo, at[i].done = true, p.high, p.last
			if rows, size = rows-max(1, len(p.keys)), size-p.bytes(); t.alone() {
				rows = 0
			}
		}
	}
	if len(parts) == 0 {
		return nil, nil
	}
	return &chunk{parts: parts}, nil
}

// partRows returns how many of a table's rows make a part, and their bytes, about.
func (m *move) partRows(i int) (rows, size int) {
	t := m.tables[i]
	rows, size = m.gate.atOnce(m.f.opts.ChunkRows, waveBytes)
	if !t.alone() {
		rows, size = min(rows, max(rows/waveParts, fewRows)), size/waveParts
	}
	for _, p := range m.plan.Tables {
		if p.Name == t.name && p.Rows > 0 {
			each := max(1, int(p.Bytes/p.Rows))
			rows = max(1, min(rows, size/each))
			size = min(rows, int(p.Rows)) * each
		}
	}
	return rows, size
}

// readPart reads a part of at most that many rows that begins behind a cursor. It ends
// early if its values are more than those bytes, and twice as much as the plan lets
// expect.
func (m *move) readPart(ctx context.Context, i int, after cursor, rows, left int) (*part, error) {
	t := m.tables[i]
	n, size := m.partRows(i)
	n = min(n, rows)
	most := max(left, 2*size)
	p := &part{table: i, span: span{high: after.limit}, last: true}
	where := t.ofShopByKey() + t.upTo(after.limit)
	if after.started {
		p.low = after.upTo
		where += t.above(after.upTo)
	}
	where += t.order(``) + ` LIMIT ` + strconv.Itoa(n)
	var err error
	if !m.loads(t) {
		c := &chunk{table: i}
		_, err = m.readRows(ctx, c, where, most)
		p.keys, p.rows, p.size = c.keys, c.rows, c.bytes
	} else {
		err = m.readText(ctx, p, where, most, size+size/8)
	}
	if err != nil {
		return nil, err
	}
	if len(p.keys) == n || p.bytes() >= most {
		p.high = p.keys[len(p.keys)-1]
		p.last = p.high == after.limit
	}
	return p, nil
}

// readText reads a part's rows as a file for LOAD DATA.
func (m *move) readText(ctx context.Context, p *part, where string, most, expected int) error {
	t := m.tables[p.table]
	list, fields := t.fields()
	p.text = make([]byte, 0, expected)
	return eachKey(ctx, m.src.db, t, func(key string, raw []sql.RawBytes) error {
		for i, b := range raw {
			if i > 0 {
				p.text = append(p.text, '\t')
			}
			p.text = fields[i].append(p.text, b)
		}
		p.text = append(p.text, '\n')
		p.keys, p.ends = append(p.keys, key), append(p.ends, len(p.text))
		if len(p.text) >= most {
			return errEnough
		}
		return nil
	}, len(fields), `SELECT `+t.keyList()+list+` FROM `+quote(t.name)+t.hint+` WHERE `+where)
}

// writeWave writes a wave at its marker.
func (a *applier) writeWave(ctx context.Context, c *chunk) error {
	named := make([][]string, len(a.cursors))
	for id := range a.named {
		named[id.table] = append(named[id.table], id.key)
	}
	// Many tables have few rows: these share a transaction.
	groups := [][]*part{nil}
	size := 0
	for _, p := range c.parts {
		if size > 0 && (size+p.bytes() > groupBytes || hook.Off(ctx, offGroups)) {
			groups, size = append(groups, nil), 0
		}
		size += p.bytes()
		groups[len(groups)-1] = append(groups[len(groups)-1], p)
	}
	var err error
	if len(groups) > 1 {
		write := newCrew(ctx, atOnce)
		for _, parts := range groups {
			write.run(func(ctx context.Context) error { return a.writeParts(ctx, parts, named, nil) })
		}
		if err = write.wait(); err == nil {
			err = a.writeParts(ctx, nil, nil, c)
		}
	} else {
		err = a.writeParts(ctx, groups[0], named, c)
	}
	switch {
	case errors.Is(err, errNotLoaded):
		// It comes again as INSERT, which says what is wrong. Some of it may be there.
		a.m.log.Info("loading rows is not possible here; inserting them", "why", err)
		a.m.insertOnly.Store(true)
		for _, p := range c.parts {
			a.brought[p.table], a.unknown[p.table] = true, true
		}
		c.stale = true
	case err != nil:
		return err
	default:
		a.move(c)
		a.from = a.at
	}
	a.m.applied(0, c)
	a.settled(c)
	return nil
}

// move moves the cursors behind a wave.
func (a *applier) move(c *chunk) {
	for _, p := range c.parts {
		cur := &a.cursors[p.table]
		cur.started, cur.upTo, cur.done = true, p.high, p.last
	}
}

// writeParts writes some parts of a wave in one transaction, and where the copy is
// behind the wave if there is nothing else of it.
func (a *applier) writeParts(ctx context.Context, parts []*part, named [][]string, wave *chunk) error {
	return a.again(ctx, func() error { return a.writePartsOnce(ctx, parts, named, wave) })
}

func (a *applier) writePartsOnce(ctx context.Context, parts []*part, named [][]string, wave *chunk) error {
	tx, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	w := &writer{tx: tx, m: a.m}
	for _, p := range parts {
		// The log may have brought some of them, or a mover that died.
		if a.brought[p.table] {
			if err := w.clear(ctx, p, named[p.table], a.unknown[p.table]); err != nil {
				return err
			}
		}
		if err := w.put(ctx, p, named[p.table]); err != nil {
			return err
		}
	}
	if wave == nil {
		return tx.Commit()
	}
	after := &applier{m: a.m, cursors: slices.Clone(a.cursors)}
	after.move(wave)
	saved := map[int]bool{}
	for _, p := range wave.parts {
		if saved[p.table] {
			continue
		}
		saved[p.table] = true
		if err := after.save(ctx, tx, p.table); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, `REPLACE INTO podworks_ferry_tail (shop_id, position) VALUES (?, ?)`, int64(a.m.shop), a.at.String()); err != nil {
		return err
	}
	return tx.Commit()
}

// clear deletes what the target has of a part's rows: those that the log has named, or
// any if all may be there. But not those that it has named since the part was begun to
// be read: these are newer there. The target has no other rows in the range. They are
// named one by one, because MariaDB (10.11) doesn't delete all of them by a range of a
// key of several columns, a TIME(6) among them.
func (w *writer) clear(ctx context.Context, p *part, named []string, all bool) error {
	t := w.m.tables[p.table]
	newer := setOf(named)
	keys := p.keys
	if !all {
		keys = w.m.touchedOf(p.table, keys)
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(key string) bool { _, ok := newer[key]; return ok })
	return w.deleteKeys(ctx, t, keys)
}

// put writes a part's rows, but for those.
func (w *writer) put(ctx context.Context, p *part, named []string) error {
	newer := setOf(named)
	if p.text != nil {
		return w.load(ctx, p, newer)
	}
	ins := w.insert(w.m.tables[p.table])
	for i, row := range p.rows {
		if _, ok := newer[p.keys[i]]; ok {
			continue
		}
		if err := ins.add(ctx, row); err != nil {
			return err
		}
	}
	return ins.flush(ctx)
}

func setOf(keys []string) map[string]struct{} {
	out := make(map[string]struct{}, len(keys))
	for _, key := range keys {
		out[key] = struct{}{}
	}
	return out
}

// bytes is the size of a part's values, about.
func (p *part) bytes() int {
	if p.text != nil {
		return len(p.text)
	}
	return p.size
}
