package shop

import (
	"context"
	"net/http"
)

type product struct {
	ID    int64
	Title string
	Cents int64
	Stock int
}

func (a *App) products(ctx context.Context, _ *http.Request) (any, error) {
	rows, err := a.db.QueryContext(ctx, `SELECT id, title, cents, stock FROM products WHERE shop_id = ? ORDER BY title`, shopOf(ctx))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []product{}
	for rows.Next() {
		var p product
		if err := rows.Scan(&p.ID, &p.Title, &p.Cents, &p.Stock); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

func (a *App) addProduct(ctx context.Context, r *http.Request) (any, error) {
	var p product
	if err := read(r, &p); err != nil {
		return nil, err
	}
	res, err := a.db.ExecContext(ctx, `INSERT INTO products (shop_id, title, cents, stock) VALUES (?, ?, ?, ?)`,
		shopOf(ctx), p.Title, p.Cents, p.Stock)
	if err != nil {
		return nil, err
	}
	p.ID, err = res.LastInsertId()
	return p, err
}
