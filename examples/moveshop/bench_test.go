package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

var (
	roundsFlag = flag.Int("rounds", 3, "rounds of each contest")
	rowsFlag   = flag.Int("contest-rows", 300_000, "rows of the shop that is moved")
)

// A sample is what a turn measured, by units.
type sample map[string]float64

// A mover is one way to bring the shop from the source to the target.
type mover struct {
	name string
	turn func(b *testing.B, a *arena) sample
}

// An arena is where movers take their turns: a source with the shop, and a target
// that each finds empty.
type arena struct {
	source, target *testcluster.MySQLServer
	master         *sql.DB
	job            job
}

// BenchmarkMove holds ferry against Ghostferry, and against what moves rows and
// verifies nothing. All take their turns in each round, so that a machine that has
// other things to do treats them alike; who begins changes from round to round. A
// line is one mover: medians of the rounds, and of the ratios of each round.
//
//	make bench-ferry ARGS='-rounds 10'
//
// Ghostferry runs as a process, from the ready binary that PODWORKS_GHOSTFERRY
// names or that is on the path as ghostferry-sharding; without it its lines are missing, and the output says so.
func BenchmarkMove(b *testing.B) {
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			movers := []mover{{"ferry", byFerry}, {"ferry-insert", byInsert}}
			if f == testcluster.MySQL {
				movers = append(movers, ghostferries(b)...)
			}
			movers = append(movers, mover{"dump-unverified", byDump}, mover{"load-unverified", byLoad})
			a := newArena(b, f)
			if err := fill(b.Context(), a.source, a.target, *rowsFlag); err != nil {
				b.Fatal(err)
			}
			fmt.Printf("%s-rows: %d\n", f, *rowsFlag)
			contest(b, a, movers)
		})
	}
}

// contest gives every mover its turn in every round, and reports a line of each.
func contest(b *testing.B, a *arena, movers []mover) {
	samples := make(map[string][]sample)
	order := slices.Clone(movers)
	for round := range *roundsFlag {
		for _, m := range order {
			a.clear(b)
			s := m.turn(b, a)
			a.same(b, m.name)
			// A contest takes minutes, and the medians come at its end.
			fmt.Printf("# %s, round %d: %s took %.2f s\n", a.source.Family(), round+1, m.name, s["s"])
			samples[m.name] = append(samples[m.name], s)
		}
		order = append(order[1:], order[0])
	}
	for _, m := range movers {
		b.Run(m.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // of no meaning: leaves it out
			for unit := range samples[m.name][0] {
				b.ReportMetric(median(samples[m.name], func(i int) float64 { return samples[m.name][i][unit] }), unit)
			}
			for _, than := range movers {
				if than.name != m.name && strings.HasPrefix(than.name, "ghostferry") {
					b.ReportMetric(median(samples[m.name], func(i int) float64 {
						return samples[m.name][i]["rows/s"] / samples[than.name][i]["rows/s"]
					}), "x-"+than.name)
				}
			}
		})
	}
}

func median(of []sample, value func(i int) float64) float64 {
	var all []float64
	for i := range of {
		all = append(all, value(i))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// newArena starts the servers and prints their settings, as configuration lines of
// the benchmark's format.
func newArena(b *testing.B, f testcluster.Family) *arena {
	source, target, err := startServers(b.Context(), f)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { source.Stop(); target.Stop() })
	a := &arena{source: source, target: target, job: job{
		pods:   map[podworks.PodID]*mysql.Config{sourcePod: config(source, podDatabase), targetPod: config(target, podDatabase)},
		master: config(source, ownMaster),
		shop:   ownShop,
		write:  ownWrite,
		load:   oneWriter,
	}}
	if a.master, err = open(a.job.master); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { a.master.Close() })
	a.reset(b)
	from, to, err := a.job.settings(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		fmt.Printf("%s-%s: %s\n", f, name, from[name])
		if from[name] != to[name] {
			b.Fatalf("%s is %s on the source and %s on the target", name, from[name], to[name])
		}
	}
	return a
}

// reset makes all databases anew, with these tables in both pods.
func (a *arena) reset(b *testing.B, tables ...string) {
	if err := recreate(b.Context(), a.source, podDatabase, tables); err != nil {
		b.Fatal(err)
	}
	a.clearTarget(b, tables)
}

// clearTarget makes the target's and the directory's anew.
func (a *arena) clearTarget(b *testing.B, tables []string) {
	err := recreate(b.Context(), a.target, podDatabase, tables)
	if err == nil {
		err = recreate(b.Context(), a.source, ownMaster, nil)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// clear takes away what the last mover brought, with its tables and the directory's.
func (a *arena) clear(b *testing.B) {
	a.clearTarget(b, ownTables)
	source, target := a.open(b, sourcePod), a.open(b, targetPod)
	rows, err := variables(b.Context(), a.job.pods[sourcePod], `SELECT table_name, '' FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'podworks%'`)
	if err != nil {
		b.Fatal(err)
	}
	for name := range rows {
		a.exec(b, source, `DROP TABLE `+name)
	}
	for _, db := range []*sql.DB{source, target} {
		a.exec(b, db, `FLUSH BINARY LOGS`) // the one in use isn't purged
		a.exec(b, db, `PURGE BINARY LOGS BEFORE NOW()`)
	}
}

// same fails the benchmark if rows of the shop are missing or too many.
func (a *arena) same(b *testing.B, name string) {
	const query = `SELECT 'rows', (SELECT COUNT(*) FROM products WHERE shop_id = 7) + (SELECT COUNT(*) FROM orders WHERE shop_id = 7)`
	got, err := variables(b.Context(), a.job.pods[targetPod], query)
	if err != nil {
		b.Fatal(err)
	}
	if want := fmt.Sprint(*rowsFlag); got["rows"] != want {
		b.Fatalf("%s has brought %s rows, want %s", name, got["rows"], want)
	}
}

func (a *arena) open(b *testing.B, pod podworks.PodID) *sql.DB {
	db, err := open(a.job.pods[pod])
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

func (a *arena) exec(b *testing.B, db *sql.DB, query string) {
	if _, err := db.ExecContext(b.Context(), query); err != nil {
		b.Fatalf("%s: %v", query, err)
	}
}

func byFerry(b *testing.B, a *arena) sample { return byFerryWith(b, a, "load data") }

// byInsert has a target that doesn't take files.
func byInsert(b *testing.B, a *arena) sample {
	target := a.open(b, targetPod)
	a.exec(b, target, `SET GLOBAL local_infile = 0`)
	defer a.exec(b, target, `SET GLOBAL local_infile = 1`)
	return byFerryWith(b, a, "insert")
}

func byFerryWith(b *testing.B, a *arena, method string) sample {
	j := a.job
	peak := peakMemory()
	r, err := j.run(b.Context(), newProgress(io.Discard))
	if err != nil {
		b.Fatal(err)
	}
	if !r.Verified || r.Differences != 0 || r.WriteMethod != method {
		b.Fatalf("verified %v, %d differences, by %s; want true, 0, %s", r.Verified, r.Differences, r.WriteMethod, method)
	}
	s := sample{"rows/s": r.RowsPerS, "s": r.Seconds, "pause-ms": r.WritePauseMS}
	if bytes, ok := peak(); ok {
		s["peak-MB"] = float64(bytes) / 1e6
	}
	return s
}

// peakMemory returns a function that says how much memory this process, which is the
// mover's, has had at most since, if the system tells. What the benchmark itself has
// is part of it.
func peakMemory() func() (bytes int64, ok bool) {
	debug.FreeOSMemory()
	fresh := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) == nil // begins VmHWM anew
	return func() (int64, bool) {
		status, _ := os.ReadFile("/proc/self/status")
		_, rest, ok := strings.Cut(string(status), "VmHWM:")
		var kB int64
		n, _ := fmt.Sscan(rest, &kB)
		return 1024 * kB, fresh && ok && n == 1
	}
}

// timed returns how many seconds do takes.
func timed(do func() error) (float64, error) {
	began := time.Now()
	err := do()
	return time.Since(began).Seconds(), err
}

// rate is the sample of a mover that knows no pause.
func rate(seconds float64) sample {
	return sample{"rows/s": float64(*rowsFlag) / seconds, "s": seconds}
}

// byDump pipes mysqldump into mysql, whichever family's they are.
func byDump(b *testing.B, a *arena) sample {
	at := func(s *testcluster.MySQLServer, args ...string) []string {
		return append([]string{"--no-defaults", "--protocol=tcp", "--host=127.0.0.1", fmt.Sprint("--port=", s.Port()), "--user=root"}, args...)
	}
	dump := exec.CommandContext(b.Context(), "mysqldump", at(a.source, "--single-transaction", "--no-create-info", "--skip-triggers",
		"--skip-add-locks", "--no-tablespaces", fmt.Sprintf("--where=shop_id = %d", ownShop), podDatabase, "products", "orders")...)
	load := exec.CommandContext(b.Context(), "mysql", at(a.target, podDatabase)...)
	var said lastWords
	dump.Stderr, load.Stderr = &said, &said
	seconds, err := timed(func() (err error) {
		if load.Stdin, err = dump.StdoutPipe(); err != nil {
			return err
		}
		if err := load.Start(); err != nil {
			return err
		}
		if err := dump.Run(); err != nil {
			load.Wait()
			return err
		}
		return load.Wait()
	})
	if err != nil {
		b.Fatalf("mysqldump | mysql: %v: %s", err, &said)
	}
	return rate(seconds)
}

// byLoad loads both tables at once from files on the target's machine, which were
// ready before: what the servers allow at most.
func byLoad(b *testing.B, a *arena) sample {
	source, target := a.open(b, sourcePod), a.open(b, targetPod)
	dir := b.TempDir()
	for _, table := range []string{"products", "orders"} {
		a.exec(b, source, fmt.Sprintf(`SELECT * FROM %s WHERE shop_id = %d INTO OUTFILE '%s/%s'`, table, ownShop, dir, table))
	}
	seconds, err := timed(func() error {
		var wg sync.WaitGroup
		for _, table := range []string{"products", "orders"} {
			wg.Go(func() { a.exec(b, target, fmt.Sprintf(`LOAD DATA INFILE '%s/%s' INTO TABLE %s`, dir, table, table)) })
		}
		wg.Wait()
		return context.Cause(b.Context())
	})
	if err != nil {
		b.Fatal(err)
	}
	return rate(seconds)
}
