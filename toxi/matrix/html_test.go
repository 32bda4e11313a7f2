package matrix_test

import (
	"bytes"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/podworks/podworks/toxi/matrix"
)

var (
	pageLink    = regexp.MustCompile(`<a [^>]*href="#([^"]*)"`)
	pageID      = regexp.MustCompile(` id="([^"]*)"`)
	pageForeign = regexp.MustCompile(`<(script|link|img|iframe|object|embed|base)\b|\bsrc=|@import|url\(`)
)

// checkHTML writes the page, and checks what holds for every one.
func checkHTML(t *testing.T, r *matrix.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if found := pageForeign.FindString(page); found != "" {
		t.Errorf("the page has %q, and wants to need nothing else", found)
	}
	ids := map[string]bool{}
	for _, m := range pageID.FindAllStringSubmatch(page, -1) {
		ids[html.UnescapeString(m[1])] = true
	}
	for _, m := range pageLink.FindAllStringSubmatch(page, -1) {
		to, err := url.PathUnescape(html.UnescapeString(m[1]))
		if err != nil || !ids[to] {
			t.Errorf("a link goes to #%s, which is not there", m[1])
		}
	}
	return page
}

func TestThePageSaysAllOfEachCell(t *testing.T) {
	t.Parallel()
	page := checkHTML(t, sample())
	for _, want := range []string{
		"Do you know what happens when redis is down?",
		"Somebody has to look at 3 of 5 cells.",
		`<b>1</b> passed`, `<b>2</b> failed`, `<b>1</b> untested`, `<b>1</b> not run`,
		"2026-11-27 06:00 UTC", "go1.26.8", "1 broken",
		`href="https://example.com/a%28b%29%7cc"`, // the runbook
		`aria-label="checkout with redis down: degraded, as declared"`,
		`aria-label="checkout with redis slow: hung, not up, broken, was up"`,
		`200 OK | &lt;b&gt;no cart&lt;/b&gt;`, // what the user saw
		"2.1s", "40ms after the heal",
		"TestMatrix/redis/slow/checkout",
		"go test -count=1 -run &#39;^TestMatrix$/^redis$/^slow$/^checkout$&#39; example.com/shop",
		"sections are up again within 30s of the heal",
		"broken, was up, in the run of 2026-11-27 05:00 UTC",
		`class="hole"`,
		"prefers-reduced-motion", "light-dark(", `name="viewport"`, `tabindex="0"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	for _, bad := range []string{"<b>no cart", "<i>", "javascript:alert"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %s, which a stranger wrote", bad)
		}
	}
}

func TestThePageOfAGreenMatrixSaysSo(t *testing.T) {
	t.Parallel()
	page := checkHTML(t, green())
	if want := "All of its 2 cells are as declared."; !strings.Contains(page, want) {
		t.Errorf("the page lacks %s", want)
	}
	if bad := "What is red"; strings.Contains(page, bad) {
		t.Errorf("the page says %q", bad)
	}
}
