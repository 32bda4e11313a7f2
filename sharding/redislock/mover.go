package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
)

// A State is what a shop's row says.
type State string

// The states. Writers go on only in open; a mover applies rows only in
// incoming, under its own token.
const (
	Absent   State = "absent"   // not here, or lost; a token is a tombstone
	Incoming State = "incoming" // being copied here by the move with the token
	Open     State = "open"     // this pod owns the shop since the epoch
	Moved    State = "moved"    // left at the epoch, for destination, by the move with the token
)

// A Row says whether a pod may take a shop's writes.
type Row struct {
	Shop        podworks.ShopID
	Epoch       podworks.Epoch
	State       State
	Destination podworks.PodID
	Token       uint64 // of the last move that changed the row; moves below it are refused
}

func (r Row) String() string {
	return fmt.Sprintf("shop %d: %s, epoch %d, destination %d, token %d", r.Shop, r.State, r.Epoch, r.Destination, r.Token)
}

// A request is what change.lua is asked to do.
type request struct {
	op     string
	name   string // of who asks
	shop   podworks.ShopID
	token  uint64
	epoch  podworks.Epoch
	to     podworks.PodID
	length time.Duration // of the exclusive side, or of the rest after it
}

// request asks once.
func (l *Lock) request(ctx context.Context, r request) (answer, error) {
	length := (r.length + time.Millisecond - 1) / time.Millisecond
	return l.ask(ctx, l.change, r.shop, r.op, r.name, r.token, uint64(r.epoch), int64(r.to), int64(length))
}

// demand asks until it need not wait for others.
func (l *Lock) demand(ctx context.Context, r request) (answer, error) {
	for pause := firstLook; ; {
		a, err := l.request(ctx, r)
		if err != nil {
			return a, err
		}
		if a.verdict != "wait" {
			return a, a.refusal(r)
		}
		if err := look(ctx, &pause, a.left); err != nil {
			others := "another mover, or for the writers' turn after one"
			if a.leases > 0 {
				others = fmt.Sprintf("%d transactions", a.leases)
			}
			return a, fmt.Errorf("redislock: %s shop %d: %w while waiting for %s (%v more at most)", r.op, r.shop, err, others, a.left)
		}
	}
}

// refusal is the error for what a script has refused.
func (a answer) refusal(r request) error {
	var err error
	switch a.verdict {
	case "notopen":
		err = ErrNotOpen
	case "token":
		err = ErrToken
	case "lapsed":
		err = ErrBudget
	default:
		return nil
	}
	return fmt.Errorf("redislock: %s shop %d with token %d, epoch %d: %w: Redis has %v", r.op, r.shop, r.token, r.epoch, err, a.row)
}

// set makes a change that needs nobody's drain. It waits for the transactions
// that rely on the row as it is, for as long as ctx allows.
func (l *Lock) set(ctx context.Context, r request) error {
	if err := valid(r.shop, "token", r.token); err != nil {
		return err
	}
	r.name, r.length = l.name(), l.lease
	a, err := l.demand(ctx, r)
	if err == nil && a.verdict == "claimed" {
		r.op = "reopened"
		if a, err = l.request(ctx, r); err == nil {
			err = a.refusal(r)
		}
	}
	if err != nil {
		l.back(ctx, r)
	}
	return err
}

// back lets the others go on and returns the row. It is sent even if ctx has
// ended. Where it fails, what it should have ended lapses.
func (l *Lock) back(ctx context.Context, r request) (Row, error) {
	r.op, r.length = "back", rest
	a, err := l.request(context.WithoutCancel(ctx), r)
	return a.row, err
}

// Read reads a shop's row; one that is not there is absent.
func (l *Lock) Read(ctx context.Context, shop podworks.ShopID) (Row, error) {
	a, err := l.request(ctx, request{op: "read", shop: shop})
	return a.row, err
}

// Create opens a shop that this Redis knows nothing of at r's epoch: a new shop,
// or, when Redis has lost its state, one that the directory has at r and that
// nobody is moving. For one Options.Lease from then on no mover gets it: leases
// that were lost with the state may still be relied on. Tokens that were lost with
// it are forgotten: an old mover is then kept out by the journal alone. Creating
// again is no error; a row that says something else is, ErrNotOpen, and stays.
func (l *Lock) Create(ctx context.Context, r podworks.Route) error {
	if err := valid(r.Shop, "epoch", uint64(r.Epoch)); err != nil {
		return err
	}
	_, err := l.demand(ctx, request{op: "create", shop: r.Shop, epoch: r.Epoch, length: l.lease})
	return err
}

// Incoming makes the target's row incoming under token, which must be higher
// than any that the row has seen, else it fails with ErrToken; so it does if the
// pod owns the shop. It waits for the transactions of an earlier move (Apply,
// Delete), as Open and Entomb do. Repeating is no error for any of the three.
func (l *Lock) Incoming(ctx context.Context, shop podworks.ShopID, token uint64) error {
	return l.set(ctx, request{op: "incoming", shop: shop, token: token})
}

// Open opens the target's row at epoch, if it is incoming under token; else it
// fails with ErrToken.
func (l *Lock) Open(ctx context.Context, shop podworks.ShopID, epoch podworks.Epoch, token uint64) error {
	if err := valid(shop, "epoch", uint64(epoch)); err != nil {
		return err
	}
	return l.set(ctx, request{op: "open", shop: shop, epoch: epoch, token: token})
}

// Entomb makes the target's row absent under token, so that neither the move
// with it nor an earlier one applies or opens anything later. A row that has seen
// a higher token, is open, or was left by this very move, stays as it is.
func (l *Lock) Entomb(ctx context.Context, shop podworks.ShopID, token uint64) error {
	return l.set(ctx, request{op: "entomb", shop: shop, token: token})
}

// Reopen opens the source's row again if the move with token, or an earlier one,
// closed it at from's epoch. One of them that is about to close it loses the
// exclusive side, and moves below token are refused from then on. The caller has
// seen to it that none of them can be decided. Reopening a row that is not closed
// is no error, and waits for nobody.
func (l *Lock) Reopen(ctx context.Context, from podworks.Route, token uint64) error {
	if err := valid(from.Shop, "epoch", uint64(from.Epoch)); err != nil {
		return err
	}
	return l.set(ctx, request{op: "reopen", shop: from.Shop, epoch: from.Epoch, token: token})
}

// Close takes the exclusive side of the source, calls drain, and makes the row
// moved: the shop has left this pod for pod to. The shop's writers wait from the
// moment Close asks until it returns or budget is used up. Close waits for the
// writers that came before; it looks for their end every 1 to 16 ms.
//
// Drain is called with the fencing token of the exclusive side (see Lease.Token)
// and a context that ends with the budget. When it fails, or the budget is used
// up before the row is written (ErrBudget), nothing has changed, the writers go
// on, and no other Close gets the shop for 50 ms, so that movers can't starve
// writers. A shop that is not open at from's epoch is ErrNotOpen; a token that is
// not higher than every one before is ErrToken. Tokens only grow, each is of one
// move, and a move may call Close as often as it likes.
//
// A mover that dies or is frozen with the exclusive side loses it when its budget
// is used up. One with a higher token need not wait for that.
//
// A lost answer to the last step is looked up: nil means moved, an error means
// not moved or, when looking it up fails too, unknown (errors.Is
// podworks.ErrOutcomeUnknown).
func (l *Lock) Close(ctx context.Context, from podworks.Route, to podworks.PodID, token uint64, budget time.Duration, drain func(ctx context.Context, fencing uint64) error) error {
	err := errors.Join(valid(from.Shop, "epoch", uint64(from.Epoch)), valid(from.Shop, "token", token))
	if to == 0 || budget <= 0 || drain == nil {
		err = errors.Join(err, fmt.Errorf("redislock: close shop %d: want a destination (have %d), a positive budget (have %v) and a drain", from.Shop, to, budget))
	}
	if err != nil {
		return err
	}
	r := request{op: "lock", name: l.name(), shop: from.Shop, token: token, epoch: from.Epoch, to: to, length: budget}
	sent := false // the last step
	defer func() {
		if !sent { // also when drain panics
			l.back(ctx, r)
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, budget, ErrBudget)
	defer cancel()
	a, err := l.demand(ctx, r)
	if err != nil {
		return err
	}
	err = drain(ctx, a.fencing)
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("redislock: close shop %d: drain: %w", from.Shop, err)
	}
	// From here our own budget no longer counts: an interrupted step would only
	// leave us not knowing. Redis counts it for us.
	sent = true
	r.op = "close"
	a, err = l.request(context.WithoutCancel(ctx), r)
	if err != nil {
		return l.lookUp(context.WithoutCancel(ctx), r, err)
	}
	return a.refusal(r)
}

// lookUp finds out what became of a close whose answer was lost. It is still to
// come, perhaps, from a Redis that was frozen; so it is first made impossible.
func (l *Lock) lookUp(ctx context.Context, r request, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*l.timeout)
	defer cancel()
	for pause := firstLook; ; {
		row, err := l.back(ctx, r)
		if err == nil {
			if row.State == Moved && row.Epoch == r.epoch && row.Token == r.token {
				return nil
			}
			return fmt.Errorf("redislock: close shop %d: not moved, Redis has %v: %w", r.shop, row, cause)
		}
		if ended := look(ctx, &pause, lastLook); ended != nil {
			return fmt.Errorf("redislock: close shop %d: %w (%w; looking it up: %w)", r.shop, podworks.ErrOutcomeUnknown, cause, err)
		}
	}
}
