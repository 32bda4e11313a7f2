package ferry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/podworks/podworks/internal/flavor"
)

// A table is a table whose rows belong to shops, as the server describes it.
type table struct {
	name    string
	columns []column    // in the order of the table, which is that of the log's row images
	uniques []uniqueKey // the primary key first

	shop   int    // index of the column that says whose a row is, -1 of a joined table
	tenant string // its value for the shop in SQL,
	own    []byte // and as bytes, in the key form

	refs     []reference // of a joined table; the first decides
	children []*table    // whose first reference is to this one
	place    int         // in the move's tables, -1 if it isn't one

	referring []*foreignKey // that refer to this table
	follows   bool          // foreign keys change its rows

	// key has the indexes of the columns that tell the shop's rows apart. The
	// shop's own column is not among them: it is the same in all of the rows. So
	// key is empty for a table that has one row for each shop.
	key     []int
	keyless bool   // nothing tells the rows apart; they are copied and compared as a whole
	hint    string // FORCE INDEX, where the servers would choose another than the key's

	versioned bool // by the system, which keeps a history
	onUpdate  bool // triggers on the target run for updates
	rewritten bool // a trigger on the target gives inserted rows other values
}

// A uniqueKey is a unique index.
type uniqueKey struct {
	name    string
	columns []string
	rows    bool // it can tell rows apart: whole columns that are never NULL, and the server uses it
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
	length    int    // of binary, and the digits of a fraction of TIME
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
		tables[name] = &table{name: name, shop: -1, place: -1, versioned: kind != "BASE TABLE"}
		return nil
	}, `SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
		AND table_name NOT LIKE 'podworks\_%'`)
	if err != nil {
		return nil, err
	}
	err = each(ctx, db, func(rows *sql.Rows) error {
		var name, null string
		var charset, collation, formula sql.NullString
		var length uint64
		var c column
		if err := rows.Scan(&name, &c.name, &c.dataType, &c.fullType, &length, &charset, &collation, &null, &c.extra, &formula); err != nil {
			return err
		}
		t, ok := tables[name]
		if !ok {
			return nil
		}
		c.dataType, c.extra = strings.ToLower(c.dataType), strings.ToLower(c.extra)
		c.charset, c.collation, c.formula, c.null = charset.String, collation.String, formula.String, null == "YES"
		switch c.dataType {
		case "binary":
			c.length = int(length)
		case "time":
			fmt.Sscanf(c.fullType, "time(%d)", &c.length)
		}
		c.unsigned = strings.Contains(strings.ToLower(c.fullType), "unsigned")
		// DEFAULT_GENERATED is MySQL's word for a default that is an expression.
		c.generated = strings.Contains(strings.ReplaceAll(c.extra, "default_generated", ""), "generated")
		t.columns = append(t.columns, c)
		return nil
	}, `SELECT table_name, column_name, data_type, column_type, COALESCE(character_maximum_length, 0), character_set_name, collation_name, is_nullable, extra, generation_expression
		FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position`)
	if err != nil {
		return nil, err
	}
	f, err := flavor.Detect(ctx, db)
	if err != nil {
		return nil, err
	}
	err = each(ctx, db, func(rows *sql.Rows) error {
		var name, kind string
		var x uniqueKey
		var column, null sql.NullString
		var part sql.NullInt64
		var used bool
		if err := rows.Scan(&name, &x.name, &column, &part, &null, &kind, &used); err != nil {
			return err
		}
		t, ok := tables[name]
		if !ok {
			return nil
		}
		if n := len(t.uniques); n == 0 || t.uniques[n-1].name != x.name {
			x.rows = true
			t.uniques = append(t.uniques, x)
		}
		last := &t.uniques[len(t.uniques)-1]
		last.columns = append(last.columns, column.String)
		// MySQL has no name for the column of an expression. MariaDB finds values
		// too long for an index by their hash.
		last.rows = last.rows && column.Valid && !part.Valid && null.String != "YES" && kind == "BTREE" && used
		return nil
	}, `SELECT table_name, index_name, column_name, sub_part, nullable, index_type, `+usedIndex(f)+` FROM information_schema.statistics
		WHERE table_schema = DATABASE() AND non_unique = 0 ORDER BY table_name, index_name <> 'PRIMARY', index_name, seq_in_index`)
	return tables, err
}

// usedIndex is the condition that the server's optimizer uses an index, in
// information_schema.statistics.
func usedIndex(f flavor.Flavor) string {
	if f == flavor.MySQL {
		return `is_visible = 'YES'`
	}
	return `ignored = 'NO'`
}

// column returns the index of a column by name, or -1.
func (t *table) column(name string) int {
	return slices.IndexFunc(t.columns, func(c column) bool { return strings.EqualFold(c.name, name) })
}

// identify chooses what tells the shop's rows apart: the primary key, else the
// unique key with the fewest columns whose values are never NULL, else nothing.
func (t *table) identify() {
	best := -1
	for i, x := range t.uniques {
		if !x.rows || slices.ContainsFunc(x.columns, func(name string) bool { return !t.columns[t.column(name)].inKeys() }) {
			continue
		}
		if best < 0 || t.uniques[best].name != "PRIMARY" && len(x.columns) < len(t.uniques[best].columns) {
			best = i
		}
	}
	t.key, t.hint, t.keyless = nil, "", best < 0
	if t.keyless {
		return
	}
	x := t.uniques[best]
	for _, name := range x.columns {
		if i := t.column(name); i != t.shop {
			t.key = append(t.key, i)
		}
	}
	if t.shop < 0 || t.column(x.columns[0]) == t.shop {
		// MySQL likes a secondary index that begins with the shop's column better, or
		// to begin with the parents of a joined table, and then sorts the whole shop
		// for each chunk.
		t.hint = ` FORCE INDEX (` + quote(x.name) + `)`
	}
}

// each runs a query on a *sql.DB, *sql.Conn or *sql.Tx and calls scan for each row.
func each(ctx context.Context, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, scan func(*sql.Rows) error, query string, args ...any) error {
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
