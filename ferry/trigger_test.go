package ferry_test

import (
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

const triggeredTables = `
CREATE TABLE rentals (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, at DATETIME NOT NULL, item INT NOT NULL, note VARCHAR(20) CHARACTER SET latin1 NULL,
	seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, KEY (shop_id), UNIQUE KEY (at, item));
CREATE TABLE audit (shop_id INT NOT NULL, id INT NOT NULL AUTO_INCREMENT, rental INT NOT NULL, PRIMARY KEY (id), KEY (shop_id))`

// Triggers on the target neither change what is copied nor do again what they did
// on the source.
func TestTheTargetsTriggersChangeNothing(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, triggeredTables, &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 3})
		w.fill(w.shop, 20)
		w.exec(w.source, `INSERT INTO rentals VALUES (1, 7, '2001-01-01', 5, 'naïve', '2002-01-01'), (2, 7, '2001-01-02', 5, NULL, '2002-01-01'), (3, 7, '2001-01-03', 5, '', '2002-01-01')`)
		w.exec(w.source, `INSERT INTO audit VALUES (7, 1, 1)`)
		for _, stmt := range []string{
			"CREATE TRIGGER rental_date BEFORE INSERT ON rentals FOR EACH ROW SET NEW.at = NOW(), NEW.`note` = 'by the trigger'",
			`CREATE TRIGGER rental_audit AFTER INSERT ON rentals FOR EACH ROW BEGIN IF @podworks_ferry IS NULL THEN INSERT INTO audit (shop_id, rental) VALUES (NEW.shop_id, NEW.id); END IF; END`,
			`CREATE TRIGGER audit_gone AFTER DELETE ON audit FOR EACH ROW BEGIN IF @podworks_ferry IS NULL THEN SIGNAL SQLSTATE '45000'; END IF; END`,
			`CREATE TRIGGER audit_change BEFORE UPDATE ON audit FOR EACH ROW SIGNAL SQLSTATE '45000'`,
		} {
			w.exec(w.target, stmt)
		}
		tr := &trail{at: map[string]func(){
			"verify":  func() { w.exec(w.source, `UPDATE rentals SET note = 'changed', seen = seen WHERE id = 2`) },
			"cutover": func() { w.exec(w.source, `INSERT INTO rentals VALUES (4, 7, '2001-01-04', 5, 'late', '2002-01-01')`) },
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		w.alike(`rentals`, `*`, `shop_id = 7`)
		w.alike(`audit`, `*`, `shop_id = 7`)
		w.exec(w.target, `INSERT INTO rentals (id, shop_id, at, item) VALUES (5, 7, '2001-01-01', 6)`)
		if n := w.count(w.target, `SELECT COUNT(*) FROM rentals JOIN audit ON rental = rentals.id WHERE rentals.id = 5 AND at > '2002-01-01' AND note = 'by the trigger'`); n != 1 {
			t.Error("after the move the triggers don't run")
		}
	})
}

func TestTriggersThatWouldRunAgainAreRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, triggeredTables+`; CREATE TABLE notes (shop_id INT NOT NULL, line VARCHAR(20), KEY (shop_id))`, nil)
		w.fill(w.shop, 20)
		w.exec(w.target, `CREATE FUNCTION stamp_it() RETURNS DATETIME READS SQL DATA RETURN NOW()`)
		w.exec(w.target, `CREATE TRIGGER once BEFORE UPDATE ON audit FOR EACH ROW SET NEW.rental = 1`)
		for trigger, says := range map[string]string{
			`AFTER INSERT ON rentals FOR EACH ROW INSERT INTO audit (shop_id, rental) VALUES (1, 1)`: "table rentals: trigger bad would run again for every row that is copied; have it do nothing where @podworks_ferry is 1",
			`BEFORE INSERT ON rentals FOR EACH ROW SET @total = @total + 1`:                          "may do more than give columns other values",
			`BEFORE INSERT ON rentals FOR EACH ROW SET NEW.item = (SELECT COUNT(*) FROM audit)`:      "may do more than give columns other values",
			`BEFORE INSERT ON rentals FOR EACH ROW SET NEW.at = stamp_it()`:                          "and calls stamp_it",
			`BEFORE INSERT ON rentals FOR EACH ROW SET NEW.id = 5`:                                   "would change the key of rows that are copied, or whose they are",
			"BEFORE INSERT ON rentals FOR EACH ROW SET NEW.at = NOW(), NEW.`shop_id` = 5":            "would change the key of rows that are copied, or whose they are",
			`BEFORE DELETE ON rentals FOR EACH ROW SET @gone = OLD.id`:                               "would run again for every row that is copied",
			`BEFORE INSERT ON notes FOR EACH ROW SET NEW.line = ''`:                                  "nothing tells these apart to change them back",
			`BEFORE INSERT ON audit FOR EACH ROW SET NEW.rental = 5`:                                 "a trigger for UPDATE would run when they are changed back",
		} {
			w.exec(w.target, `CREATE TRIGGER bad `+trigger)
			_, err := w.ferry.Plan(t.Context(), w.shop, 2)
			contains(t, err, ferry.ErrRefused, says)
			w.exec(w.target, `DROP TRIGGER bad`)
		}
		if _, err := w.ferry.Plan(t.Context(), w.shop, 2); err != nil {
			t.Errorf("with a trigger for UPDATE alone: %v", err)
		}
	})
}
