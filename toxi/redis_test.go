package toxi

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// resp writes a command.
func resp(line string) string {
	args := strings.Split(line, " ")
	var b strings.Builder
	b.WriteString("*" + strconv.Itoa(len(args)) + "\r\n")
	for _, a := range args {
		b.WriteString("$" + strconv.Itoa(len(a)) + "\r\n" + a + "\r\n")
	}
	return b.String()
}

const redisOK = "+OK\r\n"

func TestRedisStories(t *testing.T) {
	t.Parallel()
	get, set, incr := resp("get a"), resp("set a 1"), resp("incr a")
	sets := regexp.MustCompile(`^SET `)
	tellAll(t, []story{
		{
			name:  "what doesn't match passes",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			acts: []act{
				{say: get, toServer: get},
				{hear: "$1\r\n1\r\n", toClient: "$1\r\n1\r\n"},
			},
		},
		{
			name:  "a failure is answered in its place in a pipeline",
			toxic: Redis{Match: sets, Fail: "LOADING wait"},
			acts: []act{
				{say: get + set + incr + set + set + get, toServer: get + incr + get},
				{hear: "$1\r\n1", toClient: "$1\r\n1"},
				{hear: "\r\n", toClient: "\r\n-LOADING wait\r\n"},
				{hear: ":2\r\n", toClient: ":2\r\n-LOADING wait\r\n-LOADING wait\r\n"},
				{hear: "_\r\n", toClient: "_\r\n"},
			},
			hits: 3,
		},
		{
			name:  "a push is no answer and isn't torn",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			acts: []act{
				{hear: ">2\r\n+invalidate\r\n*1\r\n$1\r\n", toClient: ">2\r\n+invalidate\r\n*1\r\n$1\r\n"},
				{say: set, toServer: ""},
				{hear: "a\r\n", toClient: "a\r\n-ERR no\r\n"},
				{say: get, toServer: get},
				{hear: ">1\r\n:1\r\n|1\r\n+ttl\r\n:1\r\n*2\r\n%1\r\n+k\r\n~0\r\n*-1\r\n", toClient: ">1\r\n:1\r\n|1\r\n+ttl\r\n:1\r\n*2\r\n%1\r\n+k\r\n~0\r\n*-1\r\n"},
				{say: set, toClient: "-ERR no\r\n"},
			},
			hits: 2,
		},
		{
			name:  "a delay holds the command and what follows",
			toxic: Redis{Match: sets, Delay: time.Second, Times: 1},
			acts: []act{
				{say: get + set + get, wait: 999 * time.Millisecond, toServer: get},
				{hear: redisOK, toClient: redisOK},
				{wait: time.Millisecond, toServer: set + get},
				{say: set, toServer: set},
				{hear: redisOK + redisOK + redisOK, toClient: redisOK + redisOK + redisOK},
			},
			hits: 1,
		},
		{
			name:  "commands of a pipeline are delayed one after the other",
			toxic: Redis{Match: sets, Delay: time.Second},
			acts: []act{
				{say: set + set, wait: time.Second, toServer: set},
				{wait: 999 * time.Millisecond},
				{wait: time.Millisecond, toServer: set},
			},
			hits: 2,
		},
		{
			name:  "a late reply holds what the server says after it",
			toxic: Redis{Match: sets, DelayReply: time.Second},
			acts: []act{
				{say: get + set + get, toServer: get + set + get},
				{hear: ":1\r\n:2\r\n:3\r\n", toClient: ":1\r\n"},
				{wait: 999 * time.Millisecond},
				{wait: time.Millisecond, toClient: ":2\r\n:3\r\n"},
			},
			hits: 1,
		},
		{
			name:  "cut before: the server doesn't get it, the client gets what was before",
			toxic: Redis{Match: sets, Cut: CutBefore},
			acts: []act{
				{say: get + set + incr, toServer: get},
				{hear: ":1\r\n", toClient: ":1\r\n", cut: closing},
			},
			hits: 1,
		},
		{
			name:  "cut after: the client gets nothing of the answer",
			toxic: Redis{Match: sets, Cut: CutAfter, Reset: true},
			acts: []act{
				{say: get + set + incr, toServer: get + set + incr},
				{hear: ":1\r\n", toClient: ":1\r\n"},
				{hear: ">1\r\n:0\r\n", toClient: ">1\r\n:0\r\n"},
				{hear: "+", cut: reset},
			},
			hits: 1,
		},
		{
			name:  "cut after, late",
			toxic: Redis{Match: sets, Cut: CutAfter, DelayReply: time.Second},
			acts: []act{
				{say: set, toServer: set},
				{hear: redisOK, wait: 999 * time.Millisecond},
				{wait: time.Millisecond, cut: closing},
			},
			hits: 1,
		},
		{
			name:  "only as many as Times",
			toxic: Redis{Fail: "ERR no", Times: 2},
			acts: []act{
				{say: get + get + get, toServer: get, toClient: "-ERR no\r\n-ERR no\r\n"},
				{hear: redisOK, toClient: redisOK},
			},
			hits: 2,
		},
		{
			name:  "commands without a frame",
			toxic: Redis{Match: regexp.MustCompile(`^GET a$`), Fail: "ERR no"},
			acts: []act{
				{say: "PING\r\n\r\n\n", toServer: "PING\r\n\r\n\n"},
				{hear: "+PONG\r\n", toClient: "+PONG\r\n"},
				{say: "get  a\n" + "get b\r\n", toServer: "get b\r\n", toClient: "-ERR no\r\n"},
			},
			hits: 1,
		},
		{
			name:  "nothing is struck behind a subscription",
			toxic: Redis{Match: regexp.MustCompile(`^(SET|PING)`), Fail: "ERR no"},
			acts: []act{
				{say: set + resp("subscribe c") + set, toServer: resp("subscribe c") + set, toClient: "-ERR no\r\n"},
				{hear: "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\nwhatever", toClient: "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\nwhatever"},
				{say: "PING\r\n", toServer: "PING\r\n"},
			},
			hits: 1,
		},
		{
			name:  "nor behind CLIENT REPLY",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			acts:  []act{{say: resp("client reply off") + set, toServer: resp("client reply off") + set}},
		},
		{
			name:  "nor under TLS",
			toxic: Redis{Fail: "ERR no"},
			acts:  []act{{say: "\x16\x03\x01\x00\x05hello" + get, toServer: "\x16\x03\x01\x00\x05hello" + get}},
		},
		{
			name:  "an open connection is struck when it has been silent",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			late:  true,
			acts: []act{
				{hear: "llo\r\n", toClient: "llo\r\n"}, // the rest of an answer
				{say: get, toServer: get},
				{say: set, wait: 5 * time.Millisecond},
				{hear: ":1\r\n", toClient: ":1\r\n"},
				{wait: 9 * time.Millisecond},
				{hear: ":2\r\n", toClient: ":2\r\n"}, // nobody has seen the command
				{wait: 9 * time.Millisecond},
				{wait: time.Millisecond, toClient: "-ERR no\r\n"},
				{say: set + get, toServer: get, toClient: "-ERR no\r\n"},
			},
			hits: 2,
		},
		{
			name:  "but not if it isn't silent",
			toxic: Redis{Match: sets, Cut: CutAfter},
			late:  true,
			acts: []act{
				{say: get + set, wait: 9 * time.Second, toServer: get},
				{wait: time.Second, toServer: set},
				{hear: redisOK, toClient: redisOK},
				{say: set, toServer: set},
			},
		},
		{
			name:  "an open connection in the middle of a command is left alone",
			toxic: Redis{Fail: "ERR no"},
			late:  true,
			acts:  []act{{say: "tail\r\n" + get, toServer: "tail\r\n" + get}},
		},
		{
			name:  "a delay needs no silence",
			toxic: Redis{Match: sets, Delay: time.Millisecond},
			late:  true,
			acts:  []act{{say: get + set, toServer: get}, {wait: time.Millisecond, toServer: set}},
			hits:  1,
		},
		{
			name:  "what is held goes on its way when the toxic goes",
			toxic: Redis{Match: sets, Delay: time.Hour},
			acts: []act{
				{say: set + get, wait: time.Minute},
				{leave: true, toServer: set + get},
			},
			hits: 1,
		},
		{
			name:  "an answer that is held goes on its way, too",
			toxic: Redis{DelayReply: time.Hour},
			acts: []act{
				{say: set, toServer: set},
				{hear: redisOK, wait: time.Minute},
				{leave: true, toClient: redisOK},
			},
			hits: 1,
		},
		{
			name:  "an update shortens what waits",
			toxic: Redis{Match: sets, Delay: time.Hour},
			acts: []act{
				{say: set + get, wait: time.Minute},
				{become: Redis{Match: sets, Delay: 2 * time.Minute}, wait: 59 * time.Second},
				{wait: time.Second, toServer: set + get},
			},
			hits: 1,
		},
		{
			name:  "an update lets go what it doesn't match",
			toxic: Redis{Match: sets, Delay: time.Hour},
			acts: []act{
				{say: set + get, wait: time.Minute},
				{become: Redis{Match: regexp.MustCompile("^DEL"), Cut: CutAfter}, toServer: set + get},
				{hear: redisOK, toClient: redisOK},
			},
		},
		{
			name:  "an update changes what happens to what waits",
			toxic: Redis{Match: sets, Delay: time.Hour},
			acts: []act{
				{say: set + get, wait: time.Minute},
				{become: Redis{Match: sets, Fail: "ERR no"}, toServer: get, toClient: "-ERR no\r\n"},
			},
			hits: 1,
		},
		{
			name:  "a late answer is not cut by an update",
			toxic: Redis{Match: sets, DelayReply: time.Hour},
			acts: []act{
				{say: set + get, toServer: set + get},
				{hear: redisOK, wait: time.Minute},
				{become: Redis{Cut: CutAfter}, toClient: redisOK},
			},
			hits: 1,
		},
		{
			name:  "a fault that comes again begins anew",
			toxic: Redis{Fail: "ERR no"},
			acts: []act{
				{say: "*1\r\n$4\r\nPI"},
				{leave: true, toServer: "*1\r\n$4\r\nPI"},
				{say: "NG\r\n", toServer: "NG\r\n"},
				{join: true, hear: "+PO", toClient: "+PO"},
				{say: get, wait: 9 * time.Millisecond},
				{hear: "NG\r\n", wait: 9 * time.Millisecond, toClient: "NG\r\n"},
				{wait: time.Millisecond, toClient: "-ERR no\r\n"},
			},
			hits: 1,
		},
		{
			name:  "what may be no beginning isn't waited for for ever",
			toxic: Redis{Fail: "ERR no"},
			late:  true,
			acts: []act{
				{say: "*3\r\n$3\r\nSE", wait: 999 * time.Millisecond},
				{wait: time.Millisecond, toServer: "*3\r\n$3\r\nSE"},
				{say: "T\r\n" + get, toServer: "T\r\n" + get},
			},
		},
		{
			name:  "but a beginning is",
			toxic: Redis{Fail: "ERR no"},
			acts: []act{
				{say: "*1\r\n$4\r\nPI", wait: time.Hour},
				{say: "NG\r\n", toClient: "-ERR no\r\n"},
			},
			hits: 1,
		},
		{
			name:  "without its error nobody can go on",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			acts: []act{
				{say: get + set, toServer: get},
				{leave: true, cut: closing},
			},
			hits: 1,
		},
		{
			name:  "nor can the server with half a command",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			acts: []act{
				{say: "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$70000\r\n" + strings.Repeat("x", 69000)},
				{leave: true, cut: closing},
			},
			hits: 1,
		},
		{
			name:  "what isn't understood is left alone for good",
			toxic: Redis{Match: sets, Fail: "ERR no"},
			acts: []act{
				{say: get, toServer: get},
				{hear: "?" + redisOK, toClient: "?" + redisOK},
				{say: set, toServer: set},
			},
		},
		{
			name:  "a client that leaves behind a command that fails",
			toxic: Redis{Fail: "ERR no"},
			acts:  []act{{say: get + "*1\r\n$4\r\nPI", toClient: "-ERR no\r\n"}},
			hits:  1,
		},
	})
}

func TestRedisAnswersNobodyUnderstands(t *testing.T) {
	t.Parallel()
	set, get := resp("SET a 1"), resp("GET a")
	var stories []story
	for _, answer := range []string{"%-1\r\n", "~-1\r\n", "=-1\r\n", "*1x\r\n", "$01\r\nx\r\n", "$1\r\nxx\r\n", "$2\r\nx\r\n", "*1\r\n>0\r\n", "$?\r\n", "*-2\r\n", "*123456789012345678\r\n", "$1\nx\r\n", "OK\r\n"} {
		stories = append(stories, story{
			name:  fmt.Sprintf("%q", answer),
			toxic: Redis{Match: regexp.MustCompile("^SET"), Fail: "ERR no"},
			acts: []act{
				{say: set + get, toServer: get, toClient: "-ERR no\r\n"},
				{hear: answer, toClient: answer},
				{say: set, toServer: set},
			},
			hits: 1,
		})
	}
	tellAll(t, stories)
}

func TestRedisStreamsLongValues(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	value := strings.Repeat("v", size)
	command := "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4194304\r\n" + value + "\r\n"
	answer := "*2\r\n$4194304\r\n" + value + "\r\n:1\r\n"
	r := newScene(Redis{Match: regexp.MustCompile(`^(SET b|DEL)`), Fail: "ERR no"}, true)
	var held int
	for _, piece := range chop(command, 1000) {
		r.say(piece)
		held = max(held, len(command)-r.toServer.Len(), r.up.entry().size)
		if r.up.entry().size > mostText+mostText/2 {
			t.Fatalf("%d bytes are held, of a command of which %d are looked at", r.up.entry().size, mostText)
		}
	}
	for _, piece := range chop(answer, 1000) {
		r.hear(piece)
		if n := r.down.entry().size; n > 0 {
			t.Fatalf("%d bytes of an answer are held", n)
		}
	}
	if r.toServer.String() != command || r.toClient.String() != answer {
		t.Error("what came out isn't what went in")
	}
	r.say(resp("DEL a"))
	if got, want := r.toClient.String()[len(answer):], "-ERR no\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.toServer.Reset()
	r.toClient.Reset()
	for _, piece := range chop(strings.Replace(command, "\na\r", "\nb\r", 1), 1000) {
		r.say(piece)
		if n := r.up.entry().size; n > mostText+mostText/2 {
			t.Fatalf("%d bytes are held of a command that fails", n)
		}
	}
	if r.toServer.Len() > 0 || r.toClient.String() != "-ERR no\r\n" {
		t.Errorf("the server got %d bytes, want none, the client got %q", r.toServer.Len(), r.toClient.String())
	}
}

// A client may write a whole pipeline before it reads an answer.
func TestRedisFailsAWholePipelineWhoseAnswersNobodyReadsYet(t *testing.T) {
	t.Parallel()
	const n = 100_000
	r := newScene(Redis{Match: regexp.MustCompile(`^SET`), Fail: "ERR no"}, true)
	get := resp("GET a")
	r.up.entry().push(chunkOf([]byte(get+strings.Repeat(resp("SET a 1"), n)), 0))
	r.run()
	if got := r.toServer.String(); got != get {
		t.Fatalf("the server got %q, want %q", got, get)
	}
	if got := len(r.stages[Upstream].(*asking).owed); got > 3 {
		t.Errorf("%d things are remembered of %d that are alike", got, n)
	}
	r.hear("$-1\r\n")
	if got, want := r.toClient.Len(), 5+n*len("-ERR no\r\n"); got != want {
		t.Errorf("the client got %d bytes, want %d", got, want)
	}
}

// A client that writes byte by byte fills the room before the stage with little.
func TestRedisDecidesOnALongCommandInTinyPieces(t *testing.T) {
	t.Parallel()
	command := resp("SET a " + strings.Repeat("v", 50_000) + " end")
	r := newScene(Redis{Match: regexp.MustCompile(`^SET a v+ end$`), Fail: "ERR no"}, true)
	for i := range len(command) {
		if r.up.entry().full() {
			t.Fatalf("no room after %d bytes", i)
		}
		r.say(command[i : i+1])
	}
	if got := r.toClient.String(); got != "-ERR no\r\n" || r.toServer.Len() > 0 {
		t.Errorf("the client got %q, the server %d bytes", got, r.toServer.Len())
	}
}

var redisSome = []exchange{
	{ask: resp("GET a"), answer: "$5\r\nhe\r\no\r\n"},
	{ask: resp("get nothing"), answer: "$-1\r\n"},
	{ask: resp("MGET a b c"), answer: "*3\r\n$1\r\n1\r\n$-1\r\n*0\r\n"},
	{ask: resp("HELLO 3"), answer: "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n+modules\r\n*0\r\n"},
	{ask: resp("DEBUG PROTOCOL attrib"), answer: "|1\r\n+a\r\n*2\r\n:1\r\n,1.5\r\n=7\r\ntxt:abc\r\n"},
	{ask: resp("INCR a"), answer: ":17\r\n"},
	{ask: resp("NOPE"), answer: "-ERR unknown command\r\n"},
	{ask: resp("SET a " + strings.Repeat("x", 300)), answer: "+OK\r\n", strike: true},
	{ask: resp("SET b 2"), answer: "+OK\r\n", strike: true},
}

func TestRedisBytesAreNeitherLostNorChanged(t *testing.T) {
	t.Parallel()
	playPassing(t, nil, redisSome, []Toxic{
		Redis{Match: matchNone, Fail: "ERR no"},
		Redis{Delay: 2 * time.Millisecond},
		Redis{DelayReply: 2 * time.Millisecond},
		Redis{Match: regexp.MustCompile(`^SET`), Delay: 3 * time.Second},
		Redis{Match: matchNone, Cut: CutAfter},
	})
}

func TestRedisFailsWhatMatchesInItsPlace(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{true, false} {
		playFailing(t, nil, redisSome, Redis{Match: regexp.MustCompile(`^SET`), Fail: "ERR no"}, "-ERR no\r\n", fresh)
	}
}

func FuzzRedis(f *testing.F) {
	var ask, answer string
	for _, e := range redisSome {
		ask += e.ask
		answer += e.answer
	}
	f.Add([]byte(ask), []byte(answer), []byte{255, 254, 5, 2, 3, 255, 255, 254})
	f.Add([]byte("PING\r\n*0\r\n*-1\r\n"+resp("SUBSCRIBE a")), []byte(">1\r\n+a\r\n"), []byte{1, 2, 3})
	f.Add([]byte("*1048577\r\n"), []byte("*99999999999999\r\n"), []byte{9})
	f.Fuzz(func(t *testing.T, up, down, order []byte) {
		feedNoise(t, Redis{Match: matchNone, Fail: "ERR no"}, Redis{Fail: "ERR no"}, len(order)%2 == 0, up, down, order)
		feedNoise(t, Redis{Match: matchNone, Cut: CutAfter}, Redis{Cut: CutAfter, Match: regexp.MustCompile("G")}, false, up, down, order)
		feedNoise(t, Redis{Delay: time.Millisecond, DelayReply: time.Millisecond}, Redis{Cut: CutBefore}, false, up, down, order)
	})
}
