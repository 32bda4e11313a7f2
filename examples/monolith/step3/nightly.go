package shop

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// Nightly sums up the orders of the day before now, and removes the carts that
// were left for a day. It may be run again.
func (a *App) Nightly(ctx context.Context, now time.Time) error {
	shops, err := a.shops(ctx)
	if err != nil {
		return err
	}
	var errs []error // the other shops have their night all the same
	for _, s := range shops {
		err := a.cluster.Do(ctx, podworks.ShopID(s.ID), func(ctx context.Context, _ *sharding.Scope) error {
			return a.nightly(ctx, now)
		})
		if errors.Is(err, sharding.ErrUnknownShop) {
			err = a.enter(ctx, s) // the process died that was about to
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// nightly is Nightly for one shop.
func (a *App) nightly(ctx context.Context, now time.Time) error {
	now = now.UTC()
	today := now.Truncate(24 * time.Hour)
	yesterday := today.AddDate(0, 0, -1)
	_, err := pod(ctx).ExecContext(ctx, `INSERT INTO daily_sales (shop_id, day, orders, cents)
		SELECT shop_id, ?, COUNT(*), SUM(cents) FROM orders WHERE shop_id = ? AND created_at >= ? AND created_at < ? GROUP BY shop_id
		ON DUPLICATE KEY UPDATE orders = VALUES(orders), cents = VALUES(cents)`, yesterday, shopOf(ctx), yesterday, today)
	if err != nil {
		return err
	}
	_, err = pod(ctx).ExecContext(ctx, `DELETE c, i FROM carts c LEFT JOIN cart_items i ON i.shop_id = c.shop_id AND i.cart_id = c.id
		WHERE c.shop_id = ? AND c.created_at < ?`, shopOf(ctx), now.Add(-24*time.Hour))
	return err
}

type day struct {
	Day    string
	Orders int
	Cents  int64
}

func (a *App) days(ctx context.Context, _ *http.Request) (any, error) {
	rows, err := pod(ctx).QueryContext(ctx, `SELECT day, orders, cents FROM daily_sales WHERE shop_id = ? ORDER BY day`, shopOf(ctx))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []day{}
	for rows.Next() {
		var d day
		var date time.Time
		if err := rows.Scan(&date, &d.Orders, &d.Cents); err != nil {
			return nil, err
		}
		d.Day = date.Format(time.DateOnly)
		list = append(list, d)
	}
	return list, rows.Err()
}
