package semian

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/podworks/podworks"
)

// A Resource is a dependency: a breaker, and a bulkhead inside it. Its methods may be
// called from any goroutines.
type Resource struct {
	name    string
	config  atomic.Pointer[config]
	word    atomic.Uint64         // state, mode and epoch, as breaker.publishLocked packs them
	refusal atomic.Pointer[Error] // what a call is refused with; set before the word that has it refused
	began   time.Time             // what readings of the clock are since
	stripes []stripe
	bulkhead
	breaker  breaker
	events   events
	row      atomic.Int64  // failures in a row
	stale    atomic.Uint64 // calls that ended after the state they were made in
	busy     atomic.Uint64 // calls refused for want of a ticket
	shadowed atomic.Uint64 // calls made that would have been refused

	key  Key       // set before anybody else has r
	home *Registry // nil: none
	uses uint64    // when the registry last looked; guarded by its lock, as is seen
	seen time.Time // since when uses is what it is
}

// A stripe is what the calls of some goroutines share, on a cache line of its own.
type stripe struct {
	free    atomic.Int32  // tickets
	calls   atomic.Uint32 // that succeeded and aren't in the window yet
	most    atomic.Uint32 // of them, before they are put there
	_       uint32
	refused atomic.Uint64
	since   int64 // when calls was last 0; guarded by breaker.mu
	_       [32]byte
}

// config is Options as the calls use them, and what they are refused with.
type config struct {
	Options
	busy, shopBusy *Error
}

// New returns a resource of that name, for errors, hooks and logs. It starts nothing
// and touches no network. A nil opts is the zero Options.
func New(name string, opts *Options) (*Resource, error) {
	stripes := 1
	for most := min(4*runtime.GOMAXPROCS(0), 8); 2*stripes <= most && runtime.GOMAXPROCS(0) > 1; {
		stripes *= 2
	}
	r := &Resource{name: name, stripes: make([]stripe, stripes), began: time.Now()}
	for i := range r.stripes {
		r.stripes[i].most.Store(1)
	}
	r.bulkhead.stripes = r.stripes
	r.breaker.random = rand.Float64
	r.breaker.since = r.began
	r.breaker.adaptive.share = 1
	r.refusal.Store(&Error{Resource: name, Reason: "it has just been closed", kind: ErrOpen})
	if err := r.Configure(opts); err != nil {
		return nil, err
	}
	return r, nil
}

// Configure changes the resource's options. What it has seen and the state it is in stay, unless
// the new options don't know that state; calls under way end by the new ones. Tickets that are too
// many go as their calls end.
func (r *Resource) Configure(opts *Options) error {
	r = r.live()
	o := opts.withDefaults()
	if err := o.validate(); err != nil {
		return fmt.Errorf("semian: resource %q: %w", r.name, err)
	}
	c := &config{Options: o}
	c.busy = &Error{Resource: r.name, kind: ErrBusy, Reason: fmt.Sprintf("all %d tickets are out", o.Tickets)}
	if o.Queue > 0 {
		c.busy.Reason += fmt.Sprintf(", and for %v none came back, or %d callers wait already", o.QueueTimeout, o.Queue)
	}
	c.shopBusy = &Error{Resource: r.name, kind: ErrBusy, Reason: "the shop holds its share of the tickets"}
	b := &r.breaker
	b.mu.Lock()
	width := max(1, int64(o.Window)/eighths)
	if b.window.width == 0 {
		b.window.width = width
	} else if b.window.width != width {
		b.window.resize(r.now(), width)
	}
	r.config.Store(c)
	if b.state == Throttling && !o.Adaptive || b.state != Closed && o.NoBreaker {
		r.resetLocked("nothing leads out of its state by the new options")
	}
	r.bulkhead.configure(&c.Options)
	b.mu.Unlock()
	r.tell()
	return nil
}

// Name returns the resource's name.
func (r *Resource) Name() string { return r.name }

// now is the time since r was made.
func (r *Resource) now() int64 { return int64(time.Since(r.began)) }

// stripe returns the stripe of the calling goroutine. It tells goroutines apart by
// where their stacks are, which costs nothing; that two may share a stripe and
// one may change it costs little.
func (r *Resource) stripe() uint32 {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b97f4a7c15
	return uint32(h>>32) & uint32(len(r.stripes)-1)
}

// Do calls fn unless the breaker or the bulkhead refuse it: then it returns an
// [*Error] that is ErrOpen or ErrBusy, or the cause of ctx's end if that came while it
// waited for a ticket. Else it returns what fn does, and learns from it; see [Outcome].
//
// A probe of a circuit that is half-open has Options.ProbeTimeout as the deadline
// of its context. A panic and runtime.Goexit go on through Do, give the ticket back, and
// say nothing about the dependency.
func (r *Resource) Do(ctx context.Context, fn func(context.Context) error) error {
	p, err := r.Permit(ctx)
	if err != nil {
		return err
	}
	ended := false
	defer func() {
		if !ended {
			p.end(Ignore, nil)
		}
	}()
	if p.probe != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(p.deadline()), errProbeTimeout)
		defer cancel()
	}
	err = fn(ctx)
	ended = true
	p.End(err)
	return err
}

// Acquire is Do in two halves: it returns a release that must be called when the call has
// ended, with its error, and does nothing when it is called again. It fits sharding's Admit.
// [Resource.Permit] is the same without an allocation.
func (r *Resource) Acquire(ctx context.Context) (release func(error), err error) {
	p, err := r.Permit(ctx)
	if err != nil {
		return nil, err
	}
	var once atomic.Bool
	return func(err error) {
		if once.CompareAndSwap(false, true) {
			p.End(err)
		}
	}, nil
}

// Permit is Acquire for adapters: the same, as a value that is not to be copied once it is used.
func (r *Resource) Permit(ctx context.Context) (p Permit, err error) {
	c := r.config.Load()
	p.r, p.ctx = r, ctx
	word := r.word.Load()
	if p.epoch = epochOf(word); !plain(word) {
		if retiredIn(word) {
			return r.live().Permit(ctx)
		}
		if err := r.admit(&p, word, c); err != nil {
			return Permit{}, err
		}
	}
	p.stripe = r.stripe()
	if c.Tickets > 0 {
		if r.heed.Load() == 0 && c.ShopShare == 0 && r.steal(p.stripe) {
			p.has |= ticket
		} else if err := r.enter(&p, c, modeOf(word)); err != nil {
			return Permit{}, err
		}
	}
	if c.SlowCall > 0 {
		p.began = r.now()
		p.has |= clock
	}
	return p, nil
}

// enter takes a ticket the long way.
func (r *Resource) enter(p *Permit, c *config, mode Mode) error {
	err := error(ErrBusy)
	refusal := c.busy
	if c.ShopShare > 0 {
		p.shop, _ = podworks.ShopFrom(p.ctx)
	}
	switch {
	case p.shop != 0 && !r.takeShop(p.shop):
		refusal = c.shopBusy
	default:
		if p.shop != 0 {
			p.has |= shopTicket
		}
		if mode == DryRun {
			if r.steal(p.stripe) {
				err = nil
			}
		} else {
			err = r.take(p.ctx, p.stripe, c.Queue > 0)
		}
		if err == nil {
			p.has |= ticket
			return nil
		}
		if p.has&shopTicket != 0 {
			r.giveShop(p.shop)
			p.has &^= shopTicket
		}
	}
	if err == ErrBusy {
		err = refusal
		r.busy.Add(1)
	}
	if mode == DryRun {
		return nil
	}
	if p.probe != 0 {
		r.probeEnded(p, Ignore, false, nil)
	}
	return err
}

// A Permit is the right to one call, and what there is to give back after it. Its methods
// are for one goroutine at a time.
type Permit struct {
	r      *Resource
	ctx    context.Context
	epoch  uint64
	began  int64
	probe  uint64 // its number, if it is one
	shop   podworks.ShopID
	stripe uint32
	has    has
}

type has uint8

const (
	ticket     has = 1 << iota // of the bulkhead
	shopTicket                 // counted for the shop
	clock                      // it is timed
	shadow                     // made although the breaker would have refused it, or isn't asked
	told                       // the breaker knows how it ended
	throttle                   // made while others are refused: its outcome matters at once
)

// Deadline returns by when a probe must have ended, for connections that don't
// heed contexts. Other calls have no deadline of ours.
func (p *Permit) Deadline() (deadline time.Time, ok bool) {
	if p.r == nil || p.probe == 0 {
		return time.Time{}, false
	}
	return p.deadline(), true
}

func (p *Permit) deadline() time.Time {
	return p.r.began.Add(time.Duration(p.began)).Add(p.r.config.Load().ProbeTimeout)
}

// Answered tells the breaker how the call went when there is something left that needs
// the ticket: rows to read, a body. End gives that back, and its error counts
// only if it is a failure.
func (p *Permit) Answered(err error) {
	if p.r != nil && p.has&told == 0 {
		p.record(p.r, p.outcome(err), err)
		p.has |= told
	}
}

// Untimed has the call not count as slow from here on: it is the caller that takes its time.
func (p *Permit) Untimed() { p.has &^= clock }

// End gives the ticket back and tells the breaker how the call went. After the first
// time it does nothing.
func (p *Permit) End(err error) {
	if p.r == nil {
		return
	}
	p.end(p.outcome(err), err)
}

func (p *Permit) end(o Outcome, err error) {
	r := p.r
	if r == nil {
		return
	}
	// The ticket first: a hook may be told of the outcome, and take its time.
	if p.has&ticket != 0 {
		r.give(p.stripe)
	}
	if p.has&shopTicket != 0 {
		r.giveShop(p.shop)
	}
	p.r = nil
	if p.has&told == 0 || o == Failure {
		p.record(r, o, err)
	}
}

func (p *Permit) outcome(err error) Outcome {
	if err == nil {
		return Success
	}
	return p.r.classify(p.ctx, err)
}
