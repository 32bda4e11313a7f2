package binlog_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// This one runs before the parallel ones, because it measures memory: a
// transaction of 48 MB, of which nothing is kept.
func TestMemoryIsBoundedByEventsNotByTransactions(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)`)
		at := w.now()
		queries := []string{`BEGIN`}
		for range 48 {
			queries = append(queries, `INSERT INTO t (b) VALUES (REPEAT('x', 1 << 20))`)
		}
		w.session(append(queries, `COMMIT`)...)
		most, rows := uint64(0), 0
		done := errors.New("done")
		err := w.stream(nil).Run(t.Context(), at, func(ev binlog.Event) error {
			switch ev := ev.(type) {
			case *binlog.Rows:
				if rows += len(ev.Changes); rows%8 == 0 {
					var m runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapAlloc)
				}
			case *binlog.Commit:
				return done
			}
			return nil
		})
		if err != done || rows != 48 {
			t.Errorf("got %d rows, %v; want 48", rows, err)
		}
		t.Logf("%.1f MB at most", float64(most)/(1<<20))
		if most > 24<<20 {
			t.Errorf("%d MB are in use in the middle of the transaction", most>>20)
		}
	})
}

func TestEventsLargerThanAPacket(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		args := []string{"--max-allowed-packet=256M", "--binlog-row-metadata=FULL"}
		if f == testcluster.MySQL {
			args = append(args, "--innodb-redo-log-capacity=1G")
		} else {
			args = append(args, "--innodb-log-file-size=1G")
		}
		w := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: args}))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB, s LONGTEXT)`)
		at := w.now()
		sizes := []int{1<<24 - 60, 1<<24 - 1, 64 << 20}
		for i, n := range sizes {
			w.exec(fmt.Sprintf(`INSERT INTO t VALUES (%d, REPEAT(x'00ff', %d), 'é')`, i, n/2))
		}
		if f == testcluster.MySQL {
			w.session(`SET SESSION binlog_transaction_compression = ON`, fmt.Sprintf(`INSERT INTO t VALUES (%d, REPEAT(x'00ff', %d), 'é')`, len(sizes), 20<<19))
			sizes = append(sizes, 20<<20)
		}
		n := 0
		err := w.stream(nil).Run(t.Context(), at, func(ev binlog.Event) error {
			rows, ok := ev.(*binlog.Rows)
			if !ok {
				return nil
			}
			got := rows.Changes[0].After
			want := strings.Repeat("\x00\xff", sizes[n]/2)
			if b, ok := got[1].([]byte); !ok || sha256.Sum256(b) != sha256.Sum256([]byte(want)) || got[2] != "é" {
				t.Errorf("row %d: got %T of %d bytes and %v, want %d", n, got[1], len(b), got[2], len(want))
			}
			if n++; n == len(sizes) {
				return context.Canceled
			}
			return nil
		})
		if err != context.Canceled {
			t.Error(err)
		}
	})
}

// blockedAt stops the handler at its first row, in the middle of a log that is
// larger than all buffers, on a server that waits for a reader for one second.
// It returns whether the server had given up after so long.
func blockedAt(t *testing.T, f testcluster.Family, long time.Duration, off bool) (gaveUp bool, st binlog.Stats) {
	t.Helper()
	w := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: []string{"--net-write-timeout=1"}}))
	w.exec(`CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)`)
	at := w.now()
	for range 24 {
		w.exec(`INSERT INTO t (b) VALUES (REPEAT('x', 1 << 20))`)
	}
	readers := func() (n int) {
		var r *sql.Rows
		r, err := w.db.QueryContext(t.Context(), `SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'`)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for r.Next() {
			n++
		}
		return n
	}
	ctx := t.Context()
	if off {
		ctx = hook.With(ctx, &hook.Set{Off: map[hook.Protection]bool{binlog.WaitLong: true}})
	}
	s := w.stream(nil)
	first, rows := true, 0
	done := errors.New("done")
	err := s.Run(ctx, at, func(ev binlog.Event) error {
		if _, ok := ev.(*binlog.Rows); !ok {
			return nil
		}
		rows++
		if first {
			first = false
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for began := time.Now(); time.Since(began) < long && !gaveUp; <-tick.C {
				gaveUp = readers() == 0
			}
			if lag, err := s.Lag(t.Context()); err != nil || lag < 20<<20 {
				t.Errorf("in the first of 24 MB the stream is %d bytes behind, %v", lag, err)
			}
		}
		if rows == 24 {
			return done
		}
		return nil
	})
	if err != done {
		t.Error(err)
	}
	return gaveUp, s.Stats()
}

func TestASlowConsumerIsWaitedFor(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		if gaveUp, st := blockedAt(t, f, 4*time.Second, false); gaveUp || st.Connections != 1 {
			t.Errorf("the server gave up: %t; %d connections, want 1", gaveUp, st.Connections)
		}
	})
}

// Its twin: with the server's own timeout the connection is cut. Nothing is
// lost even so, but a transaction that takes longer would never be finished.
func TestWithTheServersTimeoutASlowConsumerIsCutOff(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		if gaveUp, st := blockedAt(t, f, time.Minute, true); !gaveUp || st.Connections < 2 {
			t.Errorf("the server gave up: %t; %d connections, want more than 1", gaveUp, st.Connections)
		}
	})
}

// When nothing wanted happens, the position moves on nevertheless, and the
// stats say that there is nothing more.
func TestHeartbeatsTellThePositionOfALogWithoutNews(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) {
		w.exec(`CREATE TABLE t (id INT)`, `CREATE TABLE unwanted (id INT)`)
		s := w.stream(&binlog.Options{Tables: func(_, table string) bool { return table == "t" }})
		at := w.now()
		tl := follow(t, s, at)
		for range 20 {
			w.exec(`INSERT INTO unwanted VALUES (1)`)
		}
		w.exec(`FLUSH BINARY LOGS`)
		end := w.now()
		tl.until("a heartbeat at the end", func(events []binlog.Event) bool {
			for _, ev := range events {
				if h, ok := ev.(*binlog.Heartbeat); ok && h.CaughtUp && h.Position.GTIDs == end.GTIDs && h.Position.File == end.File {
					return true
				}
			}
			return false
		})
		st := s.Stats()
		if st.Behind != 0 || !st.Connected || st.Skipped != 20 || st.Transactions != 20 || st.Rows != 0 || st.Events == 0 || st.Bytes == 0 {
			t.Errorf("got %+v", st)
		}
		if lag, err := s.Lag(t.Context()); err != nil || lag > 400 { // a new file's head
			t.Errorf("got a lag of %d, %v", lag, err)
		}
		for _, ev := range tl.soFar() {
			if _, ok := ev.(*binlog.Heartbeat); !ok {
				t.Errorf("got %T", ev)
			}
		}
	})
}

func TestAServerThatDiesAndComesBackIsFollowedOn(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) {
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		tl := follow(t, w.stream(nil), w.now())
		var want strings.Builder
		for i, stop := range []func() error{w.server.Shutdown, w.server.Kill} {
			fmt.Fprintf(&want, "begin\n  insert t [%d]\ncommit\n", i)
			w.exec(fmt.Sprintf(`INSERT INTO t VALUES (%d)`, i))
			tl.until("a row", func(events []binlog.Event) bool { return strings.Count(script(events, ""), "insert t") == i+1 })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if err := w.server.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.db = open(t, w.server, w.name)
		}
		w.exec(`INSERT INTO t VALUES (9)`)
		compare(t, strings.ReplaceAll(tl.end(w), "restart\n", ""), want.String()+"begin\n  insert t [9]\ncommit\n")
	})
}

func TestLoadDataIsRowsOrAStatement(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: []string{"--local-infile=1", "--binlog-row-metadata=FULL"}}))
		name := filepath.Join(t.TempDir(), "rows")
		if err := os.WriteFile(name, []byte("1\n2\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := w.server.Config(w.name)
		cfg.AllowAllFiles = true
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.db = sql.OpenDB(c)
		defer w.db.Close()
		w.exec(`CREATE TABLE t (id INT)`)
		tl := follow(t, w.stream(nil), w.now())
		load := `LOAD DATA LOCAL INFILE '` + name + `' INTO TABLE t`
		w.session(load)
		w.session(`SET SESSION binlog_format = STATEMENT`, load)
		got := tl.end(w)
		if !strings.HasPrefix(got, "begin\n  insert t [1]\n  insert t [2]\ncommit\nbegin\n  write LOAD DATA LOCAL INFILE '") || strings.Count(got, "[<db>.t") != 1 {
			t.Errorf("got\n%s", got)
		}
	})
}

// MariaDB can't tell the GTIDs of a place behind such an event.
func TestNowIsKnownBehindAnEventLargerThanAPacket(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: []string{"--max-allowed-packet=1M", "--binlog-row-metadata=FULL"}}))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB)`, `INSERT INTO t VALUES (1, REPEAT('x', 900000))`, `UPDATE t SET b = REPEAT('y', 900000)`)
		tl := follow(t, w.stream(nil), w.now())
		w.exec(`DELETE FROM t`, `INSERT INTO t VALUES (2, '')`)
		if got := tl.end(w); strings.Count(got, "begin") != 2 || !strings.Contains(got, "insert t [2") {
			t.Errorf("got %.200s, want what came after", got)
		}
	})
}

// What MySQL alone has.
func TestGTIDTagsArePartOfThePosition(t *testing.T) {
	t.Parallel()
	s := testcluster.Start(t, &testcluster.MySQLOptions{Family: testcluster.MySQL, GTID: true})
	w := newWorld(t, s)
	w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
	tl := follow(t, w.stream(nil), w.now())
	for i := range 6 {
		tag := []string{"AUTOMATIC", "AUTOMATIC:blue", "AUTOMATIC:amber"}[i%3]
		w.session(`SET gtid_next = '`+tag+`'`, fmt.Sprintf(`INSERT INTO t VALUES (%d)`, i))
	}
	whole := tl.end(w)
	tl.stop()
	n, last := 0, ""
	for _, ev := range tl.soFar() {
		c, ok := ev.(*binlog.Commit)
		if !ok {
			continue
		}
		last = c.Position.GTIDs
		var same bool
		if err := w.db.QueryRow(`SELECT GTID_SUBSET(?, ?)`, c.GTID, c.Position.GTIDs).Scan(&same); err != nil || !same {
			t.Errorf("%s is not in %s (%v)", c.GTID, c.Position.GTIDs, err)
		}
		if n++; n > 6 {
			break
		}
		rest := follow(t, w.stream(nil), c.Position)
		rest.until("the rest", func(events []binlog.Event) bool { return committed(events, "last_of_all") })
		text, _, _ := strings.Cut(script(rest.soFar(), w.name), "begin\n  definition")
		if want := strings.Join(strings.SplitAfter(whole, "commit\n")[n:], ""); text != want {
			t.Errorf("after %s: got\n%s\nwant\n%s", c.Position, text, want)
		}
		rest.stop()
	}
	if !strings.Contains(last, ":amber:1-2:blue:1-2") {
		t.Errorf("got %s in the end", last)
	}
}

func TestAJSONDocumentThatIsLoggedInPartSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Server(t, testcluster.MySQL))
	w.exec(`CREATE TABLE t (id INT PRIMARY KEY, j JSON)`, `INSERT INTO t VALUES (1, JSON_OBJECT('a', 1, 'b', REPEAT('x', 1000), 'c', 3))`)
	tl := follow(t, w.stream(nil), w.now())
	w.session(`SET SESSION binlog_row_value_options = PARTIAL_JSON`, `UPDATE t SET j = JSON_SET(j, '$.a', 2, '$.c', 4)`)
	got := tl.end(w)
	if !strings.Contains(got, `update t [1 "{`) || !strings.HasSuffix(got, "-> [1 partial JSON]\ncommit\n") {
		t.Errorf("got %s", got)
	}
}

func TestAUserWhoMayNotReadTheLogIsToldAtOnce(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		at := w.now()
		user := w.name + "_u"
		w.exec(`CREATE USER `+user+`@localhost`, `GRANT SELECT ON `+w.name+`.* TO `+user+`@localhost`)
		w.cfg.User = user
		s := w.stream(&binlog.Options{RetryFor: -1})
		if err := s.Run(t.Context(), at, func(binlog.Event) error { return nil }); err == nil || !strings.Contains(strings.ToLower(err.Error()), "denied") {
			t.Errorf("got %v", err)
		}
	})
}

func TestThePrivilegesInTheDocumentationAreEnough(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9))`)
		user := w.name + "_p"
		w.exec(`CREATE USER `+user+`@localhost`, `GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `+user+`@localhost`, `GRANT SELECT ON `+w.name+`.* TO `+user+`@localhost`)
		w.cfg.User = user
		s := w.stream(nil)
		at := w.now()
		w.exec(`INSERT INTO t VALUES (1, 'a')`)
		tl := follow(t, s, at)
		compare(t, tl.end(w), "begin\n  insert t [1 \"a\"]\ncommit\n")
		if _, err := s.Lag(t.Context()); err != nil {
			t.Error(err)
		}
		tl.stop()
		rest := follow(t, w.stream(nil), binlog.Position{File: at.File, Offset: at.Offset})
		rest.until("the row", func(events []binlog.Event) bool { return committed(events, "t") })
	})
}

func TestRunEndsWithTheHandlersErrorOrTheContexts(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		at := w.now()
		w.exec(`INSERT INTO t VALUES (1)`)
		mine := errors.New("the handler's")
		s := w.stream(nil)
		err := s.Run(t.Context(), at, func(ev binlog.Event) error {
			if _, ok := ev.(*binlog.Rows); ok {
				if err := s.Run(t.Context(), at, nil); err == nil || !strings.Contains(err.Error(), "running already") {
					t.Errorf("a second Run: got %v", err)
				}
				return mine
			}
			return nil
		})
		if err != mine {
			t.Errorf("got %v, want the handler's error as it is", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("closing time")
		if err := s.Run(ctx, at, func(binlog.Event) error { cancel(cause); return nil }); err != cause {
			t.Errorf("got %v, want the context's cause", err)
		}
	})
}

func TestAFrozenServerDoesntHoldRun(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f}))
		tl := follow(t, w.stream(nil), w.now())
		tl.until("a heartbeat", func(events []binlog.Event) bool { return len(events) > 0 })
		if err := w.server.Pause(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := tl.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Run went on for %v after its context had ended", took)
		}
		if err := w.server.Resume(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNewRefusesWhatCantWork(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		dsn  string
		says string
	}{
		{"u@tcp(host)/", ""}, // the driver adds the port
		{"u@tcp(host:3306)/?tls=preferred", "preferred"},
	} {
		cfg, err := mysql.ParseDSN(tt.dsn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := binlog.New(cfg, nil); (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %q", tt.dsn, err, tt.says)
		}
	}
	if _, err := binlog.New(nil, nil); err == nil {
		t.Error("no configuration was enough")
	}
	if _, err := binlog.New(&mysql.Config{Net: "tcp", Addr: "host:http"}, nil); err == nil || !strings.Contains(err.Error(), "host:http") {
		t.Errorf("got %v, want an error about the port", err)
	}
}
