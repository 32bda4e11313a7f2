package toxi

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// Redis strikes commands: it slows down, fails or cuts off those that match, and leaves
// the rest of the connection alone. One in the middle of a pipeline is answered in its
// place.
//
// Match sees a command as a line, "SET cart:7 …": its words as they are, the first in
// capitals, with a space between them, and the first 64 KiB of that.
//
// If a command inside MULTI fails, the server doesn't hear of it, and EXEC runs the
// others. A server that refuses a command would refuse EXEC as well: to fail a
// transaction, match EXEC. What CutAfter takes for an answer may be no more than QUEUED.
//
// A connection that can't be read passes untouched and is never struck: under TLS,
// behind SUBSCRIBE and its like, MONITOR, CLIENT REPLY, SYNC and other commands that
// aren't answered one by one, or when anything is said that the fault doesn't
// understand. On a connection that may have had commands under way when the fault came,
// the first strike waits until all is answered and the server has been silent for
// 10 ms, so that answers aren't mixed up; if that takes more than 10 s, the connection
// is left alone.
//
// For each connection, the fault holds up to 512 KiB of what the client says and 64 KiB
// of what the server says; longer values stream through. When it is removed, what it
// holds goes on its way, unless a command that fails is half read or its error not yet
// given: then the connection is closed.
type Redis struct {
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
	// Fail is the error that the client gets, such as "LOADING Redis is loading the
	// dataset in memory". The server doesn't get the command.
	Fail string
	// Cut ends the connection.
	Cut Moment
	// Reset cuts by a RST. A unix socket has none and is closed.
	Reset bool
}

func (Redis) kind() string { return "redis" }
func (Redis) reach() reach { return bothWay }

func (t Redis) problems() []string {
	b := t.blow()
	l := append(b.problems(t.Fail != ""), problemsOfLine(t.Fail)...)
	if strings.HasPrefix(t.Fail, "-") {
		l = append(l, fmt.Sprintf("Fail is %q, want it without the - before it", t.Fail))
	}
	return l
}

func (t Redis) blow() blow {
	b := blow{match: t.Match, times: t.Times, delay: t.Delay, late: t.DelayReply, cut: t.Cut, reset: t.Reset}
	if t.Fail != "" {
		line := []byte("-" + t.Fail + "\r\n")
		b.fail = func(conversation) []byte { return line }
	}
	return b
}

// It can't tell a connection's beginning from its middle.
func (t Redis) converse(hits *atomic.Int64, wake func(Stream)) (up, down stage) {
	return converse(new(redisTalk), false, t.blow(), hits, wake)
}

// redisApart are the commands behind which a connection is another thing, or that are
// not answered once.
var redisApart = map[string]bool{
	"SUBSCRIBE": true, "PSUBSCRIBE": true, "SSUBSCRIBE": true,
	"UNSUBSCRIBE": true, "PUNSUBSCRIBE": true, "SUNSUBSCRIBE": true,
	"MONITOR": true, "SYNC": true, "PSYNC": true, "REPLCONF": true, "SHUTDOWN": true,
}

// A redisTalk reads RESP, versions 2 and 3.
type redisTalk struct {
	bare bool // commands may come without a frame: this is the beginning of one

	client redisClient
	server redisServer
}

type redisClient struct {
	state redisAsks
	line  []byte // a header, as far as it is here
	args  int64  // still to come
	left  int64  // bytes of an argument still to come, with its end
	words int
	text  []byte
	told  bool // the command has begun
}

type redisServer struct {
	state  redisAnswers
	line   []byte // a header, as far as it is here
	values int64  // still to come
	left   int64  // bytes of one still to come, with its end
	push   bool   // what is being read is no answer
}

// redisAsks is where the reader of the client's side is.
type redisAsks uint8

const (
	redisStart  redisAsks = iota
	redisArgs             // in the header of a command
	redisSize             // in the header of an argument
	redisArg              // in an argument
	redisInline           // in a command without a frame
	redisOver             // behind a command
)

func (r *redisTalk) asked() request {
	c := &r.client
	q := request{text: c.text}
	verb, rest, _ := bytes.Cut(c.text, []byte(" "))
	second, _, _ := bytes.Cut(rest, []byte(" "))
	if redisApart[string(verb)] || string(verb) == "CLIENT" && bytes.EqualFold(second, []byte("REPLY")) {
		q.deaf, q.then = true, strange
	}
	return q
}

func (r *redisTalk) ask(b []byte) (n int, _ mark) {
	c := &r.client
	for {
		switch {
		case c.state == redisStart && n == len(b):
			return n, going
		case c.state != redisStart && !c.told && (c.state == redisOver || len(c.text) == mostText):
			c.told = true
			return n, begun
		case c.state == redisOver:
			c.state = redisStart
			return n, done
		case n == len(b) && c.told:
			return n, going
		case n == len(b):
			return n, holding
		}
		switch c.state {
		case redisStart:
			c.line, c.text, c.words, c.told = c.line[:0], c.text[:0], 0, false
			switch {
			case b[n] == '*':
				c.state = redisArgs
			case r.bare && (b[n] == '\r' || b[n] == '\n' || b[n] >= 'A' && b[n] <= 'Z' || b[n] >= 'a' && b[n] <= 'z'):
				c.state = redisInline
			default:
				return n, strange
			}
		case redisArgs, redisSize:
			more, ok := redisHeader(&c.line, b[n:])
			n += more
			if !ok {
				return n, strange
			}
			if c.line[len(c.line)-1] != '\n' {
				continue
			}
			kind, size, ok := redisNumber(c.line)
			c.line = c.line[:0]
			switch {
			case !ok:
				return n, strange
			case c.state == redisArgs && size <= 0:
				c.state = redisStart // it asks nothing, and isn't answered
				return n, aside
			case c.state == redisArgs && size <= 1<<20:
				c.state, c.args = redisSize, size
			case c.state == redisSize && kind == '$' && size >= 0:
				c.state, c.left = redisArg, size+2
				if c.words > 0 {
					c.collect([]byte(" "))
				}
				c.words++
			default:
				return n, strange // the server says so too
			}
		case redisArg:
			piece := b[n : n+int(min(int64(len(b)-n), c.left))]
			if data := min(int64(len(piece)), c.left-2); data > 0 {
				c.collect(piece[:data])
			}
			if !redisEnds(piece, c.left) {
				return n, strange
			}
			n += len(piece)
			if c.left -= int64(len(piece)); c.left > 0 {
				continue
			}
			if c.args--; c.args > 0 {
				c.state = redisSize
			} else {
				c.state = redisOver
			}
		case redisInline:
			i := bytes.IndexByte(b[n:], '\n')
			end := len(b)
			if i >= 0 {
				end = n + i + 1
			}
			c.line = append(c.line, b[n:end]...)
			n = end
			if len(c.line) > mostText {
				return n, strange // as the server says
			}
			if i < 0 {
				continue
			}
			for first, rest := word(bytes.TrimRight(c.line, "\r\n")); len(first) > 0; first, rest = word(rest) {
				if c.words > 0 {
					c.collect([]byte(" "))
				}
				c.words++
				c.collect(first)
			}
			if c.words == 0 {
				c.state = redisStart
				return n, aside
			}
			c.state = redisOver
		}
	}
}

// collect adds b to the text, the first word in capitals.
func (c *redisClient) collect(b []byte) {
	was := len(c.text)
	c.text = append(c.text, b[:min(len(b), mostText-was)]...)
	if c.words > 1 {
		return
	}
	for i, ch := range c.text[was:] {
		if ch >= 'a' && ch <= 'z' {
			c.text[was+i] = ch - 'a' + 'A'
		}
	}
}

// redisEnds reports whether piece, of which left bytes were to come, has the end of a
// value where it must be.
func redisEnds(piece []byte, left int64) bool {
	for i := max(0, left-2); i < int64(len(piece)); i++ {
		if piece[i] != "\r\n"[2-(left-i)] {
			return false
		}
	}
	return true
}

// mostHeader is the length of the longest header that makes sense: a mark, a number below
// 1<<48, CR and LF.
const mostHeader = 20

// redisHeader adds to a header what b has of it. It reports whether it can be one.
func redisHeader(line *[]byte, b []byte) (n int, ok bool) {
	n = min(len(b), mostHeader)
	if i := bytes.IndexByte(b[:n], '\n'); i >= 0 {
		n = i + 1
	}
	*line = append(*line, b[:n]...)
	return n, len(*line) <= mostHeader
}

// redisNumber reads a header.
func redisNumber(line []byte) (kind byte, n int64, ok bool) {
	digits, ok := bytes.CutSuffix(line[1:], []byte("\r\n"))
	if !ok {
		return 0, 0, false
	}
	if string(digits) == "-1" {
		return line[0], -1, true
	}
	n, ok = number(digits)
	return line[0], n, ok
}

// redisAnswers is where the reader of the server's side is.
type redisAnswers uint8

const (
	redisBetween redisAnswers = iota // before an answer
	redisMark                        // before a value
	redisCount                       // in a header
	redisBytes                       // in a value of a length that is known
	redisLine                        // in one that is a line
	redisEnd                         // behind an answer
)

func (r *redisTalk) answer(b []byte, expected *owed) (n int, _ mark) {
	s := &r.server
	for {
		if s.state == redisEnd {
			s.state = redisBetween
			if s.push {
				return n, aside
			}
			return n, done
		}
		if n == len(b) {
			return n, going
		}
		switch s.state {
		case redisBetween, redisMark:
			first := s.state == redisBetween
			mark := b[n]
			if first {
				if s.push = mark == '>'; !s.push && expected == nil {
					return n, strange
				}
				s.values = 1
			}
			switch mark {
			case '+', '-', ':', '_', '#', ',', '(':
				s.state = redisLine
			case '$', '=', '!', '*', '~', '%', '|':
				s.state = redisCount
			case '>':
				if !first {
					return n, strange
				}
				s.state = redisCount
			default:
				return n, strange
			}
			s.line = append(s.line[:0], mark)
			n++
			if first && !s.push {
				return n, begun
			}
		case redisCount:
			more, ok := redisHeader(&s.line, b[n:])
			n += more
			if !ok {
				return n, strange
			}
			if s.line[len(s.line)-1] != '\n' {
				continue
			}
			mark, size, ok := redisNumber(s.line)
			if !ok || s.values > 1<<48 {
				return n, strange
			}
			switch {
			case size < 0 && mark != '$' && mark != '*':
				return n, strange
			case size < 0:
				s.value(0)
			case mark == '$' || mark == '=' || mark == '!':
				s.state, s.left = redisBytes, size+2
			case mark == '%':
				s.value(2 * size)
			case mark == '|':
				s.value(2*size + 1) // a value follows the attributes
			default:
				s.value(size)
			}
		case redisBytes:
			piece := b[n : n+int(min(int64(len(b)-n), s.left))]
			if !redisEnds(piece, s.left) {
				return n, strange
			}
			n += len(piece)
			if s.left -= int64(len(piece)); s.left == 0 {
				s.value(0)
			}
		case redisLine:
			i := bytes.IndexByte(b[n:], '\n')
			if i < 0 {
				return len(b), going
			}
			n += i + 1
			s.value(0)
		}
	}
}

// value is behind a value, or behind the header of one that consists of others.
func (s *redisServer) value(parts int64) {
	s.state = redisMark
	if s.values += parts - 1; s.values == 0 {
		s.state = redisEnd
	}
}

func (r *redisTalk) settle() {
	r.bare = true
	r.server.state = redisBetween
}

func (r *redisTalk) restart() {
	r.settle()
	r.bare = false
	r.client.state = redisStart
}
