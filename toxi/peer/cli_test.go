package peer_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// commands are what the command is told, one after the other. LISTEN and OTHER stand for
// ports that are free.
var commands = []string{
	"list",
	"inspect mysql",
	"create --listen localhost:LISTEN --upstream localhost:1 mysql",
	"list",
	"inspect mysql",
	"create --listen localhost:OTHER --upstream localhost:1 mysql",
	"create --listen localhost:LISTEN --upstream localhost:1 twin",
	"create --listen localhost:OTHER mysql",
	"create -l 127.0.0.1:OTHER -u localhost:2 redis",
	"list",
	"toxic add --type latency --attribute latency=100 --attribute jitter=5 mysql",
	"toxic add -t latency -n slow --upstream --toxicity 0.5 -a latency=1 mysql",
	"toxic add -t bandwidth -n narrow -a rate=1000 mysql",
	"toxic add -t slow_close -n late -a delay=10 mysql",
	"toxic add -t timeout -n gone -a timeout=1000 mysql",
	"toxic add -t reset_peer -n reset -a timeout=1000 mysql",
	"toxic add -t slicer -n sliced -a average_size=100 -a size_variation=10 -a delay=7 mysql",
	"toxic add -t limit_data -n limited -a bytes=1000 mysql",
	"toxic add -t noop -n nothing --downstream mysql",
	"list",
	"inspect mysql",
	"toxic add -t latency -n slow mysql",
	"toxic add -t nonsense mysql",
	"toxic add -t latency -n half -a latency=1.5 mysql",
	"toxic add -t latency -n word -a latency=long mysql",
	"toxic add -t latency nowhere",
	"toxic update -n slow -a jitter=2 mysql",
	"toxic update -n slow --toxicity 0.25 -a latency=3 mysql",
	"toxic update -n missing -a latency=3 mysql",
	"inspect mysql",
	"toxic delete -n slow mysql",
	"toxic remove -n slow mysql",
	"toxic remove -n narrow nowhere",
	"inspect mysql",
	"toggle mysql",
	"list",
	"toggle mysql",
	"list",
	"toggle nowhere",
	"delete mysql",
	"delete mysql",
	"inspect mysql",
	"list",
}

// cliDeviations are commands whose output may differ, and why.
var cliDeviations = map[string]string{
	"toxic add -t latency -n half -a latency=1.5 mysql":  jsonErrors,
	"toxic add -t latency -n word -a latency=long mysql": jsonErrors,
}

// Toxiproxy's command says the same, whichever server it talks to.
func TestToxiproxysCommandSaysTheSame(t *testing.T) {
	t.Parallel()
	cli := filepath.Join(t.TempDir(), "toxiproxy-cli")
	if out, err := exec.Command("go", "build", "-o", cli, "github.com/Shopify/toxiproxy/v2/cmd/cli").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := make(map[kind][]string)
	for _, k := range []kind{theirs, ours} {
		s := newSession(t, k)
		there := strings.NewReplacer("LISTEN", fmt.Sprint(port(t)), "OTHER", fmt.Sprint(port(t)))
		for _, c := range commands {
			cmd := exec.Command(cli, append([]string{"--host", s.url}, strings.Fields(there.Replace(c))...)...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			var exit *exec.ExitError
			if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
				t.Fatalf("%s: %v", c, err)
			}
			said[k] = append(said[k], port5.ReplaceAllString(fmt.Sprintf("%s%sexit %d", &stdout, &stderr, cmd.ProcessState.ExitCode()), ":PORT"))
		}
	}
	for i, c := range commands {
		want, got := said[theirs][i], said[ours][i]
		why, listed := cliDeviations[c]
		switch {
		case want != got && !listed:
			t.Errorf("toxiproxy-cli %s\nsays with Toxiproxy\n\t%s\nand with ours\n\t%s", c, want, got)
		case want == got && listed:
			t.Errorf("toxiproxy-cli %s says the same: it is no deviation any more (%s)", c, why)
		}
	}
}
