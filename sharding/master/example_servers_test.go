package master_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding/master"
)

// What the examples need and an application has: servers, and tables.

// must reports an error that an example doesn't expect, as a part of its output.
func must(err error) {
	if err != nil {
		fmt.Println(err)
	}
}

// exampleServers starts a primary and its replica, with a table of plans.
// killPrimary is the disaster.
func exampleServers() (primary *sql.DB, replica driver.Connector, killPrimary, stop func()) {
	ctx := context.Background()
	start := func(opts *testcluster.MySQLOptions) *testcluster.MySQLServer {
		s, err := testcluster.StartMySQL(ctx, opts)
		if err != nil {
			log.Fatal(err)
		}
		return s
	}
	first := start(&testcluster.MySQLOptions{TCP: true})
	second := start(&testcluster.MySQLOptions{ReplicaOf: first, ReadOnly: true})
	connector := func(s *testcluster.MySQLServer, database string) driver.Connector {
		cfg := s.Config(database)
		cfg.Logger = &mysql.NopLogger{}
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			log.Fatal(err)
		}
		return c
	}
	admin := sql.OpenDB(connector(first, ""))
	defer admin.Close()
	for _, q := range []string{
		`CREATE DATABASE global`,
		`CREATE TABLE global.plans (name VARCHAR(32) NOT NULL PRIMARY KEY, price INT NOT NULL)`,
		`INSERT INTO global.plans VALUES ('basic', 29)`,
	} {
		if _, err := admin.ExecContext(ctx, q); err != nil {
			log.Fatal(err)
		}
	}
	if err := second.CatchUp(ctx); err != nil {
		log.Fatal(err)
	}
	primary = sql.OpenDB(connector(first, "global"))
	return primary, connector(second, "global"), func() { must(first.Kill()) }, func() {
		primary.Close()
		for _, s := range []*testcluster.MySQLServer{second, first} {
			if err := s.Stop(); err != nil {
				log.Print(err)
			}
		}
	}
}

// exampleMaster returns the global database, with the package's tables.
func exampleMaster() (m *master.Master, killPrimary, stop func()) {
	primary, connector, killPrimary, stopServers := exampleServers()
	replica := sql.OpenDB(master.ReadOnly(connector))
	m, err := master.New(primary, replica, nil)
	if err != nil {
		log.Fatal(err)
	}
	must(m.Migrate(context.Background()))
	return m, killPrimary, func() {
		replica.Close()
		stopServers()
	}
}
