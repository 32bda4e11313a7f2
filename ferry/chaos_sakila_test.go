package ferry_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// Sakila is MySQL's sample database of a film rental with two stores. Its files
// in testdata are as they are published; the licence is at the head of each.

// ofStores are Sakila's tables whose rows are a store's. The first four say
// so; rentals belong to the store of their item and payments to that of their
// customer.
var ofStores = []string{"store", "staff", "customer", "inventory", "rental", "payment"}

// referenceTables are the same in every pod.
var referenceTables = []string{"actor", "address", "category", "city", "country", "film", "film_actor", "film_category", "film_text", "language"}

// loadSakila makes Sakila in a database; without the stores' rows, if rows is
// false.
func (w *world) loadSakila(db *sql.DB, rows bool) {
	w.t.Helper()
	conn, err := db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	for _, name := range []string{"schema.sql", "data.sql.gz"} {
		file, err := os.Open(filepath.Join("testdata", "sakila", name))
		if err != nil {
			w.t.Fatal(err)
		}
		defer file.Close()
		var text io.Reader = file
		if strings.HasSuffix(name, ".gz") {
			if text, err = gzip.NewReader(file); err != nil {
				w.t.Fatal(err)
			}
		}
		statement := func(stmt string) {
			for _, skipped := range []string{"DROP SCHEMA", "CREATE SCHEMA", "USE "} {
				if strings.HasPrefix(stmt, skipped) {
					return
				}
			}
			for _, table := range ofStores {
				if !rows && strings.HasPrefix(strings.ReplaceAll(stmt, "`", ""), "INSERT INTO "+table+" ") {
					return
				}
			}
			stmt = strings.ReplaceAll(stmt, "sakila.", "") // a view names the database
			if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
				w.t.Fatalf("%s: %.300s: %v", name, stmt, err)
			}
		}
		if err := statements(text, statement); err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
	}
	if _, err := conn.ExecContext(w.t.Context(), "SET autocommit = 1"); err != nil {
		w.t.Fatal(err)
	}
}

// statements cuts a script as the mysql client does, which knows DELIMITER.
func statements(text io.Reader, do func(string)) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	delimiter := ";"
	var b strings.Builder
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "DELIMITER "):
			delimiter = strings.TrimPrefix(line, "DELIMITER ")
		case b.Len() == 0 && (line == "" || strings.HasPrefix(line, "--")):
		case strings.HasSuffix(line, delimiter):
			b.WriteString(strings.TrimSuffix(line, delimiter))
			if stmt := strings.TrimSpace(b.String()); stmt != "" {
				do(stmt)
			}
			b.Reset()
		default:
			b.WriteString(line + "\n")
		}
	}
	return lines.Err()
}

// crossing are the rentals of an item of one store to a customer of the other.
const crossing = ` FROM rental r JOIN customer c ON c.customer_id = r.customer_id JOIN inventory i ON i.inventory_id = r.inventory_id WHERE c.store_id <> i.store_id`

// uncross deletes these and what was paid for them, so that the stores are
// tenants. Rentals and payments that were handled by the other store's staff, half of
// them, are given to that of their own: no foreign key shall refer to another pod.
func (w *world) uncross() {
	w.t.Helper()
	w.exec(w.source, `DELETE p FROM payment p JOIN rental r ON r.rental_id = p.rental_id JOIN customer c ON c.customer_id = r.customer_id
		JOIN inventory i ON i.inventory_id = r.inventory_id WHERE c.store_id <> i.store_id`)
	w.exec(w.source, `DELETE r`+crossing)
	for _, table := range []string{"rental", "payment"} {
		w.exec(w.source, `UPDATE `+table+` t JOIN customer c ON c.customer_id = t.customer_id JOIN staff s ON s.store_id = c.store_id SET t.staff_id = s.staff_id`)
	}
}

// A sakilaWriter is what a process is told that rents and pays in a store until
// its input ends. It says what was acknowledged: "rented", the rental and the
// payment; "returned" and the rental.
type sakilaWriter struct {
	Master string
	Pods   map[podworks.PodID]string
	Store  podworks.ShopID
	Seed   uint64
}

func (s *sakilaWriter) run(in io.Reader, out io.Writer) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	master, configs, err := openAll(s.Master, s.Pods)
	if err != nil {
		return err
	}
	dir := ferry.NewTables(master)
	pods := map[podworks.PodID]*sql.DB{}
	for pod, cfg := range configs {
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			return err
		}
		pods[pod] = sql.OpenDB(connector)
	}
	rng := rand.New(rand.NewPCG(s.Seed, uint64(s.Store)))
	var lent []int64 // rentals that were not returned
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		said, err := s.transact(ctx, dir, pods, rng, &lent)
		cancel()
		switch {
		case err == nil:
			fmt.Fprintln(out, said)
		case errors.Is(err, errMoved):
		case strings.Contains(err.Error(), "rental_date"): // one item to one customer, twice in a second
		default:
			fmt.Fprintln(out, "error", strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
}

// transact rents an item and has it paid for, or takes one back.
func (s *sakilaWriter) transact(ctx context.Context, dir ferry.Tables, pods map[podworks.PodID]*sql.DB, rng *rand.Rand, lent *[]int64) (said string, err error) {
	route, err := dir.Fresh(ctx, s.Store)
	if err != nil {
		return "", err
	}
	back := len(*lent) > 0 && rng.IntN(3) == 0
	var rental int64
	err = trade(ctx, pods[route.Pod], s.Store, route.Epoch, func(tx *sql.Tx) error {
		if back {
			rental = (*lent)[0]
			said = fmt.Sprint("returned ", rental)
			_, err := tx.ExecContext(ctx, `UPDATE rental SET return_date = NOW() WHERE rental_id = ?`, rental)
			return err
		}
		one := func(table, column string) (id int64, err error) {
			err = tx.QueryRowContext(ctx, `SELECT `+column+` FROM `+table+` WHERE store_id = ? ORDER BY RAND(?) LIMIT 1`, int64(s.Store), rng.IntN(1e9)).Scan(&id)
			return id, err
		}
		item, err1 := one("inventory", "inventory_id")
		customer, err2 := one("customer", "customer_id")
		staff, err3 := one("staff", "staff_id")
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		// A trigger writes the dates, whatever is said here.
		r, err := tx.ExecContext(ctx, `INSERT INTO rental (rental_date, inventory_id, customer_id, staff_id) VALUES ('2006-01-01', ?, ?, ?)`, item, customer, staff)
		if err != nil {
			return err
		}
		if rental, err = r.LastInsertId(); err != nil {
			return err
		}
		p, err := tx.ExecContext(ctx, `INSERT INTO payment (customer_id, staff_id, rental_id, amount, payment_date) VALUES (?, ?, ?, 2.99, '2006-01-01')`, customer, staff, rental)
		if err != nil {
			return err
		}
		payment, err := p.LastInsertId()
		said = fmt.Sprint("rented ", rental, " ", payment)
		return err
	})
	switch {
	case err != nil:
	case back:
		*lent = (*lent)[1:]
	default:
		*lent = append(*lent, rental)
	}
	return said, err
}

// storeRules are those of the tables without a store's number. A payment is its
// customer's first: five have no rental.
var storeRules = map[string]ferry.Rule{
	"rental":  {Through: []ferry.Ref{{Column: "inventory_id", Table: "inventory"}, {Column: "customer_id", Table: "customer"}}},
	"payment": {Through: []ferry.Ref{{Column: "customer_id", Table: "customer"}, {Column: "rental_id", Table: "rental"}}},
}

// ofStore are the conditions for a store's rows.
func ofStore(table string, store podworks.ShopID) string {
	switch table {
	case "rental":
		return fmt.Sprintf(`inventory_id IN (SELECT inventory_id FROM inventory WHERE store_id = %d)`, store)
	case "payment":
		return fmt.Sprintf(`customer_id IN (SELECT customer_id FROM customer WHERE store_id = %d)`, store)
	}
	return fmt.Sprintf(`store_id = %d`, store)
}

// rent has a store trade until the returned function is called, which gives what
// was acknowledged: payments by rental, and rentals that were returned.
func (w *world) rent(store podworks.ShopID) (end func() (rented map[int64]int64, returned []int64)) {
	w.t.Helper()
	pods := map[podworks.PodID]string{1: w.pods[1].FormatDSN(), 2: w.pods[2].FormatDSN()}
	c := startChild(w.t, chaosRole{Sakila: &sakilaWriter{Master: w.masterDSN, Pods: pods, Store: store, Seed: 1}})
	rented, ended := map[int64]int64{}, make(chan struct{})
	var returned []int64
	first := make(chan struct{})
	go func() {
		defer close(ended)
		begun := false
		for line := range c.lines {
			var word string
			var rental, payment int64
			fmt.Sscan(line, &word, &rental, &payment)
			switch word {
			case "rented":
				rented[rental] = payment
			case "returned":
				returned = append(returned, rental)
			default:
				w.t.Errorf("store %d: %s", store, line)
			}
			if !begun && len(rented) >= 5 {
				begun = true
				close(first)
			}
		}
		if !begun {
			close(first)
		}
	}()
	<-first
	return func() (map[int64]int64, []int64) {
		c.in.Close()
		<-ended
		return rented, returned
	}
}

func TestSakila(t *testing.T) {
	if testing.Short() {
		t.Skip("loads 46,000 rows; not with -short")
	}
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.script(w.source, `DROP TABLE products; DROP TABLE orders; DROP TABLE countries`)
		w.script(w.target, `DROP TABLE products; DROP TABLE orders; DROP TABLE countries`)
		w.loadSakila(w.source, true)
		w.loadSakila(w.target, false)
		for table, want := range map[string]int64{"customer": 599, "inventory": 4581, "rental": 16044, "payment": 16049, "film": 1000} {
			if got := w.count(w.source, `SELECT COUNT(*) FROM `+table); got != want {
				t.Fatalf("%s has %d rows, want %d", table, got, want)
			}
		}
		w.shop = 2
		for _, store := range []podworks.ShopID{1, 2} {
			w.settle(store)
		}
		w.ferry = w.newFerry(&ferry.Options{Column: "store_id", Ignore: referenceTables, Tables: storeRules, PauseBudget: 2 * time.Second})

		_, err := w.ferry.Move(t.Context(), 2, 2)
		contains(t, err, ferry.ErrRefused, "table rental: 8018 of 16044 rows are the shop's by one and not by another of inventory_id, customer_id")

		w.uncross()
		for table, want := range map[string]int64{"rental": 16044 - 8018, "payment": 8031} {
			if got := w.count(w.source, `SELECT COUNT(*) FROM `+table); got != want {
				t.Errorf("%s has %d rows without those, want %d", table, got, want)
			}
		}

		// Both stores trade.
		still := map[string]map[string]string{}
		for _, table := range ofStores {
			if still[table], err = shopRows(t.Context(), w.source, table, `*`, ofStore(table, 1)); err != nil {
				t.Fatal(err)
			}
		}
		one, two := w.rent(1), w.rent(2)
		report, err := w.ferry.Move(t.Context(), 2, 2)
		rented, returned := map[podworks.ShopID]map[int64]int64{}, map[podworks.ShopID][]int64{}
		for store, end := range map[podworks.ShopID]func() (map[int64]int64, []int64){1: one, 2: two} {
			rented[store], returned[store] = end()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v; store 1 rented %d, store 2 %d", report, len(rented[1]), len(rented[2]))

		// What was acknowledged is where the store is, at its own date, and nowhere else.
		for store, db := range map[podworks.ShopID]*sql.DB{1: w.source, 2: w.target} {
			const both = "rental JOIN payment USING (rental_id)"
			paid, err := shopRows(t.Context(), db, both, `CONCAT_WS(' ', rental_id, payment_id, return_date IS NULL)`, `rental_date > '2020-01-01' AND `+ofStore("rental", store))
			if err != nil {
				t.Fatal(err)
			}
			for rental, payment := range rented[store] {
				out := 1
				if slices.Contains(returned[store], rental) {
					out = 0
				}
				if row := fmt.Sprintf("%s {%d %d %d true}", both, rental, payment, out); paid[row] != "1" {
					t.Errorf("store %d: got rental %d with payment %d %d times, want once", store, rental, payment, len(paid[row]))
				}
			}
		}
		// The store's old rows are there as they were, whatever the target's triggers
		// write; store 1's are where they were.
		for _, table := range []string{"store", "staff", "customer", "inventory"} {
			w.alike(table, `*`, ofStore(table, 2))
		}
		for table, old := range map[string]string{"rental": ` AND return_date < '2020-01-01' AND rental_id <= 16049`, "payment": ` AND payment_id <= 16049`} {
			w.alike(table, `*`, ofStore(table, 2)+old)
		}
		w.alone(w.target, 2)
		if _, err := w.ferry.Clean(t.Context(), 2, 1); err != nil {
			t.Fatal(err)
		}
		w.alone(w.source, 1)
		for _, table := range ofStores {
			now, err := shopRows(t.Context(), w.source, table, `*`, ofStore(table, 1))
			if err != nil {
				t.Fatal(err)
			}
			missing := 0
			for row := range still[table] {
				if _, ok := now[row]; !ok {
					missing++
				}
			}
			// Its own writer has changed some rentals, and added some of both.
			added := map[string]int{"rental": len(rented[1]), "payment": len(rented[1])}[table]
			if missing > 0 || len(now) != len(still[table])+added {
				t.Errorf("table %s: of %d rows of store 1 %d are missing, and there are %d, with %d that were added", table, len(still[table]), missing, len(now), added)
			}
		}
	})
}

// alone fails the test unless a pod has rows of that store only, and nothing that
// refers to what isn't there.
func (w *world) alone(db *sql.DB, store podworks.ShopID) {
	w.t.Helper()
	for _, table := range ofStores {
		if n := w.count(db, `SELECT COUNT(*) FROM `+table+` WHERE NOT COALESCE(`+ofStore(table, store)+`, FALSE)`); n > 0 {
			w.t.Errorf("table %s: %d rows are not of store %d", table, n, store)
		}
		if table == "store" {
			continue
		}
		for column, parent := range map[string]string{"staff_id": "staff", "customer_id": "customer", "inventory_id": "inventory", "rental_id": "rental"} {
			if table == "staff" || table == "customer" || table == "inventory" || table == "rental" && column == "rental_id" || table == "payment" && column == "inventory_id" {
				continue
			}
			if n := w.count(db, `SELECT COUNT(*) FROM `+table+` WHERE `+column+` NOT IN (SELECT `+column+` FROM `+parent+`)`); n > 0 {
				w.t.Errorf("table %s: the %s of %d rows is not there", table, parent, n)
			}
		}
	}
}
