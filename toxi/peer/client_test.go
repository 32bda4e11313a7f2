package peer_test

import (
	"fmt"
	"net/http"
	"testing"

	client "github.com/Shopify/toxiproxy/v2/client"
)

const chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"

// delays are attributes of latency.
func delays(latency, jitter int) client.Attributes {
	return client.Attributes{"latency": latency, "jitter": jitter}
}

// What Toxiproxy's tests of its API assert, one case for each of them, and under
// their names: by Toxiproxy's client, against both servers.
func TestToxiproxysClientFindsWhatItExpects(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{theirs, ours} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			for name, test := range clientCases {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(newSession(t, k))
				})
			}
		})
	}
}

var clientCases = map[string]func(*session){
	"RequestId": func(s *session) {
		res, _ := s.do(handmade{method: "GET", path: "/version", agent: "curl"})
		if res.Header.Get("X-Toxiproxy-Request-Id") == "" {
			s.Errorf("no request id in %v", res.Header)
		}
	},
	"BrowserGets403": func(s *session) {
		if res, _ := s.do(handmade{method: "GET", path: "/proxies", agent: chrome}); res.StatusCode != http.StatusForbidden {
			s.Errorf("a browser gets %s", res.Status)
		}
	},
	"NonBrowserGets200": func(s *session) {
		if res, _ := s.do(handmade{method: "GET", path: "/proxies", agent: "Wget/2.1"}); res.StatusCode != http.StatusOK {
			s.Errorf("wget gets %s", res.Status)
		}
	},
	"VersionEndpointReturnsVersion": func(s *session) {
		if _, body := s.do(handmade{method: "GET", path: "/version"}); body != `{"version": "git"}`+"\n" {
			s.Errorf("the version is %q", body)
		}
		body, err := s.Version()
		s.ok(err)
		if string(body) != `{"version": "git"}`+"\n" {
			s.Errorf("the client's version is %q", body)
		}
	},
	"IndexWithNoProxies": func(s *session) { s.proxies(0) },

	"CreateProxyBlankName": func(s *session) {
		_, err := s.CreateProxy("", "", "")
		s.wantError(err, "Create: HTTP 400: missing required field: name")
	},
	"CreateProxyBlankUpstream": func(s *session) {
		_, err := s.CreateProxy("test", "", "")
		s.wantError(err, "Create: HTTP 400: missing required field: upstream")
	},
	"ListingProxies": func(s *session) {
		_, at := s.create("mysql")
		p := s.proxies(1)["mysql"]
		s.wantProxy(p, "mysql", fmt.Sprintf("127.0.0.1:%d", at), nobody, true)
		s.wantToxics(p)
	},
	"CreateAndGetProxy": func(s *session) {
		_, at := s.create("mysql")
		p, err := s.Proxy("mysql")
		s.ok(err)
		s.wantProxy(p, "mysql", fmt.Sprintf("127.0.0.1:%d", at), nobody, true)
		s.wantToxics(p)
	},
	"CreateProxyWithSave": func(s *session) {
		at := port(s.T)
		p := s.NewProxy()
		p.Name, p.Listen, p.Upstream, p.Enabled = "mysql", fmt.Sprintf("localhost:%d", at), nobody, true
		s.ok(p.Save())
		got, err := s.Proxy("mysql")
		s.ok(err)
		s.wantProxy(got, "mysql", fmt.Sprintf("127.0.0.1:%d", at), nobody, true)
		s.wantUp(got.Listen, true)
	},
	"CreateDisabledProxy": func(s *session) {
		listen := fmt.Sprintf("localhost:%d", port(s.T))
		p := s.NewProxy()
		p.Name, p.Listen, p.Upstream = "mysql", listen, nobody
		s.ok(p.Save())
		got, err := s.Proxy("mysql")
		s.ok(err)
		s.wantProxy(got, "mysql", listen, nobody, false)
		s.wantUp(got.Listen, false)
	},
	"CreateDisabledProxyAndEnable": func(s *session) {
		p := s.NewProxy()
		p.Name, p.Listen, p.Upstream = "mysql", fmt.Sprintf("localhost:%d", port(s.T)), nobody
		s.ok(p.Save())
		got, err := s.Proxy("mysql")
		s.ok(err)
		got.Enabled = true
		s.ok(got.Save())
		s.wantUp(got.Listen, true)
		got.Enabled = false
		s.ok(got.Save())
		s.wantUp(got.Listen, false)
		s.ok(got.Enable())
		s.wantUp(got.Listen, true)
		s.ok(got.Disable())
		s.wantUp(got.Listen, false)
	},
	"DeleteProxy": func(s *session) {
		p, _ := s.create("mysql")
		s.proxies(1)
		s.wantUp(p.Listen, true)
		s.ok(p.Delete())
		s.wantUp(p.Listen, false)
		s.proxies(0)
		s.wantError(p.Delete(), "Delete: HTTP 404: proxy not found")
	},
	"CreateProxyPortConflict": func(s *session) {
		p, at := s.create("mysql")
		listen := fmt.Sprintf("localhost:%d", at)
		_, err := s.CreateProxy("test", listen, nobody)
		s.wantError(err, fmt.Sprintf("Create: HTTP 500: listen tcp 127.0.0.1:%d: bind: address already in use", at))
		s.proxies(1)
		s.ok(p.Delete())
		_, err = s.CreateProxy("test", listen, nobody)
		s.ok(err)
	},
	"CreateProxyNameConflict": func(s *session) {
		p, _ := s.create("mysql")
		listen := fmt.Sprintf("localhost:%d", port(s.T))
		_, err := s.CreateProxy("mysql", listen, nobody)
		s.wantError(err, "Create: HTTP 409: proxy already exists")
		s.wantUp(listen, false)
		s.ok(p.Delete())
		_, err = s.CreateProxy("mysql", listen, nobody)
		s.ok(err)
	},
	"ResetState": func(s *session) {
		p, _ := s.create("mysql")
		s.wantToxic(s.add(p, "", "latency", "downstream", 1, delays(100, 10)),
			`latency_downstream latency downstream 1 {"jitter":10,"latency":100}`)
		other, _ := s.create("down")
		s.ok(other.Disable())
		s.ok(s.ResetState())
		for name, p := range s.proxies(2) {
			if !p.Enabled {
				s.Errorf("%s is disabled after a reset", name)
			}
			s.wantToxics(p)
			s.wantUp(p.Listen, true)
		}
	},

	"PopulateProxy": func(s *session) {
		made, err := s.Populate([]client.Proxy{
			{Name: "one", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true},
			{Name: "two", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true},
		})
		s.ok(err)
		s.wantNames(made, "one", "two")
		for _, p := range made {
			s.wantUp(p.Listen, true)
		}
	},
	"PopulateDefaultEnabled": func(s *session) {
		res, body := s.do(handmade{method: "POST", path: "/populate",
			body: fmt.Sprintf(`[{"name": "test", "listen": "localhost:%d", "upstream": "localhost:1"}]`, port(s.T))})
		if res.StatusCode != http.StatusCreated {
			s.Fatalf("%s: %s", res.Status, body)
		}
		p := s.proxies(1)["test"]
		if p == nil {
			s.Fatal("the proxy has another name")
		}
		s.wantUp(p.Listen, true)
	},
	"PopulateDisabledProxy": func(s *session) {
		made, err := s.Populate([]client.Proxy{
			{Name: "one", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: false},
			{Name: "two", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true},
		})
		s.ok(err)
		s.wantNames(made, "one", "two")
		s.wantUp(made[0].Listen, false)
		s.wantUp(made[1].Listen, true)
	},
	"PopulateExistingProxy": func(s *session) {
		one, at := s.create("one")
		two, before := s.create("two")
		s.add(one, "", "latency", "downstream", 1, nil)
		s.add(two, "", "latency", "downstream", 1, nil)
		after := port(s.T)
		made, err := s.Populate([]client.Proxy{
			// By its host's name it is still the same.
			{Name: "one", Listen: fmt.Sprintf("localhost:%d", at), Upstream: nobody, Enabled: true},
			{Name: "two", Listen: fmt.Sprintf("127.0.0.1:%d", after), Upstream: "localhost:2", Enabled: true},
		})
		s.ok(err)
		s.wantNames(made, "one", "two")
		s.wantProxy(made[0], "one", fmt.Sprintf("127.0.0.1:%d", at), nobody, true)
		s.wantProxy(made[1], "two", fmt.Sprintf("127.0.0.1:%d", after), "localhost:2", true)
		s.wantToxics(made[0], `latency_downstream latency downstream 1 {"jitter":0,"latency":0}`)
		s.wantToxics(made[1])
		for _, p := range made {
			s.wantUp(p.Listen, true)
		}
		s.wantUp(fmt.Sprintf("127.0.0.1:%d", before), false)
	},
	"PopulateWithBadName": func(s *session) {
		made, err := s.Populate([]client.Proxy{
			{Name: "one", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true},
			{Name: "", Enabled: true},
		})
		s.wantError(err, "Populate: HTTP 400: missing required field: name at proxy 2")
		s.wantNames(made)
		s.proxies(0)
	},
	"PopulateProxyWithBadDataShouldReturnError": func(s *session) {
		made, err := s.Populate([]client.Proxy{
			{Name: "one", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true},
			{Name: "two", Listen: "local373", Upstream: nobody, Enabled: true},
			{Name: "three", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true},
		})
		s.wantError(err, "Populate: HTTP 500: listen tcp: address local373: missing port in address")
		s.wantNames(made)
		if p := s.proxies(1)["one"]; p == nil {
			s.Error("the first was not made")
		} else {
			s.wantUp(p.Listen, true)
		}
	},
	"PopulateAddToxic": func(s *session) {
		made, err := s.Populate([]client.Proxy{{Name: "one", Listen: fmt.Sprintf("localhost:%d", port(s.T)), Upstream: nobody, Enabled: true}})
		s.ok(err)
		s.wantNames(made, "one")
		s.add(made[0], "", "latency", "downstream", 1, nil)
		s.wantToxics(made[0], `latency_downstream latency downstream 1 {"jitter":0,"latency":0}`)
	},

	"ListingToxics": func(s *session) {
		p, _ := s.create("mysql")
		s.wantToxics(p)
	},
	"AddToxic": func(s *session) {
		p, _ := s.create("mysql")
		want := `foobar latency downstream 1 {"jitter":10,"latency":100}`
		s.wantToxic(s.add(p, "foobar", "latency", "downstream", 1, delays(100, 10)), want)
		s.wantToxics(p, want)
	},
	"AddMultipleToxics": func(s *session) {
		p, _ := s.create("mysql")
		s.add(p, "latency1", "latency", "downstream", 1, nil)
		s.add(p, "latency2", "latency", "downstream", 1, nil)
		s.wantToxics(p,
			`latency1 latency downstream 1 {"jitter":0,"latency":0}`,
			`latency2 latency downstream 1 {"jitter":0,"latency":0}`)
	},
	"AddConflictingToxic": func(s *session) {
		p, _ := s.create("mysql")
		s.add(p, "foobar", "latency", "downstream", 1, nil)
		_, err := p.AddToxic("foobar", "slow_close", "downstream", 1, nil)
		s.wantError(err, "AddToxic: HTTP 409: toxic already exists")
		s.wantToxics(p, `foobar latency downstream 1 {"jitter":0,"latency":0}`)
	},
	"AddConflictingToxicsMultistream": func(s *session) {
		p, _ := s.create("mysql")
		s.add(p, "foobar", "latency", "upstream", 1, nil)
		_, err := p.AddToxic("foobar", "latency", "downstream", 1, nil)
		s.wantError(err, "AddToxic: HTTP 409: toxic already exists")
		s.wantToxics(p, `foobar latency upstream 1 {"jitter":0,"latency":0}`)
	},
	"AddConflictingToxicsMultistreamDefaults": func(s *session) {
		p, _ := s.create("mysql")
		// The streams are listed one after the other, however they came.
		s.add(p, "", "latency", "downstream", 1, nil)
		s.add(p, "", "latency", "upstream", 1, nil)
		s.wantToxics(p,
			`latency_upstream latency upstream 1 {"jitter":0,"latency":0}`,
			`latency_downstream latency downstream 1 {"jitter":0,"latency":0}`)
	},
	"AddToxicWithToxicity": func(s *session) {
		p, _ := s.create("mysql")
		want := `latency_downstream latency downstream 0.2 {"jitter":10,"latency":100}`
		s.wantToxic(s.add(p, "", "latency", "downstream", 0.2, delays(100, 10)), want)
		s.wantToxics(p, want)
	},
	"AddNoop": func(s *session) {
		p, _ := s.create("mysql")
		want := `foobar noop downstream 1 {}`
		s.wantToxic(s.add(p, "foobar", "noop", "", 1, nil), want)
		s.wantToxics(p, want)
	},
	"UpdateToxics": func(s *session) {
		p, _ := s.create("mysql")
		s.wantToxic(s.add(p, "", "latency", "downstream", -1, delays(100, 10)),
			`latency_downstream latency downstream 1 {"jitter":10,"latency":100}`)
		got, err := p.UpdateToxic("latency_downstream", 0.5, client.Attributes{"latency": 1000})
		s.ok(err)
		s.wantToxic(got, `latency_downstream latency downstream 0.5 {"jitter":10,"latency":1000}`)
		got, err = p.UpdateToxic("latency_downstream", -1, client.Attributes{"latency": 500})
		s.ok(err)
		want := `latency_downstream latency downstream 0.5 {"jitter":10,"latency":500}`
		s.wantToxic(got, want)
		s.wantToxics(p, want)
	},
	"RemoveToxic": func(s *session) {
		p, _ := s.create("mysql")
		s.add(p, "", "latency", "downstream", 1, nil)
		s.ok(p.RemoveToxic("latency_downstream"))
		s.wantToxics(p)
		s.wantError(p.RemoveToxic("latency_downstream"), "HTTP 404: toxic not found")
	},
	"InvalidStream": func(s *session) {
		p, _ := s.create("mysql")
		_, err := p.AddToxic("", "latency", "walrustream", 1, nil)
		s.wantError(err, "AddToxic: HTTP 400: stream was invalid, can be either upstream or downstream")
		s.wantToxics(p)
	},

	// The calls of the client that its server's tests leave out.
	"ClientAddUpdateRemoveToxic": func(s *session) {
		p, _ := s.create("mysql")
		o := &client.ToxicOptions{ProxyName: "mysql", ToxicName: "slow", ToxicType: "latency", Stream: "upstream", Toxicity: 1, Attributes: delays(1, 2)}
		got, err := s.AddToxic(o)
		s.ok(err)
		s.wantToxic(got, `slow latency upstream 1 {"jitter":2,"latency":1}`)
		o.Attributes = client.Attributes{"jitter": 3}
		got, err = s.UpdateToxic(o)
		s.ok(err)
		s.wantToxic(got, `slow latency upstream 1 {"jitter":3,"latency":1}`)
		s.ok(s.RemoveToxic(o))
		s.wantToxics(p)
		_, err = s.UpdateToxic(o)
		s.wantError(err, "failed to update toxic 'slow' of proxy 'mysql': HTTP 404: toxic not found")
		s.wantError(s.RemoveToxic(o), "failed to remove toxic 'slow' from proxy 'mysql': HTTP 404: toxic not found")
		o.ProxyName = "other"
		_, err = s.AddToxic(o)
		s.wantError(err, "failed to retrieve proxy with name `other`: HTTP 404: proxy not found")
	},
}

// wantNames compares the names of proxies, in order.
func (s *session) wantNames(got []*client.Proxy, want ...string) {
	s.Helper()
	names := make([]string, 0)
	for _, p := range got {
		names = append(names, p.Name)
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		s.Fatalf("the proxies are %q, want %q", names, want)
	}
}
