package shop

import (
	"os"
	"testing"

	"github.com/podworks/podworks/examples/monolith/shoptest"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) {
	os.Exit(leak.Check(testcluster.Main(m), "database/sql.(*DB)", "podworks/ferry."))
}

// start returns the application on a new database.
func start(t *testing.T, f testcluster.Family) *App {
	t.Helper()
	s := testcluster.Server(t, f)
	a, err := New(s.Config(testcluster.Database(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if err := a.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTheShopsSell(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		m := shoptest.New(t, start(t, f))
		m.Suite()
		m.Audit()
	})
}

// The monolith's rows say whose they are, but not every query asks. Step 2 closes
// this, without having looked for it.
func TestANumberIsEnoughToBuyFromAnotherShop(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		m := shoptest.New(t, start(t, f))
		hats, mugs := m.OpenShop("Hats"), m.OpenShop("Mugs")
		mug := m.Stock(mugs, "Mug", 1200, 1)
		m.Buy(hats, shoptest.Item{Product: mug.ID, Quantity: 1})
	})
}
