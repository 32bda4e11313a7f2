package goose

import (
	"context"
	"database/sql"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// Lock takes the lock of a deployment.
func Lock(ctx context.Context, conn *sql.Conn) error { return oneAtATime{}.SessionLock(ctx, conn) }

// UpWithoutLock is Up on one pod without the lock.
func UpWithoutLock(ctx context.Context, db *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectMySQL, db, dir)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}
