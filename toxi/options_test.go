package toxi_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/podworks/podworks/toxi"
)

func TestToxicsOfTheOptionsMeetTheFirstConnection(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p, err := toxi.Listen(ln.Addr().String(), &toxi.Options{Toxics: []toxi.Toxic{
		toxi.Fault{Name: "first", Toxic: toxi.Reject{}, Only: toxi.First(1)},
		toxi.Noop{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the first connection reads %v, want EOF", err)
	}
	if got := len(p.Faults()); got != 2 {
		t.Errorf("the proxy has %d faults, want 2", got)
	}

	down, err := toxi.Listen(ln.Addr().String(), &toxi.Options{Toxics: []toxi.Toxic{toxi.Refuse{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	if _, err := net.Dial("tcp", down.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialing a proxy that begins down: %v, want ECONNREFUSED", err)
	}
	if err := down.Remove("refuse"); err != nil {
		t.Fatal(err)
	}
	up, err := net.Dial("tcp", down.Addr())
	if err != nil {
		t.Fatalf("dialing it when it is up: %v", err)
	}
	up.Close()
}

func TestListenNamesEveryToxicThatIsWrong(t *testing.T) {
	t.Parallel()
	p, err := toxi.Listen("127.0.0.1:1", &toxi.Options{Toxics: []toxi.Toxic{
		toxi.Latency{Delay: -1}, toxi.Slicer{},
	}})
	if err == nil {
		p.Close()
		t.Fatal("a proxy with two wrong toxics was made")
	}
	for _, want := range []string{"latency", "Delay is -1ns", "slicer", "Size is 0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q, want %q in it", err, want)
		}
	}
}
