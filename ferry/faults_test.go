package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// A fault hits one process when a mover, there or back, a recoverer or a cleaner is
// just before a step.
type fault struct {
	step, whom, how string
	who             string  // comes to the step
	orphan          *orphan // that a recoverer finds
}

func (f fault) String() string {
	return fmt.Sprintf("%s of the %s before %s", f.how, f.whom, f.place())
}

// place is the step, and how a recoverer came there.
func (f fault) place() string {
	switch {
	case f.who == "returner":
		return f.step + " on the way back"
	case f.orphan == nil:
		return f.step
	}
	return fmt.Sprintf("%s (%s)", f.step, f.orphan)
}

// faults are all of them: SIGKILL and SIGSTOP of who comes to a step, of the
// three servers and, in a move, of a writer, before each step there is.
func faults() (all []fault) {
	add := func(f fault, whom ...string) {
		for _, f.whom = range append(whom, "source", "target", "master") {
			for _, f.how = range []string{"SIGKILL", "SIGSTOP"} {
				all = append(all, f)
			}
		}
	}
	for _, step := range ferry.Steps {
		for _, o := range orphans {
			if o.step == step {
				add(fault{step: step, who: "recoverer", orphan: &o}, "recoverer")
			}
		}
		switch role, _, _ := strings.Cut(step, "."); role {
		case "recover":
		case "clean":
			add(fault{step: step, who: "cleaner"}, "cleaner")
		default:
			add(fault{step: step, who: "mover"}, "mover", "writer")
			add(fault{step: step, who: "returner"}, "returner")
		}
	}
	return all
}

const (
	soonDead    = 500 * time.Millisecond  // a mover's lease
	frozenFor   = 1500 * time.Millisecond // a server, beyond the pause budget and the server's time-out for it
	heldFor     = 20 * time.Millisecond   // a transaction, so that the fault mostly comes inside one
	writableIn  = 10 * time.Second        // after the fault is over
	faultSample = 4                       // of the faults in each family, where PODWORKS_SOAK isn't set
)

// TestFaultsAtEveryStep has a mover in a process of its own, and writers in others
// with a ledger. When the mover is before a step, it, a writer or a server is killed
// or frozen. So is a recoverer, or a server under it, that found the mover dead or
// what a failover lost, and a cleaner; a second one finishes the work, and a frozen
// one wakes when that is done. Afterwards the shop is writable within ten seconds, in
// one pod: the one that the table of recovery says. Every write that was acknowledged
// is there and none that was not tried; what both pods have of the time before the
// switch is equal; a clean-up deleted the moved shop's rows at the source, all of them
// and no others. What hits a way back leaves one that needs no new copy.
//
// PODWORKS_SOAK=1 goes through all faults; else PODWORKS_SEED, or the time, draws
// a few.
//
// That these checks rest on the protections is shown where the moment can be chosen,
// which a signal can't: TestEachProtectionKeepsTheShopsRows switches off, one by one,
// those that a fault needs (the lock, the marker, the looks, tokens, epochs and
// conditions), in the interleaving in which each is what keeps the rows, and wants to
// see two owners, a lost sale or rows of nobody. The others, of the comparison and
// of what is copied, have their twins beside their own tests.
func TestFaultsAtEveryStep(t *testing.T) {
	t.Parallel()
	// The servers die under all who use them, so they are this test's own.
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("PODWORKS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PODWORKS_SEED: %v", err)
		}
	}
	for _, step := range ferry.Steps {
		if !slices.ContainsFunc(faults(), func(f fault) bool { return f.step == step }) {
			t.Errorf("no fault comes at step %s", step)
		}
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		all := faults()
		if os.Getenv("PODWORKS_SOAK") == "" {
			if testing.Short() {
				t.Skip("kills and freezes servers of its own; not with -short")
			}
			rng := rand.New(rand.NewPCG(seed, 0))
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			all = all[:faultSample]
			t.Logf("PODWORKS_SEED=%d", seed)
		}
		servers := map[string]*testcluster.MySQLServer{}
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, name := range []string{"source", "target", "master"} {
			wg.Go(func() {
				s, err := testcluster.StartMySQL(t.Context(), &testcluster.MySQLOptions{Family: f})
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { s.Stop() })
				mu.Lock()
				servers[name] = s
				mu.Unlock()
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		w := newWorldUnder(t, servers["master"], servers["source"], servers["target"], "", nil)
		for _, db := range []*sql.DB{w.master, w.source, w.target} {
			db.SetMaxIdleConns(0) // a connection doesn't outlive its server
		}
		w.fill(w.other, 30)
		w.exec(w.source, `INSERT INTO orders VALUES (?, 1, 'a', NULL)`, int64(w.other))
		var ends []ending
		for i, fault := range all {
			t.Run(fault.String(), func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 60)
				pod, took := w.suffer(fault, servers)
				ends = append(ends, ending{fault, pod, took})
			})
		}
		t.Logf("the pod that had the shop in the end, and the seconds from the end of the fault until it was writable:\n%s", histogram(ends))
	})
}

// suffer makes a move, a recovery or a clean-up with a fault, and returns the pod
// that has the shop in the end and how long it took to be writable.
func (w *world) suffer(f fault, servers map[string]*testcluster.MySQLServer) (end podworks.PodID, took time.Duration) {
	t := w.t
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	defer cancel()
	ledger := filepath.Join(t.TempDir(), "ledger")
	hold := map[string]time.Duration{"writer": heldFor}[f.whom]
	writers := []*process{w.process(role{Ledger: ledger, From: 1, Hold: hold})}
	writers[0].await("wrote")
	var actor *process
	var left *leftovers
	switch f.who {
	case "mover":
		if f.whom == "writer" {
			writers = append(writers, w.process(role{Ledger: ledger, From: 1_000_000})) // who goes on
			writers[1].await("wrote")
		}
		actor = w.process(role{To: 2, ChunkRows: 7, Stop: f.step, Lease: soonDead})
	case "recoverer":
		w.makeOrphan(f.orphan, writers[0])
		writers = []*process{w.process(role{Ledger: ledger, From: 1_000_000})}
		actor = w.process(role{Recover: true, Stop: f.step, Lease: soonDead})
	case "returner":
		w.leftBehind()
		actor = w.process(role{To: 1, ChunkRows: 7, Stop: f.step, Lease: soonDead})
	case "cleaner":
		left = w.leftBehind()
		actor = w.process(role{Clean: 1, Stop: f.step})
	}
	actor.await("before " + f.step)

	signal := map[string]syscall.Signal{"SIGKILL": syscall.SIGKILL, "SIGSTOP": syscall.SIGSTOP}[f.how]
	server, victim := servers[f.whom], map[string]*process{f.who: actor, "writer": writers[0]}[f.whom]
	lift := func() error { return nil }
	switch {
	case server == nil:
		w.must(victim.cmd.Process.Signal(signal))
	case signal == syscall.SIGKILL:
		w.must(server.Kill())
		lift = func() error { return server.Restart(ctx) }
	default:
		w.must(server.Pause())
		lift = server.Resume
	}
	recoverer := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Lease: soonDead})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		recoverer.Run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	if victim != actor {
		actor.goOn()
	}
	if server != nil && signal == syscall.SIGSTOP {
		<-time.After(frozenFor) // what the fault is
	}
	w.must(lift())
	took = w.writable(time.Now())
	settled := func() {
		until(t, "the journal to have nothing unfinished", func() bool {
			moves, err := w.dir.Moves(ctx)
			return err == nil && len(moves) == 0
		})
		if f.who == "cleaner" {
			until(t, "a second clean-up", func() bool {
				_, err := w.ferry.Clean(ctx, w.shop, 1)
				return err == nil
			})
		}
	}
	if victim != nil && signal == syscall.SIGSTOP {
		settled()                                          // by others, behind its back
		w.must(victim.cmd.Process.Signal(syscall.SIGCONT)) // it wakes, and changes nothing that isn't its own
	}
	actor.goOn()
	_ = actor.cmd.Wait() // whatever it says
	settled()
	w.writable(time.Now())
	for _, writer := range writers {
		killed := writer == victim && signal == syscall.SIGKILL
		if err := writer.end(); err != nil && !killed {
			t.Errorf("a writer: %v", err)
		}
	}
	if f.who == "returner" {
		return w.bringBack(ledger), took
	}
	if end = w.judge(ledger, left); f.orphan != nil && end != f.orphan.pod || f.who == "cleaner" && end != 2 {
		t.Errorf("the shop is in pod %d in the end", end)
	}
	return end, took
}

// writable waits until the shop takes a write, and returns for how long.
func (w *world) writable(start time.Time) (took time.Duration) {
	w.t.Helper()
	var err error
	until(w.t, "the shop to be writable", func() bool {
		ctx, cancel := context.WithTimeout(w.t.Context(), writableIn)
		defer cancel()
		var route podworks.Route
		if route, err = w.dir.Fresh(ctx, w.shop); err != nil {
			return false
		}
		err = sell(ctx, []*sql.DB{w.source, w.target}[route.Pod-1], w.shop, route.Epoch, 1)
		return err == nil
	})
	if took = time.Since(start); took > writableIn {
		w.t.Errorf("the shop was writable after %v, want %v; the last error: %v", took, writableIn, err)
	}
	return took
}

// An ending is what became of a fault.
type ending struct {
	fault
	pod  podworks.PodID
	took time.Duration
}

// histogram has a line for each step and a column for each process and signal.
func histogram(ends []ending) string {
	columns := []string{"itself", "writer", "source", "target", "master"}
	var out strings.Builder
	tab := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprint(tab, "before")
	for _, c := range columns {
		fmt.Fprintf(tab, "\t%s KILL\tSTOP", c)
	}
	fmt.Fprintln(tab, "\tin 1\tin 2\tlongest")
	line := func(name string, ends []ending) {
		var pods [3]int
		var longest time.Duration
		cells, n := make([]string, 2*len(columns)), make([]int, 2*len(columns))
		for _, e := range ends {
			pods[e.pod]++
			longest = max(longest, e.took)
			at := 2 * max(0, slices.Index(columns, e.whom))
			if e.how == "SIGSTOP" {
				at++
			}
			n[at]++
			cells[at] = fmt.Sprintf("%d %.2f", e.pod, e.took.Seconds())
			if name == "all" {
				cells[at] = strconv.Itoa(n[at])
			}
		}
		fmt.Fprintf(tab, "%s\t%s\t%d\t%d\t%.2f\n", name, strings.Join(cells, "\t"), pods[1], pods[2], longest.Seconds())
	}
	for rest := ends; len(rest) > 0; {
		place := rest[0].place()
		var part, others []ending
		for _, e := range rest {
			if e.place() == place {
				part = append(part, e)
			} else {
				others = append(others, e)
			}
		}
		line(place, part)
		rest = others
	}
	line("all", ends)
	tab.Flush()
	return out.String()
}
