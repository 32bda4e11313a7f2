package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A unique is a unique key whose values another shop may have on the target.
type unique struct {
	name    string
	columns []definition
}

const (
	keysAtOnce = 500     // of 1,000 and more MariaDB makes a temporary table
	keyBytes   = 1 << 20 // at once, for MariaDB's unique keys on long texts
)

// collisions finds the keys of the shop's rows that other shops' rows have on
// the target already, in every unique key without the shop's column. The target
// compares, so that its collations decide what is the same.
//
// Where other shops' keys all lie outside of the shop's, as they do when each
// pod has a range of ids, one look shows it. Else the shop's keys are read in one
// statement, and 500 of them at a time are kept and asked for.
func (p *prepared) collisions(ctx context.Context, src, dst *server, t *table, s *schema) error {
	shop := t.owner().name
	for _, ix := range s.indexes {
		if !ix.unique || !t.joined() && slices.ContainsFunc(ix.parts, func(part indexPart) bool { return strings.EqualFold(part.column, shop) }) {
			continue
		}
		u := unique{name: ix.name}
		for _, part := range ix.parts {
			if i := s.column(part.column); i >= 0 && !part.prefix {
				u.columns = append(u.columns, s.columns[i])
			}
		}
		if len(u.columns) < len(ix.parts) {
			p.find(Finding{Severity: Warn, Table: t.name,
				What: fmt.Sprintf("unique key %s is on an expression or on parts of values; whether other shops' rows in pod %d have the shop's values is only seen when they are copied, and ends the move before the lock", ix.name, dst.pod),
				Do:   "put " + shop + " into the key"})
			continue
		}
		if err := p.collide(ctx, src, dst, t, u); err != nil {
			return err
		}
	}
	return nil
}

// collide checks one unique key.
func (p *prepared) collide(ctx context.Context, src, dst *server, t *table, u unique) error {
	var list, names, plain, shown []string
	from := ` FROM ` + quote(t.name) + ` WHERE ` + t.ofShop()
	for _, c := range u.columns {
		names, plain = append(names, quote(c.name)), append(plain, c.name)
		list = append(list, c.keyForm(quote(c.name)))
		shown = append(shown, c.shown())
		if c.null {
			from += ` AND ` + quote(c.name) + ` IS NOT NULL` // NULL collides with nothing
		}
	}
	if apart, err := p.apart(ctx, src, dst, t, u.columns[0], from); err != nil || apart {
		return err
	}
	rows, err := src.db.QueryContext(ctx, `SELECT `+strings.Join(list, ", ")+from)
	if err != nil {
		return err
	}
	defer rows.Close()
	var (
		values   = make([]sql.RawBytes, len(u.columns))
		dest     = make([]any, len(u.columns))
		batch    []string
		pending  int // bytes of the batch
		taken    int64
		examples []string
	)
	for i := range values {
		dest[i] = &values[i]
	}
	by := "shop"
	if t.joined() {
		by = t.owner().name
	}
	ask := func() error {
		if len(batch) == 0 {
			return nil
		}
		match := `(` + strings.Join(names, ", ") + `) IN (` + strings.Join(batch, ", ") + `)`
		batch, pending = batch[:0], 0
		return each(ctx, dst.db, func(rows *sql.Rows) error {
			var key, owner sql.NullString
			if err := rows.Scan(&key, &owner); err != nil {
				return err
			}
			if taken++; len(examples) < 3 {
				if !owner.Valid {
					owner.String = "nobody"
				}
				examples = append(examples, fmt.Sprintf("(%s) of %s %s", key.String, by, owner.String))
			}
			return nil
		}, `SELECT CONCAT_WS(', ', `+strings.Join(shown, ", ")+`), CAST(`+quote(t.owner().name)+` AS CHAR) FROM `+quote(t.name)+
			` WHERE `+match+` AND `+t.notOfShop())
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		literals := make([]string, len(u.columns))
		for i, c := range u.columns {
			literals[i] = c.literal(string(values[i]))
		}
		batch = append(batch, `(`+strings.Join(literals, ", ")+`)`)
		if pending += len(batch[len(batch)-1]); len(batch) == keysAtOnce || pending > keyBytes {
			if err := ask(); err != nil {
				return err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if err := ask(); err != nil || taken == 0 {
		return err
	}
	what, do := "values", "change them on one side, or put "+t.owner().name+" into the key"
	if u.name == "PRIMARY" {
		what, do = "ids", "give these rows other ids on one side; ids must be unique over all pods, or the key begin with "+t.owner().name
	}
	p.find(Finding{Severity: Refuse, Pod: dst.pod, Table: t.name, Do: do,
		What: fmt.Sprintf("other shops' rows there have %d of the shop's %s (unique key %s: %s), for example %s",
			taken, what, u.name, strings.Join(plain, ", "), strings.Join(examples, ", "))})
	return nil
}

// apart reports whether no other shop's row on the target has a value of the
// key's first column between the least and the greatest of the shop's.
func (p *prepared) apart(ctx context.Context, src, dst *server, t *table, first definition, from string) (bool, error) {
	if first.dataType == "enum" || first.dataType == "set" {
		return false, nil // whose least is that of the texts, and whose order is not
	}
	name := quote(first.name)
	var low, high sql.NullString
	err := src.db.QueryRowContext(ctx, `SELECT `+first.keyForm(`MIN(`+name+`)`)+`, `+first.keyForm(`MAX(`+name+`)`)+from).Scan(&low, &high)
	if err != nil || !low.Valid {
		return true, err // none at all
	}
	var one int
	err = dst.db.QueryRowContext(ctx, `SELECT 1 FROM `+quote(t.name)+` WHERE `+name+` BETWEEN `+first.literal(low.String)+` AND `+first.literal(high.String)+
		` AND `+t.notOfShop()+` LIMIT 1`).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return false, err
}

// keyForm is the expression that reads a value of the column so that literal
// can write it.
func (d definition) keyForm(value string) string {
	switch {
	case d.charset != "", d.binary():
		return `HEX(` + value + `)` // the bytes as they are stored
	case d.numeric():
		return value + ` + 0`
	case d.dataType == "float", d.dataType == "double":
		return value + ` * 1e0` // as text a FLOAT loses digits
	}
	return `HEX(CAST(` + value + ` AS CHAR))`
}

// literal writes a value read by keyForm so that the target compares it with
// the column by the column's rules, and can use its index.
func (d definition) literal(value string) string {
	switch {
	case d.binary():
		return `x'` + value + `'`
	case d.numeric(), d.dataType == "float", d.dataType == "double":
		return value
	case d.charset != "":
		return `_` + d.charset + ` x'` + value + `'`
	}
	return `_utf8mb4 x'` + value + `'`
}

// shown is the expression for a value in a message.
func (d definition) shown() string {
	if d.binary() {
		return `CONCAT('0x', HEX(` + quote(d.name) + `))`
	}
	if d.numeric() {
		return quote(d.name) + ` + 0`
	}
	return `CAST(` + quote(d.name) + ` AS CHAR CHARACTER SET utf8mb4)`
}

// numeric reports whether + 0 gives the whole value.
func (d definition) numeric() bool {
	return slices.Contains(integers, d.dataType) || slices.Contains([]string{"decimal", "bit", "year"}, d.dataType)
}

func (d definition) binary() bool {
	return slices.Contains([]string{"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}, d.dataType)
}
