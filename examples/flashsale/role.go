package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/podworks/podworks"
)

// roleArg is the first argument of a process that plays a role.
const roleArg = "role"

// roles are what the processes do. Each returns when its work is finished, or
// soon after ctx ends.
var roles = map[string]func(ctx context.Context, p *process) error{
	"servers": runServers,
	"store":   runStore,
	"edge":    runEdge,
	"worker":  runWorker,
	"buyers":  runBuyers,
	"writer":  runWriter,
	"mover":   runMover,
}

// A plan is what a process has to know. It comes as the first line of its
// standard input, because it holds the key that signs routes.
type plan struct {
	Settings settings
	Process  int64 // part of the numbers that this process makes
	Dir      string
	Servers  servers
	Key      []byte
	Edge     string // where buyers go
	Store    string // where the edge sends them
	Hot      podworks.ShopID
	MoveTo   podworks.PodID
}

// ledger returns the path of a ledger.
func (p *plan) ledger(name string) string { return filepath.Join(p.Dir, name) }

// news is what a process tells the conductor, a line of JSON each.
type news struct {
	Ready   bool        `json:",omitempty"`
	Servers *servers    `json:",omitempty"`
	Buyers  *buyersNews `json:",omitempty"`
	Writer  *writerNews `json:",omitempty"`
	Worker  *workerNews `json:",omitempty"`
	Move    *moveNews   `json:",omitempty"`
}

// A process is one that plays a role, seen from inside.
type process struct {
	plan
	kept atomic.Bool // the conductor said that the servers shall stay

	mu  sync.Mutex
	out *json.Encoder
}

// roleOf tells what role the command line asks for.
func roleOf(args []string) (string, bool) {
	if len(args) != 3 || args[1] != roleArg {
		return "", false
	}
	_, ok := roles[args[2]]
	return args[2], ok
}

// runRole is the main of a process that plays a role.
func runRole(name string) int {
	signal.Ignore(syscall.SIGPIPE) // the conductor may be gone; the end of stdin says so
	p := &process{out: json.NewEncoder(os.Stdout)}
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.plan)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: read the plan: %v\n", name, err)
		return exitFailed
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if line == keepLine {
				p.kept.Store(true)
			}
		}
	}()
	if err := roles[name](ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return exitFine
}

// keepLine tells the servers to stay when their standard input ends.
const keepLine = "keep\n"

// tell sends news to the conductor.
func (p *process) tell(n news) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.out.Encode(n) // a conductor that is gone needs no news
}

// listener returns the listener that the conductor has passed down. Several
// processes may share it; the kernel gives each connection to one of them.
func (p *process) listener() (net.Listener, error) {
	const firstExtra = 3
	f := os.NewFile(firstExtra, "listener")
	defer f.Close()
	return net.FileListener(f)
}

// A child is such a process, seen from the conductor.
type child struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  tail // on stderr

	ready  chan struct{} // closed at its first news
	exited chan struct{} // closed when it has ended; what follows is set before
	err    error
	ended  time.Time
	asked  atomic.Bool // to end
}

// spawn starts a process. Heard is called for its news, one after the other.
func spawn(name, role string, pl plan, listener *os.File, heard func(news)) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	line, err := json.Marshal(pl)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := &child{name: name, cmd: exec.Command(exe, roleArg, role), ready: make(chan struct{}), exited: make(chan struct{})}
	if listener != nil {
		c.cmd.ExtraFiles = []*os.File{listener}
	}
	// In a session of its own, so that an interrupt from the keyboard reaches
	// the conductor alone, which ends the others in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.cmd.Stderr = &c.said
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go c.listen(out, heard)
	if _, err := c.stdin.Write(append(line, '\n')); err != nil {
		c.stop(0)
		return nil, fmt.Errorf("%s: give it the plan: %w", name, err)
	}
	return c, nil
}

// listen reads the child's news until it ends.
func (c *child) listen(out io.Reader, heard func(news)) {
	dec := json.NewDecoder(out)
	first := true
	for {
		var n news
		if err := dec.Decode(&n); err != nil {
			break // its end, or what the exit status will say
		}
		heard(n)
		if first {
			close(c.ready)
			first = false
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if err := c.cmd.Wait(); err != nil {
		c.err = fmt.Errorf("%s ended with %w%s", c.name, err, c.said.quote())
	}
	c.ended = time.Now()
	close(c.exited)
}

// awaitReady waits for the child's first news.
func (c *child) awaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.exited:
		return cmp.Or(c.err, fmt.Errorf("%s ended before it was ready%s", c.name, c.said.quote()))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await waits for the child to end by itself.
func (c *child) await(ctx context.Context) error {
	select {
	case <-c.exited:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stop asks the child to end, and kills it when it takes longer than patience.
func (c *child) stop(patience time.Duration) error {
	c.asked.Store(true)
	c.stdin.Close()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.exited:
		return c.err
	case <-timer.C:
	}
	_ = c.cmd.Process.Kill() // fails if it has ended just now
	<-c.exited
	return fmt.Errorf("%s had to be killed: it had not ended within %v%s", c.name, patience, c.said.quote())
}

// A tail keeps the end of what was written to it.
type tail struct {
	mu  sync.Mutex
	end []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if extra := len(t.end) - tailSize; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
	return len(p), nil
}

// String returns what is kept, without the part of a line at its beginning.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.end
	if len(b) == tailSize {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(bytes.TrimSpace(b))
}

// quote returns it ready to be appended to an error.
func (t *tail) quote() string {
	s := t.String()
	if s == "" {
		return ""
	}
	return ": " + s
}
