package routing_test

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/leak"
)

// TestMain fails the package when a goroutine is left behind: of a Run that did
// not end, or of a connection that nobody closed.
func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run(), "/routing.", "net/http.(*")) }
