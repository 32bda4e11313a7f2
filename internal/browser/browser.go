// Package browser lets tests look at a page in a real Chromium. It speaks the
// DevTools protocol over a pipe, so it needs neither a port nor a library.
package browser

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long an answer may take on a machine that is busy.
const patience = 2 * time.Minute

// A Tab is the only tab of a browser that runs for one test. Its methods end the
// test when they fail; they are for the test's goroutine.
type Tab struct {
	t       testing.TB
	session string
	in      io.Writer

	mu       sync.Mutex
	last     int
	answers  map[int]chan answer // nil once the browser has ended
	problems []string
}

type answer struct {
	ID     int
	Method string // of an event
	Params json.RawMessage
	Result json.RawMessage
	Error  *struct{ Message string }
}

// A Screen is how a page is shown.
type Screen struct {
	Width, Height int  // in CSS pixels
	Phone         bool // has a touch screen, and obeys the page's viewport
	Dark          bool
	NoScript      bool
}

// Open starts a browser and has it open the page. A machine without one skips the
// test, and fails it where CI is set.
func Open(t testing.TB, url string, screen Screen) *Tab {
	t.Helper()
	path := find(t)
	dir, err := os.MkdirTemp("", "podworks-browser-")
	if err != nil {
		t.Fatal(err)
	}
	// Chromium reads commands from descriptor 3 and writes to 4.
	toRead, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, toWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless=new", "--remote-debugging-pipe", "--user-data-dir="+dir,
		"--no-sandbox", // which root can't have; the pages are the test's own
		"--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-breakpad", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update",
		// Else clicks and keys are dropped, and acknowledged, until a new page was
		// painted, and a page that nobody looks at is slowed down.
		"--allow-pre-commit-input", "--disable-features=PaintHolding", "--disable-renderer-backgrounding",
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "about:blank")
	cmd.ExtraFiles = []*os.File{toRead, toWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	err = cmd.Start()
	toRead.Close()
	toWrite.Close()
	if err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	b := &Tab{t: t, in: in, answers: map[int]chan answer{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.listen(out)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with its children
		_ = cmd.Wait()
		in.Close()
		out.Close()
		<-ended
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})

	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	b.call("Page.bringToFront", nil, nil)
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	b.Show(screen)
	var opened struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": url}, &opened)
	if opened.ErrorText != "" {
		t.Fatalf("opening %s: %s", url, opened.ErrorText)
	}
	b.Until(`document.readyState == "complete" && location.href != "about:blank"`)
	return b
}

func find(t testing.TB) string {
	t.Helper()
	const env = "PODWORKS_CHROMIUM"
	if path := os.Getenv(env); path != "" {
		return path
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	text := "no Chromium is on the path: run \"make setup-browser\", or name one in " + env
	if os.Getenv("CI") != "" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}

// listen hands the browser's answers over, and notes what the page complains of.
func (b *Tab) listen(out io.Reader) {
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadBytes(0)
		var a answer
		if err == nil {
			err = json.Unmarshal(line[:len(line)-1], &a)
		}
		b.mu.Lock()
		switch {
		case err != nil:
			for _, ch := range b.answers {
				close(ch)
			}
			b.answers = nil
			b.mu.Unlock()
			return
		case a.ID != 0:
			if ch := b.answers[a.ID]; ch != nil {
				delete(b.answers, a.ID)
				ch <- a
			}
		case a.Method == "Runtime.exceptionThrown", a.Method == "Log.entryAdded" && strings.Contains(string(a.Params), `"level":"error"`):
			b.problems = append(b.problems, string(a.Params))
		}
		b.mu.Unlock()
	}
}

func (b *Tab) call(method string, params map[string]any, into any) {
	b.t.Helper()
	if err := b.try(method, params, into); err != nil {
		b.t.Fatalf("browser: %s: %v", method, err)
	}
}

func (b *Tab) try(method string, params map[string]any, into any) error {
	ch := make(chan answer, 1)
	b.mu.Lock()
	if b.answers == nil {
		b.mu.Unlock()
		return errors.New("it has ended")
	}
	b.last++
	id := b.last
	b.answers[id] = ch
	b.mu.Unlock()
	command := map[string]any{"id": id, "method": method}
	if params != nil {
		command["params"] = params
	}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		return err
	}
	select {
	case a, ok := <-ch:
		switch {
		case !ok:
			return errors.New("it has ended")
		case a.Error != nil:
			return errors.New(a.Error.Message)
		case into != nil:
			return json.Unmarshal(a.Result, into)
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("no answer in %v", patience)
	}
}

// Show has the page shown in another way.
func (b *Tab) Show(s Screen) {
	b.t.Helper()
	scheme := "light"
	if s.Dark {
		scheme = "dark"
	}
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": s.Width, "height": s.Height, "deviceScaleFactor": 1, "mobile": s.Phone}, nil)
	b.call("Emulation.setTouchEmulationEnabled", map[string]any{"enabled": s.Phone}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": s.NoScript}, nil)
}

// Eval evaluates an expression in the page and stores its value, as from JSON.
func (b *Tab) Eval(expression string, into any) {
	b.t.Helper()
	if err := b.eval(expression, into); err != nil {
		b.t.Fatalf("browser: %s: %v", expression, err)
	}
}

func (b *Tab) eval(expression string, into any) error {
	var got struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	err := b.try("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &got)
	switch {
	case err != nil:
		return err
	case got.ExceptionDetails != nil:
		return errors.New(string(got.ExceptionDetails))
	case into == nil || got.Result.Value == nil:
		return nil
	}
	return json.Unmarshal(got.Result.Value, into)
}

// Until waits until an expression is true, also over the opening of other pages.
func (b *Tab) Until(expression string) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	tooLong := time.After(patience)
	for {
		var ok bool
		err := b.eval(`!!(`+expression+`)`, &ok)
		if err == nil && ok {
			return
		}
		select {
		case <-tick.C:
		case <-tooLong:
			var page string
			_ = b.eval(`document.body.innerText`, &page)
			b.t.Fatalf("browser: waited %v for %s (%v); the page says:\n%s", patience, expression, err, page)
		}
	}
}

// Press presses a key: "Tab", "Enter" or " ".
func (b *Tab) Press(key string) {
	b.t.Helper()
	k, ok := map[string]struct {
		code int
		text string
	}{"Tab": {9, ""}, "Enter": {13, "\r"}, " ": {32, " "}}[key]
	if !ok {
		b.t.Fatalf("browser: no key %q", key)
	}
	event := map[string]any{"type": "keyDown", "key": key, "windowsVirtualKeyCode": k.code}
	if k.text != "" {
		event["text"] = k.text
	}
	b.call("Input.dispatchKeyEvent", event, nil)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "windowsVirtualKeyCode": k.code}, nil)
}

// Click clicks into the middle of the element that a CSS selector finds.
func (b *Tab) Click(selector string) {
	b.t.Helper()
	quoted, _ := json.Marshal(selector)
	var at struct{ X, Y float64 }
	b.Eval(`(e => { e.scrollIntoView({block: "center"}); const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2} })(document.querySelector(`+string(quoted)+`))`, &at)
	for _, what := range []string{"mousePressed", "mouseReleased"} {
		b.call("Input.dispatchMouseEvent", map[string]any{"type": what, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// Screenshot returns what is shown, as PNG.
func (b *Tab) Screenshot() []byte {
	b.t.Helper()
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": false}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return png
}

// Problems returns what the page has complained of: exceptions, what its
// Content-Security-Policy forbade, what could not be loaded.
func (b *Tab) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.problems...)
}
