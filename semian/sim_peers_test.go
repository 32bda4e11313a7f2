package semian

import (
	"math/rand/v2"
	"time"
)

// What Semian's breakers do, from the description of their semantics: for the table that
// holds ours against them. Time is since the beginning.

// A policy decides about a call at now, and is told what came of those it let through.
type policy interface {
	allow(now time.Duration) bool
	ended(now time.Duration, failed bool)
}

// classic is Semian's counted breaker with the settings of its README: 3 errors in 10 s
// open it for 10 s, and 2 successes close it.
type classic struct {
	errors    []time.Duration
	state     State
	last      time.Duration
	succeeded int
}

func (c *classic) allow(now time.Duration) bool {
	const openFor = 10 * time.Second
	if c.state == Open && now > c.last+openFor {
		c.state, c.succeeded = HalfOpen, 0
		c.errors = c.errors[:0]
	}
	return c.state != Open
}

func (c *classic) ended(now time.Duration, failed bool) {
	const threshold, within, successes = 3, 10 * time.Second, 2
	switch {
	case failed:
		c.last = now
		for len(c.errors) > 0 && c.errors[0] < now-within {
			c.errors = c.errors[1:]
		}
		if c.errors = append(c.errors, now); len(c.errors) > threshold {
			c.errors = c.errors[1:]
		}
		if c.state == HalfOpen || len(c.errors) == threshold {
			c.state = Open
		}
	case c.state == HalfOpen:
		if c.succeeded++; c.succeeded == successes {
			c.state = Closed
			c.errors = c.errors[:0]
		}
	}
}

// pid is its adaptive breaker: a controller that ticks once a second over windows of
// ten seconds, of which it keeps 2,000 calls of a kind.
type pid struct {
	rnd                *rand.Rand
	ok, failed         []time.Duration
	rate, ideal, whole float64
	ticked             time.Duration
}

func newPID(seed uint64) *pid { return &pid{rnd: rand.New(rand.NewPCG(seed, 2)), ideal: 0.05} }

func (p *pid) allow(now time.Duration) bool {
	for now >= p.ticked+time.Second {
		p.ticked += time.Second
		p.tick(p.ticked)
	}
	return p.rnd.Float64() >= p.rate
}

func (p *pid) ended(now time.Duration, failed bool) {
	const most = 2000
	list := &p.ok
	if failed {
		list = &p.failed
	}
	if *list = append(*list, now); len(*list) > most {
		*list = (*list)[len(*list)-most:]
	}
}

func (p *pid) tick(now time.Duration) {
	for _, list := range []*[]time.Duration{&p.ok, &p.failed} {
		for len(*list) > 0 && (*list)[0] < now-10*time.Second {
			*list = (*list)[1:]
		}
	}
	share := 0.0
	if all := len(p.ok) + len(p.failed); all > 0 {
		share = float64(len(p.failed)) / float64(all)
	}
	if share <= 0.10 { // what is above is an incident
		alpha := 0.0017
		if share < p.ideal {
			alpha = 0.078
		}
		p.ideal += alpha * (share - p.ideal)
	}
	delta := share - p.ideal
	if delta > 0 && delta <= p.ideal/4 {
		delta = 0
	}
	e := delta - (1-delta)*p.rate
	p.rate = min(1, max(0, p.rate+e+0.2*p.whole))
	p.whole = min(10, max(-10, p.whole+e))
}
