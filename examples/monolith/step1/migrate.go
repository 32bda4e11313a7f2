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
)

//go:embed schema.sql
var schema string

// Install creates the tables of a new installation.
func (a *App) Install(ctx context.Context) error { return change(ctx, a.db, statements(schema)...) }

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
