package toxiproxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
	"github.com/podworks/podworks/toxi/toxiproxy"
)

// Not parallel: it counts what the whole process has open.
func TestThousandsOfProxiesComeAndGo(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 500
	}
	s := newServer(t, nil)
	must(t, s, "GET", "/proxies", "")
	descriptors, goroutines := openFiles(), runtime.NumGoroutine()

	var config strings.Builder
	for i := range n / 2 {
		fmt.Fprintf(&config, `,{"name":"p%d","upstream":"localhost:9","toxics":[{"type":"latency"}]}`, i)
	}
	must(t, s, "POST", "/populate", "["+config.String()[1:]+"]")
	for i := n / 2; i < n; i++ {
		must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"p%d","upstream":"localhost:9"}`, i))
	}
	var all map[string]struct{ Listen string }
	if err := json.Unmarshal([]byte(must(t, s, "GET", "/proxies", "")), &all); err != nil || len(all) != n {
		t.Fatalf("there are %d proxies, %v, want %d", len(all), err, n)
	}
	c := dial(t, all["p0"].Listen)
	if !within(5*time.Second, func() bool { return strings.Contains(must(t, s, "GET", "/metrics", ""), "dial_errors_total") }) {
		t.Error("no metrics")
	}
	c.Close()
	must(t, s, "POST", "/reset", "")
	for i := range n {
		switch i % 3 {
		case 0:
			must(t, s, "PATCH", fmt.Sprintf("/proxies/p%d", i), `{"enabled":false}`)
			fallthrough
		case 1:
			must(t, s, "DELETE", fmt.Sprintf("/proxies/p%d", i), "")
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var d, g int
	if !within(5*time.Second, func() bool {
		d, g = openFiles(), runtime.NumGoroutine()
		return d <= descriptors && g <= goroutines
	}) {
		t.Errorf("%d descriptors and %d goroutines before, %d and %d after", descriptors, goroutines, d, g)
	}
}

// openFiles counts the process's descriptors, where that can be told.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// stopwatch measures calls of the API while something is wrong with the data.
type stopwatch struct {
	t     *testing.T
	s     *toxiproxy.Server
	times []time.Duration
}

func (w *stopwatch) call(method, path, body string) {
	w.t.Helper()
	began := time.Now()
	must(w.t, w.s, method, path, body)
	w.times = append(w.times, time.Since(began))
}

// check fails the test if a call took as long as it would have, had it waited for
// data. The race detector and busy machines are allowed for: the half that was
// quicker must have met the promise of 10 ms.
func (w *stopwatch) check() {
	w.t.Helper()
	slices.Sort(w.times)
	median, worst := w.times[len(w.times)/2], w.times[len(w.times)-1]
	w.t.Logf("%d calls, median %v, worst %v", len(w.times), median, worst)
	if median > 10*time.Millisecond || worst > 2*time.Second {
		w.t.Errorf("of %d calls the median took %v and the worst %v, want under 10ms and nothing that waits", len(w.times), median, worst)
	}
}

// everything calls all there is to call about a proxy.
func (w *stopwatch) everything(name string) {
	w.t.Helper()
	path := "/proxies/" + name
	for range 5 {
		w.call("POST", path+"/toxics", `{"name":"n","type":"latency","attributes":{"latency":100000}}`)
		w.call("PATCH", path+"/toxics/n", `{"attributes":{"latency":200000}}`)
		w.call("POST", path+"/toxics", `{"name":"m","type":"bandwidth","stream":"both"}`)
		w.call("GET", "/proxies", "")
		w.call("GET", "/metrics", "")
		w.call("DELETE", path+"/toxics/n", "")
		w.call("DELETE", path+"/toxics/m", "")
	}
	w.call("POST", path+"/toxics", `{"type":"stall","stream":"both"}`)
	w.call("POST", "/reset", "")
	w.call("PATCH", path, `{"enabled":false}`)
	w.call("PATCH", path, `{"enabled":true}`)
	w.call("DELETE", path, "")
}

func TestClientsThatDoNotReadHoldUpNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, func(c net.Conn) {
		block := make([]byte, 64<<10)
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s"}`, upstream)))
	for range 10 {
		dial(t, addr)
	}
	// All that fits between the server and its clients is there.
	var last uint64
	if !within(30*time.Second, func() bool {
		now := metric(t, s, "toxiproxy_proxy_received_bytes_total", "downstream")
		full := now == last && metric(t, s, "toxiproxy_proxy_connections", "") == 10 && now > 10<<10
		last = now
		return full
	}) {
		t.Fatal("the stream doesn't stall")
	}
	w := &stopwatch{t: t, s: s}
	w.everything("a")
	w.check()
}

func TestAnUpstreamThatSwallowsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	hole, err := toxi.Listen("127.0.0.1:9", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	if _, err := hole.Add(toxi.ConnectBlackhole{}); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nil)
	addr := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"a","upstream":"%s"}`, hole.Addr())))
	other := newUpstream(t, hello("hello"))
	fine := listenOf(t, must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"b","upstream":"%s"}`, other)))
	var clients []net.Conn
	for range 10 {
		clients = append(clients, dial(t, addr))
	}
	if !within(5*time.Second, func() bool { return metric(t, s, "toxiproxy_proxy_connections", "") == 10 }) {
		t.Fatal("the connections are not there")
	}
	if got, _ := io.ReadAll(dial(t, fine)); string(got) != "hello" {
		t.Errorf("another proxy says %q", got)
	}
	w := &stopwatch{t: t, s: s}
	w.everything("a")
	w.check()
	for _, c := range clients {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("reading from a connection of a proxy that is gone: %v", err)
		}
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// Many clients do all there is to do to a few proxies, all at the same time.
func TestEverythingAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	upstream := newUpstream(t, hello("hello"))
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			for range rounds {
				name := fmt.Sprint(r.IntN(4))
				path := "/proxies/" + name
				toxic := fmt.Sprintf("%s/toxics/%d", path, r.IntN(3))
				config := fmt.Sprintf(`{"name":"%s","upstream":"%s","toxics":[{"type":"noop"}]}`, name, upstream)
				requests := [...][3]string{
					{"GET", "/proxies", ""},
					{"GET", "/metrics", ""},
					{"GET", path, ""},
					{"GET", path + "/toxics", ""},
					{"GET", toxic, ""},
					{"POST", "/proxies", config},
					{"POST", "/proxies", config},
					{"POST", "/populate", "[" + config + "]"},
					{"PATCH", path, `{"enabled":false}`},
					{"PATCH", path, `{"enabled":true}`},
					{"PATCH", path, `{"listen":"127.0.0.1:0"}`},
					{"DELETE", path, ""},
					{"POST", path + "/toxics", fmt.Sprintf(`{"name":"%d","type":"latency","attributes":{"latency":1}}`, r.IntN(3))},
					{"POST", path + "/toxics", fmt.Sprintf(`{"name":"%d","type":"limit_data","stream":"both"}`, r.IntN(3))},
					{"PATCH", toxic, `{"toxicity":0.5}`},
					{"DELETE", toxic, ""},
					{"POST", "/reset", ""},
				}
				request := requests[r.IntN(len(requests))]
				w := do(s, request[0], request[1], request[2])
				switch w.Code {
				case 200, 201, 204, 404, 409:
				case 500:
					// Somebody else has got the port that a disabled proxy had.
					if !strings.Contains(w.Body.String(), "address already in use") {
						t.Errorf("%v: %d %s", request, w.Code, w.Body)
					}
				default:
					t.Errorf("%v: %d %s", request, w.Code, w.Body)
				}
				if m := listenPattern.FindStringSubmatch(w.Body.String()); m != nil && r.IntN(2) == 0 {
					if c, err := net.Dial("tcp", m[1]); err == nil {
						if r.IntN(2) == 0 {
							_, _ = io.ReadAll(c)
						}
						c.Close()
					}
				}
			}
		})
	}
	all.Wait()
	var views map[string]struct {
		Name, Listen string
		Enabled      bool
	}
	if err := json.Unmarshal([]byte(must(t, s, "GET", "/proxies", "")), &views); err != nil {
		t.Fatal(err)
	}
	for name, v := range views {
		if v.Name != name || v.Enabled != isUp(v.Listen) {
			t.Errorf("proxy %s is %+v, and it is up: %t", name, v, isUp(v.Listen))
		}
	}
}

// Of many that make one proxy of a name, one succeeds.
func TestOneOfManyMakesTheProxy(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for range 20 {
		var all sync.WaitGroup
		var mu sync.Mutex
		codes := make(map[int]int)
		for range 8 {
			all.Go(func() {
				w := do(s, "POST", "/proxies", `{"name":"a","upstream":"localhost:9"}`)
				mu.Lock()
				defer mu.Unlock()
				codes[w.Code]++
			})
		}
		all.Wait()
		if codes[http.StatusCreated] != 1 || codes[http.StatusConflict] != 7 {
			t.Errorf("got %v, want one 201 and seven 409", codes)
		}
		must(t, s, "DELETE", "/proxies/a", "")
	}
}
