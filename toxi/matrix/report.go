package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A Report is what a run found out, or several that were joined.
type Report struct {
	Name    string        `json:"name"`
	Package string        `json:"package,omitempty"` // of the test; empty when several were joined, or there is none
	Test    string        `json:"test,omitempty"`    // the same
	Go      string        `json:"go"`
	Time    time.Time     `json:"time"` // when it began
	Took    time.Duration `json:"took_ns"`

	Deadline time.Duration `json:"deadline_ns"` // of a probe; 0 when joined runs differed
	Rows     []Row         `json:"sections"`
	Columns  []Column      `json:"faults"`

	// Cells are the cells that were declared or tested. Where a row and a column
	// meet and there is none, no package had both the section and the fault.
	Cells []Cell `json:"cells"`

	Gone     []string `json:"gone,omitempty"`     // cells of the run before that are no more
	Problems []string `json:"problems,omitempty"` // that belong to no cell; they make the report red
}

// A Row is a section of a Report.
type Row struct {
	Section string `json:"section"`
	Owner   string `json:"owner,omitempty"`
	Runbook string `json:"runbook,omitempty"`
}

// A Column is a dependency's fault in a Report.
type Column struct {
	Dependency string        `json:"dependency"`
	Fault      string        `json:"fault"`
	Recover    time.Duration `json:"recover_ns"` // within which sections are up again
}

// String returns the name that the table has for it.
func (c Column) String() string { return c.Dependency + "/" + c.Fault }

// A Cell is one section while one dependency has one fault.
type Cell struct {
	Section    string `json:"section"`
	Dependency string `json:"dependency"`
	Fault      string `json:"fault"`
	Package    string `json:"package,omitempty"`
	Test       string `json:"test,omitempty"` // its subtest

	State    State   `json:"state"`
	Expected Outcome `json:"expected,omitempty"` // 0 if it was not declared
	Got      Outcome `json:"got,omitempty"`      // 0 if nothing was seen

	Saw      string        `json:"saw,omitempty"`         // by the user, in a line
	Took     time.Duration `json:"took_ns,omitempty"`     // for the user to see it
	UpAgain  time.Duration `json:"up_again_ns,omitempty"` // after the heal; 0 if it was not
	Problems []string      `json:"problems,omitempty"`    // why it is red
	Notes    []string      `json:"notes,omitempty"`       // what is odd and no reason to be red
	Change   string        `json:"change,omitempty"`      // since the run before: new, fixed, broken, changed, or nothing
	Was      *Past         `json:"was,omitempty"`         // the result of the last run that had one
	stacks   []string      // of panics, for the test's log
}

// A Past is what a cell was.
type Past struct {
	State State     `json:"state"`
	Got   Outcome   `json:"got,omitempty"`
	Time  time.Time `json:"time"`
}

// A State says what a cell's result is worth.
type State uint8

// The states. Only a cell that passed is green.
const (
	StateNotRun   State = iota // not chosen by -run, or the run was ended before
	StatePassed                // as declared, and up before and after
	StateFailed                // otherwise than declared, or not up before or after, or the fault could not be injected or healed
	StateUntested              // without a probe, a fault or a declaration there is nothing to compare
)

var states = words[State]{"not run", "passed", "failed", "untested"}

// String returns the state's name.
func (s State) String() string { return states.word(s) }

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *State) UnmarshalText(text []byte) error { return states.parse(s, string(text)) }

// Red reports whether somebody has to do something.
func (s State) Red() bool { return s == StateFailed || s == StateUntested }

func (c *Cell) place() place { return place{c.Section, c.Dependency, c.Fault} }

// Cell returns the cell of a row and a column, or nil.
func (r *Report) Cell(section, dependency, fault string) *Cell {
	i := slices.IndexFunc(r.Cells, func(c Cell) bool { return c.place() == place{section, dependency, fault} })
	if i < 0 {
		return nil
	}
	return &r.Cells[i]
}

// Count returns the number of cells in a state.
func (r *Report) Count(s State) int {
	n := 0
	for _, c := range r.Cells {
		if c.State == s {
			n++
		}
	}
	return n
}

// Err returns nil if every cell passed, and otherwise all that is wrong: a report
// without cells, and one with cells that were not run, prove nothing either.
func (r *Report) Err() error {
	wrong := r.wrong()
	if n := r.Count(StateNotRun); n > 0 {
		wrong = append(wrong, count(n, "cell")+" not run: run the tests without -run and -skip, or join the reports of runs that together have them all")
	}
	if len(r.Cells) == 0 {
		wrong = append(wrong, "no cells: nothing was tested")
	}
	if len(wrong) == 0 {
		return nil
	}
	var l list
	for _, w := range wrong {
		l.faults = append(l.faults, errors.New(w))
	}
	return fmt.Errorf("matrix: %s is not green:%w", r.Name, &l)
}

// wrong returns what makes the report red.
func (r *Report) wrong() []string {
	wrong := slices.Clone(r.Problems)
	for _, c := range r.Cells {
		wrong = append(wrong, c.Problems...)
		if c.State.Red() && len(c.Problems) == 0 {
			wrong = append(wrong, fmt.Sprintf("%v: %v.", c.place(), c.State))
		}
	}
	return wrong
}

// WriteJSON writes all that is known, for [ReadReport].
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// ReadReport reads what WriteJSON wrote.
func ReadReport(from io.Reader) (*Report, error) {
	var r Report
	d := json.NewDecoder(from)
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("matrix: read a report: %w; want the JSON that a run writes into MATRIX_DIR", err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("matrix: read a report: %w", err)
	}
	return &r, nil
}

// check refuses what the writers could not show.
func (r *Report) check() error {
	if len(r.Cells) == 0 && len(r.Problems) == 0 {
		return errors.New("it has no cells; want the JSON that a run writes into MATRIX_DIR")
	}
	var faults []error
	seen := map[place]bool{}
	for _, c := range r.Cells {
		at := c.place()
		switch {
		case seen[at]:
			faults = append(faults, fmt.Errorf("%v is there twice", at))
		case !slices.ContainsFunc(r.Rows, func(w Row) bool { return w.Section == c.Section }):
			faults = append(faults, fmt.Errorf("%v: there is no section %q", at, c.Section))
		case !slices.ContainsFunc(r.Columns, func(f Column) bool { return f.Dependency == c.Dependency && f.Fault == c.Fault }):
			faults = append(faults, fmt.Errorf("%v: there is no fault %s/%s", at, c.Dependency, c.Fault))
		}
		seen[at] = true
	}
	return errors.Join(faults...)
}

// since fills in what has changed since the run before.
func (r *Report) since(before *Report) {
	for i := range r.Cells {
		c := &r.Cells[i]
		b := before.Cell(c.Section, c.Dependency, c.Fault)
		switch {
		case b == nil:
		case b.State == StateNotRun:
			c.Was = b.Was // what it was before that
		default:
			c.Was = &Past{b.State, b.Got, before.Time}
		}
		switch {
		case c.State == StateNotRun:
		case c.Was == nil:
			c.Change = "new"
		case c.Was.State.Red() && c.State == StatePassed:
			c.Change = "fixed"
		case c.Was.State == StatePassed && c.State.Red():
			c.Change = "broken"
		case c.Was.Got != c.Got:
			c.Change = "changed"
		}
	}
	for _, b := range before.Cells {
		if r.Cell(b.Section, b.Dependency, b.Fault) == nil {
			r.Gone = append(r.Gone, b.place().String())
		}
	}
}

// line makes one line of text that strangers wrote, of a length that fits a cell.
func line(s string) string {
	const most = 160
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most-1]) + "…"
	}
	return s
}

// short writes a duration as people say it: three digits are enough.
func short(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
