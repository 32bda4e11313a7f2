package directory_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/testcluster"
)

// transitions are the journal's, each with what it needs before it and the
// states of the move's row that show whether it happened.
var transitions = []struct {
	name          string
	before        []string
	call          func(ctx context.Context, s *directory.Store, token uint64) error
	not, happened podworks.MoveState // "" for no row
}{
	{"claim", nil, func(ctx context.Context, s *directory.Store, _ uint64) error {
		_, err := s.Claim(ctx, 1, 2, time.Minute)
		return err
	}, "", podworks.MoveRunning},
	{"decide", []string{"claim"}, func(ctx context.Context, s *directory.Store, token uint64) error {
		_, err := s.Decide(ctx, token)
		return err
	}, podworks.MoveRunning, podworks.MoveDecided},
	{"abort", []string{"claim"}, func(ctx context.Context, s *directory.Store, token uint64) error { return s.Abort(ctx, token) },
		podworks.MoveRunning, podworks.MoveAborting},
	{"reclaim", []string{"claim", "decide"}, func(ctx context.Context, s *directory.Store, token uint64) error {
		_, err := s.Reclaim(ctx, token)
		return err
	}, podworks.MoveDecided, podworks.MoveDone},
	{"verified", []string{"claim", "decide", "reclaim"}, func(ctx context.Context, s *directory.Store, token uint64) error {
		return s.Verified(ctx, token)
	}, podworks.MoveDecided, podworks.MoveDecided},
	{"finish", []string{"claim", "decide"}, func(ctx context.Context, s *directory.Store, token uint64) error { return s.Finish(ctx, token) },
		podworks.MoveDecided, podworks.MoveDone},
}

// Every COMMIT of the journal loses its answer, once it happened and once it did
// not: its caller learns which, and nothing is done twice.
func TestACommitWhoseAnswerIsLostIsLookedUp(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, tr := range transitions {
			for _, how := range []struct {
				name      string
				how       cut.How
				committed bool // by the connection that broke
			}{
				{"before it was sent", cut.BeforeSending, false},
				{"while it was sent", cut.WhileSending, false},
				{"before it was answered", cut.BeforeTheAnswer, true},
			} {
				t.Run(tr.name+", "+how.name, func(t *testing.T) {
					m := newMaster(t, f)
					token := m.prepare(tr.before)
					broken, dial := m.breakable()
					dial.At(how.how)
					err := tr.call(t.Context(), broken, token)
					if errors.Is(err, podworks.ErrOutcomeUnknown) {
						t.Fatalf("got %v, want the outcome looked up", err)
					}
					if how.committed && err != nil {
						t.Errorf("got %v, want the commit that happened found", err)
					}
					// One that did not happen is made again or reported, as the caller is told.
					want, rows := tr.happened, len(tr.before)
					if err != nil {
						want = tr.not
					}
					m.wantJournal(token, want, tr.name, err == nil, rows)
					if err != nil {
						if err := tr.call(t.Context(), broken, token); err != nil {
							t.Errorf("once more: %v", err)
						}
						m.wantJournal(token, tr.happened, tr.name, true, rows)
					}
				})
			}
		}
	})
}

// The server stays away: that is said, and asking again when it is back tells.
func TestAnOutcomeThatCantBeLookedUpIsUnknown(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, tr := range transitions[:2] { // one of each way to look
			for name, how := range map[string]cut.How{"not committed": cut.WhileSending, "committed": cut.BeforeTheAnswer} {
				t.Run(tr.name+", "+name, func(t *testing.T) {
					t.Parallel()
					m := newMaster(t, f)
					token := m.prepare(tr.before)
					broken, dial := m.breakable()
					dial.At(func(c net.Conn, packet []byte) (int, error) {
						dial.Refuse(true)
						return how(c, packet)
					})
					err := tr.call(t.Context(), broken, token)
					if !errors.Is(err, podworks.ErrOutcomeUnknown) {
						t.Fatalf("got %v, want ErrOutcomeUnknown", err)
					}
					dial.Refuse(false)
					err = tr.call(t.Context(), broken, token)
					if busy := tr.name == "claim" && name == "committed"; busy && !errors.Is(err, directory.ErrBusy) || !busy && err != nil {
						t.Errorf("when the server is back: got %v", err)
					}
					m.wantJournal(token, tr.happened, tr.name, true, len(tr.before))
				})
			}
		}
	})
}

// prepare makes the transitions and returns the last token.
func (m *master) prepare(names []string) (token uint64) {
	m.t.Helper()
	for _, name := range names {
		for _, tr := range transitions {
			if tr.name != name {
				continue
			}
			if err := tr.call(m.t.Context(), m.Store, token); err != nil {
				m.t.Fatal(err)
			}
		}
		if err := m.db.QueryRowContext(m.t.Context(), `SELECT MAX(token) FROM podworks_moves`).Scan(&token); err != nil {
			m.t.Fatal(err)
		}
		if name == "claim" {
			if err := m.Note(m.t.Context(), token); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	return token
}

// breakable returns the store through a connection that breaks.
func (m *master) breakable() (*directory.Store, *cut.Dialer) {
	m.t.Helper()
	cfg := m.server.Config(m.name)
	cfg.Logger = &mysql.NopLogger{}
	dial := new(cut.Dialer)
	dial.Use(cfg)
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	db := sql.OpenDB(c)
	db.SetMaxIdleConns(0) // so that looking up dials
	m.t.Cleanup(func() { db.Close() })
	return directory.New(db), dial
}

// wantJournal checks the row that a transition was about.
func (m *master) wantJournal(token uint64, want podworks.MoveState, transition string, happened bool, before int) {
	m.t.Helper()
	ctx := m.t.Context()
	var rows, active int
	if err := m.db.QueryRowContext(ctx, `SELECT COUNT(*), COUNT(active) FROM podworks_moves`).Scan(&rows, &active); err != nil {
		m.t.Fatal(err)
	}
	switch transition {
	case "claim":
		if n := map[bool]int{true: 1}[happened]; rows != n {
			m.t.Errorf("the journal has %d rows, want %d", rows, n)
		}
		return
	case "reclaim":
		if n := map[bool]int{true: 2, false: 1}[happened]; rows != n || active != 1 {
			m.t.Errorf("the journal has %d rows and %d unfinished, want %d and 1", rows, active, n)
		}
	case "verified":
		mv, err := m.Move(ctx, token)
		if err != nil || happened != (mv.Verified == token) {
			m.t.Errorf("verified is token %d (%v), want it of %d: %v", mv.Verified, err, token, happened)
		}
	case "decide":
		if happened {
			m.wantAt("afterwards", 2, 2)
		} else {
			m.wantAt("afterwards", 1, 1)
		}
	}
	mv, err := m.Move(ctx, token)
	if err != nil || mv.State != want {
		m.t.Errorf("the move is %s (%v), want %s", mv.State, err, want)
	}
}

// A decided move that is reclaimed has one row that may be opened, the new one,
// and only once it is verified.
func TestReclaimEndsTheOldToken(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		m := newMaster(t, f)
		old := m.claim(1, 2)
		if _, err := m.Reclaim(t.Context(), old.Token); !errors.Is(err, directory.ErrNotOurs) {
			t.Errorf("of a running move: got %v, want ErrNotOurs", err)
		}
		if _, err := m.Decide(t.Context(), old.Token); err != nil {
			t.Fatal(err)
		}
		if err := m.Beat(t.Context(), old.Token, "x"); !errors.Is(err, directory.ErrNotOurs) {
			t.Errorf("a beat of a decided move: got %v, want ErrNotOurs", err)
		}
		again, err := m.Reclaim(t.Context(), old.Token)
		if err != nil {
			t.Fatal(err)
		}
		if want := (podworks.Move{Token: old.Token + 1, From: old.From, To: old.To, State: podworks.MoveDecided, Step: "copy again"}); again != want {
			t.Errorf("got %+v, want %+v", again, want)
		}
		if err := m.Beat(t.Context(), again.Token, "copy"); err != nil {
			t.Errorf("a beat while it is copied again: %v", err)
		}
		for name, call := range map[string]func() error{
			"reclaim":  func() error { _, err := m.Reclaim(t.Context(), old.Token); return err },
			"verified": func() error { return m.Verified(t.Context(), old.Token) },
			"beat":     func() error { return m.Beat(t.Context(), old.Token, "copy") },
		} {
			if err := call(); !errors.Is(err, directory.ErrNotOurs) {
				t.Errorf("%s of the old token: got %v, want ErrNotOurs", name, err)
			}
		}
		if err := m.Verified(t.Context(), again.Token); err != nil {
			t.Fatal(err)
		}
		if err := m.Beat(t.Context(), again.Token, "x"); !errors.Is(err, directory.ErrNotOurs) {
			t.Errorf("a beat once it is verified: got %v, want ErrNotOurs", err)
		}
		moves, err := m.Moves(t.Context())
		if err != nil || len(moves) != 1 || moves[0].Verified != again.Token {
			t.Errorf("unfinished: %+v, %v; want the new one, verified", moves, err)
		}
		m.wantAt("afterwards", 2, 2)
	})
}
