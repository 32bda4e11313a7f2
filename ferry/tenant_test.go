package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

var ignored = []string{"countries", "products", "orders"}

// named are shops that aren't known by a number, in all the columns in which
// they can be. The values are SQL: the shop's name, spellings that the column
// takes for the same, and the other shop's.
var named = []struct {
	name    string
	tenant  any
	columns []string
	mariadb []string // more of them
	own     []string
	other   string
}{
	{
		name: "text", tenant: "acme",
		columns: []string{`VARCHAR(20)`, `CHAR(20)`, `VARCHAR(20) CHARACTER SET latin1`, `CHAR(20) CHARACTER SET ucs2`, `VARCHAR(20) COLLATE utf8mb4_unicode_ci`},
		own:     []string{`'acme'`, `'ACME'`, `'Acmé'`}, other: `'bolt'`,
	},
	{
		name: "text that is only itself", tenant: "Öl & Gas ",
		columns: []string{`VARCHAR(20) COLLATE utf8mb4_bin`, `VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_bin`, `VARCHAR(20) CHARACTER SET utf16 COLLATE utf16_bin`},
		own:     []string{`'Öl & Gas '`}, other: `'öl & gas '`,
	},
	{
		name: "a UUID in bytes", tenant: []byte("\x01\x89\x0a\x00'\"\\\xff\x00\x00\x00\x00\x00\x00\x00\x00"),
		columns: []string{`BINARY(16)`, `VARBINARY(16)`}, mariadb: []string{`UUID`},
		own: []string{`x'01890a0027225cff0000000000000000'`}, other: `x'01890a0027225cff0000000000000001'`,
	},
	{
		name: "a UUID in text", tenant: "01890a5d-ac96-774b-bcce-b302099a8057",
		columns: []string{`CHAR(36) CHARACTER SET ascii`, `CHAR(36) CHARACTER SET ascii COLLATE ascii_bin`, `VARBINARY(36)`}, mariadb: []string{`UUID`},
		own: []string{`'01890a5d-ac96-774b-bcce-b302099a8057'`}, other: `'01890a5d-ac96-774b-bcce-b302099a8058'`,
	},
	{
		name: "a UUID in other text", tenant: "01890A5DAC96774BBCCEB302099A8057",
		columns: []string{`CHAR(36)`}, mariadb: []string{`UUID`},
		own: []string{`'01890a5dac96774bbcceb302099a8057'`}, other: `'01890a5dac96774bbcceb302099a8058'`,
	},
	{
		name: "a number in text", tenant: int64(-7),
		columns: []string{`VARCHAR(20)`, `INT`},
		own:     []string{`'-7'`}, other: `'-8'`,
	},
}

func TestAShopIsKnownByANumberATextOrBytes(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, n := range named {
			t.Run(n.name, func(t *testing.T) {
				if f == testcluster.MariaDB {
					n.columns = slices.Concat(n.columns, n.mariadb)
				}
				var schema strings.Builder
				for i, column := range n.columns {
					fmt.Fprintf(&schema, `CREATE TABLE t%d (id INT NOT NULL PRIMARY KEY, owner %s NULL, v INT NOT NULL, KEY (owner));`, i, column)
				}
				w := newWorld(t, f, schema.String(), &ferry.Options{
					Ignore: ignored, Column: "owner", ChunkRows: 2,
					Tenant: func(_ context.Context, shop podworks.ShopID) (any, error) { return n.tenant, nil },
				})
				all := func(stmt string, first int) {
					for i := range n.columns {
						for j, own := range n.own {
							w.exec(w.source, strings.NewReplacer("{t}", fmt.Sprintf("t%d", i), "{own}", own, "{other}", n.other,
								"{a}", fmt.Sprint(first+10*j), "{b}", fmt.Sprint(first+10*j+1), "{c}", fmt.Sprint(first+10*j+2)).Replace(stmt))
						}
					}
				}
				const add = `INSERT INTO {t} VALUES ({a}, {own}, 1), ({b}, {other}, 1), ({c}, NULL, 1)`
				changes := func(first int) {
					all(`UPDATE {t} SET owner = {own} WHERE id = {b}`, first) // enters the shop
					all(`UPDATE {t} SET owner = {other}, v = 2 WHERE id = {a}`, first)
					all(`UPDATE {t} SET owner = {own} WHERE id = {c}`, first)
					all(`UPDATE {t} SET owner = NULL WHERE id = {c}`, first)
				}
				for first := 0; first < 400; first += 100 {
					all(add, first)
				}
				tr := &trail{at: map[string]func(){
					"copy":    func() { changes(100) },
					"verify":  func() { changes(200) },
					"cutover": func() { changes(300); all(add, 400) },
				}}
				report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				if err != nil {
					t.Fatal(err)
				}
				if report.RowsRepaired != 0 {
					t.Errorf("%d rows had to be repaired", report.RowsRepaired)
				}
				for i := range n.columns {
					table := fmt.Sprintf("t%d", i)
					w.alike(table, `id, HEX(owner), v`, `owner = `+n.own[0])
					if got, want := w.count(w.target, `SELECT COUNT(*) FROM `+table), int64(5*len(n.own)); got != want {
						t.Errorf("%s: %d rows came, want %d", n.columns[i], got, want)
					}
				}
				row, err := w.ferry.Clean(t.Context(), w.shop, 1)
				if want := int64(5 * len(n.own) * len(n.columns)); err != nil || row != want {
					t.Errorf("Clean deleted %d rows, %v; want %d", row, err, want)
				}
			})
		}
	})
}

// The table whose rows are the shops has the shop's one row.
func TestTheShopsOwnRowComesAlong(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE shops (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) NOT NULL UNIQUE)`,
			&ferry.Options{Ignore: []string{"countries"}, Tables: map[string]ferry.Rule{"shops": {Column: "id"}}})
		w.fill(w.shop, 20)
		w.exec(w.source, `INSERT INTO shops VALUES (7, 'seven'), (8, 'eight')`)
		tr := &trail{at: map[string]func(){
			"copy":    func() { w.exec(w.source, `UPDATE shops SET name = 'still seven' WHERE id = 7`) },
			"verify":  func() { w.exec(w.target, `UPDATE shops SET name = 'damaged' WHERE id = 7`) },
			"cutover": func() { w.exec(w.source, `UPDATE shops SET name = 'late' WHERE id = 7`) },
		}}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.alike(`shops`, `*`, `id = 7`)
		if n := w.count(w.target, `SELECT COUNT(*) FROM shops`); n != 1 {
			t.Errorf("got %d shops on the target, want 1", n)
		}
	})
}

func TestRulesThatFitNoTableAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, Tables: map[string]ferry.Rule{"prodcts": {Column: "id"}, "orders": {Column: "owner"}}})
		_, err := w.ferry.Plan(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "Options.Tables has a rule for table prodcts, which pod 1 doesn't have",
			"table orders has no column owner, which its rule in Options.Tables names")
		_, err = ferry.New(w.dir, w.pods, &ferry.Options{Ignore: []string{"countries"}, Tables: map[string]ferry.Rule{"countries": {}}})
		contains(t, err, nil, "table countries has a rule in Tables and is named in Ignore")
		odd := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, Tenant: func(context.Context, podworks.ShopID) (any, error) { return 7.5, nil }})
		_, err = odd.Plan(t.Context(), w.shop, 2)
		contains(t, err, nil, "Options.Tenant returned float64 for shop 7, want int64, string or []byte")
		if f == testcluster.MariaDB {
			w.exec(w.source, `CREATE TABLE owned (owner UUID NOT NULL, id INT PRIMARY KEY, KEY (owner))`)
			for _, tenant := range []any{int64(7), "01890a5d-ac96-774b-bcce-b302099a805", "01890a5d-ac96-774b-bcce-b302099a8057zz", []byte("short")} {
				odd := w.newFerry(&ferry.Options{Ignore: ignored, Column: "owner", Tenant: func(context.Context, podworks.ShopID) (any, error) { return tenant, nil }})
				_, err = odd.Plan(t.Context(), w.shop, 2)
				contains(t, err, ferry.ErrRefused, "table owned: column owner is uuid", "must return 16 bytes, or a UUID's 32 hexadecimal digits")
			}
		}
	})
}

// What has no key is copied and compared as a whole, equal rows too.
func TestATableWithoutAKeyIsMovedAsAWhole(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE notes (shop_id INT NOT NULL, line VARCHAR(20) NULL, KEY (shop_id)); CREATE TABLE dials (shop_id INT NOT NULL, v FLOAT NOT NULL, u INT NULL UNIQUE, PRIMARY KEY (shop_id, v))`,
			&ferry.Options{Ignore: []string{"countries"}, PauseBudget: 30 * time.Second}) // the first try waits for a sixteenth of it
		w.fill(w.shop, 50)
		w.exec(w.source, `INSERT INTO notes VALUES (7, 'twice'), (7, 'twice'), (7, NULL), (7, 'once'), (8, 'twice'), (7, 'goes'), (7, 'goes')`)
		w.exec(w.source, `INSERT INTO dials VALUES (7, 0.1, 1), (7, 0.2, 2), (7, 0.3, NULL)`)
		w.exec(w.target, `INSERT INTO notes VALUES (9, 'stays')`)
		var late *sql.Conn
		committed := make(chan error, 1)
		tr := &trail{at: map[string]func(){
			"copy": func() { // while it is read
				w.exec(w.source, `DELETE FROM notes WHERE shop_id = 7 AND line = 'goes' LIMIT 1`)
				w.exec(w.source, `UPDATE dials SET u = 3 - u WHERE shop_id = 7 AND u = 9`)
			},
			"verify": func() { w.exec(w.target, `DELETE FROM notes WHERE shop_id = 7 AND line = 'twice' LIMIT 2`) },
			"cutover": func() {
				w.exec(w.source, `INSERT INTO notes VALUES (7, 'late')`)
				w.exec(w.source, `UPDATE dials SET v = v + 1 WHERE shop_id = 7 AND u = 2`)
				late = w.begin(10)
				if _, err := late.ExecContext(t.Context(), `INSERT INTO notes VALUES (7, 'under the lock')`); err != nil {
					t.Fatal(err)
				}
				go func() {
					err := awaitWaiter(t.Context(), w.source, f)
					if _, errCommit := late.ExecContext(t.Context(), `COMMIT`); err == nil {
						err = errCommit
					}
					committed <- err
				}()
			},
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err := <-committed; err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if report.StepsBack != 0 {
			t.Errorf("stepped back %d times over what can be copied under the lock", report.StepsBack)
		}
		w.alike(`notes`, `*`, `shop_id = 7`)
		w.alike(`dials`, `*`, `shop_id = 7`)
		if got := w.count(w.target, `SELECT COUNT(*) FROM notes WHERE shop_id <> 7`); got != 1 {
			t.Errorf("got %d rows of others, want the one that was there", got)
		}
	})
}

func TestALargeTableWithoutAKeyIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE notes (shop_id INT NOT NULL, line LONGTEXT, KEY (shop_id))`, nil)
		w.exec(w.source, `INSERT INTO notes VALUES (7, 'again')`)
		for w.count(w.source, `SELECT COUNT(*) FROM notes`) <= 10_000 {
			w.exec(w.source, `INSERT INTO notes SELECT * FROM notes`)
		}
		_, err := w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "table notes: nothing tells its rows apart", "the shop has 16384 rows and ", " there, more than 10000 or 32 MB; give it a key")
		w.untouched()

		w.exec(w.source, `TRUNCATE notes`)
		for range 33 {
			w.exec(w.source, `INSERT INTO notes VALUES (7, REPEAT('1234567890', 100000))`)
		}
		_, err = w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrRefused, "the shop has 33 rows and 33 MB there, more than 10000 or 32 MB; give it a key")
		w.untouched()

		// It may grow to twice that while it is moved, and no further.
		w.exec(w.source, `DELETE FROM notes LIMIT 10`)
		tr := &trail{at: map[string]func(){"copy": func() {
			w.exec(w.source, `INSERT INTO notes SELECT * FROM notes`)
			w.exec(w.source, `INSERT INTO notes SELECT * FROM notes`)
		}}}
		_, err = w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, nil, "undone, the shop stays in pod 1", "copy table notes: nothing tells its rows apart, and those of the shop have grown to more than 64 MB since the plan")
	})
}
