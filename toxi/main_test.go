package toxi

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

// TestMain stops the servers that tests have started, and fails if goroutines of a
// proxy, or of a test, are left.
func TestMain(m *testing.M) { os.Exit(leak.Check(testcluster.Main(m), "podworks/toxi")) }
