package toxitest_test

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

// TestMain fails if goroutines of a proxy, or of a test, are left.
func TestMain(m *testing.M) { os.Exit(leak.Check(testcluster.Main(m), "podworks/toxi")) }
