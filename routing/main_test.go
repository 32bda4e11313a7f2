package routing_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package when a goroutine is left behind: of a Run that did
// not end, or of a connection that nobody closed.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leaks(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines left behind by the tests:\n\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks returns the stacks that are still there after 5 s.
func leaks() string {
	deadline := time.After(5 * time.Second)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	buf := make([]byte, 1<<20)
	for {
		var left []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "/routing.") || strings.Contains(stack, "net/http.(*") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return ""
		}
		select {
		case <-again.C:
		case <-deadline:
			return strings.Join(left, "\n\n")
		}
	}
}
