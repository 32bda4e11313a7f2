package sharding

import (
	"testing"

	"github.com/podworks/podworks"
)

func TestTheLoadOfManyShopsIsBounded(t *testing.T) {
	t.Parallel()
	c := &Cluster{loads: loads{shops: map[loadKey]*ShopLoad{}}}
	const more = 1000
	for shop := podworks.ShopID(1); shop <= maxLoads+more; shop++ {
		var n load
		n.sent(nil)
		c.loads.add(shop, podworks.PodID(1+shop%2), &n)
		if shop > maxLoads {
			c.loads.add(1, 2, &n) // one that is known goes on being counted
		}
	}
	total, rest := uint64(0), uint64(0)
	load := c.TakeLoad()
	for _, l := range load {
		total += l.Queries
		if l.Shop == 0 {
			rest += l.Queries
		}
		if l.Shop == 1 && l.Queries != 1+more {
			t.Errorf("shop 1 has %d queries, want %d", l.Queries, 1+more)
		}
	}
	if total != maxLoads+2*more || rest != more || len(load) > maxLoads+2 {
		t.Errorf("%d queries in %d entries, %d of them of shop 0; want %d, at most %d, and %d", total, len(load), rest, maxLoads+2*more, maxLoads+2, more)
	}
}
