package matrix

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"time"
)

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"short": short,
	"stamp": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
}).Parse(pageSource))

// WriteHTML writes the matrix as one page that needs nothing else: the grid, and
// of each cell its test, its durations, what the user saw, and what has changed
// since the run before.
func (r *Report) WriteHTML(w io.Writer) error {
	p := r.page()
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// A page is what the template shows.
type page struct {
	*Report
	Green    bool
	Verdict  string
	Question string
	Tiles    []tile
	Groups   []group
	Lines    []pageRow
	Red      []pageCell
	Faults   []pageFault
	Outcomes []pageOutcome
	Changes  map[string]int // how many cells are new, fixed, broken, changed
}

// A tile is a number on top of the page.
type tile struct {
	Shape  shape
	Class  string
	Number int
	Word   string
}

type pageRow struct {
	Row
	Link  bool // the runbook is one
	Cells []pageCell
}

// A pageFault is a column, as the details have it.
type pageFault struct {
	Column
	Cells []pageCell
}

type pageOutcome struct {
	Outcome Outcome
	Shape   shape
	Meaning string
}

// A pageCell is a cell with what the page says of it. Cell is nil where there is
// none.
type pageCell struct {
	*Cell
	Recover time.Duration
	First   bool // of its dependency
	ID      string
	Class   string
	Shape   shape
	Word    string
	Instead string // of what was declared
	Said    string
	Label   string
	Since   string
	Command string
}

func (r *Report) page() page {
	p := page{Report: r, Green: r.Err() == nil, Groups: r.groups(), Changes: map[string]int{}}
	switch red := r.Count(StateFailed) + r.Count(StateUntested); {
	case p.Green:
		p.Verdict = r.verdict()
	case red > 0:
		p.Verdict = fmt.Sprintf("Somebody has to look at %d of %s.", red, count(len(r.Cells), "cell"))
	case len(r.Problems) > 0:
		p.Verdict = "Somebody has to look at " + count(len(r.Problems), "problem") + "."
	default:
		p.Verdict = fmt.Sprintf("%d of %s were not run: this proves nothing about them.", r.Count(StateNotRun), count(len(r.Cells), "cell"))
	}
	if len(r.Columns) > 0 {
		p.Question = "Do you know what happens when " + r.Columns[0].Dependency + " is " + r.Columns[0].Fault + "?"
	}
	for _, t := range []struct {
		state State
		class string
	}{{StatePassed, "up"}, {StateFailed, "down red"}, {StateUntested, "none red"}, {StateNotRun, "none"}} {
		if n := r.Count(t.state); n > 0 {
			p.Tiles = append(p.Tiles, tile{shape(t.state.String()), t.class, n, t.state.String()})
		}
	}
	for o := OutcomeUp; o <= OutcomeHung; o++ {
		p.Outcomes = append(p.Outcomes, pageOutcome{o, shape(o.String()), r.meaning(o)})
	}
	for _, c := range r.Columns {
		p.Faults = append(p.Faults, pageFault{Column: c})
	}
	for _, row := range r.Rows {
		line := pageRow{Row: row, Link: isLink(row.Runbook)}
		for i, c := range r.Columns {
			cell := pageCell{Cell: r.Cell(row.Section, c.Dependency, c.Fault), Recover: c.Recover}
			cell.First = i > 0 && r.Columns[i-1].Dependency != c.Dependency
			if cell.Cell != nil {
				cell.fill()
				p.Faults[i].Cells = append(p.Faults[i].Cells, cell)
				if cell.State.Red() {
					p.Red = append(p.Red, cell)
				}
				if cell.Change != "" {
					p.Changes[cell.Change]++
				}
			}
			line.Cells = append(line.Cells, cell)
		}
		p.Lines = append(p.Lines, line)
	}
	p.Faults = slices.DeleteFunc(p.Faults, func(f pageFault) bool { return len(f.Cells) == 0 })
	return p
}

// fill says in words what the cell is.
func (c *pageCell) fill() {
	c.ID = c.Dependency + "/" + c.Fault + "/" + c.Section
	c.Class, c.Shape = c.class(), c.shape()
	c.Word, c.Instead = c.brief()
	c.Said = c.said()
	c.Command = command(c.Package, c.Test)
	c.Since = c.Change
	if c.Change == "broken" || c.Change == "changed" {
		c.Since = "was " + c.was()
	}
	if c.Change == "broken" {
		c.Since = "broken, " + c.Since
	}
	c.Label = c.place().String() + ": " + c.word()
	if c.State == StatePassed {
		c.Label += ", as declared"
	}
	if c.Since != "" {
		c.Label += ", " + c.Since
	}
}

// was says what the cell was in the run before.
func (c *Cell) was() string {
	switch {
	case c.Was == nil:
		return ""
	case c.Was.Got == 0:
		return c.Was.State.String()
	}
	return c.Was.Got.String()
}

// SVG draws the shape for the page.
func (s shape) SVG() template.HTML {
	return template.HTML(`<svg class="shape" viewBox="0 0 16 16" aria-hidden="true">` + s.at(8, 8) + `</svg>`)
}
