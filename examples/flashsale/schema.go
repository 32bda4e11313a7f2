package main

// schema creates the application's tables in a pod. Every table says whose each
// row is, and its primary key begins with that: the rows of a shop lie side by
// side, and a shop can be copied with range reads.
//
// No id comes from AUTO_INCREMENT. Two pods would give out the same ones, and a
// shop that moves would meet them.
var schema = []string{
	`CREATE TABLE products (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	title VARCHAR(100) NOT NULL,
	price_cents BIGINT NOT NULL,
	PRIMARY KEY (shop_id, id)
) ENGINE=InnoDB`,

	// A product's stock is spread over slots, so that buyers of one product wait
	// for each other only when they happen to meet in one.
	`CREATE TABLE stock (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	product_id BIGINT NOT NULL,
	available INT NOT NULL,
	PRIMARY KEY (shop_id, id),
	KEY (shop_id, product_id)
) ENGINE=InnoDB`,

	// The token names one press of the button, however often it arrives.
	`CREATE TABLE orders (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	token CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	email VARCHAR(100) NOT NULL,
	total_cents BIGINT NOT NULL,
	created_at DATETIME(3) NOT NULL,
	PRIMARY KEY (shop_id, id),
	UNIQUE KEY (shop_id, token)
) ENGINE=InnoDB`,

	`CREATE TABLE order_lines (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	order_id BIGINT NOT NULL,
	product_id BIGINT NOT NULL,
	quantity INT NOT NULL,
	price_cents BIGINT NOT NULL,
	PRIMARY KEY (shop_id, id),
	KEY (shop_id, order_id)
) ENGINE=InnoDB`,

	// What is to be done after an order committed. A job is written in the order's
	// transaction, so there is one if and only if there is the order.
	`CREATE TABLE jobs (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	order_id BIGINT NOT NULL,
	amount_cents BIGINT NOT NULL,
	PRIMARY KEY (shop_id, id)
) ENGINE=InnoDB`,

	// A payment has its order's id: there can't be two.
	`CREATE TABLE payments (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	amount_cents BIGINT NOT NULL,
	captured_at DATETIME(3) NOT NULL,
	PRIMARY KEY (shop_id, id)
) ENGINE=InnoDB`,

	// The writer's.
	`CREATE TABLE pulses (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL,
	PRIMARY KEY (shop_id, id)
) ENGINE=InnoDB`,
}

// firstSaleID is below every id that is made during a sale, and above every
// one of the history that shops begin with.
const firstSaleID = 1 << 40
