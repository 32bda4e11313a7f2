package matrix_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// one returns a report of one cell.
func one(pkg, section, dependency, fault string, state matrix.State, expected, got matrix.Outcome) *matrix.Report {
	r := &matrix.Report{
		Name: pkg, Package: "example.com/" + pkg, Test: "TestMatrix", Go: "go1.26.8",
		Time: time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC), Took: time.Second, Deadline: time.Second,
		Rows:    []matrix.Row{{Section: section, Owner: "web", Runbook: "runbook.md"}},
		Columns: []matrix.Column{{Dependency: dependency, Fault: fault, Recover: time.Second}},
		Cells: []matrix.Cell{{
			Section: section, Dependency: dependency, Fault: fault, Package: "example.com/" + pkg, Test: "TestMatrix/" + dependency + "/" + fault + "/" + section,
			State: state, Expected: expected, Got: got,
		}},
	}
	if state.Red() {
		r.Cells[0].Problems = []string{"problem of " + pkg}
	}
	return r
}

func TestOfACellThatTwoHaveTheWorstCounts(t *testing.T) {
	t.Parallel()
	const up, down = matrix.OutcomeUp, matrix.OutcomeDown
	tests := []struct {
		name string
		a, b *matrix.Report
		want matrix.State
		says string
	}{
		{"not run, passed", one("a", "cart", "redis", "down", matrix.StateNotRun, up, 0), one("b", "cart", "redis", "down", matrix.StatePassed, up, up), matrix.StatePassed, ""},
		{"passed, untested", one("a", "cart", "redis", "down", matrix.StatePassed, up, up), one("b", "cart", "redis", "down", matrix.StateUntested, up, 0), matrix.StateUntested, "problem of b"},
		{"passed, failed", one("a", "cart", "redis", "down", matrix.StatePassed, up, up), one("b", "cart", "redis", "down", matrix.StateFailed, up, down), matrix.StateFailed, "problem of b"},
		{"untested, failed", one("a", "cart", "redis", "down", matrix.StateUntested, up, 0), one("b", "cart", "redis", "down", matrix.StateFailed, up, down), matrix.StateFailed, "problem of a, problem of b"},
		{"declared differently", one("a", "cart", "redis", "down", matrix.StatePassed, up, up), one("b", "cart", "redis", "down", matrix.StatePassed, down, down), matrix.StateFailed,
			"cart with redis down: declared up in TestMatrix/redis/down/cart example.com/a and down in TestMatrix/redis/down/cart example.com/b. Declare it in one place, or both the same."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, both := range [][]*matrix.Report{{tt.a, tt.b}, {tt.b, tt.a}} {
				c := matrix.Join(both...).Cell("cart", "redis", "down")
				if c.State != tt.want {
					t.Errorf("got %v, want %v", c.State, tt.want)
				}
				problems := slices.Clone(c.Problems)
				slices.Sort(problems)
				if got := strings.Join(problems, ", "); got != tt.says && !strings.Contains(tt.says, "declared up in") {
					t.Errorf("it says %q, want %q", got, tt.says)
				}
			}
			if strings.Contains(tt.says, "declared up in") {
				if c := matrix.Join(tt.a, tt.b).Cell("cart", "redis", "down"); strings.Join(c.Problems, "") != tt.says {
					t.Errorf("it says %q, want %q", c.Problems, tt.says)
				}
			}
		})
	}
}

func TestResultsOfSeveralPackagesJoin(t *testing.T) {
	t.Parallel()
	a := one("web", "cart", "redis", "down", matrix.StatePassed, matrix.OutcomeUp, matrix.OutcomeUp)
	b := one("jobs", "capture", "mysql", "down", matrix.StatePassed, matrix.OutcomeDown, matrix.OutcomeDown)
	c := one("jobs", "capture", "redis", "slow", matrix.StatePassed, matrix.OutcomeUp, matrix.OutcomeUp)
	b.Gone = []string{"cart with redis down", "cart with kafka down"}
	c.Time, c.Go = c.Time.Add(time.Minute), "go1.25.4"
	j := matrix.Join(a, b, c)
	if err := j.Err(); err != nil {
		t.Errorf("all passed, and: %v", err)
	}
	var columns []string
	for _, f := range j.Columns {
		columns = append(columns, f.String())
	}
	if want := []string{"redis/down", "redis/slow", "mysql/down"}; !slices.Equal(columns, want) {
		t.Errorf("the columns are %v, want %v: a dependency's faults together", columns, want)
	}
	if j.Name != "web + jobs" || j.Go != "go1.26.8, go1.25.4" || j.Package != "" || j.Took != time.Minute+time.Second {
		t.Errorf("got %q of %q in %q, %v", j.Name, j.Go, j.Package, j.Took)
	}
	if len(j.Cells) != 3 || j.Cell("cart", "mysql", "down") != nil {
		t.Errorf("got %d cells, want 3: where nobody has both the section and the fault there is none", len(j.Cells))
	}
	if want := []string{"cart with kafka down"}; !slices.Equal(j.Gone, want) {
		t.Errorf("gone: %q, want %q", j.Gone, want)
	}
	if a.Err() != nil || len(a.Columns) != 1 {
		t.Error("the joined reports were changed")
	}
	checkHTML(t, j)
	checkSVG(t, j)
	checkMarkdown(t, j)
}

func TestOwnersThatDifferAreAProblem(t *testing.T) {
	t.Parallel()
	a := one("a", "cart", "redis", "down", matrix.StatePassed, matrix.OutcomeUp, matrix.OutcomeUp)
	b := one("b", "cart", "redis", "slow", matrix.StatePassed, matrix.OutcomeUp, matrix.OutcomeUp)
	b.Rows[0].Owner = "payments"
	j := matrix.Join(a, b)
	if want := []string{"section cart has the owner web and the owner payments; make them one, or nobody knows which is right"}; !slices.Equal(j.Problems, want) || j.Err() == nil {
		t.Errorf("got %q, %v; want %q and red", j.Problems, j.Err(), want)
	}
}
