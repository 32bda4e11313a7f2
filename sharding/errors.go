package sharding

import (
	"errors"
	"fmt"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// What callers branch on, with errors.Is.
var (
	// ErrNoScope: the context given to a query carries no shop. Wrap the handler
	// with Middleware, or the job with Do, and pass their context down.
	ErrNoScope = errors.New("sharding: no shop in the context; pass down the context of Middleware or Do")

	// ErrReleased: the scope of the context has ended. Something outlived the
	// request or the closure it belongs to.
	ErrReleased = errors.New("sharding: the scope was released; this work outlived its request or closure")

	// ErrCrossPod: one unit of work touched a second shop or pod. Do the work of
	// each shop in a scope of its own, after the other's end.
	ErrCrossPod = errors.New("sharding: a unit of work touches one pod")

	// ErrStale: the shop moved during this scope and the handle belongs to the pod
	// it left. Ask the scope for a new one.
	ErrStale = errors.New("sharding: the shop has moved; this handle belongs to the pod it left")

	// ErrMoved: the pod no longer (or not yet) owns the shop, and the write was
	// refused before it changed anything. Scope.Tx handles it; who sees it may do
	// the whole unit of work again.
	ErrMoved = errors.New("sharding: the shop is moving or has moved to another pod; nothing was written")

	// ErrRefused: the statement would lose the write fence.
	ErrRefused = errors.New("sharding: statement refused")

	// ErrUnknownShop and ErrUnknownPod: the directory has no such shop or pod.
	ErrUnknownShop = directory.ErrUnknownShop
	ErrUnknownPod  = directory.ErrUnknownPod
)

// An Error says which shop and pod an error is about, as far as that is known. It
// unwraps to one of the errors above.
type Error struct {
	Shop podworks.ShopID
	Pod  podworks.PodID
	Err  error
	Note string // what was seen
}

func (e *Error) Error() string {
	s := e.Err.Error()
	switch {
	case e.Shop == 0:
		s += fmt.Sprintf(" (pod %d)", e.Pod)
	case e.Pod == 0:
		s += fmt.Sprintf(" (shop %d)", e.Shop)
	default:
		s += fmt.Sprintf(" (shop %d, pod %d)", e.Shop, e.Pod)
	}
	if e.Note != "" {
		s += ": " + e.Note
	}
	return s
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Err }
