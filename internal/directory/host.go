package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/podworks/podworks"
)

// nobody owns the hosts that were taken from their shops.
const nobody = 0

// AddHost gives a host, which must be in lower case, to a shop that is not
// deleted. A host of another shop is refused with ErrExists. Adding it again is
// no error. A move of the shop doesn't mind: it changes where the shop is, not
// what it is called.
func (s *Store) AddHost(ctx context.Context, shop podworks.ShopID, host string) error {
	return s.AddHosts(ctx, map[string]podworks.ShopID{host: shop})
}

// AddHosts adds hosts as AddHost does, in the order of their names and a thousand
// in a transaction. It ends with the first batch that fails; adding all of them
// again goes on from there.
func (s *Store) AddHosts(ctx context.Context, shops map[string]podworks.ShopID) error {
	hosts := slices.Sorted(maps.Keys(shops))
	for _, host := range hosts {
		if err := CheckHost(host); err != nil {
			return fmt.Errorf("add host %q to shop %d: %w", host, shops[host], err)
		}
	}
	for some := range slices.Chunk(hosts, batch) {
		err := s.change(ctx, func(tx *sql.Tx, version uint64) error {
			for _, host := range some {
				if err := addHost(ctx, tx, version, shops[host], host); err != nil {
					return fmt.Errorf("add host %q to shop %d: %w", host, shops[host], err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func addHost(ctx context.Context, tx *sql.Tx, version uint64, shop podworks.ShopID, host string) error {
	have, err := lockShop(ctx, tx, shop)
	if err != nil {
		return err
	}
	if have.State == Deleted {
		return have.Refusal()
	}
	return giveHost(ctx, tx, version, shop, host)
}

// RemoveHost takes a host from a shop. One that the shop doesn't have is no
// error, unless it is another shop's: that is ErrExists.
func (s *Store) RemoveHost(ctx context.Context, shop podworks.ShopID, host string) error {
	err := s.change(ctx, func(tx *sql.Tx, version uint64) error {
		owner, err := lockHost(ctx, tx, host)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil || owner == nobody:
			return err
		case owner != shop:
			return fmt.Errorf("%w: it belongs to shop %d", ErrExists, owner)
		}
		return setHost(ctx, tx, version, nobody, host)
	})
	if err != nil {
		return fmt.Errorf("remove host %q from shop %d: %w", host, shop, err)
	}
	return nil
}

// giveHost gives a host that is nobody's to a shop.
func giveHost(ctx context.Context, tx *sql.Tx, version uint64, shop podworks.ShopID, host string) error {
	if _, err := tx.ExecContext(ctx, `INSERT IGNORE INTO podworks_hosts (host, shop_id, version) VALUES (?, ?, ?)`, host, int64(nobody), version); err != nil {
		return err
	}
	owner, err := lockHost(ctx, tx, host)
	switch {
	case err != nil:
		return fmt.Errorf("host %q: %w", host, err)
	case owner == nobody:
		return setHost(ctx, tx, version, shop, host)
	case owner != shop:
		return fmt.Errorf("host %q %w: it belongs to shop %d", host, ErrExists, owner)
	}
	return nil
}

func lockHost(ctx context.Context, tx *sql.Tx, host string) (owner podworks.ShopID, err error) {
	err = tx.QueryRowContext(ctx, `SELECT shop_id FROM podworks_hosts WHERE host = ? FOR UPDATE`, host).Scan(&owner)
	return owner, err
}

func setHost(ctx context.Context, tx *sql.Tx, version uint64, shop podworks.ShopID, host string) error {
	_, err := tx.ExecContext(ctx, `UPDATE podworks_hosts SET shop_id = ?, version = ? WHERE host = ?`, int64(shop), version, host)
	return err
}

// CheckHost refuses what no request's host, in normal form, can be equal to.
func CheckHost(host string) error {
	switch {
	case host == "" || len(host) > 255:
		return fmt.Errorf("host %.40q has %d bytes, want 1 to 255", host, len(host))
	case strings.HasPrefix(host, ".") || strings.HasSuffix(host, "."):
		return fmt.Errorf("host %q begins or ends with a dot, want it without", host)
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err == nil {
			return nil
		}
	}
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return fmt.Errorf("host %q has %q, want small letters, digits, dots and hyphens, and no port", host, c)
		}
	}
	return nil
}

// LookupHost reads the route of the shop that a host belongs to.
func (s *Store) LookupHost(ctx context.Context, host string) (podworks.Route, error) {
	var r podworks.Route
	err := s.db.QueryRowContext(ctx, hostRoute+hostsFirst+` WHERE h.host = ?`, host).Scan(&host, &r.Shop, &r.Pod, &r.Region, &r.Epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("%w: the directory has no host %q", ErrUnknownShop, host)
	}
	if err != nil {
		return r, fmt.Errorf("look up host %q in the directory: %w", host, err)
	}
	return r, nil
}

// ChangedHosts calls each for every host that was given to a shop or taken from
// one after version since.
func (s *Store) ChangedHosts(ctx context.Context, since uint64, each func(host string)) error {
	return s.read(ctx, func(rows *sql.Rows) error {
		var host string
		if err := rows.Scan(&host); err != nil {
			return err
		}
		each(host)
		return nil
	}, `SELECT host FROM podworks_hosts WHERE version > ?`, since)
}

// What changed a host's route is a row of one of three tables. One query with
// three conditions joined by OR reads all tables from end to end. These begin
// with the few rows that changed, in each table in turn, and go by index from
// there. That is spelt out, since the servers' guess at how few is sometimes wrong:
// MySQL 9 reads all shops to find those of the one pod that changed, or of none.
const (
	hostRoute  = `SELECT h.host, s.shop_id, s.pod_id, p.region, s.epoch`
	hostsFirst = ` FROM podworks_hosts h STRAIGHT_JOIN podworks_shops s ON s.shop_id = h.shop_id STRAIGHT_JOIN podworks_pods p ON p.pod_id = s.pod_id`
	shopsFirst = ` FROM podworks_shops s STRAIGHT_JOIN podworks_hosts h ON h.shop_id = s.shop_id STRAIGHT_JOIN podworks_pods p ON p.pod_id = s.pod_id`
	podsFirst  = ` FROM podworks_pods p STRAIGHT_JOIN podworks_shops s FORCE INDEX (pod_id) ON s.pod_id = p.pod_id STRAIGHT_JOIN podworks_hosts h ON h.shop_id = s.shop_id`
	gone       = `SELECT host, 0, 0, '', 0 FROM podworks_hosts WHERE shop_id = 0`
)

// Hosts calls each for every host whose route changed after version since, with
// 0 for all, and returns the version to pass next time. A host that is nobody's
// any more comes with the zero route.
//
// The version is read before the rows: a row that changes in between is read now
// and once more next time, never not at all.
func (s *Store) Hosts(ctx context.Context, since uint64, each func(host string, r podworks.Route)) (uint64, error) {
	version, err := s.Version(ctx)
	if err != nil {
		return since, err
	}
	if since != 0 && version == since {
		return version, nil
	}
	queries := []string{gone, hostRoute + hostsFirst}
	var args []any
	if since != 0 {
		queries = []string{
			gone + ` AND version > ?`,
			hostRoute + hostsFirst + ` WHERE h.version > ?`,
			hostRoute + shopsFirst + ` WHERE s.version > ?`,
			hostRoute + podsFirst + ` WHERE p.version > ?`,
		}
		args = []any{since}
	}
	for _, query := range queries {
		err := s.read(ctx, func(rows *sql.Rows) error {
			var host string
			var r podworks.Route
			if err := rows.Scan(&host, &r.Shop, &r.Pod, &r.Region, &r.Epoch); err != nil {
				return err
			}
			each(host, r)
			return nil
		}, query, args...)
		if err != nil {
			return since, err
		}
	}
	return version, nil
}
