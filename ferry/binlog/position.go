package binlog

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/podworks/podworks/internal/flavor"
)

// A Position is a place between two transactions of a log. The zero value is
// none: [Stream.Now] returns one to begin with, the events carry the others.
//
// GTIDs alone are a position too, and so are File and Offset alone, such as a
// backup names. With GTIDs a stream goes on from any server that has those
// transactions, without them only from the server that wrote the file.
type Position struct {
	File   string // of the binary log, without its directory
	Offset uint64 // bytes; where the next transaction begins
	Server string // that has the file: server_uuid on MySQL, server_id on MariaDB; "" if unknown
	GTIDs  string // all that were executed up to here; "" if unknown
}

// String returns the text that [ParsePosition] parses: file:offset/server/GTIDs,
// of which each may be missing. It has neither white space nor quotes, and
// nothing in it needs escaping in SQL, in JSON or in a shell.
func (p Position) String() string {
	var b strings.Builder
	if p.File != "" {
		fmt.Fprintf(&b, "%s:%d", p.File, p.Offset)
	}
	if p.Server != "" || p.GTIDs != "" {
		fmt.Fprintf(&b, "/%s/%s", p.Server, p.GTIDs)
	}
	return b.String()
}

// Compare returns -1, 0 or +1 if p is before q in the log, the same place or
// after it. ok is false if that can't be told, because they are not known to be
// in one server's files.
func (p Position) Compare(q Position) (order int, ok bool) {
	if p.Server == "" || p.Server != q.Server || p.File == "" || q.File == "" {
		return 0, false
	}
	return place{p.File, p.Offset}.compare(place{q.File, q.Offset}), true
}

// ParsePosition parses what [Position.String] returned.
func ParsePosition(text string) (Position, error) {
	var p Position
	place, rest, more := strings.Cut(text, "/")
	if more {
		p.Server, p.GTIDs, more = strings.Cut(rest, "/")
		if !more {
			return Position{}, fmt.Errorf("binlog: position %.100q has no GTIDs after the server, want file:offset/server/GTIDs", text)
		}
	}
	if place != "" {
		// A file's name may hold a colon.
		cut := strings.LastIndexByte(place, ':')
		offset, err := strconv.ParseUint(place[cut+1:], 10, 63)
		if cut < 1 || err != nil || strconv.FormatUint(offset, 10) != place[cut+1:] {
			return Position{}, fmt.Errorf("binlog: position %.100q begins with %.100q, want file:offset", text, place)
		}
		p.File, p.Offset = place[:cut], offset
	}
	if err := p.validate(); err != nil {
		return Position{}, fmt.Errorf("binlog: position %.100q: %w", text, err)
	}
	return p, nil
}

// validate reports what is wrong with a position that claims to be one.
func (p Position) validate() error {
	switch {
	case p.File == "" && p.GTIDs == "":
		return fmt.Errorf("it has neither a file nor GTIDs; Stream.Now returns where the log ends")
	case p.File == "" && p.Offset != 0:
		return fmt.Errorf("it has the offset %d and no file", p.Offset)
	case !plain(p.File):
		return fmt.Errorf("the file %.100q has a character that no log's name has", p.File)
	case !plain(p.Server):
		return fmt.Errorf("the server %.100q is neither a server_uuid nor a server_id", p.Server)
	}
	_, err := flavor.ParseGTIDs(p.GTIDs)
	return err
}

// plain reports whether s has only characters that mean nothing elsewhere.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case c == '.', c == '-', c == '_', c == ':', c == '+', c == '@', c >= 0x80:
		default:
			return false
		}
	}
	return true
}

// A place is where something is in the log of one server.
type place struct {
	file   string
	offset uint64
}

// compare returns -1, 0 or +1. The files' numbers have six digits, and then more.
func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(len(p.file), len(q.file)), strings.Compare(p.file, q.file), cmp.Compare(p.offset, q.offset))
}
