package fence_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }

// A pod is a database with a fence table.
type pod struct {
	t    testing.TB
	db   *sql.DB
	name string
	dial cut.Dialer // what db dials with
}

func newPod(t testing.TB, server *testcluster.MySQLServer) *pod {
	t.Helper()
	p := &pod{t: t, name: testcluster.Database(t, server)}
	cfg := server.Config(p.name)
	cfg.Logger = &mysql.NopLogger{}
	p.dial.Use(cfg)
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.db = sql.OpenDB(c)
	t.Cleanup(func() { p.db.Close() })
	p.exec(fence.Schema)
	p.exec(`CREATE TABLE things (id INT NOT NULL PRIMARY KEY)`)
	return p
}

// each runs test on a new pod of each family.
func each(t *testing.T, test func(t *testing.T, p *pod)) {
	t.Helper()
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) { test(t, newPod(t, testcluster.Server(t, f))) })
}

func (p *pod) exec(query string, args ...any) {
	p.t.Helper()
	if _, err := p.db.ExecContext(p.t.Context(), query, args...); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
}

// set makes r the row of its shop; the zero Row means that there is none.
func (p *pod) set(r fence.Row) {
	p.t.Helper()
	p.exec(`DELETE FROM podworks_fence`)
	if r == (fence.Row{}) {
		return
	}
	p.exec(`INSERT INTO podworks_fence (shop_id, epoch, state, destination, token) VALUES (?, ?, ?, ?, ?)`,
		int64(r.Shop), uint64(r.Epoch), string(r.State), int64(r.Destination), r.Token)
}

// wantRow fails the test if shop 1's row is not want.
func (p *pod) wantRow(what string, want fence.Row) {
	p.t.Helper()
	got, err := fence.Read(p.t.Context(), p.db, 1, "")
	if err != nil || got != want {
		p.t.Errorf("%s: the row is %v (%v), want %v", what, got, err, want)
	}
}

// A writer is a transaction of shop 1 that has the fence and has written.
type writer struct {
	*sql.Tx
	id int64 // of its session
}

func (p *pod) write(thing int) *writer {
	p.t.Helper()
	ctx := p.t.Context()
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = tx.Rollback() })
	w := &writer{Tx: tx}
	if err := errors.Join(
		tx.QueryRowContext(ctx, `SELECT CONNECTION_ID()`).Scan(&w.id),
		tx.QueryRowContext(ctx, fence.SharedLock(1)).Scan(new(any), new(any), new(any), new(any)),
	); err != nil {
		p.t.Fatal(err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (?)`, thing); err != nil {
		p.t.Fatal(err)
	}
	return w
}

// things returns how many things were committed.
func (p *pod) things() int {
	p.t.Helper()
	var n int
	if err := p.db.QueryRowContext(p.t.Context(), `SELECT COUNT(*) FROM things`).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// lockable reports whether shop 1's row can be locked exclusively now.
func (p *pod) lockable() bool {
	p.t.Helper()
	_, err := fence.Read(p.t.Context(), p.db, 1, "FOR UPDATE NOWAIT")
	var e *mysql.MySQLError
	if err != nil && (!errors.As(err, &e) || e.Number != 1205 && e.Number != 3572) {
		p.t.Fatal(err)
	}
	return err == nil
}

// statements returns how many sessions of the pod run a statement like pattern.
func (p *pod) statements(pattern string) int {
	p.t.Helper()
	var n int
	if err := p.db.QueryRowContext(p.t.Context(),
		`SELECT COUNT(*) FROM information_schema.processlist WHERE db = ? AND info LIKE ? AND id <> CONNECTION_ID()`, p.name, pattern).Scan(&n); err != nil {
		p.t.Error(err)
	}
	return n
}

const wantsExclusive = `%podworks_fence%FOR UPDATE`

// await returns when done says so, and fails the test when it doesn't in time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(15 * time.Second)
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

var (
	none    fence.Row // there is no row
	open    = fence.Row{Shop: 1, State: fence.Open, Epoch: 1}
	absent  = fence.Row{Shop: 1, State: fence.Absent}
	from    = podworks.Route{Shop: 1, Pod: 1, Epoch: 1}
	closing = fence.Closing{From: from, To: 2, Token: 5, Budget: 10 * time.Second}
	moved   = fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 2, Token: 5}
)

func incoming(token uint64) fence.Row {
	return fence.Row{Shop: 1, State: fence.Incoming, Token: token}
}

func tombstone(token uint64) fence.Row {
	return fence.Row{Shop: 1, State: fence.Absent, Token: token}
}

// Every change that one side of a move makes to a row, from every state. A
// move has token 5; tokens only grow.
func TestChangesOfARow(t *testing.T) {
	reopened := fence.Row{Shop: 1, State: fence.Open, Epoch: 1, Token: 5}
	arrived := fence.Row{Shop: 1, State: fence.Open, Epoch: 2, Token: 5}
	leftBefore := fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 9, Token: 3}
	leftLater := fence.Row{Shop: 1, State: fence.Moved, Epoch: 3, Destination: 9, Token: 7}
	claim := func(ctx context.Context, db *sql.DB) error { return fence.Claim(ctx, db, 1, 5) }
	release := func(ctx context.Context, db *sql.DB) error { return fence.Release(ctx, db, 1, 2, 5) }
	entomb := func(ctx context.Context, db *sql.DB) error { return fence.Tombstone(ctx, db, 1, 5) }
	reopen := func(ctx context.Context, db *sql.DB) error { return fence.Reopen(ctx, db, from, 5) }
	create := func(ctx context.Context, db *sql.DB) error { return fence.Create(ctx, db, 1) }
	type step struct {
		name       string
		change     func(context.Context, *sql.DB) error
		have, want fence.Row
		err        error
	}
	same := func(name string, change func(context.Context, *sql.DB) error, have fence.Row, err error) step {
		return step{name, change, have, have, err}
	}
	steps := []step{
		{"Claim a shop never seen", claim, none, incoming(5), nil},
		{"Claim an absent one", claim, absent, incoming(5), nil},
		{"Claim after a tombstone", claim, tombstone(4), incoming(5), nil},
		{"Claim from an earlier move", claim, incoming(4), incoming(5), nil},
		{"Claim a shop that left before", claim, leftBefore, incoming(5), nil},
		same("Claim again", claim, incoming(5), nil),
		same("Claim after our own tombstone", claim, tombstone(5), fence.ErrToken),
		same("Claim after a later tombstone", claim, tombstone(6), fence.ErrToken),
		same("Claim from a later move", claim, incoming(6), fence.ErrToken),
		same("Claim a shop that left later", claim, leftLater, fence.ErrToken),
		same("Claim an open one", claim, open, fence.ErrToken),
		same("Claim one that we opened", claim, arrived, fence.ErrToken),

		{"Release", release, incoming(5), arrived, nil},
		same("Release again", release, arrived, nil),
		{"Release a shop never seen", release, none, absent, fence.ErrToken},
		same("Release after our own tombstone", release, tombstone(5), fence.ErrToken),
		same("Release with another's token", release, incoming(6), fence.ErrToken),
		same("Release with an old token", release, incoming(4), fence.ErrToken),
		same("Release a shop that left", release, leftLater, fence.ErrToken),
		same("Release one that is open at another epoch", release, open, fence.ErrToken),

		{"Tombstone", entomb, incoming(5), tombstone(5), nil},
		{"Tombstone of a move that never claimed", entomb, none, tombstone(5), nil},
		{"Tombstone of an absent one", entomb, absent, tombstone(5), nil},
		{"Tombstone of an earlier move", entomb, incoming(4), tombstone(5), nil},
		{"Tombstone of a shop that left before", entomb, leftBefore, tombstone(5), nil},
		same("Tombstone again", entomb, tombstone(5), nil),
		same("Tombstone of a later move", entomb, incoming(6), nil),
		same("Tombstone after a later one", entomb, tombstone(6), nil),
		same("Tombstone of a shop that left later", entomb, leftLater, nil),
		same("Tombstone of the source", entomb, moved, nil),
		same("Tombstone of an open one", entomb, open, nil),

		{"Reopen", reopen, moved, reopened, nil},
		{"Reopen what an earlier move closed", reopen, leftBefore, fence.Row{Shop: 1, State: fence.Open, Epoch: 1, Token: 3}, nil},
		same("Reopen again", reopen, reopened, nil),
		same("Reopen one that never closed", reopen, open, nil),
		same("Reopen what a later move closed", reopen, fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 9, Token: 6}, nil),
		same("Reopen what closed at another epoch", reopen, fence.Row{Shop: 1, State: fence.Moved, Epoch: 2, Destination: 9, Token: 4}, nil),
		same("Reopen a target", reopen, incoming(5), nil),
		same("Reopen an absent one", reopen, absent, nil),

		{"Create", create, none, open, nil},
		same("Create again", create, open, nil),
		same("Create a shop that left", create, moved, nil),
		same("Create a shop that is coming", create, incoming(5), nil),
	}
	each(t, func(t *testing.T, p *pod) {
		for _, s := range steps {
			p.set(s.have)
			checkIs(t, s.name, s.change(t.Context(), p.db), s.err)
			p.wantRow(s.name, s.want)
		}
		p.set(none)
		if err := fence.Reopen(t.Context(), p.db, from, 5); err != nil {
			t.Errorf("Reopen of a shop never seen: %v", err)
		}
		p.wantRow("Reopen of a shop never seen", absent)
	})
}

// Several movers claim at once: the highest token has the row in the end, and
// whoever was refused was refused for a higher one.
func TestClaimsRace(t *testing.T) {
	each(t, func(t *testing.T, p *pod) {
		const movers = 8
		for range 5 {
			p.set(none)
			errs := make(chan error, movers)
			for token := range movers {
				go func() { errs <- fence.Claim(t.Context(), p.db, 1, uint64(token+1)) }()
			}
			for range movers {
				if err := <-errs; err != nil && !errors.Is(err, fence.ErrToken) {
					t.Errorf("Claim: got %v, want nil or ErrToken", err)
				}
			}
			p.wantRow("after the race", incoming(movers))
		}
	})
}

// Applying and Deleting let a transaction go on only under its own token, and
// hold the row so that nobody takes it over before it has ended.
func TestApplyingAndDeletingHoldTheRow(t *testing.T) {
	applying := func(ctx context.Context, tx *sql.Tx) error { return fence.Applying(ctx, tx, 1, 5) }
	cleaning := func(ctx context.Context, tx *sql.Tx) error { return fence.Deleting(ctx, tx, 1, fence.Moved, 5) }
	undoing := func(ctx context.Context, tx *sql.Tx) error { return fence.Deleting(ctx, tx, 1, fence.Absent, 5) }
	each(t, func(t *testing.T, p *pod) {
		for _, c := range []struct {
			name  string
			hold  func(context.Context, *sql.Tx) error
			right fence.Row
		}{{"Applying", applying, incoming(5)}, {"Deleting after a move", cleaning, moved}, {"Deleting after an undo", undoing, tombstone(5)}} {
			wrong := []fence.Row{none, absent, open, incoming(4), incoming(6), tombstone(4), tombstone(6), {Shop: 1, State: fence.Moved, Epoch: 1, Destination: 2, Token: 6}}
			for _, r := range []fence.Row{incoming(5), moved, tombstone(5)} {
				if r != c.right {
					wrong = append(wrong, r)
				}
			}
			for _, r := range wrong {
				p.set(r)
				tx, err := p.db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				checkIs(t, c.name+" with "+r.String(), c.hold(t.Context(), tx), fence.ErrToken)
				_ = tx.Rollback()
			}
			p.set(c.right)
			tx, err := p.db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			checkIs(t, c.name, c.hold(t.Context(), tx), nil)
			if p.lockable() {
				t.Errorf("%s: the row can be locked while the transaction is under way", c.name)
			}
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
			if !p.lockable() {
				t.Errorf("%s: the row can't be locked after the transaction", c.name)
			}
		}
	})
}
