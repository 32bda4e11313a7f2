package story

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/master"
)

// A market is a world whose master is on a server of its own, with a shop in
// each pod, a storefront and buyers, which are other processes.
type market struct {
	*world
	server     *testcluster.MySQLServer
	global     *master.Master
	storefront *process
	buyers     *process
	opened     podworks.ShopID // the last
}

func openMarket(t *testing.T, f testcluster.Family, askMaster bool) *market {
	t.Helper()
	server := testcluster.Shared(t, f, "master")
	m := &market{world: newWorldWith(t, f, server), server: server, opened: 1000}
	s := &m.settings
	s.Key = bytes.Repeat([]byte("k"), 32)
	s.Shops = []podworks.ShopID{1, 2}
	s.AskMaster = askMaster
	for i, shop := range s.Shops {
		pod := podworks.PodID(i + 1)
		if _, err := m.cluster.CreateShop(m.ctx, shop, pod, hostOf(shop)); err != nil {
			t.Fatal(err)
		}
	}
	db, _, err := open(s.Master)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if m.global, err = master.New(db, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.global.Migrate(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.storefront = m.start("storefront", *s)
	s.Edge = m.storefront.line()
	m.buyers = m.start("buyers", *s)
	m.buyers.await("buying")
	return m
}

// line returns the next line that the process says.
func (p *process) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatalf("the process ended (%v) before it said anything; it wrote: %s", p.err, p.stderr.String())
		}
		return line
	case <-time.After(30 * time.Second):
		p.t.Fatal("the process said nothing in 30 s")
	}
	return ""
}

// An outcome is what buyers were told, and what of that is true.
type outcome struct {
	Acknowledged, Found      map[podworks.ShopID]int // orders
	Refused, Unknown, Missed int
	Lost                     int // acknowledged, and not in the shop's pod
	Slowest                  time.Duration
}

// told returns what the buyers have been told so far.
func (m *market) told() (o outcome, acknowledged map[podworks.ShopID][]int64) {
	m.t.Helper()
	o = outcome{Acknowledged: map[podworks.ShopID]int{}, Found: map[podworks.ShopID]int{}}
	acknowledged = map[podworks.ShopID][]int64{}
	text, err := os.ReadFile(m.settings.Ledger)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the buyers may be in the middle of a line
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		var kind string
		var shop podworks.ShopID
		var order, took int64
		if _, err := fmt.Sscanf(sc.Text(), "%s %d %d %d", &kind, &shop, &order, &took); err != nil {
			m.t.Fatalf("the ledger has %q: %v", sc.Text(), err)
		}
		o.Slowest = max(o.Slowest, time.Duration(took)*time.Millisecond)
		switch kind {
		case "A":
			o.Acknowledged[shop]++
			acknowledged[shop] = append(acknowledged[shop], order)
		case "F":
			o.Found[shop]++
		case "R":
			o.Refused++
		case "U":
			o.Unknown++
		case "M":
			o.Missed++
		}
	}
	return o, acknowledged
}

// A shop goes on when its buyers have had so many orders more acknowledged, and
// found.
const enough = 25

// goesOn waits until the buyers of each shop have had enough answers more.
func (m *market) goesOn(during string) {
	m.t.Helper()
	before, _ := m.told()
	deadline := time.Now().Add(15 * time.Second)
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		now, _ := m.told()
		on := true
		for _, shop := range m.settings.Shops {
			on = on && now.Acknowledged[shop] >= before.Acknowledged[shop]+enough && now.Found[shop] >= before.Found[shop]+enough
		}
		if on {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: in 15 s the buyers came from %+v to %+v, want %d orders more of each shop, written and read", during, before, now, enough)
		}
	}
}

// closes ends the buyers and compares what they were told with what there is.
func (m *market) closes() outcome {
	m.t.Helper()
	m.buyers.stdin.Close()
	m.buyers.end()
	if m.buyers.err != nil {
		m.t.Fatalf("the buyers failed: %v: %s", m.buyers.err, m.buyers.stderr.String())
	}
	m.storefront.stdin.Close()
	m.storefront.end()
	o, acknowledged := m.told()
	for i, shop := range m.settings.Shops {
		there := map[int64]bool{}
		rows, err := m.pods[podworks.PodID(i+1)].QueryContext(m.ctx, `SELECT id FROM orders WHERE shop_id = ?`, int64(shop))
		if err != nil {
			m.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				m.t.Fatal(err)
			}
			there[id] = true
		}
		if err := rows.Err(); err != nil {
			m.t.Fatal(err)
		}
		for _, id := range acknowledged[shop] {
			if !there[id] {
				o.Lost++
			}
		}
	}
	return o
}

// A global write is given bound while the master is away: the caller's deadline
// is what ends one that a frozen server doesn't answer. The rest is the machine's.
const (
	bound = 2 * time.Second
	slack = 2 * time.Second
)

// A globalWrite is what only the master can do.
type globalWrite struct {
	what  string
	write func(context.Context) error
	want  error // while the master is away; nil: any
}

func (m *market) globalWrites() []globalWrite {
	shop := m.opened + 1
	create := func(ctx context.Context) error {
		_, err := m.cluster.CreateShop(ctx, shop, 2, hostOf(shop))
		return err
	}
	return []globalWrite{
		{"a transaction in the master", func(ctx context.Context) error {
			return m.global.Tx(ctx, func(ctx context.Context, tx *master.Tx) error {
				_, err := tx.ExecContext(ctx, `DO 1`)
				return err
			})
		}, master.ErrPrimary},
		{"the directory alone", create, sharding.ErrMaster},
		{"a sign-up", func(ctx context.Context) error {
			claim, err := m.global.Claim(ctx, "domain", hostOf(shop), int64(shop), time.Minute)
			if err == nil {
				err = create(ctx)
			}
			if err == nil {
				err = m.global.Confirm(ctx, claim)
			}
			return err
		}, master.ErrPrimary},
	}
}

// refused wants each global write to fail in time, with an error that says why.
func (m *market) refused(during string) {
	m.t.Helper()
	var wg sync.WaitGroup
	for _, g := range m.globalWrites() {
		wg.Go(func() {
			begin := time.Now()
			ctx, cancel := context.WithTimeout(m.ctx, bound)
			defer cancel()
			err := g.write(ctx)
			took := time.Since(begin)
			m.t.Logf("%s: %s: after %v: %v", during, g.what, took.Round(time.Millisecond), err)
			if took > bound+slack {
				m.t.Errorf("%s: %s took %v, want %v or less", during, g.what, took, bound)
			}
			if err == nil || g.want != nil && !errors.Is(err, g.want) {
				m.t.Errorf("%s: %s: got %v, want an error that is %v", during, g.what, err, g.want)
			}
		})
	}
	wg.Wait()
}

// back wants the global writes back, and a shop that was opened now to be
// visited through the edge.
func (m *market) back(after string) {
	m.t.Helper()
	begin := time.Now()
	m.storefront.await("in touch")
	for _, g := range m.globalWrites() {
		ctx, cancel := context.WithTimeout(m.ctx, 5*bound)
		if err := g.write(ctx); err != nil {
			m.t.Errorf("after the master was %s: %s: %v", after, g.what, err)
		}
		cancel()
	}
	m.opened++
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		req, err := http.NewRequestWithContext(m.ctx, http.MethodPost, m.settings.Edge+"/orders/1", nil)
		if err != nil {
			m.t.Fatal(err)
		}
		req.Host = hostOf(m.opened)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			m.t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			break
		}
		if res.StatusCode != http.StatusNotFound || time.Now().After(deadline) {
			m.t.Fatalf("after the master was %s: an order in the shop that was opened then: %s, want 200 within 10 s", after, res.Status)
		}
	}
	m.t.Logf("%s: a new shop has sold something %v later", after, time.Since(begin).Round(time.Millisecond))
}

// TestMasterAwayStopsNoShop: while the primary of the master is killed, and
// while it is frozen, each shop is routed, read and written, by buyers who try
// nothing twice. Only what is global fails, in time and with an error that says
// so, and it is back when the master is.
//
// What they are told is compared with what there is in the end.
func TestMasterAwayStopsNoShop(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		m := openMarket(t, f, false)
		m.goesOn("before")
		for _, fault := range []struct {
			name       string
			begin, end func() error
		}{
			{"killed", m.server.Kill, func() error { return m.server.Restart(context.WithoutCancel(m.ctx)) }},
			{"frozen", m.server.Pause, m.server.Resume},
		} {
			if err := fault.begin(); err != nil {
				t.Fatal(err)
			}
			ended := false
			end := func() error {
				if ended {
					return nil
				}
				ended = true
				return fault.end()
			}
			t.Cleanup(func() { end() }) // other tests share the server
			m.refused(fault.name)
			m.storefront.await("out of touch")
			m.goesOn(fault.name)
			if err := end(); err != nil {
				t.Fatal(err)
			}
			m.back(fault.name)
		}
		o := m.closes()
		t.Logf("%+v", o)
		if o.Refused+o.Unknown+o.Missed+o.Lost > 0 {
			t.Errorf("got %+v, want nothing refused, unknown, missed or lost; the buyers wrote: %.2000s", o, m.buyers.stderr.String())
		}
		if !maps.Equal(o.Acknowledged, o.Found) {
			t.Errorf("acknowledged %v, found %v, want the same", o.Acknowledged, o.Found)
		}
	})
}

// TestAnApplicationThatAsksTheMasterIsDownWithIt is the twin: with a storefront
// that asks the master about each request, the same buyers are refused.
func TestAnApplicationThatAsksTheMasterIsDownWithIt(t *testing.T) {
	testcluster.Each(t, func(t *testing.T, f testcluster.Family) {
		t.Parallel()
		m := openMarket(t, f, true)
		m.goesOn("before")
		if err := m.server.Kill(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for tick := time.Tick(20 * time.Millisecond); ; <-tick {
			if o, _ := m.told(); o.Refused > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Error("nobody was refused in 10 s; TestMasterAwayStopsNoShop proves nothing")
				break
			}
		}
		if err := m.server.Restart(m.ctx); err != nil {
			t.Fatal(err)
		}
		m.closes()
	})
}
