package binlog

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// newStatement tells what a text is.
func newStatement(text, database string) *Statement {
	st := &Statement{Kind: Other, Text: text, Database: database}
	word, second := firstWords(text)
	switch word {
	case "CREATE", "ALTER", "DROP", "RENAME":
		st.Kind = Definition
		switch second {
		case "USER", "ROLE":
			st.Kind = Other
			return st
		case "DATABASE", "SCHEMA":
			st.Tables = []TableName{{namedDatabase(text, database), ""}}
			return st
		}
	case "TRUNCATE":
		st.Kind = Truncate
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "CALL", "SELECT", "WITH", "DO", "IMPORT", "VALUES", "TABLE":
		st.Kind = Write
	case "ANALYZE", "EXPLAIN", "DESCRIBE", "DESC": // MariaDB runs the statement that it analyzes
		if second == "TABLE" || second == "LOCAL" || second == "NO_WRITE_TO_BINLOG" || word != "ANALYZE" {
			return st
		}
		st.Kind = Write
	default:
		return st
	}
	st.Tables = namedTables(text, database)
	return st
}

// A token is a word, a quoted identifier, or a character of its own.
type token struct {
	text   string
	quoted bool
}

// is reports whether the token is one of the keywords, given in upper case.
func (t token) is(words ...string) bool {
	return !t.quoted && slices.Contains(words, strings.ToUpper(t.text))
}

// names reports whether the token can be a name.
func (t token) names() bool { return t.quoted || t.text != "" && wordByte(t.text[0]) }

func wordByte(c byte) bool {
	return c == '_' || c == '$' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf
}

// next cuts the first token off a text: without comments, but with what is in
// those that the server runs, and without strings. ok is false at the end.
func next(text string) (t token, rest string, ok bool) {
	for text != "" {
		switch c := text[0]; {
		case strings.HasPrefix(text, "/*!"), strings.HasPrefix(text, "/*M!"):
			_, text, _ = strings.Cut(text, "!")
			text = strings.TrimLeft(text, "0123456789") // the version from which on
		case strings.HasPrefix(text, "*/"):
			text = text[2:]
		case strings.HasPrefix(text, "/*"):
			_, text, _ = strings.Cut(text[2:], "*/")
		case c == '#', text == "--", strings.HasPrefix(text, "--") && strings.ContainsRune(" \t\r\n", rune(text[2])):
			_, text, _ = strings.Cut(text, "\n")
		case c == '`', c == '"', c == '\'':
			inside, rest := unquote(text)
			if text = rest; c != '\'' { // a name in double quotes is one with sql_mode ANSI_QUOTES
				return token{inside, true}, rest, true
			}
		case wordByte(c):
			end := 1
			for end < len(text) && wordByte(text[end]) {
				end++
			}
			return token{text[:end], false}, text[end:], true
		case strings.IndexByte(" \t\r\n\f\v", c) >= 0:
			text = text[1:]
		default:
			return token{text[:1], false}, text[1:], true
		}
	}
	return token{}, "", false
}

// unquote returns what is between the quote at the start of text and its end.
func unquote(text string) (inside, rest string) {
	quote := text[0]
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quote != '`' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case c != quote:
			b.WriteByte(c)
		case i+1 < len(text) && text[i+1] == quote:
			i++
			b.WriteByte(c)
		default:
			return b.String(), text[i+1:]
		}
	}
	return b.String(), ""
}

// firstWords returns the first two words of a statement in upper case.
func firstWords(text string) (first, second string) {
	word := func() string {
		for {
			t, rest, ok := next(text)
			if !ok {
				return ""
			}
			if text = rest; t.text == "(" || t.text == ";" {
				continue
			}
			if t.quoted || !t.names() {
				return ""
			}
			return strings.ToUpper(t.text)
		}
	}
	if first = word(); first != "" {
		second = word()
	}
	return first, second
}

// namedTables returns the tables that a statement names after the words that
// come before a table's name. It knows no more grammar than that: a word too
// many does no harm, and for what a function or a view does there is no help.
func namedTables(text, database string) []TableName {
	var list []TableName
	var tokens []token
	for rest := text; len(tokens) < 1000; { // a long INSERT has its table at the start
		t, more, ok := next(rest)
		if !ok {
			break
		}
		tokens, rest = append(tokens, t), more
	}
	at := func(i int) token {
		if 0 <= i && i < len(tokens) {
			return tokens[i]
		}
		return token{}
	}
	first, _ := firstWords(text)
	for i := 0; i < len(tokens); i++ {
		switch word := tokens[i]; {
		case word.is("TABLE", "TABLES", "TRUNCATE", "INTO", "FROM", "JOIN", "REFERENCES", "INSERT", "REPLACE"):
		case word.is("UPDATE", "DELETE") && !at(i-1).is("KEY", "ON", "FOR"):
		case word.is("TO") && (first == "RENAME" || first == "ALTER"):
		case word.is("ON") && (first == "CREATE" || first == "DROP") && !at(i+1).is("UPDATE", "DELETE"):
		case word.is("LIKE") && first == "CREATE":
		default:
			continue
		}
		j := i + 1
		for at(j).is("IF", "NOT", "EXISTS", "IGNORE", "LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "ONLY", "TABLE", "INTO", "FROM") {
			j++
		}
		for {
			name := at(j)
			if !name.names() || name.is("SET", "SELECT", "VALUES", "VALUE", "DELETE", "UPDATE", "KEY", "DUPLICATE", "SAVEPOINT", "CASCADE", "RESTRICT", "AS") ||
				!name.quoted && '0' <= name.text[0] && name.text[0] <= '9' {
				break
			}
			table := TableName{database, name.text}
			if j++; at(j).text == "." && at(j+1).names() {
				table = TableName{name.text, at(j + 1).text}
				j += 2
			}
			if table.Database != "" && !slices.Contains(list, table) {
				list = append(list, table)
			}
			if at(j).text != "," || !tokens[i].is("TABLE", "TABLES", "FROM", "UPDATE") && first != "RENAME" {
				break
			}
			j++
		}
		i = j - 1
	}
	return list
}

// namedDatabase returns the database that a statement about one names, or the
// default one if it names none.
func namedDatabase(text, database string) string {
	for past := false; ; {
		t, rest, ok := next(text)
		if !ok {
			return database
		}
		switch text = rest; {
		case !past:
			past = t.is("DATABASE", "SCHEMA")
		case t.is("IF", "NOT", "EXISTS"):
		case !t.names() || t.is("DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "COMMENT", "ENCRYPTION", "READ"):
			return database
		default:
			return t.text
		}
	}
}

// mentions reports whether a name may be in a text: as a whole word, in any
// case, in whatever quotes, even in a string. A name that is not plain ASCII may
// be written in a character set that isn't known here, so it always may.
func mentions(text, name string) bool {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			return true
		}
	}
	text, name = strings.ToLower(text), strings.ToLower(strings.ReplaceAll(name, "`", "``"))
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 || name == "" {
			return false
		}
		start, end := from+i, from+i+len(name)
		if (start == 0 || !wordByte(text[start-1]) || !wordByte(name[0])) && (end == len(text) || !wordByte(text[end]) || !wordByte(name[len(name)-1])) {
			return true
		}
		from = start + 1
	}
}
