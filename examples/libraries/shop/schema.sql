-- Numbers of AUTO_INCREMENT must not meet when a shop moves, so each pod hands
-- out its own: see shop.Numbers.

CREATE TABLE products (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL AUTO_INCREMENT,
	name VARCHAR(255) NOT NULL,
	stock INT NOT NULL,
	PRIMARY KEY (shop_id, id),
	UNIQUE KEY (id)
) ENGINE=InnoDB;

CREATE TABLE orders (
	shop_id BIGINT NOT NULL,
	id BIGINT NOT NULL AUTO_INCREMENT,
	product_id BIGINT NOT NULL,
	quantity INT NOT NULL,
	PRIMARY KEY (shop_id, id),
	UNIQUE KEY (id)
) ENGINE=InnoDB;
