package shop

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/monolith/shoptest"
	"github.com/podworks/podworks/internal/testcluster"
)

// orders counts a shop's orders in a pod, whosever it is.
func (a *App) orders(t *testing.T, pod podworks.PodID, shop int64) (n int) {
	t.Helper()
	err := a.cluster.EachPod(t.Context(), "count", nil, func(ctx context.Context, id podworks.PodID, db *sql.DB) error {
		if id != pod {
			return nil
		}
		return db.QueryRowContext(ctx, `SELECT COUNT(*) FROM orders WHERE shop_id = ?`, shop).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two processes sell, a third one moves the shop there and back again. Buyers
// notice nothing, and each order that was acknowledged is in the shop's pod once.
func TestAShopIsMovedWhileItSells(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := newSite(t, f)
		mover := s.open(t, 1)
		ctx := t.Context()
		if err := mover.Install(ctx); err != nil {
			t.Fatal(err)
		}
		apps := []*App{s.open(t, 1), s.open(t, 1)}
		m := shoptest.New(t, apps[0], apps[1])
		m.Lag = 5 * time.Second
		hats := m.OpenShop("Hats")
		hat := m.Stock(hats, "Hat", 900, 1_000_000)
		stop := m.Busy(hats, hat, 4, 4*time.Millisecond)
		defer stop()
		for _, to := range []podworks.PodID{2, 1} {
			before := m.Orders()
			report, err := mover.Move(ctx, hats.ID, to)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("to pod %d in %v: %d orders meanwhile, writers waited %v", to, report.Took, m.Orders()-before, report.Pause)
			m.Audit()
			// A day later, when every process has heard of the move:
			for _, a := range apps {
				if err := a.cluster.Directory().Refresh(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := mover.ferry.Clean(ctx, podworks.ShopID(hats.ID), 3-to); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		m.Audit()
		if got, want := mover.orders(t, 1, hats.ID), m.Orders(); got != want {
			t.Errorf("the shop's pod has %d orders, want the %d that were acknowledged", got, want)
		}
	})
}

// The twin of the test above: who writes to a pod's database without the fence,
// as steps 1 and 2 did, goes on writing where the shop is no more.
func TestAnOrderThatTakesNoFenceIsLost(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := newSite(t, f)
		a := s.open(t, 1)
		ctx := t.Context()
		if err := a.Install(ctx); err != nil {
			t.Fatal(err)
		}
		m := shoptest.New(t, a)
		hats := m.OpenShop("Hats")
		hat := m.Stock(hats, "Hat", 900, 100)
		m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 1})
		c, err := connect(s.pods[1])
		if err != nil {
			t.Fatal(err)
		}
		old := sql.OpenDB(c)
		defer old.Close()
		if _, err := a.Move(ctx, hats.ID, 2); err != nil {
			t.Fatal(err)
		}
		_, err = old.ExecContext(ctx, `INSERT INTO orders (id, shop_id, user_id, cents, created_at) VALUES (1000000, ?, 1, 900, ?)`, hats.ID, now())
		if err != nil {
			t.Fatalf("a write that takes no fence: got %v, want it to succeed: nothing stops it", err)
		}
		if got := a.orders(t, 2, hats.ID); got != 1 {
			t.Errorf("the shop's pod has %d orders, want the one that took the fence", got)
		}
		m.Audit()
	})
}

// The rows that a move leaves behind are in the report if one only adds up what
// the pods have.
func TestTheReportCountsAShopThatMovedOnce(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		a := start(t, f)
		m := shoptest.New(t, a)
		hats := m.OpenShop("Hats")
		hat := m.Stock(hats, "Hat", 900, 100)
		m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 1})
		if _, err := a.Move(t.Context(), hats.ID, 1); err != nil {
			t.Fatal(err)
		}
		if here, there := a.orders(t, 1, hats.ID), a.orders(t, 2, hats.ID); here != 1 || there != 1 {
			t.Errorf("the pods have %d and %d orders of the shop, want 1 each: the test would not notice what is counted twice", here, there)
		}
		m.Audit()
	})
}

// Two pods that count for themselves, as step 3's tables would, give the same id
// to two orders. The shop can't be moved then; it stays, and sells.
func TestIDsThatPodsCountThemselvesKeepAShopFromMoving(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := newSite(t, f)
		a := s.open(t, 1)
		ctx := t.Context()
		if err := a.Install(ctx); err != nil {
			t.Fatal(err)
		}
		m := shoptest.New(t, s.open(t, 2))
		mugs := m.OpenShop("Mugs") // in pod 2
		m.Fleet.Deploy(a)
		hats := m.OpenShop("Hats")
		hat := m.Stock(hats, "Hat", 900, 100)
		o := m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 1})
		c, err := connect(s.pods[2])
		if err != nil {
			t.Fatal(err)
		}
		other := sql.OpenDB(c)
		defer other.Close()
		_, err = other.ExecContext(ctx, `INSERT INTO orders (id, shop_id, user_id, cents, created_at) VALUES (?, ?, 1, 900, ?)`, o.ID, mugs.ID, now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Move(ctx, hats.ID, 2); err == nil || !strings.Contains(err.Error(), "orders") {
			t.Errorf("a move onto an id that is taken: got %v, want an error about orders", err)
		}
		if got := a.orders(t, 2, mugs.ID); got != 1 {
			t.Errorf("the other shop has %d orders, want its own", got)
		}
		m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 1})
		m.Audit()
	})
}

// All shops come to one pod, those that were never there as well as those that
// have left rows in it.
func TestGatherBringsEveryShopToOnePod(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := newSite(t, f)
		a, b := s.open(t, 1), s.open(t, 2)
		ctx := t.Context()
		if err := a.Install(ctx); err != nil {
			t.Fatal(err)
		}
		m := shoptest.New(t, a)
		left, stays := m.OpenShop("Left"), m.OpenShop("Stays")
		m.Fleet.Deploy(b)
		other := m.OpenShop("Other")
		for _, shop := range []shoptest.Shop{left, stays, other} {
			p := m.Stock(shop, "Thing", 100, 10)
			m.Buy(shop, shoptest.Item{Product: p.ID, Quantity: 1})
		}
		if _, err := a.Move(ctx, left.ID, 2); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it may be run again
			if err := a.Gather(ctx, 1); err != nil {
				t.Fatal(err)
			}
		}
		for _, shop := range []shoptest.Shop{left, stays, other} {
			if n := a.orders(t, 1, shop.ID); n != 1 {
				t.Errorf("%s has %d orders in pod 1, want 1", shop.Name, n)
			}
		}
		m.Audit()
	})
}
