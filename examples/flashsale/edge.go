package main

import (
	"context"
	"net/http"
	"net/url"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/routing"
	"github.com/podworks/podworks/sharding"
)

// runEdge serves the edge: it finds the shop of each request by its host, signs
// the shop's route, and passes the request on.
func runEdge(ctx context.Context, p *process) error {
	master, err := asApp.open(p.Servers.Master)
	if err != nil {
		return err
	}
	defer master.Close()
	storefront, err := url.Parse(p.Store)
	if err != nil {
		return err
	}
	log := newLogger()
	router, err := routing.New(sharding.NewDirectory(master, nil), &routing.Options{
		Key:       p.Key,
		Upstreams: map[podworks.Region]*url.URL{region: storefront},
		Logger:    log,
		Hooks: routing.Hooks{ProxyFailed: func(r *http.Request, status int, err error) {
			log.Error("proxy failed", "host", r.Host, "path", r.URL.Path, "status", status, "err", err)
		}},
	})
	if err != nil {
		return err
	}
	if err := router.Refresh(ctx); err != nil { // before the first request, not after
		return err
	}
	return serve(ctx, p, router, func(ctx context.Context) error {
		_ = router.Run(ctx) // returns why ctx ended
		return nil
	})
}
