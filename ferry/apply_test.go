package ferry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// A sim is a source with two tables, its log, and a mover that copies it: the
// decisions of copy.go and apply.go without servers, one small step at a time
// and in every order that a seed makes. A row is its key and a value, which is unique
// in the first table; the rows of the second stand apart.
type sim struct {
	seed   uint64
	rng    *rand.Rand
	source map[rowID]int
	log    []simGroup
	states []map[rowID]int // the source's before each group, and now

	target  map[rowID]int
	saved   []cursor // with it, in one transaction
	savedAt int      // so far the log is applied

	a       *applier
	token   int
	at      int // the next group to apply
	reached int // the last marker
	chunks  map[int]*chunk
	steps   []string // for the report of a failure

	ahead  map[rowID]bool // rows that a mover wrote that died before it wrote its place,
	behind int            // which was this
	last   bool           // no mover dies any more

	off string // a protection that is switched off: named, replace, unique, place or placed
}

// A simGroup is a transaction of the source.
type simGroup struct {
	changes []change
	marker  int
	token   int // of the mover that wrote the marker
}

const (
	simTables = 2
	simKeys   = 9
	chunkRows = 2
)

// simKey is a key. In what order they are is the source's business.
func simKey(n int) string { return string(rune('a' + n)) }

func newSim(seed uint64) *sim {
	s := &sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), source: map[rowID]int{}, target: map[rowID]int{}, ahead: map[rowID]bool{}}
	s.saved, s.savedAt = make([]cursor, simTables), -1
	for range 12 {
		s.write()
	}
	return s
}

func (s *sim) note(format string, args ...any) {
	s.steps = append(s.steps, fmt.Sprintf(format, args...))
}

// commit appends a transaction to the log.
func (s *sim) commit(next map[rowID]int, changes []change, marker int) {
	s.states = append(s.states, maps.Clone(s.source))
	s.source = next
	s.log = append(s.log, simGroup{changes, marker, s.token})
}

// write is a transaction of the shop: rows come, go, change, get other keys, or
// exchange what is unique.
func (s *sim) write() {
	next := maps.Clone(s.source)
	var changes []change
	set := func(id rowID, unique int) {
		next[id] = unique
		changes = append(changes, change{table: id.table, key: id.key, row: []any{id.key, unique}})
	}
	drop := func(id rowID) {
		delete(next, id)
		changes = append(changes, change{table: id.table, key: id.key})
	}
	for range 1 + s.rng.IntN(3) {
		table := s.rng.IntN(simTables)
		id := rowID{table, simKey(s.rng.IntN(simKeys))}
		other := rowID{table, simKey(s.rng.IntN(simKeys))}
		one, here := next[id]
		two, there := next[other]
		used := map[int]bool{}
		for id, unique := range next {
			used[unique] = used[unique] || id.table == table
		}
		free := 0
		for used[free] {
			free++
		}
		switch {
		case !here:
			set(id, free)
		case id != other && there: // an update is the old row's going and the new one's coming
			drop(id)
			drop(other)
			set(id, two)
			set(other, one)
		case !there && s.rng.IntN(2) == 0:
			drop(id)
			set(other, one)
		case s.rng.IntN(2) == 0:
			drop(id)
			set(id, free)
		default:
			drop(id)
		}
	}
	s.note("write %v", changes)
	s.commit(next, changes, 0)
}

// start begins a mover, from what the one before saved.
func (s *sim) start() {
	s.token++
	s.reached, s.chunks = 0, map[int]*chunk{}
	s.at = s.savedAt
	if s.at < 0 {
		s.at = len(s.log)
	}
	s.a = newApplier(&move{tables: []*table{{}, {place: 1}}}, s.saved, binlog.Position{})
	for i := range s.a.brought {
		s.a.brought[i] = s.savedAt >= 0
	}
	s.a.placed = s.savedAt >= 0
	s.note("mover %d from %d, cursors %+v", s.token, s.at, s.saved)
}

// follow applies the next group of the log, if there is one.
func (s *sim) follow() {
	if s.at == len(s.log) {
		return
	}
	g := s.log[s.at]
	s.at++
	marker := 0
	if g.token == s.token {
		marker = g.marker
	}
	s.a.take(group{changes: g.changes})
	switch {
	case marker != 0:
		s.flush(s.chunks[marker])
		if s.at >= s.behind {
			clear(s.ahead)
		}
		if len(s.ahead) > 0 {
			s.fail("at marker %d the rows %v are still those of a later place", marker, s.ahead)
		}
		s.reached = marker
	case s.rng.IntN(2) == 0:
		s.flush(nil)
	}
}

// flush is the applier's, with a map for a target.
func (s *sim) flush(c *chunk) {
	if len(s.a.batch) == 0 && c == nil {
		return
	}
	switch s.off {
	case "named":
		clear(s.a.named)
	case "replace":
		clear(s.a.brought)
	}
	fresh := s.a.due(c)
	put := func(table int, row []any) {
		id, unique := rowID{table, row[0].(string)}, row[1].(int)
		if _, ok := s.target[id]; ok {
			s.fail("the row %v is on the target already", id)
		}
		for other, taken := range s.target {
			if other.table == table && taken == unique && table == 0 {
				s.fail("the unique value %d of row %v is that of %v on the target", unique, id, other)
			}
		}
		s.target[id] = unique
	}
	s.writeApart(put)
	for id := range s.a.batch {
		delete(s.target, id)
	}
	for id, row := range s.a.batch {
		if row != nil {
			put(id.table, row)
		}
	}
	for _, row := range fresh {
		put(c.table, row)
	}
	s.a.settled(c)
	s.a.placed = true
	s.saved, s.savedAt = slices.Clone(s.a.cursors), s.at
	if s.at >= s.behind {
		clear(s.ahead)
	}
	s.note("applied up to %d, cursors %+v", s.at, s.saved)

	source := s.source
	if s.at < len(s.states) {
		source = s.states[s.at]
	}
	for id, unique := range s.target {
		if there, ok := source[id]; !s.ahead[id] && (!ok || there != unique) {
			s.fail("the target has %v; the source had %v", s.target, source)
		}
	}
	for id, unique := range source {
		cur := s.a.cursors[id.table]
		if _, ok := s.target[id]; !ok && !s.ahead[id] && (cur.done || cur.started && id.key <= cur.upTo || cur.limited && id.key > cur.limit) {
			s.fail("the target lacks %v = %d, which is copied", id, unique)
		}
	}
}

// writeApart writes the rows of the batch that stand apart, in any order, of which a
// mover may die.
func (s *sim) writeApart(put func(table int, row []any)) {
	if !s.a.placed && s.off != "placed" {
		return
	}
	var apart []rowID
	for id := range s.a.batch {
		if id.table == 1 || s.off == "unique" {
			apart = append(apart, id)
		}
	}
	if s.off == "place" && len(apart) > 0 {
		s.savedAt = s.at
	}
	slices.SortFunc(apart, func(a, b rowID) int { return cmp.Or(a.table-b.table, strings.Compare(a.key, b.key)) })
	s.rng.Shuffle(len(apart), func(i, j int) { apart[i], apart[j] = apart[j], apart[i] })
	var written []rowID
	for _, id := range apart {
		if !s.last && s.rng.IntN(20) == 0 {
			s.note("mover %d dies having written %v", s.token, written)
			for _, id := range written {
				s.ahead[id] = true
			}
			s.behind = max(s.behind, s.at)
			panic(simDeath{})
		}
		delete(s.target, id)
		if row := s.a.batch[id]; row != nil {
			put(id.table, row)
		}
		delete(s.a.batch, id)
		written = append(written, id)
	}
}

// simDeath is a mover's.
type simDeath struct{}

func (s *sim) fail(format string, args ...any) {
	panic(simFailure(fmt.Sprintf("seed %d: %s", s.seed, fmt.Sprintf(format, args...))))
}

type simFailure string

// run moves the shop, and returns what went wrong.
func (s *sim) run() (failure simFailure) {
	defer func() {
		if r := recover(); r != nil {
			var ok bool
			if failure, ok = r.(simFailure); !ok {
				panic(r)
			}
		}
	}()
	for s.start(); !s.copy(); s.start() {
		for range s.rng.IntN(3) {
			s.write() // while no mover lives
		}
	}
	s.last = true
	for s.at < len(s.log) {
		s.follow()
	}
	s.flush(nil)
	if !maps.Equal(s.target, s.source) {
		s.fail("the target has %v, the source %v", s.target, s.source)
	}
	return ""
}

// pass lets others do something, now and then.
func (s *sim) pass() {
	for s.rng.IntN(3) > 0 {
		if s.rng.IntN(2) == 0 {
			s.write()
		} else {
			s.follow()
		}
	}
}

// mark writes a marker and hands over the chunk.
func (s *sim) mark(n int, c *chunk) {
	s.chunks[n] = c
	s.commit(s.source, nil, n)
}

func (s *sim) await(n int) {
	for s.reached < n {
		s.pass()
		s.follow()
	}
}

// copy is what copyTables does. It reports whether it came to the end.
func (s *sim) copy() (end bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(simDeath); !ok {
				panic(r)
			}
		}
	}()
	n := 1
	cursors := slices.Clone(s.saved)
	s.mark(n, nil)
	s.await(n)
	if !cursors[0].limited {
		for i := range cursors {
			s.pass()
			cursors[i] = cursor{limited: true, done: true}
			for id := range s.source {
				if id.table == i && (cursors[i].done || id.key > cursors[i].limit) {
					cursors[i].limit, cursors[i].done = id.key, false
				}
			}
		}
		s.pass()
		n++
		s.mark(n, &chunk{limits: slices.Clone(cursors)})
		s.await(n)
	}
	for i := range cursors {
		for c := &cursors[i]; !c.done; {
			if s.rng.IntN(12) == 0 {
				s.note("mover %d dies", s.token)
				return false
			}
			next := s.read(i, *c)
			s.pass()
			s.await(n) // the marker before
			s.pass()
			n++
			s.mark(n, next)
			c.started, c.upTo, c.done = true, next.upTo, next.last
		}
	}
	s.await(n)
	return true
}

// read reads a chunk of the source as it is now.
func (s *sim) read(table int, after cursor) *chunk {
	c := &chunk{table: table, upTo: after.limit, last: true}
	for n := range simKeys {
		key := simKey(n)
		unique, ok := s.source[rowID{table, key}]
		if !ok || key > after.limit || after.started && key <= after.upTo {
			continue
		}
		c.keys, c.rows = append(c.keys, key), append(c.rows, []any{key, unique})
		if len(c.keys) == chunkRows {
			if key < after.limit {
				c.upTo, c.last = key, false
			}
			break
		}
	}
	s.note("read %+v", *c)
	return c
}

func TestChunksAndLogGiveTheSourceInEveryOrder(t *testing.T) {
	first, n := rand.Uint64()>>16, uint64(1000)
	if testing.Short() {
		n = 100
	}
	t.Logf("seeds from %d", first)
	for seed := first; seed < first+n; seed++ {
		s := newSim(seed)
		if failure := s.run(); failure != "" {
			for _, step := range s.steps {
				t.Log(step)
			}
			t.Fatal(failure)
		}
	}
}

// The twins of the test above: without one of its rules the applier damages some
// row in some order.
func TestWithoutItsRulesTheApplierDamagesRows(t *testing.T) {
	t.Parallel()
	for _, off := range []string{"named", "replace", "unique", "place", "placed"} {
		seed := uint64(0)
		for ; seed < 1000; seed++ {
			s := newSim(seed)
			s.off = off
			if failure := s.run(); failure != "" {
				t.Logf("without %s: %s", off, failure)
				break
			}
		}
		if seed == 1000 {
			t.Errorf("without %s nothing went wrong in 1000 orders", off)
		}
	}
}

// One transaction on the target takes it from one place of the log to the next:
// the changed rows, the new ones, and the place. Here a row of the chunk has the
// unique value that a changed row gives up.
func TestAFlushWritesRowsAndPlaceTogether(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		ctx := t.Context()
		s := testcluster.Shared(t, f, "target")
		c, err := mysql.NewConnector(s.Config(testcluster.Database(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		defer db.Close()
		for _, stmt := range append(Schema(),
			`CREATE TABLE stamps (shop_id INT NOT NULL, id INT NOT NULL, code VARCHAR(9) NOT NULL UNIQUE, PRIMARY KEY (shop_id, id))`,
			`INSERT INTO stamps VALUES (7, 3, 'a'), (7, 4, 'c'), (8, 3, 'other')`,
			`INSERT INTO podworks_fence VALUES (7, 0, 'incoming', 0, 5)`) {
			if _, err := db.ExecContext(ctx, stmt); err != nil {
				t.Fatal(err)
			}
		}
		stamps := &table{name: "stamps", tenant: "7", columns: []column{{name: "shop_id", dataType: "int"}, {name: "id", dataType: "int"}, {name: "code", dataType: "varchar", charset: "utf8mb4"}}, key: []int{1}}
		key := func(id string) string { return joinKey([][]byte{[]byte(id)}) }
		begin := func(token uint64) *applier {
			m := &move{shop: 7, token: token, tables: []*table{stamps}, dst: &server{db: db}}
			return newApplier(m, []cursor{{started: true, upTo: key("5"), limited: true, limit: key("20")}}, binlog.Position{})
		}
		swap := group{end: binlog.Position{File: "log.2", Offset: 77}, changes: []change{
			{key: key("3")}, {key: key("10")}, {key: key("3"), row: []any{7, 3, "b"}}, {key: key("10"), row: []any{7, 10, "a"}}, {key: key("4")},
		}}
		read := &chunk{upTo: key("15"), keys: []string{key("10"), key("11")}, rows: [][]any{{7, 10, "b"}, {7, 11, "d"}}}
		have := func() (text string) {
			t.Helper()
			if err := db.QueryRowContext(ctx, `SELECT CONCAT_WS(' ',
				(SELECT GROUP_CONCAT(shop_id, ':', id, '=', code ORDER BY shop_id, id) FROM stamps),
				(SELECT GROUP_CONCAT(position) FROM podworks_ferry_tail),
				(SELECT GROUP_CONCAT(started, ' ', HEX(last_key), ' ', HEX(last_limit), ' ', done) FROM podworks_ferry_copy))`).Scan(&text); err != nil {
				t.Fatal(err)
			}
			return text
		}
		const before = "7:3=a,7:4=c,8:3=other"

		late := begin(4) // of a mover that was replaced
		late.take(swap)
		if err := late.flush(ctx, read); !errors.Is(err, fence.ErrToken) {
			t.Errorf("under an earlier token: got %v, want ErrToken", err)
		}
		if got := have(); got != before {
			t.Errorf("under an earlier token: got %s, want %s", got, before)
		}

		taken := begin(5)
		taken.take(group{end: binlog.Position{File: "log.2", Offset: 60}, changes: []change{{key: key("3"), row: []any{7, 3, "other"}}}})
		if err := taken.flush(ctx, nil); err == nil || !strings.Contains(err.Error(), "table stamps") {
			t.Errorf("with a unique value of another shop: got %v, want an error that names the table", err)
		}
		if got := have(); got != before {
			t.Errorf("with a unique value of another shop: got %s, want %s", got, before)
		}

		a := begin(5)
		a.take(swap)
		if err := a.flush(ctx, read); err != nil {
			t.Fatal(err)
		}
		if got, want := have(), "7:3=b,7:10=a,7:11=d,8:3=other log.2:77 1 023135 023230 0"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// The target's server may roll a transaction of the applier back in favour of
// another shop's; it is written again.
func TestWhatTheTargetRolledBackIsWrittenAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		ctx := t.Context()
		s := testcluster.Shared(t, f, "target")
		cfg := s.Config(testcluster.Database(t, s))
		cfg.Params = map[string]string{"innodb_lock_wait_timeout": "1"}
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		defer db.Close()
		for _, stmt := range append(Schema(),
			`CREATE TABLE stamps (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL)`,
			`INSERT INTO podworks_fence VALUES (7, 0, 'incoming', 0, 5)`) {
			if _, err := db.ExecContext(ctx, stmt); err != nil {
				t.Fatal(err)
			}
		}
		other, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Rollback()
		if _, err := other.ExecContext(ctx, `INSERT INTO stamps VALUES (3, 8)`); err != nil {
			t.Fatal(err)
		}
		again := 0
		stamps := &table{name: "stamps", tenant: "7", columns: []column{{name: "id", dataType: "int"}, {name: "shop_id", dataType: "int"}}, shop: 1, key: []int{0}}
		m := &move{shop: 7, token: 5, tables: []*table{stamps}, dst: &server{db: db}, log: slog.New(called{func() {
			again++
			other.Rollback()
		}})}
		a := newApplier(m, []cursor{{limited: true}}, binlog.Position{})
		read := &chunk{last: true, keys: []string{"\x012", "\x013"}, rows: [][]any{{2, 7}, {3, 7}}}
		a.take(group{end: binlog.Position{File: "log.2", Offset: 77}})
		if err := a.flush(ctx, read); err != nil {
			t.Fatal(err)
		}
		var n int
		var pos string
		if err := db.QueryRowContext(ctx, `SELECT COUNT(*), (SELECT position FROM podworks_ferry_tail) FROM stamps WHERE shop_id = 7`).Scan(&n, &pos); err != nil {
			t.Fatal(err)
		}
		if again != 1 || n != 2 || pos != "log.2:77" || !a.cursors[0].done {
			t.Errorf("got %d rows, place %s and cursor %+v after writing %d times again; want 2 rows, log.2:77, done, once", n, pos, a.cursors[0], again)
		}
	})
}

// called is a slog.Handler that calls a function for every record.
type called struct{ fn func() }

func (c called) Enabled(context.Context, slog.Level) bool  { return true }
func (c called) Handle(context.Context, slog.Record) error { c.fn(); return nil }
func (c called) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c called) WithGroup(string) slog.Handler             { return c }
