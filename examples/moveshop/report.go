package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// A report says how a move went; see the command's comment.
type report struct {
	Rows          int64                        `json:"rows"`
	Bytes         int64                        `json:"bytes"`
	Seconds       float64                      `json:"seconds"`
	CopySeconds   float64                      `json:"copy_seconds"`
	VerifySeconds float64                      `json:"verify_seconds"`
	RowsPerS      float64                      `json:"rows_per_s"`
	WritePauseMS  float64                      `json:"write_pause_ms"`
	Verified      bool                         `json:"verified"`
	Differences   int64                        `json:"differences"`
	Settings      map[string]map[string]string `json:"settings"` // source and target
	WriteMethod   string                       `json:"write_method"`
}

func (r *report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	verdict := "all rows are the same on both sides"
	switch {
	case r.Differences > 0:
		verdict = fmt.Sprintf("%d ROWS DIFFER", r.Differences)
	case !r.Verified:
		verdict = "NOT VERIFIED"
	}
	fmt.Fprintf(out, "%d rows, %.1f MB, in %.2f s: %.0f rows/s by %s\n", r.Rows, float64(r.Bytes)/1e6, r.Seconds, r.RowsPerS, r.WriteMethod)
	fmt.Fprintf(out, "copy %.2f s, verify %.2f s, writers waited %.1f ms; %s\n\n", r.CopySeconds, r.VerifySeconds, r.WritePauseMS, verdict)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "setting\tsource\ttarget")
	source, target := r.Settings["source"], r.Settings["target"]
	all := maps.Clone(source)
	maps.Copy(all, target)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, source[name], target[name])
	}
	return w.Flush()
}

// lastWords keep the end of what a process says on stderr.
type lastWords struct {
	mu  sync.Mutex
	end []byte
}

func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = append(l.end, p...)
	l.end = l.end[max(0, len(l.end)-4096):]
	return len(p), nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.end))
}
