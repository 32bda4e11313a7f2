package master_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// newSequence returns a sequence of a Master of its own, as of another process.
func (w *world) newSequence(block int64) *master.Sequence {
	w.t.Helper()
	return sequenceOf(w.t, w.newMaster(nil), block)
}

func sequenceOf(t testing.TB, m *master.Master, block int64) *master.Sequence {
	t.Helper()
	s, err := m.Sequence("orders", &master.SequenceOptions{Block: block})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// draw takes so many ids from each of the sequences at the same time, with two
// goroutines each, and returns them sorted, and whether each goroutine's ascended.
func draw(t *testing.T, sequences []*master.Sequence, each int) (all []int64, ascended bool) {
	t.Helper()
	var mu sync.Mutex
	ascended = true
	var wg sync.WaitGroup
	for _, s := range sequences {
		for range 2 {
			wg.Go(func() {
				ids := make([]int64, 0, each)
				for range each {
					id, err := s.Next(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					ids = append(ids, id)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, ids...)
				ascended = ascended && slices.IsSorted(ids)
			})
		}
	}
	wg.Wait()
	slices.Sort(all)
	return all, ascended
}

func doubles(ids []int64) (n int) {
	for i := range ids[1:] {
		if ids[i] == ids[i+1] {
			n++
		}
	}
	return n
}

func TestIdsAreUniqueOverProcesses(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		sequences := []*master.Sequence{w.newSequence(1), w.newSequence(2), w.newSequence(7), w.newSequence(50)}
		const each = 150
		ids, ascended := draw(t, sequences, each)
		if n := doubles(ids); n != 0 || len(ids) != 2*each*len(sequences) || ids[0] != 1 {
			t.Errorf("got %d ids from %d on with %d doubles, want %d from 1 on without any", len(ids), ids[0], n, 2*each*len(sequences))
		}
		if !ascended {
			t.Error("the ids of one process don't ascend")
		}
	})
}

// The twin: a block that is read and taken in two statements is taken twice.
func TestTakenInTwoStatementsIdsAreNotUnique(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		if err := w.Advance(t.Context(), "orders", 0); err != nil {
			t.Fatal(err)
		}
		// Enough of them for one to come between another's statements.
		for range 20 {
			var sequences []*master.Sequence
			for range 4 {
				m := w.newMaster(nil)
				m.SplitTake()
				sequences = append(sequences, sequenceOf(t, m, 1))
			}
			if ids, _ := draw(t, sequences, 20); doubles(ids) > 0 {
				return
			}
		}
		t.Error("no id was handed out twice, so the test of uniqueness shows nothing")
	})
}

// The one that reaches the middle of a block fetches the next, and meanwhile the
// others don't wait; nor does it matter if that fails.
func TestTheNextBlockIsFetchedAhead(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		p := sharedServers(t, f)
		var refuse atomic.Bool
		dials, goOn := make(chan struct{}), make(chan struct{})
		w := newWorld(t, p, nil, func(cfg *mysql.Config) {
			cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if refuse.Load() {
					dials <- struct{}{}
					<-goOn
					return nil, errors.New("no connection, as the test wants it")
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		})
		w.primary.SetMaxIdleConns(-1) // each block needs a new connection
		s := sequenceOf(t, w.Master, 10)
		take := func(want int64) {
			t.Helper()
			if id, err := s.Next(t.Context()); id != want || err != nil {
				t.Errorf("Next = %d, %v; want %d", id, err, want)
			}
		}
		take(1)
		refuse.Store(true)
		for id := int64(2); id <= 4; id++ {
			take(id)
		}
		fetched := make(chan struct{})
		go func() {
			take(5) // and five are left
			close(fetched)
		}()
		<-dials
		for id := int64(6); id <= 9; id++ {
			take(id)
		}
		goOn <- struct{}{}
		<-fetched
		refuse.Store(false)
		for id := int64(10); id <= 14; id++ {
			take(id)
		}
		s.Retry()
		take(15) // fetches
		refuse.Store(true)
		for id := int64(16); id <= 24; id++ {
			take(id)
		}
	})
}

// Those who wait for a block when there are no ids don't all wait for one whose
// caller has given up.
func TestACallerThatGivesUpTakesNobodyWithIt(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		dials, goOn := make(chan struct{}), make(chan struct{})
		var hold atomic.Bool
		w := newWorld(t, sharedServers(t, f), nil, func(cfg *mysql.Config) {
			cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if hold.CompareAndSwap(true, false) {
					dials <- struct{}{}
					<-goOn
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		})
		w.primary.SetMaxIdleConns(-1)
		s := w.newSequence(10)
		hold.Store(true)
		first, end := context.WithCancel(t.Context())
		gaveUp, got := make(chan error, 1), make(chan error, 2)
		go func() {
			_, err := s.Next(first)
			gaveUp <- err
		}()
		<-dials
		for range 2 {
			go func() {
				_, err := s.Next(t.Context())
				got <- err
			}()
		}
		end()
		close(goOn)
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("Next of a caller that gave up: %v", err)
		}
		for range 2 {
			if err := <-got; err != nil {
				t.Errorf("Next of a caller that waited: %v", err)
			}
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := w.newSequence(10).Next(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Next with a context that has ended, and no ids: %v", err)
		}
	})
}

func TestAdvance(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		w := newWorld(t, sharedServers(t, f), nil, nil)
		for _, step := range []struct{ past, want int64 }{{500, 501}, {500, 511}, {0, 521}, {600, 601}} {
			if err := w.Advance(t.Context(), "orders", step.past); err != nil {
				t.Fatal(err)
			}
			if id, err := w.newSequence(10).Next(t.Context()); id != step.want || err != nil {
				t.Errorf("after Advance past %d Next = %d, %v; want %d", step.past, id, err, step.want)
			}
		}
	})
}

// A failover that lost a block's commit would hand it out again; Advance is what
// keeps it from that.
func TestAfterALossyFailoverAdvanceKeepsIdsUnique(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		for _, advance := range []bool{false, true} {
			w := newWorld(t, sharedServers(t, f), nil, nil)
			running := w.newSequence(10)
			before, _ := draw(t, []*master.Sequence{running}, 10)
			w.exec(`UPDATE podworks_sequences SET next = next - 10`) // as on a replica that lacks the last
			if advance {
				if err := w.Advance(t.Context(), "orders", before[len(before)-1]+1000); err != nil {
					t.Fatal(err)
				}
			}
			after, _ := draw(t, []*master.Sequence{running, w.newSequence(10)}, 10)
			all := slices.Concat(before, after)
			slices.Sort(all)
			if n := doubles(all); (n == 0) != advance {
				t.Errorf("with Advance %t there are %d doubles", advance, n)
			}
		}
	})
}

func TestBadSequencesAreRefused(t *testing.T) {
	t.Parallel()
	m := newAway(t)
	for _, tt := range []struct {
		name  string
		block int64
		want  []string
	}{
		{"", -1, []string{`name is "", want 1 to 64 letters`, "Block is -1, want 1 to 1,000,000"}},
		{"o'rders", 1, []string{"name is"}},
		{strings.Repeat("n", 65), 1, []string{"name is"}},
		{"orders", 1_000_001, []string{"Block is 1000001"}},
	} {
		_, err := m.Sequence(tt.name, &master.SequenceOptions{Block: tt.block})
		if err == nil {
			t.Errorf("Sequence(%q, %d) succeeded", tt.name, tt.block)
			continue
		}
		wantErr(t, fmt.Sprintf("Sequence(%q, %d)", tt.name, tt.block), err, err, tt.want...)
	}
	for _, past := range []int64{-1, math.MaxInt64} {
		if err := m.Advance(t.Context(), "orders", past); err == nil || errors.Is(err, master.ErrPrimary) {
			t.Errorf("Advance past %d: %v, want it to be refused first", past, err)
		}
	}
}
