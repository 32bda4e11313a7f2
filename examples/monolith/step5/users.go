package shop

import "context"

// userID returns the number of the buyer with this address, who may be a new
// one. Buyers are the platform's: one account is good in every shop.
func (a *App) userID(ctx context.Context, email string) (int64, error) {
	res, err := a.master.ExecContext(ctx, `INSERT INTO users (email) VALUES (?) ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id)`, email)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// email returns the address of a buyer.
func (a *App) email(ctx context.Context, user int64) (email string, err error) {
	err = a.master.QueryRowContext(ctx, `SELECT email FROM users WHERE id = ?`, user).Scan(&email)
	return email, err
}
