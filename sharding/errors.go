package sharding

import (
	"errors"
	"fmt"
	"strings"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// What callers branch on, with errors.Is.
var (
	// ErrNoScope: the context given to a query carries no shop. Wrap the handler
	// with Middleware, or the job with Do, and pass their context down.
	ErrNoScope = errors.New("sharding: no shop in the context; pass down the context of Middleware or Do")

	// ErrReleased: the scope has ended. Something outlived the request or the
	// closure it belongs to.
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

	// ErrBusy: the process, or the pod's share of it, is taken up by other units
	// of work. Nothing was done; shed the request, or try again later.
	ErrBusy = errors.New("sharding: too many units of work at a time")

	// ErrMaster: a change of the directory found no master database, and nothing was
	// changed. Shops that are there are not affected; try again when it is back.
	ErrMaster = directory.ErrAway

	// ErrClosed: the shop is closed, or was deleted.
	ErrClosed = directory.ErrClosed

	// ErrUnknownShop and ErrUnknownPod: the directory has no such shop or pod.
	ErrUnknownShop = directory.ErrUnknownShop
	ErrUnknownPod  = directory.ErrUnknownPod
)

// An Error says which shop and pod an error is about, and which lines of the
// program, as far as that is known. It unwraps to one of the errors above.
type Error struct {
	Shop podworks.ShopID
	Pod  podworks.PodID
	Err  error
	Note string // what was seen

	Acquired string // folder/file.go:line that acquired the scope
	Used     string // that used it, or a handle from it

	next podworks.Route // of ErrMoved: where the fence says the shop has gone, if it does
}

func (e *Error) Error() string {
	s := e.Err.Error()
	switch {
	case e.Shop == 0 && e.Pod == 0:
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
	var sites []string
	if e.Acquired != "" {
		sites = append(sites, "acquired at "+e.Acquired)
	}
	if e.Used != "" {
		sites = append(sites, "used at "+e.Used)
	}
	if sites != nil {
		s += "; " + strings.Join(sites, ", ")
	}
	return s
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Err }

// A CrossPodError says that a unit of work of one shop asked for a second shop
// or pod, and on which lines both happened. It unwraps to ErrCrossPod.
type CrossPodError struct {
	Scope Unit   // whose work it is; Site is the line that acquired the scope
	Use   Unit   // what was asked for; Site is the line that asked
	Note  string // what was seen, if it needs saying
}

// A Unit is a shop, the pod it is in, and a line of the program. What is not
// known, or not part of the matter, is zero.
type Unit struct {
	Shop podworks.ShopID
	Pod  podworks.PodID
	Site string // folder/file.go:line
}

func (u Unit) String() string {
	var s string
	switch {
	case u.Shop == 0:
		s = fmt.Sprintf("pod %d", u.Pod)
	case u.Pod == 0:
		s = fmt.Sprintf("shop %d", u.Shop)
	default:
		s = fmt.Sprintf("shop %d in pod %d", u.Shop, u.Pod)
	}
	if u.Site != "" {
		s += " (" + u.Site + ")"
	}
	return s
}

func (e *CrossPodError) Error() string {
	s := fmt.Sprintf("%v: inside the scope of %v, %v was asked for", ErrCrossPod, e.Scope, e.Use)
	if e.Note != "" {
		s += ": " + e.Note
	}
	return s
}

// Unwrap returns ErrCrossPod.
func (e *CrossPodError) Unwrap() error { return ErrCrossPod }
