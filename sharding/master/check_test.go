package master_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

func asAppUser(cfg *mysql.Config) { cfg.User = testcluster.AppUser }

// checkOf returns what Check says of two pools.
func checkOf(t testing.TB, primary, replica *sql.DB) error {
	t.Helper()
	m, err := master.New(primary, replica, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.Check(t.Context())
}

func TestCheck(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		p := sharedServers(t, f)
		pool := func(s *testcluster.MySQLServer) *sql.DB { return openPool(t, connect(t, s, "", nil)) }
		readOnly := func(s *testcluster.MySQLServer) *sql.DB { return openPool(t, master.ReadOnly(connect(t, s, "", nil))) }
		if err := checkOf(t, pool(p.primary), readOnly(p.replica)); err != nil {
			t.Errorf("Check of servers as they should be: %v", err)
		}
		if err := checkOf(t, pool(p.primary), nil); err != nil {
			t.Errorf("Check of a primary alone: %v", err)
		}

		wantErr(t, "sessions that can write", checkOf(t, pool(p.primary), pool(p.replica)), master.ErrRefused,
			"the replica: its sessions can write; open the pool with sql.OpenDB(master.ReadOnly(connector))")
		wantErr(t, "a replica that is the primary", checkOf(t, pool(p.primary), readOnly(p.primary)), master.ErrRefused,
			"the replica: it has the server_id of the primary")
		wantErr(t, "a primary that is a read-only replica", checkOf(t, pool(p.replica), pool(p.primary)), master.ErrRefused,
			"the primary: it is read-only (read_only is ON); name the primary", "the replica: its sessions can write")

		wantErr(t, "a primary with read-only sessions", checkOf(t, readOnly(p.primary), nil), master.ErrRefused,
			"the primary: its sessions are read-only; open the pool without master.ReadOnly")

		err := checkOf(t, openPool(t, connectNowhere(t)), pool(p.replica))
		wantErr(t, "no primary", err, master.ErrPrimary)
		wantErr(t, "no primary", err, master.ErrRefused, "the replica: its sessions can write")
		err = checkOf(t, pool(p.primary), openPool(t, connectNowhere(t)))
		if err == nil || errors.Is(err, master.ErrPrimary) || errors.Is(err, master.ErrRefused) {
			t.Errorf("no replica: got %v, want an error that is neither ErrPrimary nor ErrRefused", err)
		}

		plain := unnamedServer(t, f)
		wantErr(t, "no binary log", checkOf(t, pool(plain), readOnly(p.replica)), master.ErrRefused, "the primary: the binary log is off")
		if err := checkOf(t, pool(plain), nil); err != nil {
			t.Errorf("no binary log, and no replica to follow it: %v", err)
		}
		if f == testcluster.MariaDB {
			return
		}
		wantErr(t, "no GTIDs", checkOf(t, pool(plain), readOnly(plain)), master.ErrRefused,
			"the primary: gtid_mode is OFF, want ON", "the replica: gtid_mode is OFF, want ON")
		wantErr(t, "two families", checkOf(t, pool(p.primary), readOnly(sharedServers(t, testcluster.MariaDB).replica)), master.ErrRefused,
			"the replica: it runs mariadb and the primary mysql")

		db := pool(plain)
		t.Cleanup(func() { // the server is shared with the test's next run
			if _, err := db.ExecContext(context.Background(), `UNINSTALL PLUGIN group_replication`); err != nil {
				t.Error(err)
			}
		})
		for i, stmt := range []string{
			`INSTALL PLUGIN group_replication SONAME 'group_replication.so'`,
			`SET GLOBAL group_replication_group_name = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'`,
			`SET GLOBAL group_replication_single_primary_mode = OFF`,
		} {
			if _, err := db.ExecContext(t.Context(), stmt); err != nil {
				t.Fatal(err)
			}
			err := checkOf(t, db, nil)
			if i < 2 && err != nil {
				t.Errorf("after %s: %v, want no word", stmt, err)
			}
			if i == 2 {
				wantErr(t, "a multi-primary group", err, master.ErrRefused, "the primary: a multi-primary group", "switch it to single-primary mode")
			}
		}
	})
}

func TestAGaleraServerIsRefused(t *testing.T) {
	t.Parallel()
	libraries, _ := filepath.Glob("/usr/lib*/galera*/libgalera*smm.so")
	if len(libraries) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no libgalera_smm.so; it comes with Debian's mariadb-server, as package galera-4")
		}
		t.Skip("there is no libgalera_smm.so, as Debian's package galera-4 has it")
	}
	galera := testcluster.Start(t, &testcluster.MySQLOptions{Args: []string{
		"--wsrep-on=ON", "--wsrep-provider=" + libraries[0], "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1",
		"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:0;base_host=127.0.0.1;gcache.size=1M",
	}})
	db := openPool(t, connect(t, galera, "", nil))
	wantErr(t, "a Galera primary", checkOf(t, db, nil), master.ErrRefused, "the primary: a Galera cluster (wsrep_on is ON)", "use a server with one writable primary")
	other := openPool(t, connect(t, sharedServers(t, testcluster.MariaDB).primary, "", nil))
	wantErr(t, "a Galera replica", checkOf(t, other, db), master.ErrRefused, "the replica: a Galera cluster")
}
