package toxi

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"
)

// MySQL strikes statements: it slows down, fails or cuts off those that match, and
// leaves the rest of the connection alone. What is a payment worth whose COMMIT was
// never answered?
//
//	p.With(toxi.MySQL{Match: regexp.MustCompile(`(?i)^COMMIT`), Cut: toxi.CutAfter}, func() {
//		err = pay(ctx, db) // fails, and the payment is made
//	})
//
// Match sees the first 64 KiB of a statement, as the client sent it. A prepared
// statement is struck when it is executed, by the text it was prepared with. If that
// was before the fault came, or if the connection's statements have more than 1 MiB of
// text, it isn't known, and only a nil Match strikes it. Commands that are no
// statements have a text too: PING, USE and the database, RESET CONNECTION, CHANGE
// USER, FETCH, STATISTICS and so on. Preparing a statement, closing it, sending it long
// data and QUIT are never struck.
//
// A connection that can't be read passes untouched and is never struck: under TLS,
// compressed, a stream of replication, or when anything is said that the fault doesn't
// understand. On a connection that was open when the fault came, the first strike waits
// until all is answered and the server has been silent for 10 ms, so that answers
// aren't mixed up; if that takes more than 10 s, the connection is left alone.
//
// For each connection, the fault holds up to 512 KiB of what the client says and 64 KiB
// of what the server says, and remembers up to 1 MiB of statements. When it is removed,
// what it holds goes on its way, unless a statement that fails is half read or
// its error not yet given: then the connection is closed.
type MySQL struct {
	// Match is a pattern of the statements to strike; nil strikes every one.
	Match *regexp.Regexp
	// Times is how many it strikes, on all of the proxy's connections together; 0 is no
	// bound.
	Times int
	// Delay holds the statement, and what the client says behind it, so long before the
	// server gets it.
	Delay time.Duration
	// DelayReply holds the server's answer so long: the statement is done, and the client
	// waits.
	DelayReply time.Duration
	// Fail is the error that the client gets, if its Code is not 0. The server doesn't
	// get the statement, and its transaction goes on, which a deadlock of its own would
	// have rolled back.
	Fail MySQLError
	// Cut ends the connection. CutAfter waits for the first packet of the answer: a
	// server that sends it has done what was asked, and for a COMMIT it has committed. Of
	// several statements sent as one it has done the first.
	Cut Moment
	// Reset cuts by a RST. A unix socket has none and is closed.
	Reset bool
}

// A MySQLError is an error as a server sends it.
type MySQLError struct {
	// Code is the number, such as 1213 for a deadlock.
	Code uint16
	// State is the SQLSTATE, five digits or capitals. The default goes with the Code, if
	// that is one on which clients act, such as 1205, 1213 and 1290; else it is HY000.
	State string
	// Message has a default as State has.
	Message string
}

// mysqlErrors are the states and messages of errors that clients act upon.
var mysqlErrors = map[uint16]MySQLError{
	1040: {State: "08004", Message: "Too many connections"},
	1053: {State: "08S01", Message: "Server shutdown in progress"},
	1062: {State: "23000", Message: "Duplicate entry '' for key ''"},
	1158: {State: "08S01", Message: "Got an error reading communication packets"},
	1205: {State: "HY000", Message: "Lock wait timeout exceeded; try restarting transaction"},
	1213: {State: "40001", Message: "Deadlock found when trying to get lock; try restarting transaction"},
	1290: {State: "HY000", Message: "The MySQL server is running with the --read-only option so it cannot execute this statement"},
	1317: {State: "70100", Message: "Query execution was interrupted"},
	1792: {State: "25006", Message: "Cannot execute statement in a READ ONLY transaction."},
	1836: {State: "HY000", Message: "Running in read-only mode"},
	1927: {State: "70100", Message: "Connection was killed"},
	3024: {State: "HY000", Message: "Query execution was interrupted, maximum statement execution time exceeded"},
}

func (e MySQLError) problems() (l list) {
	if e.Code == 0 {
		if e != (MySQLError{}) {
			l = append(l, "Fail.Code is 0, want the number of an error")
		}
		return l
	}
	if e.State != "" && !regexp.MustCompile(`^[0-9A-Z]{5}$`).MatchString(e.State) {
		l = append(l, fmt.Sprintf("Fail.State is %q, want five digits or capitals", e.State))
	}
	if len(e.Message) > mostLine {
		l = append(l, fmt.Sprintf("Fail.Message has %d bytes, want at most %d", len(e.Message), mostLine))
	}
	return l
}

// packet returns the error as the answer to a packet of number seq.
func (e MySQLError) packet(seq uint8) []byte {
	known := mysqlErrors[e.Code]
	b := []byte{0, 0, 0, seq + 1, 0xff}
	b = binary.LittleEndian.AppendUint16(b, e.Code)
	b = append(b, '#')
	b = append(b, cmp.Or(e.State, known.State, "HY000")...)
	b = append(b, cmp.Or(e.Message, known.Message, "toxi failed this statement")...)
	b[0], b[1] = byte(len(b)-4), byte((len(b)-4)>>8)
	return b
}

func (MySQL) kind() string { return "mysql" }
func (MySQL) reach() reach { return bothWay }

func (t MySQL) problems() []string {
	b := t.blow()
	return append(b.problems(t.Fail != MySQLError{}), t.Fail.problems()...)
}

func (t MySQL) blow() blow {
	b := blow{match: t.Match, times: t.Times, delay: t.Delay, late: t.DelayReply, cut: t.Cut, reset: t.Reset}
	if t.Fail.Code != 0 {
		b.fail = func(c conversation) []byte { return t.Fail.packet(c.(*mysqlTalk).client.packet.seq) }
	}
	return b
}

// The server speaks first, so that a connection that is followed from its beginning is
// told from one that is not.
func (t MySQL) converse(hits *atomic.Int64, wake func(Stream)) (up, down stage) {
	return converse(new(mysqlTalk), true, t.blow(), hits, wake)
}
