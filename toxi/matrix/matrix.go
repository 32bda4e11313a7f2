package matrix

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Matrix declares what users get of each section of an application while a
// dependency has a fault. [Run] tests every cell of it.
//
// What is declared (Expect) and what there is to test it with (Sections,
// Dependencies) stand apart on purpose: who deletes a probe or a fault doesn't
// delete the promise, and the run says so.
type Matrix struct {
	// Name is the heading of the outputs and the name of their files. Matrices
	// that write to one folder need different ones.
	Name string

	// Sections are the rows, in their order.
	Sections []Section

	// Dependencies are the columns, in their order.
	Dependencies []Dependency

	// Expect is the table of what is expected, as it would stand in a design
	// document: a line that names the faults, and a line for each section. A table
	// that grows too wide goes on in another block, with a line of faults of its
	// own. What follows a # is a comment.
	//
	//	            redis/down   redis/slow
	//	storefront  up           up
	//	checkout    degraded     up
	//
	//	            mysql/down   # reads go to the replica
	//	storefront  degraded
	//	checkout    down
	//
	// The words are up, degraded, down and hung.
	Expect string

	// Deadline is how long a user waits: a probe that has not answered by then has
	// hung. Default 10 s.
	Deadline time.Duration

	// Recover is the time within which a section is up again after a heal. Default
	// 5 s. A fault may state another one.
	Recover time.Duration

	// Golden is the Markdown file that records the matrix beside the code, such as
	// RESILIENCY.md; its picture goes beside it, into RESILIENCY.svg. A run that
	// proved every cell is compared with both, or writes them if MATRIX_UPDATE is
	// set. Empty means none.
	Golden string
}

// A Section is a part of the application that users know and somebody owns.
type Section struct {
	Name    string
	Owner   string // whom to wake
	Runbook string // what they read then: a URL, or a path relative to the golden file

	// Probe makes one request the way a user would, with all that belongs to it,
	// and says what the user saw. It is called from one goroutine at a time, while
	// other sections' probes may run. ctx ends at the deadline; what a probe
	// returns after that counts as hung. Probes are called often while a section
	// recovers, and must leave nothing behind that changes the next one's answer.
	Probe func(ctx context.Context) Seen
}

// A Dependency is what sections need and don't own: a database, a cache,
// another service.
type Dependency struct {
	Name   string
	Faults []Fault
}

// A Fault is one way in which a dependency fails.
type Fault struct {
	Name string // down, slow, flapping, reset, hung, or what it is called here

	// Inject makes the fault happen, and returns what undoes it. When it returns,
	// the next request must meet the fault; when heal returns, the one after must
	// not. Each has a minute, and a context that ends when it returns; heal's
	// outlives a run that was ended. A heal that comes with an error is called too,
	// so that half of a fault can be undone.
	//
	// heal is called whatever probes do. Only an Inject that panics, or that ends
	// its goroutine by t.FailNow, has returned none: let it fail with an error
	// instead, or undo in a defer of its own.
	Inject func(ctx context.Context) (heal func(ctx context.Context) error, err error)

	// Recover is the time within which sections are up again after this fault.
	// Default Matrix.Recover.
	Recover time.Duration
}

// An Outcome is what users get of a section. Greater is worse.
type Outcome uint8

// The outcomes, as a Report has them; the zero Outcome is none. Probes return
// them by the functions [Up], [Degraded], [Down] and [Hung].
const (
	OutcomeUp       Outcome = iota + 1 // all of it
	OutcomeDegraded                    // what they came for, without something
	OutcomeDown                        // an answer that says no
	OutcomeHung                        // no answer: worse than down, as it takes the user's time and the server's
)

var outcomes = words[Outcome]{"", "up", "degraded", "down", "hung"}

// String returns the word that the table has for it.
func (o Outcome) String() string { return outcomes.word(o) }

// MarshalText implements [encoding.TextMarshaler].
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (o *Outcome) UnmarshalText(text []byte) error { return outcomes.parse(o, string(text)) }

// words are the names of a type's values, by value.
type words[T ~uint8] []string

func (w words[T]) word(v T) string {
	if int(v) < len(w) {
		return w[v]
	}
	return fmt.Sprintf("%d, which is none", v)
}

func (w words[T]) parse(v *T, text string) error {
	i := slices.Index(w, text)
	if i < 0 {
		return fmt.Errorf("%q, want %s", text, w.list())
	}
	*v = T(i)
	return nil
}

// list returns the words as a sentence has them: up, degraded, down or hung.
func (w words[T]) list() string {
	named := slices.DeleteFunc(slices.Clone(w), func(s string) bool { return s == "" })
	last := len(named) - 1
	return strings.Join(named[:last], ", ") + " or " + named[last]
}

// Seen is what a user saw of a section.
type Seen struct {
	Outcome Outcome
	Text    string // a line in the user's words: the status, what was missing
}

// Up says that the user got everything.
func Up(text string) Seen { return Seen{OutcomeUp, text} }

// Degraded says that the user got what they came for, without what text says.
func Degraded(text string) Seen { return Seen{OutcomeDegraded, text} }

// Down says that the user got an error.
func Down(text string) Seen { return Seen{OutcomeDown, text} }

// Hung says that the user got no answer in time. A probe has no need to say so
// when its context ends; this is for those with less patience.
func Hung(text string) Seen { return Seen{OutcomeHung, text} }

// A plan is a Matrix that was checked, with its defaults set: the rows and
// columns of both the table and the rest.
type plan struct {
	Matrix
	rows     []Section // one that only the table names has no Probe
	columns  []column
	expected map[place]Outcome
}

// A column is a fault of a dependency.
type column struct {
	dependency string
	fault      Fault // one that only the table names has no Inject
}

func (c column) String() string { return c.dependency + "/" + c.fault.Name }

// A place is where a cell is.
type place struct{ section, dependency, fault string }

// String is what messages call the cell.
func (p place) String() string { return p.section + " with " + p.dependency + " " + p.fault }

// A name is a word of the table, and a part of a test's name and of a file's.
var name = regexp.MustCompile(`^[\p{L}\p{N}_][\p{L}\p{N}_.-]*$`)

// plan checks the declaration, and returns all that is wrong with it at once.
//
// That the table names what doesn't exist, or doesn't name what does, is not
// among it: that is an untested cell, and the other cells are run.
func (m Matrix) plan() (*plan, error) {
	p := &plan{Matrix: m, expected: map[place]Outcome{}}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	named := func(what, s string) {
		if !name.MatchString(s) {
			fault("%s is %q, want a word of letters, digits, _, . and -: it is part of a test's name", what, s)
		}
	}
	duration := func(what string, d *time.Duration, otherwise time.Duration) {
		if *d < 0 {
			fault("%s is %v, want a positive duration", what, *d)
		}
		if *d == 0 {
			*d = otherwise
		}
	}

	named("Name", m.Name)
	duration("Deadline", &p.Deadline, 10*time.Second)
	duration("Recover", &p.Recover, 5*time.Second)
	if m.Golden != "" && path.Ext(m.Golden) != ".md" {
		fault("Golden is %q, want the name of a Markdown file, such as RESILIENCY.md", m.Golden)
	}

	for i, s := range m.Sections {
		if s.Name == "" {
			fault("Sections[%d] has no Name", i)
			continue
		}
		named(fmt.Sprintf("Sections[%d].Name", i), s.Name)
		if p.row(s.Name) >= 0 {
			fault("section %s is there twice; give each its own name", s.Name)
			continue
		}
		if s.Owner == "" {
			fault("section %s has no Owner: say whom to wake", s.Name)
		}
		if !isLink(s.Runbook) {
			fault("section %s: Runbook is %q, want what its owner reads when it is down: an http or https URL, or a path relative to the golden file", s.Name, s.Runbook)
		}
		p.rows = append(p.rows, s)
	}
	for i, d := range m.Dependencies {
		if d.Name == "" {
			fault("Dependencies[%d] has no Name", i)
			continue
		}
		named(fmt.Sprintf("Dependencies[%d].Name", i), d.Name)
		if slices.ContainsFunc(m.Dependencies[:i], func(e Dependency) bool { return e.Name == d.Name }) {
			fault("dependency %s is there twice; put its faults into one", d.Name)
			continue
		}
		for j, f := range d.Faults {
			if f.Name == "" {
				fault("dependency %s: Faults[%d] has no Name", d.Name, j)
				continue
			}
			named(fmt.Sprintf("dependency %s: Faults[%d].Name", d.Name, j), f.Name)
			if p.column(d.Name, f.Name) >= 0 {
				fault("dependency %s has the fault %s twice; give each its own name", d.Name, f.Name)
				continue
			}
			duration(fmt.Sprintf("fault %s/%s: Recover", d.Name, f.Name), &f.Recover, p.Recover)
			p.columns = append(p.columns, column{d.Name, f})
		}
	}

	entries, tableFaults := parseTable(m.Expect)
	faults = append(faults, tableFaults...)
	if len(entries) == 0 && len(tableFaults) == 0 {
		fault("Expect is empty: declare what is expected. You can begin with this, and let the run say where it is wrong:\n%s", p.draft())
	}
	for _, e := range entries {
		p.add(e)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("matrix: the declaration of %q can't be run:%w", m.Name, &list{faults})
	}
	return p, nil
}

// A list is several faults, each on lines of its own.
type list struct{ faults []error }

func (l *list) Error() string {
	var b strings.Builder
	for _, f := range l.faults {
		b.WriteString("\n  - " + strings.ReplaceAll(strings.TrimSpace(f.Error()), "\n", "\n    "))
	}
	return b.String()
}

// add puts what the table says into the plan. A section that only the table
// names comes last, and such a fault after those of its dependency.
func (p *plan) add(e entry) {
	if p.row(e.section) < 0 {
		p.rows = append(p.rows, Section{Name: e.section})
	}
	if p.column(e.dependency, e.fault) < 0 {
		at := len(p.columns)
		for i, c := range p.columns {
			if c.dependency == e.dependency {
				at = i + 1
			}
		}
		p.columns = slices.Insert(p.columns, at, column{e.dependency, Fault{Name: e.fault, Recover: p.Recover}})
	}
	p.expected[e.place] = e.outcome
}

func (p *plan) row(section string) int {
	return slices.IndexFunc(p.rows, func(s Section) bool { return s.Name == section })
}

func (p *plan) column(dependency, fault string) int {
	return slices.IndexFunc(p.columns, func(c column) bool { return c.dependency == dependency && c.fault.Name == fault })
}

// draft returns a table in which everything is up.
func (p *plan) draft() string {
	var sections []string
	for _, s := range p.rows {
		sections = append(sections, s.Name)
	}
	return formatTable(sections, p.columns, func(place) string { return OutcomeUp.String() })
}

// untested says why nothing can be compared at a place, or "". What the table
// doesn't name is run all the same, to say what could be declared.
func (p *plan) untested(section Section, c column) string {
	at := place{section.Name, c.dependency, c.fault.Name}
	o, declared := p.expected[at]
	known := func(s Section) bool { return s.Name == section.Name }
	has := func(d Dependency) bool { return d.Name == c.dependency }
	var why string
	switch i := slices.IndexFunc(p.Dependencies, has); {
	case !slices.ContainsFunc(p.Sections, known):
		why = fmt.Sprintf("Matrix.Sections has no section %s. Add it with its probe", section.Name)
	case section.Probe == nil:
		why = fmt.Sprintf("section %s has no Probe. Write it", section.Name)
	case i < 0:
		why = fmt.Sprintf("Matrix.Dependencies has no dependency %s. Add it with its fault %s", c.dependency, c.fault.Name)
	case !slices.ContainsFunc(p.Dependencies[i].Faults, func(f Fault) bool { return f.Name == c.fault.Name }):
		why = fmt.Sprintf("dependency %s has no fault %s. Add it", c.dependency, c.fault.Name)
	case c.fault.Inject == nil:
		why = fmt.Sprintf("fault %v has no Inject. Write it", c)
	default:
		return ""
	}
	if !declared {
		return fmt.Sprintf("%v: neither declared nor tested: %s, and a word into the table.", at, why)
	}
	return fmt.Sprintf("%v: declared %v, and untested: %s, or take it out of the table.", at, o, why)
}

// isLink reports whether s can stand in a document as a link to a runbook.
func isLink(s string) bool {
	u, err := url.Parse(s)
	return err == nil && s != "" && (u.Scheme == "" || (u.Scheme == "http" || u.Scheme == "https") && u.Host != "")
}
