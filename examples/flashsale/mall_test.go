package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/toxitest"
)

// A mall is the demo without its sale: the processes of the program on servers that
// can be broken. Its shops and its orders are real.
//
// The stores of the first pod and the master database are behind proxies, for
// faults of the network. Those of the second pod are not: they are killed and frozen
// themselves.
type mall struct {
	plan    plan    // as the processes have it
	servers servers // as they are, past the proxies
	shops   []shop
	client  *http.Client
	office  *platform // opens shops

	wires map[podworks.PodID]wires
	pods  map[podworks.PodID]*direct

	struck atomic.Int64 // the pod that has a fault, masterStruck, or 0
	moved  atomic.Bool  // the first pod's shops are in the second, and nobody has heard
	ids    ids

	mu         sync.Mutex // guards ledger and complaints
	ledger     []entry    // of acknowledged orders
	complaints []string   // about what no fault is an excuse for
}

// masterStruck is the number of a fault of the master database, which is in no pod.
const masterStruck = -1

// wires are the proxies before a pod's stores, or, under number 0, before the
// master database.
type wires struct{ mysql, redis, memcached *toxitest.Proxy }

// direct is what a test has of a pod past everything that is tested.
type direct struct {
	podServers
	db     *sql.DB
	opened atomic.Int64 // shops, by the admin's probe
}

// openMall starts everything. When the test ends it closes it, and counts.
func openMall(t *testing.T, family testcluster.Family) *mall {
	t.Helper()
	at, err := startServers(t.Context(), family)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := at.stop(); err != nil {
			t.Error(err)
		}
	})
	key := make([]byte, 32)
	rand.Read(key) // never fails
	m := &mall{
		servers: *at,
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: 256},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		wires: map[podworks.PodID]wires{},
		pods:  map[podworks.PodID]*direct{},
		ids:   ids{process: 500},
	}
	m.plan = plan{
		Settings: settings{Family: family, Shops: 4, Seed: 1, Duration: time.Minute, History: 40},
		Dir:      t.TempDir(),
		Servers:  *at,
		Key:      key,
	}
	m.shops = m.plan.Settings.shops()
	if err := prepare(t.Context(), &m.plan); err != nil {
		t.Fatal(err)
	}
	m.wire(t)
	for id, at := range m.servers.Pods {
		d := &direct{podServers: at}
		if d.db, err = asAdmin.open(at.MySQL); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.db.Close() })
		m.pods[id] = d
	}
	m.spawn(t)
	// A connection without a request, which is what a visitor leaves who has left early,
	// would keep the edge from ending.
	t.Cleanup(m.client.CloseIdleConnections)
	if m.office, err = openPlatform(&m.plan, asApp, 4); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.office.Close(), m.office.master.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// wire puts proxies into the plan. They listen on TCP, whose faults are more than
// those of unix sockets.
func (m *mall) wire(t *testing.T) {
	t.Helper()
	tcp := func(upstream string) *toxitest.Proxy {
		return toxitest.Listen(t, upstream, &toxi.Options{Listen: "127.0.0.1:0"})
	}
	wired := func(dsn string) (*toxitest.Proxy, string) {
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		p := tcp(cfg.Addr)
		cfg.Net, cfg.Addr = "tcp", p.Addr()
		return p, cfg.FormatDSN()
	}
	var master, pod wires
	master.mysql, m.plan.Servers.Master = wired(m.servers.Master)
	at := m.servers.Pods[firstPod]
	pod.mysql, at.MySQL = wired(at.MySQL)
	pod.redis, pod.memcached = tcp(at.Redis), tcp(at.Memcached)
	at.Redis, at.Memcached = pod.redis.Addr(), pod.memcached.Addr()
	m.plan.Servers.Pods = map[podworks.PodID]podServers{firstPod: at, secondPod: m.servers.Pods[secondPod]}
	m.wires[0], m.wires[firstPod] = master, pod
}

// spawn starts the processes.
func (m *mall) spawn(t *testing.T) {
	t.Helper()
	storefront, storeURL, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer storefront.Close()
	edge, edgeURL, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer edge.Close()
	m.plan.Store, m.plan.Edge = storeURL, edgeURL
	for _, p := range []struct {
		role     string
		listener *os.File
	}{{"store", storefront}, {"edge", edge}, {"worker", nil}} {
		m.plan.Process++
		c, err := spawn(p.role, p.role, m.plan, p.listener, func(news) {})
		if err != nil {
			t.Fatal(err)
		}
		// The worker ends first, and drains.
		t.Cleanup(func() {
			if err := c.stop(drainPatience); err != nil {
				t.Error(err)
			}
			if p.role == "worker" {
				m.count(t)
			}
			if t.Failed() {
				t.Logf("the end of the %s's log:\n%s", p.role, c.said.String())
			}
		})
		if err := c.awaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// count compares what was acknowledged with what is there, whatever the faults were.
func (m *mall) count(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	h, err := look(ctx, m.servers)
	if err != nil {
		t.Errorf("count the orders: %v", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	orders := tally(h.owners, m.ledger, h.orders)
	if orders.once != orders.acknowledged || orders.stranded > 0 {
		t.Errorf("%d orders acknowledged, %d found once, %d lost, %d double, %d in the wrong pod; want each once",
			orders.acknowledged, orders.once, orders.lost, orders.duplicated, orders.stranded)
	}
	if captured, wrong := h.paid(); captured < orders.acknowledged || wrong > 0 {
		t.Errorf("%d payments for %d acknowledged orders, %d wrong; want one for each", captured, orders.acknowledged, wrong)
	}
	if over, adrift := h.stock(m.plan.Settings); over > 0 || adrift > 0 {
		t.Errorf("%d pieces oversold, %d adrift; want none", over, adrift)
	}
	if n := h.astray(); n > 0 {
		t.Errorf("%d shops are not open in exactly the pod that the directory names", n)
	}
	for _, c := range m.complaints[:min(5, len(m.complaints))] {
		t.Error(c)
	}
	t.Logf("%d orders acknowledged, each found once and paid; %d more were placed and their answers lost", orders.acknowledged, orders.unasked)
}

// acknowledge notes an order that a buyer was told of.
func (m *mall) acknowledge(sh shop, id int64, token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ledger = append(m.ledger, entry{Shop: int64(sh.id), ID: id, Token: token, At: time.Now().UnixNano()})
}

// complain notes what must not be, whatever the fault.
func (m *mall) complain(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.complaints = append(m.complaints, fmt.Sprintf(format, args...))
}

// here returns a shop of each pod that has a fault, or of each pod if none has.
func (m *mall) here() []shop {
	pod := podworks.PodID(m.struck.Load())
	if pod <= 0 {
		return m.shops[:2] // pods take turns
	}
	return []shop{m.shops[pod-firstPod]}
}

// tills is here for those who write. When a shop has moved and nobody has heard,
// that is another shop that has: the first order tells the process, and whoever
// puts something into a cart before that order finds it empty after it.
func (m *mall) tills() []shop {
	if m.moved.Load() {
		return []shop{m.shops[2]}
	}
	return m.here()
}

// elsewhere returns a shop of each pod that has none.
func (m *mall) elsewhere() []shop {
	pod := podworks.PodID(m.struck.Load())
	if pod <= 0 {
		return m.shops[:2]
	}
	return []shop{m.shops[secondPod-pod]}
}

// owner returns the pod that a shop is in now.
func (m *mall) owner(sh shop) podworks.PodID {
	if m.moved.Load() {
		return secondPod
	}
	return sh.pod
}

// stop ends the servers of one mall. They are killed: what they have was counted.
func (at *servers) stop() error {
	all := []*testcluster.Process{at.master}
	for _, pod := range at.Pods {
		all = append(all, pod.mysql, pod.redis, pod.memcached)
	}
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Kill(), p.Stop())
	}
	return errors.Join(errs...)
}

// age makes the cached pages of a pod's shop old, as most are when a database fails.
func (m *mall) age(pod podworks.PodID) error {
	pages := memcache.New(m.pods[pod].Memcached)
	defer pages.Close()
	for _, page := range []string{"home", "catalogue1"} {
		key := fmt.Sprintf("shop/%d/%s", m.shops[pod-firstPod].id, page)
		item, err := pages.Get(key)
		if errors.Is(err, memcache.ErrCacheMiss) {
			continue // nobody has looked at it
		}
		if err == nil {
			item.Flags -= uint32(time.Minute / time.Second)
			item.Expiration = keptFor
			err = pages.Set(item)
		}
		if err != nil {
			return fmt.Errorf("make %s old: %w", key, err)
		}
	}
	return nil
}

// crowd sends visitors to the shops that have the fault, forty a second whether or
// not they are answered. What a pod may do to its neighbours it does under load, when
// everybody who waits holds something. Leave ends the crowd and waits for the last one.
func (m *mall) crowd() (leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var visitors sync.WaitGroup
	room := make(chan struct{}, 150) // more than the storefront has connections to a pod
	visitors.Go(func() {
		tick := time.NewTicker(25 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, sh := range m.here() {
				select {
				case room <- struct{}{}:
				default:
					continue
				}
				path := []string{"/products/3", "/cart", "/"}[n%3]
				visitors.Go(func() {
					_, _ = m.send(ctx, sh, fmt.Sprintf("visitor%d", n), http.MethodGet, path, nil)
					<-room
				})
			}
		}
	})
	return func() {
		cancel()
		visitors.Wait()
	}
}

// place writes an order past the storefront, for the worker to find.
func (d *direct) place(ctx context.Context, sh shop, id, job int64, token string) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	const cents = 700
	if _, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, token, email, total_cents, created_at) VALUES (?, ?, ?, 'test@mail.example', ?, ?)`,
		int64(sh.id), id, token, cents, time.Now().UTC()); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO jobs (shop_id, id, order_id, amount_cents) VALUES (?, ?, ?, ?)`, int64(sh.id), job, id, cents); err != nil {
		return err
	}
	return tx.Commit()
}

// idle waits until there is no job of the shop.
func (d *direct) idle(ctx context.Context, sh shop) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := d.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM jobs WHERE shop_id = ?`, int64(sh.id)).Scan(&n)
		if err == nil && n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("shop %d has %d jobs left: %w", sh.id, n, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// paid waits until an order is paid.
func (d *direct) paid(ctx context.Context, sh shop, id int64) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := d.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM payments WHERE shop_id = ? AND id = ?`, int64(sh.id), id).Scan(&n)
		if n > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}
