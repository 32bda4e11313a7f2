package story

import (
	"context"
	"database/sql/driver"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/routing"
	"github.com/podworks/podworks/sharding"
)

// This is the program in the README, which a test keeps equal to it.

func serve(ctx context.Context, dir *sharding.Directory, pods map[podworks.PodID]driver.Connector, key []byte, app *url.URL) error {
	cluster, err := sharding.New(dir, pods, &sharding.Options{Key: key})
	if err != nil {
		return err
	}
	edge, err := routing.New(dir, &routing.Options{Key: key, Upstreams: map[podworks.Region]*url.URL{"us-east1": app}})
	if err != nil {
		return err
	}
	go dir.Run(ctx) // both hear of moves from the directory in the master database
	go edge.Run(ctx)
	go http.ListenAndServe(app.Host, cluster.Middleware(http.HandlerFunc(checkout)))
	return http.ListenAndServe("127.0.0.1:8080", edge)
}

func checkout(w http.ResponseWriter, r *http.Request) {
	shop := sharding.FromContext(r.Context())
	err := shop.Tx(r.Context(), func(ctx context.Context, tx *sharding.Tx) error { // in the shop's pod, whichever that is
		_, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, item) VALUES (?, ?, ?)`,
			int64(shop.Shop()), time.Now().UnixNano(), r.FormValue("item"))
		return err
	})
	if err != nil {
		http.Error(w, "please try again", http.StatusServiceUnavailable)
	}
}

func move(ctx context.Context, f *ferry.Ferry, shop podworks.ShopID, to podworks.PodID) error {
	report, err := f.Move(ctx, shop, to) // while the shop trades
	if err == nil {
		fmt.Printf("%d rows compared both ways, writers waited %v\n", report.RowsVerified, report.Pause)
	}
	return err
}

// The end of the program.

func Example() {
	_, _ = serve, move
}
