package shop

import (
	"context"
	"net/http"
)

// A line is a shop in the report.
type line struct {
	Shop   string
	Orders int
	Cents  int64
}

// report lists all shops, those that sell most first.
func (a *App) report(ctx context.Context, _ *http.Request) (any, error) {
	rows, err := a.db.QueryContext(ctx, `SELECT s.name, COUNT(o.id), COALESCE(SUM(o.cents), 0) FROM shops s LEFT JOIN orders o ON o.shop_id = s.id
		GROUP BY s.id, s.name ORDER BY 3 DESC, s.name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []line{}
	for rows.Next() {
		var l line
		if err := rows.Scan(&l.Shop, &l.Orders, &l.Cents); err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, rows.Err()
}
