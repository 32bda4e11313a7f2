package binlog

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/podworks/podworks/internal/flavor"
)

// gtids is the set of transactions that have been delivered. The text is kept
// per source, so that a transaction costs a few copies and no formatting of
// what has not changed: some servers have had fifty sources in their life.
type gtids struct {
	family  flavor.Flavor
	sources []source // in order
}

// A source is a domain of MariaDB, or a server and a tag of MySQL.
type source struct {
	id   string // domain, or UUID
	tag  string
	runs []run  // MySQL: in order, with gaps between them
	text string // after the id and the tag
}

// A run is an interval of transaction numbers, both ends in it.
type run struct{ first, last uint64 }

// parseGTIDs parses what a server says. White space, which MySQL puts between
// sources, must be gone.
func parseGTIDs(text string) (*gtids, error) {
	known, err := flavor.ParseGTIDs(text)
	if err != nil {
		return nil, err
	}
	g := &gtids{family: flavor.MariaDB}
	if text == "" {
		return g, nil
	}
	// The text is valid now: it has the parts that are looked for below.
	if !strings.Contains(text, ":") {
		for item := range strings.SplitSeq(known.String(), ",") {
			id, rest, _ := strings.Cut(item, "-")
			g.sources = append(g.sources, source{id: id, text: rest})
		}
		return g, nil
	}
	g.family = flavor.MySQL
	for item := range strings.SplitSeq(text, ",") {
		parts := strings.Split(item, ":")
		at := g.source(parts[0], "")
		for _, part := range parts[1:] {
			if part[0] < '0' || part[0] > '9' {
				at = g.source(parts[0], part)
				continue
			}
			first, last, ranged := strings.Cut(part, "-")
			r := run{}
			r.first, _ = strconv.ParseUint(first, 10, 64)
			if r.last = r.first; ranged {
				r.last, _ = strconv.ParseUint(last, 10, 64)
			}
			g.sources[at].add(r)
		}
	}
	g.sources = slices.DeleteFunc(g.sources, func(s source) bool { return len(s.runs) == 0 })
	return g, nil
}

// source returns the index of a source, and makes it if there is none.
func (g *gtids) source(id, tag string) int {
	i, ok := slices.BinarySearchFunc(g.sources, source{id: id, tag: tag}, func(a, b source) int {
		return cmp.Or(strings.Compare(a.id, b.id), strings.Compare(a.tag, b.tag))
	})
	if !ok {
		g.sources = slices.Insert(g.sources, i, source{id: id, tag: tag})
	}
	return i
}

// addMySQL adds one transaction.
func (g *gtids) addMySQL(uuid, tag string, number uint64) {
	g.family = flavor.MySQL
	g.sources[g.source(uuid, tag)].add(run{number, number})
}

// addMariaDB makes a transaction the last one of its domain. In a domain the
// order of the log is what counts, not the numbers.
func (g *gtids) addMariaDB(domain, server uint32, sequence uint64) {
	s := &g.sources[g.source(strconv.FormatUint(uint64(domain), 10), "")]
	s.text = strconv.FormatUint(uint64(server), 10) + "-" + strconv.FormatUint(sequence, 10)
}

// add adds a run, which joins those that it overlaps or touches.
func (s *source) add(r run) {
	i := len(s.runs) // nearly always the new one goes to the end
	for i > 0 && s.runs[i-1].last+1 >= r.first {
		i--
	}
	j := i
	for j < len(s.runs) && s.runs[j].first <= r.last+1 {
		r.first, r.last = min(r.first, s.runs[j].first), max(r.last, s.runs[j].last)
		j++
	}
	s.runs = slices.Replace(s.runs, i, j, r)
	b := make([]byte, 0, len(s.text)+8)
	for i, r := range s.runs {
		if i > 0 {
			b = append(b, ':')
		}
		b = strconv.AppendUint(b, r.first, 10)
		if r.last > r.first {
			b = strconv.AppendUint(append(b, '-'), r.last, 10)
		}
	}
	s.text = string(b)
}

// String returns the set as the servers write it.
func (g *gtids) String() string {
	if g == nil {
		return ""
	}
	between := ":"
	if g.family == flavor.MariaDB {
		between = "-"
	}
	var b strings.Builder
	for i, s := range g.sources {
		if i == 0 || g.sources[i-1].id != s.id {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(s.id)
		}
		if s.tag != "" {
			b.WriteString(":" + s.tag)
		}
		b.WriteString(between + s.text)
	}
	return b.String()
}

// known reports whether a MariaDB server whose gtid_binlog_state is given has
// written all of g to its log, and if not, names what it lacks. The state has
// the last transaction that each server wrote in each domain.
func (g *gtids) known(state string) (lacking string, err error) {
	last := map[string]uint64{}
	for item := range strings.SplitSeq(state, ",") {
		if item == "" {
			continue
		}
		cut := strings.LastIndexByte(item, '-')
		n, err := strconv.ParseUint(item[cut+1:], 10, 64)
		if cut < 0 || err != nil {
			return "", fmt.Errorf("gtid_binlog_state has %.60q", item)
		}
		last[item[:cut]] = n
	}
	for _, s := range g.sources {
		server, sequence, _ := strings.Cut(s.text, "-")
		n, _ := strconv.ParseUint(sequence, 10, 64)
		if has, ok := last[s.id+"-"+server]; !ok || has < n {
			return s.id + "-" + s.text, nil
		}
	}
	return "", nil
}
