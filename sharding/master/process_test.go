package master_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

const (
	roleVar  = "PODWORKS_MASTER_ROLE"
	dsnVar   = "PODWORKS_MASTER_DSN"
	ownerVar = "PODWORKS_MASTER_OWNER"
)

// play is what another process does: it says that it is ready, waits for a line,
// and prints a line for each thing it got, until it has all or its input ends.
func play(role string) int {
	db, err := sql.Open("mysql", os.Getenv(dsnVar))
	if err == nil {
		defer db.Close()
		var m *master.Master
		if m, err = master.New(db, nil, nil); err == nil {
			ctx, cancel := context.WithCancel(context.Background())
			fmt.Println("ready")
			in := bufio.NewReader(os.Stdin)
			_, _ = in.ReadString('\n')
			go func() {
				_, _ = io.Copy(io.Discard, in)
				cancel()
			}()
			switch role {
			case "ids":
				err = drawIDs(ctx, m)
			case "claims":
				owner, _ := strconv.ParseInt(os.Getenv(ownerVar), 10, 64)
				err = claimNames(ctx, m, owner)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func drawIDs(ctx context.Context, m *master.Master) error {
	s, err := m.Sequence("orders", &master.SequenceOptions{Block: 10})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		id, err := s.Next(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		fmt.Println(id)
	}
	return nil
}

// contested are the names that every claimer wants.
const contested = 40

// claimNames wants every name until somebody has it for good. The claims are so
// short that some lapse before they are confirmed.
func claimNames(ctx context.Context, m *master.Master, owner int64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := range contested {
		name := fmt.Sprintf("%d.example", n)
		for {
			c, err := m.Claim(ctx, "domain", name, owner, 20*time.Millisecond)
			if err == nil {
				<-tick.C
				err = m.Confirm(ctx, c)
			}
			if err == nil {
				fmt.Println(n, owner)
				break
			}
			var taken *master.Error
			if !errors.As(err, &taken) {
				return err
			}
			if errors.Is(err, master.ErrTaken) && taken.Left == 0 {
				break
			}
			<-tick.C
		}
	}
	return nil
}

// A player is another process.
type player struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines <-chan string
}

func (w *world) startPlayer(role string, owner int) *player {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, dsnVar+"="+w.pair.primary.DSN(w.name), ownerVar+"="+strconv.Itoa(owner))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for r := bufio.NewReader(stdout); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return // and a line that is not whole was not printed
			}
			lines <- strings.TrimSpace(line)
		}
	}()
	p := &player{cmd, stdin, lines}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines {
		}
		_ = cmd.Wait()
	})
	if got := <-lines; got != "ready" {
		w.t.Fatalf("the other process said %q", got)
	}
	return p
}

// watch lets three processes play, and kills one of them after the kill-th line
// of all. It returns every line, when all have ended, which they are told after
// the end-th line.
func (w *world) watch(role string, kill, end int) []string {
	w.t.Helper()
	var mu sync.Mutex
	var all []string
	var wg sync.WaitGroup
	var team []*player
	for i := range 3 {
		team = append(team, w.startPlayer(role, i+1))
	}
	for _, p := range team {
		if _, err := io.WriteString(p.stdin, "go\n"); err != nil {
			w.t.Fatal(err)
		}
		wg.Go(func() {
			for line := range p.lines {
				mu.Lock()
				all = append(all, line)
				n := len(all)
				mu.Unlock()
				switch n {
				case kill:
					if err := team[0].cmd.Process.Kill(); err != nil {
						w.t.Error(err)
					}
				case end:
					for _, p := range team {
						p.stdin.Close()
					}
				}
			}
		})
	}
	wg.Wait()
	if len(all) < kill {
		w.t.Fatalf("the processes ended after %d lines, before one was killed", len(all))
	}
	return all
}

func TestIdsAreUniqueOverProcessesThatAreKilled(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		seen := map[string]bool{}
		for _, line := range w.watch("ids", 500, 2000) {
			if seen[line] {
				t.Errorf("id %s was handed out twice", line)
			}
			seen[line] = true
		}
		if len(seen) < 2000 {
			t.Errorf("got %d ids, want 2000", len(seen))
		}
	})
}

func TestNamesAreUniqueOverProcessesThatAreKilled(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		owners := map[string]string{}
		for _, line := range w.watch("claims", 10, contested+1) {
			name, owner, _ := strings.Cut(line, " ")
			if owners[name] != "" {
				t.Errorf("%s was confirmed for %s and for %s", name, owners[name], owner)
			}
			owners[name] = owner
		}
		// What the killed one said nothing of may be its own.
		if len(owners) < contested-1 {
			t.Errorf("%d names were confirmed, want %d, or one less", len(owners), contested)
		}
		for name, want := range owners {
			var owner string
			var confirmed bool
			err := w.primary.QueryRowContext(t.Context(), `SELECT owner, expires_at IS NULL FROM podworks_claims WHERE name = ?`, name+".example").Scan(&owner, &confirmed)
			if err != nil || owner != want || !confirmed {
				t.Errorf("%s.example belongs to %s (confirmed %t, %v), and %s was told it was its own", name, owner, confirmed, err, want)
			}
		}
	})
}
