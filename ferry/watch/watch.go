package watch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
)

//go:embed page.html
var pageText string

//go:embed page.css
var styleText string

//go:embed page.js
var scriptText string

// Options configure a Handler. The zero value is ready to use.
type Options struct {
	// Logger gets a line for each thing that somebody did. Nil discards.
	Logger *slog.Logger

	// Back is called when somebody asks on the page that a shop move back to the pod that
	// it left, while [ferry.Ferry.Keep] keeps that way open. It shall begin the move and
	// return, as [ferry.Queue.Add] does. Its context has the request's values, and
	// doesn't end with it. Nil: the page doesn't offer it.
	Back func(ctx context.Context, shop podworks.ShopID, to podworks.PodID) error
}

// moves is what the page needs of a ferry.
type moves interface {
	Moves() []ferry.Progress
	Pause(token uint64) error
	Resume(token uint64) error
	Cancel(token uint64) error
}

// A Handler serves the page. It may be used by any number of requests at once.
type Handler struct {
	moves     moves
	authorize func(*http.Request) (string, error)
	back      func(context.Context, podworks.ShopID, podworks.PodID) error
	log       *slog.Logger
	page      *template.Template
	policy    string
	origin    *http.CrossOriginProtection
}

// New returns the page of f's moves. authorize is asked before each request is
// looked at: it returns who asks, for the page and the log, or an error, which is
// logged and answered with 403. Whoever it lets in may do all that the page offers.
func New(f *ferry.Ferry, authorize func(*http.Request) (who string, err error), opts *Options) (*Handler, error) {
	if f == nil {
		return nil, errors.New("watch: the ferry is nil")
	}
	return newHandler(f, authorize, opts)
}

func newHandler(m moves, authorize func(*http.Request) (string, error), opts *Options) (*Handler, error) {
	if authorize == nil {
		return nil, errors.New("watch: authorize is nil; whoever sees the page can undo moves, so let the application say who may")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, err // of a page that no test has seen
	}
	return &Handler{
		moves: m, authorize: authorize, back: o.Back, page: page,
		log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
		policy: "default-src 'none'; script-src " + hash(scriptText) + "; style-src " + hash(styleText) +
			"; img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		origin: http.NewCrossOriginProtection(),
	}, nil
}

// hash names an inline script or style in a Content-Security-Policy.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, err := h.authorize(r)
	if err != nil {
		h.log.Warn("somebody was not let in", "path", r.URL.Path, "err", err)
		http.Error(w, "you may not see this page", http.StatusForbidden)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.show(w, http.StatusOK, who, "")
	case http.MethodPost:
		if err := h.origin.Check(r); err != nil {
			h.log.Warn("another site had a browser send this", "who", who, "err", err)
			http.Error(w, "this request came from another site", http.StatusForbidden)
			return
		}
		h.act(w, r, who)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "want GET or POST", http.StatusMethodNotAllowed)
	}
}

// act does what a button says.
func (h *Handler) act(w http.ResponseWriter, r *http.Request, who string) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
	text, what := r.PostFormValue("token"), r.PostFormValue("do")
	token, err := strconv.ParseUint(text, 10, 64)
	do := map[string]func(uint64) error{"pause": h.moves.Pause, "resume": h.moves.Resume, "undo": h.moves.Cancel}[what]
	if what == "back" && h.back != nil {
		do = func(token uint64) error { return h.moveBack(context.WithoutCancel(r.Context()), token) }
	}
	if err != nil || do == nil {
		h.show(w, http.StatusBadRequest, who, "Nothing was done: the request names no move, or nothing to do with it.")
		return
	}
	err = do(token)
	h.log.Info("somebody steered a move", "who", who, "do", what, "token", token, "err", err)
	switch {
	case errors.Is(err, ferry.ErrNoMove):
		h.show(w, http.StatusConflict, who, "Nothing was done: the move is over, or it is decided and can't be stopped any more.")
	case err != nil && what == "back":
		h.show(w, http.StatusInternalServerError, who, "The move back may not have begun: "+err.Error())
	case err != nil:
		h.show(w, http.StatusInternalServerError, who, "Nothing was done: "+err.Error())
	default:
		// Relative to the URL as the browser has it, which may have a prefix that was stripped.
		w.Header().Set("Location", "?#move-"+text)
		w.WriteHeader(http.StatusSeeOther)
	}
}

// moveBack has the application take a shop back whose way back is kept.
func (h *Handler) moveBack(ctx context.Context, token uint64) error {
	for _, p := range h.moves.Moves() {
		if p.Token == token && p.Step == standby {
			return h.back(ctx, p.Shop, p.To)
		}
	}
	return ferry.ErrNoMove
}

// show writes the page, with a message if there is one.
func (h *Handler) show(w http.ResponseWriter, status int, who, said string) {
	var b bytes.Buffer
	err := h.page.Execute(&b, struct {
		Style     template.CSS
		Script    template.JS
		Who, Said string
		Back      bool
		Moves     []card
	}{template.CSS(styleText), template.JS(scriptText), who, said, h.back != nil, cards(h.moves.Moves(), time.Now())})
	if err != nil {
		h.log.Error("the page can't be written", "err", err)
		http.Error(w, "the page can't be written; the log says why", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", h.policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // who has gone doesn't need it
}
