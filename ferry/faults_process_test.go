package ferry_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/hook"
)

// A process runs this binary in a role.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func (w *world) process(r role) *process {
	w.t.Helper()
	r.Master, r.Pods, r.Shop = w.masterDSN, map[podworks.PodID]string{}, w.shop
	for pod, cfg := range w.pods {
		r.Pods[pod] = cfg.FormatDSN()
	}
	text, err := json.Marshal(r)
	w.must(err)
	p := &process{t: w.t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), moverVariable+"="+string(text))
	p.in, err = p.cmd.StdinPipe()
	w.must(err)
	out, err := p.cmd.StdoutPipe()
	w.must(err)
	p.out = bufio.NewScanner(out)
	w.must(p.cmd.Start())
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// await waits for the process to say something.
func (p *process) await(what string) {
	p.t.Helper()
	if !p.out.Scan() || p.out.Text() != what {
		p.t.Fatalf("the process said %q, want %q", p.out.Text(), what)
	}
}

// goOn lets it go on. It may be dead, or have been told already.
func (p *process) goOn() { _ = p.in.Close() }

// end lets a writer end, and returns how it did.
func (p *process) end() error {
	p.goOn()
	return p.cmd.Wait()
}

// recoverAs recovers until the shop's move is at its end, whoever brought it there.
func recoverAs(ctx context.Context, f *ferry.Ferry, dir ferry.Tables, shop podworks.ShopID) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		moves, err := dir.Moves(ctx)
		if err == nil && !slices.ContainsFunc(moves, func(mv podworks.Move) bool { return mv.From.Shop == shop }) {
			return nil
		}
		_, _ = f.Recover(ctx) // what fails while a server is away is tried again
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stopAt returns a context in which a process says when it comes to a step first,
// and waits until its stdin is closed.
func stopAt(ctx context.Context, at string) context.Context {
	var once sync.Once
	return hook.With(ctx, &hook.Set{Step: func(step string) {
		if step == at {
			once.Do(func() {
				fmt.Println("before " + at)
				_, _ = io.Copy(io.Discard, os.Stdin)
			})
		}
	}})
}

// writeAs writes orders until stdin is closed, each with its own number and the
// epoch it is written at, where the directory has the shop. It writes down what
// it tries and what is acknowledged, never tries a number again, and says when it
// has begun.
func writeAs(r role, master *sql.DB, pods map[podworks.PodID]*mysql.Config) error {
	ledger, err := os.OpenFile(r.Ledger, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer ledger.Close()
	dbs := map[podworks.PodID]*sql.DB{}
	for pod, cfg := range pods {
		cfg.Logger = &mysql.NopLogger{}
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			return err
		}
		dbs[pod] = sql.OpenDB(c)
		defer dbs[pod].Close()
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	dir := ferry.NewTables(master)
	var wrote sync.Once
	write := func(id int) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		route, err := dir.Fresh(ctx, r.Shop)
		if err != nil {
			return
		}
		fmt.Fprintf(ledger, "try %d\n", id)
		if err := trade(ctx, dbs[route.Pod], r.Shop, route.Epoch, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO orders VALUES (?, ?, ?, ?)`, int64(r.Shop), id, strconv.Itoa(id), strconv.Itoa(int(route.Epoch)))
			<-time.After(r.Hold) // a slow transaction, to be hit in
			return err
		}); err == nil {
			fmt.Fprintf(ledger, "ack %d\n", id)
			wrote.Do(func() { fmt.Println("wrote") })
		}
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for id := r.From; ; id++ {
		write(id)
		select {
		case <-stop:
			return nil
		case <-tick.C:
		}
	}
}

// waitAs writes to the shop until stdin is closed or the shop has moved, and says for
// how many milliseconds it waited for the fence in all, leaving out what takes no
// longer than a busy machine makes anything take.
func waitAs(r role, pod *mysql.Config) error {
	c, err := mysql.NewConnector(pod)
	if err != nil {
		return err
	}
	db := sql.OpenDB(c)
	defer db.Close()
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	var waited time.Duration
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		start := time.Now()
		err := trade(context.Background(), db, r.Shop, 1, func(tx *sql.Tx) error {
			if took := time.Since(start); took > 20*time.Millisecond {
				waited += took
			}
			_, err := tx.Exec(`INSERT INTO orders VALUES (?, ?, ?, NULL)`, int64(r.Shop), n, n)
			return err
		})
		if errors.Is(err, errMoved) {
			waited += time.Since(start)
			fmt.Println(waited.Milliseconds())
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 {
			fmt.Println("writes")
		}
		select {
		case <-stop:
			fmt.Println(waited.Milliseconds())
			return nil
		case <-tick.C:
		}
	}
}
