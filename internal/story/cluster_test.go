package story

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// Settings are what a process of the story needs to know.
type settings struct {
	Master string                    // data source names
	Pods   map[podworks.PodID]string //
	Shop   podworks.ShopID
	To     podworks.PodID // the mover's destination
	Lease  time.Duration
	Budget time.Duration

	Ledger string // the writer's

	// At which step the mover dies or freezes, and how long after its beginning.
	Die, Freeze string
	Delay       time.Duration
	Off         []hook.Protection

	SlowLog time.Duration // how much later the source's log arrives than it is sent

	// The storefront's and the buyers'.
	Key       []byte // nil: there is no edge
	Shops     []podworks.ShopID
	Edge      string // where the buyers go
	AskMaster bool   // the storefront asks the master about each request's shop
}

func open(dsn string) (*sql.DB, *mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, nil, err
	}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, nil, err
	}
	return sql.OpenDB(c), cfg, nil
}

// cluster opens the pods as an application does.
func (s settings) cluster() (*sharding.Cluster, error) {
	master, _, err := open(s.Master)
	if err != nil {
		return nil, err
	}
	pods := map[podworks.PodID]driver.Connector{}
	for id, dsn := range s.Pods {
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			return nil, err
		}
		if pods[id], err = mysql.NewConnector(cfg); err != nil {
			return nil, err
		}
	}
	return sharding.New(sharding.NewDirectory(master, nil), pods, &sharding.Options{Key: s.Key})
}

// ferry opens the pods as a mover does.
func (s settings) ferry() (*ferry.Ferry, error) {
	master, _, err := open(s.Master)
	if err != nil {
		return nil, err
	}
	pods := map[podworks.PodID]*mysql.Config{}
	for id, dsn := range s.Pods {
		if pods[id], err = mysql.ParseDSN(dsn); err != nil {
			return nil, err
		}
		if s.SlowLog > 0 {
			pods[id].DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				return &slowLog{Conn: c, by: s.SlowLog}, err
			}
		}
	}
	return ferry.New(sharding.NewDirectory(master, nil), pods, &ferry.Options{
		Lease: s.Lease, PauseBudget: s.Budget, ChunkRows: 500,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// A slowLog is a connection on which, once the server was asked for its binary
// log, everything arrives later by the same time. It is as fast as before.
type slowLog struct {
	net.Conn
	by time.Duration

	late chan lateBytes // nil until it turns slow
	rest []byte
}

type lateBytes struct {
	b   []byte
	due time.Time
	err error
}

// Write and Read are called one after the other until the log is asked for, and
// only Read is called after that.
func (c *slowLog) Write(b []byte) (int, error) {
	const comBinlogDump = 0x12 // after the packet's header of four bytes
	if len(b) > 4 && b[4] == comBinlogDump && c.late == nil {
		c.late = make(chan lateBytes, 1<<16)
		go func() {
			for {
				b := make([]byte, 1<<16)
				n, err := c.Conn.Read(b)
				c.late <- lateBytes{b[:n], time.Now().Add(c.by), err}
				if err != nil {
					return
				}
			}
		}()
	}
	return c.Conn.Write(b)
}

func (c *slowLog) Read(b []byte) (int, error) {
	if c.late == nil {
		return c.Conn.Read(b)
	}
	if len(c.rest) == 0 {
		l := <-c.late
		<-time.After(time.Until(l.due))
		if c.rest = l.b; l.err != nil {
			return 0, l.err
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

const schema = `
CREATE TABLE products (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, name VARCHAR(100) NOT NULL, PRIMARY KEY (shop_id, id));
CREATE TABLE orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, writer INT NOT NULL, PRIMARY KEY (shop_id, id));
CREATE TABLE counters (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, n BIGINT NOT NULL, PRIMARY KEY (shop_id, id))`

// A world is a master and two pods, with one shop that is about to be moved
// back and forth.
type world struct {
	t        *testing.T
	settings settings
	pods     map[podworks.PodID]*sql.DB
	cluster  *sharding.Cluster
	ferry    *ferry.Ferry
	ctx      context.Context
}

func newWorld(t *testing.T, f testcluster.Family, off ...hook.Protection) *world {
	t.Helper()
	return newWorldWith(t, f, testcluster.Shared(t, f, "a"), off...)
}

// newWorldWith has its master database on a server of the caller's.
func newWorldWith(t *testing.T, f testcluster.Family, master *testcluster.MySQLServer, off ...hook.Protection) *world {
	t.Helper()
	a, b := testcluster.Shared(t, f, "a"), testcluster.Shared(t, f, "b")
	w := &world{t: t, pods: map[podworks.PodID]*sql.DB{}, ctx: t.Context(), settings: settings{
		Master: master.DSN(testcluster.Database(t, master)),
		Pods:   map[podworks.PodID]string{1: a.DSN(testcluster.Database(t, a)), 2: b.DSN(testcluster.Database(t, b))},
		Shop:   238,
		Lease:  250 * time.Millisecond,
		Budget: 300 * time.Millisecond,
		Ledger: filepath.Join(t.TempDir(), "ledger"),
		Off:    off,
	}}
	for id, dsn := range w.settings.Pods {
		db, _, err := open(dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		w.pods[id] = db
		for stmt := range strings.SplitSeq(schema, ";") {
			w.exec(id, stmt)
		}
	}
	var err error
	if w.cluster, err = w.settings.cluster(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cluster.Close() })
	if w.ferry, err = w.settings.ferry(); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.Migrate(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.ferry.Migrate(w.ctx); err != nil {
		t.Fatal(err)
	}
	for id := range w.pods {
		if err := w.cluster.Directory().AddPod(w.ctx, id, "here"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.cluster.CreateShop(w.ctx, w.settings.Shop, 1, "shop.example"); err != nil {
		t.Fatal(err)
	}
	var rows []string
	for i := range 2000 {
		rows = append(rows, fmt.Sprintf("(%d, %d, 'product %d')", w.settings.Shop, i, i))
	}
	w.exec(1, `INSERT INTO products VALUES `+strings.Join(rows, ","))
	for i := range writers + 1 {
		w.exec(1, fmt.Sprintf(`INSERT INTO counters VALUES (%d, %d, 0)`, w.settings.Shop, i))
	}
	return w
}

func (w *world) exec(pod podworks.PodID, query string) {
	w.t.Helper()
	if _, err := w.pods[pod].ExecContext(w.ctx, query); err != nil {
		w.t.Fatalf("pod %d: %.200s: %v", pod, query, err)
	}
}

// where returns the shop's pod as the directory has it.
func (w *world) where() podworks.PodID {
	w.t.Helper()
	r, err := w.cluster.Directory().Fresh(w.ctx, w.settings.Shop)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Pod
}

func other(pod podworks.PodID) podworks.PodID { return 3 - pod }

// owners returns the pods whose fence is open.
func (w *world) owners() (open []podworks.PodID) {
	w.t.Helper()
	for id, db := range w.pods {
		row, err := fence.Read(w.ctx, db, w.settings.Shop, "")
		if err != nil {
			w.t.Fatal(err)
		}
		if row.State == fence.Open {
			open = append(open, id)
		}
	}
	return open
}

// A process is one of the story's other processes.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string

	mu     sync.Mutex // guards last and stderr
	last   string
	stderr bytes.Buffer
	done   chan struct{}
	err    error // of Wait, once done is closed
}

// start starts a process in a role. It is killed with the test.
func (w *world) start(role string, s settings) *process {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{t: w.t, cmd: exec.Command(exe), lines: make(chan string, 1024), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVar+"="+role, settingsVar+"="+string(text))
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			p.mu.Lock()
			p.last = sc.Text()
			p.mu.Unlock()
			select {
			case p.lines <- sc.Text():
			default: // nobody is waiting for so many
			}
		}
		p.err = p.cmd.Wait()
		close(p.lines)
		close(p.done)
	}()
	w.t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// await waits until the process says line.
func (p *process) await(line string) {
	p.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case got, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the process ended (%v) before it said %q; it wrote: %s", p.err, line, p.stderr.String())
			}
			if got == line {
				return
			}
		case <-timeout:
			p.t.Fatalf("the process did not say %q in 30 s", line)
		}
	}
}

// end waits for the process's end and returns the last line it said.
func (p *process) end() string {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("the process did not end in two minutes; it wrote: %s", p.stderr.String())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// stopped waits until the process is stopped by a signal, and reports false if it
// ended instead.
func (p *process) stopped() bool {
	p.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.Tick(time.Millisecond); time.Now().Before(deadline); <-tick {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			<-p.done
			return false
		}
		if _, after, ok := bytes.Cut(stat, []byte(") ")); ok && after[0] == 'T' {
			return true
		}
	}
	p.t.Fatalf("the process did not stop in 30 s; it wrote: %s", p.stderr.String())
	return false
}

func (p *process) resume() { p.cmd.Process.Signal(syscall.SIGCONT) }
