package story

import (
	"os"
	"strings"
	"testing"
)

func TestReadmeShowsTheExample(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(source), "keeps equal to it.\n\n")
	want, _, _ = strings.Cut(want, "\n// The end of the program.")
	_, got, _ := strings.Cut(string(readme), "```go\n")
	got, _, _ = strings.Cut(got, "```")
	if got != want {
		t.Errorf("README.md and internal/story/example_test.go show different programs; copy the latter into the former")
	}
}
