package ferry_test

import (
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// MySQL shows a transaction in its log before it shows the rows: between the
// two are the other members of its group, and the disk. This server makes that
// a fifth of a second. What the log has brought to the target and the source
// doesn't show yet is no difference.
func TestARowThatTheLogShowsFirstIsNotRepaired(t *testing.T) {
	t.Parallel()
	source := testcluster.Start(t, &testcluster.MySQLOptions{Family: testcluster.MySQL})
	w := newWorldOn(t, source, testcluster.Shared(t, testcluster.MySQL, "target"), "", &ferry.Options{Ignore: []string{"countries"}, PauseBudget: 3 * time.Second})
	w.fill(w.shop, 300)
	w.exec(w.source, `SET GLOBAL binlog_group_commit_sync_delay = 200000`)
	var sales sync.WaitGroup
	for seller := range 6 {
		sales.Go(func() {
			for {
				err := trade(t.Context(), w.source, w.shop, 1, func(tx *sql.Tx) error {
					_, err := tx.ExecContext(t.Context(), `UPDATE products SET stock = stock + 1 WHERE shop_id = 7 AND id BETWEEN ? AND ?`, seller*40, seller*40+39)
					return err
				})
				if errors.Is(err, errMoved) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	report, err := w.ferry.Move(t.Context(), w.shop, 2)
	if err != nil {
		w.exec(w.source, `UPDATE podworks_fence SET state = 'moved'`) // let the sellers go home
	}
	sales.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if report.RowsRepaired != 0 {
		t.Errorf("%d rows were repaired that were right", report.RowsRepaired)
	}
	w.same("products")
}
