package sharding

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/signature"
)

// Middleware puts the scope of the request's shop into the request's context.
// With a key it believes the headers that the edge signed, and nothing else;
// without one it finds the shop by the request's host.
//
//	no signed headers, or false ones   403
//	unknown shop or host               404
//	a shop that is closed              410
//	directory out of reach             503
//	no room in the process or the pod  503 (ErrBusy, or what Admit says)
//
// The scope ends when the handler returns.
func (c *Cluster) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		named, err := c.named(r)
		if err != nil {
			refuse(w, err)
			return
		}
		s, err := c.acquire(r.Context(), named.Shop, 0, cmp.Or(r.Pattern, r.Method+" "+r.URL.Path))
		if err != nil {
			refuse(w, err)
			return
		}
		defer s.Release()
		if named.Epoch > s.Route().Epoch {
			// The edge has heard of a move that we have not. What it signed says where
			// the shop is: the master, which may be away, need not be asked.
			if err := s.rebind(c.dir.heard(named)); err != nil {
				refuse(w, err)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(s))
	})
}

// named returns the route, or at least the shop, that the request names.
func (c *Cluster) named(r *http.Request) (podworks.Route, error) {
	if c.opts.Key != nil {
		return signature.Verify(r.Header, c.opts.Key, time.Now())
	}
	shop, err := c.dir.lookupHost(r.Context(), r.Host)
	return podworks.Route{Shop: shop}, err
}

func refuse(w http.ResponseWriter, err error) {
	code, text := http.StatusServiceUnavailable, "This shop can't be found right now. Please try again in a moment."
	switch {
	case errors.Is(err, signature.ErrMissing), errors.Is(err, signature.ErrInvalid):
		code, text = http.StatusForbidden, "This request did not come through the edge: its route headers are missing or not signed by it."
	case errors.Is(err, ErrClosed):
		code, text = http.StatusGone, "This shop is closed."
	case errors.Is(err, ErrUnknownShop):
		code, text = http.StatusNotFound, "There is no shop here."
	case errors.Is(err, context.Canceled):
		return // the client has gone
	case errors.Is(err, ErrBusy):
		text = "This shop is busy right now. Please try again in a moment."
		w.Header().Set("Retry-After", "1")
	default:
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, fmt.Sprintf("%d: %s", code, text), code)
}
