package semian

import (
	"fmt"
	"math"
	"time"
)

// The adaptive mode is Semian 0.28's idea: to refuse a share of the calls that follows the share
// that fails. Semian finds it with a PID controller, which winds up during an outage. Here
// it is computed: what is refused has no influence on which share of the rest fails, so
// there is nothing to control, only a share to be estimated from few calls.
//
// The estimate is a story and the news. The story is what was last believed; news that
// contradict it, by the confidence intervals of both, replace it, so that one call that succeeds
// after an outage counts for more than the thousand that failed. News that don't are a part
// of it when there are ten, and of the story only the newest hundred calls or so matter.

// A call is made every pace when all others are refused, and soon after one that succeeded.
const (
	pace = 2 * time.Second
	soon = 100 * time.Millisecond
)

const (
	newsCalls  = 10  // that have come before they become a part of the story
	storyCalls = 100 // that the story remembers
)

type tally struct{ calls, failed float64 }

type adaptive struct {
	story, news tally
	run         float64 // calls that succeeded since one failed
	share       float64 // of the calls that are made
	grown       int64   // when it last grew
	paced       int64   // when a call was last made out of turn
}

// interval is Wilson's score interval of a share, 95 %.
func (t tally) interval() (low, high float64) {
	if t.calls == 0 {
		return 0, 1
	}
	const z = 1.96
	p, n := t.failed/t.calls, t.calls
	middle := p + z*z/(2*n)
	half := z * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return max(0, (middle-half)/(1+z*z/n)), min(1, (middle+half)/(1+z*z/n))
}

// learn takes what came of some calls.
func (a *adaptive) learn(calls, failed float64) {
	a.news.calls += calls
	a.news.failed += failed
	if a.run += calls; failed > 0 {
		a.run = 0
	}
	low, high := a.news.interval()
	_, since := tally{a.run, 0}.interval()
	was, were := a.story.interval()
	switch {
	case a.story.calls > 0 && (low > were && a.news.calls >= 3 || high < was): // one failure is no news
		a.story, a.news = a.news, tally{}
	case a.story.calls > 0 && since < was: // the news began before it recovered
		a.story, a.news = tally{a.run, 0}, tally{}
	case a.news.calls >= newsCalls:
		a.story.calls += a.news.calls
		a.story.failed += a.news.failed
		a.news = tally{}
	}
	if a.story.calls > storyCalls {
		a.story.failed *= storyCalls / a.story.calls
		a.story.calls = storyCalls
	}
}

// due is the share of the calls that should be made.
func (a *adaptive) due(minCalls int, tolerate float64) float64 {
	all := tally{a.story.calls + a.news.calls, a.story.failed + a.news.failed}
	if all.calls < float64(minCalls) {
		return 1
	}
	low, _ := all.interval()
	over := low - tolerate
	if over <= 0 {
		return 1
	}
	return max(0, 1-over/(1-over)) // Semian's: nothing from half on
}

// adaptLocked learns from calls and moves the share: down at once, and up no faster
// than to its double in a fifth of a second, so that what recovers isn't run over.
func (r *Resource) adaptLocked(now int64, calls, failed float64) {
	c := r.config.Load()
	if !c.Adaptive {
		return
	}
	b := &r.breaker
	a := &b.adaptive
	a.learn(calls, failed)
	if calls > failed {
		a.paced = min(a.paced, now-int64(pace-soon)) // good news: the next call soon
	}
	r.shareLocked(now, c)
}

func (r *Resource) shareLocked(now int64, c *config) {
	const first, double = 0.01, 200 * time.Millisecond
	b := &r.breaker
	a := &b.adaptive
	due := a.due(c.MinCalls, c.Tolerate)
	if due > a.share {
		due = min(due, max(a.share, first)*math.Exp2(float64(now-a.grown)/float64(double)))
	}
	a.share, a.grown = due, now
	switch {
	case a.share < 0.999 && b.state == Closed:
		a.paced = now
		low, _ := a.story.interval()
		r.setLocked(Throttling, fmt.Sprintf("at least %.0f %% of the calls fail", 100*low), nil,
			&Error{Resource: r.name, Reason: "many of its calls fail, and a share of them is not made", kind: ErrOpen})
	case a.share >= 0.999 && b.state == Throttling:
		r.setLocked(Closed, "few calls fail", nil, nil)
	}
}

// throttled reports whether a call is made while others are refused.
func (r *Resource) throttled() bool {
	b := &r.breaker
	b.mu.Lock()
	c, now := r.config.Load(), r.now()
	a := &b.adaptive
	made := b.state == Closed
	if b.state == Throttling {
		r.shareLocked(now, c)
		switch {
		case b.random() < a.share:
			made = true
		case now-a.paced >= int64(pace):
			made = true
		}
		if made {
			a.paced = now
		}
	}
	b.mu.Unlock()
	r.tell()
	return made
}
