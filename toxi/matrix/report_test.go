package matrix_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// sample returns a report with a cell of each kind.
func sample() *matrix.Report {
	at := time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)
	cell := func(section, dependency, fault string, s matrix.State, expected, got matrix.Outcome) matrix.Cell {
		c := matrix.Cell{
			Section: section, Dependency: dependency, Fault: fault, Package: "example.com/shop",
			Test: "TestMatrix/" + dependency + "/" + fault + "/" + section, State: s, Expected: expected, Got: got,
		}
		if got != 0 {
			c.Saw, c.Took, c.UpAgain = "200 OK | <b>no cart</b>", 2100*time.Millisecond, 40*time.Millisecond
		}
		return c
	}
	r := &matrix.Report{
		Name: "shop", Package: "example.com/shop", Test: "TestMatrix", Go: "go1.26.8", Time: at, Took: time.Minute, Deadline: 10 * time.Second,
		Rows: []matrix.Row{
			{Section: "checkout", Owner: "payments", Runbook: "https://example.com/a(b)|c"},
			{Section: "cart", Owner: "web|<i>", Runbook: "javascript:alert(1)"},
		},
		Columns: []matrix.Column{
			{Dependency: "redis", Fault: "down", Recover: 5 * time.Second},
			{Dependency: "redis", Fault: "slow", Recover: 5 * time.Second},
			{Dependency: "mysql", Fault: "restart", Recover: 30 * time.Second},
		},
		Cells: []matrix.Cell{
			cell("checkout", "redis", "down", matrix.StatePassed, matrix.OutcomeDegraded, matrix.OutcomeDegraded),
			cell("checkout", "redis", "slow", matrix.StateFailed, matrix.OutcomeUp, matrix.OutcomeHung),
			cell("checkout", "mysql", "restart", matrix.StateNotRun, matrix.OutcomeDown, 0),
			cell("cart", "redis", "down", matrix.StateUntested, matrix.OutcomeDegraded, 0),
			cell("cart", "redis", "slow", matrix.StateFailed, matrix.OutcomeUp, matrix.OutcomeUp),
			// cart and mysql meet nowhere
		},
	}
	r.Cells[1].Problems = []string{"checkout with redis slow: worse | than <b>declared</b>."}
	r.Cells[1].Notes = []string{"odd"}
	r.Cells[1].Change, r.Cells[1].Was = "broken", &matrix.Past{State: matrix.StatePassed, Got: matrix.OutcomeUp, Time: at.Add(-time.Hour)}
	return r
}

// green returns a report in which every cell passed.
func green() *matrix.Report {
	r := sample()
	r.Rows = []matrix.Row{{"checkout", "payments", "https://example.com/checkout"}}
	r.Columns = r.Columns[:2]
	r.Cells = []matrix.Cell{r.Cells[0], r.Cells[0]}
	r.Cells[1].Fault = "slow"
	return r
}

func TestAReportIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := sample().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"state": "failed"`, `"expected": "up"`, `"got": "hung"`, `"took_ns": 2100000000`, `"up_again_ns": 40000000`,
		`"test": "TestMatrix/redis/slow/checkout"`, `"go": "go1.26.8"`, `"time": "2026-11-27T06:00:00Z"`, `"change": "broken"`, `"saw": "200 OK | <b>no cart</b>"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the JSON lacks %s:\n%s", want, b.String())
		}
	}
	r, err := matrix.ReadReport(&b)
	if err != nil {
		t.Fatal(err)
	}
	if want := sample(); !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestWhatIsNoReportIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"nothing", "", "matrix: read a report: EOF; want the JSON that a run writes into MATRIX_DIR"},
		{"another JSON", "{}", "matrix: read a report: it has no cells; want the JSON that a run writes into MATRIX_DIR"},
		{"another word", `{"cells": [{"got": "fine"}]}`, `matrix: read a report: "fine", want up, degraded, down or hung; want the JSON that a run writes into MATRIX_DIR`},
		{"a cell of no row", `{"cells": [{"section": "cart", "dependency": "redis", "fault": "down", "state": "passed"}]}`,
			`matrix: read a report: cart with redis down: there is no section "cart"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := matrix.ReadReport(strings.NewReader(tt.text))
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestOnlyAReportWhoseCellsAllPassedIsGreen(t *testing.T) {
	t.Parallel()
	if err := green().Err(); err != nil {
		t.Errorf("all passed, and: %v", err)
	}
	tests := []struct {
		name string
		make func(*matrix.Report)
		want string
	}{
		{"a cell not run", func(r *matrix.Report) { r.Cells[1].State = matrix.StateNotRun }, "1 cell not run"},
		{"a cell untested", func(r *matrix.Report) { r.Cells[1].State = matrix.StateUntested }, "checkout with redis slow: untested"},
		{"a problem", func(r *matrix.Report) { r.Problems = []string{"two owners"} }, "two owners"},
		{"no cells", func(r *matrix.Report) { r.Cells = nil }, "nothing was tested"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := green()
			tt.make(r)
			if err := r.Err(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// A report may come from anywhere; whatever it says, the writers write it.
func FuzzReport(f *testing.F) {
	for _, r := range []*matrix.Report{sample(), green()} {
		var b bytes.Buffer
		if err := r.WriteJSON(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := matrix.ReadReport(bytes.NewReader(data))
		if err != nil {
			return
		}
		if err := matrix.Join(r, r).Err(); (err == nil) != (r.Err() == nil) && len(r.Problems) == 0 {
			t.Errorf("joined with itself: %v; alone: %v", err, r.Err())
		}
		checkHTML(t, r)
		checkSVG(t, r)
		checkMarkdown(t, r)
	})
}
