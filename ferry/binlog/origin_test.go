package binlog_test

import (
	"database/sql"
	"testing"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/testcluster"
)

// An application's transactions and a mover's, of two connections each, between
// each other.
func TestAMoversWritesAreToldFromTheApplications(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, image := range []string{"FULL", "MINIMAL"} {
			w := newWorld(t, testcluster.Server(t, f))
			w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
			w.exec(binlog.Schema()...)
			only := w.stream(&binlog.Options{Tables: func(database, table string) bool { return database == w.name && table != "podworks_origin" }})
			tl := follow(t, only, w.now())
			begin := func() *sql.Tx {
				tx, err := w.db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tx.Exec(`SET SESSION binlog_row_image = ` + image); err != nil {
					t.Fatal(err)
				}
				return tx
			}
			do := func(tx *sql.Tx, query string) {
				t.Helper()
				if _, err := tx.Exec(query); err != nil {
					t.Fatal(err)
				}
			}
			end := func(tx *sql.Tx) {
				t.Helper()
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			mark := func(tx *sql.Tx, token uint64) {
				t.Helper()
				if err := binlog.Mark(t.Context(), tx, 7, token); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time the marks are there already
				a, m, n := begin(), begin(), begin()
				mark(m, 3)
				mark(n, 1<<63+4)
				do(a, `INSERT INTO t VALUES (1)`)
				do(m, `INSERT INTO t VALUES (2)`)
				do(n, `INSERT INTO t VALUES (3)`)
				do(a, `INSERT INTO t VALUES (4)`)
				end(m)
				end(a)
				end(n)
				w.exec(`DELETE FROM t`)
			}
			// A mark says nothing about what came before it.
			late := begin()
			do(late, `INSERT INTO t VALUES (5)`)
			mark(late, 3)
			do(late, `INSERT INTO t VALUES (6)`)
			end(late)
			got := tl.end(w)
			once := `begin
			  insert t [2] by 7/3
			commit by 7/3
			begin
			  insert t [1]
			  insert t [4]
			commit
			begin
			  insert t [3] by 7/9223372036854775812
			commit by 7/9223372036854775812
			begin
			  delete t [1]
			  delete t [2]
			  delete t [3]
			  delete t [4]
			commit
			`
			compare(t, got, once+once+`begin
			  insert t [5]
			  insert t [6] by 7/3
			commit by 7/3
`)
		}
		tx, err := open(t, testcluster.Server(t, f), "").Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if err := binlog.Mark(t.Context(), tx, 7, 0); err == nil {
			t.Error("the application's token was taken for a mover's")
		}
	})
}

// Why a mark counts: a row that stays as it is leaves nothing in the log, and
// the second transaction would be taken for the application's.
func TestAMarkThatChangesNothingIsNotLogged(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY)`)
		w.exec(binlog.Schema()...)
		tl := follow(t, w.stream(&binlog.Options{Tables: func(database, table string) bool { return database == w.name && table != "podworks_origin" }}), w.now())
		for _, insert := range []string{`INSERT INTO t VALUES (1)`, `INSERT INTO t VALUES (2)`} {
			w.session(`BEGIN`, `REPLACE INTO podworks_origin VALUES (7, 3, 1, 1)`, insert, `COMMIT`)
		}
		compare(t, tl.end(w), `
			begin
			  insert t [1] by 7/3
			commit by 7/3
			begin
			  insert t [2]
			commit
`)
	})
}
