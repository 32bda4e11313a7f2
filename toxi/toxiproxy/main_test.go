package toxiproxy_test

import (
	"os"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/leak"
)

// TestMain fails the package when a goroutine is left behind: of a proxy that nobody
// closed, or of a request that never ended.
func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run(), "podworks/toxi.", "net/http.(*")) }

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
