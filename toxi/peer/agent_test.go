package peer_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/podworks/podworks/internal/leak"
)

// roleEnv makes the test binary a server or a proxy instead: it serves calls on stdin
// and stdout until stdin ends.
const roleEnv = "PODWORKS_PEER_ROLE"

func TestMain(m *testing.M) {
	// Some of Toxiproxy's toxics log past the logger that its server was given.
	zerolog.SetGlobalLevel(zerolog.Disabled)
	if role := os.Getenv(roleEnv); role != "" {
		serve(stdio{os.Stdin, os.Stdout}, role)
		os.Exit(0)
	}
	// What a benchmark does once is a contest of many rounds, and the memory that
	// counts is that of other processes.
	flag.Parse()
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["test.benchtime"] {
		flag.Set("test.benchtime", "1x")
	}
	flag.Set("test.benchmem", "false")

	// Toxiproxy's are its own affair.
	os.Exit(leak.Check(m.Run(), "podworks/toxi.", "podworks/toxi/toxiproxy."))
}

// None is nothing to say or to answer.
type None struct{}

// stdio is a connection to the parent.
type stdio struct {
	io.Reader
	io.WriteCloser
}

// serve is what a process does that has a role, or a goroutine in its place.
func serve(conn io.ReadWriteCloser, role string) {
	s := rpc.NewServer()
	var receiver any = new(Upstream)
	if role != "upstream" {
		receiver = &Agent{kind: kind(role), proxies: make(map[string]proxy)}
	}
	if err := s.RegisterName("Role", receiver); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	s.ServeConn(conn)
}

// A role is a process that plays one, or a part of this one.
type role struct {
	*rpc.Client
	stop func() // may be called twice
}

// start starts a role, which ends with the test at the latest.
func start(tb testing.TB, name string, embedded bool) *role {
	tb.Helper()
	r := new(role)
	tb.Cleanup(func() { r.stop() })
	r.stop = func() {}
	if embedded {
		here, there := net.Pipe()
		go serve(there, name)
		r.Client = rpc.NewClient(here)
		r.stop = sync.OnceFunc(func() {
			r.Call("Role.Close", None{}, new(None))
			r.Close()
		})
		return r
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	r.Client = rpc.NewClient(stdio{stdout, stdin})
	r.stop = sync.OnceFunc(func() {
		r.Close() // closes its stdin, at which it ends
		late := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer late.Stop()
		cmd.Wait()
	})
	return r
}

func (r *role) ask(tb testing.TB, what string, args, answer any) {
	tb.Helper()
	if err := r.Call("Role."+what, args, answer); err != nil {
		tb.Fatalf("%s: %v", what, err)
	}
}

// An Agent is the process of a kind of proxy.
type Agent struct {
	kind kind

	mu      sync.Mutex
	close   []func()
	proxies map[string]proxy        // by their addresses
	faults  map[string]func() error // by their names
}

// Open opens a proxy and tells its address.
func (a *Agent) Open(upstream string, addr *string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	open := kinds[a.kind]
	if open == nil {
		return fmt.Errorf("there is no proxy of kind %q", a.kind)
	}
	p, err := open(upstream)
	if err != nil {
		return err
	}
	a.proxies[p.Addr()] = p
	*addr = p.Addr()
	return nil
}

// API serves the HTTP API of this kind of proxy and tells its URL.
func (a *Agent) API(_ None, url *string) error {
	if apis[a.kind] == nil {
		return fmt.Errorf("%s has no HTTP API", a.kind)
	}
	h, done, err := apis[a.kind]()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.close = append(a.close, func() { s.Close(); done() })
	*url = "http://" + l.Addr().String()
	return nil
}

func (a *Agent) proxy(addr string) (proxy, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.proxies[addr]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s has no proxy at %s", a.kind, addr)
}

// Close closes all proxies. A process is not asked to: it ends.
func (a *Agent) Close(None, *None) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.proxies {
		p.Close()
	}
	for _, f := range a.close {
		f()
	}
	return nil
}

// Faults are the arguments of [Agent.Add].
type Faults struct {
	Addr   string
	Faults []fault
}

// Add adds faults to a proxy, all of which Remove removes.
func (a *Agent) Add(args Faults, _ *None) error {
	p, err := a.proxy(args.Addr)
	if err != nil {
		return err
	}
	for _, f := range args.Faults {
		remove, err := p.Add(f)
		if err != nil {
			return err
		}
		a.mu.Lock()
		if a.faults == nil {
			a.faults = make(map[string]func() error)
		}
		a.faults[args.Addr+" "+f.Name] = remove
		a.mu.Unlock()
	}
	return nil
}

// Remove removes what Add added, by the same arguments.
func (a *Agent) Remove(args Faults, _ *None) error {
	var errs []error
	for _, f := range args.Faults {
		a.mu.Lock()
		remove := a.faults[args.Addr+" "+f.Name]
		delete(a.faults, args.Addr+" "+f.Name)
		a.mu.Unlock()
		if remove == nil {
			return fmt.Errorf("there is no fault %q at %s", f.Name, args.Addr)
		}
		errs = append(errs, remove())
	}
	return errors.Join(errs...)
}

// Stats is what a process has and has had.
type Stats struct {
	Goroutines int
	Files      int // -1 where the system doesn't tell
	HeapAlloc  int64
	InUse      int64 // heap and stacks
	TotalAlloc int64
}

// Stats takes stock, after collecting the garbage if it is asked to.
func (a *Agent) Stats(collect bool, s *Stats) error {
	if collect {
		// What a pool holds lives for two.
		for range 3 {
			runtime.GC()
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	*s = Stats{
		Goroutines: runtime.NumGoroutine(),
		Files:      openFiles(),
		HeapAlloc:  int64(m.HeapAlloc),
		InUse:      int64(m.HeapInuse + m.StackInuse),
		TotalAlloc: int64(m.TotalAlloc),
	}
	return nil
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries) - 1 // the one that reads
}

// Calls are the arguments of [Agent.Control].
type Calls struct {
	Addr   string
	Fault  fault
	N      int
	Limit  time.Duration // for one call
	Toggle bool          // take the proxy down and up, too
}

// Times are the times that control calls took.
type Times struct {
	Add, List, Remove, Toggle []time.Duration

	Hung string // the call that had not returned at the limit, after which there were no more
}

// Control adds, lists and removes a fault N times, and takes the times as a caller of
// the Go API does.
func (a *Agent) Control(args Calls, out *Times) error {
	p, err := a.proxy(args.Addr)
	if err != nil {
		return err
	}
	return control(p, args, out)
}

func control(p proxy, args Calls, out *Times) error {
	var remove func() error
	type call struct {
		name  string
		times *[]time.Duration
		do    func() error
	}
	calls := []call{
		{"add", &out.Add, func() (err error) { remove, err = p.Add(args.Fault); return err }},
		{"list", &out.List, func() error {
			if n := p.List(); n != 1 {
				return fmt.Errorf("%d faults are listed, want 1", n)
			}
			return nil
		}},
		{"remove", &out.Remove, func() error { return remove() }},
	}
	if args.Toggle {
		calls = append(calls, call{"toggle", &out.Toggle, p.Toggle})
	}
	for range args.N {
		for _, c := range calls {
			took, err := within(args.Limit, c.do)
			*c.times = append(*c.times, took)
			if errors.Is(err, errHung) {
				out.Hung = c.name
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

var errHung = errors.New("it has not returned")

// within calls do and waits no longer than limit.
func within(limit time.Duration, do func() error) (time.Duration, error) {
	late := time.NewTimer(limit)
	defer late.Stop()
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- do() }()
	select {
	case err := <-done:
		return time.Since(began), err
	case <-late.C:
		return time.Since(began), errHung
	}
}

// all is every time that was taken, in order.
func (t *Times) all() []time.Duration {
	return slices.Sorted(slices.Values(slices.Concat(t.Add, t.List, t.Remove, t.Toggle)))
}

// Stacks tells what the process's goroutines are doing: the innermost functions of
// each that isn't the runtime's or the net's, and how many there are.
func (a *Agent) Stacks(_ None, out *map[string]int) error {
	buf := make([]byte, 64<<20)
	buf = buf[:runtime.Stack(buf, true)]
	*out = make(map[string]int)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		top := "?"
		for line := range strings.Lines(stack) {
			if name, _, ok := strings.Cut(line, "("); ok && (strings.Contains(name, "toxi") || strings.Contains(name, "peer_test")) && !strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "created") {
				top = path.Base(line[:strings.LastIndex(line, "(")])
				break
			}
		}
		(*out)[top]++
	}
	return nil
}
