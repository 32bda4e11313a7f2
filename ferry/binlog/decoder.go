package binlog

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/podworks/podworks/internal/flavor"
)

// A decoder turns the log's events into ours. But for what it asks of the
// server about tables, it is pure: it sees events in their order, and tells
// emit.
type decoder struct {
	family  flavor.Flavor
	wants   func(database, table []byte) bool
	ask     func(database, table string) (*description, error) // nil, nil: no such table
	charset func(collation uint64) (string, error)
	emit    func(Event) error

	// After the last whole transaction.
	done   place
	server string
	gtids  *gtids   // nil: unknown
	last   Position // all of this, as text

	// What is being read now.
	here       place
	hereServer string
	eventAt    place // where the event that is being read begins
	first      place // where the transaction's first event does
	open       bool  // a transaction's first event has come
	begun      bool  // and its Begin was delivered
	block      bool  // statements don't end it
	xa         string
	session    uint32
	decided    bool // it commits or rolls back a prepared one
	gtid       string
	apply      func(*gtids) // adds the transaction to the set
	time       time.Time
	origin     Origin

	trusting  bool // a test's: names are not doubted
	layouts   map[string]map[string]*layout
	delivered time.Time // when the last event was
	counts    counts
}

// counts are what Stats tells.
type counts struct{ transactions, rows, skipped, statements int64 }

// again forgets the transaction in hand: the connection is new, and it comes
// again from its start. server is the one that is connected to.
func (d *decoder) again(server string) error {
	if d.hereServer != server {
		d.layouts = nil // they say where in the other server's log they were read
	}
	d.here, d.hereServer = place{}, server
	if server == d.server {
		d.here = d.done
	}
	return d.restart()
}

// restart takes back what was delivered of the transaction in hand.
func (d *decoder) restart() error {
	begun := d.begun
	d.open, d.begun, d.block, d.xa, d.session, d.decided, d.gtid, d.apply, d.origin, d.first = false, false, false, "", 0, false, "", nil, Origin{}, place{}
	if begun {
		return d.emit(&Restart{})
	}
	return nil
}

// position returns the place after the last whole transaction, for last.
func (d *decoder) position() Position {
	return Position{File: d.done.file, Offset: d.done.offset, Server: d.server, GTIDs: d.gtids.String()}
}

// artificial is the flag of events that are not in the log: the server makes
// them for this connection.
const artificial = 0x20

// event takes one event, at the time now.
func (d *decoder) event(ev *replication.BinlogEvent, now time.Time) error {
	h := ev.Header
	if h.LogPos > 0 && h.Flags&artificial == 0 && h.EventType != replication.HEARTBEAT_EVENT && h.EventType != replication.HEARTBEAT_LOG_EVENT_V2 {
		// The log has 32 bits of the offset; a file that one transaction made
		// longer than that goes on from 0.
		d.here.offset += uint64(h.LogPos - uint32(d.here.offset))
		d.eventAt = place{d.here.file, d.here.offset - uint64(h.EventSize)}
	}
	return d.take(ev, now)
}

func (d *decoder) take(ev *replication.BinlogEvent, now time.Time) error {
	seconds := time.Unix(int64(ev.Header.Timestamp), 0).UTC()
	switch e := ev.Event.(type) {
	case *replication.RotateEvent:
		return d.rotate(place{string(e.NextLogName), e.Position}, ev.Header.Flags&artificial != 0)
	case *replication.HeartbeatEvent:
		if !d.open {
			return d.heartbeat(now, ev.Header.LogPos == uint32(d.here.offset))
		}
	case *replication.GTIDEvent:
		anonymous := ev.Header.EventType == replication.ANONYMOUS_GTID_EVENT
		return d.startMySQL(e, anonymous, orTime(e.OriginalCommitTime(), seconds))
	case *replication.GtidTaggedLogEvent:
		return d.startMySQL(&e.GTIDEvent, false, orTime(e.OriginalCommitTime(), seconds))
	case *replication.MariadbGTIDEvent:
		return d.startMariaDB(e, ev.RawData, seconds)
	case *replication.TransactionPayloadEvent: // a compressed transaction
		for _, inner := range e.Events {
			if err := d.take(inner, now); err != nil {
				return err
			}
		}
	case *replication.RowsEvent:
		return d.rows(ev.Header.EventType, e)
	case *replication.QueryEvent:
		if !d.begun {
			d.session = e.SlaveProxyID
		}
		return d.query(string(e.Query), string(e.Schema), seconds, now)
	case *replication.XIDEvent:
		if d.family == flavor.MariaDB {
			d.time = seconds
		}
		return d.end(&Commit{}, now)
	case *replication.ExecuteLoadQueryEvent:
		text, schema := loadData(ev.RawData)
		return d.statement(newStatement(text, schema))
	case *replication.GenericEvent:
		switch ev.Header.EventType {
		case replication.XA_PREPARE_LOG_EVENT:
			one, xid := preparedXA(e.Data)
			if one { // ONE PHASE: prepared and committed at once
				d.xa = ""
				return d.end(&Commit{}, now)
			}
			d.xa = xid
			return d.end(&Prepare{}, now)
		case replication.INCIDENT_EVENT:
			return fmt.Errorf("%w, at %s:%d: copy what was followed afresh, and begin after it", ErrIncident, d.here.file, d.here.offset)
		}
	}
	return nil
}

// orTime returns t, or otherwise if the server didn't say.
func orTime(t, otherwise time.Time) time.Time {
	if t.IsZero() || t.Unix() == 0 {
		return otherwise
	}
	return t.UTC()
}

// rotate goes to another file.
func (d *decoder) rotate(to place, made bool) error {
	if made { // it says where the dump begins; what is done stays done
		d.here = to
		return nil
	}
	// A transaction never goes on in the next file. If this one did not end, the
	// server died while it wrote it, and has rolled it back.
	if err := d.restart(); err != nil {
		return err
	}
	d.here, d.done, d.server = to, to, d.hereServer
	d.last = d.position()
	return nil
}

// heartbeat tells the position when nothing else has told it for a second.
func (d *decoder) heartbeat(now time.Time, caughtUp bool) error {
	if now.Sub(d.delivered) < heartbeat {
		return nil
	}
	d.delivered = now
	return d.emit(&Heartbeat{Position: d.last, CaughtUp: caughtUp})
}

// heartbeat is how often a Heartbeat is delivered, and wanted from the server.
const heartbeat = time.Second

func (d *decoder) startMySQL(e *replication.GTIDEvent, anonymous bool, at time.Time) error {
	if err := d.start(at); err != nil || anonymous {
		return err
	}
	h, number, tag := hex.EncodeToString(e.SID), uint64(e.GNO), e.Tag.String()
	uuid := h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	if d.gtid = fmt.Sprintf("%s:%d", uuid, number); tag != "" {
		d.gtid = fmt.Sprintf("%s:%s:%d", uuid, tag, number)
	}
	d.apply = func(g *gtids) { g.addMySQL(uuid, tag, number) }
	return nil
}

// Flags of MariaDB's GTID event that go-mysql has no names for.
const (
	groupCommit = 2 // the id of a group of commits follows
	preparedXID = 64
	completedXA = 128
)

func (d *decoder) startMariaDB(e *replication.MariadbGTIDEvent, raw []byte, at time.Time) error {
	if err := d.start(at); err != nil {
		return err
	}
	id := e.GTID
	d.gtid = fmt.Sprintf("%d-%d-%d", id.DomainID, id.ServerID, id.SequenceNumber)
	d.apply = func(g *gtids) { g.addMariaDB(id.DomainID, id.ServerID, id.SequenceNumber) }
	d.block = !e.IsStandalone()
	if e.Flags&(preparedXID|completedXA) != 0 {
		d.xa = xidOfGTID(raw, e.Flags)
	}
	return nil
}

// start is the first event of a transaction.
func (d *decoder) start(at time.Time) error {
	if err := d.restart(); err != nil { // the one before has not ended
		return err
	}
	d.open, d.time, d.first = true, at, d.eventAt
	return nil
}

// begin delivers the transaction's Begin, once.
func (d *decoder) begin() error {
	if !d.open {
		return fmt.Errorf("%w: at %s:%d the log is in the middle of a transaction; a position must come from an event of this package, or from the server", ErrPosition, d.here.file, d.here.offset)
	}
	if d.begun {
		return nil
	}
	d.begun = true
	at := d.last
	if d.first.file != "" { // between the two there may be a file's header
		at.File, at.Offset, at.Server = d.first.file, d.first.offset, d.hereServer
	}
	return d.emit(&Begin{Position: at, GTID: d.gtid, Time: d.time, XA: d.xa, Session: uint64(d.session)})
}

// end ends the transaction in hand with ev, which is one of Commit, Prepare and
// Rollback.
func (d *decoder) end(ev Event, now time.Time) error {
	if !d.open {
		return d.begin() // which says why not
	}
	if _, prepares := ev.(*Prepare); prepares || d.decided {
		if err := d.begin(); err != nil {
			return err
		}
	}
	d.done, d.server = d.here, d.hereServer
	switch {
	case d.apply == nil: // it has no GTID, so GTIDs don't name a place any more
		d.gtids = nil
	case d.gtids != nil:
		d.apply(d.gtids)
	}
	d.last = d.position()
	begun, gtid, at, from, xa := d.begun, d.gtid, d.time, d.origin, d.xa
	d.begun = false // not to be taken back
	if err := d.restart(); err != nil {
		return err
	}
	d.counts.transactions++
	if !begun {
		return d.heartbeat(now, false)
	}
	d.delivered = now
	switch ev := ev.(type) {
	case *Commit:
		*ev = Commit{Position: d.last, GTID: gtid, Time: at, Origin: from, XA: xa}
	case *Prepare:
		*ev = Prepare{Position: d.last, GTID: gtid, Time: at, Origin: from, XA: xa}
	case *Rollback:
		*ev = Rollback{Position: d.last, GTID: gtid, Time: at, XA: xa}
	}
	return d.emit(ev)
}

// query takes a statement: what begins or ends a transaction, a change of the
// schema, or a write of a session that logs statements.
func (d *decoder) query(text, schema string, at, now time.Time) error {
	word, second := firstWords(text)
	switch word {
	case "": // a comment, which servers put in the place of events that a reader doesn't know
		return nil
	case "BEGIN":
		d.open, d.block = true, true
		return nil
	case "COMMIT":
		return d.end(&Commit{}, now)
	case "SAVEPOINT":
		return d.whenBegun(&Savepoint{lastWord(text)})
	case "RELEASE":
		return nil
	case "ROLLBACK":
		if second == "TO" {
			return d.whenBegun(&RollbackTo{lastWord(text)})
		}
		return d.end(&Rollback{}, now)
	case "XA":
		switch second {
		case "START", "BEGIN":
			d.open, d.block, d.xa = true, true, lastWord(text)
		case "COMMIT":
			d.xa, d.decided = lastWord(text), true
			return d.end(&Commit{}, now)
		case "ROLLBACK":
			d.xa, d.decided = lastWord(text), true
			return d.end(&Rollback{}, now)
		}
		return nil
	}
	alone := !d.block
	if err := d.statement(newStatement(text, schema)); err != nil {
		return err
	}
	if alone {
		return d.end(&Commit{}, now)
	}
	return nil
}

// whenBegun delivers an event about a transaction of which something is
// wanted. Before that there is nothing that it could be about.
func (d *decoder) whenBegun(ev Event) error {
	if !d.begun {
		return nil
	}
	return d.emit(ev)
}

// lastWord returns what follows the last space outside of quotes.
func lastWord(text string) string {
	text = strings.TrimRight(text, " ;")
	if strings.HasSuffix(text, "`") {
		if i := strings.Index(text, " `"); i >= 0 {
			return text[i+1:]
		}
	}
	return text[strings.LastIndexByte(text, ' ')+1:]
}

func (d *decoder) statement(st *Statement) error {
	if err := d.begin(); err != nil {
		return err
	}
	st.Origin, st.XA = d.origin, d.xa
	d.counts.statements++
	for database, tables := range d.layouts {
		for name, l := range tables {
			if !st.affects(database, name) {
				continue
			}
			delete(tables, name)
			if !d.trusting && l.touched && l.readAt.file != "" && d.here.compare(l.readAt) <= 0 {
				return fmt.Errorf("%w: table %s.%s: its columns were read from information_schema when the log had reached %s:%d, which is after %.200q at %s:%d; rows delivered before this statement may bear wrong column names; %s",
					ErrSchema, database, name, l.readAt.file, l.readAt.offset, st.Text, d.here.file, d.here.offset, remedy)
			}
		}
	}
	return d.emit(st)
}

func (d *decoder) rows(kind replication.EventType, e *replication.RowsEvent) error {
	k := Update
	switch kind {
	case replication.WRITE_ROWS_EVENTv0, replication.WRITE_ROWS_EVENTv1, replication.WRITE_ROWS_EVENTv2, replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1:
		k = Insert
	case replication.DELETE_ROWS_EVENTv0, replication.DELETE_ROWS_EVENTv1, replication.DELETE_ROWS_EVENTv2, replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1:
		k = Delete
	}
	if string(e.Table.Table) == originTable && k != Delete && len(e.Rows) > 0 {
		// The first image: an insert's only one, and an update's before, which has the key.
		if o, ok := origin(e.Rows[0]); ok {
			d.origin = o
		}
	}
	if !d.wants(e.Table.Schema, e.Table.Table) {
		d.counts.skipped++
		if !d.open {
			return d.begin()
		}
		return nil
	}
	l, err := d.layout(e.Table)
	if err != nil {
		return err
	}
	l.touched = true
	for r, row := range e.Rows {
		e.Rows[r] = row[:len(row)-l.hidden]
		if err := l.table.image(e.Rows[r], e.SkippedColumns[r]); err != nil {
			return err
		}
	}
	per := 1
	if k == Update {
		per = 2
	}
	changes := make([]Change, 0, len(e.Rows)/per)
	for row := range slices.Chunk(e.Rows, per) {
		switch {
		case k == Insert:
			changes = append(changes, Change{After: row[0]})
		case k == Delete:
			changes = append(changes, Change{Before: row[0]})
		default:
			changes = append(changes, Change{Before: row[0], After: row[1]})
		}
	}
	if err := d.begin(); err != nil {
		return err
	}
	d.counts.rows += int64(len(changes))
	return d.emit(&Rows{Table: l.table, Kind: k, Changes: changes, Origin: d.origin, XA: d.xa, Unlogged: e.Flags&(noForeignKeys|loggedForeignKeys) == 0})
}

// Flags of events with rows.
const (
	noForeignKeys     = 2  // the session had foreign_key_checks=0
	loggedForeignKeys = 16 // what foreign keys do is in the log; MySQL 9.6 and later
)

// layout returns the layout of the table that m is about.
func (d *decoder) layout(m *replication.TableMapEvent) (*layout, error) {
	l := d.layouts[string(m.Schema)][string(m.Table)]
	if l != nil && l.fits(m) {
		return l, nil
	}
	database, name := string(m.Schema), string(m.Table)
	var asked *description
	if len(m.ColumnName) != int(m.ColumnCount) || d.family == flavor.MariaDB && slices.ContainsFunc(m.ColumnType, func(t byte) bool { return t == 254 }) {
		// Even a log that names the columns doesn't tell MariaDB's UUID from a BINARY(16).
		var err error
		if asked, err = d.ask(database, name); err != nil {
			return nil, err
		}
	}
	hidden := 0
	if d.family == flavor.MariaDB {
		hidden = hashes(m, asked)
	}
	l, err := describe(m, asked, hidden, d.charset)
	if err != nil {
		return nil, err
	}
	if d.layouts == nil {
		d.layouts = map[string]map[string]*layout{}
	}
	if d.layouts[database] == nil {
		d.layouts[database] = map[string]*layout{}
	}
	d.layouts[database][name] = l
	return l, nil
}

// preparedXA reads the body of an event that XA PREPARE wrote: whether it is a
// commit in one phase, the format, and two texts with their lengths before them.
func preparedXA(b []byte) (onePhase bool, xid string) {
	if len(b) < 13 {
		return false, "?"
	}
	format, n1, n2 := binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint32(b[5:]), binary.LittleEndian.Uint32(b[9:])
	ids := b[13:]
	if uint64(n1)+uint64(n2) > uint64(len(ids)) {
		return false, "?"
	}
	return b[0] != 0, xidText(format, ids[:n1], ids[n1:n1+n2])
}

// xidOfGTID reads the XID at the end of MariaDB's GTID event.
func xidOfGTID(raw []byte, flags byte) string {
	at := replication.EventHeaderSize + 13 // sequence, domain, flags
	if flags&groupCommit != 0 {
		at += 8
	}
	if len(raw) < at+6 {
		return "?"
	}
	format, n1, n2 := binary.LittleEndian.Uint32(raw[at:]), int(raw[at+4]), int(raw[at+5])
	b := raw[at+6:]
	if n1+n2 > len(b) {
		return "?"
	}
	return xidText(format, b[:n1], b[n1:n1+n2])
}

// xidText writes an XID as the servers do in their logs.
func xidText(format uint32, global, branch []byte) string {
	return fmt.Sprintf("X'%x',X'%x',%d", global, branch, format)
}

// loadData reads the text and the default database of a LOAD DATA that the log
// has as a statement.
func loadData(raw []byte) (text, schema string) {
	const head = replication.EventHeaderSize + 26
	if len(raw) < head {
		return "LOAD DATA", ""
	}
	schemaLen := int(raw[replication.EventHeaderSize+8])
	vars := int(binary.LittleEndian.Uint16(raw[replication.EventHeaderSize+11:]))
	at := head + vars
	if at+schemaLen+1 > len(raw) {
		return "LOAD DATA", ""
	}
	return string(raw[at+schemaLen+1:]), string(raw[at : at+schemaLen])
}
