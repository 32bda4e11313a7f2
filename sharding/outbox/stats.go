package outbox

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
)

// Stats are an outbox's figures in this process.
type Stats struct {
	Delivered uint64 // messages, those delivered again among them
	Failed    uint64 // attempts that failed and will be repeated
	Parked    uint64 // messages
	Dropped   uint64 // hints and finds for which the queue had no room: the next look finds them

	// Pods are those that Run serves now, as of its last looks.
	Pods map[podworks.PodID]PodStats
}

// PodStats are a pod's, whichever process wrote or delivers. They are read every
// ten looks, and stay as they were while the pod does not answer.
type PodStats struct {
	Pending int           // messages that wait; 10,000 stands for that or more
	Oldest  time.Duration // age of the oldest of those; with 10,000 of them, at least that
	Parked  int           // messages; 10,000 stands for that or more
	Err     error         // what keeps the pod from being served, or nil
}

type counts struct {
	delivered, failed, parked, dropped atomic.Uint64
}

// Stats returns the outbox's figures. It does no I/O.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	relays := maps.Clone(o.relays)
	o.mu.Unlock()
	s := Stats{
		Delivered: o.counts.delivered.Load(),
		Failed:    o.counts.failed.Load(),
		Parked:    o.counts.parked.Load(),
		Dropped:   o.counts.dropped.Load(),
		Pods:      make(map[podworks.PodID]PodStats, len(relays)),
	}
	for pod, r := range relays {
		r.mu.Lock()
		s.Pods[pod] = r.gauges
		r.mu.Unlock()
	}
	return s
}
