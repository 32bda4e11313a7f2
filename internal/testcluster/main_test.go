package testcluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Some tests need another process that uses this package: they run this binary
// again, with the role in this variable.
const roleVariable = "PODWORKS_TESTCLUSTER_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	os.Exit(Main(m))
}

// play starts what role says, prints a line "pid directory" for each server,
// and stops them when its input ends.
func play(role string) int {
	ctx := context.Background()
	for name := range strings.SplitSeq(role, ",") {
		var (
			p   *Process
			err error
		)
		switch name {
		case "mariadb", "mysql":
			var s *MySQLServer
			if s, err = StartMySQL(ctx, &MySQLOptions{Family: Family(name)}); err == nil {
				p = s.Process
			}
		case "redis":
			var s *RedisServer
			if s, err = StartRedis(ctx, &RedisOptions{TCP: true}); err == nil {
				p = s.Process
			}
		case "memcached":
			var s *MemcachedServer
			if s, err = StartMemcached(ctx, &MemcachedOptions{TCP: true}); err == nil {
				p = s.Process
			}
		default:
			err = fmt.Errorf("role %q", name)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(p.Pid(), p.Dir())
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := StopAll(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// A player is a process that plays a role.
type player struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	lines   *bufio.Scanner
	servers []played
}

type played struct {
	pid int
	dir string
}

// startPlayer starts a process with that role and those variables.
func startPlayer(t *testing.T, role string, env ...string) *player {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), roleVariable+"="+role), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &player{cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return p
}

// await returns when the role's n servers run.
func (p *player) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		if !p.lines.Scan() {
			t.Fatalf("the other process ended before its servers ran: %v", p.lines.Err())
		}
		number, dir, _ := strings.Cut(p.lines.Text(), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("the other process said %q", p.lines.Text())
		}
		p.servers = append(p.servers, played{pid, dir})
	}
}

// finish lets the process stop its servers and end.
func (p *player) finish(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	var rest bytes.Buffer
	for p.lines.Scan() {
		rest.WriteString(p.lines.Text())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the other process ended with %v: %s", err, rest.String())
	}
}

// shortDir returns a directory for a test in which paths of sockets are short
// enough; that of t.TempDir contains the test's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pw-")
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// wantGone fails if the server's process or directory is there.
func wantGone(t *testing.T, pid int, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory %s is still there (%v)", dir, err)
	}
	if runsIn(pid, dir) {
		t.Errorf("process %d still runs", pid)
	}
}
