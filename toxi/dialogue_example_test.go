package toxi_test

import (
	"bufio"
	"fmt"
	"net"
	"regexp"

	"github.com/podworks/podworks/toxi"
)

// A write to a cache fails in the middle of a pipeline, twice, and the reads around it
// don't notice.
func ExampleRedis() {
	p, err := toxi.New(nil, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	client := p.Wrap(cheerfulRedis())
	defer client.Close()
	answers := bufio.NewReader(client)

	remove, err := p.Add(toxi.Redis{
		Match: regexp.MustCompile(`^SET cart:`),
		Times: 2,
		Fail:  "OOM command not allowed when used memory > 'maxmemory'",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()

	for range 3 {
		fmt.Fprint(client, "*2\r\n$3\r\nGET\r\n$6\r\ncart:7\r\n"+"*3\r\n$3\r\nset\r\n$6\r\ncart:7\r\n$4\r\nshoe\r\n"+"*1\r\n$4\r\nPING\r\n")
		for range 3 {
			answer, _, _ := answers.ReadLine()
			fmt.Printf("%s\n", answer)
		}
	}
	// Output:
	// +GET
	// -OOM command not allowed when used memory > 'maxmemory'
	// +PING
	// +GET
	// -OOM command not allowed when used memory > 'maxmemory'
	// +PING
	// +GET
	// +set
	// +PING
}

// cheerfulRedis is a server that answers every command with its name.
func cheerfulRedis() net.Conn {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		for r := bufio.NewReader(far); ; {
			var args, size int
			if _, err := fmt.Fscanf(r, "*%d\r\n", &args); err != nil {
				return
			}
			var name string
			for i := range args {
				var arg string
				fmt.Fscanf(r, "$%d\r\n", &size)
				fmt.Fscanf(r, "%s\r\n", &arg)
				if i == 0 {
					name = arg
				}
			}
			fmt.Fprintf(far, "+%s\r\n", name)
		}
	}()
	return near
}
