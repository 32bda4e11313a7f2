package matrix

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Run tests the matrix. Each cell is a subtest, TestX/dependency/fault/section, so
// that -run 'TestX/redis/down/checkout' runs that one alone; for each fault with a
// chosen cell Run probes the chosen sections until they are up, injects, probes
// them again, heals, and waits until they are up again.
//
//	a cell fails                       what to do
//	worse than declared                fix the section
//	better than declared               tighten the table
//	untested: no probe or no fault     write it
//	not declared                       declare what was seen
//	not up before, not up again        look at the fault before; find what doesn't come back
//	the fault could not be injected    look at the error
//	or not healed
//
// A declaration that can't be read ends the test before anything is injected.
//
// If MATRIX_DIR names a folder, Run writes what it found out there: Name.json,
// Name.html, Name.md and Name.svg, with what has changed since the Name.json that
// it found. go test must not answer from its cache then: give it -count=1.
//
// A run in which every cell passed is compared with the file Matrix.Golden and its
// picture, or, if MATRIX_UPDATE is 1, writes them. No other run does: the file
// says what was proven.
func Run(t *testing.T, m Matrix) {
	t.Helper()
	p, err := m.plan()
	if err != nil {
		t.Fatal(err)
	}
	o, err := outputs()
	if err != nil {
		t.Fatal(err)
	}
	r := p.report()
	r.Package, r.Test = caller(), t.Name()
	for i := range r.Cells {
		c := &r.Cells[i]
		c.Package, c.Test = r.Package, strings.Join([]string{r.Test, c.Dependency, c.Fault, c.Section}, "/")
	}
	var before *Report
	if o.dir != "" {
		if before, err = o.previous(r); err != nil {
			t.Fatal(err)
		}
	}

	subjects := p.subjects()
	for start := 0; start < len(p.columns); {
		end := start + 1
		for end < len(p.columns) && p.columns[end].dependency == p.columns[start].dependency {
			end++
		}
		t.Run(p.columns[start].dependency, func(t *testing.T) {
			for i := start; i < end; i++ {
				t.Run(p.columns[i].fault.Name, func(t *testing.T) { p.subtests(t, r, i, subjects) })
			}
		})
		start = end
	}
	r.Took = time.Since(r.Time)
	if slices.ContainsFunc(r.Cells, func(c Cell) bool { return c.Expected == 0 && c.Got != 0 }) {
		t.Logf("What was seen, as a table for Expect:\n\n%s", p.seen(r))
	}

	if before != nil {
		r.since(before)
	}
	if o.dir != "" {
		if err := o.write(r); err != nil {
			t.Error(err)
		}
	}
	if m.Golden != "" {
		said, err := o.golden(r, m.Golden)
		if err != nil {
			t.Error(err)
		}
		if said != "" {
			t.Log(said)
		}
	}
}

// Check tests the matrix without package testing: for a program that does it on
// purpose, on a staging system or on a game day. It writes no files. The error is
// that of a declaration that can't be read, or of ctx, whose end leaves cells that
// were not run; what was found out is for the report's Err to say.
func Check(ctx context.Context, m Matrix) (*Report, error) {
	p, err := m.plan()
	if err != nil {
		return nil, err
	}
	r := p.report()
	subjects := p.subjects()
	for i, c := range p.columns {
		var row []int // of the cells that there is something to test with
		var ask []*subject
		for j, s := range subjects {
			if p.untested(s.section, c) == "" {
				row, ask = append(row, j), append(ask, s)
			}
		}
		if len(ask) == 0 || ctx.Err() != nil {
			continue
		}
		for k, cell := range p.round(ctx, c, ask) {
			r.Cells[p.index(row[k], i)] = cell
		}
	}
	r.Took = time.Since(r.Time)
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("matrix: %s was ended: %w", m.Name, context.Cause(ctx))
	}
	return r, nil
}

// seen returns a table of what was seen, with what was declared where nothing was.
func (p *plan) seen(r *Report) string {
	var sections []string
	for _, row := range r.Rows {
		sections = append(sections, row.Section)
	}
	return formatTable(sections, p.columns, func(at place) string {
		c := r.Cell(at.section, at.dependency, at.fault)
		return cmp.Or(c.Got.String(), c.Expected.String(), "?")
	})
}

// report returns the report of a run that has just begun.
func (p *plan) report() *Report {
	r := &Report{Name: p.Name, Go: runtime.Version(), Time: time.Now().UTC(), Deadline: p.Deadline}
	for _, c := range p.columns {
		r.Columns = append(r.Columns, Column{c.dependency, c.fault.Name, c.fault.Recover})
	}
	for _, s := range p.rows {
		r.Rows = append(r.Rows, Row{s.Name, s.Owner, s.Runbook})
		for _, c := range p.columns {
			cell := p.cell(s, c)
			if why := p.untested(s, c); why != "" {
				cell.State, cell.Problems = StateUntested, []string{why}
			}
			r.Cells = append(r.Cells, cell)
		}
	}
	return r
}

// index returns where the report has a cell.
func (p *plan) index(row, column int) int { return row*len(p.columns) + column }

func (p *plan) subjects() []*subject {
	var all []*subject
	for _, s := range p.rows {
		all = append(all, &subject{section: s})
	}
	return all
}

// subtests runs the subtests of one fault.
//
// Which of them -run and -skip have chosen, only testing knows, and it says so by
// calling their functions. So each is started in a goroutine of its own, says that
// it is there, and waits while the round runs; the others' t.Run returns at once.
// (Parallel subtests would wait as well, but are forbidden to tests that use
// t.Setenv.)
func (p *plan) subtests(t *testing.T, r *Report, column int, all []*subject) {
	type waiter struct {
		cell   *Cell
		name   string        // of the subtest, once it has begun
		result chan Cell     // receives the cell, or is closed without one
		chosen chan struct{} // closed when the subtest has begun
		over   chan struct{} // closed when its t.Run has returned
	}
	var waiters []*waiter // with something to test
	var subjects []*subject
	var others []*waiter
	defer func() {
		for _, w := range append(waiters, others...) {
			close(w.result)
			<-w.over
		}
	}()
	for i, s := range all {
		w := &waiter{
			cell:   &r.Cells[p.index(i, column)],
			result: make(chan Cell, 1), chosen: make(chan struct{}), over: make(chan struct{}),
		}
		go func() {
			defer close(w.over)
			t.Run(s.section.Name, func(t *testing.T) {
				w.name = t.Name()
				close(w.chosen)
				tell(t, <-w.result)
			})
		}()
		select {
		case <-w.over:
		case <-w.chosen:
			if w.cell.State == StateUntested {
				others = append(others, w)
				w.result <- *w.cell
				<-w.over
				continue
			}
			waiters, subjects = append(waiters, w), append(subjects, s)
		}
	}
	if len(waiters) == 0 {
		return
	}
	for i, c := range p.round(t.Context(), p.columns[column], subjects) {
		w := waiters[i]
		c.Package, c.Test = r.Package, w.name
		*w.cell = c
		w.result <- c
		<-w.over // one after the other, for an output in order
	}
}

// tell says in a subtest what became of its cell.
func tell(t *testing.T, c Cell) {
	for _, p := range c.Problems {
		t.Error(p)
	}
	for _, n := range c.Notes {
		t.Logf("%v: %s", c.place(), n)
	}
	for _, s := range c.stacks {
		t.Log(s)
	}
	if c.State == StatePassed {
		t.Logf("%v as declared: %s, up again %s after the heal", c.Got, c.said(), short(c.UpAgain))
	}
}

// said is what the user saw, in words.
func (c *Cell) said() string {
	switch {
	case c.Got == OutcomeHung && c.Saw == "":
		return "no answer in " + short(c.Took)
	case c.Got == 0:
		return ""
	}
	return fmt.Sprintf("%q after %s", c.Saw, short(c.Took))
}

// caller returns the package that called Run.
func caller() string {
	pc, _, _, ok := runtime.Caller(2)
	if !ok {
		return ""
	}
	f := runtime.FuncForPC(pc).Name() // example.com/shop_test.TestMatrix.func1
	folder, rest := "", f
	if i := strings.LastIndexByte(f, '/'); i >= 0 {
		folder, rest = f[:i+1], f[i+1:]
	}
	pkg, _, _ := strings.Cut(rest, ".")
	return folder + strings.TrimSuffix(pkg, "_test")
}

// command returns what runs one test of a package alone.
func command(pkg, test string) string {
	if test == "" {
		return ""
	}
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.TrimSpace("go test -count=1 -run '" + strings.Join(parts, "/") + "' " + pkg)
}
