package main

import (
	"path/filepath"
	"sync"
	"testing"
)

func TestNoTwoProcessesMakeTheSameNumber(t *testing.T) {
	t.Parallel()
	seen := map[int64]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for process := range int64(3) {
		numbers := &ids{process: process}
		for range 2 {
			wg.Go(func() {
				last := int64(firstSaleID)
				for range 20_000 {
					n := numbers.next()
					if n <= last {
						t.Errorf("%d comes after %d, want numbers that grow, above the history's", n, last)
						return
					}
					last = n
					mu.Lock()
					if seen[n] {
						t.Errorf("%d was made twice", n)
					}
					seen[n] = true
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
}

func TestALedgerIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "samples")
	want := []sample{{kind: checkoutRequest, start: 1_700_000_000_000_000_000, took: 5}, {kind: pageRequest, start: 2, took: 7}}
	if err := writeSamples(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := readSamples(path)
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("readSamples: %v, %v; want %v", got, err, want)
	}
}
