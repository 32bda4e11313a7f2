package binlog_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// modes are the ways in which a stream can name its place.
var modes = []struct {
	name   string
	family testcluster.Family
	args   []string
}{
	{"mariadb", testcluster.MariaDB, nil},
	{"mysql with GTIDs", testcluster.MySQL, []string{"--gtid-mode=ON", "--enforce-gtid-consistency=ON"}},
	{"mysql without GTIDs", testcluster.MySQL, []string{"--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"}},
}

// eachMode runs a test on a server of its own in each mode.
func eachMode(t *testing.T, test func(t *testing.T, w *world), args ...string) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, m := range modes {
			if m.family != f {
				continue
			}
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				s := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: append(append([]string{"--binlog-row-metadata=FULL"}, m.args...), args...)})
				test(t, newWorld(t, s))
			})
		}
	})
}

// From each position that a stream has told, the rest of the log is exactly
// what comes after it, whether the position is used at once or after the log
// has gone on in other files.
func TestFromEveryPositionTheRestFollows(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) {
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		tl := follow(t, w.stream(nil), w.now())
		for i := range 4 {
			w.exec(fmt.Sprintf(`INSERT INTO t VALUES (%d)`, i), fmt.Sprintf(`INSERT INTO t VALUES (%d), (%d)`, i+10, i+20), `FLUSH BINARY LOGS`)
		}
		w.session(`XA START 'a'`, `INSERT INTO t VALUES (100)`, `XA END 'a'`, `XA PREPARE 'a'`, `XA COMMIT 'a'`)
		w.exec(`ALTER TABLE t ADD v INT`)
		whole := tl.end(w)
		tl.stop()
		var positions []binlog.Position
		for _, ev := range tl.soFar() {
			switch ev := ev.(type) {
			case *binlog.Begin:
				positions = append(positions, ev.Position)
			case *binlog.Commit:
				positions = append(positions, ev.Position)
			case *binlog.Prepare:
				positions = append(positions, ev.Position)
			case *binlog.Heartbeat:
				positions = append(positions, ev.Position)
			}
		}
		if len(positions) < 12 {
			t.Fatalf("got %d positions", len(positions))
		}
		for i, p := range positions[:len(positions)-4] {
			again, err := binlog.ParsePosition(p.String())
			if err != nil || again != p {
				t.Errorf("%s is parsed as %s, %v", p, again, err)
			}
			rest := follow(t, w.stream(nil), again)
			rest.until("the last row", func(events []binlog.Event) bool { return committed(events, "last_of_all") })
			rest.stop()
			text, _, _ := strings.Cut(script(rest.soFar(), w.name), "begin\n  definition CREATE TABLE IF NOT EXISTS last_of_all")
			if !strings.HasSuffix(whole, text) || text == "" && i < 8 {
				t.Errorf("from position %d, %s: got\n%s\nwant an end of\n%s", i, p, text, whole)
			}
		}
	})
}

// The log goes on in a new server, which has other files, and other offsets.
func TestAFailoverLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		primary := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, TCP: true, GTID: true})
		replica := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, GTID: true, ReplicaOf: primary})
		w := newWorld(t, primary)
		var use atomic.Pointer[testcluster.MySQLServer]
		use.Store(primary)
		w.cfg.Net, w.cfg.Addr = "tcp", "shop.internal:3306"
		w.cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", use.Load().Socket())
		}
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		tl := follow(t, w.stream(nil), w.now())
		insert := func(from, to int) {
			for i := from; i < to; i++ {
				w.exec(fmt.Sprintf(`INSERT INTO t VALUES (%d)`, i))
			}
		}
		has := func(n int) func([]binlog.Event) bool {
			return func(events []binlog.Event) bool { return strings.Count(script(events, ""), "insert t") >= n }
		}
		insert(0, 10)
		tl.until("rows of the primary", has(10))
		// The replica's log gets files of its own.
		if _, err := open(t, replica, "").ExecContext(t.Context(), `FLUSH BINARY LOGS`); err != nil {
			t.Fatal(err)
		}
		insert(10, 15)
		if err := replica.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		use.Store(replica)
		if err := primary.Kill(); err != nil {
			t.Fatal(err)
		}
		w.db = open(t, replica, w.name)
		if f == testcluster.MariaDB {
			w.exec(`STOP SLAVE`)
		} else {
			w.exec(`STOP REPLICA`)
		}
		insert(15, 20)
		got := tl.end(w)
		var want strings.Builder
		for i := range 20 {
			fmt.Fprintf(&want, "begin\n  insert t [%d]\ncommit\n", i)
		}
		compare(t, strings.ReplaceAll(got, "restart\n", ""), want.String())
		servers := map[string]bool{}
		for _, ev := range tl.soFar() {
			if c, ok := ev.(*binlog.Commit); ok {
				servers[c.Position.Server] = true
			}
		}
		if len(servers) != 2 || servers[""] {
			t.Errorf("the positions are of servers %v, want of two", servers)
		}
	})
}

// A server that took over without the last transactions is not followed in
// silence, nor is one from before its log.
func TestAServerThatLacksWhatWasDeliveredIsRefused(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) {
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		at := w.now()
		other := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: w.family, GTID: true}))
		s := other.stream(&binlog.Options{RetryFor: time.Nanosecond})
		err := s.Run(t.Context(), at, func(binlog.Event) error { return nil })
		want := binlog.ErrDiverged
		if at.GTIDs == "" {
			want = binlog.ErrOtherServer
		}
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	})
}

// lossy follows a primary, which dies before its replica has the last two of
// its transactions, and then the replica, which has taken over.
func lossy(t *testing.T, f testcluster.Family, off ...hook.Protection) (*tail, *world) {
	t.Helper()
	primary := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, TCP: true, GTID: true})
	replica := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, GTID: true, ReplicaOf: primary, Args: []string{"--binlog-row-metadata=FULL"}})
	w := newWorld(t, primary)
	var use atomic.Pointer[testcluster.MySQLServer]
	use.Store(primary)
	w.cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", use.Load().Socket())
	}
	w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`, `INSERT INTO t VALUES (1)`)
	if err := replica.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := `STOP REPLICA`
	if f == testcluster.MariaDB {
		stop = `STOP SLAVE`
	}
	onReplica := open(t, replica, w.name)
	if _, err := onReplica.ExecContext(t.Context(), stop); err != nil {
		t.Fatal(err)
	}
	set := &hook.Set{Off: map[hook.Protection]bool{}}
	for _, p := range off {
		set.Off[p] = true
	}
	tl := followIn(hook.With(t.Context(), set), t, w.stream(&binlog.Options{Tables: w.mine, RetryFor: 3 * time.Second}), w.now())
	w.exec(`INSERT INTO t VALUES (2)`, `INSERT INTO t VALUES (3)`)
	tl.until("the last rows of the primary", func(events []binlog.Event) bool { return strings.Contains(script(events, ""), "insert t [3]\ncommit") })
	use.Store(replica)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	w.db = onReplica
	w.exec(`INSERT INTO t VALUES (4)`)
	return tl, w
}

func TestALossyFailoverIsNotFollowedInSilence(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		tl, _ := lossy(t, f)
		if err := tl.fails(); !errors.Is(err, binlog.ErrDiverged) {
			t.Errorf("got %v, want ErrDiverged", err)
		}
	})
}

// Its twin. MariaDB refuses by itself; MySQL looks only at the GTIDs that it has
// given out itself.
func TestWithoutTheComparisonALossyFailoverIsFollowed(t *testing.T) {
	t.Parallel()
	tl, w := lossy(t, testcluster.MySQL, binlog.CompareSet)
	got := tl.end(w)
	if !strings.Contains(got, "insert t [3]") || !strings.Contains(got, "insert t [4]") {
		t.Errorf("got\n%s", got)
	}
	var n int
	if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM t WHERE id IN (2, 3)`).Scan(&n); err != nil || n != 0 {
		t.Errorf("the new primary has %d of the rows that were delivered, %v", n, err)
	}
}

func TestALogThatIsGoneIsAnError(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) {
		at := w.now()
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`, `INSERT INTO t VALUES (1)`, `FLUSH BINARY LOGS`, `INSERT INTO t VALUES (2)`, `FLUSH BINARY LOGS`)
		purge := func() bool {
			w.exec(fmt.Sprintf(`PURGE BINARY LOGS TO '%s'`, w.now().File))
			r, err := w.db.QueryContext(t.Context(), `SHOW BINARY LOGS`)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			n := 0
			for r.Next() {
				n++
			}
			return n == 1
		}
		for deadline := time.Now().Add(time.Minute); !purge(); { // a file is in use for a moment longer
			if time.Now().After(deadline) {
				t.Fatal("the server keeps its logs")
			}
		}
		err := w.stream(nil).Run(t.Context(), at, func(binlog.Event) error { return nil })
		if !errors.Is(err, binlog.ErrPurged) {
			t.Errorf("got %v, want ErrPurged", err)
		}
	})
}

func TestAPlaceInsideOfATransactionIsRefused(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) {
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		at := w.now()
		w.exec(`INSERT INTO t VALUES (1)`)
		r, err := w.db.QueryContext(t.Context(), fmt.Sprintf(`SHOW BINLOG EVENTS IN '%s' FROM %d`, at.File, at.Offset))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		tried := 0
		for r.Next() {
			var file, kind, server, info string
			var from, to uint64
			if err := r.Scan(&file, &from, &kind, &server, &to, &info); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(kind, "id") || info == "BEGIN" { // the first events of a transaction, and Xid, its last
				continue
			}
			tried++
			for _, p := range []binlog.Position{{File: file, Offset: from}, {File: file, Offset: from + 3}} {
				s := w.stream(&binlog.Options{RetryFor: time.Nanosecond})
				err := s.Run(t.Context(), p, func(ev binlog.Event) error {
					if _, ok := ev.(*binlog.Rows); ok {
						t.Errorf("from %s, which is %s, rows are delivered", p, kind)
					}
					return nil
				})
				if !errors.Is(err, binlog.ErrPosition) && !errors.Is(err, binlog.ErrPurged) {
					t.Errorf("from %s, which is %s + %d: got %v, want ErrPosition", p, kind, p.Offset-from, err)
				}
			}
		}
		if tried < 2 {
			t.Errorf("%d places were tried", tried)
		}
		for _, p := range []binlog.Position{{}, {Offset: 4}, {File: "a b", Offset: 4}, {GTIDs: "x"}} {
			if err := w.stream(nil).Run(t.Context(), p, func(binlog.Event) error { return nil }); !errors.Is(err, binlog.ErrPosition) {
				t.Errorf("from %+v: %v", p, err)
			}
		}
	})
}
