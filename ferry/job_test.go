package ferry

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/podworks/podworks"
)

func TestWhichJobIsBegunNext(t *testing.T) {
	t.Parallel()
	job := func(id uint64, from, to podworks.PodID, last uint64) Job {
		return Job{ID: id, From: from, To: to, last: last}
	}
	dead := job(1, 1, 2, 5)
	dead.Idle = time.Minute
	for _, test := range []struct {
		name             string
		running, waiting []Job
		perPod           int
		want             uint64 // 0 is none
	}{
		{"none waits", nil, nil, 1, 0},
		{"there is room", nil, []Job{job(1, 1, 2, 0)}, 1, 1},
		{"the source is busy as a source", []Job{job(1, 1, 3, 1)}, []Job{job(2, 1, 2, 0)}, 1, 0},
		{"the source is busy as a target", []Job{job(1, 3, 1, 1)}, []Job{job(2, 1, 2, 0)}, 1, 0},
		{"the target is busy as a source", []Job{job(1, 2, 3, 1)}, []Job{job(2, 1, 2, 0)}, 1, 0},
		{"the target is busy as a target", []Job{job(1, 3, 2, 1)}, []Job{job(2, 1, 2, 0)}, 1, 0},
		{"and has room for another", []Job{job(1, 3, 2, 1)}, []Job{job(2, 1, 2, 0)}, 2, 2},
		{"of pairs not served yet the oldest job", nil, []Job{job(9, 3, 4, 0), job(8, 1, 2, 0)}, 1, 8},
		{"else the pair that was served longest ago", nil, []Job{job(8, 1, 2, 7), job(9, 3, 4, 6)}, 1, 9},
		{"what has no room holds up nobody", []Job{job(1, 1, 2, 3)}, []Job{job(2, 1, 3, 0), job(3, 2, 4, 0), job(4, 5, 3, 2)}, 1, 4},
		{"a dead process's job comes first, and takes no room", []Job{dead}, []Job{job(2, 1, 2, 0)}, 1, 1},
		{"if there is room", []Job{dead, job(3, 1, 4, 6)}, []Job{job(2, 5, 6, 0)}, 1, 2},
	} {
		got, ok := choose(test.running, test.waiting, 10*time.Second, test.perPod)
		if got.ID != test.want || ok != (test.want != 0) {
			t.Errorf("%s: got job %d, %t; want %d", test.name, got.ID, ok, test.want)
		}
	}
}

// A thousand jobs of one pair of pods and three of two others, which share its
// source: they take turns.
func TestPairsOfPodsTakeTurns(t *testing.T) {
	t.Parallel()
	var waiting []Job
	for id := uint64(1); id <= 1000; id++ {
		waiting = append(waiting, Job{ID: id, From: 1, To: 2})
	}
	waiting = append(waiting, Job{ID: 1001, From: 1, To: 3}, Job{ID: 1002, From: 4, To: 1}, Job{ID: 1003, From: 1, To: 3})
	last := map[[2]podworks.PodID]uint64{}
	var got []uint64
	for claim := uint64(1); claim <= 8; claim++ {
		var heads []Job
		seen := map[[2]podworks.PodID]bool{}
		for _, j := range waiting {
			if pair := [2]podworks.PodID{j.From, j.To}; !seen[pair] {
				seen[pair] = true
				j.last = last[pair]
				heads = append(heads, j)
			}
		}
		j, ok := choose(nil, heads, time.Second, 1)
		if !ok {
			t.Fatal("none is begun")
		}
		last[[2]podworks.PodID{j.From, j.To}] = claim
		got = append(got, j.ID)
		for i := range waiting {
			if waiting[i].ID == j.ID {
				waiting = append(waiting[:i], waiting[i+1:]...)
				break
			}
		}
	}
	if want := []uint64{1, 1001, 1002, 2, 1003, 3, 4, 5}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got the order %d, want %d", got, want)
	}
}

func TestWhatBecomesOfAJobAfterATry(t *testing.T) {
	t.Parallel()
	const (
		tries   = 3
		backOff = 5 * time.Second
		busy    = 4 * time.Second
	)
	back := fmt.Errorf("undone: %w", ErrSteppedBack)
	for _, test := range []struct {
		name  string
		begun int // the tries, with this one
		stop  bool
		try   try
		state JobState
		tries int
		wait  time.Duration
		says  bool // there is an error in the row
	}{
		{"moved", 1, false, try{arrived: true, moved: true}, JobDone, 1, 0, false},
		{"moved, and rows differed", 1, false, try{err: ErrDiffers, arrived: true, moved: true}, JobDone, 1, 0, true},
		{"moved by an earlier process", 2, false, try{err: ErrRefused, arrived: true}, JobDone, 2, 0, false},
		{"moved before it was cancelled", 1, true, try{arrived: true, moved: true}, JobDone, 1, 0, false},
		{"moved, and the journal keeps it", 1, false, try{arrived: true, moved: true, unfinished: true}, JobWaiting, 1, backOff, false},
		{"refused", 1, false, try{err: ErrRefused}, JobFailed, 1, 0, true},
		{"refused, and an earlier try is in the journal", 1, false, try{err: ErrRefused, unfinished: true}, JobWaiting, tries, backOff, true},
		{"a human must look", 1, false, try{err: ErrContradiction, unfinished: true}, JobFailed, 1, 0, true},
		{"stepped back", 1, false, try{err: back}, JobWaiting, 1, backOff, true},
		{"once more", 2, false, try{err: back}, JobWaiting, 2, 2 * backOff, true},
		{"and for the last time", 3, false, try{err: back}, JobFailed, 3, 0, true},
		{"the last time, unsettled", 3, false, try{err: back, unfinished: true}, JobWaiting, 3, 4 * backOff, true},
		{"and now settled", 4, false, try{err: errDied}, JobFailed, 4, 0, true},
		{"beyond its tries many times", 90, false, try{err: back, unfinished: true}, JobWaiting, 90, maxBackOff, true},
		{"another mover is at work", 1, false, try{err: ErrBusy, unfinished: true}, JobWaiting, 0, busy, true},
		{"even at the last try", 3, false, try{err: ErrBusy, unfinished: true}, JobWaiting, 2, busy, true},
		{"the process ends", 3, false, try{err: errors.New("undone"), leaving: true}, JobWaiting, 2, 0, true},
		{"and leaves the move to another", 3, false, try{err: errLeft, leaving: true, unfinished: true}, JobWaiting, 2, busy, true},
		{"cancelled", 1, true, try{err: errCancelled}, JobCancelled, 1, 0, true},
		{"cancelled, unsettled", 1, true, try{err: errCancelled, unfinished: true}, JobWaiting, 1, backOff, true},
	} {
		got, wait := Job{State: JobRunning, Tries: test.begun, stop: test.stop}.after(test.try, tries, backOff, busy)
		if got.Ended() {
			wait = 0 // for nothing
		}
		if got.State != test.state || got.Tries != test.tries || wait != test.wait || (got.Error != "") != test.says {
			t.Errorf("%s: got %s after %d tries, wait %v, error %q; want %s, %d, %v, an error: %t",
				test.name, got.State, got.Tries, wait, got.Error, test.state, test.tries, test.wait, test.says)
		}
	}
}

// A store's Finish fails, so that the journal keeps the move, and others finish it.
func TestAJobSaysToTheEndWhatTheComparisonAfterTheSwitchFound(t *testing.T) {
	t.Parallel()
	j := Job{State: JobRunning, Tries: 1}
	for _, test := range []struct {
		try   try
		state JobState
		says  error
	}{
		{try{err: ErrSteppedBack}, JobWaiting, ErrSteppedBack},
		{try{err: ErrDiffers, arrived: true, moved: true, unfinished: true}, JobWaiting, ErrDiffers},
		{try{err: ErrBusy, arrived: true, unfinished: true}, JobWaiting, ErrBusy},
		{try{err: ErrRefused, arrived: true}, JobDone, ErrDiffers},
	} {
		if j, _ = j.after(test.try, 3, time.Second, time.Second); j.State != test.state || j.Error != test.says.Error() {
			t.Errorf("after %+v: got %s, %q; want %s, %q", test.try, j.State, j.Error, test.state, test.says)
		}
	}
}
