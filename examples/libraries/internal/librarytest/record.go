package librarytest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/sharding"
)

// A Recorder writes down what is sent to the pods' servers.
type Recorder struct {
	scope *sharding.Scope

	mu   sync.Mutex // guards sent
	sent []string
}

// Record returns a new shop's scope in a cluster of its own, and what records
// the statements of that cluster. adjust, if not nil, changes how it connects.
func (w *World) Record(t testing.TB, adjust func(*mysql.Config)) (*sharding.Scope, *Recorder) {
	t.Helper()
	id := w.Shop(t, 1)
	r := new(Recorder)
	c, err := sharding.New(w.Cluster.Directory(), w.Connectors(t, func(cfg *mysql.Config) {
		if adjust != nil {
			adjust(cfg)
		}
		cfg.DialFunc = r.dial
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if r.scope, err = c.Acquire(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.scope.Release)
	return r.scope, r
}

// Want runs fn twice, the first time to make connections and fill caches, and
// fails the test if the second time sends other packets than want, which has
// them in one line: the first word of a statement, or "fence" for the one that
// takes the fence's lock; "prepare" and the first word; "execute" for a prepared
// statement.
func (r *Recorder) Want(t testing.TB, what, want string, fn func() error) {
	t.Helper()
	for range 2 {
		r.mu.Lock()
		r.sent = nil
		r.mu.Unlock()
		if err := fn(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := strings.Join(r.sent, ", "); got != want {
		t.Errorf("%s sent\n\t%s\nwant\n\t%s", what, got, want)
	}
}

func (r *Recorder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &recorded{Conn: c, r: r}, nil
}

type recorded struct {
	net.Conn
	r *Recorder

	// The fence is prepared once for each connection, which isn't recorded: the
	// server's answer says under which number it is executed.
	preparing bool
	fence     string
}

// Commands of MySQL's protocol.
const (
	comQuery   = 0x03
	comPrepare = 0x16
	comExecute = 0x17
)

func (c *recorded) Write(b []byte) (int, error) {
	// The driver writes a packet at a time: its length, its number, the command,
	// and the text.
	if len(b) > 5 {
		switch text := string(b[5:]); b[4] {
		case comQuery:
			c.r.add(word(text))
		case comPrepare:
			if c.preparing = text == fence.SharedLockAny; !c.preparing {
				c.r.add("prepare " + word(text))
			}
		case comExecute:
			what := "execute"
			if c.fence != "" && strings.HasPrefix(text, c.fence) {
				what = "fence"
			}
			c.r.add(what)
		}
	}
	return c.Conn.Write(b)
}

func (c *recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.preparing && n >= 9 {
		// After the packet's head and the status comes the statement's number.
		c.preparing, c.fence = false, string(b[5:9])
	}
	return n, err
}

func word(text string) string {
	for strings.HasPrefix(text, "--") { // sqlc names its queries
		_, text, _ = strings.Cut(text, "\n")
	}
	first, _, _ := strings.Cut(text, " ")
	return first
}

func (r *Recorder) add(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, what)
}
