package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/redislock"
)

// A world is a shop that is moved between two pods again and again, by movers
// that die, stop, are overtaken and overlook things, while writers write. What
// is a master database elsewhere, the directory and its journal, is here a
// mutex; what is a pod's MySQL is a list of what was committed.
type world struct {
	t    *testing.T
	ctx  context.Context
	pods map[podworks.PodID]*pod

	mu       sync.Mutex
	route    podworks.Route
	running  uint64 // the move that is not decided, or 0
	decided  uint64 // the move that is decided and not opened, or 0
	tokens   uint64
	closed   map[podworks.Epoch]uint64 // by which move, as far as Close has returned
	commits  int
	applies  int
	moves    int
	problems []string
}

// chance is the randomness of one actor.
type chance struct{ *rand.Rand }

func (c chance) of(percent int) bool { return c.IntN(100) < percent }

// dawdle takes the time of up to n questions to Redis.
func (w *world) dawdle(c chance, p *pod, n int) {
	for range c.IntN(n + 1) {
		_ = p.client.Ping(w.ctx).Err()
	}
}

// problem notes a broken invariant; w.mu is held.
func (w *world) problem(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *world) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ctx.Err() != nil || len(w.problems) > 0
}

// write is a writer's transaction, by a route that may be old.
func (w *world) write(c chance, r *podworks.Route) {
	p := w.pods[r.Pod]
	s, err := p.Lease(w.ctx, *r)
	switch {
	case errors.Is(err, sharding.ErrMoved):
		w.mu.Lock()
		*r = w.route
		w.mu.Unlock()
		return
	case w.ctx.Err() != nil:
		return
	case err != nil:
		w.t.Errorf("Lease: %v", err)
		return
	}
	w.dawdle(c, p, 20)
	err = s.Check(w.ctx)
	if err == nil {
		w.mu.Lock()
		w.commits++
		if token, ok := w.closed[r.Epoch]; ok {
			w.problem("a write was committed at epoch %d in pod %d, which move %d has closed", r.Epoch, r.Pod, token)
		}
		if r.Epoch != w.route.Epoch {
			w.problem("a write was committed at epoch %d, but the directory is at %d", r.Epoch, w.route.Epoch)
		}
		w.mu.Unlock()
	}
	if c.IntN(5000) == 0 {
		return // killed: the lease stays
	}
	if err := s.Release(); err != nil && w.ctx.Err() == nil {
		w.t.Errorf("Release: %v", err)
	}
}

// claim makes a new move. One that is there is taken over sometimes, whether its
// mover is dead or not.
func (w *world) claim(c chance) (token uint64, from podworks.Route, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.decided != 0 {
		return 0, w.route, nil
	}
	if w.running != 0 && !c.of(4) {
		return 0, w.route, errDead
	}
	w.tokens++
	w.running = w.tokens
	delete(w.closed, w.route.Epoch) // it is reopened now
	return w.tokens, w.route, nil
}

var errDead = errors.New("the mover goes no further")

// move is one move, up to wherever it gets.
func (w *world) move(c chance) error {
	token, from, err := w.claim(c)
	if err != nil {
		return err
	}
	to := from
	to.Pod, to.Epoch = 3-from.Pod, from.Epoch+1
	source, target := w.pods[from.Pod], w.pods[to.Pod]
	mine := func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.running != token {
			return errDead // another has taken over
		}
		return nil
	}
	if token == 0 { // decided by one that died, and only to be opened
		w.mu.Lock()
		token, from, to = w.decided, to, from
		w.mu.Unlock()
		target = w.pods[to.Pod]
		if token == 0 {
			return nil // somebody was faster
		}
		return w.open(target, to, token)
	}
	if err := source.Reopen(w.ctx, from, token); err != nil {
		return err
	}
	w.dawdle(c, source, 10)
	if err := target.Incoming(w.ctx, 1, token); err != nil {
		return err
	}
	for range c.IntN(4) {
		s, err := target.Apply(w.ctx, 1, token)
		if err != nil {
			return err
		}
		row, err := target.Read(w.ctx, 1)
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.applies++
		if row != incoming(token) {
			w.problem("move %d applied rows to %v", token, row)
		}
		w.mu.Unlock()
		w.dawdle(c, target, 5)
		if err := s.Release(); err != nil {
			return err
		}
	}
	if c.of(10) {
		return errDead
	}
	// A frozen mover goes on when others have begun.
	if c.of(20) {
		w.dawdle(c, source, 300)
	}
	budget := 20*time.Millisecond + time.Duration(c.Int64N(int64(time.Second)))
	err = source.Close(w.ctx, from, to.Pod, token, budget, func(ctx context.Context, _ uint64) error {
		w.mu.Lock()
		before := w.commits
		w.mu.Unlock()
		w.dawdle(c, source, 40)
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case c.of(10):
			return errDead
		case w.running != token:
			return errDead
		case w.commits != before && inTime(ctx): // later, Close fails and the writers go on
			w.problem("%d writes were committed beside the drain of move %d", w.commits-before, token)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	if w.running == token {
		w.closed[from.Epoch] = token
	}
	w.mu.Unlock()
	if c.of(20) {
		return errDead
	}
	w.dawdle(c, source, 10)
	if err := mine(); err != nil {
		return err
	}
	w.mu.Lock()
	if w.running == token { // the decision
		w.running, w.decided, w.route = 0, token, to
	}
	decided := w.decided == token
	w.mu.Unlock()
	if !decided || c.of(20) {
		return errDead
	}
	return w.open(target, to, token)
}

// inTime reports whether ctx has yet to end. Its own timer may be late.
func inTime(ctx context.Context) bool {
	deadline, _ := ctx.Deadline()
	return time.Now().Before(deadline)
}

func (w *world) open(target *pod, to podworks.Route, token uint64) error {
	if err := target.Open(w.ctx, 1, to.Epoch, token); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.decided == token {
		w.decided = 0
		w.moves++
	}
	return nil
}

// live runs a world until enough was moved or something is wrong.
func live(t *testing.T, server *testcluster.RedisServer, seed uint64, moves int, without ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	w := &world{t: t, ctx: ctx, route: from, closed: make(map[podworks.Epoch]uint64), pods: make(map[podworks.PodID]*pod)}
	for id := range podworks.PodID(2) {
		p := newPod(t, server, &redislock.Options{Prefix: fmt.Sprintf("%s/%d:", t.Name(), id+1), Lease: 2 * time.Second, Timeout: 10 * time.Second})
		for _, protection := range without {
			redislock.Without(t, p.Lock, protection, "if false then")
		}
		w.pods[id+1] = p
	}
	w.pods[1].set(open)
	enough := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.moves >= moves
	}
	var wg sync.WaitGroup
	for i := range uint64(6) {
		wg.Go(func() {
			c, r := chance{rand.New(rand.NewPCG(seed, i))}, from
			for !w.ended() && !enough() {
				w.write(c, &r)
			}
		})
	}
	for i := range uint64(3) {
		wg.Go(func() {
			c := chance{rand.New(rand.NewPCG(seed, 100+i))}
			for !w.ended() && !enough() {
				err := w.move(c)
				known := errors.Is(err, errDead) || errors.Is(err, redislock.ErrToken) || errors.Is(err, redislock.ErrNotOpen) || errors.Is(err, redislock.ErrBudget)
				if err != nil && !known && ctx.Err() == nil {
					t.Errorf("move: %v", err)
				}
				w.dawdle(c, w.pods[1], 60)
			}
		})
	}
	wg.Wait()
	t.Logf("seed %d: %d moves of %d attempts, %d commits, %d applies", seed, w.moves, w.tokens, w.commits, w.applies)
	return w
}

// Whatever movers and writers do: no write is committed at an epoch after Close
// of it has returned, or beside a drain, or at any but the directory's epoch; and
// no move applies rows after a later one has claimed the target.
func TestNoWriteIsCommittedInAPodThatTheShopHasLeft(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			const moves = 6
			w := live(t, server, seed, moves)
			for _, p := range w.problems {
				t.Error(p)
			}
			if w.moves < moves {
				t.Errorf("%d moves were made within %v, want %d", w.moves, 3*patience, moves)
			}
		})
	}
}

// The twin: each protection is missed by one of the invariants.
func TestWithoutAProtectionTheWorldBreaks(t *testing.T) {
	t.Parallel()
	server := testcluster.Redis(t, nil)
	for name, protection := range map[string]string{
		"a mover doesn't wait for leases": "if leases > 0 then",
		"writers don't look at their row": "if not matches then",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if w := live(t, server, 1, 1000, protection); len(w.problems) == 0 {
				t.Error("nothing was noticed")
			} else {
				t.Log(w.problems[0])
			}
		})
	}
}
