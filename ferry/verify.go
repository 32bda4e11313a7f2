package ferry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/podworks/podworks/internal/hook"
)

// A verifier compares the shop's rows on both sides, both ways, while both
// change: first all of them, then those that the log touches, at last under the lock.
//
// What this amounts to is a comparison of the whole shop at one place of the log,
// the marker under the lock, P. Take any key that has a row on either side at P.
//
//   - all was told of every change that the log has after the place A at which
//     it began, and reads the source when that shows everything up to A. Rows that
//     differ are soiled, as is every row that the log names after A. So a row that
//     is clean was compared equal as of A or later, and wasn't named since.
//   - A soiled row becomes clean only when it is compared: it is taken, the source
//     is read when that shows everything the log had when it was taken, and the
//     target when it has everything the source had. Found equal, and not named
//     meanwhile, it is as of the last place. Found different, or named, it is
//     soiled again. When the comparison fails halfway, all that was taken is.
//   - Under the lock the log has come to P, and nobody writes. All that is soiled
//     is compared. So every row was compared equal after its last change up to P.
//
// What foreign keys change without the log counts as named by the event behind which
// they do it (see cascade.go).
//
// On the source nothing but the log's transactions changes rows, on the target
// nothing but the applier. Where that doesn't hold (a session without a log on the
// source, one without the fence on the target), [proof] finds it, which
// compares the whole shop once more as it was at P.
//
// There is no comparison now and then while the log is followed: all is followed
// by the cutover at once, and that has at most [Options.Attempts] tries.
type verifier struct {
	*comparer
	m        *move
	rows     int64 // compared
	took     time.Duration
	covered  []bool // by table: all of it was compared while it was tracked
	repaired found
	locks    int64 // rows compared under the lock
}

func (m *move) newVerifier(ctx context.Context) (*verifier, error) {
	c, err := newComparer(ctx, m.src, m.dst, m.tables)
	if err != nil {
		return nil, err
	}
	c.compared = m.compared
	return &verifier{comparer: c, m: m, covered: make([]bool, len(m.tables))}, nil
}

// earlyRows are compared of the first chunk of each table.
const earlyRows = 200

// early compares the first rows of a table as soon as they are copied. What goes
// wrong with a whole column (a trigger that was added since the plan, a setting, a
// type that the copy misunderstands) then shows in the first second, and not
// after hours of copying. It is no proof: what differs in fewer rows is all's to
// find, and every other chunk's checksum would only say earlier what all says of
// all rows.
func (v *verifier) early(ctx context.Context, c *chunk) error {
	m, t := v.m, v.m.tables[c.table]
	keys := c.keys[:min(len(c.keys), earlyRows)]
	if t.keyless || len(keys) == 0 || hook.Off(ctx, hook.Compare) {
		return nil
	}
	if m.track() {
		defer m.untrack()
	}
	if err := m.sync(ctx); err != nil { // as in all
		return err
	}
	source, err := rowSumsOf(ctx, m.src.db, t, v.source[c.table].expr, keys)
	if err != nil {
		return err
	}
	if err := m.sync(ctx); err != nil {
		return err
	}
	target, err := rowSumsOf(ctx, m.dst.db, t, v.target[c.table].expr, keys)
	if err != nil {
		return err
	}
	wrong := slices.DeleteFunc(differing(source, target), func(key string) bool {
		_, there := target[key]
		return t.joined() && !there // it may wait for its parent, which came again since
	})
	return v.systematic(ctx, c.table, len(keys), wrong, source, target)
}

// begin decides what all leaves out. Where rows were lost from memory, nothing; and
// where nothing is left out, what was touched before all begins is of no interest.
// From here on all that is touched is remembered.
func (v *verifier) begin() {
	m := v.m
	if m.dirtyRows() > m.mostTouched {
		v.forget()
	}
	if !slices.Contains(v.covered, true) {
		m.untrack()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fromStart, m.lost = false, false
}

// forget takes back that tables were compared.
func (v *verifier) forget() {
	clear(v.covered)
	v.rows = 0
}

// all compares every row of the shop, but for the tables that were compared behind
// the copy. What differs is in m.dirty afterwards, with what was touched meanwhile.
func (v *verifier) all(ctx context.Context) error {
	m := v.m
	m.track()
	if hook.Off(ctx, hook.Compare) {
		return nil
	}
	// MySQL shows a transaction in its log before it shows the rows. With a later
	// one committed, the source shows all that was taken from the log before track.
	// And a parent that came before that was not remembered: now its children are
	// among what is compared (see dirty).
	if err := m.sync(ctx); err != nil {
		return err
	}
	for i, t := range m.tables {
		if v.covered[i] {
			continue
		}
		m.report("verify", t.name)
		spans, err := v.spans(ctx, m.src.db, t)
		if err != nil {
			return fmt.Errorf("verify table %s: %w", t.name, err)
		}
		list := make([]tableSpan, len(spans))
		for j, s := range spans {
			list[j] = tableSpan{table: i, span: s}
		}
		// A few at a time: what changes between the look at the source and the one at the
		// target is looked at row by row, and a throttle may keep them apart.
		rows := int64(0)
		for part := range slices.Chunk(list, 2*atOnce) {
			n, err := v.ranges(ctx, part)
			if err != nil {
				return err
			}
			rows += n
		}
		v.rows += rows
		v.covered[i] = true
	}
	return nil
}

// A tableSpan is a range of a table's keys.
type tableSpan struct {
	table int
	span
	fresh bool // the first of its table, just copied
}

// ranges compares ranges of keys and returns how many rows they have. They may be compared as soon as the applier has
// come to a marker that was written after track began, and has written their rows.
func (v *verifier) ranges(ctx context.Context, list []tableSpan) (rows int64, err error) {
	m := v.m
	hook.Step(ctx, "compare")
	start := time.Now()
	defer func() { v.took += time.Since(start) }()
	sums := func(s *server, side []rowSum, where string) ([]checksum, error) {
		out := make([]checksum, len(list))
		ask := newCrew(ctx, atOnce)
		for j, s1 := range list {
			ask.run(func(ctx context.Context) (err error) {
				t := m.tables[s1.table]
				if out[j], err = sum(ctx, s.db, t.sumQuery(side[s1.table].expr, s1.span)); err != nil {
					return fmt.Errorf("verify table %s on the %s: %w", t.name, where, err)
				}
				return m.compared(ctx, out[j].rows)
			})
		}
		return out, ask.wait()
	}
	source, err := sums(m.src, v.source, "source")
	if err != nil {
		return 0, err
	}
	if err := m.sync(ctx); err != nil {
		return 0, err
	}
	target, err := sums(m.dst, v.target, "target")
	if err != nil {
		return 0, err
	}
	for j, s := range list {
		if target[j] == source[j] {
			continue
		}
		t := m.tables[s.table]
		if t.keyless {
			m.soil(s.table, []string{""})
			continue
		}
		where := t.ofShopByKey() + s.where(t)
		a, err := rowSums(ctx, m.src.db, t, v.source[s.table].expr, where)
		if err != nil {
			return 0, err
		}
		if err := m.sync(ctx); err != nil {
			return 0, err
		}
		b, err := rowSums(ctx, m.dst.db, t, v.target[s.table].expr, where)
		if err != nil {
			return 0, err
		}
		wrong := differing(a, b)
		if s.fresh {
			if err := v.systematic(ctx, s.table, len(a), wrong, a, b); err != nil {
				return 0, err
			}
		}
		m.soil(s.table, wrong)
		if err := m.looked(ctx, int64(len(a)+len(b))); err != nil {
			return 0, err
		}
	}
	for _, c := range source {
		rows += c.rows
	}
	return rows, nil
}

// fewWrong rows say nothing of a whole column; they are copied again.
const fewWrong = 3

// systematic fails if most of the rows that were just copied differ, and are not just
// being changed: something is wrong with a whole column.
func (v *verifier) systematic(ctx context.Context, table, rows int, wrong []string, source, target map[string]checksum) error {
	m, t := v.m, v.m.tables[table]
	wrong = slices.DeleteFunc(slices.Clone(wrong), func(key string) bool { return m.isDirty(rowID{table, key}) })
	if len(wrong) <= max(rows/2, fewWrong) {
		return nil
	}
	var differ found
	if err := v.note(ctx, &differ, m.src.db, m.dst.db, table, wrong, source, target, true); err != nil {
		return err
	}
	return differ.err(m.shop, fmt.Sprintf(", of the first %d of table %s, as soon as they were copied; see what the target's triggers do, and plan again", rows, t.name))
}

// maxTouched bounds the rows that are remembered for a comparison behind the copy. With
// more of them everything is compared after the copy.
const maxTouched = 100_000

// offMany has a test do with fewer.
const offMany hook.Protection = "verify: none, few touched rows are remembered"

// overlap compares the waves behind the copy: compare takes one that is on the
// target. stop ends that, after all of it is done or at once.
func (v *verifier) overlap(ctx context.Context, cursors []cursor) (compare func([]*part) error, stop func(all bool) error) {
	m := v.m
	if hook.Off(ctx, hook.Compare) {
		return func([]*part) error { return nil }, func(bool) error { return nil }
	}
	whole := make([]bool, len(cursors)) // is copied from its beginning
	for i, c := range cursors {
		whole[i] = !c.started
	}
	inner, fail := context.WithCancelCause(ctx)
	waves, ended := make(chan []tableSpan, 2), make(chan struct{})
	go func() {
		defer close(ended)
		for list := range waves {
			var rows int64
			if err := m.ask(inner, func() (err error) { rows, err = v.ranges(inner, list); return err }); err != nil {
				fail(fmt.Errorf("verify: %w", err))
				return
			}
			v.rows += rows
			for _, s := range list {
				if s.high == "" {
					v.covered[s.table] = true
				}
			}
		}
	}()
	running := true
	stop = func(all bool) error {
		if !running {
			return nil
		}
		running = false
		if !all {
			fail(context.Canceled)
		}
		close(waves)
		<-ended
		defer fail(nil)
		return context.Cause(inner)
	}
	seen := make([]bool, len(cursors)) // some of it was copied by this mover
	return func(parts []*part) error {
		if running && (m.dirtyRows() > m.mostTouched || hook.Off(ctx, hook.Overlap)) {
			m.log.Info("the shop changes faster than it is copied; it is compared after the copy")
			_ = stop(false) // what it was at counts no more
			m.untrack()
			v.forget()
		}
		var list []tableSpan
		for _, p := range parts {
			first := !seen[p.table]
			seen[p.table] = true
			if !running || !whole[p.table] {
				if first {
					if err := v.early(ctx, &chunk{table: p.table, keys: p.keys}); err != nil {
						return err
					}
				}
				continue
			}
			s := tableSpan{table: p.table, span: p.span, fresh: p.low == ""}
			if p.last { // and whatever is behind it on the target
				s.high = ""
			}
			list = append(list, s)
		}
		if len(list) == 0 {
			return nil
		}
		select {
		case waves <- list:
			return nil
		case <-ended:
			return context.Cause(inner)
		}
	}, stop
}

// dirty compares the rows that were touched, or found different, since they
// were last compared, and copies again those that differ for no reason. It
// returns how many are left to compare.
func (v *verifier) dirty(ctx context.Context) (left int, err error) {
	m := v.m
	var keys map[int][]string
	defer func() {
		if err != nil && !hook.Off(ctx, hook.Soil) {
			m.soilAll(keys)
		}
	}()
	if hook.Off(ctx, hook.Compare) {
		m.takeDirty()
		return 0, nil
	}
	if m.hasParents() {
		if err := m.sync(ctx); err != nil {
			return 0, err
		}
		if err := v.children(ctx, m.src.db); err != nil {
			return 0, err
		}
	}
	keys = m.takeDirty()
	// MySQL shows a transaction in its log before it shows the rows. With a later
	// one committed, the source shows all that has been taken from the log.
	if err := m.sync(ctx); err != nil {
		return 0, err
	}
	source := map[int]map[string]checksum{}
	for i, part := range keys {
		sums, err := rowSumsOf(ctx, m.src.db, m.tables[i], v.source[i].expr, part)
		if err != nil {
			return 0, err
		}
		source[i] = sums
	}
	if err := m.sync(ctx); err != nil {
		return 0, err
	}
	for i, part := range keys {
		target, err := rowSumsOf(ctx, m.dst.db, m.tables[i], v.target[i].expr, part)
		if err != nil {
			return 0, err
		}
		var wrong []string
		for _, key := range differing(source[i], target) {
			if !m.isDirty(rowID{i, key}) {
				wrong = append(wrong, key)
			}
		}
		if len(wrong) == 0 {
			continue
		}
		if !m.tables[i].keyless { // which is how what changes there is brought over
			m.log.Warn("rows differ on the target and are copied again", "table", m.tables[i].name, "rows", len(wrong))
			if err := v.note(ctx, &v.repaired, m.src.db, m.dst.db, i, wrong, source[i], target, true); err != nil {
				return 0, err
			}
		}
		if err := m.repair(ctx, i, wrong); err != nil {
			return 0, err
		}
		m.soil(i, wrong)
	}
	return m.dirtyRows(), nil
}

// locked compares, under the lock, the rows touched since they were last
// compared: the source through the session that holds the lock. It returns
// what it compared, so that a step back can have it compared again.
func (v *verifier) locked(ctx context.Context, lock querier) (keys map[int][]string, err error) {
	m := v.m
	if err := v.children(ctx, lock); err != nil {
		return nil, err
	}
	keys = m.takeDirty()
	var differ found
	v.locks = 0
	for i, part := range keys {
		if m.tables[i].keyless {
			// The log says that it was written to, and not what. It is small, and
			// nobody writes to it any more.
			if err := m.repair(ctx, i, part); err != nil {
				return keys, err
			}
		}
		source, err := rowSumsOf(ctx, lock, m.tables[i], v.source[i].expr, part)
		if err != nil {
			return keys, err
		}
		target, err := rowSumsOf(ctx, m.dst.db, m.tables[i], v.target[i].expr, part)
		if err != nil {
			return keys, err
		}
		v.locks += int64(len(part))
		// Writers wait: which columns it is, the comparison before the next try asks.
		if err := v.note(ctx, &differ, nil, nil, i, differing(source, target), source, target, false); err != nil {
			return keys, err
		}
	}
	return keys, differ.err(m.shop, " under the lock, of those touched since they were last compared")
}
