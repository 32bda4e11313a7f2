package ferry

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// String returns the plan as a report for a terminal: what there is to move,
// how long that takes, and the findings, the gravest first.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Move shop %d", p.From.Shop)
	if p.From.Pod != 0 {
		fmt.Fprintf(&b, " from pod %d", p.From.Pod)
	}
	fmt.Fprintf(&b, " to pod %d: ", p.To)
	of := map[Severity][]Finding{}
	for _, f := range p.Findings {
		of[f.Severity] = append(of[f.Severity], f)
	}
	switch n := len(of[Refuse]); n {
	case 0:
		b.WriteString("it can be made.\n")
	case 1:
		b.WriteString("refused, for 1 reason.\n")
	default:
		fmt.Fprintf(&b, "refused, for %d reasons.\n", n)
	}
	if len(p.Tables) > 0 {
		b.WriteByte('\n')
		p.table(&b)
	}
	if e := p.Estimate; e.Duration > 0 {
		fmt.Fprintf(&b, "\nIt takes about %s, and writers wait about %s.\n", rough(e.Duration), rough(e.Pause))
		fmt.Fprintf(&b, "Measured: %.0f rows read a second; round trips of %s to the source, %s to the target, %s to the directory",
			e.ReadRate, rough(e.Source), rough(e.Target), rough(e.Directory))
		fmt.Fprintf(&b, "; %s of log a second.\nHow: %s.\n", bytesText(int64(e.LogRate)), e.How)
	}
	for _, group := range []struct {
		severity Severity
		title    string
	}{{Refuse, "Refused because"}, {Warn, "Look at this first"}, {Note, "To know"}} {
		if len(of[group.severity]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n", group.title)
		for _, f := range of[group.severity] {
			do := f.Do
			f.Do = ""
			fmt.Fprintf(&b, "  - %s\n", strings.ReplaceAll(f.String(), "\n", "\n    "))
			if do != "" {
				fmt.Fprintf(&b, "    -> %s\n", do)
			}
		}
	}
	return b.String()
}

// table writes the tables, numbers to the right.
func (p *Plan) table(b *strings.Builder) {
	var lines strings.Builder
	w := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "rows\tbytes\tnext id\tthere\t")
	row := func(rows, bytes int64, next, there string) {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t\n", rows, bytesText(bytes), next, there)
	}
	number := func(n uint64) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	for _, t := range p.Tables {
		row(t.Rows, t.Bytes, number(t.AutoIncrement), number(t.TargetAutoIncrement))
	}
	row(p.Rows(), p.Bytes(), "", "")
	w.Flush()
	numbers := strings.Split(strings.ReplaceAll("\n"+lines.String(), "\n  ", "\n"), "\n")[1:] // without the first column's padding

	lines.Reset()
	w = tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "table\t%s\tkey\tfound by\n", numbers[0])
	for i, t := range p.Tables {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, numbers[i+1], cmp.Or(strings.Join(t.Key, ", "), "-"), cmp.Or(t.Index, "no index"))
	}
	fmt.Fprintf(w, "%d in all\t%s\t\t\n", len(p.Tables), numbers[len(p.Tables)+1])
	w.Flush()
	for line := range strings.Lines(lines.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// rough returns a duration with three digits, for estimates.
func rough(d time.Duration) string {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

// bytesText returns a number of bytes for people.
func bytesText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for f >= 999.5 && unit < 5 {
		f /= 1000
		unit++
	}
	if f < 10 {
		return fmt.Sprintf("%.1f %cB", f, " kMGTP"[unit])
	}
	return fmt.Sprintf("%.0f %cB", f, " kMGTP"[unit])
}
