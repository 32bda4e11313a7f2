package sharding

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/directory"
)

// A Directory knows which pod serves which shop. It answers from a snapshot
// that Run keeps fresh, and from the master database when the snapshot doesn't
// know the shop. It is also the routing table's source (Hosts) and the journal
// of moves that package ferry asks for.
//
// The snapshot holds all shops: a million take 17 MB if they were numbered in
// sequence and 34 MB if not, and a look-up reads a line of memory or two. While the master is away the last snapshot stays in force, for
// as long as that takes: what was known goes on being served, and what is false by now
// is refused by the pods, whose fences know better. A process that starts while the
// master is away knows nothing, unless it is given a document that another wrote
// in time; see Save and Load.
//
// All methods may be called concurrently; Run runs once.
type Directory struct {
	store    *directory.Store
	poll     time.Duration
	push     Push // may be nil
	log      *slog.Logger
	snapshot *snapshot
	hosts    *hostCache

	version atomic.Uint64 // the snapshot misses nothing up to it
	busy    chan struct{} // has room for the one look that is under way

	born time.Time
	seen atomic.Int64 // when the last look that succeeded began, in ns since born

	hint     atomic.Uint64 // the highest version heard of since the last look
	wake     chan struct{} // Run is to look
	changed  atomic.Uint64 // the highest version of our own changes
	announce chan struct{} // Run is to publish it
	deaf     atomic.Bool   // the last subscription failed, and nothing was heard since

	looks, failures, hints, falseHints, pushFailures atomic.Uint64
}

// DirectoryOptions configure a Directory. The zero value is ready to use.
type DirectoryOptions struct {
	// Poll is how often Run asks the master for the directory's version, one row
	// by its key (about 0.1 ms of the master's time), and with it the time after
	// which a process has heard of a move in any case. Default 250 ms.
	Poll time.Duration

	// Push spreads the word of changes among processes, so that they don't wait for
	// their next poll. It carries hints: what it loses, the poll finds. Nil is none.
	Push Push

	// Logger gets a line when the master database goes away and when it is back, and
	// the same for the push. Nil discards.
	Logger *slog.Logger
}

// DirectoryStats is how a Directory is doing.
type DirectoryStats struct {
	// Shops is how many shops the snapshot knows, closed and deleted ones included.
	Shops int

	// Version is the version of the directory up to which the snapshot misses
	// nothing. 0 is none yet.
	Version uint64

	// Age is the time since the last look at the master that succeeded, or if none
	// did since NewDirectory. It bounds what this process doesn't know. In good
	// health it is less than two polls.
	Age time.Duration

	// Since the start:
	Looks        uint64 // at the master, for changes
	Failures     uint64 // looks that failed
	Hints        uint64 // versions heard from the push
	FalseHints   uint64 // looks because of a hint that found nothing new
	PushFailures uint64 // publications and subscriptions that failed
}

// NewDirectory returns the directory in the master database. It does no I/O.
func NewDirectory(master *sql.DB, opts *DirectoryOptions) *Directory {
	var o DirectoryOptions
	if opts != nil {
		o = *opts
	}
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Directory{
		store:    directory.New(master),
		poll:     o.Poll,
		push:     o.Push,
		log:      o.Logger,
		snapshot: newSnapshot(),
		busy:     make(chan struct{}, 1),
		born:     time.Now(),
		wake:     make(chan struct{}, 1),
		announce: make(chan struct{}, 1),
	}
	d.hosts = newHostCache(d.store.LookupHost)
	d.store.OnChange(d.wrote)
	return d
}

// Schema returns the statements that create the directory's tables, for teams
// with a migration tool of their own.
func (d *Directory) Schema() []string { return directory.Schema() }

// Migrate creates the directory's tables that are missing.
func (d *Directory) Migrate(ctx context.Context) error { return d.store.Migrate(ctx) }

// AddPod adds a pod that is active in region. Adding it again is no error.
func (d *Directory) AddPod(ctx context.Context, pod podworks.PodID, region podworks.Region) error {
	return d.store.AddPod(ctx, pod, region)
}

// Lookup returns the route of a shop from the snapshot, or from the master
// database if the snapshot doesn't have the shop (yet). An unknown shop is
// ErrUnknownShop, a closed or deleted one ErrClosed.
func (d *Directory) Lookup(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	if r, ok := d.route(shop); ok {
		return r, nil
	}
	// The master is not asked about a closed shop: it is not to pay for a crowd that
	// has not heard.
	if s, ok := d.snapshot.shop(shop); ok && s.State != directory.Open {
		return podworks.Route{}, s.Refusal()
	}
	return d.Fresh(ctx, shop)
}

// route returns the route of an open shop that the snapshot has.
func (d *Directory) route(shop podworks.ShopID) (podworks.Route, bool) {
	return d.snapshot.route(shop)
}

// heard takes a route from somebody who knows, and returns the newest that is
// known of its shop, which has the region.
func (d *Directory) heard(r podworks.Route) podworks.Route {
	d.learn([]podworks.Route{r})
	if known, ok := d.route(r.Shop); ok && known.Epoch >= r.Epoch {
		return known
	}
	return r
}

// Fresh returns the route of a shop from the master database, and remembers it.
// Its errors are Lookup's.
func (d *Directory) Fresh(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	s, pod, err := d.store.Shop(ctx, shop)
	if err != nil {
		return podworks.Route{}, err
	}
	d.snapshot.learn([]directory.Pod{pod}, []directory.Shop{s})
	if err := s.Refusal(); err != nil {
		return podworks.Route{}, err
	}
	return podworks.Route{Shop: shop, Pod: pod.ID, Region: pod.Region, Epoch: s.Epoch}, nil
}

// learn takes the routes of open shops that are newer than the snapshot's.
func (d *Directory) learn(newer []podworks.Route) { d.learnIn(directory.Open, newer...) }

// learnIn takes the routes of shops in a state. Their regions count for pods that
// were unknown: a route doesn't say which of two regions is the newer one.
func (d *Directory) learnIn(state directory.State, newer ...podworks.Route) {
	pods := make([]directory.Pod, len(newer))
	shops := make([]directory.Shop, len(newer))
	for i, r := range newer {
		pods[i] = directory.Pod{ID: r.Pod, Region: r.Region}
		shops[i] = directory.Shop{ID: r.Shop, Pod: r.Pod, Epoch: r.Epoch, State: state}
	}
	d.snapshot.learn(pods, shops)
}

// Refresh reads what changed since the last refresh. When it returns nil, the
// snapshot has every change that was made before the call.
func (d *Directory) Refresh(ctx context.Context) error {
	_, err := d.look(ctx, func() {})
	return err
}

// look refreshes the snapshot and reports whether there was news. It calls alive
// whenever the master has answered.
func (d *Directory) look(ctx context.Context, alive func()) (news bool, err error) {
	select {
	case d.busy <- struct{}{}:
		defer func() { <-d.busy }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	began := time.Since(d.born)
	d.looks.Add(1)
	defer func() {
		if err == nil {
			d.seen.Store(int64(began))
		} else {
			d.failures.Add(1)
		}
	}()
	since := d.version.Load()
	// The version first and the rows after it: a row that changes in between is read
	// now and once more next time, never not at all.
	version, err := d.store.Version(ctx)
	if err != nil || version == since {
		return false, err
	}
	alive()
	from := since
	if version < since {
		// The master lost its last changes: it was restored, or a replica that was behind
		// took its place. It gives their versions to others now.
		from = 0
	}
	if err := d.read(ctx, from, alive); err != nil {
		return false, err
	}
	// Load may have got further in the meantime, and then there it stays.
	d.version.CompareAndSwap(since, version)
	return true, nil
}

// learnAtOnce is how many rows are learnt at a time: a reader of a million
// rows doesn't keep them all.
const learnAtOnce = 4096

// read learns what changed after version from. Rows that it has learnt before it
// fails stay, since they are newer than what they replaced.
func (d *Directory) read(ctx context.Context, from uint64, alive func()) error {
	var pods []directory.Pod
	if err := d.store.Pods(ctx, from, func(p directory.Pod) { pods = append(pods, p) }); err != nil {
		return err
	}
	d.snapshot.learn(pods, nil)
	var shops []directory.Shop
	err := d.store.Shops(ctx, from, func(s directory.Shop) {
		if shops = append(shops, s); len(shops) == learnAtOnce {
			d.snapshot.learn(nil, shops)
			shops = shops[:0]
			alive()
		}
	})
	d.snapshot.learn(nil, shops)
	if err != nil {
		return err
	}
	if from == 0 {
		d.hosts.forget()
		return nil
	}
	if !d.hosts.used.Load() {
		return nil
	}
	var hosts []string
	err = d.store.ChangedHosts(ctx, from, func(host string) { hosts = append(hosts, host) })
	d.hosts.drop(hosts)
	return err
}

// hintGap is the least time between the beginnings of two looks because of
// hints: a flood of them costs the master a hundred looks a second, a process.
const hintGap = 10 * time.Millisecond

// Run refreshes the snapshot until ctx ends, and then returns its cause, after it
// has waited for the push to end its calls. While the master database doesn't
// answer, the last snapshot stays in force.
func (d *Directory) Run(ctx context.Context) error {
	var pushing sync.WaitGroup
	defer pushing.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if d.push != nil {
		pushing.Go(func() { d.listen(ctx) })
		pushing.Go(func() { d.publish(ctx) })
	}
	tick := time.NewTicker(d.poll)
	defer tick.Stop()
	var master outage
	hinted := false
	for {
		began := time.Now()
		news, err := d.patientLook(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if hinted && err == nil && !news {
			d.falseHints.Add(1)
		}
		switch master.note(err) {
		case begins:
			d.log.Warn("the directory can't be refreshed; the last snapshot stays in force", "err", err)
		case ends:
			d.log.Info("the directory is fresh again")
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
				waiting, hinted = false, false
			case <-d.wake:
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(time.Until(began.Add(hintGap))):
				}
				// What was heard during the last look, the last look may have found.
				waiting, hinted = d.hint.Swap(0) <= d.version.Load(), true
			}
		}
	}
}

// patience is how long a master that has begun to send rows may be silent: the
// first look reads all shops, perhaps from disks. For the version, one row that
// every process asks for, it has four polls, or a second.
const patience = 30 * time.Second

// patientLook is look, given up when the master falls silent. A master that hangs
// is one that doesn't answer: the next look has a new connection.
func (d *Directory) patientLook(ctx context.Context) (news bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first := max(4*d.poll, time.Second)
	silent := time.AfterFunc(first, func() { cancel(fmt.Errorf("no answer within %v", first)) })
	defer silent.Stop()
	news, err = d.look(ctx, func() { silent.Reset(patience) })
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return news, err
}

// An outage tells the first failure and the first success after it from all the
// others, for a log that says each once.
type outage struct{ on bool }

type change int

const (
	nothing change = iota
	begins
	ends
)

func (o *outage) note(err error) change {
	switch {
	case o.on == (err != nil):
		return nothing
	case err != nil:
		o.on = true
		return begins
	default:
		o.on = false
		return ends
	}
}

// Stats returns how the directory is doing.
func (d *Directory) Stats() DirectoryStats {
	return DirectoryStats{
		Shops:        d.snapshot.size(),
		Version:      d.version.Load(),
		Age:          time.Since(d.born) - time.Duration(d.seen.Load()),
		Looks:        d.looks.Load(),
		Failures:     d.failures.Load(),
		Hints:        d.hints.Load(),
		FalseHints:   d.falseHints.Load(),
		PushFailures: d.pushFailures.Load(),
	}
}

// Hosts calls each for every host whose route changed after version since (0:
// for all), and returns the version to pass next time. A host that was taken
// from its shop comes with the zero route. It makes a Directory the source of
// package routing's table.
func (d *Directory) Hosts(ctx context.Context, since uint64, each func(host string, r podworks.Route)) (version uint64, err error) {
	return d.store.Hosts(ctx, since, each)
}

// AddHost gives a shop one more host, in any case, by which the edge and
// Middleware find it. A host of another shop is refused. Adding it again is no
// error.
func (d *Directory) AddHost(ctx context.Context, shop podworks.ShopID, host string) error {
	if err := d.store.AddHost(ctx, shop, canonical(host)); err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	return nil
}

// AddHosts is AddHost for many, as an existing database has them: a thousand in a
// transaction. It may be repeated, and goes on from where it was.
func (d *Directory) AddHosts(ctx context.Context, shops map[string]podworks.ShopID) error {
	names := make(map[string]podworks.ShopID, len(shops))
	for host, shop := range shops {
		name := canonical(host)
		if other, ok := names[name]; ok && other != shop {
			return fmt.Errorf("sharding: host %q is given to shop %d and to shop %d", name, shop, other)
		}
		names[name] = shop
	}
	if err := d.store.AddHosts(ctx, names); err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	return nil
}

// RemoveHost takes a host from a shop. Requests for it find no shop as soon as
// the edge and the processes have heard. A host that is nobody's is no error;
// one of another shop is.
func (d *Directory) RemoveHost(ctx context.Context, shop podworks.ShopID, host string) error {
	if err := d.store.RemoveHost(ctx, shop, canonical(host)); err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	return nil
}

// addShop adds a shop to the directory alone; Cluster.CreateShop does the whole.
func (d *Directory) addShop(ctx context.Context, shop podworks.ShopID, pod podworks.PodID, hosts []string) (podworks.Route, error) {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = canonical(h)
	}
	r, err := d.store.AddShop(ctx, shop, pod, names...)
	if err == nil {
		d.learn([]podworks.Route{r})
	}
	return r, err
}

// addShops adds shops without hosts to the directory alone, a thousand in a
// transaction; it may be repeated. Run reads them from the master: of those that
// were there, nobody here knows the epoch.
func (d *Directory) addShops(ctx context.Context, pod podworks.PodID, shops []podworks.ShopID) error {
	return d.store.AddShops(ctx, pod, shops)
}

// closeShop closes a shop in the directory alone and returns its route, at the
// epoch since which it is closed.
func (d *Directory) closeShop(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	r, err := d.store.CloseShop(ctx, shop)
	if err == nil {
		d.learnIn(directory.Closed, r)
	}
	return r, err
}

// reopenShop opens a closed shop in the directory alone and returns its route, at
// the epoch at which its fence is to be opened.
func (d *Directory) reopenShop(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	r, err := d.store.ReopenShop(ctx, shop)
	if err == nil {
		d.learnIn(directory.Open, r)
	}
	return r, err
}

// deleteShop deletes a closed shop in the directory alone and returns its last
// route.
func (d *Directory) deleteShop(ctx context.Context, shop podworks.ShopID) (podworks.Route, error) {
	r, err := d.store.DeleteShop(ctx, shop)
	if err == nil {
		d.learnIn(directory.Deleted, r)
	}
	return r, err
}
