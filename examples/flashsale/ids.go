package main

import (
	"sync"
	"time"
)

// ids makes numbers that no other process makes: milliseconds, the process's
// number, a counter. They grow, which keeps new rows at the end of their table.
type ids struct {
	process int64 // below maxProcess

	mu   sync.Mutex // guards last
	last int64
}

const (
	counterBits = 12
	processBits = 10
	maxProcess  = 1 << processBits
)

var idsBegin = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// next returns a new number. When a millisecond's counter is used up, or the
// clock goes back, it borrows from the milliseconds to come.
func (i *ids) next() int64 {
	now := time.Since(idsBegin).Milliseconds() << (processBits + counterBits)
	i.mu.Lock()
	defer i.mu.Unlock()
	const step = 1 << (processBits + counterBits)
	switch {
	case now > i.last:
		i.last = now
	case i.last&(1<<counterBits-1) == 1<<counterBits-1:
		i.last = (i.last/step + 1) * step
	default:
		i.last++
	}
	return i.last | i.process<<counterBits
}
