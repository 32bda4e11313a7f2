package sharding_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

const insertThing = `INSERT INTO things VALUES (1, 1, 1)`

// writers are all ways to write one thing of shop 1.
var writers = []struct {
	name  string
	write func(ctx context.Context, s *sharding.Scope) error
}{
	{"single write", func(ctx context.Context, s *sharding.Scope) error {
		_, err := s.DB().ExecContext(ctx, insertThing)
		return err
	}},
	{"single write with arguments", func(ctx context.Context, s *sharding.Scope) error {
		_, err := s.DB().ExecContext(ctx, `INSERT INTO things VALUES (?, ?, ?)`, 1, 1, 1)
		return err
	}},
	{"prepared single write", func(ctx context.Context, s *sharding.Scope) error {
		st, err := s.DB().PrepareContext(ctx, `INSERT INTO things VALUES (?, ?, ?)`)
		if err != nil {
			return err
		}
		defer st.Close()
		_, err = st.ExecContext(ctx, 1, 1, 1)
		return err
	}},
	{"transaction", func(ctx context.Context, s *sharding.Scope) error {
		tx, err := s.DB().BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, insertThing); err != nil {
			return err
		}
		return tx.Commit()
	}},
	{"serializable transaction", func(ctx context.Context, s *sharding.Scope) error {
		tx, err := s.DB().BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, insertThing); err != nil {
			return err
		}
		return tx.Commit()
	}},
	{"Scope.Tx", func(ctx context.Context, s *sharding.Scope) error {
		return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, insertThing)
			return err
		})
	}},
}

func TestWritesPassOnlyAnOpenFenceAtTheScopesEpoch(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MoveWait: 1, MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		for _, c := range []struct {
			name string
			row  *fence.Row // nil: none
			want error
		}{
			{"open", &fence.Row{Shop: 1, State: fence.Open, Epoch: 1}, nil},
			{"open under a token", &fence.Row{Shop: 1, State: fence.Open, Epoch: 1, Token: 7}, nil},
			{"open at a later epoch", &fence.Row{Shop: 1, State: fence.Open, Epoch: 2}, sharding.ErrMoved},
			{"open at an earlier epoch", &fence.Row{Shop: 1, State: fence.Open, Epoch: 0}, sharding.ErrMoved},
			{"moved", &fence.Row{Shop: 1, State: fence.Moved, Epoch: 1, Destination: 2, Token: 7}, sharding.ErrMoved},
			{"incoming", &fence.Row{Shop: 1, State: fence.Incoming, Token: 7}, sharding.ErrMoved},
			{"incoming at the epoch", &fence.Row{Shop: 1, State: fence.Incoming, Epoch: 1, Token: 7}, sharding.ErrMoved},
			{"absent", &fence.Row{Shop: 1, State: fence.Absent, Token: 7}, sharding.ErrMoved},
			{"no row", nil, sharding.ErrMoved},
		} {
			w.exec(1, `DELETE FROM podworks_fence WHERE shop_id = 1`)
			if c.row != nil {
				w.setFence(1, *c.row)
			}
			for _, wr := range writers {
				w.exec(1, `DELETE FROM things`)
				err := wr.write(ctx, s)
				if !errors.Is(err, c.want) {
					t.Errorf("fence %s, %s: got %v, want %v", c.name, wr.name, err, c.want)
				}
				want := 1
				if c.want != nil {
					want = 0
					var e *sharding.Error
					if !errors.As(err, &e) || e.Shop != 1 || e.Pod != 1 {
						t.Errorf("fence %s, %s: got %#v, want an Error about shop 1 in pod 1", c.name, wr.name, err)
					}
				}
				if got := w.count(1, 1); got != want {
					t.Errorf("fence %s, %s: %d things were written, want %d", c.name, wr.name, got, want)
				}
			}
			// Reads, and transactions that only read, never ask.
			var n int
			if err := s.DB().QueryRowContext(ctx, `SELECT COUNT(*) FROM things WHERE v = ?`, 1).Scan(&n); err != nil {
				t.Errorf("fence %s: read: %v", c.name, err)
			}
			if err := readOnly(ctx, s.DB(), func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n) }); err != nil {
				t.Errorf("fence %s: read-only transaction: %v", c.name, err)
			}
		}
	})
}

// readOnly runs fn in a read-only transaction.
func readOnly(ctx context.Context, db *sql.DB, fn func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// A shared lock on a row that isn't there locks the gap, and would keep a mover
// from making the row.
func TestARefusedWriteLeavesNoLock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		w.exec(1, `DELETE FROM podworks_fence`)
		for range 3 {
			_, err := s.DB().BeginTx(ctx, nil)
			checkIs(t, "BeginTx without a fence row", err, sharding.ErrMoved)
		}
		c, err := w.plain[1].Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, q := range []string{
			`SET SESSION innodb_lock_wait_timeout = 1`,
			`INSERT INTO podworks_fence (shop_id, epoch, state, destination, token) VALUES (1, 0, 'incoming', 0, 1), (2, 0, 'absent', 0, 0)`,
		} {
			if _, err := c.ExecContext(t.Context(), q); err != nil {
				t.Errorf("%s: %v", q, err)
			}
		}
	})
}

// The servers count what they are asked. Each case runs on a plain pool and on
// a pod's, both of one connection, and the difference is what the fence costs.
func TestStatementsTheFenceAdds(t *testing.T) {
	t.Parallel()
	inTx := func(opts *sql.TxOptions, commit bool) func(context.Context, *sql.DB) error {
		return func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, opts)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			query := `UPDATE things SET v = v + 1 WHERE shop_id = 1 AND id = 1`
			if opts != nil && opts.ReadOnly {
				query = `SELECT * FROM things`
			}
			for range 3 {
				if _, err := tx.ExecContext(ctx, query); err != nil {
					return err
				}
			}
			if !commit {
				return tx.Rollback()
			}
			return tx.Commit()
		}
	}
	cases := []struct {
		name string
		want int
		run  func(context.Context, *sql.DB) error
	}{
		{"read", 0, func(ctx context.Context, db *sql.DB) error {
			var n int
			return db.QueryRowContext(ctx, `SELECT COUNT(*) FROM things`).Scan(&n)
		}},
		{"read with arguments", 0, func(ctx context.Context, db *sql.DB) error {
			var n int
			return db.QueryRowContext(ctx, `SELECT COUNT(*) FROM things WHERE v = ?`, 1).Scan(&n)
		}},
		{"read by Exec", 0, func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `SELECT 1`)
			return err
		}},
		{"SET", 0, func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `SET @a = 1`)
			return err
		}},
		{"single write", 3, func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `UPDATE things SET v = v + 1`)
			return err
		}},
		{"single write with arguments", 3, func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `UPDATE things SET v = v + ?`, 1)
			return err
		}},
		{"single write that fails", 3, func(ctx context.Context, db *sql.DB) error {
			if _, err := db.ExecContext(ctx, `INSERT INTO things VALUES (1, NULL, 1)`); err == nil {
				return errors.New("it did not fail")
			}
			return nil
		}},
		{"transaction", 1, inTx(nil, true)},
		{"transaction with an isolation level", 1, inTx(&sql.TxOptions{Isolation: sql.LevelReadCommitted}, true)},
		{"rolled back transaction", 1, inTx(nil, false)},
		{"read-only transaction", 0, inTx(&sql.TxOptions{ReadOnly: true}, true)},
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		plain := w.open(w.names[1])
		plain.SetMaxOpenConns(1)
		statements := func(db *sql.DB, run func(context.Context, *sql.DB) error) int {
			t.Helper()
			before := questions(ctx, t, db)
			if err := run(ctx, db); err != nil {
				t.Error(err)
			}
			return questions(ctx, t, db) - before
		}
		for _, c := range cases {
			if got := statements(s.DB(), c.run) - statements(plain, c.run); got != c.want {
				t.Errorf("%s: the fence added %d statements, want %d", c.name, got, c.want)
			}
		}
		// Scope.Tx costs no more than a plain transaction on the same pool.
		scoped := statements(s.DB(), func(ctx context.Context, _ *sql.DB) error {
			return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				for range 3 {
					if _, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = 1 AND id = 1`); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if got := scoped - statements(plain, inTx(nil, true)); got != 1 {
			t.Errorf("Scope.Tx: the fence added %d statements, want 1", got)
		}
	})
}

// questions returns how many statements the session of db, which has one
// connection, has sent.
func questions(ctx context.Context, t *testing.T, db *sql.DB) int {
	t.Helper()
	var name string
	var n int
	if err := db.QueryRowContext(ctx, `SHOW SESSION STATUS LIKE 'Questions'`).Scan(&name, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatWouldLoseTheLockIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		w.exec(1, `CREATE PROCEDURE commits() BEGIN INSERT INTO things VALUES (1, 100, 1); COMMIT; INSERT INTO things VALUES (1, 101, 1); END`)
		ctx, s := w.acquire(1)
		for _, query := range []string{
			`XA START 'a'`, `XA END 'a'`, `XA PREPARE 'a'`, `XA COMMIT 'a'`, `XA RECOVER`,
			`CREATE TABLE t2 (a INT)`, `ALTER TABLE things ADD b INT`, `DROP TABLE things`, `RENAME TABLE things TO thongs`, `TRUNCATE things`, `TRUNCATE TABLE things`,
			`LOCK TABLES things WRITE`, `UNLOCK TABLES`, `FLUSH TABLES`,
			`COMMIT`, `ROLLBACK`, `BEGIN`, `START TRANSACTION READ WRITE`, `/* hidden */ COMMIT`, `/*! COMMIT */`, "-- hidden\nCOMMIT",
			`SET autocommit = 0`, `SET SESSION TRANSACTION READ WRITE`, `SET STATEMENT max_statement_time = 1 FOR COMMIT`,
			`BEGIN NOT ATOMIC COMMIT; START TRANSACTION READ WRITE; INSERT INTO things VALUES (1, 102, 1); COMMIT; END`,
			`IF 1 THEN COMMIT; START TRANSACTION READ WRITE; INSERT INTO things VALUES (1, 103, 1); COMMIT; END IF`,
			`EXECUTE IMMEDIATE 'COMMIT'`, `PREPARE p FROM 'COMMIT'`, `CALL commits()`, `USE mysql`,
		} {
			_, err := s.DB().ExecContext(ctx, query)
			checkIs(t, "Exec of "+query, err, sharding.ErrRefused)
			_, err = s.DB().QueryContext(ctx, query)
			checkIs(t, "Query of "+query, err, sharding.ErrRefused)
			_, err = s.DB().PrepareContext(ctx, query)
			checkIs(t, "Prepare of "+query, err, sharding.ErrRefused)
			var e *sharding.Error
			if !errors.As(err, &e) || e.Shop != 1 || e.Pod != 1 {
				t.Errorf("%s: got %#v, want an Error about shop 1 in pod 1", query, err)
			}

			// A transaction that tried is none the worse.
			rolledBack := errors.New("rolled back")
			err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				if _, err := tx.ExecContext(ctx, insertThing); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, query)
				checkIs(t, "Exec in a transaction of "+query, err, sharding.ErrRefused)
				_, err = tx.QueryContext(ctx, query)
				checkIs(t, "Query in a transaction of "+query, err, sharding.ErrRefused)
				_, err = tx.PrepareContext(ctx, query)
				checkIs(t, "Prepare in a transaction of "+query, err, sharding.ErrRefused)
				if _, err := tx.ExecContext(ctx, `UPDATE things SET v = 2`); err != nil {
					return err
				}
				return rolledBack
			})
			checkIs(t, "the transaction with "+query, err, rolledBack)
		}
		w.wantCount(1, 1, 0)

		_, err := s.DB().ExecContext(ctx, `TRUNCATE `+strings.Repeat("x", 1000))
		if err == nil || len(err.Error()) > 600 {
			t.Errorf("the refusal of a long statement has %d bytes, want it cut", len(err.Error()))
		}
	})
}

func TestWhatKeepsTheLockIsAllowed(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			for _, query := range []string{
				insertThing,
				`SAVEPOINT a`,
				`INSERT INTO things VALUES (1, 2, 1)`,
				`ROLLBACK TO SAVEPOINT a`,
				`INSERT INTO things VALUES (1, 3, 1)`,
				`RELEASE SAVEPOINT a`,
				`CREATE TEMPORARY TABLE scratch (a INT)`,
				`INSERT INTO scratch VALUES (1)`,
				`DROP TEMPORARY TABLE scratch`,
				`SET @a = 1`, `DO 0`, `SHOW TABLES`, `(SELECT 1)`, `SET SESSION innodb_lock_wait_timeout = 50`,
			} {
				if _, err := tx.ExecContext(ctx, query); err != nil {
					return fmt.Errorf("%s: %w", query, err)
				}
			}
			if held := w.tryLock(1, 1); held != "held" {
				t.Errorf("after all that the fence's lock is %s, want held", held)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		w.wantCount(1, 1, 2)
		if held := w.tryLock(1, 1); held != "free" {
			t.Errorf("after the commit the fence's lock is %s, want free", held)
		}
	})
}

// tryLock tells whether someone holds a lock on the shop's fence row.
func (w *world) tryLock(pod, shop int64) string {
	w.t.Helper()
	var n int64
	err := w.plain[1].QueryRowContext(w.t.Context(), `SELECT shop_id FROM podworks_fence WHERE shop_id = ? FOR UPDATE NOWAIT`, shop).Scan(&n)
	var e *mysql.MySQLError
	switch {
	case err == nil:
		return "free"
	case errors.As(err, &e) && (e.Number == 3572 || e.Number == 1205):
		return "held"
	}
	w.t.Fatal(err)
	return ""
}

// The text of a statement doesn't tell everything. What writes without looking
// like it is refused by the server, because a session is read-only outside of
// fenced transactions, and stays so whatever happens in it.
func TestTheServerRefusesWhatTheTextHides(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		w.exec(1, `SET GLOBAL log_bin_trust_function_creators = 1`)
		w.exec(1, `CREATE FUNCTION writes(n INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO things VALUES (1, n, 1); RETURN n; END`)
		ctx, s := w.acquire(1)
		db := s.DB()
		sneaky := []string{`SELECT writes(100)`, `DO writes(101)`, `SET @a = writes(102)`, `SELECT * FROM things FOR UPDATE`, `(SELECT writes(103))`}
		if f == testcluster.MySQL {
			sneaky = append(sneaky, `WITH x AS (SELECT 1) UPDATE things SET v = 2`, `WITH x AS (SELECT 1) DELETE FROM things`)
		} else {
			sneaky = append(sneaky, `INSERT INTO things VALUES (1, 104, 1) RETURNING id`)
		}
		refused := func(when string) {
			t.Helper()
			for _, query := range sneaky {
				rows, err := db.QueryContext(ctx, query)
				if err == nil {
					for rows.Next() {
					}
					err = errors.Join(rows.Err(), rows.Close())
				}
				checkIs(t, when+": Query of "+query, err, sharding.ErrRefused)
				st, err := db.PrepareContext(ctx, query)
				if err == nil {
					_, err = st.ExecContext(ctx)
					st.Close()
				}
				if !strings.HasPrefix(query, "INSERT") { // which Exec and Prepare fence
					checkIs(t, when+": prepared "+query, err, sharding.ErrRefused)
					_, err = db.ExecContext(ctx, query)
					checkIs(t, when+": Exec of "+query, err, sharding.ErrRefused)
				}
				err = readOnly(ctx, db, func(tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, query)
					return err
				})
				checkIs(t, when+": read-only transaction with "+query, err, sharding.ErrRefused)
			}
			w.exec(1, `DELETE FROM things WHERE id = 104`)
		}
		w.exec(1, `INSERT INTO things VALUES (1, 1, 1)`)
		refused("in a new session")

		boom := errors.New("boom")
		for _, c := range []struct {
			when string
			do   func() error
			want error
		}{
			{"after a commit", func() error {
				return s.Tx(ctx, func(context.Context, *sharding.Tx) error { return nil })
			}, nil},
			{"after a rollback", func() error {
				return s.Tx(ctx, func(context.Context, *sharding.Tx) error { return boom })
			}, boom},
			{"after a single write", func() error {
				_, err := db.ExecContext(ctx, `UPDATE things SET v = 1`)
				return err
			}, nil},
			{"after a refused write", func() error {
				w.exec(1, `UPDATE podworks_fence SET epoch = 9 WHERE shop_id = 1`)
				defer w.exec(1, `UPDATE podworks_fence SET epoch = 1 WHERE shop_id = 1`)
				_, err := db.ExecContext(ctx, `UPDATE things SET v = 1`)
				return err
			}, sharding.ErrMoved},
			{"after a prepared write", func() error {
				st, err := db.PrepareContext(ctx, `UPDATE things SET v = 1`)
				if err == nil {
					err = st.Close()
				}
				return err
			}, nil},
			{"after a cancelled transaction", func() error {
				cancelled, cancel := context.WithCancel(ctx)
				return s.Tx(cancelled, func(ctx context.Context, tx *sharding.Tx) error {
					_, err := tx.ExecContext(ctx, `UPDATE things SET v = 1`)
					cancel()
					return err
				})
			}, context.Canceled},
			{"after a read-only transaction", func() error {
				return readOnly(ctx, db, func(*sql.Tx) error { return nil })
			}, nil},
		} {
			checkIs(t, c.when, c.do(), c.want)
			refused(c.when)
		}

		// In a fenced transaction they may write.
		err := s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			var n int
			return tx.QueryRowContext(ctx, `SELECT writes(200)`).Scan(&n)
		})
		checkIs(t, "a function that writes, in Scope.Tx", err, nil)
		w.wantCount(1, 1, 2)
	})
}

// The connector rests on these answers of the servers, without which losing the
// lock would not be noticed.
func TestAReadOnlySessionWritesOnlyInAReadWriteTransaction(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx := t.Context()
		w.exec(1, `CREATE PROCEDURE commits() BEGIN INSERT INTO things VALUES (1, 1, 1); COMMIT; INSERT INTO things VALUES (1, 2, 1); END`)
		session := func(fn func(exec func(query string) error)) {
			t.Helper()
			c, err := w.plain[1].Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			exec := func(query string) error {
				_, err := c.ExecContext(ctx, query)
				return err
			}
			if err := exec(`SET SESSION TRANSACTION READ ONLY`); err != nil {
				t.Fatal(err)
			}
			fn(exec)
			_ = exec(`ROLLBACK`)
			if err := exec(`SET SESSION TRANSACTION READ WRITE`); err != nil {
				t.Error(err)
			}
		}
		refused := func(what string, err error) {
			t.Helper()
			var e *mysql.MySQLError
			if !errors.As(err, &e) || e.Number != 1792 {
				t.Errorf("%s: got %v, want error 1792", what, err)
			}
		}
		ddl := []string{`CREATE TABLE t2 (a INT)`, `ALTER TABLE things ADD b INT`, `TRUNCATE things`, `DROP TABLE things`, `RENAME TABLE things TO thongs`, `LOCK TABLES things WRITE`, `CREATE TEMPORARY TABLE t3 (a INT)`}
		for _, query := range append(ddl, insertThing) {
			session(func(exec func(string) error) { refused(query, exec(query)) })
		}
		// What commits implicitly leaves a read-only session behind.
		for _, end := range []string{`COMMIT`, `ROLLBACK`, `ANALYZE TABLE things`, `FLUSH TABLES`, `CREATE TABLE t4 (a INT)`} {
			session(func(exec func(string) error) {
				checkIs(t, "START TRANSACTION READ WRITE", exec(`START TRANSACTION READ WRITE`), nil)
				_ = exec(end)
				refused("a write after "+end, exec(insertThing))
			})
		}
		session(func(exec func(string) error) {
			checkIs(t, "START TRANSACTION READ WRITE", exec(`START TRANSACTION READ WRITE`), nil)
			refused("a write after a procedure's COMMIT", exec(`CALL commits()`))
		})
		w.wantCount(1, 1, 1) // the procedure's first

		// Why CALL is refused: this one writes without the lock on MySQL. When that
		// ends, so may the refusal.
		w.exec(1, `CREATE PROCEDURE starts() BEGIN START TRANSACTION; INSERT INTO things VALUES (1, 3, 1); COMMIT; END`)
		session(func(exec func(string) error) {
			checkIs(t, "START TRANSACTION READ WRITE", exec(`START TRANSACTION READ WRITE`), nil)
			err := exec(`CALL starts()`)
			if f == testcluster.MySQL {
				checkIs(t, "a write after a procedure's START TRANSACTION", err, nil)
			} else {
				refused("a write after a procedure's START TRANSACTION", err)
			}
		})
	})
}

// After a deadlock the server has rolled everything back, lock and all, and the
// session commits what comes next one by one, without the lock. A caller that
// overlooks the error must not be told that it committed, nor write any more.
func TestATransactionThatTheServerEndedDoesNotGoOn(t *testing.T) {
	t.Parallel()
	victims := []struct {
		name string
		run  func(ctx context.Context, tx *sharding.Tx) error
	}{
		{"Exec", func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = 9`)
			return err
		}},
		{"prepared Exec", func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + ? WHERE shop_id = 9`, 1)
			return err
		}},
		{"QueryRow", func(ctx context.Context, tx *sharding.Tx) error {
			var n int
			return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM things WHERE shop_id = 9 FOR UPDATE`).Scan(&n)
		}},
		// The first row comes before the deadlock.
		{"Query", func(ctx context.Context, tx *sharding.Tx) error {
			rows, err := tx.QueryContext(ctx, `SELECT v FROM things WHERE shop_id = 9 ORDER BY id FOR UPDATE`)
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return errors.Join(rows.Err(), rows.Close())
		}},
		{"prepared Query that is closed early", func(ctx context.Context, tx *sharding.Tx) error {
			rows, err := tx.QueryContext(ctx, `SELECT v FROM things WHERE shop_id = ? ORDER BY id FOR UPDATE`, 9)
			if err != nil {
				return err
			}
			rows.Next()
			return rows.Close()
		}},
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, &sharding.Options{MaxOpenConns: 1}, nil)
		ctx, s := w.acquire(1)
		for _, v := range victims {
			w.exec(1, `DELETE FROM things`)
			w.exec(1, `INSERT INTO things VALUES (9, 1, 0), (9, 2, 0), (9, 3, 0), (8, 1, 0), (8, 2, 0), (8, 3, 0), (8, 4, 0), (8, 5, 0)`)
			// The other one has done more, so the servers don't choose it.
			other, err := w.plain[1].BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range []string{`UPDATE things SET v = 1 WHERE shop_id = 8`, `UPDATE things SET v = 1 WHERE shop_id = 9 AND id = 2`} {
				if _, err := other.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			var overlooked, next error
			held, ended := make(chan struct{}), make(chan error)
			go func() {
				ended <- s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
					_, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (1, 1, 1)`)
					if err == nil {
						_, err = tx.ExecContext(ctx, `SELECT * FROM things WHERE shop_id = 9 AND id = 3 FOR UPDATE`)
					}
					close(held)
					if err != nil {
						return err
					}
					overlooked = v.run(ctx, tx)
					_, next = tx.ExecContext(ctx, `INSERT INTO things VALUES (1, 77, 1)`)
					return nil
				})
			}()
			<-held
			if _, err := other.ExecContext(t.Context(), `UPDATE things SET v = 1 WHERE shop_id = 9 AND id = 3`); err != nil {
				t.Errorf("%s: the other one: %v", v.name, err)
			}
			if err := other.Commit(); err != nil {
				t.Errorf("%s: the other one: %v", v.name, err)
			}
			err = <-ended
			var e *mysql.MySQLError
			if !errors.As(err, &e) || e.Number != 1213 {
				t.Errorf("%s: the victim's transaction ended with %v, want error 1213 (its statement saw %v)", v.name, err, overlooked)
			}
			checkIs(t, v.name+": the victim's next write", next, sharding.ErrRefused)
			w.wantCount(1, 1, 0)
			_, err = s.DB().QueryContext(ctx, `SELECT * FROM things FOR UPDATE`)
			checkIs(t, v.name+": afterwards the session is read-only again", err, sharding.ErrRefused)
		}
	})
}

// Errors that end only their statement leave the lock where it was.
func TestAFailedStatementLeavesTheLock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		w.exec(1, `INSERT INTO things VALUES (9, 1, 0)`)
		other, err := w.plain[1].BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Rollback()
		const row = `UPDATE things SET v = 1 WHERE shop_id = 9 AND id = 1`
		if _, err := other.ExecContext(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		err = s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			var id int64
			if err := tx.QueryRowContext(ctx, `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
				return err
			}
			for _, c := range []struct {
				query string
				want  []uint16
			}{
				{insertThing, nil},
				{insertThing, []uint16{1062}}, // duplicate key
				{`INSERT INTO nothing VALUES (1)`, []uint16{1146}},
				{`INSERT INTO`, []uint16{1064}},
				{`SELECT * FROM things WHERE shop_id = 9 FOR UPDATE NOWAIT`, []uint16{1205, 3572}},
				{row, []uint16{1317}}, // interrupted, see below
				{`INSERT INTO things VALUES (1, 2, 1)`, nil},
			} {
				interrupted := make(chan struct{})
				if c.query == row {
					go func() {
						defer close(interrupted)
						await(t, "the statement to interrupt", func() bool {
							var n int
							err := w.plain[1].QueryRowContext(t.Context(), `SELECT COUNT(*) FROM information_schema.processlist WHERE id = ? AND info = ?`, id, row).Scan(&n)
							return err == nil && n > 0
						})
						_, err := w.plain[1].ExecContext(t.Context(), fmt.Sprintf(`KILL QUERY %d`, id))
						checkIs(t, "KILL QUERY", err, nil)
					}()
				} else {
					close(interrupted)
				}
				_, err := tx.ExecContext(ctx, c.query)
				<-interrupted
				var e *mysql.MySQLError
				if len(c.want) == 0 {
					checkIs(t, c.query, err, nil)
				} else if !errors.As(err, &e) || !slices.Contains(c.want, e.Number) {
					t.Errorf("%s: got %v, want error %d", c.query, err, c.want)
				}
				if got := w.tryLock(1, 1); got != "held" {
					t.Errorf("after %s the lock is %s, want held", c.query, got)
				}
			}
			return nil
		})
		checkIs(t, "the transaction", err, nil)
		w.wantCount(1, 1, 2)
	})
}

// Some libraries look at an error's type, without errors.As.
func TestTheServersErrorsComeOutAsTheyWent(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx, s := w.acquire(1)
		w.exec(1, insertThing)
		for _, wr := range writers {
			err := wr.write(ctx, s)
			if e, ok := err.(*mysql.MySQLError); !ok || e.Number != 1062 {
				t.Errorf("%s: got %T %v, want the driver's own error 1062", wr.name, err, err)
			}
		}
	})
}
