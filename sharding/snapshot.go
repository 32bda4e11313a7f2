package sharding

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// A snapshot is what a process knows of the directory. Looking up takes no lock
// and allocates nothing; a change writes one word in place.
//
// A shop never goes back to an older epoch, a pod never to an older version of its
// row: a slow answer must not undo a newer one.
type snapshot struct {
	table atomic.Pointer[table]
	pods  atomic.Pointer[[]directory.Pod] // only ever appended to, as copies; words have places in it

	mu     sync.Mutex // orders those who learn
	places map[podworks.PodID]int
	shops  int

	forgetful bool // for tests: the answer that arrives last counts, however old
}

// A table is a hash table with open addressing whose size is a power of two. Its
// slots are filled once and never emptied; a table that is half full is replaced
// by one of twice the size.
type table struct {
	slots []slot
}

// A slot is a shop's. The word is written before the key, so that who finds the key
// finds a word; a word without a key is not yet for anybody.
type slot struct {
	key  atomic.Int64 // the shop; 0 is free
	word atomic.Uint64
}

// A word is all that a shop's row says: epoch (40 bits), place of the pod in the
// list of pods (22), state (2). One word changes at once: no reader ever sees the
// pod of one epoch with another's. An epoch is 1 or more, so no word is 0.
type word uint64

const (
	stateBits = 2
	podBits   = 22
	maxEpoch  = 1<<(64-podBits-stateBits) - 1
	maxPods   = 1 << podBits
)

func pack(epoch podworks.Epoch, place int, state directory.State) word {
	return word(uint64(epoch)<<(podBits+stateBits) | uint64(place)<<stateBits | uint64(state))
}

func (w word) epoch() podworks.Epoch  { return podworks.Epoch(w >> (podBits + stateBits)) }
func (w word) place() int             { return int(w >> stateBits & (maxPods - 1)) }
func (w word) state() directory.State { return directory.State(w & (1<<stateBits - 1)) }

// find returns the slot of a shop, or else the free one where it belongs.
//
// The first place to look is the shop's number itself: numbers that were given in
// sequence, as nearly all are, lie side by side and never in each other's way.
// For others the way goes on in steps of a hash of the number, which visit every
// slot since they are odd.
func (t *table) find(shop podworks.ShopID) (s *slot, found bool) {
	i, step := uint64(shop), uint64(0)
	for {
		s = &t.slots[i&uint64(len(t.slots)-1)]
		switch s.key.Load() {
		case 0:
			return s, false
		case int64(shop):
			return s, true
		}
		if step == 0 {
			step = uint64(shop) * 0x9e3779b97f4a7c15 // 2⁶⁴ divided by the golden ratio
			step = step>>32 | 1
		}
		i += step
	}
}

func newSnapshot() *snapshot {
	s := &snapshot{places: map[podworks.PodID]int{}}
	s.table.Store(&table{make([]slot, 64)})
	s.pods.Store(new([]directory.Pod))
	return s
}

// route returns the route of an open shop.
func (s *snapshot) route(shop podworks.ShopID) (podworks.Route, bool) {
	slot, found := s.table.Load().find(shop)
	if !found {
		return podworks.Route{}, false
	}
	w := word(slot.word.Load())
	if w.state() != directory.Open {
		return podworks.Route{}, false
	}
	pod := &(*s.pods.Load())[w.place()]
	return podworks.Route{Shop: shop, Pod: pod.ID, Region: pod.Region, Epoch: w.epoch()}, true
}

// shop returns what is known of a shop.
func (s *snapshot) shop(shop podworks.ShopID) (directory.Shop, bool) {
	slot, found := s.table.Load().find(shop)
	if !found {
		return directory.Shop{}, false
	}
	return s.unpack(shop, slot), true
}

func (s *snapshot) unpack(shop podworks.ShopID, slot *slot) directory.Shop {
	w := word(slot.word.Load())
	return directory.Shop{ID: shop, Pod: (*s.pods.Load())[w.place()].ID, Epoch: w.epoch(), State: w.state()}
}

// learn takes rows that are newer than what is known. It leaves out a shop whose
// pod is not known: it stays what it was, and if that was unknown the master will
// be asked.
func (s *snapshot) learn(pods []directory.Pod, shops []directory.Shop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learnPodsLocked(pods)
	for _, row := range shops {
		place, ok := s.places[row.Pod]
		if !ok || row.ID <= 0 || row.Epoch == 0 || row.Epoch > maxEpoch {
			continue
		}
		w := uint64(pack(row.Epoch, place, row.State))
		t := s.table.Load()
		slot, found := t.find(row.ID)
		if found {
			if have := word(slot.word.Load()); have.epoch() <= row.Epoch || s.forgetful {
				slot.word.Store(w)
			}
			continue
		}
		slot.word.Store(w)
		slot.key.Store(int64(row.ID))
		if s.shops++; 2*s.shops > len(t.slots) {
			s.table.Store(t.grown())
		}
	}
}

func (s *snapshot) learnPodsLocked(pods []directory.Pod) {
	next := *s.pods.Load()
	changed := false
	for _, pod := range pods {
		place, known := s.places[pod.ID]
		if known && next[place].Version >= pod.Version || !known && len(next) == maxPods {
			continue
		}
		if !changed {
			next, changed = slices.Clone(next), true
		}
		if known {
			next[place] = pod
		} else {
			s.places[pod.ID] = len(next)
			next = append(next, pod)
		}
	}
	if changed {
		s.pods.Store(&next)
	}
}

// grown returns a copy of twice the size. A reader that is still in the old one
// finds what was known when it began.
func (t *table) grown() *table {
	next := &table{make([]slot, 2*len(t.slots))}
	for i := range t.slots {
		if key := t.slots[i].key.Load(); key != 0 {
			s, _ := next.find(podworks.ShopID(key))
			s.word.Store(t.slots[i].word.Load())
			s.key.Store(key)
		}
	}
	return next
}

// size returns how many shops are known.
func (s *snapshot) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shops
}

// all returns the pods and shops, each in the order of their numbers.
func (s *snapshot) all() ([]directory.Pod, []directory.Shop) {
	// The shops first: their pods are known by then.
	t := s.table.Load()
	shops := make([]directory.Shop, 0, len(t.slots)/2)
	for i := range t.slots {
		if key := t.slots[i].key.Load(); key != 0 {
			shops = append(shops, s.unpack(podworks.ShopID(key), &t.slots[i]))
		}
	}
	slices.SortFunc(shops, func(a, b directory.Shop) int { return cmp.Compare(a.ID, b.ID) })
	pods := slices.Clone(*s.pods.Load())
	slices.SortFunc(pods, func(a, b directory.Pod) int { return cmp.Compare(a.ID, b.ID) })
	return pods, shops
}
