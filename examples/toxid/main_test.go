package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// daemonArg makes the test binary be the program.
const daemonArg = "daemon"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == daemonArg {
		os.Args = append(os.Args[:1], os.Args[2:]...)
		main()
	}
	os.Exit(m.Run())
}

// A daemon is one that runs in the test.
type daemon struct {
	url  string // of its API
	line string // what it printed
	stop func() (status int, stderr string)
}

// start runs a daemon until stop is called, or the test ends.
func start(t *testing.T, level string, args ...string) daemon {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var stderr lockedBuffer
	r, w := io.Pipe()
	status := make(chan int, 1)
	go func() {
		s := run(ctx, args, level, w, &stderr)
		w.Close()
		status <- s
	}()
	line, _ := bufio.NewReader(r).ReadString('\n')
	go io.Copy(io.Discard, r)
	var once sync.Once
	var got int
	stop := func() (int, string) {
		cancel()
		once.Do(func() { got = <-status })
		return got, stderr.String()
	}
	t.Cleanup(func() { stop() })
	m := regexp.MustCompile(`^toxid \S+ listens on (\S+), seed -?[0-9]+\n$`).FindStringSubmatch(line)
	if m == nil {
		s, text := stop()
		t.Fatalf("toxid %v printed %q, ended with %d, and said %s", args, line, s, text)
	}
	return daemon{url: "http://" + m[1], line: line, stop: stop}
}

// lockedBuffer may be written while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("GET %s: %s %s, %v", url, res.Status, body, err)
	}
	return string(body)
}

// write writes a configuration file.
func write(t *testing.T, config string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "proxies.json")
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Not beside the others: a process that one of them starts has a copy of every
// listener until it executes its program, and so keeps them open for a moment.
func TestItServesAConfigurationWithToxicsUntilItIsTold(t *testing.T) {
	config := write(t, `[{"name":"redis","upstream":"127.0.0.1:9","toxics":[{"type":"latency","attributes":{"latency":50}}]}]`)
	d := start(t, "debug", "-port", "0", "-config", config, "-seed", "42", "-runtime-metrics", "-proxy-metrics")
	if !strings.HasSuffix(d.line, ", seed 42\n") {
		t.Errorf("it printed %q, want the seed that it was given", d.line)
	}
	if got := get(t, d.url+"/proxies/redis"); !strings.Contains(got, `"latency":50`) {
		t.Errorf("the proxy of the configuration is %s", got)
	}
	if got := get(t, d.url+"/metrics"); !strings.Contains(got, `proxy="redis"`) || !strings.Contains(got, "\ngo_goroutines ") {
		t.Errorf("the metrics are\n%s", got)
	}
	listen := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(get(t, d.url+"/proxies/redis"))
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	status, stderr := d.stop()
	if status != exitFine || !strings.Contains(stderr, "proxy created") || !strings.Contains(stderr, "shutting down") {
		t.Errorf("it ended with %d and logged\n%s", status, stderr)
	}
	if c, err := net.Dial("tcp", listen); err == nil {
		c.Close()
		t.Error("the proxy is still there")
	}
	if _, err := http.Get(d.url + "/version"); err == nil {
		t.Error("the API is still there")
	}
}

func TestASignalEndsItInOrder(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := exec.Command(os.Args[0], daemonArg, "-listen", "127.0.0.1:0")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil || !strings.Contains(line, " listens on 127.0.0.1:") {
			t.Errorf("it printed %q, %v", line, err)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v it ended with %v, want success:\n%s", signal, err, &stderr)
		}
	}
}

func TestOthersReachItOnlyIfItWasTold(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-listen :0", "-listen 0.0.0.0:0", "-listen [::]:0 -port 0"} {
		var out, errs bytes.Buffer
		status := run(t.Context(), strings.Fields(args), "", &out, &errs)
		if status != exitUsage || !strings.Contains(errs.String(), "is no loopback address") || !strings.Contains(errs.String(), "by -host") || out.Len() > 0 {
			t.Errorf("%s: exit status %d, stdout %q, stderr %q", args, status, &out, &errs)
		}
	}
	d := start(t, "", "-host", "0.0.0.0", "-port", "0")
	if _, stderr := d.stop(); !strings.Contains(stderr, "level=WARN") || !strings.Contains(stderr, "not loopback") {
		t.Errorf("on all interfaces it logged\n%s", stderr)
	}
	d = start(t, "", "-host", "localhost", "-port", "0")
	if _, stderr := d.stop(); strings.Contains(stderr, "level=WARN") {
		t.Errorf("on localhost it logged\n%s", stderr)
	}
}

func TestWhatIsWrongEndsItBeforeItServes(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	bad := write(t, `[{"name":"a","upstream":"127.0.0.1:9","toxics":[{"type":"slicer"}]}]`)
	taken := write(t, fmt.Sprintf(`[{"name":"a","upstream":"127.0.0.1:9"},{"name":"b","listen":"%s","upstream":"127.0.0.1:9"}]`, ln.Addr()))
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"-port", port}, exitFailed, "listen tcp 127.0.0.1:" + port + ": bind: address already in use"},
		{[]string{"-port", "0", "-config", "/nowhere.json"}, exitFailed, "toxid: /nowhere.json: no such file or directory"},
		{[]string{"-port", "0", "-config", bad}, exitFailed, "toxid: " + bad + ": toxiproxy: bad request body: proxy 1: toxics[0]: attributes.average_size is 0"},
		{[]string{"-port", "0", "-config", taken}, exitFailed, `proxy 2, "b": listen tcp`},
		{[]string{"-listen", "8474"}, exitUsage, `-listen is "8474", want host:port`},
		{[]string{"-seed", "x"}, exitUsage, `invalid value "x" for flag -seed`},
		{[]string{"-fast"}, exitUsage, "flag provided but not defined: -fast; -help lists the flags"},
		{[]string{"now"}, exitUsage, `"now" is not a flag`},
	} {
		var out, errs bytes.Buffer
		if status := run(t.Context(), tt.args, "", &out, &errs); status != tt.status || !strings.Contains(errs.String(), tt.want) || out.Len() > 0 {
			t.Errorf("%v: exit status %d, stdout %q, stderr %q, want status %d and %q", tt.args, status, &out, &errs, tt.status, tt.want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"-help"}, "", &out, &errs); status != exitFine {
		t.Errorf("-help: exit status %d", status)
	}
	// Those of toxiproxy-server are among them.
	for _, flag := range []string{"-listen", "-host", "-port", "-config", "-seed", "-runtime-metrics", "-proxy-metrics", "-version"} {
		if !strings.Contains(errs.String(), flag+" ") && !strings.Contains(errs.String(), flag+"\n") {
			t.Errorf("the help lacks %s:\n%s", flag, &errs)
		}
	}
	if status := run(t.Context(), []string{"-version"}, "", &out, &errs); status != exitFine || !strings.HasPrefix(out.String(), "toxid version 2.12.0") {
		t.Errorf("-version: exit status %d, %q", status, &out)
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]string{"": "iw", "debug": "diw", "trace": "diw", "WARN": "w", "error": "", "loud": "!iw"} {
		var b bytes.Buffer
		log := logger(level, &b)
		log.Debug("d")
		log.Info("i")
		log.Warn("w")
		var got strings.Builder
		for line := range strings.Lines(b.String()) {
			switch {
			case strings.Contains(line, "LOG_LEVEL=loud"):
				got.WriteString("!")
			default:
				got.WriteString(strings.TrimSpace(line[strings.LastIndex(line, "msg=")+len("msg="):]))
			}
		}
		if got.String() != want {
			t.Errorf("LOG_LEVEL=%s lets %q through, want %q", level, got.String(), want)
		}
	}
}
