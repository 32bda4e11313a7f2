package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// A row may be larger than half of what the servers take in one packet, so that
// it doesn't fit as text in a statement, and two values together larger than a
// packet. With PODWORKS_SOAK the packets are 20 times as large: values of 64 MB.
func TestARowAsLargeAsAPacketArrives(t *testing.T) {
	// It sets a global variable, so it runs beside no other test.
	packet := 4 << 20
	if os.Getenv("PODWORKS_SOAK") != "" {
		packet *= 20
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		admin := newWorld(t, f, "", nil)
		before := admin.count(admin.source, `SELECT @@GLOBAL.max_allowed_packet`)
		t.Cleanup(func() {
			ctx := context.WithoutCancel(t.Context())
			admin.source.ExecContext(ctx, `SET GLOBAL max_allowed_packet = ?`, before)
			admin.target.ExecContext(ctx, `SET GLOBAL max_allowed_packet = ?`, before)
		})
		admin.exec(admin.source, `SET GLOBAL max_allowed_packet = ?`, packet)
		admin.exec(admin.target, `SET GLOBAL max_allowed_packet = ?`, packet)
		// The server gives the variable to new sessions.
		w := newWorld(t, f, `CREATE TABLE files (shop_id INT NOT NULL, id INT NOT NULL, b LONGBLOB, c LONGTEXT CHARACTER SET latin1, d LONGTEXT, PRIMARY KEY (shop_id, id))`,
			&ferry.Options{Ignore: []string{"countries"}, PauseBudget: 20 * time.Second})
		w.fill(w.shop, 20)
		put := func(id int) {
			w.script(w.source, strings.NewReplacer("{id}", fmt.Sprint(id), "{b}", fmt.Sprint(packet/5), "{c}", fmt.Sprint(packet*3/10), "{d}", fmt.Sprint(packet*2/5)).Replace(`
				INSERT INTO files VALUES (7, {id}, REPEAT(x'00275cff', {b}), REPEAT(x'e92700ff', 10), REPEAT('é', 10));
				INSERT INTO files VALUES (7, {id} + 1, NULL, REPEAT(CONVERT(x'27e9' USING latin1), {c}), REPEAT('é', {d}))`))
		}
		put(1)
		w.exec(w.source, `INSERT INTO files VALUES (7, 3, '', '', '')`)
		tr := &trail{at: map[string]func(){
			"verify": func() {
				put(4)
				w.exec(w.target, `UPDATE files SET d = CONCAT(LEFT(d, CHAR_LENGTH(d) - 1), 'e') WHERE id = 2`)
			},
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 1 {
			t.Errorf("got %d rows repaired, want the damaged one", report.RowsRepaired)
		}
		w.alike(`files`, `id, LENGTH(b), SHA2(b, 256), LENGTH(c), SHA2(CAST(c AS BINARY), 256), LENGTH(d), SHA2(d, 256)`, `shop_id = 7`)
	})
}

// A transaction of any size is one on the target too, and the mover doesn't hold
// it in memory. Unique values change owners from its first part to its last.
func TestATransactionLargerThanTheMoverRemembers(t *testing.T) {
	t.Parallel()
	thousands := 60
	if os.Getenv("PODWORKS_SOAK") != "" {
		thousands = 500
	}
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 400)
		w.fill(w.other, 1000)
		w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL), (7, 2, 'b', NULL)`)
		goOn := w.stop(300)
		mover := w.start(2)
		t.Cleanup(func() { mover.Process.Kill() })
		w.awaitCopy(290)
		err := trade(t.Context(), w.source, w.shop, 1, func(tx *sql.Tx) error {
			half := fmt.Sprintf(`INSERT INTO products SELECT 7, %%d + a.stock * 1000 + b.stock, REPEAT('wide', 20), 1, 1
				FROM products a JOIN products b WHERE a.shop_id = 8 AND a.stock < %d AND b.shop_id = 8`, thousands/2)
			for _, stmt := range []string{
				`UPDATE orders SET token = 'nothing' WHERE shop_id = 7 AND id = 1`, fmt.Sprintf(half, 1_000_000),
				`UPDATE orders SET token = 'a' WHERE shop_id = 7 AND id = 2`, fmt.Sprintf(half, 2_000_000),
				`UPDATE orders SET token = 'b' WHERE shop_id = 7 AND id = 1`,
			} {
				if _, err := tx.ExecContext(t.Context(), stmt); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		goOn()
		if err := mover.Wait(); err != nil {
			t.Fatal(err)
		}
		said := fmt.Sprint(mover.Stdout)
		var peak int64
		if _, err := fmt.Sscan(said, &peak); err != nil {
			t.Fatalf("%q: %v", said, err)
		}
		peak >>= 10
		t.Logf("the mover of %d rows in one transaction took %d MB at most", thousands*1000, peak)
		if peak > 256 && !testing.Short() { // the race detector, which tests in short, takes several times as much
			t.Errorf("the mover took %d MB, want 256 at most", peak)
		}
		w.alike(`orders`, `id, token`, `shop_id = 7`)
		w.alike(`products`, `COUNT(*), SUM(id), SUM(LENGTH(name))`, `shop_id = 7`)
	})
}

// The target's session ends in the middle of a large transaction: all of it is
// applied again.
func TestALargeTransactionWhoseSessionEndsIsAppliedAgain(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 10)
		w.fill(w.other, 200)
		tr := &trail{at: map[string]func(){"verify": func() {
			goOn := w.stop(1_000_000 + 199*1000 + 199) // the last row
			defer goOn()
			w.exec(w.source, `INSERT INTO products SELECT 7, 1000000 + a.stock * 1000 + b.stock, '', 1, 1 FROM products a JOIN products b WHERE a.shop_id = 8 AND b.shop_id = 8`)
			until(t, "a session in the middle of it", func() bool {
				rows, err := w.target.QueryContext(t.Context(), `SELECT id FROM `+sessions[f]+" WHERE db = ? AND info REGEXP '^(DELETE FROM|INSERT INTO) `products`'", w.pods[2].DBName)
				if err != nil {
					t.Fatal(err)
				}
				defer rows.Close()
				ended := false
				for rows.Next() {
					var id int64
					if err := rows.Scan(&id); err != nil {
						t.Fatal(err)
					}
					if _, err := w.target.ExecContext(t.Context(), fmt.Sprintf(`KILL %d`, id)); err == nil {
						ended = true
					}
				}
				return ended
			})
		}}}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.alike(`products`, `COUNT(*), SUM(id)`, `shop_id = 7`)
	})
}
