package matrix

import (
	"fmt"
	"slices"
	"strings"
)

// Join makes one report of several: of the packages of an application, or of runs
// that each had a part of the cells.
//
// Rows and columns are those of all of them, in the order in which they come; a
// dependency's faults stay together. Of a cell that several have, the worst counts:
// failed, then untested, then passed, and only then not run, so that what one
// package proved covers what another was told to leave out, but not what it lacks.
// Two that declared a cell differently make it red.
func Join(reports ...*Report) *Report {
	j := &Report{}
	if len(reports) > 0 {
		j.Package, j.Test = reports[0].Package, reports[0].Test
		j.Time, j.Deadline = reports[0].Time, reports[0].Deadline
	}
	end := j.Time
	var names, versions []string
	for _, r := range reports {
		names = append(names, r.Name)
		versions = append(versions, r.Go)
		if r.Package != j.Package || r.Test != j.Test {
			j.Package, j.Test = "", ""
		}
		if r.Time.Before(j.Time) {
			j.Time = r.Time
		}
		if e := r.Time.Add(r.Took); e.After(end) {
			end = e
		}
		if r.Deadline != j.Deadline {
			j.Deadline = 0
		}
		for _, row := range r.Rows {
			j.joinRow(row)
		}
		for _, c := range r.Columns {
			j.joinColumn(c)
		}
		for _, p := range r.Problems {
			if !slices.Contains(j.Problems, p) {
				j.Problems = append(j.Problems, p)
			}
		}
	}
	j.Took = end.Sub(j.Time)
	j.Name, j.Go = distinct(names, " + "), distinct(versions, ", ")

	cells := map[place]Cell{}
	for _, r := range reports {
		for _, c := range r.Cells {
			at := c.place()
			if other, ok := cells[at]; ok {
				c = joinCell(other, c)
			}
			cells[at] = c
		}
	}
	for _, row := range j.Rows {
		for _, c := range j.Columns {
			if cell, ok := cells[place{row.Section, c.Dependency, c.Fault}]; ok {
				j.Cells = append(j.Cells, cell)
			}
		}
	}
	for _, r := range reports {
		for _, gone := range r.Gone {
			back := slices.ContainsFunc(j.Cells, func(c Cell) bool { return c.place().String() == gone })
			if !back && !slices.Contains(j.Gone, gone) {
				j.Gone = append(j.Gone, gone)
			}
		}
	}
	return j
}

// joinRow adds a row that is not there yet, and fills in what it lacks if it is.
func (r *Report) joinRow(row Row) {
	i := slices.IndexFunc(r.Rows, func(w Row) bool { return w.Section == row.Section })
	if i < 0 {
		r.Rows = append(r.Rows, row)
		return
	}
	for _, f := range []struct {
		what     string
		had, has *string
	}{
		{"owner", &r.Rows[i].Owner, &row.Owner},
		{"runbook", &r.Rows[i].Runbook, &row.Runbook},
	} {
		if *f.had == "" {
			*f.had = *f.has
		}
		if *f.has != "" && *f.has != *f.had {
			r.Problems = append(r.Problems, fmt.Sprintf("section %s has the %s %s and the %s %s; make them one, or nobody knows which is right", row.Section, f.what, *f.had, f.what, *f.has))
		}
	}
}

// joinColumn adds a column that is not there yet, after those of its dependency.
func (r *Report) joinColumn(c Column) {
	at := len(r.Columns)
	for i, other := range r.Columns {
		switch {
		case other.String() == c.String():
			r.Columns[i].Recover = max(other.Recover, c.Recover)
			return
		case other.Dependency == c.Dependency:
			at = i + 1
		}
	}
	r.Columns = slices.Insert(r.Columns, at, c)
}

// joinCell returns the worse of two results for one cell.
func joinCell(a, b Cell) Cell {
	rank := []State{StateNotRun, StatePassed, StateUntested, StateFailed} // the worst last
	worse, other := a, b
	if slices.Index(rank, b.State) > slices.Index(rank, a.State) {
		worse, other = b, a
	}
	if other.State.Red() {
		worse.Problems = append(slices.Clone(worse.Problems), other.Problems...)
	}
	if a.Expected != b.Expected && a.Expected != 0 && b.Expected != 0 {
		worse.State = StateFailed
		worse.Problems = append(slices.Clone(worse.Problems), fmt.Sprintf("%v: declared %v in %s and %v in %s. Declare it in one place, or both the same.",
			a.place(), a.Expected, a.origin(), b.Expected, b.origin()))
	}
	return worse
}

// origin says where a cell comes from.
func (c *Cell) origin() string {
	if c.Test == "" {
		return "one report"
	}
	return strings.TrimSpace(c.Test + " " + c.Package)
}

// distinct joins different words.
func distinct(words []string, with string) string {
	var all []string
	for _, w := range words {
		if !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	return strings.Join(all, with)
}
