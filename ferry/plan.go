package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/flavor"
)

// A Plan says what a move would do, and what speaks against it. It is a value
// to be stored or sent as JSON, and a report: [Plan.String]. Nothing was touched
// to make it.
type Plan struct {
	From     podworks.Route
	To       podworks.PodID
	Tables   []TablePlan // in the order of the copy
	Findings []Finding   // the gravest first
	Estimate Estimate
}

// A TablePlan is one table's part of a Plan.
type TablePlan struct {
	Name  string
	Rows  int64    // of the shop, counted
	Bytes int64    // of their values, from the average of up to 1,000 rows
	Key   []string // the columns that tell rows apart
	Index string   // of the source, that finds the shop's rows; "" if there is none

	// LargestValue is the bytes that the largest value takes to send. It is asked
	// for only in tables whose columns allow values that might not fit a packet.
	LargestValue int64

	// AutoIncrement is the next value on the source, TargetAutoIncrement that on
	// the target; 0 without such a column.
	AutoIncrement, TargetAutoIncrement uint64
}

// Rows returns the number of rows to copy.
func (p *Plan) Rows() int64 {
	var n int64
	for _, t := range p.Tables {
		n += t.Rows
	}
	return n
}

// Bytes returns about how many bytes of values there are to copy.
func (p *Plan) Bytes() int64 {
	var n int64
	for _, t := range p.Tables {
		n += t.Bytes
	}
	return n
}

// Refused reports whether something speaks against the move.
func (p *Plan) Refused() bool {
	return slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Severity == Refuse })
}

// Plan checks whether shop can be moved to pod to, and says what that would do.
//
// When something speaks against the move Plan returns both: the plan, with every
// finding and whatever else could be found out, and an error that is ErrRefused
// and names the reasons. Move returns the same error; only how long a log of
// limited size lasts is Plan's alone to find, because it takes watching. With
// any other error there is no plan.
//
// Plan writes nothing. It reads the shop's keys once where another shop could
// have them on the target, and every row of tables with columns so long that a
// row might not fit a packet; and it watches the source's log for a fifth of a
// second.
func (f *Ferry) Plan(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*Plan, error) {
	resumed, found, err := f.underWay(ctx, shop, to)
	if err != nil {
		return nil, err
	}
	src, dst, p, err := f.examine(ctx, shop, to, resumed)
	if err != nil {
		return nil, err
	}
	if src != nil {
		defer src.db.Close()
		defer dst.db.Close()
		if err := watchLog(ctx, src, p); err != nil {
			return nil, err
		}
	}
	p.find(found...)
	p.sort()
	return &p.Plan, p.refused()
}

// underWay returns the unfinished move of the shop that Move would go on with,
// and says what is unfinished.
func (f *Ferry) underWay(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*podworks.Move, []Finding, error) {
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("ferry: %w", err)
	}
	for _, mv := range moves {
		if mv.From.Shop != shop {
			continue
		}
		found := []Finding{{
			Severity: Warn,
			What:     fmt.Sprintf("move %d of the shop to pod %d is unfinished: %s, at step %q, last heard of %v ago", mv.Token, mv.To.Pod, mv.State, mv.Step, mv.Idle.Round(time.Millisecond)),
			Do:       fmt.Sprintf("wait for its end; if its mover is dead, Move goes on with it or undoes it after %v of silence", f.opts.Lease),
		}}
		if mv.State == podworks.MoveRunning && mv.To.Pod == to {
			return &mv, found, nil
		}
		return nil, found, nil
	}
	return nil, nil, nil
}

// A prepared plan has what the move needs besides.
type prepared struct {
	Plan
	flavor   flavor.Flavor
	tables   []*table
	others   []*table                             // that are not moved, and to which foreign keys of the moved refer that change rows
	unlogged bool                                 // what foreign keys change on the source isn't in its log
	tenant   any                                  // what the shop is called in its rows
	left     bool                                 // the shop left the target for the source, and its rows there are gone on with
	settings map[podworks.PodID]map[string]string // each server's variables
	schemas  map[podworks.PodID]map[string]*schema
	log      look // at the source's log, when the inspection began
}

// find adds findings to the plan.
func (p *prepared) find(found ...Finding) { p.Findings = append(p.Findings, found...) }

// sort puts the gravest findings first, and those of one kind together.
func (p *prepared) sort() {
	grave := map[Severity]int{Refuse: 0, Warn: 1, Note: 2}
	slices.SortStableFunc(p.Findings, func(a, b Finding) int { return grave[a.Severity] - grave[b.Severity] })
}

// refusal makes one error of all that speaks against a move.
func refusal(shop podworks.ShopID, to podworks.PodID, faults []error) error {
	var b strings.Builder
	fmt.Fprintf(&b, "move shop %d to pod %d:", shop, to)
	for _, fault := range faults {
		b.WriteString("\n  - " + fault.Error())
	}
	return fmt.Errorf("%w: %w", ErrRefused, &faultList{text: b.String(), faults: faults})
}

type faultList struct {
	text   string
	faults []error
}

func (f *faultList) Error() string   { return f.text }
func (f *faultList) Unwrap() []error { return f.faults }

// refused returns the error of a plan that something speaks against, or nil.
func (p *prepared) refused() error {
	var faults []error
	for _, f := range p.Findings {
		if f.Severity == Refuse {
			faults = append(faults, findingError{f})
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return refusal(p.From.Shop, p.To, faults)
}

// prepare examines the move and opens both ends of it, unless it is refused.
// What it should not be refused for goes to the log.
func (f *Ferry) prepare(ctx context.Context, shop podworks.ShopID, to podworks.PodID, resumed *podworks.Move) (src, dst *server, p *prepared, err error) {
	src, dst, p, err = f.examine(ctx, shop, to, resumed)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, found := range p.Findings {
		if found.Severity == Warn {
			f.opts.Logger.Warn("move planned", "shop", shop, "to", to, "found", found.String())
		}
	}
	if err = p.refused(); err != nil && src != nil {
		src.db.Close()
		dst.db.Close()
	}
	return src, dst, p, err
}

// examine checks everything that can be known beforehand. What it found is in
// the plan; an error means that it could not go on. resumed is the unfinished
// move of the same shop and pod that the new one would take over: its rows may
// be on the target already. The servers are nil if it did not come to them.
func (f *Ferry) examine(ctx context.Context, shop podworks.ShopID, to podworks.PodID, resumed *podworks.Move) (src, dst *server, p *prepared, err error) {
	p = &prepared{Plan: Plan{From: podworks.Route{Shop: shop}, To: to}, settings: map[podworks.PodID]map[string]string{}}
	from, err := f.dir.Fresh(ctx, shop)
	if errors.Is(err, directory.ErrUnknownShop) {
		p.find(fault(err))
		return nil, nil, p, nil
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("ferry: %w", err)
	}
	p.From = from
	if from.Pod == to {
		p.find(Finding{Severity: Refuse, What: fmt.Sprintf("the shop is in pod %d already", to), Do: "choose another one"})
		return nil, nil, p, nil
	}
	src, dst, err = f.pair(from.Pod, to)
	if err != nil {
		p.find(fault(err))
		return nil, nil, p, nil
	}
	if err := f.inspect(ctx, src, dst, p, resumed); err != nil {
		src.db.Close()
		dst.db.Close()
		return nil, nil, nil, err
	}
	p.sort()
	return src, dst, p, nil
}

// inspect finds what speaks against the move, as far as it can be found out: a
// server that can't be asked hides the rest.
func (f *Ferry) inspect(ctx context.Context, src, dst *server, p *prepared, resumed *podworks.Move) error {
	if ok := identify(ctx, src, dst, p); !ok {
		return nil
	}
	for _, s := range []*server{src, dst} {
		if err := inspectServer(ctx, s, p); err != nil {
			return fmt.Errorf("ferry: ask pod %d for its settings: %w", s.pod, err)
		}
		if err := grants(ctx, s, p); err != nil {
			return fmt.Errorf("ferry: ask pod %d for the user's privileges: %w", s.pod, err)
		}
	}
	p.compareSettings()
	usable := !p.Refused()

	faults, err := f.inspectTables(ctx, src, dst, p)
	if err != nil {
		return fmt.Errorf("ferry: compare the schemas of pods %d and %d: %w", src.pod, dst.pod, err)
	}
	for _, err := range faults {
		p.find(fault(err))
	}
	if err := p.compareSchemas(ctx, src, dst); err != nil {
		return fmt.Errorf("ferry: compare the schemas of pods %d and %d: %w", src.pod, dst.pod, err)
	}
	f.inspectIndexes(ctx, src, dst, p)
	usable = usable && !p.Refused()

	own, err := f.inspectFences(ctx, src, dst, p, resumed)
	if err != nil {
		return fmt.Errorf("ferry: read the fences of pods %d and %d: %w", src.pod, dst.pod, err)
	}
	if p.log, err = lookAtLog(ctx, src, p.flavor); err != nil {
		p.log = look{} // a privilege is missing, which is a finding already, or the log is off
	}
	if usable {
		f.try(ctx, src, dst, p)
	} else {
		p.find(Finding{Severity: Note, What: "privileges on the tables, and keys that other shops may have taken on the target, are only looked for when what speaks against the move is mended"})
	}
	if err := f.inspectRows(ctx, src, dst, p, own, usable); err != nil {
		return err
	}
	if err := p.inspectJoins(ctx, src, dst); err != nil {
		return err
	}
	return f.estimate(ctx, src, dst, p)
}

var integers = []string{"tinyint", "smallint", "mediumint", "int", "bigint"}

// others are the types of other columns whose values both the copy and the log
// carry unchanged. What is in neither list is refused.
var others = []string{"decimal", "float", "double", "bit", "year", "date", "time", "datetime", "timestamp", "enum", "set",
	"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "json", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob",
	"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection",
	"uuid", "inet4", "inet6", "vector"}

// unsupported says what is wrong with a column's type, and what helps, if it can't be moved.
func (c column) unsupported(f flavor.Flavor) string {
	switch {
	case strings.Contains(strings.ToLower(c.fullType), "compressed"):
		return "whose values the log has compressed; declare it without COMPRESSED on both pods"
	case !slices.Contains(integers, c.dataType) && !slices.Contains(others, c.dataType),
		c.dataType == "vector" && f == flavor.MariaDB: // which logs it in another way
		return "a type that is not supported; give it another one on both pods"
	}
	return ""
}

// inspectTables compares the schemas and fills in the plan's tables.
func (f *Ferry) inspectTables(ctx context.Context, src, dst *server, p *prepared) (faults []error, err error) {
	if p.tenant, err = f.tenantOf(ctx, p.From.Shop); err != nil {
		return nil, err
	}
	source, err := describe(ctx, src.db)
	if err != nil {
		return nil, err
	}
	target, err := describe(ctx, dst.db)
	if err != nil {
		return nil, err
	}
	every := maps.Clone(source)
	foreign, err := foreignKeys(ctx, src.db, every)
	if err != nil {
		return nil, err
	}
	for _, name := range f.opts.Ignore {
		if _, ok := source[name]; !ok {
			faults = append(faults, fmt.Errorf("Options.Ignore names table %s, which pod %d doesn't have", name, src.pod))
		}
		delete(source, name)
	}
	for _, name := range slices.Sorted(maps.Keys(f.opts.Tables)) {
		if _, ok := source[name]; !ok {
			faults = append(faults, fmt.Errorf("Options.Tables has a rule for table %s, which pod %d doesn't have", name, src.pod))
		}
	}
	var uncovered []string
	for _, name := range slices.Sorted(maps.Keys(source)) {
		t := source[name]
		joined := len(f.opts.Tables[name].Through) > 0
		if t.shop = t.column(f.shopColumn(name)); joined {
			t.shop = -1
		} else if t.shop < 0 {
			if rule, ok := f.opts.Tables[name]; ok {
				faults = append(faults, fmt.Errorf("table %s has no column %s, which its rule in Options.Tables names", name, rule.Column))
			} else {
				uncovered = append(uncovered, name)
			}
			continue
		} else if err := t.belong(p.tenant); err != nil {
			faults = append(faults, err)
		}
		t.identify()
		if joined && t.keyless {
			faults = append(faults, fmt.Errorf("table %s is reached through others, and nothing tells its rows apart; give it a primary key", name))
		}
		if t.versioned || target[name] != nil && target[name].versioned {
			faults = append(faults, fmt.Errorf("table %s is system-versioned; its history can't be moved, nor may the move be a part of it; ALTER TABLE %s DROP SYSTEM VERSIONING on both pods, or name it in Options.Ignore if it holds no shop's rows", name, quote(name)))
		}
		for _, c := range t.columns {
			if wrong := c.unsupported(p.flavor); wrong != "" {
				faults = append(faults, fmt.Errorf("table %s: column %s is %s, %s; or name the table in Options.Ignore if it holds no shop's rows", name, c.name, c.fullType, wrong))
			}
		}
		if _, ok := target[name]; !ok {
			faults = append(faults, fmt.Errorf("table %s is missing on pod %d; create it there", name, dst.pod))
		}
		p.tables = append(p.tables, t)
	}
	if wrong := f.refer(p.tables); len(wrong) > 0 {
		faults = append(faults, wrong...)
		// Nothing more can be said of them.
		p.tables = slices.DeleteFunc(p.tables, func(t *table) bool { return t.shop < 0 })
	}
	logged, err := logsForeignKeys(ctx, src)
	if err != nil {
		return nil, err
	}
	if p.unlogged = !logged; p.unlogged {
		faults = append(faults, unfollowed(src.pod, every, p.tables, foreign)...)
	}
	for _, t := range every {
		for _, fk := range t.referring {
			if fk.child.place < 0 || !fk.changes() {
				continue
			}
			if fk.child.follows = true; t.place < 0 && !slices.Contains(p.others, t) {
				p.others = append(p.others, t)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(target)) {
		if _, ok := source[name]; !ok && target[name].column(f.shopColumn(name)) >= 0 && !slices.Contains(f.opts.Ignore, name) {
			faults = append(faults, fmt.Errorf("table %s is on pod %d only; make the schemas equal", name, dst.pod))
		}
	}
	if len(p.tables) == 0 {
		faults = append(faults, fmt.Errorf("pod %d has no table with a column %s; set Options.Column", src.pod, f.opts.Column))
	}
	if len(uncovered) > 0 {
		faults = append(faults, fmt.Errorf("no column %s and no rule for: %s; add the column, or name the tables in Options.Ignore if they hold no shop's rows",
			f.opts.Column, strings.Join(uncovered, ", ")))
	}
	for _, s := range []*server{src, dst} {
		more, err := f.inspectKeys(ctx, s, p)
		if err != nil {
			return nil, err
		}
		faults = append(faults, more...)
	}
	return faults, nil
}

// inspectKeys checks engines and triggers on one side.
func (f *Ferry) inspectKeys(ctx context.Context, s *server, p *prepared) (faults []error, err error) {
	byName := map[string]*table{}
	for _, t := range p.tables {
		byName[t.name] = t
	}
	if err := each(ctx, s.db, func(rows *sql.Rows) error {
		var name, engine string
		if err := rows.Scan(&name, &engine); err != nil {
			return err
		}
		if byName[name] != nil && !strings.EqualFold(engine, "InnoDB") {
			faults = append(faults, fmt.Errorf("pod %d, table %s: the engine is %s, want InnoDB: the write fence is a transaction's lock", s.pod, name, engine))
		}
		return nil
	}, `SELECT table_name, COALESCE(engine, '') FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'`); err != nil {
		return nil, err
	}
	if s.pod != p.From.Pod {
		more, err := inspectTriggers(ctx, s, byName)
		return append(faults, more...), err
	}
	return faults, nil
}
