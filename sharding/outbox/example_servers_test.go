package outbox_test

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

// What the examples need and an application has: a cluster with shop 1.

// must reports an error that an example doesn't expect, as a part of its output.
func must(err error) {
	if err != nil {
		fmt.Println(err)
	}
}

func exampleCluster() (c *sharding.Cluster, stop func()) {
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
		`CREATE DATABASE master`, `CREATE DATABASE pod1`,
		`CREATE TABLE pod1.orders (shop_id BIGINT NOT NULL, id BIGINT NOT NULL, total INT NOT NULL, PRIMARY KEY (shop_id, id))`,
	} {
		if _, err := admin.ExecContext(ctx, q); err != nil {
			log.Fatal(err)
		}
	}
	master := sql.OpenDB(connector("master"))
	c, err = sharding.New(sharding.NewDirectory(master, nil), map[podworks.PodID]driver.Connector{1: connector("pod1")}, nil)
	if err != nil {
		log.Fatal(err)
	}
	must(c.Migrate(ctx))
	must(c.Directory().AddPod(ctx, 1, "us-east1"))
	_, err = c.CreateShop(ctx, 1, 1, "hats.example")
	must(err)
	return c, func() {
		c.Close()
		master.Close()
		if err := server.Stop(); err != nil {
			log.Print(err)
		}
	}
}
