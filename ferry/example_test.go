package ferry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
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

// shopInPodOne is a directory that needs no server.
type shopInPodOne struct{ ferry.Directory }

func (shopInPodOne) Fresh(_ context.Context, shop podworks.ShopID) (podworks.Route, error) {
	return podworks.Route{Shop: shop, Pod: 1, Epoch: 1}, nil
}

func (shopInPodOne) Moves(context.Context) ([]podworks.Move, error) { return nil, nil }
