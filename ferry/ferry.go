package ferry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
)

// A Directory says which pod owns a shop, and keeps the journal of moves. Its
// methods are called from one mover at a time and from any number of
// recoverers; each is one transaction. sharding's *Directory is one, and Tables
// is another.
//
// An error that wraps none of those named here leaves the outcome open; the
// caller asks again.
type Directory interface {
	// Fresh returns the shop's route, never from a cache.
	Fresh(ctx context.Context, shop podworks.ShopID) (podworks.Route, error)

	// Claim writes the journal row of a new move, with a token higher than any
	// before. An unfinished row of the shop makes it fail, unless it is of the same
	// running move and was silent for lease: then it is retired, so that its mover
	// can't decide any more.
	Claim(ctx context.Context, shop podworks.ShopID, to podworks.PodID, lease time.Duration) (podworks.Move, error)

	// Beat notes a step, and that the mover is alive. It fails if the move is not
	// running under this token.
	Beat(ctx context.Context, token uint64, step string) error

	// Note records the epochs of both pods while neither is failing over.
	Note(ctx context.Context, token uint64) error

	// Decide puts the shop at its new route, if the move is running under this
	// token, the shop is at the claimed route, and both pods have the epochs noted.
	// Of a decided move it returns the route again.
	Decide(ctx context.Context, token uint64) (podworks.Route, error)

	// Abort makes a decision impossible, or fails because it was first. It may be
	// called again.
	Abort(ctx context.Context, token uint64) error

	// Finish retires the row of a decided or aborted move. It may be called again.
	Finish(ctx context.Context, token uint64) error

	// Moves returns the unfinished moves.
	Moves(ctx context.Context) ([]podworks.Move, error)
}

// Options configure a Ferry. The zero value is ready to use.
type Options struct {
	// Column is the column that names a row's shop. Default "shop_id".
	Column string

	// Ignore names the tables that hold no shop's rows and are the same in every
	// pod. A table without the shop's column that is not named here is refused.
	Ignore []string

	// PauseBudget bounds the time for which a try at the cutover makes the shop's
	// writers wait before the source is closed. Default 150 ms. Two commits follow.
	PauseBudget time.Duration

	// Attempts bounds the tries at the cutover. Default 30. After three steps back
	// the sessions that keep the mover from the lock are ended.
	Attempts int

	// ChunkRows bounds the rows of a chunk of the copy. Default 2000.
	ChunkRows int

	// Lease is how long a mover may be silent before another process takes it for
	// dead. Default 4 s. It is a matter of patience only: a mover that was taken
	// for dead and was not can do no harm.
	Lease time.Duration

	// Progress, if set, is called from one goroutine, at steps and at most five
	// times a second between them. It is not called while writers wait.
	Progress func(Progress)

	// Logger gets a line for each step of a move. Nil discards.
	Logger *slog.Logger
}

// Progress says how far a move is.
type Progress struct {
	Shop       podworks.ShopID
	Step       string // copy, verify, cutover, opened
	Table      string // being copied or compared
	RowsCopied int64
	RowsTotal  int64 // counted before the copy
	RowChanges int64 // applied from the log
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
	Pause        time.Duration // of the last try: from asking for the lock to the target's opening
	Took         time.Duration
}

// A Ferry moves shops. Its methods may be called concurrently.
type Ferry struct {
	dir  Directory
	pods map[podworks.PodID]*mysql.Config
	opts Options
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
	o.ChunkRows = cmp.Or(o.ChunkRows, 2000)
	o.Lease = cmp.Or(o.Lease, 4*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Ignore = slices.Clone(o.Ignore)
	var errs []error
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
	f := &Ferry{dir: dir, pods: map[podworks.PodID]*mysql.Config{}, opts: o}
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
	cfg.Logger = &mysql.NopLogger{} // what goes wrong is returned
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	cfg.Params["time_zone"] = `'+00:00'`
	cfg.Params["sql_mode"] = `'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'`
	cfg.Params["foreign_key_checks"] = `0`
	cfg.Params["innodb_lock_wait_timeout"] = `5`
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("pod %d: %w", pod, err)
	}
	db := sql.OpenDB(c)
	db.SetMaxIdleConns(8)
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
