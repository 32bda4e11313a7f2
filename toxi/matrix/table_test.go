package matrix

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestTheTableIsRead(t *testing.T) {
	t.Parallel()
	entries, faults := parseTable(`
		# what the sale needs
		            redis/down   redis/slow
		storefront  up           degraded  # without the cart's number
		checkout    down         hung

		            mysql/down
		storefront  degraded
	`)
	if err := errors.Join(faults...); err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{place{"storefront", "redis", "down"}, OutcomeUp},
		{place{"storefront", "redis", "slow"}, OutcomeDegraded},
		{place{"checkout", "redis", "down"}, OutcomeDown},
		{place{"checkout", "redis", "slow"}, OutcomeHung},
		{place{"storefront", "mysql", "down"}, OutcomeDegraded},
	}
	if !slices.Equal(entries, want) {
		t.Errorf("got %v, want %v", entries, want)
	}
}

func TestTheTableIsFoundFaultWith(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, table, want string }{
		{"no faults", "storefront up\ncheckout up", `Expect, line 1: "storefront", want a line of faults first, such as redis/down, and the sections below it`},
		{"half a fault", "redis/down slow /hung a/b/c\nstorefront up up up up", strings.Join([]string{
			`Expect, line 1: "slow", want a dependency and its fault, such as redis/down`,
			`Expect, line 1: "/hung", want a dependency and its fault, such as redis/down`,
			`Expect, line 1: "a/b/c", want a dependency and its fault, such as redis/down`,
		}, "\n")},
		{"a fault twice", "redis/down redis/down\nstorefront up up", "Expect, line 1: redis/down stands there twice"},
		{"too few", "redis/down redis/slow\nstorefront up", "Expect, line 2: section storefront has 1 outcome, want 2: one for each fault that line 1 names"},
		{"too many", "redis/down\nstorefront up up", "Expect, line 2: section storefront has 2 outcomes, want 1: one for each fault that line 1 names"},
		{"another word", "redis/down\nstorefront Up", `Expect, line 2: storefront with redis down is "Up", want up, degraded, down or hung`},
		{"a section twice", "redis/down\nstorefront up\nstorefront up", "Expect, line 3: section storefront is there a second time below line 1"},
		{"a cell twice", "redis/down\nstorefront up\nmysql/down redis/down\nstorefront up down", "Expect, line 4: storefront with redis down is declared already, on line 2"},
		{"a section that is no word", "redis/down\n(storefront) up", `Expect, line 2: "(storefront)", want a section's name: a word of letters, digits, _, . and -`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, faults := parseTable(tt.table)
			if err := errors.Join(faults...); err == nil || err.Error() != tt.want {
				t.Errorf("got:\n%v\nwant:\n%s", err, tt.want)
			}
		})
	}
}

// Whatever the table is, what was read of it has names and outcomes that can be
// written, once each, and is read again from what formatTable makes of it.
func FuzzTable(f *testing.F) {
	f.Add("redis/down redis/slow\nstorefront up degraded\ncheckout down hung # really\n\nmysql/down\ncart up")
	f.Add("a/b\na up\na up\na/b a/b\nb up up\nc/d/e\n/x\n\x00 up")
	f.Fuzz(func(t *testing.T, table string) {
		entries, faults := parseTable(table)
		seen := map[place]Outcome{}
		var sections []string
		var columns []column
		for _, e := range entries {
			if _, ok := seen[e.place]; ok {
				t.Fatalf("%v is there twice", e.place)
			}
			for _, s := range []string{e.section, e.dependency, e.fault} {
				if !name.MatchString(s) {
					t.Fatalf("%q is no name", s)
				}
			}
			if e.outcome < OutcomeUp || e.outcome > OutcomeHung {
				t.Fatalf("%v is %d", e.place, e.outcome)
			}
			seen[e.place] = e.outcome
			if !slices.Contains(sections, e.section) {
				sections = append(sections, e.section)
			}
			if c := (column{dependency: e.dependency, fault: Fault{Name: e.fault}}); !slices.ContainsFunc(columns, func(d column) bool { return d.String() == c.String() }) {
				columns = append(columns, c)
			}
		}
		if len(faults) > 0 {
			return
		}
		slices.SortStableFunc(columns, func(a, b column) int { return strings.Compare(a.dependency, b.dependency) })
		missing := 0
		again, faults := parseTable(formatTable(sections, columns, func(at place) string {
			if seen[at] == 0 {
				missing++
				return OutcomeUp.String()
			}
			return seen[at].String()
		}))
		if err := errors.Join(faults...); err != nil || len(again) != len(entries)+missing {
			t.Fatalf("read again: %d entries of %d and %d, %v", len(again), len(entries), missing, err)
		}
		for _, e := range again {
			if o := seen[e.place]; o != 0 && o != e.outcome {
				t.Fatalf("%v is %v, and was %v", e.place, e.outcome, o)
			}
		}
	})
}
