package directory_test

import (
	"context"
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

// collect returns the shops whose routes changed since.
func (m *master) collect(since uint64) (routes map[podworks.ShopID]podworks.Route, version uint64) {
	m.t.Helper()
	routes = map[podworks.ShopID]podworks.Route{}
	version, err := m.Routes(m.t.Context(), since, func(r podworks.Route) { routes[r.Shop] = r })
	if err != nil {
		m.t.Fatal(err)
	}
	return routes, version
}

func TestRoutesAndHostsSinceAVersion(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		m.addShop(2, 2, "two.example", "deux.example")
		m.addShop(3, 3, "three.example")
		all, v := m.collect(0)
		if len(all) != 3 || all[2] != (podworks.Route{Shop: 2, Pod: 2, Region: "here", Epoch: 1}) {
			t.Errorf("Routes since 0 = %v, want all three", all)
		}
		if none, same := m.collect(v); len(none) != 0 || same != v {
			t.Errorf("Routes since %d = %v, %d; want none and the same version", v, none, same)
		}
		hosts := func(since uint64) (map[string]podworks.ShopID, uint64) {
			t.Helper()
			got := map[string]podworks.ShopID{}
			v, err := m.Hosts(t.Context(), since, func(h string, r podworks.Route) { got[h] = r.Shop })
			if err != nil {
				t.Fatal(err)
			}
			return got, v
		}
		got, hv := hosts(0)
		if len(got) != 3 || got["deux.example"] != 2 || hv != v {
			t.Errorf("Hosts since 0 = %v, %d; want three at version %d", got, hv, v)
		}

		for _, c := range []struct {
			name   string
			change func()
			shops  []podworks.ShopID
			hosts  []string
		}{
			{"a new shop", func() { m.addShop(4, 1) }, []podworks.ShopID{4}, nil},
			{"a new host", func() { m.addShop(2, 2, "zwei.example") }, nil, []string{"zwei.example"}},
			{"nothing new", func() { m.addShop(2, 2, "zwei.example") }, nil, nil},
			{"a new pod", func() { checkIs(t, "AddPod", m.AddPod(t.Context(), 4, "here"), nil) }, nil, nil},
			{"a move", func() { m.move(2, 3) }, []podworks.ShopID{2}, []string{"two.example", "deux.example", "zwei.example"}},
			{"a failover", func() { m.failover(3, "there") }, []podworks.ShopID{2, 3}, []string{"two.example", "deux.example", "zwei.example", "three.example"}},
		} {
			c.change()
			routes, next := m.collect(v)
			if next <= v {
				t.Errorf("after %s the version is %d, want more than %d", c.name, next, v)
			}
			if len(routes) != len(c.shops) {
				t.Errorf("after %s: Routes = %v, want shops %v", c.name, routes, c.shops)
			}
			for _, shop := range c.shops {
				if want, err := m.Lookup(t.Context(), shop); err != nil || routes[shop] != want {
					t.Errorf("after %s: Routes has %v, Lookup %v (%v)", c.name, routes[shop], want, err)
				}
			}
			got, hostVersion := hosts(v)
			if hostVersion != next || len(got) != len(c.hosts) {
				t.Errorf("after %s: Hosts = %v at %d, want %v at %d", c.name, got, hostVersion, c.hosts, next)
			}
			for _, h := range c.hosts {
				if got[h] == 0 {
					t.Errorf("after %s: Hosts = %v, want %s too", c.name, got, h)
				}
			}
			v = next
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
					if i%3 == 0 {
						m.move(shop, 2)
					}
				}
			})
		}
		seen := make([]map[podworks.ShopID]podworks.Route, readers)
		for r := range readers {
			seen[r] = map[podworks.ShopID]podworks.Route{}
			reading.Go(func() {
				var version uint64
				for last := false; ; {
					next, err := m.Routes(context.Background(), version, func(route podworks.Route) {
						if have := seen[r][route.Shop]; have.Epoch > route.Epoch {
							t.Errorf("a reader saw %v after %v", route, have)
						}
						seen[r][route.Shop] = route
					})
					if err != nil || next < version {
						t.Errorf("Routes since %d = %d, %v", version, next, err)
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
