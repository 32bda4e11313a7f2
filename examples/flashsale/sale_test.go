package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/internal/testcluster"
)

// small is a sale that a test has time for.
var small = settings{
	Family:   testcluster.MariaDB,
	Shops:    5,
	Rate:     25,
	Duration: 8 * time.Second,
	Buyers:   500,
	Seed:     1,
	History:  3000,
}

// room gives a test a directory for temporary files of its own, and wants it
// empty in the end: no server, no ledger, no socket. The name is short because
// sockets' names have to be.
func room(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("holds a sale")
	}
	dir, err := os.MkdirTemp("", "sale")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		// What has been killed ends a little later.
		var left []string
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); <-tick.C {
			left = nil
			_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() && e.Name() != "lock" || err == nil && e.IsDir() && strings.HasPrefix(e.Name(), "flashsale-") {
					left = append(left, path)
				}
				return nil
			})
			if len(left) == 0 {
				os.RemoveAll(dir)
				return
			}
		}
		t.Errorf("the sale left %d files behind: %s", len(left), left[0])
	})
}

func TestAMoveInTheMiddleOfASaleLosesNothing(t *testing.T) {
	room(t)
	testcluster.Each(t, func(t *testing.T, family testcluster.Family) {
		t.Parallel()
		s := small
		s.Family = family
		var out strings.Builder
		r, err := conduct(t.Context(), s, newScreen(&out, false), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(r.table())
		if len(r.Problems) > 0 || r.HTTPErrors > 0 || r.WriteErrors > 0 || !r.Verified {
			t.Errorf("problems %q, %d HTTP errors %q, %d write errors; want none", r.Problems, r.HTTPErrors, r.Errors, r.WriteErrors)
		}
		if r.OrdersAcknowledged < 50 || r.OrdersFoundOnce != r.OrdersAcknowledged || r.PaymentsCaptured != r.OrdersAcknowledged {
			t.Errorf("%d orders acknowledged, %d found once, %d paid; want 50 or more, and all of them", r.OrdersAcknowledged, r.OrdersFoundOnce, r.PaymentsCaptured)
		}
		if r.RowsCopied < 4*int64(s.History) || r.WritePause <= 0 || r.PageViews < 300 {
			t.Errorf("%d rows copied, a write pause of %v ms, %d page views; want %d, more than 0, 300", r.RowsCopied, r.WritePause, r.PageViews, 4*s.History)
		}
		for _, want := range []string{"the sale is on", "move: copy", "counting every order"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the progress lacks %q:\n%s", want, out.String())
			}
		}
	})
}

// One family is enough for these. They wait most of their time, so they are held at
// once, in one room.
func TestASaleInWhichSomethingElseHappens(t *testing.T) {
	room(t)
	needMariaDB(t)
	// What counts must not be what it counts on: an order that is deleted between
	// the sale and the count has to be missed.
	t.Run("the count misses a deleted order", func(t *testing.T) {
		t.Parallel()
		s := small
		s.Duration = 5 * time.Second
		r, err := conduct(t.Context(), s, newScreen(io.Discard, true), func(ctx context.Context, p *plan) error {
			orders, err := readLedger(p.ledger(orderLedger))
			if err != nil {
				return err
			}
			if len(orders) == 0 {
				return errors.New("no order was acknowledged, so none can be deleted")
			}
			for id, at := range p.Servers.Pods {
				db, err := asAdmin.open(at.MySQL)
				if err != nil {
					return err
				}
				defer db.Close()
				if _, err := db.ExecContext(ctx, `DELETE FROM orders WHERE shop_id = ? AND id = ?`, orders[0].Shop, orders[0].ID); err != nil {
					t.Errorf("pod %d: %v", id, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.OrdersLost != 1 || r.exitStatus() != exitFailed {
			t.Errorf("%d orders lost, exit status %d, problems %q; want 1 and %d", r.OrdersLost, r.exitStatus(), r.Problems, exitFailed)
		}
	})
	t.Run("called off, it leaves nothing", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, w := io.Pipe()
		go func() {
			defer cancel()
			awaitLine(r, "move: ")
		}()
		if report, err := conduct(ctx, small, newScreen(w, false), nil); err == nil || report != nil {
			t.Errorf("conduct returned %v and error %v, want no report and an error", report, err)
		}
	})
	// Nothing can be done by a conductor that is killed. The others notice.
	t.Run("the conductor is killed, and nothing is left", func(t *testing.T) {
		t.Parallel()
		cmd := exec.Command(os.Args[0], conductArg)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !awaitLine(out, "the sale is on") {
			t.Error("the sale never began")
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // says that it was killed
	})
	t.Run("kept servers stay until they are told", func(t *testing.T) {
		t.Parallel()
		s := small
		s.Keep, s.Duration = true, 5*time.Second
		r, err := conduct(t.Context(), s, newScreen(io.Discard, true), nil)
		if err != nil {
			t.Fatal(err)
		}
		var keeper string
		for _, c := range r.Connect {
			if strings.HasPrefix(c, "to stop them") {
				keeper = c[strings.LastIndex(c, " ")+1:]
			}
		}
		if len(r.Connect) < 8 || keeper == "" {
			t.Fatalf("the report doesn't say how to connect: %q", r.Connect)
		}
		if out, err := exec.Command("kill", keeper).CombinedOutput(); err != nil {
			t.Errorf("kill %s: %v: %s; want the servers' keeper to be there", keeper, err, out)
		}
	})
}

// awaitLine reads until a line contains text, and goes on reading in the
// background so that nobody waits for it.
func awaitLine(r io.Reader, text string) bool {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return false
		}
		if strings.Contains(line, text) {
			go io.Copy(io.Discard, in)
			return true
		}
	}
}

// needMariaDB skips the test where testcluster would.
func needMariaDB(t *testing.T) {
	t.Helper()
	found := false
	testcluster.Each(t, func(_ *testing.T, f testcluster.Family) { found = found || f == testcluster.MariaDB })
	if !found {
		t.Skip("there is no MariaDB server")
	}
}
