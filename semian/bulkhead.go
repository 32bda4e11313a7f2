package semian

import (
	"container/list"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
)

// A bulkhead hands out tickets.
//
// Free tickets lie in stripes. A caller takes one from the stripe of its
// goroutine, or else from any other, and puts it back into its own; so callers
// on different processors rarely touch the same memory, and there are never more
// tickets out than there are, because each is in one stripe or with one caller.
//
// Whoever must wait, and tickets that are to be taken away, are seen in heed: while
// it isn't 0, callers take no ticket but under mu, in turn.
type bulkhead struct {
	stripes []stripe
	heed    atomic.Int32 // waiters, and tickets owed

	mu      sync.Mutex // guards what follows; nothing else is locked while it is held
	tickets int
	owed    int       // tickets to be taken away as soon as they come back
	waiting list.List // of *waiter, first come first served
	queue   int
	timeout time.Duration

	shopMu   sync.Mutex              // guards what follows
	shopMost int                     // 0: as many as there are
	shops    map[podworks.ShopID]int // tickets held, none of them 0
}

type waiter struct {
	ready chan struct{} // closed, under mu, when the waiter has a ticket
	given bool
}

// configure sets what Options say. Tickets that are too many by now are taken away
// as they come back.
func (b *bulkhead) configure(o *Options) {
	b.shopMu.Lock()
	b.shopMost = int(math.Ceil(o.ShopShare*float64(o.Tickets) - 1e-9))
	if b.shops == nil {
		b.shops = map[podworks.ShopID]int{}
	}
	b.shopMu.Unlock()

	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue, b.timeout = o.Queue, o.QueueTimeout
	more := o.Tickets - b.tickets
	b.tickets = o.Tickets
	if more < 0 {
		b.owed -= more
		b.heed.Add(int32(-more))
	} else {
		cancelled := min(more, b.owed)
		b.owed -= cancelled
		b.heed.Add(int32(-cancelled))
		// In turn, so that callers find one where they look first.
		for i := range more - cancelled {
			b.stripes[i%len(b.stripes)].free.Add(1)
		}
	}
	b.serveLocked()
}

// steal takes a free ticket from the stripe i or another.
func (b *bulkhead) steal(i uint32) bool {
	for k := range uint32(len(b.stripes)) {
		s := &b.stripes[(i+k)%uint32(len(b.stripes))]
		for f := s.free.Load(); f > 0; f = s.free.Load() {
			if s.free.CompareAndSwap(f, f-1) {
				return true
			}
		}
	}
	return false
}

// take takes a ticket, waiting for one if callers may. It returns ErrBusy or the
// context's cause.
func (b *bulkhead) take(ctx context.Context, i uint32, mayWait bool) error {
	if b.heed.Load() == 0 {
		if b.steal(i) {
			return nil
		}
		if !mayWait {
			return ErrBusy
		}
	}
	return b.wait(ctx, i)
}

func (b *bulkhead) wait(ctx context.Context, i uint32) error {
	b.mu.Lock()
	// Who gives a ticket back puts it into a stripe and then looks at heed; we raise heed
	// and then look at the stripes. So either we find the ticket or they find us.
	b.heed.Add(1)
	b.serveLocked()
	if b.owed == 0 && b.waiting.Len() == 0 && b.steal(i) {
		b.heed.Add(-1)
		b.mu.Unlock()
		return nil
	}
	if b.waiting.Len() >= b.queue {
		b.heed.Add(-1)
		b.mu.Unlock()
		return ErrBusy
	}
	w := &waiter{ready: make(chan struct{})}
	place := b.waiting.PushBack(w)
	timeout := b.timeout
	b.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	err := ErrBusy
	select {
	case <-w.ready:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.given { // just now
		return nil
	}
	b.waiting.Remove(place)
	b.heed.Add(-1)
	return err
}

// give gives a ticket back.
func (b *bulkhead) give(i uint32) {
	b.stripes[i].free.Add(1)
	if b.heed.Load() != 0 {
		b.mu.Lock()
		b.serveLocked()
		b.mu.Unlock()
	}
}

// serveLocked takes away what is owed and gives the rest of the free tickets to those who wait.
func (b *bulkhead) serveLocked() {
	for b.owed > 0 && b.steal(0) {
		b.owed--
		b.heed.Add(-1)
	}
	for b.owed == 0 && b.waiting.Len() > 0 && b.steal(0) {
		w := b.waiting.Remove(b.waiting.Front()).(*waiter)
		w.given = true
		close(w.ready)
		b.heed.Add(-1)
	}
}

// takeShop counts a ticket for a shop, and reports false if it holds its share.
func (b *bulkhead) takeShop(shop podworks.ShopID) bool {
	b.shopMu.Lock()
	defer b.shopMu.Unlock()
	if b.shopMost > 0 && b.shops[shop] >= b.shopMost {
		return false
	}
	b.shops[shop]++
	return true
}

func (b *bulkhead) giveShop(shop podworks.ShopID) {
	b.shopMu.Lock()
	defer b.shopMu.Unlock()
	if b.shops[shop]--; b.shops[shop] <= 0 {
		delete(b.shops, shop)
	}
}

// state returns the tickets, those that are out, and the callers that wait.
func (b *bulkhead) state() (tickets, out, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	free := 0
	for i := range b.stripes {
		free += int(b.stripes[i].free.Load())
	}
	return b.tickets, max(0, b.tickets+b.owed-free), b.waiting.Len()
}
