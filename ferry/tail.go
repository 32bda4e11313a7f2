package ferry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	gomysql "github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/flavor"
)

// A position is a place between two transactions in the source's binary log.
type position struct {
	file string
	pos  uint32
}

// A change is what a transaction left of one row: its values, one a writable
// column, or nil if the row is gone or is no longer the shop's.
type change struct {
	table int // index in the move's tables
	key   int64
	row   []any
}

// A group is one transaction of the source, as far as the shop is concerned.
type group struct {
	changes []change // in order
	marker  uint64   // the number a marker was set to, or 0
	end     position // after it
}

// A decoder turns the log's events into groups. It is pure: it sees events in
// their order and returns a group when one is whole.
type decoder struct {
	database string
	shop     podworks.ShopID
	token    uint64
	tables   []*table
	byName   map[string]int
	names    *regexp.Regexp // of the tables, as words

	at    position // after the last whole transaction
	file  string
	group group
	xa    bool
}

func newDecoder(database string, shop podworks.ShopID, token uint64, tables []*table, from position) *decoder {
	d := &decoder{database: database, shop: shop, token: token, tables: tables, byName: map[string]int{}, at: from, file: from.file}
	words := make([]string, len(tables))
	for i, t := range tables {
		d.byName[t.name] = i
		words[i] = regexp.QuoteMeta(t.name)
	}
	d.names = regexp.MustCompile(`(?i)(?:^|[^\w$])(?:` + strings.Join(words, "|") + `)(?:$|[^\w$])`)
	return d
}

// Errors that no second try mends.
var (
	errSchemaChanged = errors.New("a statement changed the schema, or wrote without row events, in the middle of the move")
	errRowImage      = errors.New("a row event can't be applied")
	errXA            = errors.New("an XA transaction wrote rows of the shop; XA transactions hold no write fence")
)

// event takes one event. It returns a group when the event ends a transaction
// that concerns the shop.
func (d *decoder) event(ev *replication.BinlogEvent) (*group, error) {
	switch e := ev.Event.(type) {
	case *replication.RotateEvent:
		d.file = string(e.NextLogName)
		if len(d.group.changes) == 0 {
			d.at = position{d.file, uint32(e.Position)}
		}
	case *replication.TransactionPayloadEvent: // a compressed transaction
		for _, inner := range e.Events {
			inner.Header.LogPos = ev.Header.LogPos
			if g, err := d.event(inner); g != nil || err != nil {
				return g, err
			}
		}
	case *replication.RowsEvent:
		return nil, d.rows(ev.Header.EventType, e)
	case *replication.XIDEvent:
		return d.end(ev.Header.LogPos), nil
	case *replication.QueryEvent:
		return d.query(ev.Header.LogPos, string(e.Schema), string(e.Query))
	}
	return nil, nil
}

// end ends the transaction in hand.
func (d *decoder) end(pos uint32) *group {
	d.at = position{d.file, pos}
	d.xa = false
	g := d.group
	d.group = group{}
	if len(g.changes) == 0 && g.marker == 0 {
		return nil
	}
	g.end = d.at
	return &g
}

func (d *decoder) query(pos uint32, schema, query string) (*group, error) {
	switch word, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(query)), " "); word {
	case "BEGIN", "SAVEPOINT", "RELEASE":
		return nil, nil
	case "COMMIT", "ROLLBACK": // ROLLBACK TO has a savepoint's events before it
		if strings.Contains(strings.ToUpper(query), " TO ") {
			return nil, nil
		}
		return d.end(pos), nil
	case "XA":
		d.xa = true
		return nil, nil
	}
	if d.names.MatchString(query) && (schema == d.database || strings.Contains(query, d.database)) {
		if len(query) > 200 {
			query = query[:200] + "…"
		}
		return nil, fmt.Errorf("%w: %s", errSchemaChanged, query)
	}
	return d.end(pos), nil
}

func (d *decoder) rows(kind replication.EventType, e *replication.RowsEvent) error {
	if string(e.Table.Schema) != d.database {
		return nil
	}
	name := string(e.Table.Table)
	update := false
	remove := false
	switch kind {
	case replication.UPDATE_ROWS_EVENTv0, replication.UPDATE_ROWS_EVENTv1, replication.UPDATE_ROWS_EVENTv2,
		replication.MARIADB_UPDATE_ROWS_COMPRESSED_EVENT_V1, replication.PARTIAL_UPDATE_ROWS_EVENT:
		update = true
	case replication.DELETE_ROWS_EVENTv0, replication.DELETE_ROWS_EVENTv1, replication.DELETE_ROWS_EVENTv2,
		replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1:
		remove = true
	}
	if name == "podworks_marker" {
		for i, row := range e.Rows {
			if update && i%2 == 0 || remove || len(row) != 2 {
				continue
			}
			token, err1 := integer(row[0], column{unsigned: true, dataType: "bigint"})
			n, err2 := integer(row[1], column{unsigned: true, dataType: "bigint"})
			if err := errors.Join(err1, err2); err != nil {
				return fmt.Errorf("%w: podworks_marker: %w", errRowImage, err)
			}
			if uint64(token) == d.token {
				d.group.marker = uint64(n)
			}
		}
		return nil
	}
	i, ok := d.byName[name]
	if !ok {
		return nil
	}
	t := d.tables[i]
	for r, row := range e.Rows {
		if len(row) != len(t.columns) {
			return fmt.Errorf("%w: table %s has %d columns, a row in the log %d", errSchemaChanged, name, len(t.columns), len(row))
		}
		if r < len(e.SkippedColumns) && len(e.SkippedColumns[r]) > 0 {
			return fmt.Errorf("%w: table %s: a session writes with a binlog_row_image other than FULL", errRowImage, name)
		}
		ours := false
		if row[t.shop] != nil {
			shop, err := integer(row[t.shop], t.columns[t.shop])
			if err != nil {
				return fmt.Errorf("%w: table %s, column %s: %w", errRowImage, name, t.columns[t.shop].name, err)
			}
			ours = shop == int64(d.shop)
		}
		if !ours {
			continue
		}
		if d.xa {
			return fmt.Errorf("%w (table %s)", errXA, name)
		}
		key, err := integer(row[t.key], t.columns[t.key])
		if err != nil {
			return fmt.Errorf("%w: table %s, column %s: %w", errRowImage, name, t.columns[t.key].name, err)
		}
		// An update is the old row's going and the new one's coming: that covers a
		// key that changes, and a row that enters or leaves the shop.
		c := change{table: i, key: key}
		if !remove && !(update && r%2 == 0) {
			if c.row, err = t.values(row); err != nil {
				return fmt.Errorf("%w: %w", errRowImage, err)
			}
		}
		d.group.changes = append(d.group.changes, c)
	}
	return nil
}

// integer returns an integer value of the log. The log doesn't say whether it
// is unsigned; the column does.
func integer(v any, c column) (int64, error) {
	var n int64
	var bits uint
	switch v := v.(type) {
	case int8:
		n, bits = int64(v), 8
	case int16:
		n, bits = int64(v), 16
	case int32:
		n, bits = int64(v), 32
		if c.dataType == "mediumint" {
			bits = 24
		}
	case int64:
		return v, nil
	case uint8:
		return int64(v), nil
	case uint16:
		return int64(v), nil
	case uint32:
		return int64(v), nil
	case uint64:
		return int64(v), nil
	default:
		return 0, fmt.Errorf("a value is %T, want an integer", v)
	}
	if c.unsigned {
		n &= 1<<bits - 1
	}
	return n, nil
}

// tail follows the log from position from and sends what concerns the shop,
// until ctx ends. A connection that is cut is made again from the last whole
// transaction; it gives up when the source hasn't answered for patience.
func (m *move) tail(ctx context.Context, from position, out chan<- group) error {
	const patience = 30 * time.Second
	d := newDecoder(m.src.cfg.DBName, m.shop, m.token, m.tables, from)
	for pause, since := 50*time.Millisecond, time.Now(); ; pause = min(2*pause, time.Second) {
		before := d.at
		err := m.stream(ctx, d, out)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errSchemaChanged), errors.Is(err, errRowImage), errors.Is(err, errXA):
			return err
		}
		var said *gomysql.MyError
		if errors.As(err, &said) && said.Code == gomysql.ER_MASTER_FATAL_ERROR_READING_BINLOG {
			return fmt.Errorf("the source can't send its log from %s:%d: %w", d.at.file, d.at.pos, err)
		}
		if d.at != before {
			pause, since = 50*time.Millisecond, time.Now()
		}
		if time.Since(since) > patience {
			return fmt.Errorf("the source's log can't be read for %v: %w", patience, err)
		}
		m.log.Warn("the connection to the source's log was cut; connecting again", "err", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// stream follows the log over one connection.
func (m *move) stream(ctx context.Context, d *decoder, out chan<- group) error {
	// What was begun is sent again from its start.
	d.group, d.file, d.xa = group{}, d.at.file, false
	cfg, err := syncerConfig(m.src.cfg, m.flavor)
	if err != nil {
		return err
	}
	syncer := replication.NewBinlogSyncer(cfg)
	defer syncer.Close()
	streamer, err := syncer.StartSync(gomysql.Position{Name: d.at.file, Pos: d.at.pos})
	if err != nil {
		return err
	}
	for {
		ev, err := streamer.GetEvent(ctx)
		if err != nil {
			return err
		}
		g, err := d.event(ev)
		if err != nil {
			return err
		}
		if g == nil {
			continue
		}
		select {
		case out <- *g:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// syncerConfig says how to reach the log. Reconnecting is ours: go-mysql's own
// would go on in the middle of a transaction, without the map of its tables.
func syncerConfig(cfg *mysql.Config, f flavor.Flavor) (replication.BinlogSyncerConfig, error) {
	c := replication.BinlogSyncerConfig{
		ServerID:                1<<31 + rand.Uint32N(1<<31), // must differ from every replica's
		Flavor:                  string(f),
		User:                    cfg.User,
		Password:                cfg.Passwd,
		TLSConfig:               cfg.TLS,
		TimestampStringLocation: time.UTC,
		RenderJSONAsMySQLText:   true,
		DisableRetrySync:        true,
		HeartbeatPeriod:         time.Second,
		ReadTimeout:             10 * time.Second,
		EventCacheCount:         256,
		Logger:                  slog.New(slog.DiscardHandler),
	}
	if cfg.DialFunc != nil {
		c.Dialer = cfg.DialFunc
	}
	if cfg.Net == "unix" {
		c.Host = cfg.Addr
		return c, nil
	}
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return c, fmt.Errorf("address %q of the source: %w", cfg.Addr, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return c, fmt.Errorf("address %q of the source: %w", cfg.Addr, err)
	}
	c.Host, c.Port = host, uint16(n)
	return c, nil
}

// values makes an image of the log a row that can be written.
func (t *table) values(image []any) ([]any, error) {
	row := make([]any, 0, len(image))
	for _, i := range t.writable() {
		v, err := t.columns[i].value(image[i])
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", t.name, err)
		}
		row = append(row, v)
	}
	return row, nil
}

// textTypes hold text, which the log has in the column's character set.
var textTypes = []string{"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}

// value makes a value of the log one that can be sent in a statement.
func (c column) value(v any) (any, error) {
	switch v := v.(type) {
	case nil, string, float64:
		if s, ok := v.(string); ok && slices.Contains(textTypes, c.dataType) {
			return c.text(s), nil
		}
		if s, ok := v.(string); ok && (c.dataType == "binary" || c.dataType == "varbinary") {
			return []byte(s), nil
		}
		return v, nil
	case []byte:
		if slices.Contains(textTypes, c.dataType) {
			return c.text(string(v)), nil
		}
		if c.dataType == "json" {
			return string(v), nil
		}
		return v, nil
	case float32:
		// The shortest text that names this float and no other; as a float64 it
		// would be another number.
		return strconv.FormatFloat(float64(v), 'g', -1, 32), nil
	case int:
		return int64(v), nil // year
	case uint64:
		return v, nil
	}
	n, err := integer(v, c)
	if err != nil {
		return nil, fmt.Errorf("column %s (%s): %w", c.name, c.fullType, err)
	}
	if c.unsigned && c.dataType == "bigint" {
		return uint64(n), nil
	}
	return n, nil
}

// encoded is text in a character set other than the connection's.
type encoded struct {
	charset string
	bytes   []byte
}

func (c column) text(s string) any {
	if c.charset == "utf8mb4" || c.charset == "utf8mb3" || c.charset == "utf8" || c.charset == "ascii" {
		return s
	}
	return encoded{c.charset, []byte(s)}
}
