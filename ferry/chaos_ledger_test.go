package ferry_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podworks/podworks"
)

// An account is what the ledgers say: what each cell must hold, and the
// transactions of which nobody knows whether they happened.
type account struct {
	certain cells
	unknown []struct{ before, after cells }
	commits int
}

// account reads all ledgers.
func (c *chaos) account() account {
	c.t.Helper()
	out := account{certain: cells{}}
	paths, err := filepath.Glob(filepath.Join(c.writer.Path, "writer-*"))
	c.must(err)
	for _, path := range paths {
		file, err := os.Open(path)
		c.must(err)
		// The last line of a killed writer may be cut off: then it had not begun to commit.
		var open cells
		settle := func(said string) {
			switch {
			case open == nil:
			case said == "yes":
				maps.Copy(out.certain, open)
				out.commits++
			default:
				before := cells{}
				for cell := range open {
					before[cell] = out.certain[cell]
					delete(out.certain, cell)
				}
				out.unknown = append(out.unknown, struct{ before, after cells }{before, open})
			}
			open = nil
		}
		lines := bufio.NewReader(file)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break
			}
			var e chaosEntry
			c.must(json.Unmarshal(line, &e))
			if e.Said != "" {
				settle(e.Said)
			} else {
				open = e.Cells
			}
		}
		settle("unknown")
		file.Close()
	}
	return out
}

// lastLife returns the last life that a killed writer wrote down, or had.
func (c *chaos) lastLife(i int) int {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.writer.Path, fmt.Sprintf("writer-%d-%d", i, c.lives[i])))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Fatal(err)
	}
	last := c.lives[i]
	for line := range strings.Lines(string(text)) {
		var e chaosEntry
		if json.Unmarshal([]byte(line), &e) != nil {
			break
		}
		last = max(last, e.Life)
		if e.Said == "unknown" { // it went on in the next
			last = max(last, e.Life+chaosWriters)
		}
	}
	return last
}

// compare holds the ledgers against the databases.
func (c *chaos) compare(route podworks.Route) {
	c.t.Helper()
	want := c.account()
	got := cells{}
	for pod, db := range c.pods {
		owners := map[string]podworks.PodID{fmt.Sprint(int64(c.writer.Others[pod])): pod, "0": nobody + pod}
		if pod == route.Pod {
			owners["7"] = 0
		}
		tables, err := layouts(c.t.Context(), db)
		c.must(err)
		for _, l := range tables {
			owner := ownerIs(c.tables, numbered(c.tables, l.name), l.name)
			answer, err := ask(c.t.Context(), db, fmt.Sprintf("SELECT k, COALESCE(%s, 0), %s FROM %s", owner, l.list, l.name))
			c.must(err)
			for _, values := range answer {
				if owner, ok := owners[values[1]]; ok {
					cell := l.name + "/" + values[0]
					got[cell] = append(got[cell], brief(owner, l.print(values[2:])))
				}
			}
		}
	}
	for _, lines := range got {
		slices.Sort(lines)
	}
	c.forgetSwept(got)
	c.forgetSwept(want.certain)
	for _, tx := range want.unknown {
		c.forgetSwept(tx.before)
		c.forgetSwept(tx.after)
	}
	happened := 0
	for _, tx := range want.unknown {
		is := func(state cells) bool {
			for cell, lines := range state {
				if !slices.Equal(lines, got[cell]) {
					return false
				}
			}
			return true
		}
		switch {
		case is(tx.after):
			maps.Copy(want.certain, tx.after)
			happened++
		case is(tx.before):
			maps.Copy(want.certain, tx.before)
		default:
			c.wrong("a transaction of unknown outcome is there in part: of %v there is %v", tx.after, pickCells(got, tx.after))
			maps.Copy(want.certain, tx.after)
		}
	}
	c.t.Logf("%d commits acknowledged, %d of unknown outcome, of which %d happened; %d rows", want.commits, len(want.unknown), happened, len(got))
	told := 0
	for _, cell := range slices.Sorted(maps.Keys(union(got, want.certain))) {
		if slices.Equal(got[cell], want.certain[cell]) {
			continue
		}
		if told++; told <= 5 {
			c.wrong("%s: got %q, the ledger says %q", cell, got[cell], want.certain[cell])
		}
	}
	if told > 5 {
		c.wrong("and %d more rows", told-5)
	}
}

// sweep deletes nobody's rows from a pod that the shop has left: they would be
// in the way of a move back, as Plan says. It remembers what it has deleted, which
// the ledgers know nothing of.
func (c *chaos) sweep(pod podworks.PodID) {
	c.t.Helper()
	for i := range slices.Backward(c.tables) {
		t := &c.tables[i]
		if t.through == "" {
			continue
		}
		where := " WHERE " + ownerIs(c.tables, i, t.name) + " IS NULL"
		tables, err := layouts(c.t.Context(), c.pods[pod])
		c.must(err)
		l := tables[slices.IndexFunc(tables, func(l layout) bool { return l.name == t.name })]
		answer, err := ask(c.t.Context(), c.pods[pod], fmt.Sprintf("SELECT k, %s FROM %s%s", l.list, l.name, where))
		c.must(err)
		for _, values := range answer {
			c.swept[l.name+"/"+values[0]+" "+brief(nobody+pod, l.print(values[1:]))] = true
		}
		c.exec(c.pods[pod], "DELETE FROM "+t.name+where)
	}
}

func (c *chaos) forgetSwept(in cells) {
	for cell, lines := range in {
		in[cell] = slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return c.swept[cell+" "+line] })
	}
}

func pickCells(from, names cells) cells {
	out := cells{}
	for cell := range names {
		out[cell] = from[cell]
	}
	return out
}
