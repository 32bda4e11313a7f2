package semian

import (
	"context"
	"errors"
	"testing"
	"time"
)

// The numbers that the package comment gives. -cpu 1,2 shows what two processors
// do to each other.

func nothing(context.Context) error { return nil }

// benchOptions are those that the figures are of, and that the simulation and the
// end-to-end test use too.
func benchOptions() *Options { return &Options{Tickets: 64} }

func BenchmarkDo(b *testing.B) {
	for _, bb := range []struct {
		name   string
		change func(*Options)
		open   bool
		want   error
	}{
		{name: "closed", change: func(*Options) {}},
		{name: "slow", change: func(o *Options) { o.SlowCall = time.Second }},
		{name: "nobulkhead", change: func(o *Options) { o.Tickets = 0 }},
		{name: "rejected", change: func(o *Options) { o.OpenFor = time.Hour }, open: true, want: ErrOpen},
	} {
		b.Run(bb.name, func(b *testing.B) {
			opts := benchOptions()
			bb.change(opts)
			r := open(b, opts)
			if bb.open {
				call(r, 20, errDown)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				ctx := context.Background()
				for pb.Next() {
					if err := r.Do(ctx, nothing); !errors.Is(err, bb.want) {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkPermit(b *testing.B) {
	r := open(b, benchOptions())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			p, err := r.Permit(ctx)
			if err != nil {
				b.Error(err)
				return
			}
			p.End(nil)
		}
	})
}

func TestACallAllocatesNothing(t *testing.T) {
	ctx := context.Background()
	closed, refused, timed := open(t, benchOptions()), open(t, &Options{OpenFor: time.Hour}), open(t, &Options{Tickets: 3, SlowCall: time.Hour})
	call(refused, 20, errDown)
	for name, f := range map[string]func(){
		"made":    func() { _ = closed.Do(ctx, nothing) },
		"timed":   func() { _ = timed.Do(ctx, nothing) },
		"refused": func() { _ = refused.Do(ctx, nothing) },
		"permit": func() {
			p, err := closed.Permit(ctx)
			if err == nil {
				p.End(nil)
			}
		},
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("a call that is %s allocates %v times, want 0", name, n)
		}
	}
}
