package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/podworks/podworks/ferry"
)

// A progress shows how far a move is: in a line that is painted over where the
// output is a terminal, and elsewhere in a line at each step and once a second. Its
// methods are called from one goroutine.
type progress struct {
	out      io.Writer
	terminal bool
	open     bool // the line on the terminal

	step  string
	since time.Time // the step
	last  time.Time // a line was written
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, terminal: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"}
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	p.done()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) show(now ferry.Progress) {
	fresh := now.Step != p.step
	if fresh {
		p.step, p.since = now.Step, time.Now()
	}
	if !p.terminal && !fresh && time.Since(p.last) < time.Second {
		return
	}
	p.last = time.Now()
	line := fmt.Sprintf("%-8s %-20s %d of %d rows, %d changes followed", now.Step, now.Table, now.RowsCopied, now.RowsTotal, now.RowChanges)
	if took := time.Since(p.since).Seconds(); now.Step == "copy" && took > 0.1 {
		line += fmt.Sprintf(", %.0f rows/s", float64(now.RowsCopied)/took)
	}
	if !p.terminal {
		fmt.Fprintln(p.out, line)
		return
	}
	if fresh {
		p.done()
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
	p.open = true
}

// done ends the line on the terminal.
func (p *progress) done() {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}
