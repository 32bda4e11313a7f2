package sharding

import (
	"cmp"
	"iter"
	"math/bits"
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

// A table has the words of shops. Those whose numbers were given in sequence, as
// nearly all are, stand in a list by their number: finding one is one read of
// memory, and a million are 8 MB. The others stand in a hash table with open
// addressing, whose size is a power of two. Places are filled once and never
// emptied; a table whose slots are half full is replaced by a larger one.
type table struct {
	list  []atomic.Uint64 // more than half of it is in use; a shop that isn't there has no word, 0
	slots []slot
	used  int // slots; guarded by the snapshot's mu
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

// find returns where a shop's word is, or nil when there is no place for it yet.
func (t *table) find(shop podworks.ShopID) *atomic.Uint64 {
	if uint64(shop) < uint64(len(t.list)) {
		return &t.list[shop]
	}
	if s := t.slot(shop); s.key.Load() == int64(shop) && shop != 0 {
		return &s.word
	}
	return nil
}

// slot returns the slot of a shop, or else the free one where it belongs. The
// steps visit every slot, since they are odd.
func (t *table) slot(shop podworks.ShopID) *slot {
	const golden = 0x9e3779b97f4a7c15 // 2⁶⁴ divided by the golden ratio
	h := uint64(shop) * golden
	h = (h ^ h>>32) * golden // once more: what once leaves of a regular numbering makes long queues
	for i := h >> 32; ; i += h | 1 {
		s := &t.slots[i&uint64(len(t.slots)-1)]
		if key := s.key.Load(); key == int64(shop) || key == 0 {
			return s
		}
	}
}

func newSnapshot() *snapshot {
	s := &snapshot{places: map[podworks.PodID]int{}}
	s.table.Store(&table{slots: make([]slot, minSlots)})
	s.pods.Store(new([]directory.Pod))
	return s
}

// route returns the route of an open shop.
func (s *snapshot) route(shop podworks.ShopID) (podworks.Route, bool) {
	at := s.table.Load().find(shop)
	if at == nil {
		return podworks.Route{}, false
	}
	w := word(at.Load())
	if w == 0 || w.state() != directory.Open {
		return podworks.Route{}, false
	}
	pod := &(*s.pods.Load())[w.place()]
	return podworks.Route{Shop: shop, Pod: pod.ID, Region: pod.Region, Epoch: w.epoch()}, true
}

// shop returns what is known of a shop.
func (s *snapshot) shop(shop podworks.ShopID) (directory.Shop, bool) {
	at := s.table.Load().find(shop)
	if at == nil {
		return directory.Shop{}, false
	}
	w := word(at.Load())
	if w == 0 {
		return directory.Shop{}, false
	}
	return s.unpack(shop, w), true
}

func (s *snapshot) unpack(shop podworks.ShopID, w word) directory.Shop {
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
		at := t.find(row.ID)
		if at == nil {
			slot := t.slot(row.ID)
			slot.word.Store(w)
			slot.key.Store(int64(row.ID))
			s.shops++
			if t.used++; 2*t.used > len(t.slots) {
				s.table.Store(t.grown(s.shops))
			}
			continue
		}
		have := word(at.Load())
		if have.epoch() <= row.Epoch || s.forgetful {
			at.Store(w)
		}
		if have == 0 {
			s.shops++
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

const minSlots = 64

// grown returns a larger copy of a table of so many shops. Its list is the longest
// of which more than half is in use. Its slots have room for the shops that are left and
// for a quarter as many as there are in all, so that the copies of a table that
// grows to n shops cost no more than some n in all. A reader that is still in the
// old one finds what was known when it began.
func (t *table) grown(shops int) *table {
	var longer [64]int // how many numbers have so many bits
	for shop := range t.all() {
		longer[bits.Len64(uint64(shop))]++
	}
	list, listed := 0, 0
	for n, sum := 0, 0; n < 48; n++ {
		if sum += longer[n]; sum > 1<<n/2 {
			list, listed = 1<<n, sum
		}
	}
	slots := minSlots
	for slots < 2*(shops-listed+shops/4) {
		slots *= 2
	}
	next := &table{list: make([]atomic.Uint64, list), slots: make([]slot, slots), used: shops - listed}
	for shop, w := range t.all() {
		if at := next.find(shop); at != nil {
			at.Store(uint64(w))
			continue
		}
		s := next.slot(shop)
		s.word.Store(uint64(w))
		s.key.Store(int64(shop))
	}
	return next
}

// all yields the shops in any order.
func (t *table) all() iter.Seq2[podworks.ShopID, word] {
	return func(yield func(podworks.ShopID, word) bool) {
		for shop := range t.list {
			if w := t.list[shop].Load(); w != 0 && !yield(podworks.ShopID(shop), word(w)) {
				return
			}
		}
		for i := range t.slots {
			if key := t.slots[i].key.Load(); key != 0 && !yield(podworks.ShopID(key), word(t.slots[i].word.Load())) {
				return
			}
		}
	}
}

// size returns how many shops are known.
func (s *snapshot) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shops
}

// all returns the pods and shops, each in the order of their numbers.
func (s *snapshot) all() ([]directory.Pod, []directory.Shop) {
	shops := make([]directory.Shop, 0, s.size())
	for shop, w := range s.table.Load().all() {
		shops = append(shops, s.unpack(shop, w))
	}
	slices.SortFunc(shops, func(a, b directory.Shop) int { return cmp.Compare(a.ID, b.ID) })
	// The pods last: those of all shops are among them now.
	pods := slices.Clone(*s.pods.Load())
	slices.SortFunc(pods, func(a, b directory.Pod) int { return cmp.Compare(a.ID, b.ID) })
	return pods, shops
}
