package outbox

import (
	"math"
	"testing"
	"time"

	"github.com/podworks/podworks"
)

func TestAQueueHasEachShopOnce(t *testing.T) {
	t.Parallel()
	q := newQueue(3)
	add := func(shop podworks.ShopID, want bool) {
		t.Helper()
		if got := q.add(shop); got != want {
			t.Errorf("add(%d) = %t, want %t", shop, got, want)
		}
	}
	begin := func(want podworks.ShopID) {
		t.Helper()
		select {
		case got := <-q.ready:
			if got != want {
				t.Errorf("shop %d came, want %d", got, want)
			}
			q.begin(got)
		default:
			t.Fatalf("no shop came, want %d", want)
		}
	}
	add(1, true)
	add(2, true)
	add(1, true)
	begin(1)
	add(1, true) // while it is served: once more, and for one other only
	add(1, true)
	if !q.news(1) || q.news(1) {
		t.Error("news of shop 1 came never, or twice")
	}
	add(1, true)
	add(3, true)
	add(4, false) // three are in it, the one that is served among them
	q.end(1, false)
	begin(2)
	q.end(2, true) // there is more: behind the others
	begin(3)
	begin(1)
	begin(2)
	for shop := podworks.ShopID(1); shop <= 3; shop++ {
		q.end(shop, false)
	}
	if len(q.ready) != 0 || len(q.shops) != 0 {
		t.Errorf("%d shops are ready and %d known, want none", len(q.ready), len(q.shops))
	}
	add(4, true)
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failed             int
		first, limit, want time.Duration
	}{
		{1, time.Second, time.Minute, time.Second},
		{2, time.Second, time.Minute, 2 * time.Second},
		{6, time.Second, time.Minute, 32 * time.Second},
		{7, time.Second, time.Minute, time.Minute},
		{1 << 30, time.Second, time.Minute, time.Minute},
		{1 << 30, 1, math.MaxInt64, math.MaxInt64},
		{1, time.Minute, time.Minute, time.Minute},
	} {
		if got := backoff(c.failed, c.first, c.limit); got != c.want {
			t.Errorf("backoff(%d, %v, %v) = %v, want %v", c.failed, c.first, c.limit, got, c.want)
		}
	}
	for _, c := range []struct {
		by   float64
		want time.Duration
	}{{0, time.Second}, {0.5, 750 * time.Millisecond}, {1, 500 * time.Millisecond}} {
		if got := jitter(time.Second, c.by); got != c.want {
			t.Errorf("jitter(1s, %v) = %v, want %v", c.by, got, c.want)
		}
	}
}
