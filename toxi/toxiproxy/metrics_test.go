package toxiproxy_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/toxiproxy"
)

// metric returns the value of a series of proxy a, in that direction if it has one.
func metric(t testing.TB, h http.Handler, name, direction string) uint64 {
	t.Helper()
	for line := range strings.Lines(must(t, h, "GET", "/metrics", "")) {
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, `proxy="a"`) || !strings.Contains(line, `direction="`+direction) && direction != "" {
			continue
		}
		v, err := strconv.ParseUint(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Fatalf("proxy a has no %s", name)
	return 0
}

func TestBytesAreCountedWhileAConnectionIsOpen(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, echo)
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s"}`, upstream)))
	c := dial(t, addr)
	ask(t, c, "21 bytes of a message")
	want := `# HELP toxiproxy_proxy_received_bytes_total Bytes that the proxy has read, those of open connections with them.
# TYPE toxiproxy_proxy_received_bytes_total counter
toxiproxy_proxy_received_bytes_total{direction="downstream",LABELS} 21
toxiproxy_proxy_received_bytes_total{direction="upstream",LABELS} 21
# HELP toxiproxy_proxy_sent_bytes_total Bytes that the proxy has written, those of open connections with them.
# TYPE toxiproxy_proxy_sent_bytes_total counter
toxiproxy_proxy_sent_bytes_total{direction="downstream",LABELS} 21
toxiproxy_proxy_sent_bytes_total{direction="upstream",LABELS} 21
# HELP toxiproxy_proxy_connections Connections that are open.
# TYPE toxiproxy_proxy_connections gauge
toxiproxy_proxy_connections{LABELS} 1
# HELP toxiproxy_proxy_connections_total Connections that the proxy has accepted.
# TYPE toxiproxy_proxy_connections_total counter
toxiproxy_proxy_connections_total{LABELS} 1
# HELP toxiproxy_proxy_dial_errors_total Connections whose upstream could not be dialed.
# TYPE toxiproxy_proxy_dial_errors_total counter
toxiproxy_proxy_dial_errors_total{LABELS} 0
`
	want = strings.ReplaceAll(want, "LABELS", fmt.Sprintf(`listener="%s",proxy="a",upstream="%s"`, addr, upstream))
	var got string
	// The echo may be here before the proxy has counted what it sent.
	if !within(5*time.Second, func() bool { got = must(t, s, "GET", "/metrics", ""); return got == want }) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if kind := do(s, "GET", "/metrics", "").Header().Get("Content-Type"); kind != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type is %s", kind)
	}
	c.Close()
	if !within(5*time.Second, func() bool { return metric(t, s, "toxiproxy_proxy_connections", "") == 0 }) {
		t.Error("a connection that was closed counts as open")
	}
	must(t, s, "DELETE", "/proxies/a", "")
	if body := must(t, s, "GET", "/metrics", ""); strings.Contains(body, `proxy="a"`) {
		t.Errorf("a proxy that was deleted is still there:\n%s", body)
	}
}

func TestUpstreamsThatRefuseAreCounted(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	addr := listenOf(t, must(t, s, "POST", "/proxies", `{"name":"a","upstream":"127.0.0.1:9"}`))
	dial(t, addr)
	if !within(5*time.Second, func() bool { return metric(t, s, "toxiproxy_proxy_dial_errors_total", "") == 1 }) {
		t.Errorf("%d dial errors are counted, want 1", metric(t, s, "toxiproxy_proxy_dial_errors_total", ""))
	}
}

func TestLabelsAreEscaped(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	must(t, s, "POST", "/proxies", `{"name":"a\"b\\c\nd","listen":"x:1","upstream":"y:2","enabled":false}`)
	if body := must(t, s, "GET", "/metrics", ""); !strings.Contains(body, `{listener="x:1",proxy="a\"b\\c\nd",upstream="y:2"} 0`+"\n") {
		t.Errorf("got\n%s", body)
	}
}

func TestRuntimeMetricsAreThereIfAskedFor(t *testing.T) {
	t.Parallel()
	runtimeMetrics := regexp.MustCompile(`(?m)^go_goroutines \d+\n(#.*\n)*^go_info\{version="go[^"]+"\} 1\n`)
	for _, asked := range []bool{false, true} {
		s := newServer(t, &toxiproxy.Options{RuntimeMetrics: asked})
		if got := runtimeMetrics.MatchString(must(t, s, "GET", "/metrics", "")); got != asked {
			t.Errorf("RuntimeMetrics is %t, and they are there: %t", asked, got)
		}
	}
}
