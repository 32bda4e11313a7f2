package master

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
)

// What callers branch on, with errors.Is.
var (
	// ErrPrimary: the primary can't be reached or has become read-only, and
	// nothing was written. Global writes fail until it is back, or another is
	// promoted; nothing else does.
	ErrPrimary = errors.New("master: the primary database can't be reached or takes no writes; global writes fail until it is back; shops are not affected")

	// ErrBehind: the replica does not have what the session wrote, and the
	// primary, which has, can't be reached (so it is ErrPrimary too). Who can do
	// with an older value reads again with a context of WithSession(ctx, "").
	ErrBehind = errors.New("master: the replica lacks this session's last write")

	// ErrRefused: a server is not set up as it must be. Check says how it should
	// be.
	ErrRefused = errors.New("master: the server can't be used like this")

	// ErrTaken: the name belongs to another owner, or is reserved for one. The
	// error is an *Error that says for whom and how long.
	ErrTaken = errors.New("master: the name is taken")

	// ErrLapsed: the claim was not confirmed in time, and the name was claimed
	// again or the claim removed. Claim it anew before using the name.
	ErrLapsed = errors.New("master: the claim has lapsed and is no longer there")
)

// An Error says which name an error is about. It unwraps to ErrTaken or
// ErrLapsed.
type Error struct {
	Kind, Name string
	Owner      int64         // who has it, or 0
	Left       time.Duration // until it lapses, or 0 if it is confirmed or nobody's
	Err        error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%v (%s %q)", e.Err, e.Kind, e.Name)
	switch {
	case e.Owner == 0:
	case e.Left == 0:
		s += fmt.Sprintf(": it belongs to %d", e.Owner)
	default:
		s += fmt.Sprintf(": it is reserved for %d and lapses in %v if that is not confirmed", e.Owner, e.Left.Round(time.Second))
	}
	return s
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Err }

// What the servers answer.
const (
	optionPrevents      = 1290 // of read_only, for one
	readOnlyTransaction = 1792
	readOnlyMode        = 1836
	deadlock            = 1213
	recordChanged       = 1020 // MariaDB with innodb_snapshot_isolation: as a deadlock
)

// answered returns the number of the server's error in err, or 0.
func answered(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// takesNoWrites reports whether err is the answer of a server that has become
// read-only.
func takesNoWrites(err error) bool {
	n := answered(err)
	return n == optionPrevents || n == readOnlyMode
}

// lost reports whether err is the loss of a connection rather than the answer
// to a statement.
func lost(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, sql.ErrConnDone)
}
