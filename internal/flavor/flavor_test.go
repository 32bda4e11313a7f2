package flavor_test

import (
	"context"
	"database/sql"
	"os"
	"strings"
	"testing"

	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

func open(t *testing.T, s *testcluster.MySQLServer) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", s.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestDetect(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		db := open(t, testcluster.Server(t, f))
		got, err := flavor.Detect(t.Context(), db)
		if err != nil || string(got) != string(f) {
			t.Errorf("Detect = %q, %v; want %q", got, err, f)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if got, err := flavor.Detect(ended, db); err == nil || got != "" {
			t.Errorf("Detect of a server that can't be asked = %q, %v; want an error", got, err)
		}
	})
}

func TestBinlogPositionGrows(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		db := open(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f}))
		var file string
		var pos uint32
		for i, step := range []string{`CREATE DATABASE d`, `CREATE TABLE d.t (a INT)`, `INSERT INTO d.t VALUES (1)`, `FLUSH BINARY LOGS`} {
			if _, err := db.ExecContext(t.Context(), step); err != nil {
				t.Fatal(err)
			}
			nextFile, next, err := flavor.BinlogPosition(t.Context(), db, flavor.Flavor(f))
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 && (nextFile < file || nextFile == file && next <= pos) {
				t.Errorf("after %s the log ends at %s:%d, and before at %s:%d", step, nextFile, next, file, pos)
			}
			if !strings.HasPrefix(nextFile, "binlog.") {
				t.Errorf("the log's file is %q, want one of the log's", nextFile)
			}
			file, pos = nextFile, next
		}
	})
}

func TestBinlogPositionWithoutABinlog(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		db := open(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true}))
		_, _, err := flavor.BinlogPosition(t.Context(), db, flavor.Flavor(f))
		if err == nil || !strings.Contains(err.Error(), "binary log") {
			t.Errorf("got %v, want an error that names the binary log", err)
		}
	})
}
