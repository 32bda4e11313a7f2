package leak

import (
	"testing"
	"testing/synctest"
)

//go:noinline
func lingering(end chan struct{}) { <-end }

func TestAGoroutineThatIsLeftFailsThePackage(t *testing.T) {
	tests := []struct {
		name  string
		code  int
		texts []string
		want  int
	}{
		{"left", 0, []string{"nobody", "leak.lingering"}, 1},
		{"not ours", 0, []string{"nobody"}, 0},
		{"failed anyway", 3, []string{"leak.lingering"}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // so that patience takes no time
				end := make(chan struct{})
				defer close(end)
				go lingering(end)
				synctest.Wait()
				if got := Check(tt.code, tt.texts...); got != tt.want {
					t.Errorf("Check returns %d, want %d", got, tt.want)
				}
			})
		})
	}
}

func TestAGoroutineThatEndsSoonIsNotLeft(t *testing.T) {
	end := make(chan struct{})
	go lingering(end)
	go close(end)
	if got := Check(0, "leak.lingering"); got != 0 {
		t.Errorf("Check returns %d, want 0", got)
	}
}
