// Package redispush carries hints that the shop directory has changed from the
// process that changed it to all others, over Redis pub/sub. It is what
// sharding.DirectoryOptions asks for as Push.
//
// A hint is a version number and nothing else: who hears a version above its
// own looks at the directory at once instead of at its next poll.
//
// What is promised: a hint published while Redis answers reaches every
// subscriber that is connected, usually within a millisecond; and a
// subscription whose Redis is gone, frozen or cut off ends with an error within
// [Options].Timeout, so that its owner can try again.
//
// What is not: that a hint arrives. Redis keeps none for a subscriber that is
// away, and drops a subscriber that is too slow. So a hint that is lost, comes
// twice, is late, or is a lie of somebody who can write to this Redis may cost
// its hearer a look at the directory or the time until its next poll, and
// nothing else. Any Redis that the processes of a region share will do.
//
//	push, err := redispush.New(client, nil)
//	…
//	directory := sharding.NewDirectory(master, &sharding.DirectoryOptions{Push: push})
package redispush

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Options configure a Push. The zero value is ready to use.
type Options struct {
	// Channel is the pub/sub channel, the same in every process. Default
	// "podworks:directory".
	Channel string

	// Timeout is how long Redis may say nothing before it is taken for dead.
	// Publish fails after it. A subscription pings three times in it, so that
	// one on which nothing is published is not taken for a dead one, and costs
	// Redis one ping a second with the default of 3 s. At least 30 ms.
	Timeout time.Duration
}

// A Push publishes and hears hints. Its methods may be called concurrently.
type Push struct {
	client  redis.UniversalClient
	channel string
	timeout time.Duration
	hints   atomic.Uint64
	garbage atomic.Uint64
}

// Stats are what a Push has counted since New.
type Stats struct {
	Hints   uint64 // heard
	Garbage uint64 // messages on the channel that are no version, and were ignored
}

// New returns a Push over client. It does no I/O.
//
// A client of redis.NewClient, NewClusterClient or NewRing needs the option
// ContextTimeoutEnabled and is refused without it: it would not heed deadlines,
// and a Publish to a frozen Redis would take 20 s by go-redis's defaults.
func New(client redis.UniversalClient, opts *Options) (*Push, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Channel = cmp.Or(o.Channel, "podworks:directory")
	o.Timeout = cmp.Or(o.Timeout, 3*time.Second)
	var errs []error
	if o.Timeout < 30*time.Millisecond {
		errs = append(errs, fmt.Errorf("redispush: Timeout is %v, want 30ms or more", o.Timeout))
	}
	if client == nil {
		errs = append(errs, errors.New("redispush: the client is nil"))
	} else if !heedsDeadlines(client) {
		errs = append(errs, errors.New("redispush: the client ignores deadlines; create it with ContextTimeoutEnabled: true"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &Push{client: client, channel: o.Channel, timeout: o.Timeout}, nil
}

// heedsDeadlines is false for a client that is known not to. A client of a type
// that isn't go-redis's own is believed.
func heedsDeadlines(client redis.UniversalClient) bool {
	switch c := client.(type) {
	case *redis.Client:
		return c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		return c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		return c.Options().ContextTimeoutEnabled
	}
	return true
}

// Publish tells every subscriber that the directory has reached version. It
// returns when Redis has answered, or at the latest after Options.Timeout. An
// error means that some or all of them may not hear of it.
func (p *Push) Publish(ctx context.Context, version uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("no answer from Redis within %v", p.timeout))
	defer cancel()
	if err := p.client.Publish(ctx, p.channel, strconv.FormatUint(version, 10)).Err(); err != nil {
		return fmt.Errorf("redispush: publish version %d on %q: %w", version, p.channel, explain(ctx, err))
	}
	return nil
}

// Subscribe calls heard with every version that is published, one at a time and
// from one goroutine, until ctx ends or the subscription is lost. It returns why
// and never nil. What is published between two calls of Subscribe is not heard.
//
// A Redis that is gone ends it at once, one that has fallen silent within
// Options.Timeout, or twice that if it does while the client connects. Heard should
// be quick: while it runs nothing is read, and Redis cuts off a subscriber for
// which it has to keep too much (client-output-buffer-limit, 8 MB for a minute
// or 32 MB by default).
func (p *Push) Subscribe(ctx context.Context, heard func(version uint64)) error {
	if heard == nil {
		return errors.New("redispush: subscribe: heard is nil")
	}
	ctx, end := context.WithCancelCause(ctx)
	sub := p.client.Subscribe(ctx) // to nothing yet, and without a connection
	var wg sync.WaitGroup
	wg.Go(func() {
		p.ping(ctx, sub, end)
		// The client's reads don't heed a context's cancellation, but they end with
		// their connection.
		sub.Close()
	})
	defer wg.Wait()
	defer end(nil) // before the wait

	err := p.bounded(ctx, func(ctx context.Context) error { return sub.Subscribe(ctx, p.channel) })
	if err == nil {
		err = p.receive(ctx, sub, heard)
	}
	return fmt.Errorf("redispush: the subscription of %q has ended: %w", p.channel, err)
}

// receive hands over hints until something fails.
func (p *Push) receive(ctx context.Context, sub *redis.PubSub, heard func(version uint64)) error {
	for {
		var msg any
		// The deadline also bounds what the client does about an error before it
		// returns it: it connects again.
		err := p.bounded(ctx, func(ctx context.Context) (err error) {
			msg, err = sub.Receive(ctx)
			return err
		})
		if err != nil {
			return err
		}
		m, ok := msg.(*redis.Message)
		if !ok {
			continue // the answer to a ping or to SUBSCRIBE
		}
		version, err := strconv.ParseUint(m.Payload, 10, 64)
		if err != nil {
			p.garbage.Add(1)
			continue
		}
		p.hints.Add(1)
		heard(version)
	}
}

// ping makes Redis say something three times per timeout, until ctx ends or it
// can't.
func (p *Push) ping(ctx context.Context, sub *redis.PubSub, end context.CancelCauseFunc) {
	tick := time.NewTicker(p.timeout / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// After an error the client has connected again, perhaps, and nobody would
		// know that hints were missed.
		if err := p.bounded(ctx, func(ctx context.Context) error { return sub.Ping(ctx) }); err != nil {
			end(err)
			return
		}
	}
}

// bounded calls f with the time that Redis may take, and explains its error.
func (p *Push) bounded(ctx context.Context, f func(context.Context) error) error {
	inner, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("Redis has said nothing for %v", p.timeout))
	defer cancel()
	err := f(inner)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // ping may have seen that, and closed the connection, before inner knows
		return explain(ctx, err)
	}
	return explain(inner, err)
}

// explain says why ctx ended, if that is what err came of: by itself it says
// "i/o timeout", or "use of closed network connection".
func explain(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done() // the connection's timer fires a moment before the context's
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// Stats returns what was counted.
func (p *Push) Stats() Stats {
	return Stats{Hints: p.hints.Load(), Garbage: p.garbage.Load()}
}
