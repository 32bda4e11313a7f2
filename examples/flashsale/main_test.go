package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/podworks/podworks/internal/testcluster"
)

// conductArg makes the test binary be the whole program.
const conductArg = "conduct"

// The processes of a sale are this binary, as they are the program's own.
func TestMain(m *testing.M) {
	if name, ok := roleOf(os.Args); ok {
		os.Exit(runRole(name))
	}
	if len(os.Args) > 1 && os.Args[1] == conductArg {
		defaults = small
		os.Exit(run(os.Args[2:], os.Stdout, os.Stderr))
	}
	testcluster.AtOnce(4)
	os.Exit(testcluster.Main(m))
}

func TestBadFlagsAreExplainedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want []string // all of them in one go
	}{
		{"-family oracle", []string{`-family is "oracle", want mariadb or mysql`}},
		{"-shops 0 -rate -1 -duration 1s -buyers 0", []string{"-shops is 0", "-rate is -1", "-duration is 1s", "-buyers is 0"}},
		{"-rate NaN", []string{"-rate is NaN"}},
		{"-duration 5", []string{`invalid value "5" for flag -duration`, "-help lists the flags"}},
		{"-fast", []string{"flag provided but not defined: -fast", "-help lists the flags"}},
		{"now", []string{`"now" is not a flag`}},
	} {
		var out, errs bytes.Buffer
		if got := run(strings.Fields(c.args), &out, &errs); got != exitUsage {
			t.Errorf("%s: exit status %d, want %d", c.args, got, exitUsage)
		}
		for _, want := range c.want {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%s: stderr is %q, want %q in it", c.args, errs.String(), want)
			}
		}
		if out.Len() > 0 {
			t.Errorf("%s: stdout is %q, want nothing", c.args, out.String())
		}
	}
}

func TestHelpListsTheFlagsAndSucceeds(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if got := run([]string{"-help"}, &out, &errs); got != exitFine {
		t.Errorf("exit status %d, want %d", got, exitFine)
	}
	for _, flag := range []string{"-buyers", "-duration", "-rate", "-shops", "-family", "-seed", "-json", "-keep"} {
		if !strings.Contains(errs.String(), flag+" ") && !strings.Contains(errs.String(), flag+"\n") {
			t.Errorf("the help lacks %s:\n%s", flag, errs.String())
		}
	}
}
