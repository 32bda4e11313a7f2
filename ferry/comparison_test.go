package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// After an incident: which rows are not what the shop left behind?
func TestCompareListsWhatDiffersAfterAMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE nokey (shop_id BIGINT NOT NULL, v INT, KEY (shop_id));
			CREATE TABLE one (shop_id BIGINT NOT NULL PRIMARY KEY, v INT)`, nil)
		w.fill(w.shop, 6000)
		w.fill(w.other, 10)
		w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL), (7, 2, 'b', 'c')`)
		w.exec(w.source, `INSERT INTO nokey VALUES (7, 1), (7, 1)`)
		w.exec(w.source, `INSERT INTO one VALUES (7, 1)`)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		compare := func() *ferry.Comparison {
			t.Helper()
			c, err := w.ferry.Compare(t.Context(), w.shop, 1, 2)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		if c := compare(); !c.Equal() || len(c.Tables) != 4 || c.Tables[3].Source.Rows != 6000 {
			t.Fatalf("got %v, want 6000 products in the last of 4 tables, and no difference", c)
		}
		w.script(w.target, `UPDATE products SET price = 1, stock = 1 WHERE id = 7; DELETE FROM products WHERE id = 5500; INSERT INTO products VALUES (7, -9, '', 0, 0);
			UPDATE orders SET note = '' WHERE id = 1; UPDATE nokey SET v = NULL LIMIT 1; UPDATE one SET v = 2`)
		c := compare()
		if c.Equal() || c.Differing != 6 {
			t.Errorf("got %d rows that differ, want 6", c.Differing)
		}
		checkDifferences(t, c.Differences, []string{
			"table nokey: differs",
			"table one: differs in v",
			"table orders where `id` = 1: differs in note",
			"table products where `id` = -9: extra",
			"table products where `id` = 5500: missing",
			"table products where `id` = 7: differs in price, stock",
		})
		if text := c.String(); !strings.Contains(text, "6 rows differ") || !strings.Contains(text, "table products: missing (1)") || strings.Contains(text, "5500") {
			t.Errorf("want a report of what differs without a key, got:\n%s", text)
		}
		w.exec(w.target, `DELETE FROM orders WHERE shop_id = 7`)
		for from := 100_000; from < 116_000; from += 2000 { // the target has more than the source
			var values []string
			for id := range 2000 {
				values = append(values, fmt.Sprintf("(7, %d, '', 0, 0)", from+id))
			}
			w.exec(w.target, `INSERT INTO products VALUES `+strings.Join(values, ", "))
		}
		c = compare()
		if c.Differing != 16_000+2+2+3 {
			t.Errorf("got %d rows that differ, want %d", c.Differing, 16_000+2+2+3)
		}
		listed := map[string]int{}
		for _, d := range c.Differences {
			listed[d.Table]++
		}
		if listed["products"] != 100 || listed["orders"] != 2 {
			t.Errorf("got %v listed, want 100 products and both orders", listed)
		}
	})
}

func TestCompareRefusesWhatItCanNotCompare(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for _, tt := range []struct {
			a, b podworks.PodID
			want string
		}{{1, 3, "pod 3 is unknown"}, {1, 1, "are one database"}} {
			if _, err := w.ferry.Compare(t.Context(), w.shop, tt.a, tt.b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("pods %d and %d: got %v, want %q", tt.a, tt.b, err, tt.want)
			}
		}
		w.exec(w.target, `DROP TABLE orders`)
		if _, err := w.ferry.Compare(t.Context(), w.shop, 1, 2); err == nil || !strings.Contains(err.Error(), "table orders is missing on pod 2") {
			t.Errorf("without a table: got %v", err)
		}
	})
}

// Somebody alters a table while the shop is compared. He, and the writers of all
// shops behind him, wait for a statement at most and not for the comparison.
func TestAComparisonKeepsNobodyFromAlteringATableThatItHasRead(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		altered := make(chan error, 1)
		report, err := w.ferry.Move(hook.With(t.Context(), &hook.Set{Step: func(step string) {
			if step != "prove" {
				return
			}
			// The tables come in the order of their names: orders is read first.
			unlock := w.lockTable(w.source, "products")
			go func() {
				defer unlock()
				if _, err := w.awaitQuery(w.source, f, "%FROM `products`%"); err != nil {
					altered <- err
					return
				}
				altered <- func() error {
					conn, err := w.source.Conn(t.Context())
					if err != nil {
						return err
					}
					defer conn.Close()
					if _, err := conn.ExecContext(t.Context(), `SET SESSION lock_wait_timeout = 10`); err != nil {
						return err
					}
					_, err = conn.ExecContext(t.Context(), `ALTER TABLE orders ADD COLUMN more INT`)
					return err
				}()
			}()
		}}), w.shop, 2)
		if err := <-altered; err != nil {
			t.Errorf("the table can't be altered: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if report.Evidence.Switch == nil {
			t.Errorf("the comparison did not go on: %s", report.Evidence.Incomplete)
		}
	})
}

// lockTable keeps everybody from reading a table until unlock is called.
func (w *world) lockTable(db *sql.DB, table string) (unlock func()) {
	w.t.Helper()
	conn, err := db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := conn.ExecContext(w.t.Context(), `LOCK TABLES `+table+` WRITE`); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		conn.ExecContext(context.WithoutCancel(w.t.Context()), `UNLOCK TABLES`)
		conn.Close()
	}
}

// awaitQuery waits until a session is at work on a statement, and returns which.
func (w *world) awaitQuery(db *sql.DB, f testcluster.Family, like string) (id int64, err error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.QueryRowContext(ctx, `SELECT id FROM `+sessions[f]+` WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE ? LIMIT 1`, like).Scan(&id)
		if !errors.Is(err, sql.ErrNoRows) {
			return id, err
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no session is at work on %s: %w", like, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// A comparison before the lock that fails halfway has compared nothing: what
// was to be compared still is.
func TestWhatAFailedComparisonWasAboutIsComparedAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w, report, err := failComparison(t, f, nil)
		if err != nil {
			t.Fatal(err)
		}
		if report.StepsBack == 0 || report.RowsRepaired != 1 {
			t.Errorf("got %d steps back and %d rows repaired, want 1, or more on a busy machine, and 1", report.StepsBack, report.RowsRepaired)
		}
		checkDifferences(t, report.Evidence.Repaired, []string{"table products where `id` = 10: differs in name"})
		w.same("products")
	})
}

// The twin of the test above. What stays is found when it is too late.
func TestWithoutSoilingAFailedComparisonTheDamageIsSwitchedTo(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		_, report, err := failComparison(t, f, map[hook.Protection]bool{hook.Soil: true})
		var differ *ferry.DifferenceError
		if !errors.As(err, &differ) {
			t.Fatalf("got %+v, %v; want the row that differs", report, err)
		}
		checkDifferences(t, differ.Differences, []string{"table products where `id` = 10: differs in name"})
	})
}

// failComparison damages a row that the log has touched, and ends the statement
// that would compare it before the lock.
func failComparison(t *testing.T, f testcluster.Family, off map[hook.Protection]bool) (*world, *ferry.Report, error) {
	w := newWorld(t, f, "", nil)
	w.fill(w.shop, 50)
	killed := make(chan error, 1)
	tr := &trail{at: map[string]func(){
		"cutover": func() {
			if err := sell(t.Context(), w.source, w.shop, 1, 10); err != nil {
				t.Fatal(err)
			}
			w.awaitSale(10)
			w.exec(w.target, `UPDATE products SET name = 'damaged' WHERE shop_id = 7 AND id = 10`)
		},
		"note": func() {
			unlock := w.lockTable(w.target, "products")
			go func() {
				defer unlock()
				id, err := w.awaitQuery(w.target, f, "%FROM `products`%")
				if err == nil {
					_, err = w.target.ExecContext(t.Context(), fmt.Sprintf(`KILL QUERY %d`, id))
				}
				killed <- err
			}()
		},
	}}
	ctx := hook.With(t.Context(), &hook.Set{Off: off, Step: func(step string) { tr.hear(step) }})
	report, err := w.ferry.Move(ctx, w.shop, 2)
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	return w, report, err
}

// A trigger that comes after the plan rewrites every row. That shows with the
// first of them.
func TestAColumnThatArrivesOtherwiseEndsTheMoveAtTheFirstRows(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		var copied int64
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, ChunkRows: 100, Progress: func(p ferry.Progress) { copied = p.RowsCopied }})
		w.fill(w.shop, 5000)
		_, err := w.ferry.Move(hook.With(t.Context(), w.rewriteFromTheCopyOn(nil)), w.shop, 2)
		var differ *ferry.DifferenceError
		if !errors.As(err, &differ) || differ.Rows != 100 || !strings.Contains(err.Error(), "differs in name (100)") {
			t.Errorf("got %v, want all 100 rows of the first chunk to differ in name", err)
		}
		if copied > 1000 {
			t.Errorf("%d rows were copied before it showed", copied)
		}
		w.stays()
	})
}

// The twin of the test above.
func TestWithoutTheComparisonAColumnThatArrivesOtherwiseIsSwitchedTo(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 50)
		if _, err := w.ferry.Move(hook.With(t.Context(), w.rewriteFromTheCopyOn(map[hook.Protection]bool{hook.Compare: true})), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE name = 'rewritten'`); n != 50 {
			t.Errorf("got %d rows rewritten, want all 50", n)
		}
	})
}

// rewriteFromTheCopyOn gives the target a trigger when the plan has been made.
func (w *world) rewriteFromTheCopyOn(off map[hook.Protection]bool) *hook.Set {
	return &hook.Set{Off: off, Step: func(step string) {
		if step == "copy" {
			w.exec(w.target, `CREATE TRIGGER late BEFORE INSERT ON products FOR EACH ROW SET NEW.name = 'rewritten'`)
		}
	}}
}
