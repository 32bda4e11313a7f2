package testcluster

import (
	"os"
	"syscall"
	"time"
)

// awaitGone waits until the killed process pid no longer runs in dir. It is not
// our child, so there is nothing to wait on.
func awaitGone(process *os.Process, pid int, dir string) bool {
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if process.Signal(syscall.Signal(0)) != nil || !runsIn(pid, dir) {
			return true
		}
	}
	return false
}
