package peer_test

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// An Upstream is the server that the proxies stand before. Each connection asks it for
// one thing after another: a letter and a number of eight bytes.
type Upstream struct {
	mu    sync.Mutex
	doors []io.Closer

	sent atomic.Int64 // bytes of opSend, for knowing when they stall
}

const (
	opEcho = 'e' // from here on everything comes back
	opSink = 's' // that many bytes are read, then one is answered
	opSum  = 'c' // that many bytes are read, and their sum is answered
	opSend = 'd' // that many bytes are sent and then their sum
)

// endless is a number of bytes that no connection lives to see.
const endless = 1 << 60

// request is what a client writes to ask for something.
func request(op byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{op}, uint64(n))
}

// bytesPerCall is what is read and written at a time, by the clients as well.
const bytesPerCall = 64 << 10

var (
	sums = crc32.MakeTable(crc32.Castagnoli)

	// noise is what streams are made of: no part of it is like another, so that a
	// piece that is lost, doubled or out of place changes the sum.
	noise = func() []byte {
		b := make([]byte, 4<<20)
		r := rand.NewPCG(1, 2)
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		return b
	}()
)

// send writes n bytes of noise and returns their sum. Each call of progress, which may
// be nil, is told how many are written.
func send(w io.Writer, n int64, summed bool, progress func(int64)) (sum uint32, err error) {
	for done := int64(0); done < n; {
		at := done % int64(len(noise))
		part := noise[at:min(at+bytesPerCall, int64(len(noise)))]
		part = part[:min(int64(len(part)), n-done)]
		if summed {
			sum = crc32.Update(sum, sums, part)
		}
		if _, err := w.Write(part); err != nil {
			return 0, err
		}
		done += int64(len(part))
		if progress != nil {
			progress(done)
		}
	}
	return sum, nil
}

// receive reads n bytes and returns their sum.
func receive(r io.Reader, buf []byte, n int64, summed bool) (sum uint32, err error) {
	for done := int64(0); done < n; {
		got, err := r.Read(buf[:min(int64(len(buf)), n-done)])
		if summed {
			sum = crc32.Update(sum, sums, buf[:got])
		}
		done += int64(got)
		if err != nil && done < n {
			return 0, err
		}
	}
	return sum, nil
}

// Open starts a server at a port of its own, so that the contestants don't share the
// connections that the system still remembers.
func (u *Upstream) Open(_ None, addr *string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	u.mu.Lock()
	u.doors = append(u.doors, l)
	u.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go u.serve(conn)
		}
	}()
	*addr = l.Addr().String()
	return nil
}

// Blackhole opens a server that answers no attempt to connect.
func (u *Upstream) Blackhole(_ None, addr *string) error {
	a, keep, err := blackhole()
	u.mu.Lock()
	u.doors = append(u.doors, keep...)
	u.mu.Unlock()
	*addr = a
	return err
}

// Sent tells how many bytes opSend has sent so far.
func (u *Upstream) Sent(_ None, n *int64) error {
	*n = u.sent.Load()
	return nil
}

// Close closes all servers.
func (u *Upstream) Close(None, *None) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, d := range u.doors {
		d.Close()
	}
	u.doors = nil
	return nil
}

func (u *Upstream) serve(conn net.Conn) {
	defer conn.Close()
	var head [9]byte
	buf := make([]byte, bytesPerCall)
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint64(head[1:]))
		var err error
		switch head[0] {
		case opEcho:
			for err == nil {
				var got int
				if got, err = conn.Read(buf); err == nil {
					_, err = conn.Write(buf[:got])
				}
			}
		case opSink:
			if _, err = receive(conn, buf, n, false); err == nil {
				_, err = conn.Write([]byte{'.'})
			}
		case opSum:
			var sum uint32
			if sum, err = receive(conn, buf, n, true); err == nil {
				_, err = conn.Write(binary.BigEndian.AppendUint32(nil, sum))
			}
		case opSend:
			var sum uint32
			last := int64(0)
			sum, err = send(conn, n, true, func(done int64) { u.sent.Add(done - last); last = done })
			if err == nil {
				_, err = conn.Write(binary.BigEndian.AppendUint32(nil, sum))
			}
		default:
			return
		}
		if err != nil {
			return
		}
	}
}
