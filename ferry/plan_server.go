package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
)

// identify asks both servers what they are. It reports whether there is any
// point in asking more.
func identify(ctx context.Context, src, dst *server, p *prepared) bool {
	var ids [2]string
	var flavors [2]flavor.Flavor
	for i, s := range []*server{src, dst} {
		var err error
		if flavors[i], err = flavor.Detect(ctx, s.db); err == nil {
			err = s.db.QueryRowContext(ctx, `SELECT CONCAT_WS('|', @@hostname, @@port, @@socket, @@datadir, DATABASE())`).Scan(&ids[i])
		}
		if err != nil {
			p.find(Finding{Severity: Refuse, Pod: 0, What: fmt.Sprintf("pod %d can't be asked: %v", s.pod, err), cause: err})
			return false
		}
	}
	p.flavor = flavors[0]
	if ids[0] == ids[1] {
		p.find(Finding{Severity: Refuse, What: fmt.Sprintf("pods %d and %d are one database (%s)", src.pod, dst.pod, ids[0]), Do: "give each its own"})
	}
	if flavors[0] != flavors[1] {
		p.find(Finding{Severity: Refuse, What: fmt.Sprintf("pod %d runs %s and pod %d runs %s", src.pod, flavors[0], dst.pod, flavors[1]), Do: "both must be of one family"})
	}
	return !p.Refused()
}

// compared are the settings that may make an application's statements mean
// something else on the target.
var compared = []struct{ name, means string }{
	{"sql_mode", "a statement that fails on one may store something else on the other, for sessions that don't set it"},
	{"time_zone", "NOW() and TIMESTAMP columns read otherwise, for sessions that don't set it"},
	{"system_time_zone", ""}, // counts where time_zone is SYSTEM
	{"lower_case_table_names", "names of tables that work on one may be unknown on the other"},
	{"explicit_defaults_for_timestamp", "TIMESTAMP columns created later get other defaults"},
	{"collation_database", "tables created later compare text otherwise"},
}

// checked are the settings that a move depends on.
var checked = []string{
	"log_bin", "binlog_format", "binlog_row_image", "binlog_row_value_options", "binlog_order_commits",
	"read_only", "super_read_only", "wsrep_on", "group_replication_group_name", "group_replication_single_primary_mode",
	"max_allowed_packet", "sync_binlog", "innodb_flush_log_at_trx_commit",
	"version", "version_comment", "hostname", "server_id", "server_uuid", "character_set_server", "gtid_mode", "gtid_strict_mode", // for the evidence
	"binlog_expire_logs_seconds", "binlog_expire_logs_auto_purge", "expire_logs_days", "max_binlog_total_size", "binlog_space_limit",
}

// inspectServer reads a server's settings and checks what it must be set to.
func inspectServer(ctx context.Context, s *server, p *prepared) error {
	vars := map[string]string{}
	names := slices.Clone(checked)
	for _, c := range compared {
		names = append(names, c.name)
	}
	// Of the global ones, because the session's are ferry's own; but the database's
	// collation is only in the session's.
	for _, scope := range []string{"SESSION", "GLOBAL"} {
		err := each(ctx, s.db, func(rows *sql.Rows) error {
			var name, value string
			if err := rows.Scan(&name, &value); err != nil {
				return err
			}
			if name = strings.ToLower(name); scope == "SESSION" == (name == "collation_database") {
				vars[name] = value
			}
			return nil
		}, `SHOW `+scope+` VARIABLES WHERE Variable_name IN ('`+strings.Join(names, `', '`)+`')`)
		if err != nil {
			return err
		}
	}
	p.settings[s.pod] = vars
	is := func(name, value string) bool { return strings.EqualFold(vars[name], value) }
	refuse := func(what, do string) {
		p.find(Finding{Severity: Refuse, Pod: s.pod, What: what, Do: do})
	}
	if is("wsrep_on", "ON") {
		refuse("a Galera cluster (wsrep_on is ON) certifies transactions without regard to the write fence's locks", "the fence needs a server with one writable primary")
	}
	if vars["group_replication_group_name"] != "" && is("group_replication_single_primary_mode", "OFF") {
		refuse("a multi-primary group certifies transactions without regard to the write fence's locks", "switch it to single-primary mode")
	}
	if is("read_only", "ON") || is("super_read_only", "ON") {
		refuse("the server is read-only", "a move writes to both ends, so name the primary")
	}
	if vars["innodb_flush_log_at_trx_commit"] != "1" {
		p.find(Finding{Severity: Warn, Pod: s.pod,
			What: "innodb_flush_log_at_trx_commit is " + vars["innodb_flush_log_at_trx_commit"] + ": what the server acknowledges, the move's own steps among it, is lost when its machine crashes",
			Do:   "set it to 1"})
	}
	if s.pod != p.From.Pod {
		return nil
	}
	if !is("log_bin", "ON") {
		refuse("the binary log is off", "a move follows it: start the server with log_bin")
		return nil
	}
	if v, ok := vars["binlog_format"]; ok && !is("binlog_format", "ROW") { // which MySQL is about to make the only one
		refuse("binlog_format is "+v+", want ROW: statements can't be followed row by row", "set it, and end the sessions that began before")
	}
	if v := vars["binlog_row_image"]; !is("binlog_row_image", "FULL") {
		refuse("binlog_row_image is "+v+", want FULL: a row is applied whole", "set it, and end the sessions that began before")
	}
	if v := vars["binlog_row_value_options"]; v != "" {
		refuse("binlog_row_value_options is "+v+", want it empty: a JSON value is applied whole", "set it, and end the sessions that began before")
	}
	if v, ok := vars["binlog_order_commits"]; ok && !is("binlog_order_commits", "ON") {
		refuse("binlog_order_commits is "+v+", want ON: a row must be visible before the log goes on", "set it")
	}
	if vars["sync_binlog"] != "1" {
		p.find(Finding{Severity: Warn, Pod: s.pod,
			What: "sync_binlog is " + vars["sync_binlog"] + ": when the server's machine crashes the log may lack rows that the tables have, and a move in that moment would miss them",
			Do:   "set it to 1"})
	}
	return nil
}

// compareSettings warns of what is set otherwise on the target.
func (p *prepared) compareSettings() {
	a, b := p.settings[p.From.Pod], p.settings[p.To]
	for _, c := range compared {
		v, w := a[c.name], b[c.name]
		if c.name == "time_zone" {
			v, w = zone(a), zone(b)
		}
		if c.means != "" && v != w {
			p.find(Finding{Severity: Warn, What: fmt.Sprintf("%s is %q on pod %d and %q on pod %d: %s", c.name, v, p.From.Pod, w, p.To, c.means), Do: "set it to the same on both"})
		}
	}
}

// zone is a server's time zone, with the one of its machine where that counts.
func zone(vars map[string]string) string {
	if vars["time_zone"] == "SYSTEM" {
		return "SYSTEM (" + vars["system_time_zone"] + ")"
	}
	return vars["time_zone"]
}

// needed are the privileges on *.* that a source's user needs, with the names
// by which the families grant them.
var needed = map[flavor.Flavor][][]string{
	flavor.MariaDB: {
		{"REPLICATION SLAVE", "REPLICATION REPLICA"}, {"BINLOG MONITOR", "REPLICATION CLIENT", "SUPER"},
		{"PROCESS"}, {"CONNECTION ADMIN", "SUPER"},
	},
	flavor.MySQL: {
		{"REPLICATION SLAVE"}, {"REPLICATION CLIENT"}, {"PROCESS"}, {"CONNECTION_ADMIN", "SUPER"}, {"XA_RECOVER_ADMIN"},
	},
}

// onDatabase are the privileges on the database that a user needs, on either
// side: without the first a table is not even listed, and would be left behind;
// without the second, triggers and foreign keys aren't.
var onDatabase = []string{"SELECT", "TRIGGER"}

// grants checks the privileges that only show when it is too late. Those for
// writing are tried out.
func grants(ctx context.Context, s *server, p *prepared) error {
	global, local := map[string]bool{}, map[string]bool{}
	err := each(ctx, s.db, func(rows *sql.Rows) error {
		var grant string
		if err := rows.Scan(&grant); err != nil {
			return err
		}
		privileges, on := parseGrant(grant)
		for _, p := range privileges {
			switch {
			case on == "*.*":
				global[p] = true
			case covers(on, s.cfg.DBName):
				local[p] = true
			}
		}
		return nil
	}, `SHOW GRANTS`)
	if err != nil || global["ALL PRIVILEGES"] || global["ALL"] {
		return err
	}
	lacks := func(privilege, on string) {
		p.find(Finding{Severity: Refuse, Pod: s.pod, What: fmt.Sprintf("user %s lacks the privilege %s on %s.*", s.cfg.User, privilege, on), Do: "grant it"})
	}
	for _, name := range onDatabase {
		if !global[name] && !local[name] && !local["ALL PRIVILEGES"] {
			lacks(name, quote(s.cfg.DBName))
		}
	}
	if s.pod != p.From.Pod {
		return nil
	}
	for _, names := range needed[p.flavor] {
		if !slices.ContainsFunc(names, func(n string) bool { return global[n] }) {
			lacks(names[0], "*")
		}
	}
	return nil
}

var grantLine = regexp.MustCompile(`(?i)^GRANT (.+?) ON (\S+?\.\S+) TO `)

// parseGrant returns a grant's privileges and what they are on, as the server
// writes it: *.*, `db`.*, `db`.`table`.
func parseGrant(grant string) (privileges []string, on string) {
	m := grantLine.FindStringSubmatch(grant)
	if m == nil {
		return nil, ""
	}
	for p := range strings.SplitSeq(m[1], ",") {
		privileges = append(privileges, strings.ToUpper(strings.TrimSpace(p)))
	}
	return privileges, m[2]
}

// covers reports whether a grant on `pattern`.* is one on the database.
func covers(on, database string) bool {
	pattern, ok := strings.CutSuffix(on, ".*")
	if !ok {
		return false
	}
	pattern = strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(pattern, "`"), "`"), "``", "`")
	var b strings.Builder
	for escaped, rest := false, []rune(pattern); len(rest) > 0; rest = rest[1:] {
		switch r := rest[0]; {
		case escaped:
			b.WriteString(regexp.QuoteMeta(string(r)))
			escaped = false
		case r == '\\':
			escaped = true
		case r == '_':
			b.WriteByte('.')
		case r == '%':
			b.WriteString(".*")
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	ok, err := regexp.MatchString("^"+b.String()+"$", database)
	return ok && err == nil
}

// try runs statements that change nothing but need the privileges that the
// move will need.
func (f *Ferry) try(ctx context.Context, src, dst *server, p *prepared) {
	run := func(s *server, query string) {
		_, err := s.db.ExecContext(ctx, query)
		switch {
		case err == nil:
		case missing(err):
			p.find(Finding{Severity: Refuse, Pod: s.pod, What: fmt.Sprintf("a table of ferry's is missing: %v", err), Do: "run Migrate", cause: err})
		default:
			p.find(Finding{Severity: Refuse, Pod: s.pod, What: fmt.Sprintf("user %s can't do what the move needs: %v", s.cfg.User, err), Do: "grant it", cause: err})
		}
	}
	for _, t := range []string{"podworks_marker", "podworks_fence", "podworks_ferry_left"} {
		run(src, `DELETE FROM `+t+` WHERE 1 = 0`)
		run(src, `INSERT INTO `+t+` SELECT * FROM `+t+` WHERE 1 = 0`)
	}
	run(src, `UPDATE podworks_marker SET n = n WHERE 1 = 0`)
	run(src, `UPDATE podworks_fence SET token = token WHERE 1 = 0`)
	run(dst, `UPDATE podworks_fence SET token = token WHERE 1 = 0`)
	if p.flavor == flavor.MySQL { // where it finds who holds a lock; MariaDB has that in information_schema
		run(src, `DO (SELECT 1 FROM performance_schema.data_lock_waits LIMIT 1)`)
		run(src, `DO (SELECT 1 FROM performance_schema.threads LIMIT 1)`)
	}
	run(dst, `UPDATE podworks_origin SET n = n WHERE 1 = 0`)
	for _, name := range []string{"podworks_fence", "podworks_ferry_tail", "podworks_ferry_copy", "podworks_ferry_left", "podworks_origin"} {
		run(dst, `DELETE FROM `+name+` WHERE 1 = 0`)
		run(dst, `INSERT INTO `+name+` SELECT * FROM `+name+` WHERE 1 = 0`)
	}
	for _, t := range p.tables {
		var names []string
		for _, i := range t.writable() {
			names = append(names, quote(t.columns[i].name))
		}
		list := strings.Join(names, ", ")
		run(dst, `DELETE FROM `+quote(t.name)+` WHERE 1 = 0`)
		run(dst, `UPDATE `+quote(t.name)+` SET `+names[0]+` = `+names[0]+` WHERE 1 = 0`)
		run(dst, `INSERT INTO `+quote(t.name)+` (`+list+`) SELECT `+list+` FROM `+quote(t.name)+` WHERE 1 = 0`)
	}
	var prepared int
	if err := each(ctx, src.db, func(*sql.Rows) error { prepared++; return nil }, `XA RECOVER`); err != nil {
		p.find(Finding{Severity: Refuse, Pod: src.pod, What: fmt.Sprintf("user %s can't ask for prepared transactions: %v", src.cfg.User, err), Do: "grant it", cause: err})
	} else if prepared > 0 {
		p.find(Finding{Severity: Refuse, What: fmt.Sprintf("pod %d has %d prepared XA transactions, which hold no fence", src.pod, prepared), Do: "end them"})
	}
}

// missing reports whether the server said that a table doesn't exist.
func missing(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number == 1146
}

// retention is how long the server keeps its log at least, and by which setting;
// 0 if it never drops any by itself.
func retention(vars map[string]string) (kept time.Duration, how string) {
	if strings.EqualFold(vars["binlog_expire_logs_auto_purge"], "OFF") {
		return 0, ""
	}
	if n, _ := strconv.ParseFloat(vars["binlog_expire_logs_seconds"], 64); n > 0 {
		return time.Duration(n * float64(time.Second)), "binlog_expire_logs_seconds is"
	}
	if n, _ := strconv.ParseFloat(vars["expire_logs_days"], 64); n > 0 {
		return time.Duration(n * float64(24*time.Hour)), "expire_logs_days is"
	}
	return 0, ""
}

// retentionBySize is how long the server keeps its log when it grows by rate
// bytes a second, and by which setting; 0 if its size has no limit. MariaDB has
// one since 11.4, under either name, Percona's server under the second.
func retentionBySize(vars map[string]string, rate float64) (kept time.Duration, how string) {
	for _, name := range []string{"max_binlog_total_size", "binlog_space_limit"} {
		if most, _ := strconv.ParseFloat(vars[name], 64); most > 0 && rate > 0 {
			seconds := min(most/rate, (10 * 365 * 24 * time.Hour).Seconds())
			return time.Duration(seconds * float64(time.Second)),
				fmt.Sprintf("%s is %s, which at %s a second is", name, bytesText(int64(min(most, 1<<60))), bytesText(int64(rate)))
		}
	}
	return 0, ""
}

// tooShort finds a log that may be dropped before the move, or another mover
// that goes on with it, has read it.
func tooShort(pod podworks.PodID, kept time.Duration, how string, takes time.Duration) []Finding {
	f := Finding{Pod: pod, Do: "keep the log longer"}
	switch {
	case kept < 2*takes:
		f.Severity = Refuse
	case kept < 10*takes:
		f.Severity = Warn
	default:
		return nil
	}
	f.What = fmt.Sprintf("%s %v, and the move takes about %v: the log may be dropped before it is read", how, kept.Round(time.Second), rough(takes))
	return []Finding{f}
}
