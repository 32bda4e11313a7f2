package ferry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// A half is a move's target, with shop 7 under token 5 and a table of stamps.
type half struct {
	t      *testing.T
	server *server
	stamps *table
}

// newHalf makes one. key is the type of the stamps' id, and more what else their table has.
func newHalf(t *testing.T, f testcluster.Family, key, more string) *half {
	t.Helper()
	s := testcluster.Shared(t, f, "target")
	opened, err := (&Ferry{pods: map[podworks.PodID]*mysql.Config{2: s.Config(testcluster.Database(t, s))}}).open(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.db.Close() })
	h := &half{t: t, server: opened}
	for _, stmt := range append(Schema(),
		`CREATE TABLE stamps (id `+key+` NOT NULL PRIMARY KEY, shop_id INT, code INT`+more+`)`,
		`INSERT INTO podworks_fence VALUES (7, 0, 'incoming', 0, 5)`,
		`INSERT INTO podworks_ferry_tail (shop_id, position) VALUES (7, 'log.1:1')`) {
		h.exec(stmt)
	}
	tables, err := describe(t.Context(), opened.db)
	if err != nil {
		t.Fatal(err)
	}
	h.stamps = tables["stamps"]
	h.stamps.shop, h.stamps.tenant, h.stamps.place = 1, "7", 0
	h.stamps.identify()
	return h
}

func (h *half) exec(stmt string) {
	h.t.Helper()
	if _, err := h.server.db.ExecContext(h.t.Context(), stmt); err != nil {
		h.t.Fatalf("%s: %v", stmt, err)
	}
}

func (h *half) text(query string) (text string) {
	h.t.Helper()
	if err := h.server.db.QueryRowContext(h.t.Context(), query).Scan(&text); err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
	return text
}

// mover returns the applier of a mover that goes on where the target is.
func (h *half) mover(token uint64) *applier {
	h.t.Helper()
	at, err := binlog.ParsePosition(h.text(`SELECT position FROM podworks_ferry_tail`))
	if err != nil {
		h.t.Fatal(err)
	}
	m := &move{shop: 7, token: token, tables: []*table{h.stamps}, dst: h.server, log: slog.New(slog.DiscardHandler)}
	a := newApplier(m, []cursor{{begun: true, started: true, limited: true, done: true}}, at)
	a.placed = true
	return a
}

// set is a change, of the row with that key to that code.
func set(key string, code int64) change {
	return change{key: joinKey([][]byte{[]byte(key)}), row: []any{key, int64(7), code}}
}

func gone(key string) change { return change{key: joinKey([][]byte{[]byte(key)})} }

// manyRows are more than are written in one transaction.
const manyRows = 2 * fewApart

// Rows that stand apart are written in two transactions and their place in a third. A
// mover dies when one of the three is there; who goes on from the place, in other steps,
// comes to the same end.
func TestRowsThatStandApartMayComeInHalves(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		h := newHalf(t, f, `BIGINT`, ``)
		log := []group{{end: binlog.Position{File: "log.1", Offset: 2}}, {end: binlog.Position{File: "log.1", Offset: 3}}}
		for i := range manyRows {
			key := fmt.Sprint(i)
			log[0].changes = append(log[0].changes, set(key, 1))
			if i%3 > 0 {
				log[1].changes = append(log[1].changes, set(key, 2))
			} else {
				log[1].changes = append(log[1].changes, gone(key))
			}
		}
		for _, g := range log {
			late := h.mover(4) // which was replaced
			late.take(g)
			if err := late.flush(t.Context(), nil); !errors.Is(err, fence.ErrToken) {
				t.Fatalf("under an earlier token: got %v, want ErrToken", err)
			}
		}
		if got := h.text(`SELECT COUNT(*) FROM stamps`); got != "0" {
			t.Fatalf("a mover that was replaced wrote %s rows", got)
		}

		ctx, die := context.WithCancel(t.Context())
		var begun atomic.Int32
		a := h.mover(5)
		for _, g := range log {
			a.take(g)
		}
		err := a.flush(hook.With(ctx, &hook.Set{Step: func(step string) {
			if step != "apply" || begun.Add(1) != 2 {
				return
			}
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			// Until the other one is committed, or isn't for some reason.
			for n := 0; n < 10_000 && h.text(`SELECT COUNT(*) FROM stamps`) == "0"; n++ {
				<-tick.C
			}
			die()
		}}), nil)
		if err == nil {
			t.Fatal("a mover that died wrote everything")
		}
		if n, place := h.text(`SELECT COUNT(*) FROM stamps`), h.text(`SELECT position FROM podworks_ferry_tail`); place != "log.1:1" {
			t.Fatalf("after %s rows and a death the place is %s, want the one before", n, place)
		}

		again := h.mover(5)
		for _, g := range log {
			again.take(g)
			if err := again.flush(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		const want = "2666 rows of 2, at log.1:3"
		if got := h.text(`SELECT CONCAT(COUNT(*), ' rows of ', MIN(code), ', at ', (SELECT position FROM podworks_ferry_tail)) FROM stamps`); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := h.text(`SELECT MAX(code) FROM stamps`); got != "2" {
			t.Errorf("got a code of %s, want 2", got)
		}
	})
}

// What keeps rows from standing apart, each with a log that does damage without it.
func TestRowsThatDependOnOthersDoNotStandApart(t *testing.T) {
	t.Parallel()
	number := func(i int) string { return fmt.Sprint(i) }
	for _, c := range []struct {
		off       hook.Protection
		key, more string
		was, is   func(i int) string // the row's key
		code      func(i int) int64
	}{
		// Each row gets the code of the next.
		{offUnique, `BIGINT`, `, UNIQUE (code)`, number, number, func(i int) int64 { return int64(i+1) % manyRows }},
		// Each row's key is spelled in other bytes: whichever half is first, the other
		// deletes rows that it brought.
		{offSpelling, `VARCHAR(9)`, ``,
			func(i int) string { return fmt.Sprintf("%c%06d", "aB"[i%2], i) },
			func(i int) string { return fmt.Sprintf("%c%06d", "Ab"[i%2], i) },
			func(i int) int64 { return int64(i) }},
	} {
		t.Run(string(c.off), func(t *testing.T) {
			t.Parallel()
			testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
				for _, without := range []bool{false, true} {
					h := newHalf(t, f, c.key, c.more)
					log := []group{{end: binlog.Position{File: "log.1", Offset: 2}}, {end: binlog.Position{File: "log.1", Offset: 3}}}
					for i := range manyRows {
						log[0].changes = append(log[0].changes, set(c.was(i), int64(i)))
						log[1].changes = append(log[1].changes, gone(c.was(i)), set(c.is(i), c.code(i)))
					}
					a := h.mover(5)
					a.take(log[0])
					if err := a.flush(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					a.take(log[1])
					err := a.flush(hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{c.off: without}}), nil)
					got := h.text(`SELECT CONCAT(COUNT(*), ' rows, codes ', SUM(code)) FROM stamps`)
					var taken *mysql.MySQLError
					want := fmt.Sprintf("%d rows, codes %d", manyRows, manyRows*(manyRows-1)/2)
					switch {
					case !without && (err != nil || got != want):
						t.Errorf("got %s, %v; want %s", got, err, want)
					case without && got == want && !(errors.As(err, &taken) && taken.Number == 1062):
						t.Errorf("no damage without the protection, and %v; the log proves nothing", err)
					}
					t.Logf("without it %v: %s, %v", without, got, err)
				}
			})
		})
	}
}

// A key that another shop's row has on the target ends the move, and that row stays.
func TestAnotherShopsRowIsNotWrittenOver(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for i, without := range []bool{false, false, true} {
			h := newHalf(t, f, `BIGINT`, ``)
			h.exec(`INSERT INTO stamps VALUES (3, 8, 30), (4, 7, 40), (5, NULL, 50)`)
			a := h.mover(5)
			a.take(group{end: binlog.Position{File: "log.1", Offset: 2}, changes: []change{set("2", 1), set([]string{"3", "5", "3"}[i], 1), set("4", 1)}})
			err := a.flush(hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{offTaken: without}}), nil)
			got := h.text(`SELECT GROUP_CONCAT(id, ':', COALESCE(shop_id, 'nobody'), '=', code ORDER BY id) FROM stamps`)
			const want = "3:8=30,4:7=40,5:nobody=50"
			switch {
			case !without && (got != want || err == nil || !strings.Contains(err.Error(), "another shop's row")):
				t.Errorf("got %s, %v; want %s and an error that says why", got, err, want)
			case without && got == want:
				t.Error("no damage without the protection")
			}
		}
	})
}

// A chunk's row that only a transaction named that was rolled back, is copied.
func TestWhatWasNamedInPartsAndRolledBackIsCopied(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		h := newHalf(t, f, `BIGINT`, ``)
		a := h.mover(5)
		a.cursors[0].done = false
		key := set("3", 1).key
		reached := make(chan struct{})
		a.m.waiting = map[uint64]*mark{1: {chunk: &chunk{last: true, keys: []string{key}, rows: [][]any{set("3", 1).row}}, reached: reached}}
		ctx, stop := context.WithCancel(t.Context())
		q := newQueue()
		for _, g := range []group{
			{changes: []change{set("3", 2)}, part: true},
			{undone: true},
			{marker: 1, end: binlog.Position{File: "log.1", Offset: 2}},
		} {
			if err := q.push(ctx, g); err != nil {
				t.Fatal(err)
			}
		}
		go func() { <-reached; stop() }()
		if err := a.run(ctx, q); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if got := h.text(`SELECT COALESCE(GROUP_CONCAT(id, '=', code), '') FROM stamps`); got != "3=1" {
			t.Errorf("got %q, want 3=1", got)
		}
	})
}
