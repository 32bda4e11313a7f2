package sharding

import (
	"errors"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want    kind
		queries []string
	}{
		{reads, []string{
			"SELECT 1", "select 1", "\n\t select(1)", "SELECT*FROM t", "SELECT'a'", "SELECT`a`", "SELECT@a", "SELECT-1", "(SELECT 1) UNION (SELECT 2)", "((SELECT 1))",
			"WITH x AS (SELECT 1) SELECT * FROM x",
			"WITH x AS (SELECT 1) UPDATE t SET v = 1", // the server refuses it outside of a fenced transaction
			"SHOW TABLES", "EXPLAIN SELECT 1", "DESCRIBE t", "DESC t", "TABLE t", "VALUES ROW(1)", "HELP 'x'", "CHECKSUM TABLE t",
			"/* shop 1 */ SELECT 1", "/* a */ /* b */ SELECT 1", "-- a comment\nSELECT 1", "# a comment\nSELECT 1", "/**/SELECT/**/1",
			"/* /* not nested */ SELECT 1", "/*/ still the comment */ SELECT 1", "SELECT /*!40001 SQL_NO_CACHE */ 1",
			"SELECT 1;", "SELECT '; COMMIT'",
		}},
		{session, []string{
			"SET @a = 1", "SET NAMES utf8mb4", "SET SESSION sql_mode = ''", "set time_zone = '+00:00'", "SET ROLE none",
			"SET SESSION innodb_lock_wait_timeout = 1", "SET lock_wait_timeout = 1, innodb_lock_wait_timeout = 2", "SET @statement = 1", "SET @my_password = 'x'",
			"DO SLEEP(0)", "KILL QUERY 1", "GET DIAGNOSTICS @n = NUMBER",
			"SAVEPOINT a", "RELEASE SAVEPOINT a", "ROLLBACK TO a", "ROLLBACK TO SAVEPOINT a", "rollback work to savepoint a", "ROLLBACK /* c */ TO a",
		}},
		{writes, []string{
			"INSERT INTO t VALUES (1)", "insert/**/into t values (1)", "UPDATE t SET v = 1", "DELETE FROM t", "REPLACE INTO t VALUES (1)",
			"/* c */ INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1) RETURNING id",
			"LOAD DATA INFILE 'f' INTO TABLE t", "LOAD XML INFILE 'f' INTO TABLE t",
			"CREATE TEMPORARY TABLE t (a INT)", "create /* c */ temporary\ttable t (a int)", "CREATE OR REPLACE TEMPORARY TABLE t (a INT)", "DROP TEMPORARY TABLE t",
		}},
		{refused, []string{
			"", " ", ";", "/* only a comment */", "-- only a comment", "/* a comment without end", "'quoted'", "1",
			// The transaction's end as text.
			"COMMIT", "commit work", "ROLLBACK", "ROLLBACK WORK", "ROLLBACK AND CHAIN", "ROLLBACK /*! AND CHAIN */", "BEGIN", "START TRANSACTION", "START TRANSACTION READ WRITE",
			"XA START 'a'", "xa prepare 'a'",
			// What the server executes inside of a comment.
			"/*! COMMIT */", "/*!50000 COMMIT */", "/*M! COMMIT */", "/*M!100000 COMMIT */", "/*!999999 x */ SELECT 1", "/* a */ /*! COMMIT */", "-- x\n/*! COMMIT */", "  /*!COMMIT*/",
			"ROLLBACK /*! TO */ a", "SET /*M! STATEMENT max_statement_time=1 FOR */ TRUNCATE t", "CREATE /*! TABLE */ t", "LOAD /*! INDEX INTO CACHE */ t",
			// What hides it.
			"/* c */ truncate t", "-- x\nCOMMIT", "--\nCOMMIT", "# x\nCOMMIT", "\n;COMMIT", "\vCOMMIT", "\fCOMMIT", "\x00COMMIT", "\xa0COMMIT",
			"PREPARE s FROM 'COMMIT'", "EXECUTE s", "EXECUTE IMMEDIATE 'COMMIT'", "DEALLOCATE PREPARE s",
			"SET STATEMENT max_statement_time = 1 FOR COMMIT", "SET/**/STATEMENT lock_wait_timeout = 1 FOR TRUNCATE t",
			"CALL p()", "call p()",
			// MariaDB's programs in one statement.
			"BEGIN NOT ATOMIC COMMIT; END", "IF 1 THEN COMMIT; END IF", "LOOP COMMIT; END LOOP", "WHILE 1 DO COMMIT; END WHILE", "REPEAT COMMIT; UNTIL 1 END REPEAT",
			"CASE WHEN 1 THEN COMMIT; END CASE", "FOR i IN 1..1 DO COMMIT; END FOR", "DECLARE x INT", "<<a>> COMMIT",
			"label: LOOP COMMIT; END LOOP", "INSERT1: LOOP COMMIT; END LOOP", "SELECT_: LOOP COMMIT; END LOOP", "UPDATE$: LOOP COMMIT; END LOOP", "`SELECT`: LOOP COMMIT; END LOOP", "SELECT\xc3\xa9: LOOP COMMIT; END LOOP",
			// What commits on the way.
			"CREATE TABLE t (a INT)", "DROP TABLE t", "DROP TABLE t, temporary", "ALTER TABLE t ADD b INT", "RENAME TABLE t TO u", "TRUNCATE t", "TRUNCATE TABLE t",
			"CREATE INDEX i ON t (a)", "CREATE TEMPORARY SEQUENCE s", "CREATE OR REPLACE TABLE t (a INT)", "CREATE OR REPLACE TEMPORARY SEQUENCE s", "CREATE x y TEMPORARY",
			"LOCK TABLES t WRITE", "UNLOCK TABLES", "LOCK INSTANCE FOR BACKUP", "GRANT SELECT ON t TO u", "REVOKE SELECT ON t FROM u", "SET PASSWORD = 'x'", "SET DEFAULT ROLE NONE TO u",
			"ANALYZE TABLE t", "OPTIMIZE TABLE t", "REPAIR TABLE t", "CHECK TABLE t", "CACHE INDEX t IN c", "LOAD INDEX INTO CACHE t", "FLUSH TABLES", "RESET MASTER",
			"INSTALL PLUGIN p SONAME 'x'", "CHANGE MASTER TO MASTER_HOST = 'x'", "STOP REPLICA", "PURGE BINARY LOGS TO 'x'", "HANDLER t OPEN", "BINLOG 'x'", "USE other",
			// What lets later writes past the fence, or past the mover.
			"SET autocommit = 0", "SET @a = 1, AUTOCOMMIT = 1", "SET @@session.autocommit = 1", "SET `autocommit` = 1", "SET @a = 1 /*! , autocommit = 1 */",
			"SET TRANSACTION READ WRITE", "SET SESSION TRANSACTION READ WRITE", "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
			"SET tx_read_only = 0", "SET @@transaction_read_only = 0", "SET sql_log_bin = 0", "SET SESSION binlog_format = 'STATEMENT'", "SET completion_type = 1",
			"SET wait_timeout = 28800", "SET lock_wait_timeout = 1, wait_timeout = 28800", "SET @@session.wait_timeout=1", "SET gtid_next = 'x'", "SET wsrep_on = 0", "SET idle_transaction_timeout = 0",
			// What nobody has looked at yet.
			"FROBNICATE t", "MERGE INTO t",
		}},
	} {
		for _, q := range c.queries {
			if got := classify(q); got != c.want {
				t.Errorf("classify(%q) = %v, want %v", q, got, c.want)
			}
		}
	}
}

func (k kind) String() string { return [...]string{"refused", "reads", "session", "writes"}[k] }

// FuzzClassify checks that no input makes classify panic, that comments and
// blanks before a statement change nothing, and that what allows a statement is
// its own first word.
func FuzzClassify(f *testing.F) {
	for _, q := range []string{"SELECT 1", "/*! COMMIT */", "-- x\nCOMMIT", "SET autocommit = 0", "ROLLBACK TO a", "CREATE OR REPLACE TEMPORARY TABLE t (a INT)", "(", "/*/", "#", "--", "\xff"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q string) {
		k := classify(q)
		for _, before := range []string{" ", "/* c */", "-- c\n", "#\n", "\t/**/\r\n"} {
			if got := classify(before + q); got != k {
				t.Errorf("classify(%q) = %v, and %v with %q before it", q, k, got, before)
			}
		}
		for _, before := range []string{"/*! x */", "COMMIT ", "x", "BEGIN NOT ATOMIC "} {
			if got := classify(before + q); got != refused {
				t.Errorf("classify(%q) = %v, want refused", before+q, got)
			}
		}
		if k == refused {
			return
		}
		for word := range kinds {
			if strings.Contains(strings.ToUpper(q), word) {
				return
			}
		}
		for _, word := range []string{"LOAD", "CREATE", "DROP", "ROLLBACK"} {
			if strings.Contains(strings.ToUpper(q), word) {
				return
			}
		}
		t.Errorf("classify(%q) = %v, and it has no word that is allowed", q, k)
	})
}

func TestARefusalShowsNoValues(t *testing.T) {
	c := &conn{pod: &pod{id: 1}}
	s := &Scope{shop: 7}
	s.root = s
	for _, query := range []string{`SET PASSWORD = 'hunter2'`, `CREATE USER x IDENTIFIED BY "hunter2"`} {
		_, err := c.permit(s, query)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", query, err)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", query, err)
		}
	}
}
