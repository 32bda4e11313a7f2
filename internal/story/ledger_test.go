package story

import (
	"bufio"
	"fmt"
	"os"

	"github.com/podworks/podworks"
)

// A verdict is what a ledger and the databases make of each other.
type verdict struct {
	Acknowledged int64 // orders
	Unknown      int64
	Lost         int64 // acknowledged orders that the owner doesn't have, or counts that are too low
	Doubled      int64 // counts that are too high
	Stray        int64 // orders that only the other pod has
	Stuck        bool  // no pod, or both, would take the shop's writes
}

func (v verdict) clean() bool { return v.Lost == 0 && v.Doubled == 0 && v.Stray == 0 && !v.Stuck }

// judge compares the ledger with what the databases hold, after the writer has
// ended. A shop's rows are in the pod that the directory names; those in the
// other are what the last move left, and every one of them came along.
func (w *world) judge() verdict {
	w.t.Helper()
	var v verdict
	pod := w.where()
	orders, counts := w.rows(pod)
	file, err := os.Open(w.settings.Ledger)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	acknowledged, unknown := map[int]int64{}, map[int]int64{}
	for sc := bufio.NewScanner(file); sc.Scan(); {
		var kind string
		var writer int
		var order int64
		if _, err := fmt.Sscanf(sc.Text(), "%s %d %d", &kind, &writer, &order); err != nil {
			w.t.Fatalf("the ledger has %q: %v", sc.Text(), err)
		}
		switch kind {
		case "A":
			acknowledged[writer]++
			for i := range rowsOf(writer) {
				v.Acknowledged++
				if !orders[order+i] {
					v.Lost++
				}
			}
		case "U":
			unknown[writer]++
			v.Unknown++
		}
	}
	for i := range writers + 1 {
		n := counts[int64(i)]
		v.Lost += max(0, acknowledged[i]-n)
		v.Doubled += max(0, n-acknowledged[i]-unknown[i])
	}
	left, _ := w.rows(other(pod))
	for order := range left {
		if !orders[order] {
			v.Stray++
		}
	}
	owners := w.owners()
	v.Stuck = len(owners) != 1 || owners[0] != pod
	return v
}

func (w *world) rows(pod podworks.PodID) (orders map[int64]bool, counts map[int64]int64) {
	w.t.Helper()
	orders, counts = map[int64]bool{}, map[int64]int64{}
	for _, q := range []string{`SELECT id, 0 FROM orders WHERE shop_id = ?`, `SELECT id, n FROM counters WHERE shop_id = ?`} {
		rows, err := w.pods[pod].QueryContext(w.ctx, q, int64(w.settings.Shop))
		if err != nil {
			w.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, n int64
			if err := rows.Scan(&id, &n); err != nil {
				w.t.Fatal(err)
			}
			if q[len("SELECT id, ")] == '0' {
				orders[id] = true
			} else {
				counts[id] = n
			}
		}
		if err := rows.Err(); err != nil {
			w.t.Fatal(err)
		}
	}
	return orders, counts
}
