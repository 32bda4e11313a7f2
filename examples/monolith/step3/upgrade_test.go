package shop

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/monolith/shoptest"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// This is how the places are found that don't pass their context down.
func TestWorkThatHasNoShopIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		a := start(t, f)
		m := shoptest.New(t, a)
		hats, mugs := m.OpenShop("Hats"), m.OpenShop("Mugs")
		hat := m.Stock(hats, "Hat", 900, 5)
		ctx := t.Context()
		err := a.cluster.Do(ctx, podworks.ShopID(hats.ID), func(scoped context.Context, s *sharding.Scope) error {
			if _, err := pod(scoped).ExecContext(ctx, `DELETE FROM products`); !errors.Is(err, sharding.ErrNoScope) {
				t.Errorf("a statement with a context from elsewhere: got %v, want ErrNoScope", err)
			}
			err := a.cluster.Do(scoped, podworks.ShopID(mugs.ID), func(context.Context, *sharding.Scope) error { return nil })
			if !errors.Is(err, sharding.ErrCrossPod) {
				t.Errorf("a second shop's work in the middle of the first one's: got %v, want ErrCrossPod", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 5}) // they are there
	})
}

// Processes of step 2 know nothing of the directory. Expand and Backfill make the
// shops known that they created.
func TestAShopThatStep2CreatedIsServedAfterTheBackfill(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		a := start(t, f)
		ctx := t.Context()
		if _, err := a.db.ExecContext(ctx, `INSERT INTO shops (name, host) VALUES ('Hats', 'hats.example')`); err != nil {
			t.Fatal(err)
		}
		h := a.Handler()
		get := func() int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "http://hats.example/products", nil))
			return w.Code
		}
		if code := get(); code != http.StatusNotFound {
			t.Errorf("before: got %d, want 404", code)
		}
		for range 2 { // it may be run again
			if err := a.Backfill(ctx); err != nil {
				t.Fatal(err)
			}
		}
		// A process may believe for a moment longer that there is no such host.
		deadline := time.Now().Add(10 * time.Second)
		code := get()
		for tick := time.Tick(10 * time.Millisecond); code != http.StatusOK && time.Now().Before(deadline); <-tick {
			code = get()
		}
		if code != http.StatusOK {
			t.Errorf("after: got %d, want 200", code)
		}
	})
}

// A process died between creating a shop and entering it.
func TestTheNightMendsAShopThatIsHalfThere(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		a := start(t, f)
		m := shoptest.New(t, a)
		hats := shoptest.Shop{Name: "Hats", Host: "hats.example"}
		res, err := a.db.ExecContext(t.Context(), `INSERT INTO shops (name, host) VALUES (?, ?)`, hats.Name, hats.Host)
		if err != nil {
			t.Fatal(err)
		}
		if hats.ID, err = res.LastInsertId(); err != nil {
			t.Fatal(err)
		}
		if err := a.Nightly(t.Context(), now()); err != nil {
			t.Fatal(err)
		}
		hat := m.Stock(hats, "Hat", 900, 1)
		m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 1})
		m.Audit()
	})
}

func TestExpandRefusesTablesThatStep2HasNotChanged(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		a := start(t, f)
		if err := change(t.Context(), a.db, `ALTER TABLE order_items DROP KEY shop_id, DROP COLUMN shop_id`); err != nil {
			t.Fatal(err)
		}
		if err := a.Expand(t.Context()); err == nil || !strings.Contains(err.Error(), "table order_items: it has no column shop_id") {
			t.Errorf("got %v, want an error that names the table", err)
		}
	})
}
