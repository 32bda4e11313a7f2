package ferry_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
)

// Writers and movers that are to be killed are this binary again, in processes
// of their own that this variable describes.
const chaosVariable = "PODWORKS_FERRY_CHAOS"

// A chaosRole is what such a process is to do. One of them is set.
type chaosRole struct {
	Writer *chaosWriter  `json:",omitempty"`
	Mover  *chaosMover   `json:",omitempty"`
	Sakila *sakilaWriter `json:",omitempty"`
}

func playChaos(text string) error {
	var r chaosRole
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	_ = mysql.SetLogger(&mysql.NopLogger{}) // connections are broken on purpose here
	if r.Writer != nil {
		return r.Writer.run(os.Stdin, os.Stdout)
	}
	if r.Sakila != nil {
		return r.Sakila.run(os.Stdin, os.Stdout)
	}
	return r.Mover.run(os.Stdin, os.Stdout)
}

// A chaosMover is what a mover's process is told, or a recoverer's or cleaner's. It
// says each step, and waits at one of them to be told to go on.
type chaosMover struct {
	Task      string // "" is to move the shop, "recover", or "clean" the pod To
	Master    string
	Pods      map[podworks.PodID]string
	Shop      podworks.ShopID
	To        podworks.PodID
	Ignore    []string
	Tables    map[string]ferry.Rule
	ChunkRows int
	StopAt    string // a step,
	Nth       int    // which of its passes, from 1
	Off       hook.Protection
}

// chaosOptions are those of every ferry of the harness. The lease is short, so
// that movers are taken for dead that are not.
func chaosOptions(chunkRows int, tables map[string]ferry.Rule) *ferry.Options {
	return &ferry.Options{Tables: tables, ChunkRows: chunkRows, Lease: time.Second, PauseBudget: time.Second, Attempts: 10}
}

func (c *chaosMover) run(in io.Reader, out io.Writer) error {
	master, pods, err := openAll(c.Master, c.Pods)
	if err != nil {
		return err
	}
	opts := chaosOptions(c.ChunkRows, c.Tables)
	opts.Ignore = c.Ignore
	f, err := ferry.New(ferry.NewTables(master), pods, opts)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	var mu sync.Mutex // steps come from several goroutines
	passed := 0
	ctx := hook.With(context.Background(), &hook.Set{Off: map[hook.Protection]bool{c.Off: true, ferry.OffFew: true, ferry.OffGroups: true}, Step: func(step string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(out, "step", step)
		if step != c.StopAt {
			return
		}
		if passed++; passed == c.Nth {
			fmt.Fprintln(out, "stopped")
			lines.Scan()
		}
	}})
	// Who started this process may die of a failed test.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	switch c.Task {
	case "recover":
		return c.recoverAll(ctx, f, ferry.NewTables(master), out)
	case "clean":
		n, err := f.Clean(ctx, c.Shop, c.To)
		said := "cleaned"
		if err != nil {
			said = "failed"
		}
		fmt.Fprintln(out, said, n, err)
		return nil
	}
	report, err := f.Move(ctx, c.Shop, c.To)
	fmt.Fprintln(out, "memory", peakMemory("self"))
	if err != nil {
		fmt.Fprintln(out, "failed", strings.ReplaceAll(err.Error(), "\n", " "))
		return nil
	}
	fmt.Fprintln(out, "moved", report.RowsCopied, report.RowChanges, report.RowsRepaired, repairedTables(report))
	return nil
}

// repairedTables says of which tables rows had to be repaired.
func repairedTables(r *ferry.Report) string {
	var names []string
	for _, d := range r.Evidence.Repaired {
		if !slices.Contains(names, d.Table) {
			names = append(names, d.Table)
		}
	}
	return strings.Join(names, " ")
}

func openAll(masterDSN string, dsns map[podworks.PodID]string) (*sql.DB, map[podworks.PodID]*mysql.Config, error) {
	master, err := sql.Open("mysql", masterDSN)
	if err != nil {
		return nil, nil, err
	}
	pods := map[podworks.PodID]*mysql.Config{}
	for pod, dsn := range dsns {
		if pods[pod], err = mysql.ParseDSN(dsn); err != nil {
			return nil, nil, err
		}
	}
	return master, pods, nil
}

// peakMemory returns the most kilobytes of memory that a process has had, or 0
// where the system doesn't say.
func peakMemory(pid string) (kilobytes int64) {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	if _, rest, ok := strings.Cut(string(text), "VmHWM:"); ok {
		fmt.Sscan(rest, &kilobytes)
	}
	return kilobytes
}

// A child is such a process, as the test sees it.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // what it says; closed when it has ended
}

func startChild(t *testing.T, r chaosRole) *child {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0]), lines: make(chan string, 1<<12)}
	c.cmd.Env = append(os.Environ(), chaosVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(c.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.lines <- lines.Text()
		}
		_ = c.cmd.Wait()
	}()
	t.Cleanup(func() {
		c.kill()
		for range c.lines {
		}
		<-ended
	})
	return c
}

func (c *child) say(line string) { _, _ = fmt.Fprintln(c.in, line) } // to a dead one in vain

func (c *child) kill() { _ = c.cmd.Process.Kill() }

func (c *child) freeze() { _ = c.cmd.Process.Signal(syscall.SIGSTOP) }

func (c *child) thaw() { _ = c.cmd.Process.Signal(syscall.SIGCONT) }
