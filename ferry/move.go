package ferry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// Move takes shop to pod to, and returns when its writers go on there.
//
// If an earlier mover of the same move died, Move goes on where it stopped. If
// Move fails before the decision it undoes what it did: the shop stays where it
// was, and an error that says so is returned. When the undoing fails too (the
// target is down, say), the journal keeps the move and Run finishes undoing it.
func (f *Ferry) Move(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*Report, error) {
	start := time.Now()
	earlier, err := f.earlier(ctx, shop, to)
	if err != nil {
		return nil, err
	}
	src, dst, plan, err := f.prepare(ctx, shop, to, earlier)
	if err != nil {
		return nil, err
	}
	defer src.db.Close()
	defer dst.db.Close()

	claimed, err := f.dir.Claim(ctx, shop, to, f.opts.Lease)
	switch {
	case errors.Is(err, directory.ErrBusy), errors.Is(err, directory.ErrUnfinished):
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, directory.ErrUnknownPod), errors.Is(err, directory.ErrSamePod):
		return nil, refusal(shop, to, []error{err})
	case err != nil:
		return nil, fmt.Errorf("ferry: %w", err)
	}
	m := &move{
		f: f, src: src, dst: dst, plan: plan, flavor: plan.flavor, tables: plan.tables,
		claim: claimed, shop: shop, token: claimed.Token,
		log:     f.opts.Logger.With("shop", shop, "from", src.pod, "to", dst.pod, "token", claimed.Token),
		waiting: map[uint64]*mark{},
		result:  Report{Token: claimed.Token},
	}
	m.log.Info("move claimed")
	err = m.run(ctx)
	if err == nil {
		m.result.Took = time.Since(start)
		m.log.Info("move done", "pause", m.result.Pause, "took", m.result.Took)
		return &m.result, nil
	}
	// The caller's context may be what ended the move; undoing it is due all the same.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	decided, undone := f.settle(undo, src, dst, claimed)
	switch {
	case undone != nil:
		return nil, fmt.Errorf("ferry: move shop %d to pod %d: %w; it could not be settled, which Recover or Run will do: %w", shop, to, err, undone)
	case decided:
		m.result.Route = podworks.Route{Shop: shop, Pod: to, Epoch: claimed.To.Epoch}
		m.result.Took = time.Since(start)
		return &m.result, nil
	}
	return nil, fmt.Errorf("ferry: move shop %d to pod %d: undone, the shop stays in pod %d: %w", shop, to, src.pod, err)
}

// earlier settles what earlier movers of the shop left, and returns the silent
// running move that a new one can go on with, if there is one.
func (f *Ferry) earlier(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*podworks.Move, error) {
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return nil, fmt.Errorf("ferry: %w", err)
	}
	for _, mv := range moves {
		if mv.From.Shop != shop {
			continue
		}
		if mv.Idle < f.opts.Lease {
			return nil, fmt.Errorf("%w: move %d to pod %d, at step %q, was heard of %v ago", ErrBusy, mv.Token, mv.To.Pod, mv.Step, mv.Idle.Round(time.Millisecond))
		}
		if mv.State == podworks.MoveRunning && mv.To.Pod == to {
			closed, err := f.closedBy(ctx, mv)
			if err != nil {
				return nil, fmt.Errorf("ferry: %w", err)
			}
			if !closed {
				return &mv, nil
			}
		}
		if err := f.recover(ctx, mv); err != nil {
			return nil, fmt.Errorf("ferry: recover the earlier move %d of shop %d: %w", mv.Token, shop, err)
		}
	}
	return nil, nil
}

// A move is one run of Move.
type move struct {
	f        *Ferry
	src, dst *server
	plan     *prepared
	flavor   flavor.Flavor
	tables   []*table
	claim    podworks.Move
	shop     podworks.ShopID
	token    uint64
	log      *slog.Logger
	result   Report // of the goroutine that runs the move

	lastMark atomic.Uint64

	mu        sync.Mutex // guards what follows
	waiting   map[uint64]*mark
	dirtyRow  map[rowID]struct{} // touched or found different since last compared; nil until tracking
	progress  Progress
	lastShown time.Time
}

// A mark is a marker that someone waits for.
type mark struct {
	chunk   *chunk // to write when it is reached, or nil
	reached chan struct{}
}

// run copies, verifies and cuts over. It ends every goroutine it starts.
func (m *move) run(ctx context.Context) (err error) {
	ctx, fail := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer fail(nil)
	// What fails in a goroutine ends the others, with that as the cause.
	background := func(what string, fn func() error) {
		wg.Go(func() {
			if err := fn(); err != nil && ctx.Err() == nil {
				fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
	}()

	decided := make(chan struct{})
	background("keep the journal", func() error { return m.beat(ctx, decided) })

	// An earlier mover under a token that the claim has retired may have closed
	// the source just before; it can't decide any more.
	if err := fence.Reopen(ctx, m.src.db, m.claim.From, m.token); err != nil {
		return err
	}
	if err := fence.Claim(ctx, m.dst.db, m.shop, m.token); err != nil {
		return err
	}
	from, cursors, err := m.resumePoint(ctx)
	if err != nil {
		return fmt.Errorf("find where to begin: %w", err)
	}
	groups := make(chan group, 256)
	background("follow the source's log", func() error { return m.tail(ctx, from, groups) })
	a := &applier{m: m, cursors: append([]cursor(nil), cursors...), batch: map[rowID][]any{}, pending: map[rowID][]any{}, at: from}
	background("apply to the target", func() error { return a.run(ctx, groups) })

	m.step(ctx, "copy")
	if err := m.copyTables(ctx, cursors); err != nil {
		return err
	}
	m.step(ctx, "verify")
	v, err := m.newVerifier(ctx)
	if err != nil {
		return err
	}
	if err := v.all(ctx); err != nil {
		return err
	}
	err = m.cutover(ctx, v, decided)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.result.RowsCopied, m.result.RowChanges = m.progress.RowsCopied, m.progress.RowChanges
	m.result.RowsVerified, m.result.RowsRepaired = v.rows, v.mended
	return err
}

// beat notes in the journal, once a second, that the mover is alive. That the
// move is no longer ours is a reason to stop at once; that the journal doesn't
// answer is not: a move that is replaced meanwhile can do no harm.
func (m *move) beat(ctx context.Context, decided <-chan struct{}) error {
	tick := time.NewTicker(min(time.Second, m.f.opts.Lease/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-decided:
			return nil
		case <-tick.C:
		}
		m.mu.Lock()
		step := m.progress.Step
		m.mu.Unlock()
		err := m.f.dir.Beat(ctx, m.token, step)
		select {
		case <-decided: // no longer running, which is why it failed
			return nil
		default:
		}
		if errors.Is(err, directory.ErrNotOurs) {
			return fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		if err != nil {
			m.log.Warn("the journal doesn't answer", "err", err)
		}
	}
}

// step notes that a named step begins, and tells the caller.
func (m *move) step(ctx context.Context, name string) {
	m.log.Debug("step", "step", name)
	m.mu.Lock()
	m.lastShown = time.Time{}
	m.mu.Unlock()
	m.report(name, "")
	hook.Step(ctx, name)
}

// quietStep notes that a step begins for which the shop's writers wait. They
// shall not wait for the caller's functions, so those aren't called.
func (m *move) quietStep(ctx context.Context, name string) {
	m.mu.Lock()
	m.progress.Step = name
	m.mu.Unlock()
	hook.Step(ctx, name)
}

// report tells the caller how far the move is, at steps and now and then. It is
// called from the goroutine that runs the move.
func (m *move) report(step, table string) {
	m.mu.Lock()
	m.progress.Shop, m.progress.Step, m.progress.Table = m.shop, step, table
	m.progress.RowsTotal = m.plan.Rows()
	p := m.progress
	show := m.f.opts.Progress != nil && time.Since(m.lastShown) > 200*time.Millisecond
	if show {
		m.lastShown = time.Now()
	}
	m.mu.Unlock()
	if show {
		m.f.opts.Progress(p)
	}
}

// mark writes the next marker into the source's log and returns a function
// that waits until the applier has reached it. It hands over the chunk, if
// there is one, before the marker can be seen.
func (m *move) mark(ctx context.Context, c *chunk) (wait func() error, err error) {
	n := m.lastMark.Add(1)
	k := &mark{chunk: c, reached: make(chan struct{})}
	m.mu.Lock()
	m.waiting[n] = k
	m.mu.Unlock()
	if _, err := m.src.db.ExecContext(ctx, `INSERT INTO podworks_marker (token, n) VALUES (?, ?) ON DUPLICATE KEY UPDATE n = VALUES(n)`, m.token, n); err != nil {
		return nil, fmt.Errorf("write a marker: %w", err)
	}
	return func() error {
		select {
		case <-k.reached:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, nil
}

// sync waits until the target has everything that was committed on the source
// before the call.
func (m *move) sync(ctx context.Context) error {
	wait, err := m.mark(ctx, nil)
	if err != nil {
		return err
	}
	return wait()
}

// chunkAt returns the chunk handed over with marker n.
func (m *move) chunkAt(n uint64) *chunk {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.waiting[n]; k != nil {
		return k.chunk
	}
	return nil
}

// reached wakes who waits for marker n.
func (m *move) reached(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.waiting[n]; k != nil {
		close(k.reached)
		delete(m.waiting, n)
	}
}

// applied counts what the applier wrote.
func (m *move) applied(changes int, c *chunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.RowChanges += int64(changes)
	if c != nil && !c.repair {
		m.progress.RowsCopied += int64(len(c.keys))
	}
}

// track begins to remember which rows are touched.
func (m *move) track() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirtyRow = map[rowID]struct{}{}
}

func (m *move) touched(changes []change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirtyRow == nil {
		return
	}
	for _, c := range changes {
		m.dirtyRow[rowID{c.table, c.key}] = struct{}{}
	}
}

func (m *move) soil(table int, keys []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		m.dirtyRow[rowID{table, key}] = struct{}{}
	}
}

func (m *move) isDirty(id rowID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.dirtyRow[id]
	return ok
}

func (m *move) dirtyRows() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.dirtyRow)
}

// takeDirty returns the rows to compare, by table, and begins anew.
func (m *move) takeDirty() map[int][]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[int][]int64{}
	for id := range m.dirtyRow {
		out[id.table] = append(out[id.table], id.key)
	}
	m.dirtyRow = map[rowID]struct{}{}
	return out
}

func (m *move) binlogEnd(ctx context.Context) (string, uint32, error) {
	return flavor.BinlogPosition(ctx, m.src.db, m.flavor)
}
