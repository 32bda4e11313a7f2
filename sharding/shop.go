package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
)

// The life of a shop. Each step changes the directory first, which decides, and
// then the fence row in the pod, which enforces. A process that dies in between
// leaves a shop that is refused every write, or a closed one that stale
// processes can still write to; the same call again completes it. Epochs only
// grow, and no fence row goes back to an older one, so of two calls that
// contradict each other the one that the directory heard last wins.

// CreateShop adds a shop to the directory and opens it in its pod. Hosts are
// the names under which the edge finds it; a host or a shop that belongs to
// somebody else already is refused, and nothing is changed. A shop that is only
// half there (the process died in between) is refused every write until
// CreateShop has run again, which is no error.
func (c *Cluster) CreateShop(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, hosts ...string) (podworks.Route, error) {
	p, err := c.known(pod)
	if err != nil {
		return podworks.Route{}, fmt.Errorf("sharding: create shop %d: %w", shop, err)
	}
	r, err := c.dir.addShop(ctx, shop, pod, hosts)
	if err != nil {
		return r, fmt.Errorf("sharding: %w", err)
	}
	if r.Epoch > 1 {
		return r, nil // it has lived and moved since
	}
	if err := p.admitShops(ctx, r); err != nil {
		return r, fmt.Errorf("sharding: create shop %d: %w", shop, err)
	}
	return r, nil
}

// AddShops is CreateShop for the shops that an existing database has: many, all
// in one pod, without hosts (Directory.AddHosts gives them theirs). It may be
// repeated, and goes on from where it was.
func (c *Cluster) AddShops(ctx context.Context, pod podworks.PodID, shops []podworks.ShopID) error {
	p, err := c.known(pod)
	if err != nil {
		return fmt.Errorf("sharding: add %d shops: %w", len(shops), err)
	}
	if err := c.dir.addShops(ctx, pod, shops); err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	routes := make([]podworks.Route, len(shops))
	for i, shop := range shops {
		routes[i] = podworks.Route{Shop: shop, Pod: pod, Epoch: 1}
	}
	err = p.admitShops(ctx, routes...)
	if err != nil {
		return fmt.Errorf("sharding: add %d shops to pod %d: %w", len(shops), pod, err)
	}
	return nil
}

// CloseShop takes a shop out of business: no scope of it begins any more in a
// process that has heard, and when CloseShop returns, no process can write. It
// waits for the write transactions in flight. The shop's rows stay. A shop that
// is being moved is refused.
func (c *Cluster) CloseShop(ctx context.Context, shop podworks.ShopID) error {
	r, err := c.dir.closeShop(ctx, shop)
	if err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	return c.turn(ctx, r, fence.Absent)
}

// ReopenShop undoes CloseShop.
func (c *Cluster) ReopenShop(ctx context.Context, shop podworks.ShopID) error {
	r, err := c.dir.reopenShop(ctx, shop)
	if err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	return c.turn(ctx, r, fence.Open)
}

// turn brings the fence row of a shop to where the directory says it is.
func (c *Cluster) turn(ctx context.Context, r podworks.Route, state fence.State) error {
	p, err := c.known(r.Pod)
	if err == nil && p.locker == nil {
		err = p.unscoped(ctx, func(db *sql.DB) error { return fence.Turn(ctx, db, r.Shop, r.Epoch, state) })
	}
	if err != nil {
		return fmt.Errorf("sharding: shop %d is decided to be %s at epoch %d, and its pod has not heard; call again: %w", r.Shop, state, r.Epoch, err)
	}
	return nil
}

// deleteAtOnce rows are deleted in a transaction, so that neither the server nor
// its replicas choke on a big shop.
const deleteAtOnce = 1000

// DeleteShop ends a closed shop: its hosts are free for others, its number is
// never given again, and its rows are deleted from every table of its pod that
// has a column shop_id, a thousand in a transaction. It can't be undone. It may
// be repeated, and goes on from where it was.
//
// Progress, if not nil, is called after each transaction with the table and how
// many rows it has lost so far.
//
// Rows that a move left in another pod are not touched: they go with the clean-up
// of that move.
func (c *Cluster) DeleteShop(ctx context.Context, shop podworks.ShopID, progress func(table string, rows int64)) error {
	r, err := c.dir.deleteShop(ctx, shop)
	if err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	if progress == nil {
		progress = func(string, int64) {}
	}
	p, err := c.known(r.Pod)
	if err == nil {
		// The number is never given again, so nobody can open the shop in this pod
		// while its rows go.
		err = p.unscoped(ctx, func(db *sql.DB) error {
			if p.locker == nil {
				if err := fence.Turn(ctx, db, shop, r.Epoch, fence.Absent); err != nil {
					return err
				}
			}
			return deleteRows(ctx, db, shop, progress)
		})
	}
	if err != nil {
		return fmt.Errorf("sharding: shop %d is deleted, but not all of its rows are; call again: %w", shop, err)
	}
	return nil
}

// rowIsReferenced is the answer to deleting a row that a foreign key refers to.
const rowIsReferenced = 1451

func deleteRows(ctx context.Context, db *sql.DB, shop podworks.ShopID, progress func(string, int64)) error {
	tables, err := tablesOf(ctx, db)
	if err != nil {
		return err
	}
	var left []string
	for _, t := range tables {
		if t.has("shop_id") {
			left = append(left, t.name)
		}
	}
	// A table whose rows others refer to waits until those are empty.
	for len(left) > 0 {
		var stuck []string
		var last error
		for _, table := range left {
			err := deleteFrom(ctx, db, table, shop, progress)
			var e *mysql.MySQLError
			switch {
			case errors.As(err, &e) && e.Number == rowIsReferenced:
				stuck, last = append(stuck, table), err
			case err != nil:
				return err
			}
		}
		if len(stuck) == len(left) {
			return fmt.Errorf("rows of other shops, or of tables without shop_id, refer to rows in %v: %w", stuck, last)
		}
		left = stuck
	}
	return nil
}

func deleteFrom(ctx context.Context, db *sql.DB, table string, shop podworks.ShopID, progress func(string, int64)) error {
	total := int64(0)
	for {
		res, err := db.ExecContext(ctx, `DELETE FROM `+quote(table)+` WHERE shop_id = ? LIMIT ?`, int64(shop), deleteAtOnce)
		if err != nil {
			return fmt.Errorf("delete from %s: %w", table, err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if total += n; n > 0 {
			progress(table, total)
		}
		if n < deleteAtOnce {
			return nil
		}
	}
}

// admitShops lets new shops write in the pod. Those that could before stay as
// they are.
func (p *pod) admitShops(ctx context.Context, routes ...podworks.Route) error {
	if p.locker != nil {
		l, ok := p.locker.(interface {
			Create(context.Context, podworks.Route) error
		})
		for i := 0; ok && i < len(routes); i++ {
			if err := l.Create(ctx, routes[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return p.unscoped(ctx, func(db *sql.DB) error {
		for some := range slices.Chunk(routes, 1000) {
			shops := make([]podworks.ShopID, len(some))
			for i, r := range some {
				shops[i] = r.Shop
			}
			if err := fence.Create(ctx, db, shops...); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Cluster) known(pod podworks.PodID) (*pod, error) {
	if p, ok := c.pods[pod]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("%w %d: this process has no connector for it", ErrUnknownPod, pod)
}

// unscoped runs fn with a pool without scope check or fence.
func (p *pod) unscoped(ctx context.Context, fn func(*sql.DB) error) error {
	db := sql.OpenDB(p.raw)
	defer db.Close()
	db.SetConnMaxIdleTime(time.Minute)
	return fn(db)
}
