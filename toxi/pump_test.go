package toxi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnAnswerNobodyTakesDoesNotEndTheQuestion(t *testing.T) {
	t.Parallel()
	// The client reads no more, but what it says still reaches the server.
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		in := client.(*end).in
		in.do(func() { in.deaf = true })
		server.Write([]byte("answer"))
		for _, s := range []string{"a", "b", "c"} {
			time.Sleep(time.Second)
			client.Write([]byte(s))
			wantRead(t, server, s, nil)
		}
		client.(*end).CloseWrite()
		if _, err := server.Read(make([]byte, 1)); err == nil {
			t.Error("the server reads something")
		}
		synctest.Wait()
		if got := b.p.Stats().Open; got != 0 {
			t.Errorf("%d connections are open", got)
		}
	})
}

// A hooked connection calls reads, or writes, once, between the moment its owner has
// decided on a deadline for reading, or writing, and that in which it holds.
type hooked struct {
	*end
	reads, writes func()
}

func before(hook *func(), at time.Time) {
	if f := *hook; f != nil && !at.Equal(past) {
		*hook = nil
		f()
	}
}

func (h *hooked) SetReadDeadline(at time.Time) error {
	before(&h.reads, at)
	return h.end.SetReadDeadline(at)
}

func (h *hooked) SetWriteDeadline(at time.Time) error {
	before(&h.writes, at)
	return h.end.SetWriteDeadline(at)
}

// Without its second look at pokes, a pump would overwrite the deadline in the past by
// which it is told of a change.
func TestAChangeBetweenALookAndAWaitIsNotMissed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		stream Stream // of the pump that looks, and of the toxic that it must not miss
		do     func(b *bubble, client net.Conn, server *hooked, hook func())
	}{
		{"while it relays", Downstream, func(b *bubble, client net.Conn, server *hooked, hook func()) {
			remove := b.add(Noop{})
			synctest.Wait()
			server.reads = hook
			remove() // so it goes back to relaying
		}},
		{"while it reads before toxics", Downstream, func(b *bubble, client net.Conn, server *hooked, hook func()) {
			synctest.Wait()
			server.reads = hook
			b.add(Noop{})
		}},
		{"while it writes behind toxics", Upstream, func(b *bubble, client net.Conn, server *hooked, hook func()) {
			b.add(Fault{Toxic: Noop{}, Stream: Upstream})
			synctest.Wait()
			client.Write(make([]byte, pipeBuffer)) // what the other end holds, and doesn't read
			synctest.Wait()
			server.writes = hook
			client.Write([]byte("x"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(b *bubble) {
				near, _ := pipe()
				server := &hooked{end: near}
				client := b.p.Wrap(server)
				called := false
				tt.do(b, client, server, func() {
					called = true
					b.add(Fault{Toxic: ResetPeer{After: time.Second}, Stream: tt.stream})
				})
				synctest.Wait()
				if !called {
					t.Fatal("no deadline was set")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if got := b.p.Stats().Open; got != 0 {
					t.Error("the connection is open, the toxic was missed")
				}
			})
		})
	}
}

// A quick connection calls hook once, when something was read and before its reader
// knows: so what came, came after what hook did.
type quick struct {
	*end
	hook func()
}

func (q *quick) Read(b []byte) (int, error) {
	n, err := q.end.Read(b)
	if hook := q.hook; hook != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		q.hook = nil
		hook()
	}
	return n, err
}

func TestWhatComesAfterAddMeetsTheToxic(t *testing.T) {
	t.Parallel()
	for _, before := range []Toxic{nil, Noop{}} { // it relays, or reads for a flow
		for _, gone := range []bool{false, true} { // the toxics that were there go
			t.Run(fmt.Sprintf("%v %t", before, gone), func(t *testing.T) {
				t.Parallel()
				inBubble(t, nil, func(b *bubble) {
					near, far := pipe()
					server := &quick{end: near}
					change := func(toxic Toxic) func() {
						return func() {
							if gone {
								b.p.Clear()
							}
							b.add(toxic)
						}
					}
					if before != nil {
						b.add(before)
					}
					server.hook = change(Latency{Delay: time.Minute})
					client := b.p.Wrap(server)
					began := time.Now()
					far.Write([]byte("x"))
					wantRead(t, client, "x", nil)
					wantAfter(t, began, time.Minute)

					b.p.Clear()
					if before != nil {
						b.add(before)
					}
					synctest.Wait()
					server.hook = change(SlowClose{Delay: time.Minute})
					began = time.Now()
					far.CloseWrite()
					wantRead(t, client, "", io.EOF)
					wantAfter(t, began, time.Minute)
				})
			})
		}
	}
}

func TestAStageThatIsInAHurryDoesNotKeepFromWriting(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		near, far := pipe()
		d := &pump{}
		d.connect(newLink(b.p, far, 1), Downstream, far, far)
		d.flow.set(nil)
		d.flow.out.push(chunkOf([]byte("x"), 0))
		if !d.write(b.p.now(), 0) || !d.flow.out.empty() {
			t.Error("a chunk is not written because a stage wants to run at once")
		}
		wantRead(t, near, "x", nil)
	})
}

// A weary listener fails some times before it is closed.
type weary struct {
	net.Listener
	fails int
	times []time.Duration // between attempts
	last  time.Time
}

func (w *weary) Accept() (net.Conn, error) {
	w.times = append(w.times, time.Since(w.last))
	w.last = time.Now()
	if w.fails--; w.fails < 0 {
		return nil, net.ErrClosed
	}
	return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
}

func TestAcceptingGoesOnWhenTheSystemIsOutOfFiles(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		w := &weary{fails: 10, last: time.Now()}
		b.p.accept(w, "", make(chan struct{}))
		want := []time.Duration{0, ms(5), ms(10), ms(20), ms(40), ms(80), ms(100), ms(100), ms(100), ms(100), ms(100)}
		if !slices.Equal(w.times, want) {
			t.Errorf("it tries after %v, want %v", w.times, want)
		}
		// Whoever stops it doesn't wait for its next attempt.
		w = &weary{fails: 100, last: time.Now()}
		stop := make(chan struct{})
		began := time.Now()
		go func() { time.Sleep(5010 * time.Millisecond); close(stop) }()
		b.p.accept(w, "", stop)
		wantAfter(t, began, 5010*time.Millisecond)
	})
}

func TestASideThatIsGoneIsNotWaitedForWhenTheOtherIsStuck(t *testing.T) {
	t.Parallel()
	// The server has said much and is gone; the client says something, which nobody
	// takes, and never reads.
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		go func() {
			server.Write(make([]byte, 3*pipeBuffer))
			server.Close()
		}()
		synctest.Wait()
		began := time.Now()
		client.Write([]byte("x"))
		synctest.Wait()
		io.ReadFull(client, make([]byte, 70_000)) // more than was under way then
		// The client takes a little now and then: that is progress.
		for range 3 {
			time.Sleep(linger - time.Second)
			io.ReadFull(client, make([]byte, 1000))
		}
		synctest.Wait()
		if got := b.p.Stats().Open; got != 1 {
			t.Fatalf("%d connections are open after %v, want 1: the client still reads", got, time.Since(began))
		}
		time.Sleep(3*linger + time.Second) // it looks as often as that
		synctest.Wait()
		if got := b.p.Stats().Open; got != 0 {
			t.Errorf("%d connections are open after %v, want none", got, time.Since(began))
		}
	})
}

func TestAHookThatEndsItsGoroutineHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		// The downstream pump ends in the middle, as by t.FailNow in a hook.
		b.p.opts.Hooks.Struck = func(Conn, string) { runtime.Goexit() }
		client, _ := b.dial()
		b.add(Noop{})
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client reads %v, want the end", err)
		}
		synctest.Wait()
		if got := b.p.Stats().Open; got != 0 {
			t.Errorf("%d connections are open", got)
		}
	})
}
