package toxiproxy_test

import (
	"fmt"
	"testing"
)

// One toxic comes and goes, in two requests. The promise is under a millisecond each
// with 100 connections.
func BenchmarkAddAndDeleteToxic(b *testing.B) {
	for _, conns := range []int{0, 100} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			s := newServer(b, nil)
			upstream := newUpstream(b, echo)
			addr := listenOf(b, must(b, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s"}`, upstream)))
			for range conns {
				ask(b, dial(b, addr), "hello")
			}
			b.ReportAllocs()
			for b.Loop() {
				must(b, s, "POST", "/proxies/a/toxics", `{"name":"n","type":"latency","attributes":{"latency":100}}`)
				must(b, s, "DELETE", "/proxies/a/toxics/n", "")
			}
		})
	}
}

// A proxy is disabled and enabled, in two requests.
func BenchmarkDisableAndEnable(b *testing.B) {
	s := newServer(b, nil)
	must(b, s, "POST", "/proxies", `{"name":"a","upstream":"localhost:9","toxics":[{"type":"latency"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		must(b, s, "PATCH", "/proxies/a", `{"enabled":false}`)
		must(b, s, "PATCH", "/proxies/a", `{"enabled":true}`)
	}
}

func BenchmarkListAHundredProxies(b *testing.B) {
	s := newServer(b, nil)
	for i := range 100 {
		must(b, s, "POST", "/proxies", fmt.Sprintf(`{"name":"%d","upstream":"localhost:9","toxics":[{"type":"latency"}]}`, i))
	}
	b.ReportAllocs()
	for b.Loop() {
		must(b, s, "GET", "/proxies", "")
	}
}
