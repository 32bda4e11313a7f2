package testcluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Making a data directory takes seconds, copying one takes a tenth. So there is
// one for each version of each server in the user's cache folder, made by
// whichever process needs it first and copied by all.

// AppUser is a database user with the rights of an application: it reads,
// writes, defines tables, and, unlike root, is bound by read_only. It has no
// password either.
const AppUser = "app"

// appRights leave out what would let a user write on a read-only server.
const appRights = `SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES,
	EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER, PROCESS, RELOAD, REPLICATION CLIENT, REPLICATION SLAVE`

// templateUsers completes the users of a new data directory, one statement a
// line. Servers do not resolve names, so 127.0.0.1 is not localhost.
func templateUsers(f Family) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, strings.Join(strings.Fields(format), " ")+";\n", args...)
	}
	if f == MariaDB {
		line("FLUSH PRIVILEGES") // it initialises without rights, and then knows no users
	}
	line("CREATE USER IF NOT EXISTS root@'127.0.0.1'")
	line("GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION")
	for _, host := range []string{"localhost", "127.0.0.1"} {
		line("CREATE USER IF NOT EXISTS %s@'%s'", AppUser, host)
		line("GRANT "+appRights+" ON *.* TO %s@'%s'", AppUser, host)
	}
	return b.String()
}

// template returns a data directory to copy for servers run from b.
func template(ctx context.Context, f Family, b *binary) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("testcluster: no folder for templates: %w", err)
	}
	root := filepath.Join(cache, "podworks", "template")
	// A template made in another way has another name.
	how := templateUsers(f) + strings.Join(slices.Concat(templateArgs(f), smallArgs(f)), " ")
	path := filepath.Join(root, fmt.Sprintf("%s-%s-%.4x", f, b.version, sha256.Sum256([]byte(how))))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}

	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", fmt.Errorf("testcluster: %w", err)
	}
	unlock, err := lockFile(filepath.Join(root, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil // another process made it meanwhile
	}
	const unfinished = ".new-"
	dead, _ := filepath.Glob(filepath.Join(root, unfinished+"*"))
	for _, dir := range dead {
		os.RemoveAll(dir)
	}
	work, err := os.MkdirTemp(root, unfinished)
	if err != nil {
		return "", fmt.Errorf("testcluster: %w", err)
	}
	defer os.RemoveAll(work)
	if err := makeTemplate(ctx, f, b, work); err != nil {
		return "", fmt.Errorf("testcluster: making a data directory for %s %s: %w", f, b.version, err)
	}
	if err := os.Rename(filepath.Join(work, "data"), path); err != nil {
		return "", fmt.Errorf("testcluster: %w", err)
	}
	return path, nil
}

// templateArgs are the arguments of initialising, apart from paths.
func templateArgs(f Family) []string {
	if f == MySQL {
		// A log that has to be emptied on the way costs two seconds.
		return []string{"--initialize-insecure", "--innodb-redo-log-capacity=32M"}
	}
	return []string{"--auth-root-authentication-method=normal", "--skip-test-db"}
}

// makeTemplate makes a data directory in work/data.
func makeTemplate(ctx context.Context, f Family, b *binary, work string) error {
	data, users := filepath.Join(work, "data"), filepath.Join(work, "users.sql")
	if err := os.WriteFile(users, []byte(templateUsers(f)), 0o600); err != nil {
		return err
	}
	var argv []string
	switch f {
	case MySQL:
		argv = slices.Concat(b.command(), []string{"--no-defaults", "--datadir=" + data, "--init-file=" + users}, b.base())
	case MariaDB:
		script, err := installScript(b)
		if err != nil {
			return err
		}
		argv = []string{script, "--no-defaults", "--datadir=" + data, "--extra-file=" + users}
	}
	argv = slices.Concat(argv, smallArgs(f), templateArgs(f), asUser())

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "TMPDIR="+work, "LC_ALL=C")
	// MariaDB's is a script, and what it runs has to end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, bytes.TrimSpace(out))
	}
	// Copies must not share an identity, and need not share what a server makes
	// again by itself.
	for _, pattern := range []string{"auto.cnf", "*.pem", "#innodb_temp", "ib_buffer_pool", "binlog.*"} {
		names, _ := filepath.Glob(filepath.Join(data, pattern))
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// installScript finds the program that initialises for the MariaDB server b.
func installScript(b *binary) (string, error) {
	const name = "mariadb-install-db"
	path, err := filepath.EvalSymlinks(b.path)
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(path)
	for _, near := range []string{".", "../bin", "../scripts"} {
		if found, err := exec.LookPath(filepath.Join(dir, near, name)); err == nil {
			return found, nil
		}
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; it comes with the server %s", err, b.path)
	}
	return found, nil
}

// base returns the arguments that tell b where its support files are.
func (b *binary) base() []string {
	if b.baseDir == "" {
		return nil
	}
	return []string{"--basedir=" + b.baseDir, "--plugin-dir=" + filepath.Join(b.baseDir, "lib", "mysql", "plugin")}
}

// asUser returns the argument without which the servers refuse to run as root.
func asUser() []string {
	if os.Getuid() != 0 {
		return nil
	}
	return []string{"--user=root"}
}

// copyTree copies the directory from to the new directory to.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.Mkdir(target, 0o700)
		}
		return copyFile(path, target)
	})
}

// copyFile copies a file and leaves holes where it is zero. Most of a new
// database's files is, and what is not written need not be read back.
func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()

	buf := make([]byte, 64<<10)
	var size int64
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 && bytes.Count(buf[:n], []byte{0}) < n {
			if _, err := dst.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return dst.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}
