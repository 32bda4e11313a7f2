package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// What a journal's caller branches on.
var (
	ErrSamePod    = errors.New("the shop is in that pod already")
	ErrBusy       = errors.New("the shop is being moved")
	ErrUnfinished = errors.New("an earlier move of the shop must be recovered first")
	ErrNotOurs    = errors.New("the move is no longer ours")
	ErrNotServing = errors.New("a pod is failing over")
	ErrDecided    = errors.New("the move is decided")
	ErrFailedOver = errors.New("a pod failed over since its epoch was noted") // which makes it ErrNotOurs, too
)

// Claim writes the journal row of a new move of shop and returns it. A row of
// the same move that nobody noted anything in for lease is taken over under a
// new token: its mover can neither apply nor decide any more.
//
// The shop's row is locked first, as Decide does, so that a claim and a
// decision never see half of each other.
func (s *Store) Claim(ctx context.Context, shop podworks.ShopID, to podworks.PodID, lease time.Duration) (podworks.Move, error) {
	m := podworks.Move{From: podworks.Route{Shop: shop}, State: podworks.MoveRunning, Step: "claimed"}
	err := s.insert(ctx, &m, func(tx *sql.Tx) error {
		have, err := lockShop(ctx, tx, shop)
		if err != nil {
			return err
		}
		if err := have.Refusal(); err != nil && !hook.Off(ctx, offJournal) {
			return err
		}
		m.From.Pod, m.From.Epoch = have.Pod, have.Epoch
		if err := podExists(ctx, tx, to); err != nil {
			return err
		}
		old, err := scanMove(tx.QueryRowContext(ctx, selectMove+` WHERE m.active = ? FOR UPDATE`, int64(shop)))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			if m.From.Pod == to {
				return fmt.Errorf("%w: choose another one", ErrSamePod)
			}
		case err != nil:
			return err
		case old.Idle < lease:
			return fmt.Errorf("%w: move %d to pod %d is at step %q, last heard of %v ago; wait for it, or for %v without a word",
				ErrBusy, old.Token, old.To.Pod, old.Step, old.Idle.Round(time.Millisecond), lease)
		case old.State != podworks.MoveRunning || old.To.Pod != to:
			return fmt.Errorf("%w: move %d to pod %d is %s", ErrUnfinished, old.Token, old.To.Pod, old.State)
		default:
			if _, err := tx.ExecContext(ctx, `UPDATE podworks_moves SET active = NULL, state = ? WHERE token = ?`, string(podworks.MoveUndone), old.Token); err != nil {
				return err
			}
		}
		m.To = podworks.Route{Shop: shop, Pod: to, Epoch: m.From.Epoch + 1}
		return nil
	})
	if err != nil {
		return podworks.Move{}, fmt.Errorf("claim the move of shop %d to pod %d: %w", shop, to, err)
	}
	return m, nil
}

// insert runs fn, which fills in m, and adds m's row under a new token, in one
// transaction. The token is known before the COMMIT. So if the answer to that is
// lost, the row is looked for by its token: the locking read waits for the
// session that may still be committing it.
func (s *Store) insert(ctx context.Context, m *podworks.Move, fn func(tx *sql.Tx) error) error {
	err := s.tx(ctx, func(tx *sql.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO podworks_moves (shop_id, active, state, step, from_pod, from_epoch, to_pod, started_at, noted_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))`,
			int64(m.From.Shop), int64(m.From.Shop), string(m.State), m.Step, int64(m.From.Pod), uint64(m.From.Epoch), int64(m.To.Pod))
		if err != nil {
			return err
		}
		token, err := res.LastInsertId()
		m.Token = uint64(token)
		return err
	})
	if !errors.Is(err, podworks.ErrOutcomeUnknown) {
		return err
	}
	lost := err
	return flavor.LookUp(ctx, lost, func(ctx context.Context) error {
		return s.tx(ctx, func(tx *sql.Tx) error {
			var shop podworks.ShopID
			err := tx.QueryRowContext(ctx, `SELECT shop_id FROM podworks_moves WHERE token = ? FOR UPDATE`, m.Token).Scan(&shop)
			if errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("%w: %v", errRolledBack, lost)
			}
			return err
		})
	}, errRolledBack)
}

// errRolledBack: the answer to a COMMIT was lost, and it did not happen.
var errRolledBack = errors.New("looked up: the transaction was rolled back; it can be tried again")

// Beat notes that the mover is alive and at step. It fails with ErrNotOurs
// unless the move is at work under this token: running, or decided and being
// copied again.
func (s *Store) Beat(ctx context.Context, token uint64, step string) error {
	// A row that is written as it was counts as not affected, and two beats may be of
	// one microsecond: then the second one is of the next.
	res, err := s.db.ExecContext(ctx, `UPDATE podworks_moves SET step = ?, noted_at = UTC_TIMESTAMP(6) + INTERVAL (noted_at = UTC_TIMESTAMP(6)) MICROSECOND
		WHERE token = ? AND active IS NOT NULL AND (state = 'running' OR state = 'decided' AND verified_token <> token)`, step, token)
	if err != nil {
		return fmt.Errorf("note step %q of move %d: %w", step, token, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("note step %q of move %d: %w", step, token, errors.Join(ErrNotOurs, err))
	}
	return nil
}

// Note records the epochs of both pods, which Decide compares: a failover in
// between fails the decision. It refuses while a pod is failing over.
func (s *Store) Note(ctx context.Context, token uint64) error {
	res, err := s.db.ExecContext(ctx, `UPDATE podworks_moves m
		JOIN podworks_pods f ON f.pod_id = m.from_pod AND f.serving = 1
		JOIN podworks_pods t ON t.pod_id = m.to_pod AND t.serving = 1
		SET m.from_pod_epoch = f.epoch, m.to_pod_epoch = t.epoch, m.noted_at = UTC_TIMESTAMP(6)
		WHERE m.token = ? AND m.state = 'running'`, token)
	if err != nil {
		return fmt.Errorf("note the pods' epochs for move %d: %w", token, err)
	}
	n, err := res.RowsAffected()
	if err != nil || n > 0 {
		return err
	}
	m, err := s.Move(ctx, token)
	if err != nil {
		return err
	}
	if m.State != podworks.MoveRunning {
		return fmt.Errorf("note the pods' epochs for move %d: %w: it is %s", token, ErrNotOurs, m.State)
	}
	return fmt.Errorf("note the pods' epochs for move %d: %w: pods %d and %d must both serve", token, ErrNotServing, m.From.Pod, m.To.Pod)
}

// Decide moves the shop in the directory and marks the move decided, in one
// transaction, provided the move is still running under this token, the shop is
// where and when it was claimed, and both pods have the epochs noted. Deciding
// a decided move again returns its route, also when another process has finished
// it since, so that a lost answer is looked up by asking again.
func (s *Store) Decide(ctx context.Context, token uint64) (podworks.Route, error) {
	var to podworks.Route
	err := flavor.Settle(ctx, func(ctx context.Context) (err error) {
		to, err = s.decide(ctx, token)
		return err
	}, ErrNotOurs)
	if err != nil {
		return podworks.Route{}, fmt.Errorf("decide move %d: %w", token, err)
	}
	return to, nil
}

func (s *Store) decide(ctx context.Context, token uint64) (to podworks.Route, err error) {
	err = s.change(ctx, func(tx *sql.Tx, version uint64) error {
		// The shop's row before the journal's, as Claim takes them.
		var shop podworks.ShopID
		if err := tx.QueryRowContext(ctx, `SELECT shop_id FROM podworks_moves WHERE token = ?`, token).Scan(&shop); err != nil {
			return err
		}
		have, err := lockShop(ctx, tx, shop)
		if err != nil {
			return err
		}
		m, err := scanMove(tx.QueryRowContext(ctx, selectMove+` WHERE m.token = ? FOR UPDATE`, token))
		if err != nil {
			return err
		}
		to = m.To
		if err := tx.QueryRowContext(ctx, `SELECT region FROM podworks_pods WHERE pod_id = ?`, int64(to.Pod)).Scan(&to.Region); err != nil {
			return err
		}
		if m.State == podworks.MoveDecided || m.State == podworks.MoveDone {
			return nil
		}
		if !hook.Off(ctx, hook.Decision) {
			if m.State != podworks.MoveRunning {
				return fmt.Errorf("%w: it is %s", ErrNotOurs, m.State)
			}
			if have.Pod != m.From.Pod || have.Epoch != m.From.Epoch {
				return fmt.Errorf("%w: the shop was claimed in pod %d at epoch %d and is in pod %d at epoch %d", ErrNotOurs, m.From.Pod, m.From.Epoch, have.Pod, have.Epoch)
			}
			if err := podsAsNoted(ctx, tx, token); err != nil && !hook.Off(ctx, hook.PodEpoch) {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE podworks_shops SET pod_id = ?, epoch = ?, version = ? WHERE shop_id = ?`,
			int64(to.Pod), uint64(to.Epoch), version, int64(shop)); err != nil {
			return err
		}
		// Only a mover that has verified its copy closes the source, and only then is
		// the move decided.
		_, err = tx.ExecContext(ctx, `UPDATE podworks_moves SET state = 'decided', step = 'decided', verified_token = token, noted_at = UTC_TIMESTAMP(6) WHERE token = ?`, token)
		return err
	})
	return to, err
}

// podsAsNoted fails if a pod has failed over since Note. It locks the pods' rows,
// so that no failover raises an epoch between this look and the commit.
func podsAsNoted(ctx context.Context, tx *sql.Tx, token uint64) error {
	var same int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM podworks_moves m
		JOIN podworks_pods f ON f.pod_id = m.from_pod AND f.epoch = m.from_pod_epoch
		JOIN podworks_pods t ON t.pod_id = m.to_pod AND t.epoch = m.to_pod_epoch
		WHERE m.token = ? LOCK IN SHARE MODE`, token).Scan(&same); err != nil {
		return err
	}
	if same == 0 {
		return fmt.Errorf("%w: %w", ErrNotOurs, ErrFailedOver)
	}
	return nil
}

// Abort marks a running move aborting; after it no decision can happen. It
// does nothing to one that is aborting already and fails with ErrDecided when
// the decision came first.
func (s *Store) Abort(ctx context.Context, token uint64) error {
	return s.turnMove(ctx, "abort", token, func(m podworks.Move) (set string, err error) {
		switch m.State {
		case podworks.MoveRunning:
			return `state = 'aborting'`, nil
		case podworks.MoveAborting, podworks.MoveUndone:
			return "", nil
		}
		return "", fmt.Errorf("%w: it is %s", ErrDecided, m.State)
	})
}

// Reclaim gives a decided move whose copy was lost in a failover of the target a
// new token, under which it is copied again. The old token can open nothing any
// more, as it is not the one in the target's fence. It fails with ErrNotOurs if
// the move is not decided and unfinished under this token.
func (s *Store) Reclaim(ctx context.Context, token uint64) (podworks.Move, error) {
	var m podworks.Move
	err := s.insert(ctx, &m, func(tx *sql.Tx) (err error) {
		if m, err = scanMove(tx.QueryRowContext(ctx, selectMove+` WHERE m.token = ? AND m.active IS NOT NULL FOR UPDATE`, token)); errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: it is finished", ErrNotOurs)
		} else if err != nil {
			return err
		}
		if m.State != podworks.MoveDecided {
			return fmt.Errorf("%w: it is %s", ErrNotOurs, m.State)
		}
		m.Step, m.Verified, m.Idle = "copy again", 0, 0
		_, err = tx.ExecContext(ctx, `UPDATE podworks_moves SET active = NULL, state = ? WHERE token = ?`, string(podworks.MoveDone), token)
		return err
	})
	if err != nil {
		return podworks.Move{}, fmt.Errorf("claim the decided move %d again: %w", token, err)
	}
	return m, nil
}

// Verified notes that the copy made under the token of a decided move was
// verified, and may be opened. It fails with ErrNotOurs if another process has
// reclaimed the move meanwhile.
func (s *Store) Verified(ctx context.Context, token uint64) error {
	return s.turnMove(ctx, "note as verified", token, func(m podworks.Move) (set string, err error) {
		switch {
		case m.State == podworks.MoveDecided && m.Verified == token:
			return "", nil
		case m.State == podworks.MoveDecided:
			return `step = 'verified', verified_token = token`, nil
		}
		return "", fmt.Errorf("%w: it is %s", ErrNotOurs, m.State)
	})
}

// Finish retires the row of a decided or aborting move. Finishing twice is no
// error.
func (s *Store) Finish(ctx context.Context, token uint64) error {
	return s.turnMove(ctx, "finish", token, func(m podworks.Move) (set string, err error) {
		switch m.State {
		case podworks.MoveDecided:
			return `active = NULL, state = 'done'`, nil
		case podworks.MoveAborting:
			return `active = NULL, state = 'undone'`, nil
		}
		return "", nil
	})
}

// turnMove changes one journal row as next says from what it is, under its lock,
// and looks up what became of it if the answer to the COMMIT is lost. To that
// next must return "" for the row as it made it.
func (s *Store) turnMove(ctx context.Context, what string, token uint64, next func(podworks.Move) (set string, err error)) error {
	err := flavor.Settle(ctx, func(ctx context.Context) error {
		return s.tx(ctx, func(tx *sql.Tx) error {
			m, err := scanMove(tx.QueryRowContext(ctx, selectMove+` WHERE m.token = ? FOR UPDATE`, token))
			if errors.Is(err, sql.ErrNoRows) {
				return errors.New("the journal has no such move")
			} else if err != nil {
				return away(ctx, err)
			}
			set, err := next(m)
			if err != nil || set == "" {
				return err
			}
			_, err = tx.ExecContext(ctx, `UPDATE podworks_moves SET `+set+`, noted_at = UTC_TIMESTAMP(6) WHERE token = ?`, token)
			return err
		})
	}, ErrNotOurs, ErrDecided)
	if err != nil {
		return fmt.Errorf("%s move %d: %w", what, token, err)
	}
	return nil
}

// Moves returns the unfinished moves.
func (s *Store) Moves(ctx context.Context) ([]podworks.Move, error) {
	rows, err := s.db.QueryContext(ctx, selectMove+` WHERE m.active IS NOT NULL ORDER BY m.token`)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	defer rows.Close()
	var out []podworks.Move
	for rows.Next() {
		m, err := scanMove(rows)
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		out = append(out, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return out, nil
}

// Move reads one journal row.
func (s *Store) Move(ctx context.Context, token uint64) (podworks.Move, error) {
	m, err := scanMove(s.db.QueryRowContext(ctx, selectMove+` WHERE m.token = ?`, token))
	if err != nil {
		return m, fmt.Errorf("read move %d from the journal: %w", token, err)
	}
	return m, nil
}

const selectMove = `SELECT m.token, m.shop_id, m.state, m.step, m.from_pod, m.from_epoch, m.to_pod, m.verified_token,
	TIMESTAMPDIFF(MICROSECOND, m.noted_at, UTC_TIMESTAMP(6)) FROM podworks_moves m`

func scanMove(row interface{ Scan(...any) error }) (podworks.Move, error) {
	var m podworks.Move
	var idle int64
	if err := row.Scan(&m.Token, &m.From.Shop, &m.State, &m.Step, &m.From.Pod, &m.From.Epoch, &m.To.Pod, &m.Verified, &idle); err != nil {
		return m, err
	}
	m.Idle = time.Duration(idle) * time.Microsecond
	m.To.Shop, m.To.Epoch = m.From.Shop, m.From.Epoch+1
	return m, nil
}
