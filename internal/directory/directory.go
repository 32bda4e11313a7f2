// Package directory keeps, in the master database, which pod serves which shop,
// and the journal of moves between them. sharding and ferry both build on it.
//
// Every write raises one counter in the transaction that makes it. The counter's
// row stays locked until that transaction ends, so writers commit in the order
// of their versions, and a reader that has seen version n has missed nothing
// at or below n. Rows stay for ever, those of deleted shops and removed hosts
// included: a row that is gone could not be asked for by version.
//
// Every change of a shop raises its epoch too: of two rows of a shop the one with
// the higher epoch is newer, however late it arrives.
//
// Locks are taken in one order: the counter, the shop, the journal, the hosts.
package directory

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
)

//go:embed schema.sql
var schema string

// Schema returns the statements that create the tables, one a string.
func Schema() []string {
	var out []string
	for stmt := range strings.SplitSeq(schema, ";\n") {
		if stmt = strings.TrimSpace(stmt); stmt != "" {
			out = append(out, stmt)
		}
	}
	return out
}

// What callers branch on.
var (
	ErrUnknownShop = errors.New("unknown shop")
	ErrUnknownPod  = errors.New("unknown pod")
	ErrExists      = errors.New("exists already, and differs")
	ErrClosed      = errors.New("the shop is closed")
	ErrOpen        = errors.New("the shop is open")
	ErrAway        = errors.New("the master database can't be reached; until it is back no shop can be created, moved or changed, and those that are there are not affected")
)

// A Store is the directory's tables in the master database.
type Store struct {
	db      *sql.DB
	changed func(version uint64) // may be nil
}

// New returns the store in db, the master database's primary. It does no I/O.
func New(db *sql.DB) *Store { return &Store{db: db} }

// OnChange has changed called with the new version after each write of this
// store that reached its COMMIT, also when the answer to it was lost. To be
// called before the store is used.
func (s *Store) OnChange(changed func(version uint64)) { s.changed = changed }

// Migrate creates the tables that are missing.
func (s *Store) Migrate(ctx context.Context) error {
	for _, stmt := range Schema() {
		if _, err := s.db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("create the directory's tables: %w", err)
		}
	}
	return nil
}

// Version returns the version of the last change.
func (s *Store) Version(ctx context.Context) (uint64, error) {
	var version uint64
	if err := s.db.QueryRowContext(ctx, `SELECT version FROM podworks_version WHERE id = 1`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the directory's version: %w", err)
	}
	return version, nil
}

// read calls scan for each row of a query's answer, as it arrives.
func (s *Store) read(ctx context.Context, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read the directory: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("read the directory: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the directory: %w", err)
	}
	return nil
}

// change runs fn in a transaction with the next version, whose row it has
// locked. Everything that a reader may ask for by version is written here.
func (s *Store) change(ctx context.Context, fn func(tx *sql.Tx, version uint64) error) error {
	var version uint64
	committing := false
	err := s.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE podworks_version SET version = LAST_INSERT_ID(version + 1) WHERE id = 1`)
		if err != nil {
			return fmt.Errorf("raise the directory's version: %w", away(ctx, err))
		}
		v, err := res.LastInsertId()
		if err != nil {
			return fmt.Errorf("raise the directory's version: %w", err)
		}
		if v == 0 {
			return errors.New("podworks_version has no row: run the directory's migration")
		}
		version = uint64(v)
		err = fn(tx, version)
		committing = err == nil
		return err
	})
	if committing && s.changed != nil {
		s.changed(version)
	}
	return err
}

func (s *Store) tx(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return away(ctx, err)
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return flavor.Commit(ctx, tx)
}

// away says what it means that the first statement of a change had no answer.
func away(ctx context.Context, err error) error {
	var answer *mysql.MySQLError
	if errors.As(err, &answer) || ctx.Err() == context.Canceled {
		return err
	}
	return fmt.Errorf("%w: %w", ErrAway, err)
}

// A Pod is where a pod is active.
type Pod struct {
	ID      podworks.PodID
	Region  podworks.Region
	Version uint64 // of the row: the higher one is newer
}

// Pods calls each for every pod that changed after version since, with 0 for all.
func (s *Store) Pods(ctx context.Context, since uint64, each func(Pod)) error {
	return s.read(ctx, func(rows *sql.Rows) error {
		var p Pod
		if err := rows.Scan(&p.ID, &p.Region, &p.Version); err != nil {
			return err
		}
		each(p)
		return nil
	}, `SELECT pod_id, region, version FROM podworks_pods WHERE version > ?`, since)
}

// AddPod adds a pod, or changes nothing when it is there as described.
func (s *Store) AddPod(ctx context.Context, pod podworks.PodID, region podworks.Region) error {
	if pod <= 0 {
		return fmt.Errorf("add pod %d: a pod's number is 1 or more", pod)
	}
	return s.change(ctx, func(tx *sql.Tx, version uint64) error {
		if _, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_pods (pod_id, region, epoch, serving, version) VALUES (?, ?, 1, 1, ?)`,
			int64(pod), string(region), version); err != nil {
			return fmt.Errorf("add pod %d: %w", pod, err)
		}
		var have string
		if err := tx.QueryRowContext(ctx, `SELECT region FROM podworks_pods WHERE pod_id = ?`, int64(pod)).Scan(&have); err != nil {
			return fmt.Errorf("add pod %d: %w", pod, err)
		}
		if have != string(region) {
			return fmt.Errorf("add pod %d in region %q: %w: it is in region %q", pod, region, ErrExists, have)
		}
		return nil
	})
}

func podExists(ctx context.Context, tx *sql.Tx, pod podworks.PodID) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM podworks_pods WHERE pod_id = ? LOCK IN SHARE MODE`, int64(pod)).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w %d: the directory has no such pod; add it first", ErrUnknownPod, pod)
	}
	return err
}
