package ferry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A rowID names a row of the shop.
//
// The key is the values of the table's key columns in their key form, each
// behind its length. The copy reads that form from the server and the decoder
// makes it of the log's values; they are the same bytes for the same row. Keys
// are never compared in Go except for being the same bytes: what comes before
// what, and whether 'a' and 'A ' are one key, is known to the server alone.
//
// That the bytes of equal keys may differ does no harm: at any place of the log
// at most one of the rows with equal keys exists, the log names every spelling
// that goes or comes, and a batch deletes all keys it names, by the server's
// rules, before it inserts what is left of them.
type rowID struct {
	table int
	key   string
}

// keyTypes are the types of columns that can be in a key, beside integers.
// Floats are not: what is written isn't always what is compared.
var keyTypes = []string{"decimal", "bit", "year", "date", "time", "datetime", "timestamp", "enum", "set", "char", "varchar", "binary", "varbinary", "uuid", "inet4", "inet6"}

func (c column) inKeys() bool {
	return slices.Contains(integers, c.dataType) || slices.Contains(keyTypes, c.dataType)
}

func (c column) isText() bool { return slices.Contains(textTypes, c.dataType) }

// keyForm is the expression for a column's key form: the bytes of text in the
// column's own character set, bytes as they are, dates, times, UUIDs and addresses
// as the text that the server writes, and everything else as a number without
// ZEROFILL's zeros.
func (c column) keyForm() string {
	name := quote(c.name)
	switch c.dataType {
	case "char", "varchar":
		return `CAST(` + name + ` AS BINARY)`
	case "binary", "varbinary":
		return name
	case "date", "time", "datetime", "timestamp", "uuid", "inet4", "inet6":
		return `CAST(` + name + ` AS CHAR)`
	}
	return name + ` + 0`
}

// keyOf makes a value of the log the column's key form.
func (c column) keyOf(v any) ([]byte, error) {
	v, err := c.value(v)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	case uint64:
		return strconv.AppendUint(nil, v, 10), nil
	case string:
		if slices.Contains(integers, c.dataType) {
			break
		}
		if c.dataType == "time" && c.length > 0 && !strings.Contains(v, ".") { // the log's 00:00:00 has no fraction
			v += "." + strings.Repeat("0", c.length)
		}
		return []byte(v), nil
	case []byte:
		if c.dataType == "binary" { // the log leaves out the zeros at the end
			v = append(slices.Clip(v), make([]byte, max(c.length-len(v), 0))...)
		}
		return v, nil
	case encoded:
		return v.bytes, nil
	}
	return nil, fmt.Errorf("column %s (%s): a value is %T", c.name, c.fullType, v)
}

// literal is a key form in SQL, with which the column is compared by its own
// collation.
func (c column) literal(form []byte) string {
	switch c.dataType {
	case "char", "varchar":
		return fmt.Sprintf(`_%s x'%x'`, c.charset, form)
	case "binary", "varbinary":
		return fmt.Sprintf(`x'%x'`, form)
	case "date", "time", "datetime", "timestamp", "uuid", "inet4", "inet6":
		return `'` + string(form) + `'`
	}
	return string(form)
}

// joinKey makes a key of its columns' forms.
func joinKey(forms [][]byte) string {
	key := make([]byte, 0, 64)
	for _, form := range forms {
		key = binary.AppendUvarint(key, uint64(len(form)))
		key = append(key, form...)
	}
	return string(key)
}

// keyForms returns the forms of a key's columns.
func (t *table) keyForms(key string) [][]byte {
	rest := []byte(key)
	forms := make([][]byte, len(t.key))
	for i := range forms {
		n, size := binary.Uvarint(rest)
		forms[i], rest = rest[size:size+int(n)], rest[size+int(n):]
	}
	return forms
}

// splitKey returns the literals of a key's columns.
func (t *table) splitKey(key string) []string {
	literals := make([]string, len(t.key))
	for i, form := range t.keyForms(key) {
		literals[i] = t.columns[t.key[i]].literal(form)
	}
	return literals
}

// checkKey says what is wrong with a key that was read back from a table.
func (t *table) checkKey(key string) error {
	rest := []byte(key)
	for range t.key {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return errors.New("a saved key doesn't fit the table's key columns")
		}
		rest = rest[size+int(n):]
	}
	if len(rest) > 0 {
		return errors.New("a saved key doesn't fit the table's key columns")
	}
	return nil
}

// keyList is the key columns in their key form, each followed by a comma.
func (t *table) keyList() string {
	var b strings.Builder
	for _, k := range t.key {
		b.WriteString(t.columns[k].keyForm() + `, `)
	}
	return b.String()
}

// keyOf returns the key of a row image of the log.
func (t *table) keyOf(image []any) (string, error) {
	forms := make([][]byte, len(t.key))
	for i, k := range t.key {
		var err error
		if forms[i], err = t.columns[k].keyOf(image[k]); err != nil {
			return "", err
		}
	}
	return joinKey(forms), nil
}

// ofShop is the condition for the shop's rows of the table.
func (t *table) ofShop() string {
	if t.joined() {
		return t.refs[0].ofShop(t)
	}
	return quote(t.columns[t.shop].name) + ` = ` + t.tenant
}

// named reports whether it is known what the shop is called in the rows.
func (t *table) named() bool {
	if t.joined() {
		return t.parent().named()
	}
	return t.tenant != ""
}

// rowsIn is the condition for some of the shop's rows. Spelled out, because the
// servers use an index for that whatever the number of columns, and not always
// for a list of row constructors.
func (t *table) rowsIn(keys []string) string {
	var b strings.Builder
	b.WriteString(t.ofShopByKey())
	switch len(t.key) {
	case 0: // there is one row, or the table is taken whole
		return b.String()
	case 1:
		b.WriteString(` AND ` + quote(t.columns[t.key[0]].name) + ` IN (`)
		for i, key := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(t.splitKey(key)[0])
		}
		b.WriteByte(')')
		return b.String()
	}
	b.WriteString(` AND (`)
	for i, key := range keys {
		if i > 0 {
			b.WriteString(` OR `)
		}
		for j, literal := range t.splitKey(key) {
			if j > 0 {
				b.WriteString(` AND `)
			}
			b.WriteString(quote(t.columns[t.key[j]].name) + ` = ` + literal)
		}
	}
	b.WriteByte(')')
	return b.String()
}

// order sorts by the key, ascending or, with " DESC", descending.
func (t *table) order(direction string) string {
	if len(t.key) == 0 {
		return ``
	}
	var names []string
	for _, k := range t.key {
		names = append(names, quote(t.columns[k].name)+direction)
	}
	return ` ORDER BY ` + strings.Join(names, `, `)
}

// above is the condition, with an AND before it, for keys above one; upTo is that for
// keys up to one. The first column's own condition is what the servers find the
// range of an index by.
func (t *table) above(key string) string { return t.beyond(key, `>`, false) }
func (t *table) upTo(key string) string  { return t.beyond(key, `<`, true) }

func (t *table) beyond(key, than string, equal bool) string {
	literals := t.splitKey(key)
	last := than
	if equal {
		last += `=`
	}
	// From the last column to the first: (a > x OR a = x AND (b > y OR …)).
	where := ``
	for i := len(literals) - 1; i >= 0; i-- {
		name := quote(t.columns[t.key[i]].name)
		if where == `` {
			where = name + ` ` + last + ` ` + literals[i]
			continue
		}
		where = `(` + name + ` ` + than + ` ` + literals[i] + ` OR ` + name + ` = ` + literals[i] + ` AND ` + where + `)`
	}
	switch len(literals) {
	case 0:
		return ``
	case 1:
		return ` AND ` + where
	}
	return ` AND ` + quote(t.columns[t.key[0]].name) + ` ` + than + `= ` + literals[0] + ` AND ` + where
}
