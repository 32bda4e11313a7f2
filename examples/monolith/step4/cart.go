package shop

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/http"

	"github.com/podworks/podworks/sharding"
)

type cart struct{ Token string }

func (a *App) createCart(ctx context.Context, _ *http.Request) (any, error) {
	c := cart{Token: rand.Text()}
	id, err := a.ids.Next(ctx)
	if err != nil {
		return nil, err
	}
	return c, write(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO carts (id, shop_id, token, created_at) VALUES (?, ?, ?, ?)`, id, shopOf(ctx), c.Token, now())
		return err
	})
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
	id, err := a.ids.Next(ctx)
	if err != nil {
		return nil, err
	}
	return i, write(ctx, func(ctx context.Context, tx *sharding.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO cart_items (id, shop_id, cart_id, product_id, quantity)
			SELECT ?, shop_id, id, ?, ? FROM carts WHERE shop_id = ? AND token = ?`, id, i.Product, i.Quantity, shopOf(ctx), r.PathValue("token"))
		if err != nil {
			return err
		}
		added, err := res.RowsAffected()
		if err == nil && added == 0 { // there is no such cart, or it was ordered a moment ago
			err = sql.ErrNoRows
		}
		return err
	})
}
