package semian

import (
	"context"
	"errors"
)

// An Outcome is what a call says about the dependency.
//
//	Success   it answered: also with a missing key, a duplicate one, or a refusal
//	Failure   it didn't, or said that it can't
//	Ignore    nothing: the caller gave up, or never got as far
//	Misroute  it answered that it isn't the primary: no failure, but Hooks.Misrouted is told
//
// A call that takes Options.SlowCall or longer is slow as well, whatever it ended with
// but Ignore.
type Outcome uint8

const (
	Success Outcome = iota
	Failure
	Ignore
	Misroute
)

func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Failure:
		return "failure"
	case Ignore:
		return "ignored"
	case Misroute:
		return "misrouted"
	}
	return "unknown"
}

// Classify is the default of Options.Classify. It knows no dependency: every error is a
// failure but context.Canceled and another resource's rejection, which are ignored.
//
// A deadline is a failure, the caller's too: that the time was up is mostly the
// dependency's doing.
func Classify(err error) Outcome {
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrOpen) || errors.Is(err, ErrBusy) {
		return Ignore
	}
	return Failure
}

// A marked error has its outcome with it.
type marked struct {
	error
	outcome Outcome
}

func (m *marked) Unwrap() error { return m.error }

func mark(err error, o Outcome) error {
	if err == nil {
		return nil
	}
	return &marked{err, o}
}

// Answered returns err as one that counts as a success: the dependency answered, with
// something that the caller doesn't like. nil stays nil.
func Answered(err error) error { return mark(err, Success) }

// Failed returns err as one that counts as a failure, whatever Options.Classify says.
func Failed(err error) error { return mark(err, Failure) }

// Ignored returns err as one that counts as nothing.
func Ignored(err error) error { return mark(err, Ignore) }

// Misrouted returns err as one that says that the dependency is not the primary any more.
func Misrouted(err error) error { return mark(err, Misroute) }
