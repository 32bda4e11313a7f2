package testcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// A folder is the private directory of one server. It holds
//
//	owner  locked by the process that started the server, for as long as it
//	       lives; what it says (the owner's pid) is only for people who look
//	pid    the server's process id
//	log    what the server prints
//
// and the server's socket and data. The lock tells the sweep whether the
// directory was left behind: the kernel drops it with the process, however that
// ends, which a pid in a file cannot say (pids are reused, and are different
// ones in a container).
type folder struct {
	path  string
	owner *os.File
}

// swept makes sure that a process sweeps once: what is left behind later is for
// later processes.
var swept sync.Once

// newFolder creates a directory whose name begins with prefix.
func newFolder(prefix string) (*folder, error) {
	base, err := baseDir()
	if err != nil {
		return nil, err
	}
	swept.Do(func() { err = sweep(base) })
	if err != nil {
		return nil, err
	}

	// Without this lock a sweep could meet the directory before its owner is
	// locked, and take it for left behind.
	unlock, err := lockFile(filepath.Join(base, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	path, err := os.MkdirTemp(base, prefix)
	if err != nil {
		return nil, fmt.Errorf("testcluster: %w", err)
	}
	f := &folder{path: path}
	f.owner, err = os.OpenFile(filepath.Join(path, "owner"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.owner.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		_, err = fmt.Fprintln(f.owner, os.Getpid())
	}
	if err != nil {
		f.remove()
		return nil, fmt.Errorf("testcluster: %w", err)
	}
	return f, nil
}

// socket returns the path of a unix socket in f.
func (f *folder) socket() (string, error) {
	// sun_path holds 108 bytes on Linux and 104 on others, with a final zero.
	const limit = 103
	path := filepath.Join(f.path, "sock")
	if len(path) > limit {
		return "", fmt.Errorf("testcluster: %s: %d bytes are too long for a unix socket, which may have %d: set TMPDIR to a shorter directory",
			path, len(path), limit)
	}
	return path, nil
}

// remove deletes the directory.
func (f *folder) remove() error {
	// The sweep of another process may look while this goes on. It must find
	// the owner locked: owner goes with the rest, and is closed after that.
	err := os.RemoveAll(f.path)
	if f.owner != nil {
		f.owner.Close()
	}
	return err
}

// baseDir returns the directory of all folders of this user, made if need be.
func baseDir() (string, error) {
	temp, err := filepath.EvalSymlinks(os.TempDir())
	if err == nil {
		// What the kernel says of a process's working directory has no links.
		temp, err = filepath.Abs(temp)
	}
	if err != nil {
		return "", fmt.Errorf("testcluster: %w", err)
	}
	base := filepath.Join(temp, "podworks-"+strconv.Itoa(os.Getuid()))
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("testcluster: %w", err)
	}
	info, err := os.Lstat(base)
	if err != nil {
		return "", fmt.Errorf("testcluster: %w", err)
	}
	// The name is easy to guess, and servers without a password live here.
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || int(owner) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("testcluster: %s is %v of user %d, want a directory that only user %d can enter: remove it, or set TMPDIR to another directory",
			base, info.Mode(), owner, os.Getuid())
	}
	return base, nil
}

// sweep removes what dead processes have left in base: their servers and the
// directories of these.
func sweep(base string) error {
	unlock, err := lockFile(filepath.Join(base, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("testcluster: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(base, e.Name())
		owner, err := os.OpenFile(filepath.Join(path, "owner"), os.O_RDWR, 0)
		if err != nil {
			// Either a process is removing this one, or was killed while it
			// made it or removed it. The first will be done in a moment.
			if errors.Is(err, fs.ErrNotExist) {
				os.RemoveAll(path)
			}
			continue
		}
		if syscall.Flock(int(owner.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			if killServer(path) {
				os.RemoveAll(path)
			}
		}
		owner.Close()
	}
	return nil
}

// killServer kills the server that runs in the directory path, and waits for
// its end. It reports false if there may be one that it could not end.
func killServer(path string) bool {
	b, err := os.ReadFile(filepath.Join(path, "pid"))
	if errors.Is(err, fs.ErrNotExist) {
		b = nil
	} else if err != nil {
		return false
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	// The owner may have died between starting the server and noting its pid.
	for _, pid := range append(processesIn(path), pid) {
		if pid <= 1 {
			continue
		}
		// On Linux this is a handle, not a number: the process that is looked
		// at next is the one that is signalled after.
		process, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		if runsIn(pid, path) {
			_ = process.Kill()
			if !awaitGone(process, pid, path) {
				return false
			}
		}
		_ = process.Release()
	}
	return true
}

// lockFile waits for the lock on the file at path, which it makes if need be.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("testcluster: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("testcluster: locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
