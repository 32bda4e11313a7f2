package toxi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/podworks/podworks/toxi"
)

// A server that is down refuses connections, and is up again afterwards.
func Example() {
	server := greeter()
	defer server.Close()

	proxy, err := toxi.Listen(server.Addr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	fmt.Println(greet(proxy.Addr()))
	err = proxy.Down(func() {
		_, err := greet(proxy.Addr())
		fmt.Println("refused:", errors.Is(err, syscall.ECONNREFUSED))
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(greet(proxy.Addr()))
	// Output:
	// hello <nil>
	// refused: true
	// hello <nil>
}

// Delays of several toxics add up.
func ExampleProxy_With() {
	server := greeter()
	defer server.Close()
	proxy, err := toxi.Listen(server.Addr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	err = proxy.With(toxi.Latency{Delay: 20 * time.Millisecond}, func() {
		proxy.With(toxi.Fault{Toxic: toxi.Latency{Delay: 30 * time.Millisecond}, Stream: toxi.Upstream}, func() {
			began := time.Now()
			greet(proxy.Addr())
			fmt.Println("slow:", time.Since(began) > 45*time.Millisecond)
		})
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// slow: true
}

// The first two connections fail: does the client try again?
func ExampleFirst() {
	server := greeter()
	defer server.Close()
	proxy, err := toxi.Listen(server.Addr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	_, err = proxy.Add(toxi.Fault{Toxic: toxi.LimitData{Bytes: 2}, Only: toxi.First(2)})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		fmt.Println(greet(proxy.Addr()))
	}
	// Output:
	// he unexpected EOF
	// he unexpected EOF
	// hello <nil>
}

// A toxic that makes no sense is refused with everything that is wrong with it, and
// nothing has changed.
func ExampleProxy_Add_refused() {
	proxy, err := toxi.Listen("127.0.0.1:6379", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	_, err = proxy.Add(toxi.Fault{
		Toxic:    toxi.Slicer{Size: 10, Variation: 10, Delay: -time.Second},
		Toxicity: 50, // per cent?
	})
	fmt.Println(err)
	fmt.Println(len(proxy.Faults()), "faults")
	// Output:
	// toxi: toxic slicer: Variation is 10, want less than Size, which is 10
	// Delay is -1s, want 0 to a year
	// Toxicity is 50, want 0 to 1, where 0 means 1, or Never
	// 0 faults
}

// greeter starts a server that says hello to everybody who says something.
func greeter() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if bufio.NewScanner(c).Scan() {
					fmt.Fprintln(c, "hello")
				}
			}()
		}
	}()
	return ln
}

// greet asks addr for a greeting.
func greet(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(c, "hi"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == io.EOF {
		return line, io.ErrUnexpectedEOF
	}
	return strings.TrimSuffix(line, "\n"), err
}
