package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// A conductor runs a sale: it starts the processes, ends them in order, and
// counts.
type conductor struct {
	plan  plan
	show  *screen
	abort context.CancelCauseFunc

	children []*child // in the order of their start
	servers  *child

	mu     sync.Mutex // guards status
	status status
}

// The parts of the sale's time.
const (
	moveAfter     = 0.3             // of the duration, when it is in full swing
	moveLimit     = 2 * time.Minute // more than this the conductor doesn't wait for the mover
	stopPatience  = 10 * time.Second
	drainPatience = drainLimit + 15*time.Second
)

// conduct holds a sale and returns its report. BeforeCount, if not nil, is
// called when all processes but the servers have ended.
func conduct(ctx context.Context, s settings, show *screen, beforeCount func(context.Context, *plan) error) (r *Report, err error) {
	dir, err := os.MkdirTemp("", "flashsale-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if r == nil || !s.Keep {
			err = errors.Join(err, os.RemoveAll(dir)) // the servers have done it, if they could
		}
	}()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	key := make([]byte, 32)
	rand.Read(key) // never fails
	c := &conductor{
		plan:  plan{Settings: s, Dir: dir, Key: key, Hot: hot, MoveTo: secondPod},
		show:  show,
		abort: abort,
	}
	c.status = status{lasts: s.Duration, hot: hot, from: firstPod, to: secondPod}

	painting, stop := context.WithCancel(ctx)
	var painter sync.WaitGroup
	painter.Go(func() { c.paint(painting) })
	defer func() {
		err = errors.Join(err, c.end(err == nil && s.Keep))
		stop()
		painter.Wait()
		// Why it was called off says more than what came of that.
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
	}()

	if err := c.setUp(ctx); err != nil {
		return nil, err
	}
	o, err := c.hold(ctx)
	if err != nil {
		return nil, err
	}
	c.phase("counting every order over all pods")
	if beforeCount != nil {
		if err := beforeCount(ctx, &c.plan); err != nil {
			return nil, err
		}
	}
	if err := o.read(ctx); err != nil {
		return nil, err
	}
	r = o.report()
	if s.Keep {
		r.Connect = c.plan.connect()
	}
	return r, nil
}

// setUp starts the servers, fills them, and opens the shops.
func (c *conductor) setUp(ctx context.Context) error {
	s := c.plan.Settings
	c.phase("starting two pods and a master database: %s, Redis, memcached", title(s.Family))
	var err error
	if c.servers, err = c.start("servers", "servers", nil); err != nil {
		return err
	}
	if err := c.servers.awaitReady(ctx); err != nil {
		return err
	}
	c.phase("loading %d shops", s.Shops)
	begun := time.Now()
	if err := prepare(ctx, &c.plan); err != nil {
		return err
	}
	c.show.say("two pods on %s; %d shops loaded in %.1f s", c.plan.Servers.Version, s.Shops, time.Since(begun).Seconds())

	c.phase("opening the shops")
	storefront, storeURL, err := listen()
	if err != nil {
		return err
	}
	defer storefront.Close()
	edge, edgeURL, err := listen()
	if err != nil {
		return err
	}
	defer edge.Close()
	c.plan.Store, c.plan.Edge = storeURL, edgeURL
	for _, p := range []struct {
		name, role string
		listener   *os.File
	}{
		{"store 1", "store", storefront},
		{"store 2", "store", storefront},
		{"edge", "edge", edge},
		{"worker", "worker", nil},
		{"writer", "writer", nil},
	} {
		if _, err := c.start(p.name, p.role, p.listener); err != nil {
			return err
		}
	}
	for _, child := range c.children {
		if err := child.awaitReady(ctx); err != nil {
			return err
		}
	}
	return c.visitAll(ctx)
}

// visitAll looks at each shop's home page, as whoever opens a shop does.
func (c *conductor) visitAll(ctx context.Context) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, sh := range c.plan.Settings.shops() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.plan.Edge, nil)
		if err != nil {
			return err
		}
		req.Host = sh.host
		res, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("open shop %d: %w", sh.id, err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			return fmt.Errorf("open shop %d: %w", sh.id, err)
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("open shop %d: its home page answers %s: %.200s", sh.id, res.Status, text)
		}
	}
	return nil
}

// hold lets the buyers in, moves the hot shop while they buy, and ends what
// could still write when they have left.
func (c *conductor) hold(ctx context.Context) (*outcome, error) {
	buyers, err := c.start("buyers", "buyers", nil)
	if err != nil {
		return nil, err
	}
	if err := buyers.awaitReady(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.status.started = time.Now()
	c.mu.Unlock()
	c.phase("the sale is on")

	swing := time.NewTimer(time.Duration(moveAfter * float64(c.plan.Settings.Duration)))
	defer swing.Stop()
	select {
	case <-swing.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	mover, err := c.start("mover", "mover", nil)
	if err != nil {
		return nil, err
	}
	if err := buyers.await(ctx); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeoutCause(ctx, moveLimit, fmt.Errorf("the mover had not ended %v after the sale", moveLimit))
	defer cancel()
	moveErr := mover.await(limited)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}

	c.moverEnded(mover)

	// The writers first, and what they need after them.
	c.phase("the buyers have left; capturing the last payments")
	for _, child := range slices.Backward(c.children) {
		if child == c.servers {
			continue
		}
		if err := child.stop(drainPatience); err != nil && child != mover {
			return nil, err
		}
	}
	var logs []string
	for _, child := range c.children {
		if log := child.said.String(); log != "" && child != mover {
			logs = append(logs, child.name+": "+log)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.status.buyers.Ended {
		return nil, errors.New("the buyers left without a word about the sale")
	}
	if !c.status.worker.Drained {
		return nil, errors.New("the worker left without a word about the last payments")
	}
	return &outcome{plan: &c.plan, buyers: c.status.buyers, writer: c.status.writer, move: c.status.move, moveErr: moveErr, logs: logs}, nil
}

// read reads what the processes left.
func (o *outcome) read(ctx context.Context) error {
	var err error
	if o.orders, err = readLedger(o.plan.ledger(orderLedger)); err != nil {
		return err
	}
	if o.pulses, err = readLedger(o.plan.ledger(writerLedger)); err != nil {
		return err
	}
	if o.samples, err = readSamples(o.plan.ledger(sampleFile)); err != nil {
		return err
	}
	o.holdings, err = look(ctx, o.plan.Servers)
	return err
}

// start starts a process of the sale. One that ends with an error without
// having been asked to calls the sale off, apart from the mover: the sale goes
// on when a move fails.
func (c *conductor) start(name, role string, listener *os.File) (*child, error) {
	c.plan.Process++
	child, err := spawn(name, role, c.plan, listener, c.heard)
	if err != nil {
		return nil, err
	}
	c.children = append(c.children, child)
	go func() {
		<-child.exited
		switch {
		case role == "mover":
			c.moverEnded(child)
		case child.err != nil && !child.asked.Load():
			c.abort(child.err)
		}
	}()
	return child, nil
}

// moverEnded notes the end of a mover that could not tell of it.
func (c *conductor) moverEnded(mover *child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := &c.status.move; m.Ended == 0 {
		m.Ended = mover.ended.UnixNano()
		m.Started = cmp.Or(m.Started, m.Ended)
	}
}

// heard takes the news of a process.
func (c *conductor) heard(n news) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case n.Servers != nil:
		c.plan.Servers = *n.Servers
	case n.Buyers != nil:
		c.status.buyers = *n.Buyers
	case n.Worker != nil:
		c.status.worker = *n.Worker
	case n.Writer != nil:
		c.status.writer = *n.Writer
	case n.Move != nil:
		if n.Move.Step != c.status.move.Step {
			c.show.note("move: %s", n.Move.Step)
		}
		c.status.move = *n.Move
	}
}

// end ends what is still running, the youngest first. The servers stay if keep
// is set.
func (c *conductor) end(keep bool) error {
	c.phase("stopping")
	var errs []error
	for _, child := range slices.Backward(c.children) {
		if child.asked.Load() {
			continue // and it has ended
		}
		if child == c.servers && keep {
			_, err := io.WriteString(child.stdin, keepLine)
			errs = append(errs, err, child.stdin.Close())
			continue
		}
		errs = append(errs, child.stop(stopPatience))
	}
	return errors.Join(errs...)
}

// phase says what is being done.
func (c *conductor) phase(format string, args ...any) {
	c.mu.Lock()
	c.status.phase = fmt.Sprintf(format, args...)
	now := c.status
	c.mu.Unlock()
	c.show.note("%s", now.phase)
	c.show.show(now)
}

// paint keeps the screen up to date until ctx ends.
func (c *conductor) paint(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		now := c.status
		c.mu.Unlock()
		c.show.show(now)
	}
}

// listen opens a port for a process that will be started with it: it is taken
// before anybody is told its number.
func listen() (f *os.File, url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	defer l.Close() // f is a copy
	f, err = l.(*net.TCPListener).File()
	return f, "http://" + l.Addr().String(), err
}

// connect says how to reach the servers.
func (p *plan) connect() []string {
	client := "mariadb"
	if p.Settings.Family != "mariadb" {
		client = "mysql"
	}
	sql := func(what, dsn string) string {
		cfg, err := asAdmin.config(dsn)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s: %s --user=root --socket=%s %s", what, client, cfg.Addr, cfg.DBName)
	}
	out := []string{sql("master database", p.Servers.Master)}
	for _, id := range slices.Sorted(maps.Keys(p.Servers.Pods)) {
		at := p.Servers.Pods[id]
		out = append(out,
			sql(fmt.Sprintf("pod %d", id), at.MySQL),
			fmt.Sprintf("pod %d: redis-cli -s %s", id, at.Redis),
			fmt.Sprintf("pod %d: memcached on %s", id, at.Memcached))
	}
	return append(out,
		"ledgers: "+p.Dir,
		fmt.Sprintf("to stop them and remove everything: kill %d", p.Servers.Keeper))
}
