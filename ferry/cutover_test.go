package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// stepsBack returns a logger that sends for each step back of a move, and what
// it sends on.
const steppedBack = "stepped back from the cutover; writers go on"

func stepsBack() (*slog.Logger, <-chan string) {
	c := make(chan string, 100)
	return slog.New(&watcher{text: steppedBack, does: func() { c <- steppedBack }}), c
}

// A watcher is a slog.Handler that does something at one message.
type watcher struct {
	text string
	does func()
}

func (w *watcher) Enabled(context.Context, slog.Level) bool { return true }
func (w *watcher) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *watcher) WithGroup(string) slog.Handler            { return w }
func (w *watcher) Handle(_ context.Context, r slog.Record) error {
	if r.Message == w.text {
		w.does()
	}
	return nil
}

func TestAWriterThatTakesLongerThanTheBudgetIsSteppedBackFor(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		logger, back := stepsBack()
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 100 * time.Millisecond, Logger: logger})
		w.fill(w.shop, 50)
		conn := w.begin(10)
		committed := make(chan error, 1)
		go func() {
			<-back
			// Other writers go on as well, while this one still does.
			err := sell(t.Context(), w.source, w.shop, 1, 20)
			_, errCommit := conn.ExecContext(t.Context(), `COMMIT`)
			committed <- errors.Join(err, errCommit)
		}()
		report, err := w.ferry.Move(t.Context(), w.shop, 2)
		if err := <-committed; err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if report.StepsBack == 0 {
			t.Error("got no step back, want one or more")
		}
		w.same("products")
		if n := w.count(w.target, `SELECT SUM(stock) FROM products WHERE shop_id = 7 AND id IN (10, 20)`); n != 15+25+2 {
			t.Errorf("got a stock of %d, want both sales in it", n)
		}
	})
}

func TestAWriterThatNeverEndsIsKilledAndItsCommitRefused(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: time.Second})
		w.fill(w.shop, 50)
		conn := w.begin(10)
		report, err := w.ferry.Move(t.Context(), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.StepsBack < 3 {
			t.Errorf("got %d steps back, want 3 before a session is killed", report.StepsBack)
		}
		if _, err := conn.ExecContext(t.Context(), `COMMIT`); err == nil {
			t.Error("the killed writer's commit was acknowledged")
		}
		for _, db := range []*sql.DB{w.source, w.target} {
			if n := w.count(db, `SELECT stock FROM products WHERE shop_id = 7 AND id = 10`); n != 15 {
				t.Errorf("got a stock of %d, want 15, without the killed writer's sale", n)
			}
		}
	})
}

func TestAMoveThatNeverFitsTheBudgetIsUndone(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 50 * time.Millisecond, Attempts: 2})
		w.fill(w.shop, 50)
		conn := w.begin(10)
		_, err := w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrSteppedBack, "2 tries", "undone, the shop stays in pod 1")
		w.stays()
		if _, err := conn.ExecContext(t.Context(), `COMMIT`); err != nil {
			t.Errorf("the commit of the writer that was waited for: %v", err)
		}
		if _, err := w.newFerry(&ferry.Options{Ignore: []string{"countries"}}).Move(t.Context(), w.shop, 2); err != nil {
			t.Errorf("the next move: %v", err)
		}
		w.same("products")
	})
}

// A move's beginning doesn't wait for writers, nor do writers wait for it.
func TestALongTransactionDoesNotHoldUpTheCopy(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 30 * time.Second})
		w.fill(w.shop, 50)
		conn := w.begin(10)
		tr := &trail{at: map[string]func(){"verify": func() {
			if err := sell(t.Context(), w.source, w.shop, 1, 20); err != nil {
				t.Error(err)
			}
			if _, err := conn.ExecContext(t.Context(), `COMMIT`); err != nil {
				t.Error(err)
			}
		}}}
		report, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.StepsBack != 0 {
			t.Errorf("got %d steps back, want none", report.StepsBack)
		}
		w.same("products")
	})
}

// A pod that fails over between the look at its epoch and the decision leaves
// the shop where it is.
func TestAFailoverBeforeTheDecisionUndoesTheMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", nil)
		for i, failover := range []struct{ name, sql string }{
			{"the source's epoch is raised", `UPDATE podworks_pods SET epoch = epoch + 1 WHERE pod_id = 1`},
			{"the target's epoch is raised", `UPDATE podworks_pods SET epoch = epoch + 1 WHERE pod_id = 2`},
		} {
			t.Run(failover.name, func(t *testing.T) {
				w := w.in(t)
				w.addShop(podworks.ShopID(100 + i))
				w.fill(w.shop, 50)
				tr := &trail{at: map[string]func(){"closed": func() { w.exec(w.master, failover.sql) }}}
				_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
				contains(t, err, nil, "a pod failed over since its epoch was noted", "undone")
				if errors.Is(err, ferry.ErrReplaced) {
					t.Errorf("got %v, and nobody took the move over", err)
				}
				w.stays()
			})
		}
		t.Run("a pod does not serve", func(t *testing.T) {
			w := w.in(t)
			w.fill(w.shop, 50)
			tr := &trail{at: map[string]func(){"verify": func() { w.exec(w.master, `UPDATE podworks_pods SET serving = 0 WHERE pod_id = 2`) }}}
			_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
			contains(t, err, nil, "pods 1 and 2 must both serve", "undone")
			if tr.passed("drain") {
				t.Error("the lock was asked for")
			}
			w.stays()
		})
	})
}

// While a long transaction holds the fence, others wait for the first tries' parts of
// the budget, and not for the budget at each. A process of its own writes and measures.
func TestALongTransactionMakesOthersWaitForShort(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		const budget = 4 * time.Second
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: budget, Attempts: 2})
		w.fill(w.shop, 50)
		conn := w.begin(10)
		writer := w.process(role{Waits: true})
		writer.await("writes")
		_, err := w.ferry.Move(t.Context(), w.shop, 2)
		contains(t, err, ferry.ErrSteppedBack, "2 tries", "write transactions in flight hold the shop's lock", "undone, the shop stays in pod 1")
		writer.goOn()
		writer.out.Scan()
		waited, err := strconv.Atoi(writer.out.Text())
		w.must(err)
		// What is left of the second budget is for a busy machine.
		if least, most := budget/16, 3*budget/2; waited < int(least.Milliseconds()) || waited > int(most.Milliseconds()) {
			t.Errorf("a writer waited for %d ms in all, want %v to %v: a sixteenth and a quarter of %v, not twice that", waited, least, most, budget)
		}
		if _, err := conn.ExecContext(t.Context(), `COMMIT`); err != nil {
			t.Errorf("the commit of the writer that was waited for: %v", err)
		}
	})
}

// A large transaction that ends while the mover waits for it is applied and compared
// before others are made to wait.
func TestALargeTransactionInFlightIsAppliedBeforeTheLock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		const products = 20_000
		// In the mover's own time: it goes on when the transaction has ended.
		var commit func() error
		logger := slog.New(&watcher{text: steppedBack, does: func() { _ = commit() }})
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: time.Second, Logger: logger})
		w.fill(w.shop, products)
		conn := w.begin(10)
		if _, err := conn.ExecContext(t.Context(), `UPDATE products SET stock = stock + 1 WHERE shop_id = 7`); err != nil {
			t.Fatal(err)
		}
		writer := w.process(role{Waits: true})
		writer.await("writes")
		commit = sync.OnceValue(func() error {
			_, err := conn.ExecContext(t.Context(), `COMMIT`)
			return err
		})
		report, err := w.ferry.Move(t.Context(), w.shop, 2)
		if err := errors.Join(err, commit()); err != nil {
			t.Fatal(err)
		}
		if report.StepsBack == 0 {
			t.Error("the transaction was not waited for")
		}
		writer.out.Scan()
		t.Logf("a writer waited for %s ms in all; %d steps back, a pause of %v, predicted %v; %d rows compared under the lock",
			writer.out.Text(), report.StepsBack, report.Pause, report.Predicted, report.Evidence.RowsLocked)
		if n := report.Evidence.RowsLocked; n > products/2 {
			t.Errorf("%d rows were compared under the lock, want few of the transaction's", n)
		}
		w.same("products")
	})
}

// A pause that is predicted over its budget is not begun: nobody waits.
func TestAPauseThatIsPredictedTooLongIsNotBegun(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 250 * time.Millisecond, Attempts: 2,
			Replicated: func(ctx context.Context, _ podworks.PodID) error {
				select {
				case <-time.After(300 * time.Millisecond): // which is how far the replicas are behind
				case <-ctx.Done():
				}
				return ctx.Err()
			}})
		w.fill(w.shop, 50)
		tr := &trail{}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, ferry.ErrSteppedBack, "2 tries", "writers would wait for too long", "is predicted", "the budget is 250ms", "undone, the shop stays in pod 1")
		if tr.passed("lock") {
			t.Error("the lock was asked for")
		}
		w.stays()

		near := w.newFerry(&ferry.Options{Ignore: []string{"countries"}, PauseBudget: 5 * time.Second})
		report, err := near.Move(t.Context(), w.shop, 2)
		if err != nil {
			t.Fatal(err)
		}
		if report.Predicted <= 0 || report.Predicted >= 5*time.Second {
			t.Errorf("got a pause of %v predicted, want one within the budget", report.Predicted)
		}
		t.Logf("predicted %v, took %v", report.Predicted, report.Pause)
	})
}

// addOddTrigger adds a trigger to the target, as somebody might after the plan, that
// changes one product whenever it arrives.
func (w *world) addOddTrigger() {
	w.exec(w.target, `CREATE TRIGGER odd BEFORE INSERT ON products FOR EACH ROW SET NEW.name = IF(NEW.id = 10, 'odd', NEW.name)`)
}

// A row that differs each time that it is copied is found before writers wait.
func TestARowThatAlwaysDiffersIsNoReasonToAskForTheLock(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, f, "", &ferry.Options{Ignore: []string{"countries"}, Attempts: 2})
		w.fill(w.shop, 50)
		tr := &trail{at: map[string]func(){"copy": w.addOddTrigger}}
		_, err := w.ferry.Move(tr.follow(t.Context()), w.shop, 2)
		contains(t, err, ferry.ErrDiffers, "again and again", "table products: differs in name")
		if tr.passed("lock") {
			t.Error("the lock was asked for")
		}
		w.stays()
	})
}
