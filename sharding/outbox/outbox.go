package outbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/hook"
	"github.com/podworks/podworks/sharding"
)

// ErrPark is for deliver to return, by itself or wrapped: it parks the message at
// once, because no later attempt can help it.
var ErrPark = errors.New("outbox: the message can't be delivered, now or later")

// Protections that tests switch off to see that they notice.
const (
	offLock hook.Protection = "outbox: one relay at a time serves a shop"
	offHold hook.Protection = "outbox: a message that failed holds back its shop's later ones"
	offNote hook.Protection = "outbox: a row is deleted after its delivery, not before"
)

// An Outbox is a cluster's outbox, seen from one process. Its methods may be
// called concurrently.
type Outbox struct {
	cluster *sharding.Cluster
	deliver func(context.Context, Message) error
	opts    Options

	// insert is (*sharding.Tx).ExecContext: the row is in the transaction. Tests
	// switch it off.
	insert func(tx *sharding.Tx, ctx context.Context, query string, args ...any) (sql.Result, error)

	running atomic.Bool
	counts  counts

	mu     sync.Mutex // guards relays
	relays map[podworks.PodID]*relay
}

// Options configure an Outbox. The zero value is ready to use.
type Options struct {
	// Poll is how often each pod is looked at for messages that this process has
	// not heard of: those of processes that died or run no relay, and those to be
	// tried again. Looks come after half of it at the earliest. Default 1 s.
	Poll time.Duration

	// Concurrency bounds the deliveries at a time from each pod, which are of as
	// many shops. Each takes a connection to the pod. Default 8.
	Concurrency int

	// Timeout bounds one delivery: its context ends then. Default 10 s.
	Timeout time.Duration

	// Backoff is the pause after a first failed attempt. It doubles from attempt
	// to attempt up to MaxBackoff, and a random share, up to half of it, is taken
	// off. Defaults 1 s and 1 minute.
	Backoff, MaxBackoff time.Duration

	// MaxAttempts is after how many failed attempts a message is parked. Default
	// 50: about half an hour to three quarters, with the pauses' defaults.
	MaxAttempts int

	// Logger is told when a pod can't be served, and when it can again. Nil
	// discards.
	Logger *slog.Logger

	// Hooks are called on events.
	Hooks Hooks
}

// Hooks are functions to call on events; nil ones are skipped. They are called
// concurrently and must be quick.
type Hooks struct {
	// Failed is called after an attempt that failed, with its error. It will be
	// tried again.
	Failed func(Message, error)

	// Parked is called when a message is parked, with the last attempt's error: it
	// stays in its pod's table until someone calls Unpark or deletes it.
	Parked func(Message, error)
}

// New returns the outbox of a cluster. Deliver is called for each message, with a
// context that has no scope, concurrently for different shops, and one at a time
// for a shop's messages of one pod. Nil means that the message has arrived; an
// error, or a panic, that it is to be tried again, unless the error is ErrPark.
func New(cluster *sharding.Cluster, deliver func(ctx context.Context, m Message) error, opts *Options) (*Outbox, error) {
	o := opts.withDefaults()
	errs := o.validate()
	if cluster == nil {
		errs = append(errs, errors.New("the cluster is nil"))
	}
	if deliver == nil {
		errs = append(errs, errors.New("deliver is nil"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Outbox{cluster: cluster, deliver: deliver, opts: o, insert: (*sharding.Tx).ExecContext, relays: map[podworks.PodID]*relay{}}, nil
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.Poll = cmp.Or(d.Poll, time.Second)
	d.Concurrency = cmp.Or(d.Concurrency, 8)
	d.Timeout = cmp.Or(d.Timeout, 10*time.Second)
	d.Backoff = cmp.Or(d.Backoff, time.Second)
	d.MaxBackoff = cmp.Or(d.MaxBackoff, max(d.Backoff, time.Minute))
	d.MaxAttempts = cmp.Or(d.MaxAttempts, 50)
	d.Logger = cmp.Or(d.Logger, slog.New(slog.DiscardHandler))
	return d
}

func (o *Options) validate() []error {
	var errs []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Poll", o.Poll}, {"Timeout", o.Timeout}, {"Backoff", o.Backoff}} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %v, want a positive duration", f.name, f.value))
		}
	}
	if o.MaxBackoff < o.Backoff {
		errs = append(errs, fmt.Errorf("MaxBackoff is %v, want Backoff, which is %v, or more", o.MaxBackoff, o.Backoff))
	}
	if o.Concurrency < 1 {
		errs = append(errs, fmt.Errorf("Concurrency is %d, want 1 or more", o.Concurrency))
	}
	if o.MaxAttempts < 1 {
		errs = append(errs, fmt.Errorf("MaxAttempts is %d, want 1 or more", o.MaxAttempts))
	}
	return errs
}

// Add writes a message in the transaction that ctx carries, which is that of
// Scope.Tx's function. It is delivered if and only if the transaction commits.
// The topic is 1 to MaxTopic bytes, the payload 0 to MaxPayload. After an error
// the transaction can go on only as after any failed statement.
func (o *Outbox) Add(ctx context.Context, topic string, payload []byte) error {
	switch {
	case topic == "" || len(topic) > MaxTopic:
		return fmt.Errorf("outbox: the topic has %d bytes, want 1 to %d", len(topic), MaxTopic)
	case len(payload) > MaxPayload:
		return fmt.Errorf("outbox: the payload has %d bytes, want at most %d; keep it in a table and send its key", len(payload), MaxPayload)
	}
	open, _ := podworks.TxFrom(ctx)
	tx, ok := open.(*sharding.Tx)
	if !ok {
		return errors.New("outbox: the context carries no transaction of sharding; call Add in the function of Scope.Tx, with its context")
	}
	r, _ := podworks.RouteFrom(ctx)
	if payload == nil {
		payload = []byte{} // nil would be NULL
	}
	_, err := o.insert(tx, ctx, `INSERT INTO podworks_outbox (shop_id, pending, epoch, id, topic, payload, created, due)
		VALUES (?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))`,
		int64(r.Shop), int64(r.Shop), uint64(r.Epoch), rand.Text(), []byte(topic), payload)
	if err != nil {
		return fmt.Errorf("outbox: add a message of shop %d in pod %d: %w", r.Shop, r.Pod, explain(err))
	}
	tx.AfterEnd(func(_ context.Context, err error) {
		// Whether a COMMIT without an answer happened, the relay sees.
		if err == nil || errors.Is(err, podworks.ErrOutcomeUnknown) {
			o.wake(r.Pod, r.Shop)
		}
	})
	return nil
}

// wake tells the relay of this process, if there is one, that a shop may have a
// message.
func (o *Outbox) wake(pod podworks.PodID, shop podworks.ShopID) {
	o.mu.Lock()
	r := o.relays[pod]
	o.mu.Unlock()
	if r != nil && !r.queue.add(shop) {
		o.counts.dropped.Add(1)
	}
}

// Run delivers the messages of every pod until ctx ends, and then returns its
// cause. A pod that fails is tried again every Poll, and keeps no other waiting.
// Any number of processes may run it at once.
//
// When ctx ends no delivery is begun any more, the context of those under way
// ends too, and what is delivered nonetheless is noted, which a pod that does
// not answer can delay by ten seconds.
func (o *Outbox) Run(ctx context.Context) error {
	if !o.running.CompareAndSwap(false, true) {
		return errors.New("outbox: Run is running already; once in a process is enough")
	}
	defer o.running.Store(false)
	err := o.cluster.EachPod(ctx, "relay the outbox", &sharding.EachPodOptions{
		Parallel:  len(o.cluster.Pods()), // all of them, for as long as Run lives
		KeepGoing: true,
	}, o.relay)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// Unpark puts all parked messages of all pods back into their shops' lines, at
// their old places, as if they had never been tried, and returns how many.
func (o *Outbox) Unpark(ctx context.Context) (int, error) {
	unparked := 0
	err := o.cluster.EachPod(ctx, "unpark the outbox", &sharding.EachPodOptions{KeepGoing: true}, func(ctx context.Context, _ podworks.PodID, db *sql.DB) error {
		seqs, err := parked(ctx, db)
		if err != nil {
			return explain(err)
		}
		for _, seq := range seqs {
			// One by one: an UPDATE of several rows may scan a small table, and wait
			// for the writers that have a row in it.
			res, err := db.ExecContext(ctx, `UPDATE podworks_outbox SET pending = shop_id, attempts = 0, due = UTC_TIMESTAMP(6) WHERE seq = ? AND pending IS NULL`, seq)
			if err != nil {
				return err
			}
			n, _ := res.RowsAffected() // go-sql-driver always knows
			unparked += int(n)
		}
		return nil
	})
	if err != nil {
		return unparked, fmt.Errorf("outbox: unpark: %w", err)
	}
	return unparked, nil
}

// parked returns the rows that are parked.
func parked(ctx context.Context, db *sql.DB) (seqs []uint64, err error) {
	rows, err := db.QueryContext(ctx, `SELECT seq FROM podworks_outbox FORCE INDEX (pending) WHERE pending IS NULL ORDER BY seq`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		seqs = append(seqs, seq)
	}
	return seqs, rows.Err()
}

// explain adds what the server's text doesn't say.
func explain(err error) error {
	const noSuchTable = 1146
	var e *mysql.MySQLError
	if errors.As(err, &e) && e.Number == noSuchTable {
		return fmt.Errorf("%w; run Migrate", err)
	}
	return err
}
