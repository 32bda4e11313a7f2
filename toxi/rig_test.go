package toxi

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// seedVariable repeats what chance decided in a test that failed.
const seedVariable = "TOXI_SEED"

// seeds returns n random seeds, or the one in TOXI_SEED.
func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	if text := os.Getenv(seedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s is %q, want a number", seedVariable, text)
		}
		return []uint64{seed}
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = rand.Uint64()
	}
	return out
}

// seeded returns a source of chance, and logs how to repeat it if the test fails.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := seeds(t, 1)[0]
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with %s=%d", seedVariable, seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// A rig drives a flow the way a pump does, but by a clock that jumps from one
// event to the next.
type rig struct {
	t     testing.TB
	f     flow
	wants []want
	rand  *rand.Rand
	now   time.Duration

	input   []input
	blocked bool // the receiver takes nothing

	out   []byte
	left  []departure
	end   ending        // of the stream or of the connection
	endAt time.Duration // when it came
	wake  time.Duration

	buffers []*buffer
}

// input is what the sender does.
type input struct {
	at  time.Duration
	b   []byte
	end ending
}

// departure is a chunk that was written.
type departure struct {
	at time.Duration
	n  int
}

// newRig returns a rig with these toxics since time 0.
func newRig(t testing.TB, toxics ...Toxic) *rig {
	r := &rig{t: t, rand: rand.New(rand.NewPCG(1, 2))}
	for _, toxic := range toxics {
		r.add(toxic, new(line))
	}
	r.apply()
	t.Cleanup(func() {
		r.f.drop()
		for _, b := range r.buffers {
			if b.refs != 0 {
				t.Errorf("a buffer has %d references at the end, want 0", b.refs)
				return
			}
		}
	})
	return r
}

// add adds a toxic that has this line, and returns its id. It holds after apply.
func (r *rig) add(toxic Toxic, l *line) any {
	id := new(int)
	r.wants = append(r.wants, want{id: id, toxic: toxic, start: func() stage {
		return toxic.(wire).start(start{now: r.now, rand: r.rand, line: l})
	}})
	return id
}

// apply makes the toxics that are wanted hold.
func (r *rig) apply() {
	r.f.now = r.now
	if cut := r.f.set(r.wants); cut != open {
		r.ended(cut)
	}
}

// put adds a toxic now.
func (r *rig) put(toxic Toxic) (id any) {
	id = r.add(toxic, new(line))
	r.apply()
	return id
}

// update gives the i-th toxic other attributes.
func (r *rig) update(i int, toxic Toxic) {
	r.wants[i].toxic = toxic
	r.apply()
}

// remove removes the i-th toxic.
func (r *rig) remove(i int) {
	r.wants = append(r.wants[:i:i], r.wants[i+1:]...)
	r.apply()
}

// send lets the sender send b at at, and finish lets it end.
func (r *rig) send(at time.Duration, b []byte)   { r.input = append(r.input, input{at: at, b: b}) }
func (r *rig) text(at time.Duration, s string)   { r.send(at, []byte(s)) }
func (r *rig) finish(at time.Duration, e ending) { r.input = append(r.input, input{at: at, end: e}) }

func (r *rig) ended(e ending) { r.end, r.endAt = e, r.now }

// steady sends n chunks of size bytes, the first at at.
func (r *rig) steady(at time.Duration, n, size int, every time.Duration) {
	for i := range n {
		r.send(at+time.Duration(i)*every, bytes.Repeat([]byte{byte(i)}, size))
	}
}

// chunk makes a chunk in a buffer that is in no pool, whose references are counted at
// the end.
func (r *rig) chunk(b []byte) chunk {
	size := len(b)
	for _, pooled := range append(smallSizes[:], bigBuffer) {
		if size == pooled {
			size++
		}
	}
	buf := &buffer{b: make([]byte, size), refs: 1}
	r.buffers = append(r.buffers, buf)
	return chunk{b: buf.b[:copy(buf.b, b)], at: r.now, buf: buf}
}

// turn does all there is to do now.
func (r *rig) turn() {
	for r.end == open {
		wake, cut := r.f.step(r.now)
		if wake <= r.now {
			r.t.Fatalf("at %v a stage asks to be called at %v, want later", r.now, wake)
		}
		r.wake = wake
		switch {
		case cut != open:
			r.ended(cut)
			r.f.drop()
		case !r.f.out.empty() && !r.blocked:
			for !r.f.out.empty() {
				c := r.f.out.pop()
				r.out = append(r.out, c.b...)
				r.left = append(r.left, departure{r.now, len(c.b)})
				c.buf.release()
			}
		case r.f.out.empty() && r.f.out.end != open:
			r.ended(r.f.out.end)
		case r.f.out.empty() && len(r.input) > 0 && r.input[0].at <= r.now && !r.f.entry().full():
			in := r.input[0]
			r.input = r.input[1:]
			if in.end != open {
				r.f.entry().finish(in.end, r.now)
			} else {
				r.f.entry().push(r.chunk(in.b))
			}
		default:
			return
		}
	}
}

// next is when there is something to do.
func (r *rig) next() time.Duration {
	next := r.wake
	if r.end != open {
		return never
	}
	if len(r.input) > 0 && r.input[0].at > r.now {
		next = min(next, r.input[0].at)
	}
	return next
}

// run lets time pass until until.
func (r *rig) run(until time.Duration) {
	r.t.Helper()
	together(until, r)
}

// together lets time pass for several rigs that share something.
func together(until time.Duration, rigs ...*rig) {
	for {
		next := never
		for _, r := range rigs {
			r.turn()
			next = min(next, r.next())
		}
		next = min(next, until)
		for _, r := range rigs {
			r.now = next
		}
		if next >= until {
			for _, r := range rigs {
				r.turn()
			}
			return
		}
	}
}

// want fails unless these bytes have passed.
func (r *rig) want(want []byte) {
	r.t.Helper()
	if bytes.Equal(r.out, want) {
		return
	}
	for i := range min(len(r.out), len(want)) {
		if r.out[i] != want[i] {
			r.t.Fatalf("at %v byte %d of %d that passed is %q, want %q", r.now, i, len(r.out), r.out[i], want[i])
		}
	}
	r.t.Fatalf("at %v %d bytes have passed, want %d", r.now, len(r.out), len(want))
}

func (r *rig) wantText(want string) {
	r.t.Helper()
	r.want([]byte(want))
}

// wantEnd fails unless the stream, or the connection, has ended so.
func (r *rig) wantEnd(e ending, at time.Duration) {
	r.t.Helper()
	if r.end != e || e != open && r.endAt != at {
		r.t.Fatalf("at %v the end is %v, at %v; want %v at %v", r.now, r.end, r.endAt, e, at)
	}
}

// bytes returns n random bytes.
func (r *rig) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rand.Uint32())
	}
	return b
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func (e ending) String() string {
	return [...]string{"open", "eof", "closing", "reset"}[e]
}
