package redispush_test

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) {
	os.Exit(leak.Check(testcluster.Main(m), "sharding/redispush."))
}
