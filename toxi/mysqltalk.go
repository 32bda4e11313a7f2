package toxi

import (
	"bytes"
	"encoding/binary"
)

// What the two sides can do, as far as it changes how they talk.
const (
	mysqlCompress     = 1 << 5
	mysqlProtocol41   = 1 << 9
	mysqlSSL          = 1 << 11
	mysqlDeprecateEOF = 1 << 24
	mysqlZstd         = 1 << 26
	mysqlAttributes   = 1 << 27
)

// How a command is answered.
const (
	mysqlOne     = iota // by one packet
	mysqlQuery          // by results, or a request for a file
	mysqlPrepare        // by the description of a statement
	mysqlFetch          // by rows
	mysqlFields         // by definitions of columns
	mysqlLogin          // by a dialogue about who the client is
)

// A mysqlCommand is what is known of a kind of command.
type mysqlCommand struct {
	text        string // if it has none of its own
	kind        uint8
	least, most int // bytes of its payload
	look        int // so much of it must be seen
	req         request
}

const (
	comQuery      = 0x03
	comInitDB     = 0x02
	comChangeUser = 0x11
	comPrepare    = 0x16
	comExecute    = 0x17
	comClose      = 0x19
	comReset      = 0x1f
	comBulk       = 0xfa // MariaDB's
)

var mysqlCommands = map[byte]mysqlCommand{
	0x01:          {text: "QUIT", most: 1, req: request{exempt: true, silent: true}},
	comInitDB:     {most: mostPacket, look: 1 << 10},
	comQuery:      {kind: mysqlQuery, most: mostPacket, look: mostText + 1},
	0x04:          {text: "FIELD LIST", kind: mysqlFields, most: mostPacket},
	0x05:          {text: "CREATE DB", most: mostPacket},
	0x06:          {text: "DROP DB", most: mostPacket},
	0x07:          {text: "REFRESH", most: 2},
	0x08:          {text: "SHUTDOWN", most: 2},
	0x09:          {text: "STATISTICS", most: 1},
	0x0a:          {text: "PROCESS INFO", kind: mysqlQuery, most: 1},
	0x0c:          {text: "PROCESS KILL", least: 5, most: 5},
	0x0d:          {text: "DEBUG", most: 1},
	0x0e:          {text: "PING", most: 1},
	comChangeUser: {text: "CHANGE USER", kind: mysqlLogin, most: mostPacket},
	0x12:          {text: "BINLOG DUMP", most: mostPacket, req: request{deaf: true, then: strange}},
	0x15:          {text: "REGISTER REPLICA", most: mostPacket},
	comPrepare:    {kind: mysqlPrepare, most: mostPacket, look: mostText + 1, req: request{exempt: true}},
	comExecute:    {kind: mysqlQuery, least: 10, most: mostPacket, look: 5},
	0x18:          {text: "LONG DATA", least: 7, most: mostPacket, req: request{exempt: true, silent: true}},
	comClose:      {text: "CLOSE", least: 5, most: 5, look: 5, req: request{exempt: true, silent: true}},
	0x1a:          {text: "RESET STATEMENT", least: 5, most: 5},
	0x1b:          {text: "SET OPTION", least: 3, most: 3},
	0x1c:          {text: "FETCH", kind: mysqlFetch, least: 9, most: 9},
	0x1e:          {text: "BINLOG DUMP", most: mostPacket, req: request{deaf: true, then: strange}},
	comReset:      {text: "RESET CONNECTION", most: 1},
	comBulk:       {kind: mysqlQuery, least: 7, most: mostPacket, look: 5},
}

// mostPrepared bounds the text of prepared statements that a connection remembers.
const mostPrepared = 1 << 20

// mostPacket is the length of a packet that is continued by the next.
const mostPacket = 1<<24 - 1

// A mysqlTalk reads MySQL's protocol: packets with a length and a number. A client's
// command has number 0, and what follows counts up, from whichever side.
type mysqlTalk struct {
	phase phase
	caps  uint32 // of the server, until the client's are known; then of both
	heard bool   // caps are of both
	eof   tri    // whether EOF packets end the definitions of columns

	client struct {
		packet
		state   asks
		cmd     byte // the last command; 0: none
		long    bool // a command was longer than a packet
		sent    bool // the last packet that was no command was empty: a file is sent
		request request
	}
	server struct {
		packet
		state  answers
		within within
		defs   []int // definitions of columns still to come: of parameters, then of columns
		tail   bool  // an EOF packet may follow what has ended
		opened bool  // the answer has begun
		aside  bool  // the packet is no part of an answer
		rest   bool  // the packet continues the one before
	}

	prepared map[uint32]string
	held     int    // bytes of text in prepared
	last     string // what was prepared last
}

// phase is where a connection is.
type phase uint8

const (
	greeting phase = iota // the server has not spoken
	hello                 // it has, and the client has not
	login                 // they agree on who the client is
	commands
)

// tri is yes, no, or not known.
type tri int8

const (
	unknown tri = iota
	yes
	no
)

// A packet is one that is being read.
type packet struct {
	head   [4]byte
	got    int // bytes of head
	size   int // of the payload
	left   int // of it
	seq    uint8
	before uint8 // seq of the one before
	start  []byte
}

// header reads the header of a packet. It reports whether it is complete.
func (p *packet) header(b []byte) (n int, ok bool) {
	n = copy(p.head[p.got:], b)
	if p.got += n; p.got < len(p.head) {
		return n, false
	}
	p.got = 0
	p.size = int(p.head[0]) | int(p.head[1])<<8 | int(p.head[2])<<16
	p.left = p.size
	p.before, p.seq = p.seq, p.head[3]
	p.start = p.start[:0]
	return n, true
}

// gather reads until start has want bytes, or all the payload. It reports whether it has.
func (p *packet) gather(b []byte, want int) (n int, ok bool) {
	n = min(max(0, want-len(p.start)), len(b), p.left)
	p.start = append(p.start, b[:n]...)
	p.left -= n
	return n, len(p.start) >= want || p.left == 0
}

// skip reads what is left of the payload.
func (p *packet) skip(b []byte) (n int) {
	n = min(p.left, len(b))
	p.left -= n
	return n
}

// asks is where the reader of the client's side is.
type asks uint8

const (
	asksHeader  asks = iota // in a header
	asksRole                // behind a header
	asksHello               // in the client's part of the handshake
	asksCommand             // at the beginning of a command
	asksRest                // in the rest of one
	asksAside               // in a packet that is no command
)

func (m *mysqlTalk) asked() request { return m.client.request }

func (m *mysqlTalk) ask(b []byte) (n int, _ mark) {
	c := &m.client
	for {
		switch c.state {
		case asksHeader:
			more, ok := c.header(b[n:])
			n += more
			if !ok {
				if c.got == 0 {
					return n, going
				}
				return n, holding
			}
			c.state = asksRole
		case asksRole:
			if m.phase == greeting && c.seq == 0 {
				m.phase = commands // a client that commands has been greeted before
				return n, lost
			}
			var ok bool
			if c.state, ok = m.role(); !ok {
				return n, strange
			}
		case asksHello:
			more, ok := c.gather(b[n:], 32)
			n += more
			if !ok {
				return n, holding
			}
			if !m.agree() {
				return n, strange
			}
			c.state = asksAside
		case asksCommand:
			more, ok := c.gather(b[n:], 1)
			n += more
			if !ok {
				return n, holding
			}
			if len(c.start) == 0 {
				return n, strange
			}
			more, ok = c.gather(b[n:], mysqlCommands[c.start[0]].look)
			n += more
			if !ok {
				return n, holding
			}
			if !m.command() {
				return n, strange
			}
			c.state = asksRest
			return n, begun
		case asksRest, asksAside:
			n += c.skip(b[n:])
			if c.left > 0 {
				return n, going
			}
			if c.state == asksAside {
				c.state = asksHeader
				return n, aside
			}
			if c.size < mostPacket {
				c.state = asksHeader
				return n, done
			}
			more, ok := c.header(b[n:])
			n += more
			if !ok {
				return n, holding
			}
			c.long = true
		}
	}
}

// role says what a packet of the client is, by its header and what was before.
func (m *mysqlTalk) role() (_ asks, ok bool) {
	c := &m.client
	switch m.phase {
	case greeting, hello:
		return asksHello, c.seq == 1 && c.size >= 32
	case login:
		return asksAside, c.seq != 0
	}
	// What follows a command without being one is a file that a statement wants, which may
	// have so many packets that their numbers begin again, or a part of a login.
	if c.seq == 0 && (c.cmd != comQuery || c.before != 255 || c.sent) {
		if c.cmd == 0 && c.head[0] >= 0x14 && c.head[0] <= 0x17 && c.head[1] == 3 && c.head[2] <= 4 {
			return 0, false // a record of TLS, or a first command of 200 KB
		}
		return asksCommand, true
	}
	c.sent = c.size == 0
	return asksAside, c.cmd == comQuery || c.cmd == comChangeUser
}

// agree takes the client's part of the handshake. It reports whether the rest can be
// read.
func (m *mysqlTalk) agree() bool {
	c := &m.client
	caps := binary.LittleEndian.Uint32(c.start)
	if m.phase == greeting {
		// The greeting went by before the fault came.
		if !bytes.Equal(c.start[9:28], make([]byte, 19)) {
			return false
		}
	} else if m.eof = yes; m.caps&caps&mysqlDeprecateEOF != 0 {
		m.eof = no
	}
	m.phase, m.caps, m.heard = login, m.caps&caps, true
	return caps&mysqlProtocol41 != 0 && m.caps&(mysqlSSL|mysqlCompress|mysqlZstd) == 0
}

// command says what a command is. It reports whether it is one.
func (m *mysqlTalk) command() bool {
	c := &m.client
	known, ok := mysqlCommands[c.start[0]]
	if !ok || c.size < known.least || c.size > known.most {
		return false
	}
	c.cmd, c.sent = c.start[0], false
	r := known.req
	r.kind, r.text = known.kind, []byte(known.text)
	switch c.cmd {
	case comInitDB:
		r.text = append([]byte("USE "), c.start[1:]...)
	case comQuery:
		r.text, ok = m.statement(c.start[1:])
		r.unknown = !ok
		if !m.heard && !plain(r.text) {
			return false // more likely the inside of a compressed packet
		}
	case comPrepare:
		r.text = c.start[1:]
		r.note = string(r.text)
		m.last = r.note
		if !m.heard && !plain(r.text) {
			return false
		}
	case comExecute, comBulk:
		id := binary.LittleEndian.Uint32(c.start[1:])
		text, ok := m.prepared[id]
		if id == ^uint32(0) { // MariaDB: the one that was prepared last
			text, ok = m.last, m.last != ""
		}
		r.text, r.unknown = []byte(text), !ok
	case comClose:
		m.forget(binary.LittleEndian.Uint32(c.start[1:]))
	case comChangeUser, comReset:
		m.prepared, m.held = nil, 0
	}
	c.request = r
	return true
}

// plain reports whether a statement begins like one, as far as bytes tell.
func plain(text []byte) bool {
	for _, b := range text[:min(len(text), 4)] {
		if b < ' ' && (b < '\t' || b > '\r') {
			return false
		}
	}
	return true
}

// statement returns the text of a statement, which attributes may precede. It isn't
// known if they are too long.
func (m *mysqlTalk) statement(b []byte) (text []byte, ok bool) {
	if m.heard && m.caps&mysqlAttributes == 0 {
		return b, true
	}
	// No text has a byte 1 behind its first; what attributes begin with are their number
	// and a number of sets, which is 1.
	if len(b) < 2 || b[1] != 1 {
		return b, true
	}
	n := int(b[0])
	if n == 0 {
		return b[2:], true
	}
	r := mysqlBytes(b[2:])
	if n >= 0xfb || !r.skip((n+7)/8) {
		return nil, false
	}
	if bound := r.next(1); len(bound) == 0 || bound[0] != 1 {
		return nil, false
	}
	nulls := b[2:]
	types := make([]byte, n)
	for i := range types {
		t := r.next(2)
		if t == nil {
			return nil, false
		}
		types[i] = t[0]
		if name, ok := r.length(); !ok || !r.skip(name) {
			return nil, false
		}
	}
	for i, t := range types {
		if nulls[i/8]&(1<<(i%8)) != 0 {
			continue
		}
		var size int
		ok := true
		switch t {
		case 6: // NULL
		case 1: // TINY
			size = 1
		case 2, 13: // SHORT, YEAR
			size = 2
		case 3, 4, 9: // LONG, FLOAT, INT24
			size = 4
		case 5, 8: // DOUBLE, LONGLONG
			size = 8
		default: // by their length, of times too
			size, ok = r.length()
		}
		if !ok || !r.skip(size) {
			return nil, false
		}
	}
	return r, true
}

// mysqlBytes are read from their beginning.
type mysqlBytes []byte

func (r *mysqlBytes) next(n int) []byte {
	if n < 0 || n > len(*r) {
		return nil
	}
	b := (*r)[:n]
	*r = (*r)[n:]
	return b
}

func (r *mysqlBytes) skip(n int) bool { return r.next(n) != nil }

// length reads a number of variable length.
func (r *mysqlBytes) length() (int, bool) {
	b := r.next(1)
	if b == nil {
		return 0, false
	}
	size := map[byte]int{0xfc: 2, 0xfd: 3, 0xfe: 8}[b[0]]
	if size == 0 {
		return int(b[0]), b[0] < 0xfb
	}
	var n uint64
	for i, b := range r.next(size) {
		n |= uint64(b) << (8 * i)
	}
	return int(n), n <= 1<<32
}

// within is where the reader of the server's side is in a packet.
type within uint8

const (
	inHeader within = iota
	inStart
	inRest
)

// answers is where it is in an answer.
type answers uint8

const (
	answersNone     answers = iota
	answersFirst            // before what decides its form
	answersDefs             // in definitions of columns
	answersRows             // in rows, or before them at what ends the definitions
	answersPrepared         // in the definitions of a prepared statement
	answersMarker           // before what ends a list of them
	answersFields           // in definitions without a number
	answersLogin            // in the dialogue of a login
	answersOne
)

func (m *mysqlTalk) answer(b []byte, expected *owed) (n int, _ mark) {
	s := &m.server
	for {
		switch s.within {
		case inHeader:
			more, ok := s.header(b[n:])
			n += more
			if !ok {
				if s.got == 0 {
					return n, going
				}
				return n, holding
			}
			s.within = inStart
			if s.rest {
				s.within = inRest
			}
		case inStart:
			more, ok := s.gather(b[n:], 1)
			n += more
			if !ok {
				return n, holding
			}
			if m.phase == greeting && !s.greets() {
				m.phase = commands
				m.settle()
				return n, lost
			}
			want := 24
			if m.phase == greeting {
				want = 256 // a version of any length, and what follows it
			}
			more, ok = s.gather(b[n:], want)
			n += more
			if !ok {
				return n, holding
			}
			s.within = inRest
			if s.aside = m.phase != commands || m.trails(); s.aside {
				break
			}
			if s.state == answersNone && !m.opens(expected) {
				return n, strange
			}
			if !s.opened && m.decides() {
				s.opened = true
				return n, begun
			}
		case inRest:
			n += s.skip(b[n:])
			if s.left > 0 {
				return n, going
			}
			s.within = inHeader
			wasRest := s.rest
			if s.rest = s.size == mostPacket; s.rest {
				break
			}
			if s.aside {
				m.agreed()
				return n, aside
			}
			over, ok := m.reads(expected, wasRest)
			if !ok {
				return n, strange
			}
			if over {
				s.state, s.opened = answersNone, false
				return n, done
			}
		}
	}
}

// greets reports whether the first packet of a server can be its greeting, or that it
// wants nobody.
func (p *packet) greets() bool {
	return p.seq == 0 && p.size < 1<<10 && len(p.start) > 0 && (p.start[0] == 10 || p.start[0] == 0xff)
}

// agreed takes a packet of the server that is no part of an answer.
func (m *mysqlTalk) agreed() {
	s := &m.server
	switch {
	case len(s.start) == 0:
	case m.phase == greeting && s.start[0] == 10:
		m.phase, m.caps = hello, ^uint32(0)
		r := mysqlBytes(s.start)
		// Behind the version: a thread, 8 bytes of salt and one of nothing; the lower half
		// of what it can; the charset and the status; the upper half.
		if end := bytes.IndexByte(r, 0); end >= 0 && r.skip(end+1+4+8+1) && len(r) >= 7 {
			m.caps = uint32(binary.LittleEndian.Uint16(r)) | uint32(binary.LittleEndian.Uint16(r[5:]))<<16
		}
	case m.phase == login && s.start[0] == 0:
		m.phase = commands
	}
}

// trails reports whether the packet is the end of an answer that might have ended with
// the packet before.
func (m *mysqlTalk) trails() bool {
	s := &m.server
	if !s.tail {
		return false
	}
	s.tail = false
	if s.marks() {
		m.eof = yes
		return true
	}
	m.eof = no
	return false
}

// marks reports whether the packet is an EOF.
func (p *packet) marks() bool { return p.size == 5 && p.start[0] == 0xfe }

// fails reports whether the packet is an error.
func (p *packet) fails() bool { return p.size > 0 && p.start[0] == 0xff }

// progress reports whether the packet tells of work that goes on: it is MariaDB's and
// looks like an error of number 65535.
func (p *packet) progress() bool {
	return p.size >= 3 && p.start[0] == 0xff && p.start[1] == 0xff && p.start[2] == 0xff
}

// opens begins the answer that is expected. It reports whether one is, and this can
// be it.
func (m *mysqlTalk) opens(expected *owed) bool {
	s := &m.server
	if expected == nil || s.seq != 1 && !m.client.long {
		return false
	}
	s.state = [...]answers{
		mysqlOne: answersOne, mysqlQuery: answersFirst, mysqlPrepare: answersFirst,
		mysqlFetch: answersRows, mysqlFields: answersFields, mysqlLogin: answersLogin,
	}[expected.kind]
	s.defs = s.defs[:0]
	return true
}

// decides reports whether the packet tells that the command has been done, or refused.
func (m *mysqlTalk) decides() bool {
	s := &m.server
	switch {
	case s.size == 0 || s.progress():
		return false
	case s.state == answersFirst:
		return s.start[0] != 0xfb
	case s.state == answersLogin:
		return s.start[0] == 0 || s.start[0] == 0xff
	}
	return true
}

const (
	mysqlMore   = 0x08 // another result follows
	mysqlCursor = 0x40 // the rows are to be fetched
)

// status returns the status in an OK packet, or in an EOF.
func (p *packet) status() uint16 {
	r := mysqlBytes(p.start)
	if r.skip(1) && p.size == 5 {
		r.skip(2)
	} else {
		r.length()
		r.length()
	}
	if b := r.next(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// reads takes a whole packet of an answer. It reports whether the answer is over, and
// whether it is one.
func (m *mysqlTalk) reads(expected *owed, long bool) (over, ok bool) {
	s := &m.server
	switch {
	case long && s.state == answersRows:
		s.defs = s.defs[:0]
		return false, true
	case long || expected == nil:
		return false, false
	case s.progress():
		return false, true
	case s.fails():
		return true, true
	case s.size == 0:
		return false, s.state == answersRows || s.state == answersLogin
	}
	first := s.start[0]
	switch s.state {
	case answersOne:
		return true, true
	case answersLogin:
		return first == 0, true
	case answersFields:
		return first == 0xfe, true
	case answersFirst:
		switch {
		case expected.kind == mysqlPrepare:
			return m.describes(expected.note)
		case first == 0 && s.size >= 7:
			return s.status()&mysqlMore == 0, true
		case first == 0xfb:
			return false, true // it wants a file, and then answers
		}
		return false, m.columns()
	case answersDefs:
		if s.defs[0]--; s.defs[0] == 0 {
			s.state = answersRows // and defs not empty: the mark comes first
		}
		return false, true
	case answersRows:
		behindDefs := len(s.defs) > 0
		s.defs = s.defs[:0]
		switch {
		case first != 0xfe || s.size == mostPacket:
			if behindDefs && m.eof == unknown {
				m.eof = no
			}
			return false, true
		case behindDefs && s.marks():
			// What ends the definitions ends the answer if there is a cursor.
			m.eof = yes
			return s.status()&mysqlCursor != 0, true
		case s.status()&mysqlMore != 0:
			s.state = answersFirst
			return false, true
		}
		return true, true
	case answersPrepared:
		if s.defs[0]--; s.defs[0] > 0 {
			return false, true
		}
		s.defs = s.defs[1:]
		if m.eof == no {
			return len(s.defs) == 0, true
		}
		s.tail = m.eof == unknown && len(s.defs) == 0
		s.state = answersMarker
		return s.tail, true
	case answersMarker:
		s.state = answersPrepared
		if s.marks() {
			m.eof = yes
			return len(s.defs) == 0, true
		}
		if m.eof == yes {
			return false, false
		}
		m.eof = no
		return m.reads(expected, false)
	}
	return false, false
}

// columns takes the packet that opens a result. It reports whether it is one. A byte
// that says whether the definitions of the columns follow may stand behind their number,
// as MariaDB has it, or before, as MySQL has it.
func (m *mysqlTalk) columns() bool {
	s := &m.server
	if s.size > 10 {
		return false
	}
	r := mysqlBytes(s.start)
	n, ok := r.length()
	follow := true
	switch {
	case ok && len(r) == 0:
	case ok && n > 0 && len(r) == 1 && r[0] <= 1: // MariaDB
		follow = r[0] == 1
	case s.start[0] <= 1: // MySQL
		follow = s.start[0] == 1
		r = s.start[1:]
		if n, ok = r.length(); !ok || len(r) > 0 {
			return false
		}
	default:
		return false
	}
	if n < 1 || n > 1<<16 {
		return false
	}
	s.state = answersRows
	s.defs = append(s.defs[:0], 0)
	if follow {
		s.state, s.defs[0] = answersDefs, n
	}
	return true
}

// describes takes the first packet of the answer to PREPARE.
func (m *mysqlTalk) describes(text string) (over, ok bool) {
	s := &m.server
	if s.start[0] != 0 || s.size < 12 || s.size > 13 {
		return false, false
	}
	id := binary.LittleEndian.Uint32(s.start[1:])
	m.forget(id)
	if text != "" && m.held+len(text) <= mostPrepared {
		if m.prepared == nil {
			m.prepared = make(map[uint32]string)
		}
		m.held += len(text)
		m.prepared[id] = text
	}
	s.defs = s.defs[:0]
	// The statement's parameters come first, and their number last.
	for _, i := range []int{7, 5} {
		if n := int(binary.LittleEndian.Uint16(s.start[i:])); n > 0 && (s.size < 13 || s.start[12] != 0) {
			s.defs = append(s.defs, n)
		}
	}
	s.state = answersPrepared
	return len(s.defs) == 0, true
}

// forget forgets a prepared statement.
func (m *mysqlTalk) forget(id uint32) {
	m.held -= len(m.prepared[id])
	delete(m.prepared, id)
}

func (m *mysqlTalk) settle() {
	s := &m.server
	s.got, s.within, s.state, s.opened, s.rest, s.tail = 0, inHeader, answersNone, false, false, false
}

func (m *mysqlTalk) restart() {
	m.settle()
	m.phase = commands
	m.client.got, m.client.state, m.client.cmd = 0, asksHeader, 0
	m.prepared, m.held, m.last = nil, 0, ""
}
