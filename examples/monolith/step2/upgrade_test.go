package shop

import (
	"net/http"
	"testing"

	"github.com/podworks/podworks/examples/monolith/shoptest"
	step1 "github.com/podworks/podworks/examples/monolith/step1"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestAProductOfAnotherShopIsNotSold(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		m := shoptest.New(t, start(t, f))
		hats, mugs := m.OpenShop("Hats"), m.OpenShop("Mugs")
		mug := m.Stock(mugs, "Mug", 1200, 1)
		cart := m.Fill(hats, shoptest.Item{Product: mug.ID, Quantity: 1})
		if _, code := m.Checkout(hats, cart, "ann@example.com"); code != http.StatusNotFound {
			t.Errorf("checkout of another shop's product: got %d, want 404", code)
		}
	})
}

// grow returns step 1's application on a new database with one order, and this
// step's on the same.
func grow(t *testing.T, f testcluster.Family) (m *shoptest.Mall, hats shoptest.Shop, hat shoptest.Product, two *App) {
	t.Helper()
	s := testcluster.Server(t, f)
	cfg := s.Config(testcluster.Database(t, s))
	one, err := step1.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close() })
	if err := one.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if two, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { two.Close() })
	m = shoptest.New(t, one)
	hats = m.OpenShop("Hats")
	hat = m.Stock(hats, "Hat", 900, 100)
	m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 1})
	return m, hats, hat, two
}

// Processes of step 1 go on selling after the back-fill. Without the triggers
// their orders have items that nobody finds.
func TestWhatStep1SellsAfterTheBackfillIsFound(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, triggers := range []bool{true, false} {
			m, hats, hat, two := grow(t, f)
			if err := two.Expand(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !triggers {
				if err := change(t.Context(), two.db, `DROP TRIGGER cart_items_shop`, `DROP TRIGGER order_items_shop`); err != nil {
					t.Fatal(err)
				}
			}
			m.Buy(hats, shoptest.Item{Product: hat.ID, Quantity: 2})
			m.Fleet.Deploy(two)
			switch found := m.Differences(); {
			case triggers && len(found) > 0:
				t.Errorf("with triggers: got %q, want every order whole", found)
			case !triggers && len(found) == 0:
				t.Error("without triggers: got every order whole; the test would not notice if they were missing")
			}
		}
	})
}

func TestTheBackfillReachesEveryRow(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		_, _, _, two := grow(t, f)
		ctx := t.Context()
		const rows = 2*batch + 1
		_, err := two.db.ExecContext(ctx, `INSERT INTO order_items (order_id, product_id, quantity, cents)
			WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT 1, i, 1, 0 FROM n`, rows-1)
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"at once", "again, after it broke off"} {
			if err := two.Expand(ctx); err != nil {
				t.Fatal(err)
			}
			var got int
			if err := two.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM order_items WHERE shop_id = 1`).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != rows {
				t.Errorf("%s: %d items have their shop, want %d", what, got, rows)
			}
			if _, err := two.db.ExecContext(ctx, `UPDATE order_items SET shop_id = NULL WHERE id > ?`, batch); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A row that belongs to nothing is not given to anyone.
func TestContractRefusesRowsThatAreNobodys(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		_, _, _, two := grow(t, f)
		ctx := t.Context()
		if err := change(ctx, two.db, `INSERT INTO cart_items (cart_id, product_id, quantity) VALUES (999, 1, 1)`); err != nil {
			t.Fatal(err)
		}
		if err := two.Expand(ctx); err != nil {
			t.Fatal(err)
		}
		if err := two.Contract(ctx); err == nil {
			t.Error("Contract: got nil, want an error")
		}
		if err := change(ctx, two.db, `DELETE FROM cart_items WHERE shop_id IS NULL`); err != nil {
			t.Fatal(err)
		}
		if err := two.Contract(ctx); err != nil {
			t.Errorf("Contract, with that row deleted: %v", err)
		}
	})
}
