package binlog

import (
	"fmt"
	"time"
)

// An Event is one of *[Begin], *[Rows], *[Statement], *[Savepoint], *[RollbackTo],
// *[Commit], *[Prepare], *[Rollback], *[Restart] and *[Heartbeat]. It and what
// it points to belong to the handler: the stream doesn't touch them again. Only
// a [Table] is shared, and must not be changed.
//
// A transaction is a Begin, what it did, and one of these:
//
//	Commit with no XA    its rows are committed
//	Commit with an XA    the rows before the Prepare with that XA are committed; it has none itself
//	Prepare              its rows wait, maybe for ever, for a Commit or a Rollback with the same XA
//	Rollback with an XA  the rows before the Prepare with that XA are undone; it has none itself
//	Rollback with no XA  its rows are undone; a log has such only if a table without transactions, or
//	                     a temporary one, was written to as well
//	Restart              the connection was cut, or the server died: forget the transaction, if it was
//	                     committed it comes again from its Begin
type Event interface{ event() }

func (*Begin) event()      {}
func (*Rows) event()       {}
func (*Statement) event()  {}
func (*Savepoint) event()  {}
func (*RollbackTo) event() {}
func (*Commit) event()     {}
func (*Prepare) event()    {}
func (*Rollback) event()   {}
func (*Restart) event()    {}
func (*Heartbeat) event()  {}

// A Begin begins a transaction of which something is wanted.
type Begin struct {
	Position Position  // where it begins, and from which Run delivers it again
	GTID     string    // "" if the server has none
	Time     time.Time // of the commit; see Commit
	XA       string    // the XID of an XA transaction, as the servers write it: X'6162',X'',1
	Session  uint64    // the id of the connection that wrote it, of 32 bits; 0 where the log has none, as MariaDB's for rows
}

// A Kind says what happened to rows.
type Kind uint8

// The kinds.
const (
	Insert Kind = iota + 1
	Update
	Delete
)

func (k Kind) String() string {
	switch k {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Rows are changes of rows of one table, in their order. A statement that
// changes many rows is delivered as several of them.
type Rows struct {
	Table   *Table
	Kind    Kind
	Changes []Change
	Origin  Origin
	XA      string // of the transaction: if it isn't empty, wait for its Prepare or Commit
	// Unlogged: if foreign keys with CASCADE or SET NULL refer to these rows, they did
	// their work, and the log doesn't have it. MySQL from 9.6 on logs what they do,
	// unless innodb_native_foreign_keys is set; and in sessions with foreign_key_checks=0
	// they do nothing.
	Unlogged bool
}

// A Change has a row's values before and after, one for each of the table's
// columns. See [Table] for their types. Before is nil for an insert, After for
// a delete.
type Change struct {
	Before, After []any
}

// A StatementKind says what a statement is, as far as its first words tell.
type StatementKind uint8

// The kinds of statements.
const (
	Definition StatementKind = iota + 1 // CREATE, ALTER, DROP, RENAME
	Truncate                            // all rows of the table are gone
	Write                               // rows were changed, and the log has this text in the place of the rows
	Other                               // GRANT, ANALYZE, FLUSH and the like
)

func (k StatementKind) String() string {
	switch k {
	case Definition:
		return "definition"
	case Truncate:
		return "truncate"
	case Write:
		return "write"
	case Other:
		return "other"
	}
	return fmt.Sprintf("statement kind %d", uint8(k))
}

// A Statement is something that the log has as text: a change of the schema, or
// a write of a session with binlog_format=STATEMENT. Options.Tables doesn't
// apply to statements, because nobody but the server can say for certain what a
// statement touches: there are views, functions and triggers.
type Statement struct {
	Kind     StatementKind
	Text     string
	Database string      // the session's default database, or ""
	Tables   []TableName // that the text names, as far as that can be seen without parsing all of SQL
	Origin   Origin
	XA       string
}

// A TableName names a table, or with Table "" a whole database.
type TableName struct{ Database, Table string }

func (n TableName) String() string { return n.Database + "." + n.Table }

// A Savepoint is a place in a transaction that a RollbackTo may name. The name
// is quoted as in the log. Logs have many savepoints that nothing goes back to.
type Savepoint struct{ Name string }

// A RollbackTo undoes the transaction's rows since its latest savepoint of that
// name, or all of them if no such Savepoint was delivered. The servers leave out of the log what was undone, so this is rare: it
// takes a table without transactions, or a temporary one.
type RollbackTo struct{ Name string }

// A Commit ends a transaction.
type Commit struct {
	Position Position // to go on from once the transaction is dealt with
	GTID     string
	// Time is when the transaction was committed on the server where it was
	// written first: in microseconds on MySQL, in seconds on MariaDB.
	Time   time.Time
	Origin Origin
	XA     string // of the prepared transaction that this commits, or ""
}

// A Prepare ends a transaction whose fate is decided later, by another one.
type Prepare struct {
	Position Position
	GTID     string
	Time     time.Time
	Origin   Origin
	XA       string
}

// A Rollback ends a transaction, or a prepared one.
type Rollback struct {
	Position Position
	GTID     string
	Time     time.Time
	XA       string // of the prepared transaction that this undoes, or ""
}

// A Restart takes back what has been delivered since the last Begin. A stream
// doesn't hold transactions back until they are whole, because one may be
// larger than memory; and a consumer that may die in the middle of one must be
// able to begin it again anyhow.
type Restart struct{}

// A Heartbeat says, about once in a second, that nothing wanted has happened,
// with a position to go on from. It is never in the middle of a transaction.
type Heartbeat struct {
	Position Position
	CaughtUp bool // the server has nothing more
}
