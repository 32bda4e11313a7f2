package ferry_test

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

// A chaosFault is something that happens at, or a while after, a step.
type chaosFault struct {
	kind, on string
	step     string
	nth      int
	delay    time.Duration // after the step went on; 0: it stands still there
	hold     time.Duration // until it is mended
	resume   bool          // what is left behind is gone on with by Move, not settled by Recover

	scene  *chaosScene // the process is a recoverer after this
	dies   string      // the step at which the mover did,
	wakes  bool        // or was frozen, and wakes while the recoverer suffers
	cleans bool        // the process is a cleaner
}

func (f chaosFault) String() string {
	if f.kind == "" {
		return "no fault"
	}
	text := fmt.Sprintf("%s %s at step %s (%d) after %v for %v", f.kind, f.on, f.step, f.nth, f.delay, f.hold)
	if f.scene != nil {
		text += fmt.Sprintf(", the move %s: the mover was at %s and wakes: %v", f.scene.name, f.dies, f.wakes)
	}
	return text
}

// draw draws the leg's fault: none in the first, which shows the steps.
func (c *chaos) draw(leg int) chaosFault {
	if leg == 0 {
		return chaosFault{}
	}
	kinds := []string{
		"kill process", "kill process", "freeze process", "freeze process", "kill source", "kill target", "kill master", "freeze source", "freeze target", "freeze master",
		"cut source", "cut target", "cut master", "rotate source", "lock source", "lock target", "slow target", "kill writer", "freeze writer", "second mover",
	}
	steps := slices.Sorted(maps.Keys(c.passed))
	f := chaosFault{
		step: steps[c.rng.IntN(len(steps))], resume: c.rng.IntN(2) == 0,
		hold: time.Duration(100+c.rng.IntN(2400)) * time.Millisecond,
	}
	f.nth = 1 + c.rng.IntN(min(3, c.passed[f.step]))
	f.kind, f.on, _ = strings.Cut(kinds[c.rng.IntN(len(kinds))], " ")
	if c.rng.IntN(3) == 0 {
		f.delay = time.Duration(1+c.rng.IntN(150)) * time.Millisecond
	}
	if c.size.thorough {
		switch c.rng.IntN(6) {
		case 0, 1, 2:
			c.drawScene(&f)
		case 3:
			c.drawCleaner(&f)
		}
	}
	return f
}

// leg makes one move with its fault, and sees to it that nothing unfinished is
// left.
func (c *chaos) leg(from podworks.Route, f chaosFault) {
	c.t.Helper()
	role := c.mover
	role.To, role.ChunkRows, role.StopAt, role.Nth = 3-from.Pod, 5+c.rng.IntN(100), f.step, f.nth
	if f.scene != nil {
		c.recovery(from, f, role)
		return
	}
	mover := startChild(c.t, chaosRole{Mover: &role})
	said := c.await(mover, "the mover", "stopped", "moved", "failed")
	if said == "stopped" {
		c.suffer(f, mover, from, func() {})
		said = c.await(mover, "the mover", "moved", "failed")
	} else if f.kind != "" && !f.cleans {
		c.a.faults["none at "+f.step+", which was not reached so often"]++
	}
	outcome, rest, _ := strings.Cut(said, " ")
	c.a.moves[cmp.Or(outcome, "died")]++
	if outcome == "failed" && (f.kind == "" || f.cleans) {
		c.wrong("the move without a fault failed: %s", rest)
	}
	// What has no event comes by being compared: children of parents that came. All else
	// has come before.
	if outcome == "moved" && slices.ContainsFunc(c.tables, func(t chaosTable) bool { return t.through == "" && slices.Contains(strings.Fields(rest), t.name) }) {
		c.wrong("rows had to be repaired: %s (copied, changed, repaired, and of which tables)", rest)
	}
	c.t.Logf("the mover %s", cmp.Or(said, "died"))
	c.settle(f, role)
}

// settle waits until the journal has nothing unfinished, with the help that the
// fault says.
func (c *chaos) settle(f chaosFault, role chaosMover) {
	c.t.Helper()
	role.StopAt = ""
	deadline := time.Now().Add(90 * time.Second)
	for {
		moves, err := c.dir.Moves(c.t.Context())
		if err == nil && len(moves) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("90 s after everything was mended, the journal has %+v, %v", moves, err)
		}
		if f.resume {
			c.await(startChild(c.t, chaosRole{Mover: &role}), "another mover", "moved", "failed")
		} else if _, err := c.ferry.Recover(c.t.Context()); err != nil {
			c.t.Logf("Recover: %v", err)
		}
		c.rest(100 * time.Millisecond)
	}
}

// inflict makes the fault happen, and returns what mends it.
func (c *chaos) inflict(f chaosFault, p *child, from podworks.Route) (heal func()) {
	c.t.Helper()
	server := map[string]*testcluster.MySQLServer{"master": c.a.servers["master"], "source": c.a.servers["source"], "target": c.a.servers["target"]}
	dbs := map[string]*sql.DB{"master": c.master, "source": c.pods[from.Pod], "target": c.pods[3-from.Pod]}
	if from.Pod == 2 { // on the way back
		server["source"], server["target"] = server["target"], server["source"]
	}
	ctx := context.WithoutCancel(c.t.Context())
	switch f.kind + " " + f.on {
	case "kill process":
		c.a.memory = max(c.a.memory, peakMemory(fmt.Sprint(p.cmd.Process.Pid)))
		p.kill()
		return func() {}
	case "freeze process":
		p.freeze()
		var recovered sync.WaitGroup
		recovered.Go(func() { // by somebody who takes it for dead
			for over := time.Now().Add(f.hold); time.Now().Before(over); c.rest(100 * time.Millisecond) {
				c.ferry.Recover(c.t.Context())
			}
		})
		return func() { recovered.Wait(); p.thaw() }
	case "kill writer":
		i := c.rng.IntN(chaosWriters)
		c.writers[i].kill()
		for range c.writers[i].lines {
		}
		c.writers[i] = nil
		return func() {}
	case "freeze writer":
		w := c.writers[c.rng.IntN(chaosWriters)]
		w.freeze()
		return w.thaw
	case "second mover":
		role := c.mover
		role.To, role.ChunkRows = 3-from.Pod, 10
		other := startChild(c.t, chaosRole{Mover: &role})
		return func() { c.await(other, "the second mover", "moved", "failed") }
	case "second recoverer":
		other := startChild(c.t, chaosRole{Mover: c.recoverer("")})
		return func() { c.await(other, "the second recoverer", "recovered") }
	case "rotate source":
		for range 3 {
			c.exec(dbs["source"], "FLUSH BINARY LOGS")
		}
		return func() {}
	case "cut source", "cut target", "cut master":
		answer, err := ask(ctx, dbs[f.on], `SELECT id FROM `+sessions[c.a.family]+` WHERE id <> CONNECTION_ID() AND command <> 'Daemon' ORDER BY id`)
		c.must(err)
		for _, row := range answer {
			if c.rng.IntN(2) == 0 {
				dbs[f.on].ExecContext(ctx, "KILL "+row[0])
			}
		}
		return func() {}
	case "lock source", "lock target":
		tx, err := dbs[f.on].BeginTx(ctx, nil)
		c.must(err)
		t := c.tables[c.rng.IntN(len(c.tables))]
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err = ask(within, tx, "SELECT k FROM "+t.name+" WHERE "+ownedBy(c.tables, 7)(layout{name: t.name})+" LIMIT 5 FOR UPDATE")
		if err != nil { // others hold them, and keep each other waiting without us
			c.t.Logf("lock rows: %v", err)
		}
		return func() { tx.Rollback() }
	case "slow target":
		stop := make(chan struct{})
		var slowing sync.WaitGroup
		slowing.Go(func() {
			for {
				_ = server["target"].Pause()
				c.rest(30 * time.Millisecond)
				_ = server["target"].Resume()
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		return func() { close(stop); slowing.Wait() }
	}
	s := server[f.on]
	if f.kind == "kill" {
		c.must(s.Kill())
		return func() { c.must(s.Restart(ctx)) }
	}
	c.must(s.Pause())
	return func() { c.must(s.Resume()) }
}
