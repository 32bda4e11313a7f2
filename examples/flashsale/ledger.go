package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

// An entry is a line of a ledger: something that was acknowledged.
type entry struct {
	Shop  int64
	ID    int64  // 0: nothing was; the writer notes its wait all the same
	Token string // of an order
	At    int64  // when it was acknowledged, in Unix nanoseconds
	Wait  int64  // of the writer: nanoseconds from asking for the transaction to having the fence
}

// String returns the line with its end. A writer gives it to the system in one
// piece, so that a killed process leaves whole lines.
func (e entry) String() string {
	token := e.Token
	if token == "" {
		token = "-"
	}
	return fmt.Sprintf("%d %d %s %d %d\n", e.Shop, e.ID, token, e.At, e.Wait)
}

// readLedger reads a ledger.
func readLedger(path string) ([]entry, error) {
	var out []entry
	err := readLines(path, func(line string) error {
		var e entry
		_, err := fmt.Sscanf(line, "%d %d %s %d %d", &e.Shop, &e.ID, &e.Token, &e.At, &e.Wait)
		out = append(out, e)
		return err
	})
	return out, err
}

// A requestKind is what a request was for.
type requestKind byte

const (
	pageRequest     requestKind = 'p'
	cartRequest     requestKind = 'c'
	checkoutRequest requestKind = 'o'
)

// A sample is how long one answer took.
type sample struct {
	kind  requestKind
	start int64 // Unix nanoseconds
	took  time.Duration
}

func writeSamples(path string, samples []sample) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	w := bufio.NewWriter(f)
	for _, s := range samples {
		fmt.Fprintf(w, "%c %d %d\n", s.kind, s.start, s.took)
	}
	return w.Flush()
}

func readSamples(path string) ([]sample, error) {
	var out []sample
	err := readLines(path, func(line string) error {
		var s sample
		_, err := fmt.Sscanf(line, "%c %d %d", &s.kind, &s.start, &s.took)
		out = append(out, s)
		return err
	})
	return out, err
}

func readLines(path string, each func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		if err := each(in.Text()); err != nil {
			return fmt.Errorf("%s, line %d: %w", path, n, err)
		}
	}
	return in.Err()
}
