package master_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// A pair is a primary and its replica.
type pair struct{ primary, replica *testcluster.MySQLServer }

// Starting a server takes seconds on a busy machine, so each family has two
// pairs, one that tests share and one that a test at a time may break, and a
// server that names no transaction.
var pairs = map[testcluster.Family]*struct {
	shared, fragile place
	unnamed         struct {
		mu     sync.Mutex
		server *testcluster.MySQLServer
	}
}{
	testcluster.MariaDB: {},
	testcluster.MySQL:   {},
}

type place struct {
	mu   sync.Mutex // of a fragile pair held by the test that has it
	pair *pair      // or nil, and is started when it is needed
}

// sharedServers returns a pair that tests leave running.
func sharedServers(t testing.TB, f testcluster.Family) pair {
	t.Helper()
	p := &pairs[f].shared
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.start(t, f)
}

// fragileServers returns a pair that this test alone has, and may stop, pause and
// kill, if it leaves both servers running, and the replica following. A server
// that is restarted follows by itself: MySQL 9.7 can crash if it is told to START
// REPLICA while it begins to.
func fragileServers(t testing.TB, f testcluster.Family) pair {
	t.Helper()
	p := &pairs[f].fragile
	p.mu.Lock()
	t.Cleanup(func() {
		if t.Failed() {
			p.pair = nil // testcluster.Main stops what is left of it
		}
		p.mu.Unlock()
	})
	return p.start(t, f)
}

// unnamedServer returns a server without a binary log and without GTIDs, which
// tests leave running.
func unnamedServer(t testing.TB, f testcluster.Family) *testcluster.MySQLServer {
	t.Helper()
	u := &pairs[f].unnamed
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.server == nil {
		opts := &testcluster.MySQLOptions{Family: f, NoBinlog: true}
		if f == testcluster.MySQL {
			opts.Args = []string{"--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"}
		}
		var err error
		if u.server, err = testcluster.StartMySQL(context.Background(), opts); err != nil {
			t.Fatal(err)
		}
	}
	return u.server
}

func (p *place) start(t testing.TB, f testcluster.Family) pair {
	t.Helper()
	if p.pair == nil {
		ctx := context.Background() // the servers outlive the test
		primary, err := testcluster.StartMySQL(ctx, &testcluster.MySQLOptions{Family: f, GTID: true, TCP: true})
		if err != nil {
			t.Fatal(err)
		}
		replica, err := testcluster.StartMySQL(ctx, &testcluster.MySQLOptions{Family: f, GTID: true, ReadOnly: true, ReplicaOf: primary})
		if err != nil {
			t.Fatal(err)
		}
		p.pair = &pair{primary, replica}
	}
	return *p.pair
}

// A world is a database on a pair, with the package's tables and a table things.
type world struct {
	t testing.TB
	pair
	name string
	*master.Master
	primary *sql.DB // the Master's
	replica *sql.DB // the Master's
	admin   *sql.DB // on the replica, with sessions that can write
}

// newWorld makes a world. adjust, if not nil, changes how the primary is
// connected to.
func newWorld(t testing.TB, p pair, opts *master.Options, adjust func(*mysql.Config)) *world {
	t.Helper()
	w := &world{t: t, pair: p, name: testcluster.Database(t, p.primary)}
	w.primary = openPool(t, connect(t, p.primary, w.name, adjust))
	w.replica = openPool(t, master.ReadOnly(connect(t, p.replica, w.name, nil)))
	w.admin = openPool(t, connect(t, p.replica, "", nil))
	w.Master = w.newMaster(opts)
	if err := w.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec(`CREATE TABLE things (id BIGINT NOT NULL PRIMARY KEY, v INT NOT NULL) ENGINE=InnoDB`)
	w.awaitReplica(0)
	return w
}

// newMaster returns another Master on the same pools, as of another process.
func (w *world) newMaster(opts *master.Options) *master.Master {
	w.t.Helper()
	m, err := master.New(w.primary, w.replica, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func openPool(t testing.TB, c driver.Connector) *sql.DB {
	t.Helper()
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db
}

func connect(t testing.TB, s *testcluster.MySQLServer, name string, adjust func(*mysql.Config)) driver.Connector {
	t.Helper()
	cfg := s.Config(name)
	cfg.Logger = &mysql.NopLogger{} // it would print what it thinks of the faults we make
	if adjust != nil {
		adjust(cfg)
	}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exec runs a statement on the primary, past the package.
func (w *world) exec(query string) {
	w.t.Helper()
	if _, err := w.primary.ExecContext(w.t.Context(), query); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
}

// stopReplica stops the replica from applying what it receives.
func (w *world) stopReplica() { w.t.Helper(); w.onReplica(`STOP REPLICA SQL_THREAD`) }

func (w *world) startReplica() { w.t.Helper(); w.onReplica(`START REPLICA SQL_THREAD`) }

// awaitReplica returns when the replica has so many things.
func (w *world) awaitReplica(things int) {
	w.t.Helper()
	await(w.t, "the replica to follow", func() bool {
		var n int
		err := w.admin.QueryRowContext(w.t.Context(), `SELECT COUNT(*) FROM `+w.name+`.things`).Scan(&n)
		return err == nil && n == things
	})
}

func (w *world) onReplica(query string) {
	w.t.Helper()
	if _, err := w.admin.ExecContext(w.t.Context(), query); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
}

// put writes a thing in a transaction.
func put(ctx context.Context, m *master.Master, id int) error {
	return m.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO things (id, v) VALUES (%d, 1)`, id))
		return err
	})
}

// mustPut writes a thing.
func (w *world) mustPut(ctx context.Context, id int) {
	w.t.Helper()
	if err := put(ctx, w.Master, id); err != nil {
		w.t.Fatal(err)
	}
}

// A sight is what a read saw, and where.
type sight struct {
	things int
	server uint32
}

// see counts the things.
func see(ctx context.Context, m *master.Master) (s sight, err error) {
	err = m.Read(ctx, func(ctx context.Context, q master.Querier) error {
		return q.QueryRowContext(ctx, `SELECT COUNT(*), @@server_id FROM things`).Scan(&s.things, &s.server)
	})
	return s, err
}

// wantSight fails the test if a read does not see so many things on that server.
func (w *world) wantSight(ctx context.Context, things int, on *testcluster.MySQLServer) {
	w.t.Helper()
	got, err := see(ctx, w.Master)
	if want := (sight{things, on.ServerID()}); err != nil || got != want {
		w.t.Errorf("a read saw %+v, %v; want %+v", got, err, want)
	}
}

// await returns when done says so, and fails the test when it doesn't in time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// wantErr fails the test if err is not want, or says none of the words.
func wantErr(t testing.TB, what string, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %q, want it to say %q", what, err, word)
		}
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	db := openPool(t, connectNowhere(t))
	for _, tt := range []struct {
		name             string
		primary, replica *sql.DB
		opts             *master.Options
		want             []string
	}{
		{name: "none", primary: db},
		{name: "no primary", want: []string{"the primary is nil"}},
		{name: "one database twice", primary: db, replica: db, want: []string{"the replica is the primary"}},
		{name: "wait and primary", opts: &master.Options{Wait: -1}, want: []string{"Wait is -1ns, want a positive duration", "the primary is nil"}},
	} {
		m, err := master.New(tt.primary, tt.replica, tt.opts)
		if (err != nil) != (tt.want != nil) || (m != nil) == (tt.want != nil) {
			t.Errorf("%s: New = %v, %v; want %q", tt.name, m, err, tt.want)
			continue
		}
		for _, word := range tt.want {
			if !strings.HasPrefix(err.Error(), "master: ") || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %q, want it to say %q", tt.name, err, word)
			}
		}
	}
}

// connectNowhere returns a connector to a server that isn't there.
func connectNowhere(t testing.TB) driver.Connector {
	t.Helper()
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.Logger = "unix", t.TempDir()+"/none", &mysql.NopLogger{}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		if err := w.Migrate(t.Context()); err != nil {
			t.Errorf("Migrate where everything is there: %v", err)
		}
		for _, stmt := range master.Schema() {
			if !strings.Contains(stmt, "CREATE TABLE IF NOT EXISTS podworks_") {
				t.Errorf("Schema has %q, want tables podworks_*", stmt)
			}
		}
	})
}
