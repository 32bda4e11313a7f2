package story

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/podworks/podworks/internal/testcluster"
)

// The test binary is also every other process of the story: the parent starts
// itself again with a role and its settings in the environment.
const (
	roleVar     = "PODWORKS_STORY_ROLE"
	settingsVar = "PODWORKS_STORY_SETTINGS"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(testcluster.Main(m))
	}
	var s settings
	err := json.Unmarshal([]byte(os.Getenv(settingsVar)), &s)
	if err == nil {
		switch role {
		case "writer":
			err = writer(s)
		case "mover":
			err = mover(s)
		case "sleeper":
			err = sleeper(s)
		case "storefront":
			err = storefront(s)
		case "buyers":
			err = buyers(s)
		default:
			err = fmt.Errorf("no role %q", role)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}
