package binlog

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/go-mysql-org/go-mysql/replication"
)

// image makes the values that go-mysql has read those that Table promises. It
// writes over them.
func (t *Table) image(row []any, skipped []int) error {
	if len(row) != len(t.Columns) {
		return fmt.Errorf("%w: table %s.%s has %d columns, and a row %d", ErrSchema, t.Database, t.Name, len(t.Columns), len(row))
	}
	for i := range row {
		if row[i] == nil {
			continue // NULL, or absent: see below
		}
		v, err := t.Columns[i].value(row[i])
		if err != nil {
			return fmt.Errorf("table %s.%s, column %s (%s): %w", t.Database, t.Name, t.Columns[i].Name, t.Columns[i].Type, err)
		}
		row[i] = v
	}
	for _, i := range skipped {
		if i < len(row) { // else it is a hidden column
			row[i] = Absent{}
		}
	}
	return nil
}

// value makes one value, which is not NULL, what Table promises.
func (c *Column) value(v any) (any, error) {
	switch c.class {
	case tinyint, smallint, mediumint, integer, bigint, bit, set, enum, year:
		return c.number(v)
	case float, double:
		return v, nil
	case json:
		if _, ok := v.(*replication.JsonDiff); ok {
			return PartialJSON{}, nil
		}
		if b, ok := v.([]byte); ok && len(b) == 0 { // NULL where INSERT IGNORE may not leave it, which the server shows so
			return "null", nil
		}
	case timeOfDay:
		// A fraction of 0 is left out.
		if s, ok := v.(string); ok && c.length > 0 && !strings.Contains(s, ".") {
			return s + "." + zeros[:c.length], nil
		}
	}
	switch v := v.(type) {
	case string:
		if c.class == decimal || date <= c.class && c.class <= timestamp || c.class == json || c.Charset != "" {
			return v, nil
		}
		return c.bytes([]byte(v))
	case []byte:
		if c.Charset != "" || c.class == json {
			return string(v), nil
		}
		return c.bytes(v)
	}
	return nil, fmt.Errorf("%w: the log has a %T", ErrUnsupported, v)
}

const zeros = "000000"

// bytes makes bytes what the column's type wants.
func (c *Column) bytes(b []byte) (any, error) {
	if c.class == fixed && len(b) < c.length { // the log leaves out zeros at the end
		b = append(slices.Clip(b), make([]byte, c.length-len(b))...)
	}
	switch c.Type {
	case "uuid":
		if len(b) != 16 {
			return nil, fmt.Errorf("%w: a UUID of %d bytes", ErrUnsupported, len(b))
		}
		h := hex.EncodeToString(b)
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
	case "inet4":
		if len(b) != 4 {
			return nil, fmt.Errorf("%w: an INET4 of %d bytes", ErrUnsupported, len(b))
		}
		return inet4(b), nil
	case "inet6":
		if len(b) != 16 {
			return nil, fmt.Errorf("%w: an INET6 of %d bytes", ErrUnsupported, len(b))
		}
		return inet6(b), nil
	}
	return b, nil
}

func inet4(b []byte) string { return netip.AddrFrom4([4]byte(b)).String() }

// inet6 writes an address as MariaDB does, which is not RFC 5952's way: a single
// zero group is shortened too, and an address that ends in one of IPv4 shows it,
// also without ffff before it. The text is a key, so it must be the server's.
func inet6(b []byte) string {
	group := func(i int) uint64 { return uint64(b[2*i])<<8 | uint64(b[2*i+1]) }
	gap, length := 8, 0 // the first of the longest runs of zeros
	for i := 0; i < 8; i++ {
		n := 0
		for i+n < 8 && group(i+n) == 0 {
			n++
		}
		if n > length {
			gap, length = i, n
		}
		i += n
	}
	var s []byte
	for i := 0; i < 8; i++ {
		switch {
		case i == gap:
			s = append(s, "::"[min(i, 1):]...) // what is before it ends in a colon
			i += length - 1
			continue
		case i == 6 && gap == 0 && (length == 6 || length == 5 && group(5) == 0xffff):
			return string(s) + inet4(b[12:])
		}
		if s = strconv.AppendUint(s, group(i), 16); i < 7 {
			s = append(s, ':')
		}
	}
	return string(s)
}

// number makes a number what the column's type wants. The log doesn't always
// say whether it is unsigned, so a large one may have come as a negative one.
func (c *Column) number(v any) (any, error) {
	var n int64
	switch v := v.(type) {
	case int8:
		n = int64(v)
	case int16:
		n = int64(v)
	case int32:
		n = int64(v)
	case int64:
		n = v
	case int:
		n = int64(v)
	case uint8:
		n = int64(v)
	case uint16:
		n = int64(v)
	case uint32:
		n = int64(v)
	case uint64:
		n = int64(v)
	default:
		return nil, fmt.Errorf("%w: the log has a %T", ErrUnsupported, v)
	}
	switch c.class {
	case bit, set, enum:
		return uint64(n), nil
	case year:
		return n, nil
	}
	if !c.Unsigned {
		return n, nil
	}
	bits := [...]uint{tinyint: 8, smallint: 16, mediumint: 24, integer: 32, bigint: 64}[c.class]
	return uint64(n) << (64 - bits) >> (64 - bits), nil
}
