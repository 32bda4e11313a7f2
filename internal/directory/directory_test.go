package directory_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

// A master is a directory with pods 1 to 3, and shop 1 in pod 1.
type master struct {
	*directory.Store
	t      testing.TB
	db     *sql.DB
	server *testcluster.MySQLServer
	name   string
}

func newMaster(t testing.TB, f testcluster.Family) *master {
	t.Helper()
	m := &master{t: t, server: testcluster.Server(t, f)}
	m.name = testcluster.Database(t, m.server)
	m.db = m.open(nil)
	m.Store = directory.New(m.db)
	if err := m.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for pod := range podworks.PodID(3) {
		if err := m.AddPod(t.Context(), pod+1, "here"); err != nil {
			t.Fatal(err)
		}
	}
	m.addShop(1, 1)
	return m
}

// open returns another pool for the same database.
func (m *master) open(params map[string]string) *sql.DB {
	m.t.Helper()
	cfg := m.server.Config(m.name)
	cfg.Logger = &mysql.NopLogger{}
	cfg.Params = params
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	db := sql.OpenDB(c)
	m.t.Cleanup(func() { db.Close() })
	return db
}

// each runs test on a new master of each family.
func each(t *testing.T, test func(t *testing.T, m *master)) {
	t.Helper()
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) { test(t, newMaster(t, f)) })
}

func (m *master) exec(query string, args ...any) {
	m.t.Helper()
	if _, err := m.db.ExecContext(m.t.Context(), query, args...); err != nil {
		m.t.Fatalf("%s: %v", query, err)
	}
}

func (m *master) addShop(shop podworks.ShopID, pod podworks.PodID, hosts ...string) {
	m.t.Helper()
	if _, err := m.AddShop(m.t.Context(), shop, pod, hosts...); err != nil {
		m.t.Fatal(err)
	}
}

func checkIs(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func TestAddingAgainIsNoErrorUnlessItDiffers(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		checkIs(t, "Migrate again", m.Migrate(ctx), nil)
		checkIs(t, "AddPod again", m.AddPod(ctx, 1, "here"), nil)
		checkIs(t, "AddPod in another region", m.AddPod(ctx, 1, "there"), directory.ErrExists)
		for _, pod := range []podworks.PodID{0, -1} {
			if err := m.AddPod(ctx, pod, "here"); err == nil {
				t.Errorf("AddPod(%d): got no error", pod)
			}
		}

		want := podworks.Route{Shop: 5, Pod: 2, Region: "here", Epoch: 1}
		for range 2 {
			got, err := m.AddShop(ctx, 5, 2, "five.example")
			if err != nil || got != want {
				t.Errorf("AddShop = %v, %v; want %v", got, err, want)
			}
		}
		if got, err := m.AddShop(ctx, 5, 2, "cinq.example"); err != nil || got != want {
			t.Errorf("AddShop with another host = %v, %v; want %v", got, err, want)
		}
		for _, host := range []string{"five.example", "cinq.example"} {
			if got, err := m.LookupHost(ctx, host); err != nil || got != want {
				t.Errorf("LookupHost(%q) = %v, %v; want %v", host, got, err, want)
			}
		}
		_, err := m.AddShop(ctx, 5, 3)
		checkIs(t, "AddShop in another pod", err, directory.ErrExists)
		_, err = m.AddShop(ctx, 6, 9)
		checkIs(t, "AddShop in an unknown pod", err, directory.ErrUnknownPod)
		for _, shop := range []podworks.ShopID{0, -1} {
			if _, err := m.AddShop(ctx, shop, 1); err == nil {
				t.Errorf("AddShop(%d): got no error", shop)
			}
		}

		// A host of another shop: nothing of the new shop stays.
		_, err = m.AddShop(ctx, 7, 1, "seven.example", "five.example")
		checkIs(t, "AddShop with another shop's host", err, directory.ErrExists)
		if err == nil || !strings.Contains(err.Error(), "five.example") {
			t.Errorf("AddShop with another shop's host: %v, want it to name the host", err)
		}
		_, err = m.Lookup(ctx, 7)
		checkIs(t, "Lookup of a shop that was not added", err, directory.ErrUnknownShop)
		_, err = m.LookupHost(ctx, "seven.example")
		checkIs(t, "LookupHost of a host that was not added", err, directory.ErrUnknownShop)
		_, err = m.LookupHost(ctx, "")
		checkIs(t, "LookupHost of nothing", err, directory.ErrUnknownShop)

		// A host that the column would not keep as it is.
		for _, host := range []string{"münchen.example", strings.Repeat("x", 300)} {
			if _, err := m.AddShop(ctx, 8, 1, host); err == nil {
				t.Errorf("AddShop with host %q: got no error", host)
			}
		}
		_, err = m.Lookup(ctx, 8)
		checkIs(t, "Lookup of a shop that was not added", err, directory.ErrUnknownShop)
	})
}

func TestAStoreWithoutTables(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := testcluster.Server(t, f)
		db, err := sql.Open("mysql", s.DSN(testcluster.Database(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		store := directory.New(db)
		if err := store.AddPod(t.Context(), 1, "here"); err == nil {
			t.Error("AddPod: got no error")
		}
		if _, err := store.Lookup(t.Context(), 1); err == nil || errors.Is(err, directory.ErrUnknownShop) {
			t.Errorf("Lookup: got %v, want an error that isn't ErrUnknownShop", err)
		}
		// The tables are there, and the counter's row was lost.
		if err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), `DELETE FROM podworks_version`); err != nil {
			t.Fatal(err)
		}
		if err := store.AddPod(t.Context(), 1, "here"); err == nil || !strings.Contains(err.Error(), "migration") {
			t.Errorf("AddPod without the counter: got %v, want an error that names the migration", err)
		}
	})
}

// collect returns the shops that changed since a version, and the version now.
func (m *master) collect(since uint64) (shops map[podworks.ShopID]directory.Shop, version uint64) {
	m.t.Helper()
	version, err := m.Version(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	shops = map[podworks.ShopID]directory.Shop{}
	if err := m.Shops(m.t.Context(), since, func(s directory.Shop) { shops[s.ID] = s }); err != nil {
		m.t.Fatal(err)
	}
	return shops, version
}

func (m *master) collectPods(since uint64) map[podworks.PodID]directory.Pod {
	m.t.Helper()
	pods := map[podworks.PodID]directory.Pod{}
	if err := m.Pods(m.t.Context(), since, func(p directory.Pod) { pods[p.ID] = p }); err != nil {
		m.t.Fatal(err)
	}
	return pods
}

func TestWhatChangedSinceAVersion(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		m.addShop(2, 2, "two.example", "deux.example")
		m.addShop(3, 3, "three.example")
		all, v := m.collect(0)
		if len(all) != 3 || all[2] != (directory.Shop{ID: 2, Pod: 2, Epoch: 1}) {
			t.Errorf("Shops since 0 = %v, want all three", all)
		}
		if pods := m.collectPods(0); len(pods) != 3 || pods[2].Region != "here" || pods[2].Version == 0 {
			t.Errorf("Pods since 0 = %v, want all three", pods)
		}
		if none, same := m.collect(v); len(none) != 0 || same != v {
			t.Errorf("Shops since %d = %v, %d; want none and the same version", v, none, same)
		}
		hosts := func(since uint64) (map[string]podworks.ShopID, uint64) {
			t.Helper()
			got := map[string]podworks.ShopID{}
			v, err := m.Hosts(ctx, since, func(h string, r podworks.Route) {
				if _, lookup := m.LookupHost(ctx, h); (r == podworks.Route{}) != errors.Is(lookup, directory.ErrUnknownShop) {
					t.Errorf("Hosts has %v for %s, and LookupHost %v", r, h, lookup)
				}
				got[h] = r.Shop
			})
			if err != nil {
				t.Fatal(err)
			}
			return got, v
		}
		got, hv := hosts(0)
		if len(got) != 3 || got["deux.example"] != 2 || hv != v {
			t.Errorf("Hosts since 0 = %v, %d; want three at version %d", got, hv, v)
		}
		do := func(err error) {
			t.Helper()
			checkIs(t, "a change", err, nil)
		}
		turn := func(_ podworks.Route, err error) { t.Helper(); do(err) }

		two := []string{"two.example", "deux.example", "zwei.example"}
		for _, c := range []struct {
			name   string
			change func()
			pods   []podworks.PodID
			shops  []podworks.ShopID
			hosts  []string
		}{
			{"a new shop", func() { m.addShop(4, 1) }, nil, []podworks.ShopID{4}, nil},
			{"a new host", func() { m.addShop(2, 2, "zwei.example") }, nil, nil, []string{"zwei.example"}},
			{"nothing new", func() { m.addShop(2, 2, "zwei.example") }, nil, nil, nil},
			{"a new pod", func() { do(m.AddPod(ctx, 4, "here")) }, []podworks.PodID{4}, nil, nil},
			{"a move", func() { m.move(2, 3) }, nil, []podworks.ShopID{2}, two},
			{"a failover", func() { m.failover(3, "there") }, []podworks.PodID{3}, nil, append(two, "three.example")},
			{"a closed shop", func() { turn(m.CloseShop(ctx, 2)) }, nil, []podworks.ShopID{2}, two},
			{"a shop opened again", func() { turn(m.ReopenShop(ctx, 2)) }, nil, []podworks.ShopID{2}, two},
			{"a removed host", func() { do(m.RemoveHost(ctx, 2, "zwei.example")) }, nil, nil, []string{"zwei.example"}},
			{"a removed host that another shop has now", func() { do(m.AddHost(ctx, 3, "zwei.example")) }, nil, nil, []string{"zwei.example"}},
			{"a deleted shop", func() { turn(m.CloseShop(ctx, 2)); turn(m.DeleteShop(ctx, 2)) }, nil, []podworks.ShopID{2}, []string{"two.example", "deux.example"}},
			{"many shops", func() { do(m.AddShops(ctx, 1, []podworks.ShopID{4, 5, 6})) }, nil, []podworks.ShopID{5, 6}, nil},
		} {
			c.change()
			shops, next := m.collect(v)
			if next <= v {
				t.Errorf("after %s the version is %d, want more than %d", c.name, next, v)
			}
			if len(shops) != len(c.shops) {
				t.Errorf("after %s: Shops = %v, want %v", c.name, shops, c.shops)
			}
			for _, shop := range c.shops {
				if want, _, err := m.Shop(ctx, shop); err != nil || shops[shop] != want {
					t.Errorf("after %s: Shops has %v, Shop %v (%v)", c.name, shops[shop], want, err)
				}
			}
			pods := m.collectPods(v)
			if len(pods) != len(c.pods) {
				t.Errorf("after %s: Pods = %v, want %v", c.name, pods, c.pods)
			}
			for _, pod := range c.pods {
				if pods[pod].ID != pod || pods[pod].Version <= v {
					t.Errorf("after %s: Pods = %v, want %d at a version above %d", c.name, pods, pod, v)
				}
			}
			got, hostVersion := hosts(v)
			if hostVersion != next || len(got) != len(c.hosts) {
				t.Errorf("after %s: Hosts = %v at %d, want %v at %d", c.name, got, hostVersion, c.hosts, next)
			}
			for _, h := range c.hosts {
				if _, ok := got[h]; !ok {
					t.Errorf("after %s: Hosts = %v, want %s too", c.name, got, h)
				}
			}
			v = next
		}
	})
}

// One change among many shops is found by index: the rows that the server reads
// for it don't depend on how many shops there are.
func TestAChangeIsFoundByIndex(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		const shops = 20_000
		ids := make([]podworks.ShopID, shops)
		for i := range ids {
			ids[i] = podworks.ShopID(10 + i)
		}
		checkIs(t, "AddShops", m.AddShops(ctx, 1, ids), nil)
		m.exec(`INSERT INTO podworks_hosts (host, shop_id, version) SELECT CONCAT('shop', shop_id, '.example'), shop_id, version FROM podworks_shops`)
		m.exec(`ANALYZE TABLE podworks_shops, podworks_hosts, podworks_pods`)
		since, err := m.Version(ctx)
		checkIs(t, "Version", err, nil)
		m.move(500, 3)
		checkIs(t, "AddHost", m.AddHost(ctx, 501, "zwei.example"), nil)
		checkIs(t, "RemoveHost", m.RemoveHost(ctx, 502, "shop502.example"), nil)
		m.failover(3, "there")

		one := m.open(nil)
		one.SetMaxOpenConns(1) // the status is the session's
		store := directory.New(one)
		read := func() (rows int) {
			t.Helper()
			answer, err := one.QueryContext(ctx, `SHOW SESSION STATUS LIKE 'Handler\_read%'`)
			checkIs(t, "SHOW STATUS", err, nil)
			defer answer.Close()
			for answer.Next() {
				var name string
				var n int
				checkIs(t, "SHOW STATUS", answer.Scan(&name, &n), nil)
				rows += n
			}
			return rows
		}
		for name, ask := range map[string]func(since uint64, each func()) error{
			"Pods":         func(since uint64, each func()) error { return store.Pods(ctx, since, func(directory.Pod) { each() }) },
			"Shops":        func(since uint64, each func()) error { return store.Shops(ctx, since, func(directory.Shop) { each() }) },
			"ChangedHosts": func(since uint64, each func()) error { return store.ChangedHosts(ctx, since, func(string) { each() }) },
			"Hosts": func(since uint64, each func()) error {
				_, err := store.Hosts(ctx, since, func(string, podworks.Route) { each() })
				return err
			},
		} {
			n := 0
			before := read()
			checkIs(t, name, ask(since, func() { n++ }), nil)
			if rows := read() - before; n == 0 || rows > 500 {
				t.Errorf("%s: the server read %d rows for %d, want a few", name, rows, n)
			}
		}
	})
}

// failover raises a pod's epoch and makes it active in another region.
func (m *master) failover(pod podworks.PodID, region podworks.Region) {
	m.t.Helper()
	tx, err := m.db.BeginTx(m.t.Context(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	defer tx.Rollback()
	for _, q := range []struct {
		query string
		args  []any
	}{
		{`UPDATE podworks_version SET version = version + 1`, nil},
		{`UPDATE podworks_pods SET epoch = epoch + 1, region = ?, version = (SELECT version FROM podworks_version) WHERE pod_id = ?`, []any{string(region), int64(pod)}},
	} {
		if _, err := tx.ExecContext(m.t.Context(), q.query, q.args...); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		m.t.Fatal(err)
	}
}

// Writers at once, and readers that ask again and again for what changed since
// they asked last: in the end every reader has every row as it is.
func TestReadersMissNothing(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		const writers, shops, readers = 6, 10, 3
		var writing, reading sync.WaitGroup
		wrote := make(chan struct{})
		for wr := range writers {
			writing.Go(func() {
				for i := range shops {
					shop := podworks.ShopID(100 + wr*shops + i)
					if _, err := m.AddShop(t.Context(), shop, 1, fmt.Sprintf("shop%d.example", shop)); err != nil {
						t.Error(err)
						return
					}
					switch i % 3 {
					case 0:
						m.move(shop, 2)
					case 1:
						if _, err := m.CloseShop(t.Context(), shop); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		seen := make([]map[podworks.ShopID]directory.Shop, readers)
		for r := range readers {
			seen[r] = map[podworks.ShopID]directory.Shop{}
			reading.Go(func() {
				var version uint64
				for last := false; ; {
					next, err := m.Version(t.Context())
					if err == nil {
						err = m.Shops(t.Context(), version, func(s directory.Shop) {
							if have := seen[r][s.ID]; have.Epoch > s.Epoch {
								t.Errorf("a reader saw %v after %v", s, have)
							}
							seen[r][s.ID] = s
						})
					}
					if err != nil || next < version {
						t.Errorf("what changed since %d, at %d: %v", version, next, err)
						return
					}
					version = next
					if last {
						return
					}
					select {
					case <-wrote:
						last = true
					default:
					}
				}
			})
		}
		writing.Wait()
		close(wrote)
		reading.Wait()
		want, _ := m.collect(0)
		if len(want) != writers*shops+1 {
			t.Fatalf("there are %d shops, want %d", len(want), writers*shops+1)
		}
		for r := range readers {
			for shop, route := range want {
				if seen[r][shop] != route {
					t.Errorf("reader %d has %v, want %v", r, seen[r][shop], route)
				}
			}
		}
	})
}

func TestSchemaIsWhatMigrateRuns(t *testing.T) {
	t.Parallel()
	got := directory.Schema()
	if len(got) != 6 {
		t.Errorf("Schema has %d statements, want 5 tables and a row", len(got))
	}
	for _, stmt := range got {
		if !strings.Contains(stmt, "podworks_") || strings.HasSuffix(stmt, ";") {
			t.Errorf("Schema has %q, want one statement about a table of ours", stmt)
		}
	}
}
