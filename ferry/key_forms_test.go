package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/testcluster"
)

// A Keyed is a type of key column and six different values, in SQL.
type Keyed struct {
	Columns string
	Values  [6]string
}

// keyKinds are all the types of which a key can be made, with the values whose
// order, length or equality a client is likely to get wrong.
var keyKinds = []Keyed{
	{`TINYINT`, [6]string{`-128`, `-1`, `0`, `1`, `126`, `127`}},
	{`SMALLINT UNSIGNED`, [6]string{`0`, `1`, `32767`, `32768`, `65534`, `65535`}},
	{`MEDIUMINT`, [6]string{`-8388608`, `-1`, `0`, `1`, `2`, `8388607`}},
	{`INT(8) ZEROFILL`, [6]string{`0`, `1`, `9`, `10`, `42`, `4294967295`}},
	{`BIGINT`, [6]string{`-9223372036854775808`, `-5`, `0`, `9`, `10`, `9223372036854775807`}},
	{`BIGINT UNSIGNED`, [6]string{`0`, `9`, `10`, `9223372036854775807`, `9223372036854775808`, `18446744073709551615`}},
	{`DECIMAL(30,10)`, [6]string{`-99999999999999999999.5`, `-0.0000000001`, `0`, `0.5`, `1`, `12345678901234567890.5`}},
	{`DECIMAL(6,2) ZEROFILL`, [6]string{`0`, `0.5`, `1`, `9.99`, `10`, `1000`}},
	{`YEAR`, [6]string{`0`, `1901`, `1999`, `2000`, `2024`, `2155`}},
	{`DATE`, [6]string{`'0000-00-00'`, `'1000-01-01'`, `'2024-00-00'`, `'2024-02-29'`, `'2024-03-01'`, `'9999-12-31'`}},
	{`TIME`, [6]string{`'-838:59:59'`, `'-00:00:01'`, `'00:00:00'`, `'00:00:01'`, `'100:00:00'`, `'838:59:59'`}},
	{`TIME(6)`, [6]string{`'-837:59:59.500000'`, `'-00:00:00.000001'`, `'00:00:00'`, `'00:00:00.000001'`, `'09:00:00.5'`, `'23:59:59.999999'`}},
	{`DATETIME`, [6]string{`'0000-00-00 00:00:00'`, `'1000-01-01 00:00:00'`, `'2024-03-31 02:30:00'`, `'2024-03-31 02:30:01'`, `'2025-01-01 00:00:00'`, `'9999-12-31 23:59:59'`}},
	{`DATETIME(3)`, [6]string{`'0000-00-00 00:00:00'`, `'1000-01-01 00:00:00'`, `'2024-03-31 02:30:00'`, `'2024-03-31 02:30:00.001'`, `'2024-03-31 02:30:00.01'`, `'9999-12-31 23:59:59.999'`}},
	{`TIMESTAMP(6) DEFAULT '2001-01-01'`, [6]string{`'0000-00-00 00:00:00'`, `'1970-01-02 00:00:01'`, `'2024-03-30 01:30:00'`, `'2024-03-30 01:30:00.000001'`, `'2024-10-26 02:30:00.5'`, `'2038-01-18 03:14:07'`}},
	{`CHAR(10)`, [6]string{`''`, `'B'`, `'a'`, `'tail'`, `'Öl'`, `'日本🎉'`}},
	{`CHAR(10) CHARACTER SET utf16`, [6]string{`''`, `'B'`, `'a'`, `'tail'`, `'Öl'`, `'日本🎉'`}},
	{`CHAR(10) CHARACTER SET ucs2`, [6]string{`''`, `'B'`, `'a'`, `'tail'`, `'Öl'`, `'日本'`}},
	{`VARCHAR(40)`, [6]string{`''`, `'B'`, `'a'`, `'it''s "q" \\ %_ \0 \n'`, `'ss'`, `'日本🎉'`}},
	{`VARCHAR(40) COLLATE utf8mb4_bin`, [6]string{`''`, `'B'`, `'a'`, `CONCAT('a', CHAR(1))`, `'A'`, `'日本🎉'`}},
	{`VARCHAR(40) COLLATE utf8mb4_unicode_ci`, [6]string{`''`, `'b'`, `'A  '`, `CONCAT('a', CHAR(9))`, `'Straße'`, `'z'`}},
	{`VARCHAR(40) CHARACTER SET latin1`, [6]string{`''`, `'b'`, `'a'`, `'Öl für 5 €'`, `'z'`, `'ÿ'`}},
	{`VARCHAR(40) CHARACTER SET latin1 COLLATE latin1_german2_ci`, [6]string{`''`, `'b'`, `'a'`, `'ö'`, `'of'`, `'z'`}},
	{`VARCHAR(40) CHARACTER SET gbk`, [6]string{`''`, `'b'`, `'a'`, `'中文'`, `'中'`, `'z'`}},
	{`VARCHAR(40) CHARACTER SET utf8mb3`, [6]string{`''`, `'b'`, `'a'`, `'é'`, `'日本'`, `'z'`}},
	{`BINARY(16)`, [6]string{`x'00000000000000000000000000000000'`, `x'0000000000000000000000000000ff00'`, `x'ff000000000000000000000000000000'`, `x'61000000000000000000000000000000'`, `x'61200000000000000000000000000000'`, `x'27225c00000000000000000000000000'`}},
	{`VARBINARY(20)`, [6]string{`''`, `x'00'`, `x'0000'`, `x'61'`, `x'6120'`, `x'ff27225c'`}},
	{`BIT(12)`, [6]string{`b'0'`, `b'1'`, `b'1001'`, `b'101010101011'`, `b'1111'`, `b'111111111111'`}},
	{`BIT(64)`, [6]string{`b'0'`, `b'1'`, `b'1001'`, `b'101010101011'`, `b'1111'`, `b'1000000000000000000000000000000000000000000000000000000000000001'`}},
	{`ENUM('z', 'a', 'größer', 'a,b', 'it''s', '10')`, [6]string{`'z'`, `'a'`, `'größer'`, `'a,b'`, `'it''s'`, `'10'`}},
	{`SET('z', 'a', 'ö')`, [6]string{`''`, `'z'`, `'a'`, `'z,a'`, `'ö'`, `'z,a,ö'`}},
}

var mariadbKeyKinds = []Keyed{
	{`UUID`, [6]string{`'00000000-0000-0000-0000-000000000000'`, `'6ccd7800-baba-1026-9564-5b8c656024db'`, `'018f2c3d-0102-7304-8506-0708090a0b0c'`, `'00112233-4455-1677-8899-aabbccddee00'`, `'FF112233445516778800000000000000'`, `'ffffffff-ffff-ffff-ffff-ffffffffffff'`}},
	{`INET4`, [6]string{`'0.0.0.0'`, `'9.0.0.0'`, `'10.0.0.0'`, `'10.0.0.1'`, `'100.2.0.0'`, `'255.255.255.255'`}},
	{`INET6`, [6]string{`'::'`, `'::1.2.3.4'`, `'::ffff:1.2.3.4'`, `'1:0:2:3:4:5:6:7'`, `'FE80:0::0:0'`, `'2001:db8:0:0:1:0:0:1'`}},
}

// KeyKinds returns those of a family. UUIDs, which MariaDB orders neither as their
// text nor as their bytes, come in each place that KeyTables has for a key.
func KeyKinds(f testcluster.Family) []Keyed {
	if f == testcluster.MariaDB {
		return slices.Concat(keyKinds, slices.Repeat(mariadbKeyKinds[:1], 3), mariadbKeyKinds)
	}
	return keyKinds
}

// KeyTables returns the statements that create a table for each kind, with the
// key in all the places where it can be.
func KeyTables(kinds []Keyed) string {
	var b strings.Builder
	for i, k := range kinds {
		fmt.Fprintf(&b, `CREATE TABLE k%d (shop_id INT NOT NULL, v VARCHAR(40) NOT NULL, k %s NOT NULL, `, i, k.Columns)
		switch i % 4 {
		case 0:
			b.WriteString(`PRIMARY KEY (shop_id, k)`)
		case 1:
			b.WriteString(`PRIMARY KEY (k), KEY (shop_id)`)
		case 2: // no primary key, and a unique one that can be NULL comes first
			b.WriteString(`u INT NULL, UNIQUE KEY a (u), UNIQUE KEY b (shop_id, k)`)
		case 3: // of several columns, with the shop among them
			b.WriteString(`second INT NOT NULL DEFAULT 5, PRIMARY KEY (k, shop_id, second), KEY (shop_id)`)
		}
		b.WriteString(`);`)
	}
	return b.String()
}

// A row of a chunk is left out if the log named it meanwhile, which is found by
// the bytes of its key.
func TestTheCopyAndTheLogGiveARowTheSameKey(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		kinds := KeyKinds(family)
		server := testcluster.Shared(t, family, "source")
		f, err := New(Tables{}, map[podworks.PodID]*mysql.Config{1: server.Config(testcluster.Database(t, server))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		src, err := f.open(1)
		if err != nil {
			t.Fatal(err)
		}
		defer src.db.Close()
		exec := func(query string) {
			if _, err := src.db.ExecContext(ctx, query); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		for stmt := range strings.SplitSeq(strings.TrimSuffix(KeyTables(kinds), ";"), ";") {
			exec(stmt)
		}
		m := &move{f: f, src: src, log: slog.New(slog.DiscardHandler)}
		if m.flavor, err = flavor.Detect(ctx, src.db); err != nil {
			t.Fatal(err)
		}
		tables, err := describe(ctx, src.db)
		if err != nil {
			t.Fatal(err)
		}
		for i := range kinds {
			table := tables[fmt.Sprintf("k%d", i)]
			table.shop = table.column("shop_id")
			if err := table.belong(int64(7)); err != nil {
				t.Fatal(err)
			}
			table.identify()
			table.place = len(m.tables)
			m.tables = append(m.tables, table)
		}
		from, err := m.logEnd(ctx)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for i, k := range kinds {
			for _, value := range k.Values {
				exec(fmt.Sprintf(`INSERT INTO k%d (shop_id, v, k) VALUES (7, '', %s)`, i, value))
				left++
			}
		}
		logged := make([]map[string]bool, len(kinds))
		enough := errors.New("enough")
		ctx, stop := context.WithCancelCause(ctx)
		groups, ended := newQueue(), make(chan error, 1)
		go func() { ended <- m.tail(ctx, from, groups.push) }()
		for left > 0 {
			select {
			case g := <-groups.groups:
				for _, c := range g.changes {
					if logged[c.table] == nil {
						logged[c.table] = map[string]bool{}
					}
					logged[c.table][c.key] = true
					left--
				}
			case err := <-ended:
				t.Fatal(err)
			}
		}
		stop(enough)
		if err := <-ended; !errors.Is(err, enough) {
			t.Fatal(err)
		}
		for i, table := range m.tables {
			copied := map[string]bool{}
			err := eachKey(t.Context(), src.db, table, func(key string, _ []sql.RawBytes) error {
				copied[key] = true
				return nil
			}, 0, `SELECT `+strings.TrimSuffix(table.keyList(), `, `)+` FROM `+table.name+` WHERE `+table.ofShop())
			if err != nil {
				t.Fatal(err)
			}
			if len(copied) != len(kinds[i].Values) || !maps.Equal(copied, logged[i]) {
				t.Errorf("%s: the copy has %q, the log %q", kinds[i].Columns, slices.Sorted(maps.Keys(copied)), slices.Sorted(maps.Keys(logged[i])))
			}
		}
	})
}
