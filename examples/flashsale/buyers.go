package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// buyersNews says how the sale goes, as buyers see it.
type buyersNews struct {
	Ended      bool // every buyer has left
	Came       int64
	Active     int64
	TurnedAway int64 // more than may be in the shops at a time
	Pages      int64
	Orders     int64 // acknowledged
	SoldOut    int64 // answers that a product is sold out, which is no error
	CartsGone  int64 // carts found empty: the shop moved away from them
	Errors     int64
	Failures   []string // the first few errors

	// Since the last news.
	PagesPerSecond, OrdersPerSecond float64
	PageP99, CheckoutP99            time.Duration
}

// The files that buyers leave.
const (
	orderLedger = "orders"
	sampleFile  = "samples"
)

// patience is how long a buyer waits for an answer. Waiting longer is an error.
const patience = 5 * time.Second

// crowd is all buyers together.
type crowd struct {
	plan   *plan
	shops  []shop
	client *http.Client
	ledger *os.File
	limit  chan struct{} // holds one element for each buyer in the shops

	came, turnedAway, pages, orders, soldOut, cartsGone, failed atomic.Int64

	mu       sync.Mutex // guards what follows
	samples  []sample
	failures []string
}

// runBuyers sends buyers for as long as the sale lasts, and returns when the
// last one has left.
//
// They come at random moments of a given mean rate, whether or not earlier ones
// have been served: that is what a crowd does, and it is how a slow moment shows
// up in every number instead of slowing down the measurement.
func runBuyers(ctx context.Context, p *process) error {
	ledger, err := os.OpenFile(p.ledger(orderLedger), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer ledger.Close()
	c := &crowd{
		plan:   &p.plan,
		shops:  p.Settings.shops(),
		ledger: ledger,
		limit:  make(chan struct{}, p.Settings.Buyers),
		client: &http.Client{
			Timeout: patience,
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: patience}).DialContext,
				MaxIdleConnsPerHost: 512,
				MaxConnsPerHost:     1024,
				DisableCompression:  true,
			},
			// Buyers follow redirects themselves, as a page like any other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	p.tell(news{Ready: true})

	reporting, stop := context.WithCancel(ctx)
	var reporter sync.WaitGroup
	reporter.Go(func() { c.report(reporting, p) })
	c.arrive(ctx)
	stop()
	reporter.Wait()
	if ctx.Err() != nil {
		return nil // the sale was called off
	}
	if err := writeSamples(p.ledger(sampleFile), c.samples); err != nil {
		return err
	}
	n := c.news()
	n.Ended = true
	p.tell(news{Buyers: &n})
	return nil
}

// arrive lets buyers in until the sale is over, and waits for them to leave.
func (c *crowd) arrive(ctx context.Context) {
	s := c.plan.Settings
	r := rand.New(rand.NewPCG(s.Seed, 0))
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for n, at := int64(0), time.Duration(0); ; n++ {
		at += time.Duration(r.ExpFloat64() / s.Rate * float64(time.Second))
		if at > s.Duration {
			return
		}
		due := start.Add(at)
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		c.came.Add(1)
		select {
		case c.limit <- struct{}{}:
		default:
			c.turnedAway.Add(1)
			continue
		}
		wg.Go(func() {
			defer func() { <-c.limit }()
			b := newBuyer(c, n)
			// Waiting to be sent is waiting too.
			b.due = due
			b.shopAround(ctx)
		})
	}
}

// visit chooses the shop of a buyer: mostly the one with the sale, otherwise by
// rank.
func (c *crowd) visit(r *rand.Rand) shop {
	const hotShare = 0.7
	if len(c.shops) == 1 || r.Float64() < hotShare {
		return c.shops[0]
	}
	return c.shops[1+byRank(r, len(c.shops)-1)]
}

// byRank returns a number below n, the k-th about in proportion to 1/(k+1).
func byRank(r *rand.Rand, n int) int {
	return min(n-1, int(math.Exp(r.Float64()*math.Log(float64(n+1))))-1)
}

// acknowledge writes an order into the ledger. It is there before the buyer
// does anything else.
func (c *crowd) acknowledge(e entry) error {
	if _, err := c.ledger.WriteString(e.String()); err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	c.orders.Add(1)
	return nil
}

// took notes how long an answer, or the lack of one, took.
func (c *crowd) took(s sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = append(c.samples, s)
}

// fail notes that a buyer left because of an error.
func (c *crowd) fail(err error) {
	c.failed.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failures) < 5 {
		c.failures = append(c.failures, err.Error())
	}
}

// report tells the conductor how it goes, until ctx ends.
func (c *crowd) report(ctx context.Context, p *process) {
	const every = 250 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last buyersNews
	seen, at := 0, time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		n := c.news()
		c.mu.Lock()
		recent := c.samples[seen:]
		c.mu.Unlock()
		if time.Since(at) > time.Second || last.Came == 0 {
			seconds := time.Since(at).Seconds()
			n.PagesPerSecond = float64(n.Pages-last.Pages) / seconds
			n.OrdersPerSecond = float64(n.Orders-last.Orders) / seconds
			n.PageP99 = percentile(durations(recent, func(sample) bool { return true }), 99)
			n.CheckoutP99 = percentile(durations(recent, func(s sample) bool { return s.kind == checkoutRequest }), 99)
			seen, at, last = seen+len(recent), time.Now(), n
		} else {
			n.PagesPerSecond, n.OrdersPerSecond, n.PageP99, n.CheckoutP99 = last.PagesPerSecond, last.OrdersPerSecond, last.PageP99, last.CheckoutP99
		}
		p.tell(news{Buyers: &n})
	}
}

func (c *crowd) news() buyersNews {
	c.mu.Lock()
	defer c.mu.Unlock()
	return buyersNews{
		Came:       c.came.Load(),
		Active:     int64(len(c.limit)),
		TurnedAway: c.turnedAway.Load(),
		Pages:      c.pages.Load(),
		Orders:     c.orders.Load(),
		SoldOut:    c.soldOut.Load(),
		CartsGone:  c.cartsGone.Load(),
		Errors:     c.failed.Load(),
		Failures:   c.failures,
	}
}
