package toxitest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/toxitest"
)

// serve starts a server that handles each connection by handle and then closes it. At the
// end of the test all of them are closed, and it waits for them.
func serve(t testing.TB, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu    sync.Mutex
		over  bool
		conns []net.Conn
		wg    sync.WaitGroup
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			if over {
				c.Close()
			}
			mu.Unlock()
			wg.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		over = true
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

func echo(c net.Conn) { io.Copy(c, c) }

// ask connects to addr, sends something to an echo server and waits for it.
func ask(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 4))
	return err
}

func TestAProxyLivesAsLongAsItsTest(t *testing.T) {
	t.Parallel()
	var served atomic.Int32
	upstream := serve(t, func(c net.Conn) {
		served.Add(1)
		echo(c)
	})
	var p *toxitest.Proxy
	t.Run("inner", func(t *testing.T) {
		p = toxitest.New(t, upstream)
		if err := ask(p.Addr()); err != nil {
			t.Error(err)
		}
		p.Add(toxi.Latency{})
	})
	// What the dialing answers is no matter: another test may have been given the port.
	before := served.Load()
	ask(p.Addr())
	if n := served.Load() - before; n != 0 {
		t.Errorf("after its test a proxy forwards %d connections, want 0", n)
	}
	if _, err := p.Proxy.Add(toxi.Noop{}); !errors.Is(err, toxi.ErrClosed) {
		t.Errorf("after its test a proxy takes a toxic: %v, want ErrClosed", err)
	}
}

func TestParallelTestsDontDisturbEachOther(t *testing.T) {
	t.Parallel()
	upstream := serve(t, echo)
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			p := toxitest.New(t, upstream)
			for range 10 {
				if err := ask(p.Addr()); err != nil {
					t.Fatal(err)
				}
				p.Down(func() {
					// Its port is nobody's meanwhile, neither another test's proxy's.
					if err := ask(p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Fatalf("a proxy that is down answers %v, want ECONNREFUSED", err)
					}
				})
			}
		})
	}
}

func TestGuardsAreThoseOfToxi(t *testing.T) {
	t.Parallel()
	p := toxitest.New(t, serve(t, echo))
	want := func(name string) func() {
		return func() {
			t.Helper()
			if got := p.Faults(); len(got) == 0 || got[0].Name != name {
				t.Errorf("inside the block the faults are %v, want %s", got, name)
			}
		}
	}
	p.With(toxi.Noop{}, want("noop_downstream"))
	p.Down(want("refuse"))
	p.Slow(time.Second, want("latency_downstream"))
	p.Blackhole(want("connect_blackhole"))
	p.Reset(want("reset_peer_downstream"))
	remove := p.Add(toxi.Noop{})
	want("noop_downstream")()
	remove()
	remove()
	if got := p.Faults(); len(got) != 0 {
		t.Errorf("afterwards the faults are %v", got)
	}
}

func TestHooksOfTheOptionsAreCalledToo(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]int{}
	count := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		got[what]++
	}
	refused := "127.0.0.1:1"
	closed := make(chan bool, 1)
	p := toxitest.Listen(t, refused, &toxi.Options{
		Seed: 5,
		Hooks: toxi.Hooks{
			Opened:  func(toxi.Conn) { count("opened") },
			Failed:  func(toxi.Conn, error) { count("failed") },
			Struck:  func(toxi.Conn, string) { count("struck") },
			Closed:  func(toxi.Conn) { count("closed"); closed <- true },
			Changed: func(string, bool) { count("changed") },
		},
	})
	if os.Getenv(toxitest.SeedVariable) == "" && p.Seed() != 5 {
		t.Errorf("the seed is %d, want 5", p.Seed())
	}
	p.Add(toxi.SlowConnect{})
	if err := ask(p.Addr()); err == nil {
		t.Error("a server that is not there answers")
	}
	<-closed
	mu.Lock()
	defer mu.Unlock()
	for _, what := range []string{"opened", "failed", "struck", "closed", "changed"} {
		if got[what] != 1 {
			t.Errorf("the hook %s was called %d times, want once", what, got[what])
		}
	}
}

func TestDialerWorksInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := toxitest.Dialer(t, func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { io.Copy(far, far); far.Close() }()
			return near, nil
		})
		trip := func() time.Duration {
			c, err := p.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			began := time.Now()
			io.WriteString(c, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		if got := trip(); got != 0 {
			t.Errorf("a trip takes %v", got)
		}
		p.Slow(time.Hour, func() {
			if got := trip(); got != time.Hour {
				t.Errorf("a slow trip takes %v, want 1h", got)
			}
		})
		p.Down(func() {
			if _, err := p.Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Dial gives %v, want ECONNREFUSED", err)
			}
		})
		if p.Addr() != "" {
			t.Errorf("its address is %q, want none", p.Addr())
		}
	})
}

// caseVariable says what TestInAnotherProcess does.
const caseVariable = "PODWORKS_TOXITEST_CASE"

// TestInAnotherProcess is a test as a user writes it. The other tests run it in a process
// of its own, because it fails.
func TestInAnotherProcess(t *testing.T) {
	what := os.Getenv(caseVariable)
	if what == "" {
		t.Skip("it is run by other tests")
	}
	upstream := serve(t, echo)
	switch what {
	case "passes", "fails":
		p := toxitest.New(t, upstream)
		if err := ask(p.Addr()); err != nil {
			t.Fatal(err)
		}
		p.Slow(time.Millisecond, func() {
			if err := ask(p.Addr()); err != nil {
				t.Fatal(err)
			}
		})
		if what == "fails" {
			t.Error("it fails")
		}
	case "much happens":
		p := toxitest.New(t, upstream)
		for range 100 {
			p.Slow(1, func() {})
		}
		t.Error("it fails")
	case "upstream is down":
		p := toxitest.New(t, "127.0.0.1:1")
		t.Error(ask(p.Addr()))
	case "seed":
		fmt.Println("seed", toxitest.New(t, upstream).Seed())
		fmt.Println("own seed", toxitest.Listen(t, upstream, &toxi.Options{Seed: 3}).Seed())
	case "bad toxic":
		p := toxitest.New(t, upstream)
		p.With(toxi.Slicer{}, func() { fmt.Println("the block is run") })
		fmt.Println("the test goes on")
	case "bad toxic in Add":
		p := toxitest.New(t, upstream)
		p.Add(toxi.Slicer{})
		fmt.Println("the test goes on")
	case "bad options":
		toxitest.Listen(t, upstream, &toxi.Options{DialTimeout: -1})
		fmt.Println("the test goes on")
	case "fails inside a block":
		p := toxitest.New(t, upstream)
		t.Cleanup(func() { fmt.Println("faults", len(p.Faults())) })
		p.Down(func() { t.Fatal("it fails") })
	}
}

// inAnotherProcess runs TestInAnotherProcess and returns whether it passed, and what it
// said.
func inAnotherProcess(t *testing.T, what string, env ...string) (passed bool, output string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInAnotherProcess$", "-test.v", "-test.count=1")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, toxitest.SeedVariable+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(append(cmd.Env, caseVariable+"="+what), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil, string(out)
}

func TestTheLogOfATest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		what   string
		env    string
		passes bool
		want   []string // regular expressions
		not    string
	}{
		{what: "passes", passes: true, not: "toxi:"},
		{what: "fails", want: []string{
			`toxi: proxy 127.0.0.1:\d+ to 127.0.0.1:\d+, repeat with TOXI_SEED=\d+`,
			`(?s)connection 1 from 127.*latency_downstream added.*connection 2 from.*connection 2 is struck by latency_downstream`,
			`latency_downstream removed`,
			`connection 1 closed after \d+`,
		}},
		{what: "much happens", want: []string{`… 100 events before these`, `latency_downstream added`}},
		{what: "upstream is down", want: []string{`connection 1: the upstream could not be dialed: .*refused`}},
		{what: "seed", env: "TOXI_SEED=17", passes: true, want: []string{`\nseed 17\nown seed 3\n`}},
		{what: "seed", env: "TOXI_SEED=x", want: []string{`TOXI_SEED is "x", want the number`}, not: `\nseed`},
		{what: "bad toxic", want: []string{`toxitest_test.go:\d+: toxitest: .*Size is 0`}, not: "the block is run|goes on"},
		{what: "bad toxic in Add", want: []string{`toxitest_test.go:\d+: toxitest: .*Size is 0`}, not: "goes on"},
		{what: "bad options", want: []string{`toxitest_test.go:\d+: toxitest: .*DialTimeout`}, not: "goes on"},
		{what: "fails inside a block", want: []string{"it fails", "refuse added", "refuse removed", "faults 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.what+" "+tt.env, func(t *testing.T) {
			t.Parallel()
			passed, output := inAnotherProcess(t, tt.what, tt.env)
			if passed != tt.passes {
				t.Errorf("it passes: %t, want %t", passed, tt.passes)
			}
			for _, want := range tt.want {
				if !regexp.MustCompile(want).MatchString(output) {
					t.Errorf("its output has nothing like %s", want)
				}
			}
			if tt.not != "" && regexp.MustCompile(tt.not).MatchString(output) {
				t.Errorf("its output has something like %s", tt.not)
			}
			if t.Failed() {
				t.Logf("it said\n%s", output)
			}
		})
	}
}

func TestASeedFromTheLogRepeatsARun(t *testing.T) {
	t.Parallel()
	_, first := inAnotherProcess(t, "fails")
	seed := regexp.MustCompile(`TOXI_SEED=\d+`).FindString(first)
	if _, again := inAnotherProcess(t, "fails", seed); seed == "" || !strings.Contains(again, seed) {
		t.Errorf("a run with %q said\n%s", seed, again)
	}
}
