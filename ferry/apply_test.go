package ferry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// A sim is a source with two tables, its log, and a mover that copies it: the
// decisions of copy.go and apply.go without servers, one small step at a time
// and in every order that a seed makes. A row is its key and a value that is
// unique in its table.
type sim struct {
	t      *testing.T
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
}

// A simGroup is a transaction of the source.
type simGroup struct {
	changes []change
	marker  int
	token   int // of the mover that wrote the marker
}

const (
	simTables = 2
	simKeys   = 9 // from -2
	chunkRows = 2
)

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), source: map[rowID]int{}, target: map[rowID]int{}}
	s.saved, s.savedAt = make([]cursor, simTables), -1
	for range 12 {
		s.write()
	}
	return s
}

func (s *sim) note(format string, args ...any) { s.steps = append(s.steps, fmt.Sprintf(format, args...)) }

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
		changes = append(changes, change{id.table, id.key, []any{id.key, unique}})
	}
	drop := func(id rowID) {
		delete(next, id)
		changes = append(changes, change{id.table, id.key, nil})
	}
	for range 1 + s.rng.IntN(3) {
		table := s.rng.IntN(simTables)
		id := rowID{table, s.rng.Int64N(simKeys) - 2}
		other := rowID{table, s.rng.Int64N(simKeys) - 2}
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
	s.a = &applier{m: &move{}, cursors: slices.Clone(s.saved), batch: map[rowID][]any{}, pending: map[rowID][]any{}}
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
	fresh := s.a.due(c)
	put := func(table int, row []any) {
		id, unique := rowID{table, row[0].(int64)}, row[1].(int)
		if _, ok := s.target[id]; ok {
			s.fail("the row %v is on the target already", id)
		}
		for other, taken := range s.target {
			if other.table == table && taken == unique {
				s.fail("the unique value %d of row %v is that of %v on the target", unique, id, other)
			}
		}
		s.target[id] = unique
	}
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
	s.saved, s.savedAt = slices.Clone(s.a.cursors), s.at
	s.note("applied up to %d, cursors %+v", s.at, s.saved)

	source := s.source
	if s.at < len(s.states) {
		source = s.states[s.at]
	}
	want := map[rowID]int{}
	for id, unique := range source {
		if s.a.cursors[id.table].covers(id.key) {
			want[id] = unique
		}
	}
	if !maps.Equal(s.target, want) {
		s.fail("the target has %v; the source had %v, as far as it is copied", s.target, want)
	}
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	for _, step := range s.steps {
		s.t.Log(step)
	}
	s.t.Fatalf(format, args...)
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
func (s *sim) copy() bool {
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
	c := &chunk{table: table, after: after, upTo: after.limit, last: true}
	for key := int64(-2); key < simKeys; key++ {
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
	first, n := rand.Uint64()>>16, uint64(3000)
	if testing.Short() {
		n = 300
	}
	t.Logf("seeds from %d", first)
	for seed := first; seed < first+n; seed++ {
		s := newSim(t, seed)
		for s.start(); !s.copy(); s.start() {
			for range s.rng.IntN(3) {
				s.write() // while no mover lives
			}
		}
		for s.at < len(s.log) {
			s.follow()
		}
		s.flush(nil)
		if !maps.Equal(s.target, s.source) {
			s.fail("seed %d: the target has %v, the source %v", seed, s.target, s.source)
		}
	}
}
