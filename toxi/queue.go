package toxi

import (
	"math"
	"sync"
	"time"
)

// Times inside are counted from the moment the proxy was made, so that a machine of
// stages can be driven by a test without a clock.
const never = time.Duration(math.MaxInt64)

// An ending is how a stream, or a connection, ends.
type ending uint8

const (
	open    ending = iota
	eof            // the sender has no more to say; the other direction goes on
	closing        // both directions end, after what came before
	reset          // the same by a RST
)

// A buffer holds bytes of one or more chunks. It belongs to one goroutine.
type buffer struct {
	b    []byte
	refs int
}

// Reads that find less are copied into a smaller buffer, so that a queue of many small
// writes doesn't hold a big one for each.
const bigBuffer = 64 << 10

var smallSizes = [...]int{512, 4 << 10, 16 << 10}

var (
	bigBuffers   = sync.Pool{New: func() any { return &buffer{b: make([]byte, bigBuffer)} }}
	smallBuffers = [len(smallSizes)]sync.Pool{
		{New: func() any { return &buffer{b: make([]byte, smallSizes[0])} }},
		{New: func() any { return &buffer{b: make([]byte, smallSizes[1])} }},
		{New: func() any { return &buffer{b: make([]byte, smallSizes[2])} }},
	}
)

// newBuffer returns a buffer for n bytes, with one reference.
func newBuffer(n int) *buffer {
	for i, size := range smallSizes {
		if n <= size {
			b := smallBuffers[i].Get().(*buffer)
			b.refs = 1
			return b
		}
	}
	if n > bigBuffer {
		return &buffer{b: make([]byte, n), refs: 1}
	}
	b := bigBuffers.Get().(*buffer)
	b.refs = 1
	return b
}

func (b *buffer) release() {
	if b.refs--; b.refs > 0 {
		return
	}
	if len(b.b) == bigBuffer {
		bigBuffers.Put(b)
		return
	}
	for i, size := range smallSizes {
		if len(b.b) == size {
			smallBuffers[i].Put(b)
		}
	}
}

// A chunk is bytes that came together.
type chunk struct {
	b   []byte
	at  time.Duration // when they came to the stage before which they wait
	buf *buffer
}

// chunkOf copies b into a chunk of its own.
func chunkOf(b []byte, at time.Duration) chunk {
	buf := newBuffer(len(b))
	return chunk{b: buf.b[:copy(buf.b, b)], at: at, buf: buf}
}

// A queue is what waits before a stage, and the end of the stream behind it.
type queue struct {
	chunks []chunk
	head   int
	size   int // bytes, and something for each chunk
	room   int // what may wait here before those that push are asked to stop

	end   ending
	endAt time.Duration
}

// perChunk is what a chunk counts beyond its bytes.
const perChunk = 128

func (q *queue) empty() bool { return q.head == len(q.chunks) }

// bytes are the bytes that wait.
func (q *queue) bytes() int { return q.size - perChunk*(len(q.chunks)-q.head) }

// full reports that no more should be pushed. It may be overrun by what a toxic that
// is removed leaves, and by a chunk.
func (q *queue) full() bool { return q.size >= q.room }

// front is the first chunk; the queue isn't empty.
func (q *queue) front() *chunk { return &q.chunks[q.head] }

// push puts c behind what waits. Behind an end there is no place: what a toxic that cut
// the stream has not dropped by the time it is removed, has no sense without what it has.
func (q *queue) push(c chunk) {
	if q.end != open {
		c.buf.release()
		return
	}
	if q.head > 0 && len(q.chunks) == cap(q.chunks) {
		n := copy(q.chunks, q.chunks[q.head:])
		clear(q.chunks[n:])
		q.chunks, q.head = q.chunks[:n], 0
	}
	q.chunks = append(q.chunks, c)
	q.size += len(c.b) + perChunk
}

// pop takes the first chunk out.
func (q *queue) pop() chunk {
	c := q.chunks[q.head]
	q.chunks[q.head] = chunk{}
	q.head++
	if q.head == len(q.chunks) {
		q.chunks, q.head = q.chunks[:0], 0
	}
	q.size -= len(c.b) + perChunk
	return c
}

// take takes the first n bytes of the first chunk out, or all of it.
func (q *queue) take(n int) chunk {
	f := q.front()
	if n >= len(f.b) {
		return q.pop()
	}
	c := chunk{b: f.b[:n:n], at: f.at, buf: f.buf}
	c.buf.refs++
	f.b = f.b[n:]
	q.size -= n
	return c
}

// drop forgets everything that waits, but not the end.
func (q *queue) drop() {
	for !q.empty() {
		c := q.pop()
		c.buf.release()
	}
}

// pass moves the first n bytes of q's first chunk, or all of it, to out. They came there at at.
func (q *queue) pass(n int, out *queue, at time.Duration) {
	c := q.take(n)
	c.at = at
	out.push(c)
}

// passAll moves what there is room for, and the end.
func (q *queue) passAll(out *queue) {
	for !q.empty() && !out.full() {
		q.pass(math.MaxInt, out, q.front().at)
	}
	q.passEnd(out, q.endAt)
}

// passEnd moves the end of the stream if nothing is left before it.
func (q *queue) passEnd(out *queue, at time.Duration) {
	if q.empty() && q.end != open {
		out.finish(q.end, at)
	}
}

// finish puts the end of the stream behind what waits. Only the first counts.
func (q *queue) finish(e ending, at time.Duration) {
	if q.end == open {
		q.end, q.endAt = e, at
	}
}
