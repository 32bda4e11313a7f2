package redislock_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/redislock"
)

// pausedBeforeCommit is the story that no lease can rule out alone: a writer is
// paused between Check and COMMIT, its lease lapses, and a mover closes the shop.
// It returns what becomes of the COMMIT, and how many rows the pod has then.
func pausedBeforeCommit(t *testing.T, f testcluster.Family, waitTimeout time.Duration) (committed error, rows int, released error) {
	t.Helper()
	server := testcluster.Server(t, f)
	cfg := server.Config(testcluster.Database(t, server))
	cfg.Logger = &mysql.NopLogger{}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	ctx := t.Context()
	if _, err := db.ExecContext(ctx, `CREATE TABLE things (id INT NOT NULL PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	p := newPod(t, testcluster.Redis(t, nil), &redislock.Options{Lease: 2 * time.Second})
	p.set(open)

	session, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.ExecContext(ctx, fmt.Sprintf(`SET SESSION wait_timeout = %d`, int(waitTimeout.Seconds()))); err != nil {
		t.Fatal(err)
	}
	s := p.write()
	for _, q := range []string{`START TRANSACTION`, `INSERT INTO things VALUES (1)`} {
		if _, err := session.ExecContext(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	checkIs(t, "Check", s.Check(ctx), nil)
	// The pause. The mover's drain would count the rows, and copy what is there.
	checkIs(t, "Close", p.close5(ctx, patience, nothing), nil)
	_, committed = session.ExecContext(ctx, `COMMIT`)
	released = s.Release()
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	return committed, rows, released
}

func TestASessionTimeoutEndsAWriterThatIsPausedBeforeCommit(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		committed, rows, _ := pausedBeforeCommit(t, f, time.Second)
		if committed == nil || rows != 0 {
			t.Errorf("COMMIT: %v, and there are %d rows; want an error and none", committed, rows)
		}
	})
}

// The twin: with a long time-out the row is committed to the pod that the shop
// has left. The release says that it may have been.
func TestWithoutASessionTimeoutAPausedWriterCommitsAfterTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		committed, rows, released := pausedBeforeCommit(t, f, time.Minute)
		if committed != nil || rows != 1 {
			t.Errorf("COMMIT: %v, and there are %d rows; want it to succeed, and one", committed, rows)
		}
		checkIs(t, "Release", released, redislock.ErrLapsed)
	})
}
