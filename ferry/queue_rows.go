package ferry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// QueueSchema returns the statements that create a queue's tables in the master
// database, for teams with a migration tool of their own.
func QueueSchema() []string {
	return []string{
		// The row is locked by whoever begins a job. Its number tells this time from
		// every other one that a job was begun.
		`CREATE TABLE IF NOT EXISTS podworks_move_claims (
	id TINYINT NOT NULL PRIMARY KEY,
	claim BIGINT UNSIGNED NOT NULL
) ENGINE=InnoDB`,
		`INSERT IGNORE INTO podworks_move_claims (id, claim) VALUES (1, 0)`,
		// active is the shop while the job is unfinished, else NULL: one such job per
		// shop. Times are in UTC, as the journal's are.
		`CREATE TABLE IF NOT EXISTS podworks_move_jobs (
	id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	active BIGINT NULL,
	from_pod INT NOT NULL,
	to_pod INT NOT NULL,
	state VARCHAR(16) CHARACTER SET ascii NOT NULL,
	tries INT NOT NULL,
	claim BIGINT UNSIGNED NOT NULL,
	stop TINYINT NOT NULL,
	who VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
	last_error TEXT CHARACTER SET utf8mb4 NOT NULL,
	found TEXT CHARACTER SET utf8mb4 NOT NULL,
	created_at DATETIME(6) NOT NULL,
	due_at DATETIME(6) NOT NULL,
	noted_at DATETIME(6) NOT NULL,
	finished_at DATETIME(6) NULL,
	UNIQUE KEY (active),
	KEY (state, from_pod, to_pod, id, due_at),
	KEY (from_pod, to_pod, claim),
	KEY (finished_at)
) ENGINE=InnoDB`,
	}
}

// jobRows are the rows of a queue. Each change but a claim is one statement that
// commits by itself and may be made again.
type jobRows struct{ db *sql.DB }

// errNotOurs: another process has begun the job anew, or it has ended.
var errNotOurs = errors.New("the job is no longer this process's")

const selectJobs = `SELECT j.id, j.shop_id, j.from_pod, j.to_pod, j.state, j.tries, j.claim, j.stop, j.who, j.last_error, j.found,
	TIMESTAMPDIFF(MICROSECOND, '1970-01-01', j.created_at), TIMESTAMPDIFF(MICROSECOND, '1970-01-01', j.due_at),
	TIMESTAMPDIFF(MICROSECOND, '1970-01-01', j.finished_at), TIMESTAMPDIFF(MICROSECOND, j.noted_at, UTC_TIMESTAMP(6)),
	(SELECT MAX(p.claim) FROM podworks_move_jobs p WHERE p.from_pod = j.from_pod AND p.to_pod = j.to_pod)
	FROM podworks_move_jobs j `

func readJobs(ctx context.Context, db querier, where string, args ...any) ([]Job, error) {
	rows, err := db.QueryContext(ctx, selectJobs+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Job
	for rows.Next() {
		var j Job
		var created, due, idle int64
		var finished sql.NullInt64
		if err := rows.Scan(&j.ID, &j.Shop, &j.From, &j.To, &j.State, &j.Tries, &j.claim, &j.stop, &j.Who, &j.Error, &j.found, &created, &due, &finished, &idle, &j.last); err != nil {
			return nil, err
		}
		j.Created, j.Due = time.UnixMicro(created).UTC(), time.UnixMicro(due).UTC()
		if finished.Valid {
			j.Finished = time.UnixMicro(finished.Int64).UTC()
		}
		if j.State == JobRunning {
			j.Idle = time.Duration(idle) * time.Microsecond
		}
		out = append(out, j)
	}
	return out, rows.Err()
}

func (r jobRows) read(ctx context.Context, where string, args ...any) ([]Job, error) {
	return readJobs(ctx, r.db, where, args...)
}

// jobsDue returns the jobs that run, and of each pair of pods the oldest one that
// waits and is due.
func jobsDue(ctx context.Context, db querier) (running, waiting []Job, err error) {
	running, err = readJobs(ctx, db, `WHERE j.state = 'running'`)
	if err != nil {
		return nil, nil, err
	}
	waiting, err = readJobs(ctx, db, `JOIN (SELECT MIN(id) AS id FROM podworks_move_jobs WHERE state = 'waiting' AND due_at <= UTC_TIMESTAMP(6) GROUP BY from_pod, to_pod) h ON h.id = j.id`)
	return running, waiting, err
}

// unfinished returns the shop's unfinished job, if there is one.
func (r jobRows) unfinished(ctx context.Context, shop podworks.ShopID) (Job, bool, error) {
	jobs, err := r.read(ctx, `WHERE j.active = ?`, int64(shop))
	if err != nil || len(jobs) == 0 {
		return Job{}, false, err
	}
	return jobs[0], true, nil
}

func (r jobRows) insert(ctx context.Context, shop podworks.ShopID, from, to podworks.PodID) (id int64, err error) {
	res, err := r.db.ExecContext(ctx, `INSERT INTO podworks_move_jobs (shop_id, active, from_pod, to_pod, state, tries, claim, stop, who, last_error, found, created_at, due_at, noted_at)
		VALUES (?, ?, ?, ?, 'waiting', 0, 0, 0, '', '', '', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))`, int64(shop), int64(shop), int64(from), int64(to))
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// comesFrom notes in which pod a job's shop is by now.
func (r jobRows) comesFrom(ctx context.Context, j Job, pod podworks.PodID) error {
	_, err := r.db.ExecContext(ctx, `UPDATE podworks_move_jobs SET from_pod = ? WHERE id = ? AND claim = ? AND state = ?`, int64(pod), j.ID, j.claim, string(j.State))
	return err
}

// claim begins the job, if under the lock next still says that it is the one. So
// claims are made one after the other, each knowing all before it: no job is begun
// twice, and no two take the last room in a pod. (The reads are each of the moment
// they are made at, as the transaction is READ COMMITTED.)
//
// If the answer to the COMMIT is lost, the job is left to its lease.
func (r jobRows) claim(ctx context.Context, j Job, who string, next func(context.Context, querier) (Job, bool, error)) (Job, bool, error) {
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return j, false, err
	}
	// A process that is frozen in here has the lock for as long as the server keeps its
	// idle session, 8 hours by default, and nobody begins a job meanwhile. The session
	// isn't given back to the application's pool with a setting of ours.
	defer conn.Close()
	defer conn.Raw(func(any) error { return driver.ErrBadConn })
	if _, err := conn.ExecContext(ctx, `SET SESSION wait_timeout = 5`); err != nil {
		return j, false, err
	}
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return j, false, err
	}
	defer tx.Rollback()
	var locking interface {
		ExecContext(context.Context, string, ...any) (sql.Result, error)
	} = tx
	if hook.Off(ctx, offClaim) {
		locking = r.db // and the lock is gone with the statement
	}
	res, err := locking.ExecContext(ctx, `UPDATE podworks_move_claims SET claim = LAST_INSERT_ID(claim + 1) WHERE id = 1`)
	if err != nil {
		return j, false, err
	}
	claim, err := res.LastInsertId()
	if err == nil && claim == 0 {
		err = errors.New("podworks_move_claims has no row: run the queue's migration")
	}
	if err != nil {
		return j, false, err
	}
	hook.Step(ctx, "job.locked")
	if !hook.Off(ctx, offClaim) {
		now, ok, err := next(ctx, tx)
		if err != nil || !ok || now.ID != j.ID || now.claim != j.claim || now.From != j.From {
			return j, false, err
		}
		j = now
	}
	j.State, j.Tries, j.claim, j.Who, j.Idle = JobRunning, j.Tries+1, uint64(claim), who, 0
	if _, err := tx.ExecContext(ctx, `UPDATE podworks_move_jobs SET state = 'running', tries = ?, claim = ?, who = ?, noted_at = UTC_TIMESTAMP(6) WHERE id = ?`,
		j.Tries, j.claim, who, j.ID); err != nil {
		return j, false, err
	}
	return j, true, flavor.Commit(ctx, tx)
}

// beat says that the job's process is alive, and whether it is to stop.
func (r jobRows) beat(ctx context.Context, j Job) (stop bool, err error) {
	if err := r.change(ctx, `UPDATE podworks_move_jobs SET noted_at = UTC_TIMESTAMP(6) WHERE id = ? AND claim = ? AND state = 'running'`, j.ID, j.claim); err != nil {
		return false, err
	}
	err = r.db.QueryRowContext(ctx, `SELECT stop FROM podworks_move_jobs WHERE id = ?`, j.ID).Scan(&stop)
	return stop, err
}

// end notes what a job is after a try, if the try is still the job's latest.
func (r jobRows) end(ctx context.Context, j Job, wait time.Duration) error {
	text := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), 20_000)], "?") } // a TEXT has 64 KB
	// Made again, as the answer may have been lost: the row says so itself then. A job
	// that was cancelled since its last beat is begun at once, as Cancel wants it to be.
	return r.change(ctx, `UPDATE podworks_move_jobs SET state = ?, tries = ?, last_error = ?, found = ?, due_at = IF(stop > ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND), noted_at = UTC_TIMESTAMP(6),
		finished_at = IF(?, UTC_TIMESTAMP(6), NULL), active = IF(?, NULL, active) WHERE id = ? AND claim = ? AND state = 'running'`,
		string(j.State), j.Tries, text(j.Error), text(j.found), j.stop, wait.Microseconds(), j.Ended(), j.Ended(), j.ID, j.claim)
}

// change makes a change of a job that is still the caller's.
func (r jobRows) change(ctx context.Context, query string, args ...any) error {
	res, err := r.db.ExecContext(ctx, query, args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(errNotOurs, err)
	}
	return nil
}

// cancel cancels a job: at once if it waits and atOnce says so, else by whoever
// runs it or begins it next.
func (r jobRows) cancel(ctx context.Context, id uint64, atOnce bool) error {
	if atOnce {
		if _, err := r.db.ExecContext(ctx, `UPDATE podworks_move_jobs SET state = 'cancelled', active = NULL, finished_at = UTC_TIMESTAMP(6) WHERE id = ? AND state = 'waiting'`, id); err != nil {
			return err
		}
	}
	_, err := r.db.ExecContext(ctx, `UPDATE podworks_move_jobs SET stop = 1, due_at = UTC_TIMESTAMP(6) WHERE id = ? AND active IS NOT NULL`, id)
	return err
}
