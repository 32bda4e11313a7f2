package toxiproxy_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/toxiproxy"
)

func TestNewRefusesAVersionThatCannotBePrinted(t *testing.T) {
	t.Parallel()
	_, err := toxiproxy.New(&toxiproxy.Options{Version: "2\n"})
	if want := `toxiproxy: Version is "2\n", want text that can be printed`; err == nil || err.Error() != want {
		t.Errorf("New's error is %v, want %s", err, want)
	}
}

func TestAPortInUseIsToldInTheSystemsWords(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	first := listenOf(t, must(t, s, "POST", "/proxies", `{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:9"}`))
	want := "listen tcp " + first + ": bind: address already in use"
	second := fmt.Sprintf(`{"name":"b","listen":"%s","upstream":"localhost:9"}`, first)
	if w := do(s, "POST", "/proxies", second); w.Code != 500 || failureOf(t, w).Error != want {
		t.Errorf("create: %d %s, want 500 %s", w.Code, w.Body, want)
	}
	if w := do(s, "GET", "/proxies/b", ""); w.Code != 404 {
		t.Errorf("the proxy that could not listen is there: %s", w.Body)
	}
	if w := do(s, "POST", "/populate", "["+second+"]"); w.Code != 500 || failureOf(t, w).Error != want {
		t.Errorf("populate: %d %s, want 500 %s", w.Code, w.Body, want)
	}
	must(t, s, "POST", "/proxies", strings.Replace(second, "}", `,"enabled":false}`, 1))
	if w := do(s, "PATCH", "/proxies/b", `{"enabled":true}`); w.Code != 500 || failureOf(t, w).Error != want {
		t.Errorf("enable: %d %s, want 500 %s", w.Code, w.Body, want)
	}
	must(t, s, "DELETE", "/proxies/a", "")
	must(t, s, "PATCH", "/proxies/b", `{"enabled":true}`)
	if !isUp(first) {
		t.Errorf("nobody listens at %s after its owner was deleted and another enabled", first)
	}
}

func TestANameThatIsTakenCostsNoPort(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	port := listenOf(t, must(t, s, "POST", "/proxies", `{"name":"gone","upstream":"localhost:9"}`))
	must(t, s, "DELETE", "/proxies/gone", "")
	must(t, s, "POST", "/proxies", `{"name":"a","upstream":"localhost:9"}`)
	if w := do(s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","listen":"%s","upstream":"localhost:9"}`, port)); w.Code != 409 {
		t.Fatalf("%d %s, want 409", w.Code, w.Body)
	}
	if isUp(port) {
		t.Errorf("somebody listens at %s", port)
	}
}

func TestDisablingFreesThePortAndEnablingTakesItAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, echo)
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","listen":"localhost:0","upstream":"%s"}`, upstream)))
	for _, toxic := range []string{
		`{"name":"3","type":"noop"}`, `{"name":"1","type":"slicer","attributes":{"average_size":1}}`, `{"name":"2","type":"noop"}`,
	} {
		must(t, s, "POST", "/proxies/a/toxics", toxic)
	}
	toxics := must(t, s, "GET", "/proxies/a/toxics", "")

	c := dial(t, addr)
	ask(t, c, "before")
	off := must(t, s, "PATCH", "/proxies/a", `{"enabled":false}`)
	if !strings.Contains(off, `"enabled":false`) || listenOf(t, off) != addr {
		t.Errorf("a disabled proxy is %s, want it to keep %s", off, addr)
	}
	if _, err := io.ReadAll(c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still there: %v", err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port of a disabled proxy is not free: %v", err)
	}
	ln.Close()

	must(t, s, "POST", "/proxies/a", `{"enabled":true}`)
	must(t, s, "POST", "/proxies/a", `{"enabled":true}`) // is already
	ask(t, dial(t, addr), "after")
	if got := must(t, s, "GET", "/proxies/a/toxics", ""); got != toxics {
		t.Errorf("toxics\nwere %s\nare  %s", toxics, got)
	}
	if got := metric(t, s, "toxiproxy_proxy_connections_total", ""); got != 2 {
		t.Errorf("%d connections were counted, want those of both lives, 2", got)
	}
	if got := metric(t, s, "toxiproxy_proxy_sent_bytes_total", "upstream"); got != uint64(len("before")+len("after")) {
		t.Errorf("%d bytes were counted, want those of both lives", got)
	}
}

func TestToxicsOfADisabledProxyStrikeWhenItIsEnabled(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, hello("hello"))
	must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s","enabled":false,"toxics":[{"type":"limit_data","attributes":{"bytes":1}}]}`, upstream))
	must(t, s, "POST", "/proxies/a/toxics", `{"name":"none","type":"limit_data"}`)
	must(t, s, "PATCH", "/proxies/a/toxics/limit_data_downstream", `{"attributes":{"bytes":4}}`)
	must(t, s, "DELETE", "/proxies/a/toxics/none", "")
	addr := listenOf(t, must(t, s, "PATCH", "/proxies/a", `{"enabled":true}`))
	if got, _ := io.ReadAll(dial(t, addr)); string(got) != "hell" {
		t.Errorf("4 bytes of hello are %q", got)
	}
}

func TestToxicsStrikeAndAreRemoved(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, hello("hello"))
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s"}`, upstream)))
	want := func(want string) {
		t.Helper()
		if got, _ := io.ReadAll(dial(t, addr)); string(got) != want {
			t.Errorf("the server says %q through the proxy, want %q", got, want)
		}
	}
	want("hello")
	must(t, s, "POST", "/proxies/a/toxics", `{"name":"n","type":"limit_data","attributes":{"bytes":2}}`)
	want("he")
	must(t, s, "PATCH", "/proxies/a/toxics/n", `{"attributes":{"bytes":3}}`)
	want("hel")
	must(t, s, "PATCH", "/proxies/a/toxics/n", `{"toxicity":0}`)
	want("hello")
	must(t, s, "PATCH", "/proxies/a/toxics/n", `{"toxicity":1}`)
	want("hel")
	must(t, s, "DELETE", "/proxies/a/toxics/n", "")
	want("hello")
	must(t, s, "POST", "/proxies/a/toxics", `{"type":"refuse"}`)
	if isUp(addr) {
		t.Error("a proxy that refuses can be connected to")
	}
	must(t, s, "POST", "/reset", "")
	want("hello")
}

// What the API shows and what strikes is the same, also after a failure.
func TestAToxicIsGoneEvenIfTheProxyCannotListenAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, hello("hello"))
	// On all interfaces, where toxi can't keep the port of a proxy that refuses.
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","listen":":0","upstream":"%s","toxics":[{"type":"refuse"}]}`, upstream)))
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	w := do(s, "DELETE", "/proxies/a/toxics/refuse_downstream", "")
	if f := failureOf(t, w); w.Code != 500 || !strings.HasSuffix(f.Error, ": bind: address already in use") {
		t.Errorf("DELETE: %d %s, want 500 and what the port is", w.Code, w.Body)
	}
	if w := do(s, "POST", "/proxies/a/toxics", `{"type":"noop"}`); w.Code != 500 {
		t.Errorf("POST: %d %s, want 500", w.Code, w.Body)
	}
	if got := must(t, s, "GET", "/proxies/a/toxics", ""); got != "[]" {
		t.Errorf("the toxics are %s, want none", got)
	}
	ln.Close()
	must(t, s, "POST", "/proxies/a/toxics", `{"type":"noop"}`) // tries again
	if got, _ := io.ReadAll(dial(t, addr)); string(got) != "hello" {
		t.Errorf("the server says %q, want hello", got)
	}
}

func TestAProxyThatCannotMoveStaysWhereItIs(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, echo)
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s","toxics":[{"type":"noop"}]}`, upstream)))
	taken := listenOf(t, must(t, s, "POST", "/proxies", `{"name":"b","upstream":"localhost:9"}`))
	before := must(t, s, "GET", "/proxies/a", "")
	c := dial(t, addr)
	ask(t, c, "before")
	for _, body := range []string{
		fmt.Sprintf(`{"listen":"%s"}`, taken),
		`{"listen":"local373","upstream":"localhost:10"}`,
		`{"listen":"127.0.0.1:99999"}`,
		`{"listen":"192.0.2.1:80"}`, // not of this machine
	} {
		if w := do(s, "PATCH", "/proxies/a", body); w.Code != 500 {
			t.Errorf("PATCH %s: %d %s, want 500", body, w.Code, w.Body)
		}
		if got := must(t, s, "GET", "/proxies/a", ""); got != before {
			t.Errorf("after PATCH %s the proxy is %s, want %s", body, got, before)
		}
	}
	if w := do(s, "POST", "/populate", fmt.Sprintf(`[{"name":"a","upstream":"localhost:9","listen":"%s"}]`, taken)); w.Code != 500 {
		t.Errorf("populate: %d %s, want 500", w.Code, w.Body)
	}
	ask(t, c, "the connection is the same")
}

func TestAProxyMoves(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	one, two := newUpstream(t, hello("one")), newUpstream(t, hello("two"))
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s","toxics":[{"type":"noop"}]}`, one)))
	want := func(addr, want string) {
		t.Helper()
		if got, err := io.ReadAll(dial(t, addr)); string(got) != want {
			t.Errorf("%s is %q, %v, want %q", addr, got, err, want)
		}
	}
	want(addr, "one")
	toxics := must(t, s, "GET", "/proxies/a/toxics", "")
	if got := listenOf(t, must(t, s, "PATCH", "/proxies/a", fmt.Sprintf(`{"upstream":"%s"}`, two))); got != addr {
		t.Errorf("to another upstream it moved from %s to %s", addr, got)
	}
	want(addr, "two")
	if got := metric(t, s, "toxiproxy_proxy_connections_total", ""); got != 1 {
		t.Errorf("%d connections to the new upstream were counted, want 1", got)
	}

	moved := listenOf(t, must(t, s, "PATCH", "/proxies/a", `{"listen":"127.0.0.1:0"}`))
	if moved == addr || isUp(addr) {
		t.Errorf("it moved from %s to %s, and the first is up: %t", addr, moved, isUp(addr))
	}
	want(moved, "two")

	// The address it has stands in the way of the one it gets.
	_, port, _ := net.SplitHostPort(moved)
	wide := listenOf(t, must(t, s, "PATCH", "/proxies/a", fmt.Sprintf(`{"listen":"0.0.0.0:%s"}`, port)))
	want(moved, "two")
	if !strings.HasSuffix(wide, ":"+port) || wide == moved {
		t.Errorf("on all interfaces it listens on %s", wide)
	}
	if got := must(t, s, "GET", "/proxies/a/toxics", ""); got != toxics {
		t.Errorf("toxics\nwere %s\nare  %s", toxics, got)
	}
}

// The same address by another name is no reason to drop connections.
func TestTheSameListenIsNoChange(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, echo)
	for _, tt := range []struct{ first, again string }{
		{"127.0.0.1:0", "127.0.0.1:%s"},
		{"127.0.0.1:0", "localhost:%s"},
		{"localhost:0", "localhost:%s"},
		{":0", ":%s"},
		{":0", "0.0.0.0:%s"},
	} {
		addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","listen":"%s","upstream":"%s"}`, tt.first, upstream)))
		_, port, _ := net.SplitHostPort(addr)
		c := dial(t, "127.0.0.1:"+port)
		ask(t, c, "1")
		listen := fmt.Sprintf(tt.again, port)
		must(t, s, "PATCH", "/proxies/a", fmt.Sprintf(`{"listen":"%s"}`, listen))
		must(t, s, "PATCH", "/proxies/a", `{"listen":""}`)
		must(t, s, "POST", "/populate", fmt.Sprintf(`[{"name":"a","listen":"%s","upstream":"%s"}]`, listen, upstream))
		ask(t, c, "2")
		must(t, s, "DELETE", "/proxies/a", "")
	}
}

func TestPopulateLeavesWhatIsThere(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, echo)
	a := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s","toxics":[{"type":"noop"}]}`, upstream)))
	b := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"b","upstream":"%s","toxics":[{"type":"noop"}]}`, upstream)))
	must(t, s, "PATCH", "/proxies/b", `{"enabled":false}`)
	before := must(t, s, "GET", "/proxies", "")
	c := dial(t, a)
	ask(t, c, "before")

	body := fmt.Sprintf(`[{"name":"a","listen":"%s","upstream":"%s","toxics":[]},{"name":"b","listen":"%s","upstream":"%s","enabled":true}]`, a, upstream, b, upstream)
	must(t, s, "POST", "/populate", body)
	if after := must(t, s, "GET", "/proxies", ""); after != before {
		t.Errorf("populate changed\n%s\nto\n%s", before, after)
	}
	ask(t, c, "after")

	// Toxics that are named replace those that are there; the connection stays.
	got := must(t, s, "POST", "/populate", strings.Replace(body, `"toxics":[]`, `"toxics":[{"type":"slicer","attributes":{"average_size":2}}]`, 1))
	if !strings.Contains(got, `"name":"slicer_downstream"`) || strings.Count(got, `"name":"noop_downstream"`) != 1 {
		t.Errorf("populate with a slicer for one of two answers %s", got)
	}
	ask(t, c, "in slices")

	// Another upstream makes another proxy.
	got = must(t, s, "POST", "/populate", fmt.Sprintf(`[{"name":"a","listen":"%s","upstream":"localhost:9"}]`, a))
	if !strings.Contains(got, `"upstream":"localhost:9","enabled":true,"toxics":[]`) {
		t.Errorf("populate with another upstream answers %s", got)
	}
}

func TestResetGoesOnAfterAProxyThatCannotListen(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	for i := range 8 {
		listen := "127.0.0.1:0"
		if i%4 == 0 {
			listen = taken
		}
		must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"%d","listen":"%s","upstream":"localhost:9","enabled":false,"toxics":[{"type":"noop"}]}`, i, listen))
	}
	one := "listen tcp " + taken + ": bind: address already in use"
	w := do(s, "POST", "/reset", "")
	if f := failureOf(t, w); w.Code != 500 || f.Error != one+"; "+one {
		t.Errorf("reset: %d %s, want 500 and the two that failed", w.Code, w.Body)
	}
	after := must(t, s, "GET", "/proxies", "")
	if n := strings.Count(after, `"enabled":true,"toxics":[]`); n != 6 {
		t.Errorf("%d proxies were reset, want 6: %s", n, after)
	}
}

func TestPopulateReadsAConfigurationFile(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, hello("hello"))
	// As Toxiproxy has it, and with toxics in it.
	err := s.Populate(strings.NewReader(fmt.Sprintf(`[
		{"name": "plain", "listen": "127.0.0.1:0", "upstream": "%[1]s"},
		{"name": "short", "upstream": "%[1]s", "toxics": [
			{"type": "latency", "stream": "both", "attributes": {"latency": 1}},
			{"name": "two", "type": "limit_data", "attributes": {"bytes": 2}}
		]},
		{"name": "later", "listen": "127.0.0.1:3999", "upstream": "%[1]s", "enabled": false}
	]`, upstream)))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"plain": "hello", "short": "he"} {
		addr := listenOf(t, must(t, s, "GET", "/proxies/"+name, ""))
		if got, _ := io.ReadAll(dial(t, addr)); string(got) != want {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
	for config, want := range map[string]string{
		`[{"upstream":"x:1"}]`:                                `toxiproxy: missing required field: name at proxy 1`,
		`[{"name":"x","upstream":"x:1","toxics":[{}]}]`:       `toxiproxy: bad request body: proxy 1: toxics[0]: invalid toxic type`,
		`[{"name":"x","upstream":"x:1","listen":"local373"}]`: `toxiproxy: proxy 1, "x": listen tcp: address local373: missing port in address`,
		`[`: `toxiproxy: bad request body: unexpected end of JSON input`,
	} {
		if err := s.Populate(strings.NewReader(config)); err == nil || err.Error() != want {
			t.Errorf("Populate of %s: %v, want %s", config, err, want)
		}
	}
	if err := s.Populate(brokenReader{}); !errors.Is(err, errBroken) {
		t.Errorf("Populate of what can't be read: %v", err)
	}
}

type brokenReader struct{}

var errBroken = errors.New("broken")

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	dir, err := os.MkdirTemp("", "toxi")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", filepath.Join(dir, "u"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { echo(c); c.Close() }()
		}
	}()
	for _, listen := range []string{path, "unix:" + path} {
		body := must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","listen":"%s","upstream":"%s"}`, listen, ln.Addr()))
		if got := listenOf(t, body); got != listen {
			t.Errorf("a proxy on %s listens on %s", listen, got)
		}
		for range 2 {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			ask(t, c, "through sockets")
			must(t, s, "PATCH", "/proxies/a", fmt.Sprintf(`{"listen":"%s"}`, path)) // no change
			ask(t, c, "again")
			c.Close()
			must(t, s, "PATCH", "/proxies/a", `{"enabled":false}`)
			must(t, s, "PATCH", "/proxies/a", `{"enabled":true}`)
		}
		must(t, s, "DELETE", "/proxies/a", "")
	}
}

func TestCloseClosesEverythingAndAnswers503(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, echo)
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s","toxics":[{"type":"stall"}]}`, upstream)))
	must(t, s, "POST", "/proxies", `{"name":"b","upstream":"localhost:9","enabled":false}`)
	c := dial(t, addr)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if isUp(addr) {
		t.Errorf("somebody listens at %s", addr)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading from a connection of a closed proxy: %v", err)
	}
	for _, path := range []string{"/proxies", "/version", "/metrics"} {
		if w := do(s, "GET", path, ""); w.Code != 503 || failureOf(t, w).Error != "the server is closed" {
			t.Errorf("GET %s: %d %s, want 503", path, w.Code, w.Body)
		}
	}
	if err := s.Populate(strings.NewReader(`[{"name":"a","upstream":"localhost:9"}]`)); err == nil || !strings.Contains(err.Error(), "the server is closed") {
		t.Errorf("Populate: %v", err)
	}
}

func TestSeeds(t *testing.T) {
	t.Parallel()
	if a, b := newServer(t, nil).Seed(), newServer(t, nil).Seed(); a == b || a == 0 || b == 0 {
		t.Errorf("two servers have the seeds %d and %d, want random ones", a, b)
	}
	// Of 40 connections, the same ones are struck in every server of this seed.
	upstream := newUpstream(t, hello("hello"))
	struck := func(seed uint64) (pattern string) {
		s := newServer(t, &toxiproxy.Options{Seed: seed})
		addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s","toxics":[{"type":"reject","toxicity":0.5}]}`, upstream)))
		for range 40 {
			got, _ := io.ReadAll(dial(t, addr))
			pattern += fmt.Sprint(min(len(got), 1))
		}
		return pattern
	}
	one, again, other := struck(1), struck(1), struck(2)
	if one != again || one == other || !strings.Contains(one, "0") || !strings.Contains(one, "1") {
		t.Errorf("seed 1: %s, again %s, seed 2: %s", one, again, other)
	}
}
