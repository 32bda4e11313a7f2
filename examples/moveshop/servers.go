package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/go-sql-driver/mysql"

	"github.com/podworks/podworks/internal/testcluster"
)

// What our own servers hold.
const (
	ownShop     = 7
	otherShop   = 8 // shares the tables
	podDatabase = "shops"
	ownMaster   = "master" // the directory's database, on the source
)

// ownTables are what the shop is moved out of. Each has a key of one number and an
// index by shop and that, which is what every tool can read well.
var ownTables = []string{
	`CREATE TABLE products (id BIGINT NOT NULL PRIMARY KEY, shop_id BIGINT NOT NULL, sku VARCHAR(40) NOT NULL,
		price DECIMAL(10,2) NOT NULL, stock INT NOT NULL, updated_at DATETIME NOT NULL, KEY (shop_id, id))`,
	`CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, shop_id BIGINT NOT NULL, token CHAR(64) NOT NULL, email VARCHAR(80) NOT NULL,
		note TEXT, total DECIMAL(12,2) NOT NULL, created_at DATETIME NOT NULL, KEY (shop_id, id))`,
}

// fills add rows of some 80 and 250 bytes. Their arguments are what makes the ids of
// shops differ, the shop, and the first and the last n; they add at most 10,000.
var fills = []string{
	`INSERT INTO products SELECT 2 * n + ?, ?, LEFT(SHA2(n, 256), 40), n % 1000 + 0.25, n % 500, '2026-01-01'` + numbers,
	`INSERT INTO orders SELECT 2 * n + ?, ?, SHA2(n, 256), CONCAT(LEFT(SHA2(n + 1, 256), 20), '@example.com'),
		CONCAT(SHA2(n + 2, 256), ' ', SHA2(n + 3, 256)), n % 5000 + 0.5, '2026-01-01'` + numbers,
}

const (
	digits  = `(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)`
	numbers = ` FROM (SELECT ? + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM ` + digits + ` AS a, ` + digits + ` AS b, ` + digits + ` AS c, ` + digits + ` AS e) AS numbers WHERE n <= ?`
)

// ownWrite is the writer's write: no new row, so that -rows stays what it is.
const ownWrite = `UPDATE products SET stock = stock + 1 WHERE id = 2`

// startServers starts a source and a target.
func startServers(ctx context.Context, f testcluster.Family) (source, target *testcluster.MySQLServer, err error) {
	opts := testcluster.MySQLOptions{Family: f, Durable: true, TCP: true, Args: []string{"--innodb-buffer-pool-size=512M", "--local-infile=ON"}}
	if f == testcluster.MySQL {
		opts.Args = append(opts.Args, "--innodb-redo-log-capacity=512M")
	} else {
		opts.Args = append(opts.Args, "--innodb-log-file-size=512M")
	}
	var errs [2]error
	var wg sync.WaitGroup
	for i, s := range []**testcluster.MySQLServer{&source, &target} {
		wg.Go(func() { *s, errs[i] = testcluster.StartMySQL(ctx, &opts) })
	}
	wg.Wait()
	return source, target, errors.Join(errs[:]...)
}

// config is how a server of our own is reached: by TCP, as shops' servers are.
func config(s *testcluster.MySQLServer, database string) *mysql.Config {
	cfg := s.Config(database)
	cfg.Net, cfg.Addr = "tcp", s.Addr()
	return cfg
}

// fill makes the databases, and the rows of the shop and a tenth as many of another.
func fill(ctx context.Context, source, target *testcluster.MySQLServer, rows int) error {
	if err := recreate(ctx, source, podDatabase, ownTables); err != nil {
		return err
	}
	if err := recreate(ctx, target, podDatabase, ownTables); err != nil {
		return err
	}
	db, err := open(config(source, podDatabase))
	if err != nil {
		return err
	}
	defer db.Close()
	// The other shop's ids are the odd ones: the tables are shared page by page.
	for shop, k := range map[int]int{ownShop: rows, otherShop: rows / 10} {
		if err := fillShop(ctx, db, shop, shop-ownShop, (k+1)/2, k/2); err != nil {
			return err
		}
	}
	return analyze(ctx, db, "products", "orders")
}

// fillShop adds a shop's products and orders. Their ids are every second one behind
// after.
func fillShop(ctx context.Context, db *sql.DB, shop, after int, rows ...int) error {
	for table, insert := range fills {
		for from := 1; from <= rows[table]; from += 10_000 {
			if _, err := db.ExecContext(ctx, insert, after, shop, from, min(from+9_999, rows[table])); err != nil {
				return fmt.Errorf("fill the source: %w", err)
			}
		}
	}
	return nil
}

func analyze(ctx context.Context, db *sql.DB, tables ...string) error {
	for _, table := range tables {
		if _, err := db.ExecContext(ctx, `ANALYZE TABLE `+table); err != nil {
			return fmt.Errorf("fill the source: %w", err)
		}
	}
	return nil
}

// recreate makes a database anew, with these tables.
func recreate(ctx context.Context, s *testcluster.MySQLServer, database string, tables []string) error {
	db, err := open(config(s, ""))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // for the sake of USE
	for _, stmt := range append([]string{`DROP DATABASE IF EXISTS ` + database, `CREATE DATABASE ` + database, `USE ` + database}, tables...) {
		if _, err := db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("%s: %w", stmt, err)
		}
	}
	return nil
}

// open returns a pool whose statements take one round trip.
func open(cfg *mysql.Config) (*sql.DB, error) {
	cfg = cfg.Clone()
	cfg.InterpolateParams = true
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}
