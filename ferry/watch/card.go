package watch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podworks/podworks/ferry"
)

// A card is what the page shows of a move.
type card struct {
	ferry.Progress
	State string // for people, and read aloud when it changes
	Why   string // it waits
	Steps []step
	Share string // of the step that is done, in percent; "" if not known
	Facts []fact
	Plots []plot
	Kept  bool // a way back, rather than a move
}

// standby is the step of a way back that is kept.
const standby = "standby"

type step struct {
	Name    string
	Done    bool
	Current bool
}

type fact struct{ Name, Value string }

// steps are those that the page tells apart, with the names that Progress has for them.
var steps = []struct {
	name, doing string
	of          []string
}{
	{"Copy", "Copying", []string{"", "copy"}},
	{"Compare", "Comparing", []string{"verify", "rehearse", standby}},
	{"Switch", "Switching", []string{"prepare", "cutover", "drain", "verified", "closed", "decided"}},
	{"Prove", "Made; comparing all rows once more", []string{"opened", "prove"}},
}

func cards(all []ferry.Progress, now time.Time) []card {
	out := make([]card, len(all))
	for i, p := range all {
		out[i] = newCard(p, now)
	}
	return out
}

func newCard(p ferry.Progress, now time.Time) card {
	c := card{Progress: p}
	at := slices.IndexFunc(steps, func(s struct {
		name, doing string
		of          []string
	}) bool {
		return slices.Contains(s.of, p.Step)
	})
	for i, s := range steps {
		c.Steps = append(c.Steps, step{s.name, i < at, i == at})
	}
	c.State = p.Step
	if at >= 0 {
		c.State = steps[at].doing
	}
	switch {
	case p.Step == standby: // which doesn't pause: it only follows
		c.State, c.Kept = "The way back is kept open", true
	case p.Paused:
		c.State = "Paused"
	case p.Held != "":
		c.State += ", waiting"
		c.Why = p.Held
	}
	switch p.Step {
	case "copy":
		c.Share = percent(p.RowsCopied, p.RowsTotal)
	case "verify", "prove":
		c.Share = percent(p.RowsCompared, 2*p.RowsTotal)
	}
	left := "–"
	if p.ETA > 0 {
		left = "about " + duration(p.ETA.Round(time.Second))
	}
	c.Facts = []fact{
		{"Rows copied", count(p.RowsCopied) + " of " + count(p.RowsTotal)},
		{"Bytes copied", size(p.BytesCopied) + " of about " + size(p.BytesTotal)},
		{"Rate", count(int64(p.Rate)) + " rows/s"},
		{"Step done in", left},
		{"Behind the source", duration(p.Lag)},
		{"Changes followed", count(p.RowChanges)},
		{"Running for", duration(now.Sub(p.Began).Round(time.Second))},
	}
	if p.PredictedPause > 0 && !p.Decided() {
		c.Facts = append(c.Facts, fact{"Writers will wait about", duration(p.PredictedPause)})
	}
	if p.Table != "" {
		c.Facts = append(c.Facts, fact{"Table", p.Table})
	}
	c.Plots = []plot{
		newPlot("Rate", "rate", p.History, now, func(s ferry.Sample) float64 { return s.Rate },
			func(v float64) string { return count(int64(v)) + " rows/s" }),
		newPlot("Behind the source", "lag", p.History, now, func(s ferry.Sample) float64 { return s.Lag.Seconds() },
			func(v float64) string { return duration(time.Duration(v * float64(time.Second))) }),
	}
	return c
}

func percent(n, of int64) string {
	if of <= 0 {
		return ""
	}
	return strconv.FormatInt(min(100*n/of, 100), 10)
}

// A plot is a line over the last minutes, or over the time that the move has taken.
type plot struct {
	Name, Class string
	Most, Over  string // the highest value, and the time, for people
	Line        string // an SVG polyline's points
}

// A plot's coordinates.
const (
	plotWidth  = 300
	plotHeight = 60
	leastTime  = 30 * time.Second
	mostTime   = 5 * time.Minute
)

func newPlot(name, class string, history []ferry.Sample, now time.Time, of func(ferry.Sample) float64, text func(float64) string) plot {
	history = slices.DeleteFunc(slices.Clone(history), func(s ferry.Sample) bool { return now.Sub(s.At) > mostTime })
	most, over := 0.0, leastTime
	for _, s := range history {
		most = max(most, of(s))
		over = max(over, now.Sub(s.At))
	}
	var line strings.Builder
	for _, s := range history {
		x := plotWidth * (1 - float64(now.Sub(s.At))/float64(over))
		y := float64(plotHeight)
		if most > 0 {
			y = plotHeight * (1 - of(s)/most)
		}
		fmt.Fprintf(&line, "%.1f,%.1f ", x, y)
	}
	return plot{name, class, text(most), duration(over.Round(time.Second)), strings.TrimSpace(line.String())}
}

// count returns a number with its thousands apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for f >= 999.5 && i < len(units)-1 {
		f /= 1000
		i++
	}
	if i == 0 || f >= 9.95 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}
