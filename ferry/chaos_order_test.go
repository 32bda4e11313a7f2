package ferry_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// A tap shows each statement that goes over a pool's connections before it is
// sent. sent may block; it returns what to call when the server has begun to
// answer, or nil.
type tap struct {
	sent func(session *tappedConn, query string) (answered func())
}

// through returns the configuration with the tap in its connections.
func (p *tap) through(cfg *mysql.Config) *mysql.Config {
	cfg = cfg.Clone()
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		return &tappedConn{Conn: c, tap: p}, err
	}
	return cfg
}

type tappedConn struct {
	net.Conn
	tap      *tap
	note     bool // for sent, of the session
	answered func()
}

// Write sees a packet: its length, its number, the kind of command, its text.
func (c *tappedConn) Write(b []byte) (int, error) {
	const query, prepare = 3, 22
	if len(b) > 5 && b[3] == 0 && (b[4] == query || b[4] == prepare) {
		c.answered = c.tap.sent(c, string(b[5:]))
	}
	return c.Conn.Write(b)
}

func (c *tappedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.answered != nil {
		answered := c.answered
		c.answered = nil
		answered()
	}
	return n, err
}

// An order is a line of what happens one after another in a copy:
//
//	S4  the fourth chunk is read from the source
//	H4  its marker is written into the source's log
//	A4  it is committed on the target
//	U   rows are changed
//	C   the mover is before its first try at the lock: these changes have no fence
//
// What the line doesn't name happens when it likes.
type order struct {
	mu   sync.Mutex
	line []string
	turn chan struct{} // closed when line has become shorter
	last int           // chunk read
	done int           // chunks committed
	late error
}

func newOrder(line string) *order {
	return &order{line: strings.Fields(line), turn: make(chan struct{})}
}

// await waits for an event's turn and returns how to end it.
func (o *order) await(event string) (over func()) {
	tooLong := time.After(30 * time.Second)
	for {
		o.mu.Lock()
		at, turn := slices.Index(o.line, event), o.turn
		o.mu.Unlock()
		switch at {
		case -1:
			return nil
		case 0:
			return func() {
				o.mu.Lock()
				defer o.mu.Unlock()
				o.line = o.line[1:]
				close(o.turn)
				o.turn = make(chan struct{})
			}
		}
		select {
		case <-turn:
		case <-tooLong:
			o.mu.Lock()
			o.late = fmt.Errorf("%s was due for 30 s, but the mover came to %s", o.line[0], event)
			o.line = nil
			o.mu.Unlock()
		}
	}
}

const orderedRows = 10 // of a chunk

var chunkRead = regexp.MustCompile("^SELECT .* FROM `(?:items|p)`.* ORDER BY `id` LIMIT \\d+$")

// source sees what the mover sends to the source.
func (o *order) source(_ *tappedConn, query string) func() {
	o.mu.Lock()
	event := ""
	switch {
	case chunkRead.MatchString(query):
		o.last++
		event = fmt.Sprint("S", o.last)
	case strings.HasPrefix(query, "INSERT INTO podworks_marker"):
		event = fmt.Sprint("H", o.last)
	}
	o.mu.Unlock()
	if event == "" {
		return nil
	}
	return o.await(event)
}

// target sees what it sends to the target.
func (o *order) target(session *tappedConn, query string) func() {
	o.mu.Lock()
	event := ""
	switch {
	case strings.HasPrefix(query, "START TRANSACTION"):
		session.note = false
	case strings.Contains(query, "INTO podworks_ferry_copy"):
		session.note = o.last > 0 // else it is how far the copy is to go
	case query == "COMMIT" && session.note:
		o.done++
		event = fmt.Sprint("A", o.done)
	}
	o.mu.Unlock()
	if event == "" {
		return nil
	}
	return o.await(event)
}

// The orders in which a row is read, changed, and written. Two chunks follow
// each other in the only two ways: the fifth is read when the fourth is written,
// or before. The rows that change are in both, in chunks before, and in chunks
// after them.
var orders = []string{
	"U S1", "S1 U H1 A1", "S1 H1 U A1",
	"S3 H3 A3 U S4 H4 A4 S5", "S4 U H4 A4 S5 H5 A5", "S4 H4 U A4 S5 H5 A5", "S4 H4 A4 U S5 H5 A5", "S4 H4 A4 S5 U H5 A5", "S4 H4 A4 S5 H5 U A5", "S5 H5 A5 U S6 H6",
	"S4 U H4 S5 A4 H5 S6 A5", "S4 H4 U S5 A4 H5 S6 A5", "S4 H4 S5 U A4 H5 S6 A5", "S4 H4 S5 A4 U H5 S6 A5", "S4 H4 S5 A4 H5 U S6 A5", "S4 H4 S5 A4 H5 S6 U A5",
	"S8 U H8 A8", "S8 H8 U A8", "A8 U C", "S4 U H4 U A4 U S5 U H5 U A5 U S6 U H6 U A6",
}

func TestEveryOrderOfReadingChangingAndWriting(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE items (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, v INT NOT NULL, u VARCHAR(20), PRIMARY KEY (shop_id, id), UNIQUE KEY (shop_id, u))`, nil)
		for i, line := range orders {
			t.Run(line, func(t *testing.T) {
				w := *w
				w.t, w.shop = t, podworks.ShopID(100+i)
				w.settle(w.shop)
				if report := w.inOrder(line, true); report.RowsRepaired != 0 {
					t.Errorf("%d rows had to be repaired", report.RowsRepaired)
				}
			})
		}
		// What the mover doesn't hear of is not found in the log but by comparing:
		// the test would notice events that are not applied.
		t.Run("unlogged", func(t *testing.T) {
			w := *w
			w.t, w.shop = t, podworks.ShopID(100+len(orders))
			w.settle(w.shop)
			if report := w.inOrder("S8 U H8 A8", false); report.RowsRepaired == 0 {
				t.Error("no row had to be repaired")
			}
		})
	})
}

// settle makes a shop in pod 1.
func (w *world) settle(shop podworks.ShopID) {
	w.t.Helper()
	if _, err := w.dir.AddShop(w.t.Context(), shop, 1); err != nil {
		w.t.Fatal(err)
	}
	if err := fence.Create(w.t.Context(), w.source, shop); err != nil {
		w.t.Fatal(err)
	}
}

// inOrder moves the shop with the line's order.
func (w *world) inOrder(line string, logged bool) *ferry.Report {
	w.t.Helper()
	ctx := w.t.Context()
	// Eight chunks of ids that are even, so that others find room between them.
	var values []string
	for id := 2; id <= 8*2*orderedRows; id += 2 {
		values = append(values, fmt.Sprintf("(%d, %d, 0, 'u%d')", w.shop, id, id))
	}
	w.exec(w.source, "INSERT INTO items VALUES "+strings.Join(values, ", "))
	o := newOrder(line)
	tapped := map[podworks.PodID]*mysql.Config{1: (&tap{o.source}).through(w.pods[1]), 2: (&tap{o.target}).through(w.pods[2])}
	f, err := ferry.New(w.dir, tapped, &ferry.Options{Ignore: []string{"countries"}, ChunkRows: orderedRows, PauseBudget: 2 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := w.source.Conn(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	if !logged {
		if _, err := conn.ExecContext(ctx, `SET sql_log_bin = 0`); err != nil {
			w.t.Fatal(err)
		}
		defer conn.Raw(func(any) error { return driver.ErrBadConn }) // nobody else gets it
	}
	var changes sync.WaitGroup
	var failed error
	changes.Go(func() {
		for round := range strings.Count(line, "U") {
			over := o.await("U")
			if over == nil {
				return
			}
			failed = errors.Join(failed, w.changeItems(ctx, conn, round))
			over()
		}
	})
	// Comparing behind the copy writes markers too.
	report, err := f.Move(hook.With(ctx, &hook.Set{Off: map[hook.Protection]bool{hook.Overlap: true}, Step: func(step string) {
		if step == "cutover" {
			if over := o.await("C"); over != nil {
				over()
			}
		}
	}}), w.shop, 2)
	changes.Wait()
	o.mu.Lock()
	late, left := o.late, o.line
	o.mu.Unlock()
	if err := errors.Join(failed, late, err); err != nil {
		w.t.Fatal(err)
	}
	if len(left) > 0 {
		w.t.Errorf("the order was not kept: %v never came", left)
	}
	equal(w.t, line, w.shopDump(w.target), w.shopDump(w.source))
	return report
}

// changeItems makes every kind of change, in transactions of their own, to rows
// of the second, fourth, fifth and seventh chunk, and between them.
func (w *world) changeItems(ctx context.Context, conn *sql.Conn, round int) error {
	places := []int{2, 4, 5, 7}
	id := func(place, n int) int { return (place-1)*2*orderedRows + 2*n }
	var stmts []string
	add := func(format string, args ...any) {
		stmts = append(stmts, fmt.Sprintf(format, args...)+fmt.Sprintf(" /* %d */", round))
	}
	row := func(id int) string { return fmt.Sprintf("shop_id = %d AND id = %d", w.shop, id) }
	for p, place := range places {
		add("UPDATE items SET v = v + 1 WHERE %s", row(id(place, 1)))
		add("DELETE FROM items WHERE %s", row(id(place, 2)))
		if round%2 == 1 { // and back
			add("INSERT INTO items VALUES (%d, %d, 0, 'u%d')", w.shop, id(place, 2), id(place, 2))
		}
		add("DELETE FROM items WHERE %s", row(id(place, 3)))
		add("INSERT INTO items VALUES (%d, %d, %d, 'u%d')", w.shop, id(place, 3), 100+round, id(place, 3))
		// A unique value that a row of the next place gets.
		add("UPDATE items SET u = NULL WHERE %s", row(id(place, 4)))
		add("UPDATE items SET u = 'passed on %d' WHERE %s", place, row(id(place, 5)))
		add("UPDATE items SET u = 'u%d' WHERE %s", id(place, 4), row(id(places[(p+1)%len(places)], 6)))
		add("INSERT INTO items VALUES (%d, %d, %d, NULL)", w.shop, id(place, 1)+1+2000*round, round)
		// Keys go to every other place.
		for q, other := range places {
			if q == p {
				continue
			}
			n := 8 + (q-p+len(places))%len(places) - 1 // 8, 9, 10
			from, to := id(place, n), id(other, n)-1
			if round%2 == 1 {
				from, to = to, from
			}
			add("UPDATE items SET id = %d, v = v + 10 WHERE %s", to, row(from))
		}
		// Rows of the neighbour's come, and the shop's go.
		mine, other := int64(w.shop), int64(w.other)
		add("INSERT INTO items VALUES (%d, %d, %d, NULL)", other, 1000000*int64(w.shop)+int64(id(place, 2)+1), round)
		add("UPDATE items SET shop_id = %d, id = %d WHERE shop_id = %d AND id = %d", mine, id(place, 2)+1+1000*round, other, 1000000*int64(w.shop)+int64(id(place, 2)+1))
		add("UPDATE items SET shop_id = %d, id = %d, u = NULL WHERE %s", other, 1000000*int64(w.shop)+int64(5000*(round+1)+id(place, 7)), row(id(place, 7)))
	}
	// The last row goes, and another comes behind it.
	add("DELETE FROM items WHERE shop_id = %d ORDER BY id DESC LIMIT 1", w.shop)
	add("INSERT INTO items VALUES (%d, %d, %d, NULL)", w.shop, 100000+round, round)
	for _, stmt := range stmts {
		if _, err := conn.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("%s: %w", stmt, err)
		}
	}
	return nil
}
