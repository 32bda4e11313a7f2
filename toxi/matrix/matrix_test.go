package matrix_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// All faults of a declaration are named at once, and nothing is injected.
func TestADeclarationIsCheckedWhole(t *testing.T) {
	t.Parallel()
	injected := false
	inject := func(context.Context) (func(context.Context) error, error) {
		injected = true
		return func(context.Context) error { return nil }, nil
	}
	up := func(context.Context) matrix.Seen { return matrix.Up("200 OK") }
	_, err := matrix.Check(t.Context(), matrix.Matrix{
		Name:     "the shop",
		Deadline: -time.Second,
		Golden:   "matrix.txt",
		Sections: []matrix.Section{
			{Name: "cart", Owner: "web", Runbook: "cart.md", Probe: up},
			{Name: "cart", Owner: "web", Runbook: "cart.md", Probe: up},
			{Owner: "web"},
			{Name: "check out", Runbook: "javascript:alert(1)", Probe: up},
		},
		Dependencies: []matrix.Dependency{
			{Name: "redis", Faults: []matrix.Fault{
				{Name: "down", Inject: inject}, {Name: "down", Inject: inject}, {Name: "a/b", Inject: inject}, {},
				{Name: "slow", Inject: inject, Recover: -1},
			}},
			{Name: "redis"},
			{},
		},
		Expect: `
			      redis/down redis/slow redis/slow
			cart  dwon       up         up
			cart  up         up         up
			jobs  up
		`,
	})
	const want = `matrix: the declaration of "the shop" can't be run:
  - Name is "the shop", want a word of letters, digits, _, . and -: it is part of a test's name
  - Deadline is -1s, want a positive duration
  - Golden is "matrix.txt", want the name of a Markdown file, such as RESILIENCY.md
  - section cart is there twice; give each its own name
  - Sections[2] has no Name
  - Sections[3].Name is "check out", want a word of letters, digits, _, . and -: it is part of a test's name
  - section check out has no Owner: say whom to wake
  - section check out: Runbook is "javascript:alert(1)", want what its owner reads when it is down: an http or https URL, or a path relative to the golden file
  - dependency redis has the fault down twice; give each its own name
  - dependency redis: Faults[2].Name is "a/b", want a word of letters, digits, _, . and -: it is part of a test's name
  - dependency redis: Faults[3] has no Name
  - fault redis/slow: Recover is -1ns, want a positive duration
  - dependency redis is there twice; put its faults into one
  - Dependencies[2] has no Name
  - Expect, line 2: redis/slow stands there twice
  - Expect, line 3: cart with redis down is "dwon", want up, degraded, down or hung
  - Expect, line 4: section cart is there a second time below line 2
  - Expect, line 5: section jobs has 1 outcome, want 3: one for each fault that line 2 names`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if injected {
		t.Error("something was injected")
	}
}

func TestAnEmptyTableGetsADraft(t *testing.T) {
	t.Parallel()
	s := &shop{}
	m := s.small(nil)
	m.Expect = "\n # nothing yet\n"
	_, err := matrix.Check(t.Context(), m)
	const want = `Expect is empty: declare what is expected. You can begin with this, and let the run say where it is wrong:
               redis/down
    checkout   up`
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got:\n%v\nwant at its end:\n%s", err, want)
	}
}

func TestOutcomesAreOrderedByWhatTheyCostUsers(t *testing.T) {
	t.Parallel()
	if !(matrix.OutcomeUp < matrix.OutcomeDegraded && matrix.OutcomeDegraded < matrix.OutcomeDown && matrix.OutcomeDown < matrix.OutcomeHung) {
		t.Error("want up < degraded < down < hung")
	}
	for o := matrix.OutcomeUp; o <= matrix.OutcomeHung; o++ {
		var back matrix.Outcome
		text, err := o.MarshalText()
		if err == nil {
			err = back.UnmarshalText(text)
		}
		if err != nil || back != o {
			t.Errorf("%v comes back as %v, %v", o, back, err)
		}
	}
}
