package watch

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/browser"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

var (
	desk  = browser.Screen{Width: 1100, Height: 900}
	phone = browser.Screen{Width: 360, Height: 740, Phone: true, Dark: true}
)

// open serves the page to a browser.
func open(t *testing.T, m moves, screen browser.Screen) *browser.Tab {
	t.Helper()
	h, err := newHandler(m, func(*http.Request) (string, error) { return "Ada", nil }, &Options{
		Back: func(context.Context, podworks.ShopID, podworks.PodID) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ops/", http.StripPrefix("/ops", h))
	s := httptest.NewServer(mux)
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(func() { go s.Close() }) // the browser, which ends first, may hold a connection
	return browser.Open(t, s.URL+"/ops/moves", screen)
}

// picture keeps what is shown in the folder that the variable names, for people.
func picture(t *testing.T, tab *browser.Tab, name string) {
	t.Helper()
	if dir := os.Getenv("PODWORKS_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), tab.Screenshot(), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// says waits until an element's text has that in it.
func says(tab *browser.Tab, id, text string) {
	tab.Until(fmt.Sprintf(`document.readyState == "complete" && document.getElementById(%q)?.textContent.includes(%q)`, id, text))
}

func quiet(t *testing.T, tab *browser.Tab) {
	t.Helper()
	for _, p := range tab.Problems() {
		t.Errorf("the page complained: %s", p)
	}
}

// A shop is moved, throttled; an operator watches, pauses, resumes, and undoes it.
func TestAnOperatorWatchesAndSteersAMove(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		ctx := t.Context()
		server := testcluster.Server(t, f)
		dbs := make([]*sql.DB, 3)
		pods := map[podworks.PodID]*mysql.Config{}
		for i := range dbs {
			cfg := server.Config(testcluster.Database(t, server))
			c, err := mysql.NewConnector(cfg)
			if err != nil {
				t.Fatal(err)
			}
			dbs[i] = sql.OpenDB(c)
			t.Cleanup(func() { dbs[i].Close() })
			if i > 0 {
				pods[podworks.PodID(i)] = cfg
			}
		}
		master, source, target := dbs[0], dbs[1], dbs[2]
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, db := range dbs[1:] {
			_, err := db.ExecContext(ctx, `CREATE TABLE orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (shop_id, id))`)
			check(err)
		}
		var values strings.Builder
		const rows = 4000
		for i := range rows {
			fmt.Fprintf(&values, ",(7,%d)", i)
		}
		_, err := source.ExecContext(ctx, `INSERT INTO orders VALUES `+values.String()[1:])
		check(err)
		dir := ferry.NewTables(master)
		check(dir.Migrate(ctx))
		for pod := range pods {
			check(dir.AddPod(ctx, pod, "here"))
		}
		th := new(ferry.Throttle)
		check(th.Set(ferry.Limits{RowsPerSecond: 200}))
		fy, err := ferry.New(dir, pods, &ferry.Options{ChunkRows: 50, Throttle: th})
		check(err)
		check(fy.Migrate(ctx))
		_, err = dir.AddShop(ctx, 7, 1)
		check(err)
		check(fence.Create(ctx, source, 7))

		tab := open(t, fy, desk)
		tab.Until(`document.querySelector("main").textContent.includes("moves no shop")`)
		ended := make(chan error, 1)
		moving, cancel := context.WithCancel(ctx)
		t.Cleanup(cancel)
		go func() {
			_, err := fy.Move(moving, 7, 2)
			ended <- err
		}()
		tab.Until(`document.querySelector("section h2")?.textContent.includes("Shop 7")`) // without being loaded again
		token := fy.Moves()[0].Token
		at := func(name string) string { return fmt.Sprintf("%s-%d", name, token) }
		says(tab, at("state"), "Copying")
		bar := fmt.Sprintf(`document.getElementById(%q).value`, at("bar"))
		var before float64
		tab.Eval(bar, &before)
		tab.Until(fmt.Sprintf("%s > %f", bar, before))
		tab.Until(`document.querySelectorAll(".rate polyline")[0].points.numberOfItems > 2`)
		says(tab, at("facts"), "rows/s")
		picture(t, tab, "copying-"+string(f))

		tab.Click("#" + at("pause"))
		says(tab, at("state"), "Paused")
		if p := fy.Moves()[0]; !p.Paused {
			t.Errorf("got %+v, want a paused move", p)
		}
		says(tab, at("pause"), "Resume")
		// With the keyboard, whose focus has stayed on the button that was clicked.
		tab.Press("Enter")
		says(tab, at("state"), "Copying")
		if p := fy.Moves()[0]; p.Paused {
			t.Errorf("got %+v, want a move that goes on", p)
		}
		tab.Press("Tab")
		tab.Until(fmt.Sprintf(`document.activeElement.id == %q`, at("undo")))
		tab.Press("Enter")
		tab.Press("Tab")
		tab.Until(fmt.Sprintf(`document.activeElement.id == %q`, at("really")))
		picture(t, tab, "undo-"+string(f))
		tab.Press(" ")
		if err := <-ended; !errors.Is(err, ferry.ErrCancelled) {
			t.Errorf("got %v, want %v", err, ferry.ErrCancelled)
		}
		says(tab, "news", "the move is over")
		tab.Until(`document.querySelector("main").textContent.includes("moves no shop")`)
		var n int
		check(target.QueryRowContext(ctx, `SELECT COUNT(*) FROM orders`).Scan(&n))
		if n != 0 {
			t.Errorf("%d rows are left on the target, want none", n)
		}
		quiet(t, tab)
	})
}

// gallery is a page with a move of every kind.
func gallery() *script {
	paused, waiting, long, made, kept := copying(), copying(), copying(), copying(), copying()
	now := time.Now()
	var history []ferry.Sample
	for i := range 300 {
		history = append(history, ferry.Sample{At: now.Add(time.Duration(i-300) * time.Second),
			Rate: 20_000 + 4000*float64(i%23)/23 - 3000*float64(i%7)/7, Lag: time.Duration(5+i%17) * time.Millisecond})
	}
	first := copying()
	first.History = history
	paused.Shop, paused.Token, paused.Paused, paused.Held, paused.History = 8, 13, true, "paused", history[:150]
	waiting.Shop, waiting.Token, waiting.Held = 9, 14, "the target's replicas are 2.8s behind, MaxLag is 2s"
	long.Shop, long.Token, long.Step, long.Table, long.RowsCompared = 1<<62, 1<<63, "verify", strings.Repeat("a_long_name_of_a_table", 3), 400_000
	made.Shop, made.Token, made.Step, made.RowsCompared = 10, 15, "prove", 1_500_000
	kept.Shop, kept.Token, kept.Step, kept.From, kept.To, kept.Paused = 11, 16, standby, 2, 1, true
	return &script{moves: []ferry.Progress{first, paused, waiting, long, made, kept}}
}

func TestThePageFitsEveryScreen(t *testing.T) {
	t.Parallel()
	tab := open(t, gallery(), desk)
	for _, screen := range []browser.Screen{desk, phone, {Width: 320, Height: 600, Phone: true}, {Width: 1100, Height: 900, Dark: true}} {
		tab.Show(screen)
		tab.Until(fmt.Sprintf(`innerWidth == %d`, screen.Width))
		var wide struct {
			Page  int
			Small []string
		}
		tab.Eval(`({page: document.documentElement.scrollWidth,
			small: [...document.querySelectorAll("button, summary")].filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 44).map(e => e.id)})`, &wide)
		if wide.Page > screen.Width {
			t.Errorf("%+v: the page is %d wide, want no scrolling to the side", screen, wide.Page)
		}
		if len(wide.Small) > 0 {
			t.Errorf("%+v: too small for a finger: %q", screen, wide.Small)
		}
		picture(t, tab, fmt.Sprintf("gallery-%d-dark-%v", screen.Width, screen.Dark))
	}
	var contrast []string
	tab.Eval(contrastScript, &contrast)
	if len(contrast) > 0 {
		t.Errorf("hard to read in the dark: %q", contrast)
	}
	tab.Show(desk)
	tab.Eval(contrastScript, &contrast)
	if len(contrast) > 0 {
		t.Errorf("hard to read in the light: %q", contrast)
	}
	quiet(t, tab)
}

// contrastScript finds texts whose contrast is below 4.5, WCAG's AA.
const contrastScript = `(() => {
	const rgb = s => s.match(/[\d.]+/g).map(Number);
	const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
	const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c } };
	return [...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) && e.checkVisibility() && !e.matches("script, style, noscript")).filter(e => {
		const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
		return (a + .05) / (b + .05) < 4.5;
	}).map(e => e.tagName + " " + e.textContent);
})()`

// Who waits at a button, or has opened what is behind one, is not disturbed.
func TestWhatChangesLeavesTheFocusAndWhatIsOpen(t *testing.T) {
	t.Parallel()
	m := gallery()
	tab := open(t, m, phone)
	tab.Click("#undo-12")
	tab.Eval(`document.getElementById("undo-12").focus()`, nil)
	for i := range 3 {
		m.mu.Lock()
		m.moves[0].RowsCopied = int64(300_000 + i)
		m.mu.Unlock()
		says(tab, "facts-12", "300,00"+fmt.Sprint(i))
		var got struct {
			Focus string
			Open  bool
		}
		tab.Eval(`({focus: document.activeElement.id, open: document.querySelector("#undo-12").parentElement.open})`, &got)
		if got.Focus != "undo-12" || !got.Open {
			t.Errorf("after change %d: got %+v, want the focus where it was, and the question open", i, got)
		}
	}
	m.mu.Lock()
	m.moves[0].Step = "closed"
	m.mu.Unlock()
	says(tab, "state-12", "Switching")
	tab.Until(`document.getElementById("steer-12").hidden`) // nothing to undo any more
	m.mu.Lock()
	m.moves = m.moves[1:]
	m.mu.Unlock()
	says(tab, "news", "Shop 7")
	tab.Until(`document.querySelectorAll("section").length == 5`)
	quiet(t, tab)
}

func TestThatAButtonCameTooLateIsSaid(t *testing.T) {
	t.Parallel()
	m := gallery()
	m.late = true
	tab := open(t, m, desk)
	tab.Click("#pause-12")
	says(tab, "said", "Nothing was done: the move is over, or it is decided")
	says(tab, "state-12", "Copying")
}

func TestAServerThatIsGoneIsSaid(t *testing.T) {
	t.Parallel()
	down := make(chan struct{})
	h, err := newHandler(gallery(), func(*http.Request) (string, error) {
		select {
		case <-down:
			return "", errors.New("signed out")
		default:
			return "Ada", nil
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(func() { go s.Close() })
	tab := browser.Open(t, s.URL, desk)
	close(down)
	says(tab, "news", "What is shown is out of date")
}

func TestThePageWorksWithoutJavaScript(t *testing.T) {
	t.Parallel()
	m := gallery()
	tab := open(t, m, browser.Screen{Width: 800, Height: 600, NoScript: true})
	says(tab, "state-12", "Copying")
	tab.Click("#pause-12")
	says(tab, "state-12", "Paused")
	// At once: the page is loaded again every five seconds, and the question is closed then.
	tab.Eval(`(document.querySelector("#undo-13").click(), document.querySelector("#really-13").click())`, nil)
	tab.Until(`location.hash == "#move-13" && document.readyState == "complete"`)
	if got, want := fmt.Sprint(m.did()), "[pause 12 undo 13]"; got != want {
		t.Errorf("it did %s, want %s", got, want)
	}
	tab.Until(`document.querySelector("noscript meta")?.httpEquiv == "refresh"`)
}
