package sharding_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// A handle is something that database/sql gives out and that outlives the call.
type handle struct {
	name string
	// open makes one in a scope of shop 1, and returns what uses it and what
	// gives it back.
	open func(ctx context.Context, db *sql.DB) (use func(ctx context.Context) error, done func() error, err error)
	// contextless handles take no context when they are used.
	contextless bool
}

var handles = []handle{
	{name: "Rows", contextless: true, open: func(ctx context.Context, db *sql.DB) (func(context.Context) error, func() error, error) {
		rows, err := db.QueryContext(ctx, `SELECT id FROM things WHERE shop_id = 1`)
		if err != nil {
			return nil, nil, err
		}
		if !rows.Next() {
			return nil, nil, errors.New("there is no first row")
		}
		return func(context.Context) error {
			if rows.Next() { // use
				return nil
			}
			return rows.Err()
		}, rows.Close, nil
	}},
	{name: "Row", contextless: true, open: func(ctx context.Context, db *sql.DB) (func(context.Context) error, func() error, error) {
		row := db.QueryRowContext(ctx, `SELECT id FROM things WHERE shop_id = 1`)
		return func(context.Context) error {
			var n int
			return row.Scan(&n) // use
		}, func() error { _ = row.Scan(); return nil }, row.Err()
	}},
	{name: "Tx", open: func(ctx context.Context, db *sql.DB) (func(context.Context) error, func() error, error) {
		tx, err := db.BeginTx(ctx, nil)
		return func(ctx context.Context) error {
			_, err := tx.ExecContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = 1`) // use
			return err
		}, func() error { return tx.Rollback() }, err
	}},
	{name: "Stmt", open: func(ctx context.Context, db *sql.DB) (func(context.Context) error, func() error, error) {
		st, err := db.PrepareContext(ctx, `UPDATE things SET v = v + 1 WHERE shop_id = 1`)
		return func(ctx context.Context) error {
			_, err := st.ExecContext(ctx) // use
			return err
		}, func() error { return st.Close() }, err
	}},
	{name: "Conn", open: func(ctx context.Context, db *sql.DB) (func(context.Context) error, func() error, error) {
		c, err := db.Conn(ctx)
		if err == nil {
			_, err = c.ExecContext(ctx, `SET @price = 1`)
		}
		return func(ctx context.Context) error {
			var n int
			return c.QueryRowContext(ctx, `SELECT @price`).Scan(&n) // use
		}, func() error { return c.Close() }, err
	}},
}

// A handle belongs to the scope it was made in. Wherever it goes, its use is an
// error that names the line that acquired the scope and the line that used it.
//
// What can't be told: Rows and a Row take no context, so those of a scope that
// lives may be read by any code that holds them.
func TestAHandleIsOfNoUseOutsideOfItsScope(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		w.exec(1, `INSERT INTO things VALUES (1, 1, 0), (1, 2, 0), (3, 1, 0)`)

		// in opens h in a scope of shop 1 and calls during and then, after the
		// scope's end, after.
		in := func(h handle, during, after func(ctx context.Context, use func(context.Context) error)) {
			t.Helper()
			var done func() error
			var use func(context.Context) error
			var inner context.Context
			err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, s *sharding.Scope) (err error) { // acquire
				inner = ctx
				use, done, err = h.open(ctx, s.DB())
				if err == nil {
					during(ctx, use)
				}
				return err
			})
			if err != nil {
				t.Fatalf("%s: %v", h.name, err)
			}
			after(inner, use)
			if err := done(); err != nil && !errors.Is(err, sharding.ErrReleased) && !errors.Is(err, sql.ErrTxDone) {
				t.Errorf("%s: giving it back: %v", h.name, err)
			}
		}
		nothing := func(context.Context, func(context.Context) error) {}

		for _, h := range handles {
			in(h, func(ctx context.Context, use func(context.Context) error) {
				if err := use(ctx); err != nil {
					t.Errorf("%s in its scope: got %v, want no error", h.name, err)
				}
			}, nothing)

			in(h, nothing, func(ctx context.Context, use func(context.Context) error) {
				checkSites(t, h.name+" after the scope's end", use(ctx), sharding.ErrReleased)
			})

			// A goroutine that the unit of work left behind.
			var wg sync.WaitGroup
			released := make(chan struct{})
			in(h, func(ctx context.Context, use func(context.Context) error) {
				wg.Go(func() {
					<-released
					checkSites(t, h.name+" in another goroutine", use(ctx), sharding.ErrReleased)
				})
			}, func(context.Context, func(context.Context) error) {
				close(released)
				wg.Wait()
			})

			for _, shop := range []podworks.ShopID{2, 3} { // 3 is in the same pod
				what := fmt.Sprintf("%s under the scope of shop %d", h.name, shop)
				under := func(use func(context.Context) error) error {
					return w.cluster.Do(t.Context(), shop, func(ctx context.Context, s *sharding.Scope) error { // acquire
						return use(ctx)
					})
				}
				// A statement of the pool is its text, and nothing else: what holds for the
				// text holds for it, and libraries share one among a pod's shops.
				if h.name == "Stmt" && shop == 3 {
					continue
				}
				in(h, nothing, func(_ context.Context, use func(context.Context) error) {
					want := sharding.ErrReleased
					if shop == 2 && !h.contextless {
						want = sharding.ErrCrossPod
					}
					checkSites(t, what+", its own having ended", under(use), want)
				})
				if !h.contextless {
					in(h, func(_ context.Context, use func(context.Context) error) {
						checkSites(t, what+", its own living on", under(use), sharding.ErrCrossPod)
					}, nothing)
				}
			}
		}
		// The scope that asks for another shop is stopped before it gets a handle.
		err := w.cluster.Do(t.Context(), 1, func(ctx context.Context, _ *sharding.Scope) error { // acquire
			return w.cluster.Do(ctx, 2, func(context.Context, *sharding.Scope) error { return nil }) // use
		})
		checkSites(t, "a scope in another shop's", err, sharding.ErrCrossPod)

		var sum int
		if err := w.plain[1].QueryRowContext(t.Context(), `SELECT SUM(v) FROM things`).Scan(&sum); err != nil || sum != 2 {
			t.Errorf("the things add up to %d (%v), want 2: what the Stmt wrote in its own scope", sum, err)
		}
	})
}

var sites = regexp.MustCompile(`sharding/handle_test\.go:(\d+)`)

// checkSites fails the test if err is not want, or doesn't name a line of this
// file that ends in "// acquire" and one that ends in "// use".
func checkSites(t *testing.T, what string, err, want error) {
	t.Helper()
	checkIs(t, what, err, want)
	if err == nil {
		return
	}
	text, readErr := os.ReadFile("handle_test.go")
	if readErr != nil {
		t.Fatal(readErr)
	}
	lines := strings.Split(string(text), "\n")
	found := map[string]bool{}
	for _, m := range sites.FindAllStringSubmatch(err.Error(), -1) {
		n, _ := strconv.Atoi(m[1])
		for _, mark := range []string{"acquire", "use"} {
			if strings.HasSuffix(lines[n-1], "// "+mark) {
				found[mark] = true
			}
		}
	}
	if !found["acquire"] || !found["use"] {
		t.Errorf("%s: the error doesn't name both lines, but %v of them: %v", what, found, err)
	}
}
