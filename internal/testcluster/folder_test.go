package testcluster

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// needAll skips or fails the test if one of the small servers is missing.
func needAll(t *testing.T) {
	t.Helper()
	_, err := findTool("PODWORKS_REDIS_SERVER", "redis-server", "valkey-server")
	check(t, err)
	_, err = findTool("PODWORKS_MEMCACHED", "memcached")
	check(t, err)
	_, err = findBinary(t.Context(), MariaDB)
	check(t, err)
}

func TestSweepRemovesWhatADeadProcessLeft(t *testing.T) {
	t.Parallel()
	needAll(t)
	temp := shortDir(t)
	dead := startPlayer(t, "mariadb,redis,memcached", "TMPDIR="+temp)
	dead.await(t, 3)
	if err := dead.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dead.cmd.Wait()
	for _, s := range dead.servers {
		if !runsIn(s.pid, s.dir) {
			t.Fatalf("process %d did not outlive its owner: this test proves nothing", s.pid)
		}
	}
	// The owner may also die between starting a server and noting its pid.
	if err := os.Remove(filepath.Join(dead.servers[0].dir, "pid")); err != nil {
		t.Fatal(err)
	}

	base := filepath.Join(temp, "podworks-"+strconv.Itoa(os.Getuid()))
	if err := sweep(base); err != nil {
		t.Fatal(err)
	}
	for _, s := range dead.servers {
		wantGone(t, s.pid, s.dir)
	}
}

func TestSweepLeavesTheServersOfTheLiving(t *testing.T) {
	t.Parallel()
	needAll(t)
	temp := shortDir(t)
	alive := startPlayer(t, "redis,memcached", "TMPDIR="+temp)
	alive.await(t, 2)

	base := filepath.Join(temp, "podworks-"+strconv.Itoa(os.Getuid()))
	if err := sweep(base); err != nil {
		t.Fatal(err)
	}
	for _, s := range alive.servers {
		if _, err := os.Stat(s.dir); err != nil || !runsIn(s.pid, s.dir) {
			t.Errorf("process %d in %s was swept away: %v", s.pid, s.dir, err)
		}
	}
	alive.finish(t)
	for _, s := range alive.servers {
		wantGone(t, s.pid, s.dir)
	}
}

// The pid that a dead process noted may be anyone's by now.
func TestSweepSignalsNoProcessThatIsNotAServerInTheDirectory(t *testing.T) {
	t.Parallel()
	base := shortDir(t)
	dir := filepath.Join(base, "redis-1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// This process itself, which does not run there.
	for name, content := range map[string]string{"owner": "1\n", "pid": strconv.Itoa(os.Getpid()) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweep(base); err != nil {
		t.Fatal(err)
	}
	wantGone(t, os.Getpid(), dir)
}

func TestBaseDirectoryOfAnotherOrOpenToAllIsRefused(t *testing.T) {
	temp := shortDir(t)
	t.Setenv("TMPDIR", temp)
	base := filepath.Join(temp, "podworks-"+strconv.Itoa(os.Getuid()))
	if got, err := baseDir(); got != base || err != nil {
		t.Fatalf("baseDir() = %q, %v, want %q", got, err, base)
	}
	if err := os.Chmod(base, 0o777); err != nil {
		t.Fatal(err)
	}
	if got, err := baseDir(); err == nil {
		t.Errorf("baseDir() = %q for a directory that all can write, want an error", got)
	}
}
