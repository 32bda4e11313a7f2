package binlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	gomysql "github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/flavor"
	"github.com/podworks/podworks/internal/hook"
)

// What tests switch off, to see that they would notice.
const (
	takeBack   hook.Protection = "binlog: Restart"
	compareSet hook.Protection = "binlog: GTIDs compared with the server's"
	watchNames hook.Protection = "binlog: column names doubted"
	waitLong   hook.Protection = "binlog: net_write_timeout"
)

// Errors that end Run, and that trying again doesn't mend.
var (
	// ErrPurged: the server has deleted the log that the position is in. What
	// was followed must be copied afresh. Keep logs for longer
	// (binlog_expire_logs_seconds) than a consumer may be away.
	ErrPurged = errors.New("the log of that position is gone")
	// ErrDiverged: transactions that were delivered are not on this server. It
	// took over without them, or it is another cluster's. Run waits for
	// Options.RetryFor first: a replica may only be late.
	ErrDiverged = errors.New("the server lacks transactions that were delivered")
	// ErrOtherServer: the position is a file and an offset of another server,
	// and there are no GTIDs to find the place in this one's log.
	ErrOtherServer = errors.New("the position is another server's")
	// ErrPosition: the position is not a place between two transactions.
	ErrPosition = errors.New("not a position to begin from")
	// ErrSchema: the names of a table's columns can't be told for certain,
	// because the log has none, and the table has changed since.
	ErrSchema = errors.New("the columns are not known")
	// ErrIncident: the server says that its log lacks events.
	ErrIncident = errors.New("the log has lost events")
	// ErrUnsupported: the log has something of a wanted table that can't be read.
	ErrUnsupported = errors.New("not supported")
)

// Options say what is wanted. The zero value is every table.
type Options struct {
	// Tables says which tables' rows are wanted, by the names in the log; nil
	// wants all. Rows of others are not even decoded. It is asked once for each
	// table, by several goroutines, and must always give the same answer.
	Tables func(database, table string) bool

	// RetryFor is for how long Run tries again when the server can't be
	// reached, or is late, since something was last received. Default 1 minute;
	// negative means for ever.
	RetryFor time.Duration

	Logger *slog.Logger // of connections that were cut; nil discards
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.RetryFor = cmp.Or(d.RetryFor, time.Minute)
	d.Logger = cmp.Or(d.Logger, slog.New(slog.DiscardHandler))
	return d
}

// A Stream follows the binary log of one server, or of the server that takes
// over from it. Its methods may be called concurrently; one Run at a time.
type Stream struct {
	cfg    *mysql.Config
	opts   Options
	filter filter

	mu      sync.Mutex
	running bool
	stats   Stats
	handled time.Time // when what is being handled was written, by our clock; zero if there is nothing
}

// New returns a stream of the server that cfg connects to. It does no I/O.
// cfg.DBName has no effect: a log is a server's. Net is tcp or unix, or whatever
// cfg.DialFunc makes of it.
//
// After a failover Run connects to cfg.Addr again, so that must be a name or an
// address that moves, or DialFunc must know where to go.
func New(cfg *mysql.Config, opts *Options) (*Stream, error) {
	if cfg == nil {
		return nil, errors.New("binlog: the configuration is nil")
	}
	s := &Stream{cfg: cfg.Clone(), opts: opts.withDefaults()}
	s.filter.want = s.opts.Tables
	var err error
	if s.cfg.TLS, err = tlsOf(cfg); err != nil {
		return nil, fmt.Errorf("binlog: %w", err)
	}
	if cfg.Net != "unix" {
		_, port, err := net.SplitHostPort(cfg.Addr)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return nil, fmt.Errorf("binlog: address %q: want host:port: %w", cfg.Addr, err)
		}
	}
	return s, nil
}

// Now returns the position where the log ends.
func (s *Stream) Now(ctx context.Context) (Position, error) {
	srv, err := ask(ctx, s.cfg)
	if err != nil {
		return Position{}, fmt.Errorf("binlog: %w", err)
	}
	defer srv.close()
	p, err := srv.now(ctx)
	if err != nil {
		return Position{}, fmt.Errorf("binlog: %w", err)
	}
	return p, nil
}

// Run follows the log from a position until ctx ends, or handle returns an
// error, which Run returns as it is. It never returns nil.
//
// It calls handle with each event, one at a time and in the log's order. While
// handle works, a few MB of log are read and decoded; after that the server
// waits, so a consumer that is slower than the log gets late, and nothing grows.
//
// A connection that is cut is made again, and nothing that was committed is
// delivered twice or left out. A transaction in the middle of which it was cut
// is taken back by a [Restart] and comes again. With GTIDs this holds across a
// failover to a replica, too.
//
// To go on later, keep the position of the last Commit, Prepare, Rollback or
// Heartbeat together with what was made of it, and pass it to Run. If Run returns
// in the middle of a transaction, that transaction is to be forgotten as after a
// Restart.
func (s *Stream) Run(ctx context.Context, from Position, handle func(Event) error) error {
	if err := from.validate(); err != nil {
		return fmt.Errorf("binlog: %w: %w", ErrPosition, err)
	}
	d := &decoder{wants: s.filter.wants, done: place{from.File, from.Offset}, server: from.Server, last: from}
	d.emit = func(ev Event) error {
		if err := handle(ev); err != nil {
			return &handled{err}
		}
		return nil
	}
	if from.GTIDs != "" {
		d.gtids, _ = parseGTIDs(from.GTIDs)
	}
	s.mu.Lock()
	running := s.running
	if !running {
		s.running, s.stats, s.handled = true, Stats{Position: from}, time.Time{}
	}
	s.mu.Unlock()
	if running {
		return errors.New("binlog: Run is running already: make a Stream for each")
	}
	defer func() {
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
	}()
	since := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		received, err := s.follow(ctx, d)
		s.mu.Lock()
		s.stats.Connected = false
		s.mu.Unlock()
		var h *handled
		switch {
		case errors.As(err, &h):
			return h.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case final(err):
			return fmt.Errorf("binlog: %w", err)
		}
		if received {
			pause, since = 50*time.Millisecond, time.Now()
		}
		if tried := time.Since(since); s.opts.RetryFor >= 0 && tried > s.opts.RetryFor {
			return fmt.Errorf("binlog: the log can't be read for %v: %w", tried.Round(time.Second), err)
		}
		s.opts.Logger.Warn("binlog: the log can't be read; connecting again", "err", err, "position", d.last.String())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// handled is an error of the handler's.
type handled struct{ err error }

func (h *handled) Error() string { return h.err.Error() }

// final reports whether trying again doesn't help. Whether a server lacks
// transactions or is late, only time tells.
func final(err error) bool {
	for _, e := range []error{ErrPurged, ErrOtherServer, ErrPosition, ErrSchema, ErrIncident, ErrUnsupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	var my *mysql.MySQLError
	var other *gomysql.MyError
	code := uint16(0)
	switch {
	case errors.As(err, &my):
		code = my.Number
	case errors.As(err, &other):
		code = other.Code
	}
	switch code {
	case 1044, 1045, 1142, 1227, 1698: // access denied
		return true
	}
	return false
}

// follow follows the log over one connection. received reports whether
// anything came.
func (s *Stream) follow(ctx context.Context, d *decoder) (received bool, err error) {
	srv, err := ask(ctx, s.cfg)
	if err != nil {
		return false, err
	}
	defer srv.close()
	set, err := resume(ctx, srv, d)
	if err != nil {
		return false, err
	}
	d.family = srv.family
	d.ask = func(database, table string) (*description, error) { return srv.describe(ctx, database, table) }
	d.charset = func(collation uint64) (string, error) { return srv.charset(ctx, collation) }
	d.trusting = hook.Off(ctx, watchNames)
	if hook.Off(ctx, takeBack) {
		d.begun = false
	}
	if err := d.again(srv.id); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.stats.Connections++
	s.stats.Position = d.last
	s.mu.Unlock()
	link, err := dump(ctx, s.cfg, srv, set, d.done, s.filter.decode)
	if err != nil {
		return false, err
	}
	defer link.close()
	for {
		ev, err := link.next(ctx)
		if err != nil {
			return received, explain(err, d)
		}
		received = true
		s.note(d, ev, srv.ahead, false)
		if err := d.event(ev, time.Now()); err != nil {
			return true, err
		}
		s.note(d, ev, srv.ahead, true)
	}
}

// resume checks that the server can go on from where the decoder is, and returns
// the GTIDs to ask it with, or nil to ask by file and offset.
func resume(ctx context.Context, srv *server, d *decoder) (*gtids, error) {
	switch {
	case d.gtids != nil && srv.named:
		if len(d.gtids.sources) > 0 && d.gtids.family != srv.family {
			return nil, fmt.Errorf("%w: its GTIDs are %.100s, which is not how %s writes them", ErrOtherServer, d.gtids, srv.family)
		}
		if hook.Off(ctx, compareSet) {
			return d.gtids, nil
		}
		return d.gtids, srv.has(ctx, d.gtids)
	case d.done.file == "":
		return nil, fmt.Errorf("%w: it has GTIDs only, and server %s has none: gtid_mode is not ON", ErrPosition, srv.id)
	case d.server != "" && d.server != srv.id:
		return nil, fmt.Errorf("%w: %s is of server %s, and this is server %s", ErrOtherServer, d.last, d.server, srv.id)
	case srv.family == flavor.MariaDB:
		// It can tell the GTIDs of any place in its log.
		text, err := srv.gtidsAt(ctx, d.last)
		if err != nil {
			return nil, err
		}
		if d.gtids, err = parseGTIDs(text); err != nil {
			return nil, err
		}
	}
	d.server = srv.id
	d.last = d.position()
	return nil, nil
}

// explain makes errors that the server ends a stream with ours.
func explain(err error, d *decoder) error {
	if strings.Contains(err.Error(), "no corresponding table map event") {
		return fmt.Errorf("%w: %s is in the middle of a transaction: the server sent rows without their table", ErrPosition, d.last)
	}
	var unread *replication.EventError
	if errors.As(err, &unread) {
		// Its text has the whole event in it, with every shop's rows; what comes behind
		// the first comma may have them, too.
		what, _, _ := strings.Cut(unread.Err, ",")
		return fmt.Errorf("%w: the %s after %s can't be decoded: %.100s; look at it with mysqlbinlog", ErrUnsupported, unread.Header.EventType, d.last, what)
	}
	var said *gomysql.MyError
	if !errors.As(err, &said) || said.Code != gomysql.ER_MASTER_FATAL_ERROR_READING_BINLOG {
		return err
	}
	for _, part := range []string{"purged", "Could not find first log", "too old"} {
		if strings.Contains(said.Message, part) {
			return fmt.Errorf("%w: %s: %s", ErrPurged, d.last, said.Message)
		}
	}
	return fmt.Errorf("%w: %s: %s", ErrPosition, d.last, said.Message)
}

// A filter remembers what Options.Tables said of the last tables.
type filter struct {
	want  func(database, table string) bool
	mu    sync.Mutex
	known map[string]map[string]bool
	asked int // for known
}

func (f *filter) wants(database, table []byte) bool {
	if f.want == nil {
		return true
	}
	f.mu.Lock()
	wanted, ok := f.known[string(database)][string(table)]
	f.mu.Unlock()
	if ok {
		return wanted
	}
	wanted = f.want(string(database), string(table))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked++; f.asked > 10_000 { // tables come and go under new names
		f.known, f.asked = nil, 1
	}
	if f.known == nil {
		f.known = map[string]map[string]bool{}
	}
	if f.known[string(database)] == nil {
		f.known[string(database)] = map[string]bool{}
	}
	f.known[string(database)][string(table)] = wanted
	return wanted
}

// decode decodes the rows of wanted tables, and marks.
func (f *filter) decode(e *replication.RowsEvent, data []byte) error {
	at, err := e.DecodeHeader(data)
	if err != nil {
		return err
	}
	if string(e.Table.Table) != originTable && !f.wants(e.Table.Schema, e.Table.Table) {
		return nil
	}
	for i, kind := range e.Table.ColumnType {
		if c, _ := classify(kind, e.Table.ColumnMeta[i]); c == unknown {
			return nil // which the decoder explains
		}
	}
	return e.DecodeData(at, data)
}

// Stats are what a stream has done since Run was called last.
type Stats struct {
	// Gauges.
	Connected bool
	Position  Position      // after the last whole transaction
	Behind    time.Duration // how old, by the server's clock, what is being handled is; 0 within a second after all of it was

	// Counters.
	Connections  int64
	Events       int64 // of the log, sent by the server
	Bytes        int64 // of the log, sent by the server
	Transactions int64 // wanted or not
	Rows         int64 // delivered
	Skipped      int64 // row events of tables that are not wanted
	Statements   int64 // delivered
}

// Stats returns what the stream has done. It does no I/O. [Stream.Lag] tells
// the distance to the log's end.
func (s *Stream) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	if !s.handled.IsZero() {
		st.Behind = max(0, time.Since(s.handled))
	}
	return st
}

// note takes into the stats that ev comes next (handled is false), or is done.
// ahead is how far the server's clock is ahead of ours.
func (s *Stream) note(d *decoder, ev *replication.BinlogEvent, ahead time.Duration, handled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev.Header.Timestamp > 0 && ev.Header.Flags&artificial == 0 {
		s.handled = time.Unix(int64(ev.Header.Timestamp), 0).Add(-ahead)
	}
	if !handled {
		return
	}
	if _, ok := ev.Event.(*replication.HeartbeatEvent); ok && ev.Header.LogPos == uint32(d.here.offset) {
		s.handled = time.Time{}
	}
	st := &s.stats
	st.Connected = true
	st.Events++
	st.Bytes += int64(ev.Header.EventSize)
	st.Position = d.last
	st.Transactions, st.Rows, st.Skipped, st.Statements = d.counts.transactions, d.counts.rows, d.counts.skipped, d.counts.statements
}

// Lag asks the server how many bytes of log there are after what was handled.
func (s *Stream) Lag(ctx context.Context) (bytes int64, err error) {
	srv, err := ask(ctx, s.cfg)
	if err != nil {
		return 0, fmt.Errorf("binlog: %w", err)
	}
	defer srv.close()
	at := s.Stats().Position
	if at.Server != srv.id {
		return 0, fmt.Errorf("binlog: the stream is in the log of server %q, and this is server %s", at.Server, srv.id)
	}
	bytes, err = srv.behind(ctx, place{at.File, at.Offset})
	if err != nil {
		return 0, fmt.Errorf("binlog: %w", err)
	}
	return bytes, nil
}
