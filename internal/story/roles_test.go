package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/sharding"
)

// writers is how many goroutines of the writer write; the first writes many
// rows at a time. The sleeper, a process of its own, counts as one more.
const (
	writers   = 6
	batchRows = 20
	bulkRows  = 3000
)

// rowsOf is how many rows an order of a writer has.
func rowsOf(writer int) int64 {
	switch writer {
	case 0:
		return batchRows
	case writers:
		return bulkRows
	}
	return 1
}

// writer writes orders until its standard input ends. It never tries again. It
// writes a line to its ledger after each answer, before the next write: A for
// acknowledged, U for unknown, R for refused; then the writer and the order,
// of which a batch has batchRows.
func writer(s settings) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	ledger, err := os.OpenFile(s.Ledger, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { cluster.Directory().Run(ctx) })
	var failed atomic.Pointer[error]
	for i := range writers {
		wg.Go(func() {
			// An open model would be better, but this is about order, not load: a
			// writer that waits out a move has one write in it.
			pause := 15 * time.Millisecond
			if i == 0 {
				pause = 80 * time.Millisecond
			}
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for n := int64(1); ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				order := (n*(writers+1) + int64(i)) * bulkRows
				verdict := "R"
				switch err := write(ctx, cluster, s.Shop, i, order); {
				case err == nil:
					verdict = "A"
				case errors.Is(err, podworks.ErrOutcomeUnknown):
					verdict = "U"
				}
				if _, err := fmt.Fprintf(ledger, "%s %d %d\n", verdict, i, order); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	fmt.Println("writing")
	io.Copy(io.Discard, os.Stdin)
	cancel()
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return ledger.Close()
}

// write writes one order, or a batch, and counts it, in one transaction.
func write(ctx context.Context, cluster *sharding.Cluster, shop podworks.ShopID, writer int, order int64) error {
	// The end of the test must not interrupt a write in the middle of its commit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return cluster.Do(ctx, shop, func(ctx context.Context, sc *sharding.Scope) error {
		return sc.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			if writer%2 == 1 {
				if _, err := tx.ExecContext(ctx, `DO SLEEP(0.003)`); err != nil { // transactions in flight, whenever
					return err
				}
			}
			return insert(ctx, tx, shop, writer, order)
		})
	})
}

func insert(ctx context.Context, tx *sharding.Tx, shop podworks.ShopID, writer int, order int64) error {
	var rows []string
	for i := range rowsOf(writer) {
		rows = append(rows, fmt.Sprintf("(%d, %d, %d)", shop, order+i, writer))
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, writer) VALUES `+strings.Join(rows, ",")); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE counters SET n = n + 1 WHERE shop_id = %d AND id = %d`, shop, writer))
	return err
}

// mover moves the shop. It says each step before it enters it, and dies or
// freezes where it is told to.
func mover(s settings) error {
	set := &hook.Set{Off: map[hook.Protection]bool{}}
	for _, p := range s.Off {
		set.Off[p] = true
	}
	var once sync.Once
	woken := make(chan os.Signal, 1)
	signal.Notify(woken, syscall.SIGCONT)
	set.Step = func(step string) {
		os.Stdout.WriteString(step + "\n")
		stop := syscall.SIGKILL
		if step == s.Freeze {
			stop = syscall.SIGSTOP
		} else if step != s.Die {
			return
		}
		once.Do(func() {
			if s.Delay == 0 {
				syscall.Kill(os.Getpid(), stop)
				<-woken // on a busy machine this thread may run on for a while
				return
			}
			time.AfterFunc(s.Delay, func() { syscall.Kill(os.Getpid(), stop) })
		})
	}
	f, err := s.ferry()
	if err != nil {
		return err
	}
	if _, err := f.Move(hook.With(context.Background(), set), s.Shop, s.To); err != nil {
		fmt.Println("failed")
		return err
	}
	fmt.Println("moved")
	return nil
}

// sleeper opens a write transaction, writes many rows, and waits for its
// standard input to say something, or to end, before it commits.
func sleeper(s settings) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	order := time.Now().UnixNano() // above every other writer's
	err = cluster.Do(context.Background(), s.Shop, func(ctx context.Context, sc *sharding.Scope) error {
		return sc.Tx(ctx, func(ctx context.Context, tx *sharding.Tx) error {
			if err := insert(ctx, tx, s.Shop, writers, order); err != nil {
				return err
			}
			fmt.Println("in the transaction")
			if _, err := os.Stdin.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		})
	})
	if err != nil {
		fmt.Println("refused")
		return nil
	}
	ledger, err := os.OpenFile(s.Ledger, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(ledger, "A %d %d\n", writers, order); err != nil {
		return err
	}
	fmt.Println("acknowledged")
	return ledger.Close()
}

// steps are those that a mover can be killed at.
var steps = []string{"copy", "drain", "verified", "closed", "decided", "opened"}
