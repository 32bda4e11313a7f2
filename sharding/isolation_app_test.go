package sharding_test

import (
	"bufio"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/toxi"
)

// requestTimeout is the deadline of a request and, as in many an application, of
// each of its stores too: it bounds how long a hung store holds a request, and is far
// too long to protect the process by itself.
const requestTimeout = time.Second

// weakPod is the pod whose stores fail. It has two thirds of all shops, and so of
// all requests: the pod of the day's sale.
const weakPod podworks.PodID = 3

var shopsOf = map[podworks.PodID][]podworks.ShopID{
	1: {1, 2},
	2: {3, 4},
	3: {5, 6, 7, 8, 9, 10, 11, 12},
}

// rowsOfAShop are enough that the writers of a shop rarely wait for each other.
const rowsOfAShop = 16

// A store is one server, with the proxy through which its pod's clients reach it.
// Only the weak pod's have one.
type store struct {
	*testcluster.Process
	socket string // where clients find it
	proxy  *toxi.Proxy
}

// stores are the servers of three pods, a MySQL, a Redis and a memcached each.
type stores struct {
	dir                     *sharding.Directory
	mysql, redis, memcached map[podworks.PodID]store
	connectors              map[podworks.PodID]driver.Connector
}

func startStores(t *testing.T, f testcluster.Family) *stores {
	t.Helper()
	st := &stores{
		mysql: map[podworks.PodID]store{}, redis: map[podworks.PodID]store{}, memcached: map[podworks.PodID]store{},
		connectors: map[podworks.PodID]driver.Connector{},
	}
	reach := func(pod podworks.PodID, p *testcluster.Process, socket string) store {
		if pod != weakPod {
			return store{Process: p, socket: socket}
		}
		// Not toxitest's: it would fill the log of a test that failed with what
		// happened to thousands of connections.
		proxy, err := toxi.Listen(socket, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { proxy.Close() })
		return store{p, proxy.Addr(), proxy}
	}
	for pod, my := range startServers(t, f) {
		st.mysql[pod] = reach(pod, my.Process, my.Socket())
		name := testcluster.Database(t, my)
		st.connectors[pod] = connect(t, my, name, func(cfg *mysql.Config) { cfg.Addr = st.mysql[pod].socket })
		plain := openPlain(t, my, name)
		if _, err := plain.ExecContext(t.Context(), things); err != nil {
			t.Fatal(err)
		}
		for _, shop := range shopsOf[pod] {
			for id := range rowsOfAShop {
				if _, err := plain.ExecContext(t.Context(), `INSERT INTO things VALUES (?, ?, 0)`, int64(shop), id); err != nil {
					t.Fatal(err)
				}
			}
		}
		re := testcluster.Redis(t, nil)
		st.redis[pod] = reach(pod, re.Process, re.Socket())
		// A frozen server must keep callers waiting: one whose backlog is full refuses
		// them, and what fails soon fills no process.
		mc := testcluster.Memcached(t, &testcluster.MemcachedOptions{Args: []string{"-b", "4096", "-c", "4096"}})
		st.memcached[pod] = reach(pod, mc.Process, mc.Socket())
	}

	shared := testcluster.Server(t, f)
	st.dir = sharding.NewDirectory(openPlain(t, shared, testcluster.Database(t, shared)), nil)
	c, err := sharding.New(st.dir, st.connectors, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for pod, shops := range shopsOf {
		if err := st.dir.AddPod(t.Context(), pod, "here"); err != nil {
			t.Fatal(err)
		}
		for _, shop := range shops {
			if _, err := c.CreateShop(t.Context(), shop, pod); err != nil {
				t.Fatal(err)
			}
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = st.dir.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return st
}

// startServers starts a MySQL server for each pod, at the same time: it takes
// seconds on a machine with much to do.
func startServers(t *testing.T, f testcluster.Family) map[podworks.PodID]*testcluster.MySQLServer {
	t.Helper()
	var mu sync.Mutex // guards servers
	servers := map[podworks.PodID]*testcluster.MySQLServer{}
	var wg sync.WaitGroup
	for pod := range shopsOf {
		wg.Go(func() {
			s, err := testcluster.StartMySQL(t.Context(), &testcluster.MySQLOptions{Family: f})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { checkIs(t, "stopping a server", errors.Join(s.Kill(), s.Stop()), nil) })
			mu.Lock()
			defer mu.Unlock()
			servers[pod] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return servers
}

// An app is an application's process, in so far as it uses the stores.
type app struct {
	cluster   *sharding.Cluster
	redis     *sharding.PerPod[*redis.Client]
	memcached *sharding.PerPod[*memcachedClient]
}

func (st *stores) newApp(t *testing.T, opts *sharding.Options) *app {
	t.Helper()
	c, err := sharding.New(st.dir, st.connectors, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &app{
		cluster: c,
		redis: sharding.NewPerPod(func(pod podworks.PodID) (*redis.Client, error) {
			c := redis.NewClient(&redis.Options{
				Addr:        st.redis[pod].socket,
				DialTimeout: requestTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, PoolTimeout: requestTimeout,
			})
			t.Cleanup(func() { c.Close() })
			return c, nil
		}),
		memcached: sharding.NewPerPod(func(pod podworks.PodID) (*memcachedClient, error) {
			c := newMemcachedClient(st.memcached[pod].socket)
			t.Cleanup(c.close)
			return c, nil
		}),
	}
}

// serve does what a request asks for: it reads a row, writes one if it is an
// order, and looks into both caches, where a miss is as good as a hit.
func (a *app) serve(ctx context.Context, r request) error {
	return a.cluster.Do(ctx, r.shop, func(ctx context.Context, s *sharding.Scope) error {
		var v int
		if err := s.DB().QueryRowContext(ctx, `SELECT v FROM things WHERE shop_id = ? AND id = ?`, int64(r.shop), r.row).Scan(&v); err != nil {
			return err
		}
		if r.order {
			err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = ? AND id = ?`, int64(r.shop), r.row)
				return err
			})
			if err != nil {
				return err
			}
		}
		re, err := a.redis.Get(ctx)
		if err != nil {
			return err
		}
		if err := re.Get(ctx, "thing").Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		mc, err := a.memcached.Get(ctx)
		if err != nil {
			return err
		}
		return mc.get("thing")
	})
}

// A memcachedClient is what this test needs of one.
type memcachedClient struct {
	socket string
	idle   chan *memcachedConn
}

type memcachedConn struct {
	net.Conn
	answers *bufio.Scanner
}

func newMemcachedClient(socket string) *memcachedClient {
	return &memcachedClient{socket: socket, idle: make(chan *memcachedConn, 64)}
}

// get asks for a key and doesn't care whether it is there.
func (m *memcachedClient) get(key string) (err error) {
	var c *memcachedConn
	select {
	case c = <-m.idle:
	default:
		raw, err := net.DialTimeout("unix", m.socket, requestTimeout)
		if err != nil {
			return err
		}
		c = &memcachedConn{raw, bufio.NewScanner(raw)}
	}
	defer func() {
		if err == nil {
			select {
			case m.idle <- c:
				return
			default: // enough are idle
			}
		} else {
			m.close() // the others have likely lost their server as well
		}
		c.Close()
	}()
	if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "get %s\r\n", key); err != nil {
		return err
	}
	for c.answers.Scan() {
		if c.answers.Text() == "END" {
			return nil
		}
	}
	return errors.Join(errors.New("memcached: the connection ended before the answer"), c.answers.Err())
}

func (m *memcachedClient) close() {
	for {
		select {
		case c := <-m.idle:
			c.Close()
		default:
			return
		}
	}
}
