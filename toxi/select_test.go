package toxi_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/podworks/podworks/toxi"
)

// struckBy says of each connection whether a Corrupt strikes it.
func struckBy(t *testing.T, conns []net.Conn) string {
	t.Helper()
	var out strings.Builder
	for _, c := range conns {
		say(t, c, "a")
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		if b[0] == 'a' {
			out.WriteByte('.')
		} else {
			out.WriteByte('X')
		}
	}
	return out.String()
}

func TestToxicityStrikesTheSameConnectionsForTheSameSeed(t *testing.T) {
	t.Parallel()
	const n = 64
	_, seed := chance(t)
	upstream := serve(t, "tcp", echo)
	half := toxi.Fault{Toxic: toxi.Corrupt{Rate: 1}, Toxicity: 0.5}
	run := func(seed uint64) string {
		t.Helper()
		p := proxy(t, upstream, &toxi.Options{Seed: seed})
		if p.Seed() != seed {
			t.Errorf("the seed is %d, want %d", p.Seed(), seed)
		}
		add(t, p, half)
		var conns []net.Conn
		for range n {
			conns = append(conns, dial(t, p.Addr()))
		}
		first := struckBy(t, conns)
		check := func(when string) {
			t.Helper()
			if got := struckBy(t, conns); got != first {
				t.Errorf("%s\n%s are struck, were\n%s", when, got, first)
			}
		}
		check("again")
		remove := add(t, p, toxi.Fault{Toxic: toxi.Noop{}, Stream: toxi.Both, Toxicity: 0.5})
		check("after another toxic came")
		add(t, p, toxi.Latency{})
		check("after two others came")
		remove()
		check("after one went")
		if err := p.Update("corrupt_downstream", toxi.Fault{Toxic: toxi.Corrupt{Rate: 1 - 1e-15}, Toxicity: 0.5}); err != nil {
			t.Fatal(err)
		}
		check("after it was changed")
		p.Down(func() {})
		return first
	}
	first := run(seed)
	if again := run(seed); again != first {
		t.Errorf("with seed %d\n%s are struck, and in the next run\n%s", seed, first, again)
	}
	if other := run(seed + 1); other == first {
		t.Errorf("with seeds %d and %d the same are struck: %s", seed, seed+1, first)
	}
	// Less than 12 or more than 52 of 64 come once in ten million runs.
	if hits := strings.Count(first, "X"); hits < 12 || hits > 52 {
		t.Errorf("%d of %d are struck, want about half: %s", hits, n, first)
	}
}

func TestMoreToxicityStrikesTheSameAndMore(t *testing.T) {
	t.Parallel()
	p := proxy(t, serve(t, "tcp", echo), nil)
	add(t, p, toxi.Fault{Name: "c", Toxic: toxi.Corrupt{Rate: 1}, Toxicity: toxi.Never})
	var conns []net.Conn
	for range 64 {
		conns = append(conns, dial(t, p.Addr()))
	}
	before := struckBy(t, conns)
	if strings.Contains(before, "X") {
		t.Errorf("with Never %s are struck", before)
	}
	for _, toxicity := range []float64{0.2, 0.4, 0.9, 1} {
		if err := p.Update("c", toxi.Fault{Toxic: toxi.Corrupt{Rate: 1}, Toxicity: toxicity}); err != nil {
			t.Fatal(err)
		}
		now := struckBy(t, conns)
		for i := range now {
			if before[i] == 'X' && now[i] != 'X' {
				t.Fatalf("with toxicity %v\n%s are struck, with less\n%s", toxicity, now, before)
			}
		}
		before = now
	}
	if strings.Contains(before, ".") {
		t.Errorf("with toxicity 1 %s are struck", before)
	}
}

func TestFaultsOfTheSameToxicityStrikeIndependently(t *testing.T) {
	t.Parallel()
	_, seed := chance(t)
	upstream := serve(t, "tcp", echo)
	patterns := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		p := proxy(t, upstream, &toxi.Options{Seed: seed})
		add(t, p, toxi.Fault{Name: name, Toxic: toxi.Corrupt{Rate: 1}, Toxicity: 0.5})
		var conns []net.Conn
		for range 64 {
			conns = append(conns, dial(t, p.Addr()))
		}
		patterns[struckBy(t, conns)] = true
	}
	if len(patterns) != 3 {
		t.Errorf("three faults strike %d different sets of connections: %v", len(patterns), patterns)
	}
}

func TestWhatNeverStrikesLeavesNoTrace(t *testing.T) {
	t.Parallel()
	for _, toxic := range []toxi.Toxic{toxi.ResetPeer{}, toxi.Timeout{}, toxi.Cut{Bytes: 1, Reset: true}, toxi.LimitData{}} {
		t.Run(fmt.Sprintf("%T", toxic), func(t *testing.T) {
			t.Parallel()
			p, _, _ := through(t, "tcp", nil)
			undo := add(t, p, toxi.Fault{Toxic: toxic, Stream: toxi.Both, Toxicity: toxi.Never})
			addr, accepted := hand(t, "tcp")
			p = proxy(t, addr, nil)
			undo()
			add(t, p, toxi.Fault{Toxic: toxic, Stream: toxi.Both, Toxicity: toxi.Never})
			for range 3 {
				client := dial(t, p.Addr())
				server := accept(t, accepted)
				say(t, client, "a")
				hear(t, server, "a")
				say(t, server, "b")
				hear(t, client, "b")
				client.Close()
				hearEnd(t, server) // and no RST
				server.Close()
			}
		})
	}
}

func TestSelectorsChooseConnections(t *testing.T) {
	t.Parallel()
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	tests := []struct {
		name string
		only func(toxi.Conn) bool
		want string // of two connections that were there and six new ones
	}{
		{"nil", nil, "XXXXXXXX"},
		{"First(0)", toxi.First(0), "........"},
		{"First(2)", toxi.First(2), "..XX...."},
		{"Every(0)", toxi.Every(0), "........"},
		{"Every(1)", toxi.Every(1), "..XXXXXX"},
		{"Every(3)", toxi.Every(3), "....X..X"},
		{"From(loopback)", toxi.From(netip.MustParsePrefix("10.0.0.0/8"), loopback), "XXXXXXXX"},
		{"From(elsewhere)", toxi.From(netip.MustParsePrefix("10.0.0.0/8")), "........"},
		{"From()", toxi.From(), "........"},
		{"by number", func(c toxi.Conn) bool { return c.Number == 2 || c.Number == 5 }, ".X..X..."},
	}
	upstream := serve(t, "tcp", echo)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := proxy(t, upstream, nil)
			conns := []net.Conn{dial(t, p.Addr()), dial(t, p.Addr())}
			struckBy(t, conns)
			add(t, p, toxi.Fault{Toxic: toxi.Corrupt{Rate: 1}, Only: tt.only})
			for range 6 {
				conns = append(conns, dial(t, p.Addr()))
			}
			if got := struckBy(t, conns); got != tt.want {
				t.Errorf("%s are struck, want %s", got, tt.want)
			}
		})
	}
}

func TestFromKnowsAddressesOfBothFamilies(t *testing.T) {
	t.Parallel()
	conn := func(addr net.Addr) toxi.Conn { return toxi.Conn{Client: addr} }
	from := toxi.From(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32"))
	tests := []struct {
		addr net.Addr
		want bool
	}{
		{&net.TCPAddr{IP: net.IPv4(10, 1, 2, 3)}, true},
		{&net.TCPAddr{IP: net.IPv4(10, 2, 2, 3).To4()}, false},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:10.1.2.3")}, true},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1")}, true},
		{&net.TCPAddr{IP: net.ParseIP("2001:db9::1")}, false},
		{&net.UnixAddr{Name: "/tmp/x"}, false},
		{nil, false},
	}
	for _, tt := range tests {
		if got := from(conn(tt.addr)); got != tt.want {
			t.Errorf("From says %t of %v, want %t", got, tt.addr, tt.want)
		}
	}
}

func TestOnlyIsAskedOnceAConnectionAndWithoutLocks(t *testing.T) {
	t.Parallel()
	p := proxy(t, serve(t, "tcp", echo), nil)
	asked := make(chan toxi.Conn, 1000)
	var others atomic.Int64
	fault := toxi.Fault{Name: "asking", Toxic: toxi.Noop{}, Stream: toxi.Both}
	fault.Only = func(c toxi.Conn) bool {
		asked <- c
		// Everything may be called from here, and returns.
		p.Faults()
		p.Stats()
		p.Conns()
		name := fmt.Sprint("other ", others.Add(1))
		if _, err := p.Add(toxi.Fault{Name: name, Toxic: toxi.Noop{}, Stream: toxi.Both}); err != nil {
			t.Error(err)
		}
		if err := p.Remove(name); err != nil {
			t.Error(err)
		}
		return true
	}
	first := dial(t, p.Addr())
	ping(t, first)
	add(t, p, fault)
	const n = 50
	for range n - 1 {
		ping(t, dial(t, p.Addr()))
	}
	ping(t, first)
	for i := range 5 {
		if err := p.Update("asking", fault); err != nil {
			t.Fatal(err)
		}
		add(t, p, toxi.Fault{Name: fmt.Sprint(i), Toxic: toxi.Latency{}, Stream: toxi.Both})
	}
	ping(t, first)
	if len(asked) != n {
		t.Errorf("Only was called %d times for %d connections", len(asked), n)
	}
	seen := map[uint64]bool{}
	for range min(n, len(asked)) {
		c := <-asked
		seen[c.Number] = true
		if c.New != c.Number-1 || c.Opened.IsZero() || c.Client == nil {
			t.Errorf("Only was told %+v; connection 1 was open when the fault came", c)
		}
	}
	if len(seen) != n {
		t.Errorf("Only was called for %d of %d connections", len(seen), n)
	}
}

func TestWhatWasDecidedStaysThoughTheOtherDirectionIsLate(t *testing.T) {
	t.Parallel()
	// The downstream pump is still asking about fault a when fault b has come and the
	// upstream pump has decided about it: it must not forget that for being no part of
	// the setup it works on.
	p := proxy(t, serve(t, "tcp", echo), nil)
	decided := make(chan bool, 10)
	b := toxi.Fault{Name: "b", Toxic: toxi.Noop{}, Stream: toxi.Both, Only: func(toxi.Conn) bool {
		decided <- true
		return true
	}}
	a := toxi.Fault{Name: "a", Toxic: toxi.Noop{}, Stream: toxi.Downstream, Only: func(toxi.Conn) bool {
		if _, err := p.Add(b); err != nil {
			t.Error(err)
		}
		<-decided
		decided <- true
		return true
	}}
	c := dial(t, p.Addr())
	ping(t, c)
	add(t, p, a)
	ping(t, c)
	ping(t, c)
	if len(decided) != 1 {
		t.Errorf("it was decided %d times whether b strikes", len(decided))
	}
}

func TestAnOnlyThatEndsItsGoroutineHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	p := proxy(t, serve(t, "tcp", echo), nil)
	add(t, p, toxi.Fault{Toxic: toxi.Hang{}, Only: func(c toxi.Conn) bool {
		if c.Number == 1 {
			runtime.Goexit() // t.FailNow does
		}
		return false
	}})
	bad := dial(t, p.Addr())
	ping(t, dial(t, p.Addr()))
	prompt(t, "Close", func() { p.Close() })
	if _, err := bad.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives")
	}
}
