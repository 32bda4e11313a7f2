package ferry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
)

// A Comparison is what two servers said of all rows of a shop, each as of one
// moment.
type Comparison struct {
	Shop   podworks.ShopID
	Source Side
	Target Side
	Tables []TableComparison

	// Differing is how many rows differ. A table without a key counts as one.
	Differing   int64
	Differences []Difference // the first 100 of each table

	At   time.Time     // when the rows were as compared
	Took time.Duration // to compare them
}

// Equal reports whether the shop's rows are the same on both sides.
func (c *Comparison) Equal() bool { return c.Differing == 0 }

// A Side is one of the two servers of a comparison.
type Side struct {
	Pod podworks.PodID
	// Log is the place in the server's own binary log that its rows are of: on
	// MariaDB exactly, on MySQL at or just before it. It is zero without a log, or
	// without the privilege to ask.
	Log LogPosition
	// Settings are the server's variables that bear on what it stores, and who it is.
	Settings map[string]string
}

// A LogPosition is a place in a server's binary log.
type LogPosition struct {
	File  string
	Pos   uint64
	GTIDs string // all that have been committed there
}

// A TableComparison is what both servers said of one table.
type TableComparison struct {
	Table  string
	Source TableSum
	Target TableSum
}

// A TableSum is a server's answer to one query. It can be asked again by anybody
// who sets the session as ferry does: time_zone '+00:00' and utf8mb4.
type TableSum struct {
	Rows  int64
	Sum   string // of 64 bits of each row's SHA-256
	Query string // which names every column
}

// Compare compares all rows of a shop in two pods, without a lock and without
// changing anything. Each side is read as it is at one moment, in a transaction
// that is open until the comparison ends.
//
// A Comparison that isn't Equal is no error. What is written to either side
// meanwhile, or was since a move, differs rightly: after a move to the target, a
// row that the source has and the target lacks, or has otherwise, was either
// changed in the target or lost. Compare between a move and [Ferry.Clean], the
// sooner the better, or with a copy that a backup was restored to.
//
// The schemas of both must be those that a move wants. It needs the privileges of
// [Ferry.Plan], and the time of reading the shop once on each side.
func (f *Ferry) Compare(ctx context.Context, shop podworks.ShopID, source, target podworks.PodID) (*Comparison, error) {
	fail := func(err error) (*Comparison, error) {
		return nil, fmt.Errorf("ferry: compare shop %d in pods %d and %d: %w", shop, source, target, err)
	}
	src, dst, err := f.pair(source, target)
	if err != nil {
		return fail(err)
	}
	defer src.db.Close()
	defer dst.db.Close()
	p := &prepared{Plan: Plan{From: podworks.Route{Shop: shop, Pod: source}, To: target}, settings: map[podworks.PodID]map[string]string{}}
	if identify(ctx, src, dst, p) {
		for _, s := range []*server{src, dst} {
			if err := inspectServer(ctx, s, p); err != nil {
				return fail(fmt.Errorf("ask pod %d for its settings: %w", s.pod, err))
			}
		}
		p.Findings = nil // what matters to a move only
		faults, err := f.inspectTables(ctx, src, dst, p)
		if err := errors.Join(append(faults, err)...); err != nil {
			return fail(err)
		}
	}
	if err := p.refused(); err != nil { // the servers themselves
		return fail(err)
	}
	c, err := newComparer(ctx, src, dst, p.tables)
	if err != nil {
		return fail(err)
	}
	views, err := newViews(ctx, src, dst, p)
	if err != nil {
		return fail(err)
	}
	defer views.close()
	if err := views.take(ctx); err != nil {
		return fail(err)
	}
	out, err := c.compare(ctx, views, shop)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// compare compares all rows, each side by itself.
func (c *comparer) compare(ctx context.Context, v *views, shop podworks.ShopID) (*Comparison, error) {
	start := time.Now()
	out := &Comparison{Shop: shop, Tables: make([]TableComparison, len(c.tables)), At: v.at}
	errs := make([]error, len(v.of))
	var wg sync.WaitGroup
	for side, view := range v.of {
		wg.Go(func() {
			if errs[side] = view.locate(ctx); errs[side] != nil {
				return
			}
			for i, t := range c.tables {
				sums, put := c.source, &out.Tables[i].Source
				if side == 1 {
					sums, put = c.target, &out.Tables[i].Target
				}
				var err error
				if *put, err = c.total(ctx, view, t, sums[i].expr); err != nil {
					errs[side] = fmt.Errorf("pod %d, table %s: %w", view.s.pod, t.name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out.Source, out.Target = v.of[0].side(), v.of[1].side()
	var differ found
	for i, t := range c.tables {
		a, b := &out.Tables[i].Source, &out.Tables[i].Target
		out.Tables[i].Table = t.name
		if a.Rows == b.Rows && a.Sum == b.Sum {
			continue
		}
		before := differ.rows
		if err := c.search(ctx, v, i, b.Rows > a.Rows, &differ); err != nil {
			return nil, err
		}
		if differ.rows == before {
			return nil, fmt.Errorf("table %s: the checksums of all rows differ and those of each are equal, which can't be; compare again, and report it", t.name)
		}
	}
	out.Differing, out.Differences = differ.rows, differ.list
	out.Took = time.Since(start)
	return out, nil
}

// total returns one side's answer for a table. It is asked in spans, because
// whoever alters the table waits for a statement's end, and everybody else behind
// that one. That the spans have each row once is a question of its own.
func (c *comparer) total(ctx context.Context, v *view, t *table, expr string) (TableSum, error) {
	out := TableSum{Query: t.sumQuery(expr, span{})}
	spans, err := c.spans(ctx, v.conn, t)
	if err != nil {
		return out, err
	}
	var all, part big.Int
	for _, s := range spans {
		one, err := sum(ctx, v.conn, t.sumQuery(expr, s))
		if err != nil {
			return out, err
		}
		if err := v.release(ctx); err != nil {
			return out, err
		}
		if c.compared != nil {
			if err := c.compared(ctx, one.rows); err != nil {
				return out, err
			}
		}
		if _, ok := part.SetString(one.sum, 10); !ok {
			return out, fmt.Errorf("the server's checksum is %q, want a number", one.sum)
		}
		all.Add(&all, &part)
		out.Rows += one.rows
	}
	out.Sum = all.String()
	var rows int64
	if err := v.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quote(t.name)+` WHERE `+t.ofShop()).Scan(&rows); err != nil {
		return out, err
	}
	if rows != out.Rows {
		return out, fmt.Errorf("the ranges of keys have %d rows and the shop has %d, which can't be; report it", out.Rows, rows)
	}
	return out, v.release(ctx)
}

// search finds the rows of a table that differ.
func (c *comparer) search(ctx context.Context, v *views, i int, byTarget bool, differ *found) error {
	t := c.tables[i]
	source, target := v.of[0].conn, v.of[1].conn
	cut := source
	if byTarget { // the side with more rows, so that no span is large
		cut = target
	}
	spans, err := c.spans(ctx, cut, t)
	if err != nil {
		return fmt.Errorf("table %s: %w", t.name, err)
	}
	for _, s := range spans {
		a, err := sum(ctx, source, t.sumQuery(c.source[i].expr, s))
		if err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
		b, err := sum(ctx, target, t.sumQuery(c.target[i].expr, s))
		if err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
		if err := errors.Join(v.of[0].release(ctx), v.of[1].release(ctx)); err != nil {
			return err
		}
		if a == b {
			continue
		}
		where := t.ofShopByKey() + s.where(t)
		as, err := rowSums(ctx, source, t, c.source[i].expr, where)
		if err != nil {
			return err
		}
		bs, err := rowSums(ctx, target, t, c.target[i].expr, where)
		if err != nil {
			return err
		}
		if err := c.note(ctx, differ, source, target, i, differing(as, bs), as, bs, true); err != nil {
			return err
		}
	}
	return nil
}

// views are both sides as they were at one moment.
type views struct {
	of [2]*view // source, target
	at time.Time
}

// A view is a session that sees a server's rows as they were when it was taken.
type view struct {
	s        *server
	conn     *sql.Conn
	flavor   flavor.Flavor
	settings map[string]string
	log      LogPosition
}

// newViews makes the sessions ready, so that to take them is one statement, or two.
func newViews(ctx context.Context, src, dst *server, p *prepared) (*views, error) {
	v := &views{}
	for i, s := range []*server{src, dst} {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			v.close()
			return nil, fmt.Errorf("pod %d: %w", s.pod, err)
		}
		v.of[i] = &view{s: s, conn: conn, flavor: p.flavor, settings: p.settings[s.pod]}
		for _, stmt := range []string{
			// One side waits for the other, which has more to do. A session of a mover that
			// is frozen holds no lock meanwhile.
			`SET SESSION wait_timeout = 3600`,
			`SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ`, // any other has no snapshot
		} {
			if _, err := conn.ExecContext(ctx, stmt); err != nil {
				v.close()
				return nil, fmt.Errorf("pod %d: %w", s.pod, err)
			}
		}
		// Without this, MariaDB's release lets go of nothing (measured on 10.11). Who
		// lacks the privilege keeps others from altering tables until the end.
		if _, err := conn.ExecContext(ctx, `SET SESSION sql_log_bin = 0`); err != nil && !denied(err) {
			v.close()
			return nil, fmt.Errorf("pod %d: %w", s.pod, err)
		}
	}
	return v, nil
}

// take has both sessions see what is committed now. It may be called again.
func (v *views) take(ctx context.Context) error {
	both := newCrew(ctx, len(v.of))
	for _, view := range v.of {
		both.run(func(ctx context.Context) error {
			if _, err := view.conn.ExecContext(ctx, `START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY`); err != nil {
				return fmt.Errorf("pod %d: %w", view.s.pod, err)
			}
			if view.flavor == flavor.MySQL {
				return view.ask(ctx)
			}
			return nil
		})
	}
	err := both.wait()
	v.at = time.Now()
	return err
}

func (v *views) close() {
	for _, view := range v.of {
		if view == nil {
			continue
		}
		view.conn.Raw(func(any) error { return driver.ErrBadConn }) // not back into the pool
		view.conn.Close()
	}
}

// release lets go of the tables that were read, which nobody could alter
// meanwhile. The session goes on seeing their rows.
func (v *view) release(ctx context.Context) error {
	_, err := v.conn.ExecContext(ctx, `ROLLBACK TO SAVEPOINT podworks`)
	return err
}

// locate marks where release goes back to, and finds the view's place in the
// server's log. MariaDB keeps it with the snapshot; MySQL was asked when it was taken.
func (v *view) locate(ctx context.Context) error {
	if _, err := v.conn.ExecContext(ctx, `SAVEPOINT podworks`); err != nil {
		return fmt.Errorf("pod %d: %w", v.s.pod, err)
	}
	if v.flavor == flavor.MySQL {
		return nil
	}
	if err := v.ask(ctx); err != nil || v.log.File == "" {
		return err
	}
	return v.tell(each(ctx, v.conn, func(rows *sql.Rows) error {
		var gtids sql.NullString
		err := rows.Scan(&gtids)
		v.log.GTIDs = gtids.String
		return err
	}, fmt.Sprintf(`SELECT BINLOG_GTID_POS('%s', %d)`, v.log.File, v.log.Pos)))
}

func (v *view) ask(ctx context.Context) error {
	if v.flavor == flavor.MySQL {
		err := v.status(ctx, `SHOW BINARY LOG STATUS`) // since 8.2; 8.4 dropped the old name
		var e *mysql.MySQLError
		if errors.As(err, &e) && e.Number == 1064 { // a syntax error
			err = v.status(ctx, `SHOW MASTER STATUS`)
		}
		return v.tell(err)
	}
	return v.tell(each(ctx, v.conn, func(rows *sql.Rows) error {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		switch strings.ToLower(name) {
		case "binlog_snapshot_file":
			v.log.File = value
		case "binlog_snapshot_position":
			v.log.Pos, _ = strconv.ParseUint(value, 10, 64)
		}
		return nil
	}, `SHOW SESSION STATUS LIKE 'binlog_snapshot_%'`))
}

func (v *view) status(ctx context.Context, query string) error {
	return each(ctx, v.conn, func(rows *sql.Rows) error {
		var doDB, ignoreDB string
		return rows.Scan(&v.log.File, &v.log.Pos, &doDB, &ignoreDB, &v.log.GTIDs)
	}, query)
}

// tell drops a server's refusal to tell where its log is: that isn't needed.
func (v *view) tell(err error) error {
	if denied(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pod %d: ask for the place in the log: %w", v.s.pod, err)
	}
	return nil
}

func (v *view) side() Side {
	return Side{Pod: v.s.pod, Log: v.log, Settings: v.settings}
}

// String returns the comparison as a report for a terminal or a log. It has no
// keys, which are values of the shop's: Differences has them.
func (c *Comparison) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Shop %d in pods %d and %d at %s: ", c.Shop, c.Source.Pod, c.Target.Pod, c.At.UTC().Format(time.RFC3339))
	if c.Equal() {
		b.WriteString("all rows are equal.\n\n")
	} else {
		fmt.Fprintf(&b, "%d rows differ.\n\n", c.Differing)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "table\tpod %d\tchecksum\tpod %d\tchecksum\n", c.Source.Pod, c.Target.Pod)
	for _, t := range c.Tables {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\n", t.Table, t.Source.Rows, t.Source.Sum, t.Target.Rows, t.Target.Sum)
	}
	w.Flush()
	lines := summary(c.Differences)
	if n := c.Differing - int64(len(c.Differences)); n > 0 {
		lines = append(lines, fmt.Sprintf("and %d more that are not listed", n))
	}
	for i, line := range lines {
		if i == 0 {
			b.WriteByte('\n')
		}
		b.WriteString("  - " + line + "\n")
	}
	return b.String()
}
