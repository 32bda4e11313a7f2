package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A comparer has what to ask two servers for in order to compare a shop's rows.
// It is asked of each of them, in SQL that names all of the columns that this
// server has, so that an error in what the copy believes of a table is not
// made here once more.
type comparer struct {
	tables []*table
	source []rowSum // by table
	target []rowSum

	compared func(ctx context.Context, rows int64) error // is called when one side was asked for the sum of rows; or nil
}

// A rowSum is how one server computes checksums in one table.
type rowSum struct {
	expr  string            // of a row
	names []string          // of the columns
	parts map[string]string // each column by itself

	// The text of a row, from which it could be told again, begins with which columns
	// are NULL and the values that don't have the byte that is between them; then come
	// the others.
	plain  []string
	others []string
}

func newComparer(ctx context.Context, src, dst *server, tables []*table) (*comparer, error) {
	c := &comparer{tables: tables}
	for _, side := range []struct {
		s   *server
		out *[]rowSum
	}{{src, &c.source}, {dst, &c.target}} {
		sums := map[string]rowSum{}
		err := each(ctx, side.s.db, func(rows *sql.Rows) error {
			var table, name, kind, null string
			var charset sql.NullString
			if err := rows.Scan(&table, &name, &kind, &null, &charset); err != nil {
				return err
			}
			s := sums[table]
			if s.parts == nil {
				s.parts = map[string]string{}
			}
			s.names = append(s.names, name)
			value, plain := checksummed(quote(name), strings.ToLower(kind), charset.String)
			s.parts[name] = `IF(` + quote(name) + ` IS NULL, '-', CONCAT(':', ` + value + `))`
			if null == "YES" {
				s.plain = append(s.plain, `ISNULL(`+quote(name)+`)`)
			}
			switch {
			case plain:
				s.plain = append(s.plain, value)
			case null == "YES":
				s.others = append(s.others, `IF(`+quote(name)+` IS NULL, '', CONCAT(`+value+`))`)
			default:
				s.others = append(s.others, value)
			}
			sums[table] = s
			return nil
		}, `SELECT table_name, column_name, data_type, is_nullable, character_set_name FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, column_name`)
		if err != nil {
			return nil, fmt.Errorf("ask pod %d what to compare: %w", side.s.pod, err)
		}
		for _, t := range tables {
			s, ok := sums[t.name]
			if !ok {
				return nil, fmt.Errorf("table %s has gone from pod %d", t.name, side.s.pod)
			}
			// Bytes among its arguments make the text one of bytes. CONCAT_WS leaves out what
			// is NULL, CONCAT becomes NULL of it. So a value that the servers make NULL, as it
			// is longer than a packet, is among the others.
			s.expr = hashed(`CONCAT(` + strings.Join(append([]string{`CONCAT_WS(x'ff', CAST('' AS BINARY), ` + strings.Join(append(s.plain, `''`), `, `) + `)`}, s.others...), `, `) + `)`)
			*side.out = append(*side.out, s)
		}
	}
	return c, nil
}

// hashed is 64 bits of SHA-2: both families have it, and MySQL 9 has no MD5.
func hashed(text string) string {
	return `CAST(CONV(LEFT(SHA2(` + text + `, 256), 16), 16, 10) AS UNSIGNED)`
}

// checksummed is what a column that isn't NULL gives to the text of a row, and whether
// that is plain: without the byte FF, which numbers and times don't have, nor UTF-8. The
// others are 64 digits or have their length before them; of what is long it is the hash
// of the bytes. So no two rows give the same text.
func checksummed(name, kind, charset string) (value string, plain bool) {
	utf8 := charset == "utf8mb4" || charset == "utf8mb3" || charset == "utf8" || charset == "ascii"
	switch kind {
	case "tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "year", "date", "time", "datetime", "timestamp":
		return name, true
	case "float", "double":
		return `CAST(` + name + ` + 0e0 AS CHAR)`, true
	case "bit":
		return name + ` + 0`, true
	case "char", "varchar", "tinytext", "text", "enum", "set":
		if utf8 {
			return name, true
		}
	case "json":
		return `SHA2(CAST(` + name + ` AS CHAR), 256)`, false
	case "mediumtext", "longtext", "mediumblob", "longblob":
		value = `CAST(` + name + ` AS BINARY)`
		return `LENGTH(` + name + `), ',', IF(LENGTH(` + name + `) > 1000, SHA2(` + value + `, 256), ` + value + `)`, false
	case "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection", "vector":
		return `SHA2(` + name + `, 256)`, false
	}
	value = `CAST(` + name + ` AS BINARY)`
	return `LENGTH(` + value + `), ',', ` + value, false
}

// A span is a range of keys, open where low or high is "".
type span struct {
	low  string // exclusive
	high string // inclusive
}

func (s span) where(t *table) string {
	out := ""
	if s.low != "" {
		out += t.above(s.low)
	}
	if s.high != "" {
		out += t.upTo(s.high)
	}
	return out
}

// A checksum is the sum of the rows' checksums. Not their exclusive or, in which two
// equal rows of a table without a key would cancel each other out.
type checksum struct {
	rows int64
	sum  string
}

// spanRows are compared with one checksum.
const spanRows = 5000

// spans cuts the keys that q has into ranges; the first and the last are open, so
// that they hold every row of the other side too.
func (c *comparer) spans(ctx context.Context, q querier, t *table) (out []span, err error) {
	if len(t.key) == 0 {
		return []span{{}}, nil
	}
	for s := (span{}); ; s = (span{low: s.high}) {
		err := eachKey(ctx, q, t, func(key string, _ []sql.RawBytes) error {
			s.high = key
			return nil
		}, 0, `SELECT `+strings.TrimSuffix(t.keyList(), `, `)+` FROM `+quote(t.name)+t.hint+` WHERE `+t.ofShopByKey()+s.where(t)+
			t.order(``)+` LIMIT 1 OFFSET `+strconv.Itoa(spanRows-1))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
		if s.high == "" {
			return out, nil
		}
	}
}

// sum returns a table's checksum.
func sum(ctx context.Context, q querier, query string) (c checksum, err error) {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return c, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&c.rows, &c.sum); err != nil {
			return c, err
		}
		if len(c.sum) > nullDigits {
			return c, errNoChecksum
		}
	}
	return c, rows.Err()
}

// sumQuery asks for the checksum of the shop's rows in a span. A row whose
// checksum is NULL must not count for nothing: it gives away itself as a number
// larger than the checksums of all rows together.
func (t *table) sumQuery(expr string, in span) string {
	return `SELECT COUNT(*), COALESCE(SUM(COALESCE(` + expr + `, 1` + strings.Repeat("0", nullDigits) + `)), 0) FROM ` + quote(t.name) + t.hint + ` WHERE ` + t.ofShopByKey() + in.where(t)
}

const nullDigits = 40

var errNoChecksum = errors.New("the server gives NULL for a row's checksum, so it can't be compared")

// querier is a *sql.DB or the *sql.Conn that holds the lock.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// rowSums returns the checksum of each row, of a keyless table that of the whole.
func rowSums(ctx context.Context, q querier, t *table, expr, where string) (map[string]checksum, error) {
	out := map[string]checksum{}
	var err error
	if t.keyless {
		out[""], err = sum(ctx, q, t.sumQuery(expr, span{}))
	} else {
		err = eachKey(ctx, q, t, func(key string, values []sql.RawBytes) error {
			if values[0] == nil {
				return errNoChecksum
			}
			out[key] = checksum{1, string(values[0])}
			return nil
		}, 1, `SELECT `+t.keyList()+expr+` FROM `+quote(t.name)+t.hint+` WHERE `+where)
	}
	if err != nil {
		return nil, fmt.Errorf("verify table %s: %w", t.name, err)
	}
	return out, nil
}

// rowSumsOf returns the checksums of some rows.
func rowSumsOf(ctx context.Context, q querier, t *table, expr string, keys []string) (map[string]checksum, error) {
	out := map[string]checksum{}
	for part := range slices.Chunk(keys, 500) {
		sums, err := rowSums(ctx, q, t, expr, t.rowsIn(part))
		if err != nil {
			return nil, err
		}
		maps.Copy(out, sums)
	}
	return out, nil
}

// differing returns the keys that are missing on one side or differ. Two spellings of
// a key that the server takes for equal are two keys here.
func differing(a, b map[string]checksum) []string {
	var out []string
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

// note adds differing rows to the found ones. Which columns differ is asked of both
// servers, unless ask is false.
func (c *comparer) note(ctx context.Context, f *found, source, target querier, i int, keys []string, a, b map[string]checksum, ask bool) error {
	t := c.tables[i]
	f.rows += int64(len(keys))
	keys = slices.Sorted(slices.Values(keys))[:min(len(keys), f.room(t.name))]
	both := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, source := a[key]
		_, target := b[key]
		return !source || !target
	})
	columns := map[string][]string{}
	if ask && !t.keyless && len(both) > 0 {
		var err error
		if columns, err = c.columns(ctx, source, target, i, both); err != nil {
			return err
		}
	}
	for _, key := range keys {
		d := Difference{Table: t.name, Key: t.readable(key), Kind: Differs, Columns: columns[key]}
		if _, ok := a[key]; !ok {
			d.Kind = Extra
		} else if _, ok := b[key]; !ok {
			d.Kind = Missing
		}
		f.list = append(f.list, d)
	}
	return nil
}

// columns returns in which columns rows differ.
func (c *comparer) columns(ctx context.Context, source, target querier, i int, keys []string) (map[string][]string, error) {
	t := c.tables[i]
	values := [2]map[string][]string{}
	names := c.source[i].names
	for side, q := range []querier{source, target} {
		sums := []rowSum{c.source[i], c.target[i]}[side]
		list := make([]string, len(names))
		for j, name := range names {
			list[j] = `NULL`
			if part, ok := sums.parts[name]; ok {
				list[j] = hashed(part)
			}
		}
		values[side] = map[string][]string{}
		err := eachKey(ctx, q, t, func(key string, raw []sql.RawBytes) error {
			for _, b := range raw {
				values[side][key] = append(values[side][key], string(b))
			}
			return nil
		}, len(list), `SELECT `+t.keyList()+strings.Join(list, ", ")+` FROM `+quote(t.name)+t.hint+` WHERE `+t.rowsIn(keys))
		if err != nil {
			return nil, fmt.Errorf("find the columns of table %s that differ: %w", t.name, err)
		}
	}
	out := map[string][]string{}
	for _, key := range keys {
		a, b := values[0][key], values[1][key]
		for j, name := range names {
			if a != nil && b != nil && a[j] != b[j] { // nil: gone by now
				out[key] = append(out[key], name)
			}
		}
	}
	return out, nil
}
