package ferry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// Foreign keys with CASCADE and SET NULL: InnoDB deletes and changes rows by itself,
// and MariaDB, and MySQL before 9.6, don't write that to the log. A later MySQL does,
// unless innodb_native_foreign_keys is set; each event of its log says which it is.
//
// An event that deletes a row to which such a foreign key refers, or changes the
// columns that it refers to, is a root: something may have happened behind it. The
// target has the same foreign keys, so the applier lets them do the same again: it
// carries out the root by itself, in one statement that checks foreign keys, at
// its place among the transaction's events. This gives the source's rows because:
//
//   - The place is exact. A root is handed over in a part (see tail.go) that has
//     nothing before it, so the target is as the source was just before the root,
//     and what the log has after it (rows that come again) is written after it.
//   - The foreign keys are the same, or the move is refused. A root's row that the
//     copy hasn't come to is inserted first, as it was. The event says whether the
//     session checked foreign keys: without that nothing happened.
//   - A chunk that was read before the root and is written after it has rows as they
//     were before, and no event names them. So no chunk of a table that a root
//     reaches is written if a root came since the marker before it: it is read
//     again, in smaller pieces. The same goes for rows that are copied again.
//   - A row that isn't there yet ends the way to what is below it: it is deleted on
//     the source with rows that refer to it, of which the target has some already. So
//     tables are copied behind those that they refer to. What remains are tables that
//     refer to themselves, or to each other, and rows that the log brings before
//     the copy comes to their tables. There the target may keep rows, or values, that
//     are gone from the source; it never lacks any. The whole comparison finds them.
//     Once it has begun every row is on the target.
//   - A key that the source changes so is in no event, and may pass the copy on its
//     way. That ends the move, if the table isn't copied yet.
//
// Rows that a root reaches are touched, like those that the log names: they are
// asked for on the target, before and after, and compared before the lock or under
// it. So the comparison doesn't rest on any of the above but the last sentence of
// the fourth.
//
// A row of another shop, or of a table that isn't moved, may be what a row of the shop
// refers to. It is not on the target, or not the mover's to change, so nothing can
// be done again. The applier looks whether a row of the shop refers to one that has
// gone; if so, the move ends.

// A foreignKey is one within the database.
type foreignKey struct {
	name               string
	child, parent      *table
	columns, referred  []int // of the child, of the parent
	onUpdate, onDelete string
}

// What a foreign key does; the others do nothing.
const (
	cascades = "CASCADE"
	setsNull = "SET NULL"
)

func acts(rule string) bool { return rule != "RESTRICT" && rule != "NO ACTION" }

// Errors that end a move.
var errForeignKey = errors.New("a foreign key changed rows of the source without the log")

// changes reports whether the foreign key changes rows.
func (fk *foreignKey) changes() bool { return acts(fk.onUpdate) || acts(fk.onDelete) }

// foreignKeys reads the foreign keys, and notes with each table those that refer to
// it. It returns the tables of which some change rows and refer to another database.
func foreignKeys(ctx context.Context, db *sql.DB, tables map[string]*table) (foreign []string, err error) {
	for _, t := range tables {
		t.referring = nil
	}
	var last *foreignKey
	err = each(ctx, db, func(rows *sql.Rows) error {
		var fk foreignKey
		var child, parent, column, referred string
		var here bool
		if err := rows.Scan(&child, &fk.name, &fk.onUpdate, &fk.onDelete, &column, &here, &parent, &referred); err != nil {
			return err
		}
		fk.child, fk.parent = tables[child], tables[parent]
		if fk.child == nil || !here || fk.parent == nil {
			if fk.child != nil && !here && fk.changes() {
				foreign = append(foreign, child)
			}
			return nil
		}
		if last == nil || last.child != fk.child || last.name != fk.name {
			last = &fk
			fk.parent.referring = append(fk.parent.referring, last)
		}
		last.columns = append(last.columns, fk.child.column(column))
		last.referred = append(last.referred, fk.parent.column(referred))
		return nil
	}, `SELECT r.table_name, r.constraint_name, r.update_rule, r.delete_rule, k.column_name, k.referenced_table_schema = DATABASE(), k.referenced_table_name, k.referenced_column_name
		FROM information_schema.referential_constraints r JOIN information_schema.key_column_usage k
		ON k.constraint_schema = r.constraint_schema AND k.constraint_name = r.constraint_name AND k.table_name = r.table_name
		WHERE r.constraint_schema = DATABASE() AND k.table_schema = DATABASE() AND k.referenced_table_name IS NOT NULL
		ORDER BY r.table_name, r.constraint_name, k.ordinal_position`)
	return foreign, err
}

// references describes the foreign keys that refer to the table.
func (t *table) references() (out []string) {
	for _, fk := range t.referring {
		out = append(out, fmt.Sprintf("%s %v %v %s %s", fk.child.name, fk.columns, fk.referred, fk.onUpdate, fk.onDelete))
	}
	return out
}

// logsForeignKeys reports whether the server writes to its log what foreign keys do.
func logsForeignKeys(ctx context.Context, s *server) (logged bool, err error) {
	err = each(ctx, s.db, func(rows *sql.Rows) error {
		var name, value string
		err := rows.Scan(&name, &value)
		logged = value == "OFF"
		return err
	}, `SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'`)
	return logged, err
}

// An effect is what happens to rows of a table: some columns change, or, if none do,
// the rows go.
type effect struct {
	t       *table
	changed []int
}

// A consequence is what a foreign key makes of an effect on what it refers to.
type consequence struct {
	effect
	fk   *foreignKey
	rule string
}

// consequences returns what foreign keys make of an effect at once.
func (e effect) consequences() (out []consequence) {
	for _, fk := range e.t.referring {
		c := consequence{effect{t: fk.child}, fk, fk.onDelete}
		if e.changed != nil {
			if !slices.ContainsFunc(fk.referred, func(i int) bool { return slices.Contains(e.changed, i) }) {
				continue
			}
			c.rule = fk.onUpdate
		}
		if e.changed != nil || c.rule != cascades {
			c.changed = fk.columns
		}
		if acts(c.rule) {
			out = append(out, c)
		}
	}
	return out
}

// all returns what they make of it in the end, with how far from it each is.
func (e effect) all() map[*consequence]int {
	out, seen := map[*consequence]int{}, map[string]bool{}
	var add func(e effect, depth int)
	add = func(e effect, depth int) {
		for _, c := range e.consequences() {
			if id := fmt.Sprintf("%p %v", c.fk, c.changed); !seen[id] {
				seen[id] = true
				out[&c] = depth
				add(c.effect, depth+1)
			}
		}
	}
	add(e, 1)
	return out
}

// effects are what an event may do to rows of the table so that foreign keys act.
func (t *table) effects() []effect {
	out := []effect{{t: t}}
	for _, fk := range t.referring {
		out = append(out, effect{t, fk.referred})
	}
	return out
}

// owns reports whether the foreign key's columns say whose a row of the child is.
func (fk *foreignKey) owns() bool {
	owner := fk.child.shop
	if fk.child.joined() {
		owner = fk.child.refs[0].column
	}
	return slices.Contains(fk.columns, owner)
}

// within reports whether the foreign key has the shop's column on both ends, so that
// no row refers to another shop's.
func (fk *foreignKey) within() bool {
	for i, c := range fk.columns {
		if c == fk.child.shop && fk.referred[i] == fk.parent.shop {
			return true
		}
	}
	return false
}

// unfollowed says which of the foreign keys do what can't be done again on the target.
func unfollowed(pod any, tables map[string]*table, moved []*table, foreign []string) (faults []error) {
	fault := func(t *table, fk *foreignKey, format string, args ...any) {
		faults = append(faults, fmt.Errorf("pod %v, table %s: foreign key %s %s; declare it RESTRICT and have the application change the rows", pod, t.name, fk.name, fmt.Sprintf(format, args...)))
	}
	isMoved := func(t *table) bool { return slices.Contains(moved, t) }
	for _, name := range foreign {
		if isMoved(tables[name]) {
			faults = append(faults, fmt.Errorf("pod %v, table %s: a foreign key with CASCADE or SET NULL refers to another database, which the log's reader doesn't follow; declare it RESTRICT", pod, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		parent := tables[name]
		for _, fk := range parent.referring {
			if !isMoved(fk.child) || !fk.changes() {
				continue
			}
			for _, rule := range []string{fk.onUpdate, fk.onDelete} {
				if acts(rule) && rule != cascades && rule != setsNull {
					fault(fk.child, fk, "has %s, of which the servers don't tell what they do", rule)
				}
			}
			switch {
			case slices.ContainsFunc(fk.referred, func(i int) bool { return !parent.columns[i].inKeys() || parent.columns[i].generated }):
				fault(fk.child, fk, "changes rows without the log, and refers to columns of %s that can't be followed", parent.name)
			case isMoved(parent) && parent.keyless:
				fault(fk.child, fk, "changes rows without the log, and nothing tells the rows of %s apart; give that a primary key", parent.name)
			case !fk.owns():
			case fk.child.joined():
				if fk.parent != fk.child.parent() {
					fault(fk.child, fk, "changes without the log what says whose a row is, and refers to %s", parent.name)
				}
			case acts(fk.onUpdate) && !fk.within(), fk.onUpdate == setsNull, fk.onDelete == setsNull:
				fault(fk.child, fk, "changes without the log whose a row is")
			}
		}
		if isMoved(parent) {
			continue
		}
		// What reaches the shop's rows through rows that are not moved.
		for _, from := range tables {
			for _, e := range from.effects() {
				for _, c := range e.consequences() {
					if c.t != parent {
						continue
					}
					for _, d := range c.consequences() {
						if isMoved(d.t) {
							fault(d.t, d.fk, "changes rows without the log when foreign key %s has changed table %s, which is not moved", c.fk.name, parent.name)
						}
					}
				}
			}
		}
	}
	return faults
}

// A root is what an event did to a row so that foreign keys acted.
type root struct {
	effect
	before []any     // the row as it was, one value a writable column
	after  []any     // what the changed columns are
	key    string    // after a change
	gone   []goneRef // if a row of a joined table turns out not to be the shop's
}

// A goneRef is what rows of the shop must not refer to any more: a row that has gone, or
// changed its key, and wasn't the shop's.
type goneRef struct {
	fk *foreignKey
	to string // the values of its columns, in SQL
}

// effectOf returns what a change of the log did so that foreign keys acted, and
// whether it did.
func (t *table) effectOf(c binlog.Change) (effect, bool) {
	e := effect{t: t}
	if c.Before == nil || len(t.referring) == 0 {
		return e, false
	}
	if c.After != nil {
		for _, fk := range t.referring {
			for _, i := range fk.referred {
				if acts(fk.onUpdate) && !slices.Contains(e.changed, i) && !same(c.Before[i], c.After[i]) {
					e.changed = append(e.changed, i)
				}
			}
		}
		if e.changed == nil {
			return e, false
		}
	}
	return e, len(e.consequences()) > 0
}

// same reports whether two values of the log are the same bytes, which is how
// InnoDB finds out whether a key changed.
func same(a, b any) bool {
	x, ok := a.([]byte)
	y, _ := b.([]byte)
	if ok {
		return bytes.Equal(x, y) && b != nil
	}
	return a == b
}

// gone returns what no row of the shop may refer to after an effect on a row that isn't
// the shop's.
func (e effect) gone(before []any) (out []goneRef, err error) {
	for _, c := range e.consequences() {
		if c.t.place < 0 || c.fk.within() {
			continue
		}
		values := make([]string, len(c.fk.referred))
		for i, column := range c.fk.referred {
			if before[column] == nil { // nothing refers to that
				values = nil
				break
			}
			form, err := e.t.columns[column].keyOf(before[column])
			if err != nil {
				return nil, fmt.Errorf("%w: table %s: %w", errRowImage, e.t.name, err)
			}
			values[i] = e.t.columns[column].literal(form)
		}
		if values != nil {
			out = append(out, goneRef{c.fk, `(` + strings.Join(values, `, `) + `)`})
		}
	}
	return out, nil
}

// tuple is some columns, in SQL.
func (t *table) tuple(columns []int) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = quote(t.columns[c].name)
	}
	return `(` + strings.Join(names, `, `) + `)`
}

// rootOf takes a change after which foreign keys may have acted: it returns the
// root if that is the shop's, and notes what nothing may refer to if it isn't.
func (d *decoder) rootOf(t *table, c binlog.Change) (*root, error) {
	e, ok := t.effectOf(c)
	if !ok {
		return nil, nil
	}
	if t.lacks(c.Before) || c.After != nil && t.lacks(c.After) {
		return nil, fmt.Errorf("%w: table %s: a session writes with a binlog_row_image other than FULL", errRowImage, t.name)
	}
	var ours, stays bool
	if t.place >= 0 {
		var err error
		if ours, err = t.owns(c.Before, d.same); err != nil {
			return nil, fmt.Errorf("table %s: %w", t.name, err)
		}
		if stays = ours; c.After != nil {
			if stays, err = t.owns(c.After, d.same); err != nil {
				return nil, fmt.Errorf("table %s: %w", t.name, err)
			}
		}
	}
	if ours != stays {
		return nil, fmt.Errorf("%w: a row of table %s came to the shop, or left it, and its key changed at once, which rows of table %s refer to; move again", errForeignKey, t.name, e.consequences()[0].t.name)
	}
	r := &root{effect: e}
	var err error
	if !ours || t.joined() {
		if r.gone, err = e.gone(c.Before); err != nil {
			return nil, err
		}
	}
	if !ours {
		d.group.gone = append(d.group.gone, r.gone...)
		d.group.weight += 100 * len(r.gone)
		return nil, nil
	}
	if r.before, err = t.values(c.Before); err != nil {
		return nil, fmt.Errorf("%w: %w", errRowImage, err)
	}
	if c.After == nil {
		return r, nil
	}
	for _, i := range e.changed {
		v, err := t.columns[i].value(c.After[i])
		if err != nil {
			return nil, fmt.Errorf("%w: table %s: %w", errRowImage, t.name, err)
		}
		r.after = append(r.after, v)
	}
	if r.key, err = t.keyOf(c.After); err != nil {
		return nil, fmt.Errorf("%w: table %s: %w", errRowImage, t.name, err)
	}
	return r, nil
}

// roots returns the changes at the group's start of which foreign keys did more.
func (g group) roots() []change {
	n := slices.IndexFunc(g.changes, func(c change) bool { return c.root == nil })
	if n < 0 {
		n = len(g.changes)
	}
	return g.changes[:n]
}

// cascade has the target's foreign keys do what the source's did after roots.
func (a *applier) cascade(ctx context.Context, roots []change) error {
	if hook.Off(ctx, hook.Cascade) {
		return nil
	}
	for len(roots) > 0 {
		n := 1
		for n < min(len(roots), 500) && roots[n].table == roots[0].table && roots[n].root.changed == nil && roots[0].root.changed == nil {
			n++
		}
		if err := a.carryOut(ctx, roots[:n]); err != nil {
			return fmt.Errorf("table %s: do again what foreign keys did: %w", a.m.tables[roots[0].table].name, err)
		}
		roots = roots[n:]
	}
	return nil
}

// carryOut carries out roots: the going of rows of one table, or the change of one.
func (a *applier) carryOut(ctx context.Context, roots []change) error {
	m, tx := a.m, a.parts
	w := &writer{tx: tx, m: m}
	r, t := roots[0].root, m.tables[roots[0].table]
	var keys, absent []string
	rows := map[rowID][]any{}
	for _, c := range roots {
		rows[rowID{c.table, c.key}] = c.root.before
		keys = append(keys, c.key)
	}
	there := map[string]bool{}
	if err := eachKey(ctx, tx, t, func(key string, _ []sql.RawBytes) error {
		there[key] = true
		return nil
	}, 1, `SELECT `+t.keyList()+`1 FROM `+quote(t.name)+` WHERE `+t.rowsIn(keys)); err != nil {
		return err
	}
	if t.joined() { // what isn't there is another shop's
		for _, c := range roots {
			if !there[c.key] {
				a.noteGone(c.root.gone)
			}
		}
		keys = slices.DeleteFunc(keys, func(key string) bool { return !there[key] })
	} else if absent = slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return there[key] }); len(absent) > 0 {
		if err := w.insert(t).addKeys(ctx, absent, rows); err != nil {
			return err
		}
	}
	if len(keys) == 0 {
		return nil
	}
	for c, depth := range r.all() {
		if c.t.place < 0 {
			continue
		}
		i := c.t.place
		if !a.cursors[i].done && (c.rekeys() || depth > 1 && r.changed != nil) {
			return fmt.Errorf("%w: a key of table %s changed, and by foreign key %s perhaps keys of rows of table %s, which isn't copied yet; move again", errForeignKey, t.name, c.fk.name, c.t.name)
		}
		a.unsure[i], a.brought[i] = true, true
		m.doubt(i)
	}
	found := &reachedRows{rows: map[reachedRow]struct{}{}, losing: map[int][]string{}}
	if err := a.reach(ctx, r.effect, keys, found); err != nil {
		return err
	}
	// On the source these are nobody's now. Here nobody would find them any more.
	for i, child := range slices.Backward(m.tables) {
		if len(found.losing) == 0 {
			break
		}
		if err := w.deleteUnder(ctx, child, found.losing); err != nil {
			return err
		}
		if err := w.deleteKeys(ctx, child, found.losing[i]); err != nil {
			return err
		}
	}
	if r.changed == nil {
		if _, err := tx.ExecContext(ctx, m.checked(`DELETE`, `FROM `+quote(t.name)+` WHERE `+t.rowsIn(keys))); err != nil {
			return err
		}
	} else {
		if t.onUpdate {
			return fmt.Errorf("%w: a key changed, and triggers for UPDATE on the target would run when it is changed there; have them do nothing where @podworks_ferry is 1", errForeignKey)
		}
		var sets []string
		var args []any
		for i, c := range r.changed {
			text, arg := argument(r.after[i])
			sets, args = append(sets, quote(t.columns[c].name)+` = `+text), append(args, arg)
		}
		_, err := tx.ExecContext(ctx, m.checked(`UPDATE`, quote(t.name)+` SET `+strings.Join(sets, `, `)+` WHERE `+t.rowsIn(keys)), args...)
		// What the row refers to itself may be still to copy. Then the rows that refer
		// to it keep their old values until all are compared.
		if err != nil && !(a.lacksParents(err) && !rekeys(r.effect)) {
			return err
		}
		if err := a.reach(ctx, r.effect, []string{r.key}, found); err != nil {
			return err
		}
	}
	var touched []change
	for row := range found.rows {
		touched = append(touched, change{table: row.table, key: row.key})
		a.note(row.rowID)
	}
	m.touched(touched)
	return nil
}

// lacksParents reports whether a row refers to one that the copy hasn't come to.
func (a *applier) lacksParents(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number == 1452 && slices.ContainsFunc(a.cursors, func(c cursor) bool { return !c.done })
}

// rekeys reports whether keys of rows change.
func rekeys(e effect) bool {
	for c := range e.all() {
		if c.rekeys() {
			return true
		}
	}
	return false
}

func (c *consequence) rekeys() bool {
	return slices.ContainsFunc(c.changed, func(i int) bool { return slices.Contains(c.t.key, i) })
}

// checked is a statement with which the target's foreign keys do their work; in the
// mover's sessions they don't. A setting of the session would outlive an error.
func (m *move) checked(verb, rest string) string {
	if m.flavor == flavor.MariaDB {
		return `SET STATEMENT foreign_key_checks = 1 FOR ` + verb + ` ` + rest
	}
	return verb + ` /*+ SET_VAR(foreign_key_checks = ON) */ ` + rest
}

// reachedRows are what foreign keys come to from some rows.
type reachedRows struct {
	rows   map[reachedRow]struct{}
	losing map[int][]string // keys of rows that will have no owner, by table
}

type reachedRow struct {
	rowID
	fk *foreignKey
}

// reach asks the target for the rows that foreign keys come to after an effect on
// rows with these keys.
func (a *applier) reach(ctx context.Context, e effect, keys []string, out *reachedRows) error {
	for _, c := range e.consequences() {
		if c.t.place < 0 {
			continue
		}
		var found []string
		for part := range slices.Chunk(keys, 500) {
			if err := eachKey(ctx, a.parts, c.t, func(key string, values []sql.RawBytes) error {
				if string(values[0]) != "1" {
					return fmt.Errorf("%w: on the target rows of table %s that are not the shop's refer to its rows by foreign key %s, and would be changed with them; delete or change them", errForeignKey, c.t.name, c.fk.name)
				}
				row := reachedRow{rowID{c.t.place, key}, c.fk}
				if _, ok := out.rows[row]; !ok {
					out.rows[row] = struct{}{}
					found = append(found, key)
				}
				return nil
			}, 1, `SELECT `+c.t.keyList()+`COALESCE(`+c.t.ofShopByKey()+`, FALSE) FROM `+quote(c.t.name)+` WHERE `+c.t.tuple(c.fk.columns)+
				` IN (SELECT `+strings.Trim(e.t.tuple(c.fk.referred), `()`)+` FROM `+quote(e.t.name)+` WHERE `+e.t.rowsIn(part)+`)`); err != nil {
				return err
			}
		}
		if c.rule == setsNull && c.t.joined() && c.fk.owns() {
			out.losing[c.t.place] = append(out.losing[c.t.place], found...)
		}
		if len(found) > 0 {
			if err := a.reach(ctx, c.effect, found, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// noteGone notes what no row of the shop may refer to.
func (a *applier) noteGone(refs []goneRef) {
	for _, r := range refs {
		a.gone[r] = struct{}{}
	}
}

// dangling fails if a row of the shop refers to what has gone since the last time; with
// a chunk, since the chunk was begun to be read.
func (a *applier) dangling(ctx context.Context, q querier, c *chunk) error {
	byKey := map[*foreignKey][]string{}
	for r := range a.gone {
		byKey[r.fk] = append(byKey[r.fk], r.to)
	}
	if c != nil && !c.repair {
		for r := range a.goneBefore {
			byKey[r.fk] = append(byKey[r.fk], r.to)
		}
	}
	for fk, to := range byKey {
		for part := range slices.Chunk(to, 500) {
			if err := each(ctx, q, func(*sql.Rows) error {
				return fmt.Errorf("%w: foreign key %s changed rows of the shop in table %s when a row of table %s that is not the shop's went or changed its key; move again", errForeignKey, fk.name, fk.child.name, fk.parent.name)
			}, `SELECT 1 FROM `+quote(fk.child.name)+` WHERE `+fk.child.ofShopByKey()+` AND `+fk.child.tuple(fk.columns)+` IN (`+strings.Join(part, `, `)+`) LIMIT 1`); err != nil {
				return err
			}
		}
	}
	return nil
}

// doubt notes that rows of a table have changed without the log since those to
// compare were taken.
func (m *move) doubt(table int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unsure[table] = true
}

func (m *move) doubts(table int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unsure[table]
}

// levels says how many foreign keys lead to each table, at most. Where they lead
// back to where they came from, that is not followed.
func levels(tables []*table) map[*table]int {
	out := map[*table]int{}
	above := map[*table]bool{}
	var lead func(t *table, level int)
	lead = func(t *table, level int) {
		if above[t] || level > 0 && out[t] >= level {
			return
		}
		out[t] = level
		above[t] = true
		for _, fk := range t.referring {
			lead(fk.child, level+1)
		}
		delete(above, t)
	}
	for _, t := range tables {
		lead(t, out[t])
	}
	return out
}
