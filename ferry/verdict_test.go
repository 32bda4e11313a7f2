package ferry

import (
	"context"
	"math/bits"
	"testing"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/fence"
)

// Every combination of the four rows has a rule, every rule has a combination,
// and no rule does what could make two owners or lose the only copy.
func TestTheTableOfRecoveryIsCompleteAndSafe(t *testing.T) {
	t.Parallel()
	used := make([]int, len(recovery))
	n := 0
	for j := running; j <= aborting; j <<= 1 {
		for src := srcOpen; src <= srcStrange; src <<= 1 {
			for dst := dstNone; dst <= dstStrange; dst <<= 1 {
				for r := atSource; r <= nowhere; r <<= 1 {
					n++
					fits := -1
					for i, rule := range recovery {
						if rule.journal&j != 0 && rule.source&src != 0 && rule.target&dst != 0 && rule.route&r != 0 {
							fits = i
							break
						}
					}
					if fits < 0 {
						t.Errorf("journal %b, source %b, target %b, route %b: no rule", j, src, dst, r)
						continue
					}
					used[fits]++
					do := recovery[fits].do
					ended := j&unended != 0
					for _, unsafe := range []struct {
						what string
						if_  bool
					}{
						{"aborts or reopens with the target open", (do == doAbort || do == doReopen || do == doTombstone || do == doUndone) && dst == dstOpen},
						{"aborts or reopens what is decided", (do == doAbort || do == doReopen || do == doTombstone || do == doUndone) && ended},
						{"opens what isn't decided", do == doOpen && !ended},
						{"opens with the source open", do == doOpen && src == srcOpen},
						{"opens a copy that wasn't verified", do == doOpen && j != decided},
						{"opens another token's row", do == doOpen && dst != dstIncoming},
						{"closes before the decision", do == doClose && !ended},
						{"decides with the source open", (do == doDecide || do == doForward) && src != srcClosed},
						{"copies from an open source", do == doCopy && src&(srcClosed|srcEarlier) == 0},
						{"finishes with both open", do == doFinish && (src == srcOpen || dst != dstOpen)},
						{"retires an undone move with the source closed", do == doUndone && src != srcOpen},
						{"does anything about a shop that is elsewhere", do != doRefuse && r == nowhere},
					} {
						if unsafe.if_ {
							t.Errorf("journal %b, source %b, target %b, route %b: rule %d %s", j, src, dst, r, fits, unsafe.what)
						}
					}
				}
			}
		}
	}
	if want := 4 * bits.OnesCount8(uint8(srcAny)) * bits.OnesCount8(uint8(dstAny)) * bits.OnesCount8(uint8(anywhere)); n != want {
		t.Errorf("went through %d combinations, want %d", n, want)
	}
	for i, n := range used {
		if n == 0 {
			t.Errorf("rule %d is never the first that fits", i)
		}
		if (recovery[i].do == doRefuse) != (recovery[i].why != "") {
			t.Errorf("rule %d: a refusal, and only that, says why", i)
		}
	}
}

// Whatever the rows hold, each is in one class, and there is a verdict.
func TestEveryRowHasAClass(t *testing.T) {
	t.Parallel()
	var rows []fence.Row
	for _, state := range []fence.State{fence.Absent, fence.Incoming, fence.Open, fence.Moved} {
		for epoch := range podworks.Epoch(5) {
			for token := range uint64(4) {
				rows = append(rows, fence.Row{State: state, Epoch: epoch, Token: token})
			}
		}
	}
	for _, state := range []podworks.MoveState{podworks.MoveRunning, podworks.MoveDecided, podworks.MoveAborting} {
		for _, source := range rows {
			for _, target := range rows {
				s := situation{move: podworks.Move{Token: 2, From: podworks.Route{Pod: 1, Epoch: 2}, To: podworks.Route{Pod: 2, Epoch: 3}, State: state},
					source: source, target: target, route: podworks.Route{Pod: 1, Epoch: 2}}
				j, src, dst, r := s.classes(context.Background())
				if bits.OnesCount8(uint8(j)) != 1 || bits.OnesCount8(uint8(src)) != 1 || bits.OnesCount8(uint8(dst)) != 1 || bits.OnesCount8(uint8(r)) != 1 {
					t.Fatalf("%+v: classes %b %b %b %b, want one bit each", s, j, src, dst, r)
				}
				if _, err := s.verdict(context.Background()); err != nil && len(err.Error()) < 100 {
					t.Errorf("%+v: a refusal that says little: %v", s, err)
				}
			}
		}
	}
}
