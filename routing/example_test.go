package routing_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
)

// A directory of one shop, the application behind the router, and a request
// that claims to be for another shop.
func Example() {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "%s is shop %s on pod %s since epoch %s", req.Host,
			req.Header.Get(podworks.HeaderShop), req.Header.Get(podworks.HeaderPod), req.Header.Get(podworks.HeaderEpoch))
	}))
	defer app.Close()
	address, err := url.Parse(app.URL)
	if err != nil {
		log.Fatal(err)
	}

	// Real sources read a database; version 7 is all there will ever be here.
	source := routing.SourceFunc(func(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
		if since < 7 {
			each("sneakers.example", podworks.Route{Shop: 42, Pod: 3, Region: "us-east1", Epoch: 5})
		}
		return 7, nil
	})
	router, err := routing.New(source, &routing.Options{
		Key:       []byte("32 random bytes, from your vault"),
		Upstreams: map[podworks.Region]*url.URL{"us-east1": address},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := router.Refresh(ctx); err != nil { // don't open the door without a table
		log.Fatal(err)
	}
	go router.Run(ctx)
	edge := httptest.NewServer(router)
	defer edge.Close()

	req, err := http.NewRequest("GET", edge.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Host = "Sneakers.example:443"
	req.Header.Set(podworks.HeaderShop, "666")
	res, err := edge.Client().Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))

	// Output:
	// Sneakers.example:443 is shop 42 on pod 3 since epoch 5
}

// What a router says before it has a table, and when no shop has the host.
func Example_unknownHost() {
	source := routing.SourceFunc(func(ctx context.Context, since uint64, each func(string, podworks.Route)) (uint64, error) {
		return 1, nil // no hosts at all
	})
	router, err := routing.New(source, &routing.Options{
		Key:       []byte("32 random bytes, from your vault"),
		Upstreams: map[podworks.Region]*url.URL{"us-east1": {Scheme: "http", Host: "app.internal:8080"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ask := func() {
		w := httptest.NewRecorder()
		router.ServeHTTP(w, httptest.NewRequest("GET", "http://sneekers.example/", nil))
		fmt.Print(w.Code, ": ", w.Body)
	}
	ask()
	if err := router.Refresh(context.Background()); err != nil {
		log.Fatal(err)
	}
	ask()

	// Output:
	// 503: The routing table is not loaded yet. Try again in a second.
	// 404: No shop has the host "sneekers.example". Check the spelling; if it is right, give the host to its shop in the directory, and it is served here within 250ms.
}
