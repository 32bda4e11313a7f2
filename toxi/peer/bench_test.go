package peer_test

import (
	"cmp"
	"flag"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

var roundsFlag = flag.Int("rounds", 0, "rounds of each contest, 0 for as many as it says itself")

// A sample is what a turn measured, by units.
type sample map[string]float64

// A contest is a benchmark in which kinds of proxies take turns.
type contest struct {
	*testing.B
	kinds    []kind
	rounds   int
	embedded bool
	fresh    bool     // new processes for each round
	ratios   []string // units of which ratios are wanted
	upstream string   // how the server opens, if it isn't "Open"

	server *role
	agents map[kind]*role
	addrs  map[kind]string // of a proxy of each kind
	apis   map[kind]proxy  // of those that are made and changed by HTTP
}

// all are those whose speed is compared.
func all() []kind { return present(noProxy, ioCopy, ours, theirs) }

// present leaves out kinds that this binary doesn't have.
func present(wanted ...kind) []kind {
	return slices.DeleteFunc(wanted, func(k kind) bool {
		base, _ := strings.CutSuffix(string(k), "-http")
		return kinds[kind(base)] == nil
	})
}

// scale is n, or less of it if the benchmarks shall be short.
func scale[N int | int64](n, short N) N {
	if testing.Short() {
		return short
	}
	return n
}

// run gives every kind its turn in every round, and reports the medians: a line of
// each kind. The kind that began the last round is the last of the next, because who
// comes first finds a cold machine.
func (c *contest) run(turn func(k kind) sample) {
	c.Helper()
	rounds := scale(c.rounds, 1)
	if *roundsFlag > 0 {
		rounds = *roundsFlag
	}
	samples := make(map[kind][]sample)
	order := slices.Clone(c.kinds)
	c.open()
	for r := range rounds {
		if c.fresh && r > 0 {
			c.open()
		}
		for _, k := range order {
			samples[k] = append(samples[k], turn(k))
		}
		order = append(order[1:], order[0])
	}
	for _, k := range c.kinds {
		c.Run(string(k), func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // of no meaning: leaves it out
			for _, unit := range units(samples[k]) {
				b.ReportMetric(median(column(samples[k], unit)), unit)
			}
			for _, unit := range c.ratios {
				for _, than := range []kind{ioCopy, theirs} {
					if k == than || !slices.Contains(c.kinds, than) {
						continue
					}
					name := "of-" + string(than)
					if len(c.ratios) > 1 {
						name = unit + "-" + name
					}
					mine, base := column(samples[k], unit), column(samples[than], unit)
					for i := range mine {
						mine[i] /= base[i]
					}
					b.ReportMetric(median(mine), name)
				}
			}
		})
	}
}

func units(samples []sample) []string {
	var out []string
	for _, s := range samples {
		for unit := range s {
			if !slices.Contains(out, unit) {
				out = append(out, unit)
			}
		}
	}
	return out
}

func column(samples []sample, unit string) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = s[unit]
	}
	return out
}

// open starts the server and a proxy of each kind, in place of those there were.
func (c *contest) open() {
	c.Helper()
	for _, a := range c.agents {
		a.stop()
	}
	if c.server != nil {
		c.server.stop()
	}
	c.agents, c.addrs, c.apis = make(map[kind]*role), make(map[kind]string), make(map[kind]proxy)
	c.server = start(c, "upstream", c.embedded)
	for _, k := range c.kinds {
		base, byHTTP := strings.CutSuffix(string(k), "-http")
		var upstream, addr string
		c.server.ask(c, cmp.Or(c.upstream, "Open"), None{}, &upstream)
		c.agents[k] = start(c, base, c.embedded)
		if byHTTP {
			var url string
			c.agents[k].ask(c, "API", None{}, &url)
			p, err := openByHTTP(url, upstream)
			if err != nil {
				c.Fatal(err)
			}
			c.apis[k], addr = p, p.Addr()
		} else {
			c.agents[k].ask(c, "Open", upstream, &addr)
		}
		c.addrs[k] = addr
	}
}

// stats takes stock of the process of k's proxy.
func (c *contest) stats(k kind, collect bool) Stats {
	c.Helper()
	var s Stats
	c.agents[k].ask(c, "Stats", collect, &s)
	return s
}

// patience is how long a connection may take for anything. Proxies that lose bytes
// make their clients wait for ever.
const patience = 30 * time.Second

// dial connects to k's proxy.
func (c *contest) dial(k kind) *net.TCPConn {
	c.Helper()
	conn, err := net.Dial("tcp", c.addrs[k])
	if err != nil {
		c.Fatalf("%s: %v", k, err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// echo asks for an echo, sends n bytes and waits until they are back.
func echo(conn net.Conn, n int) error {
	if _, err := conn.Write(append(request(opEcho, 0), noise[:n]...)); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, n))
	return err
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
