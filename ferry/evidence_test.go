package ferry_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// The evidence is of the switch, though writers went on at the target since.
func TestTheEvidenceHasWhatTheServersSayOfTheSwitch(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 12_000) // more than one span
		w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL), (7, 2, 'b', 'c')`)
		tr := &trail{at: map[string]func(){
			"cutover": func() {
				if err := sell(t.Context(), w.source, w.shop, 1, 10); err != nil {
					t.Fatal(err)
				}
			},
			"opened": func() {
				if err := sell(t.Context(), w.target, w.shop, 2, 11); err != nil {
					t.Fatal(err)
				}
				w.exec(w.target, `INSERT INTO orders VALUES (7, 3, 'after', NULL)`)
			},
		}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		e := report.Evidence
		t.Logf("%v", e)
		if e.Switch == nil || !e.Switch.Equal() || len(e.Switch.Tables) != 2 {
			t.Fatalf("got %+v (%s), want two tables and no difference", e.Switch, e.Incomplete)
		}
		for _, table := range e.Switch.Tables {
			want := map[string]int64{"products": 12_000, "orders": 2}[table.Table]
			if table.Source.Rows != want || table.Target.Rows != want || table.Source.Sum != table.Target.Sum {
				t.Errorf("%s: got %+v, want %d equal rows", table.Table, table, want)
			}
			// Nobody writes to the source since, so anybody can ask it again.
			db := w.open(1, "time_zone", "'+00:00'")
			var rows int64
			var sum string
			if err := db.QueryRowContext(t.Context(), table.Source.Query).Scan(&rows, &sum); err != nil {
				t.Fatal(err)
			}
			if rows != table.Source.Rows || sum != table.Source.Sum {
				t.Errorf("%s: asked again, the source says %d rows and %s, the evidence %d and %s", table.Table, rows, sum, table.Source.Rows, table.Source.Sum)
			}
			if table.Table == "products" && !strings.Contains(table.Source.Query, "`stock`") {
				t.Errorf("the query doesn't name the column stock: %s", table.Source.Query)
			}
		}
		if e.From.Pod != 1 || e.To.Pod != 2 || e.To.Epoch != 2 || e.Token != report.Token || e.Pause != report.Pause {
			t.Errorf("got %+v, want what the report %+v has", e, report)
		}
		var steps []string
		for _, s := range e.Steps {
			steps = append(steps, s.Step)
		}
		if got, want := strings.Join(steps, " "), "copy verify cutover drain verified closed decided opened prove"; got != want {
			t.Errorf("got the steps %q, want %q", got, want)
		}
		for _, side := range []ferry.Side{e.Switch.Source, e.Switch.Target} {
			if side.Log.File == "" || side.Log.Pos == 0 || side.Settings["version"] == "" || side.Settings["binlog_row_image"] != "FULL" {
				t.Errorf("got %+v, want a place in the log, the version and settings", side)
			}
		}
	})
}

// A row that was compared, and changes without the log or without the fence before
// the lock, is nobody's to be found but the last comparison's.
func TestWhatChangesBehindTheLogIsFoundAtTheSwitch(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, tt := range []struct {
			name   string
			off    map[hook.Protection]bool
			broken bool
		}{{"", nil, true}, {"twin", map[hook.Protection]bool{hook.Compare: true}, false}} {
			t.Run("compared"+tt.name, func(t *testing.T) {
				w := newWorld(t, f, "", nil)
				w.fill(w.shop, 50)
				ctx := hook.With(t.Context(), &hook.Set{Off: tt.off, Step: func(step string) {
					if step != "cutover" {
						return
					}
					w.unlogged(w.source, `UPDATE products SET stock = 1000 WHERE shop_id = 7 AND id = 20`)
					w.exec(w.target, `UPDATE products SET name = 'secret', price = 0 WHERE shop_id = 7 AND id = 10`)
					w.exec(w.target, `DELETE FROM products WHERE shop_id = 7 AND id = 30`)
					w.exec(w.target, `INSERT INTO products VALUES (7, 1000, 'secret', 1, 1)`)
				}})
				report, err := w.ferry.Move(ctx, w.shop, 2)
				if report == nil || report.Route.Pod != 2 {
					t.Fatalf("got %+v, %v; want the shop in pod 2", report, err)
				}
				if !tt.broken {
					if err != nil {
						t.Errorf("without the comparison: got %v, want nothing noticed", err)
					}
					return
				}
				var differ *ferry.DifferenceError
				if !errors.Is(err, ferry.ErrDiffers) || !errors.As(err, &differ) {
					t.Fatalf("got the error %v, want ErrDiffers", err)
				}
				if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "1000") {
					t.Errorf("the error has values of the shop's: %v", err)
				}
				want := []string{
					"table products where `id` = 10: differs in name, price",
					"table products where `id` = 1000: extra",
					"table products where `id` = 20: differs in stock",
					"table products where `id` = 30: missing",
				}
				checkDifferences(t, differ.Differences, want)
				if e := report.Evidence; e.Switch == nil || e.Switch.Differing != 4 {
					t.Errorf("got the evidence %+v, want 4 rows that differ", e)
				}
			})
		}
	})
}

// checkDifferences compares a list with differences as text, sorted.
func checkDifferences(t *testing.T, list []ferry.Difference, want []string) {
	t.Helper()
	got := map[string]bool{}
	for _, d := range list {
		got[d.String()] = true
	}
	for _, line := range want {
		if !got[line] {
			t.Errorf("no difference %q", line)
		}
		delete(got, line)
	}
	for line := range got {
		t.Errorf("a difference too many: %q", line)
	}
}

// unlogged runs a statement that doesn't come into the binary log.
func (w *world) unlogged(db *sql.DB, query string) {
	w.t.Helper()
	conn, err := db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	for _, stmt := range []string{`SET SESSION sql_log_bin = 0`, query, `SET SESSION sql_log_bin = 1`} {
		if _, err := conn.ExecContext(w.t.Context(), stmt); err != nil {
			w.t.Fatalf("%s: %v", stmt, err)
		}
	}
}

// The caller has what he wants when the shop trades; that he stops waiting for
// the last comparison undoes nothing.
func TestAMoveThatIsCancelledAfterTheSwitchIsMade(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 50)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		report, err := w.ferry.Move(hook.With(ctx, &hook.Set{Step: func(step string) {
			if step == "prove" {
				cancel()
			}
		}}), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if e := report.Evidence; report.Route.Pod != 2 || e.Switch != nil || e.Incomplete == "" {
			t.Errorf("got %+v with the evidence %+v, want the shop in pod 2 and an incomplete one", report, e)
		}
	})
}

// A queue's moves end at once.
func TestEvidenceIsAppendedAtOnce(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "evidence")
	var wg sync.WaitGroup
	for token := range uint64(20) {
		wg.Go(func() {
			if err := (&ferry.Evidence{Token: token, Incomplete: "a test"}).Append(name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if list, _, err := ferry.ReadEvidence(f); err != nil || len(list) != 20 {
		t.Errorf("got %d, %v; want 20", len(list), err)
	}
}

func TestAFileOfEvidenceIsAChain(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "evidence")
	for token := range uint64(3) {
		e := &ferry.Evidence{Token: token, RowsCopied: 100, Incomplete: "a test"}
		if err := e.Append(name); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	list, last, err := ferry.ReadEvidence(bytes.NewReader(text))
	if err != nil || len(list) != 3 || len(last) != 64 || list[2].Token != 2 {
		t.Fatalf("got %v with the hash %q, %v; want three", list, last, err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	for what, broken := range map[string][]byte{
		"a number is another":     bytes.Replace(text, []byte(`"RowsCopied":100`), []byte(`"RowsCopied":101`), 1),
		"the first line is gone":  bytes.Join(lines[1:], nil),
		"a line is gone":          bytes.Join([][]byte{lines[0], lines[2]}, nil),
		"two lines are exchanged": bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil),
		"the end is missing":      text[:len(text)-5],
		"a line is no JSON":       append(bytes.Clone(text), "x\n"...),
	} {
		if _, _, err := ferry.ReadEvidence(bytes.NewReader(broken)); !errors.Is(err, ferry.ErrChain) {
			t.Errorf("%s: got %v, want ErrChain", what, err)
		}
	}
	// What no chain can show by itself: the last line.
	broken := bytes.Join(lines[:2], nil)
	if _, other, err := ferry.ReadEvidence(bytes.NewReader(broken)); err != nil || other == last {
		t.Errorf("without its last line: got the hash %q, %v; want another than %q", other, err, last)
	}
	if err := os.WriteFile(name, broken[:len(broken)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&ferry.Evidence{}).Append(name); !errors.Is(err, ferry.ErrChain) {
		t.Errorf("appended to a file without an end: %v", err)
	}
}

func ExampleEvidence_Append() {
	dir, err := os.MkdirTemp("", "evidence")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "moves.jsonl")
	// In a program, report.Evidence of what Move returned.
	if err := (&ferry.Evidence{Token: 12, RowsCopied: 16044}).Append(name); err != nil {
		panic(err)
	}
	f, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	list, last, err := ferry.ReadEvidence(f)
	if err != nil {
		panic(err)
	}
	fmt.Println(list[0].Token, list[0].RowsCopied, len(last))
	// Output: 12 16044 64
}
