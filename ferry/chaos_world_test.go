package ferry_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/internal/fence"
	"github.com/podworks/podworks/internal/testcluster"
)

// A chaos is a world of one seed.
type chaos struct {
	t       *testing.T
	a       *arena
	seed    uint64
	size    chaosSize
	rng     *rand.Rand
	tables  []chaosTable
	master  *sql.DB
	pods    map[podworks.PodID]*sql.DB
	configs map[podworks.PodID]*mysql.Config
	dir     ferry.Tables
	ferry   *ferry.Ferry
	writer  chaosWriter // what all of them are told
	mover   chaosMover
	writers []*child
	lives   []int // the next of each writer
	still   [2]dump
	passed  map[string]int  // how often the first move passed each step
	first   bool            // it is under way
	swept   map[string]bool // nobody's rows that were deleted, by cell and line
	found   []string        // what is wrong
	tamper  func()          // by a test, before it is looked for
	asleep  []*child        // cleaners that were frozen
}

const chaosWriters = 3

// A chaosSize is how much of it there is.
type chaosSize struct {
	tables   int  // at most, that name the shop
	fill     int  // rows of each writer in each table, to begin with
	blob     int  // bytes of the largest values
	thorough bool // recoverers and cleaners suffer too, and there are large transactions
}

var (
	everyDay = chaosSize{tables: 3, fill: 40, blob: 1 << 20}
	atLength = chaosSize{tables: 5, fill: 150, blob: chaosBlob, thorough: true}
	small    = chaosSize{tables: 1, fill: 20, blob: 1 << 20}
)

// newChaos makes a world; all tables but the only one are left out, if that is above 0.
func newChaos(t *testing.T, a *arena, seed uint64, size chaosSize, only int) *chaos {
	t.Helper()
	c := &chaos{
		t: t, a: a, seed: seed, size: size, rng: rand.New(rand.NewPCG(seed, 1<<20)), tables: chaosSchema(seed, size.tables, only),
		pods: map[podworks.PodID]*sql.DB{}, configs: map[podworks.PodID]*mysql.Config{}, lives: make([]int, chaosWriters),
		passed: map[string]int{}, swept: map[string]bool{},
	}
	dsns := map[podworks.PodID]string{}
	open := func(server string) (*sql.DB, *mysql.Config) {
		cfg := a.servers[server].Config(testcluster.Database(t, a.servers[server]))
		cfg.Params = map[string]string{"sql_mode": `'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'`}
		cfg.Logger = &mysql.NopLogger{} // connections are broken on purpose here
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		t.Cleanup(func() { db.Close() })
		return db, cfg
	}
	var masterConfig *mysql.Config
	c.master, masterConfig = open("master")
	c.pods[1], c.configs[1] = open("source")
	c.pods[2], c.configs[2] = open("target")
	for pod, db := range c.pods {
		for i := range c.tables {
			t, parent := &c.tables[i], "NULL"
			c.exec(db, t.create(a.family))
			// Who lives here and does nothing.
			for n := range int64(20) {
				k := (1 << 20) + n*2 + int64(pod)
				if t.through != "" {
					number, key := c.tables[numbered(c.tables, t.through)].refTo(k)
					parent = number + ", " + key
				}
				c.exec(db, fmt.Sprintf("INSERT INTO %s (%s) VALUES %s", t.name, t.names(), t.row(c.rng, 20+int64(pod), k, fmt.Sprintf("'%d'", n), parent)))
			}
		}
		plain := c.configs[pod].Clone()
		plain.Params = nil
		dsns[pod] = plain.FormatDSN()
	}
	c.dir = ferry.NewTables(c.master)
	c.must(c.dir.Migrate(t.Context()))
	var err error
	c.ferry, err = ferry.New(c.dir, c.configs, chaosOptions(10, rulesOf(c.tables)))
	c.must(err)
	c.must(c.ferry.Migrate(t.Context()))
	for pod, db := range c.pods {
		c.must(c.dir.AddPod(t.Context(), pod, "here"))
		c.settler(pod, db, podworks.ShopID(10+pod))
		c.still[pod-1] = c.stillIn(pod)
	}
	c.settler(1, c.pods[1], 7)
	masterDSN := masterConfig.FormatDSN()
	c.writer = chaosWriter{
		Seed: seed, Family: a.family, Master: masterDSN, Pods: dsns, Shop: 7, Others: map[podworks.PodID]podworks.ShopID{1: 11, 2: 12},
		Writers: chaosWriters, Fill: size.fill, Tables: size.tables, Only: only, Blob: size.blob, Large: size.thorough,
	}
	c.mover = chaosMover{Master: masterDSN, Pods: dsns, Shop: 7, Tables: rulesOf(c.tables)}
	dir := t.TempDir()
	for i := range chaosWriters {
		c.lives[i] = i
		c.writers = append(c.writers, nil)
		c.hire(i, dir)
	}
	return c
}

// wrong notes what the test is there to find.
func (c *chaos) wrong(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

// same notes where two dumps differ.
func (c *chaos) same(what string, got, want dump) {
	for _, d := range differences(got, want) {
		c.wrong("%s: %s", what, d)
	}
}

func (c *chaos) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) exec(db *sql.DB, query string) {
	c.t.Helper()
	if _, err := db.ExecContext(c.t.Context(), query); err != nil {
		c.t.Fatalf("%s: %v", query, err)
	}
}

// settler makes a shop that lives in a pod.
func (c *chaos) settler(pod podworks.PodID, db *sql.DB, shop podworks.ShopID) {
	c.t.Helper()
	_, err := c.dir.AddShop(c.t.Context(), shop, pod)
	c.must(err)
	c.must(fence.Create(c.t.Context(), db, shop))
}

func (c *chaos) stillIn(pod podworks.PodID) dump {
	c.t.Helper()
	d, err := dumpOf(c.t.Context(), c.pods[pod], ownedBy(c.tables, 20+int64(pod)))
	c.must(err)
	return d
}

// hire starts the writer's next life.
func (c *chaos) hire(i int, dir string) {
	c.t.Helper()
	w := c.writer
	if dir != "" {
		c.writer.Path = dir
	}
	w.Number, w.Life, w.Path = i, c.lives[i], filepath.Join(c.writer.Path, fmt.Sprintf("writer-%d-%d", i, c.lives[i]))
	c.writers[i] = startChild(c.t, chaosRole{Writer: &w})
	c.await(c.writers[i], "a new writer", "held")
}

// longest is how long a process is waited for: a mover gives itself two minutes.
const longest = 150 * time.Second

// await reads what a process says until it says one of these, or has ended,
// and returns which; "" for the end.
func (c *chaos) await(p *child, who string, words ...string) string {
	c.t.Helper()
	tooLong, last := time.After(longest), ""
	for {
		select {
		case line, ok := <-p.lines:
			word, rest, _ := strings.Cut(line, " ")
			last = line
			switch {
			case !ok:
				return ""
			case word == "step" && c.first:
				c.passed[rest]++
			case word == "memory":
				n, _ := strconv.ParseInt(rest, 10, 64)
				c.a.memory = max(c.a.memory, n)
			}
			if slices.Contains(words, word) {
				return line
			}
		case <-tooLong:
			c.t.Fatalf("waited for %s to say one of %q for %v; the last it said was %q", who, words, longest, last)
		}
	}
}

// run moves the shop to and fro, first without a fault.
func (c *chaos) run(legs int) {
	for _, w := range c.writers {
		w.say("follow")
	}
	// Each fills its tables first; what it has not done by now, it does meanwhile.
	c.rest(200 * time.Millisecond)
	for leg := range legs {
		route, err := c.dir.Fresh(c.t.Context(), 7)
		c.must(err)
		follow := leg%2 == 1
		c.first = leg == 0
		f := c.draw(leg)
		c.t.Logf("leg %d: from pod %d, %v, writers follow: %v", leg, route.Pod, f, follow)
		for i, w := range c.writers {
			if w == nil {
				c.hire(i, "")
				w = c.writers[i]
			}
			if follow {
				w.say("follow")
			} else {
				w.say("stay")
			}
		}
		c.leg(route, f)
		c.gather()
		if c.tamper != nil {
			c.tamper()
		}
		c.wake()
		c.check(route, follow, f)
		if len(c.found) > 0 {
			return
		}
	}
	for _, w := range c.writers {
		if w != nil { // killed in the last leg
			w.say("end")
		}
	}
}

// rest waits for some time, in which others do something.
func (c *chaos) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

// gather lets the writers come to rest.
func (c *chaos) gather() {
	c.t.Helper()
	for i, w := range c.writers {
		if w == nil {
			c.lives[i] = c.lastLife(i) + chaosWriters
			continue
		}
		w.say("hold")
		for said := ""; said != "held"; { // it may have said before that the shop is gone
			if said = c.await(w, fmt.Sprintf("writer %d", i), "held"); said == "" {
				c.t.Fatalf("writer %d has ended", i)
			}
		}
	}
}

// check looks at everything, while the writers rest.
func (c *chaos) check(from podworks.Route, follow bool, f chaosFault) {
	c.t.Helper()
	ctx := c.t.Context()
	route, err := c.dir.Fresh(ctx, 7)
	c.must(err)
	for pod, db := range c.pods {
		row, err := fence.Read(ctx, db, 7, "")
		c.must(err)
		if open := row.State == fence.Open; open != (pod == route.Pod) || open && row.Epoch != route.Epoch {
			c.wrong("the directory says %+v, the fence of pod %d says %v", route, pod, row)
		}
		if d := c.stillIn(pod); len(differences(d, c.still[pod-1])) > 0 {
			c.wrong("a shop of pod %d that nobody touched has changed: %v", pod, differences(d, c.still[pod-1]))
		}
	}
	if err := trade(ctx, c.pods[route.Pod], 7, route.Epoch, func(*sql.Tx) error { return nil }); err != nil {
		c.wrong("the shop takes no writes in pod %d: %v", route.Pod, err)
	}
	old := 3 - route.Pod
	switch {
	case route == from && c.leftIn(old, route):
		// and will be gone on with, by the next way back
	case route == from:
		c.same("what the move left on the target", c.ofTheShop(old), nothing(c.ofTheShop(old)))
	case !follow:
		c.same("source and target at the switch", c.ofTheShop(route.Pod), c.ofTheShop(old))
	}
	c.compare(route)
	if len(c.found) > 0 || route == from {
		return
	}
	if !f.cleans && (c.seed+uint64(route.Epoch))%2 == 0 { // the next move is a way back
		c.sweep(old)
		return
	}
	c.clean(from, f)
	c.same("what Clean left", c.ofTheShop(old), nothing(c.ofTheShop(old)))
	c.sweep(old)
}

// leftIn reports whether the shop left its rows in a pod when it went to where it is.
func (c *chaos) leftIn(pod podworks.PodID, route podworks.Route) bool {
	c.t.Helper()
	answer, err := ask(c.t.Context(), c.pods[pod], fmt.Sprintf(`SELECT 1 FROM podworks_ferry_left WHERE shop_id = 7 AND pod = %d AND epoch = %d`, route.Pod, route.Epoch))
	c.must(err)
	return len(answer) > 0
}

func (c *chaos) ofTheShop(pod podworks.PodID) dump {
	c.t.Helper()
	d, err := dumpOf(c.t.Context(), c.pods[pod], ownedBy(c.tables, 7))
	c.must(err)
	return d
}

func nothing(d dump) dump {
	out := dump{}
	for table := range d {
		out[table] = nil
	}
	return out
}
