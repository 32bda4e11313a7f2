package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/hook"
)

// A State says whether a shop is in business.
type State uint8

// The states of a shop. Open and Closed lead to each other, Closed to Deleted,
// and Deleted nowhere.
const (
	Open State = iota
	Closed
	Deleted
)

var stateNames = [...]string{Open: "open", Closed: "closed", Deleted: "deleted"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "state " + strconv.Itoa(int(s))
}

// ParseState returns the state of that name.
func ParseState(name string) (State, bool) {
	for s, have := range stateNames {
		if name == have {
			return State(s), true
		}
	}
	return 0, false
}

// Scan is how database/sql fills a State.
func (s *State) Scan(src any) error {
	name, ok := src.([]byte)
	if !ok {
		return fmt.Errorf("a shop's state is a %T, want its name", src)
	}
	if *s, ok = ParseState(string(name)); !ok {
		return fmt.Errorf("a shop is %q, want open, closed or deleted", name)
	}
	return nil
}

// A Shop is a shop's row.
type Shop struct {
	ID    podworks.ShopID
	Pod   podworks.PodID
	Epoch podworks.Epoch
	State State
}

// Refusal returns nil for an open shop and else an ErrClosed that says what
// became of it.
func (s Shop) Refusal() error {
	switch s.State {
	case Open:
		return nil
	case Deleted:
		return fmt.Errorf("%w: shop %d was deleted, and its number is not given again", ErrClosed, s.ID)
	default:
		return fmt.Errorf("%w: shop %d, since epoch %d", ErrClosed, s.ID, s.Epoch)
	}
}

// Shops calls each for every shop that changed after version since, with 0 for
// all.
func (s *Store) Shops(ctx context.Context, since uint64, each func(Shop)) error {
	return s.read(ctx, func(rows *sql.Rows) error {
		var r Shop
		if err := rows.Scan(&r.ID, &r.Pod, &r.Epoch, &r.State); err != nil {
			return err
		}
		each(r)
		return nil
	}, `SELECT shop_id, pod_id, epoch, state FROM podworks_shops WHERE version > ?`, since)
}

// Shop reads a shop's row, whatever its state, and its pod's.
func (s *Store) Shop(ctx context.Context, shop podworks.ShopID) (Shop, Pod, error) {
	r := Shop{ID: shop}
	var p Pod
	err := s.db.QueryRowContext(ctx, `SELECT s.epoch, s.state, p.pod_id, p.region, p.version FROM podworks_shops s JOIN podworks_pods p USING (pod_id) WHERE s.shop_id = ?`,
		int64(shop)).Scan(&r.Epoch, &r.State, &p.ID, &p.Region, &p.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return Shop{}, Pod{}, fmt.Errorf("%w %d: the directory has no such shop", ErrUnknownShop, shop)
	}
	if err != nil {
		return Shop{}, Pod{}, fmt.Errorf("look up shop %d in the directory: %w", shop, err)
	}
	r.Pod = p.ID
	return r, p, nil
}

// Lookup reads an open shop's route from the database.
func (s *Store) Lookup(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	r, p, err := s.Shop(ctx, shop)
	if err == nil {
		err = r.Refusal()
	}
	if err != nil {
		return podworks.Route{}, err
	}
	return podworks.Route{Shop: shop, Pod: p.ID, Region: p.Region, Epoch: r.Epoch}, nil
}

// AddShop adds a shop at epoch 1 with its hosts, which must be in lower case.
// It changes nothing when the shop is there as described, and refuses one that
// is closed with ErrClosed.
func (s *Store) AddShop(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, hosts ...string) (podworks.Route, error) {
	err := checkShop(shop)
	for _, host := range hosts {
		err = errors.Join(err, CheckHost(host))
	}
	if err == nil {
		err = s.change(ctx, func(tx *sql.Tx, version uint64) error {
			if err := addShops(ctx, tx, version, pod, []podworks.ShopID{shop}); err != nil {
				return err
			}
			for _, host := range hosts {
				if err := giveHost(ctx, tx, version, shop, host); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return podworks.Route{}, fmt.Errorf("add shop %d to pod %d: %w", shop, pod, err)
	}
	return s.Lookup(ctx, shop)
}

// batch is how many shops AddShops adds in a transaction. The counter stays
// locked for so long, and everybody else who writes the directory waits.
const batch = 1000

// AddShops adds shops without hosts, as AddShop does, a thousand in a
// transaction. It ends with the first batch that fails; adding all of them again
// goes on from there, since what is there as described stays as it is.
func (s *Store) AddShops(ctx context.Context, pod podworks.PodID, shops []podworks.ShopID) error {
	for _, shop := range shops {
		if err := checkShop(shop); err != nil {
			return fmt.Errorf("add %d shops to pod %d: %w", len(shops), pod, err)
		}
	}
	for done := 0; done < len(shops); done += batch {
		some := shops[done:min(done+batch, len(shops))]
		if err := s.change(ctx, func(tx *sql.Tx, version uint64) error { return addShops(ctx, tx, version, pod, some) }); err != nil {
			return fmt.Errorf("add %d shops to pod %d: after %d of them: %w", len(shops), pod, done, err)
		}
	}
	return nil
}

// addShops adds up to a batch of shops that are not there and looks whether the
// others are as described.
func addShops(ctx context.Context, tx *sql.Tx, version uint64, pod podworks.PodID, shops []podworks.ShopID) error {
	if err := podExists(ctx, tx, pod); err != nil {
		return err
	}
	rows, ids := make([]string, len(shops)), make([]string, len(shops))
	for i, shop := range shops {
		ids[i] = strconv.FormatInt(int64(shop), 10)
		rows[i] = fmt.Sprintf("(%d, %d, 1, %d)", shop, pod, version)
	}
	res, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_shops (shop_id, pod_id, epoch, version) VALUES `+strings.Join(rows, ", "))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == int64(len(shops)) {
		return err
	}
	var have Shop
	err = tx.QueryRowContext(ctx, `SELECT shop_id, pod_id, epoch, state FROM podworks_shops WHERE shop_id IN (`+strings.Join(ids, ", ")+`) AND (pod_id <> ? OR state <> 'open') LIMIT 1`,
		int64(pod)).Scan(&have.ID, &have.Pod, &have.Epoch, &have.State)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	case have.State != Open:
		return have.Refusal()
	default:
		return fmt.Errorf("shop %d %w: it is in pod %d", have.ID, ErrExists, have.Pod)
	}
}

func checkShop(shop podworks.ShopID) error {
	if shop <= 0 {
		return fmt.Errorf("shop %d: a shop's number is 1 or more", shop)
	}
	return nil
}

// CloseShop closes an open shop and returns its route, at the epoch since which
// it is closed. A shop that is being moved is refused with ErrBusy. Closing it
// again is no error.
func (s *Store) CloseShop(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	return s.turn(ctx, "close", shop, Open, Closed)
}

// ReopenShop opens a closed shop and returns its route, at a new epoch. Opening
// it again is no error; a deleted one is refused with ErrClosed.
func (s *Store) ReopenShop(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	return s.turn(ctx, "reopen", shop, Closed, Open)
}

// DeleteShop takes a closed shop's hosts from it, for others to have, and keeps
// its row, so that its number is not given again. An open shop is refused with
// ErrOpen. Deleting it again is no error.
func (s *Store) DeleteShop(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	return s.turn(ctx, "delete", shop, Closed, Deleted)
}

// turn takes a shop from one state to another, as a mover takes it to another
// pod: with a new epoch, and not while somebody else does.
func (s *Store) turn(ctx context.Context, what string, shop podworks.ShopID, from, to State) (podworks.Route, error) {
	route := podworks.Route{Shop: shop}
	err := s.change(ctx, func(tx *sql.Tx, version uint64) error {
		have, err := lockShop(ctx, tx, shop)
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT region FROM podworks_pods WHERE pod_id = ?`, int64(have.Pod)).Scan(&route.Region); err != nil {
			return err
		}
		route.Pod, route.Epoch = have.Pod, have.Epoch
		switch {
		case have.State == to:
			return nil
		case have.State == Open && from == Closed:
			return fmt.Errorf("%w: close it first", ErrOpen)
		case have.State != from:
			return have.Refusal()
		}
		// With the shop's row locked no move can be claimed. Without this look a move
		// that was claimed before would run into the new epoch at its decision, with
		// the source closed already.
		m, err := scanMove(tx.QueryRowContext(ctx, selectMove+` WHERE m.active = ? FOR UPDATE`, int64(shop)))
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case !hook.Off(ctx, offJournal):
			return fmt.Errorf("%w: move %d to pod %d is %s, at step %q; wait for its end, or recover it", ErrBusy, m.Token, m.To.Pod, m.State, m.Step)
		}
		route.Epoch++
		if _, err := tx.ExecContext(ctx, `UPDATE podworks_shops SET state = ?, epoch = ?, version = ? WHERE shop_id = ?`,
			to.String(), uint64(route.Epoch), version, int64(shop)); err != nil {
			return err
		}
		if to == Deleted {
			_, err = tx.ExecContext(ctx, `UPDATE podworks_hosts SET shop_id = 0, version = ? WHERE shop_id = ?`, version, int64(shop))
			return err
		}
		return nil
	})
	if err != nil {
		return podworks.Route{}, fmt.Errorf("%s shop %d: %w", what, shop, err)
	}
	return route, nil
}

// offJournal lets tests close a shop that is being moved.
const offJournal hook.Protection = "the journal's say in a shop's life"

// lockShop reads a shop's row and keeps it locked until the transaction's end.
func lockShop(ctx context.Context, tx *sql.Tx, shop podworks.ShopID) (Shop, error) {
	have := Shop{ID: shop}
	err := tx.QueryRowContext(ctx, `SELECT pod_id, epoch, state FROM podworks_shops WHERE shop_id = ? FOR UPDATE`, int64(shop)).Scan(&have.Pod, &have.Epoch, &have.State)
	if errors.Is(err, sql.ErrNoRows) {
		return have, fmt.Errorf("%w %d: the directory has no such shop", ErrUnknownShop, shop)
	}
	return have, err
}
