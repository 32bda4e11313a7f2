package ferry_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// A random schema. Every table has a column k with the number of the row, from
// which its key is computed: so a writer names rows of any kind of key alike.

// A keyKind is a kind of key, and how the key of row k is written.
type keyKind struct {
	name    string
	columns []string // of the key, beside shop_id
	types   []string
	index   string
	values  func(k int64) []string // literals, different for different k in any collation
}

// Keys below zero and zero, ” and trailing spaces are among those of the first
// rows.
var keyKinds = []keyKind{
	{"shop and integer", []string{"id"}, []string{"BIGINT NOT NULL"}, "PRIMARY KEY (shop_id, id)", func(k int64) []string { return []string{fmt.Sprint(k - 5000)} }},
	{"integer", []string{"id"}, []string{"INT NOT NULL"}, "PRIMARY KEY (id), KEY (shop_id, id)", func(k int64) []string { return []string{fmt.Sprint(k - 5000)} }},
	{"unsigned", []string{"id"}, []string{"BIGINT UNSIGNED NOT NULL"}, "PRIMARY KEY (shop_id, id)", func(k int64) []string {
		return []string{fmt.Sprint(^uint64(0) - uint64(k))}
	}},
	{"shop and string", []string{"id"}, []string{"VARCHAR(40) NOT NULL"}, "PRIMARY KEY (shop_id, id)", func(k int64) []string {
		if k < 1024 {
			return []string{fmt.Sprintf("'%s%.0d'", strings.Repeat("a\x01", int(k%18)), k/18)}
		}
		return []string{fmt.Sprintf("'Schlüssel %d %s'", k, strings.Repeat(" ", int(k%3)))}
	}},
	{"binary string", []string{"id"}, []string{"VARCHAR(40) COLLATE utf8mb4_bin NOT NULL"}, "PRIMARY KEY (id), KEY (shop_id)", func(k int64) []string {
		return []string{fmt.Sprintf("'k%x'", k)}
	}},
	{"UUID", []string{"id"}, []string{"BINARY(16) NOT NULL"}, "PRIMARY KEY (id), KEY (shop_id, id)", func(k int64) []string {
		return []string{fmt.Sprintf("x'%016x%016x'", uint64(k)*0x9e3779b97f4a7c15, k)} // in no order
	}},
	{"composite", []string{"a", "b"}, []string{"INT NOT NULL", "VARCHAR(20) CHARACTER SET latin1 NOT NULL"}, "PRIMARY KEY (shop_id, a, b)", func(k int64) []string {
		return []string{fmt.Sprint(k%7 - 3), fmt.Sprintf("'é%d'", k)}
	}},
	{"unique only", []string{"id"}, []string{"INT NOT NULL"}, "UNIQUE KEY (shop_id, id)", func(k int64) []string { return []string{fmt.Sprint(k - 5000)} }},
	{"none", []string{"id"}, []string{"INT NOT NULL"}, "KEY (shop_id)", func(k int64) []string { return []string{fmt.Sprint(k - 5000)} }},
}

// A valueKind is a column's type and some of its values.
type valueKind struct {
	definition string
	value      func(r *rand.Rand) string
}

func oneOf(literals ...string) func(*rand.Rand) string {
	return func(r *rand.Rand) string { return literals[r.IntN(len(literals))] }
}

var valueKinds = []valueKind{
	{"INT", func(r *rand.Rand) string { return fmt.Sprint(int32(r.Uint32())) }},
	{"BIGINT UNSIGNED NOT NULL DEFAULT 7", func(r *rand.Rand) string { return fmt.Sprint(r.Uint64()) }},
	{"DECIMAL(30,10)", func(r *rand.Rand) string {
		return fmt.Sprintf("%d.%010d", r.Int64()/1000, r.IntN(1e9))
	}},
	{"FLOAT", func(r *rand.Rand) string { return fmt.Sprint(r.Float32() * 1e9) }},
	{"DOUBLE", func(r *rand.Rand) string { return fmt.Sprint(r.NormFloat64()) }},
	{"VARCHAR(60)", oneOf(`''`, `'tail  '`, `'it''s \\ %_ \0 \n'`, `'日本🎉'`, `'NULL'`)},
	{"VARCHAR(60) CHARACTER SET latin1", oneOf(`'Öl für 5 €'`, `'ÿ'`, `''`)},
	{"VARCHAR(60) CHARACTER SET utf8mb3 NOT NULL DEFAULT 'x'", oneOf(`'日本'`, `'é'`)},
	{"CHAR(10) CHARACTER SET gbk", oneOf(`'中文'`, `''`)},
	{"TEXT", func(r *rand.Rand) string { return fmt.Sprintf("REPEAT('text é ', %d)", r.IntN(300)) }},
	{"BLOB", func(r *rand.Rand) string { return fmt.Sprintf("REPEAT(x'00ff5c27%08x', %d)", r.Uint32(), r.IntN(300)) }},
	{"VARBINARY(40)", func(r *rand.Rand) string { return fmt.Sprintf("x'%016x'", r.Uint64()) }},
	{"BINARY(8)", oneOf(`x'00'`, `'ab  '`, `x'ff00'`)},
	{"DATE", oneOf(`'0000-00-00'`, `'2026-02-28'`, `'9999-12-31'`)},
	{"DATETIME(6)", oneOf(`'2026-03-29 02:30:00.000001'`, `'0000-00-00 00:00:00'`)},
	{"TIMESTAMP(3) NULL", oneOf(`'2026-03-29 02:30:00.123'`, `'1970-01-02 00:00:00'`)},
	{"TIME(2)", oneOf(`'-838:59:59'`, `'12:00:00.25'`)},
	{"YEAR", oneOf(`0`, `1901`, `2155`)},
	{"ENUM('', 'b', 'ü')", oneOf(`'b'`, `'ü'`, `''`)},
	{"SET('x', 'y', 'z')", oneOf(`''`, `'x,z'`)},
	{"BIT(9)", oneOf(`b'0'`, `b'111111111'`)},
	{"JSON", func(r *rand.Rand) string { return fmt.Sprintf(`'{"b": [1, 2.5, null, "é"], "a": %d}'`, r.IntN(1e6)) }},
	{"POINT", func(r *rand.Rand) string {
		return fmt.Sprintf("ST_GeomFromText('POINT(%d %d)')", r.IntN(100), -r.IntN(100))
	}},
	{"LONGBLOB", oneOf(`''`, `x'00'`)},
	{"INT INVISIBLE", func(r *rand.Rand) string { return fmt.Sprint(r.IntN(1e6)) }},
	{"INT AS (k % 1000 + 1) STORED", nil},
	{"BIGINT AS (k * 2) VIRTUAL", nil},
}

// A chaosTable is a table of a random schema.
type chaosTable struct {
	name    string
	key     keyKind
	unique  bool // it has a column u, unique in the shop
	parent  bool // its column parent refers to the first table
	columns []valueKind

	// Of a table that reaches the shop through another: ref has the key of the
	// other's row and ref_k its number.
	through string
	refType string
	foreign string // the constraint on ref, if there is one
	cascade bool   // it deletes, where the server logs that
}

// joins reports whether one column is the whole key, over all shops, so that others
// can refer to it.
func (t *chaosTable) joins() bool {
	return len(t.key.columns) == 1 && (t.through != "" || strings.HasPrefix(t.key.index, "PRIMARY KEY (id)"))
}

// keyless reports whether nothing tells the rows apart.
func (t *chaosTable) keyless() bool { return t.key.name == "none" }

// numbered returns a table's place in the schema by its name.
func numbered(tables []chaosTable, name string) int {
	return slices.IndexFunc(tables, func(t chaosTable) bool { return t.name == name })
}

// below returns the places of the tables that reach the shop through this one.
func below(tables []chaosTable, i int) (out []int) {
	for j := range tables {
		if tables[j].through == tables[i].name {
			out = append(out, j)
		}
	}
	return out
}

// ownerIs is the expression for whose a row is: NULL if it is nobody's.
func ownerIs(tables []chaosTable, i int, alias string) string {
	t := &tables[i]
	if t.through == "" {
		return alias + ".shop_id"
	}
	up, p := "up_"+alias, numbered(tables, t.through)
	return fmt.Sprintf("(SELECT %s FROM %s %s WHERE %s.%s = %s.ref)", ownerIs(tables, p, up), t.through, up, up, tables[p].key.columns[0], alias)
}

// ownedBy is the condition for a shop's rows.
func ownedBy(tables []chaosTable, shop int64) func(layout) string {
	return func(l layout) string {
		return fmt.Sprintf("COALESCE(%s, 0) = %d", ownerIs(tables, numbered(tables, l.name), l.name), shop)
	}
}

// rulesOf are the rules of the tables that need one.
func rulesOf(tables []chaosTable) map[string]ferry.Rule {
	out := map[string]ferry.Rule{}
	for _, t := range tables {
		if t.through != "" {
			out[t.name] = ferry.Rule{Through: []ferry.Ref{{Column: "ref", Table: t.through}}}
		}
	}
	return out
}

// joinedTo makes a table that reaches the shop through another.
func joinedTo(r *rand.Rand, name string, up *chaosTable) chaosTable {
	t := chaosTable{name: name, through: up.name, refType: strings.TrimSuffix(up.key.types[0], " NOT NULL"), unique: r.IntN(3) == 0}
	for t.key.name == "" || t.keyless() {
		t.key = keyKinds[r.IntN(len(keyKinds))]
	}
	kind := "PRIMARY"
	if t.key.name == "unique only" {
		kind = "UNIQUE"
	}
	t.key.index = kind + " KEY (" + strings.Join(t.key.columns, ", ") + "), KEY (ref)"
	if n := r.IntN(4); n < 2 {
		t.foreign = fmt.Sprintf("FOREIGN KEY (ref) REFERENCES %s (%s)", up.name, up.key.columns[0])
		t.cascade = n == 0
	}
	for _, n := range r.Perm(len(valueKinds))[:1+r.IntN(5)] {
		t.columns = append(t.columns, valueKinds[n])
	}
	return t
}

// chaosSchema makes a schema of 1 to most tables whose rows name the shop, and
// sometimes one that reaches the shop through one of them, and one through that. All
// but the only one, and what it is reached through, are left out if that is above 0.
func chaosSchema(seed uint64, most, only int) []chaosTable {
	r := rand.New(rand.NewPCG(seed, 0))
	var out []chaosTable
	for i := range 1 + r.IntN(most) {
		t := chaosTable{name: fmt.Sprintf("t%d", i), key: keyKinds[r.IntN(len(keyKinds))], unique: r.IntN(2) == 0}
		t.parent = i > 0 && out[0].key.name == "shop and integer" && r.IntN(3) == 0
		for _, n := range r.Perm(len(valueKinds))[:1+r.IntN(9)] {
			t.columns = append(t.columns, valueKinds[n])
		}
		if i == 0 && r.IntN(2) == 0 {
			t.columns = append(t.columns, valueKind{"LONGBLOB", oneOf(`''`)}) // for the writers' largest values
		}
		out = append(out, t)
	}
	if r.IntN(3) > 0 {
		up := &out[r.IntN(len(out))]
		for !up.joins() {
			up.key = keyKinds[r.IntN(len(keyKinds))]
		}
		for i := range out {
			out[i].parent = out[i].parent && out[0].key.name == "shop and integer"
		}
		out = append(out, joinedTo(r, "j", up))
		if child := &out[len(out)-1]; child.joins() && r.IntN(2) == 0 {
			out = append(out, joinedTo(r, "jj", child))
		}
	}
	if only > 0 {
		alone := []chaosTable{out[only-1]}
		alone[0].parent = false
		for alone[0].through != "" {
			alone = slices.Insert(alone, 0, out[numbered(out, alone[0].through)])
			alone[0].parent = false
		}
		return alone
	}
	return out
}

// create is the statement that makes the table.
func (t *chaosTable) create(f testcluster.Family) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (", t.name)
	if t.through == "" {
		b.WriteString("shop_id BIGINT NOT NULL, ")
	}
	for i, name := range t.key.columns {
		fmt.Fprintf(&b, "%s %s, ", name, t.key.types[i])
	}
	for i, c := range t.columns {
		fmt.Fprintf(&b, "c%d %s, ", i, c.definition)
	}
	b.WriteString("k BIGINT NOT NULL, ") // behind the others, as a key may be
	switch {
	case t.unique && t.through == "":
		b.WriteString("u VARCHAR(40), UNIQUE KEY (shop_id, u), ")
	case t.unique:
		b.WriteString("u VARCHAR(40), UNIQUE KEY (u), ")
	}
	if t.parent {
		b.WriteString("parent BIGINT, FOREIGN KEY (shop_id, parent) REFERENCES t0 (shop_id, id), ")
	}
	if t.through != "" {
		fmt.Fprintf(&b, "ref_k BIGINT, ref %s, KEY (ref_k), ", t.refType)
	}
	if t.foreign != "" {
		b.WriteString(t.foreign)
		if t.cascade && f == testcluster.MySQL {
			b.WriteString(" ON DELETE CASCADE")
		}
		b.WriteString(", ")
	}
	if f == testcluster.MySQL {
		b.WriteString("KEY ((ABS(k))), ") // which is a column that can't be seen
	}
	return b.String() + "KEY (k), " + t.key.index + ")"
}

// names are the columns that an INSERT names.
func (t *chaosTable) names() string {
	names := append([]string{"k"}, t.key.columns...)
	if t.through == "" {
		names = slices.Insert(names, 0, "shop_id")
	}
	if t.unique {
		names = append(names, "u")
	}
	if t.parent {
		names = append(names, "parent")
	}
	if t.through != "" {
		names = append(names, "ref_k", "ref")
	}
	for i, c := range t.columns {
		if c.value != nil {
			names = append(names, fmt.Sprintf("c%d", i))
		}
	}
	return strings.Join(names, ", ")
}

// refTo are the values of ref_k and ref that refer to row k of the table.
func (t *chaosTable) refTo(k int64) (number, key string) { return fmt.Sprint(k), t.key.values(k)[0] }

// row is a row for INSERT. u and parent are literals, parent two of a joined table.
func (t *chaosTable) row(r *rand.Rand, shop, k int64, u, parent string) string {
	values := append([]string{fmt.Sprint(k)}, t.key.values(k)...)
	if t.through == "" {
		values = slices.Insert(values, 0, fmt.Sprint(shop))
	}
	if t.unique {
		values = append(values, u)
	}
	if t.parent || t.through != "" {
		values = append(values, parent)
	}
	for _, c := range t.columns {
		switch {
		case c.value == nil:
		case r.IntN(6) == 0 && !strings.Contains(c.definition, "NOT NULL"):
			values = append(values, "NULL")
		default:
			values = append(values, c.value(r))
		}
	}
	return "(" + strings.Join(values, ", ") + ")"
}

// assignments change some columns, or only k to itself where there are none.
func (t *chaosTable) assignments(r *rand.Rand) string {
	out := "k = k"
	for i, c := range t.columns {
		if c.value != nil && r.IntN(2) == 0 {
			out += fmt.Sprintf(", c%d = %s", i, c.value(r))
		}
	}
	return out
}

// rekey changes a row's key.
func (t *chaosTable) rekey(k int64) string {
	out := fmt.Sprintf("k = %d", k)
	for i, v := range t.key.values(k) {
		out += fmt.Sprintf(", %s = %s", t.key.columns[i], v)
	}
	return out
}
