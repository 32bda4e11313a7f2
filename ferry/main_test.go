package ferry_test

import (
	"bytes"
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
		// The system's count of an ended child begins with its parent's.
		fmt.Println(peakMemory("self"))
		os.Exit(0)
	}
	if text := os.Getenv(chaosVariable); text != "" {
		if err := playChaos(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if text := os.Getenv(queueVariable); text != "" {
		if err := queueAs(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testcluster.AtOnce(6)
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

	// What the fault test starts; see faults_test.go.
	Ledger  string        // of a writer, instead of a mover
	From    int           // the number of its first order
	Hold    time.Duration // for which it keeps each transaction open
	Recover bool          // instead of moving
	Clean   podworks.PodID
	Keep    podworks.PodID
	Stop    string // the step before which it waits to be told to go on
	Store   string // the file in which a store notes its calls
	Waits   bool   // instead of moving: write, and measure the waits for the fence
	Lease   time.Duration

	Rehearse bool // instead of moving
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
	if r.Ledger != "" {
		return writeAs(r, master, pods)
	}
	if r.Waits {
		return waitAs(r, pods[1])
	}
	dir := ferry.NewTables(master)
	opts := &ferry.Options{Ignore: []string{"countries"}, ChunkRows: r.ChunkRows, Lease: r.Lease}
	if r.Store != "" {
		opts.Stores = fileStore(r.Store, "mover")
	}
	f, err := ferry.New(dir, pods, opts)
	if err != nil {
		return err
	}
	// Who started this process may die of a failed test.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if r.Stop != "" {
		ctx = stopAt(ctx, r.Stop)
	}
	switch {
	case r.Recover:
		return recoverAs(ctx, f, dir, r.Shop)
	case r.Clean != 0:
		_, err = f.Clean(ctx, r.Shop, r.Clean)
	case r.Keep != 0:
		err = f.Keep(ctx, r.Shop, r.Keep)
	case r.Rehearse:
		_, err = f.Rehearse(ctx, r.Shop, r.To)
	default:
		_, err = f.Move(ctx, r.Shop, r.To)
	}
	return err
}

// mover starts the move in a process of its own, and returns the function that
// kills it.
func (w *world) mover(to podworks.PodID) (kill func()) {
	w.t.Helper()
	cmd := w.start(to)
	kill = func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()
	}
	w.t.Cleanup(kill)
	return kill
}

func (w *world) start(to podworks.PodID) *exec.Cmd {
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
	cmd.Stdout, cmd.Stderr = new(bytes.Buffer), os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	return cmd
}
