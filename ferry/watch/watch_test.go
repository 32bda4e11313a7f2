package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) {
	os.Exit(leak.Check(testcluster.Main(m), "ferry/watch.", "podworks/ferry."))
}

// script is a ferry whose moves are as a test says.
type script struct {
	mu    sync.Mutex
	moves []ferry.Progress
	late  bool // to do anything
	done  []string
}

func (s *script) Moves() []ferry.Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.moves)
}

func (s *script) Pause(token uint64) error  { return s.do("pause", token) }
func (s *script) Resume(token uint64) error { return s.do("resume", token) }
func (s *script) Cancel(token uint64) error { return s.do("undo", token) }

func (s *script) do(what string, token uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, fmt.Sprint(what, " ", token))
	for i := range s.moves {
		if s.moves[i].Token == token && !s.late {
			s.moves[i].Paused = what == "pause"
			return nil
		}
	}
	return ferry.ErrNoMove
}

func (s *script) did() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.done)
}

// operator lets in who has the cookie.
func operator(r *http.Request) (string, error) {
	c, err := r.Cookie("operator")
	if err != nil {
		return "", err
	}
	return c.Value, nil
}

func serve(t *testing.T, m moves) *httptest.Server {
	t.Helper()
	return serveWith(t, m, nil)
}

func serveWith(t *testing.T, m moves, opts *Options) *httptest.Server {
	t.Helper()
	h, err := newHandler(m, operator, opts)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ops/", http.StripPrefix("/ops", h))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// request asks for the page, or has a form sent, and returns the answer and its body.
func request(t *testing.T, s *httptest.Server, method string, form url.Values, header map[string]string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/ops/moves", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Cookie", "operator=Ada")
	for name, value := range header {
		r.Header.Set(name, value)
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r) // which follows no redirect
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

func copying() ferry.Progress {
	return ferry.Progress{Shop: 7, Token: 12, From: 1, To: 2, Step: "copy", Table: "orders", Began: time.Now().Add(-83 * time.Second),
		RowsCopied: 250_000, RowsTotal: 1_000_000, BytesCopied: 60_000_000, BytesTotal: 240_000_000, RowChanges: 1234,
		Rate: 25_000.4, ETA: 30 * time.Second, Lag: 12 * time.Millisecond, PredictedPause: 17 * time.Millisecond}
}

func TestThePageShowsEachMove(t *testing.T) {
	t.Parallel()
	held := copying()
	held.Shop, held.Token, held.Held = 8, 13, "pod 2 runs 40 statements, MaxRunning is 30"
	made := copying()
	made.Shop, made.Token, made.Step, made.RowsCompared = 9, 14, "prove", 1_500_000
	s := serve(t, &script{moves: []ferry.Progress{copying(), held, made}})
	answer, body := request(t, s, "GET", nil, nil)
	if answer.StatusCode != 200 {
		t.Fatalf("got %s: %s", answer.Status, body)
	}
	for _, text := range []string{
		"Ada", "Shop 7 <span>from pod 1 to pod 2", ">Copying<", "25 %", "250,000 of 1,000,000", "60 MB of about 240 MB", "25,000 rows/s", "about 30 s", "12 ms", "1,234", "1 min 23 s", "17 ms", "orders",
		"Copying, waiting", "pod 2 runs 40 statements, MaxRunning is 30",
		"Made; comparing all rows once more", "75 %", `<form method="post" id="steer-14" hidden>`,
	} {
		if !strings.Contains(body, text) {
			t.Errorf("the page lacks %q", text)
		}
	}
	if n := strings.Count(body, `name="token"`); n != 3 {
		t.Errorf("got %d forms, want 3", n)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := answer.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	policy := answer.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("the policy is %q, want one that allows nothing but the page's own", policy)
	}
	if _, body := request(t, serve(t, &script{}), "GET", nil, nil); !strings.Contains(body, "This process moves no shop.") {
		t.Errorf("got %s, want a page without moves", body)
	}
}

func TestWhatThePageIsToldIsEscaped(t *testing.T) {
	t.Parallel()
	p := copying()
	p.Table, p.Held = `<img src=x>`, `"><script>alert(1)</script>`
	_, body := request(t, serve(t, &script{moves: []ferry.Progress{p}}), "GET", nil, map[string]string{"Cookie": "operator=<b>"})
	for _, bad := range []string{"<img", "<script>alert", "<b>"} {
		if strings.Contains(body, bad) {
			t.Errorf("the page has %q as it was told", bad)
		}
	}
}

func TestButtonsSteerTheMove(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		form   url.Values
		header map[string]string
		status int
		did    []string
		says   string
	}{
		{"pause", url.Values{"token": {"12"}, "do": {"pause"}}, nil, 303, []string{"pause 12"}, ""},
		{"resume", url.Values{"token": {"12"}, "do": {"resume"}}, nil, 303, []string{"resume 12"}, ""},
		{"undo", url.Values{"token": {"12"}, "do": {"undo"}}, nil, 303, []string{"undo 12"}, ""},
		{"a move that is over", url.Values{"token": {"11"}, "do": {"undo"}}, nil, 409, []string{"undo 11"}, "Nothing was done: the move is over"},
		{"no token", url.Values{"do": {"undo"}}, nil, 400, nil, "Nothing was done"},
		{"nothing to do", url.Values{"token": {"12"}, "do": {"move"}}, nil, 400, nil, "Nothing was done"},
		{"a form that is far too large", url.Values{"x": {strings.Repeat("x", 4<<10)}, "token": {"12"}, "do": {"undo"}}, nil, 400, nil, "Nothing was done"},
		{"the page's own form", url.Values{"token": {"12"}, "do": {"undo"}}, map[string]string{"Sec-Fetch-Site": "same-origin"}, 303, []string{"undo 12"}, ""},
		{"another site's form", url.Values{"token": {"12"}, "do": {"undo"}}, map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, nil, "another site"},
		{"an older browser's, from another site", url.Values{"token": {"12"}, "do": {"undo"}}, map[string]string{"Origin": "https://evil.example"}, 403, nil, "another site"},
		{"nobody", url.Values{"token": {"12"}, "do": {"undo"}}, map[string]string{"Cookie": ""}, 403, nil, "you may not see this page"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := &script{moves: []ferry.Progress{copying()}}
			answer, body := request(t, serve(t, m), "POST", test.form, test.header)
			if answer.StatusCode != test.status || !strings.Contains(body, test.says) {
				t.Errorf("got %s and %q, want %d and %q", answer.Status, body, test.status, test.says)
			}
			if got := m.did(); !slices.Equal(got, test.did) {
				t.Errorf("it did %q, want %q", got, test.did)
			}
			if got := answer.Header.Get("Location"); test.status == 303 && got != "?#move-12" {
				t.Errorf("it leads to %q, want the page wherever it is mounted", got)
			}
		})
	}
}

func TestAShopMovesBackWhileItsWayBackIsKept(t *testing.T) {
	t.Parallel()
	kept := copying()
	kept.Step, kept.Paused = standby, true // somebody paused it before it came to that
	back := url.Values{"token": {"12"}, "do": {"back"}}
	full := errors.New("the queue is full")
	for _, test := range []struct {
		name   string
		move   ferry.Progress
		back   error // what the application's function says
		none   bool  // there is no such function
		status int
		asked  string
		says   string
	}{
		{"kept", kept, nil, false, 303, "shop 7 to pod 2", ""},
		{"the application can't", kept, full, false, 500, "shop 7 to pod 2", "The move back may not have begun: the queue is full"},
		{"a move on its way", copying(), nil, false, 409, "", "Nothing was done: the move is over"},
		{"not offered", kept, nil, true, 400, "", "Nothing was done"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			asked := ""
			opts := &Options{Back: func(_ context.Context, shop podworks.ShopID, to podworks.PodID) error {
				asked = fmt.Sprintf("shop %d to pod %d", shop, to)
				return test.back
			}}
			if test.none {
				opts = nil
			}
			s := serveWith(t, &script{moves: []ferry.Progress{test.move}}, opts)
			_, page := request(t, s, "GET", nil, nil)
			offered := strings.Contains(page, `<div id="offer-12">`)
			if want := !test.none && test.move.Step == standby; offered != want {
				t.Errorf("the page offers it: %t, want %t", offered, want)
			}
			if kept := strings.Contains(page, "The way back is kept open"); kept != (test.move.Step == standby) {
				t.Errorf("the page says that the way back is kept: %t", kept)
			}
			answer, body := request(t, s, "POST", back, nil)
			if answer.StatusCode != test.status || !strings.Contains(body, test.says) {
				t.Errorf("got %s and %q, want %d and %q", answer.Status, body, test.status, test.says)
			}
			if asked != test.asked {
				t.Errorf("the application was asked for %q, want %q", asked, test.asked)
			}
		})
	}
}

func TestNothingIsDoneForGetsAndOthers(t *testing.T) {
	t.Parallel()
	m := &script{moves: []ferry.Progress{copying()}}
	s := serve(t, m)
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "PUT": 405, "DELETE": 405} {
		answer, _ := request(t, s, method, url.Values{"token": {"12"}, "do": {"undo"}}, nil)
		if answer.StatusCode != want {
			t.Errorf("%s: got %s, want %d", method, answer.Status, want)
		}
	}
	if answer, body := request(t, s, "GET", nil, map[string]string{"Cookie": ""}); answer.StatusCode != 403 || strings.Contains(body, "Shop 7") {
		t.Errorf("nobody gets %s and %q, want 403 and nothing", answer.Status, body)
	}
	if got := m.did(); len(got) != 0 {
		t.Errorf("it did %q, want nothing", got)
	}
}

func TestAPageForEverybodyIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := New(new(ferry.Ferry), nil, nil); err == nil || !strings.Contains(err.Error(), "authorize is nil") {
		t.Errorf("got %v, want an error that says that authorize is nil", err)
	}
	if _, err := New(nil, operator, nil); err == nil {
		t.Error("got a page of no ferry")
	}
	if _, err := operator(httptest.NewRequest("GET", "/", nil)); !errors.Is(err, http.ErrNoCookie) {
		t.Errorf("the test lets in %v", err)
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1,000", count(-1234567): "-1,234,567",
		size(0): "0 B", size(999): "999 B", size(1500): "1.5 kB", size(9_960): "10 kB", size(999_600): "1.0 MB", size(60_000_000): "60 MB",
		duration(0): "0 ms", duration(1500 * time.Millisecond): "1.5 s", duration(12 * time.Second): "12 s", duration(83 * time.Second): "1 min 23 s", duration(2*time.Hour + 5*time.Minute): "2 h 5 min",
		percent(1, 0): "", percent(0, 10): "0", percent(999, 1000): "99", percent(12, 10): "100",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAPlotIsOfTheMovesTimeUpToFiveMinutes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(ago time.Duration, rate float64) ferry.Sample { return ferry.Sample{At: now.Add(-ago), Rate: rate} }
	for _, test := range []struct {
		history []ferry.Sample
		want    plot
	}{
		{nil, plot{"Rate", "rate", "0", "30 s", ""}},
		{[]ferry.Sample{at(15*time.Second, 0), at(0, 0)}, plot{"Rate", "rate", "0", "30 s", "150.0,60.0 300.0,60.0"}},
		{[]ferry.Sample{at(time.Minute, 20), at(0, 10)}, plot{"Rate", "rate", "20", "1 min 0 s", "0.0,0.0 300.0,30.0"}},
		{[]ferry.Sample{at(10*time.Minute, 100), at(5*time.Minute, 0), at(150*time.Second, 50), at(0, 0)},
			plot{"Rate", "rate", "50", "5 min 0 s", "0.0,60.0 150.0,0.0 300.0,60.0"}},
	} {
		got := newPlot("Rate", "rate", test.history, now, func(s ferry.Sample) float64 { return s.Rate }, func(v float64) string { return count(int64(v)) })
		if got != test.want {
			t.Errorf("got %+v, want %+v", got, test.want)
		}
	}
}
