package ferry

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A verifier compares the shop's rows on both sides, both ways. The servers
// compute the checksums; what to compare is asked of each of them, in SQL of
// its own, so that an error in the copy is not made here once more.
//
// Both sides change while they are compared. The source is read first, then a
// marker is written and waited for, then the target is read: by then it has
// everything the source had. A row that differs and that the log has touched
// since the comparison began is no finding; it is compared again, as all
// touched rows are. One that differs untouched is copied again and compared
// again.
type verifier struct {
	m      *move
	source []string // by table: the expression of a row's checksum
	target []string
	rows   int64 // compared
	mended int64
}

func (m *move) newVerifier(ctx context.Context) (*verifier, error) {
	v := &verifier{m: m}
	for _, side := range []struct {
		s   *server
		out *[]string
	}{{m.src, &v.source}, {m.dst, &v.target}} {
		sums := map[string][]string{}
		err := each(ctx, side.s.db, func(rows *sql.Rows) error {
			var table, name, kind string
			if err := rows.Scan(&table, &name, &kind); err != nil {
				return err
			}
			sums[table] = append(sums[table], checksummed(quote(name), strings.ToLower(kind)))
			return nil
		}, `SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, column_name`)
		if err != nil {
			return nil, fmt.Errorf("ask pod %d what to compare: %w", side.s.pod, err)
		}
		for _, t := range m.tables {
			if len(sums[t.name]) == 0 {
				return nil, fmt.Errorf("table %s has gone from pod %d", t.name, side.s.pod)
			}
			// 64 bits of SHA-2: both families have it, and MySQL 9 has no MD5.
			*side.out = append(*side.out, `CAST(CONV(LEFT(SHA2(CONCAT(`+strings.Join(sums[t.name], ", ")+`), 256), 16), 16, 10) AS UNSIGNED)`)
		}
	}
	return v, nil
}

// checksummed is a column's share of a row's checksum: its length and its
// bytes, so that no two rows give the same text, and a sign of its own for NULL.
func checksummed(name, kind string) string {
	value := `CAST(` + name + ` AS BINARY)`
	switch kind {
	case "float", "double":
		value = `CAST(` + name + ` + 0e0 AS CHAR)`
	case "bit":
		value = `CAST(` + name + ` + 0 AS CHAR)`
	case "json":
		value = `CAST(` + name + ` AS CHAR)`
	case "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection":
		value = `HEX(` + name + `)`
	}
	return `COALESCE(CONCAT(LENGTH(` + value + `), ':', ` + value + `), '-')`
}

// A span is a range of keys, open where from or last say so.
type span struct {
	from bool
	low  int64 // exclusive
	last bool
	high int64 // inclusive
}

func (s span) where(key string) string {
	out := ""
	if s.from {
		out += ` AND ` + key + ` > ` + strconv.FormatInt(s.low, 10)
	}
	if !s.last {
		out += ` AND ` + key + ` <= ` + strconv.FormatInt(s.high, 10)
	}
	return out
}

type checksum struct {
	rows int64
	sum  uint64
}

const spanRows = 5000

// all compares every row of the shop. What differs is in m.dirty afterwards,
// with what was touched meanwhile.
func (v *verifier) all(ctx context.Context) error {
	m := v.m
	m.track()
	for i, t := range m.tables {
		m.report("verify", t.name)
		spans, err := v.spans(ctx, t)
		if err != nil {
			return fmt.Errorf("verify table %s: %w", t.name, err)
		}
		source := make([]checksum, len(spans))
		for j, s := range spans {
			if source[j], err = v.sum(ctx, m.src, t, v.source[i], s); err != nil {
				return fmt.Errorf("verify table %s on the source: %w", t.name, err)
			}
			v.rows += source[j].rows
		}
		if err := m.sync(ctx); err != nil {
			return err
		}
		for j, s := range spans {
			target, err := v.sum(ctx, m.dst, t, v.target[i], s)
			if err != nil {
				return fmt.Errorf("verify table %s on the target: %w", t.name, err)
			}
			if target == source[j] {
				continue
			}
			key := quote(t.columns[t.key].name)
			where := m.ofShop(t) + s.where(key)
			a, err := v.sums(ctx, m.src.db, t, v.source[i], where)
			if err != nil {
				return err
			}
			if err := m.sync(ctx); err != nil {
				return err
			}
			b, err := v.sums(ctx, m.dst.db, t, v.target[i], where)
			if err != nil {
				return err
			}
			m.soil(i, differing(a, b))
		}
	}
	return nil
}

// spans cuts the source's keys into ranges; the first and the last are open, so
// that they hold every row of the target too.
func (v *verifier) spans(ctx context.Context, t *table) ([]span, error) {
	key := quote(t.columns[t.key].name)
	var out []span
	for s := (span{last: true}); ; {
		var high int64
		err := v.m.src.db.QueryRowContext(ctx, `SELECT `+key+` FROM `+quote(t.name)+t.hint+` WHERE `+v.m.ofShop(t)+s.where(key)+
			` ORDER BY `+key+` LIMIT 1 OFFSET `+strconv.Itoa(spanRows-1)).Scan(&high)
		if err == sql.ErrNoRows {
			return append(out, s), nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, span{from: s.from, low: s.low, high: high})
		s = span{from: true, low: high, last: true}
	}
}

func (v *verifier) sum(ctx context.Context, s *server, t *table, expr string, in span) (checksum, error) {
	var c checksum
	err := s.db.QueryRowContext(ctx, `SELECT COUNT(*), BIT_XOR(`+expr+`) FROM `+quote(t.name)+t.hint+` WHERE `+v.m.ofShop(t)+in.where(quote(t.columns[t.key].name))).
		Scan(&c.rows, &c.sum)
	return c, err
}

// querier is a *sql.DB or the *sql.Conn that holds the lock.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// sums returns the checksum of each row.
func (v *verifier) sums(ctx context.Context, q querier, t *table, expr, where string) (map[int64]uint64, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+quote(t.columns[t.key].name)+`, `+expr+` FROM `+quote(t.name)+t.hint+` WHERE `+where)
	if err != nil {
		return nil, fmt.Errorf("verify table %s: %w", t.name, err)
	}
	defer rows.Close()
	out := map[int64]uint64{}
	for rows.Next() {
		var key int64
		var sum uint64
		if err := rows.Scan(&key, &sum); err != nil {
			return nil, err
		}
		out[key] = sum
	}
	return out, rows.Err()
}

// differing returns the keys that are missing on one side or differ.
func differing(a, b map[int64]uint64) []int64 {
	var out []int64
	for key, sum := range a {
		if other, ok := b[key]; !ok || other != sum {
			out = append(out, key)
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			out = append(out, key)
		}
	}
	return out
}

// dirty compares the rows that were touched, or found different, since they
// were last compared, and copies again those that differ for no reason. It
// returns how many are left to compare.
func (v *verifier) dirty(ctx context.Context) (int, error) {
	m := v.m
	keys := m.takeDirty()
	source := map[int]map[int64]uint64{}
	for i, part := range keys {
		sums, err := v.sumsOf(ctx, m.src.db, i, v.source[i], part)
		if err != nil {
			return 0, err
		}
		source[i] = sums
	}
	if err := m.sync(ctx); err != nil {
		return 0, err
	}
	for i, part := range keys {
		target, err := v.sumsOf(ctx, m.dst.db, i, v.target[i], part)
		if err != nil {
			return 0, err
		}
		var wrong []int64
		for _, key := range differing(source[i], target) {
			if !m.isDirty(rowID{i, key}) {
				wrong = append(wrong, key)
			}
		}
		if len(wrong) == 0 {
			continue
		}
		m.log.Warn("rows differ on the target and are copied again", "table", m.tables[i].name, "rows", len(wrong))
		v.mended += int64(len(wrong))
		if err := m.repair(ctx, i, wrong); err != nil {
			return 0, err
		}
		m.soil(i, wrong)
	}
	return m.dirtyRows(), nil
}

// locked compares, under the lock, the rows touched since they were last
// compared: the source through the session that holds the lock. It returns
// what it compared, so that a step back can have it compared again.
func (v *verifier) locked(ctx context.Context, lock querier) (keys map[int][]int64, err error) {
	m := v.m
	keys = m.takeDirty()
	for i, part := range keys {
		source, err := v.sumsOf(ctx, lock, i, v.source[i], part)
		if err != nil {
			return keys, err
		}
		target, err := v.sumsOf(ctx, m.dst.db, i, v.target[i], part)
		if err != nil {
			return keys, err
		}
		if d := differing(source, target); len(d) > 0 {
			return keys, fmt.Errorf("%w: table %s, %d of %d rows touched since they were last compared", errDiffers, m.tables[i].name, len(d), len(part))
		}
	}
	return keys, nil
}

func (v *verifier) sumsOf(ctx context.Context, q querier, table int, expr string, keys []int64) (map[int64]uint64, error) {
	out := map[int64]uint64{}
	for part := range slices.Chunk(keys, 500) {
		sums, err := v.sums(ctx, q, v.m.tables[table], expr, v.m.rowsIn(v.m.tables[table], part))
		if err != nil {
			return nil, err
		}
		maps.Copy(out, sums)
	}
	return out, nil
}
