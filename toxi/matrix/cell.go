package matrix

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

const (
	// healing is what Inject and heal have. A server that is started again needs
	// some of it.
	healing = time.Minute

	// grace is for a probe that obeys its context to return after its deadline.
	grace = time.Second
)

// A subject is a section that is being probed.
type subject struct {
	section Section

	// left is closed when the probe that did not obey its context returns. Until
	// then the section is not probed: two probes at once are nothing that its author
	// was told of.
	left <-chan struct{}

	// absent: the section was not up before a fault, however long it was waited for.
	// It is asked once before the next, and not waited for again.
	absent bool
}

// An answer is what a probe said.
type answer struct {
	seen  Seen
	took  time.Duration
	fault string // why it is no answer: the probe panicked, or returned no outcome
	stack string
	late  bool // it came after the deadline
	left  bool // the probe is still running
	ended bool // the run was ended, and with it the probe
}

func (a answer) up() bool { return a.fault == "" && a.seen.Outcome == OutcomeUp && !a.ended }

// String is what messages say of it: down ("503" after 2.1s).
func (a answer) String() string {
	switch {
	case a.fault != "":
		return a.fault
	case a.seen.Outcome == OutcomeHung && a.seen.Text == "":
		return fmt.Sprintf("hung (no answer in %s)", short(a.took))
	}
	return fmt.Sprintf("%v (%q after %s)", a.seen.Outcome, a.seen.Text, short(a.took))
}

// ask probes the section once.
func (s *subject) ask(ctx context.Context, deadline time.Duration) answer {
	if s.left != nil {
		select {
		case <-s.left:
			s.left = nil
		default:
			return answer{fault: "nothing: it was not asked, because its probe is still running since an earlier fault and doesn't obey its context", left: true}
		}
	}
	late := errors.New("the deadline")
	probing, cancel := context.WithTimeoutCause(ctx, deadline, late)
	defer cancel()
	begin := time.Now()
	result := make(chan answer, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		var a answer
		why, stack := guard(func() { a.seen = s.section.Probe(probing) })
		a.took = time.Since(begin)
		a.late = context.Cause(probing) == late
		if why != "" {
			a.fault, a.stack = "nothing: the probe "+why, stack
		} else if a.seen.Outcome < OutcomeUp || a.seen.Outcome > OutcomeHung {
			a.fault = "nothing: the probe returned no outcome; let it return matrix.Up, Degraded, Down or Hung"
		}
		a.seen.Text = line(a.seen.Text)
		result <- a
	}()

	var a answer
	select {
	case a = <-result:
	case <-probing.Done():
		patience := time.NewTimer(grace)
		defer patience.Stop()
		select {
		case a = <-result:
		case <-patience.C:
			a = answer{late: true, left: true}
			s.left = over
		}
	}
	switch {
	case ctx.Err() != nil:
		a.ended = true
	case a.late && a.fault == "":
		// Nobody has waited for what it says now.
		a.seen.Outcome = OutcomeHung
		a.took = deadline
	}
	return a
}

// await asks until the section is up, for at most the time given. It returns
// the last answer, and how long it took until that.
func (s *subject) await(ctx context.Context, within, deadline time.Duration) (up bool, last answer, took time.Duration) {
	begin := time.Now()
	// Often enough for a time to recover that means something, and seldom enough
	// not to be what keeps the section from recovering.
	pause := time.NewTicker(min(max(within/50, 10*time.Millisecond), 100*time.Millisecond))
	defer pause.Stop()
	for {
		left := within - time.Since(begin)
		if left <= 0 {
			return false, last, time.Since(begin)
		}
		a := s.ask(ctx, min(deadline, left))
		took = time.Since(begin)
		if a.ended {
			return false, a, took
		}
		if a.up() && took <= within {
			return true, a, took
		}
		// A last try that the time cut off says less than the one before it.
		if last == (answer{}) || !a.late || left >= deadline {
			last = a
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return false, answer{ended: true}, time.Since(begin)
		}
	}
}

// A round injects one fault, once, and tests the cells of its column: those of
// all subjects that were chosen.
//
// The fault is injected once for all sections, and they are probed at once,
// because that is what an outage is: it doesn't come to one section after the
// other, and a section that hangs may take the workers of another with it, which
// is worth knowing. It is quicker too: a fault in which everything hangs costs one
// deadline and not one for each section. What speaks against it is that a cell
// can answer otherwise alone than together with the others; then the load of one
// request of each section was too much, and -run tells which.
func (p *plan) round(ctx context.Context, c column, subjects []*subject) []Cell {
	cells := make([]Cell, len(subjects))
	for i, s := range subjects {
		cells[i] = p.cell(s.section, c)
	}
	problem := func(i int, format string, args ...any) {
		cells[i].Problems = append(cells[i].Problems, fmt.Sprintf("%v: "+format, append([]any{cells[i].place()}, args...)...))
	}

	// Up before.
	chosen := make([]bool, len(subjects))
	together(subjects, func(i int, s *subject) {
		var last answer
		if s.absent {
			last = s.ask(ctx, p.Deadline)
			chosen[i] = last.up()
		} else {
			chosen[i], last, _ = s.await(ctx, c.fault.Recover, p.Deadline)
		}
		s.absent = !chosen[i]
		if !chosen[i] && !last.ended {
			problem(i, "not tested: %s was not up before the fault, got %v. Look at what it needs to be up, and at the fault before this one.", s.section.Name, last)
			cells[i].stack(last)
		}
	})
	if !slices.Contains(chosen, true) || ctx.Err() != nil {
		return p.judge(ctx, cells)
	}

	// Inject.
	heal, why, stack := c.inject(ctx)
	healed := false
	mend := func() {
		if healed || heal == nil {
			return
		}
		healed = true
		// Of a run that was ended, too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healing)
		defer cancel()
		var err error
		fault, stack := guard(func() { err = heal(ctx) })
		if err != nil {
			fault = "failed: " + err.Error()
		}
		for i := range cells {
			if fault != "" && chosen[i] {
				problem(i, "the heal of %v %s. What comes after it may be tested with the fault still there.", c, fault)
				cells[i].stack(answer{stack: stack})
			}
		}
	}
	defer mend() // whatever happens

	// Probe.
	if why != "" {
		for i := range cells {
			if chosen[i] {
				problem(i, "not tested: %v could not be injected: %s.", c, why)
				cells[i].stack(answer{stack: stack})
			}
		}
	} else {
		together(subjects, func(i int, s *subject) {
			if chosen[i] {
				cells[i].saw(s.ask(ctx, p.Deadline))
			}
		})
	}

	// Heal.
	mend()

	// Up again.
	together(subjects, func(i int, s *subject) {
		if !chosen[i] {
			return
		}
		up, last, took := s.await(ctx, c.fault.Recover, p.Deadline)
		switch {
		case up:
			cells[i].UpAgain = max(took, time.Nanosecond)
		case !last.ended:
			problem(i, "not up again within %v of the heal, got %v. Find out what keeps %s from coming back, or state the time that it needs.", c.fault.Recover, last, s.section.Name)
			cells[i].stack(last)
		}
	})
	return p.judge(ctx, cells)
}

// inject returns how to undo the fault, and why it is not there, or "".
func (c column) inject(ctx context.Context) (heal func(context.Context) error, why, stack string) {
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	var err error
	why, stack = guard(func() { heal, err = c.fault.Inject(ctx) })
	switch {
	case why != "":
		return nil, "Inject " + why + ", before it returned its heal, so that what it did is still there", stack
	case err != nil:
		return heal, err.Error(), ""
	case heal == nil:
		return nil, "Inject returned no heal", ""
	}
	return heal, "", ""
}

// guard calls f in a goroutine of its own, so that neither a panic nor
// t.FailNow in it ends the run: there is a fault to heal. It returns what
// happened, or "".
func guard(f func()) (why, stack string) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		why = "ended its goroutine, as t.FailNow and t.Fatal do, and has to return"
		defer func() {
			if v := recover(); v != nil {
				why = "panicked: " + line(fmt.Sprint(v))
				stack = string(debug.Stack())
			}
		}()
		f()
		why = ""
	}()
	<-over
	return why, stack
}

// together calls f for all subjects at once.
func together(subjects []*subject, f func(int, *subject)) {
	var wg sync.WaitGroup
	for i, s := range subjects {
		wg.Go(func() { f(i, s) })
	}
	wg.Wait()
}

// cell returns the cell of a section and a fault, not run yet.
func (p *plan) cell(s Section, c column) Cell {
	return Cell{
		Section: s.Name, Dependency: c.dependency, Fault: c.fault.Name,
		Expected: p.expected[place{s.Name, c.dependency, c.fault.Name}],
	}
}

// saw writes an answer into the cell.
func (c *Cell) saw(a answer) {
	if a.ended {
		return
	}
	c.Took = a.took
	c.stack(a)
	if a.left {
		c.Notes = append(c.Notes, "the probe doesn't obey its context: it was still running after the deadline")
	}
	if a.fault != "" {
		c.Problems = append(c.Problems, fmt.Sprintf("%v: got %s.", c.place(), a.fault))
		return
	}
	c.Got = a.seen.Outcome
	c.Saw = a.seen.Text
	declared := fmt.Sprintf("%v: declared %v, got %v", c.place(), c.Expected, a)
	switch {
	case c.Expected == 0:
		c.Problems = append(c.Problems, fmt.Sprintf("%v: not declared, got %v. Write into the table what is true.", c.place(), a))
	case c.Got > c.Expected:
		c.Problems = append(c.Problems, fmt.Sprintf("%s: worse than declared. Fix %s, or declare what is true.", declared, c.Section))
	case c.Got < c.Expected:
		c.Problems = append(c.Problems, fmt.Sprintf("%s: better than declared. Tighten the table, so that it stays that good.", declared))
	}
}

func (c *Cell) stack(a answer) {
	if a.stack != "" && !slices.Contains(c.stacks, a.stack) {
		c.stacks = append(c.stacks, a.stack)
	}
}

// judge gives cells that were run their states. Those that the end of the run
// left without a result were not run.
func (p *plan) judge(ctx context.Context, cells []Cell) []Cell {
	for i := range cells {
		c := &cells[i]
		switch {
		case c.Expected == 0:
			c.State = StateUntested
			if len(c.Problems) == 0 {
				c.Problems = append(c.Problems, fmt.Sprintf("%v: not declared, and not run to its end.", c.place()))
			}
		case len(c.Problems) > 0:
			c.State = StateFailed
		case ctx.Err() != nil:
			c.State = StateNotRun
		default:
			c.State = StatePassed
		}
	}
	return cells
}
