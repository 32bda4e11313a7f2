package toxi

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A Moment is where in a request's life a connection is cut.
type Moment uint8

const (
	NoCut Moment = iota

	// CutBefore: the server never gets the request. What it answered to earlier ones
	// reaches the client, then both ends of the connection are closed.
	CutBefore

	// CutAfter: the server has done what was asked, and the client doesn't hear of it. The
	// connection is closed when the first byte of the answer has come from the server,
	// and not one byte of it goes to the client.
	CutAfter
)

func (m Moment) String() string {
	switch m {
	case NoCut:
		return "none"
	case CutBefore:
		return "before"
	case CutAfter:
		return "after"
	}
	return fmt.Sprintf("Moment(%d)", uint8(m))
}

// A blow is what a fault of a protocol does to the requests it matches, whatever the
// protocol.
type blow struct {
	match *regexp.Regexp
	times int
	delay time.Duration
	late  time.Duration
	fail  func(c conversation) []byte // nil: it doesn't
	cut   Moment
	reset bool
}

// how is how a connection that is cut ends.
func (b *blow) how() ending {
	if b.reset {
		return reset
	}
	return closing
}

// hits reports whether the blow would do something to r: who is not answered can't be
// answered late.
func (b *blow) hits(r *request) bool {
	if r.exempt || b.match != nil && (r.unknown || !b.match.Match(r.text)) {
		return false
	}
	return b.delay > 0 || b.fail != nil || b.cut == CutBefore || b.listens(r)
}

// listens reports whether the blow does something to the answer of r.
func (b *blow) listens(r *request) bool {
	return !r.deaf && b.fail == nil && (b.cut == CutAfter || b.late > 0)
}

// problems says what is wrong with a blow. fails tells whether the toxic's Fail is set.
func (b *blow) problems(fails bool) (l list) {
	l.least("Times", int64(b.times), 0)
	l.time("Delay", b.delay)
	l.time("DelayReply", b.late)
	if b.cut > CutAfter {
		l = append(l, fmt.Sprintf("Cut is %d, want CutBefore, CutAfter, or NoCut", b.cut))
	}
	if fails && b.cut != NoCut {
		l = append(l, fmt.Sprintf("Fail and Cut (%v) are both set, want one of them", b.cut))
	}
	if b.late != 0 && (fails || b.cut == CutBefore) {
		l = append(l, "DelayReply is set, but Fail or CutBefore leave no reply to delay: use Delay")
	}
	if b.reset && b.cut == NoCut {
		l = append(l, "Reset is set without Cut, want CutBefore or CutAfter")
	}
	if b.delay == 0 && b.late == 0 && b.cut == NoCut && !fails {
		l = append(l, "it does nothing, want Delay, DelayReply, Fail or Cut")
	}
	return l
}

// problemsOfLine says what is wrong with an answer of one line.
func problemsOfLine(s string) (l list) {
	if strings.ContainsAny(s, "\r\n") {
		l = append(l, fmt.Sprintf("Fail is %q, want one line without its end", s))
	}
	if len(s) > mostLine {
		l = append(l, fmt.Sprintf("Fail has %d bytes, want at most %d", len(s), mostLine))
	}
	return l
}

const (
	// mostText is how much of a request's text is looked at.
	mostText = 64 << 10
	// mostLine bounds an answer that a fault gives.
	mostLine = 512
)

// A mark is what a conversation found behind the bytes it has read.
type mark uint8

const (
	going   mark = iota // all is read, and the bytes may go
	holding             // all is read, and it isn't known yet what begins here
	begun               // a request or an answer has begun, and what there is to know of it is known
	done                // it has ended
	aside               // something has ended that is neither
	lost                // this is no beginning: which answer is whose isn't known (any more)
	strange             // this isn't the protocol
)

// A conversation is a protocol on one connection. It reads both directions, in pieces
// of any size, and keeps no more than its place and a bounded piece of text. ask and
// answer return how much of b they have read, and the mark behind it; called again they
// go on from there, and may have another mark without reading more. It is used by one
// goroutine at a time.
type conversation interface {
	ask(b []byte) (n int, m mark)
	// asked is what has begun. The text is good until the next call of ask.
	asked() request
	// answer reads what the server says. What is expected is nil if no answer is.
	answer(b []byte, expected *owed) (n int, m mark)
	// settle says that no answer is under way.
	settle()
	// restart says that nothing is known of what is under way.
	restart()
}

// A request is what a client asks.
type request struct {
	text    []byte // what Match sees
	kind    uint8  // of its answer
	note    string // for the reader of the answer
	unknown bool   // has no text, only a nil Match matches
	exempt  bool   // not struck by anything
	silent  bool   // isn't answered
	deaf    bool   // isn't answered for sure, or in a way that can be followed
	then    mark   // what becomes of the conversation: going, lost or strange
}

// space is what separates words.
func space(c byte) bool { return c == ' ' || c == '\t' }

// word cuts the first word off.
func word(line []byte) (first, rest []byte) {
	for len(line) > 0 && space(line[0]) {
		line = line[1:]
	}
	if i := bytes.IndexFunc(line, func(r rune) bool { return r == ' ' || r == '\t' }); i >= 0 {
		return line[:i], line[i:]
	}
	return line, nil
}

// number reads a decimal number without sign and leading zeros, below 1<<48.
func number(digits []byte) (int64, bool) {
	if len(digits) == 0 || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' || n >= 1<<44 {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}
