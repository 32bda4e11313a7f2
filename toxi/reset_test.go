package toxi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi"
)

func TestResetIsARSTAtAnyMoment(t *testing.T) {
	t.Parallel()
	networks(t, func(t *testing.T, network string) {
		tests := []struct {
			name   string
			before func(t *testing.T, p *toxi.Proxy, client, server net.Conn)
			deaf   bool // the server hears no RST
		}{
			// The server may have accepted what the proxy is still busy to dial, and gives up.
			{"new", func(*testing.T, *toxi.Proxy, net.Conn, net.Conn) {}, true},
			{"used before", func(t *testing.T, _ *toxi.Proxy, client, server net.Conn) {
				say(t, client, "a")
				hear(t, server, "a")
				say(t, server, "b")
				hear(t, client, "b")
			}, false},
			{"with an answer that isn't read", func(t *testing.T, p *toxi.Proxy, _, server net.Conn) {
				say(t, server, "answer")
				eventually(t, "it has passed", func() bool { return p.Stats().Downstream.Sent > 0 })
			}, false},
			{"the client has ended its side", func(t *testing.T, _ *toxi.Proxy, client, server net.Conn) {
				half(client)
				hearEnd(t, server)
			}, true},
			{"with other toxics", func(t *testing.T, p *toxi.Proxy, client, server net.Conn) {
				say(t, client, "a")
				hear(t, server, "a")
				add(t, p, toxi.Fault{Toxic: toxi.Stall{}, Stream: toxi.Both})
				add(t, p, toxi.Latency{Delay: time.Hour})
				say(t, client, "a")
			}, false},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				p, client, server := through(t, network, nil)
				tt.before(t, p, client, server)
				if err := p.Reset(func() {}); err != nil {
					t.Fatal(err)
				}
				hearReset(t, client)
				if tt.deaf {
					if _, err := io.Copy(server, neverEnding{}); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the server writes until %v", err)
					}
				} else {
					hearReset(t, server)
				}
			})
		}
	})
}

func TestAHalfOfAConnectionThatHasEndedIsResetToo(t *testing.T) {
	t.Parallel()
	// The direction the toxic works on has ended; the other is in use.
	for _, toxic := range []toxi.Toxic{
		toxi.ResetPeer{},
		toxi.ResetPeer{After: 50 * time.Millisecond},
		toxi.Cut{After: 50 * time.Millisecond, Reset: true},
	} {
		t.Run(fmt.Sprintf("%+v", toxic), func(t *testing.T) {
			t.Parallel()
			p, client, server := through(t, "tcp", nil)
			half(server)
			hearEnd(t, client)
			add(t, p, toxic)
			hearReset(t, server)
			if _, err := io.Copy(client, neverEnding{}); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the client writes until %v, want until ECONNRESET", err)
			}
		})
	}
}

func TestResetReachesAConnectionThatWaitsForTheUpstream(t *testing.T) {
	t.Parallel()
	p := proxy(t, serve(t, "tcp", echo), nil)
	add(t, p, toxi.Hang{})
	c := dial(t, p.Addr())
	eventually(t, "the connection is there", func() bool { return p.Stats().Open == 1 })
	p.Reset(func() {})
	hearReset(t, c)
}

func TestWhileResetEveryNewConnectionIsReset(t *testing.T) {
	t.Parallel()
	p := proxy(t, serve(t, "tcp", echo), nil)
	p.Reset(func() {
		for range 3 {
			dialReset(t, p.Addr())
		}
	})
	ping(t, dial(t, p.Addr()))
}

func TestAnAnswerToARefusedUploadArrives(t *testing.T) {
	t.Parallel()
	// The server reads a little, answers and closes while the client still sends: its
	// system answers with a RST, behind the answer.
	networks(t, func(t *testing.T, network string) {
		for _, toxic := range []toxi.Toxic{nil, toxi.Latency{Delay: 50 * time.Millisecond}, toxi.Slicer{Size: 100}} {
			for _, ends := range []bool{false, true} {
				t.Run(fmt.Sprintf("%T client ends %t", toxic, ends), func(t *testing.T) {
					t.Parallel()
					answer := strings.Repeat("no, ", 1000)
					p := proxy(t, serve(t, network, func(c net.Conn) {
						io.ReadFull(c, make([]byte, 1000))
						io.WriteString(c, answer)
					}), nil)
					if toxic != nil {
						add(t, p, toxic)
					}
					for range 5 {
						c := dial(t, p.Addr())
						sent := make(chan error, 1)
						go func() {
							var err error
							for range 100 {
								if _, err = c.Write(make([]byte, 100_000)); err != nil {
									break
								}
							}
							if ends {
								half(c)
							}
							sent <- err
						}()
						hear(t, c, answer)
						if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
							t.Fatal("more than the answer came")
						}
						c.Close()
						<-sent
					}
				})
			}
		}
	})
}

func TestARSTWaitsForWhatTheClientHasYetToRead(t *testing.T) {
	t.Parallel()
	answer := bytes.Repeat([]byte("no, "), 50_000)
	tests := []struct {
		name string
		do   func(t *testing.T, p *toxi.Proxy, client, server net.Conn)
	}{
		{"the end came before", func(t *testing.T, p *toxi.Proxy, client, server net.Conn) {
			half(server)
			eventually(t, "the answer has passed", func() bool { return p.Stats().Downstream.Sent == uint64(len(answer)) })
			client.Write(make([]byte, 1000))
			server.Close() // with something unread, and so by a RST
			eventually(t, "the client hears of it", func() bool {
				_, err := client.Write([]byte("x"))
				return err != nil || p.Stats().Upstream.Sent < p.Stats().Upstream.Received
			})
		}},
		{"the RST is all there is", func(t *testing.T, p *toxi.Proxy, client, server net.Conn) {
			eventually(t, "the answer has passed", func() bool { return p.Stats().Downstream.Sent == uint64(len(answer)) })
			server.(*net.TCPConn).SetLinger(0)
			server.Close()
		}},
		{"a toxic cuts there", func(t *testing.T, p *toxi.Proxy, client, server net.Conn) {
			add(t, p, toxi.Cut{Bytes: int64(len(answer)), Reset: true})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, accepted := hand(t, "tcp")
			p := proxy(t, addr, nil)
			// A small window, so that much of the answer is still the proxy's to send.
			d := net.Dialer{ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) {
					syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 10_000)
				})
			}}
			client, err := d.Dial("tcp", p.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			client.SetDeadline(time.Now().Add(patience))
			server := accept(t, accepted)
			if strings.Contains(tt.name, "toxic") {
				tt.do(t, p, client, server)
				go server.Write(answer)
				eventually(t, "the answer has passed", func() bool { return p.Stats().Downstream.Sent == uint64(len(answer)) })
			} else {
				go func() { io.Copy(server, bytes.NewReader(answer)) }()
				eventually(t, "the answer is on its way", func() bool { return p.Stats().Downstream.Received == uint64(len(answer)) })
				tt.do(t, p, client, server)
			}
			got := make([]byte, len(answer))
			if n, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, answer) {
				t.Errorf("%d bytes came, %v; want %d", n, err, len(answer))
			}
			if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Error("there is more")
			}
			eventually(t, "the connection is over", func() bool { return p.Stats().Open == 0 })
		})
	}
}

func TestARSTThatAWriteHasHeardOfIsPassedOnToo(t *testing.T) {
	t.Parallel()
	// The system reports a RST once. Here the upload hears of it, because the download
	// waits for the client; after the rest of the download comes a RST, not an end.
	p, client, server := through(t, "tcp", nil)
	go io.Copy(server, neverEnding{})
	stuck := func() bool {
		before := p.Stats().Downstream
		tick := time.NewTimer(30 * time.Millisecond)
		<-tick.C
		return before.Received > 0 && p.Stats().Downstream == before
	}
	eventually(t, "nothing moves any more", stuck)
	server.(*net.TCPConn).SetLinger(0)
	server.Close()
	say(t, client, "x")
	eventually(t, "the proxy has tried to pass it on", func() bool { return p.Stats().Upstream.Received == 1 })
	hearReset(t, client)
	if got := p.Stats().Upstream.Sent; got != 0 {
		t.Errorf("%d bytes went to a server that is gone", got)
	}
}

func TestARSTIsPassedOn(t *testing.T) {
	t.Parallel()
	abort := func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }
	for _, toxic := range []toxi.Toxic{nil, toxi.Fault{Toxic: toxi.Latency{Delay: 20 * time.Millisecond}, Stream: toxi.Both}} {
		t.Run(fmt.Sprintf("%T", toxic), func(t *testing.T) {
			t.Parallel()
			open := func(t *testing.T) (client, server net.Conn) {
				p, client, server := through(t, "tcp", nil)
				if toxic != nil {
					add(t, p, toxic)
				}
				say(t, client, "a")
				hear(t, server, "a")
				return client, server
			}
			t.Run("from the server", func(t *testing.T) {
				t.Parallel()
				client, server := open(t)
				abort(server)
				hearReset(t, client)
			})
			t.Run("from the client", func(t *testing.T) {
				t.Parallel()
				client, server := open(t)
				abort(client)
				hearReset(t, server)
			})
			t.Run("behind the data", func(t *testing.T) {
				t.Parallel()
				client, server := open(t)
				say(t, client, "bcd")
				abort(client)
				hear(t, server, "bcd")
				hearReset(t, server)
			})
		})
	}
}
