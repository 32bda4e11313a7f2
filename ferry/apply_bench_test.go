package ferry_test

import (
	"bytes"
	"cmp"
	"database/sql"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/binlog"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/internal/testcluster"
)

// BenchmarkCatchUp is how fast a move comes up with a log that it is behind. A shop of
// 300,000 rows in two tables of some 80 and 250 bytes is copied; what changes in it is
// written to the log while the applier is held: transactions of 1 to 1,000 rows, most
// of them updates, some inserts and deletes. Both servers are durable. From the
// release to the last change's place being written on the target it is measured, with
// the CPU time of the three processes; and what memory this one has taken at most. PODWORKS_CHANGES is how many rows change,
// 1,000,000 for the figure that is published.
func BenchmarkCatchUp(b *testing.B) {
	want, err := strconv.Atoi(cmp.Or(os.Getenv("PODWORKS_CHANGES"), "20000"))
	if err != nil {
		b.Fatal(err)
	}
	seed := rand.Uint64() >> 16
	if text := os.Getenv("PODWORKS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	for _, f := range testcluster.Families() {
		b.Run(string(f), func(b *testing.B) {
			b.Logf("PODWORKS_SEED=%d", seed)
			for range b.N {
				catchUp(b, f, want, rand.New(rand.NewPCG(seed, 1)))
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func catchUp(b *testing.B, f testcluster.Family, want int, rng *rand.Rand) {
	const shop, rows = 7, 150_000 // of each table
	ctx := b.Context()
	opts := testcluster.MySQLOptions{Family: f, Durable: true, TCP: true, Args: []string{"--innodb-buffer-pool-size=512M", "--local-infile=ON", "--innodb-log-file-size=512M"}}
	if f == testcluster.MySQL {
		opts.Args[2] = "--innodb-redo-log-capacity=512M"
	}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	var servers [2]*testcluster.MySQLServer
	var dbs [2]*sql.DB
	pods := map[podworks.PodID]*mysql.Config{}
	for i := range servers {
		servers[i] = testcluster.Start(b, &opts)
		cfg := servers[i].Config(testcluster.Database(b, servers[i]))
		cfg.Net, cfg.Addr, cfg.InterpolateParams = "tcp", servers[i].Addr(), true
		pods[podworks.PodID(i+1)] = cfg
		c, err := mysql.NewConnector(cfg)
		must(err)
		dbs[i] = sql.OpenDB(c)
		defer dbs[i].Close()
		for _, stmt := range []string{
			`CREATE TABLE products (id BIGINT NOT NULL PRIMARY KEY, shop_id BIGINT NOT NULL, sku VARCHAR(40) NOT NULL, price DECIMAL(10,2) NOT NULL, stock INT NOT NULL, updated_at DATETIME NOT NULL, KEY (shop_id, id))`,
			`CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, shop_id BIGINT NOT NULL, token CHAR(64) NOT NULL, email VARCHAR(80) NOT NULL, note TEXT, total DECIMAL(12,2) NOT NULL, created_at DATETIME NOT NULL, KEY (shop_id, id))`,
		} {
			_, err := dbs[i].ExecContext(ctx, stmt)
			must(err)
		}
	}
	source, target := dbs[0], dbs[1]
	change := func(query string, args ...any) int {
		b.Helper()
		res, err := source.ExecContext(ctx, query, args...)
		must(err)
		n, err := res.RowsAffected()
		must(err)
		return int(n)
	}
	const numbers = ` FROM (WITH RECURSIVE r AS (SELECT ? AS n UNION ALL SELECT n + 1 FROM r WHERE n < ?) SELECT n FROM r) AS numbers`
	inserts := []string{
		`INSERT INTO products SELECT n, 7, LEFT(SHA2(n, 256), 40), n % 1000 + 0.25, n % 500, '2026-01-01'` + numbers,
		`INSERT INTO orders SELECT n, 7, SHA2(n, 256), CONCAT(LEFT(SHA2(n + 1, 256), 20), '@example.com'), CONCAT(SHA2(n + 2, 256), ' ', SHA2(n + 3, 256)), n % 5000 + 0.5, '2026-01-01'` + numbers,
	}
	next := []int{1, 1}
	for i, insert := range inserts {
		for ; next[i] <= rows; next[i] += 1000 {
			change(insert, next[i], next[i]+999)
		}
	}

	dir := ferry.NewTables(source)
	must(dir.Migrate(ctx))
	for pod := range pods {
		must(dir.AddPod(ctx, pod, "here"))
	}
	fy, err := ferry.New(dir, pods, nil)
	must(err)
	must(fy.Migrate(ctx))
	_, err = dir.AddShop(ctx, shop, 1)
	must(err)
	must(fence.Create(ctx, source, shop))

	write := func() (changed int) {
		for changed < want {
			table, n := rng.IntN(2), int(math.Exp(rng.Float64()*math.Log(1000)))
			low := 1 + rng.IntN(rows-n)
			switch kind := rng.IntN(20); {
			case kind == 0:
				changed += change([]string{`DELETE FROM products`, `DELETE FROM orders`}[table]+` WHERE id BETWEEN ? AND ?`, low, low+n/4)
			case kind <= 2:
				changed += change(inserts[table], next[table], next[table]+n-1)
				next[table] += n
			default:
				changed += change([]string{`UPDATE products SET stock = stock + 1, updated_at = NOW()`, `UPDATE orders SET total = total + 1`}[table]+` WHERE id BETWEEN ? AND ?`, low, low+n-1)
			}
		}
		return changed
	}
	place := func() (p binlog.Position) {
		var text string
		must(target.QueryRowContext(ctx, `SELECT position FROM podworks_ferry_tail WHERE shop_id = ?`, shop).Scan(&text))
		p, err := binlog.ParsePosition(text)
		must(err)
		return p
	}
	stream, err := binlog.New(pods[1], nil)
	must(err)
	var hold sync.RWMutex
	var tr trail
	tr.at = map[string]func(){"verify": func() {
		hold.Lock()
		changed := write()
		end, err := stream.Now(ctx)
		must(err)
		change(inserts[0], next[0], next[0]) // whose place is behind that
		before := [3]time.Duration{cpuTime(servers[0].Pid()), cpuTime(servers[1].Pid()), cpuTime(os.Getpid())}
		start := time.Now()
		hold.Unlock()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for order := -1; order <= 0; {
			<-tick.C
			order, _ = place().Compare(end)
		}
		b.ReportMetric(float64(changed)/time.Since(start).Seconds(), "rows/s")
		for i, of := range []string{"source", "target", "mover"} {
			now := cpuTime([]int{servers[0].Pid(), servers[1].Pid(), os.Getpid()}[i])
			b.ReportMetric(float64((now-before[i]).Microseconds())/float64(changed), of+"-µs/row")
		}
		b.ReportMetric(float64(peakMemory("self"))/1024, "peak-MB")
	}}
	hooked := hook.With(ctx, &hook.Set{Step: func(step string) {
		if step == "apply" {
			hold.RLock()
			defer hold.RUnlock()
		}
		tr.hear(step)
	}})
	_, err = fy.Move(hooked, shop, 2)
	must(err)
}

// cpuTime is what a process has used, in ticks of 10 ms.
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // not Linux
	}
	var user, system int64
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	user, _ = strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ = strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
