package testcluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// A start takes a second at most. What is slower than this by far is a
	// machine that is busy with something else, or a server that never comes.
	startTimeout = 90 * time.Second
	// How long a server may take to end on its own before it is killed.
	stopTimeout = 30 * time.Second
	// The same if its data is thrown away: a MySQL with two replicas takes
	// eight seconds to part from them.
	discardTimeout = 3 * time.Second
	// How long to wait between two looks at a server that is starting.
	pollEvery = 10 * time.Millisecond
)

// A Process is a running server. All methods may be called by several
// goroutines.
type Process struct {
	name  string // what it is, for errors
	dir   *folder
	argv  []string
	ready func(context.Context) error // one attempt to get an answer

	// change is held by whatever starts or ends the process, and for as long as
	// that takes, so that a Kill during a Restart comes before or after it.
	change sync.Mutex

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended
	asked   bool          // to end; an end that nobody asked for is an error
	removed bool          // by Stop, for good
}

// running holds what StopAll has to stop.
var running struct {
	mu        sync.Mutex
	processes map[*Process]struct{}
}

// start brings p up for the first time. What fails leaves nothing behind.
func (p *Process) start(ctx context.Context) error {
	p.change.Lock()
	err := p.launch(ctx)
	p.change.Unlock()
	if err != nil {
		p.discard()
		return err
	}
	running.mu.Lock()
	defer running.mu.Unlock()
	if running.processes == nil {
		running.processes = make(map[*Process]struct{})
	}
	running.processes[p] = struct{}{}
	return nil
}

// launch starts the server and waits until it answers; p.change is held.
func (p *Process) launch(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %v", startTimeout))
	defer cancel()

	// What a killed server left: mysqld would look whether the process named in
	// the second still lives, and by now another may have its number.
	for _, name := range []string{"sock", "sock.lock"} {
		_ = os.Remove(filepath.Join(p.dir.path, name))
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("testcluster: %s: %w", p.name, err)
	}
	defer log.Close()

	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	// The sweep recognises a server by its working directory.
	cmd.Dir = p.dir.path
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "TMPDIR="+p.dir.path, "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("testcluster: %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the outcome stays in cmd.ProcessState
	}()
	p.mu.Lock()
	p.cmd, p.exited, p.asked = cmd, exited, false
	p.mu.Unlock()

	err = os.WriteFile(filepath.Join(p.dir.path, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600)
	if err == nil {
		err = p.awaitReady(ctx, exited)
	}
	if err != nil {
		_, _ = p.end(syscall.SIGKILL, 0)
		return fmt.Errorf("testcluster: %s did not start: %w%s", p.name, err, p.tail())
	}
	return nil
}

// awaitReady asks until the server answers or has ended.
func (p *Process) awaitReady(ctx context.Context, exited <-chan struct{}) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := p.ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("it ended with %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%w; the last attempt said: %w", context.Cause(ctx), err)
		case <-time.After(pollEvery):
		}
	}
}

// Dir returns the server's directory. Stop removes it.
func (p *Process) Dir() string { return p.dir.path }

// Pid returns the process id of the server, also after its end.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Exited returns a channel that is closed when the server's process has ended.
// Restart makes a new one.
func (p *Process) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// Log returns what the server has logged since its first start.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Pause suspends the server with SIGSTOP: its connections stay open and nothing
// answers on them, and the kernel still accepts new ones until the listener's
// queue is full. It returns when the server has stopped.
func (p *Process) Pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return p.awaitStopped()
}

// Resume ends a Pause.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

// Kill ends the server with SIGKILL and waits for its end. Its files stay as
// they were in that moment; Restart starts it on them.
func (p *Process) Kill() error {
	p.change.Lock()
	defer p.change.Unlock()
	_, err := p.end(syscall.SIGKILL, 0)
	return err
}

// Shutdown ends the server in good order and keeps its directory, for Restart.
func (p *Process) Shutdown() error {
	p.change.Lock()
	defer p.change.Unlock()
	inTime, err := p.end(syscall.SIGTERM, stopTimeout)
	if err == nil && !inTime {
		return fmt.Errorf("testcluster: %s was killed: it had not ended %v after SIGTERM%s", p.name, stopTimeout, p.tail())
	}
	return err
}

// Restart starts the server again after Kill, Shutdown, or a crash: same
// options, same data, same socket and port. It returns when the server answers.
func (p *Process) Restart(ctx context.Context) error {
	p.change.Lock()
	defer p.change.Unlock()
	p.mu.Lock()
	removed, exited := p.removed, p.exited
	p.mu.Unlock()
	if removed {
		return fmt.Errorf("testcluster: %s: Restart after Stop: its directory is gone; end it with Shutdown or Kill to restart it", p.name)
	}
	select {
	case <-exited:
	default:
		return fmt.Errorf("testcluster: %s: Restart of a running server: end it with Shutdown or Kill first", p.name)
	}
	return p.launch(ctx)
}

// Stop ends the server in good order, which is cut short after three seconds,
// and removes its directory. A second Stop does nothing. If the server had
// already ended without being asked to, Stop cleans up and says so in its error.
func (p *Process) Stop() error { return p.stop(syscall.SIGTERM) }

func (p *Process) stop(sig syscall.Signal) error {
	p.change.Lock()
	_, err := p.end(sig, discardTimeout)
	p.change.Unlock()
	return errors.Join(err, p.discard())
}

// StopAll ends every server that this process has started and not stopped, and
// removes their directories. They are killed: nobody will see their data.
func StopAll() error {
	running.mu.Lock()
	processes := make([]*Process, 0, len(running.processes))
	for p := range running.processes {
		processes = append(processes, p)
	}
	running.mu.Unlock()

	errs := make([]error, len(processes))
	var wg sync.WaitGroup
	for i, p := range processes {
		wg.Go(func() { errs[i] = p.stop(syscall.SIGKILL) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// discard removes the directory of a server that has ended.
func (p *Process) discard() error {
	running.mu.Lock()
	delete(running.processes, p)
	running.mu.Unlock()
	p.mu.Lock()
	removed := p.removed
	p.removed = true
	p.mu.Unlock()
	if removed {
		return nil
	}
	if err := p.dir.remove(); err != nil {
		return fmt.Errorf("testcluster: %s: %w", p.name, err)
	}
	return nil
}

// end sends sig and waits for the end of the server; p.change is held. After
// the patience it kills, and reports that it was not in time. It returns an
// error if the server had ended by itself before.
func (p *Process) end(sig syscall.Signal, patience time.Duration) (inTime bool, err error) {
	p.mu.Lock()
	cmd, exited, asked := p.cmd, p.exited, p.asked
	p.asked = true
	p.mu.Unlock()
	if cmd == nil {
		return true, nil // it could not even be started
	}
	select {
	case <-exited:
		if asked {
			return true, nil
		}
		return true, fmt.Errorf("testcluster: %s had ended by itself with %v%s", p.name, cmd.ProcessState, p.tail())
	default:
	}
	// Signals fail only if it has ended meanwhile.
	_ = cmd.Process.Signal(sig)
	if sig == syscall.SIGKILL {
		<-exited
		return true, nil
	}
	_ = cmd.Process.Signal(syscall.SIGCONT) // a paused server hears nothing else
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-exited:
		return true, nil
	case <-timer.C:
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	<-exited
	return false, nil
}

// signal sends sig to a running server.
func (p *Process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if err := cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("testcluster: %s: %v: %w%s", p.name, sig, err, p.tail())
	}
	return nil
}

func (p *Process) logPath() string { return filepath.Join(p.dir.path, "log") }

// tail returns the end of the server's log, ready to be appended to an error.
func (p *Process) tail() string {
	const lines = 20
	b, err := os.ReadFile(p.logPath())
	b = bytes.TrimSpace(b)
	if err != nil || len(b) == 0 {
		return "; it logged nothing"
	}
	all := strings.Split(string(b), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "; its log ends with:\n\t" + strings.Join(all, "\n\t")
}

// askSocket sends a question and wants a line that begins with answer.
func askSocket(ctx context.Context, network, address, question, answer string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline) // fails on a closed connection, as the next line does
	}
	if _, err := c.Write([]byte(question)); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, answer) {
		return fmt.Errorf("answered %q to %q, want %s", line, question, answer)
	}
	return nil
}
