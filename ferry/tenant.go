package ferry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/podworks/podworks"
)

// A Rule says how the rows of one table belong to shops.
type Rule struct {
	// Column is the column that names a row's shop, where it isn't Options.Column:
	// "id", say, in the table whose rows are the shops.
	Column string

	// Through, instead, says that the table has no such column: its rows are those of
	// the shop that owns the rows of other tables that they refer to. The first Ref
	// decides. The others must agree, which Plan checks for the rows that are there,
	// and Move once more before the lock.
	//
	// The copy and the whole comparison of such a table read it in the order
	// of its key, other shops' rows too. Changes of all shops' rows in the log are
	// looked up on the target, by the keys that they refer to.
	Through []Ref
}

// shopColumn returns the name of the column that names a row's shop.
func (f *Ferry) shopColumn(table string) string {
	return cmp.Or(f.opts.Tables[table].Column, f.opts.Column)
}

// tenantOf returns what a shop is called in its rows: an int64, a string or bytes.
func (f *Ferry) tenantOf(ctx context.Context, shop podworks.ShopID) (any, error) {
	if f.opts.Tenant == nil {
		return int64(shop), nil
	}
	v, err := f.opts.Tenant(ctx, shop)
	if err != nil {
		return nil, fmt.Errorf("ferry: ask Options.Tenant for shop %d: %w", shop, err)
	}
	switch v := v.(type) {
	case int64, string:
		return v, nil
	case []byte:
		return bytes.Clone(v), nil
	}
	return nil, fmt.Errorf("ferry: Options.Tenant returned %T for shop %d, want int64, string or []byte", v, shop)
}

// belong notes what the shop is called in the table, or says why the column
// can't hold that.
func (t *table) belong(tenant any) error {
	c := t.columns[t.shop]
	fault := func(want string) error {
		return fmt.Errorf("table %s: column %s is %s, and the shop is called %#v; Options.Tenant must return %s", t.name, c.name, c.fullType, tenant, want)
	}
	var form []byte
	switch v := tenant.(type) {
	case int64:
		form = strconv.AppendInt(nil, v, 10)
	case string:
		form = []byte(v)
	case []byte:
		form = v
	}
	_, number := tenant.(int64)
	switch c.dataType {
	case "tinyint", "smallint", "mediumint", "int", "bigint":
		if !number {
			return fault("an int64")
		}
		t.tenant = string(form)
	case "char", "varchar":
		// Not in the column's character set: the server converts a literal to it.
		t.tenant = fmt.Sprintf(`_utf8mb4 x'%x'`, form)
	case "binary", "varbinary":
		if number {
			return fault("a string or bytes")
		}
		if c.dataType == "binary" {
			if len(form) > c.length {
				return fault(fmt.Sprintf("at most %d bytes", c.length))
			}
			form = append(bytes.Clone(form), make([]byte, c.length-len(form))...)
		}
		t.tenant = c.literal(form)
	case "uuid":
		var ok bool
		if form, ok = uuidText(tenant); !ok {
			return fault("16 bytes, or a UUID's 32 hexadecimal digits")
		}
		t.tenant = c.literal(form)
	default:
		return fmt.Errorf("table %s: column %s is %s, want an integer, char, varchar, binary, varbinary or uuid", t.name, c.name, c.fullType)
	}
	t.own = form
	return nil
}

// uuidText writes a UUID as the servers do.
func uuidText(tenant any) ([]byte, bool) {
	var b []byte
	switch v := tenant.(type) {
	case string:
		var err error
		if b, err = hex.DecodeString(strings.ReplaceAll(v, "-", "")); err != nil {
			return nil, false
		}
	case []byte:
		b = v
	}
	if len(b) != 16 {
		return nil, false
	}
	return fmt.Appendf(nil, "%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), true
}

// owns reports whether a row of the log is the shop's, by its value in the
// column that says so, or may be, in a joined table. NULL is nobody's. Other bytes than the shop's own may still
// be its name where the collation says so (case, accents, spaces at the end)
// or where the column has another character set; then same asks the server.
func (t *table) owns(image []any, same func(*table, []byte) (bool, error)) (bool, error) {
	if t.joined() {
		return true, nil
	}
	v := image[t.shop]
	if v == nil {
		return false, nil
	}
	c := t.columns[t.shop]
	form, err := c.keyOf(v)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errRowImage, err)
	}
	if c.isText() {
		if c.unicode() && bytes.Equal(form, t.own) {
			return true, nil
		}
		return same(t, form)
	}
	return bytes.Equal(form, t.own), nil
}

// maxNames bounds the shops' names that a mover remembers the answers for.
const maxNames = 100_000

// names asks the source whether a name in the log is the shop's, and remembers the answers.
func (m *move) names(ctx context.Context) func(*table, []byte) (bool, error) {
	known := map[rowID]bool{} // the name in place of a key
	return func(t *table, form []byte) (bool, error) {
		id := rowID{t.place, string(form)}
		if same, ok := known[id]; ok {
			return same, nil
		}
		c := t.columns[t.shop]
		var same bool
		err := m.ask(ctx, func() error {
			return m.src.db.QueryRowContext(ctx, `SELECT CONVERT(x'`+fmt.Sprintf("%x", form)+`' USING `+c.charset+`) COLLATE `+c.collation+` = `+t.tenant).Scan(&same)
		})
		if err != nil {
			return false, fmt.Errorf("ask the source whether column %s of table %s names the shop: %w", c.name, t.name, err)
		}
		if len(known) >= maxNames {
			clear(known)
		}
		known[id] = same
		return same, nil
	}
}
