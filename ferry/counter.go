package ferry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
)

// raiseCounters makes the target's AUTO_INCREMENT counters at least the source's.
// The rows that arrive raise a counter by themselves; but a row that the shop
// added and deleted does not, and its id must not be given to another one.
//
// It is not done with ALTER TABLE, which waits for every transaction of every
// shop in the table, makes new ones wait behind it, and ends the moves of other
// shops out of the target. A row that gets a high id and gives it back in one
// transaction raises the counter as well, on both families (measured on MariaDB
// 10.11 and MySQL 9.7), nobody sees it, and it reaches the target's replicas.
func (m *move) raiseCounters(ctx context.Context) error {
	if hook.Off(ctx, hook.Counter) {
		return nil
	}
	want, err := counters(ctx, m.src.db)
	if err != nil {
		return fmt.Errorf("read the source's AUTO_INCREMENT counters: %w", err)
	}
	have, err := counters(ctx, m.dst.db)
	if err != nil {
		return fmt.Errorf("read the target's AUTO_INCREMENT counters: %w", err)
	}
	failed := map[string]error{}
	for _, t := range m.tables {
		n := want[t.name]
		if t.counter() < 0 { // MySQL still has one for a table whose column was one once
			delete(want, t.name)
			continue
		}
		if n <= max(have[t.name], 1) {
			continue
		}
		err := m.raise(ctx, t, n-1)
		for try := 1; err != nil && rolledBack(err) && try < 10; try++ {
			err = m.raise(ctx, t, n-1)
		}
		failed[t.name] = err
	}
	if len(failed) == 0 {
		return nil
	}
	if have, err = counters(ctx, m.dst.db); err != nil {
		return fmt.Errorf("read the target's AUTO_INCREMENT counters: %w", err)
	}
	for _, t := range m.tables {
		if n := want[t.name]; n > max(have[t.name], 1) {
			err := cmp.Or(failed[t.name], errors.New("no row could be made up for it"))
			return fmt.Errorf("table %s: the target's AUTO_INCREMENT counter is below the source's %d and could not be raised; "+
				"run ALTER TABLE %s AUTO_INCREMENT = %d on pod %d and move again: %w", t.name, n, quote(t.name), n, m.dst.pod, err)
		}
	}
	return nil
}

// counters returns the next value of each counter.
func counters(ctx context.Context, db *sql.DB) (map[string]uint64, error) {
	next := map[string]uint64{}
	err := each(ctx, db, func(rows *sql.Rows) error {
		var name string
		var n uint64
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		next[name] = n
		return nil
	}, `SELECT table_name, auto_increment FROM information_schema.tables WHERE table_schema = DATABASE() AND auto_increment IS NOT NULL`)
	return next, err
}

// counter returns the index of the AUTO_INCREMENT column, or -1.
func (t *table) counter() int {
	return slices.IndexFunc(t.columns, func(c column) bool { return strings.Contains(c.extra, "auto_increment") })
}

// raise has a row of the target take an id and give it back.
func (m *move) raise(ctx context.Context, t *table, id uint64) error {
	auto, kept := t.counter(), ""
	for _, c := range t.columns {
		if strings.Contains(c.extra, "on update") { // stays, if it is written
			kept += `, ` + quote(c.name) + ` = ` + quote(c.name)
		}
	}
	tx, err := m.dst.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fence.Applying(ctx, tx, m.shop, m.token); err != nil {
		return err
	}
	if err := binlog.Mark(ctx, tx, m.shop, m.token); err != nil {
		return err
	}
	name, column := quote(t.name), quote(t.columns[auto].name)
	var old string
	err = tx.QueryRowContext(ctx, `SELECT `+column+` FROM `+name+` WHERE `+t.ofShop()+` LIMIT 1`).Scan(&old)
	var statements []string
	switch {
	case err == nil && !t.onUpdate:
		statements = []string{
			fmt.Sprintf(`UPDATE %s SET %s = %d%s WHERE %s AND %s = %s`, name, column, id, kept, t.ofShop(), column, old),
			fmt.Sprintf(`UPDATE %s SET %s = %s%s WHERE %s = %d`, name, column, old, kept, column, id),
		}
	case err == nil || errors.Is(err, sql.ErrNoRows):
		// IGNORE gives columns without a default some value. Where that can't be, no
		// row comes to be, and the counter stays.
		insert := fmt.Sprintf(`INSERT IGNORE INTO %s (%s) VALUES (%d)`, name, column, id)
		if !t.joined() && auto != t.shop {
			insert = fmt.Sprintf(`INSERT IGNORE INTO %s (%s, %s) VALUES (%d, %s)`, name, column, quote(t.owner().name), id, t.tenant)
		}
		statements = []string{insert, fmt.Sprintf(`DELETE FROM %s WHERE %s = %d`, name, column, id)}
	default:
		return err
	}
	hook.Step(ctx, "raise")
	var made int64
	for i, stmt := range statements {
		res, err := tx.ExecContext(ctx, stmt)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if i == 0 {
			made = n
		}
		// Other shops trade here, and one of them may have been given this id since the
		// counters were read. Then the counter is high enough, and the row is theirs.
		if (made == 0 || n != made) && !hook.Off(ctx, hook.Given) {
			return fmt.Errorf("%d rows were to take the id %d, and %d have it", made, id, n)
		}
	}
	return tx.Commit()
}
