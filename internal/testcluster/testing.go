package testcluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Main runs the tests of a package and stops every server that they started.
// It returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	if err := StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if code == 0 {
			code = 1
		}
	}
	return code
}

// AtOnce has n tests of a package run in parallel, or as many as there are processors
// if these are more. It is for tests that wait most of their time, for servers that
// work or start, and is called before Main.
func AtOnce(n int) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(max(n, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
}

// Each runs test once for each family, as subtests mariadb and mysql. A family
// that is not on this machine is skipped, and fails the test where CI is set.
func Each(t *testing.T, test func(*testing.T, Family)) {
	for _, f := range Families() {
		t.Run(string(f), func(t *testing.T) {
			_, err := findBinary(t.Context(), f)
			check(t, err)
			test(t, f)
		})
	}
}

// shared holds the servers of Shared.
var shared struct {
	mu      sync.Mutex
	servers map[string]*sharedServer
}

type sharedServer struct {
	once   sync.Once
	server *MySQLServer
	err    error
}

// Shared returns the server of that family and name: the first call starts it,
// with these arguments, and Main stops it. Tests that share a server leave it
// running and use a Database each.
func Shared(t testing.TB, f Family, name string, args ...string) *MySQLServer {
	t.Helper()
	key := string(f) + "/" + name
	shared.mu.Lock()
	s := shared.servers[key]
	if s == nil {
		s = new(sharedServer)
		if shared.servers == nil {
			shared.servers = make(map[string]*sharedServer)
		}
		shared.servers[key] = s
	}
	shared.mu.Unlock()
	// Not in the test's context: the server outlives it.
	s.once.Do(func() { s.server, s.err = StartMySQL(context.Background(), &MySQLOptions{Family: f, Args: args}) })
	check(t, s.err)
	return s.server
}

// Server returns the first shared server of a family.
func Server(t testing.TB, f Family) *MySQLServer {
	t.Helper()
	return Shared(t, f, "")
}

// Start starts a server for this test alone, which is stopped at its end.
func Start(t testing.TB, opts *MySQLOptions) *MySQLServer {
	t.Helper()
	s, err := StartMySQL(t.Context(), opts)
	check(t, err)
	stopAtEnd(t, s.Process)
	return s
}

// Redis starts a Redis for this test alone, which is stopped at its end.
func Redis(t testing.TB, opts *RedisOptions) *RedisServer {
	t.Helper()
	s, err := StartRedis(t.Context(), opts)
	check(t, err)
	stopAtEnd(t, s.Process)
	return s
}

// Memcached starts a memcached for this test alone, which is stopped at its
// end.
func Memcached(t testing.TB, opts *MemcachedOptions) *MemcachedServer {
	t.Helper()
	s, err := StartMemcached(t.Context(), opts)
	check(t, err)
	stopAtEnd(t, s.Process)
	return s
}

var databases atomic.Uint64

// Database creates an empty database on s and returns its name. It is dropped
// at the end of the test, if the server still runs.
func Database(t testing.TB, s *MySQLServer) string {
	t.Helper()
	db, err := s.open()
	check(t, err)
	defer db.Close()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name+" CHARACTER SET utf8mb4"); err != nil {
		t.Fatalf("creating a database on %s: %v", s.name, err)
	}
	t.Cleanup(func() {
		db, err := s.open()
		if err != nil {
			return
		}
		defer db.Close()
		// The test may have killed, paused, or locked the server: this is
		// cleanliness, not the test.
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_, _ = db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name)
	})
	return name
}

// stopAtEnd stops p at the end of the test.
func stopAtEnd(t testing.TB, p *Process) {
	t.Cleanup(func() {
		if err := p.stop(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
}

// check ends the test if err is not nil: as skipped if the machine lacks the
// server and need not have it.
func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrMissing) && os.Getenv("CI") == "":
		t.Skip(strings.TrimPrefix(err.Error(), "testcluster: "))
	default:
		t.Fatal(err)
	}
}
