package sharding

import "strings"

// A kind of statement, as far as the fence is concerned.
type kind int

const (
	reads   kind = iota // returns rows, writes nothing
	session             // changes or asks the session only
	writes              // needs the fence
	refused             // would lose the fence's lock
)

// kinds by first word. What is not here writes: a new kind of statement is
// fenced until someone says otherwise. A statement that calls itself a read and
// writes all the same is refused by the server, whose sessions are read-only
// outside of a fenced transaction.
var kinds = map[string]kind{
	"SELECT": reads, "SHOW": reads, "EXPLAIN": reads, "DESCRIBE": reads, "DESC": reads, "WITH": reads,
	"TABLE": reads, "VALUES": reads, "(": reads, "HELP": reads,

	"SET": session, "DO": session, "SAVEPOINT": session, "RELEASE": session, "USE": refused,

	// Transaction control as text: the transaction's owner would not know.
	"BEGIN": refused, "START": refused, "COMMIT": refused, "ROLLBACK": refused, "XA": refused,
	"PREPARE": refused, "EXECUTE": refused, "DEALLOCATE": refused, "BINLOG": refused,

	// Statements that commit implicitly, and with that give the lock away.
	"ALTER": refused, "CREATE": refused, "DROP": refused, "RENAME": refused, "TRUNCATE": refused,
	"LOCK": refused, "UNLOCK": refused, "GRANT": refused, "REVOKE": refused, "ANALYZE": refused,
	"CACHE": refused, "CHECK": refused, "FLUSH": refused, "OPTIMIZE": refused, "REPAIR": refused,
	"RESET": refused, "INSTALL": refused, "UNINSTALL": refused, "CHANGE": refused, "STOP": refused,
	"PURGE": refused, "SHUTDOWN": refused, "RESTART": refused, "CLONE": refused, "IMPORT": refused,
	"BACKUP": refused, "HANDLER": refused,
}

// classify tells a statement's kind by its beginning.
func classify(query string) kind {
	rest, ok := skipSpace(query)
	if !ok {
		return refused
	}
	word, rest := firstWord(rest)
	k, known := kinds[word]
	switch {
	case word == "":
		return refused
	case !known:
		return writes
	case word == "ROLLBACK":
		// ROLLBACK TO keeps every lock taken before the savepoint, and the fence's
		// is the first of the transaction.
		if words := fields(rest, 2); len(words) > 0 && (words[0] == "TO" || len(words) > 1 && words[0] == "WORK" && words[1] == "TO") {
			return session
		}
	case word == "CREATE" || word == "DROP":
		// Temporary tables commit nothing.
		if words := fields(rest, 3); len(words) > 0 && (words[0] == "TEMPORARY" || len(words) > 2 && words[2] == "TEMPORARY") {
			return writes
		}
	case word == "SET":
		// These would end the transaction, let later writes past the fence, or hide
		// them from the binary log that a move follows.
		upper := strings.ToUpper(rest)
		for _, name := range []string{"AUTOCOMMIT", "TRANSACTION", "TX_READ_ONLY", "SQL_LOG_BIN", "BINLOG_", "COMPLETION_TYPE", "WAIT_TIMEOUT", "WSREP_", "GTID_"} {
			if strings.Contains(upper, name) {
				return refused
			}
		}
	}
	return k
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
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] == '_') {
		i++
	}
	return strings.ToUpper(s[:i]), s[i:]
}

// fields returns up to n further words.
func fields(s string, n int) []string {
	var out []string
	for len(out) < n {
		var ok bool
		if s, ok = skipSpace(s); !ok || s == "" {
			return out
		}
		var word string
		if word, s = firstWord(s); word == "" {
			return out
		}
		out = append(out, word)
	}
	return out
}
