package shop

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
)

//go:embed schema.sql
var schema string

//go:embed global.sql
var globalSchema string

// Install creates the tables of a new installation.
func (a *App) Install(ctx context.Context) error {
	if err := change(ctx, a.master, statements(globalSchema)...); err != nil {
		return err
	}
	if err := a.global.Migrate(ctx); err != nil {
		return err
	}
	if err := a.ferry.Migrate(ctx); err != nil {
		return err
	}
	if err := a.cluster.Migrate(ctx); err != nil {
		return err
	}
	return a.cluster.EachPod(ctx, "install", nil, func(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
		if err := change(ctx, db, statements(schema)...); err != nil {
			return err
		}
		return a.cluster.Directory().AddPod(ctx, pod, "here")
	})
}

// check refuses pods whose tables can't be sharded.
func (a *App) check(ctx context.Context) error {
	problems, err := a.cluster.Check(ctx)
	for _, p := range problems {
		err = errors.Join(err, fmt.Errorf("shop: %v", p))
	}
	return err
}

func statements(script string) []string {
	return strings.Split(strings.TrimSuffix(strings.TrimSpace(script), ";"), ";\n")
}

// done are the server's errors that say that a change has been made before: a
// migration that broke off is run again from its beginning.
var done = []uint16{
	1050, // table exists
	1060, // duplicate column
	1061, // duplicate key
	1091, // nothing there to drop
	1359, // trigger exists
}

// change runs statements that change the schema.
func change(ctx context.Context, db *sql.DB, stmts ...string) error {
	for _, stmt := range stmts {
		_, err := db.ExecContext(ctx, stmt)
		if e := (*mysql.MySQLError)(nil); errors.As(err, &e) && slices.Contains(done, e.Number) {
			continue
		}
		if err != nil {
			return fmt.Errorf("shop: %s: %w", stmt, err)
		}
	}
	return nil
}
