package shop

import (
	"context"
	"net/http"
)

type shopKey struct{}

// withShop returns the context of work for a shop.
func withShop(ctx context.Context, id int64) context.Context {
	return context.WithValue(ctx, shopKey{}, id)
}

// shopOf returns the shop that ctx's work is for.
func shopOf(ctx context.Context) int64 { return ctx.Value(shopKey{}).(int64) }

// storefront finds a request's shop by its host.
func (a *App) storefront(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var id int64
		if err := a.db.QueryRowContext(r.Context(), `SELECT id FROM shops WHERE host = ?`, r.Host).Scan(&id); err != nil {
			fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(withShop(r.Context(), id)))
	})
}

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
	res, err := a.db.ExecContext(ctx, `INSERT INTO shops (name, host) VALUES (?, ?)`, s.Name, s.Host)
	if err != nil {
		return nil, err
	}
	s.ID, err = res.LastInsertId()
	return s, err
}
