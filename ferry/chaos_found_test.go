package ferry_test

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/cut"
	"github.com/podworks/podworks/internal/testcluster"
)

// What the harness is there to find, each alone.

// An item goes from one cart of the shop's to another, and then the first one goes: its
// label has no event, and is deleted with what is below the first cart.
func TestAChildGoesToAnotherParentBeforeItsOwnGoes(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := cartWorld(t, f, cartTables)
		w.script(w.source, `INSERT INTO carts VALUES (1, 7, 1), (2, 7, 1); INSERT INTO items VALUES (1, 1, 1), (1, 2, 2); INSERT INTO labels VALUES (1, 1, 1), (2, 2, 1)`)
		tr := &trail{at: map[string]func(){"cutover": func() {
			w.tellCarts(`BEGIN; UPDATE items SET cart_id = {b} WHERE id = {a}; DELETE FROM carts WHERE id = {a}; COMMIT`, 1, 2, 3)
		}}}
		if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.cartsAlike()
	})
}

// A large transaction is on the target once, whatever becomes of its COMMIT there: it
// is applied again, and once more, or found to be there already. Applied again to
// what it left, its first part would give order 1 a token that is order 2's in the end.
func TestTheCommitOfALargeTransactionIsLost(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for name, how := range map[string]cut.How{"committed": cut.BeforeTheAnswer, "not committed, twice": cut.WhileSending} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, f, "", nil)
				w.fill(w.other, 200)
				w.exec(w.source, `INSERT INTO orders VALUES (7, 1, 'a', NULL), (7, 2, 'b', NULL)`)
				left, dial := 1, new(cut.Dialer)
				if name != "committed" {
					left = 2
				}
				lost := make(chan struct{})
				var lose cut.How
				lose = func(conn net.Conn, packet []byte) (int, error) {
					if left--; left > 0 {
						dial.At(lose)
					} else {
						close(lost)
					}
					n, err := how(conn, packet)
					if err != nil {
						err = &net.OpError{Op: "write", Net: "tcp", Err: err} // as of a network
					}
					return n, err
				}
				target := w.pods[2].Clone()
				target.Logger = &mysql.NopLogger{}
				dial.Use(target)
				w.pods[2] = target
				w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
				tr := &trail{at: map[string]func(){"verify": func() {
					dial.At(lose)
					w.tellCarts(`BEGIN; UPDATE orders SET token = 'c' WHERE shop_id = 7 AND id = 1;
						INSERT INTO products SELECT 7, 1000000 + a.stock * 1000 + b.stock, '', 1, 1 FROM products a JOIN products b WHERE a.shop_id = 8 AND a.stock < 60 AND b.shop_id = 8;
						UPDATE orders SET token = 'd' WHERE shop_id = 7 AND id = 1; UPDATE orders SET token = 'c' WHERE shop_id = 7 AND id = 2; COMMIT`, 0, 0, 0)
					until(t, "the COMMIT to be lost", func() bool {
						select {
						case <-lost:
							return true
						default:
							return false
						}
					})
				}}}
				report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				if err != nil {
					t.Fatal(err)
				}
				if report.RowsRepaired != 0 {
					t.Errorf("%d rows had to be repaired", report.RowsRepaired)
				}
				w.alike(`orders`, `id, token`, `shop_id = 7`)
				w.alike(`products`, `COUNT(*), SUM(id)`, `shop_id = 7`)
			})
		}
	})
}

// What belongs together is in different parts of a large transaction: children come
// before their parents, and leave parents that go.
func TestFamiliesInPartsOfALargeTransaction(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		steps := []string{"cutover"}
		if os.Getenv("PODWORKS_SOAK") != "" {
			steps = append(steps, "copy")
		}
		for _, step := range steps {
			w := cartWorld(t, f, cartTables+`CREATE TABLE ticks (shop_id INT NOT NULL, id INT NOT NULL, PRIMARY KEY (shop_id, id))`)
			w.fill(w.other, 200)
			w.script(w.source, `INSERT INTO carts VALUES (1, 7, 1), (2, 7, 1), (3, 7, 1), (4, 8, 1); INSERT INTO items VALUES (1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4);
				INSERT INTO labels VALUES (1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)`)
			part := func(n int) string {
				return fmt.Sprintf(`INSERT INTO ticks SELECT 7, %d + a.stock * 1000 + b.stock FROM products a JOIN products b WHERE a.shop_id = 8 AND a.stock < 60 AND b.shop_id = 8;`, n*1_000_000)
			}
			tr := &trail{at: map[string]func(){step: func() {
				w.tellCarts(`BEGIN; INSERT INTO labels VALUES (10, 10, 1); UPDATE items SET cart_id = 2 WHERE id = 1; UPDATE items SET cart_id = 11 WHERE id = 2;`+part(1)+
					`INSERT INTO items VALUES (1, 10, 10); DELETE FROM carts WHERE id = 1; UPDATE carts SET shop_id = 15 - shop_id WHERE id IN (3, 4);`+part(2)+
					`INSERT INTO carts VALUES (10, 7, 1), (11, 7, 1); UPDATE carts SET shop_id = 7 WHERE id = 3; COMMIT`, 0, 0, 0)
			}}}
			if _, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2); err != nil {
				t.Fatal(err)
			}
			w.cartsAlike()
			if n := w.count(w.target, `SELECT COUNT(*) FROM labels`); n != 5 {
				t.Errorf("at %s: got %d labels on the target, want 5", step, n)
			}
			w.alike(`ticks`, `COUNT(*), SUM(id)`, `shop_id = 7`)
		}
	})
}
