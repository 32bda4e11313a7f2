package ferry

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
)

// A change is what a transaction left of one row: its values, one a writable
// column, or nil if the row is gone or is no longer the shop's.
type change struct {
	table int // index in the move's tables
	key   string
	row   []any

	root *root // if foreign keys acted

	// Of a row of a joined table, which may be any shop's:
	ref string // by what it is, or was, its shop's, in SQL
	xa  bool   // an XA transaction wrote it
}

// weight is about the bytes of memory that a change takes.
func (c change) weight() int {
	n := 100 + len(c.key) + len(c.ref)
	values := c.row
	if c.root != nil {
		values = c.root.before
	}
	for _, v := range values {
		n += 24
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		case encoded:
			n += len(v.bytes)
		}
	}
	return n
}

// A group is one transaction of the source, as far as the shop is concerned, or
// a part of a large one.
type group struct {
	changes []change // in order; roots are the first of their group
	gone    []goneRef
	marker  uint64 // the number a marker was set to, or 0
	end     binlog.Position
	weight  int  // bytes, about
	part    bool // the transaction goes on in the next group; there is no end yet
	undone  bool // the parts so far are taken back; there is nothing else
}

// What makes a transaction a large one, so that it is handed over in parts.
const (
	partChanges = 10_000
	partBytes   = 4 << 20
)

// A decoder turns the stream's events into groups. It sees events in their
// order and sends a group when one is whole.
type decoder struct {
	database string
	token    uint64
	byName   map[string]*table // the tables, and others that foreign keys of theirs refer to
	names    *regexp.Regexp    // of the tables and of the columns that name the shop, as words
	mentions *regexp.Regexp    // of the database, as a word

	// same is asked whether a name in the table is the shop's by the column's
	// collation.
	same func(t *table, name []byte) (bool, error)
	send func(group) error

	known map[string]*binlog.Table // whose columns have been compared with the table's
	group group
	sent  int            // changes of the transaction in earlier groups
	saves map[string]int // its savepoints: the changes before each
}

// newDecoder returns a decoder. columns are those that may name the shop in tables
// that come into being.
func newDecoder(database string, token uint64, tables, others []*table, columns []string, send func(group) error) *decoder {
	d := &decoder{database: database, token: token, send: send,
		byName: map[string]*table{}, known: map[string]*binlog.Table{}, saves: map[string]int{}}
	words := slices.Clone(columns)
	for _, t := range tables {
		d.byName[t.name] = t
		words = append(words, t.name)
	}
	for _, t := range others {
		d.byName[t.name] = t
	}
	d.names, d.mentions = anyWord(words...), anyWord(database)
	return d
}

// anyWord matches any of the words, in any case. A word that is not plain ASCII may
// be in a text in whatever character set its session has: it matches every text.
func anyWord(words ...string) *regexp.Regexp {
	for i, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r > unicode.MaxASCII }) {
			return regexp.MustCompile(``)
		}
		words[i] = regexp.QuoteMeta(strings.Trim(quote(w), "`"))
	}
	return regexp.MustCompile(`(?i)(?:^|[^\w$])(?:` + strings.Join(words, "|") + `)(?:$|[^\w$])`)
}

// Errors that no second try mends.
var (
	errSchemaChanged = errors.New("a statement changed the schema, or wrote without row events, in the middle of the move")
	errRowImage      = errors.New("a row event can't be applied")
	errXA            = errors.New("an XA transaction wrote rows of the shop; XA transactions hold no write fence")
	errSavepoint     = errors.New("a transaction is too large to be rolled back in part")
)

const markerTable = "podworks_marker"

// event takes one event.
func (d *decoder) event(ev binlog.Event) error {
	switch ev := ev.(type) {
	case *binlog.Rows:
		if err := d.rows(ev); err != nil {
			return err
		}
		if len(d.group.changes) >= partChanges || d.group.weight >= partBytes {
			return d.handPart()
		}
	case *binlog.Statement:
		if d.harms(ev) {
			return fmt.Errorf("%w: %s", errSchemaChanged, shortened(ev.Text))
		}
	case *binlog.Savepoint:
		d.saves[strings.ToLower(ev.Name)] = d.sent + len(d.group.changes)
	case *binlog.RollbackTo:
		// The log has savepoints that something goes back to only if a table without
		// transactions was written to as well.
		to := d.saves[strings.ToLower(ev.Name)] - d.sent // servers compare them without case
		if to < 0 {
			return fmt.Errorf("%w: %d changes of the shop's rows were handed over before ROLLBACK TO %s; let the transaction write to the shop's tables alone, or less", errSavepoint, d.sent, ev.Name)
		}
		d.group.changes = d.group.changes[:min(to, len(d.group.changes))]
	case *binlog.Commit:
		return d.end(group{end: ev.Position})
	case *binlog.Prepare:
		// Rows of joined tables, which may be the shop's: the applier, who can tell,
		// ends the move then, and forgets them if they aren't.
		return d.end(group{end: ev.Position})
	case *binlog.Rollback:
		return d.end(group{undone: true})
	case *binlog.Restart:
		return d.end(group{undone: true})
	}
	return nil
}

// end ends the transaction in hand.
func (d *decoder) end(g group) error {
	parts := d.sent > 0
	d.sent = 0
	clear(d.saves)
	if g.undone {
		d.group = group{}
	}
	if !parts && len(d.group.changes) == 0 && len(d.group.gone) == 0 && d.group.marker == 0 {
		return nil
	}
	return d.hand(g)
}

// handPart hands over the changes in hand as a part of the transaction.
func (d *decoder) handPart() error {
	d.sent += len(d.group.changes)
	return d.hand(group{part: true})
}

// hand hands over the changes in hand as g.
func (d *decoder) hand(g group) error {
	g.changes, g.gone, g.marker, g.weight = d.group.changes, d.group.gone, d.group.marker, d.group.weight
	d.group = group{}
	return d.send(g)
}

// harms reports whether a statement may have changed rows or columns of the
// moved tables, or made a table one that is to be moved. A write needs not name a
// table to write to it: there are views, functions and triggers.
func (d *decoder) harms(st *binlog.Statement) bool {
	if !strings.EqualFold(st.Database, d.database) && !d.mentions.MatchString(st.Text) {
		return false
	}
	switch st.Kind {
	case binlog.Write:
		return true
	case binlog.Definition, binlog.Truncate:
		// Migrate, say, of a process that starts: MySQL logs a CREATE TABLE IF NOT EXISTS
		// of a table that exists.
		if len(st.Tables) > 0 && !slices.ContainsFunc(st.Tables, func(n binlog.TableName) bool { return !strings.HasPrefix(n.Table, "podworks_") }) {
			return false
		}
		return d.names.MatchString(st.Text) || slices.ContainsFunc(st.Tables, func(n binlog.TableName) bool {
			return n.Table == "" && strings.EqualFold(n.Database, d.database)
		})
	}
	return false
}

// shortened is a statement's text as errors have it.
func shortened(text string) string {
	if len(text) > 200 {
		return text[:200] + "…"
	}
	return text
}

// wants reports whether a table's rows are decoded.
func (d *decoder) wants(database, name string) bool {
	_, moved := d.byName[name]
	return database == d.database && (moved || name == markerTable)
}

func (d *decoder) rows(ev *binlog.Rows) error {
	name := ev.Table.Name
	if name == markerTable {
		return d.markers(ev)
	}
	t := d.byName[name]
	if t.place < 0 && (!ev.Unlogged || ev.Kind == binlog.Insert) {
		return nil
	}
	if d.known[name] != ev.Table {
		if err := t.matches(ev.Table); err != nil {
			return err
		}
		d.known[name] = ev.Table
	}
	for _, c := range ev.Changes {
		var root *root
		if ev.Unlogged {
			var err error
			if root, err = d.rootOf(t, c); err != nil {
				return err
			}
		}
		if t.place < 0 {
			continue
		}
		if n := len(d.group.changes); root != nil && n > 0 && d.group.changes[n-1].root == nil {
			if err := d.handPart(); err != nil {
				return err
			}
		}
		// An update is the old row's going and the new one's coming: that covers a
		// key that changes, and a row that enters or leaves the shop. Most rows stay under
		// their key; then it is the coming alone.
		going := false
		for j, image := range [][]any{c.Before, c.After} {
			if image == nil {
				continue
			}
			if t.lacks(image) {
				return fmt.Errorf("%w: table %s: a session writes with a binlog_row_image other than FULL", errRowImage, name)
			}
			ours, err := t.owns(image, d.same)
			if err != nil {
				return fmt.Errorf("table %s: %w", name, err)
			}
			if !ours {
				continue
			}
			if ev.XA != "" && !t.joined() {
				return fmt.Errorf("%w (table %s)", errXA, name)
			}
			key, err := t.keyOf(image)
			if err != nil {
				return fmt.Errorf("%w: table %s: %w", errRowImage, name, err)
			}
			ch := change{table: t.place, key: key, xa: ev.XA != ""}
			if j == 0 {
				ch.root = root
			}
			if ch.ref, err = t.refOf(image); err != nil {
				return fmt.Errorf("%w: table %s: %w", errRowImage, name, err)
			}
			if j == 1 && !t.keyless {
				if ch.row, err = t.values(image); err != nil {
					return fmt.Errorf("%w: %w", errRowImage, err)
				}
			}
			n := len(d.group.changes)
			if j == 1 && going && d.group.changes[n-1].key == key && t.staysItself() {
				d.group.changes[n-1].row = ch.row
				d.group.weight += ch.weight() - change{key: key}.weight()
				continue
			}
			going = j == 0 && root == nil
			d.group.changes = append(d.group.changes, ch)
			d.group.weight += ch.weight()
		}
	}
	return nil
}

// staysItself reports whether nobody needs to know that a row was there before an
// update. Who has children does: a parent that comes may bring some.
func (t *table) staysItself() bool { return !t.joined() && len(t.children) == 0 }

// markers takes rows of the table of markers: the token and its number.
func (d *decoder) markers(ev *binlog.Rows) error {
	for _, c := range ev.Changes {
		if c.After == nil {
			continue
		}
		var token, n uint64
		ok := len(c.After) == 2
		if ok {
			var ok1, ok2 bool
			token, ok1 = c.After[0].(uint64)
			n, ok2 = c.After[1].(uint64)
			ok = ok1 && ok2
		}
		if !ok {
			return fmt.Errorf("%w: %s has %v, want a token and a number", errRowImage, markerTable, c.After)
		}
		if token == d.token {
			d.group.marker = n
		}
	}
	return nil
}

// matches says whether the table is the one that the log's rows are of.
func (t *table) matches(logged *binlog.Table) error {
	if len(logged.Columns) != len(t.columns) {
		return fmt.Errorf("%w: table %s has %d columns, a row in the log %d", errSchemaChanged, t.name, len(t.columns), len(logged.Columns))
	}
	for i, c := range logged.Columns {
		if !strings.EqualFold(c.Name, t.columns[i].name) {
			return fmt.Errorf("%w: column %d of table %s is %s, in the log it is %s", errSchemaChanged, i+1, t.name, t.columns[i].name, c.Name)
		}
	}
	return nil
}

// lacks reports whether a column that a row is made of is not in the log.
func (t *table) lacks(image []any) bool {
	for i, v := range image {
		if _, absent := v.(binlog.Absent); absent && !t.columns[i].generated {
			return true
		}
	}
	return false
}

// unchanged says whether the source's tables are still those that the move was
// prepared for.
func (m *move) unchanged(ctx context.Context) error {
	now, err := describe(ctx, m.src.db)
	if err != nil {
		return fmt.Errorf("look at the source's tables again: %w", err)
	}
	for _, t := range m.tables {
		if n := now[t.name]; n == nil || !slices.Equal(n.columns, t.columns) {
			return fmt.Errorf("%w: table %s is no longer what it was a moment ago", errSchemaChanged, t.name)
		}
	}
	if _, err := foreignKeys(ctx, m.src.db, now); err != nil {
		return fmt.Errorf("look at the source's foreign keys again: %w", err)
	}
	for _, t := range slices.Concat(m.tables, m.others) {
		if n := now[t.name]; n == nil || !slices.Equal(n.references(), t.references()) {
			return fmt.Errorf("%w: the foreign keys that refer to table %s are no longer what they were a moment ago", errSchemaChanged, t.name)
		}
	}
	for _, t := range m.tables {
		delete(now, t.name)
	}
	for name, t := range now {
		if t.column(m.f.shopColumn(name)) >= 0 && !slices.Contains(m.f.opts.Ignore, name) {
			return fmt.Errorf("%w: table %s has come", errSchemaChanged, name)
		}
	}
	return nil
}

// tail follows the log from a position and pushes what concerns the shop, until
// ctx ends.
func (m *move) tail(ctx context.Context, from binlog.Position, push func(context.Context, group) error) error {
	columns := []string{m.f.opts.Column}
	for _, rule := range m.f.opts.Tables {
		columns = append(columns, rule.Column)
	}
	columns = slices.DeleteFunc(columns, func(c string) bool { return c == "" || c == "id" }) // which is in every table
	d := newDecoder(m.src.cfg.DBName, m.token, m.tables, m.others, columns, func(g group) error { return push(ctx, g) })
	d.same = m.names(ctx)
	if l := m.heard; l != nil {
		m.heard = nil // who goes back in the log, goes back alone
		var err error
		from, err = l.follow(ctx, from, func(ev binlog.Event) error {
			if rows, ok := ev.(*binlog.Rows); ok && !d.wants(rows.Table.Database, rows.Table.Name) {
				return nil // which another move wants
			}
			return d.event(ev)
		})
		// Whatever ended it: a listener that nobody listens with fills its queue, and the
		// hub waits for the only one that it has.
		l.leave()
		if !errors.Is(err, errAlone) {
			return err
		}
		m.log.Debug("following the source's log alone", "position", from.String())
	}
	stream, err := binlog.New(m.src.cfg, &binlog.Options{Tables: d.wants, RetryFor: hook.Insist(ctx, patience), Logger: m.log})
	if err != nil {
		return err
	}
	return stream.Run(ctx, from, d.event)
}

// patience is for how long a source that can't be reached is waited for.
const patience = 30 * time.Second

// A queue is between the goroutine that follows the log and the applier. What is
// in it is bounded by bytes, because a group may be of any size: maxQueued and one
// group at most.
type queue struct {
	groups chan group
	bytes  atomic.Int64
	room   chan struct{} // holds one signal
}

const (
	maxQueued = 8 << 20
	maxGroups = 4096
)

func newQueue() *queue {
	return &queue{groups: make(chan group, maxGroups), room: make(chan struct{}, 1)}
}

// push is called by one goroutine.
func (q *queue) push(ctx context.Context, g group) error {
	for q.bytes.Load() > maxQueued {
		select {
		case <-q.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	q.bytes.Add(int64(g.weight))
	select {
	case q.groups <- g:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *queue) pop(ctx context.Context) (group, error) {
	select {
	case g := <-q.groups:
		q.bytes.Add(-int64(g.weight))
		select {
		case q.room <- struct{}{}:
		default:
		}
		return g, nil
	case <-ctx.Done():
		return group{}, context.Cause(ctx)
	}
}

func (q *queue) empty() bool { return len(q.groups) == 0 }

// values makes an image of the log a row that can be written.
func (t *table) values(image []any) ([]any, error) {
	row := make([]any, 0, len(image))
	for _, i := range t.writable() {
		v, err := t.columns[i].value(image[i])
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", t.name, err)
		}
		row = append(row, v)
	}
	return row, nil
}

// textTypes hold text, which the log has in the column's character set.
var textTypes = []string{"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}

// value makes a value of the log one that can be sent in a statement.
func (c column) value(v any) (any, error) {
	switch v := v.(type) {
	case nil, []byte, int64, uint64:
		return v, nil
	case string:
		if c.isText() {
			return c.text(v), nil
		}
		return v, nil
	case float32:
		// The shortest text that names this float and no other; as a float64 it
		// would be another number.
		return strconv.FormatFloat(float64(v), 'g', -1, 32), nil
	case float64: // as text, because the literal -0 is the integer 0
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case binlog.PartialJSON:
		return nil, fmt.Errorf("column %s: a session writes with binlog_row_value_options=PARTIAL_JSON, so that the log has a part of the document", c.name)
	}
	return nil, fmt.Errorf("column %s (%s): a value is %T", c.name, c.fullType, v)
}

// encoded is text in a character set other than the connection's.
type encoded struct {
	charset string
	bytes   []byte
}

func (c column) text(s string) any {
	if c.unicode() {
		return s
	}
	return encoded{c.charset, []byte(s)}
}

// unicode reports whether the column's text is the same bytes in the connection's
// character set.
func (c column) unicode() bool {
	return c.charset == "utf8mb4" || c.charset == "utf8mb3" || c.charset == "utf8" || c.charset == "ascii"
}
