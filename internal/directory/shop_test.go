package directory_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/hook"
)

// Every step of a shop's life, in every state.
func TestAShopsLife(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		ops := map[string]func() (podworks.Route, error){
			"AddShop":    func() (podworks.Route, error) { return m.AddShop(ctx, 1, 1) },
			"Lookup":     func() (podworks.Route, error) { return m.Lookup(ctx, 1) },
			"CloseShop":  func() (podworks.Route, error) { return m.CloseShop(ctx, 1) },
			"ReopenShop": func() (podworks.Route, error) { return m.ReopenShop(ctx, 1) },
			"DeleteShop": func() (podworks.Route, error) { return m.DeleteShop(ctx, 1) },
			"AddShops":   func() (podworks.Route, error) { return podworks.Route{}, m.AddShops(ctx, 1, []podworks.ShopID{1}) },
			"Claim": func() (podworks.Route, error) {
				_, err := m.Claim(ctx, 1, 2, time.Minute)
				return podworks.Route{}, err
			},
		}
		const open, closed, deleted = directory.Open, directory.Closed, directory.Deleted
		for _, c := range []struct {
			state directory.State
			op    string
			err   error
			then  directory.State
		}{
			{open, "AddShop", nil, open},
			{open, "AddShops", nil, open},
			{open, "Lookup", nil, open},
			{open, "ReopenShop", nil, open},
			{open, "DeleteShop", directory.ErrOpen, open},
			{open, "CloseShop", nil, closed},
			{open, "Claim", nil, open},

			{closed, "AddShop", directory.ErrClosed, closed},
			{closed, "AddShops", directory.ErrClosed, closed},
			{closed, "Lookup", directory.ErrClosed, closed},
			{closed, "CloseShop", nil, closed},
			{closed, "ReopenShop", nil, open},
			{closed, "DeleteShop", nil, deleted},
			{closed, "Claim", directory.ErrClosed, closed},

			{deleted, "AddShop", directory.ErrClosed, deleted},
			{deleted, "AddShops", directory.ErrClosed, deleted},
			{deleted, "Lookup", directory.ErrClosed, deleted},
			{deleted, "CloseShop", directory.ErrClosed, deleted},
			{deleted, "ReopenShop", directory.ErrClosed, deleted},
			{deleted, "DeleteShop", nil, deleted},
			{deleted, "Claim", directory.ErrClosed, deleted},
		} {
			m.exec(`DELETE FROM podworks_moves`)
			m.exec(`UPDATE podworks_shops SET state = ?, epoch = 5 WHERE shop_id = 1`, c.state.String())
			r, err := ops[c.op]()
			checkIs(t, c.op+" of a shop that is "+c.state.String(), err, c.err)
			epoch := podworks.Epoch(5)
			if c.then != c.state {
				epoch++ // whoever heard of it before must hear of it again
			}
			if want := (podworks.Route{Shop: 1, Pod: 1, Region: "here", Epoch: epoch}); err == nil && r.Shop != 0 && r != want {
				t.Errorf("%s of a shop that is %v = %v, want %v", c.op, c.state, r, want)
			}
			if got, _, err := m.Shop(ctx, 1); err != nil || got != (directory.Shop{ID: 1, Pod: 1, Epoch: epoch, State: c.then}) {
				t.Errorf("after %s of a shop that was %v: %v (%v), want it %v at epoch %d", c.op, c.state, got, err, c.then, epoch)
			}
		}
		for _, op := range []func() (podworks.Route, error){
			func() (podworks.Route, error) { return m.CloseShop(ctx, 99) },
			func() (podworks.Route, error) { return m.ReopenShop(ctx, 99) },
			func() (podworks.Route, error) { return m.DeleteShop(ctx, 99) },
		} {
			_, err := op()
			checkIs(t, "a step of an unknown shop", err, directory.ErrUnknownShop)
		}
	})
}

func TestAShopThatIsBeingMovedStaysOpen(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		mv := m.claim(1, 2)
		_, err := m.CloseShop(ctx, 1)
		checkIs(t, "CloseShop during a move", err, directory.ErrBusy)
		r, err := m.Decide(ctx, mv.Token)
		checkIs(t, "Decide", err, nil)
		_, err = m.CloseShop(ctx, 1)
		checkIs(t, "CloseShop before the move is finished", err, directory.ErrBusy)
		checkIs(t, "Finish", m.Finish(ctx, mv.Token), nil)
		closed, err := m.CloseShop(ctx, 1)
		if err != nil || closed.Pod != 2 || closed.Epoch != r.Epoch+1 {
			t.Errorf("CloseShop after the move = %v, %v; want pod 2 at epoch %d", closed, err, r.Epoch+1)
		}

		// The twin: with the journal's say switched off, the shop closes under its mover,
		// which has closed the source by then and can't decide.
		m.addShop(2, 1)
		mv = m.claim(2, 2)
		off := hook.With(ctx, &hook.Set{Off: map[hook.Protection]bool{directory.OffJournal: true}})
		_, err = m.CloseShop(off, 2)
		checkIs(t, "CloseShop without the look at the journal", err, nil)
		_, err = m.Decide(ctx, mv.Token)
		checkIs(t, "Decide of a shop that was closed", err, directory.ErrNotOurs)
	})
}

// A claim and a closing at once: exactly one happens.
func TestClaimAndCloseRace(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		for range 15 {
			m.exec(`DELETE FROM podworks_moves`)
			m.exec(`UPDATE podworks_shops SET state = 'open' WHERE shop_id = 1`)
			var wg sync.WaitGroup
			var claimed, closed error
			wg.Go(func() { _, claimed = m.Claim(t.Context(), 1, 2, time.Minute) })
			wg.Go(func() { _, closed = m.CloseShop(t.Context(), 1) })
			wg.Wait()
			switch {
			case claimed == nil:
				checkIs(t, "CloseShop that lost", closed, directory.ErrBusy)
			case closed == nil:
				checkIs(t, "Claim that lost", claimed, directory.ErrClosed)
			default:
				t.Errorf("Claim: %v; CloseShop: %v; want one of them", claimed, closed)
			}
		}
	})
}

func TestManyShopsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		ctx := t.Context()
		shops := make([]podworks.ShopID, 2500)
		for i := range shops {
			shops[i] = podworks.ShopID(10 + i)
		}
		// A shop of the third batch is elsewhere: the first two are in.
		m.addShop(shops[2100], 2)
		checkIs(t, "AddShops", m.AddShops(ctx, 1, shops), directory.ErrExists)
		if all, _ := m.collect(0); len(all) != 1+1+2000 {
			t.Errorf("there are %d shops, want 2 and two batches", len(all))
		}
		// The rest follows when it has been seen to, and what is there stays as it is.
		m.move(shops[2100], 1)
		_, before := m.collect(0)
		for range 2 {
			checkIs(t, "AddShops again", m.AddShops(ctx, 1, shops), nil)
		}
		changed, _ := m.collect(before)
		if len(changed) != 499 {
			t.Errorf("%d shops changed, want the 499 that were missing", len(changed))
		}
		if got, _, err := m.Shop(ctx, shops[2100]); err != nil || got.Epoch != 2 {
			t.Errorf("a shop that was there is %v (%v), want epoch 2 as before", got, err)
		}
		if got, err := m.Lookup(ctx, shops[2499]); err != nil || got != (podworks.Route{Shop: shops[2499], Pod: 1, Region: "here", Epoch: 1}) {
			t.Errorf("the last shop is %v (%v), want it in pod 1 at epoch 1", got, err)
		}

		checkIs(t, "AddShops to an unknown pod", m.AddShops(ctx, 9, []podworks.ShopID{9000}), directory.ErrUnknownPod)
		_, version := m.collect(0)
		if err := m.AddShops(ctx, 1, append(shops, 0)); err == nil {
			t.Error("AddShops with shop 0: got no error")
		}
		checkIs(t, "AddShops of none", m.AddShops(ctx, 1, nil), nil)
		if _, after := m.collect(0); after != version {
			t.Errorf("what is refused at once raised the version from %d to %d", version, after)
		}
	})
}

func TestAStoreTellsOfItsChanges(t *testing.T) {
	each(t, func(t *testing.T, m *master) {
		var heard []uint64
		m.OnChange(func(version uint64) { heard = append(heard, version) })
		check := func(what string, want int) {
			t.Helper()
			_, version := m.collect(0)
			if len(heard) != want || want > 0 && heard[want-1] != version {
				t.Errorf("after %s: heard %v at version %d, want %d and the last to be it", what, heard, version, want)
			}
			heard = nil
		}
		m.addShop(2, 1)
		check("a new shop", 1)
		_, err := m.AddShop(t.Context(), 2, 2)
		checkIs(t, "AddShop elsewhere", err, directory.ErrExists)
		check("a change that was refused", 0)
		m.move(2, 2)
		check("a move", 1)
	})
}

func TestAStateIsReadByItsName(t *testing.T) {
	t.Parallel()
	for _, s := range []directory.State{directory.Open, directory.Closed, directory.Deleted} {
		var got directory.State
		if err := got.Scan([]byte(s.String())); err != nil || got != s {
			t.Errorf("Scan(%q) = %v, %v", s.String(), got, err)
		}
		if refused := (directory.Shop{State: s}).Refusal(); (refused == nil) != (s == directory.Open) || refused != nil && !errors.Is(refused, directory.ErrClosed) {
			t.Errorf("Refusal of a shop that is %v: %v", s, refused)
		}
	}
	for _, src := range []any{nil, 1, []byte("ajar"), []byte("")} {
		if err := new(directory.State).Scan(src); err == nil {
			t.Errorf("Scan(%v): got no error", src)
		}
	}
	if got := directory.State(7).String(); got != "state 7" {
		t.Errorf("String = %q, want state 7", got)
	}
}
