package ferry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
//
// A move is taken back with a move back. It needs no new copy: the rows that the
// shop left are one, and what was written since comes from the log. So it takes as
// long as following the log from there, which [Ferry.Keep] does beforehand, and
// comparing all rows; if it fails, the rows stay, and it can be tried again. This
// ends with the next move elsewhere, with [Ferry.Clean], when the log has been
// deleted, and with a change of the schema.
//
// While the shop trades at the target already, Move compares all of its rows once
// more, as both sides had them at the switch; Progress says "opened" before. Rows
// that differ are an error that is ErrDiffers, and the only one with a Report: the
// move is made. That ctx ends meanwhile is no error.
func (f *Ferry) Move(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*Report, error) {
	start := time.Now()
	m, err := f.claim(ctx, shop, to, toMove)
	if err != nil {
		return nil, err
	}
	src, dst, claimed := m.src, m.dst, m.claim
	defer src.db.Close()
	defer dst.db.Close()
	m.log.Info("move claimed")
	running, leave := f.enter(ctx, m)
	defer leave()
	decided := make(chan struct{})
	err = m.run(running, decided, m.begin, func(ctx context.Context, v *verifier) error { return m.cutover(ctx, v, decided) })
	defer m.dropViews()
	if err == nil {
		err := m.prove(ctx)
		m.result.Took = time.Since(start)
		if err != nil {
			m.log.Error("the move is made, and rows differed at the switch", "err", err)
			return &m.result, err
		}
		m.log.Info("move done", "pause", m.result.Pause, "took", m.result.Took)
		return &m.result, nil
	}
	// Whoever goes on with it, or has the job by now, may be on the way to the claim:
	// what is undone here would be the copy that they are about to go on with.
	if cause := context.Cause(ctx); (errors.Is(cause, errLeft) || errors.Is(cause, errNotOurs)) && !m.closed {
		return nil, fmt.Errorf("ferry: move shop %d to pod %d: %w", shop, to, err)
	}
	err = m.endOfTheWay(err)
	// The caller's context may be what ended the move; undoing it is due all the same.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	at, unsettled := f.settle(undo, src, dst, claimed)
	what := fmt.Sprintf("ferry: move shop %d to pod %d", shop, to)
	switch {
	case unsettled == nil && at == stayed:
		return nil, fmt.Errorf("%s: undone, the shop stays in pod %d: %w", what, src.pod, err)
	case unsettled == nil:
		m.result.Route = podworks.Route{Shop: shop, Pod: to, Epoch: claimed.To.Epoch}
		m.result.Took = time.Since(start)
		m.result.Evidence = m.evidence()
		m.result.Evidence.Incomplete = fmt.Sprintf("recovery finished the move after: %v", err)
		return &m.result, nil
	case at == moved:
		return nil, fmt.Errorf("%s: it is decided, and the shop is pod %d's; it takes no writes until Recover or Run has opened it there: %w; %w", what, to, err, unsettled)
	case at == inDoubt && m.closed:
		return nil, fmt.Errorf("%s: %w: the source was being closed, so that it may still be decided or undone, which Recover or Run will do: %w; %w", what, podworks.ErrOutcomeUnknown, err, unsettled)
	}
	return nil, fmt.Errorf("%s: %w; it could not be settled, which Recover or Run will do; the shop stays in pod %d: %w", what, err, src.pod, unsettled)
}

// A purpose is what a move is claimed for.
type purpose uint8

const (
	toMove purpose = iota // which takes the way back from a keeper that is at work, as no other does
	toKeep                // the way back open, and go no further
	toRehearse
)

// claim prepares and claims a move.
func (f *Ferry) claim(ctx context.Context, shop podworks.ShopID, to podworks.PodID, what purpose) (m *move, err error) {
	earlier, err := f.earlier(ctx, shop, to, what == toMove)
	if err != nil {
		return nil, err
	}
	src, dst, plan, err := f.prepare(ctx, shop, to, earlier)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			src.db.Close()
			dst.db.Close()
		}
	}()
	if what == toKeep && !plan.left {
		return nil, refusal(shop, to, []error{errors.New("the shop left no rows there when it went to where it is, or its log's place wasn't known, or they have been cleaned; a move there makes a new copy")})
	}
	lease := f.opts.Lease
	hook.Step(ctx, "claim")
	if what == toMove && earlier != nil && earlier.Step == standby {
		// Preparing takes a while, in which another move may have taken the keeper's
		// place: that one is not to be taken over at work. If it comes between this look
		// and the claim it is, all the same. That costs it its work, and nothing else: the
		// claim retires its token, under which it can neither apply nor decide any more.
		moves, err := f.dir.Moves(ctx)
		if err != nil {
			return nil, fmt.Errorf("ferry: %w", err)
		}
		if slices.ContainsFunc(moves, func(mv podworks.Move) bool { return mv.Token == earlier.Token }) {
			lease = 0
		}
	}
	claimed, err := f.dir.Claim(ctx, shop, to, lease)
	switch {
	case errors.Is(err, directory.ErrBusy), errors.Is(err, directory.ErrUnfinished):
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, directory.ErrUnknownPod), errors.Is(err, directory.ErrSamePod):
		return nil, refusal(shop, to, []error{err})
	case err != nil:
		return nil, fmt.Errorf("ferry: %w", err)
	}
	m = f.newMove(src, dst, plan, claimed)
	m.keeps = what == toKeep
	return m, nil
}

func (f *Ferry) newMove(src, dst *server, plan *prepared, claimed podworks.Move) *move {
	return &move{
		f: f, src: src, dst: dst, plan: plan, flavor: plan.flavor, tables: plan.tables, others: plan.others,
		claim: claimed, shop: claimed.From.Shop, token: claimed.Token,
		log:     f.opts.Logger.With("shop", claimed.From.Shop, "from", src.pod, "to", dst.pod, "token", claimed.Token),
		waiting: map[uint64]*mark{}, unsure: map[int]bool{},
		result: Report{Token: claimed.Token}, began: time.Now(),
	}
}

// earlier settles what earlier movers of the shop left, and returns the silent
// running move that a new one can go on with, if there is one. A keeper's needn't be
// silent, if the new one may take it over.
func (f *Ferry) earlier(ctx context.Context, shop podworks.ShopID, to podworks.PodID, takeOver bool) (*podworks.Move, error) {
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return nil, fmt.Errorf("ferry: %w", err)
	}
	for _, mv := range moves {
		if mv.From.Shop != shop {
			continue
		}
		kept := takeOver && mv.Step == standby && mv.To.Pod == to
		if mv.Idle < f.opts.Lease && !kept {
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
	others   []*table // that are not moved, to which foreign keys refer
	claim    podworks.Move
	shop     podworks.ShopID
	token    uint64
	log      *slog.Logger
	result   Report // of the goroutine that runs the move
	closed   bool   // the source is, or that is not known
	keeps    bool   // the way back open, and goes no further
	proof    *proof
	heard    *listener // in the source's hub, until the log is followed
	repaired []Difference
	locks    int64 // rows compared under the lock

	lastMark   atomic.Uint64
	mayLoad    bool        // the target takes LOAD DATA LOCAL
	insertOnly atomic.Bool // but it didn't work

	// Of a move under way, and not of a copy that recovery makes again while the
	// shop's writers wait: nothing slows that.
	gate   *gate
	cancel context.CancelCauseFunc
	began  time.Time

	mostTouched int // rows to remember while the shop is copied

	mu        sync.Mutex // guards what follows
	waiting   map[uint64]*mark
	dirtyRow  map[rowID]struct{} // touched or found different since last compared; nil until tracking
	fromStart bool               // dirtyRow has all that was touched since the move began to follow the log
	lost      bool               // it had, until that was more than mostTouched
	parents   map[rowID]struct{} // that came to the shop since, whose children weren't asked for yet
	unsure    map[int]bool       // tables in which rows have changed without the log since
	progress  Progress
	lastShown time.Time
	times     []StepTime
	rate      rate          // of rows copied or compared in this step
	lag       time.Duration // from the writing of the last marker that was reached,
	lagAt     time.Time     // which was then
	history   []Sample
	cancelled bool // by Ferry.Cancel, unless it was too late
}

// A mark is a marker that someone waits for.
type mark struct {
	chunk   *chunk // to write when it is reached, or nil
	at      time.Time
	reached chan struct{}
}

// begin takes the target for this move.
func (m *move) begin(ctx context.Context) error {
	// An earlier mover under a token that the claim has retired may have closed
	// the source just before; it can't decide any more.
	if err := fence.Reopen(ctx, m.src.db, m.claim.From, m.token); err != nil {
		return err
	}
	hook.Step(ctx, "incoming")
	if err := fence.Claim(ctx, m.dst.db, m.shop, m.token); err != nil {
		return err
	}
	return m.takeLeft(ctx)
}

// run begins, copies, verifies and cuts over. It ends every goroutine it starts.
// Once ended is closed the journal may say that the move is no longer at work.
func (m *move) run(ctx context.Context, ended <-chan struct{}, begin func(context.Context) error, cutover func(context.Context, *verifier) error) (err error) {
	leave := func() {}
	defer func() { leave() }() // the hub, after the last goroutine
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
		switch cause := context.Cause(ctx); {
		case err == nil, cause == nil, errors.Is(err, cause):
		case errors.Is(err, context.Canceled):
			err = cause
		default: // which came of it, or at the same time
			err = fmt.Errorf("%w; %w", cause, err)
		}
	}()

	background("keep the journal", func() error { return m.beat(ctx, ended) })
	// Behind it: a busy source may take long to say where its log ends, and a mover that
	// is silent meanwhile is taken for dead.
	leave = m.listen(ctx)

	if err := begin(ctx); err != nil {
		return err
	}
	from, cursors, resumed, err := m.resumePoint(ctx)
	if err != nil {
		return fmt.Errorf("find where to begin: %w", err)
	}
	// From here on the log tells of changes of the tables; up to here nothing did.
	if err := m.ask(ctx, func() error { return m.unchanged(ctx) }); err != nil {
		return err
	}
	a := newApplier(m, cursors, from)
	a.placed = resumed
	for i, t := range m.tables {
		a.brought[i] = resumed || t.rewritten // which is done row by row
		a.unknown[i] = resumed
	}
	m.mostTouched = maxTouched
	if hook.Off(ctx, offMany) {
		m.mostTouched = 10
	}
	overlaps := false // is some table to be compared behind its copy?
	for i, t := range m.tables {
		overlaps = overlaps || t.inWaves() && !cursors[i].started
	}
	if overlaps && !hook.Off(ctx, hook.Compare) && !hook.Off(ctx, hook.Overlap) {
		m.trackFromStart()
	}
	background("follow the source's log", func() error { return m.follow(ctx, a) })

	var v *verifier
	err = m.ask(ctx, func() error {
		v, err = m.newVerifier(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if err := m.ask(ctx, func() error { return m.dst.db.QueryRowContext(ctx, `SELECT @@local_infile`).Scan(&m.mayLoad) }); err != nil {
		return err
	}
	m.step(ctx, "copy")
	if err := m.copyTables(ctx, cursors, v); err != nil {
		return err
	}
	m.step(ctx, "verify")
	v.begin()
	err = m.ask(ctx, func() error { return v.all(ctx) })
	if err != nil {
		return err
	}
	err = cutover(ctx, v)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.result.RowsCopied, m.result.RowChanges = m.progress.RowsCopied, m.progress.RowChanges
	m.result.RowsVerified, m.result.RowsRepaired = v.rows, v.repaired.rows
	m.repaired, m.locks = v.repaired.list, v.locks
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
		step := cmp.Or(m.progress.Step, "claimed") // which it is until the source's log is followed
		m.mu.Unlock()
		if m.keeps { // at whatever step: Move may take it over at any time
			step = standby
		}
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
	m.progress.RowsCompared, m.rate = 0, rate{}
	m.rate.add(time.Now(), 0)
	m.timeLocked(name)
	m.mu.Unlock()
	m.report(name, "")
	hook.Step(ctx, name)
}

// quietStep notes that a step begins for which the shop's writers wait. They
// shall not wait for the caller's functions, so those aren't called.
func (m *move) quietStep(ctx context.Context, name string) {
	m.mu.Lock()
	m.progress.Step = name
	m.timeLocked(name)
	m.mu.Unlock()
	hook.Step(ctx, name)
}

// timeLocked notes when a step began; m.mu is held.
func (m *move) timeLocked(step string) {
	m.times = slices.DeleteFunc(m.times, func(s StepTime) bool { return s.Step == step })
	m.times = append(m.times, StepTime{step, time.Now()})
}

// report tells the caller how far the move is, at steps and now and then. It is
// called from the goroutine that runs the move.
func (m *move) report(step, table string) {
	m.mu.Lock()
	m.progress.Step, m.progress.Table = step, table
	p := m.progressLocked(time.Now())
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
	k := &mark{chunk: c, at: time.Now(), reached: make(chan struct{})}
	m.mu.Lock()
	m.waiting[n] = k
	m.mu.Unlock()
	write := func() error {
		_, err := m.src.db.ExecContext(ctx, `INSERT INTO podworks_marker (token, n) VALUES (?, ?) ON DUPLICATE KEY UPDATE n = VALUES(n)`, m.token, n)
		return err
	}
	if err := m.ask(ctx, write); err != nil {
		return nil, fmt.Errorf("write a marker: %w", err)
	}
	return func() error {
		// A failover may have lost the marker. Writing it once more changes nothing
		// if it is there, so that no log has it twice.
		tick := time.NewTicker(remark)
		defer tick.Stop()
		for {
			select {
			case <-k.reached:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			if err := m.ask(ctx, write); err != nil {
				return fmt.Errorf("write a marker again: %w", err)
			}
		}
	}, nil
}

// remark is how long a marker is waited for before it is written once more.
const remark = 3 * time.Second

// ask runs what asks the source until it is answered: a source that fails over
// is reached again when its replica has taken over. fn must be safe to repeat.
func (m *move) ask(ctx context.Context, fn func() error) error {
	give := time.Now().Add(hook.Insist(ctx, patience))
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := fn()
		if err == nil || ctx.Err() != nil || !cutOff(err) || time.Now().After(give) {
			return err
		}
		m.log.Debug("the source doesn't answer; asking again", "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
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
		m.lag, m.lagAt = time.Since(k.at), k.at
		close(k.reached)
		delete(m.waiting, n)
	}
}

// applied counts what the applier wrote.
func (m *move) applied(changes int, c *chunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.RowChanges += int64(changes)
	if c != nil && !c.repair && !c.stale {
		m.progress.RowsCopied += int64(len(c.keys))
		for _, p := range c.parts {
			m.progress.RowsCopied += int64(len(p.keys))
		}
		if m.progress.Step == "copy" {
			m.rate.add(time.Now(), m.progress.RowsCopied)
		}
	}
}

// track begins to remember which rows are touched, and reports whether it was not
// done already.
func (m *move) track() (begun bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if begun = m.dirtyRow == nil; begun {
		m.dirtyRow, m.parents = map[rowID]struct{}{}, map[rowID]struct{}{}
	}
	return begun
}

// trackFromStart is track before the first event of the log was taken.
func (m *move) trackFromStart() {
	m.track()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fromStart = true
}

// untrack ends that.
func (m *move) untrack() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirtyRow, m.fromStart, m.lost = nil, false, false
}

// boundLocked forgets what was touched when that is too much to remember while the
// shop is copied, which may take days. Then dirtyRow has some of it only: all of
// the shop is compared after the copy (see verifier.begin), and until then whoever
// asks is told that any row may have been touched.
func (m *move) boundLocked() {
	if (m.fromStart || m.lost) && len(m.dirtyRow)+len(m.parents) > m.mostTouched {
		clear(m.dirtyRow)
		clear(m.parents)
		m.fromStart, m.lost = false, true
	}
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
	m.boundLocked()
}

// touchedOf returns those of the rows that were touched since the move began to
// follow the log; all, if that is not known.
func (m *move) touchedOf(table int, keys []string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fromStart {
		return keys
	}
	var out []string
	for _, key := range keys {
		if _, ok := m.dirtyRow[rowID{table, key}]; ok {
			out = append(out, key)
		}
	}
	return out
}

func (m *move) soil(table int, keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		m.dirtyRow[rowID{table, key}] = struct{}{}
	}
}

// soilAll soils what takeDirty returned.
func (m *move) soilAll(keys map[int][]string) {
	for table, part := range keys {
		m.soil(table, part)
	}
}

func (m *move) isDirty(id rowID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.dirtyRow[id]
	return ok || m.lost
}

func (m *move) dirtyRows() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost {
		return m.mostTouched + 1
	}
	return len(m.dirtyRow) + len(m.parents)
}

// takeDirty returns the rows to compare, by table, and begins anew.
func (m *move) takeDirty() map[int][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[int][]string{}
	for id := range m.dirtyRow {
		out[id.table] = append(out[id.table], id.key)
	}
	m.dirtyRow = map[rowID]struct{}{}
	clear(m.unsure)
	return out
}
