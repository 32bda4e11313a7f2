package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// Each of these is made, refused, and unmade again, in one world a family.
// Statements are separated by semicolons; tables that they create are dropped
// by the test.
var refusals = []struct {
	name                   string
	shop                   podworks.ShopID // default the world's
	to                     podworks.PodID  // default 2
	only                   testcluster.Family
	both, source, target   string
	undoSource, undoTarget string
	says                   []string
}{
	{name: "unknown shop", shop: 999, says: []string{"unknown shop 999", "no such shop"}},
	{name: "pod unknown to the ferry", to: 9, says: []string{"pod 9 is unknown to this ferry", "give New its configuration"}},
	{name: "pod unknown to the directory", to: 5, says: []string{"unknown pod 5", "the directory has no such pod", "add it first"}},
	{name: "pod it is in", to: 1, says: []string{"the shop is in pod 1 already", "choose another one"}},
	{name: "pod that is the same database", to: 4, says: []string{"pods 1 and 4 are one database", "give each its own"}},

	{
		name: "table that no rule covers",
		both: `CREATE TABLE coupons (code CHAR(9) PRIMARY KEY); CREATE TABLE stamps (id INT PRIMARY KEY)`,
		says: []string{"no column shop_id and no rule for: coupons, stamps", "add the column, or name the tables in Options.Ignore"},
	},
	{
		name:       "rows on the target",
		target:     `INSERT INTO products VALUES (7, 1, 'left behind', 1, 1), (7, 2, 'left behind', 1, 1)`,
		undoTarget: `DELETE FROM products`,
		says:       []string{"pod 2, table products: 2 rows of shop 7 are there already", "Clean removes them"},
	},
	{
		name:       "fence not open on the source",
		source:     `UPDATE podworks_fence SET epoch = 5 WHERE shop_id = 7`,
		undoSource: `UPDATE podworks_fence SET epoch = 1 WHERE shop_id = 7`,
		says:       []string{"the directory says open at epoch 1, the fence says shop 7: open, epoch 5", "recover"},
	},
	{
		name:       "no fence on the source",
		source:     `DELETE FROM podworks_fence WHERE shop_id = 7`,
		undoSource: `INSERT INTO podworks_fence VALUES (7, 1, 'open', 0, 0)`,
		says:       []string{"pod 1: the shop has no row in podworks_fence", "open it there"},
	},
	{
		name:       "fence open on the target",
		target:     `INSERT INTO podworks_fence VALUES (7, 3, 'open', 0, 0)`,
		undoTarget: `DELETE FROM podworks_fence`,
		says:       []string{"the directory says the shop is in pod 1, but here its fence is open"},
	},
	{
		name:       "ferry's tables missing",
		target:     `RENAME TABLE podworks_ferry_tail TO podworks_hidden`,
		undoTarget: `RENAME TABLE podworks_hidden TO podworks_ferry_tail`,
		says:       []string{"pod 2: a table of ferry's is missing", "run Migrate"},
	},
	{
		name:       "marker table missing",
		source:     `RENAME TABLE podworks_marker TO podworks_hidden`,
		undoSource: `RENAME TABLE podworks_hidden TO podworks_marker`,
		says:       []string{"pod 1: a table of ferry's is missing", "run Migrate"},
	},
	{
		name:       "fence table missing",
		target:     `RENAME TABLE podworks_fence TO podworks_hidden`,
		undoTarget: `RENAME TABLE podworks_hidden TO podworks_fence`,
		says:       []string{"pod 2: there is no table podworks_fence", "run Migrate"},
	},

	{
		name:   "column of another type",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(10), PRIMARY KEY (shop_id, id))`,
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(9), PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd: column v: the type is varchar(10) on pod 1 and varchar(9) on pod 2; in pod 2: ALTER TABLE `odd` MODIFY COLUMN `v` varchar(10)"},
	},
	{
		name:   "column of another collation",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(10) COLLATE utf8mb4_bin, PRIMARY KEY (shop_id, id))`,
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(10) COLLATE utf8mb4_unicode_ci, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd: column v: the collation is utf8mb4_bin on pod 1 and utf8mb4_unicode_ci on pod 2"},
	},
	{
		name:   "column that may be NULL, column missing, columns in another order",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, a INT, b CHAR(1), c INT, PRIMARY KEY (shop_id, id))`,
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, b CHAR(1), a INT NOT NULL, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd: column c is on pod 1 only", "column a: the nullability is NULL on pod 1 and NOT NULL on pod 2", "the columns' order is shop_id, id, a, b on pod 1 and shop_id, id, b, a on pod 2"},
	},
	{
		name:   "column on the target only",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id))`,
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, extra INT, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd: column extra is on pod 2 only; in pod 2: ALTER TABLE `odd` DROP COLUMN `extra`, or add it in pod 1"},
	},
	{
		name:   "another generated column",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, g INT AS (id + 1) STORED, PRIMARY KEY (shop_id, id))`,
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, g INT AS (id + 2) STORED, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd: column g: the generated value is "},
	},
	{
		name:   "unique key missing on the target",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, u INT, PRIMARY KEY (shop_id, id), UNIQUE KEY once (shop_id, u))`,
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, u INT, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd: UNIQUE KEY (`shop_id`,`u`) is on pod 1 only; in pod 2: ALTER TABLE `odd` ADD UNIQUE KEY `once` (`shop_id`,`u`)"},
	},
	{
		name:   "table missing on the target",
		source: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd is missing on pod 2; create it there"},
	},
	{
		name:   "table on the target only",
		target: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id))`,
		says:   []string{"table odd is on pod 2 only; make the schemas equal"},
	},

	{
		name: "shop columns that can't hold what the shop is called",
		both: `CREATE TABLE odd_date (shop_id DATE NOT NULL, id INT NOT NULL PRIMARY KEY);
			CREATE TABLE odd_bytes (shop_id BINARY(16) NOT NULL, id INT NOT NULL PRIMARY KEY)`,
		says: []string{
			"table odd_date: column shop_id is date, want an integer, char, varchar, binary, varbinary or uuid",
			"table odd_bytes: column shop_id is binary(16), and the shop is called 7; Options.Tenant must return a string or bytes",
		},
	},
	{
		name: "engine without transactions",
		both: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id)) ENGINE=MyISAM`,
		says: []string{"pod 1, table odd: the engine is MyISAM, want InnoDB", "pod 2, table odd: the engine is MyISAM"},
	},
	{
		name: "foreign keys that write what can't be written again",
		only: testcluster.MariaDB, // MySQL logs it
		both: `CREATE TABLE parent (shop_id INT NULL, id INT NOT NULL PRIMARY KEY, v INT NOT NULL, f FLOAT NOT NULL, KEY (shop_id, id), KEY (v), KEY (f));
			CREATE TABLE child (shop_id INT NULL, id INT NOT NULL PRIMARY KEY, p INT, f FLOAT,
				CONSTRAINT nobodys FOREIGN KEY (shop_id, p) REFERENCES parent (shop_id, id) ON DELETE SET NULL,
				CONSTRAINT floats FOREIGN KEY (f) REFERENCES parent (f) ON DELETE CASCADE);
			CREATE TABLE other_child (shop_id INT NOT NULL, id INT NOT NULL PRIMARY KEY, p INT,
				CONSTRAINT whose FOREIGN KEY (shop_id) REFERENCES parent (v) ON UPDATE CASCADE);
			ALTER TABLE countries ADD CONSTRAINT up FOREIGN KEY (code) REFERENCES countries (code) ON DELETE CASCADE;
			CREATE TABLE living (shop_id INT NOT NULL, id INT NOT NULL PRIMARY KEY, code CHAR(2) NOT NULL,
				CONSTRAINT far FOREIGN KEY (code) REFERENCES countries (code) ON DELETE CASCADE);
			CREATE TABLE oddities (shop_id INT NOT NULL, id INT NOT NULL PRIMARY KEY, p INT,
				CONSTRAINT apart FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)`,
		target:     `ALTER TABLE oddities DROP FOREIGN KEY apart`,
		undoTarget: `ALTER TABLE countries DROP FOREIGN KEY up`,
		undoSource: `ALTER TABLE countries DROP FOREIGN KEY up`,
		says: []string{
			"table child: foreign key nobodys changes without the log whose a row is",
			"table child: foreign key floats changes rows without the log, and refers to columns of parent that can't be followed",
			"table other_child: foreign key whose changes without the log whose a row is",
			"table living: foreign key far changes rows without the log when foreign key up has changed table countries, which is not moved",
			"FOREIGN KEY (`p`) REFERENCES `parent` (`id`) ON DELETE CASCADE is on pod 1 only",
		},
	},
	{
		name:       "trigger on the target",
		target:     `CREATE TRIGGER greet AFTER INSERT ON products FOR EACH ROW SET @greeted = 1`,
		undoTarget: `DROP TRIGGER greet`,
		says:       []string{"pod 2, table products: trigger greet would run again for every row that is copied"},
	},
	{
		name: "types that are not supported", only: testcluster.MariaDB,
		both: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, a VARCHAR(100) COMPRESSED, PRIMARY KEY (shop_id, id))`,
		says: []string{"table odd: column a is varchar(100) /*M!100301 COMPRESSED*/, whose values the log has compressed; declare it without COMPRESSED on both pods"},
	},
	{
		name: "table with a history", only: testcluster.MariaDB,
		both: `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id)) WITH SYSTEM VERSIONING`,
		says: []string{"table odd is system-versioned"},
	},
}

func TestBadInputIsRefusedAndNothingTouched(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.pods[4], w.pods[5] = w.pods[1], w.pods[2]
		if err := w.dir.AddPod(t.Context(), 4, "here"); err != nil {
			t.Fatal(err)
		}
		w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
		kept := map[*sql.DB][]string{w.source: w.tables(w.source), w.target: w.tables(w.target)}
		for _, r := range refusals {
			if r.only != "" && r.only != f {
				continue
			}
			t.Run(r.name, func(t *testing.T) {
				w := w.in(t)
				w.script(w.source, r.both)
				w.script(w.source, r.source)
				w.script(w.target, r.both)
				w.script(w.target, r.target)
				before := w.checksums()
				shop, to := r.shop, r.to
				if shop == 0 {
					shop = w.shop
				}
				if to == 0 {
					to = 2
				}
				_, err := w.ferry.Move(t.Context(), shop, to)
				contains(t, err, ferry.ErrRefused, r.says...)
				if t.Failed() {
					t.Log(err)
				}
				if after := w.checksums(); after != before {
					t.Errorf("something was touched: the tables had the checksums\n%s\nand have\n%s", before, after)
				}
				w.script(w.source, r.undoSource)
				w.script(w.target, r.undoTarget)
				for db, tables := range kept {
					w.dropAllBut(db, tables)
				}
				w.untouched()
			})
		}
	})
}

// checksums returns those of all tables of the three databases.
func (w *world) checksums() string {
	w.t.Helper()
	var b strings.Builder
	for _, db := range []*sql.DB{w.master, w.source, w.target} {
		for _, name := range w.tables(db) {
			var table string
			var sum sql.NullInt64
			if err := db.QueryRowContext(w.t.Context(), `CHECKSUM TABLE `+name).Scan(&table, &sum); err != nil {
				w.t.Fatal(err)
			}
			fmt.Fprintln(&b, table, sum.Int64)
		}
	}
	return b.String()
}

// in returns the world for a subtest.
func (w *world) in(t *testing.T) *world {
	c := *w
	c.t = t
	return &c
}

// untouched fails the test if anything has begun.
func (w *world) untouched() {
	w.t.Helper()
	w.stays()
	if n := w.count(w.master, `SELECT COUNT(*) FROM podworks_moves`); n != 0 {
		w.t.Errorf("the journal has %d rows, want none", n)
	}
	if n := w.count(w.target, `SELECT COUNT(*) FROM podworks_fence`); n != 0 {
		w.t.Errorf("the target's fence has %d rows, want none", n)
	}
}

func (w *world) tables(db *sql.DB) (names []string) {
	w.t.Helper()
	rows, err := db.QueryContext(w.t.Context(), `SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			w.t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

func (w *world) dropAllBut(db *sql.DB, kept []string) {
	w.t.Helper()
	conn, err := db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	is := map[string]bool{}
	for _, name := range kept {
		is[name] = true
	}
	for _, name := range w.tables(db) {
		if is[name] {
			continue
		}
		for _, stmt := range []string{`SET foreign_key_checks = 0`, `DROP TABLE ` + name, `SET foreign_key_checks = 1`} {
			if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func TestAllFaultsComeAtOnce(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `
			CREATE TABLE coupons (code CHAR(9) PRIMARY KEY);
			CREATE TABLE odd (shop_id INT NOT NULL, id VARCHAR(10) NOT NULL, PRIMARY KEY (shop_id, id)) ENGINE=MyISAM`,
			&ferry.Options{Ignore: []string{"countries", "contries"}})
		w.fill(w.shop, 20)
		w.exec(w.target, `DROP TABLE orders`)
		w.exec(w.target, `CREATE TRIGGER greet AFTER INSERT ON products FOR EACH ROW SET @greeted = 1`)
		w.sourceUser(f, `SELECT, TRIGGER`)
		_, err := w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused,
			"coupons",
			"Options.Ignore names table contries, which pod 1 doesn't have",
			"table odd: the engine is MyISAM",
			"table orders is missing on pod 2",
			"trigger greet",
			"lacks the privilege REPLICATION SLAVE",
		)
	})
}

// sourceUser makes the ferry use a user of its own on the source, with these
// privileges on the database and no other.
func (w *world) sourceUser(f testcluster.Family, privileges string) {
	w.t.Helper()
	w.pods[1] = w.user(w.source, w.pods[1], privileges)
	w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries", "contries"}})
}

// user makes a user with these privileges on the database, dropped at the end
// of the test, and returns how to connect as it.
func (w *world) user(db *sql.DB, cfg *mysql.Config, privileges string) *mysql.Config {
	w.t.Helper()
	c := cfg.Clone()
	c.User = "u_" + cfg.DBName
	w.exec(db, `CREATE USER `+c.User+`@localhost`)
	w.t.Cleanup(func() { db.ExecContext(context.WithoutCancel(w.t.Context()), `DROP USER `+c.User+`@localhost`) })
	w.exec(db, `GRANT `+privileges+` ON `+cfg.DBName+`.* TO `+c.User+`@localhost`)
	return c
}

func TestMissingPrivilegesAreRefused(t *testing.T) {
	t.Parallel()
	// What the package comment lists, apart from the database's own.
	server := map[testcluster.Family][]string{
		testcluster.MariaDB: {"REPLICATION SLAVE", "BINLOG MONITOR", "PROCESS", "CONNECTION ADMIN"},
		testcluster.MySQL:   {"REPLICATION SLAVE", "REPLICATION CLIENT", "PROCESS", "CONNECTION_ADMIN", "XA_RECOVER_ADMIN"},
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		root := map[podworks.PodID]*mysql.Config{1: w.pods[1], 2: w.pods[2]}
		w.pods[1] = w.user(w.source, root[1], "SELECT")
		w.pods[2] = w.user(w.target, root[2], "SELECT")
		one, two := w.pods[1].User+"@localhost", w.pods[2].User+"@localhost"
		refused := func(says ...string) {
			t.Helper()
			w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
			_, err := w.ferry.Move(t.Context(), w.shop, 2)
			contains(t, err, ferry.ErrRefused, says...)
			w.untouched()
		}

		var says []string
		for _, p := range server[f] {
			says = append(says, fmt.Sprintf("pod 1: user %s lacks the privilege %s on *.*; grant it", w.pods[1].User, p))
		}
		refused(append(says, fmt.Sprintf("pod 2: user %s lacks the privilege TRIGGER on `%s`.*; grant it", w.pods[2].User, root[2].DBName))...)

		// Who sees only some tables would leave the others behind.
		w.exec(w.source, `REVOKE SELECT ON `+root[1].DBName+`.* FROM `+one)
		w.exec(w.source, `GRANT SELECT, TRIGGER ON `+root[1].DBName+`.products TO `+one)
		refused(fmt.Sprintf("lacks the privilege SELECT on `%s`.*", root[1].DBName))

		w.exec(w.source, `GRANT SELECT, TRIGGER ON `+root[1].DBName+`.* TO `+one)
		w.exec(w.target, `GRANT SELECT, TRIGGER ON `+root[2].DBName+`.* TO `+two)
		w.exec(w.source, `GRANT `+strings.Join(server[f], ", ")+` ON *.* TO `+one)
		if f == testcluster.MySQL {
			refused("for table 'data_lock_waits'; grant it", "for table 'threads'; grant it")
			w.exec(w.source, `GRANT SELECT ON performance_schema.* TO `+one)
		}
		refused(
			fmt.Sprintf("pod 1: user %s can't do what the move needs", w.pods[1].User), "podworks_marker", "podworks_fence",
			fmt.Sprintf("pod 2: user %s can't do what the move needs", w.pods[2].User), "products", "podworks_ferry_tail", "podworks_ferry_copy", "podworks_origin")

		for _, table := range []string{"podworks_fence", "podworks_marker", "podworks_ferry_tail", "podworks_ferry_copy", "podworks_ferry_left", "podworks_origin"} {
			w.exec(w.source, `GRANT SELECT, INSERT, UPDATE, DELETE ON `+root[1].DBName+`.`+table+` TO `+one)
			w.exec(w.target, `GRANT SELECT, INSERT, UPDATE, DELETE ON `+root[2].DBName+`.`+table+` TO `+two)
		}
		w.exec(w.target, `GRANT DELETE ON `+root[2].DBName+`.* TO `+two)
		refused("INSERT command denied", "products", "orders")

		w.exec(w.target, `GRANT INSERT ON `+root[2].DBName+`.* TO `+two)
		refused("UPDATE command denied", "products", "orders")
		// And with all of them it goes.
		w.exec(w.target, `GRANT UPDATE ON `+root[2].DBName+`.* TO `+two)
		w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Errorf("with the privileges that the package comment lists: %v", err)
		}
	})
}

func TestServerSettingsThatLoseChangesAreRefused(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		// The servers are shared, so the test runs beside no other.
		set := func(t *testing.T, db *sql.DB, name, value, back string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), `SET GLOBAL `+name+` = `+value); err != nil {
				t.Fatalf("set %s: %v", name, err)
			}
			t.Cleanup(func() {
				if _, err := db.ExecContext(context.WithoutCancel(t.Context()), `SET GLOBAL `+name+` = `+back); err != nil {
					t.Errorf("set %s back: %v", name, err)
				}
			})
		}
		says := []string{
			"pod 1: binlog_format is MIXED, want ROW",
			"pod 1: binlog_row_image is MINIMAL, want FULL",
			"pod 2: the server is read-only; a move writes to both ends, so name the primary",
		}
		t.Run("set", func(t *testing.T) { // and set back at its end
			set(t, w.source, "binlog_format", "MIXED", "ROW")
			set(t, w.source, "binlog_row_image", "MINIMAL", "FULL")
			set(t, w.target, "read_only", "ON", "OFF")
			if f == testcluster.MySQL {
				set(t, w.target, "super_read_only", "ON", "OFF")
				set(t, w.source, "binlog_row_value_options", "PARTIAL_JSON", "''")
				set(t, w.source, "binlog_order_commits", "OFF", "ON")
				says = append(says,
					"pod 1: binlog_row_value_options is PARTIAL_JSON, want it empty",
					"pod 1: binlog_order_commits is OFF, want ON")
			}
			_, err := w.ferry.Move(t.Context(), w.shop, 2)
			contains(t, err, ferry.ErrRefused, says...)
		})
		w.untouched()
	})
}

func TestServersThatCantBeFollowedAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		unlogged := testcluster.Start(t, &testcluster.MySQLOptions{Family: f, NoBinlog: true})
		w := newWorldOn(t, unlogged, testcluster.Shared(t, f, "target"), "", nil)
		w.fill(w.shop, 20)
		_, err := w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "pod 1: the binary log is off", "start the server with log_bin")
		w.untouched()
		if f != testcluster.MySQL {
			return
		}
		w.script(w.source, `INSTALL PLUGIN group_replication SONAME 'group_replication.so';
			SET GLOBAL group_replication_group_name = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'`)
		_, err = w.ferry.Move(t.Context(), w.shop, 2)
		if err == nil || strings.Contains(err.Error(), "multi-primary") {
			t.Errorf("a group with one primary: got %v, want no word of a multi-primary group", err)
		}
		w.script(w.source, `SET GLOBAL group_replication_single_primary_mode = OFF`)
		_, err = w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "pod 1: a multi-primary group", "switch it to single-primary mode")
		w.untouched()
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
	w := newWorldOn(t, testcluster.Shared(t, testcluster.MariaDB, "source"), galera, "", nil)
	w.fill(w.shop, 20)
	_, err := w.ferry.Move(t.Context(), w.shop, 2)
	contains(t, err, ferry.ErrRefused, "pod 2: a Galera cluster (wsrep_on is ON)", "the fence needs a server with one writable primary")
	w.untouched()
}

func TestTwoFamiliesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, testcluster.Shared(t, testcluster.MariaDB, "source"), testcluster.Shared(t, testcluster.MySQL, "target"), "", nil)
	w.fill(w.shop, 20)
	_, err := w.ferry.Move(t.Context(), w.shop, 2)
	contains(t, err, ferry.ErrRefused, "pod 1 runs mariadb and pod 2 runs mysql", "both must be of one family")
	w.untouched()
}

func TestAPreparedXATransactionIsRefused(t *testing.T) {
	// Of any database of the server, so the test runs beside no other.
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 5 * time.Second, Attempts: 2})
		w.fill(w.shop, 20)
		w.fill(w.other, 20)
		db := w.open(1, "", "")
		db.SetMaxOpenConns(1)
		prepare := func() {
			w.script(db, `XA START 'x'; UPDATE products SET stock = 0 WHERE shop_id = 8 AND id = 1; XA END 'x'; XA PREPARE 'x'`)
		}
		prepare()
		_, err := w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "pod 1 has 1 prepared XA transactions, which hold no fence; end them")
		w.exec(db, `XA ROLLBACK 'x'`)
		w.untouched()

		// One that comes later is found under the lock.
		tr := &trail{at: map[string]func(){"cutover": prepare}}
		_, err = w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, nil, "1 prepared XA transactions on the source hold no fence; end them", "undone")
		w.stays()
		w.exec(db, `XA ROLLBACK 'x'`)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Errorf("when it has ended: %v", err)
		}
	})
}

func TestAPodThatDoesNotAnswerIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.MariaDB, "", nil)
	w.fill(w.shop, 20)
	w.pods[2].Addr = filepath.Join(t.TempDir(), "nobody")
	w.ferry = w.newFerry(nil)
	_, err := w.ferry.Move(t.Context(), w.shop, 2)
	contains(t, err, ferry.ErrRefused, "pod 2 can't be asked")
	w.untouched()
}

func TestAPlanSaysWhatAMoveWouldDoAndTouchesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL), (8, 1, 'b', NULL)`)
		plan, err := w.ferry.Plan(t.Context(), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%+v %d %+v", plan.From, plan.To, plan.Tables)
		want := "{Shop:7 Pod:1 Region:here Epoch:1} 2 [{Name:orders Rows:1 Bytes:3 Key:[id] Index:PRIMARY LargestValue:0 AutoIncrement:0 TargetAutoIncrement:0} " +
			"{Name:products Rows:20 Bytes:360 Key:[id] Index:PRIMARY LargestValue:0 AutoIncrement:0 TargetAutoIncrement:0}]"
		if got != want || plan.Rows() != 21 {
			t.Errorf("got plan %s of %d rows, want %s of 21", got, plan.Rows(), want)
		}
		w.untouched()
		if _, err := w.ferry.Plan(t.Context(), 999, 2); !errors.Is(err, ferry.ErrRefused) {
			t.Errorf("a plan for a shop that isn't: got %v, want ErrRefused", err)
		}
	})
}

// MySQL can't list its transactions in information_schema while one of their
// statements has such a character; a plan must not depend on that.
func TestAPlanDoesNotMindWhatOthersAreWriting(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		conn := w.begin(1)
		var id int64
		if err := conn.QueryRowContext(t.Context(), `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			conn.ExecContext(t.Context(), `UPDATE products SET name = '🎉' WHERE shop_id = 7 AND id = 2 AND SLEEP(20) = 0`)
		}()
		until(t, "the statement to run", func() bool {
			return w.count(w.source, `SELECT COUNT(*) FROM `+sessions[f]+` WHERE id = ? AND info LIKE '%SLEEP(20)%'`, id) > 0
		})
		if _, err := w.ferry.Plan(t.Context(), w.shop, 2); err != nil {
			t.Error(err)
		}
		w.exec(w.source, fmt.Sprintf(`KILL %d`, id))
		<-ended
	})
}

func TestNewNamesEveryFaultOfItsOptions(t *testing.T) {
	_, err := ferry.New(nil, map[podworks.PodID]*mysql.Config{1: nil}, &ferry.Options{PauseBudget: -1, Lease: -1, Attempts: -1, ChunkRows: -1, Stores: []ferry.Store{{Name: "a", Timeout: -1}, {Name: "a"}}})
	contains(t, err, nil, "the directory is nil", "PauseBudget is -1ns", "Lease is -1ns", "Attempts is -1, want 1 or more", "ChunkRows is -1", `store "a" has no function`, `store "a": Timeout is -1ns`, `store 2 is called "a"`, "pod 1: want the driver's configuration")
	_, err = ferry.New(ferry.Tables{}, nil, nil)
	contains(t, err, nil, "there are no pods")
}
