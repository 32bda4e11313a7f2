package outbox_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/outbox"
)

// The test binary is also every other process of the tests: the parent starts
// itself again with a role in the environment.
func TestMain(m *testing.M) {
	text := os.Getenv(roleVar)
	if text == "" {
		os.Exit(leak.Check(testcluster.Main(m), "podworks/sharding/outbox.", "podworks/sharding/outbox_test."))
	}
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = r.play()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A world is a master database and two pods on one server, with shops 1 and 3 in
// pod 1 and shop 2 in pod 2. Each pod has a table things.
type world struct {
	t       testing.TB
	server  *testcluster.MySQLServer
	names   map[podworks.PodID]string  // of the pods' databases
	plain   map[podworks.PodID]*sql.DB // the same without scope and fence
	master  string
	cluster *sharding.Cluster
}

func newWorld(t testing.TB, f testcluster.Family, adjust func(*mysql.Config)) *world {
	t.Helper()
	return worldOn(t, testcluster.Server(t, f), adjust)
}

// worldOn makes a world. adjust, if not nil, changes how the cluster's
// connections to the pods are made.
func worldOn(t testing.TB, server *testcluster.MySQLServer, adjust func(*mysql.Config)) *world {
	t.Helper()
	w := &world{t: t, server: server, master: testcluster.Database(t, server), names: map[podworks.PodID]string{}, plain: map[podworks.PodID]*sql.DB{}}
	for pod := podworks.PodID(1); pod <= 2; pod++ {
		w.names[pod] = testcluster.Database(t, server)
		w.plain[pod] = w.open(w.names[pod])
		w.exec(pod, `CREATE TABLE things (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (shop_id, id)) ENGINE=InnoDB`)
	}
	w.cluster = w.newCluster(adjust)
	if err := w.cluster.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.newBox(w.cluster, refuse, nil).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for pod := range w.names {
		if err := w.cluster.Directory().AddPod(t.Context(), pod, "here"); err != nil {
			t.Fatal(err)
		}
	}
	for shop, pod := range map[podworks.ShopID]podworks.PodID{1: 1, 2: 2, 3: 1} {
		if _, err := w.cluster.CreateShop(t.Context(), shop, pod); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// with returns the world for a subtest, which leaves no message in it.
func (w *world) with(t testing.TB) *world {
	of := *w
	of.t = t
	return &of
}

// connect opens a connector that doesn't print what the driver thinks of the
// faults we make.
func connect(cfg *mysql.Config, adjust func(*mysql.Config)) (driver.Connector, error) {
	cfg.Logger = &mysql.NopLogger{}
	if adjust != nil {
		adjust(cfg)
	}
	return mysql.NewConnector(cfg)
}

func (w *world) open(name string) *sql.DB {
	w.t.Helper()
	c, err := connect(w.server.Config(name), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	db := sql.OpenDB(c)
	w.t.Cleanup(func() { db.Close() })
	return db
}

// newCluster opens the pods like another process.
func (w *world) newCluster(adjust func(*mysql.Config)) *sharding.Cluster {
	w.t.Helper()
	pods := map[podworks.PodID]driver.Connector{}
	for pod, name := range w.names {
		var err error
		if pods[pod], err = connect(w.server.Config(name), adjust); err != nil {
			w.t.Fatal(err)
		}
	}
	c, err := sharding.New(sharding.NewDirectory(w.open(w.master), nil), pods, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// often is what tests look at pods with: soon.
var often = outbox.Options{Poll: 40 * time.Millisecond, Backoff: time.Millisecond}

// never is for those who want to see what happens without a look.
var never = outbox.Options{Poll: time.Hour}

// newBox makes an outbox. The options are often, if nil.
func (w *world) newBox(c *sharding.Cluster, deliver func(context.Context, outbox.Message) error, opts *outbox.Options) *outbox.Outbox {
	w.t.Helper()
	if opts == nil {
		opts = &often
	}
	box, err := outbox.New(c, deliver, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return box
}

// run runs an outbox until the returned function is called, or the test ends.
func (w *world) run(ctx context.Context, box *outbox.Outbox) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := box.Run(ctx); !errors.Is(err, context.Canceled) {
			w.t.Errorf("Run ended with %v, want the end of its context", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop)
	return stop
}

// relay runs an outbox that has looked at both pods.
func (w *world) relay(ctx context.Context, box *outbox.Outbox) (stop func()) {
	w.t.Helper()
	stop = w.run(ctx, box)
	await(w.t, "the relays", func() bool { return len(box.Stats().Pods) == 2 })
	return stop
}

func refuse(context.Context, outbox.Message) error { return errors.New("nobody is there") }

// exec runs a statement in a pod, past scope and fence.
func (w *world) exec(pod podworks.PodID, query string, args ...any) {
	w.t.Helper()
	if _, err := w.plain[pod].ExecContext(w.t.Context(), query, args...); err != nil {
		w.t.Fatalf("pod %d: %s: %v", pod, query, err)
	}
}

// count runs a query that counts.
func (w *world) count(pod podworks.PodID, query string, args ...any) (n int) {
	w.t.Helper()
	if err := w.plain[pod].QueryRowContext(w.t.Context(), query, args...).Scan(&n); err != nil {
		w.t.Fatalf("pod %d: %s: %v", pod, query, err)
	}
	return n
}

// awaitEmpty waits until no message is left in a pod.
func (w *world) awaitEmpty(pod podworks.PodID) {
	w.t.Helper()
	await(w.t, "the last row to be deleted", func() bool { return w.count(pod, `SELECT COUNT(*) FROM podworks_outbox`) == 0 })
}

// add writes messages of a shop, in one transaction.
func (w *world) add(box *outbox.Outbox, shop podworks.ShopID, topics ...string) {
	w.t.Helper()
	if err := add(w.t.Context(), w.cluster, box, shop, topics...); err != nil {
		w.t.Fatal(err)
	}
}

func add(ctx context.Context, c *sharding.Cluster, box *outbox.Outbox, shop podworks.ShopID, topics ...string) error {
	return c.Do(ctx, shop, func(ctx context.Context, s *sharding.Scope) error {
		return s.Tx(ctx, func(ctx context.Context, _ *sharding.Tx) error {
			for _, topic := range topics {
				if err := box.Add(ctx, topic, []byte("of "+topic)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// An inbox is a receiver in the test's process, which keeps what it gets.
type inbox struct {
	mu  sync.Mutex // guards got
	got []outbox.Message
}

func (i *inbox) receive(_ context.Context, m outbox.Message) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, m)
	return nil
}

// of returns the topics that came from a shop, in order.
func (i *inbox) of(shop podworks.ShopID) (topics []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, m := range i.got {
		if m.Shop == shop {
			topics = append(topics, m.Topic)
		}
	}
	return topics
}

// await waits until a topic came from a shop.
func (i *inbox) await(t testing.TB, shop podworks.ShopID, topic string) {
	t.Helper()
	await(t, fmt.Sprintf("%q from shop %d", topic, shop), func() bool { return slices.Contains(i.of(shop), topic) })
}

func checkTopics(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func checkText(t testing.TB, what string, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want an error with %q", what, err, text)
		}
	}
}

// patience is for what happens at once on a machine that has nothing else to do.
const patience = 30 * time.Second

// await returns when done says so, and fails the test when it doesn't in time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// recv waits for a value.
func recv[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("still waiting for %s", what)
	}
	return v
}
