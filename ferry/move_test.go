package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMoveTakesTheShopAndNothingElse(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 4500)
		w.fill(w.other, 100)
		report, err := w.ferry.Move(t.Context(), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", *report)
		want := podworks.Route{Shop: w.shop, Pod: 2, Region: "here", Epoch: 2}
		if report.Route != want {
			t.Errorf("got route %+v, want %+v", report.Route, want)
		}
		if got, err := w.dir.Fresh(t.Context(), w.shop); err != nil || got != want {
			t.Errorf("the directory has %+v, %v; want %+v", got, err, want)
		}
		if report.RowsCopied != 4500 || report.RowsVerified != 4500 || report.RowsRepaired != 0 {
			t.Errorf("got %d rows copied, %d verified, %d repaired; want 4500, 4500, 0", report.RowsCopied, report.RowsVerified, report.RowsRepaired)
		}
		w.same("products")
		if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id <> ?`, int64(w.shop)); n != 0 {
			t.Errorf("%d rows of other shops came along", n)
		}
		src, _ := fence.Read(t.Context(), w.source, w.shop, "")
		dst, _ := fence.Read(t.Context(), w.target, w.shop, "")
		if src.State != fence.Moved || src.Destination != 2 || dst.State != fence.Open || dst.Epoch != 2 {
			t.Errorf("got fences %v and %v, want moved and open at epoch 2", src, dst)
		}
		if moves, err := w.dir.Moves(t.Context()); err != nil || len(moves) != 0 {
			t.Errorf("the journal has %v, %v; want nothing unfinished", moves, err)
		}
	})
}

// A ledger is what a writer's acknowledged transactions left: rows by table,
// shop and id, as rows returns them.
type ledger map[string]string

func entry(table string, shop podworks.ShopID, id int64) string {
	return fmt.Sprintf("%s %d %d", table, shop, id)
}

// A clerk writes to a shop, and to a few rows of the other one, until the shop
// has moved. Clerks share tables and not rows, so that each knows what it left.
type clerk struct {
	w       *world
	db      *sql.DB
	rng     *rand.Rand
	n, of   int64 // which of how many
	left    ledger
	tokens  int
	commits int
}

// id returns one of the clerk's ids, which are below zero, zero and above.
func (c *clerk) id(span int64) int64 { return (c.rng.Int64N(span)-span/10)*c.of + c.n }

// work runs transactions until one is refused.
func (c *clerk) work(ctx context.Context) error {
	for {
		draft := maps.Clone(c.left)
		err := trade(ctx, c.db, c.w.shop, 1, func(tx *sql.Tx) error {
			// Rows go over to the other shop and come back, so it takes part.
			if _, err := fence.Read(ctx, tx, c.w.other, "LOCK IN SHARE MODE"); err != nil {
				return err
			}
			for range 1 + c.rng.IntN(4) {
				if err := c.change(ctx, tx, draft); err != nil {
					return err
				}
			}
			return nil
		})
		var said *mysql.MySQLError
		switch {
		case err == nil:
			c.left = draft
			c.commits++
		case errors.Is(err, errMoved):
			return nil
		case errors.As(err, &said) && said.Number == 1213: // a deadlock with another clerk, rolled back
		default:
			return err
		}
	}
}

// change makes one change and notes it.
func (c *clerk) change(ctx context.Context, tx *sql.Tx, draft ledger) error {
	shop, other := c.w.shop, c.w.other
	exec := func(query string, args ...any) error {
		_, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			err = fmt.Errorf("%s %v: %w", query, args, err)
		}
		return err
	}
	product := func(shop podworks.ShopID, id int64, name string, stock int) string {
		return line(shop, id, name, "1.50", stock)
	}
	order := func(id int64, token string, note any) string { return line(shop, id, token, note) }
	id := c.id(200)
	name, stock := fmt.Sprintf("clerk %d é %d", c.n, c.rng.IntN(1e6)), c.rng.IntN(1000)
	there := func(table string, shop podworks.ShopID, id int64) bool {
		_, ok := draft[entry(table, shop, id)]
		return ok
	}
	move := func(table string, from podworks.ShopID, id int64, to podworks.ShopID, newID int64, row string) {
		delete(draft, entry(table, from, id))
		draft[entry(table, to, newID)] = row
	}
	switch c.rng.IntN(9) {
	case 0, 1, 2: // a product comes or changes
		if !there("products", shop, id) {
			draft[entry("products", shop, id)] = product(shop, id, name, stock)
			return exec(`INSERT INTO products VALUES (?, ?, ?, 1.50, ?)`, int64(shop), id, name, stock)
		}
		draft[entry("products", shop, id)] = product(shop, id, name, stock)
		return exec(`UPDATE products SET name = ?, stock = ? WHERE shop_id = ? AND id = ?`, name, stock, int64(shop), id)
	case 3: // goes
		if !there("products", shop, id) {
			return nil
		}
		delete(draft, entry("products", shop, id))
		return exec(`DELETE FROM products WHERE shop_id = ? AND id = ?`, int64(shop), id)
	case 4: // or changes its key
		to := c.id(200)
		if !there("products", shop, id) || there("products", shop, to) {
			return nil
		}
		move("products", shop, id, shop, to, product(shop, to, name, stock))
		return exec(`UPDATE products SET id = ?, name = ?, stock = ? WHERE shop_id = ? AND id = ?`, to, name, stock, int64(shop), id)
	case 5: // or its shop
		from, to := shop, other
		if c.rng.IntN(2) == 0 {
			from, to = other, shop
		}
		if !there("products", from, id) || there("products", to, id) {
			return nil
		}
		move("products", from, id, to, id, product(to, id, name, stock))
		return exec(`UPDATE products SET shop_id = ?, name = ?, stock = ? WHERE shop_id = ? AND id = ?`, int64(to), name, stock, int64(from), id)
	case 6: // an order comes, with and without a note, or goes
		if there("orders", shop, id) {
			delete(draft, entry("orders", shop, id))
			return exec(`DELETE FROM orders WHERE shop_id = ? AND id = ?`, int64(shop), id)
		}
		c.tokens++
		token := fmt.Sprintf("%d-%d", c.n, c.tokens)
		var note any
		if c.rng.IntN(2) == 0 {
			note = name
		}
		draft[entry("orders", shop, id)] = order(id, token, note)
		return exec(`INSERT INTO orders VALUES (?, ?, ?, ?)`, int64(shop), id, token, note)
	default: // two orders exchange what is unique
		to := c.id(200)
		if id == to || !there("orders", shop, id) || !there("orders", shop, to) {
			return nil
		}
		var one, two string
		if err := tx.QueryRowContext(ctx, `SELECT token FROM orders WHERE shop_id = ? AND id = ?`, int64(shop), id).Scan(&one); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT token FROM orders WHERE shop_id = ? AND id = ?`, int64(shop), to).Scan(&two); err != nil {
			return err
		}
		draft[entry("orders", shop, id)], draft[entry("orders", shop, to)] = order(id, two, nil), order(to, one, nil)
		for _, set := range []struct {
			token string
			id    int64
		}{{fmt.Sprintf("%d-none", c.n), id}, {one, to}, {two, id}} {
			if err := exec(`UPDATE orders SET token = ?, note = NULL WHERE shop_id = ? AND id = ?`, set.token, int64(shop), set.id); err != nil {
				return err
			}
		}
		return nil
	}
}

// open opens the pod's database with a session variable of its own.
func (w *world) open(pod podworks.PodID, variable, value string) *sql.DB {
	w.t.Helper()
	cfg := w.pods[pod].Clone()
	if variable != "" {
		cfg.Params = map[string]string{variable: value}
	}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	db := sql.OpenDB(c)
	w.t.Cleanup(func() { db.Close() })
	return db
}

func TestRowsThatChangeMeanwhileArriveAsAcknowledged(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PODWORKS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PODWORKS_SEED=%d", seed)
	const clerks = 4
	keys := map[string]string{ // other keys than the world's
		"text":      `ALTER TABLE products MODIFY id VARCHAR(20) NOT NULL; ALTER TABLE orders MODIFY id VARCHAR(20) NOT NULL`,
		"bytes":     `ALTER TABLE products MODIFY id VARBINARY(20) NOT NULL; ALTER TABLE orders MODIFY id VARBINARY(20) NOT NULL`,
		"composite": `ALTER TABLE products DROP PRIMARY KEY, ADD PRIMARY KEY (shop_id, name, id); ALTER TABLE orders DROP PRIMARY KEY, ADD UNIQUE KEY (id, token, shop_id)`,
	}
	for _, logged := range []string{"plain", "compressed", "text", "bytes", "composite"} {
		t.Run(logged, func(t *testing.T) {
			testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
				t.Parallel()
				var last ferry.Progress
				w := newWorld(t, f, "", &ferry.Options{
					Ignore: []string{"countries"}, ChunkRows: 7, PauseBudget: 400 * time.Millisecond,
					Progress: func(p ferry.Progress) { last = p },
				})
				w.script(w.source, keys[logged])
				w.script(w.target, keys[logged])
				w.exec(w.source, `INSERT INTO products VALUES (8, 1000000, 'of the other shop', 1, 1)`)
				variable := ""
				if logged == "compressed" {
					if f == testcluster.MySQL {
						variable = "binlog_transaction_compression"
					} else { // which has no variable of the session; the test runs beside no other
						w.exec(w.source, `SET GLOBAL log_bin_compress = ON`)
						w.exec(w.source, `SET GLOBAL log_bin_compress_min_len = 10`)
						t.Cleanup(func() {
							w.source.ExecContext(context.WithoutCancel(t.Context()), `SET GLOBAL log_bin_compress = OFF`)
						})
					}
				}
				db := w.open(1, variable, "ON")

				// Rows to copy: what the clerks left before.
				staff := make([]*clerk, clerks)
				for i := range staff {
					c := &clerk{w: w, db: db, rng: rand.New(rand.NewPCG(seed, uint64(i))), n: int64(i), of: clerks, left: ledger{}}
					staff[i] = c
					err := trade(t.Context(), db, w.shop, 1, func(tx *sql.Tx) error {
						for range 250 {
							if err := c.change(t.Context(), tx, c.left); err != nil {
								return err
							}
						}
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				before, err := rows(t.Context(), w.source, "products", w.shop)
				if err != nil {
					t.Fatal(err)
				}

				var wg sync.WaitGroup
				errs := make([]error, clerks)
				for i, c := range staff {
					wg.Go(func() { errs[i] = c.work(t.Context()) })
				}
				rotate := &trail{at: map[string]func(){"verify": func() { w.exec(w.source, `FLUSH BINARY LOGS`) }}}
				report, err := w.ferry.Move(rotate.follow(t.Context()), w.shop, 2)
				if err != nil {
					w.exec(w.source, `UPDATE podworks_fence SET state = 'moved'`) // let the clerks go home
				}
				wg.Wait()
				if err := errors.Join(append(errs, err)...); err != nil {
					t.Fatal(err)
				}
				t.Logf("%+v", *report)

				commits, want := 0, ledger{}
				for _, c := range staff {
					commits += c.commits
					maps.Copy(want, c.left)
				}
				if commits == 0 || report.RowChanges == 0 || report.RowsCopied == 0 || len(before) == 0 {
					t.Errorf("got %d commits, %d changes applied, %d rows copied; want some of each", commits, report.RowChanges, report.RowsCopied)
				}
				got := ledger{}
				add := func(db *sql.DB, table string, shop podworks.ShopID) {
					t.Helper()
					have, err := rows(t.Context(), db, table, shop)
					if err != nil {
						t.Fatal(err)
					}
					for id, row := range have {
						got[fmt.Sprintf("%s %d %s", table, shop, id)] = row
					}
				}
				add(w.target, "products", w.shop)
				add(w.target, "orders", w.shop)
				add(w.source, "products", w.other)
				want[entry("products", w.other, 1000000)] = line(w.other, 1000000, "of the other shop", "1.00", 1)
				compare(t, got, want)
				if n := w.count(w.target, `SELECT COUNT(*) FROM products WHERE shop_id <> ?`, int64(w.shop)); n != 0 {
					t.Errorf("%d rows of the other shop came along", n)
				}
				if report.RowsRepaired != 0 {
					t.Errorf("%d rows had to be repaired; the copy and the log should leave none", report.RowsRepaired)
				}
				if last.Step != "prove" || last.RowChanges != report.RowChanges {
					t.Errorf("the last progress was %+v, want that of the report at step prove", last)
				}
				w.same("products")
				w.same("orders")
			})
		})
	}
}

// compare reports the first few differences.
func compare(t *testing.T, got, want ledger) {
	t.Helper()
	shown := 0
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] && shown < 5 {
			t.Errorf("%s: got %q, want %q", key, got[key], want[key])
			shown++
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok && shown < 5 {
			t.Errorf("%s: got %q, want none", key, got[key])
			shown++
		}
	}
}

// A transaction that is larger than anything else: it is applied whole, and all
// that it touched is compared again before the lock.
func TestALargeTransactionArrivesWhole(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 6000)
		raise := func() {
			w.exec(w.source, `UPDATE products SET stock = stock + 1, name = CONCAT(name, ' again') WHERE shop_id = 7`)
		}
		tr := &trail{at: map[string]func(){"copy": raise, "verify": raise, "cutover": raise}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", *report)
		if report.RowsCopied != 6000 || report.RowsRepaired != 0 {
			t.Errorf("got %d rows copied and %d repaired, want 6000 and 0", report.RowsCopied, report.RowsRepaired)
		}
		w.same("products")
	})
}

// A key that another shop takes on the target after the plan can't be had twice.
func TestAKeyThatIsTakenOnTheTargetEndsTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE stamps (id INT PRIMARY KEY, shop_id INT NOT NULL, KEY (shop_id))`, nil)
		w.fill(w.shop, 20)
		w.script(w.source, `INSERT INTO stamps VALUES (1, 7), (2, 7)`)
		tr := &trail{at: map[string]func(){"copy": func() { w.script(w.target, `INSERT INTO stamps VALUES (2, 55)`) }}}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, nil, "table stamps", "Duplicate entry '2'", "undone, the shop stays in pod 1")
		if tr.passed("drain") {
			t.Error("the lock was asked for")
		}
		w.stays()
		if n := w.count(w.target, `SELECT shop_id FROM stamps WHERE id = 2`); n != 55 {
			t.Errorf("the other shop's row is now shop %d's", n)
		}
	})
}

func TestNamesAreQuoted(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "CREATE TABLE `odd ``table``-näme` (`key` INT NOT NULL PRIMARY KEY, `te``nant` SMALLINT UNSIGNED NOT NULL, `order` INT, `why?` VARCHAR(20), `%s` TEXT, KEY (`te``nant`))",
			&ferry.Options{Ignore: []string{"countries", "products", "orders"}, Column: "te`nant", ChunkRows: 7})
		put := func(from int) {
			for i := from; i < from+20; i++ {
				w.exec(w.source, "INSERT INTO `odd ``table``-näme` VALUES (?, 7, ?, 'what?', NULL)", i, i)
			}
			w.exec(w.source, "UPDATE `odd ``table``-näme` SET `why?` = 'so', `%s` = '%d ?' WHERE `key` % 2 = 0")
			w.exec(w.source, "DELETE FROM `odd ``table``-näme` WHERE `key` % 5 = 0")
		}
		put(1)
		tr := &trail{at: map[string]func(){"copy": func() { put(101) }, "verify": func() { put(201) }, "cutover": func() { put(301) }}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.RowsRepaired != 0 {
			t.Errorf("%d rows had to be repaired", report.RowsRepaired)
		}
		sum := "SELECT SUM(CRC32(CONCAT_WS('|', `key`, `te``nant`, `order`, `why?`, `%s`))) FROM `odd ``table``-näme`"
		if got, want := w.count(w.target, sum), w.count(w.source, sum); got != want {
			t.Errorf("got a sum of %d on the target, want %d", got, want)
		}
		if n, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil || n != 64 {
			t.Errorf("cleaned %d rows, %v; want 64", n, err)
		}
	})
}

// A source may take long to say where its log ends, which is asked first.
func TestAMoverThatWaitsForTheSourcesLogIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 50)
		asked, answer := make(chan struct{}), make(chan struct{})
		goOn := sync.OnceFunc(func() { close(answer) })
		moved := make(chan error, 1)
		tr := &trail{at: map[string]func(){"hub": func() { close(asked); <-answer }}}
		go func() {
			_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
			moved <- err
		}()
		defer func() { goOn(); <-moved }()
		<-asked
		until(t, "the mover to be heard of", func() bool {
			return w.count(w.master, `SELECT COUNT(*) FROM podworks_moves WHERE noted_at > started_at`) == 1
		})
		goOn()
		err := <-moved
		moved <- err
		w.must(err)
		w.same("products")
	})
}
