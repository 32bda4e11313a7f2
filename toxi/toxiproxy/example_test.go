package toxiproxy_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/podworks/podworks/toxi/toxiproxy"
)

// A server made of a configuration file, and a client that takes the latency of one
// of its proxies away.
func Example() {
	api, err := toxiproxy.New(&toxiproxy.Options{Version: "2.12.0"})
	if err != nil {
		log.Fatal(err)
	}
	defer api.Close()
	if err := api.Populate(strings.NewReader(`[{
		"name": "redis", "upstream": "127.0.0.1:6379", "enabled": false,
		"toxics": [{"type": "latency", "attributes": {"latency": 250}}]
	}]`)); err != nil {
		log.Fatal(err)
	}

	// In production code: http.Server{Handler: api} on a loopback address.
	server := httptest.NewServer(api)
	defer server.Close()
	send := func(method, path, body string) {
		req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		res, err := server.Client().Do(req)
		if err != nil {
			log.Fatal(err)
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", string(answer))))
	}
	send("GET", "/version", "")
	send("GET", "/proxies/redis/toxics", "")
	send("PATCH", "/proxies/redis/toxics/latency_downstream", `{"attributes": {"jitter": 50}}`)
	send("DELETE", "/proxies/redis/toxics/latency_downstream", "")
	send("GET", "/proxies/redis/toxics", "")

	// Output:
	// 200 {"version": "2.12.0"}
	// 200 [{"attributes":{"latency":250,"jitter":0},"name":"latency_downstream","type":"latency","stream":"downstream","toxicity":1}]
	// 200 {"attributes":{"latency":250,"jitter":50},"name":"latency_downstream","type":"latency","stream":"downstream","toxicity":1}
	// 204
	// 200 []
}

// What is wrong with a request is told in one answer, and nothing is done: no name
// that is nearly right is passed over, and no port is opened for a proxy that is
// half made.
func Example_badRequest() {
	api, err := toxiproxy.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer api.Close()
	fmt.Println(api.Populate(strings.NewReader(`[{
		"name": "redis", "upstream": "127.0.0.1:6379",
		"toxics": [{"type": "latency", "attributes": {"latenci": 250, "jitter": -1}}]
	}]`)))

	// A port that somebody has.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	err = api.Populate(strings.NewReader(fmt.Sprintf(`[{"name": "redis", "listen": "%s", "upstream": "127.0.0.1:6379"}]`, ln.Addr())))
	fmt.Println(strings.ReplaceAll(err.Error(), ln.Addr().String(), "127.0.0.1:26379"))

	// Output:
	// toxiproxy: bad request body: proxy 1: toxics[0]: a toxic of type latency has no attribute "latenci", it has latency ms, jitter ms; attributes.jitter is -1, want an integer from 0 to 31536000000 (ms)
	// toxiproxy: proxy 1, "redis": listen tcp 127.0.0.1:26379: bind: address already in use
}
