package story

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
	"github.com/podworks/podworks/sharding"
)

// here is the region of all pods.
const here podworks.Region = "here"

// hostOf is the host of a shop.
func hostOf(shop podworks.ShopID) string { return fmt.Sprintf("shop-%d.example", shop) }

// outOfTouch is how old what the storefront knows must be for it to say so:
// several polls.
const outOfTouch = time.Second

// storefront is an edge and an application behind it, until its standard input
// ends. It says where the edge is, and then each time whether it is in touch
// with the master.
func storefront(s settings) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	defer cluster.Close()
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	edge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// The edge has a directory of its own, as one that is another process does.
	master, _, err := open(s.Master)
	if err != nil {
		return err
	}
	defer master.Close()
	router, err := routing.New(sharding.NewDirectory(master, nil), &routing.Options{
		Key:       s.Key,
		Upstreams: map[podworks.Region]*url.URL{here: {Scheme: "http", Host: app.Addr().String()}},
	})
	if err != nil {
		return err
	}
	if err := errors.Join(cluster.Directory().Refresh(context.Background()), router.Refresh(context.Background())); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { cluster.Directory().Run(ctx) })
	wg.Go(func() { router.Run(ctx) })
	handler := orders(cluster)
	if s.AskMaster {
		handler = askingMaster(cluster, handler)
	}
	for l, h := range map[net.Listener]http.Handler{app: cluster.Middleware(handler), edge: router} {
		server := &http.Server{Handler: h}
		defer server.Close()
		wg.Go(func() { server.Serve(l) })
	}
	fmt.Println("http://" + edge.Addr().String())
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for known := true; ctx.Err() == nil; <-tick.C {
			app, edge := cluster.Directory().Stats().Age, router.Stats().Age
			switch {
			case known && min(app, edge) > outOfTouch:
				known = false
				fmt.Println("out of touch")
			case !known && max(app, edge) < outOfTouch:
				known = true
				fmt.Println("in touch")
			}
		}
	})
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// orders writes an order of the request's shop, and reads it.
func orders(cluster *sharding.Cluster) http.Handler {
	answer := func(w http.ResponseWriter, err error) {
		switch {
		case errors.Is(err, sql.ErrNoRows):
			http.Error(w, "there is no such order", http.StatusNotFound)
		case errors.Is(err, podworks.ErrOutcomeUnknown):
			http.Error(w, err.Error(), http.StatusGatewayTimeout)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		shop := sharding.FromContext(r.Context())
		answer(w, shop.Tx(r.Context(), func(ctx context.Context, tx *sharding.Tx) error {
			return insert(ctx, tx, shop.Shop(), 1, id)
		}))
	})
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		shop := sharding.FromContext(r.Context())
		var id int64
		answer(w, shop.DB().QueryRowContext(r.Context(), `SELECT id FROM orders WHERE shop_id = ? AND id = ?`,
			int64(shop.Shop()), r.PathValue("id")).Scan(&id))
	})
	return mux
}

// askingMaster is an application that wants to know of each request, from the
// master, where its shop is.
func askingMaster(cluster *sharding.Cluster, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := cluster.Directory().Fresh(r.Context(), sharding.FromContext(r.Context()).Shop()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// buyersEach is how many buyers a shop has at a time, and buyersWait how long
// one waits for an answer.
const (
	buyersEach = 3
	buyersWait = 5 * time.Second
)

// buyers write orders in each shop and read them, until their standard input
// ends. They never try again. They write a line to their ledger after each
// answer, before the next request: A for an order that was acknowledged, U for
// one of which they don't know, R for a refused one, F for one that was found
// when it was asked for, M for one that was missed; then the shop, the order,
// and the milliseconds that the answer took.
func buyers(s settings) error {
	ledger, err := os.OpenFile(s.Ledger, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: buyersWait, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for _, shop := range s.Shops {
		for i := range buyersEach {
			wg.Go(func() {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for n := int64(1); ; n++ {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					if err := buy(client, ledger, s.Edge, shop, n*buyersEach+int64(i)); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
	}
	fmt.Println("buying")
	io.Copy(io.Discard, os.Stdin)
	cancel()
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return ledger.Close()
}

// buy writes an order, and reads it if it was acknowledged. Its error is of the
// ledger alone.
func buy(client *http.Client, ledger io.Writer, edge string, shop podworks.ShopID, order int64) error {
	ask := func(method string) (status int, err error) {
		begin := time.Now()
		req, err := http.NewRequest(method, fmt.Sprintf("%s/orders/%d", edge, order), nil)
		if err != nil {
			return 0, err
		}
		req.Host = hostOf(shop)
		text := ""
		if res, err := client.Do(req); err != nil {
			text = err.Error()
		} else {
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			status, text = res.StatusCode, string(b)
		}
		verdict := map[string]string{http.MethodPost: "A", http.MethodGet: "F"}[method]
		switch {
		case status == http.StatusOK:
		case method == http.MethodGet:
			verdict = "M"
		case status == http.StatusServiceUnavailable:
			verdict = "R"
		default:
			verdict = "U"
		}
		if status != http.StatusOK {
			fmt.Fprintf(os.Stderr, "%s shop %d order %d: %d %s\n", method, shop, order, status, text)
		}
		_, err = fmt.Fprintf(ledger, "%s %d %d %d\n", verdict, shop, order, time.Since(begin).Milliseconds())
		return status, err
	}
	status, err := ask(http.MethodPost)
	if err == nil && status == http.StatusOK {
		_, err = ask(http.MethodGet)
	}
	return err
}
