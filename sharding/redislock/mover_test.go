package redislock_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redislock"
)

// Every change that one side of a move makes to a row, from every state. A
// move has token 5; tokens only grow.
func TestChangesOfARow(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	ctx := t.Context()
	leftBefore := redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 1, Destination: 9, Token: 3}
	leftLater := redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 3, Destination: 9, Token: 7}
	barred := redislock.Row{Shop: 1, State: redislock.Open, Epoch: 1, Token: 4} // to moves up to 4
	reopened := redislock.Row{Shop: 1, State: redislock.Open, Epoch: 1, Token: 5}
	rows := []redislock.Row{none, tombstone(4), tombstone(5), tombstone(6), incoming(4), incoming(5), incoming(6), open, barred, reopened, arrived, leftBefore, moved, leftLater}
	type outcome struct {
		want redislock.Row // zero: as it was
		err  error
	}
	token, notOpen := outcome{err: redislock.ErrToken}, outcome{err: redislock.ErrNotOpen}
	var same outcome
	for _, tt := range []struct {
		name   string
		change func() error
		from   [14]outcome // in the order of rows
	}{
		{"create", func() error { return p.Create(ctx, from) }, [...]outcome{
			{want: open}, notOpen, notOpen, notOpen, notOpen, notOpen, notOpen, same, same, same, notOpen, notOpen, notOpen, notOpen}},
		{"incoming", func() error { return p.Incoming(ctx, 1, 5) }, [...]outcome{
			{want: incoming(5)}, {want: incoming(5)}, token, token, {want: incoming(5)}, same, token, token, token, token, token, {want: incoming(5)}, token, token}},
		{"open", func() error { return p.Open(ctx, 1, 2, 5) }, [...]outcome{
			token, token, token, token, token, {want: arrived}, token, token, token, token, same, token, token, token}},
		{"entomb", func() error { return p.Entomb(ctx, 1, 5) }, [...]outcome{
			{want: tombstone(5)}, {want: tombstone(5)}, same, same, {want: tombstone(5)}, {want: tombstone(5)}, same, same, same, same, same, {want: tombstone(5)}, same, same}},
		{"reopen", func() error { return p.Reopen(ctx, from, 5) }, [...]outcome{
			same, same, same, same, same, same, same, {want: barred}, same, same, same, {want: barred}, {want: reopened}, same}},
		{"close", func() error { return p.close5(ctx, patience, nothing) }, [...]outcome{
			notOpen, notOpen, notOpen, notOpen, notOpen, notOpen, notOpen, {want: moved}, {want: moved}, token, notOpen, notOpen, notOpen, notOpen}},
	} {
		for i, have := range rows {
			p.set(have)
			want := tt.from[i]
			checkIs(t, tt.name+" of "+have.String(), tt.change(), want.err)
			if want.want == none {
				want.want = have
			}
			if want.want == none {
				want.want = absent
			}
			p.wantRow(tt.name+" of "+have.String(), want.want)
			if n := p.client.HExists(ctx, p.Key(), "moveruntil").Val(); n {
				t.Errorf("%s of %v: the exclusive side is still held", tt.name, have)
			}
			p.client.HDel(ctx, p.Key(), "rest")
			if want.err == nil && tt.name != "close" {
				checkIs(t, "once more: "+tt.name+" of "+have.String(), tt.change(), nil)
				p.wantRow("once more: "+tt.name+" of "+have.String(), want.want)
			}
		}
	}
}

func TestCloseWaitsForWritersAndMakesNewOnesWait(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(open)
	early := p.write()
	var drained atomic.Bool
	closed := make(chan error, 1)
	go func() {
		closed <- p.close5(t.Context(), patience, func(ctx context.Context, _ uint64) error {
			drained.Store(true)
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			checkIs(t, "a new writer beside the drain", second(p.Lease(short, from)), context.DeadlineExceeded)
			return nil
		})
	}()
	p.moverWaits()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Lease(short, from); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a new writer beside a waiting mover: got %v, want it to wait", err)
	}
	late := make(chan error, 1)
	go func() { late <- second(p.Lease(t.Context(), from)) }()
	checkIs(t, "Check of the early writer", early.Check(t.Context()), nil)
	if drained.Load() {
		t.Error("the drain ran beside a writer")
	}
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v while a writer had the lock", err)
	case err := <-late:
		t.Fatalf("a writer got past a waiting Close: %v", err)
	default:
	}
	checkIs(t, "Release", early.Release(), nil)
	checkIs(t, "Close", <-closed, nil)
	checkIs(t, "the late writer", <-late, sharding.ErrMoved)
	if !drained.Load() {
		t.Error("the drain did not run")
	}
	p.wantRow("after Close", moved)
}

// beside returns what becomes of a Close that comes while a writer holds a lease.
func beside(t *testing.T, p *pod) (closed, checked error) {
	t.Helper()
	p.set(open)
	s := p.write()
	err := p.close5(t.Context(), 200*time.Millisecond, nothing)
	return err, s.Check(t.Context())
}

func TestNoMoverPassesAWriter(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	closed, checked := beside(t, p)
	checkIs(t, "Close", closed, redislock.ErrBudget)
	checkIs(t, "Check", checked, nil)
	p.wantRow("afterwards", open)
}

// The twin: a mover that doesn't wait for leases passes one that is good.
func TestWithoutTheWaitAMoverPassesAWriter(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	redislock.Without(t, p.Lock, "if leases > 0 then", "if false then")
	closed, checked := beside(t, p)
	if closed != nil || checked != nil {
		t.Errorf("Close: %v, Check: %v; want the shop closed under a lease that is still good", closed, checked)
	}
}

// stream keeps the shop under a lease at every moment, until the context ends or
// no lease is to be had.
func stream(ctx context.Context, t *testing.T, p *pod) error {
	held := p.write()
	var next *redislock.Lease
	var err error
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		next, err = p.Lease(short, from)
		cancel()
		checkIs(t, "Release", held.Release(), nil)
		if err != nil {
			return err
		}
		held = next
	}
	return held.Release()
}

func TestAStreamOfWritersDoesNotStarveAMover(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(open)
	ended := make(chan error, 1)
	go func() { ended <- stream(t.Context(), t, p) }()
	await(t, "the stream", func() bool { return p.client.HLen(t.Context(), p.Key()).Val() > 5 })
	start := time.Now()
	checkIs(t, "Close", p.close5(t.Context(), patience, nothing), nil)
	t.Logf("the mover had the shop after %v", time.Since(start))
	if err := <-ended; err == nil {
		t.Error("the stream ended without an error, want it to be kept out")
	}
}

// The twin: when new writers pass a waiting mover, it waits in vain.
func TestWithoutTheQueueAStreamOfWritersStarvesAMover(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	redislock.Without(t, p.Lock, "if moverleft > 0 and redis.call('HEXISTS', key, name) == 0 then", "if false then")
	p.set(open)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- stream(ctx, t, p) }()
	await(t, "the stream", func() bool { return p.client.HLen(t.Context(), p.Key()).Val() > 5 })
	checkIs(t, "Close", p.close5(t.Context(), 500*time.Millisecond, nothing), redislock.ErrBudget)
	cancel()
	<-ended
}

// A mover that steps back and comes again at once leaves the writers their turn.
func TestMoversDoNotStarveWriters(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(open)
	ctx, cancel := context.WithCancel(t.Context())
	stepBack := errors.New("step back")
	var tries atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := p.close5(ctx, patience, func(context.Context, uint64) error {
					tries.Add(1)
					return stepBack
				})
				if ctx.Err() == nil && !errors.Is(err, stepBack) {
					t.Errorf("Close: got %v, want %v", err, stepBack)
				}
			}
		})
	}
	var writers sync.WaitGroup
	var slowest atomic.Int64
	for range 8 {
		writers.Go(func() {
			for range 20 {
				start := time.Now()
				s, err := p.Lease(t.Context(), from)
				if err != nil {
					t.Error(err)
					return
				}
				slowest.Store(max(slowest.Load(), int64(time.Since(start))))
				checkIs(t, "Release", s.Release(), nil)
			}
		})
	}
	writers.Wait()
	await(t, "ten tries of movers", func() bool { return tries.Load() >= 10 })
	cancel()
	wg.Wait()
	t.Logf("%d tries of movers, the slowest writer waited %v", tries.Load(), time.Duration(slowest.Load()))
}

// Whatever keeps Close from the last step, the row stays open, and the writers
// go on.
func TestCloseThatStepsBackLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	boom := errors.New("boom")
	for _, tt := range []struct {
		name   string
		budget time.Duration
		drain  func(ctx context.Context, end func()) error
		want   error
	}{
		{"drain fails", patience, func(context.Context, func()) error { return boom }, boom},
		{"drain outlasts the budget", 100 * time.Millisecond, func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			return ctx.Err()
		}, redislock.ErrBudget},
		{"drain overlooks that the budget is spent", 100 * time.Millisecond, func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			return nil
		}, redislock.ErrBudget},
		{"the caller's context ends", patience, func(ctx context.Context, end func()) error {
			end()
			<-ctx.Done()
			return ctx.Err()
		}, context.Canceled},
		{"drain panics", patience, func(context.Context, func()) error { panic(boom) }, boom},
	} {
		p.set(open)
		ctx, end := context.WithCancel(t.Context())
		err := func() (err error) {
			defer func() {
				if r := recover(); r != nil {
					err = r.(error)
				}
			}()
			return p.close5(ctx, tt.budget, func(ctx context.Context, _ uint64) error { return tt.drain(ctx, end) })
		}()
		end()
		checkIs(t, tt.name, err, tt.want)
		p.wantRow(tt.name, open)
		checkIs(t, tt.name+": a writer's release", p.write().Release(), nil)
		checkIs(t, tt.name+": a second try", p.close5(t.Context(), patience, nothing), nil)
		p.wantRow("after the second try", moved)
	}
}

// A hook lets a test do something around a change that a client sends.
type hook struct {
	op     string
	around func(args []any, next func() error) error
}

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		args := cmd.Args() // evalsha, the script, 1, the key, its arguments
		if len(args) < 5 || args[4] != h.op && (h.op != "share" || len(args) != 8) {
			return next(ctx, cmd)
		}
		err := h.around(args, func() error { return next(ctx, cmd) })
		cmd.SetErr(err)
		return err
	}
}

// late closes the shop with a mover that is delayed before its last step for so long that
// a writer has the shop when the step arrives.
func late(t *testing.T, protect bool) (closed, checked error) {
	t.Helper()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	if !protect {
		redislock.Without(t, p.Lock, "if moverleft <= 0 then\n		return answer('lapsed')", "if false then")
	}
	p.set(open)
	writer := newPod(t, server, nil)
	var s *redislock.Lease
	p.client.AddHook(hook{"close", func(_ []any, next func() error) error {
		s = writer.write() // when the mover's time is up
		return next()
	}})
	err := p.close5(t.Context(), 300*time.Millisecond, nothing)
	return err, s.Check(t.Context())
}

func TestAMoverThatComesLateDoesNotClose(t *testing.T) {
	t.Parallel()
	closed, checked := late(t, true)
	checkIs(t, "Close", closed, redislock.ErrBudget)
	checkIs(t, "Check", checked, nil)
}

// The twin: without the clock of Redis a late mover closes under a writer.
func TestWithoutRedisClockALateMoverCloses(t *testing.T) {
	t.Parallel()
	closed, checked := late(t, false)
	if closed != nil || checked != nil {
		t.Errorf("Close: %v, Check: %v; want the shop closed under a lease that is still good", closed, checked)
	}
}

// A mover with token 5 is overtaken by one with token 6, in its drain.
func overtaken(t *testing.T, p *pod) (row redislock.Row, closed error) {
	t.Helper()
	p.set(open)
	var newer error
	err := p.close5(t.Context(), patience, func(context.Context, uint64) error {
		// The newer one is about to close when the older one wakes up: it has the
		// exclusive side, and its drain waits.
		inside, done := make(chan struct{}), make(chan error)
		go func() {
			done <- p.Close(t.Context(), from, 3, 6, time.Second, func(ctx context.Context, _ uint64) error {
				close(inside)
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		<-inside
		t.Cleanup(func() {
			if newer = <-done; newer == nil {
				t.Error("the newer mover closed although its drain failed")
			}
		})
		return nil
	})
	row, readErr := p.Read(t.Context(), 1)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return row, err
}

func TestANewerMoverNeedNotWaitAndTheOlderChangesNothing(t *testing.T) {
	t.Parallel()
	row, closed := overtaken(t, newPod(t, testcluster.Redis(t, nil), nil))
	checkIs(t, "Close of the older", closed, redislock.ErrToken)
	if row != open {
		t.Errorf("the row is %v, want %v", row, open)
	}
}

// The twin: when nobody asks whose the exclusive side is, the older one closes
// the shop while the newer one relies on it.
func TestWithoutAskingWhoseItIsTheOlderMoverCloses(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	redislock.Without(t, p.Lock, "if mover ~= name then", "if false then")
	row, closed := overtaken(t, p)
	if closed != nil || row != moved {
		t.Errorf("Close of the older: %v, and the row is %v; want it to have closed the shop", closed, row)
	}
}

// stale lets a mover that was paused from the start go on after a newer one has
// begun: the newer took the shop back from it, and claimed the target.
func stale(t *testing.T, source, target *pod) (closed, claimed error) {
	t.Helper()
	source.set(open)
	target.set(none)
	checkIs(t, "the newer mover's Reopen", source.Reopen(t.Context(), from, 6), nil)
	checkIs(t, "the newer mover's Incoming", target.Incoming(t.Context(), 1, 6), nil)
	return source.close5(t.Context(), patience, nothing), target.Incoming(t.Context(), 1, 5)
}

func TestAStaleMoverChangesNothing(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	source, target := newPod(t, server, nil), newPod(t, server, &redislock.Options{Prefix: "pod2:"})
	closed, claimed := stale(t, source, target)
	checkIs(t, "Close", closed, redislock.ErrToken)
	checkIs(t, "Incoming", claimed, redislock.ErrToken)
	source.wantRow("source", redislock.Row{Shop: 1, State: redislock.Open, Epoch: 1, Token: 5})
	target.wantRow("target", incoming(6))
	_, err := target.Apply(t.Context(), 1, 5)
	checkIs(t, "Apply", err, redislock.ErrToken)
	checkIs(t, "Open", target.Open(t.Context(), 1, 2, 5), redislock.ErrToken)
	checkIs(t, "Entomb", target.Entomb(t.Context(), 1, 5), nil)
	target.wantRow("target after the stale mover's Entomb", incoming(6))
}

// The twin: without the tokens it closes the source and takes the target over.
func TestWithoutTokensAStaleMoverDoesHarm(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	source, target := newPod(t, server, nil), newPod(t, server, &redislock.Options{Prefix: "pod2:"})
	redislock.Without(t, source.Lock, "	if row.token >= token then", "	if false then")
	redislock.Without(t, target.Lock, " or row.token >= token then", " then")
	closed, claimed := stale(t, source, target)
	if closed != nil || claimed != nil {
		t.Errorf("Close: %v, Incoming: %v; want both to succeed", closed, claimed)
	}
	source.wantRow("source", moved)
	target.wantRow("target", incoming(5))
}

// A recovery takes the exclusive side from a mover that is about to close.
func TestReopenStopsAMoverThatIsAboutToClose(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(open)
	err := p.close5(t.Context(), patience, func(context.Context, uint64) error {
		checkIs(t, "Reopen", p.Reopen(t.Context(), from, 5), nil)
		checkIs(t, "a writer's release", p.write().Release(), nil)
		return nil
	})
	checkIs(t, "Close", err, redislock.ErrToken)
	p.wantRow("afterwards", redislock.Row{Shop: 1, State: redislock.Open, Epoch: 1, Token: 4})
}

// An apply transaction of an earlier move is waited for, and none comes later.
func TestIncomingWaitsForTheTransactionsOfTheMoveBefore(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(incoming(4))
	apply, err := p.Apply(t.Context(), 1, 4)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	checkIs(t, "Incoming beside an apply transaction", p.Incoming(short, 1, 5), context.DeadlineExceeded)
	p.wantRow("afterwards", incoming(4))
	claimed := make(chan error, 1)
	go func() { claimed <- p.Incoming(t.Context(), 1, 5) }()
	p.moverWaits()
	checkIs(t, "Check", apply.Check(t.Context()), nil)
	checkIs(t, "Release", apply.Release(), nil)
	checkIs(t, "Incoming", <-claimed, nil)
	_, err = p.Apply(t.Context(), 1, 4)
	checkIs(t, "Apply of the move before", err, redislock.ErrToken)
	p.wantRow("at the end", incoming(5))
}

// again reopens a shop, closes it, and lets the request to reopen it arrive once
// more, as a network may after its sender has given it up.
func again(t *testing.T, server *testcluster.RedisServer, p *pod) {
	t.Helper()
	p.set(moved)
	var request []any
	p.client.AddHook(hook{"reopen", func(args []any, next func() error) error {
		request = args
		return next()
	}})
	checkIs(t, "Reopen", p.Reopen(t.Context(), from, 6), nil)
	checkIs(t, "Close", p.Close(t.Context(), from, 2, 6, patience, nothing), nil)
	p.client.HDel(t.Context(), p.Key(), "rest")
	if err := newClient(t, server.Socket()).Do(t.Context(), request...).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestALateReopenOpensNothing(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	again(t, server, p)
	p.wantRow("afterwards", redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 1, Destination: 2, Token: 6})
}

// The twin: in one step, it opens a shop that has left.
func TestWithoutTwoStepsALateReopenOpensTheShop(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	p := newPod(t, server, nil)
	redislock.Without(t, p.Lock, "exclusive() or answer('claimed')", "exclusive() or write('open', epoch, 0, row.token)")
	again(t, server, p)
	p.wantRow("afterwards", redislock.Row{Shop: 1, State: redislock.Open, Epoch: 1, Token: 6})
}

// Rows are not deleted from a shop that is open again.
func TestReopenWaitsForADeletion(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	p.set(moved)
	deletion, err := p.Delete(t.Context(), 1, 5)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	checkIs(t, "Reopen beside a deletion", p.Reopen(short, from, 5), context.DeadlineExceeded)
	p.wantRow("beside a deletion", moved)
	checkIs(t, "Release", deletion.Release(), nil)
	checkIs(t, "Reopen", p.Reopen(t.Context(), from, 5), nil)
	checkIs(t, "a writer's release", p.write().Release(), nil)
}

func TestRowsAreDeletedOnlyWhereTheShopIsNot(t *testing.T) {
	t.Parallel()
	p := newPod(t, testcluster.Redis(t, nil), nil)
	for _, tt := range []struct {
		row  redislock.Row
		want error
	}{
		{moved, nil}, {tombstone(5), nil},
		{none, redislock.ErrToken}, {absent, redislock.ErrToken}, {tombstone(6), redislock.ErrToken}, {open, redislock.ErrToken},
		{arrived, redislock.ErrToken}, {incoming(5), redislock.ErrToken}, {redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 5, Token: 6}, redislock.ErrToken},
	} {
		p.set(tt.row)
		s, err := p.Delete(t.Context(), 1, 5)
		checkIs(t, "Delete of "+tt.row.String(), err, tt.want)
		if err == nil {
			checkIs(t, "Release", s.Release(), nil)
		}
	}
}

// The whole of a move, and back.
func TestAMoveThereAndBack(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	ctx := t.Context()
	one, two := newPod(t, server, &redislock.Options{Lease: 100 * time.Millisecond}), newPod(t, server, &redislock.Options{Prefix: "pod2:"})
	checkIs(t, "Create", one.Create(ctx, from), nil)
	for token, leg := range []struct{ source, target *pod }{{one, two}, {two, one}, {one, two}} {
		token := uint64(token + 1)
		here := podworks.Route{Shop: 1, Pod: 1, Epoch: podworks.Epoch(token)}
		there := here
		there.Epoch++
		checkIs(t, "Incoming", leg.target.Incoming(ctx, 1, token), nil)
		apply, err := leg.target.Apply(ctx, 1, token)
		checkIs(t, "Apply", err, nil)
		checkIs(t, "Release", apply.Release(), nil)
		checkIs(t, "a writer at the target", second(leg.target.Lease(ctx, there)), sharding.ErrMoved)
		checkIs(t, "Close", leg.source.Close(ctx, here, 2, token, patience, nothing), nil)
		checkIs(t, "Open", leg.target.Open(ctx, 1, there.Epoch, token), nil)
		checkIs(t, "a writer at the source", second(leg.source.Lease(ctx, here)), sharding.ErrMoved)
		s, err := leg.target.Lease(ctx, there)
		checkIs(t, "a writer at the target, after", err, nil)
		checkIs(t, "Release", s.Release(), nil)
	}
}
