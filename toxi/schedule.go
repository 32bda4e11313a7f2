package toxi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Step of a script of faults: the toxic strikes At a time after the script began,
// For a time.
type Step struct {
	At    time.Duration
	For   time.Duration
	Toxic Toxic
}

// Flap is a script in which the toxic comes and goes: times times it strikes for on and
// is gone for off.
func Flap(t Toxic, on, off time.Duration, times int) []Step {
	var steps []Step
	for i := range times {
		steps = append(steps, Step{At: time.Duration(i) * (on + off), For: on, Toxic: t})
	}
	return steps
}

// Play plays a script: it adds and removes each step's toxic at its time and returns
// nil after the last. The order of steps does not matter, and steps may overlap. If ctx ends first, it removes what is there and returns
// the cause. The whole script is checked before it begins.
func (p *Proxy) Play(ctx context.Context, steps ...Step) error {
	type moment struct {
		at   time.Duration
		step int
		add  bool
	}
	var moments []moment
	var errs []error
	for i, s := range steps {
		if s.At < 0 || s.At > longest || s.For <= 0 || s.For > longest {
			errs = append(errs, fmt.Errorf("toxi: step %d: At is %v, For is %v, want 0 or more and over 0, and no more than a year", i, s.At, s.For))
		}
		if _, err := place(s.Toxic); err != nil {
			errs = append(errs, fmt.Errorf("toxi: step %d: %w", i, err))
		}
		moments = append(moments, moment{s.At, i, true}, moment{s.At + s.For, i, false})
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	slices.SortStableFunc(moments, func(a, b moment) int {
		switch {
		case a.at != b.at:
			return int(min(max(a.at-b.at, -1), 1))
		case a.add != b.add && !a.add:
			return -1 // what ends makes room for what begins, of the same name perhaps
		case a.add != b.add:
			return 1
		}
		return 0
	})
	removes := make([]func() error, len(steps))
	defer func() {
		for _, remove := range removes {
			if remove != nil {
				remove()
			}
		}
	}()
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, m := range moments {
		timer.Reset(time.Until(began.Add(m.at)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var err error
		if m.add {
			removes[m.step], err = p.Add(steps[m.step].Toxic)
		} else {
			err = removes[m.step]()
		}
		if err != nil {
			return fmt.Errorf("toxi: step %d: %w", m.step, err)
		}
	}
	return nil
}
