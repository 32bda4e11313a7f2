package peer_test

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What differs on purpose everywhere is taken out before answers are compared.
const (
	jsonErrors = "the texts of errors in JSON are Go's, and name types of Toxiproxy; ours say what is wanted"
	loggers    = `Toxiproxy's proxies have a "Logger" with nothing in it, which no client reads`
	nullLists  = "Toxiproxy's list of no populated proxies is null"
	textErrors = "Toxiproxy sends its errors, which are JSON, as text/plain; ours say that they are JSON"
)

// port5 is a port that was given out by the system, or by port.
var port5 = regexp.MustCompile(`:[0-9]{5}\b`)

// An exchange is requests to one server, which is new.
type exchange struct {
	name     string
	requests []string // "METHOD path body"; BUSY stands for a port that is taken
}

var exchanges = []exchange{
	{"routes", []string{
		"GET /version", "POST /version", "GET /", "GET /nothing", "GET /proxies/",
		"DELETE /proxies", "PUT /proxies", "PUT /proxies/p", "GET /reset", "GET /populate", "DELETE /populate",
		"PUT /proxies/p/toxics", "PUT /proxies/p/toxics/t", "GET /proxies/p/toxics/t/more",
	}},
	{"no proxy of that name", []string{
		"GET /proxies/p", `POST /proxies/p {"enabled":false}`, `PATCH /proxies/p junk`, "DELETE /proxies/p",
		"GET /proxies/p/toxics", `POST /proxies/p/toxics junk`, "GET /proxies/p/toxics/t", "POST /proxies/p/toxics/t {}", "PATCH /proxies/p/toxics/t junk", "DELETE /proxies/p/toxics/t",
	}},
	{"create", []string{
		"GET /proxies",
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		"GET /proxies/a",
		`POST /proxies {"name":"b","listen":"localhost:23456","upstream":"localhost:1","enabled":false}`,
		`POST /proxies {"name":"c","listen":"localhost:0","upstream":"localhost:1","enabled":null}`,
		`POST /proxies {"NAME":"e","Listen":"localhost:0","upStream":"localhost:1"}`,
		`POST /proxies {"name":"g/h","listen":"localhost:0","upstream":"localhost:1"}`,
		`POST /proxies {"name":"ü \"x\" <y>","listen":"localhost:0","upstream":"localhost:1"}`,
		"GET /proxies",
	}},
	{"create, refused", []string{
		"POST /proxies", "POST /proxies junk", "POST /proxies {", "POST /proxies []", "POST /proxies null", `POST /proxies "x"`, "POST /proxies {}",
		`POST /proxies {"name":"a"}`, `POST /proxies {"upstream":"localhost:1"}`, `POST /proxies {"name":"","upstream":""}`,
		`POST /proxies {"name":1,"upstream":"localhost:1"}`,
		`POST /proxies {"name":"a","listen":"localhost:0","upstream":"localhost:1","enabled":"yes"}`,
		`POST /proxies {"name":"a","listen":"localhost:BUSY","upstream":"localhost:1"}`,
		`POST /proxies {"name":"a","listen":"nonsense","upstream":"localhost:1"}`,
		`POST /proxies {"name":"a","listen":"localhost:99999","upstream":"localhost:1"}`,
		`POST /proxies {"name":"a","listen":"localhost:0","upstream":"localhost:1"}`,
		`POST /proxies {"name":"a","listen":"localhost:0","upstream":"localhost:2"}`,
		`POST /proxies {"name":"a","listen":"nonsense","upstream":"localhost:2","enabled":false}`,
		`POST /proxies {"name":"b","listen":"nonsense","upstream":"localhost:2","enabled":false}`,
		"GET /proxies",
	}},
	{"update", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		`POST /proxies/a {"enabled":false}`, "GET /proxies/a", `PATCH /proxies/a {"enabled":true}`, `PATCH /proxies/a {"enabled":true}`,
		`POST /proxies/a {"upstream":"localhost:2"}`, `PATCH /proxies/a {"upstream":"localhost:3"}`,
		`POST /proxies/a {"listen":"localhost:0"}`,
		`POST /proxies/a {"name":"b"}`, "GET /proxies/b",
		`POST /proxies/a {}`, `POST /proxies/a {"enabled":null}`,
		"POST /proxies/a", "POST /proxies/a junk", "PATCH /proxies/a []", `PATCH /proxies/a {"enabled":"no"}`, `PATCH /proxies/a {"upstream":7}`,
		"GET /proxies",
	}},
	{"update, listening fails", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		`POST /proxies/a {"listen":"localhost:BUSY"}`,
	}},
	{"delete", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		"DELETE /proxies/a", "DELETE /proxies/a", "GET /proxies/a", "GET /proxies",
	}},
	{"toxics", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		"GET /proxies/a/toxics",
		`POST /proxies/a/toxics {"type":"latency","attributes":{"latency":100}}`,
		`POST /proxies/a/toxics {"type":"latency","stream":"upstream","attributes":{"latency":100,"jitter":50}}`,
		`POST /proxies/a/toxics {"type":"bandwidth","attributes":{"rate":1000}}`,
		`POST /proxies/a/toxics {"type":"bandwidth","stream":"upstream"}`,
		`POST /proxies/a/toxics {"type":"slow_close","attributes":{"delay":5}}`,
		`POST /proxies/a/toxics {"type":"slow_close","stream":"upstream"}`,
		`POST /proxies/a/toxics {"type":"timeout","attributes":{"timeout":5}}`,
		`POST /proxies/a/toxics {"type":"timeout","stream":"upstream"}`,
		`POST /proxies/a/toxics {"type":"reset_peer","attributes":{"timeout":5}}`,
		`POST /proxies/a/toxics {"type":"reset_peer","stream":"upstream"}`,
		`POST /proxies/a/toxics {"type":"slicer","attributes":{"average_size":64,"size_variation":32,"delay":10}}`,
		`POST /proxies/a/toxics {"type":"slicer","stream":"upstream","attributes":{"average_size":1}}`,
		`POST /proxies/a/toxics {"type":"limit_data","attributes":{"bytes":5}}`,
		`POST /proxies/a/toxics {"type":"limit_data","stream":"upstream"}`,
		`POST /proxies/a/toxics {"type":"noop"}`,
		`POST /proxies/a/toxics {"type":"noop","stream":"upstream","attributes":{}}`,
		"GET /proxies/a/toxics", "GET /proxies/a", "GET /proxies", "GET /proxies/a/toxics/latency_upstream",
		"DELETE /proxies/a/toxics/latency_upstream", "DELETE /proxies/a/toxics/latency_upstream", "GET /proxies/a/toxics/latency_upstream",
		"GET /proxies/a/toxics",
	}},
	{"toxics, how they are asked for", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		`POST /proxies/a/toxics {"name":"n","type":"latency","stream":"downstream","toxicity":0.25,"attributes":{"latency":1}}`,
		`POST /proxies/a/toxics {"name":"zero","type":"latency","toxicity":0}`,
		`POST /proxies/a/toxics {"name":"null","type":"latency","stream":null,"toxicity":null,"attributes":null}`,
		`POST /proxies/a/toxics {"name":"nulls","type":"latency","attributes":{"latency":null,"jitter":null}}`,
		`POST /proxies/a/toxics {"name":"Capitals","Type":"latency","Attributes":{"Latency":7}}`,
		`POST /proxies/a/toxics {"type":"latency","stream":"UPSTREAM"}`,
		`POST /proxies/a/toxics {"name":"integer","type":"latency","toxicity":1,"attributes":{"latency":1e3}}`,
		`POST /proxies/a/toxics {"name":"ü b","type":"latency"}`,
		"GET /proxies/a/toxics/%C3%BC%20b", "DELETE /proxies/a/toxics/%C3%BC%20b",
		"GET /proxies/a/toxics", "GET /proxies/a/toxics/zero",
	}},
	{"toxics, refused", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		"POST /proxies/a/toxics", "POST /proxies/a/toxics junk", "POST /proxies/a/toxics []", "POST /proxies/a/toxics {}", "POST /proxies/a/toxics null",
		`POST /proxies/a/toxics {"type":"nonsense"}`, `POST /proxies/a/toxics {"type":"Latency"}`, `POST /proxies/a/toxics {"type":7}`,
		`POST /proxies/a/toxics {"type":"latency","stream":"sideways"}`, `POST /proxies/a/toxics {"type":"nonsense","stream":"sideways"}`, `POST /proxies/a/toxics {"type":"latency","stream":""}`,
		`POST /proxies/a/toxics {"type":"latency","toxicity":"much"}`,
		`POST /proxies/a/toxics {"type":"latency","attributes":[]}`, `POST /proxies/a/toxics {"type":"latency","attributes":"x"}`,
		`POST /proxies/a/toxics {"type":"latency","attributes":{"latency":"x"}}`, `POST /proxies/a/toxics {"type":"latency","attributes":{"latency":1.5}}`,
		`POST /proxies/a/toxics {"type":"latency","attributes":{"latency":true}}`, `POST /proxies/a/toxics {"type":"latency","attributes":{"latency":9223372036854775808}}`,
		"GET /proxies/a/toxics",
		`POST /proxies/a/toxics {"name":"n","type":"latency"}`, `POST /proxies/a/toxics {"name":"n","type":"slicer"}`, `POST /proxies/a/toxics {"name":"n","type":"latency","stream":"upstream"}`,
		`POST /proxies/a/toxics {"name":"n","type":"latency","attributes":{"latency":"x"}}`,
		"GET /proxies/a/toxics",
	}},
	{"toxics, updated", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		`POST /proxies/a/toxics {"name":"n","type":"latency","toxicity":0.5,"attributes":{"latency":1,"jitter":2}}`,
		`POST /proxies/a/toxics/n {"attributes":{"latency":3}}`, `PATCH /proxies/a/toxics/n {"attributes":{"jitter":4}}`,
		`PATCH /proxies/a/toxics/n {"toxicity":0.75}`, `PATCH /proxies/a/toxics/n {"toxicity":0}`, `PATCH /proxies/a/toxics/n {"toxicity":null,"attributes":null}`,
		`PATCH /proxies/a/toxics/n {"name":"m","type":"slicer","stream":"upstream","attributes":{"latency":5}}`,
		`PATCH /proxies/a/toxics/n {}`,
		"PATCH /proxies/a/toxics/n", "PATCH /proxies/a/toxics/n junk", `PATCH /proxies/a/toxics/n {"attributes":{"latency":"x"}}`, `PATCH /proxies/a/toxics/n {"toxicity":"x"}`,
		"PATCH /proxies/a/toxics/m {}", "PATCH /proxies/a/toxics/m junk",
		"GET /proxies/a/toxics/n",
		`POST /proxies/a/toxics {"type":"slicer","attributes":{"average_size":64,"size_variation":32,"delay":10}}`,
		`PATCH /proxies/a/toxics/slicer_downstream {"attributes":{"delay":11}}`,
		"GET /proxies/a/toxics",
	}},
	{"toxics survive their proxy's changes", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		`POST /proxies/a/toxics {"type":"latency","attributes":{"latency":1}}`,
		`PATCH /proxies/a {"enabled":false}`, `PATCH /proxies/a {"enabled":true}`, `PATCH /proxies/a {"upstream":"localhost:2"}`, "GET /proxies/a",
		"DELETE /proxies/a", `POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
	}},
	{"populate", []string{
		`POST /populate [{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"},{"name":"b","listen":"localhost:23457","upstream":"localhost:1","enabled":false}]`,
		"GET /proxies",
		"POST /populate []",
		`POST /populate [{"name":"b","listen":"localhost:23457","upstream":"localhost:2","enabled":false}]`,
		`POST /populate [{"name":"c","listen":"127.0.0.1:0","upstream":"localhost:1","enabled":null}]`,
		"GET /proxies",
	}},
	{"populate, refused", []string{
		"POST /populate", "POST /populate junk", "POST /populate {}", "POST /populate null", `POST /populate [1]`, `POST /populate [{}]`,
		`POST /populate [{"name":"a"}]`, `POST /populate [{"upstream":"localhost:1"}]`,
		`POST /populate [{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"},{"name":"b"}]`,
		`POST /populate [{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"},{"name":"b","listen":"localhost:BUSY","upstream":"localhost:1"},{"name":"c","listen":"127.0.0.1:0","upstream":"localhost:1"}]`,
		"GET /proxies",
		`POST /populate [{"name":"d","listen":"nonsense","upstream":"localhost:1"}]`,
		"GET /proxies",
	}},
	{"reset", []string{
		"POST /reset",
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`,
		`POST /proxies {"name":"b","listen":"127.0.0.1:0","upstream":"localhost:1","enabled":false}`,
		`POST /proxies/a/toxics {"type":"latency"}`, `POST /proxies/a/toxics {"type":"noop","stream":"upstream"}`, `POST /proxies/b/toxics {"type":"latency"}`,
		"POST /reset junk", "GET /proxies",
	}},
	{"populate a proxy that is disabled", []string{
		`POST /proxies {"name":"a","listen":"127.0.0.1:23458","upstream":"localhost:1","enabled":false}`,
		`POST /populate [{"name":"a","listen":"127.0.0.1:23458","upstream":"localhost:1","enabled":true}]`,
	}},
}

const (
	makeA   = `POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1"}`
	refused = `400 {"error":"bad request body: …","status":400}`
	onlyA   = `200 application/json {"a":{"enabled":true,"listen":"127.0.0.1:PORT","name":"a","toxics":[],"upstream":"localhost:1"}}`
)

// deviations are where ours differs on purpose: after the requests of before, which
// both answer alike, request is answered so by ours and otherwise by Toxiproxy.
var deviations = []struct {
	why     string
	before  []string
	request string
	ours    string
}{
	{"a field that no proxy has is a mistake in spelling", nil,
		`POST /proxies {"name":"a","upsteam":"localhost:2","upstream":"localhost:1","listen":"127.0.0.1:0"}`, refused},
	{"a field that no proxy has is a mistake in spelling", []string{makeA}, `POST /proxies/a {"upsteam":"localhost:2"}`, refused},
	{"an attribute that no latency has is a mistake in spelling", []string{makeA},
		`POST /proxies/a/toxics {"type":"latency","attributes":{"lateness":1}}`, refused},
	{"an attribute that no latency has is a mistake in spelling", []string{makeA, `POST /proxies/a/toxics {"name":"n","type":"latency"}`},
		`PATCH /proxies/a/toxics/n {"attributes":{"lateness":1}}`, refused},
	{"a field that no toxic has is a mistake in spelling", []string{makeA}, `POST /proxies/a/toxics {"type":"latency","toxicitee":0.5}`, refused},
	{"what follows the JSON would be lost", nil, makeA + " and more", refused},
	{"what follows the JSON would be lost", []string{makeA}, `POST /proxies/a/toxics {"type":"latency"} and more`, refused},
	{"what follows the JSON would be lost", []string{makeA, `POST /proxies/a/toxics {"name":"n","type":"latency"}`}, `PATCH /proxies/a/toxics/n {"toxicity":0.5} and more`, refused},
	{"what follows the JSON would be lost", nil, `POST /populate [{"name":"d","listen":"127.0.0.1:0","upstream":"localhost:1"}] and more`,
		`400 {"error":"bad request body: …","proxies":[],"status":400}`},

	{"pieces of no bytes: Toxiproxy's process ends at the first byte", []string{makeA}, `POST /proxies/a/toxics {"type":"slicer"}`, refused},
	{"pieces of less than no bytes", []string{makeA}, `POST /proxies/a/toxics {"type":"slicer","attributes":{"average_size":-1}}`, refused},
	{"pieces of less than no bytes, now and then: Toxiproxy's process ends", []string{makeA},
		`POST /proxies/a/toxics {"type":"slicer","attributes":{"average_size":10,"size_variation":11}}`, refused},
	{"a negative rate: Toxiproxy's process ends at the first byte", []string{makeA}, `POST /proxies/a/toxics {"type":"bandwidth","attributes":{"rate":-1}}`, refused},
	{"there is no time before now", []string{makeA}, `POST /proxies/a/toxics {"type":"latency","attributes":{"latency":-1}}`, refused},
	{"nobody waits for longer than a year, and twice this overflows: Toxiproxy's process ends", []string{makeA},
		`POST /proxies/a/toxics {"type":"latency","attributes":{"jitter":9000000000000000000}}`, refused},
	{"a negative limit", []string{makeA}, `POST /proxies/a/toxics {"type":"limit_data","attributes":{"bytes":-1}}`, refused},
	{"a toxicity is a share", []string{makeA}, `POST /proxies/a/toxics {"type":"latency","toxicity":7}`, refused},
	{"a toxicity is a share", []string{makeA}, `POST /proxies/a/toxics {"type":"latency","toxicity":-1}`, refused},
	{"a change that is refused changes nothing",
		[]string{makeA, `POST /proxies/a/toxics {"name":"n","type":"latency","attributes":{"latency":1}}`, `PATCH /proxies/a/toxics/n {"attributes":{"latency":7,"jitter":"x"}}`},
		"GET /proxies/a/toxics/n", `200 application/json {"attributes":{"jitter":0,"latency":1},"name":"n","stream":"downstream","toxicity":1,"type":"latency"}`},
	{"a proxy that can't move stays where it is, up", []string{makeA, `POST /proxies/a {"listen":"localhost:BUSY"}`}, "GET /proxies", onlyA},
	{"an address that is none is refused in the same words as when a proxy is made", []string{makeA}, `POST /proxies/a {"listen":"nonsense"}`,
		`500 {"error":"listen tcp: address nonsense: missing port in address","status":500}`},
	{"a proxy has an upstream", []string{makeA}, `POST /proxies/a {"upstream":""}`, `400 {"error":"missing required field: upstream","status":400}`},
	{"who says the same name twice means two", nil,
		`POST /populate [{"name":"c","listen":"127.0.0.1:0","upstream":"localhost:1"},{"name":"c","listen":"127.0.0.1:0","upstream":"localhost:3"}]`,
		`400 {"error":"bad request body: …","proxies":[],"status":400}`},

	{"a proxy's toxics are made with it", nil,
		`POST /proxies {"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1","toxics":[{"type":"noop"}]}`,
		`201 application/json {"enabled":true,"listen":"127.0.0.1:PORT","name":"a","toxics":[{"attributes":{},"name":"noop_downstream","stream":"downstream","toxicity":1,"type":"noop"}],"upstream":"localhost:1"}`},
	{"a proxy's toxics are made with it", nil,
		`POST /populate [{"name":"a","listen":"127.0.0.1:0","upstream":"localhost:1","toxics":[{"type":"noop"}]}]`,
		`201 application/json {"proxies":[{"enabled":true,"listen":"127.0.0.1:PORT","name":"a","toxics":[{"attributes":{},"name":"noop_downstream","stream":"downstream","toxicity":1,"type":"noop"}],"upstream":"localhost:1"}]}`},
	{"a proxy for tests listens where tests are", nil, `POST /proxies {"name":"a","upstream":"localhost:1"}`,
		`201 application/json {"enabled":true,"listen":"127.0.0.1:PORT","name":"a","toxics":[],"upstream":"localhost:1"}`},
	{"there are more toxics", []string{makeA}, `POST /proxies/a/toxics {"type":"stall"}`,
		`200 application/json {"attributes":{"after":0,"bytes":0},"name":"stall_downstream","stream":"downstream","toxicity":1,"type":"stall"}`},
	{"a toxic works in both directions", []string{makeA}, `POST /proxies/a/toxics {"type":"noop","stream":"both"}`,
		`200 application/json {"attributes":{},"name":"noop_both","stream":"both","toxicity":1,"type":"noop"}`},
	{"a toxicity keeps its digits", []string{makeA}, `POST /proxies/a/toxics {"type":"noop","toxicity":0.123456789}`,
		`200 application/json {"attributes":{},"name":"noop_downstream","stream":"downstream","toxicity":0.123456789,"type":"noop"}`},
	{"a path is what it is", nil, "GET //proxies", `404 text/plain; charset=utf-8 404 page not found$`},
	{"there always are metrics", nil, "GET /metrics", `200 text/plain; version=0.0.4; charset=utf-8 …`},
}

// Both servers answer every request with the same status, type and body.
func TestAnswersAreToxiproxys(t *testing.T) {
	t.Parallel()
	for _, e := range exchanges {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			wantSame(t, e.requests, answers(t, ours, e.requests), answers(t, theirs, e.requests))
		})
	}
}

// Where ours differs on purpose, it answers what is written down, and Toxiproxy
// something else.
func TestDeviationsAreThoseWrittenDown(t *testing.T) {
	t.Parallel()
	for _, d := range deviations {
		t.Run(d.request, func(t *testing.T) {
			t.Parallel()
			requests := append(slices.Clone(d.before), d.request)
			got, want := answers(t, ours, requests), answers(t, theirs, requests)
			n := len(d.before)
			wantSame(t, d.before, got[:n], want[:n])
			meant, open := strings.CutSuffix(d.ours, "…")
			if got[n] != d.ours && !(open && strings.HasPrefix(got[n], meant)) {
				t.Errorf("%s\ngets\t%s\nwant\t%s\n%s", d.request, got[n], d.ours, d.why)
			}
			if got[n] == want[n] {
				t.Errorf("%s\ngets\t%s\nfrom Toxiproxy too: that is no deviation", d.request, got[n])
			}
		})
	}
}

// What deviates and is refused has changed nothing.
func TestWhatIsRefusedChangesNothing(t *testing.T) {
	t.Parallel()
	for _, d := range deviations {
		if d.ours != refused {
			continue
		}
		t.Run(d.request, func(t *testing.T) {
			t.Parallel()
			before := answers(t, ours, append(slices.Clone(d.before), "GET /proxies"))
			after := answers(t, ours, append(slices.Clone(d.before), d.request, "GET /proxies"))
			if was, is := before[len(before)-1], after[len(after)-1]; is != was {
				t.Errorf("after %s there is\n\t%s\nwant\n\t%s", d.request, is, was)
			}
		})
	}
}

func wantSame(t *testing.T, requests, got, want []string) {
	t.Helper()
	for i, r := range requests {
		if got[i] != want[i] {
			t.Errorf("%s\ngets\t%s\nwant\t%s", r, got[i], want[i])
		}
	}
}

// answers sends requests to a new server, and returns its answers without what
// differs everywhere.
func answers(t *testing.T, k kind, requests []string) []string {
	s := newSession(t, k)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	s.ok(err)
	defer busy.Close()
	busyPort := strings.NewReplacer("BUSY", fmt.Sprint(busy.Addr().(*net.TCPAddr).Port))
	var out []string
	for _, line := range requests {
		method, rest, _ := strings.Cut(busyPort.Replace(line), " ")
		path, body, _ := strings.Cut(rest, " ")
		res, answer := s.do(handmade{method: method, path: path, body: body})
		out = append(out, normal(res.StatusCode, res.Header.Get("Content-Type"), answer))
	}
	return out
}

// normal is an answer without what differs everywhere, and with its keys in order
// if it is JSON.
func normal(status int, kind, body string) string {
	end := ""
	if strings.HasSuffix(body, "\n") {
		end = "$" // whether there is a line's end is compared
	}
	var v any
	if json.Unmarshal([]byte(body), &v) == nil {
		if o, ok := v.(map[string]any); ok && o["error"] != nil {
			kind, end = "", "" // textErrors
		}
		data, _ := json.Marshal(without(v))
		body = string(data)
	}
	body = port5.ReplaceAllString(strings.TrimSpace(body), ":PORT")
	return strings.Join(strings.Fields(fmt.Sprint(status, " ", kind, " ", body, end)), " ")
}

// without takes out what differs everywhere: loggers, jsonErrors, nullLists.
func without(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = without(v[i])
		}
	case map[string]any:
		delete(v, "Logger")
		if made, ok := v["proxies"]; ok && made == nil {
			v["proxies"] = []any{}
		}
		if text, ok := v["error"].(string); ok && strings.HasPrefix(text, "bad request body: ") {
			v["error"] = "bad request body: …"
		}
		for key := range v {
			v[key] = without(v[key])
		}
	}
	return v
}
