package shop

import (
	"cmp"
	"context"
	"database/sql"
	"net/http"
	"slices"

	"github.com/podworks/podworks"
)

// A line is a shop in the report.
type line struct {
	Shop   string
	Orders int
	Cents  int64
}

// report lists all shops, those that sell most first.
func (a *App) report(ctx context.Context, _ *http.Request) (any, error) {
	shops, err := a.shops(ctx)
	if err != nil {
		return nil, err
	}
	// The rows of a shop that has moved away stay for a while. They are the other
	// pod's to count, and the directory says whose.
	dir := a.cluster.Directory()
	if err := dir.Refresh(ctx); err != nil {
		return nil, err
	}
	sold := map[int64]line{}
	err = a.cluster.EachPod(ctx, "report", nil, func(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT shop_id, COUNT(*), SUM(cents) FROM orders GROUP BY shop_id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			var l line
			if err := rows.Scan(&id, &l.Orders, &l.Cents); err != nil {
				return err
			}
			route, err := dir.Lookup(ctx, podworks.ShopID(id))
			if err != nil {
				return err
			}
			if route.Pod == pod {
				sold[id] = l
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	list := []line{}
	for _, s := range shops {
		l := sold[s.ID]
		l.Shop = s.Name
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.Cents, a.Cents), cmp.Compare(a.Shop, b.Shop))
	})
	return list, nil
}
