package ferry_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// The transactions on the target of a copy of cartWorld's tables and accounts, with
// chunks of 50 rows: the copies are begun and limited, then come the chunks. A
// mover is killed before one of them.
var copySteps = []string{
	1: "nothing", 2: "the direct tables are begun", 3: "and limited", 4: "accounts is copied", 5: "a chunk of carts is", 6: "carts is",
	7: "items is begun", 8: "and limited", 9: "a chunk of items is copied", 10: "two are", 11: "items is",
	12: "labels is begun", 13: "and limited", 14: "a chunk of labels is copied",
}

// A mover is killed in the copy of tables that reach the shop through others. Rows and
// their parents change while no mover lives; another goes on from where the first was.
func TestAMoverIsKilledInTheCopyOfJoinedTables(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for n, step := range copySteps {
			if n < 1 || os.Getenv("PODWORKS_SOAK") == "" && n != 2 && n != 7 && n != 9 && n != 12 {
				continue
			}
			t.Run(strings.ReplaceAll(step, " ", "_"), func(t *testing.T) {
				// Of accounts the shop has one row, so that nothing but the shop is its key.
				w := cartWorld(t, f, cartTables+`CREATE TABLE accounts (shop_id INT NOT NULL PRIMARY KEY, v INT NOT NULL)`)
				const times = 3
				var carts, items, labels []string
				for i := range times * len(cartStories) {
					for cart, shop := range map[int]int{10*i + 10: 7, 10*i + 15: 8} {
						carts = append(carts, fmt.Sprintf("(%d, %d, 1)", cart, shop))
						items = append(items, fmt.Sprintf("(1, %d, %d), (1, %d, %d)", cart, cart, cart+1, cart))
						labels = append(labels, fmt.Sprintf("(%d, %d, 1), (%d, %d, 1)", cart, cart, cart+1, cart+1))
					}
				}
				w.exec(w.source, `INSERT INTO carts VALUES `+strings.Join(carts, ", "))
				w.exec(w.source, `INSERT INTO items VALUES `+strings.Join(items, ", "))
				w.exec(w.source, `INSERT INTO labels VALUES `+strings.Join(labels, ", "))
				w.exec(w.source, `INSERT INTO accounts VALUES (7, 1), (8, 1)`)
				tell := func(time int) {
					for j, story := range cartStories {
						n := 10 * (1 + time*len(cartStories) + j)
						w.tellCarts(story, n, n+5, n+8)
					}
					w.exec(w.source, `UPDATE accounts SET v = v + 1`)
				}

				role := chaosMover{Master: w.masterDSN, Pods: map[podworks.PodID]string{}, Shop: w.shop, To: 2, Ignore: ignored, Tables: cartRules, ChunkRows: 50, StopAt: "apply", Nth: n}
				for pod, cfg := range w.pods {
					role.Pods[pod] = cfg.FormatDSN()
				}
				mover := startChild(t, chaosRole{Mover: &role})
				for said := ""; said != "stopped"; {
					var ok bool
					if said, ok = <-mover.lines; !ok || strings.HasPrefix(said, "failed") {
						t.Fatalf("the mover ended before it came to a %dth transaction: %s", n, said)
					}
				}
				mover.kill()
				for range mover.lines {
				}
				begun := w.count(w.target, `SELECT COUNT(*) FROM podworks_ferry_copy WHERE table_name = 'items'`) == 1
				if begun != (n >= 7) {
					t.Errorf("the copy of items is begun: %v", begun)
				}

				tell(0)
				w.ferry = w.newFerry(&ferry.Options{Ignore: ignored, Tables: cartRules, ChunkRows: 50, PauseBudget: 5 * time.Second, Lease: 300 * time.Millisecond})
				tr := &trail{at: map[string]func(){"copy": func() { tell(1) }, "verify": func() { tell(2) }}}
				var report *ferry.Report
				until(t, "the lease to end", func() (moved bool) {
					var err error
					if report, err = w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil && !errors.Is(err, ferry.ErrBusy) {
						t.Fatal(err)
					}
					return err == nil
				})
				w.cartsAlike()
				w.alike("accounts", "*", "shop_id = 7")
				if report.RowsCopied > 300 != (n < 5) { // it was some 310, less what the first mover copied
					t.Errorf("the second mover copied %d rows", report.RowsCopied)
				}
			})
		}
	})
}
