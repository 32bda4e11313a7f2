package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/flavor"
)

// A Plan says what a move would do. Nothing was touched to make it.
type Plan struct {
	From   podworks.Route
	To     podworks.PodID
	Tables []TablePlan // in the order of the copy
}

// A TablePlan is one table's part of a Plan.
type TablePlan struct {
	Name string
	Rows int64 // of the shop
}

// Rows returns the number of rows to copy.
func (p *Plan) Rows() int64 {
	var n int64
	for _, t := range p.Tables {
		n += t.Rows
	}
	return n
}

// Plan checks whether shop can be moved to pod to, and says what that would do.
// What speaks against it comes as one error that is ErrRefused and names every
// reason.
func (f *Ferry) Plan(ctx context.Context, shop podworks.ShopID, to podworks.PodID) (*Plan, error) {
	src, dst, p, err := f.prepare(ctx, shop, to, nil)
	if err != nil {
		return nil, err
	}
	src.db.Close()
	dst.db.Close()
	return &p.Plan, nil
}

// A prepared plan has what the move needs besides.
type prepared struct {
	Plan
	flavor flavor.Flavor
	tables []*table
}

// refusal makes one error of all that speaks against a move.
func refusal(shop podworks.ShopID, to podworks.PodID, faults []error) error {
	var b strings.Builder
	fmt.Fprintf(&b, "move shop %d to pod %d:", shop, to)
	for _, fault := range faults {
		b.WriteString("\n  - " + fault.Error())
	}
	return fmt.Errorf("%w: %w", ErrRefused, &faultList{text: b.String(), faults: faults})
}

type faultList struct {
	text   string
	faults []error
}

func (f *faultList) Error() string   { return f.text }
func (f *faultList) Unwrap() []error { return f.faults }

// prepare opens both ends and checks everything that can be known beforehand.
// resumed is the silent move of the same shop and pod that the new one would
// take over: its rows may be on the target already.
func (f *Ferry) prepare(ctx context.Context, shop podworks.ShopID, to podworks.PodID, resumed *podworks.Move) (src, dst *server, p *prepared, err error) {
	from, err := f.dir.Fresh(ctx, shop)
	if err != nil {
		if errors.Is(err, directory.ErrUnknownShop) {
			return nil, nil, nil, refusal(shop, to, []error{err})
		}
		return nil, nil, nil, fmt.Errorf("ferry: %w", err)
	}
	if from.Pod == to {
		return nil, nil, nil, refusal(shop, to, []error{fmt.Errorf("the shop is in pod %d already; choose another one", to)})
	}
	src, dst, err = f.pair(from.Pod, to)
	if err != nil {
		return nil, nil, nil, refusal(shop, to, []error{err})
	}
	p = &prepared{Plan: Plan{From: from, To: to}}
	faults, err := f.inspect(ctx, src, dst, p, resumed)
	if err == nil && len(faults) > 0 {
		err = refusal(shop, to, faults)
	}
	if err != nil {
		src.db.Close()
		dst.db.Close()
		return nil, nil, nil, err
	}
	return src, dst, p, nil
}

// inspect returns what speaks against the move, as far as it can be found out:
// a server that can't be asked hides the rest.
func (f *Ferry) inspect(ctx context.Context, src, dst *server, p *prepared, resumed *podworks.Move) (faults []error, err error) {
	var ids [2]string
	var flavors [2]flavor.Flavor
	for i, s := range []*server{src, dst} {
		if flavors[i], err = flavor.Detect(ctx, s.db); err != nil {
			return []error{fmt.Errorf("pod %d can't be asked: %w", s.pod, err)}, nil
		}
		if err := s.db.QueryRowContext(ctx, `SELECT CONCAT_WS('|', @@hostname, @@port, @@socket, @@datadir, DATABASE())`).Scan(&ids[i]); err != nil {
			return []error{fmt.Errorf("pod %d can't be asked: %w", s.pod, err)}, nil
		}
	}
	p.flavor = flavors[0]
	if ids[0] == ids[1] {
		faults = append(faults, fmt.Errorf("pods %d and %d are one database (%s); give each its own", src.pod, dst.pod, ids[0]))
	}
	if flavors[0] != flavors[1] {
		faults = append(faults, fmt.Errorf("pod %d runs %s and pod %d runs %s; both must be of one family", src.pod, flavors[0], dst.pod, flavors[1]))
	}
	for _, s := range []*server{src, dst} {
		more, err := settings(ctx, s, s == src)
		if err != nil {
			return nil, fmt.Errorf("ferry: ask pod %d for its settings: %w", s.pod, err)
		}
		faults = append(faults, more...)
		more, err = grants(ctx, s, flavors[0], s == src)
		if err != nil {
			return nil, fmt.Errorf("ferry: ask pod %d for the user's privileges: %w", s.pod, err)
		}
		faults = append(faults, more...)
	}
	more, err := f.inspectTables(ctx, src, dst, p)
	if err != nil {
		return nil, fmt.Errorf("ferry: compare the schemas of pods %d and %d: %w", src.pod, dst.pod, err)
	}
	faults = append(faults, more...)
	if len(faults) > 0 {
		return faults, nil // what follows needs tables that are there
	}
	return f.inspectRows(ctx, src, dst, p, resumed)
}

// settings checks what the server must be set to.
func settings(ctx context.Context, s *server, source bool) (faults []error, err error) {
	vars := map[string]string{}
	err = each(ctx, s.db, func(rows *sql.Rows) error {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		vars[strings.ToLower(name)] = strings.ToUpper(value)
		return nil
	}, `SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_value_options',
		'binlog_order_commits', 'read_only', 'super_read_only', 'wsrep_on', 'group_replication_group_name', 'group_replication_single_primary_mode')`)
	if err != nil {
		return nil, err
	}
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("pod %d: "+format, append([]any{s.pod}, args...)...))
	}
	if vars["wsrep_on"] == "ON" {
		fault("a Galera cluster (wsrep_on is ON) certifies transactions without regard to the write fence's locks; the fence needs a server with one writable primary")
	}
	if vars["group_replication_group_name"] != "" && vars["group_replication_single_primary_mode"] == "OFF" {
		fault("a multi-primary group certifies transactions without regard to the write fence's locks; switch it to single-primary mode")
	}
	if vars["read_only"] == "ON" || vars["super_read_only"] == "ON" {
		fault("the server is read-only; a move writes to both ends, so name the primary")
	}
	if !source {
		return faults, nil
	}
	if vars["log_bin"] != "ON" {
		fault("the binary log is off; a move follows it: start the server with log_bin")
		return faults, nil
	}
	if v, ok := vars["binlog_format"]; ok && v != "ROW" { // which MySQL is about to make the only one
		fault("binlog_format is %s, want ROW: statements can't be followed row by row", v)
	}
	if v := vars["binlog_row_image"]; v != "FULL" {
		fault("binlog_row_image is %s, want FULL: a row is applied whole", v)
	}
	if v := vars["binlog_row_value_options"]; v != "" {
		fault("binlog_row_value_options is %s, want it empty: a JSON value is applied whole", v)
	}
	if v, ok := vars["binlog_order_commits"]; ok && v != "ON" {
		fault("binlog_order_commits is %s, want ON: a row must be visible before the log goes on", v)
	}
	return faults, nil
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
func grants(ctx context.Context, s *server, f flavor.Flavor, source bool) (faults []error, err error) {
	global, local := map[string]bool{}, map[string]bool{}
	err = each(ctx, s.db, func(rows *sql.Rows) error {
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
	if err != nil {
		return nil, err
	}
	if global["ALL PRIVILEGES"] || global["ALL"] {
		return nil, nil
	}
	for _, p := range onDatabase {
		if !global[p] && !local[p] && !local["ALL PRIVILEGES"] {
			faults = append(faults, fmt.Errorf("pod %d: user %s lacks the privilege %s on %s.*; grant it", s.pod, s.cfg.User, p, quote(s.cfg.DBName)))
		}
	}
	if !source {
		return faults, nil
	}
	for _, names := range needed[f] {
		if !slices.ContainsFunc(names, func(n string) bool { return global[n] }) {
			faults = append(faults, fmt.Errorf("pod %d: user %s lacks the privilege %s on *.*; grant it", s.pod, s.cfg.User, names[0]))
		}
	}
	return faults, nil
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

var integers = []string{"tinyint", "smallint", "mediumint", "int", "bigint"}

// others are the types of other columns whose values both the copy and the log
// carry unchanged. What is in neither list is refused.
var others = []string{"decimal", "float", "double", "bit", "year", "date", "time", "datetime", "timestamp", "enum", "set",
	"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "json", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob",
	"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection"}

// inspectTables compares the schemas and fills in the plan's tables.
func (f *Ferry) inspectTables(ctx context.Context, src, dst *server, p *prepared) (faults []error, err error) {
	source, err := describe(ctx, src.db)
	if err != nil {
		return nil, err
	}
	target, err := describe(ctx, dst.db)
	if err != nil {
		return nil, err
	}
	for _, name := range f.opts.Ignore {
		if _, ok := source[name]; !ok {
			faults = append(faults, fmt.Errorf("Options.Ignore names table %s, which pod %d doesn't have", name, src.pod))
		}
		delete(source, name)
	}
	var uncovered []string
	for _, name := range slices.Sorted(maps.Keys(source)) {
		t := source[name]
		if t.shop = t.column(f.opts.Column); t.shop < 0 {
			uncovered = append(uncovered, name)
			continue
		}
		if !slices.Contains(integers, t.columns[t.shop].dataType) {
			faults = append(faults, fmt.Errorf("table %s: column %s is %s, want an integer", name, f.opts.Column, t.columns[t.shop].fullType))
		}
		if t.versioned {
			faults = append(faults, fmt.Errorf("table %s is system-versioned; its history can't be moved", name))
		}
		for _, c := range t.columns {
			if !slices.Contains(integers, c.dataType) && !slices.Contains(others, c.dataType) || strings.Contains(strings.ToLower(c.fullType), "compressed") {
				faults = append(faults, fmt.Errorf("table %s: column %s is %s, a type that is not supported yet", name, c.name, c.fullType))
			}
		}
		other, ok := target[name]
		if !ok {
			faults = append(faults, fmt.Errorf("table %s is missing on pod %d; create it there", name, dst.pod))
		} else if d := t.difference(other); d != "" {
			faults = append(faults, fmt.Errorf("table %s differs: %s; make the schemas equal", name, d))
		}
		p.tables = append(p.tables, t)
	}
	for name, t := range target {
		if _, ok := source[name]; !ok && t.column(f.opts.Column) >= 0 && !slices.Contains(f.opts.Ignore, name) {
			faults = append(faults, fmt.Errorf("table %s is on pod %d only; make the schemas equal", name, dst.pod))
		}
	}
	if len(p.tables) == 0 {
		faults = append(faults, fmt.Errorf("pod %d has no table with a column %s; set Options.Column", src.pod, f.opts.Column))
	}
	if len(uncovered) > 0 {
		faults = append(faults, fmt.Errorf("no column %s and no rule for: %s; add the column, or name the tables in Options.Ignore if they hold no shop's rows",
			f.opts.Column, strings.Join(uncovered, ", ")))
	}
	for _, s := range []*server{src, dst} {
		more, err := f.inspectKeys(ctx, s, p)
		if err != nil {
			return nil, err
		}
		faults = append(faults, more...)
	}
	return faults, nil
}

// inspectKeys checks keys, engines, foreign keys and triggers on one side.
func (f *Ferry) inspectKeys(ctx context.Context, s *server, p *prepared) (faults []error, err error) {
	byName := map[string]*table{}
	for _, t := range p.tables {
		byName[t.name] = t
	}
	keys := map[string][]string{}
	if err := each(ctx, s.db, func(rows *sql.Rows) error {
		var name, column string
		if err := rows.Scan(&name, &column); err != nil {
			return err
		}
		keys[name] = append(keys[name], column)
		return nil
	}, `SELECT table_name, column_name FROM information_schema.statistics WHERE table_schema = DATABASE() AND index_name = 'PRIMARY'
		ORDER BY table_name, seq_in_index`); err != nil {
		return nil, err
	}
	for _, t := range p.tables {
		key := keys[t.name]
		if len(key) == 2 && strings.EqualFold(key[0], f.opts.Column) {
			key = key[1:]
			// MySQL likes a secondary index that begins with the shop's column better,
			// and then sorts the whole shop for each chunk.
			t.hint = ` FORCE INDEX (PRIMARY)`
		}
		i := -1
		if len(key) == 1 {
			i = t.column(key[0])
		}
		if i < 0 || i == t.shop || !slices.Contains(integers, t.columns[i].dataType) {
			faults = append(faults, fmt.Errorf("pod %d, table %s: the primary key is (%s), want one integer column, alone or after %s",
				s.pod, t.name, strings.Join(keys[t.name], ", "), f.opts.Column))
			continue
		}
		t.key = i
		if c := t.columns[i]; c.dataType == "bigint" && c.unsigned {
			faults = append(faults, fmt.Errorf("pod %d, table %s: key %s is bigint unsigned, which is not supported yet; want bigint", s.pod, t.name, c.name))
		}
	}
	if err := each(ctx, s.db, func(rows *sql.Rows) error {
		var name, engine string
		if err := rows.Scan(&name, &engine); err != nil {
			return err
		}
		if byName[name] != nil && !strings.EqualFold(engine, "InnoDB") {
			faults = append(faults, fmt.Errorf("pod %d, table %s: the engine is %s, want InnoDB: the write fence is a transaction's lock", s.pod, name, engine))
		}
		return nil
	}, `SELECT table_name, COALESCE(engine, '') FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'`); err != nil {
		return nil, err
	}
	if err := each(ctx, s.db, func(rows *sql.Rows) error {
		var name, constraint, onUpdate, onDelete string
		if err := rows.Scan(&name, &constraint, &onUpdate, &onDelete); err != nil {
			return err
		}
		for _, rule := range []string{onUpdate, onDelete} {
			if byName[name] != nil && rule != "RESTRICT" && rule != "NO ACTION" {
				faults = append(faults, fmt.Errorf("pod %d, table %s: foreign key %s has %s, whose changes don't reach the binary log", s.pod, name, constraint, rule))
			}
		}
		return nil
	}, `SELECT table_name, constraint_name, update_rule, delete_rule FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE()`); err != nil {
		return nil, err
	}
	if s.pod == p.From.Pod {
		return faults, nil
	}
	err = each(ctx, s.db, func(rows *sql.Rows) error {
		var name, trigger string
		if err := rows.Scan(&name, &trigger); err != nil {
			return err
		}
		if byName[name] != nil {
			faults = append(faults, fmt.Errorf("pod %d, table %s: trigger %s would run again for every row that is copied", s.pod, name, trigger))
		}
		return nil
	}, `SELECT event_object_table, trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()`)
	return faults, err
}

// inspectRows checks both fences, tries the privileges on the tables, and
// counts the rows.
func (f *Ferry) inspectRows(ctx context.Context, src, dst *server, p *prepared, resumed *podworks.Move) (faults []error, err error) {
	shop := p.From.Shop
	own := false // the rows on the target are those of the move to resume
	for _, s := range []*server{src, dst} {
		row, err := fence.Read(ctx, s.db, shop, "")
		switch {
		case missing(err):
			faults = append(faults, fmt.Errorf("pod %d has no table podworks_fence; run Migrate", s.pod))
		case err != nil:
			return nil, err
		case s == src && row == (fence.Row{Shop: shop, State: fence.Absent}):
			faults = append(faults, fmt.Errorf("pod %d: the shop has no row in podworks_fence, so nothing can make its writers wait; open it there as sharding's CreateShop does", s.pod))
		case s == src && (row.State != fence.Open || row.Epoch != p.From.Epoch):
			faults = append(faults, fmt.Errorf("pod %d: the directory says open at epoch %d, the fence says %v; recover an earlier move first", s.pod, p.From.Epoch, row))
		case s == dst && row.State == fence.Open:
			faults = append(faults, fmt.Errorf("pod %d: the directory says the shop is in pod %d, but here its fence is open (%v)", s.pod, src.pod, row))
		case s == dst:
			own = resumed != nil && row.State == fence.Incoming && row.Token <= resumed.Token
		}
	}
	if len(faults) > 0 {
		return faults, nil
	}
	faults = append(faults, f.try(ctx, src, dst, p)...)
	for _, t := range p.tables {
		where := fmt.Sprintf(` FROM %s WHERE %s = %d`, quote(t.name), quote(t.columns[t.shop].name), shop)
		var n int64
		if err := src.db.QueryRowContext(ctx, `SELECT COUNT(*)`+where).Scan(&n); err != nil {
			faults = append(faults, fmt.Errorf("pod %d, table %s: can't count the shop's rows: %w", src.pod, t.name, err))
			continue
		}
		p.Tables = append(p.Tables, TablePlan{Name: t.name, Rows: n})
		if own {
			continue
		}
		var there int64
		if err := dst.db.QueryRowContext(ctx, `SELECT COUNT(*)`+where).Scan(&there); err != nil {
			faults = append(faults, fmt.Errorf("pod %d, table %s: can't count the shop's rows: %w", dst.pod, t.name, err))
		} else if there > 0 {
			faults = append(faults, fmt.Errorf("pod %d, table %s: %d rows of shop %d are there already; if an earlier move left them, Clean removes them",
				dst.pod, t.name, there, shop))
		}
	}
	return faults, nil
}

// try runs statements that change nothing but need the privileges that the
// move will need.
func (f *Ferry) try(ctx context.Context, src, dst *server, p *prepared) (faults []error) {
	run := func(s *server, query string) {
		_, err := s.db.ExecContext(ctx, query)
		switch {
		case err == nil:
		case missing(err):
			faults = append(faults, fmt.Errorf("pod %d lacks a table of ferry's; run Migrate: %w", s.pod, err))
		default:
			faults = append(faults, fmt.Errorf("pod %d: user %s can't do what the move needs: %w; grant it", s.pod, s.cfg.User, err))
		}
	}
	for _, t := range []string{"podworks_marker", "podworks_fence"} {
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
	for _, name := range []string{"podworks_fence", "podworks_ferry_tail", "podworks_ferry_copy"} {
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
		run(dst, `INSERT INTO `+quote(t.name)+` (`+list+`) SELECT `+list+` FROM `+quote(t.name)+` WHERE 1 = 0`)
	}
	var prepared int
	if err := each(ctx, src.db, func(*sql.Rows) error { prepared++; return nil }, `XA RECOVER`); err != nil {
		faults = append(faults, fmt.Errorf("pod %d: user %s can't ask for prepared transactions: %w; grant it", src.pod, src.cfg.User, err))
	} else if prepared > 0 {
		faults = append(faults, fmt.Errorf("pod %d has %d prepared XA transactions, which hold no fence; end them", src.pod, prepared))
	}
	return faults
}

// missing reports whether the server said that a table doesn't exist.
func missing(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number == 1146
}
