package ferry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// cleanRest is for how many times as long as a transaction took Clean rests after
// it: so it takes a quarter of one session's time, and less of a server that is slow.
const cleanRest = 3

// Clean deletes a shop's rows from a pod that it has left, and returns how many.
//
// It refuses unless the pod's fence says that the shop is gone, the journal that no
// move needs these rows, the directory that the shop is in another pod, and that
// pod's fence that it is. Rows go in small transactions, each of which looks at the
// fence under a lock, so that a shop that comes back in between loses nothing; and it
// deletes by what the shop is called, so no other shop's rows. When it ends early,
// it can be called again, by whichever process.
//
// After each transaction Clean waits for the pod's replicas, with
// Options.Replicated, and rests three times as long as it took. Options.Progress is
// called meanwhile. Who reads the pod's log knows each of these transactions by its
// Origin, as a mover's.
//
// That the other pod has what is deleted here was compared at the switch, and can't be
// any more when the shop has traded for a day: [Evidence] has it.
//
// Leave the rows for at least a day: a process that has not heard of the move
// still reads them, and so does who needs to look something up. And without them the
// way back needs a new copy.
func (f *Ferry) Clean(ctx context.Context, shop podworks.ShopID, pod podworks.PodID) (int64, error) {
	s, err := f.open(pod)
	if err != nil {
		return 0, fmt.Errorf("ferry: %w", err)
	}
	defer s.db.Close()
	hook.Step(ctx, "clean.check")
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: clean shop %d from pod %d: %s", ErrRefused, shop, pod, fmt.Sprintf(format, args...))
	}
	row, err := fence.Read(ctx, s.db, shop, "")
	switch {
	case err != nil:
		return 0, fmt.Errorf("ferry: %w", err)
	case row.State == fence.Moved:
	case row.State == fence.Absent && row.Token > 0: // a move back was undone
	default:
		return 0, refuse("the shop has not moved away from it (%v)", row)
	}
	// After the fence: a move that had closed it and is no longer in the journal is
	// finished, so that its source isn't needed any more; or it was undone, and then
	// the fence is open again, which every transaction below looks at. Where the fence
	// has the same token, the shop has not come here since.
	moves, err := f.dir.Moves(ctx)
	if err != nil {
		return 0, fmt.Errorf("ferry: %w", err)
	}
	for _, mv := range moves {
		if mv.From.Shop == shop && (mv.From.Pod == pod || mv.To.Pod == pod) {
			return 0, refuse("move %d is %s and not finished, and may need these rows; Recover or Run finishes it", mv.Token, mv.State)
		}
	}
	if err := f.elsewhere(ctx, shop, pod, refuse); err != nil {
		return 0, err
	}
	hook.Step(ctx, "clean.delete")
	n, err := f.deleteRows(ctx, s, shop, row.State, row.Token, f.rest(s, shop))
	if err != nil {
		return n, fmt.Errorf("ferry: clean shop %d from pod %d: %w", shop, pod, err)
	}
	return n, nil
}

// elsewhere refuses unless directory and fence agree that another pod has the shop.
// A master or a pod that was restored from a backup may say otherwise, and these
// rows be the only ones.
func (f *Ferry) elsewhere(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, refuse func(string, ...any) error) error {
	if hook.Off(ctx, hook.Elsewhere) {
		return nil
	}
	route, err := f.dir.Fresh(ctx, shop)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	if route.Pod == pod {
		return refuse("the directory has the shop there")
	}
	owner, err := f.open(route.Pod)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	defer owner.db.Close()
	row, err := fence.Read(ctx, owner.db, shop, "")
	if err != nil {
		return fmt.Errorf("ferry: pod %d: %w", route.Pod, err)
	}
	if row.Epoch != route.Epoch || row.State != fence.Open && row.State != fence.Absent { // which is a shop that is closed
		return refuse("the directory has it in pod %d at epoch %d, and the fence there says %v: find out which of them is right", route.Pod, route.Epoch, row)
	}
	return nil
}

// rest returns what Clean does after each transaction.
func (f *Ferry) rest(s *server, shop podworks.ShopID) func(context.Context, string, int64, time.Duration) error {
	p := Progress{Shop: shop, Step: "clean"}
	var shown time.Time
	return func(ctx context.Context, table string, n int64, took time.Duration) error {
		p.Table = table
		p.RowsDeleted += n
		if f.opts.Progress != nil && time.Since(shown) > 200*time.Millisecond {
			shown = time.Now()
			f.opts.Progress(p)
		}
		if err := f.replicated(ctx, s); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(cleanRest * took):
			return nil
		}
	}
}

// deleteRows deletes a shop's rows from a pod whose fence says state with token, and
// calls rest, if it isn't nil, after each transaction that deleted some.
func (f *Ferry) deleteRows(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64,
	rest func(ctx context.Context, table string, rows int64, took time.Duration) error) (total int64, err error) {
	const step = 2000
	list, err := f.tablesOf(ctx, s, shop)
	if err != nil {
		return 0, err
	}
	// What is half deleted is no copy to go on with.
	if err := f.forget(ctx, s, shop, state, token); err != nil {
		return 0, err
	}
	// Children first, for as long as their parents are there to know them by: this may
	// end anywhere and be done again.
	for _, t := range slices.Backward(list) {
		for more := true; more; {
			var query string
			if query, more, err = deletion(ctx, s, t, step); err != nil {
				return total, fmt.Errorf("table %s: %w", t.name, err)
			}
			start := time.Now()
			n, err := f.deleteSome(ctx, s, shop, state, token, query)
			if err != nil {
				return total, fmt.Errorf("table %s: %w", t.name, err)
			}
			total += n
			if n > 0 && rest != nil {
				if err := rest(ctx, t.name, n, time.Since(start)); err != nil {
					return total, err
				}
			}
			more = more || !t.joined() && n == step
		}
	}
	return total, f.forget(ctx, s, shop, state, token)
}

// tablesOf returns a pod's tables that have a shop's rows, parents before children.
func (f *Ferry) tablesOf(ctx context.Context, s *server, shop podworks.ShopID) ([]*table, error) {
	tables, err := describe(ctx, s.db)
	if err != nil {
		return nil, err
	}
	tenant, err := f.tenantOf(ctx, shop)
	if err != nil {
		return nil, err
	}
	for _, name := range f.opts.Ignore {
		delete(tables, name)
	}
	var list []*table
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t := tables[name]
		if t.shop = t.column(f.shopColumn(name)); len(f.opts.Tables[name].Through) > 0 {
			t.shop = -1
		} else if t.shop < 0 {
			continue
		} else if err := t.belong(tenant); err != nil {
			return nil, err
		}
		t.identify()
		list = append(list, t)
	}
	if err := errors.Join(f.refer(list)...); err != nil {
		return nil, err
	}
	return list, nil
}

// deletion returns a statement that deletes up to limit of the shop's rows of a
// table. Those of a joined table are looked up first, as a DELETE with LIMIT goes
// through the whole table for each chunk again; more says that there may be more
// than were found.
func deletion(ctx context.Context, s *server, t *table, limit int) (query string, more bool, err error) {
	if !t.joined() {
		return fmt.Sprintf(`DELETE FROM %s WHERE %s LIMIT %d`, quote(t.name), t.ofShop(), limit), false, nil
	}
	var keys []string
	err = eachKey(ctx, s.db, t, func(key string, _ []sql.RawBytes) error {
		keys = append(keys, key)
		return nil
	}, 0, fmt.Sprintf(`SELECT %s FROM %s WHERE %s LIMIT %d`, strings.TrimSuffix(t.keyList(), `, `), quote(t.name), t.ofShop(), limit))
	where := `FALSE`
	if len(keys) > 0 {
		where = t.rowsIn(keys)
	}
	return `DELETE FROM ` + quote(t.name) + ` WHERE ` + where, len(keys) == limit, err
}

// deleteSome runs a DELETE if the pod's fence says state with token. Other shops'
// movers work in the same indexes, so the server may roll it back to let one of
// them go on.
func (f *Ferry) deleteSome(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64, query string) (n int64, err error) {
	for range maxTries {
		if n, err = deleteOnce(ctx, s, shop, state, token, query); !rolledBack(err) {
			return n, err
		}
	}
	return n, err
}

func deleteOnce(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64, query string) (int64, error) {
	// A DELETE locks what it deletes, and not what others may insert beside it.
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if err := fence.Deleting(ctx, tx, shop, state, token); err != nil {
		return 0, err
	}
	if err := binlog.Mark(ctx, tx, shop, token); err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, query)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, err
	}
	return n, flavor.Commit(ctx, tx)
}

// forget deletes what the shop left, how far the copy of it is, and the marks of its
// movers. What was left and how far that is go in one transaction: one says what the
// other is of.
func (f *Ferry) forget(ctx context.Context, s *server, shop podworks.ShopID, state fence.State, token uint64) error {
	for _, query := range []string{
		`DELETE l, t, c FROM podworks_ferry_left AS l LEFT JOIN podworks_ferry_tail AS t ON t.shop_id = l.shop_id
			LEFT JOIN podworks_ferry_copy AS c ON c.shop_id = l.shop_id WHERE l.shop_id = %d`,
		`DELETE FROM podworks_ferry_tail WHERE shop_id = %d`,
		`DELETE FROM podworks_ferry_copy WHERE shop_id = %d`,
		`DELETE FROM podworks_origin WHERE shop_id = %d`,
	} {
		if _, err := f.deleteSome(ctx, s, shop, state, token, fmt.Sprintf(query, shop)); err != nil {
			return err
		}
	}
	return nil
}
