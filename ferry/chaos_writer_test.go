package ferry_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// A chaosWriter is what a writer's process is told: it writes to the shop's
// rows and some of a neighbour's, until it is told to end.
//
// It never does a transaction again. Each is written down with the rows that
// it leaves, as the server printed them in it, before it is committed, and what
// became of it afterwards. Rows are the writer's own by their number; with a
// COMMIT whose outcome is unknown it begins a new life, with other rows, so that
// what the transaction left, or did not, stays there to be looked at.
type chaosWriter struct {
	Seed    uint64
	Family  testcluster.Family
	Master  string                    // its DSN
	Pods    map[podworks.PodID]string // their DSNs
	Shop    podworks.ShopID
	Others  map[podworks.PodID]podworks.ShopID // who lives in each pod and stays there
	Number  int                                // of the writer
	Writers int                                // how many there are
	Life    int                                // number + writers × how many it has had
	Fill    int                                // rows to begin with, in each table
	Tables  int                                // at most
	Only    int                                // one of them, if above 0
	Blob    int                                // bytes of its largest values
	Large   bool                               // transactions of it come in parts now and then
	Path    string                             // of its ledger
}

const lives = 1024 // of all writers

// A cell is a row's place in the ledger, "table/k"; what it holds are lines.
type cells map[string][]string

// An entry is a line of the ledger.
type chaosEntry struct {
	Life  int
	Cells cells  `json:",omitempty"` // what a transaction that is about to commit leaves
	Said  string `json:",omitempty"` // "yes" or "unknown": what became of the last one
}

func (c *chaosWriter) run(in io.Reader, out io.Writer) error {
	commands := make(chan string)
	go func() {
		defer close(commands)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			commands <- lines.Text()
		}
	}()
	file, err := os.OpenFile(c.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	master, err := sql.Open("mysql", c.Master)
	if err != nil {
		return err
	}
	w := &writing{chaosWriter: c, dir: ferry.NewTables(master), pods: map[podworks.PodID]*sql.DB{}, ledger: json.NewEncoder(file)}
	w.tables = chaosSchema(c.Seed, c.Tables, c.Only)
	for pod, dsn := range c.Pods {
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			return err
		}
		cfg.Params = map[string]string{"sql_mode": `'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'`, "time_zone": `'+00:00'`}
		w.cut.Use(cfg)
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			return err
		}
		w.pods[pod] = sql.OpenDB(connector)
		w.pods[pod].SetMaxOpenConns(1)
	}
	w.begin(c.Life)
	// It waits at first, and whenever it finds the shop gone.
	waiting, follow := true, true
	fmt.Fprintln(out, "held")
	for {
		var command string
		var open bool
		if waiting {
			command, open = <-commands
		} else {
			select {
			case command, open = <-commands:
			default:
				command, open = "", true
			}
		}
		if !open || command == "end" {
			return nil
		}
		switch command {
		case "hold":
			waiting = true
			fmt.Fprintln(out, "held")
			continue
		case "follow", "stay":
			waiting, follow = false, command == "follow"
			w.route = podworks.Route{}
		}
		err := w.transact()
		switch {
		case err == nil:
			<-time.After(time.Duration(w.rng.IntN(10)) * time.Millisecond) // or no mover keeps up on two cores
		case errors.Is(err, errMoved) && !follow:
			waiting = true
			fmt.Fprintln(out, "moved")
		case errors.Is(err, errMoved):
			w.route = podworks.Route{} // ask where it is
		case errors.Is(err, errLedger):
			return err
		default:
			// The server said no, or nothing: the next transaction is another one.
			<-time.After(time.Duration(w.rng.IntN(20)) * time.Millisecond)
		}
	}
}

var errLedger = errors.New("the ledger can't be written")

// writing is a writer at work.
type writing struct {
	*chaosWriter
	dir    ferry.Tables
	pods   map[podworks.PodID]*sql.DB
	tables []chaosTable
	ledger *json.Encoder
	cut    cut.Dialer     // of the connections
	route  podworks.Route // where it believes the shop is
	rng    *rand.Rand

	// Of this life.
	life   int
	most   int    // rows of a table, about
	filled []bool // by table
	serial int    // of unique values
	rows   cells
	where  map[string]podworks.PodID // of rows: 0 for the shop's, else the pod of the neighbour that has it, or that and nobody
}

// nobody is added to the pod in which a row is of a joined table and has no parent.
const nobody podworks.PodID = 100

func (w *writing) begin(life int) {
	w.life, w.serial, w.rows, w.where = life, 0, cells{}, map[string]podworks.PodID{}
	w.rng = rand.New(rand.NewPCG(w.Seed, uint64(life)+1))
	w.most = 150
	if life >= w.Writers {
		w.most = 30 // what earlier lives left is there besides
	}
	w.filled = make([]bool, len(w.tables))
}

// A draft is a transaction that is being made.
type draft struct {
	*writing
	tx      *sql.Tx
	table   int
	touched map[int]map[int64]bool
}

// transact makes one transaction, or returns why it was none.
func (w *writing) transact() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if w.route.Pod == 0 {
		route, err := w.dir.Fresh(ctx, w.Shop)
		if err != nil {
			return err
		}
		w.route = route
	}
	isolation := sql.LevelRepeatableRead
	if w.rng.IntN(2) == 0 {
		isolation = sql.LevelReadCommitted
	}
	tx, err := w.pods[w.route.Pod].BeginTx(ctx, &sql.TxOptions{Isolation: isolation})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, shop := range []podworks.ShopID{w.Shop, w.Others[w.route.Pod]} {
		row, err := fence.Read(ctx, tx, shop, "LOCK IN SHARE MODE")
		if err != nil {
			return err
		}
		if row.State != fence.Open || shop == w.Shop && row.Epoch != w.route.Epoch {
			return errMoved
		}
	}
	d := &draft{writing: w, tx: tx, touched: map[int]map[int64]bool{}}
	filled := slices.Index(w.filled, false)
	if filled >= 0 {
		d.table = filled
		err = d.insert(ctx, min(w.Fill, w.most))
	} else {
		changes := 1 + w.rng.IntN(5)
		if w.Large && w.rng.IntN(100) == 0 {
			err = d.large(ctx)
		}
		for range changes {
			if err != nil {
				break
			}
			d.table = w.rng.IntN(len(w.tables))
			err = d.change(ctx)
		}
	}
	if err != nil {
		return err
	}
	if filled < 0 && w.rng.IntN(12) == 0 {
		return tx.Rollback()
	}
	left, err := d.look(ctx)
	if err != nil {
		return err
	}
	if err := w.ledger.Encode(chaosEntry{Life: w.life, Cells: left}); err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	if d.rng.IntN(200) == 0 { // the answer is lost, or the request
		w.cut.At([]cut.How{cut.BeforeTheAnswer, cut.WhileSending}[d.rng.IntN(2)])
	}
	if tx.Commit() != nil {
		// Whatever the server said, if anything: it is not sure what it did.
		life := w.life
		if w.begin(life + w.Writers); w.life >= lives {
			return fmt.Errorf("%w: no lives are left", errLedger)
		}
		if err := w.ledger.Encode(chaosEntry{Life: life, Said: "unknown"}); err != nil {
			return fmt.Errorf("%w: %w", errLedger, err)
		}
		return nil
	}
	if err := w.ledger.Encode(chaosEntry{Life: w.life, Said: "yes"}); err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	if filled >= 0 {
		w.filled[filled] = true
	}
	for cell, lines := range left {
		w.rows[cell] = lines
		delete(w.where, cell)
		if len(lines) > 0 {
			w.where[cell] = ownerIn(lines[0])
		}
	}
	return nil
}

// ownerIn returns who has a line of look's: 0 for the shop.
func ownerIn(line string) (pod podworks.PodID) {
	fmt.Sscanf(line, "pod %d: ", &pod)
	return pod
}

// brief is a line of the ledger for a row as the checker prints it.
func brief(owner podworks.PodID, line string) string {
	sum := sha256.Sum256([]byte(line))
	if len(line) > 160 {
		line = line[:160] + "…"
	}
	return fmt.Sprintf("pod %d: %s %x", owner, line, sum[:8])
}

// look asks the server what the transaction leaves of the rows it touched. What
// there is of them in the other pod stays.
func (d *draft) look(ctx context.Context) (cells, error) {
	tables, err := layouts(ctx, d.tx)
	if err != nil {
		return nil, err
	}
	out := cells{}
	for i, touched := range d.touched {
		l := tables[slices.IndexFunc(tables, func(l layout) bool { return l.name == d.tables[i].name })]
		var in []string
		for k := range touched {
			in = append(in, fmt.Sprint(k))
			cell := fmt.Sprintf("%s/%d", l.name, k)
			out[cell] = []string{}
			for _, line := range d.rows[cell] { // of this number the other pod's neighbour may have a row besides
				if owner := ownerIn(line) % nobody; owner != 0 && owner != d.route.Pod {
					out[cell] = append(out[cell], line)
				}
			}
		}
		answer, err := ask(ctx, d.tx, fmt.Sprintf("SELECT k, COALESCE(%s, 0), %s FROM %s WHERE k IN (%s)", ownerIs(d.tables, i, l.name), l.list, l.name, strings.Join(in, ", ")))
		if err != nil {
			return nil, err
		}
		for _, values := range answer {
			owner := d.route.Pod
			switch values[1] {
			case fmt.Sprint(int64(d.Shop)):
				owner = 0
			case "0":
				owner += nobody
			}
			cell := l.name + "/" + values[0]
			out[cell] = append(out[cell], brief(owner, l.print(values[2:])))
		}
	}
	for _, lines := range out {
		slices.Sort(lines)
	}
	return out, nil
}

// exec runs a statement that may touch the rows.
func (d *draft) exec(ctx context.Context, query string, rows ...int64) error {
	return d.execIn(ctx, d.table, query, rows...)
}

func (d *draft) execIn(ctx context.Context, table int, query string, rows ...int64) error {
	if err := d.touch(ctx, table, rows); err != nil {
		return err
	}
	_, err := d.tx.ExecContext(ctx, query)
	return err
}

// touch notes that a statement may touch rows, and so whose the rows below them are.
func (d *draft) touch(ctx context.Context, table int, rows []int64) error {
	if len(rows) == 0 {
		return nil
	}
	if d.touched[table] == nil {
		d.touched[table] = map[int64]bool{}
	}
	in := make([]string, len(rows))
	for i, k := range rows {
		d.touched[table][k] = true
		in[i] = fmt.Sprint(k)
	}
	for _, child := range below(d.tables, table) {
		answer, err := ask(ctx, d.tx, fmt.Sprintf("SELECT k FROM %s WHERE ref_k IN (%s)", d.tables[child].name, strings.Join(in, ", ")))
		if err != nil {
			return err
		}
		if err := d.touch(ctx, child, numbersIn(answer)); err != nil {
			return err
		}
	}
	return nil
}

// numbersIn returns the first column of an answer.
func numbersIn(answer [][]string) (out []int64) {
	for _, values := range answer {
		var k int64
		if _, err := fmt.Sscan(values[0], &k); err == nil { // NULL is no number
			out = append(out, k)
		}
	}
	return out
}

// at is the condition for a row that belongs to a shop.
func (d *draft) at(table int, shop, k int64) string {
	if d.tables[table].through != "" {
		return fmt.Sprintf(" WHERE k = %d", k)
	}
	return fmt.Sprintf(" WHERE shop_id = %d AND k = %d", shop, k)
}

// pick returns a row of this life that is where it should be, if there is one:
// the shop's, or a pod's neighbour's.
func (d *draft) pick(table int, where podworks.PodID) (int64, bool) {
	var have []int64
	prefix := d.tables[table].name + "/"
	for cell, at := range d.where {
		if at == where && strings.HasPrefix(cell, prefix) {
			var k int64
			fmt.Sscanf(cell[len(prefix):], "%d", &k)
			have = append(have, k)
		}
	}
	if len(have) == 0 {
		return 0, false
	}
	slices.Sort(have) // a map has no order, and the seed shall say which
	return have[d.rng.IntN(len(have))], true
}

// free returns a row's number that is not in use.
func (d *draft) free() int64 { return d.freeIn(d.table) }

func (d *draft) freeIn(table int) int64 {
	for span := int64(200); ; span *= 2 {
		for range 20 {
			k := d.rng.Int64N(span)*lives + int64(d.life)
			if _, used := d.where[fmt.Sprintf("%s/%d", d.tables[table].name, k)]; !used && !d.touched[table][k] {
				return k
			}
		}
	}
}

// novel is a unique value that nobody has had.
func (d *draft) novel() string {
	d.serial++
	return fmt.Sprintf("'%d-%d'", d.life, d.serial)
}

// row is a row for INSERT.
func (d *draft) row(k int64, u string) string {
	t, parent := &d.tables[d.table], "NULL"
	if t.through != "" {
		number, key := d.parentOf(d.table)
		parent = number + ", " + key
	} else if p, ok := d.pick(0, 0); ok && t.parent && d.rng.IntN(2) == 0 {
		parent = d.tables[0].key.values(p)[0]
	}
	return t.row(d.rng, int64(d.Shop), k, u, parent)
}

// insert inserts rows with one statement.
func (d *draft) insert(ctx context.Context, n int) error {
	var rows []int64
	var text []string
	for range n {
		k := d.free()
		if slices.Contains(rows, k) {
			continue
		}
		rows, text = append(rows, k), append(text, d.row(k, d.novel()))
	}
	t := &d.tables[d.table]
	return d.exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES %s", t.name, t.names(), strings.Join(text, ", ")), rows...)
}

// change makes one change of a random kind.
func (d *draft) change(ctx context.Context) error {
	t := &d.tables[d.table]
	shop, other, pod := int64(d.Shop), int64(d.Others[d.route.Pod]), d.route.Pod
	row, ok := d.pick(d.table, 0)
	second, _ := d.pick(d.table, 0)
	if !ok {
		return d.insert(ctx, 3)
	}
	at := d.at(d.table, shop, row)
	kind, full := d.rng.IntN(24), len(d.where) > d.most*len(d.tables)
	if full && kind < 4 {
		kind = 4
	}
	switch kind {
	default:
		return d.exec(ctx, "UPDATE "+t.name+" SET "+t.assignments(d.rng)+at, row)
	case 0, 1, 2, 3:
		return d.insert(ctx, 1+d.rng.IntN(3))
	case 4, 5, 6:
		return d.exec(ctx, "DELETE FROM "+t.name+at, row)
	case 7, 8, 9: // over the cursor, either way
		to := d.free()
		return d.exec(ctx, "UPDATE "+t.name+" SET "+t.rekey(to)+at, row, to)
	case 10: // leaves the shop
		if t.through != "" {
			return d.toShopOf(ctx, row, pod)
		}
		return d.exec(ctx, fmt.Sprintf("UPDATE %s SET shop_id = %d%s", t.name, other, at), row)
	case 11: // enters it
		// A step back for whoever is about to switch, if the row brings others along. With
		// one in every pause no move would come to its end.
		if len(below(d.tables, d.table)) > 0 && d.rng.IntN(8) > 0 {
			return nil
		}
		if row, ok = d.pick(d.table, pod); ok && t.through != "" {
			return d.toShopOf(ctx, row, 0)
		} else if ok {
			return d.exec(ctx, fmt.Sprintf("UPDATE %s SET shop_id = %d WHERE shop_id = %d AND k = %d", t.name, shop, other, row), row)
		}
	case 12: // the neighbour's own business
		if row, ok = d.pick(d.table, pod); ok {
			return d.exec(ctx, fmt.Sprintf("UPDATE %s SET %s%s", t.name, t.assignments(d.rng), d.at(d.table, other, row)), row)
		}
	case 13, 14:
		return d.swap(ctx, row, second)
	case 15, 16: // may replace two rows: one by its key, one by u
		u, err := d.uniqueOf(ctx, second)
		if err != nil {
			return err
		}
		return d.exec(ctx, fmt.Sprintf("REPLACE INTO %s (%s) VALUES %s", t.name, t.names(), d.row(row, u)), row, second)
	case 17:
		return d.exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES %s ON DUPLICATE KEY UPDATE %s", t.name, t.names(), d.row(row, d.novel()), t.assignments(d.rng)), row)
	case 18: // something is taken back
		if _, err := d.tx.ExecContext(ctx, "SAVEPOINT before"); err != nil {
			return err
		}
		if err := d.insert(ctx, 3); err != nil {
			return err
		}
		if err := d.exec(ctx, "DELETE FROM "+t.name+at, row); err != nil {
			return err
		}
		_, err := d.tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT before")
		return err
	case 19: // many rows at once
		if d.rng.IntN(3) > 0 {
			return nil
		}
		if !full && d.rng.IntN(2) == 0 {
			return d.insert(ctx, d.most)
		}
		var rows []int64
		for range d.most {
			k, _ := d.pick(d.table, 0)
			rows = append(rows, k)
		}
		list := " WHERE k IN (" + strings.Trim(strings.ReplaceAll(fmt.Sprint(rows), " ", ","), "[]") + ")"
		if full || d.rng.IntN(3) == 0 {
			return d.exec(ctx, "DELETE FROM "+t.name+list, rows...)
		}
		return d.exec(ctx, "UPDATE "+t.name+" SET "+t.assignments(d.rng)+list, rows...)
	case 20: // a large value
		most := d.Blob
		if d.rng.IntN(16) > 0 {
			most = min(most, 1<<16)
		}
		return d.enlarge(ctx, row, most)
	case 21, 22, 23:
		if t.through != "" && d.rng.IntN(2) == 0 {
			return d.changeParent(ctx, row)
		}
		if children := below(d.tables, d.table); len(children) > 0 {
			return d.changeFamily(ctx, row, children[d.rng.IntN(len(children))])
		}
		return d.exec(ctx, "UPDATE "+t.name+" SET "+t.assignments(d.rng)+at, row)
	}
	return nil
}

// enlarge gives a row a large value, where it has room for one.
func (d *draft) enlarge(ctx context.Context, row int64, most int) error {
	t := &d.tables[d.table]
	if t.keyless() {
		most = min(most, 1<<10) // it is copied as one chunk
	}
	i := slices.IndexFunc(t.columns, func(c valueKind) bool { return c.definition == "LONGBLOB" })
	if i < 0 || most == 0 {
		return nil
	}
	return d.exec(ctx, fmt.Sprintf("UPDATE %s SET c%d = REPEAT(x'00ff%04x', %d)%s", t.name, i, d.rng.IntN(1<<16), d.rng.IntN(most/4), d.at(d.table, int64(d.Shop), row)), row)
}

// large makes a transaction one that a mover hands over in parts: by bytes where
// there are large values, else by the number of changes. Other changes are between.
func (d *draft) large(ctx context.Context) error {
	large := slices.IndexFunc(d.tables, func(t chaosTable) bool {
		return !t.keyless() && slices.ContainsFunc(t.columns, func(c valueKind) bool { return c.definition == "LONGBLOB" })
	})
	images := 0 // of 10,000
	for i := 0; images < 15_000; i++ {
		d.table = d.rng.IntN(len(d.tables))
		if i%8 == 0 {
			if err := d.change(ctx); err != nil {
				return err
			}
		}
		if large >= 0 {
			d.table = large
			row, ok := d.pick(d.table, 0)
			if !ok {
				return nil
			}
			if err := d.enlarge(ctx, row, d.Blob); err != nil {
				return err
			}
			images += 2500 // in some eight statements
			continue
		}
		t := &d.tables[d.table]
		var rows []int64
		for range d.most {
			if k, ok := d.pick(d.table, 0); ok {
				rows = append(rows, k)
			}
		}
		if len(rows) == 0 {
			return nil
		}
		slices.Sort(rows)
		rows = slices.Compact(rows)
		images += 2*len(rows) + 1
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(rows), " ", ","), "[]")
		if err := d.exec(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE k IN (%s)", t.name, t.assignments(d.rng), list), rows...); err != nil {
			return err
		}
	}
	return nil
}

// uniqueOf returns a row's unique value as a literal.
func (d *draft) uniqueOf(ctx context.Context, row int64) (string, error) {
	if !d.tables[d.table].unique {
		return "", nil
	}
	answer, err := ask(ctx, d.tx, "SELECT u FROM "+d.tables[d.table].name+d.at(d.table, int64(d.Shop), row))
	if err != nil {
		return "", err
	}
	if len(answer) == 0 {
		return d.novel(), nil
	}
	return "'" + answer[0][0] + "'", nil
}

// swap exchanges the unique values of two rows.
func (d *draft) swap(ctx context.Context, one, two int64) error {
	if !d.tables[d.table].unique || one == two {
		return nil
	}
	a, err := d.uniqueOf(ctx, one)
	if err != nil {
		return err
	}
	b, err := d.uniqueOf(ctx, two)
	if err != nil {
		return err
	}
	for _, set := range []struct {
		row int64
		u   string
	}{{one, d.novel()}, {two, a}, {one, b}} {
		query := fmt.Sprintf("UPDATE %s SET u = %s%s", d.tables[d.table].name, set.u, d.at(d.table, int64(d.Shop), set.row))
		if err := d.exec(ctx, query, set.row); err != nil {
			return err
		}
	}
	return nil
}
