package ferry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

// A table is a table whose rows belong to shops, as the server describes it.
type table struct {
	name    string
	columns []column // in the order of the table, which is that of the log's row images
	shop    int      // index of the shop's column
	key     int      // index of the key's
	unique  string   // its unique keys, for comparing

	versioned bool   // by the system, which keeps a history
	hint      string // FORCE INDEX, where the primary key begins with the shop's column
}

// A column is a column as the server describes it.
type column struct {
	name      string
	dataType  string // "int", "varchar", …
	fullType  string // "int(10) unsigned", …
	charset   string // of text
	collation string
	null      bool
	extra     string // auto_increment, generated, invisible, …
	formula   string // of a generated column
	unsigned  bool
	generated bool
}

// quote quotes an identifier.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// writable returns the indexes of the columns that can be written.
func (t *table) writable() []int {
	var out []int
	for i, c := range t.columns {
		if !c.generated {
			out = append(out, i)
		}
	}
	return out
}

// describe reads the base tables of the connection's database with their
// columns, by name. Views are not base tables; the suite's own tables are left
// out.
func describe(ctx context.Context, db *sql.DB) (map[string]*table, error) {
	tables := map[string]*table{}
	err := each(ctx, db, func(rows *sql.Rows) error {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			return err
		}
		tables[name] = &table{name: name, shop: -1, key: -1, versioned: kind != "BASE TABLE"}
		return nil
	}, `SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
		AND table_name NOT LIKE 'podworks\_%'`)
	if err != nil {
		return nil, err
	}
	err = each(ctx, db, func(rows *sql.Rows) error {
		var name, null string
		var charset, collation, formula sql.NullString
		var c column
		if err := rows.Scan(&name, &c.name, &c.dataType, &c.fullType, &charset, &collation, &null, &c.extra, &formula); err != nil {
			return err
		}
		t, ok := tables[name]
		if !ok {
			return nil
		}
		c.dataType, c.extra = strings.ToLower(c.dataType), strings.ToLower(c.extra)
		c.charset, c.collation, c.formula, c.null = charset.String, collation.String, formula.String, null == "YES"
		c.unsigned = strings.Contains(strings.ToLower(c.fullType), "unsigned")
		// DEFAULT_GENERATED is MySQL's word for a default that is an expression.
		c.generated = strings.Contains(strings.ReplaceAll(c.extra, "default_generated", ""), "generated")
		t.columns = append(t.columns, c)
		return nil
	}, `SELECT table_name, column_name, data_type, column_type, character_set_name, collation_name, is_nullable, extra, generation_expression
		FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position`)
	if err != nil {
		return nil, err
	}
	err = each(ctx, db, func(rows *sql.Rows) error {
		var name, index, column string
		if err := rows.Scan(&name, &index, &column); err != nil {
			return err
		}
		if t, ok := tables[name]; ok {
			t.unique += " " + index + "." + column
		}
		return nil
	}, `SELECT table_name, index_name, CONCAT(COALESCE(column_name, '(expression)'), COALESCE(CONCAT('(', sub_part, ')'), ''))
		FROM information_schema.statistics WHERE table_schema = DATABASE() AND non_unique = 0 ORDER BY table_name, index_name, seq_in_index`)
	return tables, err
}

// column returns the index of a column by name, or -1.
func (t *table) column(name string) int {
	return slices.IndexFunc(t.columns, func(c column) bool { return strings.EqualFold(c.name, name) })
}

// difference says how other differs from t in what a row's values depend on, or "".
func (t *table) difference(other *table) string {
	var diffs []string
	for i := range max(len(t.columns), len(other.columns)) {
		switch {
		case i >= len(other.columns):
			diffs = append(diffs, fmt.Sprintf("column %s is missing on the target", t.columns[i].name))
		case i >= len(t.columns):
			diffs = append(diffs, fmt.Sprintf("column %s is on the target only", other.columns[i].name))
		case t.columns[i] != other.columns[i]:
			diffs = append(diffs, fmt.Sprintf("column %d is %v on the source and %v on the target", i+1, t.columns[i], other.columns[i]))
		}
	}
	if t.unique != other.unique {
		diffs = append(diffs, fmt.Sprintf("the unique keys are%s on the source and%s on the target", t.unique, other.unique))
	}
	return strings.Join(diffs, ", ")
}

func (c column) String() string {
	s := c.name + " " + c.fullType
	if c.collation != "" {
		s += " collate " + c.collation
	}
	if !c.null {
		s += " not null"
	}
	if c.extra != "" {
		s += " " + c.extra
	}
	if c.formula != "" {
		s += " as " + c.formula
	}
	return s
}

// each runs a query and calls scan for each row.
func each(ctx context.Context, db *sql.DB, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
