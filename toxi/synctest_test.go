package toxi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A bubble is a proxy without sockets, whose upstream is in the test.
type bubble struct {
	t       *testing.T
	p       *Proxy
	servers chan net.Conn // what was dialed
}

// inBubble runs test in a bubble, where time passes only when everybody waits.
func inBubble(t *testing.T, opts *Options, test func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, servers: make(chan net.Conn, 100)}
		p, err := New(func(context.Context) (net.Conn, error) {
			near, far := pipe()
			b.servers <- far
			return near, nil
		}, opts)
		if err != nil {
			t.Fatal(err)
		}
		b.p = p
		defer p.Close()
		test(b)
	})
}

// dial returns a connection through the proxy and its server's end.
func (b *bubble) dial() (client, server net.Conn) {
	b.t.Helper()
	client, err := b.p.Dial(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return client, <-b.servers
}

// add adds a toxic.
func (b *bubble) add(toxic Toxic) (remove func()) {
	b.t.Helper()
	undo, err := b.p.Add(toxic)
	if err != nil {
		b.t.Fatal(err)
	}
	return func() {
		b.t.Helper()
		if err := undo(); err != nil {
			b.t.Error(err)
		}
	}
}

// echoes makes server say back what it hears.
func echoes(server net.Conn) {
	go func() {
		io.Copy(server, server)
		server.Close()
	}()
}

// trip sends a byte to a server that echoes, and returns how long it is away.
func (b *bubble) trip(client net.Conn) time.Duration {
	b.t.Helper()
	began := time.Now()
	if _, err := client.Write([]byte("x")); err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		b.t.Fatal(err)
	}
	return time.Since(began)
}

func TestLatenciesAreExactInABubble(t *testing.T) {
	t.Parallel()
	tests := []struct {
		toxics []Toxic
		want   time.Duration
	}{
		{nil, 0},
		{[]Toxic{Latency{Delay: ms(300)}}, ms(300)},
		{[]Toxic{Latency{Delay: ms(300)}, Latency{Delay: ms(300)}}, ms(600)},
		{[]Toxic{Fault{Toxic: Latency{Delay: ms(300)}, Stream: Both}}, ms(600)},
		{[]Toxic{Fault{Toxic: Latency{Delay: ms(1)}, Stream: Upstream}, Latency{Delay: time.Hour}}, time.Hour + ms(1)},
		{[]Toxic{Fault{Toxic: Latency{Delay: ms(1)}, Toxicity: Never}}, 0},
		{[]Toxic{SlowConnect{Delay: time.Hour}, SlowConnect{Delay: time.Minute}}, time.Hour + time.Minute},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v", tt.toxics), func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(b *bubble) {
				for _, toxic := range tt.toxics {
					b.add(toxic)
				}
				client, server := b.dial()
				echoes(server)
				for i := range 3 {
					want := tt.want
					if tt.want > time.Hour && i > 0 && strings.Contains(fmt.Sprintf("%T", tt.toxics[0]), "Slow") {
						want = 0
					}
					if got := b.trip(client); got != want {
						t.Errorf("trip %d takes %v, want %v", i, got, want)
					}
				}
			})
		})
	}
}

func TestASteadyStreamIsLateByTheSumOfItsLatencies(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		b.add(Latency{Delay: ms(300)})
		b.add(Latency{Delay: ms(300)})
		client, server := b.dial()
		began := time.Now()
		go func() {
			for i := range 100 {
				server.Write([]byte{byte(i)})
				time.Sleep(ms(10))
			}
			server.Close()
		}()
		buf := make([]byte, 1)
		for i := range 100 {
			if _, err := io.ReadFull(client, buf); err != nil {
				t.Fatal(err)
			}
			if got, want := time.Since(began), ms(600+10*i); got != want || buf[0] != byte(i) {
				t.Fatalf("byte %d comes at %v, want byte %d at %v", buf[0], got, i, want)
			}
		}
	})
}

func TestGuardsWorkInABubble(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		echoes(server)
		b.p.Slow(time.Second, func() {
			if got := b.trip(client); got != time.Second {
				t.Errorf("a trip takes %v, want 1s", got)
			}
		})
		if got := b.trip(client); got != 0 {
			t.Errorf("afterwards a trip takes %v, want none", got)
		}
		b.p.Down(func() {
			if _, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a connection ends with %v, want EOF", err)
			}
		})
		client, server = b.dial()
		b.p.Reset(func() {
			for _, c := range []net.Conn{client, server} {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("a connection ends with %v, want ECONNRESET", err)
				}
			}
		})
	})
}

func TestDialMeetsWhatTheListenerWould(t *testing.T) {
	t.Parallel()
	t.Run("down", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(b *bubble) {
			b.p.Down(func() {
				_, err := b.p.Dial(b.t.Context())
				var op *net.OpError
				if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
					t.Errorf("Dial gives %v, want a dial error with ECONNREFUSED", err)
				}
			})
			if len(b.servers) > 0 {
				t.Error("the upstream was dialed")
			}
		})
	})
	t.Run("down while it dials", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			near, far := pipe()
			p, _ := New(func(context.Context) (net.Conn, error) { time.Sleep(time.Second); return near, nil }, nil)
			defer p.Close()
			go func() { time.Sleep(ms(500)); p.Add(Refuse{}) }()
			if _, err := p.Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Dial gives %v, want ECONNREFUSED", err)
			}
			if _, err := far.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the server reads %v, want the end", err)
			}
		})
	})
	t.Run("black hole that heals", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(b *bubble) {
			remove := b.add(ConnectBlackhole{})
			go func() {
				time.Sleep(time.Minute)
				b.add(Noop{}) // is no reason to connect
				time.Sleep(time.Hour - time.Minute)
				remove()
			}()
			began := time.Now()
			client, server := b.dial()
			wantAfter(t, began, time.Hour)
			echoes(server)
			b.trip(client)
		})
	})
	t.Run("black hole that becomes a refusal", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(b *bubble) {
			b.add(ConnectBlackhole{})
			go func() { time.Sleep(time.Minute); b.add(Refuse{}) }()
			began := time.Now()
			if _, err := b.p.Dial(b.t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Dial gives %v, want ECONNREFUSED", err)
			}
			wantAfter(t, began, time.Minute)
		})
	})
	t.Run("black hole and a caller who gives up", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(b *bubble) {
			b.add(ConnectBlackhole{})
			ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
			defer cancel()
			began := time.Now()
			if _, err := b.p.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Dial gives %v, want DeadlineExceeded", err)
			}
			wantAfter(t, began, 5*time.Second)
		})
	})
	t.Run("black hole and Close", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(b *bubble) {
			b.add(ConnectBlackhole{})
			go func() { time.Sleep(time.Second); b.p.Close() }()
			if _, err := b.p.Dial(b.t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("Dial gives %v, want ErrClosed", err)
			}
		})
	})
	t.Run("an upstream that doesn't answer", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p, _ := New(func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, nil)
			defer p.Close()
			began := time.Now()
			var netErr net.Error
			if _, err := p.Dial(t.Context()); !errors.As(err, &netErr) || !netErr.Timeout() {
				t.Errorf("Dial gives %v, want a timeout", err)
			}
			wantAfter(t, began, 10*time.Second)
			go func() { time.Sleep(time.Second); p.Close() }()
			if _, err := p.Dial(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("Dial gives %v, want ErrClosed", err)
			}
		})
	})
	t.Run("an upstream that fails", func(t *testing.T) {
		t.Parallel()
		broken := errors.New("broken")
		p, _ := New(func(context.Context) (net.Conn, error) { return nil, broken }, nil)
		defer p.Close()
		if _, err := p.Dial(t.Context()); err != broken {
			t.Errorf("Dial gives %v, want the error as it is", err)
		}
	})
}

func TestWrapMeetsWhatTheListenerWould(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		wrap := func() (client, server net.Conn) {
			near, far := pipe()
			return b.p.Wrap(near), far
		}
		client, server := wrap()
		echoes(server)
		b.trip(client)
		b.p.Down(func() {
			client, server := wrap()
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client reads %v, want ECONNRESET", err)
			}
			if _, err := server.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the server reads %v, want the end", err)
			}
		})
		b.p.With(Reject{Reset: true}, func() {
			client, server := wrap()
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client reads %v, want ECONNRESET", err)
			}
			if _, err := server.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the server reads %v, want the end", err)
			}
		})
		b.p.Close()
		client, _ = wrap()
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after Close the client writes %v, want ECONNRESET", err)
		}
	})
}

func TestClosingWhatWrapReturnsClosesTheConnection(t *testing.T) {
	t.Parallel()
	// Also if the server takes an end of the stream for no reason to end its own side.
	inBubble(t, nil, func(b *bubble) {
		b.add(Fault{Toxic: Latency{Delay: time.Second}, Stream: Upstream})
		client, server := b.dial()
		began := time.Now()
		client.Write([]byte("bye"))
		client.Close()
		got, err := io.ReadAll(server)
		if string(got) != "bye" || err != nil {
			t.Errorf("the server reads %q, %v; want bye and the end", got, err)
		}
		wantAfter(t, began, time.Second)
		if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the server writes %v, want EPIPE", err)
		}
		synctest.Wait()
		if got := b.p.Stats().Open; got != 0 {
			t.Errorf("%d connections are open", got)
		}
	})
}

func TestTheEndOfOneDirectionIsNotThatOfTheOtherInABubble(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		client.(*end).CloseWrite()
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the server reads %v, want the end", err)
		}
		server.Write([]byte("answer"))
		server.Close()
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("the client reads %q, %v", got, err)
		}
	})
}

func TestAPipeOfTheNetPackageHasOnlyOneEnd(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		near, far := net.Pipe()
		client := b.p.Wrap(near)
		echoes(far)
		if got := b.trip(client); got != 0 {
			t.Errorf("a trip takes %v", got)
		}
		b.p.Slow(time.Second, func() {
			if got := b.trip(client); got != time.Second {
				t.Errorf("a trip takes %v, want 1s", got)
			}
		})
		// It can't be told the end of one direction, so that is the end of both.
		client.(*end).CloseWrite()
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client reads %v, want the end", err)
		}
	})
}

func TestWhatEndsAConnectionEndsItAtItsTime(t *testing.T) {
	t.Parallel()
	tests := []struct {
		toxic   Toxic
		want    error
		wantOff time.Duration // of what the client has got by then
	}{
		{Timeout{After: time.Second}, io.EOF, 0},
		{ResetPeer{After: time.Second}, syscall.ECONNRESET, 0},
		{Cut{After: time.Second}, io.EOF, time.Second},
		{Cut{After: time.Second, Reset: true}, syscall.ECONNRESET, time.Second},
		{Cut{Bytes: 100}, io.EOF, time.Second},
		{LimitData{Bytes: 100}, io.EOF, time.Second},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%T%+v", tt.toxic, tt.toxic), func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(b *bubble) {
				client, server := b.dial()
				time.Sleep(time.Minute)
				began := time.Now()
				b.add(tt.toxic)
				done := make(chan bool)
				go func() {
					defer close(done)
					for {
						time.Sleep(ms(10))
						if _, err := server.Write([]byte("x")); err != nil {
							return
						}
					}
				}()
				defer func() { <-done }()
				got, err := io.ReadAll(client)
				if err == nil {
					err = io.EOF
				}
				if !errors.Is(err, tt.want) {
					t.Errorf("the client reads %v, want %v", err, tt.want)
				}
				wantAfter(t, began, time.Second)
				// The last of them is due at the moment of the cut.
				if want := int(tt.wantOff / ms(10)); len(got) != want && len(got) != want-1 {
					t.Errorf("%d bytes came, want %d", len(got), want)
				}
			})
		})
	}
}

func TestAToxicOfAHalfThatHasEndedStillCuts(t *testing.T) {
	t.Parallel()
	for _, toxic := range []Toxic{Timeout{After: time.Second}, Cut{After: time.Second}, ResetPeer{After: time.Second}} {
		t.Run(fmt.Sprintf("%T", toxic), func(t *testing.T) {
			t.Parallel()
			for _, first := range []bool{true, false} {
				inBubble(t, nil, func(b *bubble) {
					client, server := b.dial()
					if first {
						b.add(toxic)
					}
					server.(*end).CloseWrite()
					synctest.Wait()
					if !first {
						b.add(toxic)
					}
					began := time.Now()
					if _, err := server.Read(make([]byte, 1)); err == nil {
						t.Error("the server reads something")
					}
					wantAfter(t, began, time.Second)
					client.Close()
				})
			}
		})
	}
}

func TestAStallHoldsForAsLongAsItIsThere(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		remove := b.add(Stall{})
		go func() {
			server.Write([]byte("held"))
			server.Close()
			time.Sleep(time.Hour)
			remove()
		}()
		began := time.Now()
		got, err := io.ReadAll(client)
		if string(got) != "held" || err != nil {
			t.Errorf("the client reads %q, %v", got, err)
		}
		wantAfter(t, began, time.Hour)
	})
}

func TestASlowCloseIsExactInABubble(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		b.add(SlowClose{Delay: time.Minute})
		began := time.Now()
		server.Write([]byte("x"))
		server.Close()
		wantRead(t, client, "x", nil)
		wantAfter(t, began, 0)
		wantRead(t, client, "", io.EOF)
		wantAfter(t, began, time.Minute)
	})
}

func TestBandwidthIsExactInABubble(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d connections", n), func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(b *bubble) {
				b.add(Bandwidth{Rate: 1e6, Shared: true})
				const size = 10e6
				began := time.Now()
				done := make(chan time.Duration, n)
				for range n {
					client, server := b.dial()
					go func() { server.Write(make([]byte, size/n)); server.Close() }()
					go func() { io.Copy(io.Discard, client); done <- time.Since(began) }()
				}
				for range n {
					// All of them end with the last turn.
					if got := <-done; got > 10*time.Second || got < 10*time.Second-time.Duration(n)*bandwidthPiece {
						t.Errorf("%d bytes took %v, want 10s", int(size), got)
					}
				}
			})
		})
	}
}

func TestASharedBandwidthOfBothDirectionsIsOneForEach(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		b.add(Fault{Toxic: Bandwidth{Rate: 1e6, Shared: true}, Stream: Both})
		client, server := b.dial()
		began := time.Now()
		go client.Write(make([]byte, 1e6))
		go server.Write(make([]byte, 1e6))
		done := make(chan bool)
		for _, c := range []net.Conn{client, server} {
			go func() {
				io.ReadFull(c, make([]byte, 1e6))
				wantAfter(t, began, time.Second)
				done <- true
			}()
		}
		<-done
		<-done
	})
}

func TestTheSameSeedGivesTheSameJitter(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (trips []time.Duration) {
		inBubble(t, &Options{Seed: seed}, func(b *bubble) {
			b.add(Fault{Toxic: Latency{Delay: time.Second, Jitter: time.Second}, Stream: Both})
			for range 3 {
				client, server := b.dial()
				echoes(server)
				for range 10 {
					trips = append(trips, b.trip(client))
				}
			}
		})
		return trips
	}
	seed := seeds(t, 1)[0]
	first := run(seed)
	if again := run(seed); !slices.Equal(first, again) {
		t.Errorf("with seed %d trips take %v, and in another run %v", seed, first, again)
	}
	if other := run(seed + 1); slices.Equal(first, other) {
		t.Errorf("with seeds %d and %d trips take the same %v", seed, seed+1, first)
	}
	slices.Sort(first)
	if len(slices.Compact(first)) < 25 {
		t.Errorf("connections and directions have the same jitter: %v", first)
	}
}

func TestRemovingATimeoutClosesTheConnection(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		remove := b.add(Timeout{})
		server.Write([]byte("lost"))
		time.Sleep(time.Hour)
		remove()
		for _, c := range []net.Conn{client, server} {
			wantRead(t, c, "", io.EOF)
		}
	})
}

func TestDeadlinesOfAConnectionThroughAProxyAreTheClients(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		client, server := b.dial()
		client.SetReadDeadline(time.Now().Add(time.Second))
		b.p.Slow(time.Minute, func() {
			server.Write([]byte("x"))
			wantRead(t, client, "", os.ErrDeadlineExceeded)
		})
		client.SetReadDeadline(time.Time{})
		wantRead(t, client, "x", nil)
	})
}
