package ferry_test

import (
	"database/sql"
	"sync"
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

const countedTables = `
CREATE TABLE sales (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, shop_id INT NOT NULL, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, code VARCHAR(20) NOT NULL UNIQUE, KEY (shop_id));
CREATE TABLE gone (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, shop_id INT NOT NULL, code VARCHAR(20) NOT NULL, d DATE NOT NULL, KEY (shop_id));
CREATE TABLE second (shop_id INT NOT NULL, id INT NOT NULL AUTO_INCREMENT, PRIMARY KEY (shop_id, id), KEY (id))`

// moveCounted moves a shop that deleted the rows with its highest ids, the last
// of them just before the lock, and returns the ids of rows that it adds then.
func moveCounted(t *testing.T, f testcluster.Family, off map[hook.Protection]bool) (w *world, sale, other, third int64) {
	w = newWorld(t, f, countedTables, &ferry.Options{Ignore: []string{"countries"}})
	w.fill(w.shop, 20)
	w.exec(w.source, `INSERT INTO sales (id, shop_id, at, code) VALUES (5, 7, '2001-01-01', 'a'), (1000, 7, '2001-01-01', 'b')`)
	w.exec(w.source, `INSERT INTO gone (id, shop_id, code, d) VALUES (9223372036854775900, 7, '', '2001-01-01')`)
	w.exec(w.source, `DELETE FROM sales WHERE id = 1000`)
	w.exec(w.source, `DELETE FROM gone`)
	w.exec(w.source, `INSERT INTO second VALUES (7, 500)`)
	ctx := hook.With(t.Context(), &hook.Set{Off: off, Step: func(step string) {
		if step == "drain" {
			// Not fenced; as a row that came and went in the last writer's transaction.
			tx, err := w.source.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			for _, stmt := range []string{`INSERT INTO sales (id, shop_id, code) VALUES (2000, 7, 'c')`, `DELETE FROM sales WHERE id = 2000`} {
				if _, err := tx.ExecContext(t.Context(), stmt); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}})
	if _, err := w.ferry.Move(ctx, w.shop, 2); err != nil {
		t.Fatal(err)
	}
	w.alike(`sales`, `*`, `shop_id = 7`)
	id := func(insert string) int64 {
		res, err := w.target.ExecContext(t.Context(), insert)
		if err != nil {
			t.Fatal(err)
		}
		n, err := res.LastInsertId()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return w, id(`INSERT INTO sales (shop_id, code) VALUES (7, 'new')`), id(`INSERT INTO gone (shop_id, code, d) VALUES (7, '', '2001-01-01')`),
		id(`INSERT INTO second (shop_id) VALUES (7)`)
}

func TestIDsAreNotGivenAgainAfterTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, sale, gone, second := moveCounted(t, f, nil)
		if sale != 2001 || uint64(gone) != 9223372036854775901 || second != 501 {
			t.Errorf("new rows got the ids %d, %d and %d; want 2001, 9223372036854775901 and 501", sale, uint64(gone), second)
		}
		if n := w.count(w.target, `SELECT COUNT(*) FROM gone`); n != 1 {
			t.Errorf("got %d rows, want the new one", n)
		}
	})
}

// The twin of the test above.
func TestWithoutTheCountersIDsAreGivenAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		_, sale, gone, _ := moveCounted(t, f, map[hook.Protection]bool{hook.Counter: true})
		if sale > 2000 || gone != 1 {
			t.Errorf("new rows got the ids %d and %d; want ones that were given before", sale, gone)
		}
	})
}

// raceCounted moves a shop that deleted the row with its highest id, while another shop
// on the target is given just that id before the counter is raised, and returns how many of
// the other's rows are there in the end.
func raceCounted(t *testing.T, f testcluster.Family, off map[hook.Protection]bool) (sales, second int64) {
	w := newWorld(t, f, countedTables, &ferry.Options{Ignore: []string{"countries"}})
	w.fill(w.shop, 20)
	w.exec(w.source, `INSERT INTO sales (id, shop_id, code) VALUES (1000, 7, 'b')`)
	w.exec(w.source, `DELETE FROM sales`)
	w.exec(w.source, `INSERT INTO second VALUES (7, 400), (7, 500)`)
	w.exec(w.source, `DELETE FROM second WHERE id = 500`)
	var once sync.Once
	ctx := hook.With(t.Context(), &hook.Set{Off: off, Step: func(step string) {
		if step == "raise" {
			once.Do(func() {
				w.exec(w.target, `INSERT INTO sales (id, shop_id, code) VALUES (1000, 8, 'theirs')`)
				w.exec(w.target, `INSERT INTO second VALUES (8, 500)`)
			})
		}
	}})
	if _, err := w.ferry.Move(ctx, w.shop, 2); err != nil {
		t.Fatal(err)
	}
	return w.count(w.target, `SELECT COUNT(*) FROM sales WHERE shop_id = 8 AND id = 1000`), w.count(w.target, `SELECT COUNT(*) FROM second WHERE shop_id = 8 AND id = 500`)
}

func TestRaisingACounterTouchesNoOtherShopsRow(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		if sales, second := raceCounted(t, f, nil); sales != 1 || second != 1 {
			t.Errorf("%d and %d rows of the other shop are left, want 1 and 1", sales, second)
		}
	})
}

// The twin of the test above.
func TestWithoutTheCountAnotherShopsRowIsTouched(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		if sales, second := raceCounted(t, f, map[hook.Protection]bool{hook.Given: true}); sales+second == 2 {
			t.Error("nothing of the other shop's was touched; the test above proves nothing")
		}
	})
}

// Where no row can be made up, the move ends before writers wait. MariaDB takes one that
// a CHECK forbids, for the moment that it is there.
func TestACounterThatCantBeRaisedEndsTheMoveBeforeTheLock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE places (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, shop_id INT NOT NULL, n INT NOT NULL, KEY (shop_id), CHECK (n > 5))`, nil)
		w.fill(w.shop, 20)
		w.exec(w.source, `INSERT INTO places VALUES (100, 7, 6)`)
		w.exec(w.source, `DELETE FROM places`)
		tr := &trail{}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if f == testcluster.MariaDB {
			if err != nil {
				t.Fatal(err)
			}
			w.exec(w.target, `INSERT INTO places (shop_id, n) VALUES (7, 6)`)
			if id := w.count(w.target, `SELECT id FROM places`); id != 101 {
				t.Errorf("the next id on the target is %d, want 101", id)
			}
			return
		}
		contains(t, err, nil, "below the source's 101", "ALTER TABLE `places` AUTO_INCREMENT = 101 on pod 2", "undone")
		if tr.passed("drain") {
			t.Error("it came to the lock")
		}
		w.stays()
	})
}

// MySQL still says that a table has a counter when its column has it no more.
func TestACounterThatWasThereOnceIsNotHandedOver(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE once (shop_id INT NOT NULL, id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, KEY (shop_id, id))`, nil)
		w.exec(w.source, `INSERT INTO once VALUES (7, 1000)`)
		for _, db := range []*sql.DB{w.source, w.target} {
			w.exec(db, `ALTER TABLE once MODIFY id INT NOT NULL`)
		}
		w.exec(w.source, `UPDATE once SET id = 1`)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Error(err)
		}
	})
}
