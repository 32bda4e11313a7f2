package shop

import "context"

// userID returns the number of the buyer with this address, who may be a new
// one. Buyers are the platform's: one account is good in every shop.
func (a *App) userID(ctx context.Context, email string) (int64, error) {
	res, err := a.db.ExecContext(ctx, `INSERT INTO users (email) VALUES (?) ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id)`, email)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}
