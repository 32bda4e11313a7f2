// The five steps in a row, and back.
package monolith_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/examples/monolith/shoptest"
	step1 "github.com/podworks/podworks/examples/monolith/step1"
	step2 "github.com/podworks/podworks/examples/monolith/step2"
	step3 "github.com/podworks/podworks/examples/monolith/step3"
	step4 "github.com/podworks/podworks/examples/monolith/step4"
	step5 "github.com/podworks/podworks/examples/monolith/step5"
	"github.com/podworks/podworks/internal/leak"
	"github.com/podworks/podworks/internal/testcluster"
)

func TestMain(m *testing.M) {
	os.Exit(leak.Check(testcluster.Main(m), "database/sql.(*DB)", "podworks/ferry."))
}

// A process is one of step 2 and later.
type process interface {
	shoptest.App
	Install(context.Context) error
	Expand(context.Context) error
	Contract(context.Context) error
	Revert(context.Context) error
	Forget(context.Context) error
	Close() error
}

// A site is where the application is installed: the monolith's database, the
// master database on the same server, and a second pod on another.
type site struct {
	t             *testing.T
	one, two      *testcluster.MySQLServer
	first, second *mysql.Config
	master        *mysql.Config
}

func newSite(t *testing.T, f testcluster.Family) *site {
	t.Helper()
	s := &site{t: t, one: testcluster.Server(t, f), two: testcluster.Shared(t, f, "two")}
	s.first = s.one.Config(testcluster.Database(t, s.one))
	s.master = s.one.Config(testcluster.Database(t, s.one))
	s.second = s.two.Config(testcluster.Database(t, s.two))
	return s
}

// open starts a process of a step. New shops open in that pod.
func (s *site) open(step int, opening podworks.PodID) process {
	s.t.Helper()
	var p process
	var err error
	switch step {
	case 2:
		p, err = step2.New(s.first)
	case 3:
		p, err = step3.New(s.first, s.master)
	case 4:
		p, err = step4.New(s.first, s.master)
	case 5:
		p, err = step5.New(map[podworks.PodID]*mysql.Config{1: s.first, 2: s.second}, s.master, opening)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if r, ok := p.(interface{ Run(context.Context) error }); ok {
		wg.Go(func() { _ = r.Run(ctx) }) // why it ended is that we cancelled it
	}
	s.t.Cleanup(func() {
		cancel()
		wg.Wait()
		p.Close()
	})
	return p
}

func (s *site) open1() *step1.App {
	s.t.Helper()
	p, err := step1.New(s.first)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.Close() })
	return p
}

// do ends the test if a phase fails.
func (s *site) do(what string, phase func(context.Context) error) {
	s.t.Helper()
	for range 2 { // each may be run again
		if err := phase(s.t.Context()); err != nil {
			s.t.Fatalf("%s: %v", what, err)
		}
	}
}

// The whole way, and back: every step is deployed beside the one before, with
// buyers in the shops all the time. Not one of their requests fails, and at each
// place every order that was ever acknowledged is there, once.
func TestAMonolithBecomesShardedAndIsOneAgainWhileItSells(t *testing.T) {
	t.Parallel()
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		s := newSite(t, f)
		monolith := s.open1()
		s.do("install", monolith.Install)
		m := shoptest.New(t, monolith, s.open1())
		m.Lag = 5 * time.Second
		m.Suite()

		busy := m.OpenShop("Busy")
		p := m.Stock(busy, "Everybody's", 700, 1_000_000)
		stop := m.Busy(busy, p, 2, 25*time.Millisecond)
		defer stop()

		var now process
		var before shoptest.App = monolith
		for step := 2; step <= 5; step++ {
			now = s.open(step, 1)
			s.do(fmt.Sprint("expand ", step), now.Expand)
			m.SignedUp = s.signedUp(now)
			m.Fleet.Deploy(before, now)
			m.Suite()
			m.Fleet.Deploy(now, s.open(step, 1))
			m.SignedUp = nil
			s.do(fmt.Sprint("contract ", step), now.Contract)
			m.Suite()
			m.Audit()
			s.asInstalled(step)
			before = now
			if t.Failed() {
				t.Fatalf("it was at step %d", step)
			}
		}

		// Two pods: the busy shop goes to the second, where new ones open now.
		five := s.open(5, 2).(*step5.App)
		m.Fleet.Deploy(five, s.open(5, 2))
		report, err := five.Move(t.Context(), busy.ID, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("moved %d rows and %d changes in %v; writers waited %v", report.RowsCopied, report.RowChanges, report.Took, report.Pause)
		m.Suite()
		m.Audit()
		now = s.open(5, 1)
		m.Fleet.Deploy(now, s.open(5, 1))

		for step := 5; step >= 2; step-- {
			s.do(fmt.Sprint("revert ", step), now.Revert)
			m.SignedUp = s.signedUp(now)
			var back process
			var old shoptest.App = monolith
			if step > 2 {
				back = s.open(step-1, 1)
				old = back
			}
			m.Fleet.Deploy(now, old)
			m.Suite()
			m.Fleet.Deploy(old)
			m.SignedUp = nil
			s.do(fmt.Sprint("forget ", step), now.Forget)
			m.Suite()
			m.Audit()
			if step == 2 {
				s.asInstalled(1)
			}
			now = back
			if t.Failed() {
				t.Fatalf("it was on the way back to step %d", step-1)
			}
		}
		s.do("expand 2 once more", s.open(2, 1).Expand) // nothing is in the way of a second try
		t.Logf("%d orders on the way, %d of them in the busy shop", m.Orders(), stop())
		m.Audit()
	})
}

// signedUp returns what has to be done for a new shop while processes of step 2
// and step 3 run: the former don't know of the directory.
func (s *site) signedUp(p process) func() {
	three, ok := p.(*step3.App)
	if !ok {
		return nil
	}
	return func() { s.do("back-fill the directory", three.Backfill) }
}

// asInstalled checks that the databases have the schema that a new installation
// of a step has.
func (s *site) asInstalled(step int) {
	s.t.Helper()
	fresh := *s
	fresh.first = s.one.Config(testcluster.Database(s.t, s.one))
	fresh.master = s.one.Config(testcluster.Database(s.t, s.one))
	fresh.second = s.two.Config(testcluster.Database(s.t, s.two))
	install := fresh.open1().Install
	if step > 1 {
		install = fresh.open(step, 1).Install
	}
	if err := install(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	for _, db := range []struct {
		name      string
		got, want []string
	}{
		{"the first pod", s.schema(s.first), s.schema(fresh.first)},
		{"the master database", own(s.schema(s.master)), own(s.schema(fresh.master))},
	} {
		if !reflect.DeepEqual(db.got, db.want) {
			s.t.Errorf("step %d: %s has\n%s\nand newly installed\n%s", step, db.name, strings.Join(db.got, "\n"), strings.Join(db.want, "\n"))
		}
	}
}

// schema lists a database's columns and keys.
func (s *site) schema(cfg *mysql.Config) (list []string) {
	s.t.Helper()
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	rows, err := db.QueryContext(s.t.Context(), `
		SELECT CONCAT_WS(' ', c.table_name, t.table_type, c.ordinal_position, c.column_name, c.column_type, c.is_nullable, c.extra) AS line
			FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name) WHERE c.table_schema = DATABASE()
		UNION ALL SELECT CONCAT_WS(' ', table_name, index_name, non_unique, seq_in_index, column_name) FROM information_schema.statistics WHERE table_schema = DATABASE()
		UNION ALL SELECT CONCAT_WS(' ', event_object_table, trigger_name) FROM information_schema.triggers WHERE trigger_schema = DATABASE()
		ORDER BY line`)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			s.t.Fatal(err)
		}
		list = append(list, line)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return list
}

// own leaves the suite's tables out: those in the master stay until it is dropped.
func own(schema []string) (list []string) {
	for _, line := range schema {
		if !strings.HasPrefix(line, "podworks_") {
			list = append(list, line)
		}
	}
	return list
}
