package shop

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/podworks/podworks"
)

// The tables that this step takes out of the pod, and those whose ids it counts
// itself.
var (
	globals = []string{"shops", "users"}
	tenants = []string{"products", "carts", "cart_items", "orders", "order_items", "daily_sales"}
)

// While processes of step 3 let the tables count and those of this step take ids
// from the sequence, the tables count from here on, and the sequence goes on where
// the tables were. They will not meet: at a thousand ids a second the sequence
// needs 34 years to get here.
const counted = 1 << 40

// Expand makes the databases ready for this step, while only processes of step 3
// run. When it has returned, processes of both steps may run: the global tables
// are seen in the master database, through views.
func (a *App) Expand(ctx context.Context) error {
	if err := a.global.Migrate(ctx); err != nil {
		return err
	}
	return a.first(ctx, func(ctx context.Context, db *sql.DB, pod, master string) error {
		for _, t := range globals {
			if err := change(ctx, a.master, fmt.Sprintf(`CREATE VIEW %s AS SELECT * FROM %s.%[1]s`, t, pod)); err != nil {
				return err
			}
		}
		for _, t := range tenants {
			// It waits for the transactions that have the table in use, so that the
			// greatest of the ids below is known after it.
			if err := change(ctx, db, fmt.Sprintf(`ALTER TABLE %s AUTO_INCREMENT = %d`, t, counted)); err != nil {
				return err
			}
			var last int64
			err := db.QueryRowContext(ctx, fmt.Sprintf(`SELECT COALESCE(MAX(id), 0) FROM %s WHERE id < %d`, t, counted)).Scan(&last)
			if err != nil {
				return err
			}
			if err := a.global.Advance(ctx, sequence, last); err != nil {
				return err
			}
		}
		return nil
	})
}

// Contract ends the change, when the last process of step 3 has ended. From here
// on an INSERT that forgets the id fails.
func (a *App) Contract(ctx context.Context) error {
	err := a.first(ctx, func(ctx context.Context, db *sql.DB, pod, master string) error {
		if err := a.take(ctx, pod, master); err != nil {
			return err
		}
		for _, t := range tenants {
			if err := change(ctx, db, `ALTER TABLE `+t+` MODIFY id BIGINT NOT NULL`); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.check(ctx) // no table is left that needs an exception
}

// Revert makes the databases ready for processes of step 3 again, beside those of
// this one.
func (a *App) Revert(ctx context.Context) error {
	return a.first(ctx, func(ctx context.Context, db *sql.DB, pod, master string) error {
		for _, t := range globals {
			if err := change(ctx, db, fmt.Sprintf(`CREATE VIEW %s AS SELECT * FROM %s.%[1]s`, t, master)); err != nil {
				return err
			}
		}
		for _, t := range tenants {
			err := change(ctx, db, fmt.Sprintf(`ALTER TABLE %s MODIFY id BIGINT NOT NULL AUTO_INCREMENT, AUTO_INCREMENT = %d`, t, counted))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget ends the way back, when the last process of this step has ended.
func (a *App) Forget(ctx context.Context) error {
	return a.first(ctx, func(ctx context.Context, _ *sql.DB, pod, master string) error {
		if err := a.take(ctx, master, pod); err != nil {
			return err
		}
		return change(ctx, a.master, `DROP VIEW IF EXISTS `+strings.Join(globals, ", "))
	})
}

// take puts the global tables from one database into the place of their views in
// another. It is one statement, which is done at once: no query meets a moment in
// which there is no table.
func (a *App) take(ctx context.Context, from, to string) error {
	var views int
	err := a.master.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.views WHERE table_schema = ? AND table_name = ?`, to, globals[0]).Scan(&views)
	if err != nil || views == 0 {
		return err
	}
	var rename, drop []string
	for _, t := range globals {
		rename = append(rename, fmt.Sprintf(`%s.%s TO %[1]s.%[2]s_view, %[3]s.%[2]s TO %[1]s.%[2]s`, to, t, from))
		drop = append(drop, fmt.Sprintf(`%s.%s_view`, to, t))
	}
	return change(ctx, a.master, `RENAME TABLE `+strings.Join(rename, ", "), `DROP VIEW IF EXISTS `+strings.Join(drop, ", "))
}

// first runs fn for the pod, of which there is one, with the names of its database
// and of the master's.
func (a *App) first(ctx context.Context, fn func(ctx context.Context, db *sql.DB, pod, master string) error) error {
	return a.cluster.EachPod(ctx, "step 4", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
		var pod, master string
		if err := db.QueryRowContext(ctx, `SELECT DATABASE()`).Scan(&pod); err != nil {
			return err
		}
		if err := a.master.QueryRowContext(ctx, `SELECT DATABASE()`).Scan(&master); err != nil {
			return err
		}
		return fn(ctx, db, pod, master)
	})
}
