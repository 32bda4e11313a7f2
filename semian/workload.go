package semian

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// A Workload is what is expected of the calls to a resource, for [Workload.Check]. The zero
// value of a field is its default.
type Workload struct {
	Rate      float64       // calls a second; needed
	Timeout   time.Duration // after which a caller gives up; needed
	Latency   time.Duration // the 99th percentile of healthy calls; a tenth of Timeout
	ErrorRate float64       // the share of calls that fail while all is well, 0.01

	// Resources is how many such resources a process calls, each at Rate, that may be down
	// together, 1; Concurrency is how many calls the process can make at once, 100.
	Resources   int
	Concurrency int
}

// A Forecast is what settings come to under a workload.
type Forecast struct {
	// TripRate is the share of failing calls from which on the circuit opens, and Trips how often
	// a day it would by chance while all is well.
	TripRate, Trips float64

	// Detection is how long it takes from the beginning of an outage, in which every call hangs until
	// Timeout, until the circuit opens. Until then Before of the process's concurrency is
	// stuck in such calls, and During from then on, in probes: 1 is all of it. More than 1 is
	// more than there is.
	Detection      time.Duration
	Before, During float64
}

func (f *Forecast) String() string {
	var b strings.Builder
	if math.IsInf(f.TripRate, 0) {
		b.WriteString("never opens\n")
	} else {
		fmt.Fprintf(&b, "opens when %s of the calls fail, by chance %s times a day\n", percent(f.TripRate), number(f.Trips))
	}
	if f.Detection == 0 {
		fmt.Fprintf(&b, "notices no outage, with %s of the process stuck in calls\n", percent(f.Before))
		return b.String()
	}
	fmt.Fprintf(&b, "notices an outage after %v, with %s of the process stuck in calls until then\n", f.Detection.Round(10*time.Millisecond), percent(f.Before))
	fmt.Fprintf(&b, "takes %s of the process for probes while the outage lasts\n", percent(f.During))
	return b.String()
}

func percent(x float64) string { return number(100*x) + " %" }

func number(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < 0.001:
		return "less than 0.001"
	case x < 100:
		return fmt.Sprintf("%.3g", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// Check says what options come to under a workload, and refuses those that don't fit it:
// that could never open, that would open by chance more than once a day, or whose probes would
// take more than a tenth of the process while an outage lasts. The forecast is there whenever the options
// are valid, and the error names every fault.
//
// How much an outage takes is Semian's equation: resources × probe timeout ÷ (open time ×
// concurrency), of "Your Circuit Breaker is Misconfigured" (Shopify Engineering, 2020).
func (w Workload) Check(opts *Options) (*Forecast, error) {
	o := opts.withDefaults()
	w.Latency = cmp.Or(w.Latency, w.Timeout/10)
	w.ErrorRate = cmp.Or(w.ErrorRate, 0.01)
	w.Resources = cmp.Or(w.Resources, 1)
	w.Concurrency = cmp.Or(w.Concurrency, 100)
	if err := errors.Join(o.validate(), w.validate()); err != nil {
		return nil, fmt.Errorf("semian: %w", err)
	}
	f := &Forecast{TripRate: math.Inf(1)}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	window := o.Window.Seconds()
	inWindow := w.Rate * window
	if inWindow >= float64(o.MinCalls) {
		f.TripRate = o.ErrorRate
		f.Trips += eighths * 86400 / window * (tail(o.MinCalls, w.ErrorRate, o.ErrorRate) + tail(int(inWindow), w.ErrorRate, o.ErrorRate))
	} else if o.Failures == 0 && o.Consecutive == 0 {
		fault("MinCalls is %d, and at %v calls a second Window (%v) has %.3g: the circuit would never open; lower MinCalls or lengthen Window",
			o.MinCalls, w.Rate, o.Window, inWindow)
	}
	if o.Failures > 0 {
		f.TripRate = min(f.TripRate, float64(o.Failures)/inWindow)
		noise := w.Rate * w.ErrorRate
		noise /= 1 + noise*o.Lump.Seconds() // failures that come so soon count once
		trips := 86400 / window * atLeast(o.Failures, noise*window)
		f.Trips += trips
		if trips > 1 {
			fault("Failures is %d within %v, which is %s of %v calls a second, and %s fail while all is well: it would open %s times a day; use ErrorRate",
				o.Failures, o.Window, percent(float64(o.Failures)/inWindow), w.Rate, percent(w.ErrorRate), number(trips))
		}
	}
	if o.Consecutive > 0 {
		trips := 86400 * w.Rate * math.Pow(w.ErrorRate, float64(o.Consecutive))
		f.Trips += trips
		f.TripRate = min(f.TripRate, 1)
		if trips > 1 {
			fault("Consecutive is %d, and at %v calls a second of which %s fail while all is well that happens %s times a day; raise it",
				o.Consecutive, w.Rate, percent(w.ErrorRate), number(trips))
		}
	}
	if o.ErrorRate <= w.ErrorRate {
		fault("ErrorRate is %v, and %s of the calls fail while all is well: the circuit would stay open", o.ErrorRate, percent(w.ErrorRate))
	} else if f.Trips > 1 && len(errs) == 0 {
		fault("MinCalls %d and ErrorRate %v are within the noise of %s failures: it would open %s times a day; raise either",
			o.MinCalls, o.ErrorRate, percent(w.ErrorRate), number(f.Trips))
	}
	if o.SlowCall > 0 && o.SlowCall <= w.Latency {
		fault("SlowCall is %v, and a healthy call takes up to %v: it would open for nothing; raise it", o.SlowCall, w.Latency)
	}
	if o.ProbeTimeout < w.Latency {
		fault("ProbeTimeout is %v, and a healthy call takes up to %v: a circuit that opened would stay open; raise it", o.ProbeTimeout, w.Latency)
	}

	// While calls hang, no more end a second than there are tickets for.
	rate, stuck := w.Rate, w.Rate*w.Timeout.Seconds()
	if o.Tickets > 0 && stuck > float64(o.Tickets) {
		stuck = float64(o.Tickets)
		rate = stuck / w.Timeout.Seconds()
	}
	var ok bool
	if f.Detection, ok = w.detection(&o, rate); !ok && len(errs) == 0 {
		fault("an outage in which calls hang for %v ends %.3g of them a second, too few for MinCalls %d within %v: the circuit would never open", w.Timeout, rate, o.MinCalls, o.Window)
	}
	f.Before = float64(w.Resources) * stuck / float64(w.Concurrency)
	f.During = float64(w.Resources) * float64(min(o.Probes, o.CloseAfter)) * o.ProbeTimeout.Seconds() / (o.MaxOpenFor.Seconds() * float64(w.Concurrency))
	if f.During > 0.1 {
		fault("the probes of %d resources take %s of the process while they are down; shorten ProbeTimeout (%v) to little more than a healthy call takes, or lengthen MaxOpenFor (%v)",
			w.Resources, percent(f.During), o.ProbeTimeout, o.MaxOpenFor)
	}
	if err := errors.Join(errs...); err != nil {
		return f, fmt.Errorf("semian: settings that don't fit the workload: %w", err)
	}
	return f, nil
}

func (w Workload) validate() error {
	var errs []error
	if !(w.Rate > 0) || math.IsInf(w.Rate, 0) {
		errs = append(errs, fmt.Errorf("Rate is %v, want calls a second", w.Rate))
	}
	if w.Timeout <= 0 || w.Latency < 0 {
		errs = append(errs, fmt.Errorf("Timeout is %v and Latency %v, want positive durations", w.Timeout, w.Latency))
	}
	if !(w.ErrorRate >= 0 && w.ErrorRate < 1) {
		errs = append(errs, fmt.Errorf("ErrorRate is %v, want a share below 1", w.ErrorRate))
	}
	if w.Resources < 1 || w.Concurrency < 1 {
		errs = append(errs, fmt.Errorf("Resources is %d and Concurrency %d, want 1 or more", w.Resources, w.Concurrency))
	}
	return errors.Join(errs...)
}

// detection follows the windows through an outage that begins at 0: nothing succeeds from
// then on, and from Timeout on calls fail at rate.
func (w Workload) detection(o *Options, rate float64) (time.Duration, bool) {
	window, timeout := o.Window.Seconds(), w.Timeout.Seconds()
	part := window / eighths
	within := func(span, t float64) (failed, calls float64) {
		failed = rate * min(t-timeout, span)
		return failed, failed + w.Rate*max(0, span-t)
	}
	for t := timeout; t < timeout+2*window; t += part / 100 {
		all, calls := within(window, t)
		recent, recentCalls := within(part, t)
		if calls >= float64(o.MinCalls) && all >= o.ErrorRate*calls ||
			recentCalls >= float64(o.MinCalls) && recent >= (1+o.ErrorRate)/2*recentCalls ||
			o.Failures > 0 && all >= float64(o.Failures) ||
			o.Consecutive > 0 && all >= float64(o.Consecutive) {
			return time.Duration(t * float64(time.Second)), true
		}
	}
	return 0, false
}

// tail is the chance that a share of n calls or more fail when each does by chance p.
func tail(n int, p, share float64) float64 {
	if p <= 0 {
		return 0
	}
	ln := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	sum := 0.0
	for k := int(math.Ceil(share*float64(n) - 1e-9)); k <= n; k++ {
		term := math.Exp(ln(n) - ln(k) - ln(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
		sum += term
		if term < sum*1e-12 || term == 0 && float64(k) > p*float64(n) {
			break
		}
	}
	return min(sum, 1)
}

// atLeast is the chance that k events or more come when mean are expected (Poisson).
func atLeast(k int, mean float64) float64 {
	below := 0.0
	for i := range k {
		v, _ := math.Lgamma(float64(i) + 1)
		below += math.Exp(float64(i)*math.Log(mean) - mean - v)
	}
	return max(0, 1-below)
}
