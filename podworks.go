package podworks

import (
	"context"
	"errors"
	"time"

	"github.com/podworks/podworks/internal/key"
)

// A ShopID names a tenant. Zero is no shop. A tenant that the application
// knows by a string or a UUID gets a number in the directory.
type ShopID int64

// A PodID names a pod. Zero is no pod.
type PodID int32

// A Region names a data centre, such as "us-east1".
type Region string

// An Epoch counts the changes of a shop (moves, closing, opening again), or the
// failovers of a pod. It only grows. Zero is no epoch: the first owner of a shop
// has epoch 1.
type Epoch uint64

// A Route says which pod serves a shop, and since which epoch. Comparing the
// epochs of two routes of one shop tells which is newer.
type Route struct {
	Shop   ShopID
	Pod    PodID
	Region Region // where the pod is active
	Epoch  Epoch  // of the shop
}

// ErrOutcomeUnknown is what a transaction ends with when its COMMIT was sent
// and the answer was lost: it may have happened or not. Look for what it should
// have written before doing it again.
var ErrOutcomeUnknown = errors.New("podworks: commit was sent and its answer lost; it may or may not have happened")

// A Tx is a transaction that others can attach work to. The owner of the
// transaction (sharding, for one) puts it into the context with WithTx; a
// package that must act at its end (an outbox, a cache) takes it from there.
//
// Both methods may be called until the transaction's closure returns, from the
// goroutine that runs it. Hooks run one after the other in the order they were
// added.
type Tx interface {
	// BeforeCommit adds a function to run after the last statement, while the
	// transaction is still open. An error rolls the transaction back and is
	// returned to whoever ran it.
	BeforeCommit(func(context.Context) error)

	// AfterEnd adds a function to run after the end, whatever it was. Its error
	// tells which:
	//
	//	nil                        committed
	//	ErrOutcomeUnknown (by Is)  COMMIT was sent, the answer was lost
	//	any other                  rolled back, for this reason
	//
	// A killed process runs none of them: what must survive that is a row
	// written in the transaction.
	AfterEnd(func(context.Context, error))
}

// The headers by which the edge tells the application whose request this is.
// Package routing strips whatever arrived under these names, writes them and
// signs them; sharding's middleware believes only signed ones.
const (
	HeaderShop      = "X-Podworks-Shop"
	HeaderPod       = "X-Podworks-Pod"
	HeaderEpoch     = "X-Podworks-Epoch"
	HeaderSignature = "X-Podworks-Signature"
)

// A MoveState is where the journal says a move is.
type MoveState string

// The states of a move. Only running leads to decided or aborting, in one
// transaction on the journal row, so exactly one of them happens.
const (
	MoveRunning  MoveState = "running"  // the shop is still at From
	MoveDecided  MoveState = "decided"  // the shop is at To; opening and tidying may be left to do
	MoveAborting MoveState = "aborting" // the shop stays at From; undoing may be left to do
	MoveDone     MoveState = "done"     // finished; the shop was moved
	MoveUndone   MoveState = "undone"   // finished; the shop was not moved
)

// A Move is a row of the journal: one attempt to take a shop from a pod to
// another.
type Move struct {
	Token uint64 // of this attempt; tokens only grow
	From  Route  // as claimed
	To    Route  // Epoch is From.Epoch+1
	State MoveState
	Step  string        // the last step noted
	Idle  time.Duration // since the last note, by the master's clock

	// Verified is the token whose copy was compared with the source and found
	// equal. A decided move of another token must copy again before it opens.
	Verified uint64
}

// WithRoute returns a context that carries r.
func WithRoute(ctx context.Context, r Route) context.Context {
	return context.WithValue(ctx, key.Route{}, &r)
}

// RouteFrom returns the route that ctx carries.
func RouteFrom(ctx context.Context) (Route, bool) {
	r, ok := ctx.Value(key.Route{}).(*Route)
	if !ok {
		return Route{}, false
	}
	return *r, true
}

// ShopFrom returns the shop of the route that ctx carries.
func ShopFrom(ctx context.Context) (ShopID, bool) {
	r, ok := RouteFrom(ctx)
	return r.Shop, ok
}

// WithTx returns a context that carries tx.
func WithTx(ctx context.Context, tx Tx) context.Context {
	return context.WithValue(ctx, key.Tx{}, tx)
}

// TxFrom returns the transaction that ctx carries.
func TxFrom(ctx context.Context) (Tx, bool) {
	tx, ok := ctx.Value(key.Tx{}).(Tx)
	return tx, ok
}
