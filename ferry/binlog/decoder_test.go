package binlog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/podworks/podworks/internal/flavor"
)

// An input is one event of the log at a position.
type input struct {
	kind  replication.EventType
	pos   uint32
	flags uint16
	event replication.Event
	raw   []byte
}

const sid = "\x3e\x11\xfa\x47\x71\xca\x11\xe1\x9e\x33\xc8\x0a\xa9\x42\x95\x62"

func gtidAt(pos uint32, number int64) input {
	return input{kind: replication.GTID_EVENT, pos: pos, event: &replication.GTIDEvent{SID: []byte(sid), GNO: number}}
}

func queryAt(pos uint32, text string) input {
	return input{kind: replication.QUERY_EVENT, pos: pos, event: &replication.QueryEvent{Schema: []byte("shop"), Query: []byte(text)}}
}

func rowsAt(pos uint32, id int64) input {
	m := &replication.TableMapEvent{Schema: []byte("shop"), Table: []byte("t"), ColumnCount: 1, ColumnType: []byte{8}, ColumnMeta: []uint16{0}, ColumnName: [][]byte{[]byte("id")}}
	return input{kind: replication.WRITE_ROWS_EVENTv2, pos: pos, event: &replication.RowsEvent{Table: m, Rows: [][]any{{id}}, SkippedColumns: [][]int{{}}}}
}

func xidAt(pos uint32) input {
	return input{kind: replication.XID_EVENT, pos: pos, event: &replication.XIDEvent{}}
}

func rotateTo(file string, pos uint64, made bool) input {
	in := input{kind: replication.ROTATE_EVENT, event: &replication.RotateEvent{NextLogName: []byte(file), Position: pos}}
	if made {
		in.flags = artificial
	}
	return in
}

// feed gives a decoder events, and returns what it tells, a line each.
func feed(d *decoder, log ...input) (string, error) {
	var out strings.Builder
	d.emit = func(ev Event) error {
		switch ev := ev.(type) {
		case *Begin:
			fmt.Fprintf(&out, "begin %s\n", ev.Position)
		case *Rows:
			fmt.Fprintf(&out, "%s %v\n", ev.Kind, ev.Changes[0].After)
		case *Statement:
			fmt.Fprintf(&out, "%s %s\n", ev.Kind, ev.Text)
		case *Commit:
			fmt.Fprintf(&out, "commit %s\n", ev.Position)
		case *Heartbeat:
			fmt.Fprintf(&out, "heartbeat %s\n", ev.Position)
		default:
			fmt.Fprintf(&out, "%T\n", ev)
		}
		return nil
	}
	for _, in := range log {
		ev := &replication.BinlogEvent{RawData: in.raw, Header: &replication.EventHeader{EventType: in.kind, LogPos: in.pos, EventSize: 10, Flags: in.flags}, Event: in.event}
		if err := d.event(ev, time.Time{}); err != nil {
			return out.String(), err
		}
	}
	return out.String(), nil
}

func testDecoder() *decoder {
	g, _ := parseGTIDs("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5")
	d := &decoder{family: flavor.MySQL, wants: func(_, _ []byte) bool { return true }, done: place{"log.000001", 100}, server: "a", gtids: g}
	d.emit = func(Event) error { return nil }
	d.last = d.position()
	if err := d.again("a"); err != nil {
		panic(err)
	}
	return d
}

func checkFeed(t *testing.T, d *decoder, want string, log ...input) {
	t.Helper()
	got, err := feed(d, log...)
	want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "")
	if got = strings.ReplaceAll(got, "3e11fa47-71ca-11e1-9e33-c80aa9429562", "S"); err != nil || got != want {
		t.Errorf("got\n%s%v\nwant\n%s", got, err, want)
	}
}

// The server died while it wrote a transaction, and goes on in another file, which
// has a header.
func TestATransactionThatTheLogDoesntFinishIsTakenBack(t *testing.T) {
	t.Parallel()
	checkFeed(t, testDecoder(), `
		begin log.000001:100/a/S:1-5
		insert [1]
		*binlog.Restart
		begin log.000002:120/a/S:1-5
		insert [2]
		commit log.000002:160/a/S:1-6
`,
		gtidAt(110, 6), queryAt(120, "BEGIN"), rowsAt(130, 1), rotateTo("log.000002", 4, false),
		gtidAt(130, 6), queryAt(140, "BEGIN"), rowsAt(150, 2), xidAt(160))
}

// The rotation that the server makes for a new connection says where the dump
// begins, and not how far the stream is.
func TestAReconnectKeepsThePositionOfTheLastCommit(t *testing.T) {
	t.Parallel()
	d := testDecoder()
	checkFeed(t, d, `
		begin log.000001:100/a/S:1-5
		insert [1]
		commit log.000001:140/a/S:1-6
		begin log.000001:140/a/S:1-6
		insert [2]
`, gtidAt(110, 6), queryAt(120, "BEGIN"), rowsAt(130, 1), xidAt(140), gtidAt(150, 7), queryAt(160, "BEGIN"), rowsAt(170, 2))
	if err := d.again("b"); err != nil {
		t.Fatal(err)
	}
	checkFeed(t, d, `
		begin other.000009:50/b/S:1-6
		insert [2]
		commit other.000009:90/b/S:1-7
`, rotateTo("other.000009", 4, true), gtidAt(60, 7), queryAt(70, "BEGIN"), rowsAt(80, 2), xidAt(90))
}

// A log has 32 bits of an offset.
func TestOffsetsGoOnAbove4GiB(t *testing.T) {
	t.Parallel()
	d := testDecoder()
	checkFeed(t, d, `
		begin log.000001:100/a/S:1-5
		insert [1]
		insert [2]
		commit log.000001:4294967396/a/S:1-6
		begin log.000001:4294967396/a/S:1-6
		insert [3]
		commit log.000001:4294967446/a/S:1-7
`, gtidAt(110, 6), queryAt(120, "BEGIN"), rowsAt(1<<31, 1), rowsAt(1<<32-1, 2), xidAt(100),
		gtidAt(110, 7), queryAt(120, "BEGIN"), rowsAt(140, 3), xidAt(150))
}

func TestAnIncidentIsAnError(t *testing.T) {
	t.Parallel()
	_, err := feed(testDecoder(), input{kind: replication.INCIDENT_EVENT, pos: 120, event: &replication.GenericEvent{}})
	if !errors.Is(err, ErrIncident) || !strings.Contains(err.Error(), "log.000001:120") {
		t.Errorf("got %v", err)
	}
}

// A log whose transactions lose their GTIDs is followed by file and offset.
func TestAnonymousTransactionsEndTheUseOfGTIDs(t *testing.T) {
	t.Parallel()
	none := gtidAt(110, 0)
	none.kind = replication.ANONYMOUS_GTID_EVENT
	checkFeed(t, testDecoder(), `
		begin log.000001:100/a/S:1-5
		insert [1]
		commit log.000001:140/a/
`, none, queryAt(120, "BEGIN"), rowsAt(130, 1), xidAt(140))
}

func TestXIDs(t *testing.T) {
	t.Parallel()
	head := make([]byte, replication.EventHeaderSize)
	body := "12345678" + "dddd" + "\xc0" + "\x03\x00\x00\x00" + "\x02\x01" + "abc"
	if got := xidOfGTID([]byte(string(head)+body), 0xc0); got != "X'6162',X'63',3" {
		t.Errorf("got %s", got)
	}
	body = "12345678" + "dddd" + "\xc2" + "commitid" + "\x01\x00\x00\x00" + "\x01\x00" + "a"
	if got := xidOfGTID([]byte(string(head)+body), 0xc2); got != "X'61',X'',1" {
		t.Errorf("got %s", got)
	}
	one, got := preparedXA([]byte("\x01\x03\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00abc"))
	if !one || got != "X'6162',X'63',3" {
		t.Errorf("got %t, %s", one, got)
	}
	// Nothing that is cut off makes a panic.
	for n := range len(head) + len(body) {
		xidOfGTID([]byte(string(head) + body)[:n], 0xc2)
		preparedXA([]byte(body)[:min(n, len(body))])
		loadData([]byte(string(head) + body)[:n])
	}
}

func FuzzLoadData(f *testing.F) {
	f.Add([]byte(strings.Repeat("\x00", 60)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		loadData(raw)
		xidOfGTID(raw, 0xff)
		preparedXA(raw)
	})
}
