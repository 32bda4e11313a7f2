package ferry

import (
	"fmt"
	"strings"

	"github.com/podworks/podworks"
)

// A Severity says what a finding means for the move.
type Severity string

// The severities, from the gravest.
const (
	Refuse Severity = "refuse" // the move can't be made safely, and Move refuses it
	Warn   Severity = "warn"   // the move can be made; someone should look at this first
	Note   Severity = "note"   // what the plan could not find out
)

// A Finding is one thing that speaks against a move, or that one should know
// before it.
type Finding struct {
	Severity Severity
	Pod      podworks.PodID // 0 if it is of both, or of none
	Table    string         // "" if it is of none in particular
	What     string         // was found, and what that means
	Do       string         // to mend it; "" if there is nothing to do

	cause error // that What says, for errors.Is
}

// String returns the finding in one line.
func (f Finding) String() string {
	var at []string
	if f.Pod != 0 {
		at = append(at, fmt.Sprintf("pod %d", f.Pod))
	}
	if f.Table != "" {
		at = append(at, "table "+f.Table)
	}
	text := f.What
	if len(at) > 0 {
		text = strings.Join(at, ", ") + ": " + text
	}
	if f.Do != "" {
		text += "; " + f.Do
	}
	return text
}

// A findingError is a finding that refuses a move.
type findingError struct{ Finding }

func (f findingError) Error() string { return f.String() }
func (f findingError) Unwrap() error { return f.cause }

// fault makes a finding of an error, whose text after its last semicolon says
// what to do.
func fault(err error) Finding {
	f := Finding{Severity: Refuse, What: err.Error(), cause: err}
	if i := strings.LastIndex(f.What, "; "); i >= 0 && !strings.Contains(f.What, "\n") {
		f.What, f.Do = f.What[:i], f.What[i+2:]
	}
	return f
}
