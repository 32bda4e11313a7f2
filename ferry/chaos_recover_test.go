package ferry_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
)

// A chaosScene is what a recoverer finds, and the steps that it makes of it.
type chaosScene struct {
	name  string
	dies  []string // the mover, at one of these steps
	steps []string // of the recoverer
}

// The scenes reach every step of a recovery. A failover is a row of a fence that is what
// it was before the move, and for the target rows of the copy that are missing: this
// is what it loses, and nobody writes before recovery is through, as DESIGN.md asks of
// who fails a pod over.
var chaosScenes = []chaosScene{
	{"undone", []string{"incoming", "apply", "note", "lock", "marker", "look", "close"},
		[]string{"recover.read", "recover.abort", "recover.tombstone", "recover.delete", "recover.finish"}},
	{"closed", []string{"decide"}, []string{"recover.read", "recover.decide", "recover.open", "recover.finish"}},
	{"aborted when it was closed", []string{"decide"}, []string{"recover.reopen", "recover.tombstone", "recover.delete"}},
	{"decided", []string{"open"}, []string{"recover.read", "recover.open", "recover.finish"}},
	{"the source failed over", []string{"open"}, []string{"recover.close", "recover.open"}},
	{"the target failed over", []string{"open"}, []string{"recover.claim", "incoming", "apply", "recover.verified", "recover.open"}},
}

// drawScene makes a drawn fault one of a recoverer.
func (c *chaos) drawScene(f *chaosFault) {
	kinds := []string{
		"kill process", "kill process", "freeze process", "freeze process", "kill source", "kill target", "kill master",
		"freeze source", "freeze target", "freeze master", "cut source", "cut target", "cut master", "slow target", "second recoverer",
	}
	f.scene = &chaosScenes[c.rng.IntN(len(chaosScenes))]
	f.dies = f.scene.dies[c.rng.IntN(len(f.scene.dies))]
	f.step, f.nth = f.scene.steps[c.rng.IntN(len(f.scene.steps))], 1
	f.wakes = c.rng.IntN(3) == 0 && f.scene.name != "the source failed over" && f.scene.name != "the target failed over"
	f.kind, f.on, _ = strings.Cut(kinds[c.rng.IntN(len(kinds))], " ")
}

// drawCleaner makes a drawn fault one of a clean-up.
func (c *chaos) drawCleaner(f *chaosFault) {
	kinds := []string{"kill process", "freeze process", "kill source", "freeze source", "cut source", "kill master", "freeze master"}
	f.cleans, f.nth = true, 1
	f.step = []string{"clean.check", "clean.delete"}[c.rng.IntN(2)]
	f.kind, f.on, _ = strings.Cut(kinds[c.rng.IntN(len(kinds))], " ")
}

// recovery makes a move whose mover dies, or is only frozen and wakes, and has a
// recoverer suffer the fault.
func (c *chaos) recovery(from podworks.Route, f chaosFault, role chaosMover) {
	c.t.Helper()
	to := 3 - from.Pod
	was, err := fence.Read(c.t.Context(), c.pods[to], 7, "")
	c.must(err)
	role.StopAt, role.Nth = f.dies, 1
	mover := startChild(c.t, chaosRole{Mover: &role})
	if said := c.await(mover, "the mover", "stopped", "moved", "failed"); said != "stopped" {
		c.a.faults["none at "+f.step+", as the mover "+said]++
		c.settle(f, role)
		return
	}
	if f.wakes {
		mover.freeze()
	} else {
		mover.kill()
		for range mover.lines {
		}
	}
	c.a.moves["left "+f.scene.name]++
	switch f.scene.name {
	case "aborted when it was closed": // by a recoverer that looked just before
		moves, err := c.dir.Moves(c.t.Context())
		c.must(err)
		for _, mv := range moves {
			c.must(c.dir.Abort(c.t.Context(), mv.Token))
		}
	case "the source failed over":
		c.gather()
		c.exec(c.pods[from.Pod], "UPDATE podworks_fence SET state = 'open' WHERE shop_id = 7")
	case "the target failed over":
		c.gather()
		c.exec(c.pods[to], fmt.Sprintf("REPLACE INTO podworks_fence (shop_id, epoch, state, destination, token) VALUES (7, %d, '%s', %d, %d)", was.Epoch, was.State, was.Destination, was.Token))
		c.exec(c.pods[to], "DELETE FROM podworks_ferry_left") // a replica that had it would have all rows from before it
		for i := range c.tables {
			// What others refer to is lost after them.
			if len(below(c.tables, i)) == 0 && !slices.ContainsFunc(c.tables, func(t chaosTable) bool { return t.parent && i == 0 }) {
				c.exec(c.pods[to], "DELETE FROM "+c.tables[i].name+" WHERE k % 2 = 0 AND "+ownedBy(c.tables, 7)(layout{name: c.tables[i].name}))
			}
		}
	}
	recoverer := startChild(c.t, chaosRole{Mover: c.recoverer(f.step)})
	if c.await(recoverer, "the recoverer", "stopped", "recovered") == "stopped" {
		c.suffer(f, recoverer, from, func() {
			if f.wakes {
				mover.thaw()
				mover.say("go on")
			}
		})
		c.await(recoverer, "the recoverer", "recovered")
	} else {
		c.a.faults["none at "+f.step+", which was not reached after "+f.scene.name]++
	}
	if f.wakes {
		mover.thaw()
		mover.say("go on")
		c.t.Logf("the mover that was taken for dead: %s", c.await(mover, "the mover", "moved", "failed"))
	}
	c.settle(f, role)
}

// recoverer is the role of one that waits at a step.
func (c *chaos) recoverer(step string) *chaosMover {
	r := c.mover
	r.Task, r.ChunkRows, r.StopAt, r.Nth = "recover", 10, step, 1
	return &r
}

// suffer has a process that waits at a step suffer the fault, and go on.
func (c *chaos) suffer(f chaosFault, p *child, from podworks.Route, meanwhile func()) {
	c.t.Helper()
	c.a.faults[f.kind+" "+f.on+" at "+f.step]++
	if f.delay > 0 {
		p.say("go on")
		c.rest(f.delay)
	}
	heal := c.inflict(f, p, from)
	meanwhile()
	p.say("go on")
	c.rest(f.hold)
	heal()
}

// clean deletes what a move left in a pod, with the fault.
func (c *chaos) clean(from podworks.Route, f chaosFault) {
	c.t.Helper()
	if f.cleans {
		role := c.mover
		role.Task, role.To, role.StopAt, role.Nth = "clean", from.Pod, f.step, 1
		cleaner := startChild(c.t, chaosRole{Mover: &role})
		c.await(cleaner, "the cleaner", "stopped")
		if f.kind+f.on == "freezeprocess" { // and wakes when the shop is back
			c.a.faults["freeze process at "+f.step]++
			if f.delay > 0 {
				cleaner.say("go on")
				c.rest(f.delay)
			}
			cleaner.freeze()
			c.asleep = append(c.asleep, cleaner)
		} else {
			c.suffer(f, cleaner, from, func() {})
			c.t.Logf("the cleaner %s", c.await(cleaner, "the cleaner", "cleaned", "failed"))
		}
	}
	if _, err := c.ferry.Clean(c.t.Context(), 7, from.Pod); err != nil {
		c.wrong("Clean: %v", err)
	}
}

// wake lets the cleaners go on that were frozen in earlier legs.
func (c *chaos) wake() {
	c.t.Helper()
	for _, cleaner := range c.asleep {
		cleaner.thaw()
		cleaner.say("go on")
		c.t.Logf("a cleaner that was frozen %s", c.await(cleaner, "the cleaner", "cleaned", "failed"))
	}
	c.asleep = nil
}

// recoverAll recovers until there is nothing to recover.
func (c *chaosMover) recoverAll(ctx context.Context, f *ferry.Ferry, dir ferry.Tables, out io.Writer) error {
	for ctx.Err() == nil {
		moves, err := dir.Moves(ctx)
		if err == nil && len(moves) == 0 {
			fmt.Fprintln(out, "recovered")
			return nil
		}
		f.Recover(ctx)
		<-time.After(50 * time.Millisecond)
	}
	return context.Cause(ctx)
}

// unreached are the steps at which no fault happened.
func (a *arena) unreached() []string {
	reached := map[string]bool{}
	for at := range a.faults {
		_, step, _ := strings.Cut(at, " at ")
		reached[step] = true
	}
	return slices.DeleteFunc(slices.Clone(ferry.Steps), func(step string) bool { return reached[step] })
}
