package sharding_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"os"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

// A world is a master database and two pods on one server, with three shops:
// 1 (one.example) and 3 in pod 1, and 2 (two.example) in pod 2. Each pod has a
// table things.
type world struct {
	t       testing.TB
	server  *testcluster.MySQLServer
	cluster *sharding.Cluster
	dir     *sharding.Directory
	names   map[podworks.PodID]string  // of the pods' databases
	plain   map[podworks.PodID]*sql.DB // the same databases without scope and fence
	master  *sql.DB
	store   *directory.Store
}

// things is the application's one table.
const things = `CREATE TABLE things (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, v INT NOT NULL, PRIMARY KEY (shop_id, id)) ENGINE=InnoDB`

// newWorld makes a world. adjust, if not nil, changes how the cluster's
// connections are made.
func newWorld(t testing.TB, f testcluster.Family, opts *sharding.Options, adjust func(*mysql.Config)) *world {
	t.Helper()
	return worldOn(t, testcluster.Server(t, f), opts, adjust)
}

func worldOn(t testing.TB, server *testcluster.MySQLServer, opts *sharding.Options, adjust func(*mysql.Config)) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{
		t:      t,
		server: server,
		names:  map[podworks.PodID]string{},
		plain:  map[podworks.PodID]*sql.DB{},
	}
	w.master = w.open(testcluster.Database(t, server))
	w.store = directory.New(w.master)
	w.dir = sharding.NewDirectory(w.master, nil)

	connectors := map[podworks.PodID]driver.Connector{}
	for pod := podworks.PodID(1); pod <= 2; pod++ {
		w.names[pod] = testcluster.Database(t, server)
		w.plain[pod] = w.open(w.names[pod])
		connectors[pod] = connect(t, server, w.names[pod], adjust)
		w.exec(pod, things)
	}
	w.cluster = w.newCluster(w.dir, connectors, opts)
	if err := w.cluster.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	for pod := range connectors {
		if err := w.dir.AddPod(ctx, pod, "here"); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []struct {
		shop podworks.ShopID
		pod  podworks.PodID
		host []string
	}{{1, 1, []string{"one.example"}}, {2, 2, []string{"two.example"}}, {3, 1, nil}} {
		if _, err := w.cluster.CreateShop(ctx, s.shop, s.pod, s.host...); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// open returns a plain pool, closed at the end of the test.
func (w *world) open(name string) *sql.DB {
	w.t.Helper()
	return openPlain(w.t, w.server, name)
}

// openPlain returns a pool without scope and fence, closed at the end of the
// test.
func openPlain(t testing.TB, server *testcluster.MySQLServer, name string) *sql.DB {
	t.Helper()
	db := sql.OpenDB(connect(t, server, name, nil))
	t.Cleanup(func() { db.Close() })
	return db
}

// connect returns a connector that adjust, if not nil, has adjusted. It keeps
// the driver from printing what it thinks of the faults we make.
func connect(t testing.TB, server *testcluster.MySQLServer, name string, adjust func(*mysql.Config)) driver.Connector {
	t.Helper()
	cfg := server.Config(name)
	cfg.Logger = &mysql.NopLogger{}
	if adjust != nil {
		adjust(cfg)
	}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connectors returns the connectors of both pods.
func (w *world) connectors() map[podworks.PodID]driver.Connector {
	w.t.Helper()
	return map[podworks.PodID]driver.Connector{1: connect(w.t, w.server, w.names[1], nil), 2: connect(w.t, w.server, w.names[2], nil)}
}

func (w *world) newCluster(dir *sharding.Directory, pods map[podworks.PodID]driver.Connector, opts *sharding.Options) *sharding.Cluster {
	w.t.Helper()
	c, err := sharding.New(dir, pods, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// exec runs a statement in a pod, past scope and fence.
func (w *world) exec(pod podworks.PodID, query string, args ...any) {
	w.t.Helper()
	if _, err := w.plain[pod].ExecContext(w.t.Context(), query, args...); err != nil {
		w.t.Fatalf("pod %d: %s: %v", pod, query, err)
	}
}

// count returns how many things a shop has in a pod.
func (w *world) count(pod podworks.PodID, shop podworks.ShopID) int {
	w.t.Helper()
	var n int
	if err := w.plain[pod].QueryRowContext(w.t.Context(), `SELECT COUNT(*) FROM things WHERE shop_id = ?`, int64(shop)).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// wantCount fails the test if a shop doesn't have n things in a pod.
func (w *world) wantCount(pod podworks.PodID, shop podworks.ShopID, n int) {
	w.t.Helper()
	if got := w.count(pod, shop); got != n {
		w.t.Errorf("pod %d has %d things of shop %d, want %d", pod, got, shop, n)
	}
}

// setFence writes a shop's fence row.
func (w *world) setFence(pod podworks.PodID, r fence.Row) {
	w.t.Helper()
	w.exec(pod, `REPLACE INTO podworks_fence (shop_id, epoch, state, destination, token) VALUES (?, ?, ?, ?, ?)`,
		int64(r.Shop), uint64(r.Epoch), string(r.State), int64(r.Destination), r.Token)
}

// acquire takes a scope that lasts as long as the test.
func (w *world) acquire(shop podworks.ShopID) (context.Context, *sharding.Scope) {
	w.t.Helper()
	s, err := w.cluster.Acquire(w.t.Context(), shop)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Release)
	return s, s
}

// A moving is a move that has been claimed on both sides.
type moving struct {
	*world
	move podworks.Move
}

// claim begins a move.
func (w *world) claim(shop podworks.ShopID, to podworks.PodID) *moving {
	w.t.Helper()
	ctx := w.t.Context()
	m, err := w.store.Claim(ctx, shop, to, time.Minute)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := fence.Claim(ctx, w.plain[to], shop, m.Token); err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.Note(ctx, m.Token); err != nil {
		w.t.Fatal(err)
	}
	return &moving{w, m}
}

// close closes the source, with drain under the lock.
func (m *moving) close(budget time.Duration, drain func(context.Context, *sql.Conn) error) error {
	return fence.Close(m.t.Context(), m.plain[m.move.From.Pod], fence.Closing{
		From: m.move.From, To: m.move.To.Pod, Token: m.move.Token, Budget: budget,
	}, drain)
}

// finish decides the move and opens the target.
func (m *moving) finish() {
	m.t.Helper()
	ctx := m.t.Context()
	if _, err := m.store.Decide(ctx, m.move.Token); err != nil {
		m.t.Fatal(err)
	}
	if err := fence.Release(ctx, m.plain[m.move.To.Pod], m.move.From.Shop, m.move.To.Epoch, m.move.Token); err != nil {
		m.t.Fatal(err)
	}
	if err := m.store.Finish(ctx, m.move.Token); err != nil {
		m.t.Fatal(err)
	}
}

// moveTo moves a shop that has no rows, or whose rows nobody asks for. The
// cluster's directory doesn't hear of it.
func (w *world) moveTo(shop podworks.ShopID, to podworks.PodID) {
	w.t.Helper()
	m := w.claim(shop, to)
	if err := m.close(10*time.Second, func(context.Context, *sql.Conn) error { return nil }); err != nil {
		w.t.Fatal(err)
	}
	m.finish()
}

// awaitWaiter returns when a transaction in the pod waits for its fence.
func (w *world) awaitWaiter(pod podworks.PodID) {
	w.t.Helper()
	await(w.t, "a transaction that waits for the fence", func() bool {
		var n int
		err := w.plain[pod].QueryRowContext(w.t.Context(),
			`SELECT COUNT(*) FROM information_schema.processlist WHERE db = ? AND info LIKE '%podworks_fence%LOCK IN SHARE MODE'`, w.names[pod]).Scan(&n)
		if err != nil {
			w.t.Error(err)
		}
		return n > 0
	})
}

// await returns when done says so, and fails the test when it doesn't in time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(15 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still waiting for %s", what)
		}
	}
}
