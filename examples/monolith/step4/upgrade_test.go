package shop

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/monolith/shoptest"
	step3 "github.com/podworks/podworks/examples/monolith/step3"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// While processes of both steps run, ids come from two counters. Expand moves one
// of them out of the way. Without that, the first id of the sequence is one that
// a table has given out.
func TestTheTablesAndTheSequenceGiveOutDifferentIDs(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, apart := range []bool{true, false} {
			s := testcluster.Server(t, f)
			pod, master := s.Config(testcluster.Database(t, s)), s.Config(testcluster.Database(t, s))
			three, err := step3.New(pod, master)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { three.Close() })
			if err := three.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			four, err := New(pod, master)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { four.Close() })
			m := shoptest.New(t, three)
			hats := m.OpenShop("Hats")
			m.Stock(hats, "Hat", 900, 1)

			if err := four.Expand(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !apart { // a table goes on after its greatest id
				err := four.first(t.Context(), func(ctx context.Context, db *sql.DB, _, _ string) error {
					return change(ctx, db, `ALTER TABLE products AUTO_INCREMENT = 1`)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			m.Stock(hats, "Cap", 900, 1) // by the table
			m.Fleet.Deploy(four)
			code := m.TryStock(hats, "Bonnet", 900, 1) // by the sequence
			want := http.StatusOK
			if !apart {
				want = http.StatusInternalServerError
			}
			if code != want {
				t.Errorf("counters apart: %t: got %d for the sequence's first product, want %d", apart, code, want)
			}
		}
	})
}

func TestAnInsertThatForgetsItsIDIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		a := start(t, f)
		hats := shoptest.New(t, a).OpenShop("Hats")
		err := a.cluster.Do(t.Context(), podworks.ShopID(hats.ID), func(ctx context.Context, _ *sharding.Scope) error {
			return write(ctx, func(ctx context.Context, tx *sharding.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO products (shop_id, title, cents, stock) VALUES (?, 'Hat', 900, 1)`, hats.ID)
				return err
			})
		})
		const noDefault = 1364
		if e := (*mysql.MySQLError)(nil); !errors.As(err, &e) || e.Number != noDefault {
			t.Errorf("got %v, want error %d: the field has no default", err, noDefault)
		}
	})
}
