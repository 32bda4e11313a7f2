package outbox_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/outbox"
)

const roleVar = "PODWORKS_OUTBOX_ROLE"

// A role is what a process of the tests does, and what it needs to know.
type role struct {
	Play     string // receiver, sender or relay
	Receiver string // its socket
	Ledger   string // the receiver's

	Master string                    // data source names
	Pods   map[podworks.PodID]string //
	Topic  string                    // the sender's message
	Thing  int                       // what it writes besides

	Die, Freeze string // at which point
	Off         []hook.Protection
}

func (r role) play() error {
	switch r.Play {
	case "receiver":
		return r.receive()
	case "sender":
		return r.send()
	case "relay":
		return r.relay()
	}
	return fmt.Errorf("no role %q", r.Play)
}

// point is where a process dies or freezes, if it is told to do so there.
func (r role) point(name string) {
	switch name {
	case r.Die:
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal may take a moment
	case r.Freeze:
		woken := make(chan os.Signal, 1)
		signal.Notify(woken, syscall.SIGCONT)
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-woken // so does this one
	}
}

// receive writes a line of each message to the ledger, and then acknowledges it.
func (r role) receive() error {
	l, err := net.Listen("unix", r.Receiver)
	if err != nil {
		return err
	}
	ledger, err := os.OpenFile(r.Ledger, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				return // the sender died in the middle
			}
			if _, err := ledger.WriteString(line); err == nil {
				io.WriteString(conn, "ok\n")
			}
		}()
	}
}

// deliver hands a message to the receiver.
func (r role) deliver(ctx context.Context, m outbox.Message) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", r.Receiver)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	line := m.ID + " " + m.Topic + "\n"
	if _, err := io.WriteString(conn, line[:len(line)/2]); err != nil {
		return err
	}
	r.point("in the delivery")
	if _, err := io.WriteString(conn, line[len(line)/2:]); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && answer != "ok\n" {
		err = fmt.Errorf("the receiver said %q", answer)
	}
	if err == nil {
		r.point("after the delivery")
	}
	return err
}

// box opens the pods and the outbox as an application does.
func (r role) box(adjust func(*mysql.Config)) (*sharding.Cluster, *outbox.Outbox, error) {
	cfg, err := mysql.ParseDSN(r.Master)
	if err != nil {
		return nil, nil, err
	}
	master, err := connect(cfg, nil)
	if err != nil {
		return nil, nil, err
	}
	pods := map[podworks.PodID]driver.Connector{}
	for pod, dsn := range r.Pods {
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			return nil, nil, err
		}
		if pods[pod], err = connect(cfg, adjust); err != nil {
			return nil, nil, err
		}
	}
	cluster, err := sharding.New(sharding.NewDirectory(sql.OpenDB(master), nil), pods, nil)
	if err != nil {
		return nil, nil, err
	}
	box, err := outbox.New(cluster, r.deliver, &outbox.Options{Poll: 40 * time.Millisecond, Timeout: frozenTimeout})
	return cluster, box, err
}

// send writes a thing and a message in one transaction.
func (r role) send() error {
	dialer := new(cut.Dialer)
	cluster, box, err := r.box(dialer.Use)
	if err != nil {
		return err
	}
	return cluster.Do(context.Background(), 1, func(ctx context.Context, s *sharding.Scope) error {
		return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			tx.AfterEnd(func(context.Context, error) { r.point("after COMMIT") })
			if err := box.Add(ctx, r.Topic, nil); err != nil {
				return err
			}
			r.point("between the statements")
			if _, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (1, ?)`, r.Thing); err != nil {
				return err
			}
			tx.BeforeCommit(func(context.Context) error { r.point("before COMMIT"); return nil })
			if strings.Contains(r.Die, "COMMIT ") {
				dialer.At(func(conn net.Conn, packet []byte) (int, error) {
					conn.Write(packet[:6])
					r.point("while COMMIT is sent")
					conn.Write(packet[6:])
					r.point("after COMMIT was sent")
					conn.Read(make([]byte, 1024))
					r.point("after COMMIT was answered")
					return 0, io.ErrClosedPipe
				})
			}
			return nil
		})
	})
}

// relay runs an outbox.
func (r role) relay() error {
	_, box, err := r.box(nil)
	if err != nil {
		return err
	}
	ctx := hook.With(context.Background(), &hook.Set{Off: map[hook.Protection]bool{}})
	for _, p := range r.Off {
		ctx = without(ctx, p)
	}
	return box.Run(ctx)
}

// A process is one of the tests' others.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string
	stderr bytes.Buffer
	done   chan struct{}
}

// start starts a process, which is killed with the test.
func (r role) start(t *testing.T) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(exe), lines: make(chan string, 16), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVar+"="+string(text))
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			p.lines <- sc.Text()
		}
		_ = p.cmd.Wait() // the outcome stays in cmd.ProcessState
	}()
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// killed waits until the process was killed.
func (p *process) killed() {
	p.t.Helper()
	recv(p.t, "the process to be killed", p.done)
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		p.t.Fatalf("the process ended with %v, want that it was killed; it wrote: %s", p.cmd.ProcessState, p.stderr.String())
	}
}

// stopped waits until the process is stopped by a signal.
func (p *process) stopped() {
	p.t.Helper()
	await(p.t, "the process to stop", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			p.t.Fatalf("the process is gone: %v; it wrote: %s", err, p.stderr.String())
		}
		_, after, ok := bytes.Cut(stat, []byte(") "))
		return ok && after[0] == 'T'
	})
}

// A story is a world with a receiver that is a process of its own.
type story struct {
	*world
	role role
	next int // thing
}

func newStory(t *testing.T, f testcluster.Family) *story {
	t.Helper()
	w := newWorld(t, f, nil)
	dir, err := os.MkdirTemp("", "outbox") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &story{world: w, role: role{
		Receiver: filepath.Join(dir, "sock"),
		Ledger:   filepath.Join(dir, "ledger"),
		Master:   w.server.DSN(w.master),
		Pods:     map[podworks.PodID]string{},
	}}
	for pod, name := range w.names {
		s.role.Pods[pod] = w.server.DSN(name)
	}
	p := s.as("receiver").start(t)
	if line := recv(t, "the receiver", p.lines); line != "listening" {
		t.Fatalf("the receiver said %q, want that it listens; it wrote: %s", line, p.stderr.String())
	}
	return s
}

// as returns the role of another process, with things of its own.
func (s *story) as(play string) role {
	s.next++
	r := s.role
	r.Play, r.Thing, r.Topic = play, s.next, fmt.Sprintf("message-%d", s.next)
	return r
}

// ledger returns the topics that the receiver got, and how many ids each had.
func (s *story) ledger() (topics []string, ids map[string]int) {
	s.t.Helper()
	b, err := os.ReadFile(s.role.Ledger)
	if err != nil {
		s.t.Fatal(err)
	}
	ids = map[string]int{}
	seen := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		id, topic, _ := strings.Cut(strings.TrimSpace(line), " ")
		topics = append(topics, topic)
		if !seen[id] {
			seen[id] = true
			ids[topic]++
		}
	}
	return topics, ids
}

// received waits until the receiver has a topic, and returns how often it has
// another one, which was to come before.
func (s *story) received(last, topic string) (times int) {
	s.t.Helper()
	await(s.t, fmt.Sprintf("%q in the ledger", last), func() bool {
		topics, _ := s.ledger()
		return slices.Contains(topics, last)
	})
	topics, ids := s.ledger()
	for _, got := range topics {
		if got == topic {
			times++
		}
	}
	if ids[topic] > 1 {
		s.t.Errorf("%q came with %d ids, want one", topic, ids[topic])
	}
	return times
}

// survivor runs an outbox in the test's process, which delivers to the receiver.
func (s *story) survivor() (box *outbox.Outbox, stop func()) {
	s.t.Helper()
	box = s.newBox(s.newCluster(nil), s.role.deliver, nil)
	return box, s.relay(s.t.Context(), box)
}

// sentinel writes a message that comes after all that is in the shop's line.
func (s *story) sentinel(box *outbox.Outbox) string {
	s.t.Helper()
	s.next++
	topic := fmt.Sprintf("last-%d", s.next)
	s.add(box, 1, topic)
	return topic
}

// A process that writes is killed: its message is delivered if the rest of its
// transaction is there, and only then.
func TestASenderThatIsKilled(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := newStory(t, f)
		box, _ := s.survivor()
		var mu sync.Mutex
		want := map[string]int{} // times by topic
		var wg sync.WaitGroup
		for _, c := range []struct {
			die       string
			committed bool
		}{
			{"between the statements", false},
			{"before COMMIT", false},
			{"while COMMIT is sent", false},
			{"after COMMIT was sent", true}, // the server reads what is on the way before it sees the end
			{"after COMMIT was answered", true},
			{"after COMMIT", true},
		} {
			r := s.as("sender")
			r.Die = c.die
			wg.Go(func() {
				p := r.start(t)
				recv(t, "the process to be killed", p.done)
				mu.Lock()
				defer mu.Unlock()
				p.killed()
				// The server may hear late that its client is gone.
				await(t, "the end of the transaction", func() bool {
					return (s.count(1, `SELECT COUNT(*) FROM things WHERE id = ?`, r.Thing) == 1) == c.committed
				})
				want[r.Topic] = map[bool]int{true: 1}[c.committed]
				if times := s.received(s.sentinel(box), r.Topic); times != want[r.Topic] {
					t.Errorf("killed %s: delivered %d times, want %d", c.die, times, want[r.Topic])
				}
			})
		}
		wg.Wait()
		s.awaitEmpty(1)
		last := s.sentinel(box)
		for topic, want := range want {
			if times := s.received(last, topic); times != want {
				t.Errorf("%s: delivered %d times in the end, want %d", topic, times, want)
			}
		}
	})
}

// A process that delivers is killed: another one delivers again what was not
// noted. The twin notes it before the delivery, and loses it.
func TestARelayThatIsKilled(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		s := newStory(t, f)
		for _, c := range []struct {
			die  string
			off  []hook.Protection
			want int
		}{
			{"in the delivery", nil, 1},
			{"after the delivery", nil, 2},
			{"in the delivery", []hook.Protection{outbox.OffNote}, 0},
		} {
			r := s.as("relay")
			r.Die, r.Off = c.die, c.off
			box, stop := s.survivor()
			stop() // it only writes, for now
			s.add(box, 1, r.Topic)
			r.start(t).killed()

			start := time.Now()
			box, stop = s.survivor()
			times := s.received(s.sentinel(box), r.Topic)
			if times != c.want {
				t.Errorf("killed %s, without %q: delivered %d times, want %d", c.die, c.off, times, c.want)
			}
			t.Logf("killed %s: the next relay went on within %v", c.die, time.Since(start))
			s.awaitEmpty(1)
			stop()
		}
	})
}

// frozenTimeout is short, because a frozen relay keeps its shop for that and
// three seconds.
const frozenTimeout = 500 * time.Millisecond

// A relay that froze is replaced, and does no harm when it wakes.
func TestARelayThatFreezesIsReplaced(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel() // it mostly waits
		s := newStory(t, f)
		box := s.newBox(s.cluster, refuse, nil)
		r := s.as("relay")
		r.Freeze = "after the delivery"
		s.add(box, 1, r.Topic)
		p := r.start(t)
		p.stopped()

		start := time.Now()
		box, _ = s.survivor()
		s.add(box, 3, "another-shop") // is not waiting for it
		s.received("another-shop", "")
		if times := s.received(s.sentinel(box), r.Topic); times != 2 {
			t.Errorf("delivered %d times, want 2: by the frozen relay and by the next", times)
		}
		t.Logf("the next relay went on after %v", time.Since(start))
		p.cmd.Process.Signal(syscall.SIGCONT)
		s.awaitEmpty(1)
		if times := s.received(s.sentinel(box), r.Topic); times != 2 {
			t.Errorf("delivered %d times after the frozen relay woke, want 2 still", times)
		}
	})
}
