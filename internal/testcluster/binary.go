package testcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ErrMissing is in the error of a start when the server's binary is not on this
// machine. The error says what was looked for and what installs it.
var ErrMissing = errors.New("testcluster: no such server on this machine")

// A binary is a database server that can be run.
type binary struct {
	path    string
	loader  []string // what runs path, if the kernel must not choose its loader
	baseDir string   // of its support files, if not where it was built for
	version string   // such as "10.11.14" or "9.7.4"
}

// command returns the arguments that run b, before its own.
func (b *binary) command() []string { return append(slices.Clone(b.loader), b.path) }

// binaries remembers what was found: asking a mysqld for its version takes
// longer than copying a data directory.
var binaries struct {
	mu    sync.Mutex
	found map[Family]*binary
}

// findBinary returns the server of family f.
func findBinary(ctx context.Context, f Family) (*binary, error) {
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if b := binaries.found[f]; b != nil {
		return b, nil
	}
	var (
		b   *binary
		err error
	)
	switch f {
	case MariaDB:
		b, err = findMariaDB(ctx)
	case MySQL:
		b, err = findMySQL(ctx)
	default:
		err = fmt.Errorf("testcluster: Family is %q, want %q or %q", f, MariaDB, MySQL)
	}
	if err != nil {
		return nil, err
	}
	if binaries.found == nil {
		binaries.found = make(map[Family]*binary)
	}
	binaries.found[f] = b
	return b, nil
}

func findMariaDB(ctx context.Context) (*binary, error) {
	const env = "PODWORKS_MARIADBD"
	if path := os.Getenv(env); path != "" {
		return askNamed(ctx, env, &binary{path: path}, MariaDB)
	}
	var asked []string
	for _, path := range onPath("mariadbd", "mysqld") {
		b := &binary{path: path}
		is, err := b.ask(ctx)
		if err == nil && is == MariaDB {
			return b, nil
		}
		asked = append(asked, describe(path, is, err))
	}
	return nil, missing("a MariaDB server: neither mariadbd nor a mysqld that is one is on the path", asked, "make setup", env)
}

func findMySQL(ctx context.Context) (*binary, error) {
	const env = "PODWORKS_MYSQLD"
	if path := os.Getenv(env); path != "" {
		return askNamed(ctx, env, &binary{path: path}, MySQL)
	}
	var asked []string
	for _, path := range onPath("mysqld") {
		b := &binary{path: path}
		is, err := b.ask(ctx)
		if err == nil && is == MySQL {
			return b, nil
		}
		asked = append(asked, describe(path, is, err))
	}
	newest, others := newestUnpacked(ctx)
	if newest != nil {
		return newest, nil
	}
	asked = append(asked, others...)
	return nil, missing("a MySQL server: no mysqld on the path is one, and none was unpacked", asked, "make mysql", env)
}

// newestUnpacked returns the newest of the unpacked servers that run, or nil
// and what is wrong with those there are.
func newestUnpacked(ctx context.Context) (newest *binary, asked []string) {
	for _, b := range unpacked() {
		is, err := b.ask(ctx)
		switch {
		case err != nil || is != MySQL:
			asked = append(asked, describe(b.path, is, err))
		case newest == nil || compareVersions(newest.version, b.version) < 0:
			newest = b
		}
	}
	return newest, asked
}

// unpacked returns the servers that scripts/mysql has put into the cache. They
// are newer than the system's libraries, their dynamic loader included, so that
// runs them.
func unpacked() []*binary {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil
	}
	// A name with a leading dot is a tree that is being unpacked.
	trees, _ := filepath.Glob(filepath.Join(cache, "podworks", "mysql", "[0-9]*"))
	var found []*binary
	for _, tree := range trees {
		loaders, _ := filepath.Glob(filepath.Join(tree, "usr", "lib", "*", "ld-linux-*.so.?"))
		if len(loaders) == 0 {
			continue
		}
		found = append(found, &binary{
			path:    filepath.Join(tree, "usr", "sbin", "mysqld"),
			loader:  []string{loaders[0], "--library-path", filepath.Dir(loaders[0])},
			baseDir: filepath.Join(tree, "usr"),
		})
	}
	return found
}

// askNamed checks a server that the environment variable env names.
func askNamed(ctx context.Context, env string, b *binary, want Family) (*binary, error) {
	is, err := b.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("testcluster: %s: %w", env, err)
	}
	if is != want {
		return nil, fmt.Errorf("testcluster: %s: %s is %s, want %s", env, b.path, is, want)
	}
	return b, nil
}

var versionPattern = regexp.MustCompile(`Ver (\d+\.\d+\.\d+)`)

// ask runs b for its family and version.
func (b *binary) ask(ctx context.Context) (Family, error) {
	argv := append(b.command(), "--no-defaults", "--version")
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	answer := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", b.path, err, answer)
	}
	m := versionPattern.FindStringSubmatch(answer)
	if m == nil {
		return "", fmt.Errorf("%s --version: %q, which has no version like 8.4.0", b.path, answer)
	}
	b.version = m[1]
	if strings.Contains(answer, "MariaDB") {
		return MariaDB, nil
	}
	return MySQL, nil
}

func describe(path string, is Family, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s is %s", path, is)
}

func missing(what string, asked []string, remedy, env string) error {
	if len(asked) > 0 {
		what += " (" + strings.Join(asked, "; ") + ")"
	}
	return fmt.Errorf("%w: %s: run %q, or name one in %s", ErrMissing, what, remedy, env)
}

// findTool returns the one of the programs names that env or the path has.
func findTool(env string, names ...string) (string, error) {
	if path := os.Getenv(env); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("testcluster: %s: %w", env, err)
		}
		return path, nil
	}
	if found := onPath(names...); len(found) > 0 {
		return found[0], nil
	}
	return "", missing(strings.Join(names, " or ")+" is not on the path", nil, "make setup", env)
}

// onPath returns the executables with one of the names that are on the path or
// where servers are installed: an ordinary user's path has no sbin on Debian.
func onPath(names ...string) []string {
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/usr/libexec")
	var found []string
	for _, name := range names {
		for _, dir := range dirs {
			if !filepath.IsAbs(dir) {
				continue
			}
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	return found
}

// compareVersions compares versions of numbers and dots.
func compareVersions(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		m, _ := strconv.Atoi(x)
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	})
}
