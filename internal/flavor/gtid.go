package flavor

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GTIDs name transactions of a server's binary log: on MariaDB all up to one in
// each replication domain, on MySQL ranges for each server that was a source.
// The zero value names none.
//
// The text holds letters, digits and -,:_ only, whatever it was parsed from, so
// it can stand in a statement.
type GTIDs struct {
	flavor Flavor
	text   string
}

// String returns the text that ParseGTIDs parses.
func (g GTIDs) String() string { return g.text }

// ParseGTIDs parses what a server says, or what String returned: 0-1-100,1-1-7
// on MariaDB and 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7:tag:1-3 on MySQL. It
// refuses whatever else a server would also understand, such as white space.
// The empty text is the zero GTIDs.
func ParseGTIDs(text string) (GTIDs, error) {
	switch {
	case text == "":
		return GTIDs{}, nil
	case strings.Contains(text, ":"):
		for item := range strings.SplitSeq(text, ",") {
			if !isRanges(item) {
				return GTIDs{}, fmt.Errorf("%.60q is no GTID set of MySQL", item)
			}
		}
		return GTIDs{MySQL, text}, nil
	}
	last, err := parseDomains(text)
	if err != nil {
		return GTIDs{}, err
	}
	return fromDomains(last), nil
}

// A domain is the last transaction of a replication domain of MariaDB.
type domain struct {
	id, server, sequence uint64
}

func parseDomains(text string) ([]domain, error) {
	var last []domain
	for item := range strings.SplitSeq(text, ",") {
		parts := strings.Split(item, "-")
		if len(parts) != 3 {
			return nil, fmt.Errorf("%.60q is no GTID of MariaDB", item)
		}
		id, ok1 := number(parts[0], 32)
		server, ok2 := number(parts[1], 32)
		sequence, ok3 := number(parts[2], 64)
		if !ok1 || !ok2 || !ok3 {
			return nil, fmt.Errorf("%.60q is no GTID of MariaDB", item)
		}
		last = append(last, domain{id, server, sequence})
	}
	slices.SortFunc(last, func(a, b domain) int { return cmp.Compare(a.id, b.id) })
	for i := range last[1:] {
		if last[i].id == last[i+1].id {
			return nil, fmt.Errorf("%.60q names domain %d twice", text, last[i].id)
		}
	}
	return last, nil
}

func fromDomains(last []domain) GTIDs {
	var b strings.Builder
	for i, d := range last {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d-%d-%d", d.id, d.server, d.sequence)
	}
	return GTIDs{MariaDB, b.String()}
}

// isRanges reports whether item is a UUID with intervals, or tags with
// intervals, after it.
func isRanges(item string) bool {
	parts := strings.Split(item, ":")
	if !isUUID(parts[0]) {
		return false
	}
	interval := false // whether the last part was one
	for i, part := range parts[1:] {
		if isTag(part) && (i == 0 || interval) {
			interval = false
			continue
		}
		if interval = isInterval(part); !interval {
			return false
		}
	}
	return interval
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !isDigit(s[i]) && (s[i] < 'a' || s[i] > 'f') {
				return false
			}
		}
	}
	return true
}

func isTag(s string) bool {
	if s == "" || len(s) > 32 || isDigit(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isDigit(s[i]) && s[i] != '_' && (s[i] < 'a' || s[i] > 'z') {
			return false
		}
	}
	return true
}

func isInterval(s string) bool {
	first, last, ranged := strings.Cut(s, "-")
	from, ok := number(first, 63)
	if !ok || from == 0 {
		return false
	}
	if !ranged {
		return true
	}
	to, ok := number(last, 63)
	return ok && from < to
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// number parses a number of so many bits as a server writes it.
func number(s string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, bits)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// Merge returns what a server has reached that has reached both g and later,
// where later was asked for after g was known. What a MySQL server has executed
// only grows, so there the later one holds the other; on MariaDB each may be
// ahead in another domain.
func (g GTIDs) Merge(later GTIDs) GTIDs {
	switch {
	case later.text == "":
		return g
	case g.flavor != MariaDB || later.flavor != MariaDB:
		return later
	}
	a, errA := parseDomains(g.text)
	b, errB := parseDomains(later.text)
	if errA != nil || errB != nil {
		return later // never: both were parsed before
	}
	for _, d := range a {
		i := slices.IndexFunc(b, func(o domain) bool { return o.id == d.id })
		switch {
		case i < 0:
			b = append(b, d)
		case b[i].sequence < d.sequence:
			b[i] = d
		}
	}
	slices.SortFunc(b, func(a, b domain) int { return cmp.Compare(a.id, b.id) })
	return fromDomains(b)
}

// Written returns GTIDs that hold the transaction that the session q committed
// last. They are empty if the server logs none. On MySQL they hold everything
// that the server has executed: a session can learn its own GTID only from a
// part of the protocol that the driver doesn't show.
func Written(ctx context.Context, q Queryer, f Flavor) (GTIDs, error) {
	query := `SELECT @@global.gtid_executed`
	if f == MariaDB {
		// A session that has logged nothing has no last one.
		query = `SELECT IF(@@last_gtid = '', @@global.gtid_binlog_pos, @@last_gtid)`
	}
	var text string
	if err := q.QueryRowContext(ctx, query).Scan(&text); err != nil {
		return GTIDs{}, fmt.Errorf("ask for the GTID of a write: %w", err)
	}
	return ParseGTIDs(strings.ReplaceAll(text, "\n", "")) // MySQL writes one source to a line
}

// Reached reports whether the replica q has applied g, and waits for it that
// long. A wait of 0 or less only asks; others last a millisecond or more.
func (g GTIDs) Reached(ctx context.Context, q Queryer, wait time.Duration) (bool, error) {
	if g.text == "" {
		return true, nil
	}
	// MySQL waits for ever if the time is 0, and less than it counts may become it.
	seconds := strconv.FormatFloat(max(wait, time.Millisecond).Seconds(), 'f', 3, 64)
	var query string
	switch {
	case g.flavor == MariaDB && wait <= 0:
		query = `SELECT MASTER_GTID_WAIT('` + g.text + `', 0) = 0`
	case g.flavor == MariaDB:
		query = `SELECT MASTER_GTID_WAIT('` + g.text + `', ` + seconds + `) = 0`
	case wait <= 0:
		query = `SELECT GTID_SUBSET('` + g.text + `', @@global.gtid_executed)`
	default:
		query = `SELECT WAIT_FOR_EXECUTED_GTID_SET('` + g.text + `', ` + seconds + `) = 0`
	}
	var reached sql.NullBool
	if err := q.QueryRowContext(ctx, query).Scan(&reached); err != nil {
		return false, fmt.Errorf("ask the replica for %.100s: %w", g.text, err)
	}
	if !reached.Valid {
		return false, errors.New("ask the replica for a GTID: it has no answer; does it replicate?")
	}
	return reached.Bool, nil
}
