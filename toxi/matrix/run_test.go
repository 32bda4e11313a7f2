package matrix_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// A matrix that is to fail can't be a subtest of a test that is to pass. So such
// tests run this binary again, as TestCase with the matrix that this variable
// names.
const caseVariable = "PODWORKS_MATRIX_CASE"

// cases are the matrices that other processes run.
var cases = map[string]func(*shop) matrix.Matrix{
	"fine": fine,
	"worse": func(s *shop) matrix.Matrix {
		m := fine(s)
		m.Sections[1].Probe = s.probe(map[string]func(context.Context) matrix.Seen{"redis/down": says(matrix.Down("503"), 0)})
		return m
	},
	"no probe": func(s *shop) matrix.Matrix {
		m := fine(s)
		m.Sections[0].Probe = nil
		return m
	},
	"not declared": func(s *shop) matrix.Matrix {
		m := fine(s)
		m.Expect = "redis/down \n storefront up"
		return m
	},
	"changed": func(s *shop) matrix.Matrix {
		m := fine(s)
		m.Sections[1].Probe = s.probe(map[string]func(context.Context) matrix.Seen{"redis/down": says(matrix.Down("503"), 0)})
		m.Expect = strings.Replace(m.Expect, "degraded", "down    ", 1)
		return m
	},
	"no table": func(s *shop) matrix.Matrix {
		m := fine(s)
		m.Expect = ""
		return m
	},
	"a probe panics": func(s *shop) matrix.Matrix {
		m := fine(s)
		m.Sections[0].Probe = s.probe(map[string]func(context.Context) matrix.Seen{"redis/slow": func(context.Context) matrix.Seen { panic("nil cart") }})
		return m
	},
}

// fine is a matrix in which all is as declared.
func fine(s *shop) matrix.Matrix {
	return matrix.Matrix{
		Name: "shop",
		Sections: []matrix.Section{
			{Name: "storefront", Owner: "web", Runbook: "https://example.com/storefront", Probe: s.probe(nil)},
			{Name: "checkout", Owner: "payments", Runbook: "https://example.com/checkout", Probe: s.probe(
				map[string]func(context.Context) matrix.Seen{"redis/down": says(matrix.Degraded("no cart"), 0)})},
		},
		Dependencies: []matrix.Dependency{
			{Name: "redis", Faults: []matrix.Fault{{Name: "down", Inject: s.inject("redis/down")}, {Name: "slow", Inject: s.inject("redis/slow")}}},
			{Name: "mysql", Faults: []matrix.Fault{{Name: "slow", Inject: s.inject("mysql/slow")}}},
		},
		Expect: `
			            redis/down   redis/slow   mysql/slow
			storefront  up           up           up
			checkout    degraded     up           up
		`,
		Recover: 50 * time.Millisecond,
		Golden:  "RESILIENCY.md",
	}
}

func TestCase(t *testing.T) {
	of, ok := cases[os.Getenv(caseVariable)]
	if !ok {
		t.Skip("other tests run it in processes of their own")
	}
	s := &shop{}
	matrix.Run(t, of(s))
	if s.has() != "" || s.heals != s.injects {
		t.Errorf("%d faults were healed of %d", s.heals, s.injects)
	}
	t.Logf("%d faults were injected", s.injects)
}

// inProcess runs a case in a folder, which a package's tests run in, and returns
// what it printed.
func inProcess(t *testing.T, dir, name, run string, env ...string) (ok bool, out string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.run="+run)
	cmd.Dir = dir
	// With the race detector a process sleeps for a second at its end by default.
	cmd.Env = append(os.Environ(), caseVariable+"="+name, "MATRIX_DIR=", "MATRIX_UPDATE=", "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil, string(text)
}

func TestRedCellsAreRedSubtests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		want []string
	}{
		{"worse", []string{
			"--- FAIL: TestCase/redis/down/checkout",
			"--- PASS: TestCase/redis/down/storefront",
			`checkout with redis down: declared degraded, got down ("503" after `,
			"worse than declared. Fix checkout, or declare what is true.",
			"RESILIENCY.md was neither compared nor written: it says what was proven, and cells are red",
		}},
		{"no probe", []string{
			"--- FAIL: TestCase/redis/down/storefront",
			"--- FAIL: TestCase/mysql/slow/storefront",
			"--- PASS: TestCase/redis/down/checkout",
			"storefront with mysql slow: declared up, and untested: section storefront has no Probe.",
		}},
		{"not declared", []string{
			"--- FAIL: TestCase/redis/down/checkout",
			"--- FAIL: TestCase/mysql/slow/storefront",
			"--- PASS: TestCase/redis/down/storefront",
			"What was seen, as a table for Expect:\n",
			"            redis/down   redis/slow\n",
			"checkout     degraded     up\n",
		}},
		{"a probe panics", []string{
			"--- FAIL: TestCase/redis/slow/storefront",
			"--- PASS: TestCase/mysql/slow/storefront",
			"storefront with redis slow: got nothing: the probe panicked: nil cart.",
			"run_test.go:", // of the stack
		}},
		{"no table", []string{"Expect is empty", "0 faults were injected"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ok, out := inProcess(t, t.TempDir(), tt.name, "^TestCase$")
			if ok {
				t.Error("the test passed")
			}
			if tt.name == "no table" {
				tt.want = tt.want[:1] // it ended before the count
				if strings.Contains(out, "=== RUN   TestCase/") {
					t.Error("something was run")
				}
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("it lacks %q", want)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

func TestOnlyTheCellsThatWereChosenRun(t *testing.T) {
	t.Parallel()
	dir, results := t.TempDir(), t.TempDir()
	ok, out := inProcess(t, dir, "fine", "^TestCase$/^redis$/^down$/^checkout$", "MATRIX_UPDATE=1", "MATRIX_DIR="+results)
	if !ok || !strings.Contains(out, "1 faults were injected") || !strings.Contains(out, "--- PASS: TestCase/redis/down/checkout") || strings.Contains(out, "storefront") {
		t.Errorf("want one cell to be run:\n%s", out)
	}
	if want := "RESILIENCY.md was neither compared nor written: 5 cells not run"; !strings.Contains(out, want) {
		t.Errorf("it lacks %q:\n%s", want, out)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("it wrote %v", left)
	}
	r := read(t, filepath.Join(results, "shop.json"))
	for _, c := range r.Cells {
		want := matrix.StateNotRun
		if c.Section == "checkout" && c.Dependency == "redis" && c.Fault == "down" {
			want = matrix.StatePassed
		}
		if c.State != want {
			t.Errorf("%s is %v, want %v", c.Test, c.State, want)
		}
	}
}

func read(t *testing.T, file string) *matrix.Report {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := matrix.ReadReport(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The golden files are missing, written, equal, and then not what was tested.
func TestTheGoldenFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	steps := []struct {
		name, env string
		ok        bool
		want      string
	}{
		{"fine", "", false, "RESILIENCY.md does not exist. To make it so, run\n"},
		{"fine", "MATRIX_UPDATE=1", true, "written, please commit: RESILIENCY.md, RESILIENCY.svg"},
		{"fine", "", true, ""},
		{"changed", "", false, "RESILIENCY.md is not what was tested:"},
		{"worse", "MATRIX_UPDATE=1", false, "neither compared nor written"},
		{"fine", "", true, ""},
		{"changed", "MATRIX_UPDATE=1", true, "written, please commit: RESILIENCY.md, RESILIENCY.svg"},
		{"changed", "", true, ""},
		{"fine", "MATRIX_UPDATE=please", false, `MATRIX_UPDATE is "please", want 1 to write the golden files, or nothing to compare with them`},
	}
	for i, step := range steps {
		ok, out := inProcess(t, dir, step.name, "^TestCase$", strings.Fields(step.env)...)
		if ok != step.ok || !strings.Contains(out, step.want) {
			t.Errorf("step %d (%s): passed %t, want %t and %q:\n%s", i, step.name, ok, step.ok, step.want, out)
		}
		if step.want == steps[3].want {
			for _, want := range []string{
				"says: | checkout | payments | [runbook](https://example.com/checkout) | ◐ degraded | ● up | ● up |",
				"was tested: | checkout | payments | [runbook](https://example.com/checkout) | ○ down | ● up | ● up |",
				"MATRIX_UPDATE=1 go test -count=1 -run '^TestCase$' github.com/podworks/podworks/toxi/matrix",
				"and commit RESILIENCY.md and RESILIENCY.svg.",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("it lacks %q:\n%s", want, out)
				}
			}
		}
	}
	md, err := os.ReadFile(filepath.Join(dir, "RESILIENCY.md"))
	if err != nil || !strings.Contains(string(md), "](RESILIENCY.svg)") {
		t.Errorf("the document shows no picture (%v):\n%s", err, md)
	}
	// git may have been told to check out carriage returns.
	if err := os.WriteFile(filepath.Join(dir, "RESILIENCY.md"), []byte(strings.ReplaceAll(string(md), "\n", "\r\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	if ok, out := inProcess(t, dir, "changed", "^TestCase$"); !ok {
		t.Errorf("with carriage returns:\n%s", out)
	}
}

func TestResultsAndWhatHasChanged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "folder")
	run := func(name, run string) *matrix.Report {
		t.Helper()
		_, out := inProcess(t, t.TempDir(), name, run, "MATRIX_DIR="+dir)
		for _, ext := range []string{"json", "html", "md", "svg"} {
			if data, err := os.ReadFile(filepath.Join(dir, "shop."+ext)); err != nil || len(data) == 0 {
				t.Fatalf("%v; the test said:\n%s", err, out)
			}
		}
		return read(t, filepath.Join(dir, "shop.json"))
	}
	if c := run("fine", "^TestCase$").Cell("checkout", "redis", "down"); c.Change != "" || c.Was != nil || c.Test != "TestCase/redis/down/checkout" || c.Took <= 0 || c.UpAgain <= 0 {
		t.Errorf("the first run: %+v; want it measured, and nothing to compare with", c)
	}
	if c := run("worse", "^TestCase$").Cell("checkout", "redis", "down"); c.Change != "broken" || c.Was.Got != matrix.OutcomeDegraded {
		t.Errorf("changed: %q, was %+v; want broken, was degraded", c.Change, c.Was)
	}
	if c := run("fine", "^TestCase$/mysql").Cell("checkout", "redis", "down"); c.Change != "" || c.State != matrix.StateNotRun || c.Was == nil {
		t.Errorf("changed: %q, was %+v; want to remember the last result", c.Change, c.Was)
	}
	if c := run("fine", "^TestCase$").Cell("checkout", "redis", "down"); c.Change != "fixed" || c.Was.Got != matrix.OutcomeDown {
		t.Errorf("changed: %q, was %+v; want fixed, was down", c.Change, c.Was)
	}
	if c := run("changed", "^TestCase$").Cell("checkout", "redis", "down"); c.Change != "changed" || c.Was.Got != matrix.OutcomeDegraded {
		t.Errorf("changed: %q, was %+v; want changed, was degraded", c.Change, c.Was)
	}
	// A cell that was there, and one that was not.
	file := filepath.Join(dir, "shop.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(data), `"mysql"`, `"kafka"`)), 0o644); err != nil {
		t.Fatal(err)
	}
	r := run("changed", "^TestCase$")
	if c := r.Cell("checkout", "mysql", "slow"); c.Change != "new" {
		t.Errorf("changed: %q, want new", c.Change)
	}
	if len(r.Gone) != 2 || r.Gone[0] != "storefront with kafka slow" {
		t.Errorf("gone: %q, want both cells of kafka", r.Gone)
	}
}

func TestAFolderThatWouldMixThingsUpIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := green()
	f, err := os.Create(filepath.Join(dir, "shop.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.WriteJSON(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, dir, want string }{
		{"a relative path", "out", `MATRIX_DIR is "out", want an absolute path, such as "$PWD/out"`},
		{"another test's report", dir, "shop.json is of TestMatrix in example.com/shop, and not of TestCase in github.com/podworks/podworks/toxi/matrix: give each matrix a Name of its own"},
	}
	for _, tt := range tests {
		ok, out := inProcess(t, t.TempDir(), "fine", "^TestCase$", "MATRIX_DIR="+tt.dir)
		if ok || !strings.Contains(out, tt.want) || strings.Contains(out, "=== RUN   TestCase/") {
			t.Errorf("%s: passed %t; want it refused with %q before anything is run:\n%s", tt.name, ok, tt.want, out)
		}
	}
}

// A storefront and its cache, each a real server; the cache is cut off, and hangs.
func TestOnRealServers(t *testing.T) {
	t.Setenv("MATRIX_DIR", "") // t.Setenv and subtests that wait for each other go together
	t.Setenv("MATRIX_UPDATE", "")
	var refuse, hang atomic.Bool
	cache := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, "12 tulips")
	}))
	defer cache.Close()
	client := &http.Client{Timeout: 100 * time.Millisecond, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if refuse.Load() {
				return nil, errors.New("connection refused")
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	get := func(ctx context.Context, c *http.Client, url string) (int, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, "", err
		}
		res, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, string(body), err
	}
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, stock, err := get(r.Context(), client, cache.URL)
		switch {
		case err == nil:
			fmt.Fprint(w, "Tulips, ", stock)
		case r.URL.Path == "/checkout":
			http.Error(w, "try again", http.StatusServiceUnavailable)
		default:
			fmt.Fprint(w, "Tulips")
		}
	}))
	defer store.Close()
	probe := func(path string) func(context.Context) matrix.Seen {
		return func(ctx context.Context) matrix.Seen {
			status, body, err := get(ctx, store.Client(), store.URL+path)
			switch {
			case err != nil:
				return matrix.Down(err.Error())
			case status != http.StatusOK:
				return matrix.Down(http.StatusText(status))
			case body == "Tulips":
				return matrix.Degraded("no stock shown")
			}
			return matrix.Up(body)
		}
	}
	inject := func(fault *atomic.Bool) func(context.Context) (func(context.Context) error, error) {
		return func(context.Context) (func(context.Context) error, error) {
			fault.Store(true)
			return func(context.Context) error { fault.Store(false); return nil }, nil
		}
	}
	matrix.Run(t, matrix.Matrix{
		Name: "tulips",
		Sections: []matrix.Section{
			{Name: "storefront", Owner: "web", Runbook: "storefront.md", Probe: probe("/")},
			{Name: "checkout", Owner: "payments", Runbook: "checkout.md", Probe: probe("/checkout")},
		},
		Dependencies: []matrix.Dependency{{Name: "cache", Faults: []matrix.Fault{
			{Name: "down", Inject: inject(&refuse)}, {Name: "hung", Inject: inject(&hang)},
		}}},
		Expect: `
			            cache/down   cache/hung
			storefront  degraded     degraded
			checkout    down         down
		`,
	})
}

// The JSON is for others too: these are the names that they read.
func TestTheNamesOfTheJSON(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := sample().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var r struct {
		Sections []struct{ Section, Owner, Runbook string }
		Faults   []struct{ Dependency, Fault string }
		Cells    []struct{ Section, Dependency, Fault, State, Expected, Got, Test string }
	}
	if err := json.Unmarshal([]byte(b.String()), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Sections) != 2 || len(r.Faults) != 3 || len(r.Cells) != 5 || r.Cells[1].State != "failed" || r.Cells[1].Got != "hung" {
		t.Errorf("got %+v", r)
	}
}
