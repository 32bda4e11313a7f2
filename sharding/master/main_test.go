package master_test

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

// The test binary is also every other process of the tests: the parent starts
// itself again with a role in the environment.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	os.Exit(leak.Check(testcluster.Main(m), "podworks/sharding/master."))
}
