package ferry

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/go-mysql-org/go-mysql/replication"
)

// The decoder's table: shop, key, a value. It belongs to shop 7; token is 3.
func testDecoder() *decoder {
	integer := func(name string) column { return column{name: name, dataType: "bigint"} }
	products := &table{name: "products", columns: []column{integer("shop_id"), integer("id"), integer("stock")}, key: 1}
	orders := &table{name: "orders", columns: []column{integer("id"), integer("shop_id"), {name: "twice", dataType: "bigint", generated: true}}, shop: 1}
	return newDecoder("shop", 7, 3, []*table{products, orders}, position{"log.1", 100})
}

// An input is one event of the log, in the order of a script.
type input = *replication.BinlogEvent

var clock uint32 // the events' positions; set by script

func script(events ...func() input) []input {
	clock = 100
	var out []input
	for _, e := range events {
		clock += 10
		ev := e()
		ev.Header.LogPos = clock
		out = append(out, ev)
	}
	return out
}

func event(kind replication.EventType, e replication.Event) func() input {
	return func() input {
		return &replication.BinlogEvent{Header: &replication.EventHeader{EventType: kind}, Event: e}
	}
}

func query(schema, text string) func() input {
	return event(replication.QUERY_EVENT, &replication.QueryEvent{Schema: []byte(schema), Query: []byte(text)})
}

func rowsOf(kind replication.EventType, schema, name string, rows ...[]any) func() input {
	return event(kind, &replication.RowsEvent{Table: &replication.TableMapEvent{Schema: []byte(schema), Table: []byte(name)}, Rows: rows})
}

func row(values ...any) []any {
	for i, v := range values {
		if n, ok := v.(int); ok {
			values[i] = int64(n)
		}
	}
	return values
}

const (
	insert = replication.WRITE_ROWS_EVENTv2
	update = replication.UPDATE_ROWS_EVENTv2
	remove = replication.DELETE_ROWS_EVENTv2
)

var (
	begin  = query("shop", "BEGIN")
	commit = event(replication.XID_EVENT, &replication.XIDEvent{})
)

func products(kind replication.EventType, rows ...[]any) func() input {
	return rowsOf(kind, "shop", "products", rows...)
}

func generic(kind replication.EventType) func() input {
	return event(kind, &replication.GenericEvent{})
}

func mariadbGTID(flags byte) func() input {
	return event(replication.MARIADB_GTID_EVENT, &replication.MariadbGTIDEvent{Flags: flags})
}

func loadData(database string) func() input {
	return func() input {
		return &replication.BinlogEvent{
			RawData: []byte("…" + database + "…LOAD DATA INFILE"),
			Header:  &replication.EventHeader{EventType: replication.EXECUTE_LOAD_QUERY_EVENT},
			Event:   &replication.ExecuteLoadQueryEvent{},
		}
	}
}

func payload(events ...func() input) func() input {
	return func() input {
		var inner []*replication.BinlogEvent
		for _, e := range events {
			inner = append(inner, e())
		}
		return &replication.BinlogEvent{
			Header: &replication.EventHeader{EventType: replication.TRANSACTION_PAYLOAD_EVENT},
			Event:  &replication.TransactionPayloadEvent{Events: inner},
		}
	}
}

// Each is a piece of log and what the decoder makes of it: the groups, one a
// line, and the error that ends it, if one does.
var logs = []struct {
	name string
	log  []input
	want string
	err  error
}{
	{
		name: "an insert, an update and a delete",
		log: script(
			begin, products(insert, row(7, 1, 10), row(7, 2, 20)), commit,
			begin, products(update, row(7, 1, 10), row(7, 1, 11)), commit,
			begin, products(remove, row(7, 2, 20)), commit),
		want: `
			products 1 = [7 1 10], products 2 = [7 2 20] @log.1:130
			products 1 gone, products 1 = [7 1 11] @log.1:160
			products 2 gone @log.1:190`,
	},
	{
		name: "the older kinds of events, and MariaDB's compressed ones",
		log: script(
			begin, products(replication.WRITE_ROWS_EVENTv1, row(7, 1, 10)), products(replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1, row(7, 2, 20)),
			products(replication.UPDATE_ROWS_EVENTv1, row(7, 1, 10), row(7, 1, 11)), products(replication.MARIADB_UPDATE_ROWS_COMPRESSED_EVENT_V1, row(7, 2, 20), row(7, 2, 21)),
			products(replication.DELETE_ROWS_EVENTv1, row(7, 1, 11)), products(replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1, row(7, 2, 21)), commit),
		want: `products 1 = [7 1 10], products 2 = [7 2 20], products 1 gone, products 1 = [7 1 11], products 2 gone, products 2 = [7 2 21], products 1 gone, products 2 gone @log.1:180`,
	},
	{
		name: "other shops, other tables, other databases, rows of no shop",
		log: script(
			begin, products(insert, row(8, 1, 10), row(nil, 1, 10)), commit,
			begin, rowsOf(insert, "shop", "countries", row(7, 1, 10)), commit,
			begin, rowsOf(insert, "other", "products", row(7, 1, 10)), commit),
	},
	{
		name: "rows that enter and leave the shop",
		log: script(
			begin, products(update, row(8, 1, 10), row(7, 1, 11)), commit,
			begin, products(update, row(7, 1, 11), row(8, 1, 12)), commit,
			begin, products(update, row(nil, 1, 10), row(7, 1, 13)), commit),
		want: `
			products 1 = [7 1 11] @log.1:130
			products 1 gone @log.1:160
			products 1 = [7 1 13] @log.1:190`,
	},
	{
		name: "a key that changes",
		log:  script(begin, products(update, row(7, 1, 10), row(7, -5, 10), row(7, 2, 20), row(7, 1, 20)), commit),
		want: `products 1 gone, products -5 = [7 -5 10], products 2 gone, products 1 = [7 1 20] @log.1:130`,
	},
	{
		name: "a generated column is left out, whether the log has it or not",
		log: script(
			begin, rowsOf(insert, "shop", "orders", row(1, 7, 2)), commit,
			begin, event(insert, &replication.RowsEvent{
				Table: &replication.TableMapEvent{Schema: []byte("shop"), Table: []byte("orders")},
				Rows:  [][]any{row(2, 7, nil)}, SkippedColumns: [][]int{{2}},
			}), commit),
		want: `
			orders 1 = [1 7] @log.1:130
			orders 2 = [2 7] @log.1:160`,
	},
	{
		name: "markers, ours and another mover's",
		log: script(
			begin, rowsOf(insert, "shop", "podworks_marker", row(3, 1)), commit,
			begin, rowsOf(update, "shop", "podworks_marker", row(3, 1), row(3, 2)), commit,
			begin, rowsOf(update, "shop", "podworks_marker", row(2, 8), row(2, 9)), commit,
			begin, rowsOf(remove, "shop", "podworks_marker", row(3, 2)), commit,
			begin, rowsOf(insert, "other", "podworks_marker", row(3, 7)), commit),
		want: `
			marker 1 @log.1:130
			marker 2 @log.1:160`,
	},
	{
		name: "the log goes on in the next file",
		log: script(
			begin, products(insert, row(7, 1, 10)), commit,
			event(replication.ROTATE_EVENT, &replication.RotateEvent{NextLogName: []byte("log.2"), Position: 4}),
			begin, products(insert, row(7, 2, 20)), commit),
		want: `
			products 1 = [7 1 10] @log.1:130
			products 2 = [7 2 20] @log.2:170`,
	},
	{
		name: "a compressed transaction",
		log: script(
			payload(begin, products(insert, row(7, 1, 10)), commit),
			payload(begin, products(insert, row(8, 1, 10)), commit),
			payload(begin, products(remove, row(7, 1, 10)), commit)),
		want: `
			products 1 = [7 1 10] @log.1:110
			products 1 gone @log.1:130`,
	},
	{
		name: "a transaction of several tables is one group",
		log: script(
			begin, products(insert, row(7, 1, 10)), rowsOf(insert, "shop", "orders", row(5, 7, nil)), rowsOf(insert, "shop", "podworks_marker", row(3, 4)), commit),
		want: `products 1 = [7 1 10], orders 5 = [5 7], marker 4 @log.1:150`,
	},
	{
		name: "COMMIT as a statement, as tables without transactions have it",
		log:  script(begin, products(insert, row(7, 1, 10)), query("shop", "COMMIT")),
		want: `products 1 = [7 1 10] @log.1:130`,
	},
	{
		name: "what was rolled back, in the whole or to a savepoint",
		log: script(
			begin, products(insert, row(7, 1, 10)), query("shop", "ROLLBACK"),
			begin, products(insert, row(7, 2, 20)), query("shop", "SAVEPOINT `a b`"), products(insert, row(7, 3, 30)), query("shop", "SAVEPOINT `c`"),
			products(insert, row(7, 4, 40)), query("shop", "ROLLBACK TO `a b`"), products(insert, row(7, 5, 50)), commit),
		want: `products 2 = [7 2 20], products 5 = [7 5 50] @log.1:220`,
	},
	{
		name: "a statement in the middle of a transaction doesn't end it",
		log: script(
			begin, products(insert, row(7, 1, 10)), query("other", "CREATE TABLE x (id INT) START TRANSACTION"), products(insert, row(7, 2, 20)), commit),
		want: `products 1 = [7 1 10], products 2 = [7 2 20] @log.1:150`,
	},
	{
		name: "MariaDB begins a transaction with its GTID",
		log: script(
			mariadbGTID(0), products(insert, row(7, 1, 10)), query("other", "DROP TABLE IF EXISTS x"), products(insert, row(7, 2, 20)), commit,
			mariadbGTID(replication.BINLOG_MARIADB_FL_STANDALONE), query("other", "CREATE TABLE x (id INT)")),
		want: `products 1 = [7 1 10], products 2 = [7 2 20] @log.1:150`,
	},
	{
		name: "statements elsewhere",
		log: script(
			query("other", "ALTER TABLE products ADD c INT"), query("other", "INSERT INTO products VALUES (1)"), query("other", "UPDATE workshop.orders SET a = 1"),
			query("other", "UPDATE shop2.orders SET a = 1"), query("shop", "ALTER TABLE countries ADD c INT"), query("shop", "ANALYZE TABLE products"),
			query("shop", "optimize local table products"), query("shop", "GRANT SELECT ON products TO x"), loadData("other"), query("", "CREATE USER x")),
	},
	{name: "a column comes", log: script(query("shop", "ALTER TABLE products ADD c INT")), err: errSchemaChanged},
	{name: "named from elsewhere", log: script(query("other", "alter table `shop`.`products` add c int")), err: errSchemaChanged},
	{name: "after a comment", log: script(query("shop", "/* deploy 12 */ -- now\n# really\nTRUNCATE orders")), err: errSchemaChanged},
	{name: "in a comment that the server runs", log: script(query("shop", "/*!50003 INSERT INTO hidden VALUES (1) */")), err: errSchemaChanged},
	{name: "the database goes", log: script(query("other", "DROP DATABASE shop")), err: errSchemaChanged},
	{name: "a statement writes", log: script(begin, query("shop", "INSERT INTO products VALUES (7, 1, 1)")), err: errSchemaChanged},
	{name: "a statement writes to who knows what", log: script(begin, query("shop", "SELECT `shop`.`pay`(1)")), err: errSchemaChanged},
	{name: "a statement analyzes and writes", log: script(begin, query("shop", "ANALYZE UPDATE v SET a = 1")), err: errSchemaChanged},
	{name: "a file is loaded as a statement", log: script(begin, loadData("shop")), err: errSchemaChanged},
	{name: "a row has another number of columns", log: script(begin, products(insert, row(7, 1))), err: errSchemaChanged},
	{
		name: "a row has columns left out",
		log: script(begin, event(update, &replication.RowsEvent{
			Table: &replication.TableMapEvent{Schema: []byte("shop"), Table: []byte("products")},
			Rows:  [][]any{row(7, 1, nil), row(7, 1, 11)}, SkippedColumns: [][]int{{2}, {}},
		})),
		err: errRowImage,
	},
	{name: "a shop or a key is no integer", log: script(begin, products(insert, row(7, "x", 1))), err: errRowImage},
	{name: "the source has lost events", log: script(generic(replication.INCIDENT_EVENT)), err: errIncident},
	{
		name: "an XA transaction of the shop, in MySQL",
		log:  script(query("shop", "XA START X'61',X'',1"), products(insert, row(7, 1, 10))),
		err:  errXA,
	},
	{
		name: "an XA transaction of the shop, in MariaDB",
		log:  script(mariadbGTID(mariadbPreparedXA), products(insert, row(7, 1, 10))),
		err:  errXA,
	},
	{
		name: "XA transactions of others, and what comes after them",
		log: script(
			query("shop", "XA START X'61',X'',1"), products(insert, row(8, 1, 10)), query("shop", "XA END X'61',X'',1"), generic(replication.XA_PREPARE_LOG_EVENT),
			begin, products(insert, row(7, 1, 10)), commit,
			query("shop", "XA COMMIT X'61',X'',1"),
			begin, products(insert, row(7, 2, 20)), commit,
			mariadbGTID(mariadbPreparedXA), products(insert, row(8, 2, 10)), query("shop", "XA END X'61',X'',1"), generic(replication.XA_PREPARE_LOG_EVENT),
			mariadbGTID(0), query("shop", "XA ROLLBACK X'61',X'',1"),
			mariadbGTID(0), products(insert, row(7, 3, 30)), commit),
		want: `
			products 1 = [7 1 10] @log.1:170
			products 2 = [7 2 20] @log.1:210
			products 3 = [7 3 30] @log.1:300`,
	},
}

func TestTheDecoderMakesGroupsOfEvents(t *testing.T) {
	for _, l := range logs {
		t.Run(l.name, func(t *testing.T) {
			d := testDecoder()
			var got []string
			var err error
			for _, ev := range l.log {
				var g *group
				if g, err = d.event(ev); err != nil {
					break
				}
				if g != nil {
					got = append(got, d.text(g))
				}
			}
			if !errors.Is(err, l.err) || (err == nil) != (l.err == nil) {
				t.Errorf("got error %v, want %v", err, l.err)
			}
			want := strings.ReplaceAll(strings.TrimSpace(l.want), "\t", "")
			if text := strings.Join(got, "\n"); text != want {
				t.Errorf("got\n%s\nwant\n%s", text, want)
			}
			if last := l.log[len(l.log)-1].Header.LogPos; err == nil && d.at.pos != last {
				t.Errorf("the decoder would go on from %v, want from the end of the last transaction, %d", d.at, last)
			}
		})
	}
}

// text is a group as the tests write it.
func (d *decoder) text(g *group) string {
	var parts []string
	for _, c := range g.changes {
		if c.row == nil {
			parts = append(parts, fmt.Sprintf("%s %d gone", d.tables[c.table].name, c.key))
		} else {
			parts = append(parts, fmt.Sprintf("%s %d = %v", d.tables[c.table].name, c.key, c.row))
		}
	}
	if g.marker != 0 {
		parts = append(parts, fmt.Sprintf("marker %d", g.marker))
	}
	return fmt.Sprintf("%s @%s:%d", strings.Join(parts, ", "), g.end.file, g.end.pos)
}

// A connection that is cut in a transaction sends it again from its start.
func TestTheDecoderGoesOnFromTheLastWholeTransaction(t *testing.T) {
	d := testDecoder()
	log := script(begin, products(insert, row(7, 1, 10)), commit,
		begin, products(insert, row(7, 2, 20)), products(insert, row(7, 3, 30)), commit)
	var got []string
	feed := func(events []input) {
		for _, ev := range events {
			g, err := d.event(ev)
			if err != nil {
				t.Fatal(err)
			}
			if g != nil {
				got = append(got, d.text(g))
			}
		}
	}
	feed(log[:5])
	if want := (position{"log.1", 130}); d.at != want {
		t.Errorf("got %v, want %v", d.at, want)
	}
	d.again()
	feed(log[3:])
	want := "products 1 = [7 1 10] @log.1:130\nproducts 2 = [7 2 20], products 3 = [7 3 30] @log.1:170"
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
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
		{column{dataType: "tinyint"}, int8(-1), int64(-1)},
		{column{dataType: "tinyint", unsigned: true}, int8(-1), int64(255)},
		{column{dataType: "tinyint", unsigned: true}, uint8(255), int64(255)},
		{column{dataType: "smallint", unsigned: true}, int16(-1), int64(65535)},
		{column{dataType: "mediumint", unsigned: true}, int32(-1), int64(1<<24 - 1)},
		{column{dataType: "mediumint"}, int32(-1), int64(-1)},
		{column{dataType: "int", unsigned: true}, int32(-1), int64(1<<32 - 1)},
		{column{dataType: "bigint"}, int64(math.MinInt64), int64(math.MinInt64)},
		{column{dataType: "bigint", unsigned: true}, int64(-1), uint64(math.MaxUint64)},
		{column{dataType: "bigint", unsigned: true}, uint64(math.MaxUint64), uint64(math.MaxUint64)},
		{column{dataType: "bit"}, int64(math.MinInt64), uint64(1 << 63)},
		{column{dataType: "set"}, int64(math.MinInt64), uint64(1 << 63)},
		{column{dataType: "enum"}, int64(2), int64(2)},
		{column{dataType: "year"}, 2024, int64(2024)},
		{column{dataType: "decimal"}, "-1.50", "-1.50"},
		{column{dataType: "float"}, float32(0.1), "0.1"},
		{column{dataType: "double"}, 0.1, "0.1"},
		{column{dataType: "double"}, negativeZero, "-0"},
		{column{dataType: "varchar", charset: "utf8mb4"}, "é", "é"},
		{column{dataType: "text", charset: "utf8mb4"}, []byte("é"), "é"},
		{column{dataType: "varchar", charset: "latin1"}, "\xe9", encoded{"latin1", []byte("\xe9")}},
		{column{dataType: "text", charset: "latin1"}, []byte("\xe9"), encoded{"latin1", []byte("\xe9")}},
		{column{dataType: "binary"}, "\x00\xff", []byte("\x00\xff")},
		{column{dataType: "blob"}, []byte("\x00\xff"), []byte("\x00\xff")},
		{column{dataType: "json"}, []byte(`{"a": 1}`), `{"a": 1}`},
		{column{dataType: "datetime"}, "0000-00-00 00:00:00", "0000-00-00 00:00:00"},
	} {
		got, err := test.column.value(test.value)
		if err != nil || fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", test.want, test.want) {
			t.Errorf("%s unsigned=%t, %T %v: got %T %v, %v; want %T %v", test.column.dataType, test.column.unsigned, test.value, test.value, got, got, err, test.want, test.want)
		}
	}
	if _, err := (column{name: "c", dataType: "int"}).value(struct{}{}); err == nil {
		t.Error("a value of an unknown type is written as if it were known")
	}
}

// Statements come from strangers. Whatever they say, the decoder neither fails
// over what is elsewhere nor overlooks a plain write to a moved table.
func FuzzQuery(f *testing.F) {
	for _, l := range logs {
		for _, ev := range l.log {
			if q, ok := ev.Event.(*replication.QueryEvent); ok {
				f.Add(string(q.Query))
			}
		}
	}
	for _, q := range []string{"", ";", "/*", "/*!", "/*! */", "--", "#", "((SELECT 1))", "ROLLBACK WORK TO x", "XA", "SAVEPOINT", "\x00\xff", "ROLLBACK TO"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !strings.Contains(strings.ToLower(text), "shop") {
			d := testDecoder()
			if _, err := d.query(200, "other", text); err != nil {
				t.Errorf("%q in another database: %v", text, err)
			}
		}
		first, second := firstWords(text)
		if a, b := firstWords("/* a comment */ " + text); a != first || b != second {
			t.Errorf("got %q %q behind a comment, want %q %q", a, b, first, second)
		}
		if strings.ToUpper(first) != first || strings.ContainsAny(first+second, " \t\n/*") {
			t.Errorf("got words %q and %q", first, second)
		}
		d := testDecoder()
		d.group.changes = []change{{key: 1}}
		if g, err := d.query(200, "shop", "INSERT INTO orders VALUES ("+text); g != nil || !errors.Is(err, errSchemaChanged) {
			t.Errorf("a write is taken for something else: %v, %v", g, err)
		}
	})
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
