package peer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// A kind is a kind of proxy that takes part.
type kind string

const (
	noProxy       kind = "direct" // the client dials the server: what the machine can do
	ioCopy        kind = "iocopy" // two io.Copy a connection: what a proxy costs at least
	theirs        kind = "toxiproxy"
	ours          kind = "toxi"
	theirsByHTTP  kind = "toxiproxy-http"
	oursByHTTP    kind = "toxi-http"
	notAskedToAdd      = "this kind of proxy has no faults"
)

// A proxy is one that runs in front of a server.
type proxy interface {
	Addr() string
	// Add adds a fault; remove takes it out again.
	Add(fault) (remove func() error, err error)
	// List counts the faults.
	List() int
	// Toggle takes the proxy down and up again.
	Toggle() error
	Close()
}

// A fault is one as Toxiproxy's API has it.
type fault struct {
	Name       string           `json:"name"`
	Type       string           `json:"type"`
	Stream     string           `json:"stream"`
	Toxicity   float64          `json:"toxicity"`
	Attributes map[string]int64 `json:"attributes"`
}

// kinds opens a proxy of each kind that runs within a process.
var kinds = map[kind]func(upstream string) (proxy, error){
	noProxy: func(upstream string) (proxy, error) { return direct(upstream), nil },
	ioCopy:  openCopier,
	theirs:  openTheirs,
	ours:    openOurs,
}

// apis are the HTTP APIs of those kinds that have one.
var apis = map[kind]func() (h http.Handler, done func(), err error){
	theirs: func() (http.Handler, func(), error) {
		s := newTheirs()
		return s.Routes(), func() { s.Collection.Clear() }, nil
	},
	ours: newOurs,
}

type direct string

func (d direct) Addr() string                    { return string(d) }
func (d direct) Add(fault) (func() error, error) { return nil, errors.New(notAskedToAdd) }
func (d direct) List() int                       { return 0 }
func (d direct) Toggle() error                   { return errors.New(notAskedToAdd) }
func (d direct) Close()                          {}

// A copier is the least that a proxy can do: one goroutine a direction, in io.Copy,
// and the end of each direction passed on.
type copier struct {
	net.Listener
	upstream string
}

func openCopier(upstream string) (proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &copier{l, upstream}
	go c.accept()
	return c, nil
}

func (c *copier) accept() {
	for {
		client, err := c.Accept()
		if err != nil {
			return
		}
		go c.serve(client.(*net.TCPConn))
	}
}

func (c *copier) serve(client *net.TCPConn) {
	defer client.Close()
	conn, err := net.Dial("tcp", c.upstream)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	var other sync.WaitGroup
	other.Go(func() { pass(server, client) })
	pass(client, server)
	other.Wait()
}

// pass copies one direction. When the writing fails there is nobody to read for.
func pass(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		src.Close()
		dst.Close()
		return
	}
	dst.CloseWrite()
}

func (c *copier) Addr() string                    { return c.Listener.Addr().String() }
func (c *copier) Add(fault) (func() error, error) { return nil, errors.New(notAskedToAdd) }
func (c *copier) List() int                       { return 0 }
func (c *copier) Toggle() error                   { return errors.New(notAskedToAdd) }
func (c *copier) Close()                          { c.Listener.Close() }

// newTheirs is Toxiproxy's server as its own main makes it, but without a log.
func newTheirs() *toxiproxy.ApiServer {
	return toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
}

type theirProxy struct{ *toxiproxy.Proxy }

func openTheirs(upstream string) (proxy, error) {
	s := newTheirs()
	p := toxiproxy.NewProxy(s, "p", "127.0.0.1:0", upstream)
	if err := s.Collection.Add(p, true); err != nil {
		return nil, err
	}
	return theirProxy{p}, nil
}

func (p theirProxy) Addr() string { return p.Listen }

func (p theirProxy) Add(f fault) (func() error, error) {
	// There is no other way to add one in Go.
	data, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	t, err := p.Toxics.AddToxicJson(strings.NewReader(string(data)))
	if err != nil {
		return nil, err
	}
	return func() error { return p.Toxics.RemoveToxic(context.Background(), t.Name) }, nil
}

func (p theirProxy) List() int { return len(p.Toxics.GetToxicArray()) }

func (p theirProxy) Toggle() error {
	p.Stop()
	return p.Start()
}

func (p theirProxy) Close() { p.Stop() }

// A byHTTP is a proxy that is made and changed over the API.
type byHTTP struct {
	api  string
	addr string
}

func openByHTTP(api, upstream string) (proxy, error) {
	p := &byHTTP{api: api}
	var made struct{ Listen string }
	err := call("POST", api+"/proxies", map[string]string{"name": "p", "listen": "127.0.0.1:0", "upstream": upstream}, &made)
	p.addr = made.Listen
	return p, err
}

func (p *byHTTP) Addr() string { return p.addr }

func (p *byHTTP) Add(f fault) (func() error, error) {
	err := call("POST", p.api+"/proxies/p/toxics", f, nil)
	return func() error { return call("DELETE", p.api+"/proxies/p/toxics/"+f.Name, nil, nil) }, err
}

func (p *byHTTP) List() int {
	var all map[string]struct{ Toxics []struct{} }
	if err := call("GET", p.api+"/proxies", nil, &all); err != nil {
		return -1
	}
	return len(all["p"].Toxics)
}

func (p *byHTTP) Toggle() error {
	for _, enabled := range []bool{false, true} {
		if err := call("POST", p.api+"/proxies/p", map[string]bool{"enabled": enabled}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *byHTTP) Close() { call("DELETE", p.api+"/proxies/p", nil, nil) }

// patient waits for longer than Toxiproxy does before it answers 503.
var patient = &http.Client{Timeout: 30 * time.Second}

// call sends what as JSON and reads the answer into answer, both of which may be nil.
func call(method, url string, what, answer any) error {
	body := io.Reader(http.NoBody)
	if what != nil {
		data, err := json.Marshal(what)
		if err != nil {
			return err
		}
		body = strings.NewReader(string(data))
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	res, err := patient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %s", method, url, res.Status, data)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(data, answer)
}
