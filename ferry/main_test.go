package ferry_test

import (
	"os"
	"testing"

	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }
