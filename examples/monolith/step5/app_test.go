package shop

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/monolith/shoptest"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) {
	os.Exit(leak.Check(testcluster.Main(m), "database/sql.(*DB)", "podworks/ferry."))
}

// A site is where the application is installed: two pods on two servers, and the
// master database.
type site struct {
	pods   map[podworks.PodID]*mysql.Config
	master *mysql.Config
}

func newSite(t *testing.T, f testcluster.Family) *site {
	t.Helper()
	one, two := testcluster.Server(t, f), testcluster.Shared(t, f, "two")
	return &site{
		pods: map[podworks.PodID]*mysql.Config{
			1: one.Config(testcluster.Database(t, one)),
			2: two.Config(testcluster.Database(t, two)),
		},
		master: one.Config(testcluster.Database(t, one)),
	}
}

// open starts a process. New shops open in that pod.
func (s *site) open(t *testing.T, opening podworks.PodID) *App {
	t.Helper()
	a, err := New(s.pods, s.master, opening)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = a.Run(ctx) }) // why it ended is that we cancelled it
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		a.Close()
	})
	return a
}

// start returns the application on new databases. New shops open in the second
// pod.
func start(t *testing.T, f testcluster.Family) *App {
	t.Helper()
	a := newSite(t, f).open(t, 2)
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
