// Package leak fails a package whose tests leave goroutines behind:
//
//	func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run(), "podworks/routing.")) }
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// patience is how long what has been told to end may take for it.
const patience = 5 * time.Second

// Check returns code, the result of a package's tests. If that is 0 and goroutines are
// left whose stacks contain one of the texts, it prints them and returns 1.
func Check(code int, texts ...string) int {
	if code != 0 {
		return code
	}
	deadline := time.After(patience)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		left := stacks(texts)
		if left == "" {
			return 0
		}
		select {
		case <-again.C:
		case <-deadline:
			fmt.Fprintf(os.Stderr, "goroutines left behind by the tests:\n\n%s\n", left)
			return 1
		}
	}
}

// stacks returns the stacks that contain one of the texts, but for the caller's.
func stacks(texts []string) string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var left []string
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "internal/leak.Check(") {
			continue
		}
		for _, text := range texts {
			if strings.Contains(stack, text) {
				left = append(left, stack)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}
