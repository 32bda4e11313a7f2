package ferry

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
)

// A schema is what a server says of one table.
type schema struct {
	columns       []definition
	indexes       []index
	created       created
	rowFormat     string
	collation     string // of columns added later
	autoIncrement uint64
	longest       int64             // bytes that a row can have at most
	triggers      map[string]string // by name, what they do
}

// A definition is a column as information_schema describes it.
type definition struct {
	name, kind, dataType string // kind is the whole type, "int unsigned"
	charset, collation   string // of text
	null                 bool
	def                  string // default, as the server writes it; "none"
	extra, formula       string
}

// An index is a key of a table.
type index struct {
	name   string
	unique bool
	search bool // finds rows by value, and the server uses it
	parts  []indexPart
}

// An indexPart is one column of an index.
type indexPart struct {
	column string // "" if it is an expression
	prefix bool   // only the first characters count
}

// column returns the index of a column by name, or -1.
func (s *schema) column(name string) int {
	return slices.IndexFunc(s.columns, func(d definition) bool { return strings.EqualFold(d.name, name) })
}

// leading returns the index that finds rows by one column: the primary key if
// it begins with it, because then the rows lie together; else the longest.
func (s *schema) leading(column string) string {
	best, parts := "", 0
	for _, ix := range s.indexes {
		if !ix.search || len(ix.parts) == 0 || ix.parts[0].prefix || !strings.EqualFold(ix.parts[0].column, column) {
			continue
		}
		if ix.name == "PRIMARY" {
			return ix.name
		}
		if len(ix.parts) > parts {
			best, parts = ix.name, len(ix.parts)
		}
	}
	return best
}

// readSchemas describes these tables of a server, as far as it has them.
func readSchemas(ctx context.Context, s *server, f flavor.Flavor, names []string) (map[string]*schema, error) {
	// MySQL keeps what it says of AUTO_INCREMENT for a day, unless a session
	// wants it fresh.
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	expression := `NULL`
	if f == flavor.MySQL {
		expression = `expression`
		if _, err := conn.ExecContext(ctx, `SET SESSION information_schema_stats_expiry = 0`); err != nil {
			return nil, err
		}
	}
	// MariaDB writes a sequence in a default with its database, which needs not have
	// the same name in every pod.
	local := func(text string) string { return strings.ReplaceAll(text, "val("+quote(s.cfg.DBName)+".", "val(") }
	schemas := map[string]*schema{}
	query := func(scan func(*sql.Rows) error, query string) {
		if err == nil {
			err = each(ctx, conn, scan, query)
		}
	}
	query(func(rows *sql.Rows) error {
		var name string
		var n schema
		if err := rows.Scan(&name, &n.rowFormat, &n.collation, &n.autoIncrement); err != nil {
			return err
		}
		if slices.Contains(names, name) {
			n.triggers = map[string]string{}
			schemas[name] = &n
		}
		return nil
	}, `SELECT table_name, COALESCE(row_format, ''), COALESCE(table_collation, ''), COALESCE(auto_increment, 0)
		FROM information_schema.tables WHERE table_schema = DATABASE()`)
	query(func(rows *sql.Rows) error {
		var name, null string
		var def sql.NullString
		var d definition
		var longest int64
		if err := rows.Scan(&name, &d.name, &d.dataType, &d.kind, &d.charset, &d.collation, &null, &def, &d.extra, &d.formula, &longest); err != nil {
			return err
		}
		n, ok := schemas[name]
		if !ok {
			return nil
		}
		d.dataType, d.extra, d.null = strings.ToLower(d.dataType), strings.ToLower(d.extra), null == "YES"
		d.def = "none"
		if def.Valid {
			d.def = local(def.String)
		}
		n.columns = append(n.columns, d)
		n.longest += longest
		return nil
	}, `SELECT table_name, column_name, data_type, column_type, COALESCE(character_set_name, ''), COALESCE(collation_name, ''), is_nullable,
		column_default, extra, COALESCE(generation_expression, ''),
		LEAST(CASE WHEN data_type IN ('json', 'geometry', 'linestring', 'polygon', 'multipoint', 'multilinestring', 'multipolygon', 'geomcollection', 'geometrycollection')
			THEN 4294967295 ELSE COALESCE(character_octet_length, 8) END, 4294967295)
		FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position`)
	query(func(rows *sql.Rows) error {
		var name, key string
		var part indexPart
		var unique, search bool
		if err := rows.Scan(&name, &key, &unique, &search, &part.column, &part.prefix); err != nil {
			return err
		}
		n, ok := schemas[name]
		if !ok {
			return nil
		}
		if len(n.indexes) == 0 || n.indexes[len(n.indexes)-1].name != key {
			n.indexes = append(n.indexes, index{name: key, unique: unique, search: search})
		}
		ix := &n.indexes[len(n.indexes)-1]
		ix.parts = append(ix.parts, part)
		return nil
	}, `SELECT table_name, index_name, non_unique = 0, index_type = 'BTREE' AND `+usedIndex(f)+`,
		CASE WHEN `+expression+` IS NULL THEN COALESCE(column_name, '') ELSE '' END, sub_part IS NOT NULL
		FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index`)
	query(func(rows *sql.Rows) error {
		var name, trigger, does string
		if err := rows.Scan(&name, &trigger, &does); err != nil {
			return err
		}
		if n, ok := schemas[name]; ok {
			n.triggers[trigger] = does
		}
		return nil
	}, `SELECT event_object_table, trigger_name, CONCAT(action_timing, ' ', event_manipulation, ' ', action_statement)
		FROM information_schema.triggers WHERE trigger_schema = DATABASE()`)
	for name, n := range schemas {
		query(func(rows *sql.Rows) error {
			var text string
			if err := rows.Scan(&name, &text); err != nil {
				return err
			}
			n.created = parseCreate(local(text))
			return nil
		}, `SHOW CREATE TABLE `+quote(name))
	}
	return schemas, err
}

// A created is a table as SHOW CREATE TABLE writes it, taken apart: what it
// says of columns, by lower-case name, and of keys and constraints, by what they
// are without their names. The texts are good for an ALTER TABLE.
type created struct {
	columns     map[string]string
	keys        map[string]string // by "UNIQUE KEY (`a`,`b`)"
	checks      map[string]string // by "CHECK (…)"
	foreign     map[string]string // by "FOREIGN KEY …"
	partitioned string
}

var (
	createColumn     = regexp.MustCompile("^`((?:[^`]|``)+)` (.+)$")
	createKey        = regexp.MustCompile("^((?:UNIQUE |FULLTEXT |SPATIAL |VECTOR )?KEY)(?: `(?:[^`]|``)+`)( .+)$")
	createConstraint = regexp.MustCompile("^CONSTRAINT `(?:[^`]|``)+` ((CHECK|FOREIGN KEY) .+)$")
)

// parseCreate takes SHOW CREATE TABLE's text apart. It has a line for each
// column and key; line breaks within values are escaped there.
func parseCreate(text string) created {
	c := created{columns: map[string]string{}, keys: map[string]string{}, checks: map[string]string{}, foreign: map[string]string{}}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if i > 0 && strings.HasPrefix(line, ")") {
			c.partitioned = strings.Join(strings.Fields(strings.Join(lines[i+1:], " ")), " ")
			break
		}
		line = strings.TrimSuffix(strings.TrimSpace(line), ",")
		if m := createColumn.FindStringSubmatch(line); m != nil {
			c.columns[strings.ToLower(strings.ReplaceAll(m[1], "``", "`"))] = line
		} else if strings.HasPrefix(line, "PRIMARY KEY ") {
			c.keys[line] = line
		} else if strings.HasPrefix(line, "PERIOD FOR ") {
			c.checks[line] = line
		} else if m := createKey.FindStringSubmatch(line); m != nil {
			c.keys[m[1]+m[2]] = line
		} else if m := createConstraint.FindStringSubmatch(line); m != nil {
			if m[2] == "CHECK" {
				c.checks[m[1]] = line
			} else {
				c.foreign[m[1]] = line
			}
		}
	}
	return c
}

// compareSchemas describes the plan's tables on both sides and finds their
// differences, but for how they are stored (encryption, compression). Those that decide what a row's values are and which rows there may
// be refuse the move; the others warn.
func (p *prepared) compareSchemas(ctx context.Context, src, dst *server) error {
	var names []string
	for _, t := range p.tables {
		names = append(names, t.name)
	}
	p.schemas = map[podworks.PodID]map[string]*schema{}
	for _, s := range []*server{src, dst} {
		var err error
		if p.schemas[s.pod], err = readSchemas(ctx, s, p.flavor, names); err != nil {
			return fmt.Errorf("describe the tables of pod %d: %w", s.pod, err)
		}
	}
	for _, name := range names {
		if a, b := p.schemas[src.pod][name], p.schemas[dst.pod][name]; a != nil && b != nil {
			d := differ{from: src.pod, to: dst.pod, table: name, unlogged: p.unlogged}
			d.compare(a, b)
			p.find(d.found...)
		}
	}
	return nil
}

// A differ compares one table's schemas.
type differ struct {
	from, to podworks.PodID
	table    string
	unlogged bool // what foreign keys change isn't in the source's log
	found    []Finding
}

var changesRows = regexp.MustCompile(` ON (DELETE|UPDATE) (CASCADE|SET )`)

// on adds a finding, with the statement that mends it in a pod.
func (d *differ) on(sev Severity, pod podworks.PodID, alter, format string, args ...any) {
	f := Finding{Severity: sev, Table: d.table, What: fmt.Sprintf(format, args...)}
	if alter != "" {
		f.Do = fmt.Sprintf("in pod %d: ALTER TABLE %s %s", pod, quote(d.table), alter)
	}
	d.found = append(d.found, f)
}

// compare finds what differs between the source's table a and the target's b.
func (d *differ) compare(a, b *schema) {
	var order [2][]string // of the columns that both have
	for i, c := range a.columns {
		j := b.column(c.name)
		if j < 0 {
			at := "FIRST"
			if i > 0 {
				at = "AFTER " + quote(a.columns[i-1].name)
			}
			d.on(Refuse, d.to, "ADD COLUMN "+a.written(c)+" "+at, "column %s is on pod %d only", c.name, d.from)
			continue
		}
		order[0] = append(order[0], strings.ToLower(c.name))
		d.column(a, b, c, b.columns[j])
		d.sequence(c)
	}
	for _, c := range b.columns {
		if a.column(c.name) < 0 {
			d.on(Refuse, d.to, "DROP COLUMN "+quote(c.name)+", or add it in pod "+fmt.Sprint(d.from), "column %s is on pod %d only", c.name, d.to)
			continue
		}
		order[1] = append(order[1], strings.ToLower(c.name))
	}
	if !slices.Equal(order[0], order[1]) {
		i := 0
		for order[0][i] == order[1][i] {
			i++
		}
		at := "FIRST"
		if i > 0 {
			at = "AFTER " + quote(order[0][i-1])
		}
		d.on(Refuse, d.to, "MODIFY COLUMN "+a.written(a.columns[a.column(order[0][i])])+" "+at,
			"the columns' order is %s on pod %d and %s on pod %d", strings.Join(order[0], ", "), d.from, strings.Join(order[1], ", "), d.to)
	}
	d.only(a.created.keys, b.created.keys, func(key string) Severity {
		if strings.HasPrefix(key, "UNIQUE") || strings.HasPrefix(key, "PRIMARY") {
			return Refuse
		}
		return Warn
	})
	d.only(a.created.checks, b.created.checks, func(string) Severity { return Refuse })
	d.only(a.created.foreign, b.created.foreign, func(key string) Severity {
		if d.unlogged && changesRows.MatchString(key) {
			return Refuse // the target's are to do what the source's do
		}
		return Warn
	})
	for _, w := range []struct{ what, a, b, alter string }{
		{"row format", a.rowFormat, b.rowFormat, "ROW_FORMAT=" + strings.ToUpper(a.rowFormat)},
		{"default collation, of columns to come,", modern(a.collation), modern(b.collation), "DEFAULT COLLATE " + a.collation},
		{"partitioning", a.created.partitioned, b.created.partitioned, ""},
	} {
		if w.a != w.b {
			d.on(Warn, d.to, w.alter, "the %s is %s on pod %d and %s on pod %d", w.what, orNone(w.a), d.from, orNone(w.b), d.to)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.triggers)) {
		if b.triggers[name] != a.triggers[name] {
			d.on(Warn, 0, "", "trigger %s of pod %d is not the same on pod %d, so after the move the shop's rows are written without it", name, d.from, d.to)
		}
	}
}

// column compares two definitions of a column, one aspect at a time.
func (d *differ) column(as, bs *schema, a, b definition) {
	mend := "MODIFY COLUMN " + as.written(a)
	aspects := []struct{ what, a, b string }{
		{"type", a.plain(), b.plain()},
		{"character set", modern(a.charset), modern(b.charset)},
		{"collation", modern(a.collation), modern(b.collation)},
		{"nullability", a.nullable(), b.nullable()},
		{"default", a.defaults(), b.defaults()},
		{"generated value", a.generated(), b.generated()},
		{"value at an update", a.onUpdate(), b.onUpdate()},
		{"visibility", a.visible(), b.visible()},
		{"numbering", a.numbering(), b.numbering()},
		{"check", as.check(a.name), bs.check(b.name)},
		{"SRID", as.srid(a.name), bs.srid(b.name)},
	}
	for i, s := range aspects {
		if s.a == s.b || s.what == "collation" && aspects[i-1].a != aspects[i-1].b {
			continue // a collation belongs to one character set, so that is said already
		}
		d.on(Refuse, d.to, mend, "column %s: the %s is %s on pod %d and %s on pod %d", a.name, s.what, orNone(s.a), d.from, orNone(s.b), d.to)
	}
}

// sequence warns of a column that a sequence of MariaDB's numbers.
func (d *differ) sequence(a definition) {
	if strings.Contains(a.def, "nextval(") {
		d.found = append(d.found, Finding{Severity: Warn, Pod: d.to, Table: d.table,
			What: fmt.Sprintf("column %s is numbered by a sequence (%s), and how far that is on pod %d is not handed over", a.name, a.def, d.from),
			Do:   "let the pods' sequences give different numbers, or SETVAL this one beyond the other's before the move"})
	}
}

// only finds keys or constraints that one side lacks.
func (d *differ) only(a, b map[string]string, severity func(string) Severity) {
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if b[key] == "" {
			d.on(severity(key), d.to, "ADD "+a[key], "%s is on pod %d only", key, d.from)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if a[key] == "" {
			d.on(severity(key), d.from, "ADD "+b[key]+", or drop it in pod "+fmt.Sprint(d.to), "%s is on pod %d only", key, d.to)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// written returns the column as CREATE TABLE has it, with the character set
// and collation that are only implied there, because the other table may imply
// others.
func (s *schema) written(c definition) string {
	line := s.created.columns[strings.ToLower(c.name)]
	start := quote(c.name) + " " + c.kind
	if c.collation == "" || !strings.HasPrefix(line, start) || strings.HasPrefix(line[len(start):], " CHARACTER SET ") {
		return line
	}
	rest := line[len(start):]
	if strings.HasPrefix(rest, " COLLATE ") {
		return start + " CHARACTER SET " + c.charset + rest
	}
	return start + " CHARACTER SET " + c.charset + " COLLATE " + c.collation + rest
}

// check returns a column's own check, which MariaDB keeps with the column.
func (s *schema) check(column string) string {
	_, check, _ := strings.Cut(s.created.columns[strings.ToLower(column)], " CHECK (")
	return strings.TrimSuffix(check, ")")
}

// srid returns the only reference system that MySQL takes in a column.
func (s *schema) srid(column string) string {
	_, id, _ := strings.Cut(s.created.columns[strings.ToLower(column)], " /*!80003 SRID ")
	id, _, _ = strings.Cut(id, " ")
	return id
}

var width = regexp.MustCompile(`^((?:tiny|small|medium|big)?int)\(\d+\)`)

// plain is the type without an integer's display width, which some versions
// write and others don't, and which changes nothing unless it fills up zeros.
func (d definition) plain() string {
	kind := strings.ToLower(d.kind)
	if strings.HasPrefix(kind, "enum") || strings.HasPrefix(kind, "set") {
		return d.kind
	}
	if strings.Contains(kind, "zerofill") {
		return kind
	}
	return width.ReplaceAllString(kind, "$1")
}

// modern gives the three-byte utf8 the name that new versions give it.
func modern(charset string) string {
	if charset == "utf8" || strings.HasPrefix(charset, "utf8_") {
		return "utf8mb3" + strings.TrimPrefix(charset, "utf8")
	}
	return charset
}

func (d definition) nullable() string {
	if d.null {
		return "NULL"
	}
	return "NOT NULL"
}

func (d definition) defaults() string {
	if d.def == "NULL" { // as MariaDB says it
		return "none"
	}
	if strings.Contains(d.extra, "default_generated") {
		return "(" + d.def + ")" // MySQL's expressions, apart from texts
	}
	return d.def
}

func (d definition) generated() string {
	for _, kind := range []string{"stored", "virtual", "persistent"} {
		if strings.Contains(d.extra, kind+" generated") {
			return d.formula + " " + strings.ToUpper(kind)
		}
	}
	return d.formula
}

func (d definition) onUpdate() string {
	_, value, _ := strings.Cut(d.extra, "on update ")
	return value
}

func (d definition) visible() string {
	if strings.Contains(d.extra, "invisible") {
		return "INVISIBLE"
	}
	return "VISIBLE"
}

func (d definition) numbering() string {
	if strings.Contains(d.extra, "auto_increment") {
		return "AUTO_INCREMENT"
	}
	return ""
}
