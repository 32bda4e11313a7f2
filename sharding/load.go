package sharding

import (
	"database/sql/driver"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
)

// A ShopLoad is what one shop has asked of its pod through this process.
type ShopLoad struct {
	Shop    podworks.ShopID
	Pod     podworks.PodID
	Scopes  uint64        // units of work that queried something
	Queries uint64        // statements, without the fence's
	Writes  uint64        // fenced transactions, single writes among them
	Busy    time.Duration // that statements and commits took; those of one shop may overlap
	Bytes   uint64        // of values read and of arguments sent
}

// load counts what one scope does.
type load struct {
	queries, writes atomic.Uint64
	busy            atomic.Int64
	bytes           atomic.Uint64
}

// since notes that a statement began at start and has ended.
func (l *load) since(start time.Time) { l.busy.Add(int64(time.Since(start))) }

// sent notes a statement and its arguments.
func (l *load) sent(args []driver.NamedValue) {
	l.queries.Add(1)
	if len(args) > 0 {
		n := 0
		for i := range args {
			n += size(args[i].Value)
		}
		l.bytes.Add(uint64(n))
	}
}

// size is about what a value takes on the wire.
func size(v driver.Value) int {
	switch v := v.(type) {
	case []byte:
		return len(v)
	case string:
		return len(v)
	case nil:
		return 1
	}
	return 8
}

// maxLoads bounds the shops that are counted one by one. A process that meets
// more between two calls of TakeLoad counts the others as shop 0.
const maxLoads = 1 << 16

// loads are the counts of all shops since they were last taken.
type loads struct {
	mu    sync.Mutex // guards shops
	shops map[loadKey]*ShopLoad
}

type loadKey struct {
	shop podworks.ShopID
	pod  podworks.PodID
}

// add takes over what a scope has counted.
func (l *loads) add(shop podworks.ShopID, pod podworks.PodID, n *load) {
	queries := n.queries.Load()
	if queries == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := loadKey{shop, pod}
	of := l.shops[k]
	if of == nil {
		if len(l.shops) >= maxLoads {
			k.shop = 0
			of = l.shops[k]
		}
		if of == nil {
			of = &ShopLoad{Shop: k.shop, Pod: pod}
			l.shops[k] = of
		}
	}
	of.Scopes++
	of.Queries += queries
	of.Writes += n.writes.Load()
	of.Busy += time.Duration(n.busy.Load())
	of.Bytes += n.bytes.Load()
}

// TakeLoad returns what the scopes that ended since the last call have asked of
// the pods, one entry for each shop and pod, and starts anew: it is what a
// balancer needs to know. At most 65,536 shops are counted between two calls;
// what others ask is counted as shop 0.
func (c *Cluster) TakeLoad() []ShopLoad {
	c.loads.mu.Lock()
	shops := c.loads.shops
	c.loads.shops = map[loadKey]*ShopLoad{}
	c.loads.mu.Unlock()
	out := make([]ShopLoad, 0, len(shops))
	for _, l := range shops {
		out = append(out, *l)
	}
	return out
}
