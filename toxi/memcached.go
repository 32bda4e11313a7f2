package toxi

import (
	"bytes"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// Memcached strikes commands of the text protocol, classic and meta: it slows down,
// fails or cuts off those that match, and leaves the rest of the connection alone. One
// in the middle of a pipeline is answered in its place.
//
// Match sees the line of a command, "set cart:7 0 60 5", without its end and the data
// that follows, and the first 64 KiB of it.
//
// A connection that can't be read passes untouched and is never struck: under TLS, in
// the binary protocol, behind watch, or when anything is said that the fault doesn't
// understand. On a connection that may have had commands under way when the fault came,
// and behind meta commands with the q flag, which aren't answered for sure, the next
// strike waits until all is answered and the server has been silent for 10 ms, so that
// answers aren't mixed up; if that takes more than 10 s, the connection is left alone.
//
// For each connection, the fault holds up to 512 KiB of what the client says and 64 KiB
// of what the server says; longer values stream through. When it is removed, what it
// holds goes on its way, unless a command that fails is half read or its answer not yet
// given: then the connection is closed.
type Memcached struct {
	// Match is a pattern of the commands to strike; nil strikes every one.
	Match *regexp.Regexp
	// Times is how many it strikes, on all of the proxy's connections together; 0 is no
	// bound.
	Times int
	// Delay holds the command, and what the client says behind it, so long before the
	// server gets it. Commands of a pipeline wait one after the other.
	Delay time.Duration
	// DelayReply holds the server's answer so long: the command is done, and the client
	// waits.
	DelayReply time.Duration
	// Fail is the line that the client gets as an answer: "SERVER_ERROR out of memory
	// storing object", or "END", which makes any get a miss. The server doesn't get the
	// command nor its data. Who has said noreply gets nothing.
	Fail string
	// Cut ends the connection. CutAfter doesn't strike who has said noreply.
	Cut Moment
	// Reset cuts by a RST. A unix socket has none and is closed.
	Reset bool
}

func (Memcached) kind() string { return "memcached" }
func (Memcached) reach() reach { return bothWay }

func (t Memcached) problems() []string {
	b := t.blow()
	return append(b.problems(t.Fail != ""), problemsOfLine(t.Fail)...)
}

func (t Memcached) blow() blow {
	b := blow{match: t.Match, times: t.Times, delay: t.Delay, late: t.DelayReply, cut: t.Cut, reset: t.Reset}
	if t.Fail != "" {
		line := []byte(t.Fail + "\r\n")
		b.fail = func(conversation) []byte { return line }
	}
	return b
}

// It can't tell a connection's beginning from its middle.
func (t Memcached) converse(hits *atomic.Int64, wake func(Stream)) (up, down stage) {
	return converse(new(memcachedTalk), false, t.blow(), hits, wake)
}

// How a command is answered.
const (
	memcachedLine   = iota // by a line
	memcachedValues        // by values and END, or another line
	memcachedStats         // by lines that begin with certain words and one that doesn't
	memcachedMeta          // by a line, which may announce a value
)

// A memcachedCommand is what is known of a command.
type memcachedCommand struct {
	kind  uint8
	words int  // with which it is complete, with itself
	size  int  // which word is the length of the data that follows; 0: there is none
	quiet bool // noreply may be its last word
	meta  bool // has flags
	long  bool // its line may be longer than mostText
	req   request
}

var memcachedCommands = map[string]memcachedCommand{
	"get":     {kind: memcachedValues, words: 2, long: true},
	"gets":    {kind: memcachedValues, words: 2, long: true},
	"gat":     {kind: memcachedValues, words: 3, long: true},
	"gats":    {kind: memcachedValues, words: 3, long: true},
	"set":     {words: 5, size: 4, quiet: true},
	"add":     {words: 5, size: 4, quiet: true},
	"replace": {words: 5, size: 4, quiet: true},
	"append":  {words: 5, size: 4, quiet: true},
	"prepend": {words: 5, size: 4, quiet: true},
	"cas":     {words: 6, size: 4, quiet: true},
	"incr":    {words: 3, quiet: true},
	"decr":    {words: 3, quiet: true},
	"delete":  {words: 2, quiet: true},
	"touch":   {words: 3, quiet: true},

	"mg": {kind: memcachedMeta, words: 2, meta: true},
	"ms": {kind: memcachedMeta, words: 3, size: 2, meta: true},
	"md": {kind: memcachedMeta, words: 2, meta: true},
	"ma": {kind: memcachedMeta, words: 2, meta: true},
	"mn": {kind: memcachedMeta, words: 1},
	"me": {kind: memcachedMeta, words: 2},

	"flush_all":      {words: 1, quiet: true},
	"verbosity":      {words: 1, quiet: true},
	"cache_memlimit": {words: 2, quiet: true},
	"version":        {words: 1},
	"stats":          {kind: memcachedStats, words: 1},
	"slabs":          {words: 2},
	"lru":            {words: 2},
	"quit":           {words: 1, req: request{exempt: true, silent: true}},
	"watch":          {words: 1, req: request{deaf: true, then: strange}},
	"shutdown":       {words: 1, req: request{deaf: true, then: strange}},
}

// A memcachedTalk reads memcached's text protocol.
type memcachedTalk struct {
	client struct {
		state   memcachedAsks
		line    []byte
		left    int64 // bytes of data still to come, with their end
		request request
	}
	server struct {
		state memcachedAnswers
		line  []byte // the first bytes of one
		left  int64
	}
}

// memcachedAsks is where the reader of the client's side is.
type memcachedAsks uint8

const (
	memcachedCommandLine memcachedAsks = iota
	memcachedLongLine                  // in what is not looked at of it
	memcachedData                      // in the data behind it, if any
)

func (m *memcachedTalk) asked() request { return m.client.request }

func (m *memcachedTalk) ask(b []byte) (n int, _ mark) {
	c := &m.client
	for {
		switch c.state {
		case memcachedCommandLine:
			rest := b[n:]
			i := bytes.IndexByte(rest, '\n')
			if i >= 0 {
				rest = rest[:i+1]
			}
			rest = rest[:min(len(rest), mostText-len(c.line))]
			if len(c.line) == 0 && len(rest) == 0 {
				return n, going
			}
			c.line = append(c.line, rest...)
			n += len(rest)
			if c.line[0] < 'a' || c.line[0] > 'z' {
				return n, strange
			}
			whole := c.line[len(c.line)-1] == '\n'
			if !whole && len(c.line) < mostText {
				return n, holding
			}
			if !m.command(whole) {
				return n, strange
			}
			c.state = memcachedData
			if !whole {
				c.state = memcachedLongLine
			}
			return n, begun
		case memcachedLongLine:
			i := bytes.IndexByte(b[n:], '\n')
			if i < 0 {
				return len(b), going
			}
			n += i + 1
			c.state = memcachedData
		case memcachedData:
			more := min(c.left, int64(len(b)-n))
			n += int(more)
			if c.left -= more; c.left > 0 {
				return n, going
			}
			c.state, c.line = memcachedCommandLine, c.line[:0]
			return n, done
		}
	}
}

// command says what a line asks. It reports whether that is known.
func (m *memcachedTalk) command(whole bool) bool {
	c := &m.client
	line := bytes.TrimSuffix(bytes.TrimSuffix(c.line, []byte("\n")), []byte("\r"))
	var words [8][]byte // the first
	var last []byte
	n := 0
	quiet := false
	for w, rest := word(line); len(w) > 0; w, rest = word(rest) {
		if n < len(words) {
			words[n] = w
		}
		last = w
		n++
		quiet = quiet || n > 2 && w[0] == 'q'
	}
	if n == 0 {
		return false
	}
	known, ok := memcachedCommands[string(words[0])]
	if !ok || n < known.words || !whole && !known.long {
		return false
	}
	r := known.req
	r.text, r.kind = line, known.kind
	c.left = 0
	if known.size > 0 {
		size, ok := number(words[known.size])
		if !ok {
			return false
		}
		c.left = size + 2
	}
	if known.quiet && string(last) == "noreply" {
		r.silent, r.deaf = true, true
	}
	if known.meta && quiet {
		r.deaf, r.then = true, lost
	}
	c.request = r
	return true
}

// memcachedAnswers is where the reader of the server's side is.
type memcachedAnswers uint8

const (
	memcachedFirst memcachedAnswers = iota // before an answer
	memcachedReply                         // in a line
	memcachedValue                         // in the data behind one
)

// mostReply is how much of an answer's line is looked at: more than a key and two
// numbers.
const mostReply = 512

func (m *memcachedTalk) answer(b []byte, expected *owed) (n int, _ mark) {
	s := &m.server
	for {
		if n == len(b) {
			return n, going
		}
		switch s.state {
		case memcachedFirst:
			if expected == nil {
				return n, strange
			}
			s.line = append(s.line[:0], b[n])
			n++
			s.state = memcachedReply
			return n, begun
		case memcachedReply:
			i := bytes.IndexByte(b[n:], '\n')
			end := len(b)
			if i >= 0 {
				end = n + i
			}
			s.line = append(s.line, b[n:min(end, n+mostReply-len(s.line))]...)
			n = end
			if i < 0 {
				continue
			}
			n++
			size, over, ok := memcachedReads(bytes.TrimSuffix(s.line, []byte("\r")), expected)
			s.line = s.line[:0]
			switch {
			case !ok:
				return n, strange
			case size >= 0:
				s.state, s.left = memcachedValue, size+2
			case over:
				s.state = memcachedFirst
				return n, done
			}
		case memcachedValue:
			more := min(s.left, int64(len(b)-n))
			n += int(more)
			if s.left -= more; s.left > 0 {
				continue
			}
			s.state = memcachedReply
			if expected == nil {
				return n, strange
			}
			if expected.kind == memcachedMeta {
				s.state = memcachedFirst
				return n, done
			}
		}
	}
}

// memcachedReads says what a line of an answer means: how many bytes of data follow, or
// -1; and whether it is the last line.
func memcachedReads(line []byte, expected *owed) (size int64, over, ok bool) {
	if expected == nil {
		return -1, false, false
	}
	first, rest := word(line)
	key, rest := word(rest)
	switch expected.kind {
	case memcachedValues:
		if string(first) != "VALUE" {
			return -1, true, true
		}
		_, rest = word(rest)
		digits, _ := word(rest)
		size, ok = number(digits)
		return size, false, ok
	case memcachedMeta:
		if string(first) != "VA" {
			return -1, true, true
		}
		size, ok = number(key)
		return size, false, ok
	case memcachedStats:
		return -1, !strings.Contains(" STAT ITEM PREFIX ", " "+string(first)+" "), true
	}
	return -1, true, true
}

func (m *memcachedTalk) settle() { m.server.state = memcachedFirst }

func (m *memcachedTalk) restart() {
	m.settle()
	m.client.state, m.client.line = memcachedCommandLine, nil
}
