package ferry

import (
	"bytes"
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
	"unicode"

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
	mentions *regexp.Regexp // of the database, as a word

	at    position // after the last whole transaction
	file  string
	group group
	open  bool           // a transaction has begun and not ended
	xa    bool           // and it is an XA transaction
	saves map[string]int // its savepoints: the changes before each
}

func newDecoder(database string, shop podworks.ShopID, token uint64, tables []*table, from position) *decoder {
	d := &decoder{database: database, shop: shop, token: token, tables: tables,
		byName: map[string]int{}, saves: map[string]int{}, at: from, file: from.file}
	words := make([]string, len(tables))
	for i, t := range tables {
		d.byName[t.name] = i
		words[i] = strings.Trim(quote(t.name), "`")
	}
	d.names, d.mentions = anyWord(words...), anyWord(strings.Trim(quote(database), "`"))
	return d
}

// anyWord matches any of the words, in any case.
func anyWord(words ...string) *regexp.Regexp {
	for i, w := range words {
		words[i] = regexp.QuoteMeta(w)
	}
	return regexp.MustCompile(`(?i)(?:^|[^\w$])(?:` + strings.Join(words, "|") + `)(?:$|[^\w$])`)
}

// Errors that no second try mends.
var (
	errSchemaChanged = errors.New("a statement changed the schema, or wrote without row events, in the middle of the move")
	errRowImage      = errors.New("a row event can't be applied")
	errXA            = errors.New("an XA transaction wrote rows of the shop; XA transactions hold no write fence")
	errIncident      = errors.New("the source says that its log has lost events")
)

// mariadbPreparedXA is the flag of a group of events that XA PREPARE wrote.
const mariadbPreparedXA = 64

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
	case *replication.MariadbGTIDEvent: // which is also MariaDB's BEGIN and XA START
		d.open, d.xa = !e.IsStandalone(), e.Flags&mariadbPreparedXA != 0
	case *replication.ExecuteLoadQueryEvent: // its schema and its text are not decoded
		if bytes.Contains(ev.RawData, []byte(d.database)) {
			return nil, fmt.Errorf("%w: LOAD DATA", errSchemaChanged)
		}
	case *replication.GenericEvent:
		switch ev.Header.EventType {
		case replication.XA_PREPARE_LOG_EVENT: // and so ends what the log has of it for now
			return d.end(ev.Header.LogPos), nil
		case replication.INCIDENT_EVENT:
			return nil, errIncident
		}
	}
	return nil, nil
}

// again forgets the transaction in hand: it is sent once more, from its start.
func (d *decoder) again() {
	d.group, d.file, d.open, d.xa = group{}, d.at.file, false, false
	clear(d.saves)
}

// end ends the transaction in hand.
func (d *decoder) end(pos uint32) *group {
	d.at = position{d.file, pos}
	d.open, d.xa = false, false
	clear(d.saves)
	g := d.group
	d.group = group{}
	if len(g.changes) == 0 && g.marker == 0 {
		return nil
	}
	g.end = d.at
	return &g
}

// query takes a statement: what begins or ends a transaction, DDL, or a write
// of a session that logs statements.
func (d *decoder) query(pos uint32, schema, query string) (*group, error) {
	word, second := firstWords(query)
	switch word {
	case "BEGIN":
		d.open, d.xa = true, false
		return nil, nil
	case "SAVEPOINT":
		d.saves[savepoint(query)] = len(d.group.changes)
		return nil, nil
	case "RELEASE":
		return nil, nil
	case "ROLLBACK": // logged only if a table without transactions was written to as well
		if second == "TO" {
			d.group.changes = d.group.changes[:min(d.saves[savepoint(query)], len(d.group.changes))]
			return nil, nil
		}
		d.group = group{}
		return d.end(pos), nil
	case "COMMIT":
		return d.end(pos), nil
	case "XA":
		switch second {
		case "COMMIT", "ROLLBACK":
			return d.end(pos), nil
		case "START", "BEGIN":
			d.open, d.xa = true, true
		}
		return nil, nil
	}
	if d.harms(word, second, schema, query) {
		if len(query) > 200 {
			query = query[:200] + "…"
		}
		return nil, fmt.Errorf("%w: %s", errSchemaChanged, query)
	}
	if d.open { // a statement in the middle of a transaction doesn't end it
		return nil, nil
	}
	return d.end(pos), nil
}

// savepoint returns the name of the savepoint that a statement of the log is
// about; it is the last word and quoted.
func savepoint(query string) string {
	query = strings.TrimSpace(query)
	return strings.ToLower(query[strings.LastIndexByte(query, ' ')+1:])
}

// harms reports whether a statement may have changed rows or columns of the
// moved tables. A write needs not name a table to write to it: there are views,
// functions and triggers.
func (d *decoder) harms(word, second, schema, query string) bool {
	if !strings.EqualFold(schema, d.database) && !d.mentions.MatchString(query) {
		return false
	}
	switch word {
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "CALL", "SELECT", "WITH", "DO":
		return true
	case "GRANT", "REVOKE", "FLUSH":
		return false
	case "ANALYZE", "OPTIMIZE", "REPAIR":
		return second != "TABLE" && second != "LOCAL" // MariaDB runs the statement that it analyzes
	}
	return second == "DATABASE" || second == "SCHEMA" || d.names.MatchString(query)
}

// firstWords returns the first two words of a statement in upper case, without
// the comments before and between them.
func firstWords(query string) (first, second string) {
	next := func() (word string) {
		for {
			query = strings.TrimLeft(query, " \t\r\n\f\v(;")
			switch {
			case strings.HasPrefix(query, "/*!"), strings.HasPrefix(query, "/*M!"): // the server runs what is in it
				query = strings.TrimLeft(query, "/*M!0123456789")
			case strings.HasPrefix(query, "*/"):
				query = query[2:]
			case strings.HasPrefix(query, "/*"):
				_, query, _ = strings.Cut(query[2:], "*/")
			case strings.HasPrefix(query, "#"), strings.HasPrefix(query, "--"):
				_, query, _ = strings.Cut(query, "\n")
			default:
				end := strings.IndexFunc(query, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
				if end < 0 {
					end = len(query)
				}
				word, query = query[:end], query[end:]
				return strings.ToUpper(word)
			}
		}
	}
	first = next()
	return first, next()
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
		if r < len(e.SkippedColumns) && t.lacks(e.SkippedColumns[r]) {
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

// lacks reports whether a column that a row is made of is among those left out.
func (t *table) lacks(skipped []int) bool {
	return slices.ContainsFunc(skipped, func(i int) bool { return !t.columns[i].generated })
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
		case errors.Is(err, errSchemaChanged), errors.Is(err, errRowImage), errors.Is(err, errXA), errors.Is(err, errIncident):
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
	d.again()
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
	case nil, string:
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
	case float64: // as text, because the literal -0 is the integer 0
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case int:
		return int64(v), nil // year
	case uint64:
		return v, nil
	}
	n, err := integer(v, c)
	if err != nil {
		return nil, fmt.Errorf("column %s (%s): %w", c.name, c.fullType, err)
	}
	if c.unsigned && c.dataType == "bigint" || c.dataType == "bit" || c.dataType == "set" {
		return uint64(n), nil // 64 of them use the sign
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
