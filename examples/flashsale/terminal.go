package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/podworks/podworks"
)

// status is how the sale goes, as far as the conductor knows.
type status struct {
	phase   string
	started time.Time // of the sale
	lasts   time.Duration
	hot     podworks.ShopID
	from    podworks.PodID
	to      podworks.PodID
	buyers  buyersNews
	worker  workerNews
	writer  writerNews
	move    moveNews
}

// A screen shows how the sale goes: as a block that is painted over where the
// output is a terminal, and as a line now and then where it is not.
type screen struct {
	out      io.Writer
	silent   bool
	terminal bool
	width    func() int

	mu      sync.Mutex // guards what follows
	painted int        // lines of the block on the terminal
	last    time.Time  // of the last plain line
}

func newScreen(out io.Writer, silent bool) *screen {
	s := &screen{out: out, silent: silent, width: func() int { return 80 }}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.terminal = true
		s.width = func() int {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
				return w
			}
			return 80
		}
	}
	return s
}

// say prints a line that stays.
func (s *screen) say(format string, args ...any) {
	if s.silent {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipeLocked()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// note prints a line where there is no block that shows the same.
func (s *screen) note(format string, args ...any) {
	if !s.terminal {
		s.say(format, args...)
	}
}

// show shows how it goes. It may be called as often as there is news.
func (s *screen) show(now status) {
	if s.silent {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal {
		const every = 5 * time.Second
		if time.Since(s.last) < every {
			return
		}
		s.last = time.Now()
		if !now.started.IsZero() { // what comes before is noted
			fmt.Fprintln(s.out, now.line())
		}
		return
	}
	// One write, or the block flickers.
	var b strings.Builder
	b.WriteString(s.wipe())
	lines := now.block()
	width := s.width() - 1
	for _, l := range lines {
		if r := []rune(l); len(r) > width { // a line that wraps can't be wiped
			l = string(r[:width])
		}
		b.WriteString(l + "\n")
	}
	s.painted = len(lines)
	io.WriteString(s.out, b.String())
}

// close removes the block.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipeLocked()
}

func (s *screen) wipeLocked() {
	io.WriteString(s.out, s.wipe())
	s.painted = 0
}

// wipe returns what moves the cursor to the block's beginning and clears from
// there on.
func (s *screen) wipe() string {
	if s.painted == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\x1b[J", s.painted)
}

// line returns the status in one line.
func (s status) line() string {
	b := s.buyers
	return fmt.Sprintf("%3.0f s  %d buyers, %d pages (%.0f/s, p99 %s), %d orders (%.0f/s, p99 %s), %d errors; %s",
		time.Since(s.started).Seconds(), b.Active, b.Pages, b.PagesPerSecond, short(b.PageP99), b.Orders, b.OrdersPerSecond, short(b.CheckoutP99), b.Errors, s.moving())
}

// block returns it in a block.
func (s status) block() []string {
	if s.started.IsZero() {
		return []string{s.phase}
	}
	b := s.buyers
	took := time.Since(s.started)
	return []string{
		"",
		fmt.Sprintf("  sale      %s  %.0f of %.0f s", bar(took.Seconds()/s.lasts.Seconds()), min(took, s.lasts).Seconds(), s.lasts.Seconds()),
		fmt.Sprintf("  buyers    %8s shopping   %8s came", number(b.Active), number(b.Came)),
		fmt.Sprintf("  pages     %8s            %8.0f/s     p99 %8s   %d errors", number(b.Pages), b.PagesPerSecond, short(b.PageP99), b.Errors),
		fmt.Sprintf("  orders    %8s            %8.1f/s     p99 %8s   %s sold out", number(b.Orders), b.OrdersPerSecond, short(b.CheckoutP99), number(b.SoldOut)),
		fmt.Sprintf("  payments  %8s captured", number(s.worker.Captured)),
		fmt.Sprintf("  writes    %8s            longest wait so far %s", number(s.writer.Written), short(s.writer.Longest)),
		fmt.Sprintf("  shop %-4d %s", s.hot, s.moving()),
		"  " + s.phase,
	}
}

// moving says where the hot shop is.
func (s status) moving() string {
	m := s.move
	switch {
	case m.Started == 0:
		return fmt.Sprintf("in pod %d", s.from)
	case m.Report != nil:
		return fmt.Sprintf("moved to pod %d in %.1f s, %s rows", s.to, time.Duration(m.Ended-m.Started).Seconds(), number(m.Report.RowsCopied))
	case m.Ended != 0:
		return "the move failed"
	case m.Total > 0 && m.Step == "copy":
		return fmt.Sprintf("pod %d > pod %d  %s %s, %s of %s rows", s.from, s.to, m.Step, m.Table, number(m.Copied), number(m.Total))
	}
	return strings.TrimRight(fmt.Sprintf("pod %d > pod %d  %s %s", s.from, s.to, m.Step, m.Table), " ")
}

// bar draws how much of something is done.
func bar(share float64) string {
	const width = 30
	n := max(0, min(width, int(share*width)))
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

// short shows a duration in a few digits.
func short(d time.Duration) string {
	if d < 100*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
