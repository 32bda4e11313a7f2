// Package goose runs schema migrations of pressly/goose in every pod, by
// Cluster.EachPod: one pod after the other, and no further one when a migration
// has failed, so that a bad one breaks one pod. Each pod keeps its own table of
// what was applied; running again goes on where it stopped.
//
// What is not promised: the pods have different schemas until Up has ended, so
// the program must work with the old and the new one, and ferry refuses to move
// a shop between two pods that differ. MySQL commits every DDL statement by
// itself: a migration that fails half-way stays half-way, so put one statement
// into each. goose's table has no column shop_id: name it in
// ferry.Options.Ignore.
package goose

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
)

//go:embed migrations/*.sql
var migrations embed.FS

// provider is goose on one pod.
func provider(db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectMySQL, db, dir, goose.WithSessionLocker(oneAtATime{}))
}

// Up brings every pod to the newest version. An error names the pod it stopped
// at; those before it are done, those behind it untouched. Mend what it says and
// run again.
func Up(ctx context.Context, c *sharding.Cluster) error {
	return c.EachPod(ctx, "migrating the schema", nil, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
		p, err := provider(db)
		if err != nil {
			return err
		}
		_, err = p.Up(ctx)
		return err
	})
}

// A Status says how far a pod is.
type Status struct{ Version, Newest int64 }

// StatusOf returns the status of every pod that answers. The error names the
// others.
func StatusOf(ctx context.Context, c *sharding.Cluster) (map[podworks.PodID]Status, error) {
	out := map[podworks.PodID]Status{} // no lock: the pods come one after the other
	err := c.EachPod(ctx, "asking for the schema's version", &sharding.EachPodOptions{KeepGoing: true}, func(ctx context.Context, pod podworks.PodID, db *sql.DB) error {
		p, err := provider(db)
		if err != nil {
			return err
		}
		var s Status
		if s.Version, s.Newest, err = p.GetVersions(ctx); err == nil {
			out[pod] = s
		}
		return err
	})
	return out, err
}

// oneAtATime keeps two deployments from migrating a pod at once; goose has that
// for PostgreSQL only. The lock is the session's, and ends with it at the latest.
type oneAtATime struct{}

var _ lock.SessionLocker = oneAtATime{}

// The lock's name is the server's, not the database's, and MySQL's limit is 64.
const lockName = `LEFT(CONCAT('goose ', DATABASE()), 64)`

func (oneAtATime) SessionLock(ctx context.Context, conn *sql.Conn) error {
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, `SELECT GET_LOCK(`+lockName+`, 60)`).Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return errors.New("goose: another migration of this pod has been running for a minute; run again after its end")
	}
	return nil
}

func (oneAtATime) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `DO RELEASE_LOCK(`+lockName+`)`)
	return err
}
