package toxi

import (
	"math"
	"slices"
	"time"
)

// A stage is one toxic at work on one direction of one connection. It knows no clock
// and no socket: it moves chunks from the queue before it to the queue behind it.
//
// Delays of several stages add up because a chunk that leaves a stage carries the
// time at which it was due there, not the time at which the stage was run: the next
// stage counts from that.
type stage interface {
	// step moves what may go at now, until out is full, and returns when it must be
	// called again though nothing has come and nothing has left: a time after now, or never.
	// A cut that is not open ends the connection at once, whatever waits.
	step(now time.Duration, in, out *queue) (wake time.Duration, cut ending)
	// update gives it new attributes of its toxic.
	update(t Toxic)
	// leave is called when its toxic is removed. What waits before it goes on to the
	// next stage, unless the cut ends the connection.
	leave() (cut ending)
	// room is how much may wait before it.
	room() int
}

const (
	smallRoom = 64 << 10 // before stages that let the sender feel them
	largeRoom = 32 << 20 // before stages that stand for a long line
)

// A flow is one direction of one connection, as a machine that is driven by
// its pump, or by a test.
type flow struct {
	stages []active
	out    queue         // has passed every stage and waits to be written
	now    time.Duration // of the last step, or of the change that set makes
}

// active is a stage, whose it is, and what waits before it.
type active struct {
	id    any
	stage stage
	in    queue
}

// A want is a stage that a flow shall have.
type want struct {
	id    any
	toxic Toxic
	start func() stage // called if it has none of this id
	front bool         // a new one comes before those that stay, not behind them
}

// idle reports that nothing waits and nothing works on what comes.
func (f *flow) idle() bool { return len(f.stages) == 0 && f.out.empty() && f.out.end == open }

// entry is the queue that what comes goes into.
func (f *flow) entry() *queue {
	if len(f.stages) == 0 {
		return &f.out
	}
	return &f.stages[0].in
}

// set gives f the stages it shall have, in their order. Those it has keep their
// state, and what waits before those that go waits before the next, as if it had come
// there now: what was stuck for an hour is late by that already, and by the next
// stage's delay besides. New ones come behind those that stay, or nothing could be said of what waits
// between them.
func (f *flow) set(wants []want) (cut ending) {
	f.out.room = smallRoom
	kept := make([]active, 0, len(wants))
	wanted := func(id any) *want {
		for i := range wants {
			if wants[i].id == id {
				return &wants[i]
			}
		}
		return nil
	}
	// From the last to the first, so that what a stage leaves has a queue to go to and
	// comes behind what is there.
	next := &f.out
	for i := len(f.stages) - 1; i >= 0; i-- {
		a := &f.stages[i]
		if w := wanted(a.id); w != nil {
			a.stage.update(w.toxic)
			next = &a.in
			continue
		}
		if c := a.stage.leave(); c > cut {
			cut = c
		}
		for !a.in.empty() {
			a.in.pass(math.MaxInt, next, max(a.in.front().at, f.now))
		}
		a.in.passEnd(next, max(a.in.endAt, f.now))
	}
	// What has an end behind it takes nothing more: the end of the stream moved on with
	// the stages that stay.
	for i := range f.stages {
		if wanted(f.stages[i].id) != nil {
			kept = append(kept, f.stages[i])
		}
	}
	for _, w := range wants {
		has := false
		for i := range kept {
			has = has || kept[i].id == w.id
		}
		switch {
		case has:
		case w.front:
			kept = slices.Insert(kept, 0, active{id: w.id, stage: w.start()})
		default:
			kept = append(kept, active{id: w.id, stage: w.start()})
		}
	}
	f.stages = kept
	for i := range f.stages {
		f.stages[i].in.room = f.stages[i].stage.room()
	}
	return cut
}

// step runs the stages until nothing more moves at now.
func (f *flow) step(now time.Duration) (wake time.Duration, cut ending) {
	f.now = now
	for moved := true; moved; {
		wake, moved = never, false
		for i := range f.stages {
			in, out := &f.stages[i].in, &f.out
			if i+1 < len(f.stages) {
				out = &f.stages[i+1].in
			}
			waits, left, ended := in.size, out.size, out.end
			w, cut := f.stages[i].stage.step(now, in, out)
			if cut != open {
				return never, cut
			}
			wake = min(wake, w)
			moved = moved || in.size != waits || out.size != left || out.end != ended
		}
	}
	return wake, open
}

// drop gives back what waits everywhere.
func (f *flow) drop() {
	for i := range f.stages {
		f.stages[i].in.drop()
	}
	f.out.drop()
}
