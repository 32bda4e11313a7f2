-- +goose Up
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

-- +goose Down
DROP TABLE orders;
DROP TABLE products;
