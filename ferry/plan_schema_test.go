package ferry_test

import (
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// One difference between two tables each. The definitions are of what comes
// after shop_id and id; options, of what comes after the parenthesis.
var schemaDifferences = []struct {
	name                         string
	only                         testcluster.Family
	source, target               string
	sourceOptions, targetOptions string
	severity                     ferry.Severity // default Refuse
	says                         string
	mend                         string // that Do names, if it isn't what is run to see whether it mends
}{
	{name: "type", source: `v VARCHAR(10)`, target: `v VARCHAR(9)`, says: "column v: the type is varchar(10) on pod 1 and varchar(9) on pod 2"},
	{name: "sign", source: `v INT UNSIGNED`, target: `v INT`, says: "column v: the type is int unsigned on pod 1 and int on pod 2"},
	{name: "values of an enum", source: `v ENUM('a','B')`, target: `v ENUM('a','b')`, says: "column v: the type is enum('a','B') on pod 1 and enum('a','b') on pod 2"},
	{name: "character set", source: `v VARCHAR(10)`, target: `v VARCHAR(10) CHARACTER SET latin1`, says: "column v: the character set is utf8mb4 on pod 1 and latin1 on pod 2"},
	{name: "collation", source: `v VARCHAR(10) COLLATE utf8mb4_bin`, target: `v VARCHAR(10) COLLATE utf8mb4_unicode_ci`,
		says: "column v: the collation is utf8mb4_bin on pod 1 and utf8mb4_unicode_ci on pod 2"},
	{name: "nullability", source: `v INT NOT NULL`, target: `v INT`, says: "column v: the nullability is NOT NULL on pod 1 and NULL on pod 2"},
	{name: "default", source: `v INT DEFAULT 3`, target: `v INT DEFAULT 4`, says: "column v: the default is 3 on pod 1 and 4 on pod 2"},
	{name: "no default", source: `v VARCHAR(9) NOT NULL DEFAULT 'x'`, target: `v VARCHAR(9) NOT NULL`, says: "on pod 1 and none on pod 2"},
	{name: "generated value", source: `v INT AS (shop_id + 1) STORED`, target: `v INT AS (shop_id + 2) STORED`, says: "column v: the generated value is "},
	{name: "generated or written", source: `v INT AS (shop_id + 1) STORED`, target: `v INT`, says: "and none on pod 2"},
	{name: "value at an update", source: `v DATETIME ON UPDATE CURRENT_TIMESTAMP`, target: `v DATETIME`, says: "column v: the value at an update is current_timestamp"},
	{name: "visibility", source: `v INT INVISIBLE`, target: `v INT`, says: "column v: the visibility is INVISIBLE on pod 1 and VISIBLE on pod 2"},
	{name: "numbering", source: `v INT NOT NULL AUTO_INCREMENT, KEY (v)`, target: `v INT NOT NULL, KEY (v)`,
		says: "column v: the numbering is AUTO_INCREMENT on pod 1 and none on pod 2"},
	{name: "column's check", source: `v INT CHECK (v > 0)`, target: `v INT`, says: "on pod 1"},
	{name: "check", source: `v INT, w INT, CONSTRAINT ordered CHECK (v < w)`, target: `v INT, w INT, CONSTRAINT ordered CHECK (v > w)`, says: "is on pod 1 only",
		mend: "in pod 2: ALTER TABLE `odd` ADD CONSTRAINT `ordered` CHECK ("},
	{name: "check on the target", source: `v INT, w INT`, target: `v INT, w INT, CONSTRAINT ordered CHECK (v > w)`, says: "is on pod 2 only",
		mend: "in pod 1: ALTER TABLE `odd` ADD CONSTRAINT `ordered` CHECK ("},
	{name: "column missing", source: `v INT, w VARCHAR(9) COLLATE utf8mb4_bin`, target: `v INT`, says: "column w is on pod 1 only"},
	{name: "column too many", source: `v INT`, target: `v INT, w INT`, says: "column w is on pod 2 only", mend: "in pod 2: ALTER TABLE `odd` DROP COLUMN `w`, or add it in pod 1"},
	{name: "order of the columns", source: `a INT, b CHAR(1), c INT`, target: `b CHAR(1), a INT, c INT`,
		says: "the columns' order is shop_id, id, a, b, c on pod 1 and shop_id, id, b, a, c on pod 2"},
	{name: "primary key", source: `v INT, KEY (v)`, target: `v INT, KEY (v)`, targetOptions: `; ALTER TABLE odd DROP PRIMARY KEY, ADD PRIMARY KEY (id, shop_id)`,
		says: "PRIMARY KEY (`id`,`shop_id`) is on pod 2 only", mend: "in pod 1: ALTER TABLE `odd` ADD PRIMARY KEY (`id`,`shop_id`), or drop it in pod 2"},
	{name: "unique key", source: `v INT, UNIQUE KEY once (shop_id, v)`, target: `v INT`, says: "UNIQUE KEY (`shop_id`,`v`) is on pod 1 only"},
	{name: "unique key of another length", source: `v VARCHAR(20), UNIQUE KEY once (shop_id, v(3))`, target: `v VARCHAR(20), UNIQUE KEY once (shop_id, v(4))`,
		says: "UNIQUE KEY (`shop_id`,`v`(3)) is on pod 1 only", mend: "in pod 2: ALTER TABLE `odd` ADD UNIQUE KEY `once` (`shop_id`,`v`(3))"},
	{name: "unique key on the target", source: `v INT`, target: `v INT, UNIQUE KEY once (shop_id, v)`, says: "UNIQUE KEY (`shop_id`,`v`) is on pod 2 only",
		mend: "in pod 1: ALTER TABLE `odd` ADD UNIQUE KEY `once` (`shop_id`,`v`), or drop it in pod 2"},
	{name: "index", severity: ferry.Warn, source: `v INT, KEY by_v (v)`, target: `v INT`, says: "KEY (`v`) is on pod 1 only"},
	{name: "index of texts", severity: ferry.Warn, source: `v TEXT, FULLTEXT KEY words (v)`, target: `v TEXT`, says: "FULLTEXT KEY (`v`) is on pod 1 only"},
	{name: "foreign key", severity: ferry.Warn, source: `v INT, p INT, KEY (shop_id, p), CONSTRAINT up FOREIGN KEY (shop_id, p) REFERENCES odd (shop_id, id)`, target: `v INT, p INT, KEY (shop_id, p)`,
		says: "FOREIGN KEY (`shop_id`, `p`) REFERENCES `odd` (`shop_id`, `id`) is on pod 1 only"},
	{name: "row format", severity: ferry.Warn, source: `v INT`, target: `v INT`, targetOptions: `ROW_FORMAT=COMPACT`, says: "the row format is Dynamic on pod 1 and Compact on pod 2"},
	{name: "default collation", severity: ferry.Warn, source: `v INT`, target: `v INT`, sourceOptions: `COLLATE utf8mb4_bin`, targetOptions: `COLLATE utf8mb4_unicode_ci`,
		says: "the default collation, of columns to come, is utf8mb4_bin on pod 1 and utf8mb4_unicode_ci on pod 2"},
	{name: "partitioning", severity: ferry.Warn, source: `v INT`, target: `v INT`, targetOptions: `PARTITION BY HASH (shop_id) PARTITIONS 2`,
		says: "the partitioning is none on pod 1 and ", mend: " "},
	{name: "expression as a default", only: testcluster.MySQL, source: `v VARCHAR(9) DEFAULT ('x')`, target: `v VARCHAR(9) DEFAULT 'x'`, says: "column v: the default is (_utf8mb4\\'x\\') on pod 1 and x on pod 2"},
	{name: "collation that the table implies", source: `v VARCHAR(10)`, target: `v VARCHAR(10)`, sourceOptions: `COLLATE utf8mb4_bin`, targetOptions: `COLLATE utf8mb4_unicode_ci`,
		says: "column v: the collation is utf8mb4_bin on pod 1 and utf8mb4_unicode_ci on pod 2"},
}

func TestEveryDifferenceOfTheSchemasIsAFindingThatSaysHowToMendIt(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		kept := map[*sql.DB][]string{w.source: w.tables(w.source), w.target: w.tables(w.target)}
		for _, d := range schemaDifferences {
			if d.only != "" && d.only != f {
				continue
			}
			t.Run(d.name, func(t *testing.T) {
				w := w.in(t)
				w.script(w.source, `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, `+d.source+`, PRIMARY KEY (shop_id, id)) `+d.sourceOptions)
				w.script(w.target, `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, `+d.target+`, PRIMARY KEY (shop_id, id)) `+d.targetOptions)
				severity := d.severity
				if severity == "" {
					severity = ferry.Refuse
				}
				plan := w.plan(2)
				found := w.found(plan, severity, "odd", d.says)
				if severity == ferry.Warn && plan.Refused() {
					t.Errorf("the plan is refused:\n%v", plan)
				}
				if d.mend != "" {
					if !strings.Contains(found.Do+" ", d.mend) {
						t.Errorf("got the advice %q, want %q", found.Do, d.mend)
					}
				} else if alter, ok := strings.CutPrefix(found.Do, "in pod 2: "); !ok {
					t.Errorf("got the advice %q, want what to do in pod 2", found.Do)
				} else {
					w.exec(w.target, alter)
					if plan := w.plan(2); slices.ContainsFunc(plan.Findings, func(f ferry.Finding) bool { return f.What == found.What }) {
						t.Errorf("after %s it is still found that %s", alter, found.What)
					}
				}
				for db, tables := range kept {
					w.dropAllBut(db, tables)
				}
			})
		}
	})
}

func TestSchemasThatOnlyLookDifferentAreEqual(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		// Names of keys, comments, and a counter don't matter.
		w.exec(w.source, `CREATE TABLE odd (shop_id INT NOT NULL, id INT NOT NULL, v VARCHAR(9) COLLATE utf8mb4_bin COMMENT 'a
) b', n INT, CHECK (n <> 5), UNIQUE KEY (shop_id, v), PRIMARY KEY (shop_id, id)) COMMENT 'x) y' AUTO_INCREMENT=50`)
		w.exec(w.target, `CREATE TABLE odd (shop_id INT(4) NOT NULL, id INT NOT NULL, v VARCHAR(9) COLLATE utf8mb4_bin, n INT, CONSTRAINT five CHECK (n <> 5), UNIQUE KEY once (shop_id, v), PRIMARY KEY (shop_id, id))`)
		plan := w.plan(2)
		for _, f := range plan.Findings {
			if f.Table == "odd" {
				t.Errorf("found: %v", f)
			}
		}
	})
}

func TestATriggerThatTheTargetLacksIsAWarning(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.exec(w.source, `CREATE TRIGGER greet BEFORE INSERT ON products FOR EACH ROW SET NEW.name = 'hello'`)
		w.found(w.plan(2), ferry.Warn, "products", "trigger greet of pod 1 is not the same on pod 2, so after the move the shop's rows are written without it")
	})
}

// plan returns the plan of moving the world's shop, refused or not, and fails
// the test unless both ways of saying so agree.
func (w *world) plan(to podworks.PodID) *ferry.Plan {
	w.t.Helper()
	plan, err := w.ferry.Plan(w.t.Context(), w.shop, to)
	if plan == nil {
		w.t.Fatal(err)
	}
	if plan.Refused() != errors.Is(err, ferry.ErrRefused) || !plan.Refused() && err != nil {
		w.t.Errorf("the plan says refused: %t, and the error is %v", plan.Refused(), err)
	}
	for _, f := range plan.Findings {
		if f.Severity == ferry.Refuse && !strings.Contains(err.Error(), f.String()) {
			w.t.Errorf("the error %q doesn't say %q", err, f)
		}
	}
	return plan
}

// found returns the plan's finding that says something, of a table if one is
// named, and fails the test if there is none of that severity.
func (w *world) found(plan *ferry.Plan, severity ferry.Severity, table, says string) ferry.Finding {
	w.t.Helper()
	for _, f := range plan.Findings {
		if f.Severity == severity && f.Table == table && strings.Contains(f.What, says) {
			return f
		}
	}
	w.t.Fatalf("want a finding %q of table %q that says %q, got the plan\n%v", severity, table, says, plan)
	return ferry.Finding{}
}
