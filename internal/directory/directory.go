// Package directory keeps, in the master database, which pod serves which shop,
// and the journal of moves between them. sharding and ferry both build on it.
//
// Every write raises one counter in the transaction that makes it. The counter's
// row stays locked until that transaction ends, so writers commit in the order
// of their versions, and a reader that has seen version n has missed nothing
// at or below n.
package directory

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/podworks/podworks"
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
)

// A Store is the directory's tables in the master database.
type Store struct {
	db *sql.DB
}

// New returns the store in db, the master database's primary. It does no I/O.
func New(db *sql.DB) *Store { return &Store{db: db} }

// Migrate creates the tables that are missing.
func (s *Store) Migrate(ctx context.Context) error {
	for _, stmt := range Schema() {
		if _, err := s.db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("create the directory's tables: %w", err)
		}
	}
	return nil
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

// AddShop adds a shop at epoch 1 with its hosts, which must be in lower case.
// It changes nothing when the shop is there as described.
func (s *Store) AddShop(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, hosts ...string) (podworks.Route, error) {
	if shop <= 0 {
		return podworks.Route{}, fmt.Errorf("add shop %d: a shop's number is 1 or more", shop)
	}
	err := s.change(ctx, func(tx *sql.Tx, version uint64) error {
		if err := podExists(ctx, tx, pod); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_shops (shop_id, pod_id, epoch, version) VALUES (?, ?, 1, ?)`,
			int64(shop), int64(pod), version); err != nil {
			return err
		}
		var have int64
		if err := tx.QueryRowContext(ctx, `SELECT pod_id FROM podworks_shops WHERE shop_id = ?`, int64(shop)).Scan(&have); err != nil {
			return err
		}
		if have != int64(pod) {
			return fmt.Errorf("%w: it is in pod %d", ErrExists, have)
		}
		for _, host := range hosts {
			if _, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_hosts (host, shop_id, version) VALUES (?, ?, ?)`,
				host, int64(shop), version); err != nil {
				return err
			}
			var owner int64
			if err := tx.QueryRowContext(ctx, `SELECT shop_id FROM podworks_hosts WHERE host = ?`, host).Scan(&owner); err != nil {
				return err
			}
			if owner != int64(shop) {
				return fmt.Errorf("host %q %w: it belongs to shop %d", host, ErrExists, owner)
			}
		}
		return nil
	})
	if err != nil {
		return podworks.Route{}, fmt.Errorf("add shop %d to pod %d: %w", shop, pod, err)
	}
	return s.Lookup(ctx, shop)
}

// Lookup reads a shop's route from the database.
func (s *Store) Lookup(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	r := podworks.Route{Shop: shop}
	err := s.db.QueryRowContext(ctx, `SELECT s.pod_id, p.region, s.epoch FROM podworks_shops s JOIN podworks_pods p USING (pod_id) WHERE s.shop_id = ?`,
		int64(shop)).Scan(&r.Pod, &r.Region, &r.Epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return podworks.Route{}, fmt.Errorf("%w %d: the directory has no such shop", ErrUnknownShop, shop)
	}
	if err != nil {
		return podworks.Route{}, fmt.Errorf("look up shop %d in the directory: %w", shop, err)
	}
	return r, nil
}

// LookupHost reads the route of the shop that a host belongs to.
func (s *Store) LookupHost(ctx context.Context, host string) (podworks.Route, error) {
	var r podworks.Route
	err := s.db.QueryRowContext(ctx, hostRoutes+` WHERE h.host = ?`, host).Scan(&host, &r.Shop, &r.Pod, &r.Region, &r.Epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("%w: the directory has no host %q", ErrUnknownShop, host)
	}
	if err != nil {
		return r, fmt.Errorf("look up host %q in the directory: %w", host, err)
	}
	return r, nil
}

const hostRoutes = `SELECT h.host, s.shop_id, s.pod_id, p.region, s.epoch FROM podworks_hosts h JOIN podworks_shops s USING (shop_id) JOIN podworks_pods p USING (pod_id)`

// Routes calls each for every shop whose route changed after version since,
// and returns the version to pass next time. With since 0 it calls each for all.
func (s *Store) Routes(ctx context.Context, since uint64, each func(podworks.Route)) (uint64, error) {
	const q = `SELECT s.shop_id, s.pod_id, p.region, s.epoch FROM podworks_shops s JOIN podworks_pods p USING (pod_id)`
	return s.changes(ctx, q, `s.version > ? OR p.version > ?`, 2, since, func(rows *sql.Rows) error {
		var r podworks.Route
		if err := rows.Scan(&r.Shop, &r.Pod, &r.Region, &r.Epoch); err != nil {
			return err
		}
		each(r)
		return nil
	})
}

// Hosts does the same for hosts.
func (s *Store) Hosts(ctx context.Context, since uint64, each func(host string, r podworks.Route)) (uint64, error) {
	return s.changes(ctx, hostRoutes, `h.version > ? OR s.version > ? OR p.version > ?`, 3, since, func(rows *sql.Rows) error {
		var host string
		var r podworks.Route
		if err := rows.Scan(&host, &r.Shop, &r.Pod, &r.Region, &r.Epoch); err != nil {
			return err
		}
		each(host, r)
		return nil
	})
}

// changes reads the version first and the rows after it: a row that changes in
// between is read now and once more next time, never not at all.
func (s *Store) changes(ctx context.Context, query, newer string, args int, since uint64, scan func(*sql.Rows) error) (uint64, error) {
	var version uint64
	if err := s.db.QueryRowContext(ctx, `SELECT version FROM podworks_version WHERE id = 1`).Scan(&version); err != nil {
		return since, fmt.Errorf("read the directory's version: %w", err)
	}
	if since != 0 && version == since {
		return version, nil
	}
	var vals []any
	if since != 0 {
		query += " WHERE " + newer
		for range args {
			vals = append(vals, since)
		}
	}
	rows, err := s.db.QueryContext(ctx, query, vals...)
	if err != nil {
		return since, fmt.Errorf("read the directory: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return since, fmt.Errorf("read the directory: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return since, fmt.Errorf("read the directory: %w", err)
	}
	return version, nil
}

// change runs fn in a transaction with the next version, whose row it has
// locked. Everything that writes the directory goes through here.
func (s *Store) change(ctx context.Context, fn func(tx *sql.Tx, version uint64) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	version, err := nextVersion(ctx, tx)
	if err != nil {
		return err
	}
	if err := fn(tx, version); err != nil {
		return err
	}
	return tx.Commit()
}

func nextVersion(ctx context.Context, tx *sql.Tx) (uint64, error) {
	res, err := tx.ExecContext(ctx, `UPDATE podworks_version SET version = LAST_INSERT_ID(version + 1) WHERE id = 1`)
	if err != nil {
		return 0, fmt.Errorf("raise the directory's version: %w", err)
	}
	v, err := res.LastInsertId()
	if err == nil && v == 0 {
		err = errors.New("podworks_version has no row: run the directory's migration")
	}
	return uint64(v), err
}

func podExists(ctx context.Context, tx *sql.Tx, pod podworks.PodID) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM podworks_pods WHERE pod_id = ? LOCK IN SHARE MODE`, int64(pod)).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w %d: the directory has no such pod; add it first", ErrUnknownPod, pod)
	}
	return err
}
