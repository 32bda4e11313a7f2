package toxiproxy

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/podworks/podworks/toxi"
)

// A series is a counter or a gauge, of every proxy or of each of its directions.
type series struct {
	name, help, kind string
	proxy            func(toxi.Stats) uint64
	direction        func(toxi.Bytes) uint64
}

var allSeries = []series{
	{
		name: "toxiproxy_proxy_received_bytes_total", kind: "counter",
		help:      "Bytes that the proxy has read, those of open connections with them.",
		direction: func(b toxi.Bytes) uint64 { return b.Received },
	},
	{
		name: "toxiproxy_proxy_sent_bytes_total", kind: "counter",
		help:      "Bytes that the proxy has written, those of open connections with them.",
		direction: func(b toxi.Bytes) uint64 { return b.Sent },
	},
	{
		name: "toxiproxy_proxy_connections", kind: "gauge",
		help:  "Connections that are open.",
		proxy: func(s toxi.Stats) uint64 { return uint64(s.Open) },
	},
	{
		name: "toxiproxy_proxy_connections_total", kind: "counter",
		help:  "Connections that the proxy has accepted.",
		proxy: func(s toxi.Stats) uint64 { return s.Opened },
	},
	{
		name: "toxiproxy_proxy_dial_errors_total", kind: "counter",
		help:  "Connections whose upstream could not be dialed.",
		proxy: func(s toxi.Stats) uint64 { return s.DialErrors },
	},
}

// metrics writes the text format of Prometheus.
func (s *Server) metrics(*call) (reply, error) {
	type row struct {
		labels string
		stats  toxi.Stats
	}
	var rows []row
	for _, p := range s.all() {
		if st := p.now.Load(); st != nil {
			rows = append(rows, row{
				fmt.Sprintf(`listener="%s",proxy="%s",upstream="%s"`, label(st.listen), label(p.name), label(st.upstream)),
				st.stats(),
			})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.labels, b.labels) })

	var b bytes.Buffer
	head := func(name, help, kind string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	for _, m := range allSeries {
		head(m.name, m.help, m.kind)
		for _, r := range rows {
			if m.proxy != nil {
				fmt.Fprintf(&b, "%s{%s} %d\n", m.name, r.labels, m.proxy(r.stats))
				continue
			}
			fmt.Fprintf(&b, "%s{direction=\"downstream\",%s} %d\n", m.name, r.labels, m.direction(r.stats.Downstream))
			fmt.Fprintf(&b, "%s{direction=\"upstream\",%s} %d\n", m.name, r.labels, m.direction(r.stats.Upstream))
		}
	}
	if s.opts.RuntimeMetrics {
		head("go_goroutines", "Number of goroutines that currently exist.", "gauge")
		fmt.Fprintf(&b, "go_goroutines %d\n", runtime.NumGoroutine())
		head("go_info", "Information about the Go environment.", "gauge")
		fmt.Fprintf(&b, "go_info{version=\"%s\"} 1\n", label(runtime.Version()))
	}
	return reply{http.StatusOK, b.Bytes(), "text/plain; version=0.0.4; charset=utf-8"}, nil
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// label escapes the value of a label.
func label(value string) string { return labelEscapes.Replace(value) }
