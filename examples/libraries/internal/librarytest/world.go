// Package librarytest tells the same story with every SQL library: what a
// repository must do on the pod of a shop's scope, and what must become of it
// when the context is wrong or the shop moves.
//
// A passing story shows that the library's calls go through the scope's checks
// and the write fence. It does not show that every call of the library does.
package librarytest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/libraries/shop"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A World is a master database and two pods with the tables of package shop, on
// one server. Its methods may be called concurrently.
type World struct {
	Cluster *sharding.Cluster

	server *testcluster.MySQLServer
	store  *directory.Store
	names  map[podworks.PodID]string  // of the pods' databases
	plain  map[podworks.PodID]*sql.DB // the same databases without scope and fence
	shops  atomic.Int64
}

// worlds are those of the families, made when the first test asks.
var worlds sync.Map // testcluster.Family to func() (*World, error)

// Shared returns the family's world, which the tests of a package share: each
// makes shops of its own. Its servers end with testcluster.Main.
func Shared(t testing.TB, f testcluster.Family) *World {
	t.Helper()
	s := testcluster.Server(t, f)
	// Not in the test's context: the world outlives it.
	made, _ := worlds.LoadOrStore(f, sync.OnceValues(func() (*World, error) { return newWorld(context.Background(), s, shop.Schema()) }))
	w, err := made.(func() (*World, error))()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Example makes a world on a server of its own, for the examples of the
// documentation. Shop 1 is in pod 1 and shop 2 in pod 2.
func Example() (c *sharding.Cluster, stop func()) { return example(shop.Schema()) }

// ExampleBare is Example without the tables of package shop.
func ExampleBare() (c *sharding.Cluster, stop func()) { return example(nil) }

func example(schema []string) (c *sharding.Cluster, stop func()) {
	ctx := context.Background()
	s, err := testcluster.StartMySQL(ctx, &testcluster.MySQLOptions{NoBinlog: true})
	if err != nil {
		log.Fatal(err)
	}
	w, err := newWorld(ctx, s, schema)
	for pod := podworks.PodID(1); pod <= 2 && err == nil; pod++ {
		_, err = w.Cluster.CreateShop(ctx, podworks.ShopID(pod), pod)
	}
	if err != nil {
		log.Fatal(err)
	}
	return w.Cluster, func() {
		w.Cluster.Close()
		if err := s.Stop(); err != nil {
			log.Print(err)
		}
	}
}

// connector returns a connector to a database. A pod's has the pod's numbers.
func connector(s *testcluster.MySQLServer, name string, params map[string]string) driver.Connector {
	cfg := s.Config(name)
	cfg.Params = params
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		log.Panic(err) // a configuration of ours
	}
	return c
}

func newWorld(ctx context.Context, s *testcluster.MySQLServer, schema []string) (*World, error) {
	w := &World{server: s, names: map[podworks.PodID]string{1: "pod1", 2: "pod2"}, plain: map[podworks.PodID]*sql.DB{}}
	admin := sql.OpenDB(connector(s, "", nil))
	defer admin.Close()
	for _, name := range []string{"master", "pod1", "pod2"} {
		if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
			return nil, err
		}
	}
	master := sql.OpenDB(connector(s, "master", nil))
	w.store = directory.New(master)
	connectors := map[podworks.PodID]driver.Connector{}
	for pod, name := range w.names {
		w.plain[pod] = sql.OpenDB(connector(s, name, shop.Numbers(pod)))
		connectors[pod] = connector(s, name, shop.Numbers(pod))
		for _, stmt := range schema {
			if _, err := w.plain[pod].ExecContext(ctx, stmt); err != nil {
				return nil, err
			}
		}
	}
	// Nobody runs the directory: the process hears of a move only by a write that
	// was refused, as one would that is late.
	var err error
	if w.Cluster, err = sharding.New(sharding.NewDirectory(master, nil), connectors, nil); err != nil {
		return nil, err
	}
	if err := w.Cluster.Migrate(ctx); err != nil {
		return nil, err
	}
	for pod := range connectors {
		if err := w.Cluster.Directory().AddPod(ctx, pod, "here"); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Shop makes a shop in a pod.
func (w *World) Shop(t testing.TB, pod podworks.PodID) podworks.ShopID {
	t.Helper()
	id := podworks.ShopID(w.shops.Add(1))
	if _, err := w.Cluster.CreateShop(t.Context(), id, pod); err != nil {
		t.Fatal(err)
	}
	return id
}

// Acquire takes a scope of a shop until the end of the test.
func (w *World) Acquire(t testing.TB, id podworks.ShopID) *sharding.Scope {
	t.Helper()
	s, err := w.Cluster.Acquire(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	return s
}

// Plain returns a pod's database without scope and fence.
func (w *World) Plain(pod podworks.PodID) *sql.DB { return w.plain[pod] }

// Rows returns how many products and orders of a shop a pod has.
func (w *World) Rows(t testing.TB, pod podworks.PodID, id podworks.ShopID) (products, orders int) {
	t.Helper()
	err := w.plain[pod].QueryRowContext(t.Context(), `SELECT (SELECT COUNT(*) FROM products WHERE shop_id = ?), (SELECT COUNT(*) FROM orders WHERE shop_id = ?)`, id, id).Scan(&products, &orders)
	if err != nil {
		t.Fatal(err)
	}
	return products, orders
}

// WantRows fails the test if a pod has other numbers of rows of a shop.
func (w *World) WantRows(t testing.TB, pod podworks.PodID, id podworks.ShopID, products, orders int) {
	t.Helper()
	if p, o := w.Rows(t, pod, id); p != products || o != orders {
		t.Errorf("pod %d has %d products and %d orders of shop %d, want %d and %d", pod, p, o, id, products, orders)
	}
}

// Move takes a shop to another pod with its rows, in the steps of package ferry
// without its precautions, and leaves the rows in the old pod as ferry does for
// a day. While it holds the fence's exclusive lock, it calls locked, if that is
// not nil. The world's cluster does not hear of it.
func (w *World) Move(t testing.TB, id podworks.ShopID, to podworks.PodID, locked func()) {
	t.Helper()
	if err := w.move(t.Context(), id, to, locked); err != nil {
		t.Fatalf("moving shop %d to pod %d: %v", id, to, err)
	}
}

func (w *World) move(ctx context.Context, id podworks.ShopID, to podworks.PodID, locked func()) error {
	m, err := w.store.Claim(ctx, id, to, time.Minute)
	if err != nil {
		return err
	}
	if err := fence.Claim(ctx, w.plain[to], id, m.Token); err != nil {
		return err
	}
	if err := w.store.Note(ctx, m.Token); err != nil {
		return err
	}
	source := w.plain[m.From.Pod]
	err = fence.Close(ctx, source, fence.Closing{From: m.From, To: to, Token: m.Token, Budget: 20 * time.Second}, func(ctx context.Context, _ *sql.Conn) error {
		for _, table := range []string{"products", "orders"} {
			// One server has both pods here.
			if _, err := w.plain[to].ExecContext(ctx, fmt.Sprintf(`INSERT INTO %s SELECT * FROM %s.%[1]s WHERE shop_id = ?`, table, w.names[m.From.Pod]), id); err != nil {
				return err
			}
		}
		if locked != nil {
			locked()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := w.store.Decide(ctx, m.Token); err != nil {
		return err
	}
	if err := fence.Release(ctx, w.plain[to], id, m.To.Epoch, m.Token); err != nil {
		return err
	}
	return w.store.Finish(ctx, m.Token)
}

// AwaitWaiter returns when a transaction waits for its shop's fence in the
// pod.
func (w *World) AwaitWaiter(ctx context.Context, pod podworks.PodID) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(15 * time.Second)
	for {
		var n int
		err := w.plain[pod].QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.processlist WHERE db = ? AND info LIKE '%podworks_fence%LOCK IN SHARE MODE'`, w.names[pod]).Scan(&n)
		if err != nil || n > 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return errors.New("no transaction waits for the fence")
		}
	}
}

// Connectors returns connectors to both pods. adjust, if not nil, changes their
// configuration.
func (w *World) Connectors(t testing.TB, adjust func(*mysql.Config)) map[podworks.PodID]driver.Connector {
	t.Helper()
	out := map[podworks.PodID]driver.Connector{}
	for pod, name := range w.names {
		cfg := w.server.Config(name)
		cfg.Params = shop.Numbers(pod)
		if adjust != nil {
			adjust(cfg)
		}
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		out[pod] = c
	}
	return out
}

// Bare returns a cluster, and the configurations, of databases that have no tables but the suite's, until
// the end of the test: pods 1 and 2 on the family's shared server, and those of
// others on the servers given. Shop 1 is in pod 1.
func Bare(t testing.TB, f testcluster.Family, others map[podworks.PodID]*testcluster.MySQLServer) (*sharding.Cluster, map[podworks.PodID]*mysql.Config) {
	t.Helper()
	shared := testcluster.Server(t, f)
	servers := map[podworks.PodID]*testcluster.MySQLServer{1: shared, 2: shared}
	maps.Copy(servers, others)
	pods, configs := map[podworks.PodID]driver.Connector{}, map[podworks.PodID]*mysql.Config{}
	for pod, s := range servers {
		name := testcluster.Database(t, s)
		pods[pod], configs[pod] = connector(s, name, shop.Numbers(pod)), s.Config(name)
	}
	master := sql.OpenDB(connector(shared, testcluster.Database(t, shared), nil))
	t.Cleanup(func() { master.Close() })
	c, err := sharding.New(sharding.NewDirectory(master, nil), pods, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx := t.Context()
	err = c.Migrate(ctx)
	for pod := range pods {
		if err == nil {
			err = c.Directory().AddPod(ctx, pod, "here")
		}
	}
	if err == nil {
		_, err = c.CreateShop(ctx, 1, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, configs
}
