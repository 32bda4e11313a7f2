package ferry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/hook"
)

// Most of what the log changes is rows that stand apart: nothing speaks against writing
// one but another row with the same key, of which a batch has one at most. They are
// overwritten rather than deleted and inserted, and many of them are written in
// transactions of their own, some at once, before that which writes the rest of the
// batch and its place in the log.
//
// Why these need neither an order nor to be one transaction:
//
//   - At its end a batch leaves each of them as the source had it at that place: which
//     share was there first doesn't matter, and the log waits for all of them.
//   - A mover that dies in the middle leaves rows from later places than the one that the
//     target has. All of these are named between there and where the log ended when it
//     died. So whoever goes on from that place names them again before the first marker
//     of its own, and until then nothing reads them: no chunk is written, nothing is
//     compared, and no row's belonging to the shop hangs on them. An earlier image that
//     it writes on the way is no conflict, as only the same key could be one. A target that
//     has no place yet gets none of them: who comes then begins at the log's end. Nobody
//     else may read a target's rows, nor those of a way back.
//   - If a failover of the source loses what such a mover had read, these rows never come
//     again. But only another mover goes on then, and that compares all rows.
//   - Each share requires the mover's token of the fence, as all that is applied does. So
//     none comes after another mover has read the place from which it goes on.
//
// Not apart are: rows that have another unique value, which one row may get from
// another; those by which others are the shop's, or which are it by others; those that
// foreign keys change without the log, or triggers on the target; those whose key may be
// the same in other bytes, as 'a' is 'A', of which a batch may delete one and insert the
// other; and those whose shop is a generated column, which nothing is assigned to (see
// overwrites). The parts of a large transaction stay one, as it may be rolled back.
const fewApart = 2000 // rows aren't worth transactions of their own

// What tests switch off.
const (
	offFew      hook.Protection = "apart: none, few rows are written with the rest"
	offUnique   hook.Protection = "apart: no other unique key"
	offSpelling hook.Protection = "apart: keys of one spelling"
	offTaken    hook.Protection = "apart: another shop's row is not overwritten"
)

// exactKeys are the types of keys that are the same in the same bytes only.
var exactKeys = slices.Concat(integers, []string{"binary", "varbinary", "uuid"})

// apart reports whether the table's rows stand apart.
func (t *table) apart(ctx context.Context) bool {
	inexact := func(i int) bool { return !slices.Contains(exactKeys, t.columns[i].dataType) }
	return t.inWaves() && len(t.children) == 0 && !t.onUpdate && !t.columns[t.shop].generated &&
		(len(t.uniques) == 1 || hook.Off(ctx, offUnique)) &&
		(!slices.ContainsFunc(t.key, inexact) || hook.Off(ctx, offSpelling))
}

// writeApart writes what there is of such rows in the batch, if they are many, and takes
// them out of it.
func (a *applier) writeApart(ctx context.Context) error {
	few := fewApart
	if hook.Off(ctx, offFew) {
		few = 1
	}
	if len(a.batch) < few || a.parts != nil || !a.placed {
		return nil
	}
	apart := make([]bool, len(a.m.tables))
	for i, t := range a.m.tables {
		apart[i] = t.apart(ctx)
	}
	keys, n := make([][]string, len(a.m.tables)), 0
	for id := range a.batch {
		if apart[id.table] {
			keys[id.table] = append(keys[id.table], id.key)
			n++
		}
	}
	if n < few {
		return nil
	}
	for _, keys := range keys {
		slices.Sort(keys) // so that the shares meet in few pages
	}
	write := newCrew(ctx, atOnce)
	for i := range atOnce {
		write.run(func(ctx context.Context) error {
			return a.again(ctx, func() error {
				tx, err := a.begin(ctx)
				if err != nil {
					return err
				}
				defer tx.Rollback()
				w := &writer{tx: tx, m: a.m}
				for table, keys := range keys {
					share := keys[len(keys)*i/atOnce : len(keys)*(i+1)/atOnce]
					if err := w.overwrite(ctx, a.m.tables[table], share, a.batch); err != nil {
						return err
					}
				}
				return tx.Commit()
			})
		})
	}
	if err := write.wait(); err != nil {
		return err
	}
	maps.DeleteFunc(a.batch, func(id rowID, _ []any) bool { return apart[id.table] })
	return nil
}

// overwrites is what makes an INSERT into a table whose rows stand apart write over the
// shop's own row. At another shop's a number gets too large, which is an error on both
// families, and costs less than others.
func (t *table) overwrites(ctx context.Context) string {
	var sets []string
	for _, i := range t.writable() {
		if slices.Contains(t.key, i) {
			continue
		}
		name := quote(t.columns[i].name)
		value := `VALUES(` + name + `)`
		if i == t.shop && !hook.Off(ctx, offTaken) {
			value = `IF(9223372036854775807 + IF(` + t.ofShop() + `, 0, 1), ` + value + `, NULL)`
		}
		sets = append(sets, name+` = `+value)
	}
	return ` ON DUPLICATE KEY UPDATE ` + strings.Join(sets, `, `)
}

// errTaken makes the server's error of that one that says what it means.
func errTaken(err error) error {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return err
	}
	switch e.Number {
	case 1690:
		return fmt.Errorf("a key of the shop's rows is another shop's row on the target; give one of them another, or delete it: %w", err)
	case 1062:
		return fmt.Errorf("a key or unique value of the shop's rows is another row's on the target, mostly another shop's; give one of them another, or delete it: %w", err)
	}
	return err
}
