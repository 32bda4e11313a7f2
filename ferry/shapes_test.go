package ferry_test

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// A shape is a table of a form that is easily taken for another. Its rows have
// numbers from 1 to 15.
type shape struct {
	name   string
	create string // {t} is its name
	insert string // one row, {n} is its number
	change string // of row {n}
	table  string // its name in SQL, if it isn't t and a number
	column string // that names the shop, if it isn't shop_id
	with   string // a variable of the session that creates it
}

func (s *shape) sql(text string, n int) string {
	return strings.NewReplacer("{t}", s.table, "{n}", fmt.Sprint(n)).Replace(text)
}

var sixtyFourRunes = strings.Repeat("ü", 64)

var shapes = []shape{
	{name: "names with spaces, quotes and letters", table: "`Ta``ble; 'ж' \"日本\" %s ?`",
		create: "CREATE TABLE {t} (`the``shop ?` INT NOT NULL, `a``b` INT NOT NULL, `select` INT, `ключ \\ 'x' %d` VARCHAR(20), PRIMARY KEY `p` (`the``shop ?`, `a``b`), UNIQUE KEY `u ``; ключ` (`the``shop ?`, `ключ \\ 'x' %d`))",
		insert: "INSERT INTO {t} VALUES (7, {n}, {n}, 'v {n}')", change: "UPDATE {t} SET `select` = 9, `ключ \\ 'x' %d` = 'w {n}' WHERE `a``b` = {n}", column: "the`shop ?"},
	{name: "names of 64 characters", table: "`" + sixtyFourRunes + "`",
		create: "CREATE TABLE {t} (shop_id INT NOT NULL, `" + sixtyFourRunes + "` INT NOT NULL, v INT, UNIQUE KEY `" + sixtyFourRunes + "` (shop_id, `" + sixtyFourRunes + "`))",
		insert: "INSERT INTO {t} VALUES (7, {n}, {n})", change: "UPDATE {t} SET v = 9 WHERE `" + sixtyFourRunes + "` = {n}"},
	{name: "a name in upper case", table: "`ORDERS`", create: `CREATE TABLE {t} (SHOP_ID INT NOT NULL, Id INT NOT NULL, V INT, PRIMARY KEY (shop_id, ID))`,
		insert: `INSERT INTO {t} VALUES (7, {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
	{name: "ON UPDATE", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), b DATETIME NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (shop_id, id))`,
		insert: `INSERT INTO {t} VALUES (7, {n}, {n}, '2001-01-01', NULL)`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
	{name: "SERIAL", create: `CREATE TABLE {t} (id SERIAL, shop_id INT NOT NULL, v BOOLEAN NOT NULL DEFAULT TRUE, KEY (shop_id))`,
		insert: `INSERT INTO {t} (id, shop_id) VALUES ({n}, 7)`, change: `UPDATE {t} SET v = FALSE WHERE id = {n}`},
	{name: "defaults that are expressions", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, u CHAR(36) NOT NULL DEFAULT (UUID()), d DATETIME(6) DEFAULT (NOW(6) + INTERVAL 1 DAY), n INT DEFAULT (7 * 6), PRIMARY KEY (shop_id, id))`,
		insert: `INSERT INTO {t} (shop_id, id) VALUES (7, {n})`, change: `UPDATE {t} SET v = 9, u = DEFAULT WHERE id = {n}`},
	{name: "checks", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT CHECK (v < 100), PRIMARY KEY (shop_id, id), CONSTRAINT positive CHECK (v > 0))`,
		insert: `INSERT INTO {t} VALUES (7, {n}, 1)`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
	{name: "partitions", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, PRIMARY KEY (shop_id, id)) PARTITION BY RANGE (id) SUBPARTITION BY HASH (shop_id) SUBPARTITIONS 2 (PARTITION a VALUES LESS THAN (5), PARTITION b VALUES LESS THAN MAXVALUE)`,
		insert: `INSERT INTO {t} VALUES (7, {n}, {n})`, change: `UPDATE {t} SET v = 9, id = -id WHERE id = {n}`},
	{name: "a key in falling order", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, PRIMARY KEY (shop_id DESC, id DESC))`,
		insert: `INSERT INTO {t} VALUES (7, {n}, {n})`, change: `UPDATE {t} SET v = 9, id = -id WHERE id = {n}`},
	{name: "a shop in a stored column", create: `CREATE TABLE {t} (id INT NOT NULL PRIMARY KEY, v INT, shop_id INT AS (id DIV 1000) STORED, KEY (shop_id))`,
		insert: `INSERT INTO {t} (id, v) VALUES (7000 + {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE id = 7000 + {n}`},
	{name: "a shop in a virtual column", create: `CREATE TABLE {t} (id INT NOT NULL PRIMARY KEY, v INT, shop_id INT AS (id DIV 1000) VIRTUAL, KEY (shop_id))`,
		insert: `INSERT INTO {t} (id, v) VALUES (7000 + {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE id = 7000 + {n}`},
	{name: "a shop in a virtual column without an index", create: `CREATE TABLE {t} (id INT NOT NULL PRIMARY KEY, v INT, shop_id INT AS (id DIV 1000) VIRTUAL)`,
		insert: `INSERT INTO {t} (id, v) VALUES (7000 + {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE id = 7000 + {n}`},
	{name: "a key on parts of values", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(20) NOT NULL, PRIMARY KEY (id, shop_id), UNIQUE KEY (shop_id, v(5)), KEY (shop_id, id))`,
		insert: `INSERT INTO {t} VALUES (7, {n}, '{n} is {n}')`, change: `UPDATE {t} SET v = 'x {n} is {n}' WHERE id = {n}`},
	{name: "a key on parts of values alone", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(20) NOT NULL, UNIQUE KEY (shop_id, v(5)))`,
		insert: `INSERT INTO {t} VALUES (7, {n}, '{n} is {n}')`, change: `UPDATE {t} SET v = 'x {n} is {n}' WHERE id = {n}`},
}

var shapesOf = map[testcluster.Family][]shape{
	testcluster.MariaDB: {
		{name: "ignored indexes", create: `CREATE TABLE {t} (shop_id INT NOT NULL, a INT NOT NULL, b INT NOT NULL, v INT, UNIQUE KEY x (shop_id, a, b), UNIQUE KEY y (shop_id, a) IGNORED, KEY z (v) IGNORED)`,
			insert: `INSERT INTO {t} VALUES (7, {n}, {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE a = {n}`},
		{name: "a period without overlaps", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, a DATE, b DATE, PERIOD FOR p (a, b), PRIMARY KEY (shop_id, id, p WITHOUT OVERLAPS))`,
			insert: `INSERT INTO {t} VALUES (7, {n}, {n}, '2001-01-01', '2002-01-01')`, change: `UPDATE {t} FOR PORTION OF p FROM '2001-05-01' TO '2001-06-01' SET v = 9 WHERE id = {n}`},
		{name: "a unique key on long text", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v TEXT NOT NULL, PRIMARY KEY (shop_id, id), UNIQUE KEY (v), FULLTEXT KEY (v)) ROW_FORMAT=DYNAMIC PAGE_COMPRESSED=1`,
			insert: `INSERT INTO {t} VALUES (7, {n}, REPEAT('{n}', 4000))`, change: `UPDATE {t} SET v = 'x {n} is {n}' WHERE id = {n}`},
		{name: "a value that a check forbids", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT CHECK (v <> 1), PRIMARY KEY (shop_id, id))`,
			insert: `INSERT INTO {t} VALUES (7, {n}, 1)`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
		{name: "a sequence", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL DEFAULT NEXTVAL(numbers), v INT, PRIMARY KEY (shop_id, id))`,
			insert: `INSERT INTO {t} (shop_id) VALUES (7)`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
	},
	testcluster.MySQL: {
		{name: "invisible indexes", create: `CREATE TABLE {t} (shop_id INT NOT NULL, a INT NOT NULL, b INT NOT NULL, v INT, UNIQUE KEY x (shop_id, a, b), UNIQUE KEY y (shop_id, a) INVISIBLE, KEY z (v) INVISIBLE)`,
			insert: `INSERT INTO {t} VALUES (7, {n}, {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE a = {n}`},
		{name: "a stored column as key", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, k VARCHAR(20) AS (CONCAT('k', id)) STORED, PRIMARY KEY (shop_id, k))`,
			insert: `INSERT INTO {t} (shop_id, id, v) VALUES (7, {n}, {n})`, change: `UPDATE {t} SET v = 9, id = -id WHERE id = {n}`},
		{name: "a virtual column as key", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, k INT AS (id * 2) VIRTUAL NOT NULL, UNIQUE KEY (shop_id, k))`,
			insert: `INSERT INTO {t} (shop_id, id, v) VALUES (7, {n}, {n})`, change: `UPDATE {t} SET v = 9, id = -id WHERE id = {n}`},
		{name: "indexes on expressions", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, j JSON, PRIMARY KEY (shop_id, id), UNIQUE KEY (shop_id, (v * 2)), KEY ((CAST(j->'$.a' AS UNSIGNED ARRAY))), KEY ((ABS(v)) DESC))`,
			insert: `INSERT INTO {t} VALUES (7, {n}, {n}, '{"a": [1, {n}]}')`, change: `UPDATE {t} SET v = -v, j = '{"a": []}' WHERE id = {n}`},
		{name: "a document that isn't there", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, j JSON NOT NULL, v INT, PRIMARY KEY (shop_id, id))`,
			insert: `INSERT IGNORE INTO {t} (shop_id, id, j) SELECT 7, {n}, NULL`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
		{name: "a key that the server makes and hides", with: "sql_generate_invisible_primary_key", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, v INT, KEY (shop_id))`,
			insert: `INSERT INTO {t} VALUES (7, {n}, {n})`, change: `UPDATE {t} SET v = 9 WHERE id = {n}`},
		{name: "a default for a document", create: `CREATE TABLE {t} (shop_id INT NOT NULL, id INT NOT NULL, j JSON DEFAULT (JSON_ARRAY(1)), t TEXT DEFAULT ('x'), PRIMARY KEY (shop_id, id))`,
			insert: `INSERT INTO {t} (shop_id, id) VALUES (7, {n})`, change: `UPDATE {t} SET j = JSON_SET(j, '$[0]', {n}) WHERE id = {n}`},
	},
}

// aside are tables that no shop has rows in, of kinds that can't be moved.
var aside = map[testcluster.Family][]string{
	testcluster.MariaDB: {`CREATE TABLE aside (id INT PRIMARY KEY, v VARCHAR(50) COMPRESSED, b LONGBLOB COMPRESSED) WITH SYSTEM VERSIONING`, `CREATE SEQUENCE numbers`},
	testcluster.MySQL: {`CREATE TABLE aside (id INT PRIMARY KEY, v VECTOR(3), b LONGBLOB)`,
		`SET GLOBAL show_gipk_in_create_table_and_information_schema = OFF`}, // no other test has such keys
}

func TestTablesOfEveryShape(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		list := slices.Concat(shapes, shapesOf[f])
		rules := map[string]ferry.Rule{}
		for i := range list {
			if list[i].table == "" {
				list[i].table = fmt.Sprintf("t%d", i)
			}
			if c := list[i].column; c != "" {
				rules[strings.ReplaceAll(strings.Trim(list[i].table, "`"), "``", "`")] = ferry.Rule{Column: c}
			}
		}
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries", "aside"}, ChunkRows: 3, Tables: rules})
		source, target := w.source, w.target
		if f == testcluster.MariaDB { // with rows that a check forbids
			source, target = w.open(1, "check_constraint_checks", "0"), w.open(2, "check_constraint_checks", "0")
		}
		for i, db := range []*sql.DB{source, target} {
			for _, stmt := range aside[f] {
				w.exec(db, stmt)
			}
			for _, s := range list {
				by := db
				if s.with != "" {
					by = w.open(podworks.PodID(i+1), s.with, "1")
				}
				w.exec(by, s.sql(s.create, 0))
			}
		}
		insert := func(from int) {
			for _, s := range list {
				for n := from; n < from+5; n++ {
					w.exec(source, s.sql(s.insert, n))
				}
			}
			w.exec(source, `INSERT INTO aside (id, b) VALUES (?, REPEAT('b', 1000))`, from)
		}
		change := func(numbers ...int) {
			for _, s := range list {
				for _, n := range numbers {
					w.exec(source, s.sql(s.change, n))
				}
			}
		}
		insert(1)
		session := w.open(1, "", "") // temporary tables are a session's
		session.SetMaxOpenConns(1)
		tr := &trail{at: map[string]func(){
			"copy": func() {
				insert(6)
				change(1, 6)
				w.script(session, `CREATE TEMPORARY TABLE t3 (id INT); INSERT INTO t3 VALUES (1); TRUNCATE t3; DROP TEMPORARY TABLE t3; CREATE TEMPORARY TABLE t3 LIKE orders; ALTER TABLE t3 ADD COLUMN more INT`)
				session.Close()
			},
			"cutover": func() {
				insert(11)
				change(2, 11)
			},
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range report.Evidence.Repaired {
			t.Errorf("had to be repaired: %s", d)
		}
		for _, s := range list {
			w.alike(s.table, `*`, `TRUE`)
			if n := w.count(target, `SELECT COUNT(*) FROM `+s.table); n < 15 {
				t.Errorf("%s: %d rows came, want 15", s.name, n)
			}
		}
	})
}

// What can't be moved is refused with what to do.
func TestTablesThatCanNotBeMovedAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		both := func(stmt string) {
			w.exec(w.source, stmt)
			w.exec(w.target, stmt)
		}
		if f == testcluster.MySQL {
			both(`CREATE TABLE places (shop_id INT NOT NULL, id INT NOT NULL, p POINT NOT NULL, PRIMARY KEY (shop_id, id))`)
			w.exec(w.source, `ALTER TABLE places MODIFY p POINT NOT NULL SRID 4326`)
			_, err := w.ferry.Move(t.Context(), w.shop, 2)
			contains(t, err, ferry.ErrRefused, "table places: column p: the SRID is 4326 on pod 1 and none on pod 2; in pod 2: ALTER TABLE `places` MODIFY COLUMN `p` point NOT NULL /*!80003 SRID 4326 */")
			return
		}
		both(`CREATE TABLE packed (shop_id INT NOT NULL, id INT NOT NULL, v TEXT COMPRESSED, PRIMARY KEY (shop_id, id))`)
		both(`CREATE TABLE kept (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id)) WITH SYSTEM VERSIONING`)
		both(`CREATE TABLE keeps (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id))`)
		w.exec(w.target, `ALTER TABLE keeps ADD SYSTEM VERSIONING`)
		both(`CREATE SEQUENCE numbers`)
		both(`CREATE TABLE numbered (shop_id INT NOT NULL, id INT NOT NULL DEFAULT NEXTVAL(numbers), PRIMARY KEY (shop_id, id))`)
		plan, err := w.ferry.Plan(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "table packed: column v is text /*M!100301 COMPRESSED*/, whose values the log has compressed; declare it without COMPRESSED on both pods",
			"table kept is system-versioned", "table keeps is system-versioned", "ALTER TABLE `kept` DROP SYSTEM VERSIONING on both pods")
		if text := plan.String(); !strings.Contains(text, "column id is numbered by a sequence (nextval(`numbers`)), and how far that is on pod 1 is not handed over") {
			t.Errorf("want a warning of the sequence, got:\n%s", text)
		}
		w.untouched()
	})
}
