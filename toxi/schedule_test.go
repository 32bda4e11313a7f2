package toxi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// played plays a script and returns what came and went when.
func played(ctx context.Context, b *bubble, log *[]string, steps ...Step) error {
	*log = nil
	began := time.Now()
	b.p.opts.Hooks.Changed = func(fault string, added bool) {
		sign := "-"
		if added {
			sign = "+"
		}
		*log = append(*log, fmt.Sprint(time.Since(began), " ", sign, fault))
	}
	return b.p.Play(ctx, steps...)
}

func TestPlayPlaysAScriptAtItsTimes(t *testing.T) {
	t.Parallel()
	slow := Fault{Name: "slow", Toxic: Latency{Delay: 1}}
	tests := []struct {
		name  string
		steps []Step
		want  []string
	}{
		{"nothing", nil, nil},
		{"flap", Flap(Refuse{}, 2*time.Second, 3*time.Second, 3), []string{
			"0s +refuse", "2s -refuse", "5s +refuse", "7s -refuse", "10s +refuse", "12s -refuse"}},
		{"flap of no time", Flap(Refuse{}, 2*time.Second, 3*time.Second, 0), nil},
		{"in any order, and they overlap", []Step{
			{At: 3 * time.Second, For: 2 * time.Second, Toxic: Noop{}},
			{At: time.Second, For: 3 * time.Second, Toxic: Refuse{}},
		}, []string{"1s +refuse", "3s +noop_downstream", "4s -refuse", "5s -noop_downstream"}},
		{"one after the other, of the same name", []Step{
			{For: time.Second, Toxic: slow},
			{At: time.Second, For: time.Second, Toxic: slow},
		}, []string{"0s +slow", "1s -slow", "1s +slow", "2s -slow"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(b *bubble) {
				var log []string
				if err := played(b.t.Context(), b, &log, tt.steps...); err != nil {
					t.Error(err)
				}
				if !slices.Equal(log, tt.want) {
					t.Errorf("what happened is %q, want %q", log, tt.want)
				}
			})
		})
	}
}

func TestPlayEndsWithItsContextAndTakesEverythingAway(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(b.t.Context(), 1500*time.Millisecond, cause)
		defer cancel()
		var log []string
		err := played(ctx, b, &log, Step{For: time.Hour, Toxic: Noop{}}, Step{At: time.Second, For: time.Hour, Toxic: Refuse{}}, Step{At: 2 * time.Second, For: 1, Toxic: Hang{}})
		if err != cause {
			t.Errorf("Play gives %v, want %v", err, cause)
		}
		want := []string{"0s +noop_downstream", "1s +refuse", "1.5s -noop_downstream", "1.5s -refuse"}
		if !slices.Equal(log, want) {
			t.Errorf("what happened is %q, want %q", log, want)
		}
	})
}

func TestPlayChecksTheWholeScriptFirst(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		var log []string
		err := played(b.t.Context(), b, &log,
			Step{For: time.Second, Toxic: Noop{}},
			Step{At: -1, For: time.Second, Toxic: Noop{}},
			Step{Toxic: Noop{}},
			Step{For: time.Second, Toxic: Slicer{}},
			Step{For: time.Second},
			Step{At: longest + 1, For: longest + 1, Toxic: Noop{}},
		)
		for _, want := range []string{"step 1: At is -1ns", "step 2:", "For is 0s", "step 3:", "Size is 0", "step 4:", "nil", "step 5:"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Play gives %v, want it to contain %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "step 0") {
			t.Errorf("Play gives %v, and nothing is wrong with step 0", err)
		}
		if len(log) > 0 {
			t.Errorf("it has played %q", log)
		}
	})
}

func TestPlayStopsAtAStepThatFails(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		b.add(Fault{Name: "mine", Toxic: Noop{}})
		var log []string
		err := played(b.t.Context(), b, &log,
			Step{For: time.Hour, Toxic: Hang{}},
			Step{At: time.Second, For: time.Hour, Toxic: Fault{Name: "mine", Toxic: Noop{}}})
		if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "step 1") {
			t.Errorf("Play gives %v, want ErrExists of step 1", err)
		}
		if want := []string{"0s +hang", "1s -hang"}; !slices.Equal(log, want) {
			t.Errorf("what happened is %q, want %q", log, want)
		}
	})
}

func TestAFlappingServerIsUpAndDownAtItsTimes(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(b *bubble) {
		go b.p.Play(b.t.Context(), Flap(Refuse{}, 2*time.Second, 3*time.Second, 2)...)
		var got strings.Builder
		time.Sleep(ms(500))
		for range 12 {
			c, err := b.p.Dial(b.t.Context())
			if err == nil {
				c.Close()
				got.WriteByte('u')
			} else {
				got.WriteByte('d')
			}
			time.Sleep(time.Second)
		}
		if want := "dduuudduuuuu"; got.String() != want {
			t.Errorf("second by second it is %s, want %s", got.String(), want)
		}
	})
}
