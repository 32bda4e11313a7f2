package semian

import (
	"log/slog"
	"sync"
	"time"
)

// A State is what a resource's breaker makes of what it has seen.
type State uint8

const (
	Closed     State = iota // calls are made
	Throttling              // with Options.Adaptive: a share of the calls is made
	Ramping                 // it has just closed: a growing share of the calls is made
	HalfOpen                // a few calls are made, as probes
	Open                    // none is made
)

var stateNames = [...]string{"closed", "throttling", "ramping", "half-open", "open"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// A Mode is what somebody has a resource do with what its breaker says; see [Resource.Force].
type Mode uint8

const (
	Normal      Mode = iota // what the breaker says
	DryRun                  // every call is made; what would have been refused is counted
	ForceClosed             // every call is made, and none is judged
	ForceOpen               // no call is made
)

var modeNames = [...]string{"normal", "dry run", "forced closed", "forced open"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "unknown"
}

// A Change is a resource's change of state or mode.
type Change struct {
	Resource string
	From, To State
	Mode     Mode // what it is in now
	At       time.Time
	Reason   string        // why, in words
	Cause    error         // the failure that did it, or nil
	OpenFor  time.Duration // for how long, if To is Open
}

// mostEvents is how many events may wait for a hook that is slow. What comes then is
// lost, and counted.
const mostEvents = 256

// Events are handed to the hooks one after the other, in order, by a goroutine
// that holds no lock: the first that finds nobody at it.
type events struct {
	mu    sync.Mutex // guards what follows
	queue []func(*Hooks)
	busy  bool
	lost  uint64
}

// push is called with the resource's lock held, so that the order is that of the changes.
func (e *events) push(f func(*Hooks)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == mostEvents {
		e.lost++
		return
	}
	e.queue = append(e.queue, f)
}

// drain is called without it.
func (e *events) drain(h *Hooks, log *slog.Logger) {
	for {
		e.mu.Lock()
		if e.busy || len(e.queue) == 0 {
			e.mu.Unlock()
			return
		}
		f := e.queue[0]
		e.queue = e.queue[1:]
		e.busy = true
		e.mu.Unlock()
		e.call(f, h, log)
	}
}

// call calls a hook. Whatever it does, Goexit included, the next can be called.
func (e *events) call(f func(*Hooks), h *Hooks, log *slog.Logger) {
	defer func() {
		p := recover()
		e.mu.Lock()
		e.busy = false
		e.mu.Unlock()
		if p != nil {
			log.Error("a hook panicked", "panic", p)
		}
	}()
	f(h)
}
