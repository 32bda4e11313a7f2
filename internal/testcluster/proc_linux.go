package testcluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// awaitStopped waits until the kernel has stopped every thread of the server,
// which is a little after it was told to. It looks again and again: the event
// would come from wait, which os/exec has for itself.
func (p *Process) awaitStopped() error {
	tasks := fmt.Sprintf("/proc/%d/task", p.Pid())
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		threads, err := os.ReadDir(tasks)
		if err != nil {
			return fmt.Errorf("testcluster: %s has ended%s", p.name, p.tail())
		}
		if !slices.ContainsFunc(threads, func(e os.DirEntry) bool { return runs(filepath.Join(tasks, e.Name())) }) {
			return nil
		}
	}
	return fmt.Errorf("testcluster: %s has not stopped %v after SIGSTOP", p.name, stopTimeout)
}

// runs reports whether a thread is neither stopped nor gone.
func runs(task string) bool {
	stat, err := os.ReadFile(task + "/stat")
	if err != nil {
		return false
	}
	// "tid (name) state …", and the name may contain anything.
	_, state, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	return !strings.HasPrefix(state, "T")
}
