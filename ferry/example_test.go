package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/ferry/binlog"
)

// Shop 7 goes from pod 1 to pod 2. The directory's tables live in a master
// database, ferry's own in each pod; the application's writers take the fence's
// lock, which package sharding does for them.
func Example() {
	ctx := context.Background()
	master, err := sql.Open("mysql", "ferry@tcp(master.internal:3306)/master")
	if err != nil {
		log.Fatal(err)
	}
	pods := map[podworks.PodID]*mysql.Config{}
	for id, dsn := range map[podworks.PodID]string{
		1: "ferry@tcp(pod1.internal:3306)/shop",
		2: "ferry@tcp(pod2.internal:3306)/shop",
	} {
		if pods[id], err = mysql.ParseDSN(dsn); err != nil {
			log.Fatal(err)
		}
	}

	f, err := ferry.New(ferry.NewTables(master), pods, &ferry.Options{
		Ignore:   []string{"countries", "currencies"}, // the same in every pod
		Progress: func(p ferry.Progress) { log.Printf("%s: %d of %d rows", p.Step, p.RowsCopied, p.RowsTotal) },
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := f.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	go f.Run(ctx) // in some process: finishes or undoes what a dead one left

	report, err := f.Move(ctx, 7, 2)
	if err != nil {
		log.Fatal(err) // the shop trades where it was
	}
	log.Printf("in pod %d since epoch %d; writers waited %v", report.Route.Pod, report.Route.Epoch, report.Pause)

	// A day later, when nobody reads the old rows any more:
	if _, err := f.Clean(ctx, 7, 1); err != nil {
		log.Fatal(err)
	}
}

// Many moves are jobs of a queue, which any process adds to and any number of them
// run.
func ExampleQueue() {
	ctx := context.Background()
	var f *ferry.Ferry // as above
	var master *sql.DB

	q, err := ferry.NewQueue(f, master, &ferry.QueueOptions{Moves: 8, PerPod: 4})
	if err != nil {
		log.Fatal(err)
	}
	if err := q.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	go q.Run(ctx) // in the place of f.Run
	for shop := podworks.ShopID(1); shop <= 200; shop++ {
		if _, err := q.Add(ctx, shop, 2); err != nil {
			log.Fatal(err)
		}
	}
	jobs, err := q.Jobs(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, j := range jobs {
		fmt.Println(j.Shop, j.From, j.To, j.State, j.Error)
	}
}

// After the move to pod 2 the way back to pod 1 is kept open for a day, and whoever
// still writes to pod 1 is told of.
func ExampleFerry_Keep() {
	var f *ferry.Ferry // as above
	day, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	go f.Tripwire(day, 7, 1, binlog.Position{}, func(s ferry.Straggler) {
		log.Printf("connection %d wrote to pod 1 at %v: %s of a row of %s", s.Session, s.Time, s.Kind, s.Table)
	})
	for day.Err() == nil {
		err := f.Keep(day, 7, 1)
		log.Print(err)
		if errors.Is(err, ferry.ErrReplaced) || errors.Is(err, ferry.ErrRefused) {
			return // the shop is being taken back, or has moved on
		}
		select { // a server is away
		case <-day.Done():
		case <-time.After(time.Minute):
		}
	}
	if _, err := f.Clean(context.Background(), 7, 1); err != nil {
		log.Fatal(err)
	}

	// Meanwhile, where something is found to be wrong with pod 2:
	if _, err := f.Move(context.Background(), 7, 1); err != nil {
		log.Fatal(err)
	}
}

// A move that can't be made safely is refused before anything is touched, with
// every reason and what to do about it.
func ExampleFerry_Move_refused() {
	pods := map[podworks.PodID]*mysql.Config{1: {DBName: "shop"}, 2: {DBName: "shop"}}
	f, err := ferry.New(shopInPodOne{}, pods, nil)
	if err != nil {
		log.Fatal(err)
	}
	_, err = f.Move(context.Background(), 7, 3)
	fmt.Println(errors.Is(err, ferry.ErrRefused))
	fmt.Println(err)
	// Output:
	// true
	// ferry: refused before anything was touched: move shop 7 to pod 3:
	//   - pod 3 is unknown to this ferry; give New its configuration
}

// A throttle is given to New, and changed whenever the servers have more, or less,
// to spare.
func ExampleThrottle() {
	throttle := new(ferry.Throttle) // for ferry.Options
	err := throttle.Set(ferry.Limits{RowsPerSecond: 20_000, MaxRunning: 40})
	fmt.Println(err)
	err = throttle.Set(ferry.Limits{RowsPerSecond: -1})
	fmt.Println(err)
	fmt.Println(throttle.Limits().RowsPerSecond, "as before")
	// Output:
	// <nil>
	// ferry: RowsPerSecond is -1, want a positive value, or 0 for no bound
	// 20000 as before
}

// shopInPodOne is a directory that needs no server.
type shopInPodOne struct{ ferry.Directory }

func (shopInPodOne) Fresh(_ context.Context, shop podworks.ShopID) (podworks.Route, error) {
	return podworks.Route{Shop: shop, Pod: 1, Epoch: 1}, nil
}

func (shopInPodOne) Moves(context.Context) ([]podworks.Move, error) { return nil, nil }

// What the shop has beside its pod's MySQL goes along. Each store bears being called
// again, late, or twice at once: what it writes it can write again, and where a late
// call could do harm, it keeps the token.
func ExampleStore() {
	var (
		master *sql.DB                             // the application's
		pods   map[podworks.PodID]*mysql.Config    // as in the first example
		bucket = map[podworks.PodID]string{}       // of each pod's images
		sync   func(context.Context, ...any) error // copies what the second lacks of the first
	)
	// Jobs of the shop wait while it moves, and go to the pod that it is in then. Each
	// shop has a row that says where.
	jobs := jobStore(master)
	// The shop's keys in the cache begin with its epoch there: what was cached from the
	// old pod is never read again. The shop's own epoch only grows, so no token is needed.
	cache := ferry.Store{
		Name: "cache",
		Finish: func(ctx context.Context, mv podworks.Move) error {
			_, err := master.ExecContext(ctx, `UPDATE cache_epochs SET epoch = GREATEST(epoch, ?) WHERE shop_id = ?`, mv.To.Epoch, mv.From.Shop)
			return err
		},
	}
	// Images are never changed, only added, so the copy is safe to make again. Most are
	// copied while the shop trades in the old pod, the last ones when it is in the new.
	copyImages := func(ctx context.Context, mv podworks.Move) error {
		return sync(ctx, bucket[mv.From.Pod], bucket[mv.To.Pod], mv.From.Shop)
	}
	images := ferry.Store{Name: "images", Prepare: copyImages, Finish: copyImages, Timeout: time.Hour}

	f, err := ferry.New(ferry.NewTables(master), pods, &ferry.Options{
		// Images first: jobs are kept waiting only when these are there.
		Stores: []ferry.Store{images, jobs, cache},
	})
	_, _ = f, err
}

func jobStore(db *sql.DB) ferry.Store {
	return ferry.Store{
		Name: "jobs",
		Prepare: func(ctx context.Context, mv podworks.Move) error { // not one that comes after its own Undo
			_, err := db.ExecContext(ctx, `UPDATE job_routes SET paused = TRUE, token = ? WHERE shop_id = ? AND token < ?`, mv.Token, mv.From.Shop, mv.Token)
			return err
		},
		Finish: func(ctx context.Context, mv podworks.Move) error {
			_, err := db.ExecContext(ctx, `UPDATE job_routes SET pod = ?, paused = FALSE, token = ? WHERE shop_id = ? AND token <= ?`, mv.To.Pod, mv.Token, mv.From.Shop, mv.Token)
			return err
		},
		Undo: func(ctx context.Context, mv podworks.Move) error {
			_, err := db.ExecContext(ctx, `UPDATE job_routes SET paused = FALSE, token = ? WHERE shop_id = ? AND token <= ?`, mv.Token, mv.From.Shop, mv.Token)
			return err
		},
	}
}
