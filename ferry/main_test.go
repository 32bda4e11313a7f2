package ferry_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/testcluster"
)

// Some tests kill a mover. They run this binary again, as a process that makes
// the move that this variable describes.
const moverVariable = "PODWORKS_FERRY_MOVER"

func TestMain(m *testing.M) {
	if text := os.Getenv(moverVariable); text != "" {
		if err := moveAs(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := testcluster.Main(m)
	if left := leaked(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines that nobody waited for:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines that a ferry left, or "". What has
// been told to end gets some time for it.
func leaked() (left string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		buf := make([]byte, 1<<20)
		left = ""
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "podworks/ferry.") || strings.Contains(stack, "internal/fence") || strings.Contains(stack, "go-mysql") {
				left += stack + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
		<-tick.C
	}
	return left
}

// A role is what another process is to move.
type role struct {
	Master    string // its DSN
	Pods      map[podworks.PodID]string
	Shop      podworks.ShopID
	To        podworks.PodID
	ChunkRows int
}

func moveAs(text string) error {
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	master, err := sql.Open("mysql", r.Master)
	if err != nil {
		return err
	}
	defer master.Close()
	pods := map[podworks.PodID]*mysql.Config{}
	for pod, dsn := range r.Pods {
		if pods[pod], err = mysql.ParseDSN(dsn); err != nil {
			return err
		}
	}
	f, err := ferry.New(ferry.NewTables(master), pods, &ferry.Options{Ignore: []string{"countries"}, ChunkRows: r.ChunkRows})
	if err != nil {
		return err
	}
	// Who started this process may die of a failed test.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = f.Move(ctx, r.Shop, r.To)
	return err
}

// mover starts the move in a process of its own, and returns the function that
// kills it.
func (w *world) mover(to podworks.PodID) (kill func()) {
	w.t.Helper()
	r := role{Master: w.masterDSN, Pods: map[podworks.PodID]string{}, Shop: w.shop, To: to, ChunkRows: 7}
	for pod, cfg := range w.pods {
		r.Pods[pod] = cfg.FormatDSN()
	}
	text, err := json.Marshal(r)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), moverVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()
	}
	w.t.Cleanup(kill)
	return kill
}
