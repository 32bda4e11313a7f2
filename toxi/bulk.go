package toxi

import "sync"

// tubes are a proxy's pipes of the system that are empty and not in use.
type tubes struct {
	mu   sync.Mutex
	free []*tube
}

// mostTubes are kept; more are in use while many connections are busy.
const mostTubes = 8

func (t *tubes) get() (*tube, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		free := t.free[n-1]
		t.free = t.free[:n-1]
		return free, nil
	}
	return newTube()
}

func (t *tubes) put(empty *tube) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) == mostTubes {
		empty.close()
		return
	}
	t.free = append(t.free, empty)
}

func (t *tubes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, free := range t.free {
		free.close()
	}
	t.free = nil
}
