package ferry

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What Spin checks is worth something only if it is what the code does: the
// model has a transition for each pause point, and no other.
func TestTheModelHasTheCodesSteps(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("spec/*.pml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got the models %v (%v), want some", files, err)
	}
	label := regexp.MustCompile(`(?m)^[ \t]*step_([a-z_]+):`)
	inModel := map[string]bool{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range label.FindAllSubmatch(text, -1) {
			inModel[string(m[1])] = true
		}
	}
	for _, step := range steps {
		name := strings.ReplaceAll(step, ".", "_")
		if !inModel[name] {
			t.Errorf("the code's step %q is not in the model: want a transition labelled step_%s in ferry/spec", step, name)
		}
		delete(inModel, name)
	}
	for name := range inModel {
		t.Errorf("the model's transition step_%s is not among the code's steps in step.go", name)
	}
	for i, step := range steps {
		if slices.Contains(steps[:i], step) {
			t.Errorf("step %q is listed twice", step)
		}
	}
}
