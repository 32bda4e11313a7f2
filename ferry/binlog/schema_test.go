package binlog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// named writes rows of the world's table t with the columns' names, and the statements
// that name it. Others on the server have tables of that name, too.
func (w *world) named(events []binlog.Event) string {
	var out strings.Builder
	for _, ev := range events {
		switch ev := ev.(type) {
		case *binlog.Rows:
			if ev.Table.Database != w.name || ev.Table.Name != "t" {
				continue
			}
			for _, c := range ev.Changes {
				var parts []string
				for i, v := range c.After {
					parts = append(parts, fmt.Sprintf("%s=%v", ev.Table.Columns[i].Name, v))
				}
				fmt.Fprintf(&out, "%s\n", strings.Join(parts, " "))
			}
		case *binlog.Statement:
			if ev.Kind == binlog.Definition && ev.Database == w.name && strings.Contains(ev.Text, " t ") {
				fmt.Fprintln(&out, ev.Text)
			}
		}
	}
	return out.String()
}

const swap = `ALTER TABLE t RENAME COLUMN a TO b, RENAME COLUMN b TO a`

func TestNamesInTheLogAreThoseOfTheirTime(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world) { // these servers log names
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)`)
		at := w.now()
		w.exec(`INSERT INTO t VALUES (1, 10, 20)`, swap, `INSERT INTO t VALUES (2, 30, 40)`, `ALTER TABLE t DROP a`, `INSERT INTO t VALUES (3, 50)`, `DROP TABLE t`)
		tl := follow(t, w.stream(nil), at)
		tl.end(w)
		compare(t, w.named(tl.soFar()), `
			id=1 a=10 b=20
			`+swap+`
			id=2 b=30 a=40
			ALTER TABLE t DROP a
			id=3 b=50
`)
	})
}

// Without names in the log, a consumer that keeps up sees the right ones.
func TestNamesFollowSchemaChangesOfAStreamThatKeepsUp(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)`)
		tl := follow(t, w.stream(nil), w.now())
		seen := func(n int) {
			t.Helper()
			tl.until("a row", func(events []binlog.Event) bool { return strings.Count(w.named(events), "id=") == n })
		}
		w.exec(`INSERT INTO t VALUES (1, 10, 20)`)
		seen(1)
		w.exec(swap, `INSERT INTO t VALUES (2, 30, 40)`)
		seen(2)
		w.exec(`ALTER TABLE t ADD COLUMN c VARCHAR(9) FIRST`, `INSERT INTO t VALUES ('x', 3, 50, 60)`)
		seen(3)
		compare(t, w.named(tl.soFar()), `
			id=1 a=10 b=20
			`+swap+`
			id=2 b=30 a=40
			ALTER TABLE t ADD COLUMN c VARCHAR(9) FIRST
			c=x id=3 b=50 a=60
`)
	})
}

// A stream that is behind a schema change can't know the names, and says so:
// at once if the layouts differ, at the change if they don't.
func TestNamesThatCantBeKnownAreAnError(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, tt := range []struct {
			change string
			rows   int // delivered before the error
			says   string
		}{
			{swap, 1, "may bear wrong column names"},
			{`ALTER TABLE t ADD c INT`, 0, "rows in the log have 3 columns, information_schema has 4"},
			{`ALTER TABLE t MODIFY b BIGINT`, 0, "column 3 is a int in the log, and in information_schema the bigint b"},
			{`DROP TABLE t`, 0, "information_schema doesn't have the table"},
		} {
			w := newWorld(t, testcluster.Server(t, f))
			w.exec(`CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)`)
			at := w.now()
			w.exec(`INSERT INTO t VALUES (1, 10, 20)`, tt.change)
			tl := follow(t, w.stream(nil), at)
			err := tl.fails()
			if !errors.Is(err, binlog.ErrSchema) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "binlog_row_metadata=FULL") {
				t.Errorf("%s: got %v, want ErrSchema that says %q and what to do", tt.change, err, tt.says)
			}
			if got := strings.Count(w.named(tl.soFar()), "id="); got != tt.rows {
				t.Errorf("%s: %d rows were delivered before the error, want %d", tt.change, got, tt.rows)
			}
		}
	})
}

// Its twin: without the doubt a value has another column's name.
func TestWithoutTheDoubtAValueIsMisnamed(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, testcluster.Server(t, f))
		w.exec(`CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)`)
		at := w.now()
		w.exec(`INSERT INTO t VALUES (1, 10, 20)`, swap, `INSERT INTO t VALUES (2, 30, 40)`)
		ctx := hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{binlog.WatchNames: true}})
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var events []binlog.Event
		_ = w.stream(nil).Run(ctx, at, func(ev binlog.Event) error {
			if events = append(events, ev); strings.Count(w.named(events), "id=") == 2 {
				cancel()
			}
			return nil
		})
		if got := w.named(events); !strings.HasPrefix(got, "id=1 b=10 a=20\n") {
			t.Errorf("got\n%swant the first row with its columns' names swapped", got)
		}
	})
}

// Tables with columns that information_schema doesn't show. The hash of a unique key
// is no column of the table's.
func TestHiddenColumnsNeedNamesInTheLog(t *testing.T) {
	t.Parallel()
	s := testcluster.Server(t, testcluster.MariaDB)
	for _, named := range []bool{false, true} {
		if named {
			s = testcluster.Start(t, &testcluster.MySQLOptions{Args: []string{"--binlog-row-metadata=FULL"}})
		}
		for table, columns := range map[string]string{
			`CREATE TABLE t (id INT) WITH SYSTEM VERSIONING`: "id,row_start,row_end",
			`CREATE TABLE t (id INT, b BLOB, UNIQUE (b))`:    "id,b",
		} {
			w := newWorld(t, s)
			w.exec(table)
			at := w.now()
			w.exec(`INSERT INTO t (id) VALUES (1)`)
			tl := follow(t, w.stream(nil), at)
			if !named && columns != "id,b" {
				if err := tl.fails(); !errors.Is(err, binlog.ErrSchema) {
					t.Errorf("%s: got %v, want ErrSchema", table, err)
				}
				continue
			}
			tl.until("the row", func(events []binlog.Event) bool { return committed(events, "t") })
			for _, ev := range tl.soFar() {
				if rows, ok := ev.(*binlog.Rows); ok {
					var names []string
					for _, c := range rows.Table.Columns {
						names = append(names, c.Name)
					}
					if got := strings.Join(names, ","); got != columns {
						t.Errorf("%s: got %s, want %s", table, got, columns)
					}
				}
			}
		}
	}
}

// MariaDB's compressed columns are logged compressed.
func TestAColumnThatCantBeReadIsAnErrorIfItIsWanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Server(t, testcluster.MariaDB))
	w.exec(`CREATE TABLE t (id INT, v TEXT COMPRESSED)`)
	at := w.now()
	w.exec(`INSERT INTO t VALUES (1, REPEAT('x', 1000))`)
	if err := follow(t, w.stream(nil), at).fails(); !errors.Is(err, binlog.ErrUnsupported) || !strings.Contains(err.Error(), "COMPRESSED") {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
	others := w.stream(&binlog.Options{Tables: func(database, table string) bool { return database == w.name && table != "t" }})
	tl := follow(t, others, at)
	tl.end(w)
	if n := others.Stats().Skipped; n == 0 {
		t.Errorf("no row event was skipped")
	}
}
