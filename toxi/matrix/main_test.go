package matrix_test

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/leak"
)

// TestMain fails if goroutines of a run are left.
func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run(), "toxi/matrix.")) }
