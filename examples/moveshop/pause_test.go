package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

var movesFlag = flag.Int("moves", 0, "moves of each line of BenchmarkPause; default: 100, and 10 of large shops")

// A scene is what is in a shop, and goes on in it, while it is moved.
type scene struct {
	name                       string
	moves                      int
	products, orders, variants int
	write                      string // the writer's; %d is what the shop's ids are behind
	load                       load
	large                      bool // a transaction that changes all orders is under way when the cutover begins
}

var scenes = []scene{
	{
		name: "idle", moves: 100, products: 500, orders: 500,
		write: `UPDATE products SET stock = stock + 1 WHERE id = %d + 2`, load: oneWriter,
	}, {
		name: "1000-writes", moves: 100, products: 500, orders: 500,
		write: `UPDATE products SET stock = stock + 1 WHERE id = %d + 2 + 2 * (MICROSECOND(NOW(6)) %% 500)`,
		load:  load{Sessions: 10, Every: 10 * time.Millisecond},
	}, {
		name: "50k-joined", moves: 10, products: 500, orders: 500, variants: 50_000,
		write: `UPDATE variants SET title = UUID() WHERE id = %d + 1 + MICROSECOND(NOW(6)) %% 50000`, load: oneWriter,
	}, {
		name: "50k-row-transaction", moves: 10, products: 500, orders: 50_000, large: true,
		write: `UPDATE products SET stock = stock + 1 WHERE id = %d + 2`, load: oneWriter,
	},
}

// Variants are the shop's by their products.
const (
	variantsTable = `CREATE TABLE variants (id BIGINT NOT NULL PRIMARY KEY, product_id BIGINT NOT NULL, title VARCHAR(80) NOT NULL, KEY (product_id))`
	fillVariants  = `INSERT INTO variants SELECT ? + n, ? + 2 + 2 * (n %% %d), CONCAT('variant ', n)` + numbers
)

// felt is how long a write waits for the fence that is taken to wait for the mover: with
// nobody else there it is a small part of that.
const felt = 5 * time.Millisecond

// BenchmarkPause moves one shop after the other, and reports how long their writers
// waited, as a writer in a process of its own saw it: the longest write of each move
// that met the closed shop, its commit and its way to the target included. in-all
// adds up what one session waited for the fence since the cutover began, so in tries
// that stepped back, too.
func BenchmarkPause(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			a := newArena(b, f)
			for _, s := range scenes {
				b.Run(s.name, func(b *testing.B) {
					if *movesFlag > 0 {
						s.moves = *movesFlag
					}
					a.play(b, s)
				})
			}
		})
	}
}

// play moves the shops of a scene.
func (a *arena) play(b *testing.B, s scene) {
	ctx := b.Context()
	a.reset(b, append(slices.Clone(ownTables), variantsTable)...)
	db := a.open(b, sourcePod)
	for shop := 1; shop <= s.moves; shop++ {
		if err := fillShop(ctx, db, shop, after(shop), s.products, s.orders); err != nil {
			b.Fatal(err)
		}
		for from := 1; from <= s.variants; from += 10_000 {
			if _, err := db.ExecContext(ctx, fmt.Sprintf(fillVariants, s.products), after(shop), after(shop), from, from+9_999); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := analyze(ctx, db, "products", "orders", "variants"); err != nil {
		b.Fatal(err)
	}
	var longest, all, took []time.Duration
	var written, seconds float64
	var back, rolledBack int
	for shop := 1; shop <= s.moves; shop++ {
		j := a.job
		j.shop, j.write, j.load = podworks.ShopID(shop), fmt.Sprintf(s.write, after(shop)), s.load
		j.opts.Tables = map[string]ferry.Rule{"variants": {Through: []ferry.Ref{{Column: "product_id", Table: "products"}}}}
		stages := &stages{tell: newProgress(io.Discard).show}
		var large <-chan error
		if s.large {
			begin := sync.OnceFunc(func() { large = a.largeTransaction(b, j.shop) })
			stages.tell = func(p ferry.Progress) {
				if p.Step == "cutover" {
					begin()
				}
			}
		}
		j.opts.Progress = stages.hear
		f, err := j.prepare(ctx, a.master)
		if err != nil {
			b.Fatal(err)
		}
		m, err := j.moveUnderWrites(ctx, f, stages)
		if err != nil {
			b.Fatal(err)
		}
		if m.report.Evidence.Switch == nil || !m.report.Evidence.Switch.Equal() {
			b.Fatalf("rows differ, or could not be compared: %v", m.report.Evidence)
		}
		l, err := m.pause()
		if err != nil {
			b.Fatal(err)
		}
		var w time.Duration
		for _, one := range m.writes {
			if one.met(stages.at("cutover"), stages.at("opened")) && one.waited() >= felt {
				w += one.waited()
			}
		}
		if n, last := failures(m.writes); n > 0 {
			fmt.Printf("# shop %d: %d writes had to be tried again, the last one after: %s\n", shop, n, last)
		}
		if s.large {
			if err := <-large; err != nil {
				rolledBack++
				fmt.Printf("# shop %d: the large transaction: %v\n", shop, err)
			}
		}
		if testing.Verbose() {
			fmt.Printf("# shop %d: the writer waited %v, in all %v; the mover says %v after %d steps back, predicted %v: %v\n",
				shop, l, w, m.report.Pause, m.report.StepsBack, m.report.Predicted, steps(m.report.Evidence))
		}
		if l > 0 { // else no write met the pause, which says nothing of how long it was
			longest = append(longest, l)
		}
		all, took = append(all, w), append(took, stages.at("opened").Sub(m.called))
		back += m.report.StepsBack
		written += float64(len(m.writes))
		seconds += float64(m.writes[len(m.writes)-1].Ended-m.writes[0].Began) / 1e9
	}
	if len(longest) == 0 {
		b.Fatal("no write met a pause")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(s.moves), "moves")
	b.ReportMetric(float64(s.moves-len(longest)), "unseen")
	b.ReportMetric(milliseconds(quantile(longest, 0.5)), "p50-ms")
	b.ReportMetric(milliseconds(quantile(longest, 0.99)), "p99-ms")
	b.ReportMetric(milliseconds(quantile(longest, 1)), "max-ms")
	b.ReportMetric(quantile(took, 0.5).Seconds(), "s/move")
	b.ReportMetric(written/seconds, "writes/s")
	b.ReportMetric(float64(back)/float64(s.moves), "steps-back")
	if s.large {
		b.ReportMetric(milliseconds(quantile(all, 0.5)), "in-all-p50-ms")
		b.ReportMetric(milliseconds(quantile(all, 1)), "in-all-max-ms")
		b.ReportMetric(float64(rolledBack), "rolled-back")
	}
}

// after is what a shop's ids are behind.
func after(shop int) int { return shop * 1_000_000 }

// steps are the times of a cutover's steps since the one before.
func steps(e *ferry.Evidence) (list []string) {
	var last time.Time
	for _, s := range e.Steps {
		if !last.IsZero() {
			list = append(list, fmt.Sprintf("%v %s", s.At.Sub(last).Round(100*time.Microsecond), s.Step))
		}
		if last = s.At; s.Step == "opened" {
			break
		}
	}
	return list
}

// largeTransaction returns when the transaction has the shop's fence. What becomes of
// it comes later: a mover ends one that outlasts its tries.
func (a *arena) largeTransaction(b *testing.B, shop podworks.ShopID) <-chan error {
	tx, err := a.open(b, sourcePod).BeginTx(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	if row, err := fence.Read(b.Context(), tx, shop, "LOCK IN SHARE MODE"); err != nil || row.State != fence.Open {
		b.Fatalf("the fence of shop %d is %v, %v", shop, row, err)
	}
	ended := make(chan error, 1)
	go func() {
		defer tx.Rollback()
		_, err := tx.ExecContext(b.Context(), `UPDATE orders SET total = total + 1 WHERE shop_id = ?`, int64(shop))
		if err == nil {
			err = tx.Commit()
		}
		ended <- err
	}()
	return ended
}

// quantile returns the smallest of the values that q of all are not above.
func quantile(values []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
