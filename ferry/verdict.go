package ferry

import (
	"context"
	"fmt"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
)

// What recovery sees of a move, each as a bit, so that a rule can name several.
// The move took a shop from the source at epoch e, with a token t.
type (
	journalState uint8
	sourceState  uint8
	targetState  uint8
	routeState   uint8
)

const (
	running  journalState = 1 << iota
	decided               // and the copy under t was verified
	copying               // decided, and the copy under t was not verified: an earlier one was lost
	aborting              //
	unended  = decided | copying
)

const (
	srcOpen    sourceState = 1 << iota // at e
	srcClosed                          // at e, by t
	srcEarlier                         // at e, by an earlier token of the same journey
	srcGone                            // says none of the others: no row, or an older one
	srcStrange                         // open at another epoch
	srcAny     = 1<<iota - 1
)

const (
	dstNone     targetState = 1 << iota // not open, and has not seen t
	dstIncoming                         // under t
	dstTomb                             // absent, under t
	dstLater                            // not open, and has seen a later token
	dstOpen                             // at e+1
	dstStrange                          // open at another epoch, or moved by t itself
	dstAny      = 1<<iota - 1
)

const (
	atSource routeState = 1 << iota // at e
	atTarget                        // at e+1
	nowhere                         // neither
	anywhere = 1<<iota - 1
)

// An action is one step of recovery. After it recovery looks again.
type action uint8

const (
	doDecide    action = iota // or, if a pod failed over since its epoch was noted, abort
	doForward                 // decide, or refuse: aborting would make two owners
	doAbort                   // so that no decision can happen
	doReopen                  // the source
	doTombstone               // the target
	doUndone                  // delete the copy, retire the journal row
	doClose                   // the source
	doCopy                    // again: new token, claim, copy, verify, note as verified
	doOpen                    // the target
	doFinish                  // retire the journal row
	doRefuse                  // what the rows say contradicts itself
)

// The table of recovery. The first rule that fits says what is done next, and
// then recovery looks again, until the journal row is retired. Every step is
// conditional on the row that it changes, so any number of processes may be at
// it, each with a look that is out of date.
//
// Why each refusal can't come from this protocol, whoever died: a route changes
// only in the decision, together with the journal row; only a decided move is
// opened; and while a journal row is unfinished no other move of the shop, and no
// closing of it, raises an epoch. They are left for a human, because whichever
// side were opened, the other may have taken writes.
var recovery = []struct {
	journal journalState
	source  sourceState
	target  targetState
	route   routeState
	do      action
	why     string // of a refusal: what it means and what to do
}{
	{running | unended | aborting, srcAny, dstAny, nowhere, doRefuse,
		"the directory has the shop at neither end of the move; find out who changed its row, and put it right by hand"},
	{running | aborting, srcAny, dstAny, atTarget, doRefuse,
		"the directory has the shop at the target, and the journal knows of no decision; set the journal row to decided if the target has the shop's latest writes"},
	{unended, srcAny, dstAny, atSource, doRefuse,
		"the journal says decided, and the directory has the shop at the source; correct the one that is wrong"},
	{running | unended | aborting, srcStrange, dstAny, anywhere, doRefuse,
		"the source is open at an epoch that is not the move's; compare the rows of both pods, and correct its fence row"},
	{running | unended | aborting, srcAny, dstStrange, anywhere, doRefuse,
		"the target's fence has an epoch that is not the move's; if a failover brought an old row back, close it"},

	// A failover of the master lost the decision. The open row wins: writers may
	// have been there.
	{running, srcClosed, dstOpen, atSource, doForward, ""},
	{running | aborting, srcAny, dstOpen, atSource, doRefuse,
		"the target is open, and the move was not decided; compare the rows of both pods, and close the one that is behind"},
	{running | aborting, srcGone, dstAny, atSource, doRefuse,
		"the source owns the shop and its fence doesn't know; if the shop's rows are there, open it with OpenShop"},

	{running, srcClosed, dstIncoming, atSource, doDecide, ""},
	{running, srcOpen | srcEarlier, dstAny, atSource, doAbort, ""},
	{running, srcClosed, dstNone | dstTomb | dstLater, atSource, doAbort, ""}, // the copy is lost

	{aborting, srcClosed | srcEarlier, dstAny, atSource, doReopen, ""}, // first, as writers wait
	{aborting, srcOpen, dstNone | dstIncoming, atSource, doTombstone, ""},
	{aborting, srcOpen, dstTomb | dstLater, atSource, doUndone, ""},

	// A failover of the source lost its close. Whoever failed it over takes no
	// writes there before the fences agree with the directory, so none are lost.
	{unended, srcOpen, dstAny, atTarget, doClose, ""},
	{unended, srcAny, dstOpen, atTarget, doFinish, ""},
	{decided, srcAny, dstIncoming, atTarget, doOpen, ""},
	// A failover of the target lost the row, or ended its token: it may have lost
	// rows of the copy too. The source is closed and complete.
	{unended, srcClosed | srcEarlier, dstAny, atTarget, doCopy, ""},
	{unended, srcGone, dstAny, atTarget, doRefuse,
		"the target lost its copy, and the source's fence row, which would vouch for its rows, is gone; restore either from a backup"},
}

// A situation is what recovery sees of a move.
type situation struct {
	move           podworks.Move
	source, target fence.Row
	route          podworks.Route
}

// classes sorts a situation into the table's columns.
func (s situation) classes(ctx context.Context) (j journalState, src sourceState, dst targetState, r routeState) {
	mv, a, b := s.move, s.source, s.target
	switch {
	case mv.State == podworks.MoveRunning:
		j = running
	case mv.State == podworks.MoveAborting:
		j = aborting
	case mv.Verified == mv.Token || hook.Off(ctx, hook.Verified):
		j = decided
	default:
		j = copying
	}
	switch {
	case a.State == fence.Open && a.Epoch == mv.From.Epoch:
		src = srcOpen
	case a.State == fence.Open:
		src = srcStrange
	case a.State == fence.Moved && a.Epoch == mv.From.Epoch && a.Token == mv.Token:
		src = srcClosed
	case a.State == fence.Moved && a.Epoch == mv.From.Epoch && a.Token < mv.Token:
		src = srcEarlier
	default:
		src = srcGone
	}
	switch {
	case b.State == fence.Open && b.Epoch == mv.To.Epoch:
		dst = dstOpen
	case b.State == fence.Open || b.State == fence.Moved && b.Token == mv.Token:
		dst = dstStrange
	case b.Token > mv.Token:
		dst = dstLater
	case j == aborting && hook.Off(ctx, hook.Tombstone):
		dst = dstTomb
	case b.Token < mv.Token:
		dst = dstNone
	case b.State == fence.Incoming:
		dst = dstIncoming
	default:
		dst = dstTomb
	}
	switch {
	case s.route.Pod == mv.From.Pod && s.route.Epoch == mv.From.Epoch:
		r = atSource
	case s.route.Pod == mv.To.Pod && s.route.Epoch == mv.To.Epoch:
		r = atTarget
	default:
		r = nowhere
	}
	return j, src, dst, r
}

// verdict looks the situation up in the table.
func (s situation) verdict(ctx context.Context) (action, error) {
	j, src, dst, r := s.classes(ctx)
	for _, rule := range recovery {
		if rule.journal&j == 0 || rule.source&src == 0 || rule.target&dst == 0 || rule.route&r == 0 {
			continue
		}
		if rule.do == doRefuse {
			return doRefuse, s.contradiction(rule.why)
		}
		return rule.do, nil
	}
	panic(fmt.Sprintf("ferry: no rule for %+v", s)) // a test goes through all of them
}

func (s situation) contradiction(why string) error {
	return fmt.Errorf("%w: %s (the journal: %s, verified under token %d; pod %d: %v; pod %d: %v; the directory: pod %d at epoch %d)",
		ErrContradiction, why, s.move.State, s.move.Verified, s.move.From.Pod, s.source, s.move.To.Pod, s.target, s.route.Pod, s.route.Epoch)
}
