package hook_test

import (
	"context"
	"slices"
	"testing"

	"github.com/podworks/podworks/internal/hook"
)

func TestAContextWithoutASetChangesNothing(t *testing.T) {
	t.Parallel()
	for name, ctx := range map[string]context.Context{"no set": t.Context(), "an empty set": hook.With(t.Context(), &hook.Set{})} {
		hook.Step(ctx, "copy")
		for _, p := range []hook.Protection{hook.Lock, hook.Decision, hook.Marker} {
			if hook.Off(ctx, p) {
				t.Errorf("with %s, %s is off", name, p)
			}
		}
	}
}

func TestASetIsAskedAndTold(t *testing.T) {
	t.Parallel()
	var steps []string
	ctx := hook.With(t.Context(), &hook.Set{
		Step: func(step string) { steps = append(steps, step) },
		Off:  map[hook.Protection]bool{hook.Marker: true},
	})
	hook.Step(ctx, "copy")
	hook.Step(ctx, "closed")
	if want := []string{"copy", "closed"}; !slices.Equal(steps, want) {
		t.Errorf("told %q, want %q", steps, want)
	}
	if !hook.Off(ctx, hook.Marker) || hook.Off(ctx, hook.Lock) {
		t.Errorf("marker off: %v, lock off: %v; want only the marker off", hook.Off(ctx, hook.Marker), hook.Off(ctx, hook.Lock))
	}
}
