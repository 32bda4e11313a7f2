package toxi

import (
	"encoding/binary"
	"regexp"
	"strings"
	"testing"
	"time"
)

// packet writes a packet of MySQL's protocol.
func mysqlPacket(seq byte, payload string) string {
	n := len(payload)
	return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), seq}) + payload
}

// mysqlPackets writes packets that are numbered from seq.
func mysqlPackets(seq byte, payloads ...string) (s string) {
	for i, p := range payloads {
		s += mysqlPacket(seq+byte(i), p)
	}
	return s
}

const (
	mysqlOK       = "\x00\x00\x00\x02\x00\x00\x00" // with status 2
	mysqlOKMore   = "\x00\x01\x00\x0a\x00\x00\x00"
	mysqlEnd      = "\xfe\x00\x00\x02\x00" // an EOF
	mysqlEndMore  = "\xfe\x00\x00\x0a\x00"
	mysqlEndRead  = "\xfe\x00\x00\x42\x00"         // with a cursor
	mysqlEndOK    = "\xfe\x00\x00\x02\x00\x00\x00" // an OK in an EOF's place
	mysqlEndOKOn  = "\xfe\x00\x00\x0a\x00\x00\x00" // another result follows
	mysqlRefusal  = "\xff\x28\x04#42000You have an error"
	mysqlProgress = "\xff\xff\xff\x01\x01\x02\x00\x00\x00\x05stage"
	mysqlDef      = "\x03def\x00\x00\x00\x01a\x00\x0c\x3f\x00\x0b\x00\x00\x00\x03\x00\x00\x00\x00\x00"
)

func mysqlGreeting(caps uint32) string {
	b := []byte("\x0a11.4.2-Server\x00\x01\x00\x00\x0012345678\x00")
	b = binary.LittleEndian.AppendUint16(b, uint16(caps))
	b = append(b, 0x2d, 2, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(caps>>16))
	return mysqlPacket(0, string(b)+"\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00123456789012\x00mysql_native_password\x00")
}

func mysqlHello(caps uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, caps)
	b = append(b, 0, 0, 0, 1, 0x2d)
	b = append(b, make([]byte, 23)...)
	return mysqlPacket(1, string(b)+"root\x00\x00shop\x00mysql_native_password\x00")
}

// mysqlLoggedIn is a handshake of sides that can do caps, as it comes out.
func mysqlLoggedIn(caps uint32) act {
	server := mysqlGreeting(caps) + mysqlPacket(2, "\xfemysql_native_password\x0012345678901234567890\x00") + mysqlPacket(4, mysqlOK)
	client := mysqlHello(caps) + mysqlPacket(3, "scrambled")
	return act{play: func(s *scene, size int) {
		for _, p := range []string{server[:len(mysqlGreeting(caps))]} {
			s.hears(p, size)
		}
		s.says(client[:len(mysqlHello(caps))], size)
		s.hears(server[len(mysqlGreeting(caps)):len(server)-11], size)
		s.says(client[len(mysqlHello(caps)):], size)
		s.hears(server[len(server)-11:], size)
	}, toServer: client, toClient: server}
}

func mysqlSays(sql string) string { return mysqlPacket(0, "\x03"+sql) }

func mysqlPrepared(id byte, columns, params byte) string {
	return "\x00" + string([]byte{id, 0, 0, 0, columns, 0, params, 0, 0, 0, 0})
}

func mysqlExecute(id string) string {
	return mysqlPacket(0, "\x17"+id+"\x00\x01\x00\x00\x00")
}

const (
	mysqlPlain = mysqlProtocol41 | 1<<15
	mysqlNew   = mysqlPlain | mysqlDeprecateEOF
)

func TestMySQLStories(t *testing.T) {
	t.Parallel()
	commits := regexp.MustCompile(`(?i)^commit`)
	inserts := regexp.MustCompile(`^INSERT`)
	deadlock := MySQLError{Code: 1213}
	// As a server sends it.
	const wrong = "\x4b\x00\x00\x01\xff\xbd\x04#40001Deadlock found when trying to get lock; try restarting transaction"
	commit, query, insert := mysqlSays("COMMIT"), mysqlSays("SELECT 1"), mysqlSays("INSERT INTO t VALUES (1)")
	one := mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, "\x011", "\xfb", mysqlEnd)
	oneNew := mysqlPackets(1, "\x01", mysqlDef, "\x011", "\xfb", mysqlEndOK)
	done := mysqlPacket(1, mysqlOK)
	passes := func(say, hear string) []act {
		return []act{{say: say, toServer: say}, {hear: hear, toClient: hear}}
	}
	then := func(acts ...any) (all []act) {
		for _, a := range acts {
			switch a := a.(type) {
			case act:
				all = append(all, a)
			case []act:
				all = append(all, a...)
			}
		}
		return all
	}
	struck := act{say: commit, toClient: wrong} // and nothing to the server

	// Answers of every form, each followed by a statement that fails: that is
	// answered at once only if the answer has been understood to its end.
	for _, form := range []struct {
		name      string
		caps      uint32
		say, hear string
	}{
		{"OK", mysqlPlain, insert, done},
		{"an error", mysqlPlain, insert, mysqlPacket(1, mysqlRefusal)},
		{"rows", mysqlPlain, query, one},
		{"rows without EOF", mysqlNew, query, oneNew},
		{"no rows", mysqlPlain, query, mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, mysqlEnd)},
		{"no rows without EOF", mysqlNew, query, mysqlPackets(1, "\x01", mysqlDef, mysqlEndOK)},
		{"rows and an error", mysqlPlain, query, mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, "\x011", mysqlRefusal)},
		{"several results", mysqlPlain, query, mysqlPackets(1, mysqlOKMore, "\x01", mysqlDef, mysqlEnd, "\x011", mysqlEndMore, mysqlOK)},
		{"several results without EOF", mysqlNew, query, mysqlPackets(1, "\x01", mysqlDef, "\x011", mysqlEndOKOn, "\x02", mysqlDef, mysqlDef, mysqlEndOK)},
		{"columns without definitions, as MariaDB says", mysqlNew, query, mysqlPackets(1, "\x02\x00", "\x00\x00\x01", "\x00\x00\x02", mysqlEndOK)},
		{"columns with definitions, as MariaDB says", mysqlNew, query, mysqlPackets(1, "\x01\x01", mysqlDef, mysqlEndOK)},
		{"columns without definitions, as MySQL says", mysqlNew, query, mysqlPackets(1, "\x00\x02", "\x00\x00\x01", mysqlEndOK)},
		{"columns with definitions, as MySQL says", mysqlNew, query, mysqlPackets(1, "\x01\x02", mysqlDef, mysqlDef, mysqlEndOK)},
		{"progress", mysqlPlain, query, mysqlPackets(1, mysqlProgress, mysqlProgress, mysqlOK)},
		{"a row of more than 255 packets", mysqlPlain, query, mysqlPackets(1, append([]string{"\x01", mysqlDef, mysqlEnd}, append(strings.Split(strings.Repeat("\x011,", 511)+"\x011", ","), mysqlEnd)...)...)},
		{"a cursor", mysqlPlain, mysqlExecute("\x09\x00\x00\x00"), mysqlPackets(1, "\x01", mysqlDef, mysqlEndRead)},
		{"a fetch", mysqlPlain, mysqlPacket(0, "\x1c\x09\x00\x00\x00\x01\x00\x00\x00"), mysqlPackets(1, "\x00\x00\x01", mysqlEnd)},
		{"a statement without parameters and columns", mysqlPlain, mysqlPacket(0, "\x16DO 1"), mysqlPacket(1, mysqlPrepared(9, 0, 0))},
		{"a statement with both", mysqlPlain, mysqlPacket(0, "\x16SELECT ?"), mysqlPackets(1, mysqlPrepared(9, 1, 2), mysqlDef, mysqlDef, mysqlEnd, mysqlDef, mysqlEnd)},
		{"a statement with both without EOF", mysqlNew, mysqlPacket(0, "\x16SELECT ?"), mysqlPackets(1, mysqlPrepared(9, 1, 2), mysqlDef, mysqlDef, mysqlDef)},
		{"a statement that is wrong", mysqlPlain, mysqlPacket(0, "\x16SELECT"), mysqlPacket(1, mysqlRefusal)},
		{"a ping", mysqlPlain, mysqlPacket(0, "\x0e"), done},
		{"statistics", mysqlPlain, mysqlPacket(0, "\x09"), mysqlPacket(1, "Uptime: 1")},
		{"fields", mysqlPlain, mysqlPacket(0, "\x04t\x00"), mysqlPackets(1, mysqlDef, mysqlDef, mysqlEnd)},
		{"no answer", mysqlPlain, mysqlPacket(0, "\x19\x01\x00\x00\x00") + mysqlPacket(0, "\x18\x01\x00\x00\x00\x00\x00data"), ""},
		{"MariaDB's bulk", mysqlPlain, mysqlPacket(0, "\xfa\x01\x00\x00\x00\x80\x00..."), done},
	} {
		tellAll(t, []story{{
			name:  "an answer of " + form.name,
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts:  then(mysqlLoggedIn(form.caps), passes(form.say, form.hear), struck, struck, passes(query, oneNew)),
			hits:  2,
		}, {
			name:  "an open connection and an answer of " + form.name,
			late:  true,
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(passes(form.say, form.hear), act{say: commit, wait: settled, toClient: wrong}, struck,
				passes(query, map[uint32]string{mysqlPlain: one, mysqlNew: oneNew}[form.caps]), struck),
			hits: 3,
		}})
	}

	tellAll(t, []story{
		{
			name:  "a delay holds the statement",
			toxic: MySQL{Match: inserts, Delay: time.Second},
			acts: then(mysqlLoggedIn(mysqlPlain), passes(query, one),
				act{say: insert, wait: 999 * time.Millisecond}, act{wait: time.Millisecond, toServer: insert},
				act{hear: done, toClient: done}),
			hits: 1,
		},
		{
			name:  "a late reply",
			toxic: MySQL{Match: inserts, DelayReply: time.Second},
			acts: then(mysqlLoggedIn(mysqlPlain), act{say: insert, toServer: insert},
				act{hear: done, wait: 999 * time.Millisecond}, act{wait: time.Millisecond, toClient: done}),
			hits: 1,
		},
		{
			name:  "cut before",
			toxic: MySQL{Match: commits, Cut: CutBefore},
			acts:  then(mysqlLoggedIn(mysqlPlain), passes(query, one), act{say: commit, cut: closing}),
			hits:  1,
		},
		{
			name:  "cut after",
			toxic: MySQL{Match: commits, Cut: CutAfter},
			acts:  then(mysqlLoggedIn(mysqlPlain), passes(query, one), act{say: commit, toServer: commit}, act{hear: done, cut: closing}),
			hits:  1,
		},
		{
			name:  "progress is no answer",
			toxic: MySQL{Cut: CutAfter},
			acts: then(mysqlLoggedIn(mysqlPlain), act{say: query, toServer: query},
				act{hear: mysqlPacket(1, mysqlProgress), toClient: mysqlPacket(1, mysqlProgress)},
				act{hear: mysqlPacket(2, mysqlOK), cut: closing}),
			hits: 1,
		},
		{
			name:  "a request for a file is no answer, and the file is no command",
			toxic: MySQL{Match: regexp.MustCompile(`^(LOAD|COMMIT)`), Cut: CutAfter},
			acts: then(mysqlLoggedIn(mysqlPlain), act{say: mysqlSays("LOAD DATA"), toServer: mysqlSays("LOAD DATA")},
				act{hear: mysqlPacket(1, "\xfbfile"), toClient: mysqlPacket(1, "\xfbfile")},
				passes(mysqlPackets(2, strings.Split(strings.Repeat("\x03COMMIT,", 600), ",")...), ""),
				act{hear: mysqlPacket(92, mysqlOK), cut: closing}),
			hits: 1,
		},
		{
			name:  "a file whose end has number 0",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlPlain), passes(mysqlSays("LOAD DATA"), mysqlPacket(1, "\xfbfile")),
				passes(mysqlPackets(2, strings.Split(strings.Repeat("\x03COMMIT,", 254), ",")...), mysqlPacket(1, mysqlOK)), struck),
			hits: 1,
		},
		{
			name:  "a file whose end has number 255",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlPlain), passes(mysqlSays("LOAD DATA"), mysqlPacket(1, "\xfbfile")),
				passes(mysqlPackets(2, strings.Split(strings.Repeat("\x03COMMIT,", 253), ",")...), mysqlPacket(0, mysqlOK)), struck),
			hits: 1,
		},
		{
			name:  "a prepared statement is struck when it is executed",
			toxic: MySQL{Match: inserts, Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlNew),
				passes(mysqlPacket(0, "\x16INSERT INTO t VALUES (?)"), mysqlPackets(1, mysqlPrepared(7, 0, 1), mysqlDef)),
				passes(mysqlPacket(0, "\x16SELECT ?"), mysqlPackets(1, mysqlPrepared(8, 1, 1), mysqlDef, mysqlDef)),
				act{say: mysqlExecute("\x07\x00\x00\x00"), toClient: wrong},
				passes(mysqlExecute("\x08\x00\x00\x00"), oneNew),
				passes(mysqlPacket(0, "\x19\x07\x00\x00\x00"), ""),
				passes(mysqlExecute("\x07\x00\x00\x00"), mysqlPacket(1, mysqlRefusal)),
			),
			hits: 1,
		},
		{
			name:  "one that was prepared before is not known",
			late:  true,
			toxic: MySQL{Match: inserts, Fail: deadlock},
			acts:  passes(mysqlExecute("\x07\x00\x00\x00"), done),
		},
		{
			name:  "but is struck by what strikes everything",
			late:  true,
			toxic: MySQL{Delay: time.Second},
			acts:  then(act{say: mysqlExecute("\x07\x00\x00\x00")}, act{wait: time.Second, toServer: mysqlExecute("\x07\x00\x00\x00")}),
			hits:  1,
		},
		{
			name:  "MariaDB's connectors execute what they have only just prepared",
			toxic: MySQL{Match: inserts, Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlNew),
				act{
					say:      mysqlPacket(0, "\x16INSERT INTO t VALUES (?)") + mysqlExecute("\xff\xff\xff\xff") + query,
					toServer: mysqlPacket(0, "\x16INSERT INTO t VALUES (?)") + query,
				},
				act{hear: mysqlPackets(1, mysqlPrepared(7, 0, 1)), toClient: mysqlPackets(1, mysqlPrepared(7, 0, 1))},
				act{hear: mysqlPackets(2, mysqlDef) + oneNew, toClient: mysqlPackets(2, mysqlDef) + wrong + oneNew}),
			hits: 1,
		},
		{
			name:  "of many commands at once, the answers are told apart by their number",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlPlain),
				act{say: insert + query + commit + insert, toServer: insert + query + insert},
				act{hear: done + one + done, toClient: done + one + wrong + done}),
			hits: 1,
		},
		{
			name:  "commands that are no statements",
			toxic: MySQL{Match: regexp.MustCompile(`^(PING|USE shop|RESET CONNECTION)$`), Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlPlain),
				act{say: mysqlPacket(0, "\x0e"), toClient: wrong},
				act{say: mysqlPacket(0, "\x02shop"), toClient: wrong},
				passes(mysqlPacket(0, "\x02other"), done),
				act{say: mysqlPacket(0, "\x1f"), toClient: wrong},
				passes(mysqlPacket(0, "\x01"), "")),
			hits: 3,
		},
		{
			name:  "another user logs in",
			toxic: MySQL{Match: regexp.MustCompile("CHANGE USER"), Cut: CutAfter},
			acts: then(mysqlLoggedIn(mysqlPlain),
				passes(mysqlPacket(0, "\x11root\x00"), mysqlPacket(1, "\xfemysql_native_password\x00salt\x00")),
				passes(mysqlPacket(2, "scrambled"), ""), act{hear: mysqlPacket(3, mysqlOK), cut: closing}),
			hits: 1,
		},
		{
			name:  "attributes before the text",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlNew|mysqlAttributes),
				act{say: mysqlSays("\x00\x01COMMIT"), toClient: wrong},
				act{say: mysqlSays("\x01\x01\x00\x01\xfe\x00\x05trace\x04\x01\x02\x03\x04COMMIT"), toClient: wrong},
				act{say: mysqlSays("\x0a\x01\x02\x00\x01" + "\x08\x00\x00" + "\x06\x00\x00" + strings.Repeat("\x03\x00\x00", 8) + "12345678" + strings.Repeat("1234", 8) + "COMMIT"), toClient: wrong},
				passes(mysqlSays("\x09\x01COMMIT"), mysqlPacket(1, mysqlRefusal))),
			hits: 3,
		},
		{
			name:  "attributes on an open connection",
			late:  true,
			toxic: MySQL{Match: commits, Delay: time.Second},
			acts:  then(act{say: mysqlSays("\x00\x01COMMIT"), wait: 999 * time.Millisecond}, act{wait: time.Millisecond, toServer: mysqlSays("\x00\x01COMMIT")}),
			hits:  1,
		},
		{
			name:  "a connection that goes on under TLS passes",
			toxic: MySQL{Fail: deadlock},
			acts: then(act{hear: mysqlGreeting(mysqlPlain | mysqlSSL), toClient: mysqlGreeting(mysqlPlain | mysqlSSL)},
				passes(mysqlHello(mysqlPlain | mysqlSSL)[:36]+"\x16\x03\x01whatever", "\x16\x03\x03whatever"), passes(commit, done)),
		},
		{
			name:  "so does one that is compressed",
			toxic: MySQL{Fail: deadlock},
			acts:  then(mysqlLoggedIn(mysqlPlain|mysqlCompress), passes(commit, done)),
		},
		{
			name:  "an offer of TLS and compression is not enough",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(act{hear: mysqlGreeting(mysqlPlain | mysqlSSL | mysqlCompress | mysqlZstd), toClient: mysqlGreeting(mysqlPlain | mysqlSSL | mysqlCompress | mysqlZstd)},
				passes(mysqlHello(mysqlPlain), mysqlPacket(2, mysqlOK)), struck),
			hits: 1,
		},
		{
			name:  "an open connection under TLS",
			late:  true,
			toxic: MySQL{Fail: deadlock},
			acts:  passes("\x17\x03\x03\x00\x16"+strings.Repeat("x", 22), "\x17\x03\x03\x00\x16"+strings.Repeat("x", 22)),
		},
		{
			name:  "an open connection that is compressed",
			late:  true,
			toxic: MySQL{Fail: deadlock},
			acts: then(passes("\x0b\x00\x00\x00\x00\x00\x00"+commit, "\x0b\x00\x00\x01\x00\x00\x00"+done),
				passes("\x20\x00\x00\x00\x03\x01\x00\x78\x9c"+strings.Repeat("z", 30), "")),
		},
		{
			name:  "and one whose first statement is",
			late:  true,
			toxic: MySQL{Fail: deadlock},
			acts:  passes("\x20\x00\x00\x00\x03\x01\x00\x78\x9c"+strings.Repeat("z", 30), ""),
		},
		{
			name:  "an open connection in the middle of an answer",
			late:  true,
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts: then(act{hear: "ld", toClient: "ld"}, act{hear: mysqlPackets(9, "\x011", mysqlEnd), toClient: mysqlPackets(9, "\x011", mysqlEnd)},
				passes(query, one), act{say: commit, wait: settled, toClient: wrong}),
			hits: 1,
		},
		{
			name:  "an open connection in the middle of a header",
			late:  true,
			toxic: MySQL{Match: inserts, Fail: deadlock},
			acts: then(act{hear: "ld", toClient: "ld"},
				passes(mysqlPacket(0, "\x16INSERT INTO t VALUES (?)"), mysqlPackets(1, mysqlPrepared(7, 0, 1), mysqlDef)),
				act{say: mysqlExecute("\x07\x00\x00\x00"), wait: settled, toClient: wrong}),
			hits: 1,
		},
		{
			name:  "an answer out of order",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts:  then(mysqlLoggedIn(mysqlPlain), passes(query, mysqlPacket(2, mysqlOK)), passes(commit, mysqlPacket(1, mysqlOK))),
		},
		{
			name:  "a greeting that went by",
			late:  true,
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts:  then(passes(mysqlHello(mysqlNew), mysqlPacket(2, mysqlOK)), passes(query, oneNew), act{say: commit, wait: settled, toClient: wrong}),
			hits:  1,
		},
		{
			name:  "a server that wants nobody",
			toxic: MySQL{Fail: deadlock},
			acts:  passes("", mysqlPacket(0, "\xff\x10\x04Too many connections")),
		},
		{
			name:  "a stream of replication",
			toxic: MySQL{Match: regexp.MustCompile("^(SET|COMMIT)"), Fail: deadlock},
			acts: then(mysqlLoggedIn(mysqlPlain), act{say: mysqlSays("SET 1"), toClient: wrong},
				passes(mysqlPacket(0, "\x15\x01\x00\x00\x00"), done),
				passes(mysqlPacket(0, "\x12\x04\x00\x00\x00"), mysqlPackets(1, "\x00event", "\x00event")), passes(commit, "")),
			hits: 1,
		},
		{
			name:  "a command nobody knows",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts:  then(mysqlLoggedIn(mysqlPlain), passes(mysqlPacket(0, "\x7f"), done), passes(commit, done)),
		},
		{
			name:  "an answer nobody asked for",
			toxic: MySQL{Match: commits, Fail: deadlock},
			acts:  then(mysqlLoggedIn(mysqlPlain), passes("", mysqlPacket(1, "\xff\xbf\x0f#HY000The client was disconnected")), passes(commit, "")),
		},
		{
			name:  "a state and a message of one's own",
			toxic: MySQL{Fail: MySQLError{Code: 9999, State: "ZZ123", Message: "no"}},
			acts:  then(mysqlLoggedIn(mysqlPlain), act{say: query, toClient: mysqlPacket(1, "\xff\x0f\x27#ZZ123no")}),
			hits:  1,
		},
	})
}

func TestMySQLLongStatements(t *testing.T) {
	t.Parallel()
	hello := mysqlLoggedIn(mysqlPlain)
	long := "\x03INSERT " + strings.Repeat("x", mostPacket-8)
	short := "rest"
	statement := mysqlPackets(0, long, short)
	for _, exact := range []bool{false, true} {
		if exact {
			statement = mysqlPackets(0, long, "")
		}
		for _, toxic := range []MySQL{{Match: regexp.MustCompile("^INSERT x"), Fail: MySQLError{Code: 1}}, {Match: regexp.MustCompile("^COMMIT"), Fail: MySQLError{Code: 1}}} {
			r := newScene(toxic, true)
			hello.play(r, 1<<20)
			r.toServer.Reset()
			r.toClient.Reset()
			for _, piece := range chop(statement, 100_000) {
				r.say(piece)
				if n := r.up.entry().size; n > mostText+200_000 {
					t.Fatalf("%d bytes are held", n)
				}
			}
			if toxic.Match.MatchString("COMMIT") {
				if r.toServer.String() != statement {
					t.Errorf("the server got %d bytes, want %d", r.toServer.Len(), len(statement))
				}
				r.hear(mysqlPacket(2, mysqlOK))
				r.toClient.Reset()
				r.say(mysqlSays("COMMIT"))
				if got, want := r.toClient.String(), mysqlPacket(1, "\xff\x01\x00#HY000toxi failed this statement"); got != want {
					t.Errorf("the client got %q, want %q", got, want)
				}
				continue
			}
			if r.toServer.Len() > 0 {
				t.Errorf("the server got %d bytes, want none", r.toServer.Len())
			}
			if got, want := r.toClient.String(), mysqlPacket(2, "\xff\x01\x00#HY000toxi failed this statement"); got != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
		}
	}
}

func TestMySQLLongRows(t *testing.T) {
	t.Parallel()
	r := newScene(MySQL{Match: regexp.MustCompile("^COMMIT"), Fail: MySQLError{Code: 1}}, true)
	mysqlLoggedIn(mysqlNew).play(r, 1<<20)
	r.say(mysqlSays("SELECT 1"))
	r.toClient.Reset()
	long := "\xfe" + strings.Repeat("\xfe", mostPacket-1)
	answer := mysqlPackets(1, "\x01", mysqlDef, long, "\xfe\x00\x00\x02\x00", long, "", mysqlEndOK)
	for _, piece := range chop(answer, 50_000) {
		r.hear(piece)
	}
	r.say(mysqlSays("COMMIT"))
	if got, want := r.toClient.String(), answer+mysqlPacket(1, "\xff\x01\x00#HY000toxi failed this statement"); got != want {
		t.Errorf("the client got %d bytes, want %d", len(got), len(want))
	}
}

func TestMySQLRemembersSoMuchOfPreparedStatements(t *testing.T) {
	t.Parallel()
	r := newScene(MySQL{Match: regexp.MustCompile("^SELECT"), Fail: MySQLError{Code: 1}}, true)
	mysqlLoggedIn(mysqlNew).play(r, 1<<20)
	const size = 60_000
	// The server gives a number again, though nobody has closed the statement.
	for range 40 {
		r.say(mysqlPacket(0, "\x16DO "+strings.Repeat("x", size-3)))
		r.hear(mysqlPacket(1, mysqlPrepared(0, 0, 0)))
	}
	prepare := mysqlPacket(0, "\x16SELECT "+strings.Repeat("x", size-7))
	for i := range 40 {
		r.say(prepare)
		r.hear(mysqlPacket(1, mysqlPrepared(byte(i), 0, 0)))
	}
	r.toClient.Reset()
	var struck int
	for i := range 40 {
		r.toServer.Reset()
		r.say(mysqlExecute(string([]byte{byte(i), 0, 0, 0})))
		if r.toServer.Len() == 0 {
			struck++
		} else {
			r.hear(mysqlPacket(1, mysqlOK))
		}
	}
	if want := mostPrepared / size; struck != want {
		t.Errorf("%d statements are known, want %d", struck, want)
	}
	// Who is closed makes room.
	r.say(mysqlPacket(0, "\x19\x00\x00\x00\x00"))
	r.say(prepare)
	r.hear(mysqlPacket(1, mysqlPrepared(39, 0, 0)))
	r.toServer.Reset()
	r.say(mysqlExecute("\x27\x00\x00\x00"))
	if r.toServer.Len() > 0 {
		t.Error("a statement that was prepared when there was room isn't known")
	}
}

var (
	mysqlStart = []exchange{
		{answer: mysqlGreeting(mysqlPlain)},
		{ask: mysqlHello(mysqlPlain), answer: mysqlPacket(2, "\xfemysql_native_password\x0012345678901234567890\x00")},
		{ask: mysqlPacket(3, "scrambled"), answer: mysqlPacket(4, mysqlOK)},
	}
	mysqlSome = []exchange{
		{ask: mysqlSays("SELECT 1"), answer: mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, "\x011", mysqlEnd)},
		{ask: mysqlSays("SELECT 1; SELECT 1"), answer: mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, "\x011", mysqlEndMore, mysqlOKMore, "\x01", mysqlDef, mysqlEnd, mysqlRefusal)},
		{ask: mysqlSays("SELEC"), answer: mysqlPacket(1, mysqlRefusal)},
		{ask: mysqlPacket(0, "\x0e"), answer: mysqlPacket(1, mysqlOK)},
		{ask: mysqlPacket(0, "\x16SELECT ?"), answer: mysqlPackets(1, mysqlPrepared(1, 1, 1), mysqlDef, mysqlEnd, mysqlDef, mysqlEnd)},
		{ask: mysqlExecute("\x01\x00\x00\x00"), answer: mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, "\x00\x00\x01", mysqlEnd)},
		{ask: mysqlPacket(0, "\x19\x01\x00\x00\x00")},
		{ask: mysqlSays("COMMIT"), answer: mysqlPacket(1, mysqlOK), strike: true},
		{ask: mysqlSays("COMMIT /* " + strings.Repeat("x", 300) + " */"), answer: mysqlPacket(1, mysqlOK), strike: true},
	}
)

func TestMySQLBytesAreNeitherLostNorChanged(t *testing.T) {
	t.Parallel()
	for _, start := range [][]exchange{mysqlStart, nil} {
		playPassing(t, start, mysqlSome, []Toxic{
			MySQL{Match: matchNone, Fail: MySQLError{Code: 1}},
			MySQL{Delay: 2 * time.Millisecond},
			MySQL{DelayReply: 2 * time.Millisecond},
			MySQL{Match: regexp.MustCompile(`^COMMIT`), Delay: 3 * time.Second},
			MySQL{Match: matchNone, Cut: CutAfter},
		})
	}
}

func TestMySQLFailsWhatMatchesInItsPlace(t *testing.T) {
	t.Parallel()
	for _, start := range [][]exchange{mysqlStart, nil} {
		playFailing(t, start, mysqlSome, MySQL{Match: regexp.MustCompile(`^COMMIT`), Fail: MySQLError{Code: 1}}, mysqlPacket(1, "\xff\x01\x00#HY000toxi failed this statement"), true)
	}
}

func FuzzMySQL(f *testing.F) {
	var ask, answer string
	for _, e := range append(mysqlStart, mysqlSome...) {
		ask += e.ask
		answer += e.answer
	}
	f.Add([]byte(ask), []byte(answer), []byte{254, 254, 255, 254, 254, 255, 5, 2, 3, 255, 255, 254})
	ask, answer = "", ""
	for _, e := range mysqlSome {
		ask += e.ask
		answer += e.answer
	}
	f.Add([]byte(ask), []byte(answer), []byte{255, 2, 3, 255, 255, 254})
	f.Add([]byte(mysqlSays("\x0a\x01\x02\x00\x01")), []byte(mysqlPackets(1, "\x00\x02", mysqlPrepared(1, 1, 1))), []byte{255, 2, 3})
	f.Fuzz(func(t *testing.T, up, down, order []byte) {
		feedNoise(t, MySQL{Match: matchNone, Fail: MySQLError{Code: 1}}, MySQL{Fail: MySQLError{Code: 1}}, true, up, down, order)
		feedNoise(t, MySQL{Match: matchNone, Cut: CutAfter}, MySQL{Cut: CutAfter, Match: regexp.MustCompile("M")}, true, up, down, order)
		feedNoise(t, MySQL{Delay: time.Millisecond, DelayReply: time.Millisecond}, MySQL{Cut: CutBefore}, true, up, down, order)
	})
}
