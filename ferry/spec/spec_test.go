package spec

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

var trails = flag.Bool("trails", false, "show how each mutation does its damage")

// A check is one configuration of a model, in which Spin must find no error.
type check struct {
	name   string // what it shows
	model  string // a .pml file
	flags  string // processes and faults; move.pml explains them
	cycles bool   // find loops without an end instead of bad states
}

// A mutation is a rule that is left out. Spin must find the damage.
type mutation struct {
	macro string
	rule  string // what is left out
	in    string // name of the check in which it is found
}

var checks = []check{
	{name: "a move under writers", model: "move.pml", flags: "WRITERS=2 TXS=2 DEATHS=1 CUTS=1 CRASHES=1"},
	{name: "a move dies anywhere", model: "move.pml", flags: "RECOVERERS=1 DEATHS=1 CUTS=1"},
	{name: "two recoverers", model: "move.pml", flags: "RECOVERERS=2 DEATHS=2 CUTS=1"},
	{name: "two movers", model: "move.pml", flags: "MOVERS=2 DEATHS=1 CUTS=1"},
	{name: "there, clean-up and back", model: "move.pml", flags: "TXS=2 BACK=1 CLEANERS=1 DEATHS=1"},
	{name: "failover of the source", model: "move.pml", flags: "FAIL_SRC=1 DEATHS=1 CUTS=1"},
	{name: "failover of the source, two podmovers", model: "move.pml", flags: "FAIL_SRC=2"},
	{name: "failover of the target", model: "move.pml", flags: "FAIL_DST=1 DEATHS=1 CUTS=1 CLEANERS=1"},
	{name: "failover of the target, two podmovers", model: "move.pml", flags: "FAIL_DST=2"},
	{name: "failover of the target, copied again", model: "move.pml", flags: "FAIL_DST=1 NO_REPLICA_OF_COPY=1 DEATHS=1 CLEANERS=1"},
	{name: "failover of source and target", model: "move.pml", flags: "FAIL_SRC=1 FAIL_DST=1"},
	{name: "failover of the source, two movers", model: "move.pml", flags: "FAIL_SRC=1 MOVERS=2"},
	{name: "failover of the master", model: "move.pml", flags: "FAIL_MASTER=1 DEATHS=1 CUTS=1"},
	{name: "failover of the master, two movers", model: "move.pml", flags: "FAIL_MASTER=1 MOVERS=2 WRITERS=0"},
	{name: "no loop without an end, two recoverers", model: "move.pml", flags: "RECOVERERS=2 DEATHS=1 CUTS=1", cycles: true},
	{name: "no loop without an end, failover of the target", model: "move.pml", flags: "FAIL_DST=1 NO_REPLICA_OF_COPY=1 DEATHS=1", cycles: true},
	{name: "no loop without an end, failover of the master", model: "move.pml", flags: "FAIL_MASTER=1", cycles: true},
	{name: "copy and tail", model: "rows.pml", flags: "CHANGES=3"},
	{name: "copy and tail, movers that die", model: "rows.pml", flags: "CHANGES=2 DEATHS=1"},
}

var mutations = []mutation{
	{"MUT_UNFENCED_WRITE", "an autocommit write takes no lock", "a move dies anywhere"},
	{"MUT_XA_WRITER", "a prepared XA transaction holds no lock", "a move dies anywhere"},
	{"MUT_EPOCH_NOT_COMPARED", "a writer looks at the state only", "there, clean-up and back"},
	{"MUT_RETRY_UNKNOWN", "a unit of work runs again after an unknown commit", "a move dies anywhere"},
	{"MUT_APPLY_WITHOUT_TOKEN", "apply asks for no token", "two movers"},
	{"MUT_NOTE_WHILE_FAILING_OVER", "epochs are noted while a pod is failing over", "failover of the source, two podmovers"},
	{"MUT_SKIP_MARKER", "no marker, no drain under the lock", "a move dies anywhere"},
	{"MUT_NO_LOOK_UNDER_LOCK", "no look at the journal under the lock", "a move dies anywhere"},
	{"MUT_NO_IDLE_TIMEOUT", "the server keeps a frozen mover's session", "a move dies anywhere"},
	{"MUT_OPEN_BEFORE_DECIDE", "the target is opened before the decision", "a move dies anywhere"},
	{"MUT_DECIDE_WITHOUT_JOURNAL", "the decision doesn't ask whether the move is running", "a move dies anywhere"},
	{"MUT_DECIDE_WITHOUT_POD_EPOCHS", "the decision doesn't compare the pods' epochs", "failover of the source"},
	{"MUT_GUESS_DECIDE", "a decision whose answer is lost is taken for a no", "a move dies anywhere"},
	{"MUT_REOPEN_WITHOUT_LOCKING_READ", "the source's row is read without a lock before it is reopened", "a move dies anywhere"},
	{"MUT_REOPEN_ONLY_ITS_OWN", "an abort reopens what its own token closed, not what an earlier one did", "two movers"},
	{"MUT_NO_TOMBSTONE", "an undone move leaves no tombstone", "a move dies anywhere"},
	{"MUT_FINISH_BEFORE_REPLICA", "the journal row goes before the open row is on the replica", "failover of the target"},
	{"MUT_CLEAN_WITHOUT_CHECK", "clean-up doesn't look under its lock", "there, clean-up and back"},
	{"MUT_CLEAN_BEFORE_FINISH", "clean-up looks at the fence only, not at the journal", "there, clean-up and back"},
	{"MUT_RECONCILE_BEFORE_RAISE", "a failover reconciles before it raises the pod epoch", "failover of the source"},
	{"MUT_RECONCILE_WITHOUT_ITS_EPOCH", "a reconciler doesn't look for its own epoch on the server", "failover of the source, two podmovers"},
	{"MUT_RECONCILE_KEEPS_OLD_TOKEN", "a failover leaves an aborted move's token in the row of a shop that has left", "failover of the source, two movers"},
	{"NO_REPLICA_OF_COPY", "the decision doesn't wait for the target's replica to have the copy", "failover of source and target"},
	{"ALL_INCOMING_DIE", "a failover makes a decided copy absent too", "failover of source and target"},
	{"MUT_MASTER_HIGHEST_OPEN_ONLY", "after the master's failover the highest open row wins, and no token is retired", "failover of the master"},
	{"MUT_TOKENS_COME_BACK", "the promoted master gives out tokens again that were lost", "failover of the master, two movers"},
	{"MUT_UPDATE_ONLY", "a change of key is applied as an update of the new key", "copy and tail"},
	{"MUT_FILTER_NEW_IMAGE", "the tenant filter looks at the new image only", "copy and tail"},
	{"MUT_CHUNK_WINS", "a chunk's row is written although an event named its key", "copy and tail"},
	{"MUT_NO_EVENT_AHEAD", "events ahead of the copy are skipped, and their chunk rows dropped", "copy and tail"},
	{"MUT_POSITION_BEFORE_ROWS", "the position is written before the rows", "copy and tail, movers that die"},
}

// A result is what pan said.
type result struct {
	check
	states     int64
	depth      int
	took       time.Duration
	failed     string // the assertion, or ""
	trail      string // readable
	trailSteps int
}

// TestSpec checks every configuration and finds every mutation. One model per
// core is searched at a time; a search takes 2 GB at most.
func TestSpec(t *testing.T) {
	if os.Getenv("PODWORKS_SPEC") == "" {
		t.Skip("the models are checked by make spec (PODWORKS_SPEC=1), which needs spin and a C compiler")
	}
	for tool, pkg := range map[string]string{"spin": "spin", "cc": "gcc libc6-dev", "cpp": "cpp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: %v. On Debian: apt-get install %s", tool, err, pkg)
		}
	}
	var mu sync.Mutex // guards what follows
	held := map[string]result{}
	found := map[string]result{}
	start := time.Now()
	t.Run("group", func(t *testing.T) {
		for _, c := range checks {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				r := search(t, c, "")
				if r.failed != "" {
					t.Errorf("%s (%s %s): got %s, want no error. The steps to it:\n%s", c.name, c.model, c.flags, r.failed, r.trail)
				}
				mu.Lock()
				defer mu.Unlock()
				held[c.name] = r
			})
		}
		for _, m := range mutations {
			t.Run(m.macro, func(t *testing.T) {
				t.Parallel()
				i := slices.IndexFunc(checks, func(c check) bool { return c.name == m.in })
				if i < 0 {
					t.Fatalf("there is no check %q", m.in)
				}
				r := search(t, checks[i], m.macro)
				if r.failed == "" {
					t.Errorf("%s (%s): got no error in %q, want the damage to be found", m.macro, m.rule, m.in)
				} else if *trails {
					t.Logf("%s: %s\n%s", m.macro, r.failed, r.trail)
				}
				mu.Lock()
				defer mu.Unlock()
				found[m.macro] = r
			})
		}
	})

	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nconfiguration\tstates\tdepth\ttime\tresult")
	var states int64
	for _, c := range checks {
		if r, ok := held[c.name]; ok {
			verdict := "holds"
			if r.failed != "" {
				verdict = "FAILS: " + r.failed
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%.1f s\t%s\n", c.name, r.states, r.depth, r.took.Seconds(), verdict)
			states += r.states
		}
	}
	fmt.Fprintln(w, "\nmutation\tleft out\tfound in\tsteps to it")
	for _, m := range mutations {
		if r, ok := found[m.macro]; ok {
			in, steps := m.in, strconv.Itoa(r.trailSteps)
			if r.failed == "" {
				in, steps = "NOT FOUND", "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.macro, m.rule, in, steps)
		}
	}
	w.Flush()
	fmt.Printf("%s\n%d configurations, %d states, %d mutations, %.0f s\n", out.String(), len(held), states, len(found), time.Since(start).Seconds())
}

// Each verdict of pan's is one of these lines.
var (
	reStates    = regexp.MustCompile(`(?m)^ *(\d+) states, stored`)
	reDepth     = regexp.MustCompile(`depth reached (\d+), errors: (\d+)`)
	reError     = regexp.MustCompile(`(?m)^pan:\d+: (.*) \(at depth (\d+)\)`)
	reTruncated = regexp.MustCompile(`search depth too small|out of memory|reached -DMEMLIM|Interrupted`)
)

// search runs spin, cc and pan.
func search(t *testing.T, c check, macro string) result {
	t.Helper()
	model, err := filepath.Abs(c.model)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	defines := append(strings.Fields(c.flags), strings.Fields(macro)...)
	spin := make([]string, 0, len(defines)+4)
	for _, d := range defines {
		spin = append(spin, "-D"+d)
	}
	run(t, dir, "spin", append(spin, "-a", model)...)
	cc := []string{"-O1", "-w", "-DMEMLIM=2048", "-DCOLLAPSE", "-o", "pan", "pan.c"}
	pan := []string{"-E", "-m100000"} // -E: Quiet says which ends are good
	if c.cycles {
		cc, pan = append(cc, "-DNP"), append(pan, "-l")
	} else {
		cc = append(cc, "-DSAFETY")
	}
	run(t, dir, "cc", cc...)
	start := time.Now()
	said := run(t, dir, "./pan", pan...)
	r := result{check: c, took: time.Since(start)}
	states, depth := reStates.FindStringSubmatch(said), reDepth.FindStringSubmatch(said)
	if states == nil || depth == nil || reTruncated.MatchString(said) {
		t.Fatalf("pan's search was not complete:\n%s", said)
	}
	r.states, _ = strconv.ParseInt(states[1], 10, 64)
	r.depth, _ = strconv.Atoi(depth[1])
	t.Logf("%d states, depth %d, %.1f s", r.states, r.depth, r.took.Seconds())
	if depth[2] == "0" {
		return r
	}
	e := reError.FindStringSubmatch(said)
	if e == nil {
		t.Fatalf("pan reports errors and doesn't say which:\n%s", said)
	}
	r.failed = e[1]
	files, err := filepath.Glob(filepath.Join(dir, "*.trail"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got the trails %v (%v), want one", files, err)
	}
	r.trail, r.trailSteps = readable(t, model, run(t, dir, "spin", append(spin, "-k", filepath.Base(files[0]), "-t", "-p", model)...))
	return r
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil && name != "spin" { // spin ends with 1 after a trail that ends in a failed assertion
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	if bytes.Contains(out, []byte("syntax error")) || bytes.Contains(out, []byte("Error: aborting")) {
		t.Fatalf("%s %s:\n%s", name, strings.Join(args, " "), out)
	}
	return string(out)
}

var (
	reLabel = regexp.MustCompile(`^\s*([a-z]\w*):(?:[^:]|$)`)
	reStep  = regexp.MustCompile(`^\s*\d+:\s+proc\s+(\d+) \((\w+)(?::\d+)?\) [^:]*:(\d+) \(state -?\d+\)\s+\[(.*)\]`)
)

// readable cuts a trail down to one line per atomic action: the process and the
// action's label or, where it has none, its guard.
func readable(t *testing.T, model, trail string) (string, int) {
	t.Helper()
	f, err := os.Open(model)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	labels := map[string]string{} // by line
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if m := reLabel.FindStringSubmatch(lines.Text()); m != nil {
			labels[strconv.Itoa(n)] = m[1]
		}
	}
	var out []string
	last := ""
	for _, line := range strings.Split(trail, "\n") {
		m := reStep.FindStringSubmatch(line)
		if m == nil || m[2] == "init" {
			continue
		}
		who, what := m[1]+" "+m[2], m[4]
		label := labels[m[3]]
		guard := strings.HasPrefix(what, "(")
		switch {
		case label != "" && who+label == last:
		case label != "":
			// The action's guard stands before its label.
			if n := len(out); n > 0 && strings.HasPrefix(out[n-1], who+": (") {
				out = out[:n-1]
			}
			out = append(out, who+": "+label)
			last = who + label
		case guard && what != "(1)":
			out = append(out, who+": "+what)
			last = ""
		}
	}
	return strings.Join(out, "\n"), len(out)
}
