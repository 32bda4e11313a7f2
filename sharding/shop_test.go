package sharding_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// stranger returns a cluster of the same pods whose directory hears nothing
// after its first look.
func (w *world) stranger() *sharding.Cluster {
	w.t.Helper()
	dir := sharding.NewDirectory(w.master, nil)
	if err := dir.Refresh(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return w.newCluster(dir, w.connectors(), nil)
}

func write(c *sharding.Cluster, ctx context.Context, shop podworks.ShopID, id int) error {
	return c.Do(ctx, shop, func(ctx context.Context, s *sharding.Scope) error {
		return s.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO things VALUES (?, ?, 1)`, shop, id)
			return err
		})
	})
}

func TestALifeOfAShop(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx := t.Context()
		var strangers []*sharding.Cluster
		for range 3 {
			strangers = append(strangers, w.stranger())
		}
		checkIs(t, "a write of an open shop", write(w.cluster, ctx, 1, 1), nil)

		// Closing waits for what is under way, and then nobody writes.
		closed := make(chan error)
		one, s := w.acquire(1)
		err := s.Tx(one, func(ctx context.Context, tx *sharding.Tx) error {
			go func() { closed <- w.cluster.CloseShop(t.Context(), 1) }()
			await(t, "someone to wait for the fence's row", func() bool {
				var n int
				if err := w.plain[1].QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.processlist WHERE db = ? AND info LIKE '%podworks_fence%FOR UPDATE%'`, w.names[1]).Scan(&n); err != nil {
					t.Error(err)
				}
				return n > 0
			})
			return insert(ctx, tx, 2)
		})
		checkIs(t, "a transaction during CloseShop", err, nil)
		checkIs(t, "CloseShop", <-closed, nil)
		for i := range 2 {
			checkIs(t, "CloseShop again", w.cluster.CloseShop(ctx, 1), nil)
			checkIs(t, "a write of a closed shop", write(w.cluster, ctx, 1, 10+i), sharding.ErrClosed)
			checkIs(t, "a write by a process that has not heard", write(strangers[i], ctx, 1, 20+i), sharding.ErrMoved)
			_, err := w.cluster.CreateShop(ctx, 1, 1)
			checkIs(t, "CreateShop of a closed shop", err, sharding.ErrClosed)
		}
		answer := httptest.NewRecorder()
		w.cluster.Middleware(http.NotFoundHandler()).ServeHTTP(answer, httptest.NewRequest("GET", "http://one.example/", nil))
		if answer.Code != http.StatusGone {
			t.Errorf("a request for a closed shop: got %d, want 410", answer.Code)
		}
		w.wantCount(1, 1, 2)

		checkIs(t, "ReopenShop", w.cluster.ReopenShop(ctx, 1), nil)
		checkIs(t, "ReopenShop again", w.cluster.ReopenShop(ctx, 1), nil)
		checkIs(t, "a write of a reopened shop", write(w.cluster, ctx, 1, 3), nil)
		checkIs(t, "a write by a process that has not heard of either", write(strangers[2], ctx, 1, 22), nil)
		if err := w.cluster.DeleteShop(ctx, 1, nil); err == nil || !strings.Contains(err.Error(), "close it first") {
			t.Errorf("DeleteShop of an open shop: got %v, want to be told to close it first", err)
		}

		// Deleted are its rows and no others', in whatever order the keys demand.
		w.exec(1, `CREATE TABLE a_lines (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, thing BIGINT NOT NULL, PRIMARY KEY (shop_id, id),
			FOREIGN KEY (shop_id, thing) REFERENCES things (shop_id, id))`)
		w.exec(1, `CREATE TABLE z_notes (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, line BIGINT NOT NULL, PRIMARY KEY (shop_id, id),
			FOREIGN KEY (shop_id, line) REFERENCES a_lines (shop_id, id))`)
		w.exec(1, `INSERT INTO things VALUES (3, 1, 1)`)
		for _, shop := range []int{1, 3} {
			w.exec(1, `INSERT INTO a_lines VALUES (?, 1, 1)`, shop)
			w.exec(1, `INSERT INTO z_notes VALUES (?, 1, 1)`, shop)
		}
		var many []string
		for id := 100; id < 2600; id++ {
			many = append(many, fmt.Sprintf("(1, %d, 1)", id))
		}
		w.exec(1, `INSERT INTO things VALUES `+strings.Join(many, ", "))
		checkIs(t, "CloseShop", w.cluster.CloseShop(ctx, 1), nil)
		var told []string
		for range 2 {
			checkIs(t, "DeleteShop", w.cluster.DeleteShop(ctx, 1, func(table string, rows int64) { told = append(told, fmt.Sprint(table, " ", rows)) }), nil)
		}
		if got, want := strings.Join(told, ", "), "z_notes 1, a_lines 1, things 1000, things 2000, things 2504"; got != want {
			t.Errorf("Progress was told %s, want %s", got, want)
		}
		w.wantCount(1, 1, 0)
		w.wantCount(1, 3, 1)
		checkIs(t, "ReopenShop of a deleted shop", w.cluster.ReopenShop(ctx, 1), sharding.ErrClosed)
		checkIs(t, "a write by a process that has not heard", write(strangers[2], ctx, 1, 23), sharding.ErrMoved)
		_, err = w.cluster.CreateShop(ctx, 1, 1)
		checkIs(t, "CreateShop under the same number", err, sharding.ErrClosed)
		_, err = w.cluster.CreateShop(ctx, 4, 1, "one.example")
		checkIs(t, "CreateShop with the same host", err, nil)
		_, err = w.cluster.CreateShop(ctx, 5, 1, "two.example")
		if err == nil {
			t.Error("CreateShop with another shop's host: got no error")
		}
	})
}

// Of a close and a reopening at the same time, directory and fence obey the
// same one.
func TestClosingAndReopeningAtTheSameTime(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		for i := range 20 {
			var wg sync.WaitGroup
			wg.Go(func() { checkIs(t, "CloseShop", w.cluster.CloseShop(t.Context(), 1), nil) })
			wg.Go(func() { checkIs(t, "ReopenShop", w.cluster.ReopenShop(t.Context(), 1), nil) })
			wg.Wait()
			row, err := fence.Read(t.Context(), w.plain[1], 1, "")
			if err != nil {
				t.Fatal(err)
			}
			want := fence.Absent
			r, err := w.store.Lookup(t.Context(), 1)
			if err == nil {
				want = fence.Open
			}
			if row.State != want || err == nil && row.Epoch != r.Epoch {
				t.Fatalf("round %d: the fence says %v, the directory %v, %v", i, row, r, err)
			}
		}
	})
}

func TestAddShopsTakesOverADatabase(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		ctx := t.Context()
		var shops []podworks.ShopID
		for shop := podworks.ShopID(1000); shop < 3500; shop++ {
			shops = append(shops, shop)
		}
		checkIs(t, "AddShops of the first", w.cluster.AddShops(ctx, 1, shops[:1200]), nil)
		for range 2 {
			checkIs(t, "AddShops of all", w.cluster.AddShops(ctx, 1, shops), nil)
		}
		checkIs(t, "a write of the last", write(w.cluster, ctx, 3499, 1), nil)
		if err := w.cluster.AddShops(ctx, 2, shops[:1]); err == nil {
			t.Error("AddShops of another pod's shop: got no error")
		}
		checkIs(t, "AddShops to an unknown pod", w.cluster.AddShops(ctx, 7, shops), sharding.ErrUnknownPod)
		hosts := map[string]podworks.ShopID{}
		for _, shop := range shops {
			hosts[fmt.Sprintf("Shop-%d.example", shop)] = shop
		}
		for range 2 {
			checkIs(t, "AddHosts", w.dir.AddHosts(ctx, hosts), nil)
		}
		answer, route := serve(t, w.cluster, httptest.NewRequest("GET", "http://shop-3499.example/", nil))
		if answer.Code != http.StatusOK || route == nil || route.Shop != 3499 {
			t.Errorf("a request for the last host: got %d and %v, want shop 3499", answer.Code, route)
		}
		for _, hosts := range []map[string]podworks.ShopID{
			{"one.example": 1000}, {"new.example": 99}, {"-": 1, "": 1}, {"a.example": 1, "A.example": 3},
		} {
			if err := w.dir.AddHosts(ctx, hosts); err == nil {
				t.Errorf("AddHosts of %v: got no error", hosts)
			}
		}
		checkIs(t, "AddShops of none", w.cluster.AddShops(ctx, 1, nil), nil)
	})
}

// A scope follows its shop as a whole when the directory has heard: every way
// to a store leads to the new pod, and what was had before is stale.
func TestAScopeRebindsAsAWhole(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, nil, nil)
		w.exec(1, `INSERT INTO things VALUES (1, 1, 1)`)
		w.exec(2, `INSERT INTO things VALUES (1, 1, 2)`)
		clients := sharding.NewPerPod(func(pod podworks.PodID) (podworks.PodID, error) { return pod, nil })
		ctx, s := w.acquire(1)
		inner, err := w.cluster.Acquire(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Release()
		old := s.DB()
		v := func(db *sql.DB) (v int, err error) {
			err = db.QueryRowContext(ctx, `SELECT v FROM things WHERE shop_id = 1 AND id = 1`).Scan(&v)
			return v, err
		}
		statement, err := old.PrepareContext(ctx, `SELECT v FROM things`)
		if err != nil {
			t.Fatal(err)
		}
		defer statement.Close()
		tx, err := old.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()

		w.moveTo(1, 2)
		// Nobody has heard: the unit goes on reading where it began.
		if got, err := v(s.DB()); err != nil || got != 1 {
			t.Errorf("before anybody has heard: got %d, %v; want pod 1's row", got, err)
		}
		if err := w.dir.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := v(old); err != nil || got != 1 {
			t.Errorf("with an old handle, and nobody having asked for a new one: got %d, %v; want pod 1's row", got, err)
		}
		if got, err := v(inner.DB()); err != nil || got != 2 {
			t.Errorf("with a new handle: got %d, %v; want pod 2's row", got, err)
		}
		if got, err := clients.Get(ctx); err != nil || got != 2 {
			t.Errorf("PerPod: got the client of pod %d, %v; want that of pod 2", got, err)
		}
		for _, c := range []context.Context{ctx, inner} {
			if r, _ := podworks.RouteFrom(c); r.Pod != 2 || r.Epoch != 2 {
				t.Errorf("RouteFrom = %v, want pod 2 at epoch 2", r)
			}
		}
		_, err = v(old)
		checkIs(t, "the old pool", err, sharding.ErrStale)
		_, err = statement.QueryContext(ctx)
		checkIs(t, "the old statement", err, sharding.ErrStale)
		_, err = tx.QueryContext(ctx, `SELECT 1`)
		checkIs(t, "the old transaction", err, sharding.ErrStale)
		checkIs(t, "a write", write(w.cluster, ctx, 1, 9), nil)
		w.wantCount(2, 1, 2)
	})
}
