package sharding_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/testcluster"
	"github.com/podworks/podworks/sharding"
)

// What the examples need and an application has: servers, and rows.

// must reports an error that an example doesn't expect, as a part of its output.
func must(err error) {
	if err != nil {
		fmt.Println(err)
	}
}

// exampleServers starts a server with a master database, and two pods with a
// table of orders.
func exampleServers() (master *sql.DB, pods map[podworks.PodID]driver.Connector, stop func()) {
	ctx := context.Background()
	server, err := testcluster.StartMySQL(ctx, &testcluster.MySQLOptions{NoBinlog: true})
	if err != nil {
		log.Fatal(err)
	}
	connector := func(name string) driver.Connector {
		c, err := mysql.NewConnector(server.Config(name))
		if err != nil {
			log.Fatal(err)
		}
		return c
	}
	admin := sql.OpenDB(connector(""))
	defer admin.Close()
	for _, q := range []string{
		`CREATE DATABASE master`, `CREATE DATABASE pod1`, `CREATE DATABASE pod2`,
		`CREATE TABLE pod1.orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, total INT NOT NULL, PRIMARY KEY (shop_id, id))`,
		`CREATE TABLE pod2.orders LIKE pod1.orders`,
	} {
		if _, err := admin.ExecContext(ctx, q); err != nil {
			log.Fatal(err)
		}
	}
	master = sql.OpenDB(connector("master"))
	pods = map[podworks.PodID]driver.Connector{1: connector("pod1"), 2: connector("pod2")}
	return master, pods, func() {
		master.Close()
		if err := server.Stop(); err != nil {
			log.Print(err)
		}
	}
}

// exampleCluster returns a cluster with the shops in it.
func exampleCluster() (c *sharding.Cluster, stop func()) {
	ctx := context.Background()
	master, pods, stopServers := exampleServers()
	c, err := sharding.New(sharding.NewDirectory(master, nil), pods, nil)
	if err != nil {
		log.Fatal(err)
	}
	must(c.Migrate(ctx))
	for pod := range pods {
		must(c.Directory().AddPod(ctx, pod, "us-east1"))
	}
	_, err = c.CreateShop(ctx, 1, 1, "hats.example")
	must(err)
	_, err = c.CreateShop(ctx, 2, 2, "mugs.example")
	must(err)
	return c, func() {
		c.Close()
		stopServers()
	}
}
