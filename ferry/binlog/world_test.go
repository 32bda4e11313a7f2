package binlog_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) {
	testcluster.AtOnce(6)
	os.Exit(leak.Check(testcluster.Main(m), "podworks/ferry/binlog.", "go-mysql"))
}

// A world is a database of its own on a server.
type world struct {
	t      *testing.T
	family testcluster.Family
	server *testcluster.MySQLServer
	name   string
	db     *sql.DB
	cfg    *mysql.Config
}

func newWorld(t *testing.T, s *testcluster.MySQLServer) *world {
	t.Helper()
	w := &world{t: t, family: s.Family(), server: s, name: testcluster.Database(t, s)}
	w.cfg = s.Config("")
	w.db = open(t, s, w.name)
	return w
}

func open(t testing.TB, s *testcluster.MySQLServer, database string) *sql.DB {
	t.Helper()
	cfg := s.Config(database)
	cfg.Logger = &mysql.NopLogger{} // tests kill servers
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db
}

// exec runs statements.
func (w *world) exec(queries ...string) {
	w.t.Helper()
	for _, q := range queries {
		if _, err := w.db.ExecContext(w.t.Context(), q); err != nil {
			w.t.Fatalf("%s: %v", q, err)
		}
	}
}

// session runs statements in a session of their own.
func (w *world) session(queries ...string) {
	w.t.Helper()
	c, err := w.db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	// The session has settings and maybe a transaction: it must not be used again.
	defer c.Raw(func(any) error { return driver.ErrBadConn })
	for _, q := range queries {
		if _, err := c.ExecContext(w.t.Context(), q); err != nil {
			w.t.Fatalf("%s: %v", q, err)
		}
	}
}

// mine wants the tables of the world's database.
func (w *world) mine(database, table string) bool { return database == w.name }

// stream returns a stream of the world's tables.
func (w *world) stream(opts *binlog.Options) *binlog.Stream {
	w.t.Helper()
	o := binlog.Options{Tables: w.mine, RetryFor: 20 * time.Second}
	if opts != nil {
		o = *opts
	}
	s, err := binlog.New(w.cfg, &o)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) now() binlog.Position {
	w.t.Helper()
	p, err := w.stream(nil).Now(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// A tail keeps what a stream delivers.
type tail struct {
	t      *testing.T
	stop   func() error // and returns what Run returned
	mu     sync.Mutex
	events []binlog.Event
	err    error
	news   chan struct{}
}

// follow runs a stream until the test ends or stop is called.
func follow(t *testing.T, s *binlog.Stream, from binlog.Position) *tail {
	t.Helper()
	return followIn(t.Context(), t, s, from)
}

// followIn is follow in a context that may switch something off.
func followIn(ctx context.Context, t *testing.T, s *binlog.Stream, from binlog.Position) *tail {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	tl := &tail{t: t, news: make(chan struct{}, 1)}
	ended := make(chan struct{})
	tell := func() {
		select {
		case tl.news <- struct{}{}:
		default:
		}
	}
	go func() {
		defer close(ended)
		err := s.Run(ctx, from, func(ev binlog.Event) error {
			tl.mu.Lock()
			tl.events = append(tl.events, ev)
			tl.mu.Unlock()
			tell()
			return nil
		})
		tl.mu.Lock()
		tl.err = err
		tl.mu.Unlock()
		tell()
	}()
	tl.stop = func() error {
		cancel()
		<-ended
		return tl.err
	}
	t.Cleanup(func() { tl.stop() })
	return tl
}

// state returns what was delivered so far, and why the stream ended if it did.
func (tl *tail) state() ([]binlog.Event, error) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return slices.Clip(tl.events), tl.err
}

// soFar returns what was delivered so far.
func (tl *tail) soFar() []binlog.Event {
	events, _ := tl.state()
	return events
}

// until waits until what was delivered satisfies a condition, and returns it.
func (tl *tail) until(what string, enough func([]binlog.Event) bool) []binlog.Event {
	tl.t.Helper()
	deadline := time.After(90 * time.Second)
	for {
		events, err := tl.state()
		if enough(events) {
			return events
		}
		if err != nil {
			tl.t.Fatalf("waiting for %s: the stream ended: %v\n%s", what, err, script(events, ""))
		}
		select {
		case <-tl.news:
		case <-deadline:
			tl.t.Fatalf("waiting for %s: it did not come in time; got\n%s", what, script(events, ""))
		}
	}
}

// fails waits until the stream has ended, and returns why.
func (tl *tail) fails() error {
	tl.t.Helper()
	deadline := time.After(90 * time.Second)
	for {
		_, err := tl.state()
		if err != nil {
			return err
		}
		select {
		case <-tl.news:
		case <-deadline:
			tl.t.Fatal("the stream goes on, want an error")
		}
	}
}

// end writes a last row, waits for it, and returns everything before it that
// concerns the database, as text.
func (tl *tail) end(w *world) string {
	tl.t.Helper()
	w.exec(`CREATE TABLE IF NOT EXISTS last_of_all (n INT)`, `INSERT INTO last_of_all VALUES (1)`)
	events := tl.until("the last row", func(events []binlog.Event) bool { return committed(events, "last_of_all") })
	text := script(events, w.name)
	text, _, _ = strings.Cut(text, "begin\n  definition CREATE TABLE IF NOT EXISTS last_of_all")
	return text
}

// committed reports whether rows of a table were delivered, and then a commit.
func committed(events []binlog.Event, table string) bool {
	seen := false
	for _, ev := range events {
		switch ev := ev.(type) {
		case *binlog.Rows:
			seen = seen || ev.Table.Name == table
		case *binlog.Commit:
			if seen {
				return true
			}
		}
	}
	return false
}

// script writes events as text, a line each, without what is different each
// time. Transactions in which nothing is of the database are left out, if one
// is given: the servers are shared.
func script(events []binlog.Event, database string) string {
	var out, group strings.Builder
	ours := database == ""
	line := func(format string, args ...any) { fmt.Fprintf(&group, format+"\n", args...) }
	flush := func() {
		if ours {
			out.WriteString(group.String())
		}
		group.Reset()
		ours = database == ""
	}
	xa := func(xid string) string {
		if xid == "" {
			return ""
		}
		return " " + xid
	}
	for _, ev := range events {
		switch ev := ev.(type) {
		case *binlog.Begin:
			flush()
			line("begin%s", xa(ev.XA))
		case *binlog.Rows:
			ours = true
			for _, c := range ev.Changes {
				line("  %s %s%s%s", ev.Kind, ev.Table.Name, change(c), from(ev.Origin))
			}
		case *binlog.Statement:
			ours = ours || ev.Database == database || strings.Contains(ev.Text, database)
			line("  %s %s %v%s", ev.Kind, strings.Join(strings.Fields(ev.Text), " "), ev.Tables, from(ev.Origin))
		case *binlog.Savepoint:
			line("  savepoint %s", ev.Name)
		case *binlog.RollbackTo:
			line("  rollback to %s", ev.Name)
		case *binlog.Commit:
			ours = ours || strings.Contains(ev.XA, fmt.Sprintf("%x", database))
			line("commit%s%s", xa(ev.XA), from(ev.Origin))
			flush()
		case *binlog.Prepare:
			line("prepare%s%s", xa(ev.XA), from(ev.Origin))
			flush()
		case *binlog.Rollback:
			ours = ours || strings.Contains(ev.XA, fmt.Sprintf("%x", database))
			line("rollback%s", xa(ev.XA))
			flush()
		case *binlog.Restart:
			line("restart")
			flush()
		}
	}
	flush()
	if database != "" {
		return strings.ReplaceAll(strings.ReplaceAll(out.String(), fmt.Sprintf("%x", database), "<db>"), database, "<db>")
	}
	return out.String()
}

func from(o binlog.Origin) string {
	if o == (binlog.Origin{}) {
		return ""
	}
	return fmt.Sprintf(" by %d/%d", o.Shop, o.Token)
}

func change(c binlog.Change) string {
	var parts []string
	for _, image := range [][]any{c.Before, c.After} {
		if image != nil {
			parts = append(parts, values(image))
		}
	}
	return " " + strings.Join(parts, " -> ")
}

func values(image []any) string {
	var parts []string
	for _, v := range image {
		switch v := v.(type) {
		case nil:
			parts = append(parts, "NULL")
		case []byte:
			parts = append(parts, fmt.Sprintf("x'%x'", v))
		case string:
			parts = append(parts, fmt.Sprintf("%q", v))
		default:
			parts = append(parts, fmt.Sprint(v))
		}
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// compare fails the test unless a text is what is wanted, line by line.
func compare(t *testing.T, got, want string) {
	t.Helper()
	want = strings.TrimPrefix(strings.ReplaceAll(want, "\t", ""), "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
