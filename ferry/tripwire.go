package ferry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
)

// A Straggler is a change of a shop's row in a pod that the shop has left: whoever
// made it passed by the fence, and wrote where nobody reads.
type Straggler struct {
	Shop  podworks.ShopID
	Pod   podworks.PodID
	Table string
	Kind  binlog.Kind
	// Key finds the row as it was among the shop's, or as it came; it is written as
	// in Difference, and has values of the shop's.
	Key string

	Time    time.Time // of the commit; see binlog.Commit
	GTID    string    // of the transaction, "" if the server has none
	Session uint64    // the id of the connection, 0 where the log has none, as MariaDB's
	// Position is where the transaction begins, from which Tripwire reports it again.
	Position binlog.Position
}

// A tripwire follows the log of a pod for a shop that has left.
type tripwire struct {
	f      *Ferry
	s      *server
	shop   podworks.ShopID
	report func(Straggler)

	// since is the token of the row that the pod's fence had when the shop was known to
	// be away. The place that it left behind may be from long before that, so its own
	// opening may come first, under a lower one.
	since uint64

	m      *move // that is none: what asks a source
	tables map[string]*table
	same   func(*table, []byte) (bool, error)
	known  map[string]*binlog.Table // whose columns have been compared with the table's
	begun  *binlog.Begin
}

// Tripwire reports every change of the shop's rows in a pod that it has left, as soon
// as the pod's log has it, but for those of movers and of Clean. It returns nil when
// the shop is opened in the pod again; else it goes on until ctx ends, and waits for
// a server that is away.
//
// It begins at from, or, with the zero value, where the shop left the pod; if nothing
// is known of that any more, at the log's end. To go on later, pass the last
// Straggler's Position: that transaction is reported again, as one is in the middle
// of which the log's connection is cut. report is called from one goroutine, and the
// log waits for it. A position whose log has been deleted is an error that is
// binlog.ErrPurged; one from before a table was altered is binlog.ErrSchema, unless
// the server has binlog_row_metadata=FULL.
//
// Whose a row of a table with Rule.Through is, the pod is asked for each change of
// any shop's: they are reported while their parents are there. What the log doesn't
// have as rows isn't seen: writes as text (binlog_format=STATEMENT), TRUNCATE, and
// what foreign keys do without the log.
func (f *Ferry) Tripwire(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, from binlog.Position, report func(Straggler)) error {
	s, err := f.open(pod)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	defer s.db.Close()
	w := &tripwire{f: f, s: s, shop: shop, report: report, m: &move{f: f, src: s, log: f.opts.Logger}}
	var row fence.Row
	err = w.ask(ctx, func() error {
		row, err = fence.Read(ctx, s.db, shop, "")
		return err
	})
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	if row.State == fence.Open {
		return fmt.Errorf("%w: watch for stragglers of shop %d in pod %d: the shop has not left it (%v)", ErrRefused, shop, pod, row)
	}
	if err := w.follow(ctx, from, row.Token); err != nil && err != errBack {
		return fmt.Errorf("ferry: watch for stragglers of shop %d in pod %d: %w", shop, pod, err)
	}
	return nil
}

// errBack ends a tripwire: the shop may write again.
var errBack = errors.New("the shop is back")

// ask runs what asks the server until it is answered, or ctx ends.
func (w *tripwire) ask(ctx context.Context, fn func() error) error {
	for {
		err := w.m.ask(ctx, fn) // which gives up after a while
		switch {
		case err == nil, !cutOff(err):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

func (w *tripwire) follow(ctx context.Context, from binlog.Position, token uint64) error {
	if err := w.describe(ctx); err != nil {
		return err
	}
	stream, err := binlog.New(w.s.cfg, &binlog.Options{Tables: w.wants, RetryFor: -1, Logger: w.f.opts.Logger})
	if err != nil {
		return err
	}
	if from == (binlog.Position{}) {
		err := w.ask(ctx, func() error {
			l, err := readLeft(ctx, w.s.db, w.shop)
			switch {
			case err != nil:
			case l.here != "":
				w.since = token
				from, err = binlog.ParsePosition(l.here)
			default:
				hook.Step(ctx, "tripwire")
				if from, err = stream.Now(ctx); err != nil {
					break
				}
				// If the shop came back meanwhile, its opening may be in the log before that,
				// and what comes would be its own writes.
				var row fence.Row
				if row, err = fence.Read(ctx, w.s.db, w.shop, ""); err == nil && row.State == fence.Open {
					err = errBack
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return stream.Run(ctx, from, func(ev binlog.Event) error {
		switch ev := ev.(type) {
		case *binlog.Begin:
			w.begun = ev
		case *binlog.Rows:
			if ev.Table.Name == fenceTable {
				return w.fence(ev)
			}
			return w.rows(ctx, ev)
		}
		return nil
	})
}

const fenceTable = "podworks_fence"

// describe reads what the tables are like now.
func (w *tripwire) describe(ctx context.Context) error {
	var list []*table
	err := w.ask(ctx, func() (err error) {
		list, err = w.f.tablesOf(ctx, w.s, w.shop)
		return err
	})
	if err != nil {
		return err
	}
	w.tables, w.known = map[string]*table{}, map[string]*binlog.Table{}
	for _, t := range list {
		w.tables[t.name] = t
	}
	w.m.tables = list
	w.same = w.m.names(ctx)
	return nil
}

// wants reports whether a table's rows are decoded: also of one that comes later.
func (w *tripwire) wants(database, name string) bool {
	return database == w.s.cfg.DBName && (name == fenceTable || !strings.HasPrefix(name, "podworks_") && !slices.Contains(w.f.opts.Ignore, name))
}

// fence sees the shop come back: what is in the log behind that are its own writes.
func (w *tripwire) fence(ev *binlog.Rows) error {
	const open = uint64(3) // in the column's ENUM
	for _, c := range ev.Changes {
		if len(c.After) != 5 || c.After[0] != any(int64(w.shop)) || c.After[2] != any(open) {
			continue
		}
		if token, ok := c.After[4].(uint64); !ok || token >= w.since {
			return errBack
		}
	}
	return nil
}

func (w *tripwire) rows(ctx context.Context, ev *binlog.Rows) error {
	if ev.Origin.Shop == w.shop && ev.Origin.Token != 0 && !hook.Off(ctx, hook.Origin) {
		return nil
	}
	name := ev.Table.Name
	if w.known[name] != ev.Table {
		if t := w.tables[name]; t == nil || t.matches(ev.Table) != nil {
			if err := w.describe(ctx); err != nil {
				return err
			}
		}
		w.known[name] = ev.Table
	}
	t := w.tables[name]
	if t == nil {
		return nil
	}
	if err := t.matches(ev.Table); err != nil {
		return fmt.Errorf("%w; begin after %v, or at the log's end", err, w.begun.Position)
	}
	for _, c := range ev.Changes {
		for _, image := range [][]any{c.Before, c.After} {
			if image == nil {
				continue
			}
			var ours bool
			err := w.ask(ctx, func() (err error) {
				ours, err = w.owns(ctx, t, image)
				return err
			})
			if err != nil {
				return fmt.Errorf("table %s: %w", name, err)
			}
			if !ours {
				continue
			}
			key, err := t.keyOf(image)
			if err != nil {
				return fmt.Errorf("%w: table %s: %w", errRowImage, name, err)
			}
			w.report(Straggler{Shop: w.shop, Pod: w.s.pod, Table: name, Kind: ev.Kind, Key: t.readable(key),
				Time: w.begun.Time, GTID: w.begun.GTID, Session: w.begun.Session, Position: w.begun.Position})
			break
		}
	}
	return nil
}

// owns reports whether a row of the log is the shop's.
func (w *tripwire) owns(ctx context.Context, t *table, image []any) (ours bool, err error) {
	if t.lacks(image) {
		return false, fmt.Errorf("%w: a session writes with a binlog_row_image other than FULL", errRowImage)
	}
	if !t.joined() {
		return t.owns(image, w.same)
	}
	ref, err := t.refOf(image)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errRowImage, err)
	}
	parent := t.parent()
	query := `SELECT EXISTS (SELECT 1 FROM ` + quote(parent.name) + ` WHERE ` + quote(parent.identity().name) + ` = ` + ref + ` AND ` + parent.ofShop() + `)`
	err = w.s.db.QueryRowContext(ctx, query).Scan(&ours)
	return ours, err
}
