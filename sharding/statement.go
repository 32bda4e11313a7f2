package sharding

import "strings"

// A kind of statement, as far as the fence is concerned.
type kind int

const (
	refused kind = iota // could lose the fence's lock
	reads               // returns rows, writes nothing
	session             // changes or asks the session only
	writes              // needs the fence
)

// kinds by first word. What is not here is refused until someone has seen that
// it keeps the lock. It must be a list of what is allowed, because what loses
// the lock has no end: transaction control as text (COMMIT, XA, and MariaDB's
// BEGIN NOT ATOMIC, IF and LOOP, which carry whole programs in one statement),
// everything that commits implicitly (DDL, TRUNCATE, LOCK TABLES, FLUSH), what
// hides one of those (PREPARE, EXECUTE), and CALL: a procedure may end the
// transaction, and the START TRANSACTION of one leaves the session writable on
// MySQL, without the lock.
//
// A statement that calls itself a read and writes all the same is refused by
// the server, whose sessions are read-only outside of a fenced transaction.
var kinds = map[string]kind{
	"SELECT": reads, "SHOW": reads, "EXPLAIN": reads, "DESCRIBE": reads, "DESC": reads, "WITH": reads,
	"TABLE": reads, "VALUES": reads, "(": reads, "HELP": reads, "CHECKSUM": reads,

	"SET": session, "DO": session, "SAVEPOINT": session, "RELEASE": session, "KILL": session, "GET": session,

	"INSERT": writes, "UPDATE": writes, "DELETE": writes, "REPLACE": writes,
}

// classify tells a statement's kind by its beginning.
func classify(query string) kind {
	rest, ok := skipSpace(query)
	if !ok {
		return refused
	}
	word, rest := firstWord(rest)
	switch word {
	case "SET":
		return classifySet(rest)
	case "LOAD":
		// LOAD INDEX commits.
		if starts(rest, "DATA") || starts(rest, "XML") {
			return writes
		}
	case "ROLLBACK":
		// ROLLBACK TO keeps every lock taken before the savepoint, and the fence's
		// is the first of the transaction.
		if starts(rest, "TO") || starts(rest, "WORK", "TO") {
			return session
		}
	case "CREATE", "DROP":
		// Temporary tables commit nothing; temporary sequences do.
		if starts(rest, "TEMPORARY", "TABLE") || starts(rest, "OR", "REPLACE", "TEMPORARY", "TABLE") {
			return writes
		}
	}
	return kinds[word]
}

// classifySet tells the kind of a SET by what comes after the word.
func classifySet(rest string) kind {
	after, ok := skipSpace(rest)
	if !ok {
		return refused
	}
	switch word, _ := firstWord(after); word {
	case "STATEMENT", // MariaDB's SET STATEMENT … FOR runs any statement
		"PASSWORD", "DEFAULT": // commit
		return refused
	}
	// These would end the transaction, let later writes past the fence, or hide
	// them from the binary log that a move follows.
	upper := strings.ToUpper(rest)
	for _, name := range []string{"AUTOCOMMIT", "TRANSACTION", "TX_READ_ONLY", "SQL_LOG_BIN", "BINLOG_", "COMPLETION_TYPE", "WSREP_", "GTID_"} {
		if strings.Contains(upper, name) {
			return refused
		}
	}
	for {
		i := strings.Index(upper, "WAIT_TIMEOUT")
		switch {
		case i < 0:
			return session
		case i == 0 || !wordByte(upper[i-1]): // not lock_wait_timeout
			return refused
		}
		upper = upper[i+1:]
	}
}

// skipSpace returns query without leading blanks and comments. It reports false
// for a comment that the server would execute, or that doesn't end.
func skipSpace(query string) (string, bool) {
	for {
		query = strings.TrimLeft(query, " \t\r\n\f\v\x00;")
		switch {
		case strings.HasPrefix(query, "/*!"), strings.HasPrefix(query, "/*M!"):
			return "", false
		case strings.HasPrefix(query, "/*"):
			_, after, ok := strings.Cut(query[2:], "*/")
			if !ok {
				return "", false
			}
			query = after
		case strings.HasPrefix(query, "#"), strings.HasPrefix(query, "--"):
			_, after, ok := strings.Cut(query, "\n")
			if !ok {
				return "", true
			}
			query = after
		default:
			return query, true
		}
	}
}

// firstWord splits off the first word, in upper case. A parenthesis is a word.
func firstWord(s string) (word, rest string) {
	if strings.HasPrefix(s, "(") {
		return "(", s[1:]
	}
	i := 0
	for i < len(s) && wordByte(s[i]) {
		i++
	}
	return strings.ToUpper(s[:i]), s[i:]
}

// wordByte reports whether the servers take c for a part of a word.
func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}

// starts reports whether s starts with words.
func starts(s string, words ...string) bool {
	for _, want := range words {
		var ok bool
		if s, ok = skipSpace(s); !ok {
			return false
		}
		var word string
		if word, s = firstWord(s); word != want {
			return false
		}
	}
	return true
}
