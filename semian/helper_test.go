package semian

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"
)

var errDown = errors.New("it is down")

// fixed makes chance predictable: no jitter, and a ramp that admits what is due.
func fixed(r *Resource) *Resource {
	r.breaker.random = func() float64 { return 0.5 }
	return r
}

func open(t testing.TB, opts *Options) *Resource {
	t.Helper()
	r, err := New("it", opts)
	if err != nil {
		t.Fatal(err)
	}
	return fixed(r)
}

// call makes n calls that end with err and returns how many were made.
func call(r *Resource, n int, err error) (made int) {
	for range n {
		_ = r.Do(context.Background(), func(context.Context) error {
			made++
			return err
		})
	}
	return made
}

// take takes a permit that must be had.
func take(t testing.TB, r *Resource) *Permit {
	t.Helper()
	p, err := r.Permit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

func wantState(t testing.TB, r *Resource, want State) {
	t.Helper()
	if s := r.Stats(); s.State != want {
		t.Fatalf("it is %v (%s), want %v", s.State, s.Reason, want)
	}
}

func wantRefused(t testing.TB, r *Resource, want error) *Error {
	t.Helper()
	p, err := r.Permit(t.Context())
	if err == nil {
		p.End(nil)
	}
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got a %T, want an *Error", err)
	}
	return e
}

// sleep lets the bubble's time pass.
func sleep(d time.Duration) { time.Sleep(d) }

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
