package semian

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The example of "Your Circuit Breaker is Misconfigured": 42 Redis instances, two threads.
func TestTheEquationGivesItsOwnExample(t *testing.T) {
	w := Workload{Rate: 10, Timeout: 250 * time.Millisecond, Latency: 50 * time.Millisecond, Resources: 42, Concurrency: 2}
	f, err := w.Check(&Options{OpenFor: 2 * time.Second, MaxOpenFor: 2 * time.Second, ProbeTimeout: 250 * time.Millisecond})
	if math.Round(f.During*100) != 263 || err == nil || !strings.Contains(err.Error(), "shorten ProbeTimeout") {
		t.Errorf("got %s and %v, want 263 %% refused", percent(f.During), err)
	}
	f, err = w.Check(&Options{OpenFor: 30 * time.Second, MaxOpenFor: 30 * time.Second, ProbeTimeout: 50 * time.Millisecond})
	if math.Round(f.During*100) != 4 || err != nil {
		t.Errorf("got %s and %v, want 4 %%", percent(f.During), err)
	}
}

func TestSettingsThatDontFitTheWorkloadAreRefused(t *testing.T) {
	usual := Workload{Rate: 500, Timeout: time.Second}
	for _, tt := range []struct {
		name string
		w    Workload
		opts Options
		want string // nothing: they fit
	}{
		{"the defaults", usual, Options{}, ""},
		{"the defaults, at one call a second", Workload{Rate: 1, Timeout: time.Second}, Options{}, ""},
		{"the defaults, at 10,000", Workload{Rate: 10_000, Timeout: time.Second}, Options{Tickets: 100}, ""},
		{"too few calls", Workload{Rate: 0.5, Timeout: time.Second}, Options{}, "at 0.5 calls a second Window (10s) has 5: the circuit would never open"},
		{"Semian's usual settings, in one process", usual, Options{Failures: 3}, "which is 0.06 % of 500 calls a second"},
		{"the same, in a worker", Workload{Rate: 10, Timeout: time.Second, ErrorRate: 0.0002}, Options{Failures: 3}, ""},
		{"a row that chance makes", usual, Options{Consecutive: 2}, "raise it"},
		{"a rate that chance reaches", usual, Options{MinCalls: 3, ErrorRate: 0.3}, "are within the noise"},
		{"a rate below the healthy one", usual, Options{ErrorRate: 0.005}, "would stay open"},
		{"slow calls that aren't", usual, Options{SlowCall: 50 * time.Millisecond}, "it would open for nothing"},
		{"probes that can't succeed", usual, Options{ProbeTimeout: 50 * time.Millisecond}, "would stay open"},
		{"too few tickets to see calls end", Workload{Rate: 500, Timeout: 10 * time.Second}, Options{Tickets: 2}, "the circuit would never open"},
		{"no workload", Workload{}, Options{Window: -1}, "Rate is 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tt.w.Check(&tt.opts)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if f != nil {
				t.Logf("%+v\n%v", *f, f)
			}
		})
	}
}

// What it says of an outage is what a resource does.
func TestTheForecastOfDetectionIsRight(t *testing.T) {
	for _, tt := range []struct {
		rate    float64
		timeout time.Duration
		opts    Options
	}{
		{100, time.Second, Options{}},
		{100, 10 * time.Millisecond, Options{}},
		{1, time.Second, Options{}},
		{1000, 5 * time.Second, Options{ErrorRate: 0.2, Window: 20 * time.Second}},
		{100, 10 * time.Millisecond, Options{Consecutive: 5}},
		{100, 2 * time.Second, Options{Tickets: 20}},
	} {
		f, err := Workload{Rate: tt.rate, Timeout: tt.timeout, ErrorRate: 1e-9}.Check(&tt.opts)
		if err != nil {
			t.Error(err)
			continue
		}
		var took time.Duration
		synctest.Test(t, func(t *testing.T) {
			tt.opts.OpenFor = time.Hour
			r := open(t, &tt.opts)
			pause := time.Duration(float64(time.Second) / tt.rate)
			for range int(30 * tt.rate) {
				call(r, 1, nil)
				sleep(pause)
			}
			began := time.Now()
			for r.Stats().State == Closed && time.Since(began) < time.Minute {
				go func() {
					_ = r.Do(context.Background(), func(context.Context) error {
						sleep(tt.timeout)
						return context.DeadlineExceeded
					})
				}()
				sleep(pause)
			}
			took = time.Since(began)
			sleep(tt.timeout)
		})
		t.Logf("%v calls a second that hang for %v: noticed after %v, forecast %v", tt.rate, tt.timeout, took, f.Detection)
		if off := f.Detection - took; off.Abs() > max(took/3, 1300*time.Millisecond) {
			t.Errorf("%v calls a second that hang for %v: noticed after %v, and the forecast was %v", tt.rate, tt.timeout, took, f.Detection)
		}
	}
}

func TestTails(t *testing.T) {
	for _, tt := range []struct {
		got, want float64
	}{
		{tail(10, 0.5, 0.5), 0.623046875},
		{tail(10, 0.01, 0.5), 2.4167e-8},
		{tail(100000, 0.01, 0.5), 0},
		{tail(3, 1e-12, 1), 1e-36},
		{atLeast(1, 1), 1 - 1/math.E},
		{atLeast(3, 50), 1},
	} {
		if math.Abs(tt.got-tt.want) > 1e-3*tt.want+1e-15 {
			t.Errorf("got %v, want %v", tt.got, tt.want)
		}
	}
}

func ExampleWorkload_Check() {
	w := Workload{Rate: 500, Timeout: time.Second, Latency: 50 * time.Millisecond, Resources: 42, Concurrency: 200}
	_, err := w.Check(&Options{Failures: 3}) // as in a worker of Semian's
	fmt.Println(err)
	f, err := w.Check(&Options{Tickets: 20, ProbeTimeout: 100 * time.Millisecond})
	fmt.Print(f)
	fmt.Println(err)
	// Output:
	// semian: settings that don't fit the workload: Failures is 3 within 10s, which is 0.06 % of 500 calls a second, and 1 % fail while all is well: it would open 8640 times a day; use ErrorRate
	// opens when 50 % of the calls fail, by chance 0.00167 times a day
	// notices an outage after 1.51s, with 420 % of the process stuck in calls until then
	// takes 0.7 % of the process for probes while the outage lasts
	// <nil>
}
