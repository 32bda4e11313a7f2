package ferry

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/podworks/podworks"
)

// A Difference is a row that is not the same on both sides.
type Difference struct {
	Table string
	// Key finds the row among the shop's: a condition in SQL, such as
	// "`order_id` = 12 AND `line` = 3". It is empty where the table has one row for
	// each shop, or nothing that tells rows apart. It has values of the shop's:
	// ferry puts it into no log and no error's message.
	Key  string
	Kind DifferenceKind
	// Columns are those that differ, if the row is on both sides and was read again.
	Columns []string
}

// A DifferenceKind says how a row differs, seen from the source.
type DifferenceKind string

// The kinds.
const (
	Missing DifferenceKind = "missing" // the target lacks the row
	Extra   DifferenceKind = "extra"   // the source lacks it
	Differs DifferenceKind = "differs" // both have it; of a table without a key: some of its rows
)

// maxDifferences bounds the differences that are listed of each table.
const maxDifferences = 100

// A DifferenceError says that rows differ, and which.
type DifferenceError struct {
	Shop        podworks.ShopID
	Rows        int64        // how many
	Differences []Difference // the first 100 of each table
	when        string
}

// Error names tables and columns, and no values.
func (e *DifferenceError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %d of shop %d%s", ErrDiffers, e.Rows, e.Shop, e.when)
	for _, line := range summary(e.Differences) {
		b.WriteString("; " + line)
	}
	return b.String()
}

// Unwrap returns [ErrDiffers].
func (e *DifferenceError) Unwrap() error { return ErrDiffers }

// summary counts differences by table, kind and columns.
func summary(list []Difference) (lines []string) {
	n := map[string]int{}
	for _, d := range list {
		line := fmt.Sprintf("table %s: %s", d.Table, d.Kind)
		if len(d.Columns) > 0 {
			line += " in " + strings.Join(d.Columns, ", ")
		}
		if n[line]++; n[line] == 1 {
			lines = append(lines, line)
		}
	}
	for i, line := range lines {
		lines[i] = fmt.Sprintf("%s (%d)", line, n[line])
	}
	return lines
}

// A found collects differences.
type found struct {
	rows int64
	list []Difference
}

// room returns how many more of a table are listed.
func (f *found) room(table string) int {
	n := maxDifferences
	for _, d := range f.list {
		if d.Table == table {
			n--
		}
	}
	return max(n, 0)
}

// err returns the differences as an error, or nil.
func (f *found) err(shop podworks.ShopID, when string) error {
	if f.rows == 0 {
		return nil
	}
	return &DifferenceError{Shop: shop, Rows: f.rows, Differences: f.list, when: when}
}

// readable is the condition for a key. It is SQL that finds the row, whatever the
// client's character set; text is in hex unless it is plain.
func (t *table) readable(key string) string {
	var parts []string
	for i, form := range t.keyForms(key) {
		c := t.columns[t.key[i]]
		value := c.literal(form)
		if c.isText() && c.unicode() && plain(form) {
			value = `'` + string(form) + `'`
		}
		parts = append(parts, quote(c.name)+` = `+value)
	}
	return strings.Join(parts, ` AND `)
}

func plain(form []byte) bool {
	if !utf8.Valid(form) {
		return false
	}
	return strings.IndexFunc(string(form), func(r rune) bool { return r == '\'' || r == '\\' || !unicode.IsPrint(r) }) < 0
}

// String returns the difference in a line. Its key has values of the shop's.
func (d Difference) String() string {
	text := "table " + d.Table
	if d.Key != "" {
		text += " where " + d.Key
	}
	text += ": " + string(d.Kind)
	if len(d.Columns) > 0 {
		text += " in " + strings.Join(d.Columns, ", ")
	}
	return text
}
