package testcluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	saysMariaDB = "mysqld  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64 (Debian 12)"
	saysMySQL   = "mysqld  Ver 8.4.6 for Linux on x86_64 (MySQL Community Server - GPL)"
)

// program writes an executable that prints answer.
func program(t *testing.T, path, answer string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+answer+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAMysqldIsBelievedForItsVersionNotItsName(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	program(t, filepath.Join(first, "mysqld"), saysMariaDB)
	program(t, filepath.Join(second, "mysqld"), saysMySQL)
	t.Setenv("PATH", first+string(os.PathListSeparator)+second+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("PODWORKS_MYSQLD", "")

	b, err := findMySQL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(second, "mysqld"); b.path != want || b.version != "8.4.6" {
		t.Errorf("found %s, version %s, want %s, version 8.4.6", b.path, b.version, want)
	}
}

func TestAServerNamedInTheEnvironmentComesFirstAndMustFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server")
	program(t, path, saysMariaDB)
	t.Setenv("PODWORKS_MYSQLD", path)
	if b, err := findMySQL(t.Context()); err == nil || !strings.Contains(err.Error(), "PODWORKS_MYSQLD") {
		t.Errorf("MariaDB named as MySQL: got %v, %v, want an error that names the variable", b, err)
	}
	t.Setenv("PODWORKS_MARIADBD", path)
	if b, err := findMariaDB(t.Context()); err != nil || b.path != path {
		t.Errorf("got %v, %v, want %s", b, err, path)
	}
}

func TestTheNewestUnpackedServerRunsThroughItsOwnLoader(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	root, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"9.7.4", "9.10.0", "9.8.1"} {
		lib := filepath.Join(root, "podworks", "mysql", version+"-1", "usr", "lib", "x86_64-linux-gnu")
		program(t, filepath.Join(lib, "ld-linux-x86-64.so.2"), "mysqld  Ver "+version+"-1 for Linux on x86_64 ((Debian))")
	}
	b, asked := newestUnpacked(t.Context())
	if b == nil || b.version != "9.10.0" {
		t.Fatalf("got %+v (%q), want 9.10.0", b, asked)
	}
	got := strings.Join(b.command(), " ")
	lib := filepath.Join(root, "podworks", "mysql", "9.10.0-1", "usr", "lib", "x86_64-linux-gnu")
	want := lib + "/ld-linux-x86-64.so.2 --library-path " + lib + " " + filepath.Join(root, "podworks", "mysql", "9.10.0-1", "usr", "sbin", "mysqld")
	if got != want {
		t.Errorf("command is %s\nwant %s", got, want)
	}
}

// A fakeTB records how a test would have ended.
type fakeTB struct {
	testing.TB
	ended, message string
}

func (f *fakeTB) Helper() {}
func (f *fakeTB) Skip(args ...any) {
	f.ended, f.message = "skipped", args[0].(string)
}
func (f *fakeTB) Fatal(args ...any) {
	f.ended, f.message = "failed", args[0].(error).Error()
}

func TestAMissingServerSkipsOnALaptopAndFailsInCI(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("PODWORKS_REDIS_SERVER", "")
	_, err := findTool("PODWORKS_REDIS_SERVER", "no-such-redis-server")
	if !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v, want ErrMissing", err)
	}
	for _, c := range []struct{ ci, want string }{{"", "skipped"}, {"true", "failed"}} {
		t.Setenv("CI", c.ci)
		var f fakeTB
		check(&f, err)
		if f.ended != c.want || !strings.Contains(f.message, `"make setup"`) {
			t.Errorf("CI=%q: %s with %q, want %s and what to run", c.ci, f.ended, f.message, c.want)
		}
	}
}
