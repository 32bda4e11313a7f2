package redislock

import (
	"cmp"
	"context"
	crand "crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/sharding"
)

// What callers branch on, with errors.Is. Writers whose shop is not open in this
// pod get sharding.ErrMoved.
var (
	// ErrLapsed: the lease is over, because the work took too long or Redis lost
	// its state. Roll back; a mover may have passed.
	ErrLapsed = errors.New("redislock: the lease has lapsed")

	// ErrUnavailable: Redis didn't answer in time, or answered with an error. A
	// lease was not taken, or lapses by itself. A change may have been made or may
	// be made a moment later; repeating it is safe.
	ErrUnavailable = errors.New("redislock: Redis is unavailable")

	// ErrNotOpen: the pod does not own the shop at the epoch that was named.
	ErrNotOpen = fence.ErrNotOpen

	// ErrToken: another, newer move has the shop in this pod.
	ErrToken = fence.ErrToken

	// ErrBudget: the pause budget was used up, and nothing has changed. Try later.
	ErrBudget = fence.ErrBudget
)

// Options configure a Lock. The zero value is ready to use. All processes that
// use a Redis want the same Prefix and Lease.
type Options struct {
	// Lease is how long a lease stays in Redis, so that it is also how long a dead
	// or frozen writer can make a mover wait. Its holder relies on it for half of
	// that; see the package comment for why, and for the session time-out that
	// belongs to it. A transaction that goes on for the whole of it without a Check
	// is refused its commit. Default 10 s, at least 100 ms, at most an hour.
	Lease time.Duration

	// Timeout is how long one call may wait for Redis. Default 1 s, at least 10 ms.
	Timeout time.Duration

	// Prefix is what the keys begin with; the shop's number follows. Pods that
	// share a Redis need one each. Default "podworks:lock:".
	Prefix string

	// Logger gets a line when a lease that Share took had lapsed, or could not be
	// given back, at its release. Nil discards.
	Logger *slog.Logger
}

// A Lock is the lock of one pod's shops, in the pod's Redis. Its methods may be
// called concurrently.
type Lock struct {
	client  redis.UniversalClient
	lease   time.Duration
	timeout time.Duration
	prefix  string
	log     *slog.Logger

	share, renew, change *redis.Script

	names string // what the names of our leases and movers begin with
	named atomic.Uint64
}

//go:embed row.lua
var rowScript string

//go:embed share.lua
var shareScript string

//go:embed renew.lua
var renewScript string

//go:embed change.lua
var changeScript string

// New returns the lock over a pod's Redis, version 7 or newer. It does no I/O.
//
// A client of redis.NewClient, NewClusterClient or NewRing needs the option
// ContextTimeoutEnabled and is refused without it: it would not heed Timeout.
func New(client redis.UniversalClient, opts *Options) (*Lock, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Lease = cmp.Or(o.Lease, 10*time.Second)
	o.Timeout = cmp.Or(o.Timeout, time.Second)
	o.Prefix = cmp.Or(o.Prefix, "podworks:lock:")
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	var errs []error
	if o.Lease < 100*time.Millisecond || o.Lease > time.Hour {
		errs = append(errs, fmt.Errorf("redislock: Lease is %v, want 100ms to 1h", o.Lease))
	}
	if o.Timeout < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("redislock: Timeout is %v, want 10ms or more", o.Timeout))
	}
	if client == nil {
		errs = append(errs, errors.New("redislock: the client is nil"))
	} else if !heedsDeadlines(client) {
		errs = append(errs, errors.New("redislock: the client ignores deadlines; create it with ContextTimeoutEnabled: true"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &Lock{
		client: client, lease: o.Lease, timeout: o.Timeout, prefix: o.Prefix, log: o.Logger,
		share:  redis.NewScript(rowScript + shareScript),
		renew:  redis.NewScript(rowScript + renewScript),
		change: redis.NewScript(rowScript + changeScript),
		names:  crand.Text() + ".",
	}, nil
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

// maxNumber is the highest epoch or token: Redis' scripts count in float64.
const maxNumber = 1<<53 - 1

// valid refuses what can't be asked of Redis, before it is.
func valid(shop podworks.ShopID, what string, n uint64) error {
	switch {
	case shop == 0:
		return errors.New("redislock: the shop is 0, which is no shop")
	case n == 0 || n > maxNumber:
		return fmt.Errorf("redislock: shop %d: the %s is %d, want 1 to 2^53-1", shop, what, n)
	}
	return nil
}

func (l *Lock) key(shop podworks.ShopID) string { return l.prefix + strconv.FormatInt(int64(shop), 10) }

// name returns a new name for a lease, or for who asks for the exclusive side.
func (l *Lock) name() string { return "l:" + l.names + strconv.FormatUint(l.named.Add(1), 36) }

// An answer is what a script answers.
type answer struct {
	verdict string
	row     Row
	fencing uint64
	left    time.Duration // of what is waited for
	leases  int64
}

// ask runs a script on a shop's state.
func (l *Lock) ask(ctx context.Context, script *redis.Script, shop podworks.ShopID, args ...any) (a answer, err error) {
	ctx, cancel := l.bound(ctx)
	defer cancel()
	reply, err := script.Run(ctx, l.client, []string{l.key(shop)}, args...).Slice()
	if err != nil {
		return a, explain(ctx, shop, err)
	}
	a.row.Shop = shop
	var epoch, destination, token, fencing, left int64
	if len(reply) != 8 || !into(&a.verdict, reply[0]) || !into((*string)(&a.row.State), reply[1]) || !into(&epoch, reply[2]) || !into(&destination, reply[3]) ||
		!into(&token, reply[4]) || !into(&fencing, reply[5]) || !into(&left, reply[6]) || !into(&a.leases, reply[7]) {
		return a, fmt.Errorf("%w (shop %d): its script answered %v", ErrUnavailable, shop, reply)
	}
	a.row.Epoch, a.row.Destination, a.row.Token = podworks.Epoch(epoch), podworks.PodID(destination), uint64(token)
	a.fencing, a.left = uint64(fencing), time.Duration(left)*time.Millisecond
	return a, nil
}

func into[T any](to *T, v any) (ok bool) {
	*to, ok = v.(T)
	return ok
}

// bound gives one call to Redis its time.
func (l *Lock) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, l.timeout, fmt.Errorf("no answer within %v", l.timeout))
}

// explain says of a failed call why its context ended, if that is what it came
// of: the client says "i/o timeout".
func explain(ctx context.Context, shop podworks.ShopID, err error) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done() // the connection's timer fires a moment before the context's
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w (shop %d): %w (%w)", ErrUnavailable, shop, cause, err)
	}
	return fmt.Errorf("%w (shop %d): %w", ErrUnavailable, shop, err)
}

// Waiting is done by looking again, soon at first: a writer's transaction and a
// mover's pause are both milliseconds long.
const (
	firstLook = time.Millisecond
	lastLook  = 16 * time.Millisecond
	// rest is the writers' turn after a mover has stepped back. Everyone who
	// waits looks at least twice in it.
	rest = 50 * time.Millisecond
)

// look waits a little, and longer each time, but not longer than left.
func look(ctx context.Context, pause *time.Duration, left time.Duration) error {
	// Half of it by chance, so that those who began to wait together don't look
	// together.
	d := min(*pause/2+rand.N(*pause/2+1), left)
	*pause = min(2**pause, lastLook)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// A Lease is a hold on the shared side. While it lasts the shop's row in this
// pod doesn't change. Its methods are called one at a time.
type Lease struct {
	lock  *Lock
	shop  podworks.ShopID
	name  string
	token uint64
	until time.Time // our own clock's, up to when it is relied on
	over  bool
}

// Lease takes the shared side for a write transaction of r's shop, before its
// START TRANSACTION. Writers don't disturb each other. One that comes while a
// mover has the exclusive side, or waits for it, waits as well: until the mover
// is through, dead, or steps back, or ctx ends.
//
// It fails with sharding.ErrMoved if the pod does not own the shop at r's epoch,
// or if Redis knows nothing of the shop; and with ErrUnavailable.
func (l *Lock) Lease(ctx context.Context, r podworks.Route) (*Lease, error) {
	if err := valid(r.Shop, "epoch", uint64(r.Epoch)); err != nil {
		return nil, err
	}
	return l.hold(ctx, r.Shop, func(have Row) error {
		return &sharding.Error{Shop: r.Shop, Pod: r.Pod, Err: sharding.ErrMoved,
			Note: fmt.Sprintf("the write came with epoch %d; the pod's lock says %v", r.Epoch, have)}
	}, string(Open), uint64(r.Epoch))
}

// Share is Lease as package sharding asks for it: check is Lease.Check, and
// release Lease.Release, whose error goes to Options.Logger.
func (l *Lock) Share(ctx context.Context, r podworks.Route) (check func(context.Context) error, release func(), err error) {
	s, err := l.Lease(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	return s.Check, func() {
		if err := s.Release(); err != nil {
			l.log.Warn("a writer's lease was not given back as it should", "shop", r.Shop, "pod", r.Pod, "err", err)
		}
	}, nil
}

// Apply takes the shared side for a transaction that copies rows of the shop
// into this pod: the row must be incoming under the move's own token, else it
// fails with ErrToken. So a mover that was paused and replaced applies nothing
// any more.
func (l *Lock) Apply(ctx context.Context, shop podworks.ShopID, token uint64) (*Lease, error) {
	return l.work(ctx, shop, token, Incoming)
}

// Delete takes the shared side for a transaction that deletes rows of a shop
// that has left this pod by the move with token, or whose copying to it that move
// has undone; else it fails with ErrToken.
func (l *Lock) Delete(ctx context.Context, shop podworks.ShopID, token uint64) (*Lease, error) {
	return l.work(ctx, shop, token, Moved, Absent)
}

// work takes the shared side for the move with token.
func (l *Lock) work(ctx context.Context, shop podworks.ShopID, token uint64, states ...State) (*Lease, error) {
	if err := valid(shop, "token", token); err != nil {
		return nil, err
	}
	var matches []any
	for _, s := range states {
		matches = append(matches, string(s), token)
	}
	return l.hold(ctx, shop, func(have Row) error {
		return fmt.Errorf("redislock: %w: want %v with token %d, have %v", ErrToken, states, token, have)
	}, matches...)
}

// hold takes the shared side if the row matches.
func (l *Lock) hold(ctx context.Context, shop podworks.ShopID, refused func(Row) error, matches ...any) (*Lease, error) {
	name := l.name()
	args := append([]any{name, l.lease.Milliseconds()}, matches...)
	for pause := firstLook; ; {
		asked := time.Now() // before Redis counts
		a, err := l.ask(ctx, l.share, shop, args...)
		switch {
		case err != nil:
			return nil, err
		case a.verdict == "ok":
			return &Lease{lock: l, shop: shop, name: name, token: a.fencing, until: asked.Add(l.lease / 2)}, nil
		case a.verdict == "refused":
			return nil, refused(a.row)
		}
		if err := look(ctx, &pause, a.left); err != nil {
			return nil, fmt.Errorf("redislock: shop %d: while a mover had the shop: %w", shop, err)
		}
	}
}

// Token returns the fencing token: all leases between two exclusive holders have
// the same, every exclusive holder a higher one than the leases before it, and
// the leases after it none lower. Tokens of two pods don't compare.
func (s *Lease) Token() uint64 { return s.token }

// Check reports whether the lease may still be relied on; call it directly
// before COMMIT, and roll back on any error. For the first half of Options.Lease
// it asks nobody. Later it asks Redis to make the lease as good as new, and
// fails with ErrLapsed if there is none any more, or with ErrUnavailable. Work
// that may take longer than Options.Lease calls it on its way as well.
func (s *Lease) Check(ctx context.Context) error {
	if s.over {
		return fmt.Errorf("%w (shop %d): it was released", ErrLapsed, s.shop)
	}
	asked := time.Now()
	if asked.Before(s.until) {
		return nil
	}
	a, err := s.lock.ask(ctx, s.lock.renew, s.shop, s.name, s.lock.lease.Milliseconds())
	if err != nil {
		return err
	}
	if a.verdict != "ok" {
		return fmt.Errorf("%w: now %v", ErrLapsed, a.row)
	}
	s.until = asked.Add(s.lock.lease / 2)
	return nil
}

// Release gives the lease back, after the transaction's end was answered; see the
// package comment for a COMMIT whose answer is lost. It waits for Redis for
// Options.Timeout at most; where that fails, with ErrUnavailable, the lease lapses
// by itself. ErrLapsed means that it already had: if the transaction was committed,
// then possibly after a mover had passed. Releasing again is no error.
func (s *Lease) Release() error {
	if s.over {
		return nil
	}
	s.over = true
	ctx, cancel := s.lock.bound(context.Background())
	defer cancel()
	n, err := s.lock.client.HDel(ctx, s.lock.key(s.shop), s.name).Result()
	switch {
	case err != nil:
		return explain(ctx, s.shop, err)
	case n == 0:
		return fmt.Errorf("%w (shop %d), or Redis has lost it, before its release", ErrLapsed, s.shop)
	}
	return nil
}
