package main

import (
	"errors"
	"flag"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

var throttleFlag = flag.Float64("throttle", 9000, "rows that BenchmarkThrottled's move reads a second; two thirds of them are compared ones")

// throttledFor is for how long each turn is measured: shortly and often, as what
// else the machine does is in some turns and not in others.
const throttledFor = 2 * time.Second

// BenchmarkThrottled measures what a throttled move leaves of the servers to the
// application: sessions of another shop in the same pod, in processes of their own,
// three that read and one that writes, all as fast as they can, in turns without a move
// and while one copies.
func BenchmarkThrottled(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			a := newArena(b, f)
			if err := fill(b.Context(), a.source, a.target, *rowsFlag); err != nil {
				b.Fatal(err)
			}
			a.throttled(b)
		})
	}
}

func (a *arena) throttled(b *testing.B) {
	ctx := b.Context()
	other := a.job
	other.shop = otherShop
	if _, err := other.prepare(ctx, a.master); err != nil {
		b.Fatal(err)
	}
	j := a.job
	j.opts.ChunkRows = int(*throttleFlag) / 10 // else it is seconds of work, and then seconds of rest
	j.opts.Throttle = new(ferry.Throttle)
	if err := j.opts.Throttle.Set(ferry.Limits{RowsPerSecond: *throttleFlag}); err != nil {
		b.Fatal(err)
	}
	copying := make(chan struct{}, 1)
	j.opts.Progress = func(p ferry.Progress) {
		if p.Step == "copy" && p.RowsCopied > 0 {
			select {
			case copying <- struct{}{}:
			default:
			}
		}
	}
	f, err := j.prepare(ctx, a.master)
	if err != nil {
		b.Fatal(err)
	}
	var apps []*writer
	for statement, sessions := range map[string]int{
		`SELECT SUM(total) FROM orders WHERE id BETWEEN 3 + 2 * (MICROSECOND(NOW(6)) % 1000) AND 103 + 2 * (MICROSECOND(NOW(6)) % 1000)`: 3,
		`UPDATE products SET stock = stock + 1 WHERE id = 3 + 2 * (MICROSECOND(NOW(6)) % 1000)`:                                          1,
	} {
		w, err := startWriter(ctx, order{
			DSNs: [2]string{j.pods[sourcePod].FormatDSN(), j.pods[targetPod].FormatDSN()}, Shop: otherShop,
			Write: statement, load: load{Sessions: sessions},
		})
		if err != nil {
			b.Fatal(err)
		}
		defer w.stop()
		apps = append(apps, w)
	}
	type turn struct{ from, to time.Time }
	pass := func() (t turn) {
		t.from = time.Now()
		select {
		case <-time.After(throttledFor):
		case <-ctx.Done():
		}
		t.to = time.Now()
		return t
	}
	var without, with []turn
	var rates []float64
	for range 3 * *roundsFlag {
		without = append(without, pass())
		ended := make(chan error, 1)
		go func() {
			_, err := f.Move(ctx, j.shop, targetPod)
			ended <- err
		}()
		select {
		case <-copying:
		case err := <-ended:
			b.Fatalf("the move ended: %v", err)
		}
		before := f.Moves()[0]
		with = append(with, pass())
		after := f.Moves()[0]
		rates = append(rates, float64(after.RowsCopied-before.RowsCopied)/throttledFor.Seconds())
		if err := f.Cancel(after.Token); err != nil {
			b.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ferry.ErrCancelled) {
			b.Fatal(err)
		}
		select {
		case <-copying:
		default:
		}
	}
	var all []written
	for _, w := range apps {
		done, err := w.stop()
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, done...)
	}
	var samples []sample
	count := func(t turn) (n float64) {
		for _, w := range all {
			if w.Ended >= t.from.UnixNano() && w.Ended < t.to.UnixNano() {
				n++
			}
		}
		return n / t.to.Sub(t.from).Seconds()
	}
	for i := range with {
		x, y := count(without[i]), count(with[i])
		samples = append(samples, sample{"without-tx/s": x, "with-tx/s": y, "ratio": y / x, "rows/s": rates[i]})
	}
	b.ReportMetric(0, "ns/op")
	for unit := range samples[0] {
		b.ReportMetric(median(samples, func(i int) float64 { return samples[i][unit] }), unit)
	}
}
