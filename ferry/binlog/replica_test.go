package binlog_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

var seedFlag = flag.Uint64("seed", 0, "of the metamorphic test; 0 draws one")

// A cutter dials connections that break after a random number of bytes. The
// most they carry grows with every cut, as a transaction must come in one piece
// once, however large it is.
type cutter struct {
	mu   sync.Mutex
	rng  *rand.Rand
	most int
	cuts atomic.Int64
}

func (c *cutter) use(cfg *mysql.Config) {
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.most += 100
		return &frail{Conn: conn, c: c, left: 200 + c.rng.IntN(c.most)}, nil
	}
}

type frail struct {
	net.Conn
	c    *cutter
	left int
}

func (f *frail) Read(b []byte) (int, error) {
	if f.left <= 0 {
		f.c.cuts.Add(1)
		f.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := f.Conn.Read(b[:min(len(b), f.left)])
	f.left -= n
	return n, err
}

// A model is the table as the events tell it. It trusts nobody: a row that
// comes twice, or is changed without being there or from something else than it
// is, is an error.
type model struct {
	table    string
	rows     map[int64][]any
	pending  []*binlog.Rows
	saves    map[string]int
	prepared map[string][]*binlog.Rows
	restarts int
}

func (m *model) take(ev binlog.Event) error {
	switch ev := ev.(type) {
	case *binlog.Rows:
		if ev.Table.Name == m.table {
			m.pending = append(m.pending, ev)
		}
	case *binlog.Statement:
		if ev.Kind == binlog.Write {
			return fmt.Errorf("a statement wrote: %s", ev.Text)
		}
	case *binlog.Savepoint:
		m.saves[ev.Name] = len(m.pending)
	case *binlog.RollbackTo:
		m.pending = m.pending[:m.saves[ev.Name]]
	case *binlog.Restart:
		m.restarts++
		m.pending = nil
		clear(m.saves)
	case *binlog.Prepare:
		m.prepared[ev.XA] = m.pending
		m.pending = nil
		clear(m.saves)
	case *binlog.Rollback:
		delete(m.prepared, ev.XA)
		m.pending = nil
		clear(m.saves)
	case *binlog.Commit:
		rows := m.pending
		if ev.XA != "" {
			rows = m.prepared[ev.XA]
			delete(m.prepared, ev.XA)
		}
		m.pending = nil
		clear(m.saves)
		if ev.Position.Offset > 1<<20 { // the files have 4 KB
			return fmt.Errorf("a commit is at %s", ev.Position)
		}
		for _, r := range rows {
			for _, c := range r.Changes {
				if err := m.apply(c); err != nil {
					return fmt.Errorf("%s, at %s: %w", r.Kind, ev.Position, err)
				}
			}
		}
	}
	return nil
}

func (m *model) apply(c binlog.Change) error {
	var old []any
	if c.Before != nil {
		key := c.Before[0].(int64)
		if old = m.rows[key]; old == nil {
			return fmt.Errorf("row %d is changed and not there", key)
		}
		for i, v := range c.Before {
			if v != (any)(binlog.Absent{}) && values([]any{v}) != values(old[i:i+1]) {
				return fmt.Errorf("row %d was %s, and the log says %s", key, values(old), values(c.Before))
			}
		}
		delete(m.rows, key)
	}
	if c.After == nil {
		return nil
	}
	row := slices.Clone(c.After)
	for i, v := range row {
		if v == (any)(binlog.Absent{}) {
			row[i] = old[i]
		}
	}
	key := row[0].(int64)
	if m.rows[key] != nil {
		return fmt.Errorf("row %d comes twice", key)
	}
	m.rows[key] = row
	return nil
}

// write does random transactions in a session of its own, on rows whose ids
// have a remainder of their own.
func write(ctx context.Context, w *world, rng *rand.Rand, writer, writers, transactions int) error {
	c, err := w.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	exec := func(query string, args ...any) error {
		_, err := c.ExecContext(ctx, query, args...)
		return err
	}
	id := func() int { return rng.IntN(40)*writers + writer }
	statement := func() error {
		text, blob := strings.Repeat("é", rng.IntN(80)), make([]byte, rng.IntN(300))
		switch rng.IntN(9) {
		case 0, 1, 2:
			return exec(`REPLACE INTO r VALUES (?, ?, ?, ?, ?)`, id(), rng.Uint64(), text, blob, rng.IntN(1000))
		case 3:
			return exec(`UPDATE r SET v = ?, b = ? WHERE id = ?`, rng.Uint64(), blob, id())
		case 4:
			return exec(`UPDATE r SET s = NULL WHERE id MOD ? = ? AND id < ?`, writers, writer, id())
		case 5:
			return exec(`UPDATE IGNORE r SET id = ? WHERE id = ?`, id(), id())
		case 6:
			return exec(`DELETE FROM r WHERE id = ?`, id())
		case 7:
			return exec(`INSERT INTO r VALUES (?, 1, ?, ?, 2), (?, 3, NULL, NULL, 4) ON DUPLICATE KEY UPDATE n = n + 1`, id(), text, blob, id())
		default:
			if w.family == testcluster.MariaDB { // so that ROLLBACK TO is logged
				return exec(`INSERT INTO m VALUES (?)`, id())
			}
			return exec(`UPDATE r SET n = -n WHERE id = ?`, id())
		}
	}
	for n := range transactions {
		if err := exec(`SET SESSION binlog_row_image = ` + []string{"FULL", "NOBLOB", "MINIMAL"}[rng.IntN(3)]); err != nil {
			return err
		}
		if w.family == testcluster.MySQL {
			if err := exec(`SET SESSION binlog_transaction_compression = ` + []string{"ON", "OFF"}[rng.IntN(2)]); err != nil {
				return err
			}
		}
		begin, end := `BEGIN`, []string{`COMMIT`}
		if rng.IntN(4) == 0 {
			end[0] = `ROLLBACK`
		}
		if rng.IntN(6) == 0 {
			xid := fmt.Sprintf(`X'%x','w%d',%d`, w.name, writer, n+1)
			begin, end = `XA START `+xid, []string{`XA END ` + xid, `XA PREPARE ` + xid, []string{`XA COMMIT `, `XA ROLLBACK `}[rng.IntN(2)] + xid}
		}
		if err := exec(begin); err != nil {
			return err
		}
		xa := len(end) > 1
		for range 1 + rng.IntN(4) {
			if err := statement(); err != nil {
				return err
			}
			if !xa && rng.IntN(5) == 0 {
				if err := errors.Join(exec(`SAVEPOINT a`), statement(), exec(`ROLLBACK TO a`)); err != nil {
					return err
				}
			}
		}
		for _, q := range end {
			if err := exec(q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
	}
	return nil
}

// rebuild does random transactions while a stream whose connections break
// everywhere follows, and compares the table with what the stream told.
func rebuild(t *testing.T, f testcluster.Family, off ...hook.Protection) (restarts int, damage error) {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed=%d", seed)
	args := []string{"--max-binlog-size=4096", "--binlog-row-metadata=FULL", "--transaction-isolation=READ-COMMITTED"}
	if f == testcluster.MySQL {
		args = append(args, "--gtid-mode=ON", "--enforce-gtid-consistency=ON")
	} else {
		args = append(args, "--log-bin-compress=ON", "--log-bin-compress-min-len=10")
	}
	w := newWorld(t, testcluster.Start(t, &testcluster.MySQLOptions{Family: f, Args: args}))
	w.exec(`CREATE TABLE r (id INT PRIMARY KEY, v BIGINT UNSIGNED, s VARCHAR(200), b BLOB, n DECIMAL(10,2))`, `CREATE TABLE m (id INT) ENGINE=MyISAM`)
	at := w.now()
	cut := &cutter{rng: rand.New(rand.NewPCG(seed, 1)), most: 7000}
	cut.use(w.cfg)

	ctx := t.Context()
	if len(off) > 0 {
		set := &hook.Set{Off: map[hook.Protection]bool{}}
		for _, p := range off {
			set.Off[p] = true
		}
		ctx = hook.With(ctx, set)
	}
	const writers, transactions = 3, 60
	var wg sync.WaitGroup
	failed := make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			failed[i] = write(t.Context(), w, rand.New(rand.NewPCG(seed, uint64(i)+2)), i, writers, transactions)
		})
	}
	go func() {
		wg.Wait()
		_, _ = w.db.ExecContext(t.Context(), `CREATE TABLE last_of_all AS SELECT 1 AS one`)
	}()
	m := &model{table: "r", rows: map[int64][]any{}, saves: map[string]int{}, prepared: map[string][]*binlog.Rows{}}
	done := errors.New("done")
	err := w.stream(nil).Run(ctx, at, func(ev binlog.Event) error {
		if r, ok := ev.(*binlog.Rows); ok && r.Table.Name == "last_of_all" {
			return done
		}
		return m.take(ev)
	})
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections were cut, %d transactions with it", cut.cuts.Load(), m.restarts)
	if err != done {
		return m.restarts, err
	}
	r, err := w.db.QueryContext(t.Context(), `SELECT id, CONCAT(v), s, b, CONCAT(n) FROM r`)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	for r.Next() {
		var id int64
		var v, s, b, d *string
		if err := r.Scan(&id, &v, &s, &b, &d); err != nil {
			t.Fatal(err)
		}
		n++
		row := m.rows[id]
		text := func(v any) *string {
			var s string
			switch v := v.(type) {
			case nil:
				return nil
			case []byte:
				s = string(v)
			default:
				s = fmt.Sprint(v)
			}
			return &s
		}
		for i, want := range []*string{v, s, b, d} {
			if row == nil {
				return m.restarts, fmt.Errorf("row %d is missing", id)
			}
			if got := text(row[i+1]); (got == nil) != (want == nil) || got != nil && *got != *want {
				return m.restarts, fmt.Errorf("row %d is %s in the replica, column %d is something else in the table", id, values(row), i+1)
			}
		}
	}
	if n != len(m.rows) || n == 0 {
		return m.restarts, fmt.Errorf("%d rows in the table, %d in the replica", n, len(m.rows))
	}
	return m.restarts, r.Err()
}

func TestAReplicaRebuiltFromTheLogEqualsTheTable(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		for range 5 { // a cut must fall into a transaction
			restarts, damage := rebuild(t, f)
			if damage != nil {
				t.Fatal(damage)
			}
			if restarts > 0 {
				return
			}
		}
		t.Error("no transaction was cut: this tried nothing")
	})
}

// Its twin: without Restart the damage is seen.
func TestWithoutRestartTheReplicaIsDamaged(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		for range 5 { // a cut must fall into a transaction
			_, damage := rebuild(t, f, binlog.TakeBack)
			if damage != nil {
				t.Logf("seen: %v", damage)
				return
			}
		}
		t.Error("no damage was seen")
	})
}
