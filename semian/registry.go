package semian

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
)

// A Key tells a dependency from others.
type Key struct {
	Kind string         // what it is: mysql, redis, memcached, http
	Pod  podworks.PodID // whose it is; 0: every pod's
	Role string         // which of them: primary, replica, a host
}

func (k Key) String() string {
	s := k.Kind
	if k.Role != "" {
		s += " " + k.Role
	}
	if k.Pod != 0 {
		s += fmt.Sprintf(" of pod %d", k.Pod)
	}
	return s
}

// RegistryOptions are those of a [Registry]. The zero value of a field is its default.
type RegistryOptions struct {
	// Options returns what a resource is made with. It is called before one is made, and
	// by Configure. nil, or one that returns nil: the defaults.
	Options func(Key) *Options
	// Idle is for how long a resource is kept that nobody uses, if it is closed, 10 min.
	Idle time.Duration
	// Logger is told of options that were refused. nil: nobody is.
	Logger *slog.Logger
}

// A Registry makes a resource for each key that is asked for, and finds it again without a
// lock. Its methods may be called from any goroutines.
//
// A resource that is closed and wasn't used for Idle is dropped when others are
// made. One that somebody still holds goes on: its calls go to the one that has the key by
// then, so there are never two that differ.
type Registry struct {
	opts    RegistryOptions
	shelves atomic.Pointer[map[podworks.PodID]*atomic.Pointer[shelf]] // map and shelves are never changed but as a whole

	mu     sync.Mutex // for changing it, and guards what follows
	epochs map[podworks.PodID]podworks.Epoch
	swept  time.Time
}

// A shelf is the resources of a pod. A pod has a few, which are found soonest by
// looking at each; what belongs to no pod may be many.
type shelf struct {
	n     int
	first [few]place
	all   []*Resource
	many  map[Key]*Resource // nil while they are few
}

const few = 8

// A place has what a look needs, so that it touches no resource but the one it finds.
type place struct {
	kind, role string
	resource   *Resource
}

func newShelf(all []*Resource) *shelf {
	s := &shelf{n: len(all), all: all}
	if len(all) > few {
		s.many = make(map[Key]*Resource, len(all))
		for _, r := range all {
			s.many[r.key] = r
		}
		return s
	}
	for i, r := range all {
		s.first[i] = place{r.key.Kind, r.key.Role, r}
	}
	return s
}

func (s *shelf) find(key Key) *Resource {
	if s.many != nil {
		return s.many[key]
	}
	for i := range s.n {
		if p := &s.first[i]; p.kind == key.Kind && p.role == key.Role {
			return p.resource
		}
	}
	return nil
}

// NewRegistry returns a registry without resources. It starts nothing.
func NewRegistry(opts *RegistryOptions) (*Registry, error) {
	g := &Registry{epochs: map[podworks.PodID]podworks.Epoch{}, swept: time.Now()}
	if opts != nil {
		g.opts = *opts
	}
	g.opts.Idle = cmp.Or(g.opts.Idle, 10*time.Minute)
	if g.opts.Idle < 0 {
		return nil, fmt.Errorf("semian: registry: Idle is %v, want a positive duration", g.opts.Idle)
	}
	if g.opts.Options == nil {
		g.opts.Options = func(Key) *Options { return nil }
	}
	if g.opts.Logger == nil {
		g.opts.Logger = slog.New(slog.DiscardHandler)
	}
	g.shelves.Store(&map[podworks.PodID]*atomic.Pointer[shelf]{})
	return g, nil
}

// Get returns the resource of that key. One whose Options are refused has the
// defaults instead, and the log is told: a setting fails no call.
func (g *Registry) Get(key Key) *Resource {
	if r := g.find(key); r != nil {
		return r
	}
	r, err := New(key.String(), g.opts.Options(key))
	if err != nil {
		g.opts.Logger.Error("options refused; the resource has the defaults", "resource", key.String(), "error", err)
		r, _ = New(key.String(), nil)
	}
	r.key, r.home = key, g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweepLocked(time.Now())
	if other := g.find(key); other != nil {
		return other // somebody was sooner
	}
	g.putLocked(key.Pod, append(slices.Clone(g.of(key.Pod)), r))
	return r
}

// Lookup returns the resource of that key if there is one, and makes none.
func (g *Registry) Lookup(key Key) (*Resource, bool) {
	r := g.find(key)
	return r, r != nil
}

func (g *Registry) find(key Key) *Resource {
	if s := (*g.shelves.Load())[key.Pod]; s != nil {
		return s.Load().find(key)
	}
	return nil
}

// of returns a pod's resources.
func (g *Registry) of(pod podworks.PodID) []*Resource {
	if s := (*g.shelves.Load())[pod]; s != nil {
		return s.Load().all
	}
	return nil
}

// putLocked has a pod have these resources.
func (g *Registry) putLocked(pod podworks.PodID, all []*Resource) {
	old := *g.shelves.Load()
	if s := old[pod]; s != nil {
		s.Store(newShelf(all))
		return
	}
	shelves := maps.Clone(old)
	shelves[pod] = new(atomic.Pointer[shelf])
	shelves[pod].Store(newShelf(all))
	g.shelves.Store(&shelves)
}

// sweepLocked drops what is closed and was idle. It looks at most every half Idle, and an idle
// resource is one that did nothing between two looks that are Idle apart.
func (g *Registry) sweepLocked(now time.Time) {
	if now.Sub(g.swept) < g.opts.Idle/2 {
		return
	}
	g.swept = now
	for pod, s := range *g.shelves.Load() {
		all := s.Load().all
		kept := slices.DeleteFunc(slices.Clone(all), func(r *Resource) bool { return r.retire(now, g.opts.Idle) })
		if len(kept) < len(all) {
			g.putLocked(pod, kept)
		}
	}
}

// retire reports whether r is to be dropped, and has its calls go elsewhere if it is.
func (r *Resource) retire(now time.Time, idle time.Duration) bool {
	s := r.Stats()
	uses := s.Succeeded + s.Failed + s.Ignored + s.Refused + s.Busy + s.WouldHave
	if uses != r.uses || r.seen.IsZero() {
		r.uses, r.seen = uses, now
	}
	if now.Sub(r.seen) < idle || s.InUse > 0 {
		return false
	}
	r.breaker.mu.Lock()
	defer r.breaker.mu.Unlock()
	if !plain(r.word.Load()) { // it isn't closed, or is forced
		return false
	}
	// A call that has just looked at the word still goes through here, and its
	// outcome is lost with r: one call after ten minutes without any.
	r.breaker.retired = true
	r.publishLocked()
	return true
}

// live returns the resource that has r's key by now.
func (r *Resource) live() *Resource {
	for retiredIn(r.word.Load()) {
		g, key := r.home, r.key
		g.mu.Lock() // whoever retired it takes it from its shelf before it unlocks
		r = g.find(key)
		g.mu.Unlock()
		if r == nil {
			r = g.Get(key)
		}
	}
	return r
}

// Configure has Options called again for every resource, and returns what was refused; those
// keep what they had.
func (g *Registry) Configure() error {
	var refused []string
	for r := range g.each {
		if err := r.Configure(g.opts.Options(r.key)); err != nil {
			refused = append(refused, err.Error())
		}
	}
	if len(refused) > 0 {
		slices.Sort(refused)
		return fmt.Errorf("%s", strings.Join(refused, "\n"))
	}
	return nil
}

// each yields every resource, in no order.
func (g *Registry) each(yield func(*Resource) bool) {
	for _, s := range *g.shelves.Load() {
		for _, r := range s.Load().all {
			if !yield(r) {
				return
			}
		}
	}
}

// PodRaised says that a pod is active elsewhere: its epoch has been raised, by a
// failover. Its resources are other servers by now, so their circuits close and what was seen is
// forgotten. An epoch that isn't higher than the last does nothing.
func (g *Registry) PodRaised(pod podworks.PodID, epoch podworks.Epoch) {
	g.mu.Lock()
	known := epoch <= g.epochs[pod]
	if !known {
		g.epochs[pod] = epoch
	}
	g.mu.Unlock()
	if known {
		return
	}
	for _, r := range g.of(pod) {
		r.Reset(fmt.Sprintf("pod %d is active elsewhere since epoch %d", pod, epoch))
	}
}

// ShopRaised says that a shop has moved to route.Pod. A circuit of that pod that is open is
// half-open at once: whoever moved the shop has just written there.
func (g *Registry) ShopRaised(route podworks.Route) {
	for _, r := range g.of(route.Pod) {
		r.halfOpenNow(fmt.Sprintf("shop %d has moved there at epoch %d", route.Shop, route.Epoch))
	}
}

// ResourceStats are a resource's, with its key.
type ResourceStats struct {
	Key Key
	Stats
}

// Stats returns those of every resource, sorted by pod, kind and role.
func (g *Registry) Stats() []ResourceStats {
	var all []ResourceStats
	for r := range g.each {
		all = append(all, ResourceStats{r.key, r.Stats()})
	}
	slices.SortFunc(all, func(a, b ResourceStats) int {
		return cmp.Or(cmp.Compare(a.Key.Pod, b.Key.Pod), cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Role, b.Key.Role))
	})
	return all
}

// A PodState sums up a pod's resources.
type PodState struct {
	Pod                 podworks.PodID
	Resources           int
	Open, HalfOpen      int // Open has those that are forced open
	Ramping, Throttling int
}

func (s PodState) String() string {
	return fmt.Sprintf("pod %d: %d of %d stores open", s.Pod, s.Open, s.Resources)
}

// Pod returns how a pod's resources are, for a router or a page.
func (g *Registry) Pod(pod podworks.PodID) PodState {
	sum := PodState{Pod: pod}
	for _, r := range g.of(pod) {
		sum.Resources++
		word := r.word.Load()
		switch {
		case modeOf(word) == ForceOpen:
			sum.Open++
		case modeOf(word) != Normal:
		case stateOf(word) == Open:
			sum.Open++
		case stateOf(word) == HalfOpen:
			sum.HalfOpen++
		case stateOf(word) == Ramping:
			sum.Ramping++
		case stateOf(word) == Throttling:
			sum.Throttling++
		}
	}
	return sum
}
