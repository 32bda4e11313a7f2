package redislock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/redislock"
)

// The test binary is also the processes that are killed and frozen: it starts
// itself again with a role and its arguments in the environment.
const roleVar = "PODWORKS_REDISLOCK_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(strings.Fields(role)); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(leak.Check(testcluster.Main(m), "sharding/redislock."))
}

// play is the process: a role, the Redis' socket, the lease, and a token.
func play(args []string) error {
	role, socket := args[0], args[1]
	lease, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	token, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: socket, ContextTimeoutEnabled: true})
	l, err := redislock.New(client, &redislock.Options{Lease: lease})
	if err != nil {
		return err
	}
	ctx, in := context.Background(), bufio.NewScanner(os.Stdin)
	switch role {
	case "writer": // takes a lease, and checks it when told to
		s, err := l.Lease(ctx, from)
		if err != nil {
			return err
		}
		fmt.Println("held")
		in.Scan()
		fmt.Println("check:", verdict(s.Check(ctx)))
		fmt.Println("release:", verdict(s.Release()))
	case "mover": // closes, when told to
		err := l.Close(ctx, from, 2, token, lease, func(context.Context, uint64) error {
			fmt.Println("locked")
			in.Scan() // deaf to its context, as a stopped process is
			return nil
		})
		fmt.Println("close:", verdict(err))
	}
	return nil
}

// verdict names an error for the parent.
func verdict(err error) string {
	for _, known := range []struct {
		err  error
		name string
	}{{nil, "ok"}, {redislock.ErrLapsed, "lapsed"}, {redislock.ErrToken, "token"}, {redislock.ErrBudget, "budget"}, {redislock.ErrNotOpen, "notopen"}} {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	return err.Error()
}

// An actor is a process with a role.
type actor struct {
	t   testing.TB
	cmd *exec.Cmd
	out *bufio.Scanner
	say func(string)
}

func act(t testing.TB, role string, server *testcluster.RedisServer, lease time.Duration, token uint64) *actor {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d", roleVar, role, server.Socket(), lease, token))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &actor{t: t, cmd: cmd, out: bufio.NewScanner(out), say: func(s string) { fmt.Fprintln(in, s) }}
}

// want reads the next line of the process.
func (a *actor) want(line string) {
	a.t.Helper()
	if !a.out.Scan() || a.out.Text() != line {
		a.t.Fatalf("the process says %q (%v), want %q", a.out.Text(), a.out.Err(), line)
	}
}

func (a *actor) signal(s os.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.t.Fatal(err)
	}
}

// patience is what a test gives a machine that is busy with something else.
const patience = 20 * time.Second

// The tests' shop, in pod 1 since epoch 1.
var from = podworks.Route{Shop: 1, Pod: 1, Region: "us-east1", Epoch: 1}

// A pod is a Redis, or a part of one, with a lock.
type pod struct {
	*redislock.Lock
	t      testing.TB
	client *redis.Client
}

func newPod(t testing.TB, server *testcluster.RedisServer, opts *redislock.Options) *pod {
	t.Helper()
	p := &pod{t: t, client: newClient(t, server.Socket())}
	var err error
	if p.Lock, err = redislock.New(p.client, opts); err != nil {
		t.Fatal(err)
	}
	return p
}

// newClient returns a client of "host:port" or of a unix socket.
func newClient(t testing.TB, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	return c
}

// set makes r the row of shop 1, and nothing else of it; the zero Row means that
// there is none.
func (p *pod) set(r redislock.Row) {
	p.t.Helper()
	pipe := p.client.TxPipeline()
	pipe.Del(p.t.Context(), p.Key())
	if r != (redislock.Row{}) {
		pipe.HSet(p.t.Context(), p.Key(), "state", string(r.State), "epoch", uint64(r.Epoch), "destination", int64(r.Destination), "token", r.Token)
	}
	if _, err := pipe.Exec(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// wantRow fails the test if shop 1's row is not want.
func (p *pod) wantRow(what string, want redislock.Row) {
	p.t.Helper()
	got, err := p.Read(p.t.Context(), 1)
	if err != nil || got != want {
		p.t.Errorf("%s: the row is %v (%v), want %v", what, got, err, want)
	}
}

// write returns a lease on shop 1, or ends the test.
func (p *pod) write() *redislock.Lease {
	p.t.Helper()
	s, err := p.Lease(p.t.Context(), from)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// moverWaits waits until somebody asks for the exclusive side.
func (p *pod) moverWaits() {
	p.t.Helper()
	await(p.t, "a mover to ask for the exclusive side", func() bool {
		there, err := p.client.HExists(p.t.Context(), p.Key(), "mover").Result()
		if err != nil {
			p.t.Fatal(err)
		}
		return there
	})
}

// await returns when done says so, and fails the test when it doesn't in time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still waiting for %s", what)
		}
	}
}

func checkIs(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// nothing is a drain that has nothing to wait for.
func nothing(context.Context, uint64) error { return nil }

var (
	none    redislock.Row
	open    = redislock.Row{Shop: 1, State: redislock.Open, Epoch: 1}
	absent  = redislock.Row{Shop: 1, State: redislock.Absent}
	moved   = redislock.Row{Shop: 1, State: redislock.Moved, Epoch: 1, Destination: 2, Token: 5}
	arrived = redislock.Row{Shop: 1, State: redislock.Open, Epoch: 2, Token: 5}
)

func incoming(token uint64) redislock.Row {
	return redislock.Row{Shop: 1, State: redislock.Incoming, Token: token}
}

func tombstone(token uint64) redislock.Row {
	return redislock.Row{Shop: 1, State: redislock.Absent, Token: token}
}

// close5 closes shop 1 for the move with token 5.
func (p *pod) close5(ctx context.Context, budget time.Duration, drain func(context.Context, uint64) error) error {
	return p.Close(ctx, from, 2, 5, budget, drain)
}
