package toxi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A scene is a connection without sockets and without a clock: two flows with the
// stages of a toxic, between a client and a server that the test plays.
type scene struct {
	up, down flow
	now      time.Duration
	toxic    Toxic
	hits     atomic.Int64
	stages   [2]stage
	poked    [2]bool
	cut      ending

	toServer, toClient bytes.Buffer
}

// newScene puts a toxic in. If fresh, the connection has begun with it.
func newScene(toxic Toxic, fresh bool) *scene {
	r := &scene{toxic: toxic}
	r.stages[Upstream], r.stages[Downstream] = toxic.(talker).converse(&r.hits, func(s Stream) { r.poked[s] = true })
	if fresh {
		r.stages[Upstream].(*asking).fresh()
	}
	r.put(true)
	return r
}

// put puts the stages in, or takes them out.
func (r *scene) put(in bool) {
	for s, f := range []*flow{Downstream: &r.down, Upstream: &r.up} {
		var wants []want
		if in {
			wants = []want{{id: r, toxic: r.toxic, start: func() stage { return r.stages[s] }}}
		}
		r.cut = max(r.cut, f.set(wants))
	}
	r.run()
}

// run steps both directions until nothing moves, and takes out what has passed.
func (r *scene) run() {
	for busy := true; busy && r.cut == open; {
		busy = false
		for s, f := range []*flow{Downstream: &r.down, Upstream: &r.up} {
			r.poked[s] = false
			_, cut := f.step(r.now)
			r.cut = max(r.cut, cut)
			sink := &r.toClient
			if Stream(s) == Upstream {
				sink = &r.toServer
			}
			for !f.out.empty() {
				busy = true
				c := f.out.pop()
				if c.at > r.now {
					panic("a chunk left before its time")
				}
				sink.Write(c.b)
				c.buf.release()
			}
			if f.out.end > eof {
				r.cut = f.out.end
			}
		}
		busy = busy || r.poked[0] || r.poked[1]
	}
}

func (r *scene) say(s string)  { r.feed(&r.up, s) }
func (r *scene) hear(s string) { r.feed(&r.down, s) }

// says and hears do it in pieces of at most size bytes.
func (r *scene) says(s string, size int) {
	for _, piece := range chop(s, size) {
		r.say(piece)
	}
}

func (r *scene) hears(s string, size int) {
	for _, piece := range chop(s, size) {
		r.hear(piece)
	}
}

func (r *scene) feed(f *flow, s string) {
	if s != "" {
		f.entry().push(chunkOf([]byte(s), r.now))
	}
	r.run()
}

// wait lets time go by, to every moment at which a stage wants to be called.
func (r *scene) wait(d time.Duration) {
	for until := r.now + d; r.cut == open; {
		next := until
		for _, f := range []*flow{&r.up, &r.down} {
			if wake, _ := f.step(r.now); wake > r.now {
				next = min(next, wake)
			}
		}
		r.now = next
		r.run()
		if r.now == until {
			return
		}
	}
}

// An act is one thing that happens to a connection, and what is seen of it: everything
// that has come out since the act before.
type act struct {
	say, hear string // what client and server say
	play      func(s *scene, size int)
	wait      time.Duration // after that
	become    Toxic         // the toxic changes
	leave     bool          // it goes
	join      bool          // it comes again

	toServer, toClient string
	cut                ending
}

// A story is a toxic and what happens.
type story struct {
	name  string
	toxic Toxic
	late  bool // the toxic came when the connection was open
	acts  []act
	hits  int64
}

// tell plays a story, with what is said in pieces of at most size bytes.
func (s story) tell(t *testing.T, size int) {
	t.Helper()
	if p := s.toxic.problems(); len(p) > 0 {
		t.Fatal(p)
	}
	r := newScene(s.toxic, !s.late)
	for i, m := range s.acts {
		if m.play != nil {
			m.play(r, size)
		}
		r.says(m.say, size)
		r.hears(m.hear, size)
		if m.become != nil {
			r.toxic = m.become
		}
		if m.become != nil || m.leave || m.join {
			r.put(!m.leave)
		}
		r.wait(m.wait)
		if got := r.toServer.String(); got != m.toServer {
			t.Errorf("act %d: the server got %q, want %q", i, got, m.toServer)
		}
		if got := r.toClient.String(); got != m.toClient {
			t.Errorf("act %d: the client got %q, want %q", i, got, m.toClient)
		}
		if r.cut != m.cut {
			t.Errorf("act %d: the connection's end is %d, want %d", i, r.cut, m.cut)
		}
		r.toServer.Reset()
		r.toClient.Reset()
	}
	if got := r.hits.Load(); got != s.hits {
		t.Errorf("it struck %d times, want %d", got, s.hits)
	}
}

func chop(s string, size int) (out []string) {
	for len(s) > size {
		out = append(out, s[:size])
		s = s[size:]
	}
	return append(out, s)
}

func tellAll(t *testing.T, stories []story) {
	for _, s := range stories {
		for _, size := range []int{1 << 30, 1, 7} {
			t.Run(fmt.Sprintf("%s/by_%d", s.name, size), func(t *testing.T) {
				t.Parallel()
				s.tell(t, size)
			})
		}
	}
}

// An exchange is a request and its answer, as a client and a server speak.
type exchange struct {
	ask, answer string
	strike      bool // a match of the test's pattern
}

// A play is a conversation whose server answers a request when it has got all of it,
// in pieces that come when chance wants it.
type play struct {
	*scene
	rand    *rand.Rand
	all     []exchange // what the client asks
	script  []exchange // what the server gets of it
	hello   int        // as many requests are made one by one
	made    int        // requests that the client has begun to make
	asked   string     // still to be said by the client
	heard   string     // by the client, when it is through with these
	due     string     // still to be said by the server
	reached int        // requests that the server has got
	got     string     // by the server, behind these
	done    string     // by the server, in all
}

// step lets one thing happen. It reports whether there is anything left to happen.
func (p *play) step() bool {
	p.got += p.toServer.String()
	p.done += p.toServer.String()
	p.toServer.Reset()
	for p.reached < len(p.script) && strings.HasPrefix(p.got, p.script[p.reached].ask) {
		p.got = p.got[len(p.script[p.reached].ask):]
		p.due += p.script[p.reached].answer
		p.reached++
	}
	for len(p.asked) < 64 && p.made < len(p.all) && (p.made > p.hello || p.toClient.Len() >= len(p.heard)) {
		if p.made < p.hello {
			p.heard += p.all[p.made].answer
		}
		p.asked += p.all[p.made].ask
		p.made++
	}
	piece := func(s *string) string {
		n := min(1+p.rand.IntN(1+p.rand.IntN(64)), len(*s))
		out := (*s)[:n]
		*s = (*s)[n:]
		return out
	}
	switch {
	case p.asked != "" && (p.due == "" || p.rand.IntN(2) == 0):
		p.say(piece(&p.asked))
	case p.due != "":
		p.hear(piece(&p.due))
	default:
		return false
	}
	return true
}

// playPassing plays scripts on connections with a toxic that comes and goes and changes, and
// checks that what was said arrives.
func playPassing(t *testing.T, hello []exchange, some []exchange, toxics []Toxic) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		script := slices.Clone(hello)
		for range 1 + rnd.IntN(12) {
			script = append(script, some[rnd.IntN(len(some))])
		}
		p := &play{scene: newScene(toxics[0], false), rand: rnd, all: script, script: script, hello: len(hello)}
		var asks, answers string
		for _, e := range script {
			asks += e.ask
			answers += e.answer
		}
		in := true
		for idle := 0; idle < 3; {
			switch {
			case rnd.IntN(20) == 0:
				in = !in
				p.put(in)
			case rnd.IntN(10) == 0:
				p.toxic = toxics[rnd.IntN(len(toxics))]
				p.put(in)
			}
			if p.step() {
				idle = 0
				p.wait(time.Duration(rnd.IntN(3)) * time.Millisecond)
			} else {
				idle++
				p.wait(time.Minute)
			}
		}
		p.up.entry().finish(eof, p.now)
		p.down.entry().finish(eof, p.now)
		p.wait(time.Minute)
		if p.done != asks || p.toClient.String() != answers || p.cut != open {
			t.Fatalf("seed %d: the server got\n%q, want\n%q\nthe client got\n%q, want\n%q\nend %d",
				seed, p.done, asks, p.toClient.String(), answers, p.cut)
		}
		if p.up.out.end != eof || p.down.out.end != eof {
			t.Fatalf("seed %d: an end of the stream did not arrive: %d up, %d down", seed, p.up.out.end, p.down.out.end)
		}
	}
}

// playFailing plays scripts on a connection whose toxic answers error to what is to be
// struck, and checks that it is, in its place, and nothing else.
func playFailing(t *testing.T, hello []exchange, some []exchange, toxic Toxic, error string, fresh bool) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		script := slices.Clone(hello)
		var struck int64
		p := &play{scene: newScene(toxic, fresh), rand: rnd, all: slices.Clone(hello), hello: len(hello)}
		var server, client string
		for _, e := range script {
			server += e.ask
			client += e.answer
		}
		for range 1 + rnd.IntN(12) {
			e := some[rnd.IntN(len(some))]
			p.all = append(p.all, e)
			if e.strike {
				struck++
				client += error
				continue
			}
			script = append(script, e)
			server += e.ask
			client += e.answer
		}
		p.script = script
		for idle := 0; idle < 3; {
			if p.step() {
				idle = 0
				continue
			}
			idle++
			p.wait(20 * time.Millisecond)
		}
		if p.done != server || p.toClient.String() != client || p.cut != open || p.hits.Load() != struck {
			t.Fatalf("seed %d: the server got\n%q, want\n%q\nthe client got\n%q, want\n%q\nend %d, %d hits, want %d",
				seed, p.done, server, p.toClient.String(), client, p.cut, p.hits.Load(), struck)
		}
	}
}

// feedNoise feeds a connection with whatever comes, in an order that comes with it, and checks
// that a toxic that matches nothing changes nothing, and that one that strikes
// everything doesn't panic.
func feedNoise(t *testing.T, idle, wild Toxic, fresh bool, up, down []byte, order []byte) {
	for _, toxic := range []Toxic{idle, wild} {
		r := newScene(toxic, fresh)
		u, d := string(up), string(down)
		for _, o := range order[:min(len(order), 100)] {
			n := int(o >> 2)
			switch o & 3 {
			case 0, 1:
				n = min(n, len(u))
				r.say(u[:n])
				u = u[n:]
			case 2:
				n = min(n, len(d))
				r.hear(d[:n])
				d = d[n:]
			case 3:
				r.wait(time.Duration(n) * time.Millisecond)
			}
		}
		r.say(u)
		r.hear(d)
		r.wait(time.Minute)
		r.up.entry().finish(eof, r.now)
		r.down.entry().finish(eof, r.now)
		r.wait(time.Minute)
		if toxic != idle {
			r.put(false)
			continue
		}
		if !bytes.Equal(r.toServer.Bytes(), up) || !bytes.Equal(r.toClient.Bytes(), down) || r.cut != open {
			t.Fatalf("the server got\n%q, want\n%q\nthe client got\n%q, want\n%q\nend %d",
				r.toServer.Bytes(), up, r.toClient.Bytes(), down, r.cut)
		}
		if r.up.out.end != eof || r.down.out.end != eof {
			t.Fatalf("an end of the stream did not arrive: %d up, %d down", r.up.out.end, r.down.out.end)
		}
	}
}

// matchNone matches nothing.
var matchNone = regexp.MustCompile(`\A\z.`)

func TestTheAttributesOfProtocolFaultsAreCheckedAllAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		toxic Toxic
		want  []string
	}{
		{MySQL{Delay: time.Second}, nil},
		{MySQL{Fail: MySQLError{Code: 1213}}, nil},
		{Redis{Fail: "ERR no"}, nil},
		{Memcached{Cut: CutAfter, DelayReply: time.Second, Reset: true}, nil},
		{Redis{}, []string{"it does nothing, want Delay, DelayReply, Fail or Cut"}},
		{
			MySQL{Times: -1, Delay: -1, DelayReply: -1, Cut: 7, Fail: MySQLError{State: "x"}},
			[]string{
				"Times is -1, want 0 or more",
				"Delay is -1ns, want 0 to a year",
				"DelayReply is -1ns, want 0 to a year",
				"Cut is 7, want CutBefore, CutAfter, or NoCut",
				"Fail and Cut (Moment(7)) are both set, want one of them",
				"DelayReply is set, but Fail or CutBefore leave no reply to delay: use Delay",
				"Fail.Code is 0, want the number of an error",
			},
		},
		{
			MySQL{Fail: MySQLError{Code: 1, State: "4000", Message: strings.Repeat("x", 513)}, Reset: true},
			[]string{
				"Reset is set without Cut, want CutBefore or CutAfter",
				`Fail.State is "4000", want five digits or capitals`,
				"Fail.Message has 513 bytes, want at most 512",
			},
		},
		{
			Redis{Fail: "-ERR a\r\nb"},
			[]string{
				`Fail is "-ERR a\r\nb", want one line without its end`,
				`Fail is "-ERR a\r\nb", want it without the - before it`,
			},
		},
		{Memcached{Fail: strings.Repeat("x", 513)}, []string{"Fail has 513 bytes, want at most 512"}},
	} {
		if got := test.toxic.problems(); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
			t.Errorf("%+v: got %q, want %q", test.toxic, got, test.want)
		}
		if test.toxic.reach() != bothWay {
			t.Errorf("%T works on %d, want %d", test.toxic, test.toxic.reach(), bothWay)
		}
	}
}

func TestPackKeepsBytesAndOrder(t *testing.T) {
	t.Parallel()
	var q queue
	var want []byte
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 3000 {
		b := bytes.Repeat([]byte{byte(rnd.IntN(256))}, 1+rnd.IntN(100))
		if rnd.IntN(100) == 0 {
			b = bytes.Repeat(b[:1], bigBuffer-rnd.IntN(2))
		}
		want = append(want, b...)
		q.push(chunkOf(b, time.Duration(len(want))))
	}
	before := q.size
	q.pack()
	if q.size >= before || q.size > len(want)+2*perChunk*(1+len(want)/bigBuffer) {
		t.Errorf("it takes %d bytes for %d, and took %d", q.size, len(want), before)
	}
	var got []byte
	var last time.Duration
	for !q.empty() {
		c := q.pop()
		got = append(got, c.b...)
		if c.at < last || c.at != time.Duration(len(got)) {
			t.Fatalf("a chunk that ends at byte %d came at %d, the one before at %d", len(got), c.at, last)
		}
		last = c.at
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes are not the same")
	}
}

func TestDelaysOfDifferentToxicsAddUp(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		var f flow
		up, _ := Redis{Delay: time.Second}.converse(new(atomic.Int64), func(Stream) {})
		wants := []want{
			{id: 1, start: func() stage { return up }},
			{id: 2, start: func() stage { return &latency{t: Latency{Delay: 100 * time.Millisecond}} }},
		}
		if !first {
			slices.Reverse(wants)
		}
		f.set(wants)
		f.entry().push(chunkOf([]byte(resp("PING")), time.Minute))
		// Nobody looks between the two.
		if f.step(time.Minute); !f.out.empty() {
			t.Fatal("it did not wait")
		}
		if f.step(time.Minute + 1099*time.Millisecond); !f.out.empty() {
			t.Fatal("it did not wait for both")
		}
		if f.step(time.Minute + 1100*time.Millisecond); f.out.empty() {
			t.Fatal("it waits for more than both")
		}
		f.drop()
	}
}

func TestAClientThatLeavesIsNotKeptFromTheServer(t *testing.T) {
	t.Parallel()
	set, get := resp("SET a 1"), resp("GET a")
	for _, test := range []struct {
		name             string
		toxic            Redis
		toServer, answer string
		toClient         string
		cut              ending
	}{
		{"with half a command", Redis{Match: matchNone, Fail: "ERR no"}, get + set + "*1\r\n$4\r\nPI", ":1\r\n", ":1\r\n", open},
		{"behind a command that fails", Redis{Match: regexp.MustCompile("^SET"), Fail: "ERR no"}, get + "*1\r\n$4\r\nPI", ":1\r\n", ":1\r\n-ERR no\r\n", open},
		{"behind a command that is slow", Redis{Match: regexp.MustCompile("^SET"), Delay: time.Second}, get + set + "*1\r\n$4\r\nPI", ":1\r\n", ":1\r\n", open},
		{"behind the cut", Redis{Match: regexp.MustCompile("^SET"), Cut: CutBefore}, get, ":1\r\n", ":1\r\n", closing},
		{"behind the cut of a server that doesn't answer", Redis{Match: regexp.MustCompile("^SET"), Cut: CutBefore}, get, "", "", closing},
	} {
		r := newScene(test.toxic, true)
		r.say(get + set + "*1\r\n$4\r\nPI")
		r.up.entry().finish(eof, r.now)
		r.wait(time.Minute)
		if got := r.toServer.String(); got != test.toServer || r.up.out.end != eof {
			t.Errorf("%s: the server got %q and the end %v, want %q and the end", test.name, got, r.up.out.end, test.toServer)
		}
		r.hear(test.answer)
		r.down.entry().finish(eof, r.now)
		r.run()
		if got := r.toClient.String(); got != test.toClient || r.cut != test.cut {
			t.Errorf("%s: the client got %q and the cut %v, want %q and %v", test.name, got, r.cut, test.toClient, test.cut)
		}
	}
}

// The two directions hear of a change one after the other.
func TestADirectionThatLeavesFirstKnowsWhenTheConnectionCantGoOn(t *testing.T) {
	t.Parallel()
	set, half := "set a 0 0 5\r\nhello\r\n", "set a 0 0 5 noreply\r\nhel"
	for _, test := range []struct {
		name  string
		toxic Memcached
		say   string
		want  [2]ending // when the client's, or the server's, leaves first
	}{
		{"nothing happened", Memcached{Fail: "ERROR"}, "", [2]ending{}},
		{"a command that fails is half read", Memcached{Fail: "ERROR"}, half, [2]ending{Downstream: closing, Upstream: closing}},
		{"its answer isn't given yet", Memcached{Match: regexp.MustCompile("^set"), Fail: "ERROR"}, "get a\r\n" + set, [2]ending{Downstream: closing}},
		{"the cut is to come", Memcached{Match: regexp.MustCompile("^set"), Cut: CutBefore, Reset: true}, "get a\r\n" + set, [2]ending{Downstream: reset, Upstream: reset}},
		{"the answer is to be cut", Memcached{Cut: CutAfter}, set, [2]ending{}},
		{"a command is held", Memcached{Delay: time.Hour}, set, [2]ending{}},
	} {
		for s, f := range []func(*scene) *flow{Downstream: func(r *scene) *flow { return &r.down }, Upstream: func(r *scene) *flow { return &r.up }} {
			r := newScene(test.toxic, true)
			r.say(test.say)
			if got := f(r).set(nil); got != test.want[s] {
				t.Errorf("%s, and %v leaves: the end is %v, want %v", test.name, Stream(s), got, test.want[s])
			}
		}
	}
}

func TestAClientThatDoesNotReadIsNotGivenMoreErrors(t *testing.T) {
	t.Parallel()
	r := newScene(Redis{Fail: strings.Repeat("E", 500)}, true)
	ping := resp("PING")
	r.up.entry().push(chunkOf([]byte(strings.Repeat(ping, 1000)), 0))
	r.up.step(0)
	r.down.step(0)
	if n := r.down.out.size; n > smallRoom+1000 {
		t.Errorf("%d bytes wait for the client, want %d", n, smallRoom)
	}
	r.run()
	if got, want := r.toClient.Len(), 1000*503; got != want {
		t.Errorf("the client got %d bytes, want %d", got, want)
	}
}

func BenchmarkDialogue(b *testing.B) {
	for _, bench := range []struct {
		name        string
		toxic       Toxic
		say, answer string
	}{
		{"mysql", MySQL{Match: regexp.MustCompile("^COMMIT"), Cut: CutAfter}, mysqlSays("SELECT id FROM orders"), mysqlPackets(1, "\x01", mysqlDef, mysqlEnd, "\x011", mysqlEnd)},
		{"redis", Redis{Match: regexp.MustCompile("^SET cart:"), Cut: CutAfter}, resp("GET cart:7"), "$5\r\nhello\r\n"},
		{"memcached", Memcached{Match: regexp.MustCompile("^set cart:"), Cut: CutAfter}, "get cart:7\r\n", "VALUE cart:7 0 5\r\nhello\r\nEND\r\n"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := newScene(bench.toxic, true)
			b.ReportAllocs()
			for b.Loop() {
				r.say(bench.say)
				r.hear(bench.answer)
				r.toServer.Reset()
				r.toClient.Reset()
			}
		})
	}
}
