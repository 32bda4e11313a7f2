package master

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks/internal/flavor"
)

//go:embed schema.sql
var schema string

// A Master is the global database as one process sees it. Its methods may be
// called concurrently.
type Master struct {
	primary *sql.DB
	replica *sql.DB // or nil
	opts    Options

	family atomic.Pointer[flavor.Flavor] // once it was asked for
	away   fault                         // the replica gives no connection
	late   fault                         // the replica does not reach what it is asked for
	stats  struct{ replica, primary, late, away atomic.Uint64 }

	// Protections that a test can take away.
	reached func(flavor.GTIDs, context.Context, flavor.Queryer, time.Duration) (bool, error)
	same    func(Claim) string
	take    func(ctx context.Context, db *sql.DB, name string, size int64) (end int64, err error)
}

// Options configure a Master. The zero value is ready to use.
type Options struct {
	// Wait bounds how long a read waits for the replica: for a connection, and
	// then for what its session wrote. After that the primary is read. It also
	// bounds how long the GTID of a commit is asked for. Default 1 s.
	Wait time.Duration
}

// New returns the global database with this primary and this replica, which is
// the one of the process's own region, or a load balancer before several. A nil
// replica means that the primary serves the reads. The replica's sessions must
// be read-only; ReadOnly makes them so. New does no I/O; see Check.
//
// The pools remain the caller's, to bound (sql.DB.SetMaxOpenConns) and to close.
func New(primary, replica *sql.DB, opts *Options) (*Master, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Wait = cmp.Or(o.Wait, time.Second)
	var errs []error
	if primary == nil {
		errs = append(errs, errors.New("the primary is nil"))
	}
	if primary != nil && primary == replica {
		errs = append(errs, errors.New("the replica is the primary: give nil for the replica, and the primary serves the reads"))
	}
	if o.Wait < 0 {
		errs = append(errs, fmt.Errorf("Wait is %v, want a positive duration", o.Wait))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("master: %w", err)
	}
	return &Master{
		primary: primary,
		replica: replica,
		opts:    o,
		away:    fault{pause: faultPause},
		late:    fault{pause: faultPause},
		reached: flavor.GTIDs.Reached,
		same:    sameClaim,
		take:    takeBlock,
	}, nil
}

// Schema returns the statements that create the tables of claims and sequences,
// one a string, for teams with a migration tool of their own.
func Schema() []string {
	var out []string
	for stmt := range strings.SplitSeq(schema, ";\n") {
		if stmt = strings.TrimSpace(stmt); stmt != "" {
			out = append(out, stmt)
		}
	}
	return out
}

// Migrate creates the tables that are missing.
func (m *Master) Migrate(ctx context.Context) error {
	for _, stmt := range Schema() {
		if _, err := m.primary.ExecContext(ctx, stmt); err != nil {
			return unreachable(ctx, "create the tables", err)
		}
	}
	return nil
}

// Stats are counters since New.
type Stats struct {
	ReplicaReads uint64 // served by the replica
	PrimaryReads uint64 // served by the primary: all of them without a replica
	Late         uint64 // reads whose session's write the replica did not have in time
	Away         uint64 // reads that found no replica
}

// Stats returns the counters.
func (m *Master) Stats() Stats {
	return Stats{
		ReplicaReads: m.stats.replica.Load(),
		PrimaryReads: m.stats.primary.Load(),
		Late:         m.stats.late.Load(),
		Away:         m.stats.away.Load(),
	}
}

// ReadOnly returns a connector whose sessions refuse writes, for the pool of the
// replica:
//
//	replica := sql.OpenDB(master.ReadOnly(connector))
//
// The server refuses them even where it is not read-only itself, or where the
// user has the privilege to write all the same.
func ReadOnly(c driver.Connector) driver.Connector { return readOnly{c} }

type readOnly struct{ driver.Connector }

func (c readOnly) Connect(ctx context.Context) (driver.Conn, error) {
	dc, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	ex, ok := dc.(driver.ExecerContext)
	if !ok {
		dc.Close()
		return nil, fmt.Errorf("master: the driver's connection (%T) lacks ExecContext; use go-sql-driver/mysql", dc)
	}
	if _, err := ex.ExecContext(ctx, `SET SESSION TRANSACTION READ ONLY`, nil); err != nil {
		dc.Close()
		return nil, fmt.Errorf("master: make a session read-only: %w", err)
	}
	return dc, nil
}

// flavor returns the servers' family. The primary is asked once.
func (m *Master) flavor(ctx context.Context, q flavor.Queryer) (flavor.Flavor, error) {
	if f := m.family.Load(); f != nil {
		return *f, nil
	}
	f, err := flavor.Detect(ctx, q)
	if err == nil {
		m.family.Store(&f)
	}
	return f, err
}

// unreachable says what an error of the primary, before anything was written,
// means: that it is away, unless the server has answered or the caller has left.
func unreachable(ctx context.Context, doing string, err error) error {
	if ctx.Err() == context.Canceled || answered(err) != 0 && !takesNoWrites(err) {
		return fmt.Errorf("master: %s: %w", doing, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrPrimary, doing, err)
}

// A fault remembers for a moment that the replica failed, so that not every
// read pays for finding out again.
type fault struct {
	pause time.Duration // for which it is believed before one read tries again
	until atomic.Int64  // Unix nanoseconds; 0: there is none
}

const faultPause = time.Second

func (f *fault) begin(now time.Time) { f.until.Store(now.Add(f.pause).UnixNano()) }
func (f *fault) end()                { f.until.Store(0) }
func (f *fault) active() bool        { return f.until.Load() != 0 }

// trial reports whether the caller is the one to try again now.
func (f *fault) trial(now time.Time) bool {
	until := f.until.Load()
	return until != 0 && now.UnixNano() >= until && f.until.CompareAndSwap(until, now.Add(f.pause).UnixNano())
}
