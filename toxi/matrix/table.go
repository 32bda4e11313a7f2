package matrix

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// An entry is one word of the table.
type entry struct {
	place
	outcome Outcome
}

// parseTable reads a table of expectations. It returns what it could read, and
// all that is wrong with the rest, by line. Lines are counted as in the source:
// a raw string's first is the one with the quote.
//
// A line whose first word has a slash names faults; another one begins with a
// section. So there is nothing to keep in line but the number of words, and a
// table can go on in a second block.
func parseTable(text string) (entries []entry, faults []error) {
	var columns []place // the current block's, without sections; zero where one is wrong
	var headed int      // the line that names them, 0 before the first
	var rows []string   // the current block's sections
	var lost bool       // there was a section before the first line of faults
	declared := map[place]int{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("Expect, line %d: "+format, append([]any{n}, args...)...))
		}
		words := strings.Fields(line)
		if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "#") }); i >= 0 {
			words = words[:i]
		}
		if len(words) == 0 {
			continue
		}

		if strings.Contains(words[0], "/") {
			columns, headed, rows = nil, n, nil
			for _, w := range words {
				dependency, of, _ := strings.Cut(w, "/")
				c := place{dependency: dependency, fault: of}
				switch {
				case !name.MatchString(dependency) || !name.MatchString(of):
					fault("%q, want a dependency and its fault, such as redis/down", w)
					c = place{}
				case slices.Contains(columns, c):
					fault("%s stands there twice", w)
					c = place{}
				}
				columns = append(columns, c)
			}
			continue
		}

		section := words[0]
		switch {
		case headed == 0 && lost:
			continue
		case headed == 0:
			fault("%q, want a line of faults first, such as redis/down, and the sections below it", section)
			lost = true
			continue
		case !name.MatchString(section):
			fault("%q, want a section's name: a word of letters, digits, _, . and -", section)
			continue
		case slices.Contains(rows, section):
			fault("section %s is there a second time below line %d", section, headed)
			continue
		}
		rows = append(rows, section)
		if len(words)-1 != len(columns) {
			fault("section %s has %s, want %d: one for each fault that line %d names", section, count(len(words)-1, "outcome"), len(columns), headed)
			continue
		}
		for i, w := range words[1:] {
			at := columns[i]
			if at == (place{}) {
				continue
			}
			at.section = section
			var o Outcome
			if err := outcomes.parse(&o, w); err != nil {
				fault("%v is %w", at, err)
				continue
			}
			if before := declared[at]; before > 0 {
				fault("%v is declared already, on line %d", at, before)
				continue
			}
			declared[at] = n
			entries = append(entries, entry{at, o})
		}
	}
	return entries, faults
}

// formatTable returns a table that parseTable reads, with a block for each
// dependency.
func formatTable(sections []string, columns []column, word func(place) string) string {
	var b strings.Builder
	for len(columns) > 0 {
		n := slices.IndexFunc(columns, func(c column) bool { return c.dependency != columns[0].dependency })
		if n < 0 {
			n = len(columns)
		}
		lines := [][]string{{""}}
		for _, c := range columns[:n] {
			lines[0] = append(lines[0], c.String())
		}
		for _, s := range sections {
			line := []string{s}
			for _, c := range columns[:n] {
				line = append(line, word(place{s, c.dependency, c.fault.Name}))
			}
			lines = append(lines, line)
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(align(lines))
		columns = columns[n:]
	}
	return b.String()
}

// align writes lines of words in columns.
func align(lines [][]string) string {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, w := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(w))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var l strings.Builder
		for i, w := range line {
			l.WriteString(w + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(w)+3))
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	return b.String()
}

// count returns a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
