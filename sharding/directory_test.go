package sharding_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A follower is a directory in a second process, whose Run is under way.
type follower struct {
	*sharding.Directory
	stop  context.CancelCauseFunc
	ended chan error
}

// follow runs a directory until the end of the test.
func follow(t *testing.T, master *sql.DB, log slog.Handler) *follower {
	dir := sharding.NewDirectory(master, &sharding.DirectoryOptions{Poll: 10 * time.Millisecond, Logger: slog.New(log)})
	ctx, stop := context.WithCancelCause(context.Background())
	f := &follower{dir, stop, make(chan error, 1)}
	go func() { f.ended <- dir.Run(ctx) }()
	t.Cleanup(func() { stop(nil) })
	return f
}

// has reports whether the follower's snapshot has a route, without asking the
// master.
func (f *follower) has(t *testing.T, want podworks.Route) bool {
	ended, end := context.WithCancel(t.Context())
	end() // a question to the master would fail
	got, err := f.Lookup(ended, want.Shop)
	return err == nil && got == want
}

func TestRunFollowsTheMaster(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		dir := follow(t, w.master, slog.DiscardHandler)
		for _, r := range []podworks.Route{{Shop: 1, Pod: 1, Region: "here", Epoch: 1}, {Shop: 2, Pod: 2, Region: "here", Epoch: 1}} {
			await(t, "the first snapshot", func() bool { return dir.has(t, r) })
		}
		w.moveTo(1, 2)
		await(t, "a move", func() bool { return dir.has(t, podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}) })
		if _, err := w.cluster.CreateShop(t.Context(), 4, 1); err != nil {
			t.Fatal(err)
		}
		await(t, "a new shop", func() bool { return dir.has(t, podworks.Route{Shop: 4, Pod: 1, Region: "here", Epoch: 1}) })
		// A pod that fails over changes the routes of all its shops, and is one row.
		failover, err := w.master.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{
			`UPDATE podworks_version SET version = version + 1`,
			`UPDATE podworks_pods SET region = 'there', epoch = epoch + 1, version = (SELECT version FROM podworks_version) WHERE pod_id = 2`,
		} {
			if _, err := failover.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		if err := failover.Commit(); err != nil {
			t.Fatal(err)
		}
		for _, r := range []podworks.Route{{Shop: 1, Pod: 2, Region: "there", Epoch: 2}, {Shop: 2, Pod: 2, Region: "there", Epoch: 1}} {
			await(t, "a failover", func() bool { return dir.has(t, r) })
		}
		reason := errors.New("shutting down")
		dir.stop(reason)
		checkIs(t, "Run", <-dir.ended, reason)
	})
}

// A master that hangs, or is gone, leaves the last snapshot in force.
func TestTheLastSnapshotOutlivesTheMaster(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		master := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		db := openPlain(t, master, testcluster.Database(t, master))
		w := worldWith(t, testcluster.Server(t, f), db)
		lines := make(lineHandler, 100)
		dir := follow(t, db, lines)
		one := podworks.Route{Shop: 1, Pod: 1, Region: "here", Epoch: 1}
		await(t, "the first snapshot", func() bool { return dir.has(t, one) })

		for i, fault := range []struct {
			name      string
			from, end func() error
		}{
			{"a master that hangs", master.Pause, master.Resume},
			{"a master that is gone", master.Kill, func() error { return master.Restart(t.Context()) }},
		} {
			if err := fault.from(); err != nil {
				t.Fatal(err)
			}
			if got := lines.next(t); !strings.Contains(got, "last snapshot") {
				t.Errorf("%s: logged %q, want that the last snapshot stays in force", fault.name, got)
			}
			if !dir.has(t, one) {
				t.Errorf("%s: the snapshot is gone", fault.name)
			}
			await(t, "the route's age to say so", func() bool { return dir.Stats().Age > 200*time.Millisecond })
			if got := dir.Stats(); got.Failures == 0 {
				t.Errorf("%s: %+v, want failures", fault.name, got)
			}
			// An unknown shop is not the same as one that can't be asked for.
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := dir.Lookup(ctx, 99); err == nil || errors.Is(err, sharding.ErrUnknownShop) {
				t.Errorf("%s: Lookup of another shop: got %v, want an error that isn't ErrUnknownShop", fault.name, err)
			}
			cancel()
			if err := fault.end(); err != nil {
				t.Fatal(err)
			}
			if got := lines.next(t); !strings.Contains(got, "fresh again") {
				t.Errorf("after %s: logged %q, want that it is fresh again", fault.name, got)
			}
			await(t, "the route's age to say so", func() bool { return dir.Stats().Age < 200*time.Millisecond })
			shop := podworks.ShopID(10 + i)
			if _, err := w.CreateShop(t.Context(), shop, 1); err != nil {
				t.Fatal(err)
			}
			await(t, "a shop made afterwards", func() bool { return dir.has(t, podworks.Route{Shop: shop, Pod: 1, Region: "here", Epoch: 1}) })
		}
	})
}

// worldWith returns a cluster whose pods are on server and whose directory is in
// master, with shop 1 in pod 1.
func worldWith(t *testing.T, server *testcluster.MySQLServer, master *sql.DB) *sharding.Cluster {
	t.Helper()
	w := worldOn(t, server, nil, nil)
	dir := sharding.NewDirectory(master, nil)
	c := w.newCluster(dir, w.connectors(), nil)
	if err := c.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dir.AddPod(t.Context(), 1, "here"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateShop(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}
	return c
}

// A lineHandler is a slog.Handler that sends each message to a channel.
type lineHandler chan string

func (h lineHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h lineHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h lineHandler) WithGroup(string) slog.Handler            { return h }
func (h lineHandler) Handle(_ context.Context, r slog.Record) error {
	h <- r.Message
	return nil
}

func (h lineHandler) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-h:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting for a line of the log")
		return ""
	}
}

// Hosts is what package routing builds its table from.
func TestHostsOfADirectory(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		got := map[string]podworks.Route{}
		collect := func(host string, r podworks.Route) { got[host] = r }
		version, err := w.dir.Hosts(t.Context(), 0, collect)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got["one.example"].Pod != 1 || got["two.example"].Shop != 2 {
			t.Errorf("Hosts since 0 = %v, want one.example and two.example", got)
		}
		clear(got)
		w.moveTo(1, 2)
		if _, err := w.dir.Hosts(t.Context(), version, collect); err != nil {
			t.Fatal(err)
		}
		if want := (podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}); len(got) != 1 || got["one.example"] != want {
			t.Errorf("Hosts since then = %v, want one.example at %v", got, want)
		}
		clear(got)
		if err := w.dir.RemoveHost(t.Context(), 1, "One.example"); err != nil {
			t.Fatal(err)
		}
		if err := w.dir.AddHost(t.Context(), 2, "Deux.example"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.dir.Hosts(t.Context(), version+1, collect); err != nil {
			t.Fatal(err)
		}
		if r, ok := got["one.example"]; !ok || r != (podworks.Route{}) || got["deux.example"].Shop != 2 {
			t.Errorf("Hosts after one was removed and one added = %v, want one.example with the zero route, and deux.example", got)
		}
	})
}

// The directory is the journal that package ferry asks for; what it decides,
// it knows.
func TestADirectoryKeepsTheJournal(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx := t.Context()
		m, err := w.dir.Claim(ctx, 1, 2, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if moves, err := w.dir.Moves(ctx); err != nil || len(moves) != 1 || moves[0].Token != m.Token {
			t.Errorf("Moves = %v, %v; want the one claimed", moves, err)
		}
		checkIs(t, "Beat", w.dir.Beat(ctx, m.Token, "copy"), nil)
		checkIs(t, "Note", w.dir.Note(ctx, m.Token), nil)
		r, err := w.dir.Decide(ctx, m.Token)
		want := podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}
		if err != nil || r != want {
			t.Errorf("Decide = %v, %v; want %v", r, err, want)
		}
		if got, err := w.dir.Lookup(ctx, 1); err != nil || got != want {
			t.Errorf("Lookup = %v, %v; want %v", got, err, want)
		}
		if err := w.dir.Abort(ctx, m.Token); err == nil {
			t.Error("Abort after Decide: got no error")
		}
		checkIs(t, "Finish", w.dir.Finish(ctx, m.Token), nil)
		if moves, err := w.dir.Moves(ctx); err != nil || len(moves) != 0 {
			t.Errorf("Moves = %v, %v; want none", moves, err)
		}
	})
}
