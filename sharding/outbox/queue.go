package outbox

import (
	"sync"

	"github.com/podworks/podworks"
)

// maxQueued bounds the shops of one pod that wait for a worker. More are not
// queued, and are found by the next look.
const maxQueued = 4096

// A queue has the shops of a pod that are to be served, each once, in the order
// in which they came.
type queue struct {
	// ready has room for every shop of the map, so that a send never blocks.
	ready chan podworks.ShopID

	mu    sync.Mutex // guards shops
	shops map[podworks.ShopID]phase
}

// A phase is what becomes of a shop in the queue.
type phase int

const (
	queued  phase = iota + 1 // in ready
	running                  // a worker has it
	again                    // a worker has it, and something came meanwhile
)

func newQueue(size int) *queue {
	return &queue{ready: make(chan podworks.ShopID, size), shops: map[podworks.ShopID]phase{}}
}

// add queues a shop, unless it is. It reports false if there is no room.
func (q *queue) add(shop podworks.ShopID) bool {
	q.mu.Lock()
	was := q.shops[shop]
	switch {
	case was == running:
		q.shops[shop] = again
	case was == 0 && len(q.shops) >= cap(q.ready):
		q.mu.Unlock()
		return false
	case was == 0:
		q.shops[shop] = queued
	}
	q.mu.Unlock()
	if was == 0 {
		q.ready <- shop
	}
	return true
}

// begin notes that a worker has taken a shop from ready. Nobody else gets it
// until end.
func (q *queue) begin(shop podworks.ShopID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shops[shop] = running
}

// news reports whether add was called for a shop since its worker began, or
// since the last call.
func (q *queue) news(shop podworks.ShopID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	was := q.shops[shop]
	q.shops[shop] = running
	return was == again
}

// end gives a shop back. If there is more to do it goes to the end of the queue,
// behind those that wait.
func (q *queue) end(shop podworks.ShopID, more bool) {
	q.mu.Lock()
	more = more || q.shops[shop] == again
	if more {
		q.shops[shop] = queued
	} else {
		delete(q.shops, shop)
	}
	q.mu.Unlock()
	if more {
		q.ready <- shop
	}
}
