package directory_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/hook"
)

// claim begins a move that may be decided.
func (m *master) claim(shop podworks.ShopID, to podworks.PodID) podworks.Move {
	m.t.Helper()
	mv, err := m.Claim(m.t.Context(), shop, to, time.Minute)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.Note(m.t.Context(), mv.Token); err != nil {
		m.t.Fatal(err)
	}
	return mv
}

// move moves a shop.
func (m *master) move(shop podworks.ShopID, to podworks.PodID) {
	m.t.Helper()
	mv := m.claim(shop, to)
	if _, err := m.Decide(m.t.Context(), mv.Token); err != nil {
		m.t.Fatal(err)
	}
	if err := m.Finish(m.t.Context(), mv.Token); err != nil {
		m.t.Fatal(err)
	}
}

// wantState fails the test if a move's state is not want.
func (m *master) wantState(what string, token uint64, want podworks.MoveState) {
	m.t.Helper()
	mv, err := m.Move(m.t.Context(), token)
	if err != nil || mv.State != want {
		m.t.Errorf("%s: the move is %s (%v), want %s", what, mv.State, err, want)
	}
	moves, err := m.Moves(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	listed := slices.ContainsFunc(moves, func(mv podworks.Move) bool { return mv.Token == token })
	if unfinished := want != podworks.MoveDone && want != podworks.MoveUndone; listed != unfinished {
		m.t.Errorf("%s: a move that is %s is listed as unfinished: %v, want %v", what, want, listed, unfinished)
	}
}

// wantAt fails the test if shop 1 is not in the pod at the epoch.
func (m *master) wantAt(what string, pod podworks.PodID, epoch podworks.Epoch) {
	m.t.Helper()
	r, err := m.Lookup(m.t.Context(), 1)
	if err != nil || r.Pod != pod || r.Epoch != epoch {
		m.t.Errorf("%s: the shop is at %v (%v), want pod %d at epoch %d", what, r, err, pod, epoch)
	}
}

// Every operation in every state of a move of shop 1 from pod 1 to pod 2.
func TestTheJournalsStates(t *testing.T) {
	type state = podworks.MoveState
	operations := map[string]func(m *master, token uint64) error{
		"Beat": func(m *master, token uint64) error { return m.Beat(m.t.Context(), token, "copy") },
		"Note": func(m *master, token uint64) error { return m.Note(m.t.Context(), token) },
		"Decide": func(m *master, token uint64) error {
			r, err := m.Decide(m.t.Context(), token)
			if want := (podworks.Route{Shop: 1, Pod: 2, Region: "here", Epoch: 2}); err == nil && r != want {
				m.t.Errorf("Decide = %v, want %v", r, want)
			}
			return err
		},
		"Abort":  func(m *master, token uint64) error { return m.Abort(m.t.Context(), token) },
		"Finish": func(m *master, token uint64) error { return m.Finish(m.t.Context(), token) },
	}
	reach := map[state][]string{
		podworks.MoveRunning:  nil,
		podworks.MoveDecided:  {"Decide"},
		podworks.MoveAborting: {"Abort"},
		podworks.MoveDone:     {"Decide", "Finish"},
		podworks.MoveUndone:   {"Abort", "Finish"},
	}
	cases := []struct {
		state state
		op    string
		err   error
		then  state
	}{
		{podworks.MoveRunning, "Beat", nil, podworks.MoveRunning},
		{podworks.MoveRunning, "Note", nil, podworks.MoveRunning},
		{podworks.MoveRunning, "Decide", nil, podworks.MoveDecided},
		{podworks.MoveRunning, "Abort", nil, podworks.MoveAborting},
		{podworks.MoveRunning, "Finish", nil, podworks.MoveRunning}, // does nothing

		{podworks.MoveDecided, "Beat", directory.ErrNotOurs, podworks.MoveDecided},
		{podworks.MoveDecided, "Note", directory.ErrNotOurs, podworks.MoveDecided},
		{podworks.MoveDecided, "Decide", nil, podworks.MoveDecided},
		{podworks.MoveDecided, "Abort", directory.ErrDecided, podworks.MoveDecided},
		{podworks.MoveDecided, "Finish", nil, podworks.MoveDone},

		{podworks.MoveAborting, "Beat", directory.ErrNotOurs, podworks.MoveAborting},
		{podworks.MoveAborting, "Note", directory.ErrNotOurs, podworks.MoveAborting},
		{podworks.MoveAborting, "Decide", directory.ErrNotOurs, podworks.MoveAborting},
		{podworks.MoveAborting, "Abort", nil, podworks.MoveAborting},
		{podworks.MoveAborting, "Finish", nil, podworks.MoveUndone},

		{podworks.MoveDone, "Beat", directory.ErrNotOurs, podworks.MoveDone},
		{podworks.MoveDone, "Note", directory.ErrNotOurs, podworks.MoveDone},
		{podworks.MoveDone, "Decide", nil, podworks.MoveDone}, // someone else finished what we decided
		{podworks.MoveDone, "Abort", directory.ErrDecided, podworks.MoveDone},
		{podworks.MoveDone, "Finish", nil, podworks.MoveDone},

		{podworks.MoveUndone, "Beat", directory.ErrNotOurs, podworks.MoveUndone},
		{podworks.MoveUndone, "Note", directory.ErrNotOurs, podworks.MoveUndone},
		{podworks.MoveUndone, "Decide", directory.ErrNotOurs, podworks.MoveUndone},
		{podworks.MoveUndone, "Abort", nil, podworks.MoveUndone},
		{podworks.MoveUndone, "Finish", nil, podworks.MoveUndone},
	}
	each(t, func(t *testing.T, m *master) {
		for _, c := range cases {
			what := c.op + " of a move that is " + string(c.state)
			m.exec(`DELETE FROM podworks_moves`)
			m.exec(`UPDATE podworks_shops SET pod_id = 1, epoch = 1 WHERE shop_id = 1`)
			mv := m.claim(1, 2)
			for _, op := range reach[c.state] {
				checkIs(t, "reaching "+string(c.state), operations[op](m, mv.Token), nil)
			}
			m.wantState("before "+what, mv.Token, c.state)
			checkIs(t, what, operations[c.op](m, mv.Token), c.err)
			m.wantState("after "+what, mv.Token, c.then)
			if c.then == podworks.MoveDecided || c.then == podworks.MoveDone {
				m.wantAt("after "+what, 2, 2)
			} else {
				m.wantAt("after "+what, 1, 1)
			}
		}
		for name, op := range operations {
			if name == "Finish" {
				continue // nothing to do is no error
			}
			if err := op(m, 1<<40); err == nil {
				t.Errorf("%s of an unknown move: got no error", name)
			}
		}
	})
}

func TestClaimOfAMove(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		mv, err := m.Claim(ctx, 1, 2, time.Minute)
		want := podworks.Move{
			Token: mv.Token, State: podworks.MoveRunning, Step: "claimed",
			From: podworks.Route{Shop: 1, Pod: 1, Epoch: 1}, To: podworks.Route{Shop: 1, Pod: 2, Epoch: 2},
		}
		if err != nil || mv != want || mv.Token == 0 {
			t.Fatalf("Claim = %+v, %v; want %+v", mv, err, want)
		}
		got, err := m.Move(ctx, mv.Token)
		if got.Idle < 0 || got.Idle > 30*time.Second {
			t.Errorf("a new move was idle for %v", got.Idle)
		}
		got.Idle = 0
		if err != nil || got != want {
			t.Errorf("Move = %+v, %v; want %+v", got, err, want)
		}
		checkIs(t, "Beat", m.Beat(ctx, mv.Token, "copy"), nil)
		if got, _ := m.Move(ctx, mv.Token); got.Step != "copy" {
			t.Errorf("after Beat the step is %q, want copy", got.Step)
		}

		for _, c := range []struct {
			name string
			shop podworks.ShopID
			to   podworks.PodID
			want error
		}{
			{"the shop is being moved", 1, 2, directory.ErrBusy},
			{"the shop is being moved elsewhere", 1, 3, directory.ErrBusy},
			{"the shop is being moved from there", 1, 1, directory.ErrBusy},
			{"an unknown shop", 99, 2, directory.ErrUnknownShop},
			{"an unknown pod", 1, 9, directory.ErrUnknownPod},
		} {
			_, err := m.Claim(ctx, c.shop, c.to, time.Minute)
			checkIs(t, "Claim: "+c.name, err, c.want)
		}
		m.addShop(2, 2)
		_, err = m.Claim(ctx, 2, 2, time.Minute)
		checkIs(t, "Claim: the shop is there", err, directory.ErrSamePod)

		// Silent for its lease: a claim of the same move takes it over.
		_, err = m.Claim(ctx, 1, 3, 0)
		checkIs(t, "Claim of another move after the lease", err, directory.ErrUnfinished)
		next, err := m.Claim(ctx, 1, 2, 0)
		if err != nil || next.Token <= mv.Token {
			t.Fatalf("Claim after the lease = %+v, %v; want a higher token than %d", next, err, mv.Token)
		}
		m.wantState("the move that was taken over", mv.Token, podworks.MoveUndone)
		m.wantState("the move that took over", next.Token, podworks.MoveRunning)
		checkIs(t, "Beat of the old mover", m.Beat(ctx, mv.Token, "copy"), directory.ErrNotOurs)
		_, err = m.Decide(ctx, mv.Token)
		checkIs(t, "Decide of the old mover", err, directory.ErrNotOurs)

		// What is decided or aborting is not for a claim to take over.
		checkIs(t, "Abort", m.Abort(ctx, next.Token), nil)
		_, err = m.Claim(ctx, 1, 2, 0)
		checkIs(t, "Claim of an aborting move after the lease", err, directory.ErrUnfinished)
		checkIs(t, "Finish", m.Finish(ctx, next.Token), nil)
		third := m.claim(1, 2)
		if third.Token <= next.Token {
			t.Errorf("token %d came after %d", third.Token, next.Token)
		}
		if _, err := m.Decide(ctx, third.Token); err != nil {
			t.Fatal(err)
		}
		_, err = m.Claim(ctx, 1, 3, 0)
		checkIs(t, "Claim of a decided move after the lease", err, directory.ErrUnfinished)
		checkIs(t, "Finish", m.Finish(ctx, third.Token), nil)
		back, err := m.Claim(ctx, 1, 1, time.Minute)
		if err != nil || back.From.Pod != 2 || back.From.Epoch != 2 || back.To.Epoch != 3 {
			t.Errorf("Claim of the way back = %+v, %v; want from pod 2 at epoch 2", back, err)
		}
	})
}

// The same hour in two zones is the same time: leases don't depend on what zone
// a process asks in, nor on clocks that are put back.
func TestIdleIsTheSameInEveryTimeZone(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		east := directory.New(m.open(map[string]string{"time_zone": "'+09:00'"}))
		west := directory.New(m.open(map[string]string{"time_zone": "'-08:00'"}))
		mv, err := east.Claim(t.Context(), 1, 2, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string) {
			t.Helper()
			for _, s := range []*directory.Store{east, west, m.Store} {
				if got, err := s.Move(t.Context(), mv.Token); err != nil || got.Idle < 0 || got.Idle > 30*time.Second {
					t.Errorf("%s: idle for %v (%v), want about nothing", what, got.Idle, err)
				}
			}
		}
		check("a new move")
		checkIs(t, "Beat", west.Beat(t.Context(), mv.Token, "copy"), nil)
		check("after Beat")
		// What is stored is not converted either, so a zone's lost and repeated hours
		// are none of its business.
		var off int
		if err := m.db.QueryRowContext(t.Context(), `SELECT ABS(TIMESTAMPDIFF(SECOND, started_at, UTC_TIMESTAMP(6))) FROM podworks_moves`).Scan(&off); err != nil || off > 30 {
			t.Errorf("started_at is %d s off UTC (%v)", off, err)
		}
	})
}

// Two threads of a mover may note the same step at the same moment.
func TestABeatAtTheMomentOfAnotherIsNoLoss(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		mv := m.claim(1, 2)
		frozen := directory.New(m.open(map[string]string{"timestamp": "2000000000.5"}))
		for range 3 {
			if err := frozen.Beat(t.Context(), mv.Token, "copy"); err != nil {
				t.Error(err)
			}
		}
	})
}

// One unfinished move per shop, whoever asks and however many at once.
func TestClaimsRace(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		for range 5 {
			m.exec(`DELETE FROM podworks_moves`)
			const movers = 6
			errs := make(chan error, movers)
			for i := range movers {
				go func() {
					_, err := m.Claim(t.Context(), 1, podworks.PodID(2+i%2), time.Minute)
					errs <- err
				}()
			}
			won := 0
			for range movers {
				err := <-errs
				switch {
				case err == nil:
					won++
				case !errors.Is(err, directory.ErrBusy):
					t.Errorf("a claim that lost: got %v, want ErrBusy", err)
				}
			}
			if moves, err := m.Moves(t.Context()); won != 1 || err != nil || len(moves) != 1 {
				t.Errorf("%d claims won, and there are %d moves (%v); want one of each", won, len(moves), err)
			}
		}
	})
}

// A decision and an abort at once: exactly one happens, whoever asks and however
// often.
func TestDecideAndAbortRace(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		wins := map[podworks.MoveState]int{}
		for round := range 24 {
			m.exec(`DELETE FROM podworks_moves`)
			m.exec(`UPDATE podworks_shops SET pod_id = 1, epoch = 1 WHERE shop_id = 1`)
			mv := m.claim(1, 2)
			var wg sync.WaitGroup
			var decided, aborted [2]error
			start := make(chan struct{})
			for i := range 2 {
				wg.Go(func() {
					<-start
					_, decided[i] = m.Decide(t.Context(), mv.Token)
				})
				wg.Go(func() {
					<-start
					for range round % 8 * 2 { // a decision has more to say: a head start for it
						if _, err := m.Lookup(t.Context(), 1); err != nil {
							t.Error(err)
						}
					}
					aborted[i] = m.Abort(t.Context(), mv.Token)
				})
			}
			close(start)
			wg.Wait()
			got, err := m.Move(t.Context(), mv.Token)
			if err != nil {
				t.Fatal(err)
			}
			wins[got.State]++
			for i := range 2 {
				switch got.State {
				case podworks.MoveDecided:
					checkIs(t, "Decide that won", decided[i], nil)
					checkIs(t, "Abort that lost", aborted[i], directory.ErrDecided)
				case podworks.MoveAborting:
					checkIs(t, "Decide that lost", decided[i], directory.ErrNotOurs)
					checkIs(t, "Abort that won", aborted[i], nil)
				default:
					t.Errorf("the move is %s", got.State)
				}
			}
			if got.State == podworks.MoveDecided {
				m.wantAt("decided", 2, 2)
			} else {
				m.wantAt("aborted", 1, 1)
			}
		}
		if len(wins) < 2 {
			t.Errorf("who won: %v; want each at least once, or this test shows nothing", wins)
		}
	})
}

// A takeover and a decision at once: either the old mover decided, and then the
// claim fails, or it didn't, and then it never will.
func TestDecideAndTakeoverRace(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		for range 15 {
			m.exec(`DELETE FROM podworks_moves`)
			m.exec(`UPDATE podworks_shops SET pod_id = 1, epoch = 1 WHERE shop_id = 1`)
			mv := m.claim(1, 2)
			var wg sync.WaitGroup
			var decided, claimed error
			wg.Go(func() { _, decided = m.Decide(t.Context(), mv.Token) })
			wg.Go(func() { _, claimed = m.Claim(t.Context(), 1, 2, 0) })
			wg.Wait()
			if (decided == nil) == (claimed == nil) {
				t.Errorf("Decide: %v; Claim: %v; want one of them", decided, claimed)
			}
			if decided == nil {
				m.wantAt("decided", 2, 2)
				checkIs(t, "Claim that came too late", claimed, directory.ErrUnfinished)
			} else {
				m.wantAt("taken over", 1, 1)
				checkIs(t, "Decide that came too late", decided, directory.ErrNotOurs)
			}
		}
	})
}

// Failovers of either pod, before and after their epochs were noted.
func TestAFailoverStopsTheDecision(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		for _, pod := range []podworks.PodID{1, 2} {
			mv := m.claim(1, 2)
			m.failover(pod, "here")
			_, err := m.Decide(ctx, mv.Token)
			checkIs(t, "Decide after a failover", err, directory.ErrNotOurs)
			m.wantAt("after a failover", 1, 1)
			// Noted again, it may be decided: here it is not.
			checkIs(t, "Note after a failover", m.Note(ctx, mv.Token), nil)

			m.exec(`UPDATE podworks_pods SET serving = 0 WHERE pod_id = ?`, int64(pod))
			checkIs(t, "Note while a pod fails over", m.Note(ctx, mv.Token), directory.ErrNotServing)
			m.exec(`UPDATE podworks_pods SET serving = 1 WHERE pod_id = ?`, int64(pod))
			checkIs(t, "Abort", m.Abort(ctx, mv.Token), nil)
			checkIs(t, "Finish", m.Finish(ctx, mv.Token), nil)
		}
		mv, err := m.Claim(ctx, 1, 2, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Decide(ctx, mv.Token)
		checkIs(t, "Decide without Note", err, directory.ErrNotOurs)
		m.failover(3, "here") // has nothing to do with it
		checkIs(t, "Note", m.Note(ctx, mv.Token), nil)
		m.failover(3, "here")
		_, err = m.Decide(ctx, mv.Token)
		checkIs(t, "Decide after another pod's failover", err, nil)
	})
}

// The shop is not where it was claimed: someone wrote the directory by hand, or
// the master lost a commit.
func TestDecideWantsTheShopWhereItWasClaimed(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		mv := m.claim(1, 2)
		m.exec(`UPDATE podworks_shops SET epoch = 7 WHERE shop_id = 1`)
		_, err := m.Decide(t.Context(), mv.Token)
		checkIs(t, "Decide at another epoch", err, directory.ErrNotOurs)
		m.exec(`UPDATE podworks_shops SET epoch = 1, pod_id = 3 WHERE shop_id = 1`)
		_, err = m.Decide(t.Context(), mv.Token)
		checkIs(t, "Decide from another pod", err, directory.ErrNotOurs)
		m.wantState("afterwards", mv.Token, podworks.MoveRunning)
	})
}

// The twin: with the comparison switched off an aborted move is decided, which
// the tests of a move then find out.
func TestWithoutTheComparisonAnAbortedMoveIsDecided(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		mv := m.claim(1, 2)
		checkIs(t, "Abort", m.Abort(t.Context(), mv.Token), nil)
		ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Decision: true}})
		_, err := m.Decide(ctx, mv.Token)
		checkIs(t, "Decide without the comparison", err, nil)
		m.wantAt("afterwards", 2, 2)
	})
}
