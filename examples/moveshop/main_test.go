package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
)

// The writer is this binary, as it is the program's own.
func TestMain(m *testing.M) {
	if isWriter() {
		os.Exit(runWriter(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(testcluster.Main(m))
}

func TestBadFlagsAreExplainedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want []string // all of them in one go
	}{
		{"-family oracle -rows 1", []string{`-family is "oracle", want mariadb or mysql`, "-rows is 1"}},
		{"-source root@tcp(a:3306)/shops", []string{"-source and -target belong together"}},
		{"-master root@tcp(a:3306)/shops", []string{"-source and -target belong together"}},
		{"-source root:secret@a:3306 -target root@tcp(b:3306)/", []string{"-source: ", "-target names no database"}},
		{"-source root@tcp(a)/s -target root@tcp(b)/s -rows 9 -family mysql", []string{"-rows is for our own servers", "-family is for our own servers"}},
		{"-shop 9 -write DELETE", []string{"-shop is for servers of yours", "-write is for servers of yours"}},
		{"-source root@tcp(a)/s -target root@tcp(b)/s -shop 0", []string{"-shop is 0"}},
		{"-fast", []string{"flag provided but not defined: -fast", "-help lists the flags"}},
		{"now", []string{`"now" is not a flag`}},
	} {
		var out, errs bytes.Buffer
		if got := run(strings.Fields(c.args), &out, &errs); got != exitUsage {
			t.Errorf("%s: exit status %d, want %d", c.args, got, exitUsage)
		}
		for _, want := range c.want {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%s: stderr is %q, want %q in it", c.args, errs.String(), want)
			}
		}
		if strings.Contains(errs.String(), "secret") {
			t.Errorf("%s: stderr has the password: %q", c.args, errs.String())
		}
		if out.Len() > 0 {
			t.Errorf("%s: stdout is %q, want nothing", c.args, out.String())
		}
	}
}

// The whole of a move between servers of the program's own.
func TestTheReportHasItsFieldsAndNoOthers(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var out, errs bytes.Buffer
		if got := run([]string{"-json", "-rows", "501", "-family", string(f)}, &out, &errs); got != exitFine {
			t.Fatalf("exit status %d, want %d:\n%s", got, exitFine, &errs)
		}
		var fields map[string]any
		if err := json.Unmarshal(out.Bytes(), &fields); err != nil {
			t.Fatalf("%v in %s", err, &out)
		}
		want := []string{"bytes", "copy_seconds", "differences", "rows", "rows_per_s", "seconds", "settings", "verified", "verify_seconds", "write_method", "write_pause_ms"}
		if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
			t.Errorf("the report has %q, want %q", got, want)
		}
		var r report
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Rows != 501 || !r.Verified || r.Differences != 0 {
			t.Errorf("got %d rows, verified %v, %d differences; want 501, true, 0", r.Rows, r.Verified, r.Differences)
		}
		if average := r.Bytes / r.Rows; average < 80 || average > 250 {
			t.Errorf("a row has %d bytes on average, want 80 to 250", average)
		}
		if r.Seconds <= r.CopySeconds+r.VerifySeconds || r.CopySeconds <= 0 || r.VerifySeconds <= 0 {
			t.Errorf("%v s in all, copy %v s, verify %v s: want two parts of a whole", r.Seconds, r.CopySeconds, r.VerifySeconds)
		}
		// 0: no write met the pause, which is shorter than a busy machine may keep the writer waiting.
		if r.WritePauseMS < 0 || r.WritePauseMS > 60_000 {
			t.Errorf("writers waited %v ms in a move of %v s", r.WritePauseMS, r.Seconds)
		}
		for _, side := range []string{"source", "target"} {
			for name, value := range map[string]string{"log_bin": "ON", "sync_binlog": "1", "innodb_flush_log_at_trx_commit": "1"} {
				if got := r.Settings[side][name]; got != value {
					t.Errorf("the %s says that %s is %q, want %q", side, name, got, value)
				}
			}
		}
		for _, step := range []string{"copy", "verify", "cutover", "opened"} {
			if !strings.Contains(errs.String(), "\n"+step) {
				t.Errorf("stderr has no line of the step %q:\n%s", step, &errs)
			}
		}
	})
}

// The same between servers that the flags name, for people this time.
func TestAShopOfYoursIsMoved(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		source, target := testcluster.Shared(t, f, "source"), testcluster.Shared(t, f, "target")
		from, to := source.DSN(testcluster.Database(t, source)), target.DSN(testcluster.Database(t, target))
		for dsn, rows := range map[string]int{from: 100, to: 0} {
			db, err := sql.Open("mysql", dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			mustExec(t, db, `CREATE TABLE pages (tenant BIGINT NOT NULL, id BIGINT NOT NULL, views BIGINT NOT NULL, PRIMARY KEY (tenant, id))`)
			mustExec(t, db, `CREATE TABLE countries (code CHAR(2) NOT NULL PRIMARY KEY)`)
			for id := range rows {
				mustExec(t, db, fmt.Sprintf(`INSERT INTO pages VALUES (42, %d, 0), (43, %d, 0)`, id, id))
			}
		}
		var out, errs bytes.Buffer
		args := []string{"-source", from, "-target", to, "-shop", "42", "-column", "tenant", "-ignore", "countries",
			"-write", "UPDATE pages SET views = views + 1 WHERE tenant = 42 AND id = 1"}
		if got := run(args, &out, &errs); got != exitFine {
			t.Fatalf("exit status %d, want %d:\n%s", got, exitFine, &errs)
		}
		for _, want := range []string{"100 rows, ", "all rows are the same on both sides", "sync_binlog"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the report lacks %q:\n%s", want, &out)
			}
		}
		// A second time there is nothing to move, which is no success.
		out.Reset()
		errs.Reset()
		if got := run(args, &out, &errs); got != exitFailed || out.Len() > 0 {
			t.Errorf("a second move has exit status %d and prints %q, want %d and nothing", got, &out, exitFailed)
		}
	})
}

func TestThePauseIsTheLongestWriteThatMetTheCutover(t *testing.T) {
	t.Parallel()
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	write := func(began, ended int64, pod int) written {
		return written{Began: at(began).UnixNano(), Ended: at(ended).UnixNano(), At: pod}
	}
	writes := []written{write(0, 900, 0), write(999, 1001, 0), write(1005, 1045, 1), write(1050, 1990, 1)}
	if got, err := pause(writes, at(1000), at(1044)); err != nil || got != 40*time.Millisecond {
		t.Errorf("got %v, %v; want 40ms", got, err)
	}
	if _, err := pause(writes[:2], at(1000), at(1044)); err == nil {
		t.Error("a writer that has never come to the target is no error")
	}
}

func mustExec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}
