package sharding

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podworks/podworks"
)

// A Problem is something in a pod's schema that keeps shops from being served
// from it, or from being moved.
type Problem struct {
	Pod   podworks.PodID
	Table string // or "" for the pod as a whole
	What  string // what was seen, and what to do
}

func (p Problem) String() string {
	if p.Table == "" {
		return fmt.Sprintf("pod %d: %s", p.Pod, p.What)
	}
	return fmt.Sprintf("pod %d: table %s: %s", p.Pod, p.Table, p.What)
}

// Check looks for tables without shop_id or without an index that begins with
// it, for tables that keep no transactions, and for what differs between the
// schemas of the pods, of which the lowest is taken for the model; and for servers
// on which the write fence doesn't hold, which refuse every connection. It reads
// information_schema and variables only. Run it in CI, after migrations, and when
// the application starts.
//
// Tables that belong to no shop, such as that of a migration tool, are named in
// ignore. podworks_* tables are ignored anyway.
func (c *Cluster) Check(ctx context.Context, ignore ...string) ([]Problem, error) {
	var problems []Problem
	var model []schemaTable
	var modelPod podworks.PodID
	for _, id := range c.Pods() {
		var refused *Error
		switch err := c.pods[id].db().PingContext(ctx); {
		case errors.As(err, &refused):
			problems = append(problems, Problem{Pod: id, What: refused.Note})
		case err != nil:
			return nil, fmt.Errorf("sharding: check pod %d: %w", id, err)
		}
		var tables []schemaTable
		var fenced bool
		err := c.pods[id].unscoped(ctx, func(db *sql.DB) (err error) {
			tables, err = tablesOf(ctx, db)
			if err != nil {
				return err
			}
			return db.QueryRowContext(ctx, `SELECT COUNT(*) > 0 FROM information_schema.tables
				WHERE table_schema = DATABASE() AND table_name = 'podworks_fence' AND engine = 'InnoDB'`).Scan(&fenced)
		})
		if err != nil {
			return nil, fmt.Errorf("sharding: check pod %d: %w", id, err)
		}
		if !fenced && c.pods[id].locker == nil {
			problems = append(problems, Problem{Pod: id, What: "there is no InnoDB table podworks_fence, so no shop can write; run Migrate"})
		}
		tables = slices.DeleteFunc(tables, func(t schemaTable) bool { return slices.Contains(ignore, t.name) })
		for _, t := range tables {
			for _, what := range t.problems() {
				problems = append(problems, Problem{id, t.name, what})
			}
		}
		if model == nil {
			model, modelPod = tables, id
			continue
		}
		for _, p := range differences(tables, model, modelPod) {
			p.Pod = id
			problems = append(problems, p)
		}
	}
	return problems, nil
}

// A schemaTable is what information_schema says of one.
type schemaTable struct {
	name    string
	engine  string
	columns []column
	indexes []column // one for each index: its name, and its columns
}

// A column has a name and a description in which two that are alike agree.
type column struct{ name, is string }

func (t *schemaTable) has(name string) bool {
	return slices.ContainsFunc(t.columns, func(c column) bool { return strings.EqualFold(c.name, name) })
}

func (t *schemaTable) problems() []string {
	var out []string
	if !strings.EqualFold(t.engine, "InnoDB") {
		out = append(out, fmt.Sprintf("its engine is %s, which has no transactions, so the fence can't hold its writes; make it InnoDB", t.engine))
	}
	if !t.has("shop_id") {
		return append(out, "it has no column shop_id, so its rows belong to no shop and stay behind in a move; add the column, put the table into the master database, or name it as one to ignore")
	}
	if !slices.ContainsFunc(t.indexes, func(i column) bool {
		first, _, _ := strings.Cut(i.is, ", ")
		return strings.EqualFold(strings.TrimPrefix(first, "unique "), "shop_id")
	}) {
		out = append(out, "no index begins with shop_id, so whoever reads one shop's rows, a mover for instance, reads everybody's; add one, best as the primary key's first column")
	}
	return out
}

// differences says in what tables are unlike the model.
func differences(tables, model []schemaTable, of podworks.PodID) []Problem {
	var out []Problem
	names := map[string]schemaTable{}
	for _, t := range tables {
		names[t.name] = t
	}
	for _, want := range model {
		note := func(format string, args ...any) {
			out = append(out, Problem{Table: want.name, What: fmt.Sprintf(format, args...)})
		}
		have, ok := names[want.name]
		if !ok {
			note("it is not here, and in pod %d it is; run the migration that makes it", of)
			continue
		}
		delete(names, want.name)
		if have.engine != want.engine {
			note("its engine is %s, and in pod %d %s", have.engine, of, want.engine)
		}
		compare := func(kind string, have, want []column) {
			is := map[string]string{}
			for _, c := range have {
				is[c.name] = c.is
			}
			for _, c := range want {
				switch got, ok := is[c.name]; {
				case !ok:
					note("%s %s is not here, and in pod %d it is", kind, c.name, of)
				case got != c.is:
					note("%s %s is (%s), and in pod %d it is (%s)", kind, c.name, got, of, c.is)
				}
				delete(is, c.name)
			}
			for _, name := range slices.Sorted(maps.Keys(is)) {
				note("%s %s is here, and in pod %d it is not", kind, name, of)
			}
		}
		compare("column", have.columns, want.columns)
		compare("index", have.indexes, want.indexes)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		out = append(out, Problem{Table: name, What: fmt.Sprintf("it is here, and in pod %d it is not", of)})
	}
	return out
}

// tablesOf reads the application's tables of a pod, in the order of their names.
func tablesOf(ctx context.Context, db *sql.DB) ([]schemaTable, error) {
	var tables []schemaTable
	places := map[string]int{}
	err := scan(ctx, db, 2, func(f []string) {
		if !strings.HasPrefix(f[0], "podworks_") {
			places[f[0]] = len(tables)
			tables = append(tables, schemaTable{name: f[0], engine: f[1]})
		}
	}, `SELECT table_name, COALESCE(engine, 'none') FROM information_schema.tables
		WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY table_name`)
	if err != nil {
		return nil, err
	}
	err = scan(ctx, db, 3, func(f []string) {
		if i, ok := places[f[0]]; ok {
			tables[i].columns = append(tables[i].columns, column{f[1], f[2]})
		}
	}, `SELECT table_name, column_name, CONCAT_WS(' ', column_type, IF(is_nullable = 'YES', 'NULL', 'NOT NULL'),
			CONCAT('DEFAULT ', column_default), CONCAT('COLLATE ', collation_name), NULLIF(extra, ''), NULLIF(generation_expression, ''))
		FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position`)
	if err != nil {
		return nil, err
	}
	err = scan(ctx, db, 4, func(f []string) {
		i, ok := places[f[0]]
		if !ok {
			return
		}
		indexes := &tables[i].indexes
		if n := len(*indexes); n > 0 && (*indexes)[n-1].name == f[1] {
			(*indexes)[n-1].is += ", " + f[3]
			return
		}
		*indexes = append(*indexes, column{f[1], f[2] + f[3]})
	}, `SELECT table_name, index_name, IF(non_unique, '', 'unique '), CONCAT(COALESCE(column_name, '(an expression)'), COALESCE(CONCAT('(', sub_part, ')'), ''))
		FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index`)
	return tables, err
}

// scan calls each for every row of a query, with its n columns as strings.
func scan(ctx context.Context, db *sql.DB, n int, each func(fields []string), query string) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	fields := make([]string, n)
	dest := make([]any, n)
	for i := range fields {
		dest[i] = &fields[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		each(fields)
	}
	return rows.Err()
}

// quote makes a name safe to stand in a statement.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
