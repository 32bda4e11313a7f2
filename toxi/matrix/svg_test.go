package matrix_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks/toxi/matrix"
)

// checkSVG writes the picture, and checks that it is one.
func checkSVG(t *testing.T, r *matrix.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	picture := b.String()
	d := xml.NewDecoder(&b)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return picture
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "script" || e.Name.Local == "a" || e.Name.Local == "image") {
			t.Errorf("the picture has the element %s", e.Name.Local)
		}
	}
}

func TestThePictureSaysWhatTheTableSays(t *testing.T) {
	t.Parallel()
	picture := checkSVG(t, sample())
	for _, want := range []string{
		"prefers-color-scheme: dark", `role="img"`,
		"<title id=\"title\">Resiliency matrix: shop</title>",
		"checkout is degraded with redis down; hung, not up with redis slow; not run with mysql restart. cart is untested with redis down; up, but failed with redis slow.",
		`<g class="degraded">`, `<g class="hung red">`, `<g class="none red">`, `<g class="up red">`, `class="hole"`,
		"payments", "web|&lt;i&gt;", "restart",
	} {
		if !strings.Contains(picture, want) {
			t.Errorf("the picture lacks %s", want)
		}
	}
}

// What a README shows must not change because a run was slower.
func TestThePictureAndTheDocumentHaveNoTimesOfTheirOwn(t *testing.T) {
	t.Parallel()
	a, b := green(), green()
	b.Time, b.Took, b.Go = b.Time.Add(time.Hour), time.Hour, "go1.30"
	for i := range b.Cells {
		b.Cells[i].Took, b.Cells[i].UpAgain, b.Cells[i].Saw = time.Hour, time.Hour, "something else"
		b.Cells[i].Change, b.Cells[i].Was = "fixed", &matrix.Past{State: matrix.StateFailed}
	}
	if checkSVG(t, a) != checkSVG(t, b) {
		t.Error("the pictures differ")
	}
	if checkMarkdown(t, a) != checkMarkdown(t, b) {
		t.Error("the documents differ")
	}
}

// A README shows a picture no wider than its column: at twice that, words can't be
// read any more, and symbols can.
func TestAWidePictureHasSymbolsWithoutWords(t *testing.T) {
	t.Parallel()
	r := &matrix.Report{Name: "wide", Rows: []matrix.Row{{Section: "cart"}}}
	for _, dependency := range []string{"mysql", "redis", "memcached", "search", "master"} {
		for _, fault := range []string{"down", "slow", "flapping", "reset", "hung"} {
			r.Columns = append(r.Columns, matrix.Column{Dependency: dependency, Fault: fault})
			r.Cells = append(r.Cells, matrix.Cell{Section: "cart", Dependency: dependency, Fault: fault,
				State: matrix.StatePassed, Expected: matrix.OutcomeDegraded, Got: matrix.OutcomeDegraded})
		}
	}
	picture := checkSVG(t, r)
	if strings.Contains(picture, ">degraded</text>") || !strings.Contains(picture, "rotate(-90") {
		t.Errorf("want symbols in the cells, and faults upwards:\n%s", picture)
	}
	r.Columns, r.Cells = r.Columns[:5], r.Cells[:5]
	if picture := checkSVG(t, r); !strings.Contains(picture, ">degraded</text>") {
		t.Errorf("want words in the cells of a small picture:\n%s", picture)
	}
}
