package main

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
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
)

// writerVariable makes this program the writer.
const writerVariable = "PODWORKS_MOVESHOP_WRITER"

func isWriter() bool { return os.Getenv(writerVariable) != "" }

// writeEvery is the time between two writes, and so how much of a pause the writer
// can miss.
const writeEvery = 4 * time.Millisecond

// An order is what the writer is told, on standard input: it may hold passwords.
type order struct {
	DSNs  [2]string // where the shop is, and where it goes
	Shop  podworks.ShopID
	Write string // in each transaction; "" is to take the fence only
	load
}

// A load is how much is written.
type load struct {
	Sessions int           // that write at once
	Every    time.Duration // between two writes of a session; 0 is one after the other
}

// oneWriter is the load that notices a pause, and is next to none.
var oneWriter = load{Sessions: 1, Every: writeEvery}

// A written is a write that was acknowledged: when it was begun and ended, in Unix
// nanoseconds, and in which of the two databases.
type written struct {
	Began, Ended int64
	Fenced       int64 // since when it had the fence, and so wrote
	At           int
	Failed       string `json:",omitempty"` // the last try before; a mover may end sessions
}

func (w written) took() time.Duration   { return time.Duration(w.Ended - w.Began) }
func (w written) waited() time.Duration { return time.Duration(w.Fenced - w.Began) }

func (w written) met(from, to time.Time) bool {
	return w.Ended >= from.UnixNano() && w.Began <= to.UnixNano()
}

// runWriter is the main of the writer: transactions in the shop, wherever it is
// open, until standard input ends. Each is a line on stdout.
func runWriter(stdin io.Reader, stdout, stderr io.Writer) int {
	in := bufio.NewReader(stdin)
	var o order
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		fmt.Fprintf(stderr, "read the order: %v\n", err)
		return exitFailed
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in)
	}()
	if err := o.write(ctx, json.NewEncoder(stdout)); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return exitFine
}

// giveUp is how long one write may take, the way to the other database included.
const giveUp = time.Minute

func (o *order) write(ctx context.Context, out *json.Encoder) error {
	var pods [2]*sql.DB
	for i, dsn := range o.DSNs {
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			return err
		}
		cfg.Logger = &mysql.NopLogger{} // what goes wrong is told
		if pods[i], err = open(cfg); err != nil {
			return err
		}
		defer pods[i].Close()
		pods[i].SetMaxIdleConns(o.Sessions)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var mu sync.Mutex // guards out
	tell := func(w written) error {
		mu.Lock()
		defer mu.Unlock()
		return out.Encode(w)
	}
	var wg sync.WaitGroup
	for i := range o.Sessions {
		wg.Go(func() {
			time.Sleep(o.Every * time.Duration(i) / time.Duration(o.Sessions)) // not all at the same moments
			if err := o.session(ctx, pods, tell); err != nil {
				fail(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// session writes, one transaction after the other.
func (o *order) session(ctx context.Context, pods [2]*sql.DB, tell func(written) error) error {
	var w written
	for {
		w.Failed = ""
		began := time.Now()
		// The write under way when the end comes is finished.
		for {
			fenced, err := o.try(context.WithoutCancel(ctx), pods[w.At])
			if err == nil {
				w.Fenced = fenced.UnixNano()
				break
			}
			if time.Since(began) > giveUp {
				return fmt.Errorf("nothing could be written for %v: %w", giveUp, err)
			}
			if errors.Is(err, errElsewhere) {
				w.At = 1 - w.At
			} else {
				w.Failed = err.Error()
			}
			time.Sleep(time.Millisecond) // between the source's closing and the target's opening
		}
		w.Began, w.Ended = began.UnixNano(), time.Now().UnixNano()
		if tell(w) != nil || ctx.Err() != nil { // nobody hears, or wants more
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.Every - time.Since(began)):
		}
	}
}

// errElsewhere says that the shop isn't open here.
var errElsewhere = errors.New("the shop is not open here")

// try runs one write as applications do, with the fence first.
func (o *order) try(ctx context.Context, db *sql.DB) (fenced time.Time, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fenced, err
	}
	defer tx.Rollback()
	row, err := fence.Read(ctx, tx, o.Shop, "LOCK IN SHARE MODE")
	if err != nil {
		return fenced, err
	}
	if row.State != fence.Open {
		return fenced, errElsewhere
	}
	fenced = time.Now()
	if o.Write != "" {
		if _, err := tx.ExecContext(ctx, o.Write); err != nil {
			return fenced, err
		}
	}
	return fenced, tx.Commit()
}

// A writer is that process, seen from outside.
type writer struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	first  chan struct{} // closed when it has written for the first time
	there  chan struct{} // closed when it has for the first time in the target
	heard  chan struct{} // closed when it has nothing more to say; what follows is set before
	writes []written
	said   lastWords
}

// startWriter starts the writer and returns when it has written.
func startWriter(ctx context.Context, o order) (*writer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &writer{cmd: exec.Command(exe), first: make(chan struct{}), there: make(chan struct{}), heard: make(chan struct{})}
	w.cmd.Env = append(os.Environ(), writerVariable+"=1")
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard is for the program alone
	w.cmd.Stderr = &w.said
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	w.stdin = stdin
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the writer: %w", err)
	}
	go w.listen(stdout)
	_ = json.NewEncoder(stdin).Encode(o) // if it is gone, its end says why
	select {
	case <-w.first:
		return w, nil
	case <-w.heard:
	case <-ctx.Done():
	}
	_, err = w.stop()
	return nil, errors.Join(context.Cause(ctx), err, errors.New("the writer never wrote"))
}

func (w *writer) listen(stdout io.Reader) {
	defer close(w.heard)
	arrived := sync.OnceFunc(func() { close(w.there) })
	for dec := json.NewDecoder(stdout); ; {
		var one written
		if dec.Decode(&one) != nil {
			return // its end
		}
		if w.writes = append(w.writes, one); len(w.writes) == 1 {
			close(w.first)
		}
		if one.At == 1 {
			arrived()
		}
	}
}

// arrive waits until the writer has written in the target, or has ended: a machine
// that is busy may have it miss a short pause altogether.
func (w *writer) arrive(ctx context.Context) {
	select {
	case <-w.there:
	case <-w.heard:
	case <-ctx.Done():
	}
}

// stop ends the writer and returns what it has written. It may be called again.
func (w *writer) stop() ([]written, error) {
	w.stdin.Close()
	late := time.AfterFunc(10*time.Second, func() { w.cmd.Process.Kill() })
	defer late.Stop()
	<-w.heard
	if w.cmd.ProcessState == nil {
		if err := w.cmd.Wait(); err != nil {
			return nil, fmt.Errorf("the writer ended with %w: %s", err, &w.said)
		}
	}
	return w.writes, nil
}

// failures counts the writes that failed at first, and returns what the last of them
// failed with.
func failures(writes []written) (n int, last string) {
	for _, w := range writes {
		if w.Failed != "" {
			n, last = n+1, w.Failed
		}
	}
	return n, last
}

// pause returns how long the longest write took that met the time from from to to,
// in which the shop is closed: the write pause, and what a write takes anyway.
func pause(writes []written, from, to time.Time) (longest time.Duration, err error) {
	var there bool
	for _, w := range writes {
		if w.met(from, to) {
			longest = max(longest, w.took())
		}
		there = there || w.At == 1
	}
	if !there {
		return 0, errors.New("the writer has never come to write in the target")
	}
	return longest, nil
}
