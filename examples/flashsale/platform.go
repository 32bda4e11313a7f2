package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/sharding"
	"github.com/podworks/podworks/sharding/master"
)

// A platform is what one process sees of the pods: the cluster, and a client of
// each other store for each pod.
type platform struct {
	*sharding.Cluster
	carts  *sharding.PerPod[*redis.Client]
	pages  *sharding.PerPod[*memcache.Client]
	master *sql.DB
	global *master.Master // what is unique over all pods; shops don't need it
	log    *slog.Logger
}

// How long the application waits for what it can do without: the cart, for which there
// is a page that says so, and the cache, behind which is the database.
const (
	cartAnswers  = 500 * time.Millisecond
	cacheAnswers = 100 * time.Millisecond
)

// openPlatform returns the platform for a process, as user u. It does no I/O.
func openPlatform(pl *plan, u user, conns int) (*platform, error) {
	p := &platform{log: newLogger()}
	var err error
	if p.master, err = u.open(pl.Servers.Master); err != nil {
		return nil, err
	}
	if p.global, err = master.New(p.master, nil, nil); err != nil {
		return nil, err
	}
	dir := sharding.NewDirectory(p.master, &sharding.DirectoryOptions{Logger: p.log})
	connectors := map[podworks.PodID]driver.Connector{}
	for id, at := range pl.Servers.Pods {
		cfg, err := u.config(at.MySQL)
		if err != nil {
			return nil, err
		}
		if connectors[id], err = mysql.NewConnector(cfg); err != nil {
			return nil, err
		}
	}
	p.Cluster, err = sharding.New(dir, connectors, &sharding.Options{
		Key:          pl.Key,
		MaxOpenConns: conns,
		// While a pod answers, few requests wait for a connection. While it hangs, all
		// do: those of one pod get so far and no further, and the rest is told at once.
		MaxScopes: 2 * conns,
	})
	if err != nil {
		return nil, err
	}
	p.carts = sharding.NewPerPod(func(id podworks.PodID) (*redis.Client, error) {
		return redis.NewClient(&redis.Options{
			Addr:                  pl.Servers.Pods[id].Redis,
			ContextTimeoutEnabled: true,
			DisableIdentity:       true,
			// A cart is not worth waiting for, nor for a second try.
			DialTimeout:   cartAnswers,
			ReadTimeout:   cartAnswers,
			WriteTimeout:  cartAnswers,
			PoolTimeout:   cartAnswers,
			DialerRetries: 1,
			MaxRetries:    -1,
			// Only managed servers announce their maintenance.
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}), nil
	})
	p.pages = sharding.NewPerPod(func(id podworks.PodID) (*memcache.Client, error) {
		c := memcache.New(pl.Servers.Pods[id].Memcached)
		c.Timeout = cacheAnswers
		c.MaxIdleConns = conns
		return c, nil
	})
	return p, nil
}

// newLogger returns a logger of what a process should not have met.
func newLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// run keeps the directory fresh until ctx ends, and closes the pools then.
func (p *platform) run(ctx context.Context) error {
	_ = p.Directory().Run(ctx) // returns why ctx ended
	return errors.Join(p.Close(), p.master.Close())
}
