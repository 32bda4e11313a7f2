package toxiproxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/podworks/podworks/toxi/toxiproxy"
)

const (
	jsonType = "application/json"
	textType = "text/plain; charset=utf-8"
)

var anyPort = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// Every route with every method that it has, told as the story of one server. In
// bodies, 127.0.0.1:* stands for an address with a port that the system chose.
func TestTheAPI(t *testing.T) {
	t.Parallel()
	const (
		proxyA   = `{"name":"a","listen":"127.0.0.1:*","upstream":"localhost:9","enabled":true,"toxics":[]}`
		proxyOff = `{"name":"off","listen":"localhost:3999","upstream":"localhost:9","enabled":false,"toxics":[]}`
		slowUp   = `{"attributes":{"latency":100,"jitter":0},"name":"latency_upstream","type":"latency","stream":"upstream","toxicity":1}`
		slowDown = `{"attributes":{"latency":0,"jitter":0},"name":"latency_downstream","type":"latency","stream":"downstream","toxicity":0.2}`
		cut      = `{"attributes":{"after":500,"bytes":0,"reset":true},"name":"cable","type":"cut","stream":"both","toxicity":0}`
	)
	s := newServer(t, &toxiproxy.Options{Version: "git"})
	for _, step := range []struct {
		method, path, body string
		status             int
		kind, want         string // Content-Type and body
	}{
		{"GET", "/version", "", 200, "application/json;charset=utf-8", `{"version": "git"}` + "\n"},
		{"GET", "/proxies", "", 200, jsonType, `{}`},

		// Proxies are made.
		{"POST", "/proxies", `{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:9"}`, 201, jsonType, proxyA},
		{"POST", "/proxies", `{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:9"}`, 409, jsonType, `{"error":"proxy already exists","status":409}`},
		{"POST", "/proxies", `{"name":"off","listen":"localhost:3999","upstream":"localhost:9","enabled":false,"toxics":null}`, 201, jsonType, proxyOff},
		{"POST", "/proxies", `{"listen":"127.0.0.1:0","upstream":"localhost:9"}`, 400, jsonType, `{"error":"missing required field: name","status":400}`},
		{"POST", "/proxies", `{"name":"b","listen":"127.0.0.1:0"}`, 400, jsonType, `{"error":"missing required field: upstream","status":400}`},
		{"POST", "/proxies", `{"name":"b","listen":"local373","upstream":"localhost:9"}`, 500, jsonType, `{"error":"listen tcp: address local373: missing port in address","status":500}`},
		{"GET", "/proxies", "", 200, jsonType, `{"a":` + proxyA + `,"off":` + proxyOff + `}`},
		{"GET", "/proxies/a", "", 200, jsonType, proxyA},
		{"GET", "/proxies/b", "", 404, jsonType, `{"error":"proxy not found","status":404}`},

		// They are changed, by POST and by PATCH.
		{"POST", "/proxies/off", `{"upstream":"localhost:10"}`, 200, jsonType, strings.Replace(proxyOff, ":9", ":10", 1)},
		{"PATCH", "/proxies/off", `{"upstream":"localhost:9","listen":"localhost:4999"}`, 200, jsonType, strings.Replace(proxyOff, ":3999", ":4999", 1)},
		{"PATCH", "/proxies/off", `{"listen":"localhost:3999"}`, 200, jsonType, proxyOff},
		{"PATCH", "/proxies/off", `{}`, 200, jsonType, proxyOff},
		{"PATCH", "/proxies/off", proxyOff, 200, jsonType, proxyOff},
		{"PATCH", "/proxies/b", `{"enabled":false}`, 404, jsonType, `{"error":"proxy not found","status":404}`},
		{"POST", "/proxies/b", `nonsense`, 404, jsonType, `{"error":"proxy not found","status":404}`},

		// Toxics are made.
		{"GET", "/proxies/a/toxics", "", 200, jsonType, `[]`},
		{"POST", "/proxies/a/toxics", `{"type":"latency","toxicity":0.2}`, 200, jsonType, slowDown},
		{"POST", "/proxies/a/toxics", `{"type":"latency","stream":"upstream","attributes":{"latency":100}}`, 200, jsonType, slowUp},
		{"POST", "/proxies/a/toxics", `{"name":"latency_upstream","type":"noop"}`, 409, jsonType, `{"error":"toxic already exists","status":409}`},
		{"POST", "/proxies/a/toxics", `{"type":"explosion"}`, 400, jsonType, `{"error":"invalid toxic type","status":400}`},
		{"POST", "/proxies/a/toxics", `{"type":"latency","stream":"sideways"}`, 400, jsonType, `{"error":"stream was invalid, can be either upstream or downstream","status":400}`},
		{"POST", "/proxies/a/toxics", `{"type":"latency","stream":""}`, 400, jsonType, `{"error":"stream was invalid, can be either upstream or downstream","status":400}`},
		{"POST", "/proxies/b/toxics", `{"type":"latency"}`, 404, jsonType, `{"error":"proxy not found","status":404}`},
		{"POST", "/proxies/a/toxics", `{"name":"cable","type":"cut","stream":"both","toxicity":0,"attributes":{"after":500,"reset":true}}`, 200, jsonType, cut},
		{"POST", "/proxies/off/toxics", `{"type":"noop","stream":"UPSTREAM"}`, 200, jsonType, `{"attributes":{},"name":"noop_UPSTREAM","type":"noop","stream":"UPSTREAM","toxicity":1}`},
		{"GET", "/proxies/a/toxics", "", 200, jsonType, `[` + slowUp + `,` + slowDown + `,` + cut + `]`},
		{"GET", "/proxies/b/toxics", "", 404, jsonType, `{"error":"proxy not found","status":404}`},
		{"GET", "/proxies/a/toxics/cable", "", 200, jsonType, cut},
		{"GET", "/proxies/a/toxics/rope", "", 404, jsonType, `{"error":"toxic not found","status":404}`},
		{"GET", "/proxies/b/toxics/cable", "", 404, jsonType, `{"error":"proxy not found","status":404}`},

		// They are changed, by POST and by PATCH, and only in what was sent.
		{"PATCH", "/proxies/a/toxics/latency_upstream", `{"attributes":{"jitter":5}}`, 200, jsonType, strings.Replace(slowUp, `"jitter":0`, `"jitter":5`, 1)},
		{"POST", "/proxies/a/toxics/latency_upstream", `{"toxicity":0.5,"attributes":null}`, 200, jsonType, strings.NewReplacer(`"jitter":0`, `"jitter":5`, `"toxicity":1`, `"toxicity":0.5`).Replace(slowUp)},
		{"PATCH", "/proxies/a/toxics/latency_upstream", `{"name":"x","type":"noop","stream":"downstream","toxicity":1,"attributes":{"jitter":0}}`, 200, jsonType, slowUp},
		{"PATCH", "/proxies/a/toxics/rope", `nonsense`, 404, jsonType, `{"error":"toxic not found","status":404}`},
		{"PATCH", "/proxies/b/toxics/rope", `{}`, 404, jsonType, `{"error":"proxy not found","status":404}`},

		// They are deleted.
		{"DELETE", "/proxies/a/toxics/latency_upstream", "", 204, "", ""},
		{"DELETE", "/proxies/a/toxics/latency_upstream", "", 404, jsonType, `{"error":"toxic not found","status":404}`},
		{"DELETE", "/proxies/b/toxics/latency_upstream", "", 404, jsonType, `{"error":"proxy not found","status":404}`},
		{"GET", "/proxies/a", "", 200, jsonType, strings.Replace(proxyA, "[]", "["+slowDown+","+cut+"]", 1)},

		// Reset enables, and takes all toxics.
		{"PATCH", "/proxies/off", `{"listen":"127.0.0.1:0"}`, 200, jsonType, `{"name":"off","listen":"127.0.0.1:*","upstream":"localhost:9","enabled":false,"toxics":[{"attributes":{},"name":"noop_UPSTREAM","type":"noop","stream":"UPSTREAM","toxicity":1}]}`},
		{"POST", "/reset", `whatever`, 204, "", ""},
		{"GET", "/proxies/a", "", 200, jsonType, proxyA},
		{"GET", "/proxies/off", "", 200, jsonType, `{"name":"off","listen":"127.0.0.1:*","upstream":"localhost:9","enabled":true,"toxics":[]}`},

		// Proxies are deleted.
		{"DELETE", "/proxies/off", "", 204, "", ""},
		{"DELETE", "/proxies/off", "", 404, jsonType, `{"error":"proxy not found","status":404}`},
		{"DELETE", "/proxies/a", "", 204, "", ""},
		{"GET", "/proxies", "", 200, jsonType, `{}`},

		// Many are made at once.
		{"POST", "/populate", `[]`, 201, jsonType, `{"proxies":[]}`},
		{"POST", "/populate", `[{"name":"z","listen":"127.0.0.1:0","upstream":"localhost:9"},{"name":"off","listen":"localhost:3999","upstream":"localhost:9","enabled":false}]`, 201, jsonType,
			`{"proxies":[{"name":"z","listen":"127.0.0.1:*","upstream":"localhost:9","enabled":true,"toxics":[]},` + proxyOff + `]}`},
		{"POST", "/populate", `[{"name":"b","upstream":"localhost:9"},{"upstream":"localhost:9"}]`, 400, jsonType, `{"error":"missing required field: name at proxy 2","status":400,"proxies":[]}`},
		{"POST", "/populate", `[{"name":"b","upstream":"localhost:9"},{"name":"c"}]`, 400, jsonType, `{"error":"missing required field: upstream at proxy 2","status":400,"proxies":[]}`},
		{"POST", "/populate", `[{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:9"},{"name":"b","listen":"local373","upstream":"localhost:9"},{"name":"c","listen":"127.0.0.1:0","upstream":"localhost:9"}]`, 500, jsonType,
			`{"error":"listen tcp: address local373: missing port in address","status":500,"proxies":[` + proxyA + `]}`},
		{"GET", "/proxies/a", "", 200, jsonType, proxyA},
		{"GET", "/proxies/c", "", 404, jsonType, `{"error":"proxy not found","status":404}`},

		// What there isn't.
		{"GET", "/", "", 404, textType, "404 page not found"},
		{"GET", "/proxies/", "", 404, textType, "404 page not found"},
		{"GET", "/proxies/a/toxins", "", 404, textType, "404 page not found"},
		{"GET", "/proxies/a/toxics/", "", 404, textType, "404 page not found"},
		{"GET", "/version/", "", 404, textType, "404 page not found"},
		{"GET", "/Version", "", 404, textType, "404 page not found"},
	} {
		w := do(s, step.method, step.path, step.body)
		body := anyPort.ReplaceAllString(strings.TrimSuffix(w.Body.String(), "\n"), "127.0.0.1:*")
		if w.Code != step.status || w.Header().Get("Content-Type") != step.kind || body != strings.TrimSuffix(step.want, "\n") {
			t.Fatalf("%s %s %s\ngot  %d %q\n%s\nwant %d %q\n%s", step.method, step.path, step.body,
				w.Code, w.Header().Get("Content-Type"), body, step.status, step.kind, step.want)
		}
		if w.Header().Get("X-Toxiproxy-Request-Id") == "" {
			t.Errorf("%s %s: no X-Toxiproxy-Request-Id", step.method, step.path)
		}
	}
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	must(t, s, "POST", "/proxies", `{"name":"a","upstream":"localhost:9","enabled":false,"toxics":[{"type":"noop","name":"n"}]}`)
	all := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FLY"}
	for path, allow := range map[string]string{
		"/version":             "GET",
		"/proxies":             "GET, POST",
		"/proxies/a":           "DELETE, GET, PATCH, POST",
		"/proxies/a/toxics":    "GET, POST",
		"/proxies/a/toxics/n":  "DELETE, GET, PATCH, POST",
		"/proxies/no":          "DELETE, GET, PATCH, POST",
		"/proxies/no/toxics":   "GET, POST",
		"/proxies/no/toxics/n": "DELETE, GET, PATCH, POST",
		"/populate":            "POST",
		"/reset":               "POST",
	} {
		for _, method := range all {
			if strings.Contains(", "+allow+", ", ", "+method+", ") {
				continue
			}
			w := do(s, method, path, "")
			if w.Code != http.StatusMethodNotAllowed || w.Body.Len() > 0 || w.Header().Get("Allow") != allow {
				t.Errorf("%s %s: %d %q, Allow %q, want 405 without a body and Allow %q", method, path, w.Code, w.Body, w.Header().Get("Allow"), allow)
			}
		}
	}
	for _, method := range all {
		if w := do(s, method, "/metrics", ""); w.Code != http.StatusOK {
			t.Errorf("%s /metrics: %d, want 200 as for every method", method, w.Code)
		}
	}
}

func TestBrowsersAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for _, tt := range []struct {
		header, value string
		status        int
	}{
		{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", 403},
		{"User-Agent", "toxiproxy-cli/2.12.0 (linux/amd64)", 200},
		{"User-Agent", "Wget/2.1", 200},
		{"User-Agent", "", 200},
		{"Origin", "http://evil.example", 403},
		{"Origin", "null", 403},
		{"Sec-Fetch-Site", "same-origin", 403}, // a page whose host name now leads here
		{"Sec-Fetch-Mode", "cors", 200},        // Node.js
	} {
		r := httptest.NewRequest("GET", "/proxies", nil)
		r.Header.Set(tt.header, tt.value)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %s: status %d, want %d", tt.header, tt.value, w.Code, tt.status)
		}
	}
}

// Each of these is wrong; nothing may have changed after any of them.
func TestABadBodyIsAnsweredWith400AndChangesNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	must(t, s, "POST", "/proxies", `{"name":"a","upstream":"localhost:9","toxics":[
		{"type":"latency","name":"slow","toxicity":0.5,"attributes":{"latency":10}},
		{"type":"slicer","name":"slices","attributes":{"average_size":10}},
		{"type":"refuse","name":"down"}]}`)
	before := must(t, s, "GET", "/proxies", "")
	const toxics = "/proxies/a/toxics"
	for _, tt := range []struct{ method, path, body, want string }{
		// What is no JSON, or not all of it.
		{"POST", "/proxies", ``, `bad request body: unexpected end of JSON input`},
		{"POST", "/proxies", `{`, `bad request body: unexpected end of JSON input`},
		{"POST", "/proxies", `<proxy/>`, `bad request body: invalid character '<' looking for beginning of value`},
		{"POST", "/proxies", `{"name":"b","upstream":"localhost:9"} {}`, `bad request body: invalid character '{' after top-level value`},
		{"POST", "/proxies", `null`, `missing required field: name`},
		{"POST", "/proxies", `["b"]`, `bad request body: ["b"], want an object`},
		{"POST", "/populate", `{}`, `bad request body: {}, want an array of proxies`},
		{"POST", "/populate", `[7]`, `bad request body: proxy 1: 7, want an object`},
		{"POST", toxics, ``, `bad request body: unexpected end of JSON input`},
		{"PATCH", toxics + "/slow", `{"toxicity":1`, `bad request body: unexpected end of JSON input`},
		{"PATCH", "/proxies/a", `{"enabled":false`, `bad request body: unexpected end of JSON input`},

		// Values of the wrong sort; all of them in one answer.
		{"POST", "/proxies", `{"name":7,"listen":[],"upstream":{},"enabled":"yes","toxics":{}}`,
			`bad request body: name is 7, want a string; listen is [], want a string; upstream is {}, want a string; enabled is "yes", want true or false; toxics is {}, want an array`},
		{"PATCH", "/proxies/a", `{"enabled":false,"upstream":9}`, `bad request body: upstream is 9, want a string`},
		{"POST", toxics, `{"name":[],"type":1,"stream":true,"toxicity":"1"}`,
			`bad request body: name is [], want a string; type is 1, want a string; stream is true, want a string; toxicity is "1", want a number from 0 to 1`},
		{"POST", toxics, `{"type":"latency","attributes":[1]}`, `bad request body: attributes is [1], want an object`},
		{"PATCH", toxics + "/slow", `{"toxicity":1,"attributes":{"latency":7,"jitter":"x"}}`, `bad request body: attributes.jitter is "x", want an integer from 0 to 31536000000 (ms)`},

		// What nobody knows.
		{"POST", "/proxies", `{"name":"b","upstream":"localhost:9","tls":true}`, `bad request body: a proxy has no field "tls", it has name, listen, upstream, enabled, toxics`},
		{"PATCH", "/proxies/a", `{"enabled":false,"Enable":true}`, `bad request body: a proxy has no field "Enable", it has name, listen, upstream, enabled, toxics`},
		{"POST", toxics, `{"type":"latency","latency":100}`, `bad request body: a toxic has no field "latency", it has name, type, stream, toxicity, attributes`},
		{"POST", toxics, `{"type":"latency","attributes":{"latenzy":100}}`, `bad request body: a toxic of type latency has no attribute "latenzy", it has latency ms, jitter ms`},
		{"POST", toxics, `{"type":"noop","attributes":{"rate":1}}`, `bad request body: a toxic of type noop has no attribute "rate", it has none`},
		{"PATCH", toxics + "/slow", `{"attributes":{"latency":1,"rate":1}}`, `bad request body: a toxic of type latency has no attribute "rate", it has latency ms, jitter ms`},

		// What crashes Toxiproxy, or makes no sense.
		{"POST", toxics, `{"type":"slicer"}`, `bad request body: attributes.average_size is 0, want an integer from 1 to 9223372036854775807 (bytes)`},
		{"POST", toxics, `{"type":"slicer","attributes":{"average_size":10,"size_variation":10}}`, `bad request body: attributes: size_variation is 10, want less than average_size, which is 10`},
		{"PATCH", toxics + "/slices", `{"attributes":{"size_variation":20}}`, `bad request body: attributes: size_variation is 20, want less than average_size, which is 10`},
		{"POST", toxics, `{"type":"bandwidth","attributes":{"rate":-1}}`, `bad request body: attributes.rate is -1, want an integer from 0 to 9223372036854775 (KB/s)`},
		{"POST", toxics, `{"type":"latency","attributes":{"latency":1.5,"jitter":9223372036854775807}}`,
			`bad request body: attributes.latency is 1.5, want an integer from 0 to 31536000000 (ms); attributes.jitter is 9223372036854775807, want an integer from 0 to 31536000000 (ms)`},
		{"POST", toxics, `{"type":"timeout","attributes":{"timeout":-5}}`, `bad request body: attributes.timeout is -5, want an integer from 0 to 31536000000 (ms)`},
		{"POST", toxics, `{"type":"limit_data","attributes":{"bytes":99999999999999999999}}`, `bad request body: attributes.bytes is 99999999999999999999, want an integer from 0 to 9223372036854775807 (bytes)`},
		{"POST", toxics, `{"type":"packet_loss","attributes":{"loss_rate":1.1}}`, `bad request body: attributes.loss_rate is 1.1, want a number from 0 to 1`},
		{"POST", toxics, `{"type":"corrupt"}`, `bad request body: attributes.rate is 0, want a number over 0, up to 1`},
		{"POST", toxics, `{"type":"cut"}`, `bad request body: attributes: after and bytes are 0, want one of them; reset_peer and reject cut at once`},
		{"POST", toxics, `{"type":"cut","attributes":{"after":1,"reset":1}}`, `bad request body: attributes.reset is 1, want true or false`},
		{"POST", toxics, `{"type":"latency","toxicity":7}`, `bad request body: toxicity is 7, want a number from 0 to 1`},
		{"PATCH", toxics + "/slow", `{"toxicity":-1,"attributes":{"latency":99}}`, `bad request body: toxicity is -1, want a number from 0 to 1`},
		{"PATCH", toxics + "/slow", `{"toxicity":1e999}`, `bad request body: toxicity is 1e999, want a number from 0 to 1`},
		{"POST", toxics, `{"type":"hang","stream":"upstream"}`, `bad request body: stream is "upstream", but a toxic of type hang works on the connection: leave it out`},
		{"POST", toxics, `{"type":"connect_blackhole","toxicity":0.5}`, `bad request body: toxicity is 0.5, want 1: a toxic of type connect_blackhole works on the whole proxy`},
		{"PATCH", toxics + "/down", `{"toxicity":0}`, `bad request body: toxicity is 0, want 1: a toxic of type refuse works on the whole proxy`},
		{"POST", toxics, `{"type":"mysql","attributes":{"match":"(","times":-1,"fail_code":65536,"cut":"now"}}`,
			`bad request body: attributes.match is "(", want a regular expression; attributes.times is -1, want an integer from 0 to 9223372036854775807; attributes.fail_code is 65536, want an integer from 0 to 65535; attributes.cut is "now", want "none", "before" or "after"`},
		{"POST", toxics, `{"type":"mysql","stream":"both","attributes":{"fail_code":1213}}`, `bad request body: stream is "both", but a toxic of type mysql works on the connection: leave it out`},
		{"POST", toxics, `{"type":"redis","attributes":{"match":"` + strings.Repeat("a", 5000) + `","fail":"x"}}`,
			`bad request body: attributes.match is "` + strings.Repeat("a", 63) + `…, want a regular expression`},
		{"POST", "/proxies", `{"name":"b","upstream":"localhost"}`, `bad request body: upstream is "localhost", want "host:port" or the path of a unix socket`},
		{"PATCH", "/proxies/a", `{"upstream":"","enabled":false}`, `missing required field: upstream`},
		{"PATCH", "/proxies/a", `{"upstream":"localhost","enabled":false}`, `bad request body: upstream is "localhost", want "host:port" or the path of a unix socket`},

		// Toxics within proxies.
		{"POST", "/proxies", `{"name":"b","upstream":"localhost:9","toxics":[{"type":"noop"},{"type":"noop"},{"type":"x"},7]}`, `bad request body: toxics[3]: 7, want an object`},
		{"POST", "/proxies", `{"name":"b","upstream":"localhost:9","toxics":[{"type":"noop"},{"type":"noop"},{"type":"x"}]}`, `bad request body: toxics[1]: toxic already exists; toxics[2]: invalid toxic type`},
		{"POST", "/populate", `[{"name":"a","upstream":"localhost:10"},{"name":"a","upstream":"localhost:11"},{"name":"b","upstream":"localhost:9","toxics":[{"type":"slicer"}]}]`,
			`bad request body: proxy 2 has the name of proxy 1, "a"; proxy 3: toxics[0]: attributes.average_size is 0, want an integer from 1 to 9223372036854775807 (bytes)`},
	} {
		w := do(s, tt.method, tt.path, tt.body)
		f := failureOf(t, w)
		if w.Code != 400 || f.Status != 400 || f.Error != tt.want {
			t.Errorf("%s %s %s:\ngot  %d %s\nwant 400 %s", tt.method, tt.path, tt.body, w.Code, f.Error, tt.want)
		}
		if after := must(t, s, "GET", "/proxies", ""); after != before {
			t.Fatalf("%s %s %s changed\n%s\nto\n%s", tt.method, tt.path, tt.body, before, after)
		}
	}
}

func TestABodyThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	body := `{"name":"` + strings.Repeat("a", 5<<20) + `","upstream":"localhost:9"}`
	w := do(s, "POST", "/proxies", body)
	if f := failureOf(t, w); w.Code != 413 || f.Error != "bad request body: it is larger than 4194304 bytes" {
		t.Errorf("%d %q, want 413", w.Code, f.Error)
	}
}

func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	w := do(s, "POST", "/proxies", `{"name":"a","upstream":"localhost:9","enabled":false,"`+strings.Repeat("x", 1000)+`":1}`)
	if f := failureOf(t, w); w.Code != 400 || len(f.Error) > 300 {
		t.Errorf("%d with an error of %d bytes, want 400 and what fits into a line", w.Code, len(f.Error))
	}
	w = do(s, "POST", "/populate", "["+strings.Repeat(`{"name":"a","upstream":"x","y":1},`, 10000)+`{"name":"b","upstream":"x:1","y":1}]`)
	if f := failureOf(t, w); w.Code != 400 || len(f.Error) > 3000 || !strings.HasSuffix(f.Error, "; and more") {
		t.Errorf("%d with an error of %d bytes, want 400 and the first ten faults", w.Code, len(f.Error))
	}
}

// Clients put names into paths as they are.
func TestNamesMayHaveSlashesAndEscapes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"shop/mysql", "a/toxics", "a/toxics/b", "toxics", "a b", "50%41", "é", "a/", "/", "..", "a//b", `"q"`, "x?y"} {
		s := newServer(t, nil)
		quoted := strings.ReplaceAll(name, `"`, `\"`)
		must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"%s","upstream":"localhost:9","enabled":false}`, quoted))
		for _, path := range []string{strings.NewReplacer(" ", "%20", "?", "%3F").Replace(name), escape(name)} {
			proxy := "/proxies/" + path
			if body := must(t, s, "GET", proxy, ""); !strings.Contains(body, `"name":"`+quoted+`"`) {
				t.Errorf("GET %s: %s", proxy, body)
			}
			must(t, s, "POST", proxy+"/toxics", fmt.Sprintf(`{"name":"%s","type":"latency"}`, quoted))
			if body := must(t, s, "PATCH", proxy+"/toxics/"+path, `{"attributes":{"latency":7}}`); !strings.Contains(body, `"latency":7`) {
				t.Errorf("PATCH %s/toxics/%s: %s", proxy, path, body)
			}
			if body := must(t, s, "GET", proxy+"/toxics", ""); !strings.Contains(body, `"name":"`+quoted+`"`) {
				t.Errorf("GET %s/toxics: %s", proxy, body)
			}
			must(t, s, "DELETE", proxy+"/toxics/"+path, "")
		}
		must(t, s, "DELETE", "/proxies/"+escape(name), "")
	}
}

// A proxy whose name is a part of another's is not taken for it.
func TestTheShorterReadingOfAPathIsFirst(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for _, name := range []string{"a", "a/toxics", "a/toxics/n"} {
		must(t, s, "POST", "/proxies", fmt.Sprintf(`{"name":"%s","upstream":"localhost:9","enabled":false,"toxics":[{"type":"noop","name":"n"}]}`, name))
	}
	if got := must(t, s, "GET", "/proxies/a/toxics", ""); !strings.HasPrefix(got, "[") {
		t.Errorf("GET /proxies/a/toxics: %s, want the toxics of a", got)
	}
	if got := must(t, s, "GET", "/proxies/a/toxics/n", ""); !strings.Contains(got, `"type":"noop"`) {
		t.Errorf("GET /proxies/a/toxics/n: %s, want the toxic of a", got)
	}
	if got := must(t, s, "GET", "/proxies/a%2Ftoxics%2Fn", ""); !strings.Contains(got, `"name":"a/toxics/n"`) {
		t.Errorf("GET /proxies/a%%2Ftoxics%%2Fn: %s, want the proxy of that name", got)
	}
}
