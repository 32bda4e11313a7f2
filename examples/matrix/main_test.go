package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// report is a file of one cell.
func report(t *testing.T, dir, section, state string) string {
	t.Helper()
	name := filepath.Join(dir, section+".json")
	text := `{"name": "` + section + `", "sections": [{"section": "` + section + `"}], "faults": [{"dependency": "redis", "fault": "down"}],
		"cells": [{"section": "` + section + `", "dependency": "redis", "fault": "down", "state": "` + state + `", "expected": "up", "got": "up"}]}`
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestJoin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, bad := report(t, dir, "cart", "passed"), report(t, dir, "checkout", "untested")
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name           string
		args           []string
		want           int
		stdout, stderr string
	}{
		{"green", []string{good}, exitGreen, "| cart |", ""},
		{"red", []string{good, bad}, exitRed, "| checkout |", "checkout with redis down: untested"},
		{"no report", nil, exitUsage, "", "there is no report to join"},
		{"not there", []string{filepath.Join(dir, "none.json")}, exitUsage, "", "no such file"},
		{"no report in it", []string{broken}, exitUsage, "", "it has no cells"},
		{"a wrong flag", []string{"-x"}, exitUsage, "", "-x"},
		{"help", []string{"-h"}, exitGreen, "", "usage: matrix"},
		{"nowhere to write", []string{"-o", filepath.Join(dir, "none", "a.html"), good}, exitUsage, "", "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr strings.Builder
			if got := run(tt.args, &stdout, &stderr); got != tt.want {
				t.Errorf("exit status %d, want %d", got, tt.want)
			}
			if !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stdout:\n%s\nstderr:\n%s\nwant %q and %q", &stdout, &stderr, tt.stdout, tt.stderr)
			}
		})
	}
}

func TestFilesAreWrittenAndJoinAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := func(name string) string { return filepath.Join(dir, "out."+name) }
	var stdout, stderr strings.Builder
	args := []string{"-o", out("html"), "-svg", out("svg"), "-json", out("json"), report(t, dir, "cart", "passed"), report(t, dir, "checkout", "passed")}
	if got := run(args, &stdout, &stderr); got != exitGreen {
		t.Fatalf("exit status %d:\n%s", got, &stderr)
	}
	for name, want := range map[string]string{"html": "<!doctype html>", "svg": "<svg ", "json": `"name": "cart + checkout"`} {
		if data, err := os.ReadFile(out(name)); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %q: %v", out(name), want, err)
		}
	}
	var again strings.Builder
	if got := run([]string{out("json")}, &again, &stderr); got != exitGreen || again.String() != stdout.String() {
		t.Errorf("exit status %d, and:\n%s\nwant again:\n%s", got, &again, &stdout)
	}
}
