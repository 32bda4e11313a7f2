package toxiproxy

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// roundTrip sends a request, without a network.
func (s *Server) roundTrip(method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// newFuzzed returns a server with two proxies, one of which listens.
func newFuzzed(f *testing.F) *Server {
	s, err := New(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	if err := s.Populate(strings.NewReader(`[
		{"name":"live","upstream":"127.0.0.1:9","toxics":[{"name":"old","type":"slicer","attributes":{"average_size":10}}]},
		{"name":"off","upstream":"127.0.0.1:9","enabled":false}]`)); err != nil {
		f.Fatal(err)
	}
	return s
}

// Whatever is sent as a toxic, a refusal changes nothing, and what is taken can be
// read, sent again, and deleted.
func FuzzToxicBody(f *testing.F) {
	for _, k := range kinds {
		f.Add(`{"type":"` + k.name + `"}`)
		f.Add(`{"type":"` + k.name + `","name":"n","stream":"Upstream","toxicity":0.5,"attributes":` + string(k.write(k.fresh)) + `}`)
	}
	f.Add(`{"type":"cut","attributes":{"after":1,"reset":"true"}}`)
	f.Add(`{"attributes":{"average_size":11,"size_variation":11}}`)
	f.Add(`{"toxicity":1e-400,"attributes":null}`)
	f.Add(`{"TYPE":"latency","attributes":{"latency":-0,"latency":9e9}}`)
	f.Add(`[{}]`)
	f.Add(``)
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, body string) {
		for _, request := range [][2]string{
			{"POST", "/proxies/live/toxics"},
			{"POST", "/proxies/off/toxics"},
			{"PATCH", "/proxies/live/toxics/old"},
		} {
			_, before := s.roundTrip("GET", "/proxies", "")
			code, made := s.roundTrip(request[0], request[1], body)
			_, after := s.roundTrip("GET", "/proxies", "")
			switch {
			case code == 400 || code == 409:
				if after != before {
					t.Fatalf("%s %s: %d, and changed\n%s\nto\n%s", request, body, code, before, after)
				}
			case code != 200:
				t.Fatalf("%s %s: %d %s", request, body, code, made)
			case request[0] == "PATCH":
				if !strings.Contains(after, made) {
					t.Fatalf("%s %s: %s is not in %s", request, body, made, after)
				}
			default:
				p, _ := s.lookup(strings.Split(request[1], "/")[2])
				name := p.now.Load().toxics[len(p.now.Load().toxics)-1].name
				if err := s.removeToxic(p, name); err != nil {
					t.Fatal(err)
				}
				if _, rest := s.roundTrip("GET", "/proxies", ""); rest != before {
					t.Fatalf("deleted, there is\n%s\nwant\n%s", rest, before)
				}
				if code, again := s.roundTrip("POST", request[1], made); code != 200 || again != made {
					t.Fatalf("%s again: %d %s", made, code, again)
				}
				if err := s.removeToxic(p, name); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// Whatever is sent as a proxy or as a list of proxies, a refusal changes nothing.
func FuzzProxyBody(f *testing.F) {
	f.Add(`{"name":"a","upstream":"localhost:9"}`)
	f.Add(`{"name":"","listen":null,"upstream":"","enabled":false,"toxics":[{"type":"latency"}],"Logger":{}}`)
	f.Add(`{"enabled":1}`)
	f.Add(`{"listen":"\ud800","upstream":"a:b:c"}`)
	f.Add(`[{"name":"a","upstream":"localhost:9","toxics":[{"type":"slicer"}]},{"name":"a"}]`)
	f.Add(`[[]]`)
	f.Add(`{"":""}{`)
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, body string) {
		// What is right would listen somewhere, and look up names.
		b, errOne := parseProxy([]byte(body))
		_, errPlan := b.plan()
		_, errMany := parsePlans([]byte(body))
		for request, err := range map[[2]string]error{
			{"PATCH", "/proxies/live"}: errOne,
			{"PATCH", "/proxies/off"}:  errOne,
			{"POST", "/proxies"}:       cmpOr(errOne, errPlan),
			{"POST", "/populate"}:      errMany,
		} {
			if err == nil {
				continue
			}
			_, before := s.roundTrip("GET", "/proxies", "")
			code, answer := s.roundTrip(request[0], request[1], body)
			if _, after := s.roundTrip("GET", "/proxies", ""); code != 400 || after != before {
				t.Fatalf("%s %s: %d %s, and changed\n%s\nto\n%s", request, body, code, answer, before, after)
			}
		}
	})
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Whatever the path is, it is answered.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"", "live", "live/toxics", "live/toxics/old", "a%2Fb", "%", "//", "toxics/toxics/toxics", "live/toxics/toxics/old", "%25/toxics/%zz"} {
		f.Add(path)
	}
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = "/proxies/" + path
		r.URL.RawPath = r.URL.Path // EscapedPath uses it if it is right
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 404 {
			t.Fatalf("GET /proxies/%s: %d %s", path, w.Code, w.Body)
		}
	})
}
