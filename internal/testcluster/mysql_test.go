package testcluster

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// connect opens a pool with the configuration c.
func connect(t *testing.T, c *mysql.Config) *sql.DB {
	t.Helper()
	c.Logger = &mysql.NopLogger{} // servers die here
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// value returns the answer to a query for one value.
func value(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	var v string
	if err := db.QueryRowContext(t.Context(), query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, f Family) {
		s := Start(t, &MySQLOptions{Family: f, TCP: true})
		overTCP := s.Config("")
		overTCP.User, overTCP.Net, overTCP.Addr = AppUser, "tcp", s.Addr()
		for _, c := range []*mysql.Config{s.Config(""), overTCP} {
			db := connect(t, c)
			if got := value(t, db, "SELECT version()"); !strings.HasPrefix(got, s.Version()) || strings.Contains(got, "MariaDB") != (f == MariaDB) {
				t.Errorf("over %s: version() is %s, want %s of %s", c.Net, got, s.Version(), f)
			}
			if got := value(t, db, "SELECT CONCAT_WS(' ', @@time_zone, @@character_set_server, @@binlog_row_image, @@log_bin + 0, @@read_only + 0)"); got != "+00:00 utf8mb4 FULL 1 0" {
				t.Errorf("over %s: settings are %s", c.Net, got)
			}
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		wantGone(t, s.Pid(), s.Dir())
		if err := s.Stop(); err != nil {
			t.Errorf("second Stop: %v", err)
		}
		if err := s.Restart(t.Context()); err == nil {
			t.Error("Restart after Stop went well, want an error")
		}
	})
}

func TestOptionsReachTheServer(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, f Family) {
		s := Start(t, &MySQLOptions{
			Family: f, BinlogFormat: "MIXED", BinlogRowImage: "MINIMAL", ServerID: 7, GTID: true, ReadOnly: true, Durable: true,
			Args: []string{"--max-connections=77"},
		})
		root := connect(t, s.Config(""))
		got := value(t, root, "SELECT CONCAT_WS(' ', @@binlog_format, @@binlog_row_image, @@server_id, @@innodb_flush_log_at_trx_commit, @@sync_binlog, @@max_connections)")
		if got != "MIXED MINIMAL 7 1 1 77" {
			t.Errorf("settings are %s", got)
		}
		gtid := "SELECT @@gtid_strict_mode"
		if f == MySQL {
			gtid = "SELECT @@gtid_mode = 'ON'"
		}
		if got := value(t, root, gtid); got != "1" {
			t.Errorf("%s is %s, want 1", gtid, got)
		}
		c := s.Config("")
		c.User = AppUser
		if _, err := connect(t, c).ExecContext(t.Context(), "CREATE DATABASE x"); err == nil {
			t.Errorf("%s wrote to a read-only server", AppUser)
		}
		if _, err := root.ExecContext(t.Context(), "CREATE DATABASE x"); (err == nil) != (f == MariaDB) {
			t.Errorf("root writing to a read-only %s: %v", f, err)
		}
	})
}

func TestImpossibleOptionsAreAllNamed(t *testing.T) {
	t.Parallel()
	source := &MySQLServer{family: MySQL, id: 3}
	_, err := StartMySQL(t.Context(), &MySQLOptions{ReplicaOf: source, ServerID: 3, NoBinlog: true, GTID: true})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"TCP: true", "mysql", "ServerID is 3", "NoBinlog"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestAReplicaReplicates(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, f Family) {
		for _, gtid := range []bool{false, true} {
			source := Start(t, &MySQLOptions{Family: f, TCP: true, GTID: gtid})
			from := connect(t, source.Config(""))
			// Before there is a replica: it begins at the beginning.
			execute(t, from, "CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY)", "INSERT INTO shop.t VALUES (1)")
			replica := Start(t, &MySQLOptions{Family: f, ReplicaOf: source, GTID: gtid, ReadOnly: true})
			execute(t, from, "INSERT INTO shop.t VALUES (2)")
			if err := replica.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			to := connect(t, replica.Config(""))
			if got := value(t, to, "SELECT GROUP_CONCAT(id ORDER BY id) FROM shop.t"); got != "1,2" {
				t.Errorf("gtid %v: the replica has rows %s, want 1,2", gtid, got)
			}
			if f == MariaDB && !gtid {
				continue // no need to see this four times
			}
			// It goes on after a crash of either.
			if err := errors.Join(replica.Kill(), replica.Restart(t.Context())); err != nil {
				t.Fatal(err)
			}
			execute(t, from, "INSERT INTO shop.t VALUES (3)")
			if err := replica.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := value(t, to, "SELECT GROUP_CONCAT(id ORDER BY id) FROM shop.t"); got != "1,2,3" {
				t.Errorf("gtid %v: after a restart the replica has rows %s, want 1,2,3", gtid, got)
			}
		}
	})
}

func TestAPausedServerHangsAndAResumedOneAnswers(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, f Family) {
		s := Start(t, &MySQLOptions{Family: f})
		db := connect(t, s.Config(""))
		value(t, db, "SELECT 1")
		if err := s.Pause(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := db.ExecContext(ctx, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a query to a paused server ended with %v, want its deadline", err)
		}
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
		value(t, db, "SELECT 1")

		// A paused server can be ended in each way.
		if err := errors.Join(s.Pause(), s.Shutdown(), s.Restart(t.Context()), s.Pause(), s.Kill()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAKilledServerRestartsWithWhatWasCommitted(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, f Family) {
		s := Start(t, &MySQLOptions{Family: f})
		db := connect(t, s.Config(Database(t, s)))
		execute(t, db, "CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(t.Context(), "INSERT INTO t VALUES (2)"); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(t.Context()); err == nil {
			t.Error("Restart of a running server went well, want an error")
		}
		socket, before := s.Socket(), s.Pid()
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(t.Context(), "INSERT INTO t VALUES (3)"); err == nil {
			t.Error("a killed server answered")
		}
		_ = tx.Rollback()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.Socket() != socket || s.Pid() == before {
			t.Errorf("restarted as %d on %s, want another process on %s", s.Pid(), s.Socket(), socket)
		}
		if got := value(t, db, "SELECT GROUP_CONCAT(id) FROM t"); got != "1" {
			t.Errorf("rows after the restart are %s, want 1", got)
		}
	})
}

func TestAServerThatDoesNotStartSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, f Family) {
		var dir string
		_, err := StartMySQL(t.Context(), &MySQLOptions{Family: f, Args: []string{"--no-such-option=1"}})
		if err == nil {
			t.Fatal("it started")
		}
		for _, want := range []string{string(f), "exit status", "no-such-option"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not say %q:\n%v", want, err)
			}
		}
		base, err := baseDir()
		if err != nil {
			t.Fatal(err)
		}
		logs, _ := filepath.Glob(filepath.Join(base, string(f)+"-*", "log"))
		for _, log := range logs {
			if b, _ := os.ReadFile(log); strings.Contains(string(b), "no-such-option") {
				dir = filepath.Dir(log)
			}
		}
		if dir != "" {
			t.Errorf("%s was left behind", dir)
		}
	})
}

func TestAServerThatDiedIsReportedByStop(t *testing.T) {
	t.Parallel()
	_, err := findBinary(t.Context(), MariaDB)
	check(t, err)
	s, err := StartMySQL(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, connect(t, s.Config("")), "SHUTDOWN")
	<-s.Exited()
	if err := s.Stop(); err == nil || !strings.Contains(err.Error(), "by itself") {
		t.Errorf("Stop said %v, want that the server had ended by itself", err)
	}
	wantGone(t, s.Pid(), s.Dir())
}

func TestSharedServersAreSharedByName(t *testing.T) {
	t.Parallel()
	s := Server(t, MariaDB)
	if Server(t, MariaDB) != s || Shared(t, MariaDB, "second") == s {
		t.Error("the same name must give the same server, another name another")
	}
	one, two := Database(t, s), Database(t, s)
	if one == two {
		t.Errorf("two databases are called %s", one)
	}
}
