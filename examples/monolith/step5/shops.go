package shop

import (
	"context"
	"net/http"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

// shopOf returns the shop that ctx's work is for.
func shopOf(ctx context.Context) int64 { return int64(sharding.FromContext(ctx).Shop()) }

type shop struct {
	ID   int64
	Name string
	Host string
}

func (a *App) createShop(ctx context.Context, r *http.Request) (any, error) {
	var s shop
	if err := read(r, &s); err != nil {
		return nil, err
	}
	res, err := a.master.ExecContext(ctx, `INSERT INTO shops (name, host) VALUES (?, ?)`, s.Name, s.Host)
	if err != nil {
		return nil, err
	}
	if s.ID, err = res.LastInsertId(); err != nil {
		return nil, err
	}
	return s, a.enter(ctx, s)
}

// enter enters a shop into the directory, and opens it in its pod. For a shop
// that is there it does nothing.
func (a *App) enter(ctx context.Context, s shop) error {
	_, err := a.cluster.CreateShop(ctx, podworks.ShopID(s.ID), a.opening, s.Host)
	return err
}

// shops lists all shops.
func (a *App) shops(ctx context.Context) ([]shop, error) {
	rows, err := a.master.QueryContext(ctx, `SELECT id, name, host FROM shops ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []shop
	for rows.Next() {
		var s shop
		if err := rows.Scan(&s.ID, &s.Name, &s.Host); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
