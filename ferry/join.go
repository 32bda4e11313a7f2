package ferry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podworks/podworks/internal/hook"
)

// Joined tables: their rows are the shop's by a row of another table, the parent.
//
// Whose such a row is, is a function of a place in the log: the shop's if its
// parent is, there. So it can change without an event of its own. These are the
// ways to lose a row or to leave one behind, and what is done about each:
//
//   - An event doesn't say whose its row is. The decoder hands over everybody's,
//     and the applier asks the target when it writes: the parents there are just
//     the shop's, as of the place in the log that the target has come to. That
//     takes the parents to be whole before the first event of a child is judged. So
//     parents are copied first, and events of a joined table count from when its
//     own copy begins.
//   - A row on the target whose parent is gone could not be found again, by
//     nobody. So in each transaction children are deleted before their parents, with
//     the parents' rows there; a parent that leaves takes its children along.
//   - A parent that comes may have children already: it was another shop's, or
//     nothing says that it had to be first. They have no events. Each parent that
//     wasn't on the target before is remembered, and the keys of its children are
//     asked of both sides before the lock, and for the last parents under it; they are
//     compared like rows that the log has touched, and so come.
//
// Ids need not be unique over the pods as long as no rows meet, so a joined row is
// never deleted by its key alone, but under the condition that it is the shop's.
//
// The first Ref alone decides, so parents are a forest. An event in which the Refs
// of a row disagree follows the first. Stopping there would let any writer, of any
// shop, end a move; it would not undo the row, and the row may be put right a
// moment later. What counts is what is there in the end: the rows that disagree are
// counted by Plan, and again before the first try at the lock.

// A Ref says whose a row is by a row of another table.
type Ref struct {
	// Column has the key of a row of Table. NULL is nobody's.
	Column string
	// Table is the other table, which has a rule too or Options.Column. One column
	// identifies its rows, over all shops. Column is of that column's type.
	Table string
}

// A reference is a Ref that was found to be good.
type reference struct {
	column int
	parent *table
}

// joined reports whether the table's rows are the shop's by another table's.
func (t *table) joined() bool { return len(t.refs) > 0 }

// parent is the table whose rows decide.
func (t *table) parent() *table { return t.refs[0].parent }

// owner is the column that says whose a row is.
func (t *table) owner() column {
	if t.joined() {
		return t.columns[t.refs[0].column]
	}
	return t.columns[t.shop]
}

// identity is the column that identifies the rows of a parent.
func (t *table) identity() column { return t.columns[t.key[0]] }

// ofShop is the condition that the reference is to a row of the shop.
func (r reference) ofShop(t *table) string {
	return r.among(t, r.parent.ofShop())
}

// among is the condition that the reference is to one of the parent's rows for
// which a condition holds.
func (r reference) among(t *table, where string) string {
	return quote(t.columns[r.column].name) + ` IN (SELECT ` + quote(r.parent.identity().name) + ` FROM ` + quote(r.parent.name) + ` WHERE ` + where + `)`
}

// ofShopByKey is ofShop for queries that find the table's rows by its key: MariaDB
// would else go through the shop's parents for each of them.
func (t *table) ofShopByKey() string {
	if !t.joined() {
		return t.ofShop()
	}
	parent := t.parent()
	name := parent.identity().name
	at := slices.IndexFunc(parent.uniques, func(x uniqueKey) bool { return x.on(name) })
	return quote(t.owner().name) + ` IN (SELECT ` + quote(name) + ` FROM ` + quote(parent.name) +
		` FORCE INDEX (` + quote(parent.uniques[at].name) + `) WHERE ` + parent.ofShopByKey() + `)`
}

// to is the condition that the reference is to one of these keys of the parent.
func (r reference) to(t *table, keys []string) string {
	literals := make([]string, len(keys))
	for i, key := range keys {
		literals[i] = r.parent.splitKey(key)[0]
	}
	return quote(t.columns[r.column].name) + ` IN (` + strings.Join(literals, `, `) + `)`
}

// under is the condition for the shop's rows whose parent, or its parent, is one
// of these rows.
func (t *table) under(ancestor *table, keys []string) string {
	if t.parent() == ancestor {
		return t.refs[0].to(t, keys) + ` AND ` + t.ofShop()
	}
	return t.refs[0].among(t, t.parent().under(ancestor, keys))
}

// refOf is the value that decides whose a row of the log is, in SQL.
func (t *table) refOf(image []any) (string, error) {
	if !t.joined() {
		return "", nil
	}
	c, v := t.owner(), image[t.refs[0].column]
	if v == nil {
		return `NULL`, nil
	}
	form, err := c.keyOf(v)
	if err != nil {
		return "", err
	}
	return c.literal(form), nil
}

// refer finds what the rules of joined tables name, or says what is wrong, and
// puts the tables in order. Their keys, and whose the rows of the others are, are
// known by then.
func (f *Ferry) refer(list []*table) (faults []error) {
	tables := map[string]*table{}
	for _, t := range list {
		tables[t.name] = t
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t := tables[name]
		for _, r := range f.opts.Tables[name].Through {
			fault := func(format string, args ...any) {
				faults = append(faults, fmt.Errorf("table %s through (%s, %s): %s", name, r.Column, r.Table, fmt.Sprintf(format, args...)))
			}
			parent, column := tables[r.Table], t.column(r.Column)
			switch {
			case column < 0:
				fault("there is no such column")
			case parent == nil:
				fault("there is no such table with rows of shops")
			case parent == t:
				fault("a table can't be reached through itself")
			case len(parent.key) != 1 || !parent.unique(parent.identity().name):
				fault("no single column identifies the rows of %s over all shops; want a primary key of one column", r.Table)
			case !refersTo(t.columns[column], parent.identity()):
				fault("the column is %s, and %s.%s is %s; want the same type, character set and collation of integers, text, bytes, UUIDs or addresses", t.columns[column].described(), r.Table, parent.identity().name, parent.identity().described())
			default:
				t.refs = append(t.refs, reference{column, parent})
				continue
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t := tables[name]
		if len(t.refs) < len(f.opts.Tables[name].Through) {
			continue // is said already
		}
		for up, n := t, 0; up.joined(); up, n = up.parent(), n+1 {
			if n > len(tables) {
				faults = append(faults, fmt.Errorf("table %s: following the first Ref of each table comes back to where it was; one of them must have a column that names the shop", name))
				break
			}
		}
	}
	if len(faults) == 0 {
		arrange(list)
	}
	return faults
}

// unique reports whether the column alone tells all rows apart.
func (t *table) unique(column string) bool {
	return slices.ContainsFunc(t.uniques, func(x uniqueKey) bool { return x.on(column) })
}

// on reports whether the key is on this column alone.
func (x uniqueKey) on(column string) bool {
	return x.rows && len(x.columns) == 1 && strings.EqualFold(x.columns[0], column)
}

// refersTo reports whether values of one column can be used as those of another:
// the servers compare them, so both must be compared by the same rules.
func refersTo(c, key column) bool {
	switch {
	case slices.Contains(integers, c.dataType):
		return slices.Contains(integers, key.dataType)
	case !slices.Contains([]string{"char", "varchar", "binary", "varbinary", "uuid", "inet4", "inet6"}, c.dataType):
		return false
	}
	return c.dataType == key.dataType && c.charset == key.charset && c.collation == key.collation && c.length == key.length
}

func (c column) described() string {
	return strings.TrimSpace(c.fullType + ` ` + c.collation)
}

// arrange puts parents before their children, and notes the children of each.
func arrange(tables []*table) {
	depth := map[*table]int{}
	for _, t := range tables {
		for up := t; up.joined(); up = up.parent() {
			depth[t]++
		}
	}
	// And what foreign keys reach behind what they reach it from, as far as that goes.
	levels := levels(tables)
	slices.SortStableFunc(tables, func(a, b *table) int { return cmp.Or(depth[a]-depth[b], levels[a]-levels[b]) })
	for i, t := range tables {
		t.place, t.children = i, nil
	}
	for _, t := range tables {
		if t.joined() {
			t.parent().children = append(t.parent().children, t)
		}
	}
}

// disagreeing counts a table's rows that are the shop's by one Ref and not by
// another. A NULL disagrees with nothing, but as the first: that makes a row
// nobody's.
func disagreeing(ctx context.Context, db *sql.DB, t *table) (n int64, err error) {
	if len(t.refs) < 2 {
		return 0, nil
	}
	first := `COALESCE(` + t.refs[0].ofShop(t) + `, FALSE)`
	var not []string
	for _, r := range t.refs[1:] {
		not = append(not, `COALESCE(`+first+` <> (`+r.ofShop(t)+`), FALSE)`)
	}
	err = db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quote(t.name)+` WHERE `+strings.Join(not, ` OR `)).Scan(&n)
	return n, err
}

// agree fails if there are such rows: their other halves would be in two pods.
func (m *move) agree(ctx context.Context) error {
	for _, t := range m.tables {
		n, err := disagreeing(ctx, m.src.db, t)
		if err != nil {
			return fmt.Errorf("table %s: count the rows whose references disagree: %w", t.name, err)
		}
		if n > 0 {
			return fmt.Errorf("table %s: %d rows came to be the shop's %s; a move would separate them from what they refer to", t.name, n, t.half())
		}
	}
	return nil
}

// half says in what way rows are only half the shop's.
func (t *table) half() string {
	var names []string
	for _, r := range t.refs {
		names = append(names, t.columns[r.column].name)
	}
	return `by one and not by another of ` + strings.Join(names, `, `)
}

// inspectJoins counts the rows of joined tables that can't be told whose they are.
func (p *prepared) inspectJoins(ctx context.Context, src, dst *server) error {
	for _, t := range p.tables {
		if !t.joined() || p.schemas[src.pod][t.name] == nil {
			continue
		}
		all := func(s *server) (n int64) { // for the message, which does without it
			_ = s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quote(t.name)).Scan(&n)
			return n
		}
		n, err := disagreeing(ctx, src.db, t)
		if err != nil {
			return fmt.Errorf("ferry: count the rows of table %s whose references disagree: %w", t.name, err)
		}
		if n > 0 {
			p.find(Finding{Severity: Refuse, Pod: src.pod, Table: t.name,
				What: fmt.Sprintf("%d of %d rows are the shop's %s", n, all(src), t.half()),
				Do:   "a move would separate them from what they refer to; change or delete them"})
		}
		for _, s := range []*server{src, dst} {
			r := t.refs[0]
			if p.schemas[s.pod][t.name] == nil || p.schemas[s.pod][r.parent.name] == nil {
				continue // which is a finding already
			}
			name := t.columns[r.column].name
			err := s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quote(t.name)+` AS child WHERE child.`+quote(name)+` IS NOT NULL AND NOT EXISTS (SELECT 1 FROM `+
				quote(r.parent.name)+` AS parent WHERE parent.`+quote(r.parent.identity().name)+` = child.`+quote(name)+`)`).Scan(&n)
			if err != nil {
				return fmt.Errorf("ferry: count the rows of table %s in pod %d that refer to nothing: %w", t.name, s.pod, err)
			}
			if n == 0 {
				continue
			}
			found := Finding{Severity: Warn, Pod: s.pod, Table: t.name,
				What: fmt.Sprintf("%d of %d rows have a %s that no row of %s has, so they are nobody's and stay", n, all(s), name, r.parent.name)}
			if s == dst {
				found.Severity = Refuse
				found.What = fmt.Sprintf("%d of %d rows have a %s that no row of %s has; they would become the shop's if that row came with it", n, all(s), name, r.parent.name)
				found.Do = "delete them"
			}
			p.find(found)
		}
	}
	return nil
}

// An image is what the log said of a row of a joined table since the applier last
// wrote.
type image struct {
	refs   []string // of its images, in SQL; the last is that of the row, if it isn't gone
	repair bool     // it was found different, and is written whatever the images say
	xa     bool
}

// A judgement is what the applier knows of a batch before it writes it.
type judgement struct {
	// before has, by table, which of its images' references are to rows of the
	// shop on the target, before the batch: their keys.
	before []map[string]string
	// moved are the tables in which the batch changes rows of the shop, and those
	// below them: whose parents may be others after the batch.
	moved []bool
	// there are the batch's rows of joined parents that are on the target. That such
	// a row's own parent is says nothing of it: it may not have been asked for yet.
	there map[rowID]struct{}
	// leaving are the rows of parents that are, or may be, no longer the shop's after
	// the batch. Which of the latter come back is known only when their own
	// parents are written; their children go, and are asked for again then.
	leaving map[rowID]struct{}
}

// names reports whether one of the references is to a row of the shop.
func (j *judgement) names(id rowID, refs []string) bool {
	return slices.ContainsFunc(refs, func(ref string) bool { _, ok := j.before[id.table][ref]; return ok })
}

// judge finds out which rows of joined tables are the shop's, before the batch,
// and forgets those that were not and can't have become so: in a table that shops
// share, most are other shops'. Only the applier changes what is asked for.
func (a *applier) judge(ctx context.Context) (*judgement, error) {
	m := a.m
	j := &judgement{before: make([]map[string]string, len(m.tables)), moved: make([]bool, len(m.tables)), there: map[rowID]struct{}{}, leaving: map[rowID]struct{}{}}
	byTable := map[int][]rowID{}
	for id := range a.batch {
		if t := m.tables[id.table]; t.joined() || len(t.children) > 0 {
			byTable[id.table] = append(byTable[id.table], id)
		}
	}
	for i, t := range m.tables {
		if t.joined() && len(byTable[i]) > 0 {
			distinct := map[string]struct{}{}
			for _, id := range byTable[i] {
				for _, ref := range a.images[id].refs {
					distinct[ref] = struct{}{}
				}
			}
			var err error
			if j.before[i], err = members(ctx, a.target(), t.parent(), distinct); err != nil {
				return nil, err
			}
		}
		j.moved[i] = t.joined() && j.moved[t.parent().place]
		for _, id := range byTable[i] {
			seen := a.imageOf(id)
			ours := !t.joined() || seen.repair || j.names(id, seen.refs)
			if !ours && !j.moved[t.parent().place] {
				delete(a.batch, id)
				delete(a.images, id)
				continue
			}
			j.moved[i] = true
			if ours && len(t.children) > 0 && j.leaves(t, id, a.batch[id], seen.refs) {
				j.leaving[id] = struct{}{}
			}
		}
	}
	for i, t := range m.tables {
		if !t.joined() || len(t.children) == 0 {
			continue
		}
		var keys []string
		for id := range a.batch {
			if id.table == i {
				keys = append(keys, id.key)
			}
		}
		for part := range slices.Chunk(keys, 500) {
			if err := eachKey(ctx, a.target(), t, func(key string, _ []sql.RawBytes) error {
				j.there[rowID{i, key}] = struct{}{}
				return nil
			}, 0, `SELECT `+strings.TrimSuffix(t.keyList(), `, `)+` FROM `+quote(t.name)+` WHERE `+t.rowsIn(part)); err != nil {
				return nil, fmt.Errorf("ask which rows of table %s are on the target: %w", t.name, err)
			}
		}
	}
	return j, a.errXA()
}

// leaves reports whether a parent's row may be no longer the shop's after the
// batch, or stays so under another parent while its own goes: what is below it on
// the target is deleted with what is below the parent that goes.
func (j *judgement) leaves(t *table, id rowID, row []any, refs []string) bool {
	if row == nil || !t.joined() {
		return row == nil
	}
	if _, there := j.before[id.table][refs[len(refs)-1]]; !there {
		return true
	}
	return slices.ContainsFunc(refs, func(ref string) bool {
		_, leaving := j.leaving[rowID{t.parent().place, j.before[id.table][ref]}]
		return leaving
	})
}

// target is where the target's rows are asked for: in the transaction of a large
// one's parts, or outside.
func (a *applier) target() querier {
	if a.parts != nil {
		return a.parts
	}
	return a.m.dst.db
}

// imageOf returns what was said of a row of a joined table.
func (a *applier) imageOf(id rowID) image {
	if i := a.images[id]; i != nil {
		return *i
	}
	return image{}
}

// members asks which of the references, in SQL, are to rows of the shop, and
// returns the keys of these.
func members(ctx context.Context, q querier, parent *table, refs map[string]struct{}) (map[string]string, error) {
	out := map[string]string{}
	delete(refs, `NULL`)
	name := quote(parent.identity().name)
	head := `SELECT ` + parent.keyList()
	rest := ` FROM ` + quote(parent.name) + ` WHERE ` + parent.ofShop() + ` AND ` + name
	c := parent.identity()
	for part := range slices.Chunk(slices.Sorted(maps.Keys(refs)), 200) {
		var err error
		if !c.isText() {
			err = eachKey(ctx, q, parent, func(key string, _ []sql.RawBytes) error {
				out[parent.splitKey(key)[0]] = key
				return nil
			}, 0, head[:len(head)-len(`, `)]+rest+` IN (`+strings.Join(part, `, `)+`)`)
		} else {
			// Other bytes than the key's may be the same by its collation, so each is
			// asked for by itself.
			queries := make([]string, len(part))
			for i, ref := range part {
				queries[i] = head + strconv.Itoa(i) + rest + ` = ` + ref
			}
			err = eachKey(ctx, q, parent, func(key string, values []sql.RawBytes) error {
				i, err := strconv.Atoi(string(values[0]))
				if err == nil {
					out[part[i]] = key
				}
				return err
			}, 1, strings.Join(queries, ` UNION ALL `))
		}
		if err != nil {
			return nil, fmt.Errorf("ask which rows of table %s are the shop's: %w", parent.name, err)
		}
	}
	return out, nil
}

// after returns which of the batch's rows of a joined table are the shop's, once
// the parents have been written.
func (w *writer) after(ctx context.Context, j *judgement, t *table, images map[rowID]*image, keys []string) (func(key string) bool, error) {
	last := func(key string) string {
		refs := images[rowID{t.place, key}].refs
		return refs[len(refs)-1]
	}
	ours := j.before[t.place]
	if j.moved[t.parent().place] {
		refs := map[string]struct{}{}
		for _, key := range keys {
			refs[last(key)] = struct{}{}
		}
		var err error
		if ours, err = members(ctx, w.tx, t.parent(), refs); err != nil {
			return nil, err
		}
	}
	return func(key string) bool { _, ok := ours[last(key)]; return ok }, nil
}

// deleteUnder deletes the rows of a joined table below parents that leave.
func (w *writer) deleteUnder(ctx context.Context, t *table, leaving map[int][]string) error {
	if !t.joined() {
		return nil
	}
	for up := t.parent(); ; up = up.parent() {
		for part := range slices.Chunk(leaving[up.place], 500) {
			if _, err := w.tx.ExecContext(ctx, `DELETE FROM `+quote(t.name)+` WHERE `+t.under(up, part)); err != nil {
				return fmt.Errorf("table %s: %w", t.name, err)
			}
		}
		if !up.joined() {
			return nil
		}
	}
}

// settle notes what the batch was about, once it is written: the rows of joined
// tables that were or are the shop's, and the parents that came.
func (a *applier) settle(ctx context.Context, j *judgement, written map[rowID]bool) {
	var touched []change
	var came []rowID
	for id, row := range a.batch {
		t, seen := a.m.tables[id.table], a.imageOf(id)
		if t.joined() && (seen.repair || written[id] || j.names(id, seen.refs)) {
			touched = append(touched, change{table: id.table, key: id.key})
			a.note(id)
		}
		if row == nil || len(t.children) == 0 || t.joined() && !written[id] {
			continue
		}
		_, left := j.leaving[id]
		_, fresh := a.coming[id]
		_, there := j.there[id]
		if left || fresh || t.joined() && !there {
			came = append(came, id)
		}
	}
	a.m.touched(touched)
	if !hook.Off(ctx, hook.Children) {
		a.m.entered(came)
	}
}

// errXA is the decoder's, where only the target can say whose the row is: what is
// left of the batch is the shop's, or may be.
func (a *applier) errXA() error {
	for id, i := range a.images {
		if i.xa {
			return fmt.Errorf("%w (table %s)", errXA, a.m.tables[id.table].name)
		}
	}
	return nil
}

// entered remembers parents that weren't the shop's before, or whose children were
// deleted, until their children have been asked for. Before the whole comparison, which
// finds any row, nothing is remembered.
func (m *move) entered(ids []rowID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirtyRow == nil {
		return
	}
	for _, id := range ids {
		m.parents[id] = struct{}{}
	}
	m.boundLocked()
}

// hasParents reports whether children are to be asked for.
func (m *move) hasParents() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.parents) > 0
}

// takeParents returns these parents' keys, by table, and begins anew.
func (m *move) takeParents() map[int][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[int][]string{}
	for id := range m.parents {
		out[id.table] = append(out[id.table], id.key)
	}
	clear(m.parents)
	return out
}

// children marks the children of parents that came as touched: those on the source, and
// those on the target, which shouldn't be there if the source lacks them.
func (v *verifier) children(ctx context.Context, source querier) (err error) {
	m := v.m
	parents := m.takeParents()
	defer func() {
		if err != nil { // then it is as if nobody had asked
			for i, keys := range parents {
				for _, key := range keys {
					m.entered([]rowID{{i, key}})
				}
			}
		}
	}()
	for i, keys := range parents {
		for _, t := range m.tables[i].children {
			for part := range slices.Chunk(keys, 500) {
				for _, q := range []querier{source, m.dst.db} {
					var found []string
					if err := eachKey(ctx, q, t, func(key string, _ []sql.RawBytes) error {
						found = append(found, key)
						return nil
					}, 0, `SELECT `+strings.TrimSuffix(t.keyList(), `, `)+` FROM `+quote(t.name)+` WHERE `+t.under(m.tables[i], part)); err != nil {
						return fmt.Errorf("ask for the rows of table %s below those of %s that came to the shop: %w", t.name, m.tables[i].name, err)
					}
					m.soil(t.place, found)
				}
			}
		}
	}
	return nil
}

// check says what is wrong with a rule, whatever the tables.
func (r Rule) check(table string) error {
	if r.Column != "" && len(r.Through) > 0 {
		return fmt.Errorf("the rule of table %s has Column and Through; decide for one", table)
	}
	for _, ref := range r.Through {
		if ref.Column == "" || ref.Table == "" {
			return errors.New("the rule of table " + table + ": a Ref in Through wants a Column and a Table")
		}
	}
	return nil
}
