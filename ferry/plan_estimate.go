package ferry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podworks/podworks/internal/flavor"
)

// An Estimate says how long a move will take. It is a guess from measurements
// that write nothing.
type Estimate struct {
	// Duration is that of the whole move without the wait for a good moment.
	Duration time.Duration

	// Pause is how long the shop's writers wait, if nothing holds the fence.
	Pause time.Duration

	// ReadRate is the rows a second at which the source gave up to a chunk of each
	// table, and LogRate the bytes a second that all its shops wrote to the log.
	ReadRate, LogRate float64

	// Source, Target and Directory are the medians of five round trips.
	Source, Target, Directory time.Duration

	// How says what was measured and what is assumed.
	How string
}

// What an estimate assumes. The trips and commits are those of switchOver between
// asking for the lock and the target's opening.
const (
	leastDuration  = 250 * time.Millisecond // of the steps that don't depend on the rows
	sourceTrips    = 9
	targetTrips    = 8
	directoryTrips = 10
	commits        = 5
	commitTime     = 2 * time.Millisecond // a durable one on a server's SSD
	timedRows      = 2000                 // are read of a table to measure the rate,
	sampleBytes    = 8 << 20              // or that much
	logWatch       = 200 * time.Millisecond
)

// workPerRead is how many times as long as reading its rows once a move takes, for
// tables that are copied in waves and for others: measured with shops of 20 and 300
// thousand rows of 80 to 250 bytes, and of 10 to 300 thousand of two numbers and a name.
var workPerRead = map[flavor.Flavor]struct{ waves, others int }{flavor.MariaDB: {8, 20}, flavor.MySQL: {6, 36}}

// estimate measures and sets the plan's Estimate, and checks what depends on it.
func (f *Ferry) estimate(ctx context.Context, src, dst *server, p *prepared) error {
	e := &p.Estimate
	var err error
	for _, m := range []struct {
		out *time.Duration
		ask func() error
	}{
		{&e.Source, func() error { return src.db.PingContext(ctx) }},
		{&e.Target, func() error { return dst.db.PingContext(ctx) }},
		{&e.Directory, func() error { _, err := f.dir.Fresh(ctx, p.From.Shop); return err }},
	} {
		if *m.out, err = roundTrip(m.ask); err != nil {
			return fmt.Errorf("ferry: measure the round trips: %w", err)
		}
	}
	e.Pause = sourceTrips*e.Source + targetTrips*e.Target + directoryTrips*e.Directory + commits*commitTime

	var reading, moving time.Duration // all rows, at the rates of the samples
	for _, plan := range p.Tables {
		i := slices.IndexFunc(p.tables, func(t *table) bool { return t.name == plan.Name })
		perRow, err := f.readTime(ctx, src, p, p.tables[i], plan)
		if err != nil {
			return fmt.Errorf("ferry: measure how fast table %s is read: %w", plan.Name, err)
		}
		once := time.Duration(float64(plan.Rows) * float64(perRow))
		reading += once
		if p.tables[i].inWaves() {
			moving += time.Duration(workPerRead[p.flavor].waves) * once
		} else {
			moving += time.Duration(workPerRead[p.flavor].others) * once
		}
	}
	e.Duration = leastDuration + moving
	if reading > 0 {
		e.ReadRate = float64(p.Rows()) / reading.Seconds()
	}
	e.How = fmt.Sprintf("read up to %d rows of each table, three times, and assumed that a move takes %d times as long as reading, and %d times for tables that reach the shop through others; %d, %d and %d round trips to source, target and directory, and %d commits of %v each, assumed",
		min(f.opts.ChunkRows, timedRows), workPerRead[p.flavor].waves, workPerRead[p.flavor].others, sourceTrips, targetTrips, directoryTrips, commits, commitTime)

	if p.settings[src.pod]["log_bin"] == "ON" {
		if kept, how := retention(p.settings[src.pod]); kept > 0 {
			p.find(tooShort(src.pod, kept, how, e.Duration)...)
		}
	}
	p.find(Finding{Severity: Note, Pod: dst.pod,
		What: fmt.Sprintf("needs about %s of disk space for the rows, as much again for its log, and room for their indexes; a server doesn't tell what it has", bytesText(p.Bytes()))})
	if e.Pause > f.opts.PauseBudget {
		p.find(Finding{Severity: Warn,
			What: fmt.Sprintf("the predicted write pause, %v, is over the budget of %v, mostly for round trips", e.Pause.Round(100*time.Microsecond), f.opts.PauseBudget),
			Do:   "run the mover closer to the servers, or raise Options.PauseBudget"})
	}
	return f.longTransactions(ctx, src, p)
}

// roundTrip returns the median of five.
func roundTrip(ask func() error) (time.Duration, error) {
	var took []time.Duration
	for range 5 {
		start := time.Now()
		if err := ask(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// readTime reads up to a chunk of the shop's rows, three times, and returns the
// least time for a row.
func (f *Ferry) readTime(ctx context.Context, src *server, p *prepared, t *table, plan TablePlan) (time.Duration, error) {
	if plan.Rows == 0 {
		return 0, nil
	}
	limit := max(1, min(int64(f.opts.ChunkRows), timedRows, sampleBytes/max(1, plan.Bytes/plan.Rows)))
	var list []string
	for _, i := range t.writable() {
		list = append(list, quote(t.columns[i].name))
	}
	values := make([]sql.RawBytes, len(list))
	dest := make([]any, len(list))
	for i := range values {
		dest[i] = &values[i]
	}
	query := `SELECT ` + strings.Join(list, ", ") + ` FROM ` + quote(t.name) + t.hint + ` WHERE ` + t.ofShop() + ` LIMIT ` + strconv.FormatInt(limit, 10)
	var best time.Duration
	for range 3 { // of which the quickest was least in the way of others
		n := 0
		start := time.Now()
		err := each(ctx, src.db, func(rows *sql.Rows) error {
			n++
			return rows.Scan(dest...)
		}, query)
		if err != nil || n == 0 {
			return 0, err
		}
		if took := time.Since(start) / time.Duration(n); best == 0 || took < best {
			best = took
		}
	}
	return best, nil
}

// longTransactions warns of transactions on the source that are older than the
// pause budget: one that holds the shop's fence makes the cutover step back
// until it ends.
func (f *Ferry) longTransactions(ctx context.Context, src *server, p *prepared) error {
	// MySQL can't list its transactions in information_schema while a statement
	// of one has a character beyond the three-byte ones, so it is asked elsewhere;
	// MariaDB's performance_schema is mostly off.
	query := `SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) FROM information_schema.innodb_trx
		WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) ORDER BY 2 DESC`
	if p.flavor == flavor.MySQL {
		query = `SELECT t.processlist_id, x.timer_wait / 1e12 FROM performance_schema.events_transactions_current x JOIN performance_schema.threads t USING (thread_id)
			WHERE x.state = 'ACTIVE' AND t.processlist_id <> CONNECTION_ID() ORDER BY 2 DESC`
	}
	var sessions []string
	var longest time.Duration
	err := each(ctx, src.db, func(rows *sql.Rows) error {
		var id uint64
		var seconds float64
		if err := rows.Scan(&id, &seconds); err != nil {
			return err
		}
		age := time.Duration(seconds * float64(time.Second))
		if age <= f.opts.PauseBudget {
			return nil
		}
		longest = max(longest, age)
		sessions = append(sessions, strconv.FormatUint(id, 10))
		return nil
	}, query)
	if ctx.Err() != nil {
		return fmt.Errorf("ferry: %w", context.Cause(ctx))
	}
	if err != nil {
		p.find(Finding{Severity: Note, Pod: src.pod, What: fmt.Sprintf("can't be asked for long transactions: %v", err)})
		return nil
	}
	if n := len(sessions); n > 0 {
		p.find(Finding{Severity: Warn, Pod: src.pod,
			What: fmt.Sprintf("%d transactions are older than the pause budget of %v, the oldest %v (sessions %s); one that writes for the shop makes the cutover step back until it ends",
				n, f.opts.PauseBudget, longest.Round(time.Millisecond), strings.Join(sessions[:min(n, 5)], ", ")),
			Do: "see what they do, and move when they have ended"})
	}
	return nil
}

// A look is where the source's log ended, and when.
type look struct {
	at   time.Time
	file string
	pos  uint32
}

// lookAtLog asks where the log ends.
func lookAtLog(ctx context.Context, s *server, f flavor.Flavor) (look, error) {
	file, pos, err := flavor.BinlogPosition(ctx, s.db, f)
	return look{time.Now(), file, pos}, err
}

// watchLog measures how fast the source's log grows, over at least a fifth of a
// second, and checks what the server keeps of it by size.
func watchLog(ctx context.Context, src *server, p *prepared) error {
	if p.log.file == "" {
		return nil
	}
	wait := time.NewTimer(time.Until(p.log.at.Add(logWatch)))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return fmt.Errorf("ferry: %w", context.Cause(ctx))
	}
	now, err := lookAtLog(ctx, src, p.flavor)
	if err != nil {
		return fmt.Errorf("ferry: %w", err)
	}
	grown := int64(now.pos) - int64(p.log.pos)
	if now.file != p.log.file { // the files since then, whole but for the last
		if err := each(ctx, src.db, func(rows *sql.Rows) error {
			columns, err := rows.Columns() // two in MariaDB, three in MySQL
			if err != nil {
				return err
			}
			var file string
			var size int64
			dest := []any{&file, &size, new(sql.RawBytes)}
			if err := rows.Scan(dest[:len(columns)]...); err != nil {
				return err
			}
			if file >= p.log.file && file < now.file {
				grown += size
			}
			return nil
		}, `SHOW BINARY LOGS`); err != nil {
			return fmt.Errorf("ferry: list the source's logs: %w", err)
		}
	}
	e := &p.Estimate
	e.LogRate = float64(grown) / now.at.Sub(p.log.at).Seconds()
	if kept, how := retentionBySize(p.settings[src.pod], e.LogRate); kept > 0 {
		p.find(tooShort(src.pod, kept, how, e.Duration)...)
	}
	return nil
}
