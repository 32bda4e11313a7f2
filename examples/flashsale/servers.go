package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
)

// servers say where the stores are.
type servers struct {
	Version string // of the database servers, with the family's name
	Master  string // the driver's DSN, as root
	Pods    map[podworks.PodID]podServers
	Keeper  int // the process that ends them when it is told to

	master *testcluster.Process // known only to the process that started it
}

// podServers are the stores of one pod.
type podServers struct {
	MySQL     string // the driver's DSN, as root
	Redis     string // a socket's path, or host:port
	Memcached string // the same

	// Known only to the process that started them.
	mysql, redis, memcached *testcluster.Process
}

// The pods, and the region they are all in.
const (
	firstPod  podworks.PodID  = 1
	secondPod podworks.PodID  = 2
	region    podworks.Region = "here"
)

// The databases on the servers.
const (
	masterDatabase = "master"
	podDatabase    = "shops"
)

// runServers starts the servers, and stops them at the end. It is a process of
// its own so that they outlive a conductor that was told to keep them, and no
// other one.
func runServers(ctx context.Context, p *process) error {
	// Caught from the beginning: who kept the servers may not keep them long.
	told, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer os.RemoveAll(p.Dir) // the ledgers are kept as long as what they are compared with
	defer testcluster.StopAll()
	at, err := startServers(ctx, p.Settings.Family)
	if err != nil {
		return err
	}
	p.tell(news{Servers: at})
	<-ctx.Done()
	if p.kept.Load() {
		<-told.Done()
	}
	return testcluster.StopAll()
}

// startServers starts all servers at once.
func startServers(ctx context.Context, family testcluster.Family) (*servers, error) {
	at := &servers{Pods: map[podworks.PodID]podServers{}, Keeper: os.Getpid()}
	var (
		mu   sync.Mutex // guards at and errs
		errs []error
		wg   sync.WaitGroup
	)
	start := func(what string, fn func() (note func(), err error)) {
		wg.Go(func() {
			note, err := fn()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("start %s: %w", what, err))
				return
			}
			note()
		})
	}
	pod := func(id podworks.PodID, set func(*podServers)) func() {
		return func() {
			have := at.Pods[id]
			set(&have)
			at.Pods[id] = have
		}
	}
	start("the master database", func() (func(), error) {
		s, err := startMySQL(ctx, family, masterDatabase)
		return func() {
			at.Master, at.Version, at.master = s.DSN(masterDatabase), title(family)+" "+s.Version(), s.Process
		}, err
	})
	for _, id := range []podworks.PodID{firstPod, secondPod} {
		start(fmt.Sprintf("the database of pod %d", id), func() (func(), error) {
			s, err := startMySQL(ctx, family, podDatabase)
			return pod(id, func(at *podServers) { at.MySQL, at.mysql = s.DSN(podDatabase), s.Process }), err
		})
		start(fmt.Sprintf("the Redis of pod %d", id), func() (func(), error) {
			s, err := testcluster.StartRedis(ctx, nil)
			return pod(id, func(at *podServers) { at.Redis, at.redis = s.Socket(), s.Process }), err
		})
		start(fmt.Sprintf("the memcached of pod %d", id), func() (func(), error) {
			s, err := testcluster.StartMemcached(ctx, nil)
			return pod(id, func(at *podServers) { at.Memcached, at.memcached = s.Socket(), s.Process }), err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return at, nil
}

// startMySQL starts a database server with one empty database.
func startMySQL(ctx context.Context, family testcluster.Family, database string) (*testcluster.MySQLServer, error) {
	s, err := testcluster.StartMySQL(ctx, &testcluster.MySQLOptions{
		Family: family,
		// A hot shop fits into memory; that is what makes it a hot one.
		Args: []string{"--innodb-buffer-pool-size=256M"},
	})
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("mysql", s.DSN(""))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, `CREATE DATABASE `+database+` CHARACTER SET utf8mb4`); err != nil {
		return nil, err
	}
	return s, nil
}

func title(f testcluster.Family) string {
	if f == testcluster.MySQL {
		return "MySQL"
	}
	return "MariaDB"
}

// A user is who a process is in the databases: the application may less than
// those who look after it.
type user string

const (
	asApp   user = testcluster.AppUser
	asAdmin user = "root"
)

// How long the application waits for a database. There is no statement of a shop's that
// takes this long; of a COMMIT whose answer takes longer nobody knows what became. It
// is less than a request may take, so that there is time left to look.
//
// Those who look after the databases wait for as long as it takes.
const (
	databaseConnects = time.Second
	databaseAnswers  = 2 * time.Second
)

// config returns the driver's configuration for a DSN.
func (u user) config(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.User = string(u)
	cfg.InterpolateParams = true // one round trip per statement
	if u == asApp {
		cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = databaseConnects, databaseAnswers, databaseAnswers
	}
	return cfg, nil
}

// open returns a pool for a DSN.
func (u user) open(dsn string) (*sql.DB, error) {
	cfg, err := u.config(dsn)
	if err != nil {
		return nil, err
	}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}
