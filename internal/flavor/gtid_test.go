package flavor_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/testcluster"
)

const uuid, uuid2 = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "134e2f93-e63b-11f1-8b9e-02fc00000001"

func TestParseGTIDs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":              "",
		"0-1-100":       "0-1-100",
		"1-2-3,0-1-100": "0-1-100,1-2-3",
		"4294967295-4294967295-18446744073709551615": "4294967295-4294967295-18446744073709551615",
		uuid + ":1":                       uuid + ":1",
		uuid + ":1-5:7-9":                 uuid + ":1-5:7-9",
		uuid + ":1-5:tag_1:1-3:x:1":       uuid + ":1-5:tag_1:1-3:x:1",
		uuid + ":tag:2," + uuid2 + ":1-9": uuid + ":tag:2," + uuid2 + ":1-9",
	} {
		got, err := flavor.ParseGTIDs(text)
		if err != nil || got.String() != want {
			t.Errorf("ParseGTIDs(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		" ", ",", "x", "0", "0-1", "0-1-", "0-1-2-3", "-0-1-2", "0-1--2", "00-1-2", "0-1-02", "+0-1-2", "0-1-2,", "0-1-2, 1-1-2", "0-1-2,0-1-3",
		"4294967296-1-1", "0-1-18446744073709551616", "0-1-1') OR SLEEP(10) -- ", "0-1-1\n", "0-1-1,x",
		uuid, uuid + ":", uuid + ":0", uuid + ":01", uuid + ":5-5", uuid + ":5-1", uuid + ":1-", uuid + ":-1", uuid + ":tag", uuid + ":tag:x:1", uuid + ":1:tag",
		uuid + ":1,", uuid + ":1, " + uuid2 + ":1", uuid + ":1,0-1-1", strings.ToUpper(uuid) + ":1", uuid[1:] + ":1", "x" + uuid[1:] + ":1", strings.ReplaceAll(uuid, "-", "0") + ":1",
		uuid + ":TAG:1", uuid + ":" + strings.Repeat("t", 33) + ":1", uuid + ":t'g:1", uuid + ":9223372036854775808", ":1", "0:1",
	} {
		if got, err := flavor.ParseGTIDs(text); err == nil {
			t.Errorf("ParseGTIDs(%q) = %q, want an error", text, got)
		}
	}
}

func FuzzParseGTIDs(f *testing.F) {
	for _, text := range []string{"", "0-1-100,1-2-3", uuid + ":1-5:7:tag:1-3," + uuid2 + ":1", "0-1-1'"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := flavor.ParseGTIDs(text)
		if err != nil {
			if g != (flavor.GTIDs{}) {
				t.Errorf("ParseGTIDs(%q) = %q together with %v", text, g, err)
			}
			return
		}
		if strings.Trim(g.String(), "0123456789abcdefghijklmnopqrstuvwxyz_-,:") != "" {
			t.Errorf("ParseGTIDs(%q) = %q, which can't stand in a statement", text, g)
		}
		if len(g.String()) != len(text) {
			t.Errorf("ParseGTIDs(%q) = %q, want the same or another order", text, g)
		}
		again, err := flavor.ParseGTIDs(g.String())
		if err != nil || again != g {
			t.Errorf("ParseGTIDs(%q) = %q, and that once more %q, %v", text, g, again, err)
		}
		if merged := g.Merge(g); merged != g {
			t.Errorf("%q merged with itself is %q", g, merged)
		}
	})
}

func TestMergeGTIDs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ g, later, want string }{
		{"", "", ""},
		{"0-1-5", "", "0-1-5"},
		{"", "0-1-5", "0-1-5"},
		{"0-1-5", "0-2-7", "0-2-7"},
		{"0-2-7", "0-1-5", "0-2-7"},
		{"0-1-5,2-1-1", "1-1-9,2-1-3", "0-1-5,1-1-9,2-1-3"},
		{uuid + ":1-5", uuid + ":1-7", uuid + ":1-7"},
		{"0-1-5", uuid + ":1-7", uuid + ":1-7"},
	} {
		g, err1 := flavor.ParseGTIDs(tt.g)
		later, err2 := flavor.ParseGTIDs(tt.later)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if got := g.Merge(later); got.String() != tt.want {
			t.Errorf("%q merged with the later %q is %q, want %q", tt.g, tt.later, got, tt.want)
		}
	}
}

func exec(t *testing.T, q interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, query string) {
	t.Helper()
	if _, err := q.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestAReplicaReachesWhatWasWritten(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		ctx := t.Context()
		f := flavor.Flavor(family)
		source := testcluster.Start(t, &testcluster.MySQLOptions{Family: family, GTID: true, TCP: true})
		replica := open(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: family, GTID: true, ReplicaOf: source}))
		conn, err := open(t, source).Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if f == flavor.MySQL {
			exec(t, conn, `SET gtid_next = 'AUTOMATIC:tag_1'`) // which older servers lack; theirs is simpler
		}

		stop, start := `STOP REPLICA SQL_THREAD`, `START REPLICA SQL_THREAD`
		exec(t, conn, `CREATE DATABASE d`)
		first := written(t, conn, f)
		if ok, err := first.Reached(ctx, replica, 30*time.Second); !ok || err != nil {
			t.Fatalf("a replica that runs has reached %q: %t, %v; want it to", first, ok, err)
		}
		exec(t, replica, stop)
		exec(t, conn, `CREATE TABLE d.t (a INT)`)
		second := written(t, conn, f)
		if first == second {
			t.Fatalf("two writes are both named %q", first)
		}
		for _, wait := range []time.Duration{-1, 0, 1, 50 * time.Millisecond} {
			if ok, err := second.Reached(ctx, replica, wait); ok || err != nil {
				t.Errorf("with wait %v a stopped replica has reached %q: %t, %v; want it not to", wait, second, ok, err)
			}
			if ok, err := first.Reached(ctx, replica, wait); !ok || err != nil {
				t.Errorf("with wait %v a stopped replica has reached the earlier %q: %t, %v; want it to", wait, first, ok, err)
			}
		}
		if ok, err := (flavor.GTIDs{}).Reached(ctx, replica, 0); !ok || err != nil {
			t.Errorf("nothing has been reached: %t, %v; want it to", ok, err)
		}
		exec(t, replica, start)
		if ok, err := first.Merge(second).Reached(ctx, replica, 30*time.Second); !ok || err != nil {
			t.Errorf("a replica that runs again has reached %q: %t, %v; want it to", second, ok, err)
		}
		exec(t, replica, `SELECT * FROM d.t`)

		ended, end := context.WithCancel(ctx)
		end()
		if g, err := flavor.Written(ended, conn, f); err == nil {
			t.Errorf("Written with a context that has ended = %q, want an error", g)
		}
		if _, err := first.Reached(ended, replica, 0); err == nil {
			t.Error("Reached with a context that has ended: want an error")
		}
	})
}

func written(t *testing.T, q flavor.Queryer, f flavor.Flavor) flavor.GTIDs {
	t.Helper()
	g, err := flavor.Written(t.Context(), q, f)
	if err != nil || g.String() == "" {
		t.Fatalf("Written = %q, %v; want GTIDs", g, err)
	}
	return g
}

// On MariaDB another session's domain, and that of a session that has not
// written, are told apart.
func TestWrittenOnMariaDBIsTheSessionsOwn(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		if family != testcluster.MariaDB {
			t.Skip("MySQL names everything that was executed")
		}
		db := open(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: family}))
		own, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		exec(t, own, `SET gtid_domain_id = 3`)
		exec(t, own, `CREATE DATABASE d`)
		exec(t, db, `CREATE DATABASE e`)
		if g := written(t, own, flavor.MariaDB).String(); !strings.HasPrefix(g, "3-") || strings.Contains(g, ",") {
			t.Errorf("a session that wrote to domain 3 got %q, want that domain's GTID alone", g)
		}
		fresh, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		if g := written(t, fresh, flavor.MariaDB).String(); !strings.HasPrefix(g, "0-") {
			t.Errorf("a session that wrote nothing got %q, want the end of the log", g)
		}
	})
}

func TestAServerWithoutABinlogNamesNoWrite(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		db := open(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: family, NoBinlog: true}))
		exec(t, db, `CREATE DATABASE d`)
		g, err := flavor.Written(t.Context(), db, flavor.Flavor(family))
		if err != nil || g.String() != "" {
			t.Errorf("Written = %q, %v; want none", g, err)
		}
	})
}
