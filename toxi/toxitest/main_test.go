package toxitest_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
)

// TestMain fails if goroutines of a proxy, or of a test, are left.
func TestMain(m *testing.M) {
	code := testcluster.Main(m)
	if left := leaked(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines that nobody waited for:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines that proxies or tests left, or "". What has
// been told to end gets some time for it.
func leaked() (left string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		buf := make([]byte, 1<<20)
		left = ""
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "podworks/toxi") && !strings.Contains(stack, "toxitest_test.TestMain") {
				left += stack + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
		<-tick.C
	}
	return left
}
