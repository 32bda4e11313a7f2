package ferry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
)

// What callers branch on, with errors.Is.
var (
	// ErrRefused: the move can't be made safely; nothing was touched. The message
	// names every reason and what to do about each.
	ErrRefused = errors.New("ferry: refused before anything was touched")

	// ErrBusy: another mover is at work on the shop, or was a moment ago.
	ErrBusy = errors.New("ferry: the shop is being moved by another process")

	// ErrReplaced: another process has taken this move over or undone it.
	ErrReplaced = errors.New("ferry: another process has taken over or undone this move")

	// ErrSteppedBack: the write pause did not fit its budget, however often it was
	// tried. The shop stays where it was.
	ErrSteppedBack = errors.New("ferry: the write pause did not fit its budget")

	// ErrContradiction: journal, directory and fences say what no move leaves
	// behind, however it ends; a row was changed by hand or is from a backup. The
	// message has all of them and what to do. Nothing is touched until it is done.
	ErrContradiction = errors.New("ferry: the rows of an unfinished move contradict each other")

	// ErrDiffers: the shop's rows are not the same on both sides. The error is a
	// [*DifferenceError], which has them.
	ErrDiffers = errors.New("ferry: rows differ")

	// ErrChain: a file of evidence was changed, or two processes appended at once.
	ErrChain = errors.New("ferry: the evidence is not one chain")
)

// A Directory says which pod owns a shop, and keeps the journal of moves. Its
// methods are called from one mover at a time and from any number of
// recoverers; each is one transaction. sharding's *Directory is one, and Tables
// is another.
//
// A method whose COMMIT had no answer looks up what became of it. An error that
// is podworks.ErrOutcomeUnknown says that this failed too, and leaves the outcome
// open: ferry asks again, which is why each may be called again.
type Directory interface {
	// Fresh returns the shop's route, never from a cache.
	Fresh(ctx context.Context, shop podworks.ShopID) (podworks.Route, error)

	// Claim writes the journal row of a new move, with a token higher than any
	// before. An unfinished row of the shop makes it fail, unless it is of the same
	// running move and was silent for lease: then it is retired, so that its mover
	// can't decide any more.
	Claim(ctx context.Context, shop podworks.ShopID, to podworks.PodID, lease time.Duration) (podworks.Move, error)

	// Beat notes a step, and that the mover is alive. It fails if the move is not
	// at work under this token: running, or decided and being copied again.
	Beat(ctx context.Context, token uint64, step string) error

	// Note records the epochs of both pods while neither is failing over.
	Note(ctx context.Context, token uint64) error

	// Decide puts the shop at its new route, if the move is running under this
	// token, the shop is at the claimed route, and both pods have the epochs noted.
	// The token is Verified from then on. Of a decided move, finished or not, it
	// returns the route again.
	Decide(ctx context.Context, token uint64) (podworks.Route, error)

	// Abort makes a decision impossible, or fails because it was first. It may be
	// called again.
	Abort(ctx context.Context, token uint64) error

	// Reclaim retires a decided move's row for one with a new token, higher than
	// any before, that isn't Verified: its copy was lost and is made again.
	Reclaim(ctx context.Context, token uint64) (podworks.Move, error)

	// Verified makes that token the verified one. It may be called again.
	Verified(ctx context.Context, token uint64) error

	// Finish retires the row of a decided or aborted move. It may be called again.
	Finish(ctx context.Context, token uint64) error

	// Moves returns the unfinished moves.
	Moves(ctx context.Context) ([]podworks.Move, error)
}

// Options configure a Ferry. The zero value is ready to use.
type Options struct {
	// Column is the column that names a row's shop. Default "shop_id".
	Column string

	// Tables has the rules of the tables that differ from the others.
	Tables map[string]Rule

	// Tenant returns what a shop is called in its rows: an int64, a string (for
	// text and binary columns and MariaDB's UUID) or a []byte (a UUID in BINARY(16) or
	// UUID, say). Default: its number. It is asked once for each move and must always answer the same.
	Tenant func(context.Context, podworks.ShopID) (any, error)

	// Ignore names the tables that hold no shop's rows and are the same in every
	// pod. A table without the shop's column that is not named here is refused.
	Ignore []string

	// PauseBudget bounds the time for which a try at the cutover makes the shop's
	// writers wait before the source is closed. Default 150 ms. Two commits follow.
	// A try that is predicted to exceed it, commits included, makes nobody wait.
	PauseBudget time.Duration

	// Attempts bounds the tries at the cutover. Default 30. When three in a row did
	// not get the lock, the next ends the sessions that keep the mover from it; the
	// first two wait for a sixteenth and a quarter of the budget only.
	Attempts int

	// ChunkRows bounds the rows that the copy reads between two markers in the log; so
	// do some 8 MB of their values. Default 40,000.
	ChunkRows int

	// Stores are what a shop has beside its pod's MySQL, in the order in which they
	// are prepared and finished.
	Stores []Store

	// Lease is how long a mover may be silent before another process takes it for
	// dead. Default 4 s. It is a matter of patience only: a mover that was taken
	// for dead and was not can do no harm.
	Lease time.Duration

	// Replicated, if set, returns when the pod's replicas have everything that was
	// committed on its primary before the call. A failover to such a replica loses
	// none of it. It is asked of the target before each try at the cutover, under the
	// lock, with the time that the pause budget has left, and before the move is finished; until
	// then the journal keeps it, and Run opens the shop again should that be lost. Clean
	// asks it of the pod that it cleans, after each transaction. While [Limits] have a
	// MaxLag it is asked all along, by a goroutine of its own. An error, such as the
	// context's, is a reason to try again later.
	//
	// Set it if a pod may fail over to a replica that lacks acknowledged commits.
	// Default: there are no such replicas.
	Replicated func(ctx context.Context, pod podworks.PodID) error

	// Throttle slows the copies and comparisons. Default: one that doesn't.
	Throttle *Throttle

	// Progress, if set, is called from one goroutine for each move, so at once for several,
	// at steps and at most five times a second between them. While writers wait it
	// is called only for a copy that recovery has to make again.
	Progress func(Progress)

	// Logger gets a line for each step of a move. Nil discards.
	Logger *slog.Logger
}

// A Report says what a move did.
type Report struct {
	Route        podworks.Route // where the shop is now
	Token        uint64
	RowsCopied   int64
	RowChanges   int64         // applied from the log
	RowsVerified int64         // compared both ways, without counting a row twice
	RowsRepaired int64         // found different and copied again before the cutover
	StepsBack    int           // tries at the cutover that did not fit the budget
	Predicted    time.Duration // the pause, before the lock was asked for
	Pause        time.Duration // of the last try: from asking for the lock to the target's opening
	Took         time.Duration
	Evidence     *Evidence // of this, to keep
	// Unfinished says why the journal still has the move, which Run will finish: a
	// store's Finish failed, say. The shop trades at the target all the same.
	Unfinished string
}

// A Ferry moves shops. Its methods may be called concurrently.
type Ferry struct {
	dir  Directory
	pods map[podworks.PodID]*mysql.Config
	opts Options
	hubs hubs

	mu     sync.Mutex
	moving map[uint64]*move // those under way, by token
}

// New returns a ferry between pods, each reached with the driver's
// configuration of its database and a user who may do what the package comment
// lists. It does no I/O.
func New(dir Directory, pods map[podworks.PodID]*mysql.Config, opts *Options) (*Ferry, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Column = cmp.Or(o.Column, "shop_id")
	o.PauseBudget = cmp.Or(o.PauseBudget, 150*time.Millisecond)
	o.Attempts = cmp.Or(o.Attempts, 30)
	o.ChunkRows = cmp.Or(o.ChunkRows, 40_000)
	o.Lease = cmp.Or(o.Lease, 4*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Throttle = cmp.Or(o.Throttle, new(Throttle))
	o.Ignore = slices.Clone(o.Ignore)
	o.Stores = slices.Clone(o.Stores)
	o.Tables = maps.Clone(o.Tables)
	errs := checkStores(o.Stores)
	for _, name := range slices.Sorted(maps.Keys(o.Tables)) {
		if err := o.Tables[name].check(name); err != nil {
			errs = append(errs, err)
		}
		if slices.Contains(o.Ignore, name) {
			errs = append(errs, fmt.Errorf("table %s has a rule in Tables and is named in Ignore; decide for one", name))
		}
	}
	if dir == nil {
		errs = append(errs, errors.New("the directory is nil"))
	}
	for name, d := range map[string]time.Duration{"PauseBudget": o.PauseBudget, "Lease": o.Lease} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s is %v, want a positive duration", name, d))
		}
	}
	for name, n := range map[string]int{"Attempts": o.Attempts, "ChunkRows": o.ChunkRows} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s is %d, want 1 or more", name, n))
		}
	}
	if o.Throttle.Limits().MaxLag > 0 && o.Replicated == nil {
		errs = append(errs, errors.New("the Throttle has a MaxLag, and Replicated, which tells the lag, is nil"))
	}
	f := &Ferry{dir: dir, pods: map[podworks.PodID]*mysql.Config{}, opts: o, moving: map[uint64]*move{}}
	for id, cfg := range pods {
		if cfg == nil || cfg.DBName == "" {
			errs = append(errs, fmt.Errorf("pod %d: want the driver's configuration with a database's name", id))
			continue
		}
		f.pods[id] = cfg.Clone()
	}
	if len(pods) == 0 {
		errs = append(errs, errors.New("there are no pods"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("ferry: %w", err)
	}
	return f, nil
}

// A server is one pod's database during a move.
type server struct {
	pod podworks.PodID
	cfg *mysql.Config
	db  *sql.DB
}

// open returns a pool for the pod. Its sessions neither pad, truncate nor
// reinterpret what passes through: UTC, strict, zero stays zero, and foreign
// keys unchecked, as rows arrive table by table.
func (f *Ferry) open(pod podworks.PodID) (*server, error) {
	base, ok := f.pods[pod]
	if !ok {
		return nil, fmt.Errorf("pod %d is unknown to this ferry; give New its configuration", pod)
	}
	cfg := base.Clone()
	cfg.InterpolateParams = true
	cfg.MultiStatements = false
	cfg.ParseTime = false
	cfg.ClientFoundRows = true
	cfg.Loc = time.UTC
	cfg.MaxAllowedPacket = 0        // as the server says, which a large row may need
	cfg.Logger = &mysql.NopLogger{} // what goes wrong is returned
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	cfg.Params["time_zone"] = `'+00:00'`
	cfg.Params["sql_mode"] = `'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'`
	cfg.Params["foreign_key_checks"] = `0`
	cfg.Params["@podworks_ferry"] = `1` // for triggers
	// In the comment, which MariaDB skips: MySQL's information_schema must not give
	// yesterday's AUTO_INCREMENT counters, and must show the primary keys that the server
	// made by itself, because the log does. The other way round, MariaDB must take rows
	// that a CHECK has come to forbid, or that came when it was off: they are there.
	cfg.Params["innodb_lock_wait_timeout"] = `5 /*!80000 , information_schema_stats_expiry = 0 */ /*!80030 , show_gipk_in_create_table_and_information_schema = 1 */ /*M!100201 , check_constraint_checks = 0 */`
	// A mover that is frozen in the middle of a transaction on the target keeps its
	// lock on the fence row from who recovers the move, for as long as the server
	// keeps the idle session: 8 hours by default.
	cfg.Params["wait_timeout"] = `5`
	cfg.Params["net_read_timeout"] = `5` // the same in the middle of a LOAD DATA; 30 s by default
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("pod %d: %w", pod, err)
	}
	db := sql.OpenDB(c)
	db.SetMaxIdleConns(8)
	db.SetConnMaxIdleTime(2 * time.Second) // well before the server ends them
	return &server{pod: pod, cfg: cfg, db: db}, nil
}

// pair opens both ends of a move.
func (f *Ferry) pair(source, target podworks.PodID) (src, dst *server, err error) {
	src, err = f.open(source)
	if err != nil {
		return nil, nil, err
	}
	dst, err = f.open(target)
	if err != nil {
		src.db.Close()
		return nil, nil, err
	}
	return src, dst, nil
}
