package semian

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podworks/podworks"
)

func TestNoMoreCallsAreUnderWayThanThereAreTickets(t *testing.T) {
	for _, tickets := range []int{1, 2, 7, 64} {
		r := open(t, &Options{Tickets: tickets, Queue: 1000, QueueTimeout: time.Minute})
		var under, most atomic.Int64
		var made atomic.Int64
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for range 500 {
					err := r.Do(context.Background(), func(context.Context) error {
						n := under.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						made.Add(1)
						under.Add(-1)
						return nil
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if m := most.Load(); m > int64(tickets) || made.Load() != 32*500 {
			t.Errorf("%d at once with %d tickets, %d calls made", m, tickets, made.Load())
		}
		if s := r.Stats(); s.InUse != 0 || s.Waiting != 0 || s.Calls != 32*500 {
			t.Errorf("in the end %+v", s)
		}
	}
}

// Callers come, wait, give up and go while the tickets are changed; in the end all are there.
func TestTicketsAreNeitherLostNorMade(t *testing.T) {
	r := open(t, &Options{Tickets: 4, Queue: 8, QueueTimeout: 50 * time.Microsecond})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for range 2000 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(200))*time.Microsecond)
				release, err := r.Acquire(ctx)
				if err == nil {
					for range rnd.IntN(100) {
						_ = rnd.Uint64()
					}
					release(nil)
				}
				cancel()
			}
		})
	}
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(99, 1))
		for range 500 {
			if err := r.Configure(&Options{Tickets: 1 + rnd.IntN(12), Queue: rnd.IntN(8), QueueTimeout: 50 * time.Microsecond}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := r.Configure(&Options{Tickets: 5}); err != nil {
		t.Fatal(err)
	}
	s := r.Stats()
	if s.InUse != 0 || s.Waiting != 0 || s.Tickets != 5 || r.owed != 0 || r.heed.Load() != 0 {
		t.Errorf("in the end %+v, %d owed, heed %d", s, r.owed, r.heed.Load())
	}
	var held []*Permit
	for range 5 {
		held = append(held, take(t, r))
	}
	wantRefused(t, r, ErrBusy)
	for _, p := range held {
		p.End(nil)
	}
}

func TestCallersWaitInTurnAndForABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, &Options{Tickets: 1, Queue: 3, QueueTimeout: time.Second})
		holder := take(t, r)
		var order []int
		for i := range 3 {
			go func() {
				release, err := r.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, i)
				sleep(100 * time.Millisecond)
				release(nil)
			}()
			synctest.Wait()
		}
		if s := r.Stats(); s.Waiting != 3 {
			t.Fatalf("%d wait, want 3", s.Waiting)
		}
		wantRefused(t, r, ErrBusy) // the queue is full
		sleep(500 * time.Millisecond)
		holder.End(nil)
		sleep(time.Second)
		synctest.Wait()
		if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Errorf("they came in the order %v", order)
		}

		holder = take(t, r)
		began := time.Now()
		if e := wantRefused(t, r, ErrBusy); time.Since(began) != time.Second {
			t.Errorf("%v after %v, want a second", e, time.Since(began))
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errDown)
		defer cancel()
		if _, err := r.Acquire(ctx); !errors.Is(err, errDown) {
			t.Errorf("got %v, want the cause of the context's end", err)
		}
		holder.End(nil)
		if s := r.Stats(); s.InUse != 0 || s.Busy != 2 {
			t.Errorf("%d out, %d refused, want 0 and 2", s.InUse, s.Busy)
		}
	})
}

func TestTicketsAreResizedWhileTheyAreOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := &Options{Tickets: 3, Queue: 5, QueueTimeout: time.Hour}
		r := open(t, opts)
		a, b, c := take(t, r), take(t, r), take(t, r)
		resize := func(n int) {
			t.Helper()
			o := *opts
			o.Tickets = n
			if err := r.Configure(&o); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		for range 2 {
			go func() {
				if _, err := r.Acquire(t.Context()); err != nil {
					t.Error(err)
				}
				got++
			}()
		}
		synctest.Wait()
		resize(1)
		a.End(nil)
		b.End(nil)
		synctest.Wait()
		if s := r.Stats(); got != 0 || s.InUse != 1 || s.Tickets != 1 {
			t.Errorf("%d got one of the tickets taken away; %+v", got, s)
		}
		c.End(nil)
		synctest.Wait()
		if got != 1 {
			t.Errorf("%d of those who waited have a ticket, want 1", got)
		}
		resize(2)
		synctest.Wait()
		if s := r.Stats(); got != 2 || s.InUse != 2 || s.Waiting != 0 {
			t.Errorf("%d of those who waited have a ticket, want 2; %+v", got, s)
		}
	})
}

func TestOneShopCantHoldAllTickets(t *testing.T) {
	r := open(t, &Options{Tickets: 4, ShopShare: 0.5})
	shop := func(id podworks.ShopID) context.Context {
		return podworks.WithRoute(t.Context(), podworks.Route{Shop: id, Pod: 1})
	}
	var held []func(error)
	get := func(ctx context.Context) error {
		release, err := r.Acquire(ctx)
		if err == nil {
			held = append(held, release)
		}
		return err
	}
	for i, tt := range []struct {
		ctx context.Context
		err error
	}{
		{shop(1), nil}, {shop(1), nil}, {shop(1), ErrBusy}, {shop(2), nil}, {t.Context(), nil}, {shop(2), ErrBusy}, {shop(3), ErrBusy},
	} {
		if err := get(tt.ctx); !errors.Is(err, tt.err) {
			t.Errorf("call %d: got %v, want %v", i, err, tt.err)
		}
	}
	for _, release := range held {
		release(nil)
	}
	if len(r.shops) != 0 {
		t.Errorf("shops that hold nothing are remembered: %v", r.shops)
	}
	if err := get(shop(1)); err != nil {
		t.Error(err)
	}
}

func TestTheDefaultQuotaIsSeventyPercent(t *testing.T) {
	for _, tt := range []struct{ concurrency, want int }{{10, 7}, {1, 1}, {3, 3}, {200, 140}} {
		if got := open(t, &Options{Concurrency: tt.concurrency}).Stats().Tickets; got != tt.want {
			t.Errorf("of %d: %d tickets, want %d", tt.concurrency, got, tt.want)
		}
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{Window: -1}, "Window is -1ns, want a positive duration"},
		{Options{ErrorRate: 1.5}, "ErrorRate is 1.5, want a share above 0 and at most 1"},
		{Options{Failures: 3, Lump: 5 * time.Second}, "would never open"},
		{Options{Queue: 3}, "no Tickets to wait for"},
		{Options{ShopShare: 0.5}, "no Tickets to share"},
		{Options{Tickets: 20, Concurrency: 10}, "want no more than Concurrency (10)"},
		{Options{OpenFor: time.Minute, MaxOpenFor: time.Second}, "MaxOpenFor is 1s"},
		{Options{ProbeTimeout: time.Minute, ProbeLease: time.Second}, "ProbeLease is 1s"},
	} {
		if _, err := New("it", &tt.opts); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.opts, err, tt.want)
		}
	}
}
