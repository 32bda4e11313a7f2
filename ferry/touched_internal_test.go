package ferry

import (
	"slices"
	"strconv"
	"testing"
)

func TestWhatIsRememberedOfTheCopyIsBounded(t *testing.T) {
	t.Parallel()
	m := &move{mostTouched: 10}
	m.trackFromStart()
	touch := func(n int) {
		for range n {
			m.touched([]change{{table: 0, key: "k" + strconv.Itoa(len(m.dirtyRow)+len(m.parents))}})
			m.entered([]rowID{{1, "p" + strconv.Itoa(len(m.dirtyRow)+len(m.parents))}})
		}
	}
	keys := []string{"k0", "other"}
	touch(5)
	if got := m.touchedOf(0, keys); !slices.Equal(got, keys[:1]) || m.isDirty(rowID{0, "other"}) || m.dirtyRows() != 10 {
		t.Errorf("of %q, %q were touched, and %d rows in all; want the first of them, and 10", keys, got, m.dirtyRows())
	}
	for range 100 {
		touch(1)
		if got := m.touchedOf(0, keys); !slices.Equal(got, keys) || !m.isDirty(rowID{0, "other"}) || m.dirtyRows() <= 10 {
			t.Fatalf("of %q, %q were touched, and %d rows in all; want all, as it isn't known, and more than 10", keys, got, m.dirtyRows())
		}
		if n := len(m.dirtyRow) + len(m.parents); n > 10 {
			t.Fatalf("%d rows are remembered, want 10 at most", n)
		}
	}
	// The comparison of all has begun: nothing may be lost from here on.
	m.untrack()
	m.track()
	touch(50)
	if n := len(m.dirtyRow) + len(m.parents); n != 100 || m.dirtyRows() != 100 || m.isDirty(rowID{0, "other"}) {
		t.Errorf("%d rows are remembered, want 100", n)
	}
}
