package shop

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/http"
)

type cart struct{ Token string }

func (a *App) createCart(ctx context.Context, _ *http.Request) (any, error) {
	c := cart{Token: rand.Text()}
	_, err := pod(ctx).ExecContext(ctx, `INSERT INTO carts (shop_id, token, created_at) VALUES (?, ?, ?)`, shopOf(ctx), c.Token, now())
	return c, err
}

type item struct {
	Product  int64
	Quantity int
	Cents    int64 // of one, when it was ordered
}

func (a *App) addToCart(ctx context.Context, r *http.Request) (any, error) {
	var i item
	if err := read(r, &i); err != nil {
		return nil, err
	}
	if i.Quantity < 1 {
		return nil, errBadRequest
	}
	res, err := pod(ctx).ExecContext(ctx, `INSERT INTO cart_items (shop_id, cart_id, product_id, quantity)
		SELECT shop_id, id, ?, ? FROM carts WHERE shop_id = ? AND token = ?`, i.Product, i.Quantity, shopOf(ctx), r.PathValue("token"))
	if err != nil {
		return nil, err
	}
	added, err := res.RowsAffected()
	if err == nil && added == 0 { // there is no such cart, or it was ordered a moment ago
		err = sql.ErrNoRows
	}
	return i, err
}
