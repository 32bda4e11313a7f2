package toxi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPipeBehavesLikeASocket(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(t *testing.T, a, b *end)
	}{
		{"what is written is read, in pieces of any size", func(t *testing.T, a, b *end) {
			a.Write([]byte("hello "))
			a.Write([]byte("world"))
			p := make([]byte, 4)
			n, _ := b.Read(p)
			rest := make([]byte, 100)
			m, _ := b.Read(rest)
			if got := string(p[:n]) + "|" + string(rest[:m]); got != "hell|o world" {
				t.Errorf("read %q", got)
			}
		}},
		{"both directions at once", func(t *testing.T, a, b *end) {
			a.Write([]byte("a"))
			b.Write([]byte("b"))
			wantRead(t, b, "a", nil)
			wantRead(t, a, "b", nil)
		}},
		{"a writer waits when nobody reads", func(t *testing.T, a, b *end) {
			done := false
			go func() { a.Write(make([]byte, pipeBuffer+1)); done = true }()
			if synctest.Wait(); done {
				t.Error("it doesn't wait")
			}
			b.Read(make([]byte, 1))
			if synctest.Wait(); !done {
				t.Error("it waits though there is room")
			}
		}},
		{"a reader waits for bytes", func(t *testing.T, a, b *end) {
			go func() { time.Sleep(time.Second); a.Write([]byte("x")) }()
			began := time.Now()
			wantRead(t, b, "x", nil)
			wantAfter(t, began, time.Second)
		}},
		{"CloseWrite ends one direction", func(t *testing.T, a, b *end) {
			a.Write([]byte("x"))
			a.CloseWrite()
			wantWrite(t, a, 0, net.ErrClosed)
			wantRead(t, b, "x", nil)
			wantRead(t, b, "", io.EOF)
			wantRead(t, b, "", io.EOF)
			wantWrite(t, b, 1, nil)
			wantRead(t, a, "x", nil)
		}},
		{"Close ends both", func(t *testing.T, a, b *end) {
			a.Write([]byte("x"))
			a.Close()
			a.Close()
			wantRead(t, a, "", net.ErrClosed)
			wantWrite(t, a, 0, net.ErrClosed)
			wantRead(t, b, "x", nil)
			wantRead(t, b, "", io.EOF)
			wantWrite(t, b, 0, syscall.EPIPE)
			b.Close()
		}},
		{"Close wakes a reader", func(t *testing.T, a, b *end) {
			go func() { time.Sleep(time.Second); a.Close() }()
			wantRead(t, a, "", net.ErrClosed)
		}},
		{"Close wakes the other end's reader", func(t *testing.T, a, b *end) {
			go func() { time.Sleep(time.Second); a.Close() }()
			wantRead(t, b, "", io.EOF)
		}},
		{"Close wakes a writer", func(t *testing.T, a, b *end) {
			a.Write(make([]byte, pipeBuffer))
			go func() { time.Sleep(time.Second); a.Close() }()
			wantWrite(t, a, 0, net.ErrClosed)
		}},
		{"Close wakes the other end's writer", func(t *testing.T, a, b *end) {
			a.Write(make([]byte, pipeBuffer))
			go func() { time.Sleep(time.Second); b.Close() }()
			wantWrite(t, a, 0, syscall.EPIPE)
		}},
		{"a reset is heard at both ends, behind what was there", func(t *testing.T, a, b *end) {
			a.Write([]byte("x"))
			a.reset()
			wantRead(t, b, "x", nil)
			wantRead(t, b, "", syscall.ECONNRESET)
			wantWrite(t, b, 0, syscall.ECONNRESET)
			wantRead(t, a, "", syscall.ECONNRESET)
			wantWrite(t, a, 0, syscall.ECONNRESET)
		}},
		{"a reset wakes those who wait", func(t *testing.T, a, b *end) {
			a.Write(make([]byte, pipeBuffer))
			go func() { time.Sleep(time.Second); b.reset() }()
			go wantRead(t, a, "", syscall.ECONNRESET)
			wantWrite(t, a, 0, syscall.ECONNRESET)
		}},
		{"a deadline ends a read", func(t *testing.T, a, b *end) {
			began := time.Now()
			a.SetReadDeadline(began.Add(time.Second))
			wantRead(t, a, "", os.ErrDeadlineExceeded)
			wantAfter(t, began, time.Second)
			wantRead(t, a, "", os.ErrDeadlineExceeded)
			b.Write([]byte("x"))
			wantRead(t, a, "", os.ErrDeadlineExceeded) // as on a socket
			a.SetReadDeadline(time.Time{})
			wantRead(t, a, "x", nil)
		}},
		{"a deadline ends a write in the middle", func(t *testing.T, a, b *end) {
			began := time.Now()
			a.SetWriteDeadline(began.Add(time.Second))
			n, err := a.Write(make([]byte, pipeBuffer+1))
			if n != pipeBuffer || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("wrote %d, %v; want %d and ErrDeadlineExceeded", n, err, pipeBuffer)
			}
			wantAfter(t, began, time.Second)
			a.SetWriteDeadline(time.Time{})
			io.ReadFull(b, make([]byte, pipeBuffer))
			wantWrite(t, a, 1, nil)
		}},
		{"a deadline in the past ends a wait that has begun", func(t *testing.T, a, b *end) {
			go func() { time.Sleep(time.Second); a.SetDeadline(past) }()
			wantRead(t, a, "", os.ErrDeadlineExceeded)
			wantWrite(t, a, 0, os.ErrDeadlineExceeded)
		}},
		{"a deadline that is moved ends no wait", func(t *testing.T, a, b *end) {
			began := time.Now()
			a.SetReadDeadline(began.Add(time.Second))
			go func() { time.Sleep(time.Second / 2); a.SetReadDeadline(began.Add(2 * time.Second)) }()
			wantRead(t, a, "", os.ErrDeadlineExceeded)
			wantAfter(t, began, 2*time.Second)
		}},
		{"a deadline of one direction is none of the other", func(t *testing.T, a, b *end) {
			a.SetReadDeadline(past)
			wantWrite(t, a, 1, nil)
			wantRead(t, b, "x", nil)
			b.SetWriteDeadline(past)
			a.SetReadDeadline(time.Time{})
			wantWrite(t, b, 0, os.ErrDeadlineExceeded)
		}},
		{"reading into nothing waits for nothing", func(t *testing.T, a, b *end) {
			if n, err := a.Read(nil); n != 0 || err != nil {
				t.Errorf("read %d, %v", n, err)
			}
		}},
		{"much is passed in order", func(t *testing.T, a, b *end) {
			want := make([]byte, 10*pipeBuffer)
			for i := range want {
				want[i] = byte(i * i >> 7)
			}
			go func() { a.Write(want); a.CloseWrite() }()
			if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v; want %d and the same", len(got), err, len(want))
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := pipe()
				tt.do(t, a, b)
				synctest.Wait()
			})
		})
	}
}

func wantRead(t *testing.T, c net.Conn, want string, wantErr error) {
	t.Helper()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if string(b[:n]) != want || !errors.Is(err, wantErr) {
		t.Errorf("read %q, %v; want %q, %v", b[:n], err, want, wantErr)
	}
}

func wantWrite(t *testing.T, c net.Conn, want int, wantErr error) {
	t.Helper()
	n, err := c.Write([]byte("x"))
	if n != want || !errors.Is(err, wantErr) {
		t.Errorf("wrote %d, %v; want %d, %v", n, err, want, wantErr)
	}
}

// wantAfter fails unless this much time has passed in the bubble.
func wantAfter(t *testing.T, began time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(began); got != want {
		t.Errorf("it took %v, want %v", got, want)
	}
}

func TestErrorsOfAPipeAreThoseOfTheNetPackage(t *testing.T) {
	t.Parallel()
	a, _ := pipe()
	a.SetReadDeadline(past)
	_, err := a.Read(make([]byte, 1))
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("a deadline gives %v, want a net.Error with Timeout", err)
	}
	if a.LocalAddr().Network() != "toxi" || a.RemoteAddr().String() != "toxi" {
		t.Errorf("its addresses are %v and %v", a.LocalAddr(), a.RemoteAddr())
	}
}
