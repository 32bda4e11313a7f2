package sharding

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

// openMaster returns an empty master database with pods 1 to 3 and shop 1 in
// pod 1, one.example.
func openMaster(t testing.TB, server *testcluster.MySQLServer) *sql.DB {
	t.Helper()
	cfg := server.Config(testcluster.Database(t, server))
	cfg.Logger = &mysql.NopLogger{}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	d := NewDirectory(db, nil)
	do(t, d.Migrate(t.Context()))
	for pod := range podworks.PodID(3) {
		do(t, d.AddPod(t.Context(), pod+1, "here"))
	}
	_, err = d.addShop(t.Context(), 1, 1, []string{"one.example"})
	do(t, err)
	return db
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runDirectory runs a directory until the end of the test.
func runDirectory(t testing.TB, master *sql.DB, opts *DirectoryOptions) *Directory {
	t.Helper()
	d := NewDirectory(master, opts)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-ended })
	return d
}

// eventually waits until done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// A fakePush connects the directories of one process.
type fakePush struct {
	mu          sync.Mutex
	subscribers map[chan uint64]bool
	published   []uint64
	fail        error         // of Publish, and of Subscribe at once
	hang        chan struct{} // Publish waits for it or its context, if not nil
}

func (p *fakePush) set(fail error, hang chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail, p.hang = fail, hang
}

func (p *fakePush) Publish(ctx context.Context, version uint64) error {
	p.mu.Lock()
	fail, hang := p.fail, p.hang
	p.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		return fail
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = append(p.published, version)
	for c := range p.subscribers {
		select {
		case c <- version:
		default: // lost, as hints may be
		}
	}
	return nil
}

func (p *fakePush) Subscribe(ctx context.Context, heard func(uint64)) error {
	c := make(chan uint64, 16)
	p.mu.Lock()
	fail := p.fail
	if fail == nil {
		if p.subscribers == nil {
			p.subscribers = map[chan uint64]bool{}
		}
		p.subscribers[c] = true
	}
	p.mu.Unlock()
	if fail != nil {
		return fail
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.subscribers, c)
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v := <-c:
			heard(v)
		}
	}
}

func (p *fakePush) count() (subscribers, published int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.subscribers), len(p.published)
}

// One changed shop is visible in every process within 250 ms with the push, and
// within 2 s without.
func TestAChangeIsSeenByOtherProcessesInTime(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		push := new(fakePush)
		for _, c := range []struct {
			name  string
			opts  DirectoryOptions
			bound time.Duration
		}{
			{"with the push", DirectoryOptions{Push: push, Poll: time.Hour}, 250 * time.Millisecond}, // which leaves nothing to the poll
			{"without", DirectoryOptions{}, 2 * time.Second},
		} {
			writer, reader := runDirectory(t, master, &c.opts), runDirectory(t, master, &c.opts)
			eventually(t, "the first looks", func() bool { return writer.Stats().Version > 0 && reader.Stats().Version > 0 })
			if c.opts.Push != nil {
				eventually(t, "the subscriptions", func() bool { n, _ := push.count(); return n == 2 })
			}
			var took []time.Duration
			for i := range 9 {
				began := time.Now()
				var r podworks.Route
				var err error
				if i%2 == 0 {
					r, err = writer.closeShop(t.Context(), 1)
				} else {
					r, err = writer.reopenShop(t.Context(), 1)
				}
				do(t, err)
				eventually(t, c.name+": the change", func() bool {
					s, ok := reader.snapshot.shop(1)
					return ok && s.Epoch == r.Epoch
				})
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			t.Logf("%s: a change is seen after %v, %v at most", c.name, took[len(took)/2], took[len(took)-1])
			if got := took[len(took)/2]; got > c.bound {
				t.Errorf("%s: a change is seen after %v, want %v", c.name, got, c.bound)
			}
			_, err := writer.reopenShop(t.Context(), 1)
			do(t, err)
		}
	})
}

// Hints that are doubled, false or absurd cost looks at the version, a hundred a
// second at most, and nothing else.
func TestAFloodOfHintsCostsAFewLooks(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		d := runDirectory(t, master, &DirectoryOptions{Poll: time.Hour})
		eventually(t, "the first look", func() bool { return d.Stats().Version > 0 })
		before := d.Stats()
		began := time.Now()
		const hints = 100_000
		for i := range hints {
			d.hinted([]uint64{math.MaxUint64, 1 << 63, before.Version, 0, before.Version + 1}[i%5])
		}
		eventually(t, "a look because of a hint", func() bool { return d.Stats().FalseHints > 0 })
		after := d.Stats()
		elapsed := time.Since(began)
		if most := uint64(elapsed/hintGap) + 2; after.Looks-before.Looks > most {
			t.Errorf("%d hints made %d looks in %v, want %d at most", hints, after.Looks-before.Looks, elapsed, most)
		}
		if after.Hints != hints || after.Version != before.Version || after.Failures != 0 {
			t.Errorf("after %d hints: %+v, want them counted, the version as it was, and no failures", hints, after)
		}
		// The next true one counts.
		other := NewDirectory(master, nil)
		_, err := other.closeShop(t.Context(), 1)
		do(t, err)
		d.hinted(before.Version + 1)
		eventually(t, "the shop to be closed", func() bool { _, ok := d.route(1); return !ok })
	})
}

// A push that fails or hangs is counted, and logged once; nobody waits for it.
func TestAPushThatFailsCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := openMaster(t, testcluster.Server(t, f))
		push := new(fakePush)
		push.set(errors.New("no push today"), nil)
		lines := make(logLines, 100)
		d := runDirectory(t, master, &DirectoryOptions{Push: push, Logger: slog.New(lines), Poll: 20 * time.Millisecond})
		lines.want(t, "doesn't hear of changes")
		_, err := d.addShop(t.Context(), 2, 1, nil)
		do(t, err)
		lines.want(t, "could not be pushed")
		eventually(t, "another try to subscribe", func() bool { return d.Stats().PushFailures >= 3 })

		// It hangs: changes go on, and go out as one when it is back.
		hang := make(chan struct{})
		push.set(nil, hang)
		for shop := range podworks.ShopID(5) {
			began := time.Now()
			_, err := d.addShop(t.Context(), 10+shop, 1, nil)
			do(t, err)
			if took := time.Since(began); took > publishPatience {
				t.Errorf("a change took %v while the push hung", took)
			}
		}
		_, before := push.count()
		push.set(nil, nil)
		close(hang)
		lines.want(t, "pushed again")
		if _, after := push.count(); after-before > 3 {
			t.Errorf("five changes went out in %d publications, want them together", after-before)
		}
		eventually(t, "a subscription", func() bool { n, _ := push.count(); return n == 1 })
		do(t, push.Publish(t.Context(), 1))
		lines.want(t, "hears of changes again")
		if len(lines) != 0 {
			t.Errorf("and logged %q", <-lines)
		}
	})
}

// logLines is a slog.Handler that sends each message to a channel.
type logLines chan string

func (l logLines) Enabled(context.Context, slog.Level) bool { return true }
func (l logLines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l logLines) WithGroup(string) slog.Handler            { return l }
func (l logLines) Handle(_ context.Context, r slog.Record) error {
	l <- r.Message
	return nil
}

func (l logLines) want(t *testing.T, text string) {
	t.Helper()
	select {
	case got := <-l:
		if !strings.Contains(got, text) {
			t.Errorf("logged %q, want something about %q", got, text)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("still waiting for a line of the log about %q", text)
	}
}
