package ferry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks/ferry/binlog"
)

// The decoder's tables belong to shop 7; its token is 3.
func testDecoder(got *[]string) *decoder {
	integer := func(name string) column { return column{name: name, dataType: "bigint"} }
	products := &table{name: "products", columns: []column{integer("shop_id"), integer("id"), integer("stock")}, own: []byte("7"), key: []int{1}}
	orders := &table{name: "orders", columns: []column{integer("id"), integer("shop_id"), {name: "twice", dataType: "bigint", generated: true}}, shop: 1, place: 1, own: []byte("7"), key: []int{0}}
	d := newDecoder("shop", 3, []*table{products, orders}, nil, []string{"shop_id"}, nil)
	d.send = func(g group) error {
		*got = append(*got, d.text(g))
		return nil
	}
	return d
}

// text is a group as the tests write it.
func (d *decoder) text(g group) string {
	names := map[int]string{}
	for _, t := range d.byName {
		names[t.place] = t.name
	}
	var parts []string
	for _, c := range g.changes {
		if c.row == nil {
			parts = append(parts, fmt.Sprintf("%s %s gone", names[c.table], c.key[1:]))
		} else {
			parts = append(parts, fmt.Sprintf("%s %s = %v", names[c.table], c.key[1:], c.row))
		}
	}
	if g.marker != 0 {
		parts = append(parts, fmt.Sprintf("marker %d", g.marker))
	}
	switch text := strings.Join(parts, ", "); {
	case g.undone:
		return text + "undone"
	case g.part:
		return fmt.Sprintf("%d changes and more", len(g.changes))
	case g.end.File == "":
		return text
	default:
		return text + " @" + g.end.String()
	}
}

// row is a row of the log: ints stand for int64.
func row(values ...any) []any {
	for i, v := range values {
		if n, ok := v.(int); ok {
			values[i] = int64(n)
		}
	}
	return values
}

var layouts = map[string]*binlog.Table{
	"products":        {Database: "shop", Name: "products", Columns: []binlog.Column{{Name: "shop_id"}, {Name: "id"}, {Name: "stock"}}},
	"orders":          {Database: "shop", Name: "orders", Columns: []binlog.Column{{Name: "id"}, {Name: "shop_id"}, {Name: "twice"}}},
	"podworks_marker": {Database: "shop", Name: "podworks_marker", Columns: []binlog.Column{{Name: "token"}, {Name: "n"}}},
}

func insert(name string, rows ...[]any) *binlog.Rows {
	ev := &binlog.Rows{Table: layouts[name], Kind: binlog.Insert}
	for _, r := range rows {
		ev.Changes = append(ev.Changes, binlog.Change{After: r})
	}
	return ev
}

func remove(name string, before []any) *binlog.Rows {
	return &binlog.Rows{Table: layouts[name], Kind: binlog.Delete, Changes: []binlog.Change{{Before: before}}}
}

func update(name string, images ...[]any) *binlog.Rows {
	ev := &binlog.Rows{Table: layouts[name], Kind: binlog.Update}
	for pair := range slices.Chunk(images, 2) {
		ev.Changes = append(ev.Changes, binlog.Change{Before: pair[0], After: pair[1]})
	}
	return ev
}

func statement(kind binlog.StatementKind, database, text string, tables ...binlog.TableName) *binlog.Statement {
	return &binlog.Statement{Kind: kind, Database: database, Text: text, Tables: tables}
}

var (
	begin   = &binlog.Begin{}
	commit  = &binlog.Commit{}
	restart = &binlog.Restart{}
)

// many are more rows than a transaction has in one group.
func many(from int) (rows [][]any) {
	for i := range partChanges {
		rows = append(rows, row(7, from+i, 1))
	}
	return rows
}

// Each is a piece of log and what the decoder makes of it: the groups, one a
// line, and the error that ends it, if one does.
var logs = []struct {
	name string
	log  []binlog.Event
	want string
	err  error
}{
	{
		name: "an insert, an update and a delete",
		log: []binlog.Event{
			begin, insert("products", row(7, 1, 10), row(7, 2, 20)), &binlog.Commit{Position: binlog.Position{File: "log.1", Offset: 130}},
			begin, update("products", row(7, 1, 10), row(7, 1, 11)), commit,
			begin, remove("products", row(7, 2, 20)), commit,
		},
		want: `
			products 1 = [7 1 10], products 2 = [7 2 20] @log.1:130
			products 1 = [7 1 11]
			products 2 gone`,
	},
	{
		name: "other shops, and rows of no shop",
		log:  []binlog.Event{begin, insert("products", row(8, 1, 10), row(nil, 1, 10)), commit},
	},
	{
		name: "rows that enter and leave the shop",
		log: []binlog.Event{
			begin, update("products", row(8, 1, 10), row(7, 1, 11)), commit,
			begin, update("products", row(7, 1, 11), row(8, 1, 12)), commit,
			begin, update("products", row(nil, 1, 10), row(7, 1, 13)), commit,
		},
		want: `
			products 1 = [7 1 11]
			products 1 gone
			products 1 = [7 1 13]`,
	},
	{
		name: "a key that changes",
		log:  []binlog.Event{begin, update("products", row(7, 1, 10), row(7, -5, 10), row(7, 2, 20), row(7, 1, 20)), commit},
		want: `products 1 gone, products -5 = [7 -5 10], products 2 gone, products 1 = [7 1 20]`,
	},
	{
		name: "a generated column is left out, whether the log has it or not",
		log: []binlog.Event{
			begin, insert("orders", row(1, 7, 2)), commit,
			begin, insert("orders", row(2, 7, binlog.Absent{})), commit,
		},
		want: `
			orders 1 = [1 7]
			orders 2 = [2 7]`,
	},
	{
		name: "markers, ours and another mover's",
		log: []binlog.Event{
			begin, insert("podworks_marker", row(uint64(3), uint64(1))), commit,
			begin, update("podworks_marker", row(uint64(3), uint64(1)), row(uint64(3), uint64(2))), commit,
			begin, update("podworks_marker", row(uint64(2), uint64(8)), row(uint64(2), uint64(9))), commit,
			begin, remove("podworks_marker", row(uint64(3), uint64(2))), commit,
		},
		want: `
			marker 1
			marker 2`,
	},
	{
		name: "a transaction of several tables is one group",
		log: []binlog.Event{
			begin, insert("products", row(7, 1, 10)), insert("orders", row(5, 7, nil)), insert("podworks_marker", row(uint64(3), uint64(4))), commit,
		},
		want: `products 1 = [7 1 10], orders 5 = [5 7], marker 4`,
	},
	{
		name: "what was rolled back, in the whole or to a savepoint, or comes again",
		log: []binlog.Event{
			begin, insert("products", row(7, 1, 10)), &binlog.Rollback{},
			begin, insert("products", row(7, 2, 20)), &binlog.Savepoint{Name: "a"}, insert("products", row(7, 3, 30)), &binlog.Savepoint{Name: "b"},
			insert("products", row(7, 4, 40)), &binlog.RollbackTo{Name: "A"}, // case doesn't matter
			insert("products", row(7, 5, 50)), commit,
			begin, insert("products", row(7, 6, 60)), restart,
			begin, insert("products", row(7, 6, 60)), commit,
		},
		want: `
			products 2 = [7 2 20], products 5 = [7 5 50]
			products 6 = [7 6 60]`,
	},
	{
		name: "a large transaction comes in parts",
		log: []binlog.Event{
			begin, insert("products", many(0)...), insert("products", many(partChanges)...), insert("products", row(7, -1, 0)), commit,
			begin, insert("products", many(0)...), restart,
			begin, insert("products", many(0)...), commit,
			begin, insert("products", many(0)...), &binlog.Savepoint{Name: "a"}, insert("products", row(7, -1, 0)), &binlog.RollbackTo{Name: "a"}, commit,
		},
		want: `
			10000 changes and more
			10000 changes and more
			products -1 = [7 -1 0]
			10000 changes and more
			undone
			10000 changes and more

			10000 changes and more
			`,
	},
	{
		name: "and so does one with large rows",
		log:  []binlog.Event{begin, insert("products", row(7, 1, string(make([]byte, partBytes)))), insert("products", row(7, 2, 20)), commit},
		want: `
			1 changes and more
			products 2 = [7 2 20]`,
	},
	{
		name: "a part of a large transaction is rolled back, after some of that was handed over",
		log:  []binlog.Event{begin, &binlog.Savepoint{Name: "a"}, insert("products", many(0)...), &binlog.RollbackTo{Name: "a"}},
		want: `10000 changes and more`,
		err:  errSavepoint,
	},
	{
		name: "statements that are none of the shop's business",
		log: []binlog.Event{
			statement(binlog.Definition, "other", "ALTER TABLE products ADD c INT"), statement(binlog.Write, "other", "INSERT INTO products VALUES (1)"),
			statement(binlog.Write, "other", "UPDATE workshop.orders SET a = 1"), statement(binlog.Write, "other", "UPDATE shop2.orders SET a = 1"),
			statement(binlog.Definition, "shop", "ALTER TABLE countries ADD c INT"), statement(binlog.Other, "shop", "ANALYZE TABLE products"),
			statement(binlog.Definition, "other", "DROP DATABASE shop2", binlog.TableName{Database: "shop2"}),
		},
	},
	{name: "a column comes", log: []binlog.Event{statement(binlog.Definition, "shop", "ALTER TABLE products ADD c INT")}, err: errSchemaChanged},
	{name: "named from elsewhere", log: []binlog.Event{statement(binlog.Definition, "other", "alter table `shop`.`products` add c int")}, err: errSchemaChanged},
	{name: "a table is emptied", log: []binlog.Event{statement(binlog.Truncate, "shop", "/* deploy 12 */ TRUNCATE orders")}, err: errSchemaChanged},
	{name: "the database goes", log: []binlog.Event{statement(binlog.Definition, "", "DROP DATABASE shop", binlog.TableName{Database: "shop"})}, err: errSchemaChanged},
	{name: "a statement writes to who knows what", log: []binlog.Event{statement(binlog.Write, "x", "SELECT `shop`.`pay`(1)")}, err: errSchemaChanged},
	{name: "a table comes that says whose its rows are", log: []binlog.Event{statement(binlog.Definition, "shop", "CREATE TABLE refunds (`SHOP_ID` INT, id INT)")}, err: errSchemaChanged},
	{name: "a row has another number of columns", log: []binlog.Event{begin, &binlog.Rows{
		Table: &binlog.Table{Name: "products", Columns: make([]binlog.Column, 2)}, Changes: []binlog.Change{{After: row(7, 1)}},
	}}, err: errSchemaChanged},
	{name: "columns have changed places", log: []binlog.Event{begin, &binlog.Rows{
		Table: &binlog.Table{Name: "products", Columns: []binlog.Column{{Name: "id"}, {Name: "shop_id"}, {Name: "stock"}}}, Changes: []binlog.Change{{After: row(7, 1, 1)}},
	}}, err: errSchemaChanged},
	{name: "a row has columns left out", log: []binlog.Event{begin, update("products", row(7, 1, binlog.Absent{}), row(7, 1, 11))}, err: errRowImage},
	{name: "a document is there in part", log: []binlog.Event{begin, update("products", row(7, 1, nil), row(7, 1, binlog.PartialJSON{}))}, err: errRowImage},
	{name: "a shop or a key is no integer", log: []binlog.Event{begin, insert("products", row(7, "x", 1))}, err: errRowImage},
	{name: "an XA transaction of the shop", log: []binlog.Event{begin, &binlog.Rows{
		Table: layouts["products"], Changes: []binlog.Change{{After: row(7, 1, 1)}}, XA: "X'61',X'',1",
	}}, err: errXA},
	{
		name: "XA transactions of others, and what comes after them",
		log: []binlog.Event{
			begin, &binlog.Rows{Table: layouts["products"], Changes: []binlog.Change{{After: row(8, 1, 1)}}, XA: "X'61',X'',1"}, &binlog.Prepare{XA: "X'61',X'',1"},
			begin, insert("products", row(7, 1, 10)), commit,
			begin, &binlog.Commit{XA: "X'61',X'',1"},
			begin, &binlog.Rollback{XA: "X'62',X'',1"},
			begin, insert("products", row(7, 2, 20)), commit,
		},
		want: `
			products 1 = [7 1 10]
			products 2 = [7 2 20]`,
	},
}

func TestTheDecoderMakesGroupsOfEvents(t *testing.T) {
	for _, l := range logs {
		t.Run(l.name, func(t *testing.T) {
			var got []string
			d := testDecoder(&got)
			var err error
			for _, ev := range l.log {
				if err = d.event(ev); err != nil {
					break
				}
			}
			if !errors.Is(err, l.err) || (err == nil) != (l.err == nil) {
				t.Errorf("got error %v, want %v", err, l.err)
			}
			want := strings.TrimPrefix(strings.ReplaceAll(l.want, "\t", ""), "\n")
			if text := strings.Join(got, "\n"); text != want {
				t.Errorf("got\n%s\nwant\n%s", text, want)
			}
		})
	}
}

// In a text of another character set a table's name may be any bytes.
func TestATableWhoseNameIsNotASCIIMayBeInEveryStatement(t *testing.T) {
	d := newDecoder("shop", 3, []*table{{name: "größen"}}, nil, nil, nil)
	if !d.harms(statement(binlog.Definition, "shop", "ALTER TABLE gr\xf6\xdfen ADD c INT")) {
		t.Error("a change of the table is overlooked")
	}
	if d.harms(statement(binlog.Definition, "other", "ALTER TABLE x ADD c INT")) {
		t.Error("a change in another database is taken for one")
	}
}

func TestValuesOfTheLogAreMadeOnesThatCanBeWritten(t *testing.T) {
	negativeZero := math.Copysign(0, -1)
	for _, test := range []struct {
		column column
		value  any
		want   any
	}{
		{column{dataType: "int"}, nil, nil},
		{column{dataType: "tinyint"}, int64(-1), int64(-1)},
		{column{dataType: "bigint", unsigned: true}, uint64(math.MaxUint64), uint64(math.MaxUint64)},
		{column{dataType: "decimal"}, "-1.50", "-1.50"},
		{column{dataType: "float"}, float32(0.1), "0.1"},
		{column{dataType: "double"}, 0.1, "0.1"},
		{column{dataType: "double"}, negativeZero, "-0"},
		{column{dataType: "varchar", charset: "utf8mb4"}, "é", "é"},
		{column{dataType: "varchar", charset: "latin1"}, "\xe9", encoded{"latin1", []byte("\xe9")}},
		{column{dataType: "text", charset: "latin1"}, "\xe9", encoded{"latin1", []byte("\xe9")}},
		{column{dataType: "binary"}, []byte("\x00\xff"), []byte("\x00\xff")},
		{column{dataType: "blob"}, []byte("\x00\xff"), []byte("\x00\xff")},
		{column{dataType: "json"}, `{"a": 1}`, `{"a": 1}`},
		{column{dataType: "datetime"}, "0000-00-00 00:00:00", "0000-00-00 00:00:00"},
	} {
		got, err := test.column.value(test.value)
		if err != nil || fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", test.want, test.want) {
			t.Errorf("%s unsigned=%t, %T %v: got %T %v, %v; want %T %v", test.column.dataType, test.column.unsigned, test.value, test.value, got, got, err, test.want, test.want)
		}
	}
	for _, v := range []any{struct{}{}, binlog.Absent{}, binlog.PartialJSON{}} {
		if got, err := (column{name: "c", dataType: "json"}).value(v); err == nil {
			t.Errorf("%T is written as %v", v, got)
		}
	}
}

func FuzzGrant(f *testing.F) {
	for _, g := range []string{
		"GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION",
		"GRANT SELECT, INSERT (`a`, `b`) ON `shop`.`t` TO `x`@`%`",
		"GRANT SELECT ON `sh\\_p`.* TO `x`@`%`",
		"GRANT `role`@`%` TO `x`@`%`",
		"GRANT PROXY ON ``@`` TO `root`@`localhost`",
		"GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `x`@`%`",
	} {
		f.Add(g)
	}
	f.Fuzz(func(t *testing.T, grant string) {
		_, on := parseGrant(grant)
		covers(on, "shop") // doesn't panic
	})
}

func TestAGrantIsOnADatabaseByNameOrPattern(t *testing.T) {
	for _, test := range []struct {
		grant    string
		database string
		want     bool
	}{
		{"GRANT SELECT ON `shop`.* TO `x`@`%`", "shop", true},
		{"GRANT SELECT ON `shop`.* TO `x`@`%`", "shop2", false},
		{"GRANT SELECT ON `shop`.`products` TO `x`@`%`", "shop", false},
		{"GRANT SELECT ON `sho%`.* TO `x`@`%`", "shop", true},
		{"GRANT SELECT ON `sh_p`.* TO `x`@`%`", "shop", true},
		{"GRANT SELECT ON `sh\\_p`.* TO `x`@`%`", "shop", false},
		{"GRANT SELECT ON `sh\\_p`.* TO `x`@`%`", "sh_p", true},
		{"GRANT SELECT ON `a.b`.* TO `x`@`%`", "a.b", true},
		{"GRANT SELECT ON `a.b`.* TO `x`@`%`", "acb", false},
		{"GRANT SELECT ON `we``ird`.* TO `x`@`%`", "we`ird", true},
		{"GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `x`@`%`", "shop", false},
		{"GRANT `role`@`%` TO `x`@`%`", "shop", false},
	} {
		privileges, on := parseGrant(test.grant)
		if got := covers(on, test.database) && len(privileges) > 0; got != test.want {
			t.Errorf("%s for %s: got %t, want %t", test.grant, test.database, got, test.want)
		}
	}
}
