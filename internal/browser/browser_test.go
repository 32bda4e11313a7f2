package browser_test

import (
	"bytes"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/podworks/podworks/internal/browser"
	"github.com/podworks/podworks/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run(), "internal/browser.")) }

func TestAPageIsSeenUsedAndComplainsAloud(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "script-src 'none'")
		_, _ = io.WriteString(w, `<!doctype html><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<form><button name="b" value="1">go</button></form><p>`+r.URL.RawQuery+`</p><script>0</script>`)
	}))
	t.Cleanup(server.Close)
	tab := browser.Open(t, server.URL, browser.Screen{Width: 400, Height: 300, Phone: true, Dark: true})
	var got struct {
		Width int
		Dark  bool
	}
	tab.Eval(`({width: innerWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches})`, &got)
	if got.Width != 400 || !got.Dark {
		t.Errorf("got %+v, want a dark page 400 wide", got)
	}
	if n := len(tab.Problems()); n != 1 {
		t.Errorf("it complained of %d things, want 1: the script that is forbidden: %q", n, tab.Problems())
	}
	tab.Press("Tab")
	tab.Press("Enter")
	tab.Until(`document.querySelector("p").textContent == "b=1"`)
	tab.Eval(`document.querySelector("button").value = 2`, nil)
	tab.Click("button")
	tab.Until(`document.readyState == "complete" && document.querySelector("p").textContent == "b=2"`)
	shot, err := png.Decode(bytes.NewReader(tab.Screenshot()))
	if err != nil || shot.Bounds().Dx() != 400 {
		t.Errorf("got a picture %v, %v, want one 400 wide", shot.Bounds(), err)
	}
}
