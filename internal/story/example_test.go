package story

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/ferry"
	"github.com/podworks/podworks/routing"
	"github.com/podworks/podworks/sharding"
)

// This is the program in the README, which a test keeps equal to it.

func serve(ctx context.Context, master *sql.DB, pod1, pod2 *mysql.Config, key []byte, app *url.URL) error {
	dir := sharding.NewDirectory(master, nil) // which pod has which shop
	go dir.Run(ctx)

	conn1, _ := mysql.NewConnector(pod1)
	conn2, _ := mysql.NewConnector(pod2)
	cluster, err := sharding.New(dir, map[podworks.PodID]driver.Connector{1: conn1, 2: conn2}, &sharding.Options{Key: key})
	if err != nil {
		return err
	}
	checkout := func(w http.ResponseWriter, r *http.Request) {
		shop := sharding.FromContext(r.Context())
		err := shop.Tx(r.Context(), func(ctx context.Context, tx *sharding.Tx) error { // in the shop's pod, whichever that is
			_, err := tx.ExecContext(ctx, `INSERT INTO orders (shop_id, id, item) VALUES (?, ?, ?)`, int64(shop.Shop()), time.Now().UnixNano(), r.FormValue("item"))
			return err
		})
		if err != nil {
			http.Error(w, "please try again", http.StatusServiceUnavailable)
		}
	}
	go http.ListenAndServe(app.Host, cluster.Middleware(http.HandlerFunc(checkout)))

	edge, err := routing.New(dir, &routing.Options{Key: key, Upstreams: map[podworks.Region]*url.URL{"us-east1": app}})
	if err != nil {
		return err
	}
	go edge.Run(ctx)
	return http.ListenAndServe("127.0.0.1:8080", edge)
}

func move(ctx context.Context, dir ferry.Directory, pod1, pod2 *mysql.Config, shop podworks.ShopID) error {
	f, err := ferry.New(dir, map[podworks.PodID]*mysql.Config{1: pod1, 2: pod2}, nil)
	if err != nil {
		return err
	}
	report, err := f.Move(ctx, shop, 2) // while the shop trades
	if err == nil {
		fmt.Printf("%d rows moved and compared, writers waited %v\n", report.RowsVerified, report.Pause)
	}
	return err
}

// The end of the program.

func Example() {
	_, _ = serve, move
}
