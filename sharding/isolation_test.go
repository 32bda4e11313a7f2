package sharding_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/toxi"
)

// isolated is the share of their throughput that the other pods must keep.
const isolated = 0.95

// backWithin is how soon a pod must be back when its fault has ended. go-redis
// looks once a second for a server that has refused it.
const backWithin = 10 * time.Second

// soakVariable makes the slow tests run: they need minutes, and a machine that
// does nothing else.
const soakVariable = "PODWORKS_SOAK"

// warmers open connections again before each window, and are not so many that the
// weak pod could be busy with them alone.
const warmers = 4

// A trial plays rounds of three windows: without a fault, with it, and with it
// where the pod may take the whole process. What drifts drifts for all three.
type trial struct {
	rounds int
	window time.Duration
	rate   float64 // requests per second, of all shops

	limited, shared *app // with the default PodShare, and with 1
}

// newTrial makes the process as large as what comes for the weak pod in half a
// window. So a pod that answers nothing fills it in half a window if it may; and
// if it may not, the 30 % that it leaves to the others is what comes for them in
// 0.3 windows: they must not be refused because one of their servers, or the
// machine, had to stop and think for some milliseconds.
func (st *stores) newTrial(t *testing.T, rounds int, window time.Duration, rate float64) *trial {
	t.Helper()
	maxScopes := max(2*warmers, int(rate*2/3*window.Seconds()/2))
	t.Logf("%.0f requests/s, two thirds of them for the pod; MaxScopes %d", rate, maxScopes)
	return &trial{rounds, window, rate,
		st.newApp(t, &sharding.Options{MaxScopes: maxScopes}),
		st.newApp(t, &sharding.Options{MaxScopes: maxScopes, PodShare: 1}),
	}
}

// A verdict is what rounds have shown of one app.
type verdict struct {
	throughput, p99 []float64     // of the other pods, with the fault relative to without
	off, on         []float64     // that p99 in ms
	others, weak    tally         // with the fault
	back            time.Duration // the slowest of the weak pod's recoveries
}

func (v *verdict) add(off, on, weak tally) {
	v.throughput = append(v.throughput, float64(on.ok)/float64(off.ok))
	v.p99 = append(v.p99, on.p99()/off.p99())
	v.off, v.on = append(v.off, off.p99()), append(v.on, on.p99())
	v.others.join(on)
	v.weak.join(weak)
}

func (v *verdict) String() string {
	return fmt.Sprintf("others: throughput × %.2f, p99 × %.2f (%.1f ms, then %.1f ms; %v); the pod: %v, back after %v",
		median(v.throughput), median(v.p99), median(v.off), median(v.on), &v.others, &v.weak, v.back.Round(time.Millisecond))
}

// run plays the rounds and returns what the limited and the shared app made of
// the fault.
func (tr *trial) run(t *testing.T, strike func() (mend func())) (limited, shared *verdict) {
	t.Helper()
	limited, shared = new(verdict), new(verdict)
	for round := range tr.rounds {
		todo := requests(uint64(round+1), tr.rate, tr.window)
		tr.limited.drive(t, warmers, tr.window/10)
		off, _ := tr.limited.play(t, todo, nil)
		if off.ok == 0 {
			t.Fatalf("nothing works without a fault: %v", &off)
		}
		for _, c := range []struct {
			app *app
			v   *verdict
		}{{tr.limited, limited}, {tr.shared, shared}} {
			c.app.drive(t, warmers, tr.window/10)
			on, weak := c.app.play(t, todo, strike)
			c.v.add(off, on, weak)
			// Both have connections to what was broken.
			for _, a := range []*app{tr.limited, tr.shared} {
				c.v.back = max(c.v.back, a.recovers(t, backWithin))
			}
			if n := c.app.cluster.Stats().Scopes; n != 0 {
				t.Errorf("%d scopes are left after the fault, want none", n)
			}
			if weak.busy+weak.failed == 0 {
				t.Errorf("the fault did the pod no harm: %v", &weak)
			}
		}
	}
	return limited, shared
}

// faults are done to a store, and undone by what they return.
var faults = []struct {
	name   string
	holds  bool // requests wait for the store, and so would fill the process
	strike func(s store, t *testing.T) (mend func())
}{
	{"frozen", true, store.freeze},
	{"killed", false, store.kill},
	{"slow", true, store.slow},
}

func (s store) freeze(t *testing.T) (mend func()) {
	checkIs(t, "Pause", s.Pause(), nil)
	return func() { checkIs(t, "Resume", s.Resume(), nil) }
}

// kill makes the proxy refuse as well, as a machine does whose server is dead: a
// proxy in front of one would accept and hang up.
func (s store) kill(t *testing.T) (mend func()) {
	checkIs(t, "Kill", s.Kill(), nil)
	accept := s.put(t, toxi.Refuse{})
	return func() {
		checkIs(t, "Restart", s.Restart(t.Context()), nil)
		accept()
	}
}

// slow is so slow that what comes meanwhile is more than the process can hold.
func (s store) slow(t *testing.T) (mend func()) {
	return s.put(t, toxi.Latency{Delay: 700 * time.Millisecond})
}

// put adds a toxic to the store's proxy.
func (s store) put(t *testing.T, toxic toxi.Toxic) (remove func()) {
	t.Helper()
	undo, err := s.proxy.Add(toxic)
	if err != nil {
		t.Fatal(err)
	}
	return func() { checkIs(t, "removing the toxic", undo(), nil) }
}

// A pod whose MySQL answers nothing any more takes its share of the process, and
// the rest is enough for the others. When it may take everything, it does.
//
// How long the others' requests take is for the test below: on a machine that
// runs other tests, too, it says nothing. But one that waited for the frozen pod
// would be seen: it would run into its deadline, for the pod stays frozen until the
// others' have ended.
//
// Not parallel: it measures.
func TestAFrozenPodLeavesTheOthersTheirThroughput(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		st := startStores(t, f)
		// A quarter: what else runs here may take half of the machine away.
		rate := st.newApp(t, nil).drive(t, 16, 300*time.Millisecond) / 4
		tr := st.newTrial(t, 3, 400*time.Millisecond, rate)
		limited, shared := tr.run(t, func() func() { return st.mysql[weakPod].freeze(t) })
		t.Logf("%v", limited)
		t.Logf("without PodShare: %v", shared)
		if got := median(limited.throughput); got < isolated {
			t.Errorf("while a pod was frozen the others kept %.2f of their throughput, want %.2f: %v", got, isolated, &limited.others)
		}
		if got := median(shared.throughput); got >= isolated {
			t.Errorf("with a PodShare of 1 the others kept %.2f of their throughput, want less: this test proves nothing", got)
		}
	})
}

// Each store of a pod fails in each way, at half of the capacity. The log is a
// table of how it went: run it with -v, alone, on a quiet machine.
func TestWhenOneStoreOfAPodFailsTheOthersDoNotNotice(t *testing.T) {
	if os.Getenv(soakVariable) == "" {
		t.Skipf("takes seven minutes and a quiet machine; runs when %s is set", soakVariable)
	}
	logging.Disable() // go-redis would report each connection; it has no other switch
	defer logging.Enable()
	const slower = 1.5
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		st := startStores(t, f)
		rate := st.newApp(t, nil).drive(t, 16, 3*time.Second) / 2
		tr := st.newTrial(t, 5, time.Second, rate)
		for _, part := range []struct {
			name string
			store
		}{{"mysql", st.mysql[weakPod]}, {"redis", st.redis[weakPod]}, {"memcached", st.memcached[weakPod]}} {
			for _, fault := range faults {
				cell := part.name + " " + fault.name
				t.Run(cell, func(t *testing.T) {
					limited, shared := tr.run(t, func() func() { return fault.strike(part.store, t) })
					t.Logf("%-17s %v", cell, limited)
					t.Logf("%-17s %v", "without PodShare", shared)
					if throughput, p99 := median(limited.throughput), median(limited.p99); throughput < isolated || p99 > slower {
						t.Errorf("the others' throughput × %.2f and p99 × %.2f, want at least %.2f and at most %.2f", throughput, p99, isolated, slower)
					}
					// Requests that fail soon don't fill the process: there the limit has
					// nothing to do.
					if got := median(shared.throughput); fault.holds && got >= isolated {
						t.Errorf("with a PodShare of 1 the others kept %.2f of their throughput, want less: this test proves nothing", got)
					}
				})
			}
		}
	})
}
