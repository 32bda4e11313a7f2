package toxiproxy_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package when a goroutine is left behind: of a proxy that nobody
// closed, or of a request that never ended.
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
func leaks() (left string) {
	within(5*time.Second, func() bool {
		left = stacks()
		return left == ""
	})
	return left
}

// stacks returns the goroutines of proxies and of HTTP.
func stacks() string {
	buf := make([]byte, 4<<20)
	var left []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "podworks/toxi.") || strings.Contains(stack, "net/http.(*") {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// within asks again and again until ok, or until the time is over.
func within(limit time.Duration, ok func() bool) bool {
	deadline := time.After(limit)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline:
			return ok()
		}
	}
	return true
}
