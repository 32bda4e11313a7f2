package testcluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// processesIn returns the processes whose working directory is dir or below.
func processesIn(dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && runsIn(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// runsIn reports whether pid is a server that was started in dir. It has been
// started there, or was told to go there by its arguments; mysqld, for one,
// goes to its data directory. A process that has ended has no working directory.
func runsIn(pid int, dir string) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	cwd, err := os.Readlink(proc + "/cwd")
	if err != nil {
		return false
	}
	if cwd != dir && !strings.HasPrefix(cwd, dir+"/") {
		return false
	}
	// A person's shell may have its working directory here as well.
	cmdline, err := os.ReadFile(proc + "/cmdline")
	return err == nil && bytes.Contains(cmdline, []byte(filepath.Base(dir)+"/"))
}

// awaitStopped waits until the kernel has stopped every thread of the server:
// the signal is sent before that.
func (p *Process) awaitStopped() error {
	pid := p.Pid()
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return fmt.Errorf("testcluster: %s has ended%s", p.name, p.tail())
		}
		// pid (name) state …, and the name may contain anything.
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && stat[i+2] == 'T' {
			return nil
		}
	}
	return fmt.Errorf("testcluster: %s has not stopped %v after SIGSTOP", p.name, stopTimeout)
}
