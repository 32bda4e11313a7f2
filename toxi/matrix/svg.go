package matrix

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// The measures of the picture, in its pixels. Nothing can measure text here, so
// letters are taken to be as wide as wide ones are.
const (
	svgMargin = 20.0
	svgTop    = 62.0   // of the title and what it says
	svgHead   = 52.0   // of the dependencies and their faults
	svgCell   = 40.0   // the height of a cell
	svgGap    = 4.0    // between cells
	svgGroup  = 14.0   // between dependencies, in addition
	svgLetter = 7.2    // the width of a letter at 13 px
	svgSymbol = 33.0   // what a cell needs besides its word
	svgMost   = 1400.0 // a picture that would be wider has symbols only, in cells of
	svgDense  = 30.0   // this width
	svgLegend = 48.0
)

// svgStyle has the colours of page.html. A picture in a README knows only what
// the system prefers.
const svgStyle = `
    .page { fill: #ffffff; stroke: #d9dee7 } text { fill: #1b2230; font: 13px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif }
    .title { font-size: 17px; font-weight: 650 } .soft { fill: #5c6675; font-size: 12px } .small { font-size: 11px } .strong { font-weight: 600 }
    .group { fill: #eef1f6 } .hole { fill: none; stroke: #d9dee7; stroke-dasharray: 3 4 }
    .up rect { fill: #d6f3df } .up text { fill: #0e5a2b } .up .ink { fill: #1a8a47; stroke: #1a8a47 }
    .degraded rect { fill: #ffeeb8 } .degraded text { fill: #684700 } .degraded .ink { fill: #a87400; stroke: #a87400 }
    .down rect { fill: #ffdad4 } .down text { fill: #8c1a10 } .down .ink { fill: #cf3a2b; stroke: #cf3a2b }
    .hung rect { fill: #e9defc } .hung text { fill: #4f2a94 } .hung .ink { fill: #7c4ddb; stroke: #7c4ddb }
    .none rect { fill: #eef1f6 } .none text { fill: #465062 } .none .ink { fill: #5c6675; stroke: #5c6675 }
    .red rect { stroke: #b3001b; stroke-width: 2.5 } .ink.line { fill: none; stroke-width: 2 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #12161d; stroke: #2b3340 } text { fill: #e8ecf2 } .soft { fill: #98a3b3 } .group { fill: #1d2430 } .hole { stroke: #2b3340 }
      .up rect { fill: #123822 } .up text { fill: #9deab8 } .up .ink { fill: #45c878; stroke: #45c878 }
      .degraded rect { fill: #43330a } .degraded text { fill: #ffdf8a } .degraded .ink { fill: #e8b23a; stroke: #e8b23a }
      .down rect { fill: #4a1a16 } .down text { fill: #ffb9ae } .down .ink { fill: #ff7a6b; stroke: #ff7a6b }
      .hung rect { fill: #321f57 } .hung text { fill: #d6c2ff } .hung .ink { fill: #b08cff; stroke: #b08cff }
      .none rect { fill: #1d2430 } .none text { fill: #b6c0ce } .none .ink { fill: #98a3b3; stroke: #98a3b3 }
      .red rect { stroke: #ff5c6c } .ink.line { fill: none }
    }
`

// WriteSVG writes the matrix as a picture for a README, for light and dark. Like
// the Markdown, it has neither durations nor dates.
func (r *Report) WriteSVG(w io.Writer) error {
	groups := r.groups()
	side := 0.0 // the width of the sections' column
	for _, row := range r.Rows {
		side = max(side, width(row.Section), width(row.Owner)*12/13)
	}
	side = min(side, 250) + 18
	lefts := map[Column]float64{} // where columns begin
	widths := map[Column]float64{}
	head := svgHead
	x := svgMargin + side
	// With words in the cells if there is room for them.
	dense := false
	place := func() {
		for _, g := range groups {
			for _, c := range g.Columns {
				if dense {
					widths[c] = svgDense
				} else {
					// Wide enough for every outcome: another one doesn't move the rest.
					widths[c] = max(width(OutcomeDegraded.String())+svgSymbol, width(c.Fault)+16)
					for _, row := range r.Rows {
						if cell := r.Cell(row.Section, c.Dependency, c.Fault); cell != nil {
							word, instead := cell.brief()
							widths[c] = max(widths[c], max(width(word), width(instead)*11/13)+svgSymbol)
						}
					}
				}
				widths[c] = max(widths[c], (width(c.Dependency)+16)/float64(len(g.Columns)))
				lefts[c] = x
				x += widths[c] + svgGap
			}
			x += svgGroup
		}
	}
	place()
	if x > svgMost {
		dense, x = true, svgMargin+side
		place()
		for _, c := range r.Columns {
			head = max(head, 44+width(c.Fault)*12/13)
		}
	}
	// The legend may be wider than a small matrix.
	legend := svgMargin
	for o := OutcomeUp; o <= OutcomeHung; o++ {
		legend += 24 + width(o.String()+": "+o.short())*12/13
	}
	full := max(x-svgGap-svgGroup, width(r.Name+": "+svgTitle)*17/13+svgMargin, legend) + svgMargin
	high := svgTop + head + float64(len(r.Rows))*(svgCell+svgGap) + svgLegend

	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="title description">`+"\n", full, high, full, high)
	p("  <title id=\"title\">Resiliency matrix: %s</title>\n  <desc id=\"description\">%s</desc>\n", text(r.Name), text(r.sentences()))
	p("  <style>%s  </style>\n", svgStyle)
	p(`  <rect class="page" x=".5" y=".5" width="%.0f" height="%.0f" rx="12"/>`+"\n", full-1, high-1)
	p(`  <text class="title" x="%.0f" y="34">%s: %s</text>`+"\n", svgMargin, text(r.Name), svgTitle)
	p(`  <text class="soft" x="%.0f" y="53">%s</text>`+"\n", svgMargin, text(r.verdict()))
	for _, g := range groups {
		first, last := g.Columns[0], g.Columns[len(g.Columns)-1]
		span := lefts[last] + widths[last] - lefts[first]
		p(`  <rect class="group" x="%.1f" y="%.0f" width="%.1f" height="22" rx="6"/><text class="strong" x="%.1f" y="%.0f" text-anchor="middle">%s</text>`+"\n",
			lefts[first], svgTop+4, span, lefts[first]+span/2, svgTop+19, text(g.Dependency))
		for _, c := range g.Columns {
			if dense { // from the cells upwards
				across, up := lefts[c]+widths[c]/2+4, svgTop+head-8
				p(`  <text class="soft" x="%.1f" y="%.1f" transform="rotate(-90 %.1f %.1f)">%s</text>`+"\n", across, up, across, up, text(c.Fault))
				continue
			}
			p(`  <text class="soft" x="%.1f" y="%.0f" text-anchor="middle">%s</text>`+"\n", lefts[c]+widths[c]/2, svgTop+43, text(c.Fault))
		}
	}
	y := svgTop + head
	for _, row := range r.Rows {
		p(`  <text class="strong" x="%.0f" y="%.0f">%s</text><text class="soft" x="%.0f" y="%.0f">%s</text>`+"\n",
			svgMargin, y+17, text(clip(row.Section)), svgMargin, y+33, text(clip(row.Owner)))
		for _, c := range r.Columns {
			cell := r.Cell(row.Section, c.Dependency, c.Fault)
			if cell == nil {
				p(`  <rect class="hole" x="%.1f" y="%.1f" width="%.1f" height="%.0f" rx="7"/>`+"\n", lefts[c]+.5, y+.5, widths[c]-1, svgCell-1)
				continue
			}
			p(`  <g class="%s"><rect x="%.1f" y="%.0f" width="%.1f" height="%.0f" rx="7"/>`, cell.class(), lefts[c], y, widths[c], svgCell)
			if dense {
				p(`%s</g>`+"\n", cell.shape().at(lefts[c]+widths[c]/2, y+svgCell/2))
				continue
			}
			word, instead := cell.brief()
			p(`%s`, cell.shape().at(lefts[c]+14, y+svgCell/2))
			if instead == "" {
				p(`<text x="%.1f" y="%.1f">%s</text></g>`+"\n", lefts[c]+25, y+svgCell/2+4.5, word)
				continue
			}
			p(`<text x="%.1f" y="%.1f">%s</text><text class="small" x="%.1f" y="%.1f">%s</text></g>`+"\n", lefts[c]+25, y+17.5, word, lefts[c]+25, y+31.5, instead)
		}
		y += svgCell + svgGap
	}
	x, y = svgMargin, y+26
	for o := OutcomeUp; o <= OutcomeHung; o++ {
		says := o.String() + ": " + o.short()
		p(`  <g class="%v">%s</g><text class="soft" x="%.1f" y="%.1f">%s</text>`+"\n", o, shape(o.String()).at(x+6, y-4), x+19, y, says)
		x += 24 + width(says)*12/13
	}
	p("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

const svgTitle = "what users get while a dependency fails"

// short is the meaning of an outcome in few words.
func (o Outcome) short() string {
	return [...]string{"", "everything", "without something", "an error", "no answer"}[o]
}

// A shape is the symbol of a cell: its outcome, or failed, untested, not run.
type shape string

func (c *Cell) shape() shape {
	if c.State == StatePassed {
		return shape(c.Got.String())
	}
	return shape(c.State.String())
}

// at draws the shape around a point. Those of outcomes say how much of the service
// is left: a full disc, half of one, a ring, and a ring in pieces.
func (s shape) at(x, y float64) string {
	switch s {
	case "up":
		return fmt.Sprintf(`<circle class="ink" cx="%.1f" cy="%.1f" r="6"/>`, x, y)
	case "degraded":
		return fmt.Sprintf(`<circle class="ink line" cx="%.1f" cy="%.1f" r="6"/><path class="ink" d="M%.1f %.1fa6 6 0 0 0 0 12z"/>`, x, y, x, y-6)
	case "down":
		return fmt.Sprintf(`<circle class="ink line" cx="%.1f" cy="%.1f" r="6"/>`, x, y)
	case "hung":
		return fmt.Sprintf(`<circle class="ink line" cx="%.1f" cy="%.1f" r="6" stroke-dasharray="2.6 2.1"/>`, x, y)
	case "passed":
		return fmt.Sprintf(`<path class="ink line" d="M%.1f %.1fl3.5 4l7 -8.5"/>`, x-5.5, y+.5)
	case "failed":
		return fmt.Sprintf(`<path class="ink line" d="M%.1f %.1fl10 10m0 -10l-10 10"/>`, x-5, y-5)
	case "untested":
		return fmt.Sprintf(`<path class="ink line" d="M%.1f %.1fa3.4 3.4 0 1 1 4.6 3.2q-1.4 .6 -1.4 2.3m0 2.6v1.6"/>`, x-3.4, y-3.2)
	}
	return fmt.Sprintf(`<path class="ink line" d="M%.1f %.1fh10"/>`, x-5, y)
}

// class is the class of a cell in pictures and pages.
func (c *Cell) class() string {
	class := "none"
	if c.Got != 0 && c.State != StateUntested {
		class = c.Got.String()
	}
	if c.State.Red() {
		class += " red"
	}
	return class
}

// brief returns the word for a cell in pictures and pages, and, of one that is
// not as declared, what stands below it.
func (c *Cell) brief() (word, instead string) {
	if c.Got == 0 {
		return c.State.String(), ""
	}
	switch {
	case c.State == StateUntested:
		return c.State.String(), "got " + c.Got.String()
	case c.State == StateFailed && c.Got != c.Expected:
		return c.Got.String(), "not " + c.Expected.String()
	case c.State == StateFailed:
		return c.Got.String(), "but failed"
	}
	return c.Got.String(), ""
}

// A group is the faults of one dependency.
type group struct {
	Dependency string
	Columns    []Column
}

// groups returns the columns by dependency, in their order.
func (r *Report) groups() []group {
	var groups []group
	for _, c := range r.Columns {
		if n := len(groups); n > 0 && groups[n-1].Dependency == c.Dependency {
			groups[n-1].Columns = append(groups[n-1].Columns, c)
			continue
		}
		groups = append(groups, group{c.Dependency, []Column{c}})
	}
	return groups
}

// sentences say what the picture shows, for those who don't see it.
func (r *Report) sentences() string {
	var all []string
	for _, row := range r.Rows {
		var cells []string
		for _, c := range r.Columns {
			if cell := r.Cell(row.Section, c.Dependency, c.Fault); cell != nil {
				cells = append(cells, cell.word()+" with "+c.Dependency+" "+c.Fault)
			}
		}
		all = append(all, row.Section+" is "+strings.Join(cells, "; ")+".")
	}
	return strings.Join(all, " ")
}

// text escapes what strangers wrote for XML.
func text(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(strings.Join(strings.Fields(s), " "))) // a Buffer takes everything
	return b.String()
}

// clip shortens a name to what its column has room for.
func clip(s string) string {
	const most = 34
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// width estimates the width of a text at 13 px.
func width(s string) float64 { return float64(utf8.RuneCountInString(s)) * svgLetter }
