package ferry_test

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// watch follows the log of a pod for stragglers until the shop is back or the test ends.
func (w *world) watch(ctx context.Context, pod podworks.PodID, from binlog.Position) (<-chan ferry.Straggler, <-chan error) {
	seen, ended := make(chan ferry.Straggler, 10_000), make(chan error, 1)
	go func() { ended <- w.ferry.Tripwire(ctx, w.shop, pod, from, func(s ferry.Straggler) { seen <- s }) }()
	return seen, ended
}

// next waits for a straggler.
func (w *world) next(seen <-chan ferry.Straggler, ended <-chan error) ferry.Straggler {
	w.t.Helper()
	select {
	case s := <-seen:
		return s
	case err := <-ended:
		w.t.Fatalf("the tripwire ended: %v", err)
	case <-time.After(time.Minute): // as until waits
		w.t.Fatal("waited for a straggler for a minute")
	}
	panic("unreachable")
}

func TestStragglersAreReportedAndNobodyElse(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		w.exec(w.source, `INSERT INTO orders VALUES (7, 99, 'before', NULL)`) // nobody watches yet
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen, ended := w.watch(ctx, 1, binlog.Position{})
		s := w.next(seen, ended)
		if s.Table != "orders" || s.Kind != binlog.Insert || s.Key != "`id` = 99" || s.Shop != 7 || s.Pod != 1 {
			t.Errorf("got %+v, want order 99, which was written since the shop left", s)
		}

		// Movers, Clean of other rows, and other shops write too.
		end, kept := w.keep()
		w.exec(w.target, `INSERT INTO orders VALUES (7, 5, 'kept', NULL)`)
		until(t, "the keeper to write", func() bool {
			return w.count(w.source, `SELECT COUNT(*) FROM orders WHERE shop_id = 7 AND id = 5`) == 1
		})
		end()
		<-kept
		w.exec(w.source, `UPDATE products SET stock = 0 WHERE shop_id = 8`)

		conn, err := w.source.Conn(t.Context())
		w.must(err)
		defer conn.Close()
		var session uint64
		w.must(conn.QueryRowContext(t.Context(), `SELECT CONNECTION_ID()`).Scan(&session))
		start := time.Now()
		_, err = conn.ExecContext(t.Context(), `UPDATE products SET stock = 0, id = IF(id = 12, 6000, id) WHERE shop_id = 7 AND id IN (11, 12)`)
		w.must(err)
		for i, key := range []string{"`id` = 11", "`id` = 12"} {
			s := w.next(seen, ended)
			if i == 0 {
				t.Logf("seen after %v: %+v", time.Since(start), s)
			}
			if s.Table != "products" || s.Kind != binlog.Update || s.Key != key || s.GTID == "" && f == testcluster.MariaDB {
				t.Errorf("got %+v, want the update of the product with %s", s, key)
			}
			if f == testcluster.MySQL && s.Session != session || time.Since(s.Time) > time.Minute {
				t.Errorf("got session %d at %v, want %d, just now", s.Session, s.Time, session)
			}
		}

		if _, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil {
			t.Fatal(err)
		}
		w.exec(w.source, `INSERT INTO orders VALUES (7, 100, 'late', NULL)`)
		last := w.next(seen, ended)
		if last.Key != "`id` = 100" {
			t.Errorf("got %+v after the clean-up, want order 100", last)
		}
		w.exec(w.source, `DELETE FROM orders WHERE shop_id = 7`)
		if s := w.next(seen, ended); s.Kind != binlog.Delete || s.Key != "`id` = 100" {
			t.Errorf("got %+v, want order 100 deleted", s)
		}

		// Another process goes on where this one ends.
		cancel()
		contains(t, <-ended, context.Canceled, "watch for stragglers of shop 7 in pod 1")
		seen, ended = w.watch(t.Context(), 1, last.Position)
		if s := w.next(seen, ended); s.Key != last.Key || s.Kind != binlog.Insert {
			t.Errorf("got %+v, want the last one again", s)
		}
		w.next(seen, ended)

		// The shop comes back, and its writers are none.
		if _, err := w.ferry.Move(t.Context(), w.shop, 1); err != nil {
			t.Fatal(err)
		}
		if err := sell(t.Context(), w.source, w.shop, 3, 30); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the tripwire ended with %v, want nil when the shop is back", err)
		}
		if len(seen) > 0 {
			t.Errorf("reported %+v of the shop that came back", <-seen)
		}
		contains(t, w.ferry.Tripwire(t.Context(), w.shop, 1, binlog.Position{}, nil), ferry.ErrRefused, "the shop has not left it")
	})
}

// The place in the log that a shop leaves behind that wrote nothing in a pod is from
// before its opening there, and, if a move away was undone after the close, before the
// opening that took that back.
func TestStragglersOfAShopThatWroteNothingAreReported(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, undone := range []bool{false, true} {
			w := newWorld(t, f, "", nil)
			w.fill(w.shop, 30)
			if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
				t.Fatal(err)
			}
			if undone {
				tr := &trail{at: map[string]func(){"closed": func() { w.exec(w.master, `UPDATE podworks_pods SET epoch = epoch + 1 WHERE pod_id = 1`) }}}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 1)
				contains(t, err, nil, "a pod failed over since its epoch was noted", "undone")
			}
			if _, err := w.ferry.Move(t.Context(), w.shop, 1); err != nil {
				t.Fatal(err)
			}
			seen, ended := w.watch(t.Context(), 2, binlog.Position{})
			w.exec(w.target, `INSERT INTO orders VALUES (7, 99, 'late', NULL)`)
			if s := w.next(seen, ended); s.Pod != 2 || s.Key != "`id` = 99" {
				t.Errorf("a move away was undone: %t; got %+v, want order 99", undone, s)
			}
			if _, err := w.ferry.Clean(t.Context(), w.shop, 2); err != nil {
				t.Fatal(err)
			}
			if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("the tripwire ended with %v, want nil when the shop is back", err)
			}
		}
	})
}

// The server is away when the watch begins, and for longer than a mover would wait.
func TestATripwireWaitsForAServerThatIsAway(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		source, target := testcluster.Start(t, &testcluster.MySQLOptions{Family: f}), testcluster.Shared(t, f, "target")
		w := newWorldUnder(t, target, source, target, "", nil)
		w.fill(w.shop, 30)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		w.exec(w.source, `INSERT INTO orders VALUES (7, 99, 'late', NULL)`)
		away := make(chan struct{})
		var refused atomic.Int64
		w.pods[1].DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil && refused.Add(1) == 5 {
				close(away)
			}
			return c, err
		}
		w.ferry = w.newFerry(&ferry.Options{Ignore: []string{"countries"}})
		w.must(source.Kill())
		seen, ended := w.watch(hook.With(t.Context(), &hook.Set{Insist: 100 * time.Millisecond}), 1, binlog.Position{})
		select {
		case <-away:
		case err := <-ended:
			t.Fatalf("the tripwire ended: %v", err)
		}
		w.must(source.Restart(t.Context()))
		if s := w.next(seen, ended); s.Key != "`id` = 99" {
			t.Errorf("got %+v, want order 99", s)
		}
	})
}

// The shop comes back while it isn't known yet where its pod's log ends.
func TestATripwireSeesTheShopComeBackBeforeItBegins(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		if _, err := w.ferry.Clean(t.Context(), w.shop, 1); err != nil { // and with the rows the place
			t.Fatal(err)
		}
		tr := &trail{at: map[string]func(){"tripwire": func() {
			if _, err := w.ferry.Move(t.Context(), w.shop, 1); err != nil {
				t.Error(err)
			}
		}}}
		seen, ended := w.watch(tr.follow(t.Context()), 1, binlog.Position{})
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the tripwire ended with %v, want nil when the shop is back", err)
			}
		case <-time.After(time.Minute):
			t.Error("the tripwire didn't end for a minute")
		}
		if len(seen) > 0 {
			t.Errorf("reported %+v of the shop that came back", <-seen)
		}
	})
}

// That nobody else is reported is due to their marks: without them, all are.
func TestTheTripwireKnowsMoversByTheirMarks(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := there(t, f, nil)
		seen, ended := w.watch(hook.With(t.Context(), &hook.Set{Off: map[hook.Protection]bool{hook.Origin: true}}), 1, binlog.Position{})
		end, kept := w.keep()
		end()
		<-kept
		if s := w.next(seen, ended); s.Table != "orders" && s.Table != "products" {
			t.Errorf("got %+v, want what the keeper wrote", s)
		}
		n, err := w.ferry.Clean(t.Context(), w.shop, 1)
		w.must(err)
		for n > 0 {
			if s := w.next(seen, ended); s.Kind == binlog.Delete {
				n--
			}
		}
	})
}

func TestStragglersInTablesThatAreReachedThroughOthersAndThatChange(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `
			CREATE TABLE carts (id BIGINT NOT NULL PRIMARY KEY, shop_id BIGINT NOT NULL, KEY (shop_id));
			CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, cart_id BIGINT NOT NULL, KEY (cart_id))`,
			&ferry.Options{Ignore: []string{"countries"}, Tables: map[string]ferry.Rule{"items": {Through: []ferry.Ref{{Column: "cart_id", Table: "carts"}}}}})
		w.exec(w.source, `INSERT INTO carts VALUES (1, 7), (2, 8)`)
		w.exec(w.source, `INSERT INTO items VALUES (10, 1), (20, 2)`)
		if _, err := w.ferry.Move(t.Context(), w.shop, 2); err != nil {
			t.Fatal(err)
		}
		seen, ended := w.watch(t.Context(), 1, binlog.Position{})
		w.exec(w.source, `INSERT INTO items VALUES (21, 2), (11, 1)`)
		w.exec(w.source, `UPDATE items SET cart_id = 2 WHERE id = 10`)
		var keys []string
		for range 2 {
			keys = append(keys, w.next(seen, ended).Key)
		}
		if want := []string{"`id` = 11", "`id` = 10"}; !slices.Equal(keys, want) {
			t.Errorf("got the items %q, want %q", keys, want)
		}
		w.exec(w.source, `ALTER TABLE products ADD COLUMN colour INT NOT NULL DEFAULT 0 FIRST`)
		w.exec(w.source, `CREATE TABLE coupons (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (shop_id, id))`)
		w.exec(w.source, `INSERT INTO products VALUES (5, 7, 1, 'red', 1, 1)`)
		if s := w.next(seen, ended); s.Table != "products" || s.Key != "`id` = 1" {
			t.Errorf("got %+v, want the product of the altered table", s)
		}
		w.exec(w.source, `INSERT INTO coupons VALUES (7, 3)`)
		if s := w.next(seen, ended); s.Table != "coupons" || s.Key != "`id` = 3" {
			t.Errorf("got %+v, want the coupon of the new table", s)
		}
	})
}
