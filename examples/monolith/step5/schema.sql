CREATE TABLE IF NOT EXISTS products (
	id BIGINT NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	title VARCHAR(100) NOT NULL,
	cents BIGINT NOT NULL,
	stock INT NOT NULL,
	KEY shop_id (shop_id)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS carts (
	id BIGINT NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	token VARCHAR(40) NOT NULL,
	created_at DATETIME(6) NOT NULL,
	UNIQUE KEY token (token),
	KEY shop_id (shop_id, created_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS cart_items (
	id BIGINT NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	cart_id BIGINT NOT NULL,
	product_id BIGINT NOT NULL,
	quantity INT NOT NULL,
	KEY shop_id (shop_id, cart_id)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS orders (
	id BIGINT NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	user_id BIGINT NOT NULL,
	cents BIGINT NOT NULL,
	created_at DATETIME(6) NOT NULL,
	KEY shop_id (shop_id, created_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS order_items (
	id BIGINT NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	order_id BIGINT NOT NULL,
	product_id BIGINT NOT NULL,
	quantity INT NOT NULL,
	cents BIGINT NOT NULL,
	KEY shop_id (shop_id, order_id)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS daily_sales (
	id BIGINT NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	day DATE NOT NULL,
	orders INT NOT NULL,
	cents BIGINT NOT NULL,
	UNIQUE KEY shop_id (shop_id, day)
) ENGINE=InnoDB;
