package ferry_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// setGlobal sets a variable of a server, and back at the end of the test. The
// servers are shared, so such a test runs beside no other. The families' are not.
func setGlobal(t *testing.T, db *sql.DB, name, value string) {
	t.Helper()
	var back string
	if err := db.QueryRowContext(t.Context(), `SELECT @@GLOBAL.`+name).Scan(&back); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `SET GLOBAL `+name+` = `+value); err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
	t.Cleanup(func() {
		if strings.Trim(back, "0123456789.") != "" {
			back = `'` + back + `'`
		}
		if _, err := db.ExecContext(context.WithoutCancel(t.Context()), `SET GLOBAL `+name+` = `+back); err != nil {
			t.Errorf("set %s back: %v", name, err)
		}
	})
}

func TestServersThatAreSetOtherwiseAreAWarning(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		plan := w.plan(2)
		for _, f := range plan.Findings {
			if strings.Contains(f.What, "on pod 1 and") {
				t.Errorf("servers that are set alike: %v", f)
			}
		}
		w.found(plan, ferry.Warn, "", "innodb_flush_log_at_trx_commit is 2: what the server acknowledges")
		w.found(plan, ferry.Warn, "", "sync_binlog is 0: ")

		setGlobal(t, w.target, "sql_mode", "'NO_ENGINE_SUBSTITUTION'")
		setGlobal(t, w.target, "time_zone", "'+02:00'")
		setGlobal(t, w.source, "innodb_flush_log_at_trx_commit", "1")
		setGlobal(t, w.source, "sync_binlog", "1")
		w.exec(w.target, `ALTER DATABASE `+w.pods[2].DBName+` COLLATE utf8mb4_bin`)
		plan = w.plan(2)
		w.found(plan, ferry.Warn, "", `on pod 1 and "NO_ENGINE_SUBSTITUTION" on pod 2: a statement that fails on one may store something else on the other`)
		w.found(plan, ferry.Warn, "", `time_zone is "+00:00" on pod 1 and "+02:00" on pod 2`)
		w.found(plan, ferry.Warn, "", `on pod 1 and "utf8mb4_bin" on pod 2: tables created later compare text otherwise`)
		for _, f := range plan.Findings {
			if f.Pod == 1 && (strings.HasPrefix(f.What, "sync_binlog") || strings.HasPrefix(f.What, "innodb_flush")) {
				t.Errorf("a durable source: %v", f)
			}
		}
		if plan.Refused() {
			t.Errorf("warnings refuse the move:\n%v", plan)
		}
	})
}

func TestALogThatIsNotKeptUntilTheMoveHasReadItIsRefused(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, "", nil)
		// So many that by its own estimate the move takes far more than half of the
		// second that is the shortest a server takes for keeping its log.
		w.fill(w.shop, 40_000)
		for n := 40_000; w.plan(2).Estimate.Duration < 1200*time.Millisecond; n *= 2 {
			if n > 2_000_000 {
				t.Fatalf("the plan says that %d rows take %v", n, w.plan(2).Estimate.Duration)
			}
			w.exec(w.source, fmt.Sprintf(`INSERT INTO products SELECT shop_id, id + %d, name, price, stock FROM products WHERE shop_id = 7`, n))
		}
		setGlobal(t, w.source, "binlog_expire_logs_seconds", "1")
		plan := w.plan(2)
		found := w.found(plan, ferry.Refuse, "", "binlog_expire_logs_seconds is 1s, and the move takes about")
		if found.Do != "keep the log longer" || found.Pod != 1 {
			t.Errorf("got %v", found)
		}
		w.untouched()
	})
}

func TestAValueThatDoesNotFitAPacketIsRefused(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		w := newWorld(t, f, `CREATE TABLE files (shop_id INT NOT NULL, id INT NOT NULL, body LONGBLOB, PRIMARY KEY (shop_id, id))`, nil)
		w.fill(w.shop, 20)
		w.exec(w.source, `INSERT INTO files VALUES (7, 1, REPEAT('x', 2000000)), (7, 2, ''), (8, 1, REPEAT('x', 3000000))`)
		plan := w.plan(2)
		if plan.Refused() || plan.Tables[0].LargestValue != 2000000 {
			t.Errorf("got a largest value of %d bytes, want 2000000, in the plan\n%v", plan.Tables[0].LargestValue, plan)
		}
		setGlobal(t, w.target, "max_allowed_packet", "1048576")
		found := w.found(w.plan(2), ferry.Refuse, "files", "the shop's largest value takes 2.0 MB to send, and max_allowed_packet is 1.0 MB")
		if found.Pod != 2 || found.Do != "SET GLOBAL max_allowed_packet = 4194304" {
			t.Errorf("got %v", found)
		}
		w.exec(w.target, found.Do)
		if plan := w.plan(2); plan.Refused() {
			t.Errorf("when it is mended: %v", plan)
		}
	})
}

func TestATableWithoutAnIndexOnTheShopIsRefusedUnlessItIsSmall(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, `CREATE TABLE odd (id INT NOT NULL PRIMARY KEY, shop_id INT NOT NULL, v VARCHAR(9), KEY by_v (v, shop_id))`, nil)
		w.fill(w.shop, 20)
		add := func(from, to int) {
			var values []string
			for i := from; i < to; i++ {
				values = append(values, fmt.Sprintf("(%d, %d, 'v')", i, i%10))
			}
			w.exec(w.source, `INSERT INTO odd VALUES `+strings.Join(values, ","))
		}
		add(0, 9_999)
		w.found(w.plan(2), ferry.Warn, "odd", "no index begins with shop_id, so finding the shop's rows reads every shop's, for each chunk again (it has 9999 rows in all")
		add(9_999, 10_000)
		plan := w.plan(2)
		found := w.found(plan, ferry.Refuse, "odd", "no index begins with shop_id")
		if found.Pod != 1 || found.Do != "CREATE INDEX `shop_id` ON `odd` (`shop_id`, `id`)" || plan.Tables[0].Index != "" {
			t.Errorf("got %v, and index %q", found, plan.Tables[0].Index)
		}
		w.exec(w.source, found.Do)
		w.exec(w.target, found.Do)
		if plan := w.plan(2); plan.Refused() || plan.Tables[0].Index != "shop_id" {
			t.Errorf("with the index: got index %q in the plan\n%v", plan.Tables[0].Index, plan)
		}
	})
}

func TestATransactionThatRunsForLongIsAWarning(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		var id uint64
		if err := w.begin(1).QueryRowContext(t.Context(), `SELECT CONNECTION_ID()`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		until(t, "the plan to name the session", func() bool {
			for _, f := range w.plan(2).Findings {
				_, sessions, _ := strings.Cut(f.What, "(sessions ")
				sessions, _, _ = strings.Cut(sessions, ")")
				for s := range strings.SplitSeq(sessions, ", ") {
					if s == fmt.Sprint(id) && f.Severity == ferry.Warn && strings.Contains(f.What, "older than the pause budget of 150ms") {
						return true
					}
				}
			}
			return false
		})
	})
}

func TestThePlanOfAMoveUnderWayKnowsItsRows(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		claimed, err := w.dir.Claim(t.Context(), w.shop, 2, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := fence.Claim(t.Context(), w.target, w.shop, claimed.Token); err != nil {
			t.Fatal(err)
		}
		w.exec(w.target, `INSERT INTO products VALUES (7, 1, 'copied', 1, 1)`)
		plan := w.plan(2)
		w.found(plan, ferry.Warn, "", fmt.Sprintf("move %d of the shop to pod 2 is unfinished: running", claimed.Token))
		if plan.Refused() {
			t.Errorf("want a plan to go on with, got\n%v", plan)
		}
		if err := fence.Tombstone(t.Context(), w.target, w.shop, claimed.Token); err != nil {
			t.Fatal(err)
		}
		w.found(w.plan(2), ferry.Refuse, "products", "1 rows of shop 7 are there already")
	})
}

func TestARefusedPlanHasWhatElseCouldBeFoundOut(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		w.exec(w.target, `ALTER TABLE orders ADD COLUMN colour INT`)
		w.exec(w.target, `INSERT INTO products VALUES (7, 1, 'left', 1, 1)`)
		plan := w.plan(2)
		w.found(plan, ferry.Refuse, "orders", "column colour is on pod 2 only")
		w.found(plan, ferry.Refuse, "products", "1 rows of shop 7 are there already")
		w.found(plan, ferry.Note, "", "are only looked for when what speaks against the move is mended")
		w.found(plan, ferry.Note, "", "needs about 360 B of disk space")
		e := plan.Estimate
		if plan.Rows() != 20 || plan.Bytes() != 360 || e.Duration <= 0 || e.Pause <= 0 || e.Source <= 0 || e.Target <= 0 || e.Directory <= 0 || e.ReadRate <= 0 || e.How == "" {
			t.Errorf("got %d rows, %d bytes, %+v", plan.Rows(), plan.Bytes(), e)
		}
	})
}

// The log grows while the plan is made, over a rotation too.
func TestAPlanMeasuresTheLog(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		w.fill(w.shop, 20)
		ctx, stop := context.WithCancel(t.Context())
		writing := make(chan error, 1)
		go func() {
			var err error
			for i := 0; err == nil && ctx.Err() == nil; i++ {
				_, err = w.source.ExecContext(t.Context(), `UPDATE products SET stock = stock + 1 WHERE shop_id = 7`)
				if err == nil && i%10 == 0 {
					_, err = w.source.ExecContext(t.Context(), `FLUSH BINARY LOGS`)
				}
			}
			writing <- err
		}()
		plan := w.plan(2)
		stop()
		if err := <-writing; err != nil {
			t.Fatal(err)
		}
		if plan.Estimate.LogRate <= 0 {
			t.Errorf("got %v bytes a second of log while it was written to", plan.Estimate.LogRate)
		}
	})
}
