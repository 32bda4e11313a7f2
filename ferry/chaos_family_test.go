package ferry_test

import (
	"context"
	"fmt"

	"github.com/podworks/podworks"
)

// What a writer does to tables that reach the shop through others. Whose a row is
// changes there without a change of the row: of whatever a transaction touches, all
// that is below it is touched too, and written down.

// parentOf returns the values of ref_k and ref for a new row: mostly of the shop.
func (d *draft) parentOf(table int) (number, key string) {
	t := &d.tables[table]
	up := numbered(d.tables, t.through)
	where := podworks.PodID(0)
	switch d.rng.IntN(16) {
	case 0:
		where = d.route.Pod
	case 1:
		if t.foreign == "" {
			return "NULL", "NULL"
		}
	}
	if k, ok := d.pick(up, where); ok {
		return d.tables[up].refTo(k)
	}
	return "NULL", "NULL"
}

// refer has a row refer to row k of the table above.
func (d *draft) refer(ctx context.Context, row, k int64) error {
	t := &d.tables[d.table]
	number, key := d.tables[numbered(d.tables, t.through)].refTo(k)
	return d.exec(ctx, fmt.Sprintf("UPDATE %s SET ref_k = %s, ref = %s WHERE k = %d", t.name, number, key, row), row)
}

// toShopOf gives a row of a joined table a parent of the neighbour's, or of the shop's.
func (d *draft) toShopOf(ctx context.Context, row int64, where podworks.PodID) error {
	k, ok := d.pick(numbered(d.tables, d.tables[d.table].through), where)
	if !ok {
		return nil
	}
	return d.refer(ctx, row, k)
}

// insertAs inserts row k of a table.
func (d *draft) insertAs(ctx context.Context, table int, k int64) error {
	was := d.table
	d.table = table
	defer func() { d.table = was }()
	t := &d.tables[table]
	return d.exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES %s", t.name, t.names(), d.row(k, d.novel())), k)
}

// changeParent changes whose a row of a joined table is.
func (d *draft) changeParent(ctx context.Context, row int64) error {
	t := &d.tables[d.table]
	up := numbered(d.tables, t.through)
	lost, ok := d.pick(d.table, nobody+d.route.Pod)
	if ok && d.rng.IntN(3) > 0 { // something becomes of who has lost his parent
		answer, err := ask(ctx, d.tx, fmt.Sprintf("SELECT ref_k FROM %s WHERE k = %d", t.name, lost))
		if err != nil {
			return err
		}
		switch was := numbersIn(answer); {
		case d.rng.IntN(3) == 0:
			return d.exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE k = %d", t.name, lost), lost)
		case len(was) > 0 && d.rng.IntN(8) == 0: // the parent comes back, unless it is with a neighbour elsewhere
			if _, used := d.where[fmt.Sprintf("%s/%d", d.tables[up].name, was[0])]; !used {
				return d.insertAs(ctx, up, was[0])
			}
		}
		return d.toShopOf(ctx, lost, 0)
	}
	switch d.rng.IntN(5) {
	case 0: // nobody's, or somebody's who may come
		if t.foreign != "" {
			return d.exec(ctx, fmt.Sprintf("UPDATE %s SET ref_k = NULL, ref = NULL WHERE k = %d", t.name, row), row)
		}
		return d.refer(ctx, row, d.freeIn(up))
	case 1: // the child is there first
		k := d.freeIn(up)
		if err := d.touch(ctx, up, []int64{k}); err != nil {
			return err
		}
		if t.foreign == "" {
			if err := d.refer(ctx, row, k); err != nil {
				return err
			}
		}
		return d.insertAs(ctx, up, k)
	case 2: // it goes, its parent changes, it comes again
		k, ok := d.pick(up, 0)
		if !ok {
			return nil
		}
		if err := d.exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE k = %d", t.name, row), row); err != nil {
			return err
		}
		if err := d.execIn(ctx, up, "UPDATE "+d.tables[up].name+" SET "+d.tables[up].assignments(d.rng)+d.at(up, int64(d.Shop), k), k); err != nil {
			return err
		}
		return d.insertAs(ctx, d.table, row)
	}
	return d.toShopOf(ctx, row, 0)
}

// changeFamily changes a row that others refer to, and some of these.
func (d *draft) changeFamily(ctx context.Context, row int64, child int) error {
	t, c := &d.tables[d.table], &d.tables[child]
	at := d.at(d.table, int64(d.Shop), row)
	children := fmt.Sprintf(" WHERE ref_k = %d", row)
	if err := d.touch(ctx, d.table, []int64{row}); err != nil {
		return err
	}
	goes := func() error { return d.exec(ctx, "DELETE FROM "+t.name+at, row) }
	switch d.rng.IntN(7) {
	case 0: // it goes and comes back, its children stay where they are
		if err := goes(); err != nil {
			return err
		}
		return d.insertAs(ctx, d.table, row)
	case 1: // with its children
		for _, grandchild := range below(d.tables, child) {
			query := fmt.Sprintf("DELETE FROM %s WHERE ref_k IN (SELECT k FROM %s%s)", d.tables[grandchild].name, c.name, children)
			if err := d.execIn(ctx, grandchild, query); err != nil {
				return err
			}
		}
		if err := d.execIn(ctx, child, "DELETE FROM "+c.name+children); err != nil {
			return err
		}
		return goes()
	case 2: // alone, unless the server has something to say about that
		return goes()
	case 3: // its key changes, and they follow
		to := d.free()
		number, key := t.refTo(to)
		if err := d.exec(ctx, "UPDATE "+t.name+" SET "+t.rekey(to)+at, row, to); err != nil {
			return err
		}
		return d.execIn(ctx, child, fmt.Sprintf("UPDATE %s SET ref_k = %s, ref = %s%s", c.name, number, key, children))
	case 4: // to the neighbour and back
		if t.through == "" {
			shop, other := int64(d.Shop), int64(d.Others[d.route.Pod])
			if err := d.exec(ctx, fmt.Sprintf("UPDATE %s SET shop_id = %d%s", t.name, other, at), row); err != nil {
				return err
			}
			if err := d.execIn(ctx, child, "UPDATE "+c.name+" SET "+c.assignments(d.rng)+children); err != nil {
				return err
			}
			return d.exec(ctx, fmt.Sprintf("UPDATE %s SET shop_id = %d%s", t.name, shop, d.at(d.table, other, row)), row)
		}
	case 5: // they go to another
		if to, ok := d.pick(d.table, d.route.Pod*podworks.PodID(d.rng.IntN(2))); ok {
			number, key := t.refTo(to)
			return d.execIn(ctx, child, fmt.Sprintf("UPDATE %s SET ref_k = %s, ref = %s%s", c.name, number, key, children))
		}
	}
	return d.execIn(ctx, child, "UPDATE "+c.name+" SET "+c.assignments(d.rng)+children)
}
