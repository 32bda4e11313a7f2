package sharding_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

func TestCheckFindsWhatKeepsATableFromBeingMoved(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		check := func(ignore ...string) []string {
			t.Helper()
			problems, err := w.cluster.Check(t.Context(), ignore...)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, p := range problems {
				text, _, _ := strings.Cut(p.String(), "; ")
				out = append(out, text)
			}
			return out
		}
		if got := check(); len(got) != 0 {
			t.Errorf("a sound schema: got %q, want nothing", got)
		}
		for _, pod := range []podworks.PodID{1, 2} {
			for _, stmt := range []string{
				`CREATE TABLE schema_migrations (version BIGINT PRIMARY KEY)`,
				`CREATE TABLE order_lines (id BIGINT PRIMARY KEY, SHOP_ID BIGINT NOT NULL, KEY by_price (id, shop_id))`,
				`CREATE TABLE views (id BIGINT, shop_id BIGINT, UNIQUE KEY (shop_id, id)) ENGINE=MyISAM`,
			} {
				w.exec(pod, stmt)
			}
		}
		w.exec(1, `CREATE TABLE drafts (shop_id BIGINT PRIMARY KEY)`)
		w.exec(2, `CREATE TABLE leftovers (shop_id BIGINT PRIMARY KEY)`)
		w.exec(2, `ALTER TABLE things ADD COLUMN w INT, MODIFY v BIGINT NOT NULL, ADD KEY (v)`)
		w.exec(2, `DROP TABLE podworks_fence`)
		want := []string{
			"pod 1: table order_lines: no index begins with shop_id, so whoever reads one shop's rows, a mover for instance, reads everybody's",
			"pod 1: table views: its engine is MyISAM, which has no transactions, so the fence can't hold its writes",
			"pod 2: there is no InnoDB table podworks_fence, so no shop can write",
			"pod 2: table order_lines: no index begins with shop_id, so whoever reads one shop's rows, a mover for instance, reads everybody's",
			"pod 2: table views: its engine is MyISAM, which has no transactions, so the fence can't hold its writes",
			"pod 2: table drafts: it is not here, and in pod 1 it is",
			"pod 2: table things: column v is (bigint(20) NOT NULL), and in pod 1 it is (int(11) NOT NULL)",
			"pod 2: table things: column w is here, and in pod 1 it is not",
			"pod 2: table things: index v is here, and in pod 1 it is not",
			"pod 2: table leftovers: it is here, and in pod 1 it is not",
		}
		got := check("schema_migrations")
		for i := range got { // MySQL has no display widths any more
			got[i] = strings.ReplaceAll(strings.ReplaceAll(got[i], "bigint ", "bigint(20) "), "(int ", "(int(11) ")
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := check(); !slices.ContainsFunc(got, func(s string) bool {
			return strings.Contains(s, "table schema_migrations: it has no column shop_id")
		}) {
			t.Errorf("without ignoring it: got %q, want a word about schema_migrations", got)
		}
	})
}

// Where several servers take writes, a lock on one keeps nobody from writing to
// another.
func TestServersWithSeveralPrimariesAreRefused(t *testing.T) {
	t.Parallel()
	refused := func(w *world, want string) {
		t.Helper()
		ctx, s := w.acquire(1)
		_, err := s.DB().ExecContext(ctx, `DO 0`)
		checkIs(t, want, err, sharding.ErrRefused)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a word about %s", err, want)
		}
		problems, err := w.cluster.Check(t.Context())
		if err != nil || len(problems) != 2 || !strings.Contains(problems[0].String(), want) {
			t.Errorf("Check = %v, %v; want both pods refused because of %s", problems, err, want)
		}
	}
	t.Run("mariadb", func(t *testing.T) {
		t.Parallel()
		libraries, _ := filepath.Glob("/usr/lib*/galera*/libgalera*smm.so")
		if len(libraries) == 0 {
			if os.Getenv("CI") != "" {
				t.Fatal("there is no libgalera_smm.so; it comes with Debian's mariadb-server, as package galera-4")
			}
			t.Skip("there is no libgalera_smm.so, as Debian's package galera-4 has it")
		}
		server := testcluster.Start(t, &testcluster.MySQLOptions{Args: []string{
			"--wsrep-on=ON", "--wsrep-provider=" + libraries[0], "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1",
			"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:0;base_host=127.0.0.1;gcache.size=1M",
		}})
		refused(worldOn(t, server, nil, nil), "Galera cluster (wsrep_on is ON)")
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		server := testcluster.Start(t, &testcluster.MySQLOptions{Family: testcluster.MySQL})
		w := worldOn(t, server, &sharding.Options{MaxOpenConns: 1}, nil)
		for _, stmt := range []string{
			`INSTALL PLUGIN group_replication SONAME 'group_replication.so'`,
			`SET GLOBAL group_replication_group_name = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'`,
		} {
			w.exec(1, stmt)
		}
		if problems, err := w.cluster.Check(t.Context()); err != nil || len(problems) != 0 {
			t.Errorf("a group with one primary: Check = %v, %v; want no problem", problems, err)
		}
		w.exec(1, `SET GLOBAL group_replication_single_primary_mode = OFF`)
		other := w.newCluster(w.dir, w.connectors(), nil) // a connection that was made before stays
		w.cluster = other
		refused(w, "multi-primary group (group_replication_single_primary_mode is OFF)")
	})
}
