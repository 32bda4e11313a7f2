package ferry_test

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// soakFor is how long PODWORKS_SOAK says that the soak takes; 0 is none.
func soakFor(t *testing.T) time.Duration {
	text := os.Getenv("PODWORKS_SOAK")
	if text == "" || text == "1" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("PODWORKS_SOAK is %q, want a duration such as 10m", text)
	}
	return d
}

// TestMovesThroughChaos makes a random schema and has writers' processes work
// in it while the shop is moved there and back by movers' processes, each move
// with one fault at one step of it. What was acknowledged must be there, source
// and target must agree at the switch, and one pod must take writes.
//
// PODWORKS_SEED repeats a run's decisions, if not its timing. PODWORKS_SOAK=10m
// takes new seeds for as long.
func TestMovesThroughChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers and kills them; not with -short")
	}
	soak := soakFor(t)
	seed := uint64(1) // new ones are for soaks: who changes something else wants to know that he broke it
	if soak > 0 {
		seed = uint64(time.Now().UnixNano()) % 1e9
	}
	if text := os.Getenv("PODWORKS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		a := newArena(f, func(string) *testcluster.MySQLServer {
			return testcluster.Start(t, &testcluster.MySQLOptions{Family: f})
		})
		begun := time.Now()
		for n := seed; ; n++ {
			failed := !t.Run(fmt.Sprint("seed ", n), func(t *testing.T) {
				defer func() {
					if t.Failed() {
						t.Logf("repeat with PODWORKS_SEED=%d go test -count=1 -run '^TestMovesThroughChaos$/^%s$' ./ferry", n, f)
					}
				}()
				legs, size := 3, everyDay
				if soak > 0 {
					legs, size = 6, atLength
				}
				c := newChaos(t, a, n, size, 0)
				c.run(legs)
				for _, problem := range c.found {
					t.Error(problem)
				}
				for i := range c.tables { // is one of them enough for it?
					if len(c.found) > 0 && len(c.tables) > 1 {
						alone := newChaos(t, a, n, size, i+1)
						alone.run(legs)
						t.Logf("with table %s alone, which is %s: %q", c.tables[i].name, c.tables[i].create(f), alone.found)
					}
				}
			})
			// Enough for every day is one schema and three moves.
			if failed || time.Since(begun) >= soak {
				break
			}
		}
		t.Log(a.histogram())
		if most := a.memory >> 10; most > 256+4*chaosBlob>>20 {
			t.Errorf("a mover's memory rose to %d MB, want at most 256 MB and four times the largest row", most)
		}
	})
}

// chaosBlob bounds the rows' largest values in bytes.
const chaosBlob = 3 << 20

// An arena is three servers that can be killed, and what was done to them.
type arena struct {
	family  testcluster.Family
	servers map[string]*testcluster.MySQLServer // "source" has pod 1, "target" pod 2
	faults  map[string]int                      // by "fault at step"
	moves   map[string]int                      // by outcome
	memory  int64                               // the most kilobytes of a mover
}

func newArena(f testcluster.Family, start func(name string) *testcluster.MySQLServer) *arena {
	a := &arena{family: f, servers: map[string]*testcluster.MySQLServer{}, faults: map[string]int{}, moves: map[string]int{}}
	for _, name := range []string{"master", "source", "target"} {
		a.servers[name] = start(name)
	}
	return a
}

// histogram says what was done where.
func (a *arena) histogram() string {
	steps, kinds := map[string]int{}, map[string]int{}
	for at, n := range a.faults {
		kind, step, _ := strings.Cut(at, " at ")
		steps[step] += n
		kinds[kind] += n
	}
	var b strings.Builder
	fmt.Fprintf(&b, "moves by outcome: %v; the most memory of a mover: %d MB\nfaults by step:\n", a.moves, a.memory>>10)
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		fmt.Fprintf(&b, "%5d  %-22s", steps[step], step)
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			if n := a.faults[kind+" at "+step]; n > 0 {
				fmt.Fprintf(&b, "  %s %d", kind, n)
			}
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "faults by kind: %v; steps without any: %v", kinds, a.unreached())
	return b.String()
}

// What the harness would notice: each of these must be found. Connections to the
// log are cut, of whomever they are, so the test runs beside no other.
func TestChaosNoticesWhatIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers; not with -short")
	}
	soak := soakFor(t)
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		if f == testcluster.MySQL && soak == 0 {
			t.Skip("half a minute to see once more what the checks see on MariaDB; runs in a soak")
		}
		a := newArena(f, func(name string) *testcluster.MySQLServer { return testcluster.Shared(t, f, name) })
		const joined = 3 // a seed with a table below t0, and one below that
		for _, damage := range []struct {
			name, source, target string
			seed                 uint64
		}{
			{name: "a row of the shop's changes", target: "UPDATE t0 SET k = k + 500000 WHERE shop_id = 7 LIMIT 1"},
			{name: "a row of the shop's is missing", target: "DELETE FROM t0 WHERE shop_id = 7 ORDER BY k DESC LIMIT 1"},
			{name: "a row of the shop's is new", target: "UPDATE t0 SET shop_id = 7, u = NULL WHERE shop_id = 22 LIMIT 1"},
			{name: "both have lost a row", source: "DELETE FROM t0 WHERE shop_id = 7 ORDER BY k LIMIT 1", target: "DELETE FROM t0 WHERE shop_id = 7 ORDER BY k LIMIT 1"},
			{name: "a row of another shop's is missing", target: "DELETE FROM t0 WHERE shop_id = 22 LIMIT 1"},
			{name: "a joined row is missing", seed: joined, target: "DELETE FROM j WHERE ref IN (SELECT id FROM t0 WHERE shop_id = 7) ORDER BY k LIMIT 1"},
			{name: "both have lost a joined row", seed: joined, source: "DELETE FROM j WHERE ref IN (SELECT id FROM t0 WHERE shop_id = 7) ORDER BY k LIMIT 1",
				target: "DELETE FROM j WHERE ref IN (SELECT id FROM t0 WHERE shop_id = 7) ORDER BY k LIMIT 1"},
			{name: "a joined row is nobody's", seed: joined, target: "UPDATE j SET ref = NULL WHERE ref IN (SELECT id FROM t0 WHERE shop_id = 7) ORDER BY k LIMIT 1"},
			{name: "the shop is open twice", source: "UPDATE podworks_fence SET state = 'open' WHERE shop_id = 7"},
		} {
			t.Run(damage.name, func(t *testing.T) {
				c := newChaos(t, a, max(1, damage.seed), small, 0)
				c.tamper = func() {
					for pod, stmt := range map[podworks.PodID]string{1: damage.source, 2: damage.target} {
						if stmt != "" {
							c.exec(c.pods[pod], stmt)
						}
					}
				}
				if c.run(1); len(c.found) == 0 {
					t.Error("nothing was found")
				}
			})
		}
		t.Run("the lock is not taken", func(t *testing.T) {
			c := newChaos(t, a, 1, small, 0)
			for _, w := range c.writers {
				w.say("stay")
			}
			c.rest(200 * time.Millisecond)
			c.gather()
			from, err := c.dir.Fresh(t.Context(), 7)
			c.must(err)
			role := c.mover
			role.To, role.ChunkRows, role.StopAt, role.Nth, role.Off = 2, 20, "verified", 1, hook.Lock
			mover := startChild(t, chaosRole{Mover: &role})
			c.await(mover, "the mover", "stopped")
			// A write comes after the marker, and the mover doesn't hear of it in time.
			err = trade(t.Context(), c.pods[1], 7, 1, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), "DELETE FROM t0 WHERE shop_id = 7 ORDER BY k LIMIT 10")
				answer, cannot := ask(t.Context(), c.pods[1], `SELECT id FROM `+sessions[f]+` WHERE command LIKE 'Binlog Dump%'`)
				for _, row := range answer {
					c.exec(c.pods[1], "KILL "+row[0])
				}
				mover.say("go on")
				c.rest(50 * time.Millisecond)
				return errors.Join(err, cannot)
			})
			c.must(err)
			c.await(mover, "the mover", "moved", "failed")
			if c.check(from, false, chaosFault{}); len(c.found) == 0 {
				t.Error("nothing was found")
			}
		})
	})
}
