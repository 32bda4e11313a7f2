package sharding

import (
	"context"
	"errors"
	"time"
)

// A Push spreads hints among the processes that share a directory: that it has
// reached a version. A hint that is lost, doubled, late or false costs one look at
// the master at most, and never an answer; who hears none finds out at the next
// poll. Package redispush has one over Redis. Its methods may be called
// concurrently.
type Push interface {
	// Publish tells all subscribers, in this process too, that the directory has
	// reached version. It is given a second; its error is counted, and nobody else
	// fails for it.
	Publish(ctx context.Context, version uint64) error

	// Subscribe calls heard for every version that it hears of, concurrently if it
	// likes, until ctx ends, and then returns; heard doesn't block. When it can't hear
	// any more it returns an error, and is called again after a while: 100 ms at first
	// and 5 s at most.
	Subscribe(ctx context.Context, heard func(version uint64)) error
}

const (
	publishPatience = time.Second
	firstBackoff    = 100 * time.Millisecond
	lastBackoff     = 5 * time.Second
)

// wrote is called when this process has changed the directory. The word is spread
// by Run: a move that has just been decided doesn't wait for the push before
// its shop opens.
func (d *Directory) wrote(version uint64) {
	raise(&d.changed, version)
	poke(d.announce)
	d.suspect(version)
}

// hinted is called with versions from the push.
func (d *Directory) hinted(version uint64) {
	d.hints.Add(1)
	if d.deaf.Load() && d.deaf.Swap(false) {
		d.log.Info("the directory hears of changes again")
	}
	d.suspect(version)
}

// suspect has Run look at the master, if version is news.
func (d *Directory) suspect(version uint64) {
	if version > d.version.Load() {
		raise(&d.hint, version)
		poke(d.wake)
	}
}

// listen subscribes again and again, until ctx ends.
func (d *Directory) listen(ctx context.Context) {
	wait := firstBackoff
	for {
		began := time.Now()
		err := d.push.Subscribe(ctx, d.hinted)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the subscription has ended without an error")
		}
		d.pushFailures.Add(1)
		if !d.deaf.Swap(true) {
			d.log.Warn("the directory doesn't hear of changes; it finds them when it polls", "err", err)
		}
		if time.Since(began) > lastBackoff {
			wait = firstBackoff // it had worked
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastBackoff)
	}
}

// publish publishes the versions of our own changes, until ctx ends. What changes
// during a call goes out as one version with the next.
func (d *Directory) publish(ctx context.Context) {
	var out outage
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.announce:
		}
		callCtx, cancel := context.WithTimeoutCause(ctx, publishPatience, errors.New("it took longer than a second"))
		err := d.push.Publish(callCtx, d.changed.Load())
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			d.pushFailures.Add(1)
		}
		switch out.note(err) {
		case begins:
			d.log.Warn("a change of the directory could not be pushed; others find it when they poll", "err", err)
		case ends:
			d.log.Info("changes of the directory are pushed again")
		}
	}
}
