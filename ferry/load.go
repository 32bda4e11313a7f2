package ferry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/hook"
)

// LOAD DATA LOCAL takes the servers two thirds of the time that INSERT takes. The
// file is in no character set: every text is the bytes of its column's own, as the
// source has them.

// A field is how a column's values are in the file.
type field struct {
	plain bool   // of digits and the like, in which nothing needs an escape
	set   string // what to make of the variable that it is read into; "" if it is read into the column
}

// loadable reports whether a table's rows can be loaded. Of the types that can't, the
// servers' own forms are no text, or LOAD DATA doesn't take their text.
func (t *table) loadable() bool {
	return !slices.ContainsFunc(t.writable(), func(i int) bool { _, ok := t.columns[i].field(); return !ok })
}

func (c column) field() (f field, ok bool) {
	switch c.dataType {
	case "tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double", "date", "time", "datetime", "timestamp":
		return field{plain: true}, true
	case "year": // '0' is the year 2000, and 0 the year 0
		return field{plain: true, set: `%s + 0`}, true
	case "bit":
		return field{plain: true, set: `CAST(%s AS UNSIGNED)`}, true
	case "enum", "set", "json":
		return field{set: `CONVERT(%s USING utf8mb4)`}, true
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return field{}, true
	}
	return field{}, c.isText()
}

// fields returns what to read, and how it is written.
func (t *table) fields() (list string, fields []field) {
	var names []string
	for _, i := range t.writable() {
		c := t.columns[i]
		f, _ := c.field()
		name := quote(c.name)
		switch {
		case c.dataType == "float": // as text it loses digits; and this keeps the sign of -0
			name += ` * 1e0`
		case c.dataType == "bit", c.dataType == "year":
			name += ` + 0`
		case c.isText() && !c.unicode():
			name = `CAST(` + name + ` AS BINARY)`
		}
		names, fields = append(names, name), append(fields, f)
	}
	return strings.Join(names, ", "), fields
}

// append appends a value to the text of the file.
func (f field) append(text, value []byte) []byte {
	if value == nil {
		return append(text, `\N`...)
	}
	if f.plain {
		return append(text, value...)
	}
	for len(value) > 0 {
		i := bytes.IndexAny(value, "\\\t\n\x00")
		if i < 0 {
			break
		}
		text = append(append(text, value[:i]...), '\\')
		if value[i] == 0 {
			text = append(text, '0')
		} else { // itself, of whatever meaning otherwise
			text = append(text, value[i])
		}
		value = value[i+1:]
	}
	return append(text, value...)
}

// loads reports whether a table's rows are loaded.
func (m *move) loads(t *table) bool { return m.mayLoad && !m.insertOnly.Load() && t.loadable() }

// errNotLoaded: LOAD DATA didn't do, or not without changing something.
var errNotLoaded = errors.New("LOAD DATA LOCAL failed")

// load writes a part's rows but for some. With LOCAL the server makes of every error a
// warning, leaves out a row whose key is taken, and changes values that don't fit; so
// what it did is counted.
func (w *writer) load(ctx context.Context, p *part, but map[string]struct{}) error {
	t := w.m.tables[p.table]
	var pieces []io.Reader
	rows, from, begin := 0, 0, 0
	for i, key := range p.keys {
		if _, ok := but[key]; ok {
			if begin < from {
				pieces = append(pieces, bytes.NewReader(p.text[begin:from]))
			}
			begin = p.ends[i]
		} else {
			rows++
		}
		from = p.ends[i]
	}
	if begin < from {
		pieces = append(pieces, bytes.NewReader(p.text[begin:from]))
	}
	if rows == 0 {
		return nil
	}
	var into, sets []string
	for n, i := range t.writable() {
		name := quote(t.columns[i].name)
		f, _ := t.columns[i].field()
		if f.set == "" {
			into = append(into, name)
			continue
		}
		variable := fmt.Sprintf("@podworks_%d", n)
		into, sets = append(into, variable), append(sets, name+` = `+fmt.Sprintf(f.set, variable))
	}
	file := fmt.Sprintf("podworks-%p", p)
	mysql.RegisterReaderHandler(file, func() io.Reader { return io.MultiReader(pieces...) })
	defer mysql.DeregisterReaderHandler(file)
	stmt := `LOAD DATA LOCAL INFILE 'Reader::` + file + `' INTO TABLE ` + quote(t.name) + ` CHARACTER SET binary FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (` + strings.Join(into, ", ") + `)`
	if len(sets) > 0 {
		stmt += ` SET ` + strings.Join(sets, ", ")
	}
	result, err := w.tx.ExecContext(ctx, stmt)
	var answer *mysql.MySQLError
	switch {
	case errors.As(err, &answer) && !rolledBack(err) && !cutOff(err):
		return fmt.Errorf("%w: table %s: %w", errNotLoaded, t.name, err)
	case err != nil:
		return fmt.Errorf("table %s: %w", t.name, err)
	}
	if hook.Off(ctx, hook.Loaded) {
		return nil
	}
	loaded, err := result.RowsAffected()
	if err != nil {
		return err
	}
	warnings := 0
	if err := w.tx.QueryRowContext(ctx, `SELECT @@warning_count`).Scan(&warnings); err != nil {
		return err
	}
	if loaded != int64(rows) || warnings > 0 {
		return fmt.Errorf("%w: table %s: %d rows were sent, %d written, with %d warnings", errNotLoaded, t.name, rows, loaded, warnings)
	}
	return nil
}
