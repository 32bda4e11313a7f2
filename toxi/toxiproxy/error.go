package toxiproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// A failure is an answer other than success, as a client finds it in the body.
type failure struct {
	Message string `json:"error"`
	Status  int    `json:"status"` // of HTTP
}

func (f *failure) Error() string { return f.Message }

// The errors whose text clients know.
var (
	errProxyNotFound   = &failure{"proxy not found", http.StatusNotFound}
	errProxyExists     = &failure{"proxy already exists", http.StatusConflict}
	errToxicNotFound   = &failure{"toxic not found", http.StatusNotFound}
	errToxicExists     = &failure{"toxic already exists", http.StatusConflict}
	errInvalidStream   = &failure{"stream was invalid, can be either upstream or downstream", http.StatusBadRequest}
	errInvalidType     = &failure{"invalid toxic type", http.StatusBadRequest}
	errClosed          = &failure{"the server is closed", http.StatusServiceUnavailable}
	errMissingName     = &failure{"missing required field: name", http.StatusBadRequest}
	errMissingUpstream = &failure{"missing required field: upstream", http.StatusBadRequest}
)

// badBody says what is wrong with a request's body.
func badBody(format string, args ...any) *failure {
	return &failure{"bad request body: " + fmt.Sprintf(format, args...), http.StatusBadRequest}
}

// asFailure returns err as an answer. What is no failure already went wrong here and not
// at the client.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &failure{"another request is at work on the proxy", http.StatusServiceUnavailable}
	}
	// Clients know the text of the system's errors, "listen tcp 127.0.0.1:3310: bind:
	// address already in use", without what was added on the way.
	var op *net.OpError
	if errors.As(err, &op) {
		err = op
	}
	return &failure{err.Error(), http.StatusInternalServerError}
}

// A faults collects what is wrong with a body, so that it is put right in one round.
type faults []string

// mostFaults bounds an answer: a body of nothing but faults would get one that is many times
// its size.
const mostFaults = 10

func (f *faults) add(format string, args ...any) {
	switch {
	case len(*f) < mostFaults:
		*f = append(*f, fmt.Sprintf(format, args...))
	case len(*f) == mostFaults:
		*f = append(*f, "and more")
	}
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return badBody("%s", strings.Join(f, "; "))
}
