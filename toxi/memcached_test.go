package toxi

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMemcachedStories(t *testing.T) {
	t.Parallel()
	const (
		set   = "set a 0 60 5\r\nx\r\ny\n\r\n"
		get   = "get a\r\n"
		value = "VALUE a 0 5\r\nEND\r\n\r\nEND\r\n"
		full  = "SERVER_ERROR out of memory storing object"
	)
	sets := regexp.MustCompile(`^set `)
	tellAll(t, []story{
		{
			name:  "what doesn't match passes",
			toxic: Memcached{Match: sets, Fail: full},
			acts: []act{
				{say: get, toServer: get},
				{hear: value, toClient: value},
			},
		},
		{
			name:  "a command that fails takes its data with it",
			toxic: Memcached{Match: sets, Fail: full},
			acts: []act{
				{say: get + set + get, toServer: get + get},
				{hear: value, toClient: value + full + "\r\n"},
				{hear: "END\r\n", toClient: "END\r\n"},
			},
			hits: 1,
		},
		{
			name:  "a get can be made a miss",
			toxic: Memcached{Match: regexp.MustCompile(`^gets? `), Fail: "END"},
			acts: []act{
				{say: get + "gets a b c\r\n" + set, toServer: set, toClient: "END\r\nEND\r\n"},
				{hear: "STORED\r\n", toClient: "STORED\r\n"},
			},
			hits: 2,
		},
		{
			name:  "answers of every form",
			toxic: Memcached{Match: regexp.MustCompile(`^touch `), Fail: "ERROR"},
			acts: []act{
				{say: "stats\r\nversion\r\ngat 60 a b\r\nmg a v\r\nms a 2 T0\r\nhi\r\nmn\r\nme a\r\nget a\r\nstats reset\r\nincr a 1\r\ntouch a 1\r\n",
					toServer: "stats\r\nversion\r\ngat 60 a b\r\nmg a v\r\nms a 2 T0\r\nhi\r\nmn\r\nme a\r\nget a\r\nstats reset\r\nincr a 1\r\n"},
				{hear: "STAT pid 1\r\nSTAT END\r\nEND\r\n" + "VERSION 1.6\r\n" + value + "VA 2 t5\r\nHD\r\n" + "HD\r\n" + "MN\r\n" + "ME a exp=-1\r\n" + "SERVER_ERROR x\r\n" + "RESET\r\n" + "7\r",
					toClient: "STAT pid 1\r\nSTAT END\r\nEND\r\n" + "VERSION 1.6\r\n" + value + "VA 2 t5\r\nHD\r\n" + "HD\r\n" + "MN\r\n" + "ME a exp=-1\r\n" + "SERVER_ERROR x\r\n" + "RESET\r\n" + "7\r"},
				{hear: "\n", toClient: "\nERROR\r\n"},
			},
			hits: 1,
		},
		{
			name:  "who said noreply gets none",
			toxic: Memcached{Match: sets, Fail: full},
			acts: []act{
				{say: "set a 0 0 1 noreply\r\nx\r\n" + "delete a noreply\r\n" + set + "add a 0 0 1 noreply\r\ny\r\n" + get, toServer: "delete a noreply\r\n" + "add a 0 0 1 noreply\r\ny\r\n" + get, toClient: full + "\r\n"},
				{hear: value, toClient: value},
			},
			hits: 2,
		},
		{
			name:  "and can't be cut after",
			toxic: Memcached{Cut: CutAfter},
			acts: []act{
				{say: "set a 0 0 1 noreply\r\nx\r\n" + "version\r\n", toServer: "set a 0 0 1 noreply\r\nx\r\n" + "version\r\n"},
				{hear: "VERSION", cut: closing},
			},
			hits: 1,
		},
		{
			name:  "but can be cut before",
			toxic: Memcached{Match: regexp.MustCompile("noreply$"), Cut: CutBefore},
			acts: []act{
				{say: get + "set a 0 0 1 noreply\r\n", toServer: get},
				{hear: value, toClient: value, cut: closing},
			},
			hits: 1,
		},
		{
			name:  "behind quiet commands it takes silence to know who is answered",
			toxic: Memcached{Match: regexp.MustCompile("^(mg b|md)"), Fail: "CLIENT_ERROR no"},
			acts: []act{
				{say: "mg a v q\r\nmg b v q\r\nmn\r\n", wait: time.Millisecond, toServer: "mg a v q\r\n"},
				{hear: "VA 2\r\nhi\r\n", wait: 10 * time.Millisecond, toServer: "mn\r\n", toClient: "VA 2\r\nhi\r\nCLIENT_ERROR no\r\n"},
				{hear: "MN\r\n", toClient: "MN\r\n"},
				{say: "md a q\r\n", toClient: "CLIENT_ERROR no\r\n"},
			},
			hits: 2,
		},
		{
			name:  "a delay holds the command and what follows",
			toxic: Memcached{Match: sets, Delay: time.Second},
			acts: []act{
				{say: get + set + get, wait: 999 * time.Millisecond, toServer: get},
				{wait: time.Millisecond, toServer: set + get},
			},
			hits: 1,
		},
		{
			name:  "a late reply",
			toxic: Memcached{Match: sets, DelayReply: time.Second},
			acts: []act{
				{say: set + get, toServer: set + get},
				{hear: "STORED\r\n" + value, wait: 999 * time.Millisecond},
				{wait: time.Millisecond, toClient: "STORED\r\n" + value},
			},
			hits: 1,
		},
		{
			name:  "the binary protocol passes",
			toxic: Memcached{Fail: full},
			acts:  []act{{say: "\x80\x00\x00\x01a" + get, toServer: "\x80\x00\x00\x01a" + get}},
		},
		{
			name:  "so does what isn't known",
			toxic: Memcached{Match: sets, Fail: full},
			acts: []act{
				{say: set + "watch mutations\r\n" + set, toServer: "watch mutations\r\n" + set, toClient: full + "\r\n"},
				{hear: "OK\r\nts=1\r\n", toClient: "OK\r\nts=1\r\n"},
			},
			hits: 1,
		},
		{
			name:  "and what isn't complete",
			toxic: Memcached{Fail: full},
			acts:  []act{{say: "set a 0 0 x\r\n" + get, toServer: "set a 0 0 x\r\n" + get}},
		},
		{
			name:  "an open connection in the middle of data is left alone",
			toxic: Memcached{Fail: full},
			late:  true,
			acts:  []act{{say: "data\r\n" + get, toServer: "data\r\n" + get}},
		},
		{
			name:  "an open connection is struck when it has been silent",
			toxic: Memcached{Match: sets, Cut: CutAfter},
			late:  true,
			acts: []act{
				{hear: "D\r\n", toClient: "D\r\n"},
				{say: get + set, wait: 5 * time.Millisecond, toServer: get},
				{hear: value, wait: 10 * time.Millisecond, toClient: value, toServer: set},
				{hear: "S", cut: closing},
			},
			hits: 1,
		},
	})
}

func TestMemcachedLongLines(t *testing.T) {
	t.Parallel()
	keys := strings.Repeat(" key", 50_000)
	r := newScene(Memcached{Match: regexp.MustCompile("^delete"), Fail: "ERROR"}, true)
	for _, piece := range chop("gets"+keys+"\r\ndelete a\r\n", 1000) {
		r.say(piece)
	}
	if got, want := r.toServer.String(), "gets"+keys+"\r\n"; got != want {
		t.Errorf("the server got %d bytes, want %d", len(got), len(want))
	}
	r.hear("END\r\n")
	if got, want := r.toClient.String(), "END\r\nERROR\r\n"; got != want {
		t.Errorf("the client got %q, want %q", got, want)
	}
	// No server takes one for anything else, and nothing waits for its end.
	line := "delete" + keys
	r.toServer.Reset()
	for _, piece := range chop(line, 1000) {
		r.say(piece)
	}
	if got := r.toServer.String(); got != line {
		t.Errorf("the server got %d bytes, want %d", len(got), len(line))
	}
}

// What is remembered of a pipeline is bounded, and what is beyond that passes.
func TestMemcachedALongPipelineOfUnlikeCommands(t *testing.T) {
	t.Parallel()
	const n = mostOwed
	r := newScene(Memcached{Match: regexp.MustCompile("^delete"), Fail: "ERROR"}, true)
	r.say("delete a\r\n")
	ask := strings.Repeat("get a\r\nversion\r\n", n)
	answer := strings.Repeat("END\r\nVERSION 1\r\n", n)
	for _, piece := range chop(ask, 60_000) {
		r.say(piece)
	}
	r.say("delete a\r\n")
	if got := len(r.stages[Upstream].(*asking).owed); got > mostOwed+1 {
		t.Errorf("%d things are remembered", got)
	}
	for _, piece := range chop(answer, 60_000) {
		r.hear(piece)
	}
	if got, want := r.toServer.String(), ask+"delete a\r\n"; got != want {
		t.Errorf("the server got %d bytes, want %d", len(got), len(want))
	}
	if got, want := r.toClient.String(), "ERROR\r\n"+answer; got != want {
		t.Errorf("the client got %d bytes, want %d", len(got), len(want))
	}
}

var memcachedSome = []exchange{
	{ask: "get a\r\n", answer: "VALUE a 0 5\r\nEND\r\n\r\nEND\r\n"},
	{ask: "gets a b\r\n", answer: "VALUE a 0 2 17\r\nhi\r\nVALUE b 1 0 18\r\n\r\nEND\r\n"},
	{ask: "get nothing\r\n", answer: "END\r\n"},
	{ask: "set a 0 0 5\r\nget\r\n\r\n", answer: "STORED\r\n", strike: true},
	{ask: "set b 0 0 300\r\n" + strings.Repeat("x", 300) + "\r\n", answer: "SERVER_ERROR object too large for cache\r\n", strike: true},
	{ask: "cas a 0 0 1 17\r\nx\r\n", answer: "EXISTS\r\n"},
	{ask: "incr n 5\r\n", answer: "12\r\n"},
	{ask: "delete a noreply\r\n"},
	{ask: "touch a 10\r\n", answer: "TOUCHED\r\n"},
	{ask: "stats slabs\r\n", answer: "STAT 1:chunk_size 96\r\nSTAT END 1\r\nEND\r\n"},
	{ask: "mg quick v t\r\n", answer: "VA 4 t-1\r\nHD\r\n\r\n"},
	{ask: "mg nothing v\r\n", answer: "EN\r\n"},
	{ask: "ms quick 3\r\nabc\r\n", answer: "HD\r\n"},
	{ask: "mn\r\n", answer: "MN\r\n"},
}

func TestMemcachedBytesAreNeitherLostNorChanged(t *testing.T) {
	t.Parallel()
	playPassing(t, nil, append([]exchange{{ask: "mg a q v\r\n"}}, memcachedSome...), []Toxic{
		Memcached{Match: matchNone, Fail: "ERROR"},
		Memcached{Delay: 2 * time.Millisecond},
		Memcached{DelayReply: 2 * time.Millisecond},
		Memcached{Match: regexp.MustCompile(`^set`), Delay: 3 * time.Second},
		Memcached{Match: matchNone, Cut: CutAfter},
	})
}

func TestMemcachedFailsWhatMatchesInItsPlace(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{true, false} {
		playFailing(t, nil, memcachedSome, Memcached{Match: regexp.MustCompile(`^set`), Fail: "SERVER_ERROR no"}, "SERVER_ERROR no\r\n", fresh)
	}
}

func FuzzMemcached(f *testing.F) {
	var ask, answer string
	for _, e := range memcachedSome {
		ask += e.ask
		answer += e.answer
	}
	f.Add([]byte(ask), []byte(answer), []byte{255, 254, 5, 2, 3, 255, 255, 254})
	f.Add([]byte("get a\nmd a q\r\nwatch\r\n"), []byte("VALUE a 0 99999999999999\r\n"), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, up, down, order []byte) {
		feedNoise(t, Memcached{Match: matchNone, Fail: "ERROR"}, Memcached{Fail: "ERROR"}, len(order)%2 == 0, up, down, order)
		feedNoise(t, Memcached{Match: matchNone, Cut: CutAfter}, Memcached{Cut: CutAfter, Match: regexp.MustCompile("g")}, false, up, down, order)
		feedNoise(t, Memcached{Delay: time.Millisecond, DelayReply: time.Millisecond}, Memcached{Cut: CutBefore}, false, up, down, order)
	})
}
